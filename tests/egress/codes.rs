//! What each answer leads to: sent again, dropped and counted, or sent again later.

use std::time::Duration;

use tailkeep::otlp::status::Code;

use crate::destination::{Answer, BOTH, Destination, Wire, metric, place, status_of, wait_counts};
use crate::http::Client;
use crate::process::{Tailkeep, wait_for};
use crate::traffic::{request, span, trace_id};

/// One trace of so many spans.
pub fn export(tailkeep: &Tailkeep, trace: u64, spans: u64) {
    let spans = (0..spans).map(|number| span(trace_id(trace), number, 0));
    Client::new(tailkeep.http).export(&request("shop", spans.collect()));
}

/// Each answer once, to a trace of its own; then whether it was sent again.
fn check(destination: &Destination, id: &str, tailkeep: &Tailkeep, answers: &[(Answer, &str, bool)]) {
    let (mut sent, mut failed) = (0, 0);
    for (number, (answer, name, retried)) in answers.iter().enumerate() {
        let trace = number as u64;
        destination.next([answer.clone()]);
        export(tailkeep, trace, 2);
        if *retried {
            sent += 2;
        } else {
            failed += 2;
        }
        wait_counts(tailkeep, id, sent, failed);
        assert_eq!(
            destination.count_of(trace),
            1 + usize::from(*retried),
            "{answer:?}"
        );
        assert_eq!(destination.accepted().contains(&trace), *retried, "{answer:?}");
        let retries = format!("exporter_retries_total{{exporter=\"{id}\",code=\"{name}\"}}");
        let failures =
            format!("exporter_failed_items_total{{exporter=\"{id}\",signal=\"spans\",reason=\"{name}\"}}");
        if *retried {
            assert_eq!(metric(tailkeep, &retries), 1, "{retries}");
        } else {
            assert_eq!(metric(tailkeep, &failures), 2, "{failures}");
        }
    }
}

#[test]
fn c02_grpc_codes_are_retried_or_dropped_as_the_table_says() {
    let destination = Destination::start(Wire::Grpc);
    let place = place("grpc-codes", &destination.exporter("a", ""));
    let tailkeep = place.start();
    let retried = [
        Code::Cancelled,
        Code::DeadlineExceeded,
        Code::Aborted,
        Code::OutOfRange,
        Code::Unavailable,
        Code::DataLoss,
    ];
    let answers: Vec<_> = Code::ALL[1..]
        .iter()
        .map(|code| (Answer::Code(*code, None), code.name(), retried.contains(code)))
        .collect();
    assert_eq!(answers.len(), 16);
    check(&destination, "otlp_grpc/a", &tailkeep, &answers);
    tailkeep.stop_well();
}

#[test]
fn c03_http_statuses_are_retried_or_dropped_as_the_table_says() {
    let destination = Destination::start(Wire::Http);
    let place = place("http-codes", &destination.exporter("a", ""));
    let tailkeep = place.start();
    let statuses = [
        ("301", false),
        ("400", false),
        ("401", false),
        ("403", false),
        ("404", false),
        ("408", false),
        ("413", false),
        ("429", true),
        ("500", false),
        ("501", false),
        ("502", true),
        ("503", true),
        ("504", true),
        ("505", false),
    ];
    let answers = statuses.map(|(status, retried)| {
        let number = status.parse().expect("a number");
        (Answer::Status(number, None), status, retried)
    });
    check(&destination, "otlp_http/a", &tailkeep, &answers);
    let log = tailkeep.stop_well();
    assert!(
        log.contains("401") && log.contains("look at the exporter's headers"),
        "{log}"
    );
}

#[test]
fn exhausted_with_retry_info_comes_again_and_not_before() {
    let destination = Destination::start(Wire::Grpc);
    let place = place("retry-info", &destination.exporter("a", ""));
    let tailkeep = place.start();
    let delay = Duration::from_millis(700);
    destination.next([
        Answer::Code(Code::ResourceExhausted, Some(delay)),
        Answer::Code(Code::Unavailable, Some(delay)),
    ]);
    export(&tailkeep, 1, 1);
    destination.wait_accepted([1]);
    let received = destination.received();
    assert_eq!(received.len(), 3);
    assert!(received[1].at - received[0].at >= delay);
    assert!(received[2].at - received[1].at >= delay);
}

#[test]
fn retry_after_is_obeyed() {
    let destination = Destination::start(Wire::Http);
    let place = place("retry-after", &destination.exporter("a", ""));
    let tailkeep = place.start();
    destination.next([
        Answer::Status(429, Some("1".to_owned())),
        Answer::Status(503, Some("1".to_owned())),
        Answer::Status(503, Some("gibberish".to_owned())),
    ]);
    export(&tailkeep, 1, 1);
    destination.wait_accepted([1]);
    let received = destination.received();
    assert_eq!(received.len(), 4);
    assert!(received[1].at - received[0].at >= Duration::from_secs(1));
    assert!(received[2].at - received[1].at >= Duration::from_secs(1));
}

#[test]
fn c01_partial_success_is_counted_and_not_sent_again() {
    for wire in BOTH {
        let destination = Destination::start(wire);
        let place = place("partial", &destination.exporter("a", ""));
        let tailkeep = place.start();
        let id = if wire == Wire::Grpc {
            "otlp_grpc/a"
        } else {
            "otlp_http/a"
        };
        destination.next([Answer::Partial(2)]);
        export(&tailkeep, 1, 3);
        wait_counts(&tailkeep, id, 1, 2);
        export(&tailkeep, 2, 1);
        wait_counts(&tailkeep, id, 2, 2);
        assert_eq!(destination.count_of(1), 1);
        let reason = format!(
            "exporter_failed_items_total{{exporter=\"{id}\",signal=\"spans\",reason=\"partial_success\"}}"
        );
        assert_eq!(metric(&tailkeep, &reason), 2);
        let log = tailkeep.stop_well();
        assert!(log.contains("too old"), "{log}");
    }
}

#[test]
fn c08_an_oversized_reply_is_not_retried() {
    for wire in BOTH {
        let destination = Destination::start(wire);
        let place = place("oversized", &destination.exporter("a", ""));
        let tailkeep = place.start();
        let id = if wire == Wire::Grpc {
            "otlp_grpc/a"
        } else {
            "otlp_http/a"
        };
        destination.next([Answer::Oversized]);
        export(&tailkeep, 1, 1);
        wait_counts(&tailkeep, id, 0, 1);
        assert_eq!(status_of(&tailkeep, id)["state"], "failing");
        export(&tailkeep, 2, 1);
        wait_counts(&tailkeep, id, 1, 1);
        assert_eq!(destination.count_of(1), 1);
        assert_eq!(status_of(&tailkeep, id)["state"], "ok");
    }
}

#[test]
fn http_instead_of_grpc_is_judged_by_its_status() {
    let destination = Destination::start(Wire::Grpc);
    let place = place("no-grpc", &destination.exporter("a", ""));
    let tailkeep = place.start();
    let answers = [
        (Answer::Status(503, None), "UNAVAILABLE", true),
        (Answer::Status(404, None), "UNIMPLEMENTED", false),
    ];
    check(&destination, "otlp_grpc/a", &tailkeep, &answers);
}

#[test]
fn retries_end_when_their_time_is_over() {
    let destination = Destination::start(Wire::Http);
    let more = ", max_request_size: 64KiB";
    let exporter = destination.exporter("a", more).replace(
        "randomization_factor: 0",
        "randomization_factor: 0, max_elapsed_time: 200ms",
    );
    let place = place("elapsed", &exporter);
    let tailkeep = place.start();
    destination.always(Answer::Status(503, None));
    export(&tailkeep, 1, 1);
    let failed = wait_for("the end of patience", || {
        let failed = metric(
            &tailkeep,
            "exporter_failed_items_total{exporter=\"otlp_http/a\",signal=\"spans\",reason=\"max_elapsed_time\"}",
        );
        (failed > 0).then_some(failed)
    });
    assert_eq!(failed, 1);
    destination.always(Answer::Accept);
    export(&tailkeep, 2, 1);
    wait_counts(&tailkeep, "otlp_http/a", 1, 1);
    assert!(destination.count_of(1) >= 2);
}
