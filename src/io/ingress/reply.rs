//! What ingress answers: `ExportTraceServiceResponse`, `google.rpc.Status` and the details inside it, in
//! protobuf and in JSON.
//!
//! Written by hand because they are a handful of fields, and because the diagnostics of a reply are
//! bounded here: a response stays far below what any client takes (OTLP S07), and `grpc-message` within
//! the header lists that clients accept (8 KiB, G15).

use std::fmt::Write;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Code, Partial};

/// Bytes of a message for people; the rest is cut off.
const MESSAGE_MAX: usize = 1024;

/// Why a request failed, in every form that a transport needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub code: Code,
    pub message: String,
    /// Only what may succeed later has one; its presence makes clients retry (OTLP G01, G04).
    pub retry_after: Option<Duration>,
}

impl Failure {
    pub fn new(code: Code, message: impl Into<String>) -> Failure {
        Failure {
            code,
            message: cut(message.into()),
            retry_after: None,
        }
    }

    /// UNAVAILABLE, with the time after which to try again.
    pub fn retry(retry_after: Duration, message: impl Into<String>) -> Failure {
        Failure {
            code: Code::Unavailable,
            message: cut(message.into()),
            retry_after: Some(retry_after),
        }
    }

    /// `google.rpc.Status`: `{ code = 1, message = 2, details = 3 }`.
    pub fn to_protobuf(&self) -> Vec<u8> {
        let mut status = Vec::new();
        put_varint_field(&mut status, 1, self.code as u64);
        put_bytes_field(&mut status, 2, self.message.as_bytes());
        if let Some(retry_after) = self.retry_after {
            // RetryInfo { retry_delay = 1: Duration { seconds = 1, nanos = 2 } }
            let mut delay = Vec::new();
            put_varint_field(&mut delay, 1, retry_after.as_secs());
            put_varint_field(&mut delay, 2, u64::from(retry_after.subsec_nanos()));
            let mut info = Vec::new();
            put_bytes_field(&mut info, 1, &delay);
            put_detail(&mut status, RETRY_INFO, &info);
        }
        if self.code == Code::InvalidArgument {
            // BadRequest { field_violations = 1: { field = 1, description = 2 } }
            let mut violation = Vec::new();
            put_bytes_field(&mut violation, 2, self.message.as_bytes());
            let mut bad_request = Vec::new();
            put_bytes_field(&mut bad_request, 1, &violation);
            put_detail(&mut status, BAD_REQUEST, &bad_request);
        }
        status
    }

    /// The same, as JSON.
    pub fn to_json(&self) -> Vec<u8> {
        let mut details: Vec<Value> = Vec::new();
        if let Some(retry_after) = self.retry_after {
            let delay = format!("{}s", retry_after.as_secs_f64());
            details.push(json!({ "@type": RETRY_INFO, "retryDelay": delay }));
        }
        if self.code == Code::InvalidArgument {
            details
                .push(json!({ "@type": BAD_REQUEST, "fieldViolations": [{ "description": self.message }] }));
        }
        let mut status = json!({ "code": self.code as u8, "message": self.message });
        if !details.is_empty() {
            status["details"] = Value::Array(details);
        }
        status.to_string().into_bytes()
    }
}

const RETRY_INFO: &str = "type.googleapis.com/google.rpc.RetryInfo";
const BAD_REQUEST: &str = "type.googleapis.com/google.rpc.BadRequest";

/// `ExportTraceServiceResponse { partial_success = 1: { rejected_spans = 1, error_message = 2 } }`.
///
/// Full success is the empty message: `partial_success` must stay unset (OTLP S03).
pub fn response_protobuf(partial: Option<&Partial>) -> Vec<u8> {
    let mut response = Vec::new();
    if let Some(partial) = partial {
        let mut success = Vec::new();
        put_varint_field(&mut success, 1, partial.rejected_spans);
        put_bytes_field(&mut success, 2, clip(&partial.message).as_bytes());
        put_bytes_field(&mut response, 1, &success);
        debug_assert!(!success.is_empty(), "S05: a partial success says how many or why");
    }
    response
}

/// The same, as JSON: 64-bit integers are strings.
pub fn response_json(partial: Option<&Partial>) -> Vec<u8> {
    let Some(partial) = partial else {
        return b"{}".to_vec();
    };
    let mut success = json!({});
    if partial.rejected_spans > 0 {
        success["rejectedSpans"] = Value::String(partial.rejected_spans.to_string());
    }
    if !partial.message.is_empty() {
        success["errorMessage"] = Value::String(clip(&partial.message).to_owned());
    }
    json!({ "partialSuccess": success }).to_string().into_bytes()
}

/// `grpc-message`: printable ASCII as it is, all else as `%XX` of its UTF-8 (OTLP G10).
pub fn percent_encode(message: &str) -> String {
    let mut encoded = String::with_capacity(message.len());
    for byte in message.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => encoded.push(byte as char),
            _ => write!(encoded, "%{byte:02X}").expect("a String takes all"),
        }
    }
    encoded
}

/// Base64 without padding: how gRPC sends binary headers.
pub fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = group
            .iter()
            .enumerate()
            .fold(0, |bits, (at, byte)| bits | u32::from(*byte) << (16 - 8 * at));
        for digit in 0..=group.len() {
            text.push(DIGITS[(bits >> (18 - 6 * digit)) as usize & 63] as char);
        }
    }
    text
}

/// Zero, the default of proto3, is not written.
fn put_varint_field(out: &mut Vec<u8>, field: u8, value: u64) {
    if value != 0 {
        out.push(field << 3);
        put_varint(out, value);
    }
}

/// Empty bytes are written too: for a message that means «present».
fn put_bytes_field(out: &mut Vec<u8>, field: u8, value: &[u8]) {
    out.push(field << 3 | 2);
    put_varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// `Any { type_url = 1, value = 2 }` as a detail of a status.
fn put_detail(status: &mut Vec<u8>, type_url: &str, value: &[u8]) {
    let mut any = Vec::new();
    put_bytes_field(&mut any, 1, type_url.as_bytes());
    put_bytes_field(&mut any, 2, value);
    put_bytes_field(status, 3, &any);
}

fn clip(message: &str) -> &str {
    &message[..message.floor_char_boundary(MESSAGE_MAX)]
}

fn cut(mut message: String) -> String {
    message.truncate(clip(&message).len());
    message
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::trace::v1::{
        ExportTracePartialSuccess, ExportTraceServiceResponse,
    };
    use prost::Message;

    use super::*;

    #[derive(Clone, PartialEq, Message)]
    struct Any {
        #[prost(string, tag = "1")]
        type_url: String,
        #[prost(bytes = "vec", tag = "2")]
        value: Vec<u8>,
    }

    #[derive(Clone, PartialEq, Message)]
    struct Status {
        #[prost(int32, tag = "1")]
        code: i32,
        #[prost(string, tag = "2")]
        message: String,
        #[prost(message, repeated, tag = "3")]
        details: Vec<Any>,
    }

    #[test]
    fn s03_full_success_is_the_empty_message() {
        let decoded = ExportTraceServiceResponse::decode(&response_protobuf(None)[..]).expect("protobuf");
        assert_eq!(decoded.partial_success, None);
        assert_eq!(response_json(None), b"{}");
    }

    #[test]
    fn s04_partial_success_says_how_many_and_why() {
        let partial = Partial {
            rejected_spans: 300,
            message: "span id is zero".into(),
        };
        let decoded =
            ExportTraceServiceResponse::decode(&response_protobuf(Some(&partial))[..]).expect("protobuf");
        let expected = ExportTracePartialSuccess {
            rejected_spans: 300,
            error_message: "span id is zero".into(),
        };
        assert_eq!(decoded.partial_success, Some(expected));
        let json: Value = serde_json::from_slice(&response_json(Some(&partial))).expect("JSON");
        let expected =
            json!({ "partialSuccess": { "rejectedSpans": "300", "errorMessage": "span id is zero" } });
        assert_eq!(json, expected);
    }

    #[test]
    fn s05_a_warning_rejects_nothing() {
        let partial = Partial {
            rejected_spans: 0,
            message: "old field names".into(),
        };
        let decoded =
            ExportTraceServiceResponse::decode(&response_protobuf(Some(&partial))[..]).expect("protobuf");
        let expected = ExportTracePartialSuccess {
            rejected_spans: 0,
            error_message: "old field names".into(),
        };
        assert_eq!(decoded.partial_success, Some(expected));
    }

    #[test]
    fn s07_diagnostics_are_cut_at_a_character() {
        let partial = Partial {
            rejected_spans: 1,
            message: "ä".repeat(5000),
        };
        assert!(response_protobuf(Some(&partial)).len() < MESSAGE_MAX + 32);
        assert_eq!(
            Failure::new(Code::Internal, "ä".repeat(5000)).message.len(),
            MESSAGE_MAX
        );
        assert_eq!(
            Failure::new(Code::Internal, format!("x{}", "ä".repeat(5000)))
                .message
                .len(),
            MESSAGE_MAX - 1
        );
    }

    #[test]
    fn a_status_decodes_with_its_details() {
        let failure = Failure::retry(Duration::from_millis(1500), "full");
        let status = Status::decode(&failure.to_protobuf()[..]).expect("protobuf");
        assert_eq!((status.code, status.message.as_str()), (14, "full"));
        assert_eq!(status.details[0].type_url, RETRY_INFO);
        assert_eq!(
            status.details[0].value,
            [10, 8, 8, 1, 16, 0x80, 0xca, 0xb5, 0xee, 1]
        );

        let invalid =
            Status::decode(&Failure::new(Code::InvalidArgument, "cut").to_protobuf()[..]).expect("protobuf");
        assert_eq!(invalid.details[0].type_url, BAD_REQUEST);
        assert_eq!(invalid.details[0].value, [10, 5, 18, 3, b'c', b'u', b't']);
    }

    #[test]
    fn g01_too_large_is_not_to_be_retried() {
        let failure = Failure::new(Code::ResourceExhausted, "too large");
        assert_eq!(
            Status::decode(&failure.to_protobuf()[..])
                .expect("protobuf")
                .details,
            []
        );
        assert_eq!(failure.to_json(), br#"{"code":8,"message":"too large"}"#);
    }

    #[test]
    fn g10_messages_are_percent_encoded() {
        assert_eq!(percent_encode("100 % of \"ä\"\n"), "100 %25 of \"%C3%A4\"%0A");
    }

    #[test]
    fn base64_is_not_padded() {
        let cases = [
            ("", ""),
            ("f", "Zg"),
            ("fo", "Zm8"),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
        ];
        for (bytes, text) in cases {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }
}
