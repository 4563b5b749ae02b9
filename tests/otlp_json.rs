//! The OTLP/JSON mapping against its oracle (prost and opentelemetry-proto), the specification's rules
//! (J01–J08 of the conformance list) and hostile bodies.

#[path = "otlp_json/arbitrary.rs"]
mod arbitrary;
#[path = "otlp_json/hostile.rs"]
mod hostile;
#[path = "otlp_json/rules.rs"]
mod rules;

use std::path::PathBuf;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use proptest::prelude::*;
use prost::Message as _;
use tailkeep::otlp::json::{self, EXPORT_TRACE_REQUEST, JsonError, Message, TRACES_DATA};

fn decode(message: &'static Message, text: &str) -> Result<Vec<u8>, JsonError> {
    let mut out = b"before".to_vec();
    let result = json::decode(message, text.as_bytes(), &mut out);
    assert!(out.starts_with(b"before"));
    match result {
        Ok(()) => Ok(out.split_off(6)),
        Err(error) => {
            assert_eq!(out, b"before", "an error leaves the output as it was");
            Err(error)
        }
    }
}

fn encode(message: &'static Message, bytes: &[u8]) -> String {
    let mut out = b"before".to_vec();
    json::encode(message, bytes, &mut out).expect("valid framing");
    let text = String::from_utf8(out).expect("JSON is UTF-8").split_off(6);
    serde_json::from_str::<serde::de::IgnoredAny>(&text).expect("valid JSON");
    assert!(!text.contains('\n'), "one line");
    text
}

fn request(text: &str) -> ExportTraceServiceRequest {
    let bytes = decode(&EXPORT_TRACE_REQUEST, text).expect("a valid body");
    ExportTraceServiceRequest::decode(&*bytes).expect("what we wrote is protobuf")
}

/// The span of a body that has only this span's members.
fn span(members: &str) -> Span {
    let mut request = request(&span_body(members));
    request
        .resource_spans
        .remove(0)
        .scope_spans
        .remove(0)
        .spans
        .remove(0)
}

fn span_error(members: &str) -> JsonError {
    decode(&EXPORT_TRACE_REQUEST, &span_body(members)).expect_err("an invalid body")
}

fn span_body(members: &str) -> String {
    format!("{{\"resourceSpans\":[{{\"scopeSpans\":[{{\"spans\":[{{{members}}}]}}]}}]}}")
}

/// The value of an attribute of a span.
fn value(any_value: &str) -> Option<Value> {
    let span = span(&format!(
        "\"attributes\":[{{\"key\":\"k\",\"value\":{any_value}}}]"
    ));
    span.attributes[0].value.clone().and_then(|value| value.value)
}

fn value_error(any_value: &str) -> JsonError {
    span_error(&format!(
        "\"attributes\":[{{\"key\":\"k\",\"value\":{any_value}}}]"
    ))
}

/// What an attribute value is written as.
fn written(value: Value) -> String {
    encode(
        &json::schema::common::ANY_VALUE,
        &AnyValue { value: Some(value) }.encode_to_vec(),
    )
}

fn string(text: &str) -> Value {
    Value::StringValue(text.to_owned())
}

/// A length-delimited field.
fn prost_bytes(number: u32, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    prost::encoding::bytes::encode(number, &bytes.to_vec(), &mut out);
    out
}

proptest! {
    /// Fields in order, default values left out: the very bytes that prost writes.
    #[test]
    fn a_request_survives_json_byte_for_byte(request in arbitrary::request()) {
        let bytes = request.encode_to_vec();
        let text = encode(&EXPORT_TRACE_REQUEST, &bytes);
        prop_assert_eq!(decode(&EXPORT_TRACE_REQUEST, &text).expect("what we wrote"), bytes);
    }

    /// Any order, duplicates, messages in parts, several members of a oneof, unknown fields and groups.
    #[test]
    fn bytes_in_any_order_mean_what_prost_says(bytes in arbitrary::message(&TRACES_DATA)) {
        let oracle = ExportTraceServiceRequest::decode(&*bytes).expect("valid by construction");
        let text = encode(&TRACES_DATA, &bytes);
        let back = decode(&TRACES_DATA, &text).expect("what we wrote");
        prop_assert_eq!(back, oracle.encode_to_vec());
    }

    #[test]
    fn mutated_bodies_give_a_request_or_an_error(
        request in arbitrary::request(),
        mutations in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..4), 1..8),
    ) {
        let mut text = encode(&EXPORT_TRACE_REQUEST, &request.encode_to_vec()).into_bytes();
        for (place, byte, mutation) in mutations {
            let at = place.index(text.len() + 1);
            match mutation {
                0 => text.insert(at, byte),
                1 => text.truncate(at.max(1)),
                2 => text.insert(at, b"{}[]\",:\\"[usize::from(byte) % 8]),
                _ => if at < text.len() { text[at] = byte },
            }
        }
        let mut out = Vec::new();
        match json::decode(&EXPORT_TRACE_REQUEST, &text, &mut out) {
            Ok(()) => {
                ExportTraceServiceRequest::decode(&*out).expect("what we wrote is protobuf");
                serde_json::from_slice::<serde::de::IgnoredAny>(&text.into_iter().collect::<Vec<_>>())
                    .expect("no text is accepted that is not JSON");
            }
            Err(error) => {
                prop_assert!(out.is_empty());
                prop_assert!(error.line > 0 && error.column > 0);
            }
        }
    }

    #[test]
    fn mutated_bytes_give_json_or_an_error(
        request in arbitrary::request(),
        mutations in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut bytes = request.encode_to_vec();
        for (place, byte) in mutations {
            if !bytes.is_empty() {
                let at = place.index(bytes.len());
                bytes[at] = byte;
            }
        }
        let mut out = Vec::new();
        match json::encode(&EXPORT_TRACE_REQUEST, &bytes, &mut out) {
            Ok(()) => drop(serde_json::from_slice::<serde::de::IgnoredAny>(&out).expect("valid JSON")),
            Err(_) => prop_assert!(out.is_empty()),
        }
        if ExportTraceServiceRequest::decode(&*bytes).is_ok() {
            prop_assert!(!out.is_empty(), "what prost accepts is written");
        }
    }

    #[test]
    fn white_space_means_nothing(request in arbitrary::request()) {
        let bytes = request.encode_to_vec();
        let text = encode(&EXPORT_TRACE_REQUEST, &bytes);
        prop_assert_eq!(decode(&EXPORT_TRACE_REQUEST, &spaced_out(&text)).expect("the same"), bytes);
    }

    #[test]
    fn a_body_read_in_portions_is_the_body(request in arbitrary::request(), portion in 0usize..200) {
        let bytes = request.encode_to_vec();
        let text = encode(&EXPORT_TRACE_REQUEST, &bytes);
        let mut out = Vec::new();
        let mut unfinished = Some(json::Decoder::new(&EXPORT_TRACE_REQUEST, text.as_bytes(), &mut out));
        while let Some(decoder) = unfinished {
            unfinished = decoder.advance(portion).expect("what we wrote");
        }
        prop_assert_eq!(out, bytes);
    }
}

/// White space around everything that is not inside a string.
fn spaced_out(text: &str) -> String {
    let (mut out, mut in_string, mut is_escaped) = (String::new(), false, false);
    for character in text.chars() {
        let is_structure = !in_string && "{}[]:,".contains(character);
        out.push_str(if is_structure { " \r\n" } else { "" });
        out.push(character);
        out.push_str(if is_structure { "\t" } else { "" });
        in_string ^= character == '"' && !is_escaped;
        is_escaped = character == '\\' && !is_escaped;
    }
    out
}

/// `examples/trace.json` of opentelemetry-proto, its essential parts.
const EXAMPLE: &str = r#"{"resourceSpans": [{
  "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "my.service"}}]},
  "scopeSpans": [{
    "scope": {"name": "my.library", "version": "1.0.0", "attributes": [
      {"key": "my.scope.attribute", "value": {"stringValue": "some scope attribute"}}]},
    "spans": [{
      "traceId": "5B8EFFF798038103D269B633813FC60C",
      "spanId": "EEE19B7EC3C1B174",
      "parentSpanId": "EEE19B7EC3C1B173",
      "name": "I'm a server span",
      "startTimeUnixNano": "1544712660000000000",
      "endTimeUnixNano": "1544712661000000000",
      "kind": 2,
      "attributes": [{"key": "my.span.attr", "value": {"stringValue": "some value"}}]
    }]}]}]}"#;

fn example() -> ExportTraceServiceRequest {
    let attribute = |key: &str, text: &str| KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue {
            value: Some(string(text)),
        }),
        ..Default::default()
    };
    let span = Span {
        trace_id: 0x5b8efff7_98038103_d269b633_813fc60c_u128.to_be_bytes().to_vec(),
        span_id: 0xeee19b7e_c3c1b174_u64.to_be_bytes().to_vec(),
        parent_span_id: 0xeee19b7e_c3c1b173_u64.to_be_bytes().to_vec(),
        name: "I'm a server span".to_owned(),
        start_time_unix_nano: 1_544_712_660_000_000_000,
        end_time_unix_nano: 1_544_712_661_000_000_000,
        kind: 2,
        attributes: vec![attribute("my.span.attr", "some value")],
        ..Default::default()
    };
    let scope = InstrumentationScope {
        name: "my.library".to_owned(),
        version: "1.0.0".to_owned(),
        attributes: vec![attribute("my.scope.attribute", "some scope attribute")],
        ..Default::default()
    };
    let resource = Resource {
        attributes: vec![attribute("service.name", "my.service")],
        ..Default::default()
    };
    let scope_spans = ScopeSpans {
        scope: Some(scope),
        spans: vec![span],
        ..Default::default()
    };
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(resource),
            scope_spans: vec![scope_spans],
            ..Default::default()
        }],
    }
}

/// Third-party data that lie beside the project, not in it.
fn shared(name: &str) -> Option<Vec<u8>> {
    let beside = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/data");
    let folder = std::env::var_os("TAILKEEP_TEST_DATA").map_or_else(beside, PathBuf::from);
    let bytes = std::fs::read(folder.join(name)).ok();
    if bytes.is_none() {
        println!("skipped: {name} is not in {}", folder.display());
    }
    bytes
}

#[test]
fn the_specifications_example_is_read() {
    assert_eq!(request(EXAMPLE), example());
    if let Some(text) = shared("otlp_proto_examples_trace.json") {
        assert_eq!(request(std::str::from_utf8(&text).expect("UTF-8")), example());
    }
}

#[test]
fn requests_of_real_clients_survive_json() {
    let Some(bytes) = shared("tempo_v2_block_621traces.otlp.lp32le") else {
        return;
    };
    let (mut rest, mut count) = (&*bytes, 0);
    while let Some((length, after)) = rest.split_first_chunk() {
        let (body, after) = after.split_at(u32::from_le_bytes(*length) as usize);
        let back =
            decode(&EXPORT_TRACE_REQUEST, &encode(&EXPORT_TRACE_REQUEST, body)).expect("what we wrote");
        let parse = |bytes: &[u8]| ExportTraceServiceRequest::decode(bytes).expect("protobuf");
        assert_eq!(parse(&back), parse(body));
        (rest, count) = (after, count + 1);
    }
    assert_eq!(count, 2409);
}
