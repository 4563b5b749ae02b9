//! How soon everybody has a decision in clusters of 10 to 100 nodes, for the ledger, beside foca and a model of
//! memberlist's queue with the same decisions: prints, asserts nothing of time.
//!
//! `cargo test --release --test gossip -- --ignored --nocapture convergence`

use super::queues::Outcome;
use super::world::{Net, Setup, World};
use super::{carried, ms, queues};
use rand::RngExt;
use std::time::Duration;

const LOAD: Duration = Duration::from_secs(2);

#[test]
#[ignore = "prints figures; run in release"]
fn convergence_of_10_to_100_nodes() {
    println!("nodes, decisions/s, loss: p50, p99, last in ms; missing; bytes per decision and receiver");
    for (count, rate, loss) in [
        (10, 50, 0.0),
        (10, 50, 0.05),
        (10, 1_000, 0.05),
        (10, 10_000, 0.05),
        (30, 50, 0.05),
        (30, 1_000, 0.05),
        (30, 10_000, 0.05),
        (100, 50, 0.05),
        (100, 1_000, 0.0),
        (100, 1_000, 0.05),
    ] {
        ours(count, rate, loss);
        print(
            "memberlist",
            (count, rate, loss),
            queues::run(1, count, loss, rate, LOAD),
        );
        // Each decision that foca takes is compared with all that it still carries: of more it would take hours.
        if rate * count as u64 <= 100_000 {
            print(
                "foca",
                (count, rate, loss),
                carried::run(1, count, loss, rate, LOAD),
            );
        }
    }
}

fn ours(count: usize, rate: u64, loss: f64) {
    let mut world = World::cluster(1, count, Net::new(loss, 0.0, (50, 300)), Setup::default());
    let bytes = world.bytes;
    let began = world.now;
    world.run_with(LOAD, |world| {
        let due = world.now.since(began).as_millis() as u64 * rate / 1000;
        while (world.announced.len() as u64) < due {
            let by = world.random.random_range(0..count);
            world.announce(by);
        }
    });
    let bytes = world.bytes - bytes;
    world.run(ms(5_000));
    world.assert_all_came(1);
    let mut delays = Vec::new();
    for (_, node) in world.living() {
        let came = node.came.iter();
        delays.extend(came.map(|(trace, (_, at))| at.since(world.announced[trace].at)));
    }
    let missing = world.announced.len() * (count - 1) - delays.len();
    let outcome = Outcome {
        delays,
        missing,
        bytes,
    };
    print("ours", (count, rate, loss), outcome);
}

fn print(what: &str, of: (usize, u64, f64), outcome: Outcome) {
    let (count, rate, loss) = of;
    let Outcome {
        mut delays,
        missing,
        bytes,
    } = outcome;
    delays.sort_unstable();
    let at = |share: f64| delays[((delays.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    let all = delays.len() + missing;
    println!(
        "{count}, {}, {:.0} %, {what}: {:.1}, {:.1}, {:.1}; {missing} of {all} ({:.2} %); {:.1}",
        rate,
        loss * 100.0,
        at(0.5),
        at(0.99),
        at(1.0),
        missing as f64 / all as f64 * 100.0,
        bytes as f64 / all as f64,
    );
}
