//! Real traffic: what goes in comes out as the oracle says, field by field.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;
use tailkeep::policy::{PolicyEntry, PolicyKind, PolicyOptions, StatusCode};

use crate::http::Client;
use crate::output::{self, Exported};
use crate::policies;
use crate::process::Place;
use crate::sampler::{self, Decision, SpanOfResource, Th};
use crate::traffic::{self, Random, hex};

/// Senders at a time.
const SENDERS: usize = 4;

type Traces = BTreeMap<Vec<u8>, Vec<Exported>>;

fn by_trace(spans: impl IntoIterator<Item = Exported>) -> Traces {
    let mut traces = Traces::new();
    for span in spans {
        traces.entry(span.span().trace_id.clone()).or_default().push(span);
    }
    traces
}

/// Sends the captured bodies, those of one trace on as many connections as it has bodies, if there are so many.
fn send_spread(address: SocketAddr, bodies: &[Vec<u8>]) {
    const CONNECTIONS: usize = 8;
    std::thread::scope(|scope| {
        for lane in 0..CONNECTIONS {
            scope.spawn(move || {
                let mut client = Client::new(address);
                let mine = bodies.iter().skip(lane).step_by(CONNECTIONS);
                mine.for_each(|body| client.export_bytes(body));
            });
        }
    });
}

/// Sends the captured bodies, those of one trace one after the other on one connection.
fn send_captured(address: SocketAddr, bodies: &[Vec<u8>]) {
    let mut lanes: Vec<BTreeMap<Vec<u8>, Vec<&[u8]>>> = vec![BTreeMap::new(); SENDERS];
    for body in bodies {
        let request = ExportTraceServiceRequest::decode(&body[..]).expect("an old request is a request");
        let first = output::take_apart(&request)
            .first()
            .map(|span| span.span().trace_id.clone());
        let trace = first.expect("no body is empty");
        let lane = usize::from(trace[15]) % SENDERS;
        lanes[lane].entry(trace).or_default().push(body);
    }
    std::thread::scope(|scope| {
        for lane in lanes {
            scope.spawn(move || {
                let mut client = Client::new(address);
                lane.values().flatten().for_each(|body| client.export_bytes(body));
            });
        }
    });
}

fn spans_of(bodies: &[Vec<u8>]) -> Vec<Exported> {
    let decode = |body: &Vec<u8>| ExportTraceServiceRequest::decode(&body[..]).expect("a request");
    bodies
        .iter()
        .flat_map(|body| output::take_apart(&decode(body)))
        .collect()
}

/// Times that a slow machine does not reach between two spans of one trace.
fn patient(place: Place) -> Place {
    place
        .with("tail_sampling.decision_wait", "120s")
        .with("completion.quiet", "2500ms")
}

#[test]
fn every_captured_span_comes_out_as_it_went_in() {
    let Some(bodies) = traffic::captured_bodies() else {
        return;
    };
    let place = patient(Place::new("captured"));
    let tailkeep = place.start();
    send_captured(tailkeep.http, &bodies);
    let status = tailkeep.wait_settled();
    assert_eq!(status["signals"]["spans"]["accepted"], 2586);
    tailkeep.stop_well();
    output::assert_same(&spans_of(&bodies), &place.output().spans);
}

#[test]
fn of_the_captured_traces_those_come_out_that_the_oracle_keeps() {
    let Some(bodies) = traffic::captured_bodies() else {
        return;
    };
    let came = spans_of(&bodies);
    let all: Vec<SpanOfResource> = came.iter().map(policies::of_resource).collect();
    let mut random = Random::printed("random policies");
    for _ in 0..3 {
        let options = policies::random(&mut random, &all);
        let yaml = policies::yaml(&options);
        println!("{yaml}");
        let place = patient(Place::new("oracle")).policies(&yaml);
        let tailkeep = place.start();
        send_captured(tailkeep.http, &bodies);
        tailkeep.wait_settled();
        tailkeep.stop_well();
        assert_as_decided(&options, by_trace(came.clone()), by_trace(place.output().spans));
    }
}

#[test]
fn traces_that_are_spread_over_connections_and_cores_come_out_as_the_oracle_keeps_them() {
    let Some(bodies) = traffic::captured_bodies() else {
        return;
    };
    let came = spans_of(&bodies);
    let all: Vec<SpanOfResource> = came.iter().map(policies::of_resource).collect();
    let mut random = Random::printed("random policies");
    for cores in ["1", "2", "4"] {
        let options = policies::random(&mut random, &all);
        let yaml = policies::yaml(&options);
        println!("{cores} cores\n{yaml}");
        let place = patient(Place::new("cores"))
            .policies(&yaml)
            .with("node.cores", cores);
        let tailkeep = place.start();
        send_spread(tailkeep.http, &bodies);
        let status = tailkeep.wait_settled();
        assert_eq!(status["cores"].as_array().map(Vec::len), cores.parse().ok());
        assert_eq!(status["signals"]["spans"]["accepted"], 2586);
        tailkeep.stop_well();
        assert_as_decided(&options, by_trace(came.clone()), by_trace(place.output().spans));
    }
}

#[test]
fn a_recorded_minute_is_sampled_as_the_oracle_samples_it() {
    let Some(minute) = traffic::recorded_minute() else {
        return;
    };
    const SPEED: u64 = 20;
    const TICK: Duration = Duration::from_millis(20);
    let entry = |name: &str, kind| PolicyEntry {
        name: name.to_owned(),
        kind,
    };
    let slow = PolicyKind::Latency {
        threshold_ms: 900,
        upper_threshold_ms: 0,
    };
    let options = PolicyOptions {
        policies: vec![
            entry(
                "errors",
                PolicyKind::StatusCode {
                    codes: vec![StatusCode::Error],
                },
            ),
            entry("slow", slow),
            entry(
                "baseline",
                PolicyKind::Probabilistic {
                    percentage: 5.0,
                    hash_salt: None,
                },
            ),
        ],
        ..PolicyOptions::default()
    };
    let place = patient(Place::new("minute")).policies(&policies::yaml(&options));
    let tailkeep = place.start();

    // Every pod sends what has ended since its last batch.
    let mut lanes: BTreeMap<&str, Vec<&traffic::Recorded>> = BTreeMap::new();
    let minute_begin = minute.first().expect("not empty").end_ns;
    minute
        .iter()
        .for_each(|span| lanes.entry(&span.pod).or_default().push(span));
    let begin = Instant::now();
    let address = tailkeep.http;
    let requests: Vec<ExportTraceServiceRequest> = std::thread::scope(|scope| {
        let senders: Vec<_> = lanes
            .into_iter()
            .map(|(pod, spans)| {
                scope.spawn(move || {
                    let mut client = Client::new(address);
                    let tick_of = |span: &traffic::Recorded| {
                        (span.end_ns - minute_begin) / SPEED / TICK.as_nanos() as u64
                    };
                    let mut sent = Vec::new();
                    for batch in spans.chunk_by(|one, other| tick_of(one) == tick_of(other)) {
                        let due = begin + TICK * (tick_of(batch[0]) as u32 + 1);
                        // The load's own pace; nothing is waited for.
                        std::thread::sleep(due.saturating_duration_since(Instant::now()));
                        let spans = batch.iter().map(|recorded| recorded.span.clone()).collect();
                        let request = traffic::request(pod, spans);
                        client.export(&request);
                        sent.push(request);
                    }
                    sent
                })
            })
            .collect();
        senders
            .into_iter()
            .flat_map(|sender| sender.join().expect("sent"))
            .collect()
    });
    tailkeep.wait_settled();
    let status = tailkeep.status();
    assert_eq!(status["signals"]["spans"]["accepted"], minute.len());
    assert_eq!(
        status["traces"]["closed"]["complete"], 497,
        "every trace of the minute is whole"
    );
    tailkeep.stop_well();
    let came = requests.iter().flat_map(output::take_apart);
    let went = by_trace(place.output().spans);
    assert!(went.len() > 50, "{} traces are kept", went.len());
    assert_as_decided(&options, by_trace(came), went);
}

/// Exactly the traces that the oracle keeps, whole, with its policy and its threshold.
fn assert_as_decided(options: &PolicyOptions, came: Traces, mut went: Traces) {
    let mut wrong = Vec::new();
    for (trace, came) in came {
        let spans: Vec<SpanOfResource> = came.iter().map(policies::of_resource).collect();
        let went = went.remove(&trace).unwrap_or_default();
        let Decision::Keep { policy, th } = sampler::decide(options, &spans) else {
            if !went.is_empty() {
                wrong.push(format!(
                    "{}: {} spans came out, the oracle drops it",
                    hex(&trace),
                    went.len()
                ));
            }
            continue;
        };
        if went.is_empty() {
            wrong.push(format!(
                "{}: nothing came out, the oracle keeps it for {policy}",
                hex(&trace)
            ));
            continue;
        }
        for span in &went {
            assert_eq!(
                span.annotations.get("tailsampling.policy"),
                Some(&policy),
                "{}",
                hex(&trace)
            );
        }
        output::assert_same(&with_threshold(&came, th), &went);
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(
        went.is_empty(),
        "{} traces came out that never went in",
        went.len()
    );
}

/// The spans as they must leave. Captured ones bring no tracestate, so `th` is all that can be there.
fn with_threshold(came: &[Exported], th: Th) -> Vec<Exported> {
    let digits = match th {
        Th::AtLeast(threshold) => format!("{threshold:014x}"),
        Th::AsCame | Th::Erased => return came.to_vec(),
    };
    let mut spans = came.to_vec();
    for span in &mut spans {
        let state = &mut span.alone.scope_spans[0].spans[0].trace_state;
        assert!(state.is_empty(), "captured spans have no tracestate");
        *state = format!("ot=th:{}", digits.trim_end_matches('0'));
    }
    spans
}
