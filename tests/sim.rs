//! A whole node of several cores without sockets, threads or files, as a seed has it: requests to any core,
//! messages that are late, disks and destinations that fail, ends at any moment, another number of cores after
//! each.
//!
//! A run goes on for a minute of its own time at least, over several restarts. A failing one prints its seed;
//! `TAILKEEP_TEST_SEED` repeats it, `TAILKEEP_TEST_ROUNDS` asks for more, from that seed or fresh ones
//! (`scripts/simulate.sh` runs many on all cores). Every run is made twice, and both must be the same event by event.

#[path = "sim/checkers.rs"]
mod checkers; // what must hold
#[path = "sim/damage.rs"]
mod damage; // what damage may cost
#[path = "sim/client.rs"]
mod client; // traces in parts, sent until acknowledged
#[path = "support/disk.rs"]
mod disk; // a disk in memory that forgets, tears, fails and lies
#[path = "sim/history.rs"]
mod history; // all that happened, as numbers
#[path = "sim/life.rs"]
mod life; // what happens, as the seed has it
#[path = "support/naive.rs"]
mod naive; // the fold as one would write it without a table
#[path = "sim/node.rs"]
mod node; // cores, logs, and what is between them
#[path = "support/random.rs"]
mod random; // numbers from one seed
#[path = "support/seeds.rs"]
mod seeds; // which seeds, and what a canary has to be caught in
#[path = "support/spans.rs"]
mod spans; // numbered spans in requests and exports
#[allow(dead_code, reason = "what a start passes over is measured elsewhere")]
#[path = "support/start.rs"]
mod start; // from disks to a landing core

use life::{Canary, Plan, live, live_by};

/// Runs of a canary within which it must be caught.
const CANARY_ROUNDS: u64 = 200;

fn live_twice(seed: u64) {
    live_twice_by(Plan::draw(seed, Canary::None), seed);
}

fn live_twice_by(plan: Plan, seed: u64) {
    println!("TAILKEEP_TEST_SEED={seed}");
    let run = || live_by(plan, seed, Canary::None);
    let (one, other) = (run(), run());
    one.history.assert_same(&other.history);
    let (events, hash) = (one.history.len(), one.history.hash());
    let damaged = if one.damaged { ", damaged" } else { "" };
    println!(
        "{events} events in {} s, {} restarts{damaged}, hash {hash:x}, {} due, {} out, {} bytes copied forward",
        one.seconds, one.restarts, one.due, one.out, one.forwarded
    );
}

#[test]
fn a_node_keeps_its_promises() {
    seeds::assert_sound(12, live_twice);
}

/// It once was not: an old file without a header said where the log ends, and the files after it were removed.
#[test]
fn damage_to_an_old_file_costs_nothing_in_the_files_after_it() {
    live_twice(20_000_650);
}

/// Traces are kept by hand at any moment, nodes give everything away and start again.
#[test]
fn what_is_kept_after_all_comes_out_of_all_logs() {
    (1..=12).chain(seeds::fresh_seeds()).for_each(|seed| {
        let plan = Plan::draw(seed, Canary::None).with_wishes();
        live_twice_by(plan, seed);
    });
}

#[test]
fn without_a_fault_everything_comes_out_once() {
    (1..=6).for_each(|seed| drop(live_by(Plan::FAULTLESS, seed, Canary::None)));
}

fn assert_caught(canary: Canary) {
    seeds::assert_caught(canary, CANARY_ROUNDS, |seed| live(seed, canary));
}

#[test]
fn an_acknowledgement_before_the_sync_is_noticed() {
    assert_caught(Canary::SyncsThatDoNothing);
}

#[test]
fn an_acknowledgement_when_the_request_is_taken_is_noticed() {
    assert_caught(Canary::EarlyAcknowledgements);
}

#[test]
fn checksums_that_nobody_looks_at_are_noticed() {
    assert_caught(Canary::IgnoredChecksums);
}

#[test]
fn a_settlement_that_goes_astray_is_noticed() {
    assert_caught(Canary::LostSettlements);
}
