//! Recovery: from the files of a log to the entries that count, without I/O.
//!
//! The caller lists the `*.seg` files of a log's directory and then:
//!
//! 1. [`Recovery::header`] with the first page of every file;
//! 2. while [`Recovery::survey_next`] names a segment: load it whole, [`Recovery::survey`];
//! 3. while [`Recovery::replay_next`] names a segment: load it whole, [`Recovery::replay`];
//! 4. [`Recovery::finish`]; fdatasync every segment in [`Recovered::unsynced`]; start the log.
//!
//! ```text
//!               synced                end of the log
//!                 │                        │
//!  ───────────────┼────────────────────────┼─────────────────────────▶ positions
//!   bad bytes are │ entries count as far   │ first bad bytes: a torn
//!   corruption:   │ as they are sound      │ tail, nothing behind it
//!   skip, report  │                        │ counts
//! ```
//!
//! Every group entry says how far the log was synced before it; the newest one that is sound draws the
//! line. A segment counts from its base to its end, or to where one with a higher id cuts it off. Stale
//! entries of a recycled file carry another segment id and never count.

mod runs;
mod walk;

use thiserror::Error;

use super::entry::{EntryFlags, EntryKind, HEADER_BYTES, Seed};
use super::group::GroupHead;
use super::options::{KnownSegment, LogStart};
use super::segment::{HeaderError, SegmentHeader, SegmentId, parse_header};
use crate::base::block::PAGE_BYTES;
use crate::base::ids::{LogId, Position};
use crate::base::time::WallTime;
use runs::Runs;
use walk::{Step, Walk, infer_base};

/// An entry that counts. Its bytes are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplayedEntry<'a> {
    pub position: Position,
    pub kind: EntryKind,
    pub flags: EntryFlags,
    pub sequence: u64,
    /// When its group was begun.
    pub arrived: WallTime,
    pub payload: &'a [u8],
}

/// Positions below the mark of what was synced that hold no valid entry: lost, and to be reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CorruptRange {
    /// `None` where a whole file is missing.
    pub segment: Option<SegmentId>,
    pub start: Position,
    pub end: Position,
}

/// What recovery found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// For [`super::Log::new`].
    pub start: LogStart,
    /// As the headers say; `None` without any sound one.
    pub log_seed: Option<u64>,
    /// Entries replayed.
    pub entries: u64,
    /// Entries lost to corruption, by the holes in their numbers.
    pub entries_lost: u64,
    /// Bytes after the end of the log that were written and never synced, an unfinished run included.
    pub torn_bytes: u64,
    pub corrupt: Vec<CorruptRange>,
    /// Segments with entries that were replayed although no sync is known to cover them: fdatasync these
    /// files before anything is built on them.
    pub unsynced: Vec<SegmentId>,
    /// Files that are no segments: every page of them is damaged. They are left alone.
    pub unreadable: Vec<SegmentId>,
}

/// Why a directory cannot be recovered as it is. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RecoverError {
    /// The operator's: a newer tailkeep wrote here.
    #[error("{}: {error}", segment.file_name())]
    Newer { segment: SegmentId, error: HeaderError },
    /// The operator's: a file of another log was put here.
    #[error("{}: belongs to another log", segment.file_name())]
    Foreign { segment: SegmentId },
}

/// One recovery of one log.
///
/// Invariant: no bytes make it panic.
pub struct Recovery {
    log: LogId,
    log_seed: Option<u64>,
    /// By id.
    files: Vec<File>,
    synced: Position,
    group_found: bool,
    /// Files before this index are replayed.
    next: usize,
    runs: Runs,
    /// The number that the next entry should have.
    sequence_next: Option<u64>,
    arrived: WallTime,
    /// Where the segments so far end.
    covered: Option<Position>,
    /// The end of the log, once the torn tail is reached.
    stopped: Option<Position>,
    entries_lost: u64,
    torn_bytes: u64,
    corrupt: Vec<CorruptRange>,
    unsynced: Vec<SegmentId>,
}

struct File {
    segment: SegmentId,
    /// As found, or inferred from the entries. `None`: nothing sound in it.
    header: Option<SegmentHeader>,
    surveyed: bool,
    /// Where it stops counting: its end, or the lowest cut of the files after it.
    limit: Position,
    oldest: Option<WallTime>,
    newest: WallTime,
}

impl Recovery {
    pub fn new(log: LogId) -> Recovery {
        Recovery {
            log,
            log_seed: None,
            files: Vec::new(),
            synced: Position(0),
            group_found: false,
            next: 0,
            runs: Runs::default(),
            sequence_next: None,
            arrived: WallTime(0),
            covered: None,
            stopped: None,
            entries_lost: 0,
            torn_bytes: 0,
            corrupt: Vec::new(),
            unsynced: Vec::new(),
        }
    }

    /// The first page of the file named `segment`; fewer bytes if the file is shorter.
    pub fn header(&mut self, segment: SegmentId, page: &[u8]) -> Result<(), RecoverError> {
        let header = match parse_header(page) {
            // A crash between renaming a recycled file and writing its header leaves the old one.
            Ok(header) if header.segment == segment => Some(header),
            Ok(_) | Err(HeaderError::Damaged) => None,
            Err(error @ HeaderError::Newer(_)) => return Err(RecoverError::Newer { segment, error }),
        };
        if let Some(header) = header {
            let log_seed = *self.log_seed.get_or_insert(header.log_seed);
            if header.log != self.log || header.log_seed != log_seed {
                return Err(RecoverError::Foreign { segment });
            }
        }
        let newest = WallTime(0);
        let file = File {
            segment,
            header,
            surveyed: false,
            limit: Position(0),
            oldest: None,
            newest,
        };
        match self.files.binary_search_by_key(&segment, |file| file.segment) {
            Ok(index) => self.files[index] = file,
            Err(index) => self.files.insert(index, file),
        }
        Ok(())
    }

    /// The next file to load for [`Recovery::survey`], newest first; usually only one. `None` when how
    /// far the log was synced is known.
    pub fn survey_next(&self) -> Option<SegmentId> {
        self.log_seed?;
        let unseen = |file: &&File| !file.surveyed;
        let headless = self
            .files
            .iter()
            .filter(unseen)
            .find(|file| file.header.is_none());
        let newest = self.files.iter().rfind(unseen).filter(|_| !self.group_found);
        headless.or(newest).map(|file| file.segment)
    }

    /// Finds how far the log was synced when this file was written. `file` is all of it.
    pub fn survey(&mut self, segment: SegmentId, file: &[u8]) {
        let Some(index) = self.index_of(segment) else {
            return;
        };
        self.files[index].surveyed = true;
        let Some(log_seed) = self.log_seed else { return };
        let seed = Seed::new(log_seed);
        let data = file.get(PAGE_BYTES..).unwrap_or(&[]);
        if self.files[index].header.is_none() {
            self.files[index].header = self.infer_header(segment, log_seed, data);
        }
        let Some(header) = self.files[index].header else {
            return;
        };
        for step in Walk::new(seed, segment, header.base, header.end(), data).of_headers() {
            if let Step::Entry {
                header,
                entry: Some(entry),
            } = step
                && header.kind == EntryKind::GROUP
                && let Some(head) = GroupHead::read(entry.payload)
                && head.synced_upto <= header.position
            {
                self.synced = self.synced.max(head.synced_upto);
                self.group_found = true;
            }
        }
    }

    /// The next file to load for [`Recovery::replay`], oldest first.
    pub fn replay_next(&mut self) -> Option<SegmentId> {
        if self.next == 0 {
            self.set_limits();
        }
        while self.stopped.is_none() && self.next < self.files.len() {
            let file = &self.files[self.next];
            if file.header.is_some_and(|header| header.base < file.limit) {
                return Some(file.segment);
            }
            self.next += 1;
        }
        None
    }

    /// Hands every entry that counts to `each`, in order. `segment` is what
    /// [`Recovery::replay_next`] named, and `file` all of it.
    pub fn replay(&mut self, segment: SegmentId, file: &[u8], each: &mut impl FnMut(ReplayedEntry<'_>)) {
        let Some(index) = self.index_of(segment).filter(|index| *index >= self.next) else {
            return;
        };
        self.next = index + 1;
        let (Some(header), Some(log_seed)) = (self.files[index].header, self.log_seed) else {
            return;
        };
        let limit = self.files[index].limit;
        self.note_missing(header.cut, file, each);
        let data = file.get(PAGE_BYTES..).unwrap_or(&[]);
        let mut walk = Walk::new(Seed::new(log_seed), segment, header.base, limit, data);
        let mut replayed_to = header.base;
        while let Some(step) = walk.next() {
            let (bad_start, bad_end) = match step {
                Step::Entry {
                    header: entry_header,
                    entry: Some(entry),
                } => {
                    replayed_to = entry_header.end();
                    if entry_header.kind == EntryKind::GROUP {
                        self.arrived =
                            GroupHead::read(entry.payload).map_or(self.arrived, |head| head.arrived);
                        self.files[index].oldest.get_or_insert(self.arrived);
                        self.files[index].newest = self.arrived;
                    } else if entry_header.kind != EntryKind::PAD {
                        let at =
                            PAGE_BYTES + entry_header.position.since(header.base) as usize + HEADER_BYTES;
                        self.count(entry_header.sequence);
                        let range = at..at + entry.payload.len();
                        self.runs.push(entry_header, self.arrived, file, range, each);
                    }
                    continue;
                }
                Step::Entry { header, entry: None } => (header.position, header.end()),
                Step::Gap { start, end } => (start, end),
            };
            if bad_start < self.synced {
                self.note_corrupt(Some(segment), bad_start, bad_end.min(self.synced).min(limit));
                self.runs.flush(file, each);
            }
            if bad_end > self.synced {
                self.stop(bad_start.max(self.synced), walk);
                break;
            }
        }
        if self.stopped.is_none() {
            let reached = header.base.plus(data.len() as u64).max(replayed_to);
            self.note_truncated(segment, reached, limit);
            self.covered = Some(limit);
        }
        if replayed_to > self.synced {
            self.unsynced.push(segment);
        }
        self.runs.carry(file, each);
    }

    pub fn finish(mut self) -> Recovered {
        if self.next == 0 {
            self.set_limits();
        }
        let mut cut = self.stopped.or(self.covered).unwrap_or(Position(0));
        if let Some((start, sequence)) = self.runs.unfinished() {
            self.torn_bytes += cut.0.saturating_sub(start.0);
            self.sequence_next = Some(sequence);
            cut = start;
        }
        let newest = self.files.last().map_or(SegmentId(0), |file| file.segment);
        let mut next_position = self.synced.max(cut);
        let (mut segments, mut removable, mut unreadable) = (Vec::new(), Vec::new(), Vec::new());
        for file in &self.files {
            let Some(header) = file.header else {
                // The newest one was being opened when the process ended.
                match file.segment == newest {
                    true => removable.push(file.segment),
                    false => unreadable.push(file.segment),
                }
                continue;
            };
            next_position = next_position.max(header.end());
            let end = file.limit.min(cut);
            if end <= header.base {
                removable.push(file.segment);
                continue;
            }
            segments.push(KnownSegment {
                segment: file.segment,
                base: header.base,
                end,
                size: header.size,
                oldest: file.oldest.unwrap_or(file.newest),
                newest: file.newest,
            });
        }
        Recovered {
            start: LogStart {
                next_segment: SegmentId(newest.0.saturating_add(1)),
                next_position,
                cut,
                next_sequence: self.sequence_next.unwrap_or(0),
                segments,
                removable,
            },
            log_seed: self.log_seed,
            entries: self.runs.replayed,
            entries_lost: self.entries_lost,
            torn_bytes: self.torn_bytes,
            corrupt: self.corrupt,
            unsynced: self.unsynced,
            unreadable,
        }
    }

    fn index_of(&self, segment: SegmentId) -> Option<usize> {
        self.files
            .binary_search_by_key(&segment, |file| file.segment)
            .ok()
    }

    /// A header for a file whose own is damaged: where it cuts off older ones is lost.
    fn infer_header(&self, segment: SegmentId, log_seed: u64, data: &[u8]) -> Option<SegmentHeader> {
        let base = infer_base(Seed::new(log_seed), segment, data)?;
        let size = self
            .files
            .iter()
            .filter_map(|file| file.header)
            .map(|header| header.size)
            .max()?;
        Some(SegmentHeader {
            log: self.log,
            log_seed,
            segment,
            base,
            cut: base,
            size,
        })
    }

    fn set_limits(&mut self) {
        let mut cut = Position(u64::MAX);
        for file in self.files.iter_mut().rev() {
            if let Some(header) = file.header {
                file.limit = header.end().min(cut);
                cut = cut.min(header.cut);
            }
        }
    }

    fn count(&mut self, sequence: u64) {
        if let Some(expected) = self.sequence_next {
            let lost = sequence.saturating_sub(expected);
            self.entries_lost = self.entries_lost.saturating_add(lost);
        }
        self.sequence_next = Some(sequence.saturating_add(1));
    }

    fn note_corrupt(&mut self, segment: Option<SegmentId>, start: Position, end: Position) {
        if start < end {
            self.corrupt.push(CorruptRange { segment, start, end });
        }
    }

    /// Positions between the segments so far and one that cuts off what lies before `cut`.
    fn note_missing(&mut self, cut: Position, file: &[u8], each: &mut impl FnMut(ReplayedEntry<'_>)) {
        if let Some(covered) = self.covered
            && covered < cut
        {
            self.runs.flush(file, each);
            self.note_corrupt(None, covered, cut.min(self.synced));
        }
    }

    /// A file that ends before it should.
    fn note_truncated(&mut self, segment: SegmentId, reached: Position, limit: Position) {
        if reached >= limit {
            return;
        }
        self.note_corrupt(Some(segment), reached, limit.min(self.synced));
        if limit > self.synced {
            self.stopped = Some(reached.max(self.synced));
        }
    }

    /// The log ends at `end`. What was written behind it is measured, not read.
    fn stop(&mut self, end: Position, walk: Walk<'_>) {
        self.stopped = Some(end);
        let rest = walk.of_headers().starting_at(end);
        let sound = rest.filter_map(|step| match step {
            Step::Entry { header, .. } if header.kind != EntryKind::PAD => Some(header.end()),
            Step::Entry { .. } | Step::Gap { .. } => None,
        });
        self.torn_bytes += sound.last().map_or(0, |last| last.0.saturating_sub(end.0));
    }
}
