//! The bodies of replies: an export response, or a `google.rpc.Status` saying why there is none.
//!
//! ```text
//!  Export…ServiceResponse    1 partial_success ─→ 1 rejected_…   2 error_message
//!  google.rpc.Status         1 code   2 message   3 details ─→ Any  1 type_url   2 value
//!                                                               ├─→ RetryInfo  1 retry_delay
//!                                                               │    └─→ Duration  1 seconds   2 nanos
//!                                                               └─→ BadRequest  1 field_violations
//!                                                                    └─→ FieldViolation  2 description
//! ```
//!
//! Protobuf first: gRPC and OTLP/HTTP send it as it is, and JSON is transcoded from it, except for a status's
//! details: an Any has a JSON form of its own. The three signals' responses have the same bytes and differ in
//! JSON by a key, so the table is the caller's.

use std::io::Write as _;
use std::time::Duration;

use super::json::schema::Message;
use super::json::text::push_string;
use super::json::writer::Writer;
use super::json::{self, STATUS};
use super::wire::WireType;

/// What was not accepted of a request that was (OTLP, "Partial Success").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct PartialSuccess<'a> {
    /// Spans, log records or data points.
    pub rejected: u64,
    /// In English, for people. With nothing rejected it is a warning.
    pub message: &'a str,
}

impl PartialSuccess<'_> {
    /// Appends the export response. With nothing to say it is empty: a full success leaves
    /// `partial_success` unset.
    pub fn push_protobuf(&self, out: &mut Vec<u8>) {
        if *self == PartialSuccess::default() {
            return;
        }
        let mut writer = Writer::new(out);
        let partial_success = writer.open(1);
        push_unless_zero(
            &mut writer,
            1,
            i64::try_from(self.rejected).unwrap_or(i64::MAX) as u64,
        );
        push_unless_empty(&mut writer, 2, self.message.as_bytes());
        writer.close(partial_success);
        writer.settle();
    }

    /// Appends the export response in JSON; `response` is the signal's table.
    pub fn push_json(&self, response: &'static Message, out: &mut Vec<u8>) {
        let mut bytes = Vec::new();
        self.push_protobuf(&mut bytes);
        json::encode(response, &bytes, out).expect("the lines above write valid framing");
    }
}

/// Why a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status<'a> {
    pub code: Code,
    /// In English, for people.
    pub message: &'a str,
    /// When to come again. RESOURCE_EXHAUSTED is retryable with it and permanent without (OTLP/gRPC,
    /// "Failures").
    pub retry_delay: Option<Duration>,
}

impl Status<'_> {
    /// Appends the message that is an HTTP error's body, or gRPC's `grpc-status-details-bin` before base64.
    pub fn push_protobuf(&self, out: &mut Vec<u8>) {
        let mut writer = Writer::new(out);
        push_unless_zero(&mut writer, 1, self.code as u64);
        push_unless_empty(&mut writer, 2, self.message.as_bytes());
        if let Some((seconds, nanos)) = self.retry_seconds() {
            push_detail(&mut writer, RETRY_INFO_TYPE, |writer| {
                let duration = writer.open(1);
                push_unless_zero(writer, 1, seconds);
                push_unless_zero(writer, 2, u64::from(nanos));
                writer.close(duration);
            });
        }
        if self.is_bad_request() {
            push_detail(&mut writer, BAD_REQUEST_TYPE, |writer| {
                let violation = writer.open(1);
                push_unless_empty(writer, 2, self.message.as_bytes());
                writer.close(violation);
            });
        }
        writer.settle();
    }

    /// Appends the JSON body of an HTTP error.
    pub fn push_json(&self, out: &mut Vec<u8>) {
        let mut bytes = Vec::new();
        self.push_protobuf(&mut bytes);
        json::encode(&STATUS, &bytes, out).expect("the lines above write valid framing");
        if self.retry_delay.is_none() && !self.is_bad_request() {
            return;
        }
        // The brace comes back behind the details.
        out.pop();
        if !out.ends_with(b"{") {
            out.push(b',');
        }
        out.extend_from_slice(b"\"details\":[");
        if let Some((seconds, nanos)) = self.retry_seconds() {
            let digits = format!("{seconds}.{nanos:09}");
            let delay = digits.trim_end_matches('0').trim_end_matches('.');
            write!(out, r#"{{"@type":"{RETRY_INFO_TYPE}","retryDelay":"{delay}s"}}"#)
                .expect("a Vec takes all bytes");
        }
        if self.is_bad_request() {
            if !out.ends_with(b"[") {
                out.push(b',');
            }
            write!(
                out,
                r#"{{"@type":"{BAD_REQUEST_TYPE}","fieldViolations":[{{"description":"#
            )
            .expect("a Vec takes all bytes");
            push_string(out, self.message.as_bytes());
            out.extend_from_slice(b"}]}");
        }
        out.extend_from_slice(b"]}");
    }

    /// Bad data is to be answered with a BadRequest (OTLP, "Failures").
    fn is_bad_request(&self) -> bool {
        self.code == Code::InvalidArgument
    }

    /// `retry_delay` within the bounds of `google.protobuf.Duration`.
    fn retry_seconds(&self) -> Option<(u64, u32)> {
        let delay = self.retry_delay?;
        Some((delay.as_secs().min(DURATION_SECONDS_MAX), delay.subsec_nanos()))
    }
}

/// `google.rpc.Code`, which is also the value of gRPC's `grpc-status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Code {
    Ok = 0,
    Cancelled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
    Unauthenticated = 16,
}

impl Code {
    pub const ALL: [Code; 17] = [
        Code::Ok,
        Code::Cancelled,
        Code::Unknown,
        Code::InvalidArgument,
        Code::DeadlineExceeded,
        Code::NotFound,
        Code::AlreadyExists,
        Code::PermissionDenied,
        Code::ResourceExhausted,
        Code::FailedPrecondition,
        Code::Aborted,
        Code::OutOfRange,
        Code::Unimplemented,
        Code::Internal,
        Code::Unavailable,
        Code::DataLoss,
        Code::Unauthenticated,
    ];

    pub fn from_number(number: u64) -> Option<Code> {
        Code::ALL.get(usize::try_from(number).ok()?).copied()
    }

    /// The word of gRPC's specification.
    pub fn name(self) -> &'static str {
        match self {
            Code::Ok => "OK",
            Code::Cancelled => "CANCELLED",
            Code::Unknown => "UNKNOWN",
            Code::InvalidArgument => "INVALID_ARGUMENT",
            Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Code::NotFound => "NOT_FOUND",
            Code::AlreadyExists => "ALREADY_EXISTS",
            Code::PermissionDenied => "PERMISSION_DENIED",
            Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
            Code::FailedPrecondition => "FAILED_PRECONDITION",
            Code::Aborted => "ABORTED",
            Code::OutOfRange => "OUT_OF_RANGE",
            Code::Unimplemented => "UNIMPLEMENTED",
            Code::Internal => "INTERNAL",
            Code::Unavailable => "UNAVAILABLE",
            Code::DataLoss => "DATA_LOSS",
            Code::Unauthenticated => "UNAUTHENTICATED",
        }
    }
}

const RETRY_INFO_TYPE: &str = "type.googleapis.com/google.rpc.RetryInfo";
const BAD_REQUEST_TYPE: &str = "type.googleapis.com/google.rpc.BadRequest";
/// Ten thousand years: the bound of `google.protobuf.Duration`.
const DURATION_SECONDS_MAX: u64 = 315_576_000_000;

fn push_unless_zero(writer: &mut Writer, number: u8, value: u64) {
    if value != 0 {
        writer.scalar(number, WireType::Varint, value);
    }
}

fn push_unless_empty(writer: &mut Writer, number: u8, bytes: &[u8]) {
    if !bytes.is_empty() {
        writer.bytes(number, bytes);
    }
}

fn push_detail(writer: &mut Writer, type_url: &str, push: impl FnOnce(&mut Writer)) {
    let any = writer.open(3);
    writer.bytes(1, type_url.as_bytes());
    let value = writer.open(2);
    push(writer);
    writer.close(value);
    writer.close(any);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::otlp::json::EXPORT_TRACE_RESPONSE;
    use opentelemetry_proto::tonic::collector::trace::v1::{
        ExportTracePartialSuccess, ExportTraceServiceResponse,
    };
    use prost::Message as _;

    /// The messages of `google.rpc` and `google.protobuf`, in prost's words.
    mod google {
        #[derive(Clone, PartialEq, prost::Message)]
        pub struct Status {
            #[prost(int32, tag = "1")]
            pub code: i32,
            #[prost(string, tag = "2")]
            pub message: String,
            #[prost(message, repeated, tag = "3")]
            pub details: Vec<Any>,
        }

        #[derive(Clone, PartialEq, prost::Message)]
        pub struct Any {
            #[prost(string, tag = "1")]
            pub type_url: String,
            #[prost(bytes = "vec", tag = "2")]
            pub value: Vec<u8>,
        }

        #[derive(Clone, PartialEq, prost::Message)]
        pub struct RetryInfo {
            #[prost(message, optional, tag = "1")]
            pub retry_delay: Option<Duration>,
        }

        #[derive(Clone, PartialEq, prost::Message)]
        pub struct BadRequest {
            #[prost(message, repeated, tag = "1")]
            pub field_violations: Vec<FieldViolation>,
        }

        #[derive(Clone, PartialEq, prost::Message)]
        pub struct FieldViolation {
            #[prost(string, tag = "1")]
            pub field: String,
            #[prost(string, tag = "2")]
            pub description: String,
        }

        #[derive(Clone, PartialEq, prost::Message)]
        pub struct Duration {
            #[prost(int64, tag = "1")]
            pub seconds: i64,
            #[prost(int32, tag = "2")]
            pub nanos: i32,
        }
    }

    fn check_response(partial: PartialSuccess, expected: Option<ExportTracePartialSuccess>, json: &str) {
        let (mut bytes, mut text) = (Vec::new(), Vec::new());
        partial.push_protobuf(&mut bytes);
        partial.push_json(&EXPORT_TRACE_RESPONSE, &mut text);
        assert_eq!(
            bytes,
            ExportTraceServiceResponse {
                partial_success: expected
            }
            .encode_to_vec()
        );
        assert_eq!(std::str::from_utf8(&text), Ok(json));
    }

    /// S03, P07
    #[test]
    fn full_success_is_an_empty_response() {
        check_response(PartialSuccess::default(), None, "{}");
    }

    /// S04
    #[test]
    fn partial_success_counts_what_was_rejected() {
        let error_message = "no trace id".to_owned();
        check_response(
            PartialSuccess {
                rejected: 3,
                message: "no trace id",
            },
            Some(ExportTracePartialSuccess {
                rejected_spans: 3,
                error_message,
            }),
            r#"{"partialSuccess":{"rejectedSpans":"3","errorMessage":"no trace id"}}"#,
        );
    }

    /// S05
    #[test]
    fn a_warning_rejects_nothing_and_has_words() {
        let error_message = "key_strindex".to_owned();
        check_response(
            PartialSuccess {
                rejected: 0,
                message: "key_strindex",
            },
            Some(ExportTracePartialSuccess {
                rejected_spans: 0,
                error_message,
            }),
            r#"{"partialSuccess":{"errorMessage":"key_strindex"}}"#,
        );
    }

    fn check_status(status: Status, details: Vec<google::Any>, json: &str) {
        let (mut bytes, mut text) = (Vec::new(), Vec::new());
        status.push_protobuf(&mut bytes);
        status.push_json(&mut text);
        let expected = google::Status {
            code: status.code as i32,
            message: status.message.to_owned(),
            details,
        };
        assert_eq!(bytes, expected.encode_to_vec());
        assert_eq!(std::str::from_utf8(&text), Ok(json));
    }

    fn retry_info(delay: google::Duration) -> google::Any {
        let retry_info = google::RetryInfo {
            retry_delay: Some(delay),
        };
        google::Any {
            type_url: "type.googleapis.com/google.rpc.RetryInfo".to_owned(),
            value: retry_info.encode_to_vec(),
        }
    }

    fn bad_request(description: &str) -> google::Any {
        let violation = google::FieldViolation {
            description: description.to_owned(),
            ..Default::default()
        };
        let bad_request = google::BadRequest {
            field_violations: vec![violation],
        };
        google::Any {
            type_url: "type.googleapis.com/google.rpc.BadRequest".to_owned(),
            value: bad_request.encode_to_vec(),
        }
    }

    /// G04
    #[test]
    fn overload_says_when_to_come_again() {
        let check = |delay, (seconds, nanos), text| {
            let status = Status {
                code: Code::Unavailable,
                message: "busy",
                retry_delay: Some(delay),
            };
            let json = format!(
                r#"{{"code":14,"message":"busy","details":[{{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"{text}"}}]}}"#
            );
            check_status(
                status,
                vec![retry_info(google::Duration { seconds, nanos })],
                &json,
            );
        };
        check(Duration::from_millis(1500), (1, 500_000_000), "1.5s");
        check(Duration::ZERO, (0, 0), "0s");
        check(Duration::from_secs(10), (10, 0), "10s");
        check(Duration::from_nanos(20), (0, 20), "0.00000002s");
        check(
            Duration::MAX,
            (315_576_000_000, 999_999_999),
            "315576000000.999999999s",
        );
    }

    /// G01: without RetryInfo it is permanent. H06: the same message is HTTP's body.
    #[test]
    fn permanent_failure_has_no_details() {
        let status = |code, message| Status {
            code,
            message,
            retry_delay: None,
        };
        check_status(
            status(Code::ResourceExhausted, "a \"big\" body"),
            vec![],
            r#"{"code":8,"message":"a \"big\" body"}"#,
        );
        let long = "x".repeat(20_000);
        let json = format!("{{\"code\":13,\"message\":\"{long}\"}}");
        check_status(status(Code::Internal, &long), vec![], &json);
    }

    /// G03, H07
    #[test]
    fn bad_data_is_described_by_a_bad_request() {
        for message in ["a \"cut\" body", "", &"x".repeat(20_000)] {
            let status = Status {
                code: Code::InvalidArgument,
                message,
                retry_delay: None,
            };
            let quoted = serde_json::to_string(message).expect("a string");
            let told = if message.is_empty() {
                String::new()
            } else {
                format!(",\"message\":{quoted}")
            };
            let json = format!(
                r#"{{"code":3{told},"details":[{{"@type":"type.googleapis.com/google.rpc.BadRequest","fieldViolations":[{{"description":{quoted}}}]}}]}}"#
            );
            check_status(status, vec![bad_request(message)], &json);
        }
    }

    #[test]
    fn details_stand_beside_each_other_and_alone() {
        let json = |code| {
            let mut text = Vec::new();
            let status = Status {
                code,
                message: "",
                retry_delay: Some(Duration::from_secs(1)),
            };
            status.push_json(&mut text);
            serde_json::from_slice::<serde_json::Value>(&text).expect("JSON")
        };
        let details = |code| json(code)["details"].as_array().map(Vec::len);
        assert_eq!(details(Code::InvalidArgument), Some(2));
        assert_eq!(details(Code::Ok), Some(1));
    }
}
