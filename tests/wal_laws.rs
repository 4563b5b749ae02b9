//! Laws of the log, on a disk that forgets, tears and fails.
//!
//! W1 marks are ordered, W2 what is acknowledged is durable. A failing case prints its steps; proptest
//! prints the seed that repeats it.

#[path = "wal_laws/damage.rs"]
mod damage;
#[allow(dead_code, reason = "damage is taken account of elsewhere")]
#[path = "support/disk.rs"]
mod disk;
#[path = "wal_laws/facts.rs"]
mod facts;
#[path = "support/random.rs"]
mod random;
#[path = "wal_laws/world.rs"]
mod world;

use std::time::Duration;

use disk::Crash;
use proptest::prelude::*;
use tailkeep::wal::LogOptions;
use world::{Checked, World, options};

#[derive(Clone, Debug)]
enum Step {
    Append(Vec<usize>),
    Poll(usize),
    Complete(usize),
    Fail { which: usize, no_space: bool },
    Wait(u64),
    Hold(usize),
    Release(usize),
    Evict(u64),
    Read(usize),
    Crash(Crash),
}

fn length() -> impl Strategy<Value = usize> {
    prop_oneof![
        6 => 0..400_usize,
        3 => 400..20_000_usize,
        2 => 20_000..66_000_usize,
        1 => 66_000..700_000_usize,
        1 => prop_oneof![Just(1_048_000_usize), Just(1_048_400), Just(1_100_000)],
    ]
}

fn step(failures: u32, crashes: u32) -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => prop::collection::vec(length(), 1..4).prop_map(Step::Append),
        10 => (1..8_usize).prop_map(Step::Poll),
        22 => (0..8_usize).prop_map(Step::Complete),
        failures => (0..8_usize, any::<bool>()).prop_map(|(which, no_space)| Step::Fail { which, no_space }),
        3 => (0..200_u64).prop_map(Step::Wait),
        3 => any::<usize>().prop_map(Step::Hold),
        4 => any::<usize>().prop_map(Step::Release),
        2 => (0..2_000_000_u64).prop_map(Step::Evict),
        3 => any::<usize>().prop_map(Step::Read),
        crashes => prop_oneof![Just(Crash::Kill), Just(Crash::PowerCut)].prop_map(Step::Crash),
    ]
}

fn take(world: &mut World, step: &Step) -> Checked {
    match step {
        Step::Append(lengths) => world.append(lengths).map(|_| ()),
        Step::Poll(count) => world.poll(*count),
        Step::Complete(which) => world.complete(*which),
        Step::Fail { which, no_space } => world.fail(*which, *no_space),
        Step::Wait(milliseconds) => world.wait(Duration::from_millis(*milliseconds)),
        Step::Hold(which) => world.hold(*which),
        Step::Release(which) => world.release(*which),
        Step::Evict(target) => {
            world.log.drop_settled();
            world.log.evict(*target);
            world.check()
        }
        Step::Read(which) => world.read(*which),
        Step::Crash(crash) => world.crash(*crash),
    }
}

fn run(world: &mut World, steps: &[Step]) -> Checked {
    for (index, step) in steps.iter().enumerate() {
        take(world, step).map_err(|wrong| format!("step {index}, {step:?}: {wrong}"))?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// W1, W2, and every promise that the disk checks.
    #[test]
    fn what_is_acknowledged_comes_back_and_nothing_else(
        seed: u64,
        steps in prop::collection::vec(step(2, 1), 1..160),
    ) {
        let mut world = World::new(seed, options());
        let ran = run(&mut world, &steps)
            .and_then(|()| world.settle())
            .and_then(|()| world.crash(Crash::PowerCut));
        prop_assert_eq!(ran, Ok(()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damage_costs_only_the_entries_it_touches(
        runs in prop::collection::vec(prop::collection::vec(length(), 1..4), 1..40),
        damages in prop::collection::vec((any::<usize>(), damage::damage()), 1..6),
    ) {
        let ran = at_rest(&runs)
            .and_then(|mut world| damage::costs_only_what_it_touches(&mut world, &damages));
        prop_assert_eq!(ran, Ok(()));
    }

    #[test]
    fn no_bytes_make_recovery_invent_an_entry(
        seed: u64,
        steps in prop::collection::vec(step(2, 0), 1..80),
        damages in prop::collection::vec((any::<usize>(), damage::damage()), 1..40),
    ) {
        let mut world = World::new(seed, options());
        let ran = run(&mut world, &steps).and_then(|()| {
            world.disk.crash(Crash::PowerCut);
            damage::invents_nothing(&world, &damages)
        });
        prop_assert_eq!(ran, Ok(()));
    }

    /// `durability: write` keeps through a kill what it acknowledged.
    #[test]
    fn without_syncs_a_kill_loses_nothing_acknowledged(
        seed: u64,
        steps in prop::collection::vec(step(1, 0), 1..100),
    ) {
        let mut world = World::new(seed, LogOptions { sync: false, ..options() });
        let ran = run(&mut world, &steps).and_then(|()| world.crash(Crash::Kill));
        prop_assert_eq!(ran, Ok(()));
    }
}

/// Appends, lets the disk work now and then, and comes to rest, idle group included.
fn at_rest(runs: &[Vec<usize>]) -> Result<World, String> {
    let options = LogOptions {
        size_max: 1 << 30,
        retain: Duration::from_secs(3600),
        ..options()
    };
    let mut world = World::new(7, options);
    for (index, lengths) in runs.iter().enumerate() {
        world.append(lengths)?;
        for _ in 0..index % 5 {
            world.poll(3)?;
            world.complete(index)?;
        }
    }
    world.settle()?;
    Ok(world)
}

/// Cases per law; more with `PROPTEST_CASES`.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|count| count.parse().ok())
        .unwrap_or(96)
}
