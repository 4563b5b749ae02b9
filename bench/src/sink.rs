//! The sink: an OTLP destination that remembers which spans came, and says at its end what is wrong with them.
//!
//! ```text
//!  tailkeep ── gRPC | HTTP ──▶ intake: whole bodies, inflated, decoded ──▶ arrivals: spans by trace
//!                                                   ledgers of `load` ──▶ check ──▶ report
//! ```
//!
//! It decodes with prost and keeps some 50 bytes for each span, so it is an instrument for correctness; what a
//! destination costs the server is better measured against `drain`.

mod arrivals;
mod check;
mod intake;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use crate::drain::{self, listen};
use crate::load::{ledger, parse_duration};
use crate::{BenchError, pinned_runtime};
use arrivals::Arrivals;
use check::Check;
use intake::Intake;

#[derive(Args)]
pub struct SinkArguments {
    /// Port 0 is resolved and printed
    #[arg(long, default_value = "127.0.0.1:14317")]
    grpc: SocketAddr,
    #[arg(long, default_value = "127.0.0.1:14318")]
    http: SocketAddr,
    /// Core to run on
    #[arg(long)]
    cpu: Option<usize>,
    /// End after this time; otherwise by SIGTERM or SIGINT
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration)]
    duration: Option<Duration>,
    /// End when nothing has come for this long, once something came
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    idle: Option<Duration>,
    /// A ledger of `load`, read at the end: what it calls acknowledged must have come. May be given several times
    #[arg(long, value_name = "FILE")]
    ledger: Vec<PathBuf>,
    /// Which acknowledged traces the ledger's check expects
    #[arg(long, value_enum, default_value_t = Expect::All)]
    expect: Expect,
    /// The report as one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Expect {
    /// All of them: the server keeps everything
    All,
    /// Those with an error or longer than two seconds: the server has policies for both
    Marked,
}

const TICK: Duration = Duration::from_millis(50);

/// Serves until its end, then reports. Missing spans are an error.
pub fn run(arguments: &SinkArguments) -> Result<(), BenchError> {
    let runtime = pinned_runtime(arguments.cpu)?;
    let arrivals: Rc<RefCell<Arrivals>> = Rc::default();
    let serving = serve(arguments, arrivals.clone());
    tokio::task::LocalSet::new().block_on(&runtime, serving)?;
    // Tasks that hold the other ends went with the runtime's local set.
    let arrivals = arrivals.borrow();
    let mut check = None;
    for path in &arguments.ledger {
        let named = || path.display().to_string();
        let bytes = std::fs::read(path).map_err(BenchError::environment(named()))?;
        let requests =
            ledger::read(&bytes).map_err(|why| BenchError::Usage(format!("--ledger {}: {why}", named())))?;
        let check: &mut Check = check.get_or_insert_default();
        check.add(&requests, arguments.expect, &arrivals);
    }
    let check = check.map(|mut check: Check| {
        check.finish(&arrivals);
        check
    });
    if arguments.json {
        let mut report = arrivals.to_json();
        report["ledger"] = check.as_ref().map_or(json!(null), Check::to_json);
        println!("{report}");
    } else {
        let check = check.as_ref().map_or(String::new(), Check::to_text);
        print!("{}{check}", arrivals.to_text());
    }
    match check.map_or(0, |check| check.missing_spans()) {
        0 => Ok(()),
        missing => Err(BenchError::Missing(format!(
            "{missing} acknowledged spans that were expected have not come"
        ))),
    }
}

async fn serve(arguments: &SinkArguments, arrivals: Rc<RefCell<Arrivals>>) -> Result<(), BenchError> {
    let grpc = listen(arguments.grpc).await?;
    let http = listen(arguments.http).await?;
    let address = |listener: &tokio::net::TcpListener| {
        let address = listener.local_addr().map(|address| address.to_string());
        address.map_err(BenchError::environment("own address"))
    };
    let signals = |kind| signal(kind).map_err(BenchError::environment("signals"));
    let (mut terminate, mut interrupt) = (
        signals(SignalKind::terminate())?,
        signals(SignalKind::interrupt())?,
    );
    eprintln!(
        "tailkeep-bench sink ready grpc={} http={} pid={}",
        address(&grpc)?,
        address(&http)?,
        std::process::id()
    );
    let intake = |is_grpc| {
        let intake = RefCell::new(Intake::new(is_grpc, arrivals.clone()));
        let intake = Rc::new(intake);
        move |request: u64, event: drain::Event<'_>| intake.borrow_mut().take(request, event)
    };
    let ended = async {
        let clock = quanta::Clock::new();
        let began = clock.now();
        loop {
            tokio::time::sleep(TICK).await;
            let idle = arrivals
                .borrow()
                .last()
                .map(|last| clock.now().saturating_duration_since(last));
            let is_over = arguments
                .duration
                .is_some_and(|limit| clock.now().saturating_duration_since(began) >= limit);
            let is_idle = idle.is_some_and(|idle| arguments.idle.is_some_and(|limit| idle >= limit));
            if is_over || is_idle {
                return;
            }
        }
    };
    tokio::select! {
        () = drain::grpc::serve(grpc, intake(true), drain::at_once) => {}
        () = drain::http::serve(http, intake(false), drain::at_once) => {}
        () = ended => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drain::{Event, Head};
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
    use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
    use prost::Message;
    use std::collections::BTreeMap;
    use std::io::Write;

    pub fn request(spans: &[(u8, u8, u8)]) -> Vec<u8> {
        let id = |number: u8, length: usize| {
            if number == 0 {
                Vec::new()
            } else {
                vec![number; length]
            }
        };
        let spans = spans.iter().map(|&(trace, span, parent)| Span {
            trace_id: id(trace, 16),
            span_id: id(span, 8),
            parent_span_id: id(parent, 8),
            ..Span::default()
        });
        let scope_spans = vec![ScopeSpans {
            spans: spans.collect(),
            ..ScopeSpans::default()
        }];
        let resource_spans = vec![ResourceSpans {
            scope_spans,
            ..ResourceSpans::default()
        }];
        ExportTraceServiceRequest { resource_spans }.encode_to_vec()
    }

    /// Hands over a request in pieces of three bytes.
    fn send(intake: &mut Intake, number: u64, path: &str, is_gzip: bool, body: &[u8]) {
        intake.take(number, Event::Head(Head { path, is_gzip }));
        body.chunks(3)
            .for_each(|piece| intake.take(number, Event::Piece(piece)));
        intake.take(number, Event::End);
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).expect("memory");
        encoder.finish().expect("memory")
    }

    #[test]
    fn both_transports_with_and_without_gzip_bring_the_same_spans() {
        let arrivals: Rc<RefCell<Arrivals>> = Rc::default();
        let body = request(&[(1, 1, 0), (1, 2, 1)]);
        let mut http = Intake::new(false, arrivals.clone());
        send(&mut http, 0, "/v1/traces", false, &body);
        send(&mut http, 1, "/v1/traces", true, &gzip(&body));
        let mut grpc = Intake::new(true, arrivals.clone());
        let framed =
            |flag: u8, message: &[u8]| [&[flag][..], &(message.len() as u32).to_be_bytes(), message].concat();
        let path = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
        send(&mut grpc, 0, path, false, &framed(0, &body));
        send(&mut grpc, 1, path, true, &framed(1, &gzip(&body)));
        send(&mut grpc, 2, path, false, b"nonsense");
        send(&mut http, 2, "/v1/logs", false, b"whatever");
        let report = arrivals.borrow().to_json();
        assert_eq!(
            (&report["spans"], &report["duplicate_spans"]),
            (&json!(8), &json!(6))
        );
        assert_eq!(
            (&report["undecodable_requests"], &report["other_requests"]),
            (&json!(1), &json!(1))
        );
        assert_eq!(
            (&report["traces"], &report["whole_traces"]),
            (&json!(1), &json!(1))
        );
    }

    #[test]
    fn a_trace_that_lacks_its_root_or_a_parent_is_torn() {
        let arrivals: Rc<RefCell<Arrivals>> = Rc::default();
        let mut http = Intake::new(false, arrivals.clone());
        let spans = [(1, 1, 0), (1, 2, 1), (2, 2, 1), (3, 1, 0), (3, 3, 2)];
        send(&mut http, 0, "/v1/traces", false, &request(&spans));
        let report = arrivals.borrow().to_json();
        let of = |key: &str| report[key].as_u64().expect("a count");
        assert_eq!(
            (of("whole_traces"), of("rootless_traces"), of("orphaned_traces")),
            (1, 1, 2)
        );
    }

    #[test]
    fn what_the_ledger_expects_and_has_not_come_is_missing() {
        let arrivals: Rc<RefCell<Arrivals>> = Rc::default();
        let mut http = Intake::new(false, arrivals.clone());
        send(
            &mut http,
            0,
            "/v1/traces",
            false,
            &request(&[(1, 1, 0), (9, 1, 0)]),
        );
        let sent = |trace: u8, marks, outcome| ledger::SentRequest {
            runs: vec![ledger::SentRun {
                trace_id: [trace; 16],
                marks,
                span_ids: vec![[1; 8], [2; 8]],
            }],
            outcome,
        };
        let requests = BTreeMap::from([
            (0, sent(1, 1, Some(ledger::ACKED))),
            (1, sent(2, 0, Some(ledger::ACKED))),
            (2, sent(3, 1, None)),
        ]);
        let check = |expect| {
            let mut check = Check::default();
            check.add(&requests, expect, &arrivals.borrow());
            check.finish(&arrivals.borrow());
            check.to_json()
        };
        let all = check(Expect::All);
        assert_eq!(
            (&all["expected_spans"], &all["missing_spans"]),
            (&json!(4), &json!(3))
        );
        assert_eq!(
            (&all["torn_traces"], &all["absent_traces"]),
            (&json!(1), &json!(1))
        );
        assert_eq!(all["foreign_spans"], 1, "one of a trace that nobody sent");
        let marked = check(Expect::Marked);
        assert_eq!(
            (&marked["expected_spans"], &marked["missing_spans"]),
            (&json!(2), &json!(1))
        );
    }
}
