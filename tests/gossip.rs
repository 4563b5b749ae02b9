//! Nodes on a simulated network: every live peer gets every decision exactly once, whatever the network does short of
//! being gone, and what cannot be is counted.
//!
//! `TAILKEEP_TEST_SEED=n` repeats one seed, `TAILKEEP_TEST_ROUNDS=n` runs the first n of each test.

#[path = "gossip/attack.rs"]
mod attack;
#[path = "gossip/carried.rs"]
mod carried;
#[path = "gossip/convergence.rs"]
mod convergence;
#[path = "gossip/directed.rs"]
mod directed;
#[path = "gossip/membership.rs"]
mod membership;
#[path = "gossip/queues.rs"]
mod queues;
#[path = "gossip/throughput.rs"]
mod throughput;
#[path = "gossip/world.rs"]
mod world;

use std::time::Duration;
use tailkeep::gossip::NodeId;
use world::{Net, Setup, World, node_id};

/// Calls `test` with each seed, and names the one that failed.
fn seeds(count: u64, test: impl Fn(u64)) {
    let variable = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let range = match variable("TAILKEEP_TEST_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..variable("TAILKEEP_TEST_ROUNDS").unwrap_or(count),
    };
    for seed in range {
        eprintln!("seed {seed}");
        test(seed);
    }
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Every millisecond some node announces something.
fn load(world: &mut World, time: Duration, per_ms: usize) {
    world.run_with(time, |world| {
        use rand::RngExt;
        for _ in 0..per_ms {
            let living: Vec<usize> = world.living().map(|(index, _)| index).collect();
            let by = living[world.random.random_range(0..living.len())];
            world.announce(by);
        }
    });
}

#[test]
fn every_peer_gets_every_decision_once_whatever_is_lost_doubled_or_late() {
    let nets = [
        Net::new(0.0, 0.0, (50, 200)),
        Net::new(0.01, 0.0, (50, 300)),
        Net::new(0.05, 0.05, (50, 5_000)),
        Net::new(0.20, 0.05, (50, 2_000)),
        Net::new(0.05, 0.05, (20_000, 200_000)),
    ];
    seeds(10, |seed| {
        let net = nets[seed as usize % nets.len()];
        let mut world = World::cluster(seed, 3 + seed as usize % 5, net, Setup::default());
        load(&mut world, ms(2_000), 3);
        let settle = if net.loss > 0.1 { 5_000 } else { 2_000 };
        world.run(ms(settle));
        world.assert_all_came(seed);
    });
}

#[test]
fn what_was_decided_during_a_partition_comes_after_it_heals() {
    seeds(6, |seed| {
        let mut world = World::cluster(seed, 5, Net::new(0.01, 0.01, (50, 500)), Setup::default());
        load(&mut world, ms(300), 2);
        world.partition(&[0, 1], &[2, 3, 4]);
        // Long enough for each side to give the other up.
        load(&mut world, ms(30_000), 1);
        assert!(world.living().all(|(_, node)| node.live.len() < 5));
        world.cut.clear();
        load(&mut world, ms(300), 2);
        world.run(ms(10_000));
        assert!(
            world.living().all(|(_, node)| node.live.len() == 5),
            "seed {seed}"
        );
        world.assert_all_came(seed);
    });
}

#[test]
fn a_third_node_passes_on_what_two_cannot_tell_each_other() {
    seeds(6, |seed| {
        let mut world = World::cluster(seed, 4, Net::new(0.01, 0.0, (50, 500)), Setup::default());
        // In odd seeds one direction only.
        world.cut.insert((0, 1));
        if seed.is_multiple_of(2) {
            world.cut.insert((1, 0));
        }
        load(&mut world, ms(3_000), 2);
        world.run(ms(10_000));
        world.assert_all_came(seed);
    });
}

#[test]
fn a_node_that_starts_again_is_a_new_one_and_mixes_nothing() {
    seeds(6, |seed| {
        let mut world = World::cluster(seed, 4, Net::new(0.02, 0.02, (50, 1_000)), Setup::default());
        for round in 0..3usize {
            load(&mut world, ms(500), 2);
            world.run(ms(1_000));
            let victim = round % 3 + 1;
            world.stop(victim);
            load(
                &mut world,
                ms(if seed.is_multiple_of(2) { 500 } else { 12_000 }),
                1,
            );
            world.start(victim);
            world.run(ms(3_000));
            let began = world.now;
            load(&mut world, ms(300), 2);
            world.run(ms(3_000));
            for (index, node) in world.living() {
                assert_eq!(
                    node.live.len(),
                    4,
                    "seed {seed}: node {index}: {:?}",
                    node.gossip.members()
                );
                let wrong = world.check_decisions(index, |announced| announced.at >= began);
                assert!(wrong.is_empty(), "seed {seed}: {wrong:?}");
            }
        }
        // Who never stopped has everything, that of the dead included.
        let wrong = world.check_decisions(0, |_| true);
        assert!(wrong.is_empty(), "seed {seed}: {} {wrong:?}", wrong.len());
    });
}

#[test]
fn what_one_peer_got_of_a_dying_node_all_get() {
    seeds(6, |seed| {
        let mut world = World::cluster(seed, 5, Net::GOOD, Setup::default());
        // Only node 1 hears node 0.
        world.cut.extend([(0, 2), (0, 3), (0, 4)]);
        for _ in 0..200 {
            world.announce(0);
        }
        world.run(ms(20));
        world.stop(0);
        world.run(ms(20_000));
        world.assert_all_came(seed);
    });
}

#[test]
fn a_joiner_gets_what_is_still_kept_and_everything_from_then_on() {
    seeds(4, |seed| {
        let mut world = World::cluster(seed, 3, Net::new(0.01, 0.0, (50, 500)), Setup::default());
        load(&mut world, ms(1_000), 2);
        world.start(3);
        world.run(ms(2_000));
        let began = world.now;
        load(&mut world, ms(1_000), 2);
        world.run(ms(3_000));
        for (index, _) in world.living() {
            let wrong = world.check_decisions(index, |announced| index != 3 || announced.at >= began);
            assert!(wrong.is_empty(), "seed {seed}: {wrong:?}");
        }
        assert_eq!(world.node(3).gossip.counts().gaps_unrepairable, 0);
    });
}

#[test]
fn an_outage_longer_than_the_retention_is_counted_and_over() {
    let setup = Setup {
        retention: ms(10_000),
        ..Setup::default()
    };
    let mut world = World::cluster(7, 3, Net::GOOD, setup);
    world.partition(&[0, 1], &[2]);
    world.run_with(ms(30_000), |world| {
        if world.now.0.is_multiple_of(5_000_000) {
            world.announce(0);
        }
    });
    world.cut.clear();
    world.run(ms(30_000));
    let node = world.node(2);
    assert_eq!(node.live.len(), 3);
    let missing = world.check_decisions(2, |_| true).len() as u64;
    // One decision was in each batch.
    assert!(missing > 1_000, "{missing}");
    assert_eq!(node.gossip.counts().gaps_unrepairable, missing);
    let began = world.now;
    load(&mut world, ms(300), 1);
    world.run(ms(2_000));
    assert_eq!(
        world.check_decisions(2, |announced| announced.at >= began),
        Vec::<String>::new()
    );
}

#[test]
fn a_peer_that_takes_nothing_costs_its_bound_and_no_other_peer() {
    let setup = Setup {
        retained_bytes_max: 1 << 20,
        directed_bytes_max: 128 << 10,
        ..Setup::default()
    };
    let mut world = World::cluster(3, 4, Net::GOOD, setup);
    // Everything it says is lost; it answers others' probes through nobody, so it is given up after a while.
    world.cut.extend([(3, 0), (3, 1), (3, 2)]);
    let mut retained_max = 0;
    let mut version = 0;
    world.run_with(ms(20_000), |world| {
        for _ in 0..20 {
            world.announce(0);
        }
        (0..5).for_each(|_| {
            version += 1;
            world.send_digest(0, 3, version);
        });
        retained_max = retained_max.max(world.node(0).gossip.retained_bytes());
    });
    assert!(
        retained_max <= (1 << 20) + (128 << 10) + (64 << 10),
        "{retained_max}"
    );
    assert!(world.node(0).gossip.counts().directed_dropped > 0);
    world.run(ms(1_000));
    for index in [1, 2] {
        let wrong = world.check_decisions(index, |_| true);
        assert!(
            wrong.is_empty(),
            "{} {:?}",
            wrong.len(),
            &wrong[..3.min(wrong.len())]
        );
    }
}

#[test]
fn a_lost_batch_is_missed_soon_although_nothing_follows_it() {
    let mut world = World::cluster(1, 3, Net::GOOD, Setup::default());
    world.cut.insert((0, 1));
    world.announce(0);
    world.run(ms(5));
    assert_eq!(world.check_decisions(1, |_| true).len(), 1);
    world.cut.clear();
    world.run(ms(20));
    world.assert_all_came(1);
}

/// The checker finds what it is for: a batch that is never repaired is seen.
#[test]
fn one_batch_that_is_never_repaired_is_caught() {
    let mut world = World::cluster(1, 3, Net::GOOD, Setup::default());
    let origin: NodeId = node_id(0);
    world.poisoned = Some((2, origin, 5));
    for _ in 0..20 {
        world.announce(0);
        world.run(ms(10));
    }
    world.run(ms(3_000));
    assert_eq!(world.check_decisions(1, |_| true), Vec::<String>::new());
    assert_eq!(world.check_decisions(2, |_| true).len(), 1);
    world.poisoned = None;
    world.run(ms(6_000));
    world.assert_all_came(1);
}
