//! A cluster of whole nodes without sockets, threads or files, as a seed has it: spans of each trace at any node, a
//! network that delays, loses, repeats and cuts, nodes that end at any moment and come back with what their disks
//! have.
//!
//! A failing run prints its seed; `TAILKEEP_TEST_SEED` repeats it, `TAILKEEP_TEST_ROUNDS` asks for more fresh ones.

#[path = "sim_cluster/client.rs"]
mod client; // traces scattered over nodes, sent until acknowledged
#[allow(dead_code, reason = "nothing rots here")]
#[path = "support/disk.rs"]
mod disk; // a disk in memory that forgets, tears, fails and lies
#[path = "sim_cluster/life.rs"]
mod life; // what happens, as the seed has it
#[path = "sim_cluster/model.rs"]
mod model; // what must come out
#[allow(dead_code, reason = "W4 is checked elsewhere")]
#[path = "support/naive.rs"]
mod naive; // the fold as one would write it without a table
#[path = "sim_cluster/network.rs"]
mod network; // what is on its way between nodes
#[path = "sim_cluster/node.rs"]
mod node; // one node: cores, logs, and what is between them
#[path = "support/random.rs"]
mod random; // numbers from one seed
#[path = "support/seeds.rs"]
mod seeds; // which seeds, and what a canary has to be caught in
#[allow(dead_code, reason = "spans here have times of their own")]
#[path = "support/spans.rs"]
mod spans; // numbered spans in requests and exports
#[allow(dead_code, reason = "what a start passes over is measured elsewhere")]
#[path = "support/start.rs"]
mod start; // from disks to a landing core

use life::{Canary, live};

/// Runs of a canary within which it must be caught.
const CANARY_ROUNDS: u64 = 40;

#[test]
fn a_cluster_agrees_on_every_trace() {
    seeds::assert_sound(12, |seed| {
        println!("TAILKEEP_TEST_SEED={seed}");
        println!("{:?}", live(seed, Canary::None));
    });
}

/// It once was not: a node that was away when it was announced never heard of it.
#[test]
fn a_keep_that_the_log_has_carried_to_a_later_segment_is_announced_again() {
    live(9_000_716, Canary::None);
}

/// It once was not: a home that announced it had dropped its own part, and ended before the wish to raise that was logged.
#[test]
fn an_announced_keep_is_followed_where_it_was_dropped() {
    live(40_002_070, Canary::None);
}

fn assert_caught(canary: Canary) {
    seeds::assert_caught(canary, CANARY_ROUNDS, |seed| live(seed, canary));
}

#[test]
fn a_change_of_home_that_nobody_heard_of_is_noticed() {
    assert_caught(Canary::ForgottenHomeChange);
}

#[test]
fn digests_that_add_up_instead_of_replacing_are_noticed() {
    assert_caught(Canary::AddedDigests);
}

#[test]
fn announcements_that_go_astray_are_noticed() {
    assert_caught(Canary::LostAnnouncements);
}

#[test]
fn ledger_that_forgets_what_it_leased_is_noticed() {
    assert_caught(Canary::ForgetfulLedger);
}
