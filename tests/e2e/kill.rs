//! SIGKILL in mid-load, again and again on one directory, with another number of cores each time: what was
//! acknowledged and is due is in the output after the last start, and nothing is there that was never sent.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::trace::v1::Span;

use crate::http::Client;
use crate::output::{self, SpanKey};
use crate::process::{Place, wait_for};
use crate::traffic::{self, ERROR, Random, orphan, request, span};

const SENDERS: u64 = 3;

/// What one sender did.
#[derive(Default)]
struct Sent {
    all: BTreeSet<SpanKey>,
    /// Acknowledged spans of traces whose error was acknowledged.
    due: BTreeSet<SpanKey>,
}

/// Sends traces of two requests until the process is gone. An error, if the trace has one, is in the first, so
/// that the second is due whenever it is acknowledged: pending or late.
fn send_until_gone(
    address: SocketAddr,
    mut random: Random,
    stop: &AtomicBool,
    acknowledged: &AtomicU64,
) -> Sent {
    let mut sent = Sent::default();
    let Ok(mut client) = Client::try_new(address) else {
        return sent;
    };
    while !stop.load(Ordering::Relaxed) {
        let trace = random.id();
        let fails = random.below(3) == 0;
        let first = vec![
            orphan(trace, 1, if fails { ERROR } else { 0 }),
            Span {
                attributes: vec![traffic::text("filler", &"x".repeat(random.below(3000) as usize))],
                ..orphan(trace, 2, 0)
            },
        ];
        let second = vec![span(trace, 0, 0), orphan(trace, 3, 0)];
        for spans in [first, second] {
            let keys: Vec<SpanKey> = spans.iter().map(output::key).collect();
            sent.all.extend(keys.iter().cloned());
            match client.try_export(&prost::Message::encode_to_vec(&request("load", spans))) {
                Ok(200) => {
                    acknowledged.fetch_add(1, Ordering::Relaxed);
                    if fails {
                        sent.due.extend(keys);
                    }
                }
                // Refused: nothing was promised, and the rest of the trace would be another story.
                Ok(_) => break,
                Err(_) => return sent,
            }
        }
    }
    sent
}

fn acknowledged_spans_survive_kills(name: &str, durability: &str, kills: u32) {
    let mut random = Random::printed(name);
    let mut place = Place::new(name).errors_only().with("wal.durability", durability);
    let mut sent = Sent::default();
    for round in 0..kills {
        place.set("node.cores", ["2", "4", "1", "3"][round as usize % 4]);
        let tailkeep = place.start();
        let (stop, acknowledged) = (AtomicBool::new(false), AtomicU64::new(0));
        let until = Duration::from_millis(50 + random.below(700));
        std::thread::scope(|scope| {
            let (stop, acknowledged, address) = (&stop, &acknowledged, tailkeep.http);
            let senders: Vec<_> = (0..SENDERS)
                .map(|_| {
                    let random = Random::from(random.next());
                    scope.spawn(move || send_until_gone(address, random, stop, acknowledged))
                })
                .collect();
            let begin = Instant::now();
            wait_for("load", || {
                (acknowledged.load(Ordering::Relaxed) >= 10 && begin.elapsed() >= until).then_some(())
            });
            tailkeep.kill();
            stop.store(true, Ordering::Relaxed);
            for sender in senders {
                let Sent { all, due } = sender.join().expect("no panic");
                sent.all.extend(all);
                sent.due.extend(due);
            }
        });
        println!(
            "round {round}: killed after {} acknowledged requests",
            acknowledged.load(Ordering::Relaxed)
        );
        if round % 2 == 1 {
            // In the middle of its start, replay or not.
            let starting = place.spawn();
            std::thread::sleep(Duration::from_millis(random.below(60)));
            drop(starting);
        }
    }
    let tailkeep = place.start();
    let status = tailkeep.wait_settled();
    assert_eq!(status["signals"]["spans"]["lost"], 0);
    assert_eq!(status["wal"]["corrupt_bytes"], 0);
    let log = tailkeep.stop_well();
    assert!(!log.contains("corrupt:"), "{log}");

    let output = place.output();
    let keys = output.keys();
    let lost: Vec<_> = sent.due.difference(&keys).collect();
    assert!(
        lost.is_empty(),
        "{} of {} due spans are lost: {:?}",
        lost.len(),
        sent.due.len(),
        &lost[..1]
    );
    let invented: Vec<_> = keys.difference(&sent.all).collect();
    assert!(invented.is_empty(), "{} spans were never sent", invented.len());
    assert!(!sent.due.is_empty());
    let mut copies: BTreeMap<SpanKey, u32> = BTreeMap::new();
    output
        .spans
        .iter()
        .for_each(|span| *copies.entry(span.id()).or_default() += 1);
    let twice = copies.values().filter(|count| **count > 1).count();
    println!(
        "{} due, {} came out, {twice} of them more than once",
        sent.due.len(),
        keys.len()
    );
}

#[test]
fn acknowledged_spans_survive_kills_with_fsync() {
    acknowledged_spans_survive_kills("kill-fsync", "fsync", 4);
}

#[test]
fn acknowledged_spans_survive_kills_without_fsync() {
    acknowledged_spans_survive_kills("kill-write", "write", 3);
}

#[test]
fn pending_spans_survive_a_kill() {
    let place = Place::new("kill-pending")
        .errors_only()
        .with("node.cores", "2")
        .with("completion.quiet", "20s");
    let tailkeep = place.start();
    let mut client = Client::new(tailkeep.http);
    for number in 0..20 {
        let trace = traffic::trace_id(number);
        client.export(&request(
            "a",
            vec![span(trace, 1, if number % 2 == 0 { ERROR } else { 0 })],
        ));
        client.export(&request("b", vec![span(trace, 0, 0)]));
    }
    assert_eq!(tailkeep.status()["traces"]["pending"], 20);
    tailkeep.kill();

    let mut place = place;
    place.set("completion.quiet", "200ms");
    place.set("node.cores", "3");
    let tailkeep = place.start();
    let status = tailkeep.wait_settled();
    assert_eq!(status["wal"]["last_replay"]["traces_resumed"], 20);
    assert_eq!(status["signals"]["spans"]["resumed"], 40);
    assert_eq!(status["signals"]["spans"]["kept"], 20);
    tailkeep.stop_well();
    let output = place.output();
    assert_eq!(
        output.spans.len(),
        20,
        "10 traces of 2 spans, once each: nothing had been exported"
    );
    assert_eq!(
        output.traces(),
        (0..20)
            .step_by(2)
            .map(|number| traffic::trace_id(number).to_vec())
            .collect()
    );
}
