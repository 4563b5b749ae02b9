//! Requests: made by hand, or from real captures where they are at hand.

use std::collections::BTreeMap;
use std::path::PathBuf;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};

pub const ERROR: i32 = 2;
const START_NS: u64 = 1_700_000_000_000_000_000;

/// Pseudo-random numbers from one seed (splitmix64).
pub struct Random(u64);

impl Random {
    /// From `TAILKEEP_TEST_SEED`, else from the clock; printed, so that a failure can be repeated.
    pub fn printed(what: &str) -> Random {
        let now = || {
            std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .expect("after 1970")
        };
        let given = std::env::var("TAILKEEP_TEST_SEED")
            .ok()
            .and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or_else(|| now().as_nanos() as u64);
        println!("{what}: TAILKEEP_TEST_SEED={seed}");
        Random(seed)
    }

    pub fn from(seed: u64) -> Random {
        Random(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len() as u64) as usize]
    }

    pub fn id<const N: usize>(&mut self) -> [u8; N] {
        let mut id = [0; N];
        id.iter_mut().for_each(|byte| *byte = self.next() as u8);
        id[N - 1] |= 1;
        id
    }
}

/// A trace id for tests that name their traces.
pub fn trace_id(number: u64) -> [u8; 16] {
    let mut id = [0x5e; 16];
    id[8..].copy_from_slice(&number.to_be_bytes());
    id
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A span of 10 ms; number 0 is the root, the others are its children.
pub fn span(trace: [u8; 16], number: u64, status: i32) -> Span {
    let id = |number: u64| (number + 1).to_be_bytes().to_vec();
    Span {
        trace_id: trace.to_vec(),
        span_id: id(number),
        parent_span_id: if number == 0 { Vec::new() } else { id(0) },
        name: format!("operation {number}"),
        kind: 2,
        start_time_unix_nano: START_NS + number,
        end_time_unix_nano: START_NS + number + 10_000_000,
        attributes: vec![text("route", "/users/{id}")],
        status: Some(Status {
            code: status,
            message: String::new(),
        }),
        ..Span::default()
    }
}

/// A child whose parent never comes: its trace waits for twice the quiet time.
pub fn orphan(trace: [u8; 16], number: u64, status: i32) -> Span {
    Span {
        parent_span_id: vec![0xee; 8],
        ..span(trace, number, status)
    }
}

pub fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, Value::StringValue(value.to_owned()))
}

pub fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}

pub fn request(service: &str, spans: Vec<Span>) -> ExportTraceServiceRequest {
    let scope = InstrumentationScope {
        name: "hand-made".to_owned(),
        ..InstrumentationScope::default()
    };
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(Resource {
                attributes: vec![text("service.name", service)],
                ..Resource::default()
            }),
            scope_spans: vec![ScopeSpans {
                scope: Some(scope),
                spans,
                ..ScopeSpans::default()
            }],
            ..ResourceSpans::default()
        }],
    }
}

/// A capture, or `None` with a word where it is not at hand.
fn capture(name: &str) -> Option<Vec<u8>> {
    let beside = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/data");
    let folder = std::env::var_os("TAILKEEP_TEST_DATA").map_or_else(beside, PathBuf::from);
    let path = folder.join(name);
    let bytes = std::fs::read(&path).ok();
    if bytes.is_none() {
        println!(
            "skipped: {} is not there (TAILKEEP_TEST_DATA names its folder)",
            path.display()
        );
    }
    bytes
}

/// Request bodies as real SDKs sent them, in order.
pub fn captured_bodies() -> Option<Vec<Vec<u8>>> {
    let bytes = capture("tempo_v2_block_621traces.otlp.lp32le")?;
    let mut rest = &bytes[..];
    let mut bodies = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let (body, after) = after.split_at(u32::from_le_bytes(*length) as usize);
        bodies.push(body.to_vec());
        rest = after;
    }
    assert_eq!(bodies.len(), 2409);
    Some(bodies)
}

/// One span of the recorded minute.
pub struct Recorded {
    pub pod: String,
    pub end_ns: u64,
    pub span: Span,
}

/// A minute of OnlineBoutique, by the end of its spans. One trace in ten has an error in one span of it, and
/// which is always the same.
pub fn recorded_minute() -> Option<Vec<Recorded>> {
    let text_of_file =
        String::from_utf8(capture("nezha_rca_data_2022-08-22_trace_03_53_trace.csv")?).expect("UTF-8");
    let bytes = |hex: &str| -> Vec<u8> {
        let digits = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal");
        (0..hex.len()).step_by(2).map(digits).collect()
    };
    let mut errored = BTreeMap::new();
    let mut minute: Vec<Recorded> = text_of_file
        .lines()
        .skip(1)
        .map(|line| {
            let fields: Vec<&str> = line.trim_end().split(',').collect();
            let [trace, id, parent, pod, operation, start, end, ..] = fields[..] else {
                panic!("{line:?}")
            };
            let trace_id = bytes(trace);
            let is_chosen = trace_id
                .iter()
                .fold(7u32, |hash, byte| hash.wrapping_mul(31) + u32::from(*byte))
                % 10
                == 0;
            let failed = is_chosen && errored.insert(trace_id.clone(), ()).is_none();
            let end_ns = end.parse().expect("nanoseconds");
            let span = Span {
                trace_id,
                span_id: bytes(id),
                parent_span_id: if parent == "root" {
                    Vec::new()
                } else {
                    bytes(parent)
                },
                name: operation.to_owned(),
                start_time_unix_nano: start.parse().expect("nanoseconds"),
                end_time_unix_nano: end_ns,
                status: Some(Status {
                    code: if failed { ERROR } else { 0 },
                    message: String::new(),
                }),
                ..Span::default()
            };
            Recorded {
                pod: pod.to_owned(),
                end_ns,
                span,
            }
        })
        .collect();
    minute.sort_by_key(|recorded| recorded.end_ns);
    Some(minute)
}
