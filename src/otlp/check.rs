//! Whether the messages that OTLP traces are made of are framed as prost demands, without building them.
//!
//! One function a message, in the order of the `.proto` files; each matches on whole keys (number and wire
//! type at once), so a known field with a wrong wire type falls through to `skip_unknown`, which refuses it.
//!
//! One deliberate difference from prost: text that is not UTF-8 passes. It is carried byte for byte, and JSON
//! shows it as U+FFFD; refusing a whole request for one bad attribute would lose good spans.
//!
//! `depth` is how many messages may still begin inside the one being read. Values nest by recursion, at most
//! [`wire::DEPTH_MAX`](super::wire::DEPTH_MAX) calls deep, each with a frame of a few hundred bytes.

use super::value;
use super::wire::{FramingError, Reader};

/// `Resource`.
pub(super) fn resource(mut reader: Reader<'_>, depth: u32) -> Result<(), FramingError> {
    while !reader.is_empty() {
        let before = reader;
        match reader.key()? {
            0x0a => attribute(&mut reader, depth)?,
            0x10 => drop(reader.varint()?), // dropped_attributes_count
            0x1a => {
                let (inner, depth) = reader.message(depth)?;
                entity_ref(inner, depth)?;
            }
            key => reader.skip_unknown(key, before.at(), 3, depth)?,
        }
    }
    Ok(())
}

/// `EntityRef`: four kinds of text.
fn entity_ref(mut reader: Reader<'_>, depth: u32) -> Result<(), FramingError> {
    while !reader.is_empty() {
        let before = reader;
        match reader.key()? {
            0x0a | 0x12 | 0x1a | 0x22 => drop(reader.bytes()?),
            key => reader.skip_unknown(key, before.at(), 4, depth)?,
        }
    }
    Ok(())
}

/// `InstrumentationScope`.
pub(super) fn scope(mut reader: Reader<'_>, depth: u32) -> Result<(), FramingError> {
    while !reader.is_empty() {
        let before = reader;
        match reader.key()? {
            0x0a | 0x12 => drop(reader.bytes()?), // name, version
            0x1a => attribute(&mut reader, depth)?,
            0x20 => drop(reader.varint()?), // dropped_attributes_count
            key => reader.skip_unknown(key, before.at(), 4, depth)?,
        }
    }
    Ok(())
}

/// `Span.Event`.
pub(super) fn event(mut reader: Reader<'_>, depth: u32) -> Result<(), FramingError> {
    while !reader.is_empty() {
        let before = reader;
        match reader.key()? {
            0x09 => drop(reader.fixed64()?), // time_unix_nano
            0x12 => drop(reader.bytes()?),   // name
            0x1a => attribute(&mut reader, depth)?,
            0x20 => drop(reader.varint()?), // dropped_attributes_count
            key => reader.skip_unknown(key, before.at(), 4, depth)?,
        }
    }
    Ok(())
}

/// `Span.Link`.
pub(super) fn link(mut reader: Reader<'_>, depth: u32) -> Result<(), FramingError> {
    while !reader.is_empty() {
        let before = reader;
        match reader.key()? {
            0x0a | 0x12 | 0x1a => drop(reader.bytes()?), // trace_id, span_id, trace_state
            0x22 => attribute(&mut reader, depth)?,
            0x28 => drop(reader.varint()?),  // dropped_attributes_count
            0x35 => drop(reader.fixed32()?), // flags
            key => reader.skip_unknown(key, before.at(), 6, depth)?,
        }
    }
    Ok(())
}

/// `Status`, into `code`, which stays as it is when this occurrence has none.
pub(super) fn status(mut reader: Reader<'_>, depth: u32, code: &mut i32) -> Result<(), FramingError> {
    while !reader.is_empty() {
        let before = reader;
        match reader.key()? {
            0x12 => drop(reader.bytes()?), // message
            0x18 => *code = reader.varint()? as i32,
            // Number 1 is reserved, so it is as unknown as those above 3.
            key if key >> 3 == 1 => reader.skip_unknown(key, before.at(), 0, depth)?,
            key => reader.skip_unknown(key, before.at(), 3, depth)?,
        }
    }
    Ok(())
}

/// A `KeyValue` and the length before it. Its value is never the first beyond the limit on depth: attributes lie in
/// messages, not in values.
#[inline(always)]
pub(super) fn attribute(reader: &mut Reader<'_>, depth: u32) -> Result<(), FramingError> {
    debug_assert!(depth > 1);
    let message = reader.bytes()?;
    if value::plain_key_value(message).is_some() {
        return Ok(());
    }
    key_value(message, reader.at(), depth - 1)
}

#[inline(never)]
pub(super) fn key_value(message: &[u8], end: usize, depth: u32) -> Result<(), FramingError> {
    let mut reader = Reader::ending_at(message, end);
    while !reader.is_empty() {
        let before = reader;
        match reader.key()? {
            0x0a => drop(reader.bytes()?),
            0x12 => {
                let (inner, depth) = reader.message(depth)?;
                any_value(inner, depth)?;
            }
            0x18 => drop(reader.varint()?), // key_strindex
            key => reader.skip_unknown(key, before.at(), 3, depth)?,
        }
    }
    Ok(())
}

fn any_value(mut reader: Reader<'_>, depth: u32) -> Result<(), FramingError> {
    while !reader.is_empty() {
        let before = reader;
        match reader.key()? {
            0x0a | 0x3a => drop(reader.bytes()?),         // string, bytes
            0x10 | 0x18 | 0x40 => drop(reader.varint()?), // bool, int, string index
            0x21 => drop(reader.fixed64()?),              // double
            0x2a => {
                let (inner, depth) = reader.message(depth)?;
                array_value(inner, depth)?;
            }
            0x32 => {
                let (inner, depth) = reader.message(depth)?;
                key_value_list(inner, depth)?;
            }
            key => reader.skip_unknown(key, before.at(), 8, depth)?,
        }
    }
    Ok(())
}

fn array_value(mut reader: Reader<'_>, depth: u32) -> Result<(), FramingError> {
    while !reader.is_empty() {
        let before = reader;
        match reader.key()? {
            0x0a => {
                let (inner, depth) = reader.message(depth)?;
                any_value(inner, depth)?;
            }
            key => reader.skip_unknown(key, before.at(), 1, depth)?,
        }
    }
    Ok(())
}

fn key_value_list(mut reader: Reader<'_>, depth: u32) -> Result<(), FramingError> {
    while !reader.is_empty() {
        let before = reader;
        match reader.key()? {
            0x0a => {
                let (inner, depth) = reader.message(depth)?;
                key_value(inner.rest(), inner.at() + inner.left(), depth)?;
            }
            key => reader.skip_unknown(key, before.at(), 1, depth)?,
        }
    }
    Ok(())
}
