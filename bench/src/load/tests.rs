//! Whole runs over real sockets, against the drain.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;

use clap::Parser;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;
use tokio::net::TcpListener;

use super::*;
use crate::drain;

#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    load: LoadArguments,
}

/// How often each span came: duplicates would show.
type Spans = BTreeMap<SpanKey, u32>;
type SpanKey = (Vec<u8>, Vec<u8>);

/// Runs `load` with `flags`; gives the report, what the server received, and what the ledger says was
/// sent and acknowledged.
fn check(transport: &str, flags: &[&str]) -> (Report, Spans) {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let ledger = folder.path().join("ledger");
    let received: Rc<RefCell<HashMap<u64, Vec<u8>>>> = Rc::default();
    let runtime = pinned_runtime(None).expect("a runtime");
    let report = tokio::task::LocalSet::new().block_on(&runtime, async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let sink = received.clone();
        let seen = move |request: u64, event: drain::Event<'_>| {
            if let drain::Event::Piece(piece) = event {
                sink.borrow_mut()
                    .entry(request)
                    .or_default()
                    .extend_from_slice(piece);
            }
        };
        match transport {
            "grpc" => drop(tokio::task::spawn_local(drain::grpc::serve(
                listener,
                seen,
                drain::at_once,
            ))),
            _ => drop(tokio::task::spawn_local(drain::http::serve(
                listener,
                seen,
                drain::at_once,
            ))),
        }
        let ledger = ledger.to_str().expect("a path in UTF-8");
        let fixed = [
            "load",
            "--transport",
            transport,
            "--endpoint",
            &address,
            "--ledger",
            ledger,
        ];
        let arguments = Arguments::parse_from(fixed.iter().chain(flags)).load;
        let (report, lost) = measure(&arguments).await.expect("a run");
        assert_eq!(lost, None);
        report
    });
    let prefix_len = if transport == "grpc" { batch::PREFIX_LEN } else { 0 };
    let mut spans = Spans::new();
    for message in received.take().into_values() {
        let request = ExportTraceServiceRequest::decode(&message[prefix_len..]).expect("valid protobuf");
        let scopes = request
            .resource_spans
            .into_iter()
            .flat_map(|resource| resource.scope_spans);
        for span in scopes.flat_map(|scope| scope.spans) {
            *spans.entry((span.trace_id, span.span_id)).or_default() += 1;
        }
    }
    let acked = acked_spans(&std::fs::read(&ledger).expect("a ledger"));
    assert!(!acked.is_empty());
    assert_eq!(acked, spans, "the ledger and the server disagree");
    (report, spans)
}

/// Asserts that every request was acknowledged whole.
fn acked_spans(bytes: &[u8]) -> Spans {
    let mut spans = Spans::new();
    for request in ledger::read(bytes).expect("a ledger").into_values() {
        assert_eq!(request.outcome, Some(ledger::ACKED));
        for run in request.runs {
            for span_id in run.span_ids {
                *spans
                    .entry((run.trace_id.to_vec(), span_id.to_vec()))
                    .or_default() += 1;
            }
        }
    }
    spans
}

#[test]
fn what_the_ledger_calls_acknowledged_is_what_a_server_received() {
    for transport in ["grpc", "http"] {
        for shape in [
            &["--spans-per-request", "512"][..],
            &["--spans-per-request", "8"],
            &[
                "--spans-per-request",
                "64",
                "--requests-per-trace",
                "4",
                "--services",
                "3",
                "--interleave",
                "5",
            ],
        ] {
            let run = [
                "--warmup",
                "0s",
                "--duration",
                "200ms",
                "--connections",
                "3",
                "--in-flight",
                "3",
            ];
            let flags: Vec<&str> = run.iter().chain(shape).copied().collect();
            let (report, spans) = check(transport, &flags);
            let report = report.to_json();
            assert!(report["spans"].as_u64() <= Some(spans.len() as u64), "{report}");
            // No reply crosses two sockets within a microsecond.
            assert!(report["ack_ms"]["p50"].as_f64() > Some(0.001), "{report}");
            assert_eq!(report["failed_requests"], 0);
            assert_eq!(report["given_up_requests"], 0);
        }
    }
}

#[test]
fn an_open_loop_sends_what_its_rate_says() {
    let flags = [
        "--rate",
        "32000",
        "--spans-per-request",
        "64",
        "--warmup",
        "0s",
        "--duration",
        "300ms",
    ];
    let (report, spans) = check("grpc", &flags);
    // 500 requests a second for 0.3 s; those without a lane are owned up to.
    assert_eq!(spans.len() as u64 / 64 + report.behind_requests, 150);
}

#[test]
fn a_run_ends_when_its_spans_are_sent_and_one_trace_may_have_them_all() {
    let flags = [
        "--spans",
        "1000",
        "--spans-per-request",
        "64",
        "--trace-ids",
        "one",
        "--warmup",
        "0s",
        "--duration",
        "1m",
    ];
    let (_, spans) = check("grpc", &flags);
    let traces: BTreeSet<_> = spans.keys().map(|(trace, _)| trace).collect();
    assert_eq!((spans.len(), traces.len()), (1024, 1));
}

#[test]
fn a_seed_repeats_its_ids_and_another_has_others() {
    let spans = |seed| {
        let flags = [
            "--seed",
            seed,
            "--rate",
            "6400",
            "--spans-per-request",
            "64",
            "--warmup",
            "0s",
            "--duration",
            "100ms",
        ];
        check("http", &flags).1
    };
    let (first, again, other) = (spans("5"), spans("5"), spans("6"));
    assert!(first.keys().any(|span| again.contains_key(span)));
    assert!(!first.keys().any(|span| other.contains_key(span)));
}

#[test]
fn durations_are_read_with_their_unit() {
    assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
    assert_eq!(parse_duration("1.5s"), Ok(Duration::from_millis(1500)));
    assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
    assert!(parse_duration("10").is_err() && parse_duration("s").is_err() && parse_duration("-1s").is_err());
}
