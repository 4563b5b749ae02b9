//! What a server answers: `collector.trace.v1`'s response, and `google.rpc.Status` for failures.

use super::{Message, field};

pub static EXPORT_TRACE_RESPONSE: Message = Message::new(&[field!(
    1,
    "partialSuccess",
    Singular,
    Message(&TRACE_PARTIAL_SUCCESS)
)]);

pub static TRACE_PARTIAL_SUCCESS: Message = Message::new(&[
    field!(1, "rejectedSpans", Singular, Int64),
    field!(2, "errorMessage", Singular, String),
]);

/// `google.rpc.Status` without its details: an Any has a JSON form of its own, which `otlp::status` writes.
pub static STATUS: Message = Message::new(&[
    field!(1, "code", Singular, Int32),
    field!(2, "message", Singular, String),
]);
