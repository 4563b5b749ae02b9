//! Who gets what: filters, and queues that are full.

use std::collections::BTreeSet;

use crate::codes::export;
use crate::destination::{Answer, BOTH, Destination, Wire, metric, place, status_of, wait_counts};
use crate::http::Client;
use crate::process::{Tailkeep, wait_for};
use crate::traffic::{ERROR, request, span, text, trace_id};
use prost::Message;

const TWO_POLICIES: &str = "[{ name: errors, type: status_code, status_code: { status_codes: [ERROR] } }, \
                            { name: everything, type: always_sample }]";

fn export_error(tailkeep: &Tailkeep, trace: u64) {
    Client::new(tailkeep.http).export(&request("shop", vec![span(trace_id(trace), 0, ERROR)]));
}

#[test]
fn a_destination_gets_only_what_its_policies_kept() {
    let (errors, all) = (Destination::start(Wire::Grpc), Destination::start(Wire::Http));
    let exporters = errors.exporter("errors", ", policies: [errors]") + &all.exporter("all", "");
    let mut place = place("policies", &exporters).policies(TWO_POLICIES);
    place.set("tail_sampling.sample_on_first_match", "true");
    let tailkeep = place.start();
    for trace in 0..20 {
        match trace % 4 {
            0 => export_error(&tailkeep, trace),
            _ => export(&tailkeep, trace, 1),
        }
    }
    all.wait_accepted(0..20);
    wait_counts(&tailkeep, "otlp_grpc/errors", 5, 0);
    let expected: BTreeSet<u64> = (0..20).step_by(4).collect();
    assert_eq!(errors.accepted(), expected);
    assert_eq!(status_of(&tailkeep, "otlp_grpc/errors")["queued_items"], 0);

    // Also what is sent after a restart, under other policies before it.
    errors.always(Answer::unavailable(Wire::Grpc));
    export_error(&tailkeep, 100);
    export(&tailkeep, 101, 1);
    all.wait_accepted([100, 101]);
    wait_for("a refusal", || (errors.count_of(100) > 0).then_some(()));
    tailkeep.kill();
    errors.always(Answer::Accept);
    place.policies = format!(
        "[{{ name: first, type: latency, latency: {{ threshold_ms: 100000 }} }}, {}",
        &TWO_POLICIES[1..]
    );
    let tailkeep = place.start();
    errors.wait_accepted([100]);
    export_error(&tailkeep, 102);
    errors.wait_accepted([102]);
    assert_eq!(errors.count_of(101), 0);
}

#[test]
fn a_destination_for_other_signals_gets_no_traces() {
    let metrics = Destination::start(Wire::Http);
    let exporters =
        metrics.exporter("metrics", ", send: [metrics]") + &metrics.exporter("rollup", ", include: [rollup]");
    let place = place("signals", &exporters);
    let tailkeep = place.start();
    export(&tailkeep, 1, 1);
    tailkeep.wait_settled();
    tailkeep.stop_well();
    let tailkeep = place.start();
    export(&tailkeep, 2, 1);
    tailkeep.wait_settled();
    for id in ["otlp_http/metrics", "otlp_http/rollup"] {
        let status = status_of(&tailkeep, id);
        assert_eq!(
            (&status["queued_items"], &status["failed"]),
            (&0.into(), &0.into())
        );
    }
    assert!(metrics.received().is_empty());
    tailkeep.stop_well();
    let lines = place.output();
    assert_eq!(lines.traces().len(), 2);
}

/// A trace of 8 KiB.
fn big(trace: u64) -> Vec<u8> {
    let mut one = span(trace_id(trace), 0, 0);
    one.attributes.push(text("padding", &"x".repeat(8 << 10)));
    request("shop", vec![one]).encode_to_vec()
}

#[test]
fn lose_new_goes_on_taking_and_counts_what_is_lost() {
    for wire in BOTH {
        let destination = Destination::start(wire);
        destination.always(Answer::unavailable(wire));
        let exporter = destination.exporter("a", ", queue: { max_size: 64KiB, on_full: lose_new }");
        let place = place("lose-new", &exporter);
        let tailkeep = place.start();
        let mut client = Client::new(tailkeep.http);
        for trace in 0..30 {
            client.export_bytes(&big(trace));
        }
        let id = if wire == Wire::Grpc {
            "otlp_grpc/a"
        } else {
            "otlp_http/a"
        };
        let status = wait_for("all of it queued or lost", || {
            let status = status_of(&tailkeep, id);
            let (queued, failed) = (status["queued_items"].as_u64()?, status["failed"].as_u64()?);
            (queued + failed == 30).then_some(status)
        });
        assert_eq!(status["queued_items"], 7, "64 KiB hold seven of them: {status}");
        let lost = format!(
            "exporter_failed_items_total{{exporter=\"{id}\",signal=\"spans\",reason=\"queue_full\"}}"
        );
        assert_eq!(metric(&tailkeep, &lost), 23);

        destination.always(Answer::Accept);
        wait_counts(&tailkeep, id, 7, 23);
        client.export_bytes(&big(100));
        destination.wait_accepted([100]);
        let log = tailkeep.stop_well();
        assert!(log.contains("losing new traces"), "{log}");
        assert_eq!(place.output().traces().len(), 31, "the file lost nothing");
    }
}

#[test]
fn push_back_refuses_requests_and_loses_nothing() {
    for wire in BOTH {
        let destination = Destination::start(wire);
        destination.always(Answer::unavailable(wire));
        let exporter = destination.exporter("a", ", queue: { max_size: 64KiB, on_full: push_back }");
        let place = place("push-back", &exporter);
        let tailkeep = place.start();
        let mut client = Client::new(tailkeep.http);
        let mut acknowledged = BTreeSet::new();
        let mut next = 0;
        wait_for("a refusal", || {
            next += 1;
            match client.try_export(&big(next)).expect("a reply") {
                200 => {
                    acknowledged.insert(next);
                    None
                }
                503 => Some(()),
                other => panic!("{other}"),
            }
        });
        let refused = "refused_items_total{signal=\"spans\",transport=\"http\",reason=\"exporter_queue\"}";
        assert_eq!(metric(&tailkeep, refused), 1);
        assert!(acknowledged.len() >= 8);

        destination.always(Answer::Accept);
        destination.wait_accepted(acknowledged.iter().copied());
        wait_for("an open door", || {
            (client.try_export(&big(1_000_000)).expect("a reply") == 200).then_some(())
        });
        destination.wait_accepted([1_000_000]);
        let id = if wire == Wire::Grpc {
            "otlp_grpc/a"
        } else {
            "otlp_http/a"
        };
        assert_eq!(status_of(&tailkeep, id)["failed"], 0);
        tailkeep.stop_well();
    }
}

/// Sends traces of 64 KiB, again when refused, until `enough`; how many were acknowledged.
fn pour(tailkeep: &Tailkeep, mut enough: impl FnMut(u64, u16) -> bool) -> u64 {
    let mut client = Client::new(tailkeep.http);
    let mut acknowledged = 0;
    wait_for("enough poured", || {
        let mut one = span(trace_id(acknowledged), 0, 0);
        one.attributes.push(text("padding", &"x".repeat(60 << 10)));
        let body = request("shop", vec![one]).encode_to_vec();
        let status = client.try_export(&body).expect("a reply");
        match status {
            200 => acknowledged += 1,
            503 => {}
            other => panic!("{other}"),
        }
        enough(acknowledged, status).then_some(())
    });
    acknowledged
}

/// The kept log has room for 16 MiB, and the queues of its destinations for more.
const SMALL_LOG: (&str, &str) = ("wal.max_size", "32MiB");

#[test]
fn a_kept_log_that_is_full_takes_from_the_one_that_is_behind() {
    let destination = Destination::start(Wire::Http);
    destination.always(Answer::unavailable(Wire::Http));
    let exporter = destination.exporter("a", ", queue: { max_size: 1GiB, on_full: lose_new }");
    let place = place("small-log", &exporter).with(SMALL_LOG.0, SMALL_LOG.1);
    let tailkeep = place.start();
    // Twice as much as fits.
    let count = pour(&tailkeep, |acknowledged, _| acknowledged == 500);
    wait_for("the file to have all", || {
        (status_of(&tailkeep, "file")["sent"] == count).then_some(())
    });
    let lost = status_of(&tailkeep, "otlp_http/a")["failed"]
        .as_u64()
        .expect("a number");
    assert!((100..count).contains(&lost), "{lost} of {count} lost");
    assert_eq!(status_of(&tailkeep, "file")["failed"], 0);

    destination.always(Answer::Accept);
    wait_counts(&tailkeep, "otlp_http/a", count - lost, lost);
    assert!(
        destination.accepted().contains(&(count - 1)),
        "the newest is there, the oldest was lost"
    );
    tailkeep.stop_well();
    assert_eq!(place.output().traces().len() as u64, count);
}

#[test]
fn a_kept_log_that_is_full_waits_for_the_one_that_pushes_back() {
    let destination = Destination::start(Wire::Http);
    destination.always(Answer::unavailable(Wire::Http));
    let exporter = destination.exporter("a", ", queue: { max_size: 1GiB, on_full: push_back }");
    let place = place("small-log-back", &exporter).with(SMALL_LOG.0, SMALL_LOG.1);
    let tailkeep = place.start();
    // The kept log is full, then the log.
    let count = pour(&tailkeep, |acknowledged, status| {
        status == 503 && acknowledged > 200
    });
    destination.always(Answer::Accept);
    wait_counts(&tailkeep, "otlp_http/a", count, 0);
    assert_eq!(destination.accepted().len() as u64, count);
    tailkeep.stop_well();
}

/// Its age is that of the kept entry, whenever the process was started.
#[test]
fn what_has_waited_longer_than_max_age_is_lost_and_what_comes_then_is_not() {
    let destination = Destination::start(Wire::Http);
    destination.always(Answer::unavailable(Wire::Http));
    let place = place("max-age", &destination.exporter("a", ", queue: { max_age: 3s }"));
    let tailkeep = place.start();
    (0..5).for_each(|trace| export(&tailkeep, trace, 1));
    wait_for("all of it queued", || {
        let status = status_of(&tailkeep, "otlp_http/a");
        (status["queued_items"].as_u64()? + status["failed"].as_u64()? == 5).then_some(())
    });
    tailkeep.kill();
    let tailkeep = place.start();
    wait_for("all of it too old", || {
        let status = status_of(&tailkeep, "otlp_http/a");
        (status["queued_items"] == 0 && status["failed"].as_u64()? > 0).then_some(())
    });
    let lost = "exporter_failed_items_total{exporter=\"otlp_http/a\",signal=\"spans\",reason=\"max_age\"}";
    assert!((1..=5).contains(&metric(&tailkeep, lost)));
    destination.always(Answer::Accept);
    export(&tailkeep, 100, 1);
    destination.wait_accepted([100]);
    assert_eq!(destination.accepted(), BTreeSet::from([100]));
}
