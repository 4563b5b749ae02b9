//! `opentelemetry.proto.trace.v1` and the request of `collector.trace.v1`.

use super::common::{INSTRUMENTATION_SCOPE, KEY_VALUE, RESOURCE};
use super::{Message, field};

/// The body of an export request.
pub static EXPORT_TRACE_REQUEST: Message =
    Message::new(&[field!(1, "resourceSpans", Repeated, Message(&RESOURCE_SPANS))]);

/// A line of a file; the same bytes as the request.
pub static TRACES_DATA: Message =
    Message::new(&[field!(1, "resourceSpans", Repeated, Message(&RESOURCE_SPANS))]);

pub static RESOURCE_SPANS: Message = Message::new(&[
    field!(1, "resource", Singular, Message(&RESOURCE)),
    field!(2, "scopeSpans", Repeated, Message(&SCOPE_SPANS)),
    field!(3, "schemaUrl", Singular, String),
]);

pub static SCOPE_SPANS: Message = Message::new(&[
    field!(1, "scope", Singular, Message(&INSTRUMENTATION_SCOPE)),
    field!(2, "spans", Repeated, Message(&SPAN)),
    field!(3, "schemaUrl", Singular, String),
]);

pub static SPAN: Message = Message::new(&[
    field!(1, "traceId", Singular, Id),
    field!(2, "spanId", Singular, Id),
    field!(3, "traceState", Singular, String),
    field!(4, "parentSpanId", Singular, Id),
    field!(5, "name", Singular, String),
    field!(6, "kind", Singular, Enum),
    field!(7, "startTimeUnixNano", Singular, Fixed64),
    field!(8, "endTimeUnixNano", Singular, Fixed64),
    field!(9, "attributes", Repeated, Message(&KEY_VALUE)),
    field!(10, "droppedAttributesCount", Singular, Uint32),
    field!(11, "events", Repeated, Message(&EVENT)),
    field!(12, "droppedEventsCount", Singular, Uint32),
    field!(13, "links", Repeated, Message(&LINK)),
    field!(14, "droppedLinksCount", Singular, Uint32),
    field!(15, "status", Singular, Message(&SPAN_STATUS)),
    field!(16, "flags", Singular, Fixed32),
]);

pub static EVENT: Message = Message::new(&[
    field!(1, "timeUnixNano", Singular, Fixed64),
    field!(2, "name", Singular, String),
    field!(3, "attributes", Repeated, Message(&KEY_VALUE)),
    field!(4, "droppedAttributesCount", Singular, Uint32),
]);

pub static LINK: Message = Message::new(&[
    field!(1, "traceId", Singular, Id),
    field!(2, "spanId", Singular, Id),
    field!(3, "traceState", Singular, String),
    field!(4, "attributes", Repeated, Message(&KEY_VALUE)),
    field!(5, "droppedAttributesCount", Singular, Uint32),
    field!(6, "flags", Singular, Fixed32),
]);

pub static SPAN_STATUS: Message = Message::new(&[
    field!(2, "message", Singular, String),
    field!(3, "code", Singular, Enum),
]);
