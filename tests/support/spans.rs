//! Numbered spans of numbered traces: into requests, and out of what was exported.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use prost::Message;
use tailkeep::base::ids::TraceId;
use tailkeep::otlp::json;

/// Trace and number of the span in it.
pub type SpanKey = (u64, u64);

/// The body of a request.
pub fn request(spans: Vec<Span>) -> Vec<u8> {
    let scope = ScopeSpans {
        spans,
        ..ScopeSpans::default()
    };
    let resource = ResourceSpans {
        scope_spans: vec![scope],
        ..ResourceSpans::default()
    };
    let request = ExportTraceServiceRequest {
        resource_spans: vec![resource],
    };
    request.encode_to_vec()
}

/// The spans in lines that a destination was given.
pub fn exported(lines: &[u8]) -> Vec<SpanKey> {
    let number = |bytes: &[u8]| u64::from_be_bytes(bytes[bytes.len() - 8..].try_into().expect("8 bytes"));
    let mut keys = Vec::new();
    for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let mut protobuf = Vec::new();
        json::decode(&json::TRACES_DATA, line, &mut protobuf).expect("our own JSON");
        let request = ExportTraceServiceRequest::decode(&protobuf[..]).expect("protobuf");
        let scopes = request.resource_spans.iter().flat_map(|part| &part.scope_spans);
        for span in scopes.flat_map(|scope| &scope.spans) {
            let key = (number(&span.trace_id), number(&span.span_id) - 1);
            assert_as_sent(key, span);
            keys.push(key);
        }
    }
    keys
}

/// Nothing of a span changes on its way, but for what its filler and its status were.
fn assert_as_sent((trace, at): SpanKey, span: &Span) {
    let filler = match span.attributes.first().and_then(|one| one.value.as_ref()) {
        Some(AnyValue {
            value: Some(Value::StringValue(text)),
        }) => text.as_str(),
        other => panic!("span {at} of trace {trace} has {other:?}"),
    };
    assert!(
        filler.bytes().all(|byte| byte == b'x'),
        "the filler of span {at} of trace {trace} changed"
    );
    let fails = span.status.as_ref().is_some_and(|status| status.code == 2);
    let sent = self::span(trace, at, fails, filler.len());
    assert_eq!(*span, sent, "span {at} of trace {trace} changed");
}

pub fn trace_id(trace: u64) -> TraceId {
    TraceId::new(&trace_bytes(trace)).expect("not zero")
}

/// Of a trace of ours.
pub fn number(trace: TraceId) -> u64 {
    u64::from_be_bytes(trace.as_bytes()[8..].try_into().expect("8 bytes"))
}

fn trace_bytes(trace: u64) -> Vec<u8> {
    let mut id = vec![0x7e; 16];
    id[8..].copy_from_slice(&trace.to_be_bytes());
    id
}

/// One span; the first of a trace is its root.
pub fn span(trace: u64, number: u64, fails: bool, filler: usize) -> Span {
    let id = |number: u64| (number + 1).to_be_bytes().to_vec();
    let text = AnyValue {
        value: Some(Value::StringValue("x".repeat(filler))),
    };
    Span {
        trace_id: trace_bytes(trace),
        span_id: id(number),
        parent_span_id: if number == 0 { Vec::new() } else { id(0) },
        start_time_unix_nano: 1_700_000_000_000_000_000 + number,
        end_time_unix_nano: 1_700_000_000_000_000_000 + number * 1_000_000,
        attributes: vec![KeyValue {
            key: "filler".to_owned(),
            value: Some(text),
            ..KeyValue::default()
        }],
        status: Some(Status {
            code: if fails { 2 } else { 0 },
            message: String::new(),
        }),
        ..Span::default()
    }
}
