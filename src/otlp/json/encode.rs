//! Protobuf → JSON.
//!
//! What encoders write is nearly always in order: fields by rising number, a list's elements side by side.
//! One look at the tags tells ([`is_in_order`]), and such a message is written as it is read. For the others
//! (an annotated span carries its new tracestate at its end) the places of the fields are collected first,
//! so that a list becomes one array, a message that came in parts is put together, and of a scalar that came
//! twice the last counts: protobuf's own rules.
//!
//! A field whose wire type is not the schema's is skipped like an unknown one, as protobuf libraries do.

use super::DEPTH_MAX;
use super::schema::common::KEY_VALUE;
use super::schema::{FIELD_COUNT_MAX, Field, Kind, Label, Message};
use super::text::{push_base64, push_hex, push_string};
use crate::otlp::value::plain_key_value;
use crate::otlp::view::AnyValueView;
use crate::otlp::wire::{FramingError, Reader, Value, WireType};

/// The bytes are not what the cut lets through: a broken invariant of ours or a damaged log. The output is
/// as it was before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    #[error("the bytes are no protobuf message")]
    Framing,
    #[error("more than {DEPTH_MAX} messages inside each other")]
    Depth,
}

impl From<FramingError> for EncodeError {
    fn from(_: FramingError) -> EncodeError {
        EncodeError::Framing
    }
}

/// Appends `message`, of which `bytes` are the protobuf encoding, as one JSON object without a line break.
pub fn encode(message: &'static Message, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let begin = out.len();
    push_message(out, message, bytes, DEPTH_MAX).inspect_err(|_| out.truncate(begin))
}

fn push_message(
    out: &mut Vec<u8>,
    message: &Message,
    bytes: &[u8],
    depth_left: usize,
) -> Result<(), EncodeError> {
    if std::ptr::eq(message, &KEY_VALUE)
        && depth_left > 0
        && let Some((key, value)) = plain_key_value(bytes)
        && push_plain(out, key, value)
    {
        return Ok(());
    }
    let begin = out.len();
    if is_in_order(message, bytes)? {
        push_in_order(out, message, bytes, depth_left)?;
    } else {
        push_collected(out, message, bytes, depth_left)?;
    }
    // Every key was written with a comma before it; the first one's place is the brace's.
    match out.get_mut(begin) {
        Some(comma) => *comma = b'{',
        None => out.push(b'{'),
    }
    out.push(b'}');
    Ok(())
}

/// An attribute in the form that nearly all have, half of what is written of a span; `false`: not one of those.
fn push_plain(out: &mut Vec<u8>, key: &[u8], value: AnyValueView<'_>) -> bool {
    if key.is_empty() {
        return false;
    }
    let name: &[u8] = match value {
        AnyValueView::String(_) => b",\"value\":{\"stringValue\":",
        AnyValueView::Bool(_) => b",\"value\":{\"boolValue\":",
        AnyValueView::Int(_) => b",\"value\":{\"intValue\":",
        AnyValueView::Double(_) => b",\"value\":{\"doubleValue\":",
        AnyValueView::Empty
        | AnyValueView::Bytes(_)
        | AnyValueView::Array(_)
        | AnyValueView::KeyValueList(_) => return false,
    };
    out.extend_from_slice(b"{\"key\":");
    push_string(out, key);
    out.extend_from_slice(name);
    match value {
        AnyValueView::String(text) => push_string(out, text),
        AnyValueView::Bool(truth) => push_scalar(out, Kind::Bool, u64::from(truth)),
        AnyValueView::Int(number) => push_scalar(out, Kind::Int64, number as u64),
        AnyValueView::Double(number) => push_double(out, number),
        AnyValueView::Empty
        | AnyValueView::Bytes(_)
        | AnyValueView::Array(_)
        | AnyValueView::KeyValueList(_) => unreachable!("returned above"),
    }
    out.extend_from_slice(b"}}");
    true
}

/// Whether each field may be written when it is met.
fn is_in_order(message: &Message, bytes: &[u8]) -> Result<bool, EncodeError> {
    let mut fields = Reader::new(bytes);
    let mut next = 0;
    let mut has_oneof = false;
    while !fields.is_empty() {
        let (key, _) = fields.key_and_value()?;
        let Some((index, field)) = known(message, key) else {
            continue;
        };
        let is_second_member = field.label == Label::Oneof && has_oneof;
        if index < next || is_second_member {
            return Ok(false);
        }
        has_oneof |= field.label == Label::Oneof;
        next = index + usize::from(field.label != Label::Repeated);
    }
    Ok(true)
}

fn push_in_order(
    out: &mut Vec<u8>,
    message: &Message,
    bytes: &[u8],
    depth_left: usize,
) -> Result<(), EncodeError> {
    let mut fields = Reader::new(bytes);
    let mut list = None;
    while !fields.is_empty() {
        let (key, value) = fields.key_and_value()?;
        let Some((index, field)) = known(message, key) else {
            continue;
        };
        if list.is_some_and(|list| list != index) {
            out.push(b']');
            list = None;
        }
        if field.label == Label::Repeated {
            if list.is_none() {
                out.extend_from_slice(field.key.as_bytes());
                out.push(b'[');
                list = Some(index);
            }
            push_elements(out, field, value, depth_left)?;
        } else {
            push_single(out, field, value, depth_left)?;
        }
    }
    if list.is_some() {
        out.push(b']');
    }
    Ok(())
}

/// Where the occurrences of one field lie.
#[derive(Clone, Copy, Default)]
struct Places {
    first: usize,
    last: usize,
    count: usize,
}

#[inline(never)]
fn push_collected(
    out: &mut Vec<u8>,
    message: &Message,
    bytes: &[u8],
    depth_left: usize,
) -> Result<(), EncodeError> {
    let places = collect(message, bytes)?;
    for (index, (field, places)) in message.fields.iter().zip(places).enumerate() {
        if places.count == 0 {
            continue;
        }
        let mut fields = from(bytes, places.first);
        if field.label == Label::Repeated {
            out.extend_from_slice(field.key.as_bytes());
            out.push(b'[');
            while fields.at() <= places.last {
                let (key, value) = fields.key_and_value()?;
                if known(message, key).is_some_and(|(found, _)| found == index) {
                    push_elements(out, field, value, depth_left)?;
                }
            }
            out.push(b']');
        } else if places.count > 1 && matches!(field.kind, Kind::Message(_)) {
            // Messages that follow each other are the encoding of their merger.
            let mut merged = Vec::new();
            while fields.at() <= places.last {
                if let (key, Value::Bytes(part)) = fields.key_and_value()?
                    && key >> 3 == u32::from(field.number)
                {
                    merged.extend_from_slice(part);
                }
            }
            push_single(out, field, Value::Bytes(&merged), depth_left)?;
        } else {
            let (_, value) = from(bytes, places.last).key_and_value()?;
            push_single(out, field, value, depth_left)?;
        }
    }
    Ok(())
}

fn collect(message: &Message, bytes: &[u8]) -> Result<[Places; FIELD_COUNT_MAX], EncodeError> {
    let mut places = [Places::default(); FIELD_COUNT_MAX];
    let mut fields = Reader::new(bytes);
    let mut member = None;
    while !fields.is_empty() {
        let at = fields.at();
        let (key, _) = fields.key_and_value()?;
        let Some((index, field)) = known(message, key) else {
            continue;
        };
        if field.label == Label::Oneof
            && let Some(replaced) = member.replace(index).filter(|member| *member != index)
        {
            places[replaced] = Places::default();
        }
        let seen = &mut places[index];
        if seen.count == 0 {
            seen.first = at;
        }
        seen.last = at;
        seen.count += 1;
    }
    Ok(places)
}

/// A reader of the fields from offset `at` on.
fn from(bytes: &[u8], at: usize) -> Reader<'_> {
    Reader::ending_at(&bytes[at..], bytes.len())
}

/// The field of a key, if the schema has its number with this wire type, or as a list of it.
#[inline]
fn known(message: &Message, key: u32) -> Option<(usize, &Field)> {
    let index = message.index_of_number(key >> 3)?;
    let field = &message.fields[index];
    (field.wire_types >> (key & 7) & 1 == 1).then_some((index, field))
}

/// One field that is no list, with its key; nothing for a default that is the same as absence.
fn push_single(out: &mut Vec<u8>, field: &Field, value: Value, depth_left: usize) -> Result<(), EncodeError> {
    if field.label == Label::Singular {
        let is_default = match value {
            Value::Varint(raw) | Value::Fixed64(raw) => raw == 0,
            Value::Fixed32(raw) => raw == 0,
            Value::Bytes(bytes) => bytes.is_empty() && !matches!(field.kind, Kind::Message(_)),
            Value::Group(_) => true,
        };
        if is_default {
            return Ok(());
        }
    }
    out.extend_from_slice(field.key.as_bytes());
    push_value(out, field.kind, value, depth_left)
}

/// One occurrence of a list: an element, or several that are packed.
fn push_elements(
    out: &mut Vec<u8>,
    field: &Field,
    value: Value,
    depth_left: usize,
) -> Result<(), EncodeError> {
    let push_comma = |out: &mut Vec<u8>| {
        // No value ends with a bracket that opens.
        if out.last() != Some(&b'[') {
            out.push(b',');
        }
    };
    let wire_type = field.kind.wire_type();
    let Value::Bytes(packed) = value else {
        push_comma(out);
        return push_value(out, field.kind, value, depth_left);
    };
    if wire_type == WireType::Bytes {
        push_comma(out);
        return push_value(out, field.kind, value, depth_left);
    }
    let mut elements = Reader::new(packed);
    while !elements.is_empty() {
        push_comma(out);
        let raw = match wire_type {
            WireType::Varint | WireType::Bytes => elements.varint()?,
            WireType::Fixed64 => elements.fixed64()?,
            WireType::Fixed32 => u64::from(elements.fixed32()?),
        };
        push_scalar(out, field.kind, raw);
    }
    Ok(())
}

/// A value of the wire type that `kind` has.
fn push_value(out: &mut Vec<u8>, kind: Kind, value: Value, depth_left: usize) -> Result<(), EncodeError> {
    match (value, kind) {
        (Value::Bytes(bytes), Kind::Message(message)) => {
            let depth_left = depth_left.checked_sub(1).ok_or(EncodeError::Depth)?;
            push_message(out, message, bytes, depth_left)?;
        }
        (Value::Bytes(bytes), Kind::String) => push_string(out, bytes),
        (Value::Bytes(bytes), Kind::Id) => push_quoted(out, |out| push_hex(out, bytes)),
        (Value::Bytes(bytes), _) => push_quoted(out, |out| push_base64(out, bytes)),
        (Value::Varint(raw) | Value::Fixed64(raw), _) => push_scalar(out, kind, raw),
        (Value::Fixed32(raw), _) => push_scalar(out, kind, u64::from(raw)),
        (Value::Group(_), _) => unreachable!("`known` knows no groups"),
    }
    Ok(())
}

/// A scalar from its bits. 32-bit kinds take the low half, as protobuf does with varints that are too long.
fn push_scalar(out: &mut Vec<u8>, kind: Kind, raw: u64) {
    match kind {
        Kind::Bool => out.extend_from_slice(if raw == 0 { b"false" } else { b"true" }),
        Kind::Enum | Kind::Int32 => push_number(out, &(raw as i32)),
        Kind::Uint32 | Kind::Fixed32 => push_number(out, &(raw as u32)),
        Kind::Sint32 => {
            let zigzag = raw as u32;
            push_number(out, &((zigzag >> 1) as i32 ^ -((zigzag & 1) as i32)));
        }
        Kind::Int64 | Kind::Sfixed64 => push_quoted(out, |out| push_number(out, &(raw as i64))),
        Kind::Uint64 | Kind::Fixed64 => push_quoted(out, |out| push_number(out, &raw)),
        Kind::Double => push_double(out, f64::from_bits(raw)),
        Kind::String | Kind::Bytes | Kind::Id | Kind::Message(_) => unreachable!("no scalar"),
    }
}

fn push_double(out: &mut Vec<u8>, value: f64) {
    if value.is_finite() {
        push_number(out, &value);
    } else if value.is_nan() {
        out.extend_from_slice(b"\"NaN\"");
    } else {
        out.extend_from_slice(if value > 0.0 {
            b"\"Infinity\""
        } else {
            b"\"-Infinity\""
        });
    }
}

fn push_number(out: &mut Vec<u8>, number: &impl serde::Serialize) {
    serde_json::to_writer(out, number).expect("a Vec takes all bytes, and a number is no map");
}

#[inline]
fn push_quoted(out: &mut Vec<u8>, push: impl FnOnce(&mut Vec<u8>)) {
    out.push(b'"');
    push(out);
    out.push(b'"');
}
