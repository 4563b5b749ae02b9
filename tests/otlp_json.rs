//! The OTLP/JSON mapping against its oracle (prost and opentelemetry-proto), the specification's rules
//! (J01–J08 of the conformance list) and hostile bodies.

#[path = "otlp_json/arbitrary.rs"]
mod arbitrary;

use std::path::PathBuf;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use proptest::prelude::*;
use prost::Message as _;
use tailkeep::otlp::json::{self, EXPORT_TRACE_REQUEST, EncodeError, JsonError, Message, TRACES_DATA};

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
    fn a_body_read_in_portions_is_the_body(request in arbitrary::request(), portion in 1usize..200) {
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

/// J01
#[test]
fn ids_are_hexadecimal_of_either_case() {
    let span = span(
        r#""traceId":"5b8efff798038103D269B633813FC60C","spanId":"eee19b7ec3c1b174","parentSpanId":"",
           "links":[{"traceId":"0a","spanId":"FF00"}]"#,
    );
    assert_eq!(
        span.trace_id,
        example().resource_spans[0].scope_spans[0].spans[0].trace_id
    );
    assert_eq!(span.span_id, 0xeee19b7e_c3c1b174_u64.to_be_bytes());
    assert!(span.parent_span_id.is_empty());
    assert_eq!(
        (&*span.links[0].trace_id, &*span.links[0].span_id),
        (&[0x0a][..], &[0xff, 0x00][..])
    );
}

/// J01: what a plain protobuf-JSON library would write is refused with its place.
#[test]
fn ids_in_base64_are_refused() {
    let error = span_error(r#""traceId":"W47/95gDgQPSabYzgT/GDA==""#);
    assert_eq!(error.path, "resourceSpans[0].scopeSpans[0].spans[0].traceId");
    assert_eq!(error.expected, "a string of pairs of hexadecimal digits");
    for id in [r#""abc""#, r#""zz""#, "12", "[]", "true"] {
        span_error(&format!("\"spanId\":{id}"));
    }
}

/// J02
#[test]
fn enums_are_numbers_and_never_names() {
    assert_eq!(span(r#""kind":3,"status":{"code":2}"#).kind, 3);
    assert_eq!(span(r#""status":{"code":2}"#).status.expect("present").code, 2);
    assert_eq!(
        span(r#""kind":-7"#).kind,
        -7,
        "numbers of later versions are carried"
    );
    for kind in [r#""SPAN_KIND_CLIENT""#, r#""3""#, "3.5", "2147483648", "true"] {
        assert!(
            span_error(&format!("\"kind\":{kind}"))
                .path
                .ends_with(".spans[0].kind"),
            "{kind}"
        );
    }
}

/// J03
#[test]
fn unknown_fields_are_ignored_at_every_level() {
    for unknown in [
        "1",
        "-0.5e+3",
        "true",
        "null",
        r#""text \"\ud83d\ude00\" ""#,
        "[]",
        "{}",
        r#"[1,[2,{"a":[]}],"x"]"#,
        r#"{"spans":[{"traceId":7}],"b":{"c":{}}}"#,
    ] {
        let text = EXAMPLE.replace("{\"", "{FRONT,\"").replace('}', ",BACK}");
        let text = text.replace("FRONT", &format!("\"unknown\":{unknown}"));
        let text = text.replace("BACK", &format!("\"resource_spans\" : {unknown} "));
        assert_eq!(request(&text), example(), "{unknown}");
    }
}

/// J03: ignored is not unread.
#[test]
fn unknown_fields_are_valid_json_all_the_same() {
    for unknown in [
        "", "[1,]", "{,}", "[1}", "{\"a\"}", "{\"a\":}", "{1:2}", "01", "nul", "\"\\x\"", "'a'", "[1 2]",
    ] {
        let error = span_error(&format!("\"unknown\":{unknown}"));
        assert_eq!(error.path, "resourceSpans[0].scopeSpans[0].spans[0]", "{unknown}");
    }
}

/// J04
#[test]
fn snake_case_keys_are_unknown() {
    let span =
        span(r#""trace_id":"00","start_time_unix_nano":7,"TraceId":"00","traceid":"00","name":"kept""#);
    assert_eq!(
        span,
        Span {
            name: "kept".to_owned(),
            ..Default::default()
        }
    );
    assert_eq!(
        request(r#"{"resource_spans":[{}]}"#),
        ExportTraceServiceRequest::default()
    );
}

/// J05
#[test]
fn integers_are_strings_or_numbers() {
    for time in ["1000", "\"1000\"", "1e3", "1000.0", "\"1e3\"", "10000e-1"] {
        assert_eq!(
            span(&format!("\"startTimeUnixNano\":{time}")).start_time_unix_nano,
            1000,
            "{time}"
        );
    }
    let max = span(r#""startTimeUnixNano":"18446744073709551615","endTimeUnixNano":18446744073709551615"#);
    assert_eq!(
        (max.start_time_unix_nano, max.end_time_unix_nano),
        (u64::MAX, u64::MAX)
    );
    assert_eq!(
        value(r#"{"intValue":"-9223372036854775808"}"#),
        Some(Value::IntValue(i64::MIN))
    );
    assert_eq!(
        value(r#"{"intValue":9223372036854775807}"#),
        Some(Value::IntValue(i64::MAX))
    );
    assert_eq!(
        span(r#""flags":"4294967295","droppedEventsCount":7"#).flags,
        u32::MAX
    );
}

/// J05
#[test]
fn integers_are_whole_and_fit() {
    for time in [
        "-1",
        "\"-1\"",
        "18446744073709551616",
        "0.5",
        "\"\"",
        "\" 1\"",
        "\"0x1\"",
        "1e20",
        "true",
        "{}",
    ] {
        let error = span_error(&format!("\"startTimeUnixNano\":{time}"));
        assert!(error.path.ends_with(".startTimeUnixNano"), "{time}: {error}");
    }
    for int in [
        "9223372036854775808",
        "\"-9223372036854775809\"",
        "1.5",
        "\"NaN\"",
        "1e400",
    ] {
        assert!(
            value_error(&format!("{{\"intValue\":{int}}}"))
                .path
                .ends_with(".value.intValue"),
            "{int}"
        );
    }
    for count in ["4294967296", "-1", "\"x\""] {
        span_error(&format!("\"droppedEventsCount\":{count}"));
    }
}

/// J06
#[test]
fn bytes_values_are_base64() {
    for text in ["+/8=", "-_8", "-_8=", "+\\/8"] {
        let value = value(&format!("{{\"bytesValue\":\"{text}\"}}"));
        assert_eq!(value, Some(Value::BytesValue(vec![0xfb, 0xff])), "{text}");
    }
    assert_eq!(
        value_error(r#"{"bytesValue":"*"}"#).expected,
        "a string in base64"
    );
    assert_eq!(
        written(Value::BytesValue(vec![0xfb, 0xff])),
        r#"{"bytesValue":"+/8="}"#
    );
}

/// J07
#[test]
fn doubles_may_be_names_and_strings() {
    for (text, double) in [
        ("1.5", 1.5),
        ("\"1.5\"", 1.5),
        ("3", 3.0),
        ("-0.0", -0.0),
        ("\"Infinity\"", f64::INFINITY),
        ("\"-Infinity\"", f64::NEG_INFINITY),
        ("1e-400", 0.0),
    ] {
        let value = value(&format!("{{\"doubleValue\":{text}}}"));
        assert_eq!(value, Some(Value::DoubleValue(double)), "{text}");
    }
    let Some(Value::DoubleValue(nan)) = value(r#"{"doubleValue":"NaN"}"#) else {
        panic!("a double")
    };
    assert!(nan.is_nan());
    for text in [
        "\"inf\"",
        "\"nan\"",
        "NaN",
        "1e400",
        "\"1e400\"",
        "\"\"",
        "\"1 \"",
        "null0",
    ] {
        value_error(&format!("{{\"doubleValue\":{text}}}"));
    }
}

/// J08
#[test]
fn output_follows_the_rules_of_input() {
    let text = encode(&TRACES_DATA, &example().encode_to_vec());
    for part in [
        r#""traceId":"5b8efff798038103d269b633813fc60c""#,
        r#""kind":2"#,
        r#""startTimeUnixNano":"1544712660000000000""#,
        r#""name":"I'm a server span""#,
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    for (value, text) in [
        (Value::IntValue(-5), r#"{"intValue":"-5"}"#),
        (Value::DoubleValue(0.1), r#"{"doubleValue":0.1}"#),
        (Value::DoubleValue(f64::NAN), r#"{"doubleValue":"NaN"}"#),
        (
            Value::DoubleValue(f64::NEG_INFINITY),
            r#"{"doubleValue":"-Infinity"}"#,
        ),
        (
            string("\"\\\n\u{0}\u{1f}\u{7f}é\u{2028}😀"),
            "{\"stringValue\":\"\\\"\\\\\\n\\u0000\\u001f\u{7f}é\u{2028}😀\"}",
        ),
    ] {
        assert_eq!(written(value), text);
    }
}

/// J08: a oneof's member is there even when it is zero; a plain scalar is not.
#[test]
fn zeros_of_a_oneof_are_written() {
    for (value, text) in [
        (Value::IntValue(0), r#"{"intValue":"0"}"#),
        (Value::BoolValue(false), r#"{"boolValue":false}"#),
        (string(""), r#"{"stringValue":""}"#),
        (Value::DoubleValue(0.0), r#"{"doubleValue":0.0}"#),
        (Value::BytesValue(vec![]), r#"{"bytesValue":""}"#),
    ] {
        assert_eq!(written(value.clone()), text);
        assert_eq!(self::value(text), Some(value));
    }
    assert_eq!(
        encode(&json::schema::traces::SPAN, b"\x0a\x00\x30\x00\x7a\x00"),
        r#"{"status":{}}"#
    );
    assert_eq!(
        decode(
            &json::schema::traces::SPAN,
            r#"{"traceId":"","kind":0,"status":{}}"#
        ),
        Ok(b"\x7a\x00".to_vec())
    );
}

/// J08
#[test]
fn text_that_is_not_utf8_is_replaced() {
    assert_eq!(
        encode(&json::schema::traces::SPAN, b"\x2a\x06a\xff\xffb\xe2\x82"),
        "{\"name\":\"a\u{fffd}\u{fffd}b\u{fffd}\"}"
    );
}

#[test]
fn null_is_absence() {
    let span =
        span(r#""traceId":null,"attributes":null,"status":null,"kind":null,"flags":null,"name":"kept""#);
    assert_eq!(
        span,
        Span {
            name: "kept".to_owned(),
            ..Default::default()
        }
    );
    assert_eq!(value(r#"{"stringValue":null}"#), None);
    assert_eq!(span_error(r#""attributes":[null]"#).found, "null");
}

#[test]
fn of_duplicate_keys_the_last_wins() {
    let span = span(r#""name":"a","kind":2,"flags":1,"name":"","kind":0,"flags":2,"flags":null"#);
    assert_eq!((span.name.as_str(), span.kind, span.flags), ("", 0, 2));
    assert_eq!(
        value(r#"{"stringValue":"a","intValue":1}"#),
        Some(Value::IntValue(1))
    );
    assert_eq!(value(r#"{"intValue":1,"stringValue":"a"}"#), Some(string("a")));
}

#[test]
fn duplicate_messages_and_lists_merge() {
    let span = span(r#""status":{"code":2,"message":"m"},"events":[{}],"status":{"code":1},"events":[{}]"#);
    let status = span.status.expect("present");
    assert_eq!((status.code, status.message.as_str()), (1, "m"));
    assert_eq!(span.events.len(), 2);
}

#[test]
fn keys_and_strings_are_unescaped() {
    let span = span(r#""na\u006de":"\u0000\"\\\/\b\f\n\r\t\u00e9\uD83D\uDE00""#);
    assert_eq!(span.name, "\0\"\\/\u{8}\u{c}\n\r\té😀");
    for text in [
        r#""\x""#,
        r#""\u12""#,
        r#""\u12g4""#,
        r#""\u+123""#,
        "\"\n\"",
        "\"\u{1}\"",
        "\"\\\"",
        "\"",
        "'a'",
    ] {
        span_error(&format!("\"name\":{text}"));
    }
}

/// JavaScript cuts strings between two surrogates.
#[test]
fn half_a_surrogate_pair_is_replaced() {
    for (escaped, text) in [
        (r"a\uD83D", "a\u{fffd}"),
        (r"\uDE00a", "\u{fffd}a"),
        (r"\uD83D\uD83D\uDE00", "\u{fffd}😀"),
        (r"\uD83D\u0061", "\u{fffd}a"),
        (r"\uD83D\n", "\u{fffd}\n"),
    ] {
        assert_eq!(span(&format!("\"name\":\"{escaped}\"")).name, text);
    }
}

#[test]
fn bodies_are_utf8() {
    for bad in [&b"\xff"[..], b"\xed\xa0\xbd", b"\xc3", b"\\n\xff"] {
        let body = [b"{\"resourceSpans\":[{\"schemaUrl\":\"ab", bad, b"\"}]}"].concat();
        let error = json::decode(&EXPORT_TRACE_REQUEST, &body, &mut Vec::new()).expect_err("not UTF-8");
        assert_eq!(
            (error.expected, error.path.as_str()),
            ("UTF-8", "resourceSpans[0].schemaUrl")
        );
    }
}

#[test]
fn a_body_is_one_object() {
    assert_eq!(decode(&EXPORT_TRACE_REQUEST, "{}"), Ok(vec![]));
    assert_eq!(decode(&EXPORT_TRACE_REQUEST, " {\t}\r\n"), Ok(vec![]));
    for text in [
        "",
        " ",
        "null",
        "[]",
        "1",
        "\"\"",
        "{",
        "}",
        "{}{}",
        "{},",
        "{} x",
        "\u{feff}{}",
        "{}\0",
        "{,}",
        "{\"a\":1,}",
    ] {
        let error = decode(&EXPORT_TRACE_REQUEST, text).expect_err(text);
        assert_eq!((error.path.as_str(), error.line), ("body", 1), "{text}");
    }
}

#[test]
fn errors_say_what_where_and_in_which_line() {
    let text = EXAMPLE.replace("\"1544712661000000000\"", "\"soon\"");
    assert_eq!(
        decode(&EXPORT_TRACE_REQUEST, &text)
            .expect_err("no number")
            .to_string(),
        "resourceSpans[0].scopeSpans[0].spans[0].endTimeUnixNano: expected a whole number of 64 bits, not \
         negative, found other text (line 12, column 26)"
    );
    let text = r#"{"resourceSpans":[{},{"scopeSpans":[{"spans":[]},{"spans":[{"events":[{},{}],"links":[{},{"attributes":{}"#;
    let error = decode(&EXPORT_TRACE_REQUEST, text).expect_err("no array");
    assert_eq!(
        error.path,
        "resourceSpans[1].scopeSpans[1].spans[0].links[1].attributes"
    );
    assert_eq!(
        (error.expected, error.found, error.column),
        ("an array", "an object", text.len() - 1)
    );
}

#[test]
fn a_truncated_body_is_an_error() {
    for length in 0..EXAMPLE.len() {
        decode(&EXPORT_TRACE_REQUEST, &EXAMPLE[..length]).expect_err("cut short");
    }
}

#[test]
fn truncated_bytes_are_an_error_or_end_after_a_field() {
    let bytes = example().encode_to_vec();
    for length in 1..bytes.len() {
        let mut out = Vec::new();
        let result = json::encode(&EXPORT_TRACE_REQUEST, &bytes[..length], &mut out);
        assert_eq!((result, out.len()), (Err(EncodeError::Framing), 0), "{length}");
    }
}

fn nested_json(depth: usize) -> String {
    let (open, close) = ("{\"arrayValue\":{\"values\":[".repeat(depth), "]}}".repeat(depth));
    format!("{open}{{}}{close}")
}

fn nested_bytes(depth: usize) -> Vec<u8> {
    (0..depth).fold(vec![], |inner, _| {
        let array = [prost_bytes(1, &inner)].concat();
        prost_bytes(5, &array)
    })
}

fn prost_bytes(number: u32, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    prost::encoding::bytes::encode(number, &bytes.to_vec(), &mut out);
    out
}

/// AnyValue in ArrayValue in AnyValue …: two messages a level.
#[test]
fn both_directions_nest_as_deep_as_prost() {
    use json::schema::common::ANY_VALUE;
    for depth in 45..55 {
        let (text, bytes) = (nested_json(depth), nested_bytes(depth));
        let oracle = AnyValue::decode(&*bytes).is_ok();
        let mut out = Vec::new();
        assert_eq!(
            json::encode(&ANY_VALUE, &bytes, &mut out).is_ok(),
            oracle,
            "bytes, {depth}"
        );
        assert_eq!(decode(&ANY_VALUE, &text).is_ok(), oracle, "JSON, {depth}");
        if oracle {
            assert_eq!(decode(&ANY_VALUE, &text), Ok(bytes));
        }
    }
}

#[test]
fn a_million_levels_are_an_error() {
    let million = 1_000_000;
    for text in [
        "[".repeat(million),
        "{".repeat(million),
        format!("{{\"x\":{}", "[".repeat(million)),
        format!("{{\"x\":{}", "{\"x\":".repeat(million)),
        format!("{{\"x\":{}{}}}", "[".repeat(million), "]".repeat(million)),
        format!("{{\"resourceSpans\":{}", "[".repeat(million)),
        format!("{{\"resourceSpans\":[{}", "{\"resource\":".repeat(million)),
        span_body(&format!(
            "\"attributes\":[{{\"value\":{}}}]",
            nested_json(million)
        )),
    ] {
        decode(&EXPORT_TRACE_REQUEST, &text).expect_err("too deep");
    }
    let groups = b"\x0b".repeat(million);
    assert_eq!(
        json::encode(&TRACES_DATA, &groups, &mut Vec::new()),
        Err(EncodeError::Framing)
    );
    let deep = prost_bytes(
        1,
        &prost_bytes(1, &prost_bytes(1, &prost_bytes(2, &nested_bytes(5000)))),
    );
    assert_eq!(
        json::encode(&TRACES_DATA, &deep, &mut Vec::new()),
        Err(EncodeError::Depth)
    );
}

#[test]
fn huge_numbers_are_an_error_or_a_double() {
    let nines = "9".repeat(1_000_000);
    for number in [
        nines.clone(),
        format!("-{nines}"),
        format!("1e{nines}"),
        format!("0.{nines}e{nines}"),
    ] {
        span_error(&format!("\"startTimeUnixNano\":{number}"));
        span_error(&format!("\"kind\":{number}"));
        value_error(&format!("{{\"doubleValue\":{number}}}"));
        span(&format!("\"unknown\":{number}"));
    }
    let tiny = format!("{{\"doubleValue\":1e-{nines}}}");
    assert_eq!(value(&tiny), Some(Value::DoubleValue(0.0)));
}

/// A tracestate that was appended, a scope attribute likewise: what annotating does to bytes.
#[test]
fn appended_fields_are_put_in_their_places() {
    let span = [
        &b"\x1a\x01a\x2a\x04name\x4a\x03\x0a\x01x"[..],
        b"\x1a\x07ot=th:8",
        b"\x4a\x03\x0a\x01y",
    ]
    .concat();
    assert_eq!(
        encode(&json::schema::traces::SPAN, &span),
        r#"{"traceState":"ot=th:8","name":"name","attributes":[{"key":"x"},{"key":"y"}]}"#
    );
}

/// Of a oneof that came in several members the last counts, and what came before it is forgotten.
#[test]
fn the_last_member_of_a_oneof_counts() {
    let list = |key: &str| prost_bytes(6, &prost_bytes(1, &prost_bytes(1, key.as_bytes())));
    let any_value = &json::schema::common::ANY_VALUE;
    let bytes = [list("a"), b"\x18\x07".to_vec(), list("b"), list("c")].concat();
    assert_eq!(
        encode(any_value, &bytes),
        r#"{"kvlistValue":{"values":[{"key":"b"},{"key":"c"}]}}"#
    );
    assert_eq!(
        encode(any_value, &[list("a"), b"\x18\x07".to_vec()].concat()),
        r#"{"intValue":"7"}"#
    );
}

/// As protobuf libraries do with what they cannot read.
#[test]
fn fields_of_another_wire_type_are_skipped() {
    assert_eq!(
        encode(
            &json::schema::traces::SPAN,
            b"\x28\x01\x32\x01x\x3d\0\0\0\0\x4b\x4c\x0a\x01\xab"
        ),
        r#"{"traceId":"ab"}"#
    );
}

#[test]
fn replies_are_readable() {
    use json::{EXPORT_TRACE_RESPONSE, STATUS};
    assert_eq!(encode(&EXPORT_TRACE_RESPONSE, b""), "{}");
    assert_eq!(
        encode(&EXPORT_TRACE_RESPONSE, b"\x0a\x06\x08\x05\x12\x02no"),
        r#"{"partialSuccess":{"rejectedSpans":"5","errorMessage":"no"}}"#
    );
    assert_eq!(
        encode(&STATUS, b"\x08\x0e\x12\x04busy\x1a\x00"),
        r#"{"code":14,"message":"busy"}"#
    );
}
