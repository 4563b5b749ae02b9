//! Walking over the entries of one segment file, whatever its bytes are.

use crate::base::ids::{Place, Position};
use crate::wal::entry::{Entry, EntryHeader, EntryKind, MAGIC, Seed};
use crate::wal::group::GroupHead;
use crate::wal::segment::SegmentId;

const ALIGN: usize = Place::ENTRY_ALIGN as usize;

/// What lies at one place of a segment.
pub(super) enum Step<'a> {
    /// A sound header. Its entry is `None` if the payload is damaged or cut short.
    Entry {
        header: EntryHeader,
        entry: Option<Entry<'a>>,
    },
    /// No header here, and none before `end`.
    Gap { start: Position, end: Position },
}

/// From entry to entry; after damage on to the next sound header.
///
/// Headers are looked for at every multiple of 64, not only on pages, so that damage takes only the
/// entries it touches. Segment, position and the log's seed are in a header's check, so what a payload
/// contains is not taken for one.
pub(super) struct Walk<'a> {
    seed: Seed,
    segment: SegmentId,
    base: Position,
    data: &'a [u8],
    at: usize,
    checks_payloads: bool,
}

impl<'a> Walk<'a> {
    /// `data` begins at `base`; `limit` is where it counts to.
    pub fn new(seed: Seed, segment: SegmentId, base: Position, limit: Position, data: &'a [u8]) -> Walk<'a> {
        let length = usize::try_from(limit.0.saturating_sub(base.0)).unwrap_or(usize::MAX);
        let data = &data[..length.min(data.len())];
        Walk {
            seed,
            segment,
            base,
            data,
            at: 0,
            checks_payloads: true,
        }
    }

    /// Only groups are checked whole: for a survey.
    pub fn of_headers(self) -> Walk<'a> {
        Walk {
            checks_payloads: false,
            ..self
        }
    }

    pub fn starting_at(self, position: Position) -> Walk<'a> {
        let at = usize::try_from(position.0.saturating_sub(self.base.0)).unwrap_or(usize::MAX);
        Walk { at, ..self }
    }

    fn here(&self) -> Position {
        self.base.plus(self.at as u64)
    }

    fn header_at(&self, at: usize) -> Option<EntryHeader> {
        let bytes = self.data.get(at..)?;
        if !bytes.starts_with(&MAGIC.to_le_bytes()) {
            return None;
        }
        let header = EntryHeader::read(self.seed, self.base.plus(at as u64), bytes).ok()?;
        (header.segment == self.segment).then_some(header)
    }
}

impl<'a> Iterator for Walk<'a> {
    type Item = Step<'a>;

    fn next(&mut self) -> Option<Step<'a>> {
        if self.at >= self.data.len() {
            return None;
        }
        let Some(header) = self.header_at(self.at) else {
            let start = self.here();
            let next = (self.at + ALIGN..self.data.len()).step_by(ALIGN);
            self.at = next
                .into_iter()
                .find(|at| self.header_at(*at).is_some())
                .unwrap_or(self.data.len());
            return Some(Step::Gap {
                start,
                end: self.here(),
            });
        };
        let bytes = &self.data[self.at..];
        let entry = if self.checks_payloads || header.kind == EntryKind::GROUP {
            header.entry(bytes).ok()
        } else {
            header.payload(bytes).ok().map(|payload| header.view(payload))
        };
        let mut end = header.end();
        if header.kind == EntryKind::GROUP
            && let Some(head) = entry.and_then(|entry| GroupHead::read(entry.payload))
            && head.begins_at.0.is_multiple_of(Place::ENTRY_ALIGN)
        {
            end = end.max(head.begins_at);
        }
        self.at = usize::try_from(end.since(self.base)).unwrap_or(usize::MAX);
        Some(Step::Entry { header, entry })
    }
}

/// The base of a segment whose header page is damaged, by its first sound entry.
pub(super) fn infer_base(seed: Seed, segment: SegmentId, data: &[u8]) -> Option<Position> {
    (0..data.len()).step_by(ALIGN).find_map(|at| {
        let bytes = &data[at..];
        if !bytes.starts_with(&MAGIC.to_le_bytes()) {
            return None;
        }
        let position = Position(u64::from_le_bytes(bytes.get(24..32)?.try_into().ok()?));
        let header = EntryHeader::read(seed, position, bytes).ok()?;
        header.entry(bytes).ok()?;
        let base = Position(position.0.checked_sub(at as u64)?);
        let sound = header.segment == segment && base.0.is_multiple_of(crate::base::block::PAGE_BYTES as u64);
        (sound && base.0 < crate::wal::POSITION_MAX).then_some(base)
    })
}
