//! One pass from a request body to resource parts, scope parts and spans.
//!
//! ```text
//!  ExportTraceServiceRequest
//!  └ 1 resource_spans*   ┌ 1 resource, 3 schema_url, unknown ──────────► resource(part)
//!                        └ 2 scope_spans*  ┌ 1 scope, 3 schema_url … ──► scope(part)
//!                                          └ 2 spans* ─────────────────► span(view)
//! ```
//!
//! Fields may come in any order (`schema_url` regularly follows the spans), yet a sink always gets the resource
//! before its scopes and a scope before its spans. So each ResourceSpans and ScopeSpans is walked twice: once
//! over its own fields, stepping over scopes or spans by their length, then into these. The step from span to span
//! waits for memory at each length unless the bytes ahead are asked for, and so brings them in for all that follows.

use super::check;
use super::view::{AnyValueView, SpanView};
use super::wire::{DEPTH_MAX, FramingError, Reader};

/// Takes what a request is made of: a resource, then for each of its scopes the scope and its spans.
///
/// A part comes as the pieces of the body that hold it, in order; their concatenation is the part.
pub trait CutSink<'a> {
    /// Every field of a ResourceSpans but `scope_spans`, keys included.
    fn resource(&mut self, part: &[&'a [u8]]);
    /// Every field of a ScopeSpans but `spans`, keys included.
    fn scope(&mut self, part: &[&'a [u8]]);
    /// Whether attributes of spans with this key are worth handing out.
    #[inline(always)]
    fn wants_attribute(&self, _key: &[u8]) -> bool {
        false
    }
    /// An attribute of the span that comes next, with a wanted key.
    #[inline(always)]
    fn attribute(&mut self, _key: &'a [u8], _value: AnyValueView<'a>) {}
    fn span(&mut self, span: &SpanView<'a>);
}

/// How far ahead of the step from span to span bytes are asked for: about as many lines as can be on their way.
const AHEAD_BYTES: usize = 2 << 10;

/// Cuts `body`, an ExportTraceServiceRequest. After an error the sink has seen what lies before the damage, and
/// is to be dropped with it: a request is refused whole.
///
/// Takes and refuses what prost does, but for text that is not UTF-8 (see [`check`]). Fields of the request that are
/// unknown are checked and left out.
///
/// Allocates one list of pieces a request. Real encoders make one or two pieces a part; a body made for it can
/// drive the list to four times its own size.
pub fn cut<'a>(body: &'a [u8], sink: &mut impl CutSink<'a>) -> Result<(), FramingError> {
    let mut pieces = Pieces { list: Vec::new() };
    let mut reader = Reader::new(body);
    while !reader.is_empty() {
        let before = reader;
        match reader.key()? {
            0x0a => {
                let (inner, depth) = reader.message(DEPTH_MAX)?;
                resource_spans(inner, depth, &mut pieces, sink)?;
            }
            key => reader.skip_unknown(key, before.at(), 1, DEPTH_MAX)?,
        }
    }
    Ok(())
}

fn resource_spans<'a>(
    mut reader: Reader<'a>,
    depth: u32,
    pieces: &mut Pieces<'a>,
    sink: &mut impl CutSink<'a>,
) -> Result<(), FramingError> {
    let mut scopes = Stretch::EMPTY;
    pieces.list.clear();
    let mut piece = reader;
    while !reader.is_empty() {
        let before = reader;
        match reader.key()? {
            0x12 => {
                reader.bytes()?;
                pieces.push(piece.until(&before));
                piece = reader;
                scopes.add(before, reader);
            }
            0x0a => {
                let (inner, depth) = reader.message(depth)?;
                check::resource(inner, depth)?;
            }
            0x1a => drop(reader.bytes()?), // schema_url
            key => reader.skip_unknown(key, before.at(), 3, depth)?,
        }
    }
    pieces.push(piece.until(&reader));
    sink.resource(&pieces.list);

    let mut reader = scopes.reader();
    while !reader.is_empty() {
        match reader.key()? {
            0x12 => {
                let (inner, depth) = reader.message(depth)?;
                scope_spans(inner, depth, pieces, sink)?;
            }
            key => reader.step_over(key)?,
        }
    }
    Ok(())
}

fn scope_spans<'a>(
    mut reader: Reader<'a>,
    depth: u32,
    pieces: &mut Pieces<'a>,
    sink: &mut impl CutSink<'a>,
) -> Result<(), FramingError> {
    let mut spans = Stretch::EMPTY;
    pieces.list.clear();
    let mut piece = reader;
    reader.prefetch(0, AHEAD_BYTES);
    while !reader.is_empty() {
        let before = reader;
        match reader.key()? {
            0x12 => {
                before.prefetch(AHEAD_BYTES, reader.bytes()?.len());
                pieces.push(piece.until(&before));
                piece = reader;
                spans.add(before, reader);
            }
            0x0a => {
                let (inner, depth) = reader.message(depth)?;
                check::scope(inner, depth)?;
            }
            0x1a => drop(reader.bytes()?), // schema_url
            key => reader.skip_unknown(key, before.at(), 3, depth)?,
        }
    }
    pieces.push(piece.until(&reader));
    sink.scope(&pieces.list);

    let mut reader = spans.reader();
    while !reader.is_empty() {
        match reader.key()? {
            0x12 => {
                let (inner, _) = reader.message(depth)?;
                let mut span = SpanView::EMPTY;
                span.read(inner, sink)?;
                sink.span(&span);
            }
            key => reader.step_over(key)?,
        }
    }
    Ok(())
}

/// The pieces of the part being read; one list serves the whole request.
struct Pieces<'a> {
    list: Vec<&'a [u8]>,
}

impl<'a> Pieces<'a> {
    #[inline]
    fn push(&mut self, piece: &'a [u8]) {
        if !piece.is_empty() {
            self.list.push(piece);
        }
    }
}

/// From the first scope or span to behind the last.
struct Stretch<'a>(Option<(Reader<'a>, Reader<'a>)>);

impl<'a> Stretch<'a> {
    const EMPTY: Stretch<'static> = Stretch(None);

    #[inline(always)]
    fn add(&mut self, before: Reader<'a>, behind: Reader<'a>) {
        self.0.get_or_insert((before, behind)).1 = behind;
    }

    fn reader(&self) -> Reader<'a> {
        self.0
            .map_or(Reader::new(&[]), |(first, behind)| first.narrow(&behind))
    }
}
