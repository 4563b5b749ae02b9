//! What 100,000 decisions a second cost, for the ledger: prints, asserts nothing of time.
//!
//! `cargo test --release --test gossip -- --ignored --nocapture throughput` prints processor time of all nodes
//! together, simulated network included, and bytes on the wire.

use super::ms;
use super::world::{Net, Setup, World};
use tailkeep::gossip::datagram::ClusterKey;

#[test]
#[ignore = "prints figures; run in release"]
fn throughput_of_100000_decisions_a_second() {
    for (count, keyed) in [(3, false), (3, true), (10, false), (10, true)] {
        let keys = if keyed {
            vec![ClusterKey::new(&[5; 32])]
        } else {
            Vec::new()
        };
        let setup = Setup {
            keys,
            ..Setup::default()
        };
        let mut world = World::cluster(1, count, Net::new(0.001, 0.0, (50, 300)), setup);
        let (datagrams, bytes) = (world.datagrams, world.bytes);
        let cpu = cpu_seconds();
        let mut by = 0;
        world.run_with(ms(2_000), |world| {
            for _ in 0..100 {
                world.announce(by % count);
                by += 1;
            }
        });
        let cpu = cpu_seconds() - cpu;
        world.run(ms(2_000));
        world.assert_all_came(1);
        let decisions = world.announced.len() as f64;
        let mut delays: Vec<u64> = Vec::new();
        for (_, node) in world.living() {
            let delay = |(trace, (_, at)): (&_, &(u32, tailkeep::base::time::Instant))| {
                at.since(world.announced[trace].at).as_micros() as u64
            };
            delays.extend(node.came.iter().map(delay));
        }
        delays.sort_unstable();
        println!(
            "{count} nodes, {}: {:.2} µs of processor per decision and receiver, {:.1} bytes per decision and \
             receiver, {:.0} datagrams per 1,000 decisions, delay p50 {} p99 {} µs",
            if keyed { "sealed" } else { "plain" },
            cpu * 1e6 / decisions / (count - 1) as f64,
            (world.bytes - bytes) as f64 / decisions / (count - 1) as f64,
            (world.datagrams - datagrams) as f64 / decisions * 1e3,
            delays[delays.len() / 2],
            delays[delays.len() * 99 / 100],
        );
    }
}

fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
