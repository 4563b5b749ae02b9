//! Bodies and bytes that nobody honest sends: an error each time, never a panic.

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use proptest::prelude::*;
use prost::Message as _;
use tailkeep::otlp::json::{self, EXPORT_TRACE_REQUEST, EncodeError, Message, STATUS, TRACES_DATA};

use super::{EXAMPLE, decode, example, prost_bytes, span, span_body, span_error, value, value_error};

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
fn truncated_bytes_are_an_error() {
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

/// AnyValue in ArrayValue in AnyValue …: two messages a level, and with a KeyValue around it one more.
#[test]
fn both_directions_nest_as_deep_as_prost() {
    use json::schema::common::{ANY_VALUE, KEY_VALUE};
    for depth in 45..55 {
        let (text, bytes) = (nested_json(depth), nested_bytes(depth));
        check_depth(&ANY_VALUE, &text, &bytes, AnyValue::decode(&*bytes).is_ok());
        let (text, bytes) = (format!("{{\"value\":{text}}}"), prost_bytes(2, &bytes));
        check_depth(&KEY_VALUE, &text, &bytes, KeyValue::decode(&*bytes).is_ok());
    }
}

fn check_depth(message: &'static Message, text: &str, bytes: &[u8], oracle: bool) {
    let encoded = json::encode(message, bytes, &mut Vec::new());
    assert_eq!(encoded, if oracle { Ok(()) } else { Err(EncodeError::Depth) });
    let decoded = decode(message, text).map_err(|error| error.expected);
    assert_eq!(
        decoded,
        if oracle {
            Ok(bytes.to_vec())
        } else {
            Err("at most 100 messages inside each other")
        }
    );
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

proptest! {
    /// `()` is prost's message without fields. Status has scalars only, so framing is all that can fail.
    #[test]
    fn framing_is_accepted_where_prost_accepts_it(parts in proptest::collection::vec(part(), 0..6)) {
        let bytes = parts.concat();
        let result = json::encode(&STATUS, &bytes, &mut Vec::new());
        prop_assert_eq!(result.is_ok(), <()>::decode(&*bytes).is_ok());
    }
}

/// Pieces that make a message together, or nearly.
fn part() -> impl Strategy<Value = Vec<u8>> {
    let varint = any::<u64>().prop_map(|value| {
        let mut out = Vec::new();
        prost::encoding::encode_varint(value, &mut out);
        out
    });
    prop_oneof![
        varint.prop_map(|value| [&[0x08], &*value].concat()),
        (8u8..=127).prop_map(|tag| vec![tag]),
        Just(b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01".to_vec()),
        Just(b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02".to_vec()),
        Just(b"\x08\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x00".to_vec()),
        Just(b"\xf8\xff\xff\xff\x0f\x00".to_vec()),
        Just(b"\xf8\xff\xff\xff\x1f\x00".to_vec()),
        Just(b"\x12\x02ab".to_vec()),
        Just(b"\x0b\x10\x01\x0c".to_vec()),
        Just(b"\x0b\x13\x14\x0c".to_vec()),
        Just(b"\x0b\x14".to_vec()),
        Just(vec![0]),
        proptest::collection::vec(any::<u8>(), 1..4),
    ]
}
