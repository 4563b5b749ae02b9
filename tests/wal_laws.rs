//! Laws of the log, on a disk that forgets, tears and fails.
//!
//! W1 marks are ordered, W2 what is acknowledged is durable. A failing case prints its steps; proptest
//! prints the seed that repeats it.

#[path = "wal_laws/disk.rs"]
mod disk;
#[path = "wal_laws/world.rs"]
mod world;

use std::time::Duration;

use disk::Crash;
use proptest::prelude::*;
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
    #![proptest_config(ProptestConfig { cases: 96, max_shrink_iters: 4_000, ..ProptestConfig::default() })]

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
