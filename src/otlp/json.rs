//! OTLP/JSON: request bodies in, exported lines and reply bodies out.
//!
//! ```text
//!            reader ─ tokens ─→ decode ─ fields ─→ writer
//!  JSON                         │ schema │                 protobuf
//!            text ←─ values ── encode ←─ fields ─ wire
//! ```
//!
//! One transcoder serves both directions and every message: a static table per message (`schema`) says
//! how each field looks on either side, and a new signal is a new table. No object tree lies between:
//! what a client sends as JSON becomes the protobuf bytes that it could have sent, and from there on a
//! span's way is the same for both.
//!
//! The rules are those of OTLP's "JSON Protobuf Encoding" (opentelemetry-proto, `docs/specification.md`),
//! and of protobuf's own JSON mapping where OTLP is silent:
//!
//! | what | read | written |
//! |---|---|---|
//! | trace and span ids | hexadecimal of either case, any length | lower-case hexadecimal |
//! | enums | whole numbers; a name is an error | numbers |
//! | 64-bit integers | numbers or strings | strings |
//! | 32-bit integers | numbers or strings | numbers |
//! | doubles | numbers, strings, `"NaN"` `"Infinity"` `"-Infinity"` | shortest form that reads back equal |
//! | bytes | base64, either alphabet, padded or not | base64, standard alphabet, padded |
//! | keys | lowerCamelCase; any other key is unknown | lowerCamelCase |
//! | unknown fields | skipped, whatever their value | skipped: JSON has no place for them |
//! | `null` | an absent field, but an error as an element | never |
//! | strings | a lone surrogate escape becomes U+FFFD | a run that is not UTF-8 becomes U+FFFD |
//!
//! Lone surrogates are replaced, not refused: JavaScript cuts long strings between two surrogates, and a
//! batch should not be lost for half an emoji. Raw bytes that are not UTF-8 are no JSON and refused.

mod decode;
mod encode;
#[cfg(test)]
mod every_kind;
mod number;
mod reader;
pub mod schema;
pub(in crate::otlp) mod text;
pub(in crate::otlp) mod writer;

pub use decode::{Decoder, JsonError, decode};
pub use encode::{EncodeError, encode};
pub use schema::Message;
pub use schema::replies::{EXPORT_TRACE_RESPONSE, STATUS};
pub use schema::traces::{EXPORT_TRACE_REQUEST, TRACES_DATA};

/// Messages below the outermost one at most, as in prost: what one encoding accepts the other does too.
pub const DEPTH_MAX: usize = super::wire::DEPTH_MAX as usize;
