//! Where the spans of any trace stand in a log: for whoever asks for a trace that nobody remembers.
//!
//! ```text
//!  log   ┌───────────────────────┬───────────────────────────┬─────────────
//!        │ S S  V S S S  V S  S  │ ▒▒▒▒▒▒▒▒▒▒▒▒ C  S S  V S  │ ▒▒▒▒▒▒ C  …
//!        └───────────────────────┴──────────────▲────────────┴────────▲────
//!          └──────── indexed by ────┘ buckets   └───── previous ──────┘
//!
//!  bucket    │ base u64, n × { 32 bits of the trace's hash, (position of an entry − base) / 64: u32 }
//!  contents  │ position of the contents before u64, all ones for none; from u64; to u64; 16 × position of a bucket,
//!            │ all ones for an empty one
//! ```
//!
//! A fragment (the spans of one trace in one entry) is noted when it is written, in one of sixteen buckets by four bits
//! of its trace's keyed hash. When the log has gone on to another segment, or when enough have come together, the
//! buckets become entries of the log, and a contents entry says where they are and what they cover. So an index stands
//! behind what it covers and leaves the log after it. A look reads one bucket per segment.
//!
//! In memory are the fragments since then, eight bytes each, and the contents of what the log holds. After a start that
//! passed over older segments their contents are read when somebody asks for the first time.
//!
//! A hit is a hint: 36 bits of a hash name an entry whose directory then tells.

use super::record::{CONTENTS, INDEX};
use super::settle::{Found, find_payload};
use super::{Fetcher, Landing};
use crate::base::block::BlockPool;
use crate::base::codec::Reader;
use crate::base::ids::{Place, Position};
use crate::base::time::Now;
use crate::wal::Log;
use crate::wal::entry::entry_bytes;
use std::collections::VecDeque;

const BUCKET_COUNT: usize = 16;
/// Fragments noted before they become entries: half a megabyte, in buckets of 32 KiB.
const NOTED_COUNT_MAX: usize = 64 << 10;
const NO_POSITION: u64 = u64::MAX;

/// The spans of one trace in one entry.
#[derive(Clone, Copy, Debug)]
struct Fragment {
    fingerprint: u32,
    /// (position − base) / 64
    offset: u32,
}

/// What one contents entry says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Contents {
    previous: Option<Position>,
    /// It covers the entries at `from..to`.
    pub from: Position,
    pub to: Position,
    buckets: [Option<Position>; BUCKET_COUNT],
}

/// The index of one log.
///
/// Invariant: of every entry with spans each fragment is noted in `buckets` or covered by `contents`, or the segment
/// was passed over by a start and its contents are reached from `older`.
#[derive(Debug, Default)]
pub(super) struct Index {
    buckets: [Vec<Fragment>; BUCKET_COUNT],
    count: usize,
    /// The first entry that is noted and not covered.
    base: Option<Position>,
    /// Oldest first.
    contents: VecDeque<Contents>,
    newest: Option<Position>,
    /// The next contents entry to read, going back.
    older: Option<Position>,
    /// During a replay: names or contents have said where older contents are.
    older_known: bool,
}

fn bucket_of(hash: u64) -> usize {
    hash as usize % BUCKET_COUNT
}

fn fingerprint(hash: u64) -> u32 {
    (hash >> 32) as u32
}

impl Index {
    /// An entry has spans of the trace with this hash. Entries come in the order of the log.
    #[inline]
    pub fn note(&mut self, hash: u64, entry: Position) {
        let base = *self.base.get_or_insert(entry);
        self.buckets[bucket_of(hash)].push(Fragment {
            fingerprint: fingerprint(hash),
            offset: (entry.since(base) / Place::ENTRY_ALIGN) as u32,
        });
        self.count += 1;
    }

    /// Entries from here on are noted and not written.
    pub fn noted_from(&self) -> Option<Position> {
        self.base.filter(|_| self.count > 0)
    }

    /// Where the newest contents entry is, for the names of segments to come.
    pub fn newest(&self) -> Option<Position> {
        self.newest
    }

    /// A replay has come to the names entry of a segment.
    pub fn names_found(&mut self, newest: Option<Position>) {
        if !std::mem::replace(&mut self.older_known, true) {
            self.older = newest;
            self.newest = newest;
        }
    }

    /// A replay has come to a contents entry. `None`: no version wrote it.
    pub fn contents_found(&mut self, position: Position, payload: &[u8]) -> Option<()> {
        let contents = Contents::read(payload)?;
        if !std::mem::replace(&mut self.older_known, true) {
            self.older = contents.previous.filter(|previous| *previous < position);
        }
        if let Some(base) = self.base {
            let is_left = |fragment: &Fragment| fragment.position(base) >= contents.to;
            for bucket in &mut self.buckets {
                bucket.retain(is_left);
            }
            self.count = self.buckets.iter().map(Vec::len).sum();
        }
        self.newest = Some(position);
        self.contents.push_back(contents);
        Some(())
    }

    /// What is noted and not written, of the trace with this hash.
    pub fn noted(&self, hash: u64) -> impl Iterator<Item = Position> {
        let base = self.base.unwrap_or_default();
        let bucket = self.buckets[bucket_of(hash)].iter();
        bucket
            .filter(move |fragment| fragment.fingerprint == fingerprint(hash))
            .map(move |fragment| fragment.position(base))
    }

    /// Bucket entries that may name the trace with this hash, newest first.
    pub fn written(&self, hash: u64) -> impl Iterator<Item = Position> {
        let bucket = bucket_of(hash);
        self.contents
            .iter()
            .rev()
            .filter_map(move |contents| contents.buckets[bucket])
    }

    /// Reads the contents of segments that a start passed over; `false`: a read is waited for.
    pub fn read_older<P: BlockPool>(&mut self, log: &Log<P>, fetcher: &mut Fetcher) -> bool {
        while let Some(position) = self.older {
            let contents = match find_payload(log, fetcher, position) {
                Found::Waiting => return false,
                // It has left the log, and what it covers went before it.
                Found::Lost => None,
                Found::Here(payload) => Contents::read(payload),
            };
            // A contents entry names an older one, so this ends.
            self.older = contents
                .as_ref()
                .and_then(|contents| contents.previous)
                .filter(|previous| *previous < position);
            if let Some(contents) = contents {
                self.contents.push_front(contents);
            }
        }
        true
    }

    fn is_due<P: BlockPool>(&self, log: &Log<P>, tail: Position) -> bool {
        let has_gone_on = |base| !log.is_same_segment(base, tail);
        self.count >= NOTED_COUNT_MAX || (self.count > 0 && self.base.is_some_and(has_gone_on))
    }

    pub fn memory_bytes(&self) -> u64 {
        let noted: usize = self.buckets.iter().map(Vec::capacity).sum();
        (noted * size_of::<Fragment>() + self.contents.capacity() * size_of::<Contents>()) as u64
    }
}

impl Fragment {
    fn position(self, base: Position) -> Position {
        base.plus(u64::from(self.offset) * Place::ENTRY_ALIGN)
    }
}

impl Contents {
    fn put(&self, out: &mut Vec<u8>) {
        let position = |position: Option<Position>| position.map_or(NO_POSITION, |position| position.0);
        let fields = [position(self.previous), self.from.0, self.to.0];
        let buckets = self.buckets.iter().map(|bucket| position(*bucket));
        for field in fields.into_iter().chain(buckets) {
            out.extend_from_slice(&field.to_le_bytes());
        }
    }

    pub fn read(payload: &[u8]) -> Option<Contents> {
        let mut reader = Reader::new(payload);
        let position = |reader: &mut Reader<'_>| {
            let position = reader.u64()?;
            let is_place = position.is_multiple_of(Place::ENTRY_ALIGN) && position >> 50 == 0;
            match position {
                NO_POSITION => Some(None),
                position if is_place => Some(Some(Position(position))),
                _ => None,
            }
        };
        let previous = position(&mut reader)?;
        let (from, to) = (Position(reader.u64()?), Position(reader.u64()?));
        let mut buckets = [None; BUCKET_COUNT];
        for bucket in &mut buckets {
            *bucket = position(&mut reader)?;
        }
        Some(Contents {
            previous,
            from,
            to,
            buckets,
        })
    }
}

fn put_bucket(base: Position, fragments: &[Fragment], out: &mut Vec<u8>) {
    out.extend_from_slice(&base.0.to_le_bytes());
    for fragment in fragments {
        out.extend_from_slice(&fragment.fingerprint.to_le_bytes());
        out.extend_from_slice(&fragment.offset.to_le_bytes());
    }
}

/// The entries that a bucket names for the trace with this hash; `None`: no version wrote it.
pub(super) fn read_bucket(payload: &[u8], hash: u64) -> Option<Vec<Position>> {
    let mut reader = Reader::new(payload);
    let base = Position(reader.u64()?);
    if !base.0.is_multiple_of(Place::ENTRY_ALIGN) || base.0 >> 50 != 0 {
        return None;
    }
    let mut found = Vec::new();
    while !reader.is_empty() {
        let fragment = Fragment {
            fingerprint: reader.u32()?,
            offset: reader.u32()?,
        };
        if fragment.fingerprint == fingerprint(hash) {
            found.push(fragment.position(base));
        }
    }
    Some(found)
}

impl<P: BlockPool, W> Landing<P, W> {
    /// Writes what is noted to the log when it is due.
    pub(super) fn write_index(&mut self, now: Now) {
        if !self.index.is_due(&self.log, self.tail) {
            return;
        }
        let base = self.index.base.take().expect("something is noted");
        let mut contents = Contents {
            previous: self.index.newest,
            from: base,
            to: self.tail,
            buckets: [None; BUCKET_COUNT],
        };
        let mut payload = std::mem::take(&mut self.framed);
        for bucket in 0..BUCKET_COUNT {
            payload.clear();
            let fragments = &mut self.index.buckets[bucket];
            if fragments.is_empty() {
                continue;
            }
            put_bucket(base, fragments, &mut payload);
            fragments.clear();
            let end = self.append(now, INDEX, &payload);
            contents.buckets[bucket] = Some(Position(end.0 - entry_bytes(payload.len()) as u64));
        }
        self.index.count = 0;
        payload.clear();
        contents.put(&mut payload);
        let end = self.append(now, CONTENTS, &payload);
        self.index.newest = Some(Position(end.0 - entry_bytes(payload.len()) as u64));
        self.framed = payload;
        let begin = self.log.begins_at();
        let gone = self
            .index
            .contents
            .partition_point(|contents| contents.to <= begin);
        self.index.contents.drain(..gone);
        self.index.contents.push_back(contents);
        self.write_prologue();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_is_found_by_its_hash_and_by_little_else() {
        let mut index = Index::default();
        let hash = |number: u64| number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for number in 1..10_000 {
            index.note(hash(number), Position(640 + number * 64));
        }
        let base = index.base.expect("noted");
        let mut payload = Vec::new();
        for number in 1..10_000 {
            let expected = vec![Position(640 + number * 64)];
            assert_eq!(index.noted(hash(number)).collect::<Vec<_>>(), expected);
            payload.clear();
            put_bucket(base, &index.buckets[bucket_of(hash(number))], &mut payload);
            assert_eq!(read_bucket(&payload, hash(number)), Some(expected));
            assert!(payload.len() < 16 + 8 * 2000);
        }
        assert_eq!(read_bucket(&payload[1..], 1), None);
    }

    #[test]
    fn contents_are_read_back_and_take_over_what_they_cover() {
        let contents = Contents {
            previous: Some(Position(64)),
            from: Position(128),
            to: Position(256),
            buckets: std::array::from_fn(|bucket| (bucket % 2 == 0).then_some(Position(64 * bucket as u64))),
        };
        let mut payload = Vec::new();
        contents.put(&mut payload);
        assert_eq!(Contents::read(&payload), Some(contents.clone()));
        assert!((0..payload.len()).all(|len| Contents::read(&payload[..len]).is_none()));
        let mut index = Index::default();
        for (hash, entry) in [(1, 128), (2, 192), (3, 256), (4, 320)] {
            index.note(hash, Position(entry));
        }
        assert_eq!(index.contents_found(Position(512), &payload), Some(()));
        assert_eq!((index.count, index.older), (2, Some(Position(64))));
        assert_eq!(index.noted(3).collect::<Vec<_>>(), [Position(256)]);
        assert_eq!(index.noted(1).count(), 0);
        assert_eq!(index.written(4).next(), Some(Position(256)));
    }
}
