//! Digests and answers: exactly once, in order, to one life of one node.

use super::world::{Net, Setup, World, node_id};
use super::{ms, seeds};
use std::collections::BTreeSet;
use tailkeep::base::ids::{CoreId, TraceId};
use tailkeep::gossip::{Outbound, PeerDecision};
use tailkeep::policy::quota::{Ask, Grant, Judge, Leasing, QuotaKey, Terms, Unit};
use tailkeep::route::Decision;
use tailkeep::verdict::{Reason, Verdict};

fn answer(n: u64) -> PeerDecision {
    let mut bytes = [1; 16];
    bytes[8..].copy_from_slice(&n.to_be_bytes());
    PeerDecision {
        trace: TraceId::new(&bytes).expect("not zero"),
        decision: Decision {
            verdict: Verdict::Rollup,
            reason: Reason::Quiet,
            policy: None,
            threshold: None,
            incomplete: true,
            upgraded: false,
        },
        by_home: false,
    }
}

#[test]
fn digests_and_answers_come_once_and_in_order() {
    seeds(8, |seed| {
        let net = Net::new([0.0, 0.05, 0.2][seed as usize % 3], 0.05, (50, 3_000));
        let mut world = World::cluster(seed, 4, net, Setup::default());
        let mut version = 0;
        world.run_with(ms(1_000), |world| {
            version += 1;
            for to in 1..4 {
                world.send_digest(0, to, version);
                world.outbound(
                    to,
                    Outbound::Answer(node_id(0), version, answer(u64::from(version))),
                );
            }
        });
        world.run(ms(4_000));
        let all: Vec<u32> = (1..=version).collect();
        for to in 1..4 {
            assert_eq!(world.node(to).digests[&node_id(0)], all, "seed {seed}");
        }
        assert_eq!(world.node(0).answers.len(), 3 * all.len(), "seed {seed}");
        assert_eq!(world.node(1).gossip.counts().unreadable, 0);
    });
}

#[test]
fn requests_and_grants_of_leases_come_as_they_were_said() {
    let mut world = World::cluster(3, 3, Net::GOOD, Setup::default());
    let quota = QuotaKey {
        policy: u64::MAX,
        part: u16::MAX,
        terms: Terms {
            unit: Unit::Bytes,
            rate: u64::MAX,
            burst: u64::MAX,
        },
    };
    let judge = Judge {
        node: node_id(0).0,
        core: CoreId(u16::MAX),
    };
    let ask = Leasing::Ask(Ask {
        quota,
        judge,
        number: u32::MAX,
        want: u64::MAX,
        least: u64::MAX - 1,
        ahead: u64::MAX - 2,
        returned: u64::MAX - 3,
    });
    let grant = Leasing::Grant(Grant {
        quota,
        judge,
        number: u32::MAX,
        tokens: u64::MAX - 4,
        left: u64::MAX - 5,
    });
    // More than one datagram of the largest there can be.
    for _ in 0..40 {
        world.outbound(0, Outbound::Leasing(node_id(1), ask));
        world.outbound(1, Outbound::Leasing(node_id(0), grant));
    }
    world.run(ms(1_000));
    assert_eq!(world.node(1).leasings, vec![ask; 40]);
    assert_eq!(world.node(0).leasings, vec![grant; 40]);
}

#[test]
fn a_peer_that_is_cut_off_or_starts_again_is_renewed() {
    let mut world = World::cluster(5, 3, Net::GOOD, Setup::default());
    world.partition(&[0], &[1, 2]);
    (1..100).for_each(|version| world.send_digest(0, 1, version));
    world.run(ms(12_000));
    assert_eq!(world.node(0).live, [node_id(0)]);
    world.cut.clear();
    world.run(ms(10_000));
    let renewed: BTreeSet<_> = world.node_mut(0).renewed.drain(..).collect();
    assert_eq!(renewed, [node_id(1), node_id(2)].into());
    (100..200).for_each(|version| world.send_digest(0, 1, version));
    world.run(ms(1_000));
    let came = &world.node(1).digests[&node_id(0)];
    assert!(came.ends_with(&(100..200).collect::<Vec<_>>()), "{came:?}");
    // Before others have given it up.
    world.stop(1);
    world.start(1);
    world.run(ms(3_000));
    assert_eq!(world.node(0).renewed, [node_id(1)]);
    world.send_digest(0, 1, 200);
    world.run(ms(100));
    assert_eq!(world.node(1).digests[&node_id(0)], [200]);
}

#[test]
fn what_a_full_queue_refused_is_asked_for_again() {
    let setup = Setup {
        directed_bytes_max: 64 << 10,
        ..Setup::default()
    };
    let mut world = World::cluster(2, 3, Net::GOOD, setup);
    (1..5_000).for_each(|version| world.send_digest(0, 1, version));
    assert!(world.node(0).gossip.counts().directed_dropped > 0);
    world.run(ms(2_000));
    assert_eq!(world.node(0).renewed, [node_id(1)]);
    let came = world.node(1).digests[&node_id(0)].len() as u32;
    world.send_digest(0, 1, 5_000);
    world.run(ms(100));
    assert_eq!(world.node(1).digests[&node_id(0)].len() as u32, came + 1);
}
