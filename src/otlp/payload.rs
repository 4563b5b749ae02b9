//! The payload of a spans entry: original bytes, spans of one trace side by side, contexts once.
//!
//! ```text
//!  u16 resource count │ u16 scope count │ u16 run count │ u16: 1 if it was copied forward
//!  resource table     │ count × { u32 length }
//!  scope table        │ count × { u32 length, u16 resource, u16 zero }
//!  trace directory    │ count × { trace id 16, u32 span count, u32 length of its spans below }
//!  replaces           │ only if copied forward: run count × { u64 entry position, u16 run, 6 zeros }
//!  resource parts     │ every field of ResourceSpans but scope_spans, framed as it came
//!  scope parts        │ every field of ScopeSpans but spans, framed as it came
//!  spans              │ by run: { u32 length, u16 scope, Span message } …
//! ```
//!
//! Integers are little-endian. The entry's checksum covers all of it, so a payload that reached
//! [`SpansPayload::parse`] through a valid entry is one that [`write()`] wrote; parsing checks it all the same,
//! because a log may come from another version or another's hands.

use crate::base::codec::{Reader, Writer};
use crate::base::ids::{Place, Position, TraceId};
use crate::otlp::join::Joiner;

pub const HEADER_BYTES: usize = 8;
pub const RESOURCE_BYTES: usize = 4;
pub const SCOPE_BYTES: usize = 8;
pub const RUN_BYTES: usize = 24;
pub const SPAN_BYTES: usize = 6;
pub const REPLACES_BYTES: usize = 16;

/// One run of the trace directory: the spans of one trace in this entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    pub trace: TraceId,
    pub span_count: u32,
    /// Bytes of its spans with their headers.
    pub span_bytes: u32,
}

/// A span of a run: its message and the number of its scope within the entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span<'a> {
    pub scope: u16,
    pub bytes: &'a [u8],
}

/// A payload whose tables have been checked.
///
/// Invariant: every length and number in the tables is within bounds.
#[derive(Clone, Copy, Debug)]
pub struct SpansPayload<'a> {
    resource_table: &'a [u8],
    scope_table: &'a [u8],
    directory: &'a [u8],
    /// Empty unless it was copied forward.
    replaces: &'a [u8],
    parts: &'a [u8],
    spans: &'a [u8],
}

/// The tables of a payload contradict its length: not written by this format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the payload of a spans entry is malformed although its checksum holds")]
pub struct Malformed;

impl<'a> SpansPayload<'a> {
    pub fn parse(payload: &'a [u8]) -> Result<SpansPayload<'a>, Malformed> {
        Self::parse_tables(payload).ok_or(Malformed)
    }

    fn parse_tables(payload: &'a [u8]) -> Option<SpansPayload<'a>> {
        let mut reader = Reader::new(payload);
        let [resources, scopes, runs, moved] = [reader.u16()?, reader.u16()?, reader.u16()?, reader.u16()?];
        if runs as usize > Place::RUN_COUNT_MAX {
            return None;
        }
        let resource_table = reader.bytes(resources as usize * RESOURCE_BYTES)?;
        let scope_table = reader.bytes(scopes as usize * SCOPE_BYTES)?;
        let directory = reader.bytes(runs as usize * RUN_BYTES)?;
        let replaces = match moved {
            0 => &[],
            1 => reader.bytes(runs as usize * REPLACES_BYTES)?,
            _ => return None,
        };
        let mut parts_len = 0usize;
        let mut table = Reader::new(resource_table);
        while let Some(len) = table.u32() {
            parts_len = parts_len.checked_add(len as usize)?;
        }
        let mut table = Reader::new(scope_table);
        while let Some(len) = table.u32() {
            parts_len = parts_len.checked_add(len as usize)?;
            if table.u16()? >= resources {
                return None;
            }
            table.u16()?;
        }
        let parts = reader.bytes(parts_len)?;
        let spans = reader.rest();
        let this = SpansPayload {
            resource_table,
            scope_table,
            directory,
            replaces,
            parts,
            spans,
        };
        let mut spans_len = 0usize;
        for index in 0..runs {
            TraceId::new(&directory[index as usize * RUN_BYTES..][..16])?;
            spans_len = spans_len.checked_add(this.run_at(index).span_bytes as usize)?;
        }
        (spans_len == spans.len()).then_some(this)
    }

    pub fn run_count(&self) -> u16 {
        (self.directory.len() / RUN_BYTES) as u16
    }

    fn run_at(&self, index: u16) -> Run {
        let mut reader = Reader::new(&self.directory[index as usize * RUN_BYTES..]);
        let fields = || Some((reader.array::<16>()?, reader.u32()?, reader.u32()?));
        let (trace, span_count, span_bytes) = { fields }().expect("a directory entry is 24 bytes");
        let trace = TraceId::new(&trace).expect("parse refuses a zero trace id");
        Run {
            trace,
            span_count,
            span_bytes,
        }
    }

    /// Where run `index` stood before it was copied forward, entry and run; `None`: it was not.
    pub fn replaces(&self, index: u16) -> Option<(Position, u16)> {
        let mut reader = Reader::new(self.replaces.get(usize::from(index) * REPLACES_BYTES..)?);
        Some((Position(reader.u64()?), reader.u16()?))
    }

    /// Every run with its spans, in directory order.
    pub fn runs(self) -> impl Iterator<Item = (Run, Spans<'a>)> {
        let mut rest = self.spans;
        (0..self.run_count()).map(move |index| {
            let run = self.run_at(index);
            let (spans, tail) = rest.split_at(run.span_bytes as usize);
            rest = tail;
            (run, Spans { rest: spans })
        })
    }

    /// Run `index` with its spans, or `None` if there are fewer runs.
    pub fn run(self, index: u16) -> Option<(Run, Spans<'a>)> {
        self.runs().nth(index as usize)
    }

    /// The resource part and the scope part that stand around the spans of scope `index`.
    pub fn context(&self, index: u16) -> Option<(&'a [u8], &'a [u8])> {
        let entry = self
            .scope_table
            .get(index as usize * SCOPE_BYTES..)?
            .get(..SCOPE_BYTES)?;
        let mut reader = Reader::new(entry);
        let (scope_len, resource) = (reader.u32()? as usize, reader.u16()?);
        let resource_start = self.resource_start(resource);
        let resource_len = self.resource_len(resource);
        let mut scope_start = self.resource_start((self.resource_table.len() / RESOURCE_BYTES) as u16);
        for before in self.scope_table.chunks_exact(SCOPE_BYTES).take(index as usize) {
            scope_start += u32::from_le_bytes([before[0], before[1], before[2], before[3]]) as usize;
        }
        Some((
            self.parts.get(resource_start..resource_start + resource_len)?,
            self.parts.get(scope_start..scope_start + scope_len)?,
        ))
    }

    /// The resource that scope `index` belongs to.
    pub fn resource_of(&self, index: u16) -> Option<u16> {
        let entry = self.scope_table.get(index as usize * SCOPE_BYTES + 4..)?;
        Some(u16::from_le_bytes([*entry.first()?, *entry.get(1)?]))
    }

    /// Hands `spans` to `joiner`, each under its resource and scope. `None`: they name a context that is not here.
    pub fn join<'j>(&self, spans: Spans<'j>, joiner: &mut Joiner<'j>) -> Option<()>
    where
        'a: 'j,
    {
        let (mut resource, mut scope) = (None, None);
        for span in spans {
            if scope != Some(span.scope) {
                let (resource_part, scope_part) = self.context(span.scope)?;
                let of = self.resource_of(span.scope);
                if resource != of {
                    joiner.resource(&[resource_part]);
                    resource = of;
                }
                joiner.scope(&[scope_part]);
                scope = Some(span.scope);
            }
            joiner.span(span.bytes);
        }
        Some(())
    }

    pub fn scope_count(&self) -> u16 {
        (self.scope_table.len() / SCOPE_BYTES) as u16
    }

    /// All resource parts, in order.
    pub fn resources(self) -> impl Iterator<Item = &'a [u8]> {
        let mut rest = self.parts;
        (0..(self.resource_table.len() / RESOURCE_BYTES) as u16).map(move |index| {
            let (part, tail) = rest.split_at(self.resource_len(index));
            rest = tail;
            part
        })
    }

    fn resource_len(&self, index: u16) -> usize {
        let at = index as usize * RESOURCE_BYTES;
        let bytes = self.resource_table[at..at + 4].try_into().expect("four bytes");
        u32::from_le_bytes(bytes) as usize
    }

    fn resource_start(&self, index: u16) -> usize {
        (0..index).map(|before| self.resource_len(before)).sum()
    }
}

/// The spans of one run; ends early at bytes no version wrote.
#[derive(Clone, Copy, Debug)]
pub struct Spans<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Spans<'a> {
    type Item = Span<'a>;

    #[inline]
    fn next(&mut self) -> Option<Span<'a>> {
        let mut reader = Reader::new(self.rest);
        let len = reader.u32()? as usize;
        let scope = reader.u16()?;
        let bytes = reader.bytes(len)?;
        self.rest = reader.rest();
        Some(Span { scope, bytes })
    }
}

/// How far ahead of the bytes being written memory is asked for.
const AHEAD_BYTES: usize = 1 << 10;

/// Bytes that [`write()`] will fill.
pub fn payload_len(resource_lens: &[usize], scope_lens: &[usize], runs: &[Run]) -> usize {
    HEADER_BYTES
        + resource_lens
            .iter()
            .map(|len| RESOURCE_BYTES + len)
            .sum::<usize>()
        + scope_lens.iter().map(|len| SCOPE_BYTES + len).sum::<usize>()
        + runs
            .iter()
            .map(|run| RUN_BYTES + run.span_bytes as usize)
            .sum::<usize>()
}

/// Pieces of a request's body that stand for one part.
pub type Pieces<'p, 'a> = &'p [&'a [u8]];

fn pieces_len(pieces: Pieces<'_, '_>) -> usize {
    pieces.iter().map(|piece| piece.len()).sum()
}

/// Writes a payload into exactly [`payload_len`] bytes.
///
/// Panics when the parts do not add up to the length: our own mistake, never input's.
pub fn write<'a>(
    out: &mut [u8],
    resources: &[Pieces<'_, 'a>],
    scopes: &[(u16, Pieces<'_, 'a>)],
    runs: &[Run],
    spans: impl Iterator<Item = Span<'a>>,
) {
    write_moved(out, resources, scopes, runs, &[], spans);
}

/// As [`write()`], of runs that were copied forward from these entries and runs: [`REPLACES_BYTES`] more for each.
pub fn write_moved<'a>(
    out: &mut [u8],
    resources: &[Pieces<'_, 'a>],
    scopes: &[(u16, Pieces<'_, 'a>)],
    runs: &[Run],
    replaces: &[(Position, u16)],
    spans: impl Iterator<Item = Span<'a>>,
) {
    let mut writer = Writer::new(out);
    writer.u16(resources.len() as u16);
    writer.u16(scopes.len() as u16);
    writer.u16(runs.len() as u16);
    writer.u16(u16::from(!replaces.is_empty()));
    for pieces in resources {
        writer.u32(pieces_len(pieces) as u32);
    }
    for (resource, pieces) in scopes {
        writer.u32(pieces_len(pieces) as u32);
        writer.u16(*resource);
        writer.u16(0);
    }
    for run in runs {
        writer.bytes(run.trace.as_bytes());
        writer.u32(run.span_count);
        writer.u32(run.span_bytes);
    }
    for (position, run) in replaces {
        writer.u64(position.0);
        writer.u16(*run);
        writer.bytes(&[0; 6]);
    }
    let parts = resources
        .iter()
        .copied()
        .chain(scopes.iter().map(|(_, pieces)| *pieces));
    for piece in parts.flatten() {
        writer.bytes(piece);
    }
    for span in spans {
        // A block has left every cache since it was written the last time.
        writer.prefetch(AHEAD_BYTES, SPAN_BYTES + span.bytes.len());
        writer.u32(span.bytes.len() as u32);
        writer.u16(span.scope);
        writer.bytes(span.bytes);
    }
    writer.finish();
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn trace(number: u8) -> TraceId {
        TraceId::new(&[number + 1; 16]).expect("not zero")
    }

    #[test]
    fn what_was_written_is_read_back() {
        let resources: [Pieces; 2] = [&[b"re", b"source"], &[]];
        let scopes: [(u16, Pieces); 3] = [(0, &[b"scope a"]), (1, &[b"scope b"]), (0, &[])];
        let spans = [(2, &b"one"[..]), (0, b"two two"), (1, b"")];
        let spans = spans.map(|(scope, bytes)| Span { scope, bytes });
        let run_bytes = |spans: &[Span]| {
            spans
                .iter()
                .map(|span| (SPAN_BYTES + span.bytes.len()) as u32)
                .sum()
        };
        let runs = [
            Run {
                trace: trace(0),
                span_count: 2,
                span_bytes: run_bytes(&spans[..2]),
            },
            Run {
                trace: trace(1),
                span_count: 1,
                span_bytes: run_bytes(&spans[2..]),
            },
        ];
        let mut out = vec![0; payload_len(&[8, 0], &[7, 7, 0], &runs)];
        write(&mut out, &resources, &scopes, &runs, spans.into_iter());
        let payload = SpansPayload::parse(&out).expect("well formed");
        let read: Vec<_> = payload
            .runs()
            .map(|(run, spans)| (run, spans.collect::<Vec<_>>()))
            .collect();
        assert_eq!(
            read,
            [(runs[0], spans[..2].to_vec()), (runs[1], spans[2..].to_vec())]
        );
        assert_eq!(payload.run(1).map(|(run, _)| run), Some(runs[1]));
        assert!(payload.run(2).is_none());
        assert_eq!(payload.context(0), Some((&b"resource"[..], &b"scope a"[..])));
        assert_eq!(payload.context(1), Some((&b""[..], &b"scope b"[..])));
        assert_eq!(payload.context(2), Some((&b"resource"[..], &b""[..])));
        assert_eq!(payload.context(3), None);
        assert_eq!(payload.resources().collect::<Vec<_>>(), [&b"resource"[..], b""]);
    }

    proptest! {
        #[test]
        fn any_bytes_give_an_answer_and_no_panic(bytes in prop::collection::vec(0u8..4, 0..200)) {
            if let Ok(payload) = SpansPayload::parse(&bytes) {
                payload.runs().for_each(|(_, spans)| spans.for_each(|span| {
                    payload.context(span.scope);
                }));
                payload.resources().for_each(drop);
            }
        }
    }
}
