//! A span in place: the fields that decide something, as slices of the request or of the log.

use super::check;
use super::cut::CutSink;
use super::value;
pub use super::value::{AnyValueView, ArrayView, Attributes, KeyValueListView, resource_attributes};
use super::wire::{DEPTH_MAX, FramingError, Reader};

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
    pub(super) const EMPTY: SpanView<'static> = SpanView {
        bytes: &[],
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

    /// Checks all of the span, as [`cut`](super::cut::cut) does.
    pub fn parse(bytes: &'a [u8]) -> Result<SpanView<'a>, FramingError> {
        let mut span = SpanView::EMPTY;
        span.read(Reader::new(bytes), &mut Unheard)?;
        Ok(span)
    }

    /// Fills `self`, which is empty, and hands the sink the attributes it wants. One turn of the loop takes all fields when they come in the order of their
    /// numbers, as every encoder writes them: comparing with the next number predicts better than a jump table.
    #[inline(always)]
    pub(super) fn read(
        &mut self,
        mut reader: Reader<'a>,
        sink: &mut impl CutSink<'a>,
    ) -> Result<(), FramingError> {
        let bytes = reader.rest();
        self.bytes = bytes;
        let mut attributes_left = None;
        // Bytes left of the message where `key` begins.
        let mut left = reader.left();
        let mut key = reader.next_key()?;
        while key != Reader::END {
            let left_before = left;
            if key == 0x0a {
                self.trace_id = reader.bytes()?;
                (left, key) = (reader.left(), reader.next_key()?);
            }
            if key == 0x12 {
                self.span_id = reader.bytes()?;
                (left, key) = (reader.left(), reader.next_key()?);
            }
            if key == 0x1a {
                self.trace_state = reader.bytes()?;
                (left, key) = (reader.left(), reader.next_key()?);
            }
            if key == 0x22 {
                self.parent_span_id = reader.bytes()?;
                (left, key) = (reader.left(), reader.next_key()?);
            }
            if key == 0x2a {
                self.name = reader.bytes()?;
                (left, key) = (reader.left(), reader.next_key()?);
            }
            if key == 0x30 {
                self.kind = reader.varint()? as i32;
                (left, key) = (reader.left(), reader.next_key()?);
            }
            if key == 0x39 {
                self.start_ns = reader.fixed64()?;
                (left, key) = (reader.left(), reader.next_key()?);
            }
            if key == 0x41 {
                self.end_ns = reader.fixed64()?;
                (left, key) = (reader.left(), reader.next_key()?);
            }
            if key == 0x4a {
                let first = bytes.len() - *attributes_left.get_or_insert(left);
                while key == 0x4a {
                    attribute(&mut reader, sink)?;
                    (left, key) = (reader.left(), reader.next_key()?);
                }
                self.attributes = &bytes[first..bytes.len() - left];
            }
            while key == 0x5a {
                let (inner, depth) = reader.message(SPAN_DEPTH)?;
                check::event(inner, depth)?;
                (left, key) = (reader.left(), reader.next_key()?);
            }
            while key == 0x6a {
                let (inner, depth) = reader.message(SPAN_DEPTH)?;
                check::link(inner, depth)?;
                (left, key) = (reader.left(), reader.next_key()?);
            }
            while matches!(key, 0x50 | 0x60 | 0x70) {
                reader.varint()?; // dropped counts
                (left, key) = (reader.left(), reader.next_key()?);
            }
            if key == 0x7a {
                let (inner, depth) = reader.message(SPAN_DEPTH)?;
                check::status(inner, depth, &mut self.status_code)?;
                (left, key) = (reader.left(), reader.next_key()?);
            }
            if key == 0x85 {
                self.flags = reader.fixed32()?;
                (left, key) = (reader.left(), reader.next_key()?);
            }
            if left == left_before && key != Reader::END {
                reader.skip_unknown(key, reader.at() + reader.left() - left, 16, SPAN_DEPTH)?;
                (left, key) = (reader.left(), reader.next_key()?);
            }
        }
        Ok(())
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

/// One attribute of a span: checked, and handed out if it is wanted. Both from one look at its bytes, because
/// attributes are most of a span.
#[inline(always)]
fn attribute<'a>(reader: &mut Reader<'a>, sink: &mut impl CutSink<'a>) -> Result<(), FramingError> {
    let message = reader.bytes()?;
    if let Some((key, value)) = value::plain_key_value(message) {
        if sink.wants_attribute(key) {
            sink.attribute(key, value);
        }
        return Ok(());
    }
    check::key_value(message, reader.at(), SPAN_DEPTH - 1)?;
    if value::only_key(message).is_none_or(|key| sink.wants_attribute(key)) {
        let (key, value) = value::key_value(message);
        sink.attribute(key, value);
    }
    Ok(())
}

/// For whom a span is all that counts.
struct Unheard;

impl<'a> CutSink<'a> for Unheard {
    fn resource(&mut self, _: &[&'a [u8]]) {}
    fn scope(&mut self, _: &[&'a [u8]]) {}
    fn span(&mut self, _: &SpanView<'a>) {}
}
