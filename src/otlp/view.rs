//! A span in place: the fields that decide something, as slices of the request or of the log.

pub mod value;

use super::check;
use super::wire::{DEPTH_MAX, FramingError, Reader};
pub use value::{AnyValueView, ArrayView, Attributes, KeyValueListView, resource_attributes};

/// A `Span` message whose framing was checked to its depth.
///
/// Fields that the bytes do not have are empty or zero. Nothing is known of what the ids are: an id of the
/// wrong length or of zeros is not the framing's business.
#[derive(Clone, Copy, Debug)]
pub struct SpanView<'a> {
    /// The message itself, without key and length.
    pub bytes: &'a [u8],
    pub trace_id: &'a [u8],
    pub span_id: &'a [u8],
    pub parent_span_id: &'a [u8],
    pub trace_state: &'a [u8],
    pub start_ns: u64,
    pub end_ns: u64,
    pub status_code: i32,
    pub flags: u32,
    kind: i32,
    name: &'a [u8],
    /// From the first attribute to the last; other fields may lie between.
    attributes: &'a [u8],
}

/// Messages that may begin in a span: it is itself the third, after ResourceSpans and ScopeSpans.
pub(super) const SPAN_DEPTH: u32 = DEPTH_MAX - 3;

impl<'a> SpanView<'a> {
    /// Checks all of the span, as [`cut`](super::cut::cut) does.
    pub fn parse(bytes: &'a [u8]) -> Result<SpanView<'a>, FramingError> {
        SpanView::read(Reader::new(bytes))
    }

    #[inline]
    pub(super) fn read(mut reader: Reader<'a>) -> Result<SpanView<'a>, FramingError> {
        let depth = SPAN_DEPTH;
        let bytes = reader.rest();
        let mut span = SpanView {
            bytes,
            trace_id: &[],
            span_id: &[],
            parent_span_id: &[],
            trace_state: &[],
            start_ns: 0,
            end_ns: 0,
            status_code: 0,
            flags: 0,
            kind: 0,
            name: &[],
            attributes: &[],
        };
        let origin = reader.at();
        let (mut attributes_begin, mut attributes_end) = (usize::MAX, 0);
        while !reader.is_empty() {
            let begin = reader.at();
            match reader.key()? {
                0x0a => span.trace_id = reader.bytes()?,
                0x12 => span.span_id = reader.bytes()?,
                0x1a => span.trace_state = reader.bytes()?,
                0x22 => span.parent_span_id = reader.bytes()?,
                0x2a => span.name = reader.bytes()?,
                0x30 => span.kind = reader.varint()? as i32,
                0x39 => span.start_ns = reader.fixed64()?,
                0x41 => span.end_ns = reader.fixed64()?,
                0x4a => {
                    check::attribute(&mut reader, depth)?;
                    attributes_begin = attributes_begin.min(begin);
                    attributes_end = reader.at();
                }
                0x50 | 0x60 | 0x70 => drop(reader.varint()?), // dropped counts
                0x5a => {
                    let (inner, depth) = reader.message(depth)?;
                    check::event(inner, depth)?;
                }
                0x6a => {
                    let (inner, depth) = reader.message(depth)?;
                    check::link(inner, depth)?;
                }
                0x7a => {
                    let (inner, depth) = reader.message(depth)?;
                    check::status(inner, depth, &mut span.status_code)?;
                }
                0x85 => span.flags = reader.fixed32()?,
                key => reader.skip_unknown(key, begin, 16, depth)?,
            }
        }
        if attributes_end > 0 {
            span.attributes = &bytes[attributes_begin - origin..attributes_end - origin];
        }
        Ok(span)
    }

    #[inline]
    pub fn name(&self) -> &'a [u8] {
        self.name
    }

    /// The enum's number as it came, known or not.
    #[inline]
    pub fn kind(&self) -> i32 {
        self.kind
    }

    #[inline]
    pub fn attributes(&self) -> Attributes<'a> {
        Attributes::new(self.attributes, 9)
    }
}
