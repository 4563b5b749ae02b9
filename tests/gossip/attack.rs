//! Forged, replayed, damaged and foreign datagrams: they change nothing and get no reply.

use super::ms;
use super::world::{Net, Setup, World};
use rand::RngExt;
use tailkeep::gossip::datagram::ClusterKey;

fn keyed() -> Setup {
    Setup {
        keys: vec![ClusterKey::new(&[5; 32])],
        ..Setup::default()
    }
}

#[test]
fn what_strangers_send_changes_nothing_and_is_not_answered() {
    let mut world = World::cluster(1, 3, Net::GOOD, keyed());
    let mut foreign = World::cluster(
        2,
        3,
        Net::GOOD,
        Setup {
            keys: vec![ClusterKey::new(&[6; 32])],
            ..keyed()
        },
    );
    let mut plain = World::cluster(3, 3, Net::GOOD, Setup::default());
    for world in [&mut world, &mut foreign, &mut plain] {
        world.capture = Some(Vec::new());
        for _ in 0..50 {
            world.announce(0);
        }
        world.run(ms(2_000));
    }
    let captured = |world: &mut World| world.capture.take().expect("captured");
    let (own, mut hostile) = (captured(&mut world), captured(&mut foreign));
    hostile.extend(captured(&mut plain));
    for (to, bytes) in &own {
        // Replayed as it was, cut, with one bit changed, and longer than any.
        hostile.push((*to, bytes.clone()));
        hostile.push((*to, bytes.slice(..world.random.random_range(0..bytes.len()))));
        let mut changed = bytes.to_vec();
        let at = world.random.random_range(0..changed.len());
        changed[at] ^= 1 << world.random.random_range(0..8);
        hostile.push((*to, changed.into()));
        hostile.push((*to, [&bytes[..], &[0; 1300]].concat().into()));
    }
    for _ in 0..2_000 {
        let garbage: Vec<u8> = (0..world.random.random_range(0..1400))
            .map(|_| world.random.random())
            .collect();
        hostile.push((0, garbage.into()));
    }
    let members = |world: &World| {
        world
            .living()
            .map(|(_, node)| node.gossip.members())
            .collect::<Vec<_>>()
    };
    let before = members(&world);
    let now = world.now();
    let count = hostile.len() as u64;
    let accepted = |world: &World| {
        world
            .living()
            .map(|(_, node)| node.gossip.counts().datagrams_in[0])
            .sum::<u64>()
    };
    let accepted_before = accepted(&world);
    for (to, bytes) in hostile {
        let node = world.nodes[to].as_mut().expect("it lives");
        node.gossip.handle_datagram(now, &bytes);
        assert_eq!(node.gossip.poll_transmit(), None);
        assert_eq!(node.gossip.poll_inbound(), None);
        assert_eq!(node.gossip.handle_sync_request(&bytes), None);
    }
    assert!(count > 2_000, "{count}");
    assert_eq!(accepted(&world), accepted_before);
    assert_eq!(members(&world), before);
    world.run(ms(2_000));
    world.assert_all_came(1);
}

#[test]
fn keys_are_exchanged_under_load_without_a_gap() {
    let (old, new) = (ClusterKey::new(&[1; 32]), ClusterKey::new(&[2; 32]));
    let setup = Setup {
        keys: vec![old.clone()],
        ..Setup::default()
    };
    let mut world = World::cluster(4, 3, Net::new(0.01, 0.0, (50, 500)), setup);
    let told: usize = world.living().map(|(_, node)| node.members_told.len()).sum();
    for keys in [vec![old.clone(), new.clone()], vec![new.clone(), old], vec![new]] {
        for index in 0..3 {
            super::load(&mut world, ms(200), 1);
            world.nodes[index]
                .as_mut()
                .expect("it lives")
                .gossip
                .set_keys(&keys);
        }
    }
    world.run(ms(3_000));
    world.assert_all_came(4);
    assert_eq!(
        world
            .living()
            .map(|(_, node)| node.members_told.len())
            .sum::<usize>(),
        told
    );
}
