//! A whole node of several cores without sockets, threads or files, as a seed has it: requests to any core,
//! messages that are late, disks and destinations that fail, ends at any moment, another number of cores after
//! each.
//!
//! A failing run prints its seed; `TAILKEEP_TEST_SEED` repeats it, `TAILKEEP_TEST_ROUNDS` asks for more fresh ones.
//! Every run is made twice, and both must be the same event by event.

#[path = "sim/checkers.rs"]
mod checkers; // what must hold
#[path = "sim/client.rs"]
mod client; // traces in parts, sent until acknowledged
#[allow(dead_code, reason = "nothing rots here")]
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
#[path = "support/spans.rs"]
mod spans; // numbered spans in requests and exports
#[allow(dead_code, reason = "what a start passes over is measured elsewhere")]
#[path = "support/start.rs"]
mod start; // from disks to a landing core

use std::panic::catch_unwind;

use life::{Canary, live};

/// Runs of a canary within which it must be caught.
const CANARY_ROUNDS: u64 = 50;

#[allow(clippy::disallowed_methods, reason = "another seed every time")]
fn fresh_seeds() -> Vec<u64> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after 1970");
    let first = now.as_nanos() as u64;
    match number("TAILKEEP_TEST_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("TAILKEEP_TEST_ROUNDS").unwrap_or(1))
            .map(|round| first + round)
            .collect(),
    }
}

fn live_twice(seed: u64) {
    println!("TAILKEEP_TEST_SEED={seed}");
    let (one, other) = (live(seed, Canary::None), live(seed, Canary::None));
    one.history.assert_same(&other.history);
    let (events, hash) = (one.history.len(), one.history.hash());
    let forwarded = one.forwarded;
    println!(
        "{events} events, hash {hash:x}, {} due, {} out, {forwarded} bytes copied forward",
        one.due, one.out
    );
}

#[test]
fn a_node_keeps_its_promises() {
    (1..=12).chain(fresh_seeds()).for_each(live_twice);
}

/// A start used the file of a settled segment again, whose verdicts stood nowhere else yet; then it was killed.
#[test]
fn verdicts_stay_in_the_log_until_what_covers_them_is_durable() {
    live_twice(1_795_336_708_272_477_577);
}

fn assert_caught(canary: Canary) {
    let caught = (1..=CANARY_ROUNDS).find(|seed| catch_unwind(|| live(*seed, canary)).is_err());
    println!("{canary:?} is caught by seed {caught:?}");
    assert!(caught.is_some(), "nobody notices {canary:?}");
}

#[test]
fn an_acknowledgement_before_the_sync_is_noticed() {
    assert_caught(Canary::SyncsThatDoNothing);
}

#[test]
fn a_settlement_that_goes_astray_is_noticed() {
    assert_caught(Canary::LostSettlements);
}
