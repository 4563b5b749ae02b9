//! How soon everybody has a decision in clusters of 10 to 100 nodes, for the ledger, beside the queues of memberlist and
//! foca with the same decisions: prints, asserts nothing of time.
//!
//! `cargo test --release --test gossip -- --ignored --nocapture convergence`

use super::ms;
use super::queues::{self, Kind};
use super::world::{Net, Setup, World};
use std::time::Duration;

const LOAD: Duration = Duration::from_secs(2);

#[test]
#[ignore = "prints figures; run in release"]
fn convergence_of_10_to_100_nodes() {
    println!("nodes, decisions/s, loss: p50, p99, last in ms; missing; bytes per decision and receiver");
    for (count, per_ms, loss) in [
        (10, 1, 0.0),
        (10, 1, 0.05),
        (10, 10, 0.0),
        (10, 10, 0.05),
        (30, 1, 0.0),
        (30, 1, 0.05),
        (30, 10, 0.05),
        (100, 1, 0.0),
        (100, 1, 0.05),
    ] {
        ours(count, per_ms, loss);
        for kind in [Kind::Memberlist, Kind::Foca] {
            let outcome = queues::run(kind, 1, count, loss, per_ms, LOAD);
            print(
                &format!("{kind:?}"),
                (count, per_ms, loss),
                outcome.delays,
                outcome.missing,
                outcome.bytes,
            );
        }
    }
}

fn ours(count: usize, per_ms: usize, loss: f64) {
    let mut world = World::cluster(1, count, Net::new(loss, 0.0, (50, 300)), Setup::default());
    let bytes = world.bytes;
    super::load(&mut world, LOAD, per_ms);
    let bytes = world.bytes - bytes;
    world.run(ms(5_000));
    world.assert_all_came(1);
    let mut delays = Vec::new();
    for (_, node) in world.living() {
        let came = node.came.iter();
        delays.extend(came.map(|(trace, (_, at))| at.since(world.announced[trace].at)));
    }
    let missing = world.announced.len() * (count - 1) - delays.len();
    print("ours", (count, per_ms, loss), delays, missing, bytes);
}

fn print(what: &str, of: (usize, usize, f64), mut delays: Vec<Duration>, missing: usize, bytes: u64) {
    let (count, per_ms, loss) = of;
    delays.sort_unstable();
    let at = |share: f64| delays[((delays.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    let all = delays.len() + missing;
    println!(
        "{count}, {}, {:.0} %, {what}: {:.1}, {:.1}, {:.1}; {missing} of {all} ({:.2} %); {:.1}",
        per_ms * 1000,
        loss * 100.0,
        at(0.5),
        at(0.99),
        at(1.0),
        missing as f64 / all as f64 * 100.0,
        bytes as f64 / all as f64,
    );
}
