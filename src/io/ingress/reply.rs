//! What ingress answers: a response, or why there is none.
//!
//! [`otlp::status`](crate::otlp::status) writes both; their texts for people are bounded here: a response stays
//! far below what any client takes (OTLP S07), and `grpc-message` within the header lists that clients accept
//! (8 KiB, G15).

use std::time::Duration;

use super::{Code, Partial};
use crate::otlp::json::EXPORT_TRACE_RESPONSE;
use crate::otlp::status::{PartialSuccess, Status};

/// Bytes of a message for people; the rest is cut off.
const MESSAGE_MAX: usize = 1024;

/// Why a request failed, in every form that a transport needs.
///
/// Invariant: `message` has at most [`MESSAGE_MAX`] bytes.
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

    /// `google.rpc.Status` with its details.
    pub fn to_protobuf(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.status().push_protobuf(&mut bytes);
        bytes
    }

    /// The same, as JSON.
    pub fn to_json(&self) -> Vec<u8> {
        let mut text = Vec::new();
        self.status().push_json(&mut text);
        text
    }

    fn status(&self) -> Status<'_> {
        Status {
            code: self.code,
            message: &self.message,
            retry_delay: self.retry_after,
        }
    }
}

/// `ExportTraceServiceResponse`.
pub fn response_protobuf(partial: Option<&Partial>) -> Vec<u8> {
    let mut bytes = Vec::new();
    success(partial).push_protobuf(&mut bytes);
    bytes
}

/// The same, as JSON.
pub fn response_json(partial: Option<&Partial>) -> Vec<u8> {
    let mut text = Vec::new();
    success(partial).push_json(&EXPORT_TRACE_RESPONSE, &mut text);
    text
}

/// Full success has nothing to say.
fn success(partial: Option<&Partial>) -> PartialSuccess<'_> {
    let success = partial.map(|partial| PartialSuccess {
        rejected: partial.rejected_spans,
        message: clip(&partial.message),
    });
    debug_assert!(
        success != Some(PartialSuccess::default()),
        "S05: a partial success says how many or why"
    );
    success.unwrap_or_default()
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
    use serde_json::{Value, json};

    use super::*;

    const RETRY_INFO: &str = "type.googleapis.com/google.rpc.RetryInfo";
    const BAD_REQUEST: &str = "type.googleapis.com/google.rpc.BadRequest";

    #[derive(Clone, PartialEq, Message)]
    struct Any {
        #[prost(string, tag = "1")]
        type_url: String,
        #[prost(bytes = "vec", tag = "2")]
        value: Vec<u8>,
    }

    #[derive(Clone, PartialEq, Message)]
    struct RpcStatus {
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
        let status = RpcStatus::decode(&failure.to_protobuf()[..]).expect("protobuf");
        assert_eq!((status.code, status.message.as_str()), (14, "full"));
        assert_eq!(status.details[0].type_url, RETRY_INFO);
        assert_eq!(
            status.details[0].value,
            [10, 8, 8, 1, 16, 0x80, 0xca, 0xb5, 0xee, 1]
        );

        let invalid = RpcStatus::decode(&Failure::new(Code::InvalidArgument, "cut").to_protobuf()[..])
            .expect("protobuf");
        assert_eq!(invalid.details[0].type_url, BAD_REQUEST);
        assert_eq!(invalid.details[0].value, [10, 5, 18, 3, b'c', b'u', b't']);
    }

    #[test]
    fn g01_too_large_is_not_to_be_retried() {
        let failure = Failure::new(Code::ResourceExhausted, "too large");
        assert_eq!(
            RpcStatus::decode(&failure.to_protobuf()[..])
                .expect("protobuf")
                .details,
            []
        );
        assert_eq!(failure.to_json(), br#"{"code":8,"message":"too large"}"#);
    }
}
