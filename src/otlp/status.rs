//! The bodies of replies: an export response, or a `google.rpc.Status` saying why there is none.
//!
//! ```text
//!  Export…ServiceResponse    1 partial_success ─→ 1 rejected_…   2 error_message
//!  google.rpc.Status         1 code   2 message   3 details ─→ Any  1 type_url   2 value
//!                                                               └─→ RetryInfo  1 retry_delay
//!                                                                    └─→ Duration  1 seconds   2 nanos
//! ```
//!
//! Protobuf first: gRPC and OTLP/HTTP send it as it is, and JSON is transcoded from it. The three signals'
//! responses have the same bytes and differ in JSON by a key, so the table is the caller's.

use std::time::Duration;

use super::json::schema::{Message, WireType};
use super::json::writer::Writer;
use super::json::{self, STATUS};

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
    /// "Failures"). JSON does not carry it: over HTTP it is the header `Retry-After`.
    pub retry_delay: Option<Duration>,
}

impl Status<'_> {
    /// Appends the message that is an HTTP error's body, or gRPC's `grpc-status-details-bin` before base64.
    pub fn push_protobuf(&self, out: &mut Vec<u8>) {
        let mut writer = Writer::new(out);
        push_unless_zero(&mut writer, 1, self.code as u64);
        push_unless_empty(&mut writer, 2, self.message.as_bytes());
        if let Some(delay) = self.retry_delay {
            let any = writer.open(3);
            writer.bytes(1, RETRY_INFO_TYPE.as_bytes());
            let retry_info = writer.open(2);
            let duration = writer.open(1);
            let seconds = delay.as_secs().min(DURATION_SECONDS_MAX);
            push_unless_zero(&mut writer, 1, seconds);
            push_unless_zero(&mut writer, 2, u64::from(delay.subsec_nanos()));
            writer.close(duration);
            writer.close(retry_info);
            writer.close(any);
        }
        writer.settle();
    }

    /// Appends the JSON body of an HTTP error.
    pub fn push_json(&self, out: &mut Vec<u8>) {
        let mut bytes = Vec::new();
        self.push_protobuf(&mut bytes);
        json::encode(&STATUS, &bytes, out).expect("the lines above write valid framing");
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

const RETRY_INFO_TYPE: &str = "type.googleapis.com/google.rpc.RetryInfo";
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

    fn check_status(status: Status, retry_delay: Option<google::Duration>, json: &str) {
        let (mut bytes, mut text) = (Vec::new(), Vec::new());
        status.push_protobuf(&mut bytes);
        status.push_json(&mut text);
        let retry_info = retry_delay.map(|delay| google::RetryInfo {
            retry_delay: Some(delay),
        });
        let details = retry_info.iter().map(|info| google::Any {
            type_url: "type.googleapis.com/google.rpc.RetryInfo".to_owned(),
            value: info.encode_to_vec(),
        });
        let expected = google::Status {
            code: status.code as i32,
            message: status.message.to_owned(),
            details: details.collect(),
        };
        assert_eq!(bytes, expected.encode_to_vec());
        assert_eq!(std::str::from_utf8(&text), Ok(json));
    }

    /// G04
    #[test]
    fn overload_says_when_to_come_again() {
        let busy = |delay| Status {
            code: Code::Unavailable,
            message: "busy",
            retry_delay: Some(delay),
        };
        let json = r#"{"code":14,"message":"busy"}"#;
        let half = google::Duration {
            seconds: 1,
            nanos: 500_000_000,
        };
        check_status(busy(Duration::from_millis(1500)), Some(half), json);
        check_status(busy(Duration::ZERO), Some(google::Duration::default()), json);
        let most = google::Duration {
            seconds: 315_576_000_000,
            nanos: 999_999_999,
        };
        check_status(busy(Duration::MAX), Some(most), json);
    }

    /// G01: without RetryInfo it is permanent. H06: the same message is HTTP's body.
    #[test]
    fn permanent_failure_has_no_details() {
        let status = Status {
            code: Code::ResourceExhausted,
            message: "a \"big\" body",
            retry_delay: None,
        };
        check_status(status, None, r#"{"code":8,"message":"a \"big\" body"}"#);
        let long = "x".repeat(20_000);
        let json = format!("{{\"code\":3,\"message\":\"{long}\"}}");
        check_status(
            Status {
                code: Code::InvalidArgument,
                message: &long,
                retry_delay: None,
            },
            None,
            &json,
        );
    }
}
