//! The rules of OTLP/JSON, J01–J08 of the conformance list, and of protobuf's mapping beneath it.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use tailkeep::otlp::json::{self, EXPORT_TRACE_REQUEST, TRACES_DATA};

use super::{
    EXAMPLE, decode, encode, example, prost_bytes, request, span, span_error, string, value, value_error,
    written,
};

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
        (r"\uDE00\uDE00", "\u{fffd}\u{fffd}"),
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
