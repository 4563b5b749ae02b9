//! `opentelemetry.proto.common.v1` and `resource.v1`.

use super::{Message, field};

pub static RESOURCE: Message = Message::new(&[
    field!(1, "attributes", Repeated, Message(&KEY_VALUE)),
    field!(2, "droppedAttributesCount", Singular, Uint32),
    field!(3, "entityRefs", Repeated, Message(&ENTITY_REF)),
]);

pub static INSTRUMENTATION_SCOPE: Message = Message::new(&[
    field!(1, "name", Singular, String),
    field!(2, "version", Singular, String),
    field!(3, "attributes", Repeated, Message(&KEY_VALUE)),
    field!(4, "droppedAttributesCount", Singular, Uint32),
]);

/// The `Strindex` fields mean something to profiles only, yet what came in is what goes out (P05).
pub static KEY_VALUE: Message = Message::new(&[
    field!(1, "key", Singular, String),
    field!(2, "value", Singular, Message(&ANY_VALUE)),
    field!(3, "keyStrindex", Singular, Int32),
]);

pub static ANY_VALUE: Message = Message::new(&[
    field!(1, "stringValue", Oneof, String),
    field!(2, "boolValue", Oneof, Bool),
    field!(3, "intValue", Oneof, Int64),
    field!(4, "doubleValue", Oneof, Double),
    field!(5, "arrayValue", Oneof, Message(&ARRAY_VALUE)),
    field!(6, "kvlistValue", Oneof, Message(&KEY_VALUE_LIST)),
    field!(7, "bytesValue", Oneof, Bytes),
    field!(8, "stringValueStrindex", Oneof, Int32),
]);

pub static ARRAY_VALUE: Message = Message::new(&[field!(1, "values", Repeated, Message(&ANY_VALUE))]);

pub static KEY_VALUE_LIST: Message = Message::new(&[field!(1, "values", Repeated, Message(&KEY_VALUE))]);

pub static ENTITY_REF: Message = Message::new(&[
    field!(1, "schemaUrl", Singular, String),
    field!(2, "type", Singular, String),
    field!(3, "idKeys", Repeated, String),
    field!(4, "descriptionKeys", Repeated, String),
]);
