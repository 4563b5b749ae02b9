//! W4: replay(durable log) = table, and what was acknowledged comes out, through a whole core without sockets.
//!
//! A core is fed random traces on disks that forget what was not synced; it is cut off at random moments and
//! made again from what its disks kept. A failing round prints its seed; `TAILKEEP_TEST_SEED` repeats it,
//! `TAILKEEP_TEST_ROUNDS` asks for more.

#[allow(dead_code, reason = "damage is taken account of elsewhere")]
#[path = "support/disk.rs"]
mod disk; // a disk in memory that forgets, tears, fails and lies
#[path = "support/naive.rs"]
mod naive; // the fold as one would write it without a table
#[path = "support/random.rs"]
mod random; // numbers from one seed
#[allow(dead_code, reason = "traces are not asked for their number here")]
#[path = "support/spans.rs"]
mod spans; // numbered spans in requests and exports
#[path = "support/start.rs"]
mod start; // from disks to a landing core
#[path = "replay/world.rs"]
mod world; // a core, its disks, its destination, and what was sent

use disk::Faults;
use random::Random;
use world::World;

const ROUNDS: u64 = 40;
const STEPS: usize = 250;

#[allow(clippy::disallowed_methods, reason = "another seed every time")]
fn seeds() -> Vec<u64> {
    let now = || {
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .expect("after 1970")
    };
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let first = now().as_nanos() as u64;
    match number("TAILKEEP_TEST_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("TAILKEEP_TEST_ROUNDS").unwrap_or(ROUNDS))
            .map(|round| first + round)
            .collect(),
    }
}

fn random_life(world: &mut World, random: &mut Random, steps: usize) {
    for _ in 0..steps {
        match random.below(100) {
            0..35 => world.send(random),
            35..75 => world.complete_something(random),
            75..85 => world.ship(random.below(4) > 0),
            85..97 => world.pass(1 + random.below(60)),
            _ => world.pass(400),
        }
    }
}

fn live_with_power_cuts(seed: u64) {
    println!("TAILKEEP_TEST_SEED={seed}");
    let mut random = Random(seed);
    let mut world = World::new(seed);
    for _ in 0..1 + random.below(4) {
        random_life(&mut world, &mut random, STEPS);
        world.power_cut(&mut random);
        let found = world.restart();
        assert_eq!(found.corrupt, 0, "a cut is not damage");
    }
    random_life(&mut world, &mut random, STEPS / 2);
    world.settle();
    world.assert_due_is_out();
    world.assert_nothing_invented();
    world.assert_ledger();
}

#[test]
fn a_power_cut_loses_nothing_acknowledged() {
    seeds().into_iter().for_each(live_with_power_cuts);
}

/// The kept log lost copies and went on beyond them; a cursor passed their positions; another cut came before
/// they were made anew.
#[test]
fn a_copy_that_the_kept_log_lost_is_not_taken_for_delivered() {
    live_with_power_cuts(1_795_323_038_952_002_786);
}

/// Writes and syncs fail, segments find no space, operations stall; then the power goes.
fn live_with_a_failing_disk(seed: u64) {
    println!("TAILKEEP_TEST_SEED={seed}");
    let mut random = Random(seed);
    let mut world = World::new(seed);
    for _ in 0..1 + random.below(3) {
        world.fail_disks(Faults {
            write_error: 10,
            sync_error: 20,
            no_space: 30,
            stall: 20,
            ..Faults::default()
        });
        random_life(&mut world, &mut random, STEPS);
        world.power_cut(&mut random);
        let found = world.restart();
        assert_eq!(found.corrupt, 0, "a failure that was reported is not damage");
    }
    world.fail_disks(Faults::default());
    random_life(&mut world, &mut random, STEPS / 2);
    world.settle();
    world.assert_due_is_out();
    world.assert_nothing_invented();
    world.assert_ledger();
}

#[test]
fn a_failing_disk_loses_nothing_acknowledged() {
    seeds().into_iter().for_each(live_with_a_failing_disk);
}

#[test]
fn damage_loses_only_what_it_hits_and_the_fold_of_the_rest_holds() {
    for seed in seeds() {
        println!("TAILKEEP_TEST_SEED={seed}");
        let mut random = Random(seed);
        let mut world = World::new(seed);
        for _ in 0..1 + random.below(3) {
            random_life(&mut world, &mut random, STEPS);
            world.power_cut(&mut random);
            world.damage();
            world.restart();
            world.forget_what_is_due();
        }
        random_life(&mut world, &mut random, STEPS / 2);
        world.settle();
        world.assert_due_is_out();
        world.assert_nothing_invented();
        world.assert_ledger();
    }
}

/// Late spans whose trace's verdict has left the log are late all the same after a restart.
#[test]
fn a_late_fragment_stays_late_when_the_verdict_before_it_is_recycled() {
    let mut random = Random(7);
    let mut world = World::new(7);
    world.send_trace(1, true);
    world.settle();
    world.recycle(&mut random);
    world.send_late(1, false, 10);
    world.settle_disks();
    world.power_cut(&mut random);
    world.restart();
    world.settle();
    world.assert_due_is_out();
}

/// A crash leaves it in the log without a settlement: it is looked at like one that comes now.
#[test]
fn a_late_error_that_a_crash_left_unsettled_keeps_its_trace() {
    let mut resumed = 0;
    for seed in 0..200 {
        let mut random = Random(seed);
        let mut world = World::new(seed);
        world.send_trace(1, false);
        world.settle();
        assert_eq!(world.out_of(1), 0, "dropped");
        // Where it ends with a sector, its settlement may be lost alone.
        world.send_late(1, true, 16 * (seed % 32) as usize);
        world.power_cut(&mut random);
        world.restart();
        if world.resumed_spans() > 0 {
            resumed += 1;
            world.settle();
            assert_eq!(world.out_of(1), 3, "TAILKEEP_TEST_SEED={seed}");
        }
    }
    assert!(resumed > 0, "no seed left the span without its settlement");
}

/// The verdict has left the log with its segment; what is carried along of it answers after the restart.
#[test]
fn a_verdict_survives_the_recycling_of_its_segment_and_a_restart() {
    for errors in [true, false] {
        let mut random = Random(11);
        let mut world = World::new(11);
        world.send_trace(1, errors);
        world.settle();
        // Twice, so that what was carried along is carried along again.
        for _ in 0..2 {
            world.recycle(&mut random);
            world.settle_disks();
            world.power_cut(&mut random);
            world.restart();
        }
        world.send_late(1, false, 10);
        assert!(world.is_late(1), "its verdict was kept: {errors}");
        world.settle();
        world.assert_due_is_out();
        world.assert_nothing_invented();
    }
}

/// W4 is checked in every start, against a fold of the whole log.
#[test]
fn a_start_from_a_checkpoint_has_the_same_table() {
    let mut used = 0;
    for seed in seeds() {
        println!("TAILKEEP_TEST_SEED={seed}");
        let mut random = Random(seed);
        let mut world = World::new(seed);
        if random.below(2) == 0 {
            world.retain = std::time::Duration::from_secs(3600);
        }
        for _ in 0..1 + random.below(4) {
            random_life(&mut world, &mut random, STEPS);
            used += u32::from(random.below(4) > 0 && world.checkpoint(&mut random));
            world.power_cut(&mut random);
            let found = world.restart();
            assert_eq!(found.corrupt, 0, "a cut is not damage");
        }
        random_life(&mut world, &mut random, STEPS / 2);
        world.settle();
        world.assert_due_is_out();
        world.assert_nothing_invented();
        world.assert_ledger();
    }
    assert!(
        used > 0 || std::env::var_os("TAILKEEP_TEST_SEED").is_some(),
        "no checkpoint was used"
    );
}

/// A start folds what waits for something and the end of the log, and nothing before.
#[test]
fn what_has_settled_is_passed_over() {
    let mut random = Random(12);
    let mut world = World::new(12);
    world.power_cut(&mut random);
    world.retain = std::time::Duration::from_secs(3600);
    world.restart();
    world.fill(&mut random, 5 << 20);
    world.settle();
    world.send_trace(1, true);
    world.settle_disks();
    world.power_cut(&mut random);
    world.restart();
    assert!(world.passed_over >= 2 << 20, "{} bytes", world.passed_over);
    world.settle();
    world.assert_due_is_out();
}

/// Traffic goes on for many times what the log may hold, while one trace gets a span now and then.
fn long_trace_amid_traffic(world: &mut World, random: &mut Random, from: u64, count: u64) {
    for number in from..from + count {
        world.fill(random, 200_000);
        world.send_more(1, number);
    }
}

#[test]
fn a_long_trace_pins_no_segment_and_comes_out_whole() {
    let mut random = Random(13);
    let mut world = World::new(13);
    world.power_cut(&mut random);
    world.quiet = std::time::Duration::from_secs(2);
    world.restart();
    world.send_trace(1, true);
    world.settle_disks();
    let (first, _) = world.segments();
    long_trace_amid_traffic(&mut world, &mut random, 2, 60);
    let (oldest, count) = world.segments();
    assert!(oldest > first, "the segment it began in is still there");
    assert!(count < 16, "{count} segments");
    assert!(world.forwarded_bytes() > 0);
    // What was copied is found again, and copied again.
    for round in 1..4 {
        world.power_cut(&mut random);
        world.restart();
        long_trace_amid_traffic(&mut world, &mut random, 2 + round * 60, 30);
    }
    world.settle();
    world.assert_due_is_out();
    world.assert_nothing_invented();
    world.assert_ledger();
}

/// Nearly all of the log is of open traces: it refuses, and does not copy itself round and round.
#[test]
fn a_log_that_is_mostly_alive_refuses_and_is_not_copied_for_ever() {
    let mut random = Random(14);
    let mut world = World::new(14);
    world.power_cut(&mut random);
    world.quiet = std::time::Duration::from_secs(20);
    world.restart();
    let mut refused = 0;
    for trace in 0..400 {
        refused += u64::from(!world.try_send(10_000 + trace, 40_000));
        world.settle_disks();
        world.pass(20);
    }
    assert!(refused > 0, "16 MB in a log of 12 MB");
    let copied = world.forwarded_bytes();
    assert!(copied < 8 << 20, "{copied} bytes");
    world.pass_idle(30_000);
    assert!(
        world.try_send(1, 1_000),
        "what was open is decided, and there is room"
    );
    world.settle();
    world.assert_nothing_invented();
    world.assert_ledger();
}

/// `overload: sample`: of a trace all parts are taken or none, by its randomness, and the ledger says what was not.
#[test]
fn under_overload_whole_traces_are_left_out_by_their_randomness() {
    let mut world = World::new(15);
    world.leave_out(4);
    let traces: Vec<u64> = (1..32).map(|part| part << 51).collect();
    for trace in &traces {
        world.send_trace(*trace, true);
    }
    for number in 2..4 {
        for trace in &traces {
            world.send_more(*trace, number);
        }
    }
    world.settle();
    for (part, trace) in (1..32).zip(&traces) {
        let expected = if part < 8 { 0 } else { 4 };
        assert_eq!(world.out_of(*trace), expected, "trace {part} of 32");
    }
    assert_eq!(world.left_out_spans(), 7 * 4);
    world.assert_ledger();
}
