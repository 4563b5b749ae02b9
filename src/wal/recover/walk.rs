//! Walking over the entries of one segment file, whatever its bytes are, through a window on it.
//!
//! ```text
//!  data of the file   0            window            at                       empty_from      length
//!                     │              ├───────────────┼──────────┤                  │            │
//!                     └─ walked ─────────────────────┘  to come                    └ no header ─┘
//! ```
//!
//! The walk asks for the bytes that it needs next and never holds more than one window, whatever the size of the
//! segment: a piece, or one entry if that is larger.

use crate::base::block::PAGE_BYTES;
use crate::base::ids::{Place, Position};
use crate::wal::entry::{Entry, EntryError, EntryHeader, EntryKind, HEADER_BYTES, MAGIC, Seed};
use crate::wal::group::GroupHead;
use crate::wal::segment::SegmentId;

const ALIGN: u64 = Place::ENTRY_ALIGN;

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

/// What a walk comes to next.
pub(super) enum Next<'a> {
    Step(Step<'a>),
    /// It needs `len` bytes of the segment's data from `start`, by [`Walk::load`].
    Read {
        start: u64,
        len: u64,
    },
    End,
}

/// From entry to entry; after damage on to the next sound header.
///
/// Headers are looked for at every multiple of 64, not only on pages, so that damage takes only the
/// entries it touches. Segment, position and the log's seed are in a header's check, so what a payload
/// contains is not taken for one.
pub(super) struct Walk {
    seed: Seed,
    segment: SegmentId,
    base: Position,
    /// Data bytes that count, or that the file has if these are fewer.
    length: u64,
    /// From here on there is no sound header, as an earlier walk found.
    empty_from: u64,
    at: u64,
    /// Where the gap began that is being looked through.
    gap: Option<u64>,
    window: Vec<u8>,
    window_start: u64,
    asked: (u64, u64),
    piece_bytes: u64,
    checks_payloads: bool,
}

impl Walk {
    /// Data begins at `base`; `limit` is where it counts to. It is read in pieces that end on multiples of
    /// `piece_bytes`.
    pub fn new(seed: Seed, segment: SegmentId, base: Position, limit: Position, piece_bytes: u64) -> Walk {
        Walk {
            seed,
            segment,
            base,
            length: limit.0.saturating_sub(base.0),
            empty_from: u64::MAX,
            at: 0,
            gap: None,
            window: Vec::new(),
            window_start: 0,
            asked: (0, 0),
            piece_bytes,
            checks_payloads: true,
        }
    }

    /// Only groups are checked whole: for a survey.
    pub fn of_headers(self) -> Walk {
        Walk {
            checks_payloads: false,
            ..self
        }
    }

    /// What a survey of the file found: how many data bytes it has, and where its last sound entry ends.
    pub fn surveyed(self, data_bytes: u64, empty_from: u64) -> Walk {
        Walk {
            length: self.length.min(data_bytes),
            empty_from,
            ..self
        }
    }

    /// Only headers count from here on, beginning at `position`.
    pub fn restart_of_headers(&mut self, position: Position) {
        self.at = position.0.saturating_sub(self.base.0);
        self.gap = None;
        self.checks_payloads = false;
    }

    /// A buffer for the next read: the window, which is not needed any more once a read is wanted.
    pub fn take_window(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.window)
    }

    /// What was read of what [`Next::Read`] asked for; less if the file ends there.
    pub fn load(&mut self, bytes: Vec<u8>) {
        let (start, len) = self.asked;
        if (bytes.len() as u64) < len {
            self.length = self.length.min(start + bytes.len() as u64);
        }
        (self.window, self.window_start) = (bytes, start);
    }

    /// The bytes in view, for ranges of [`Walk::range_of`].
    pub fn window(&self) -> &[u8] {
        &self.window
    }

    /// Where in the window the payload of an entry lies that was just handed out.
    pub fn range_of(&self, header: &EntryHeader, payload_len: usize) -> std::ops::Range<usize> {
        let at = (header.position.since(self.base) - self.window_start) as usize + HEADER_BYTES;
        at..at + payload_len
    }

    /// Data bytes that count and are there, as far as reads have shown.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Where the walk has come to.
    pub fn at(&self) -> u64 {
        self.at
    }

    fn position(&self, at: u64) -> Position {
        self.base.plus(at)
    }

    /// `len` bytes from `at`, fewer at the end of the data; `None` if they are not in view.
    fn view(&self, at: u64, len: u64) -> Option<&[u8]> {
        let end = at.saturating_add(len).min(self.length);
        let start = usize::try_from(at.checked_sub(self.window_start)?).ok()?;
        let end = usize::try_from(end.checked_sub(self.window_start)?).ok()?;
        self.window.get(start..end)
    }

    /// What to read before anything else: little if an earlier walk found the file empty.
    pub fn first_read(&mut self) -> (u64, u64) {
        match self.ask(0, HEADER_BYTES as u64) {
            Next::Read { start, len } => (start, len),
            Next::Step(_) | Next::End => (0, 0),
        }
    }

    fn ask(&mut self, start: u64, len: u64) -> Next<'static> {
        let piece_end = (self.base.0 + start + 1).next_multiple_of(self.piece_bytes) - self.base.0;
        let end = start.saturating_add(len).max(piece_end).min(self.length);
        self.asked = (start, end - start);
        Next::Read {
            start,
            len: end - start,
        }
    }

    /// The sound header at `at`. `Err`: its bytes are not in view.
    fn header_at(&self, at: u64) -> Result<Option<EntryHeader>, ()> {
        let bytes = self.view(at, HEADER_BYTES as u64).ok_or(())?;
        if !bytes.starts_with(&MAGIC.to_le_bytes()) {
            return Ok(None);
        }
        let header = EntryHeader::read(self.seed, self.position(at), bytes).ok();
        Ok(header.filter(|header| header.segment == self.segment))
    }

    pub fn next(&mut self) -> Next<'_> {
        loop {
            if self.at >= self.length {
                return match self.gap.take() {
                    Some(start) => Next::Step(Step::Gap {
                        start: self.position(start),
                        end: self.position(self.length),
                    }),
                    None => Next::End,
                };
            }
            if self.at >= self.empty_from {
                self.gap.get_or_insert(self.at);
                self.at = self.length;
                continue;
            }
            let Ok(header) = self.header_at(self.at) else {
                return self.ask(self.at, HEADER_BYTES as u64);
            };
            let Some(header) = header else {
                self.gap.get_or_insert(self.at);
                self.at = self.at.saturating_add(ALIGN).min(self.length);
                continue;
            };
            if let Some(start) = self.gap.take() {
                return Next::Step(Step::Gap {
                    start: self.position(start),
                    end: self.position(self.at),
                });
            }
            return self.entry(header);
        }
    }

    fn entry(&mut self, header: EntryHeader) -> Next<'_> {
        let is_whole = self.checks_payloads || header.kind == EntryKind::GROUP;
        let payload = match header.kind {
            EntryKind::PAD => 0,
            _ if is_whole => u64::from(header.length),
            _ => 0,
        };
        let needed = HEADER_BYTES as u64 + payload;
        if self.view(self.at, needed).is_none() {
            return self.ask(self.at, needed);
        }
        let bytes = self.view(self.at, needed).expect("just seen");
        let mut end = header.end();
        let mut is_sound = true;
        if is_whole {
            let entry = header.entry(bytes).ok();
            is_sound = entry.is_some();
            if header.kind == EntryKind::GROUP
                && let Some(head) = entry.and_then(|entry| GroupHead::read(entry.payload))
                && head.begins_at.0.is_multiple_of(ALIGN)
            {
                end = end.max(head.begins_at);
            }
        }
        let at = std::mem::replace(&mut self.at, end.0.saturating_sub(self.base.0));
        let payload = self
            .view(at, needed)
            .and_then(|bytes| bytes.get(HEADER_BYTES..))
            .filter(|_| is_sound);
        Next::Step(Step::Entry {
            header,
            entry: payload.map(|payload| header.view(payload)),
        })
    }
}

/// The search for the base of a segment whose header page is damaged. Its sound entries tell, all of them: a page that
/// was written to the wrong place is sound too, and speaks of another base.
pub(super) struct Inference {
    seed: Seed,
    segment: SegmentId,
    /// Where the neighbours leave room for it.
    expected: [Option<Position>; 2],
    /// With how many entries speak of each.
    bases: Vec<(Position, usize)>,
    at: u64,
    asked: (u64, u64),
    piece_bytes: u64,
}

/// What a search comes to next.
pub(super) enum Inferred {
    Base(Position),
    /// It needs `len` bytes of the file's data from `start`.
    Read {
        start: u64,
        len: u64,
    },
    Nothing,
}

impl Inference {
    pub fn new(
        seed: Seed,
        segment: SegmentId,
        expected: [Option<Position>; 2],
        piece_bytes: u64,
    ) -> Inference {
        Inference {
            seed,
            segment,
            expected,
            bases: Vec::new(),
            at: 0,
            asked: (0, piece_bytes),
            piece_bytes,
        }
    }

    pub fn first_read(&self) -> (u64, u64) {
        self.asked
    }

    /// Looks through what was read, fewer bytes than asked for at the end of the file.
    pub fn load(&mut self, bytes: &[u8]) -> Inferred {
        let (start, len) = self.asked;
        let is_last = (bytes.len() as u64) < len;
        while let Some(rest) = bytes
            .get((self.at - start) as usize..)
            .filter(|rest| !rest.is_empty())
        {
            match self.base_by(rest) {
                Ok(base) => {
                    if let Some(base) = base {
                        self.count(base);
                    }
                    self.at += ALIGN;
                }
                Err(needed) if !is_last && needed as u64 <= crate::wal::SEGMENT_SIZE_MAX => {
                    self.asked = (self.at, (needed as u64).max(self.piece_bytes));
                    let (start, len) = self.asked;
                    return Inferred::Read { start, len };
                }
                Err(_) => self.at += ALIGN,
            }
        }
        if is_last {
            return self.most_likely().map_or(Inferred::Nothing, Inferred::Base);
        }
        self.asked = (self.at, self.piece_bytes);
        let (start, len) = self.asked;
        Inferred::Read { start, len }
    }

    fn count(&mut self, base: Position) {
        match self.bases.iter_mut().find(|(known, _)| *known == base) {
            Some((_, count)) => *count += 1,
            None => self.bases.push((base, 1)),
        }
    }

    /// One that fits between the neighbours, however few speak of it; otherwise that of the most, the lowest of these.
    fn most_likely(&self) -> Option<Position> {
        let is_expected = |base: &Position| self.expected.contains(&Some(*base));
        let best = self
            .bases
            .iter()
            .max_by_key(|(base, count)| (is_expected(base), *count, std::cmp::Reverse(*base)));
        best.map(|(base, _)| *base)
    }

    /// The base, if an entry begins here. `Err`: so many bytes are needed to tell.
    fn base_by(&self, bytes: &[u8]) -> Result<Option<Position>, usize> {
        let Some(head) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Err(HEADER_BYTES);
        };
        if !head.starts_with(&MAGIC.to_le_bytes()) {
            return Ok(None);
        }
        let position = Position(u64::from_le_bytes(head[24..32].try_into().expect("eight bytes")));
        let Ok(header) = EntryHeader::read(self.seed, position, bytes) else {
            return Ok(None);
        };
        match header.entry(bytes) {
            Ok(_) => {}
            Err(EntryError::Short { needed }) => return Err(needed),
            Err(_) => return Ok(None),
        }
        let base = position.0.checked_sub(self.at).map(Position);
        let is_possible =
            |base: &Position| base.0.is_multiple_of(PAGE_BYTES as u64) && base.0 < crate::wal::POSITION_MAX;
        Ok(base.filter(|base| header.segment == self.segment && is_possible(base)))
    }
}
