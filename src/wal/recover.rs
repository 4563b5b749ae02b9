//! Recovery: from the files of a log to the entries that count, without I/O.
//!
//! The caller lists the `*.seg` files of a log's directory and then:
//!
//! 1. [`Recovery::header`] with the first [`HEAD_BYTES`] of every file;
//! 2. while [`Recovery::poll_read`] wants bytes: read them, [`Recovery::handle_read`];
//! 3. [`Recovery::finish`]; fdatasync every segment in [`Recovered::unsynced`]; start the log.
//!
//! First the newest files are surveyed: how far was the log synced, and from where does a start need it? Then
//! entries are handed on, oldest first. At no time is more than a piece of one file in memory, besides the
//! entries of a run whose end has not been seen yet.
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
//! entries of a recycled file carry another segment id and never count. Nothing is read behind the place where a
//! segment stops counting, so a file that an earlier start left mostly empty costs only what is in it; the newest
//! one is looked through to its end, because only that shows where the log ends.

mod runs;
mod walk;

use thiserror::Error;

use super::entry::{EntryFlags, EntryHeader, EntryKind, HEADER_BYTES, Seed};
use super::group::GroupHead;
use super::options::{KnownSegment, LogStart};
use super::segment::{HeaderError, SegmentHeader, SegmentId, parse_header};
use crate::base::block::PAGE_BYTES;
use crate::base::ids::{LogId, Position};
use crate::base::time::WallTime;
use runs::Runs;
use walk::{Inference, Inferred, Next, Step, Walk};

/// What [`Recovery::header`] wants of each file: its header, and the page of its first group.
pub const HEAD_BYTES: usize = 2 * PAGE_BYTES;

/// Bytes read at a time. A multiple of the block, so that entries seldom lie across two pieces.
const PIECE_BYTES: u64 = 1 << 20;

/// Bytes of a file that recovery wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentRead {
    pub segment: SegmentId,
    pub offset: u64,
    pub len: usize,
}

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
    /// How far the log is known to have been synced. Bad bytes before it are in `corrupt`.
    pub synced: Position,
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

/// Which entries are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All that the files hold.
    Whole,
    /// From the segment on that a start needs, nothing in those before it waits for anything; and at least the
    /// last `tail_bytes`. `from`: what waits before it is known otherwise.
    Needed { tail_bytes: u64, from: Position },
}

/// Stands for the headers of a log of which none is sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fallback {
    pub log_seed: u64,
    /// Data bytes of a segment.
    pub size: u64,
}

/// One recovery of one log.
///
/// Invariant: no bytes make it panic.
pub struct Recovery {
    log: LogId,
    extent: Extent,
    piece_bytes: u64,
    log_seed: Option<u64>,
    fallback: Option<Fallback>,
    /// By id.
    files: Vec<File>,
    synced: Position,
    resumes_at: Position,
    /// Files before this index are replayed or passed over. `None` until all is surveyed.
    next: Option<usize>,
    first: usize,
    scan: Option<Scan>,
    wanted: Option<SegmentRead>,
    spare: Vec<u8>,
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

/// The file that is being read, and what for.
struct Scan {
    index: usize,
    task: Task,
}

enum Task {
    /// Its header page is damaged: where does it begin?
    Infer(Inference),
    /// How far was the log synced?
    Survey { walk: Walk, empty_from: u64 },
    Replay {
        walk: Walk,
        replayed_to: Position,
        begun: bool,
    },
    /// The log has ended: how much was written behind its end?
    Torn {
        walk: Walk,
        end: Position,
        last: Position,
    },
}

struct File {
    segment: SegmentId,
    /// As found, or inferred from the entries. `None`: nothing sound in it.
    header: Option<SegmentHeader>,
    surveyed: bool,
    /// A survey found a sound group in it.
    has_group: bool,
    /// Its header is not its own.
    is_inferred: bool,
    /// Data bytes that it has, and where its last sound entry ends, if a survey found out.
    found: Option<(u64, u64)>,
    /// Where it stops counting: its end, or the lowest cut of the files after it.
    limit: Position,
    oldest: Option<WallTime>,
    newest: WallTime,
}

impl Recovery {
    pub fn new(log: LogId, extent: Extent) -> Recovery {
        Recovery {
            log,
            extent,
            piece_bytes: PIECE_BYTES,
            log_seed: None,
            fallback: None,
            files: Vec::new(),
            synced: Position(0),
            resumes_at: Position(0),
            next: None,
            first: 0,
            scan: None,
            wanted: None,
            spare: Vec::new(),
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

    /// Reads in pieces that end on multiples of `bytes`; what is found does not depend on it.
    pub fn in_pieces_of(self, bytes: u64) -> Recovery {
        let piece_bytes = bytes.max(HEADER_BYTES as u64);
        Recovery { piece_bytes, ..self }
    }

    /// What headers would say, should none be sound.
    pub fn with_fallback(self, fallback: Option<Fallback>) -> Recovery {
        Recovery { fallback, ..self }
    }

    /// The first [`HEAD_BYTES`] of the file named `segment`; fewer if the file is shorter.
    pub fn header(&mut self, segment: SegmentId, head: &[u8]) -> Result<(), RecoverError> {
        let header = match parse_header(head) {
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
        let file = File {
            segment,
            header,
            surveyed: false,
            has_group: false,
            is_inferred: false,
            found: None,
            limit: Position(0),
            oldest: header.and_then(|header| first_arrival(&header, head.get(PAGE_BYTES..)?)),
            newest: WallTime(0),
        };
        match self.files.binary_search_by_key(&segment, |file| file.segment) {
            Ok(index) => self.files[index] = file,
            Err(index) => self.files.insert(index, file),
        }
        Ok(())
    }

    /// The bytes to read next; `None` when all that is wanted has been handed on.
    pub fn poll_read(&mut self) -> Option<SegmentRead> {
        if self.wanted.is_none() {
            self.begin_scan();
        }
        self.wanted
    }

    /// An empty buffer that has served before.
    pub fn take_buffer(&mut self) -> Vec<u8> {
        let mut buffer = std::mem::take(&mut self.spare);
        buffer.clear();
        buffer
    }

    /// What [`Recovery::poll_read`] asked for; fewer bytes if the file ends there. Entries that count go to
    /// `each`, in order.
    pub fn handle_read(&mut self, bytes: Vec<u8>, each: &mut impl FnMut(ReplayedEntry<'_>)) {
        if self.wanted.take().is_none() {
            return;
        }
        let Some(mut scan) = self.scan.take() else {
            return;
        };
        match &mut scan.task {
            Task::Infer(inference) => {
                let inferred = inference.load(&bytes);
                self.spare = bytes;
                return self.handle_inferred(scan, inferred);
            }
            Task::Survey { walk, .. } | Task::Replay { walk, .. } | Task::Torn { walk, .. } => {
                walk.load(bytes)
            }
        }
        while let Some(again) = self.go_on(scan, each) {
            scan = again;
        }
    }

    /// Goes on until bytes are needed or the file is done with; what is returned goes on otherwise.
    fn go_on(&mut self, mut scan: Scan, each: &mut impl FnMut(ReplayedEntry<'_>)) -> Option<Scan> {
        let index = scan.index;
        let walk = match &mut scan.task {
            Task::Infer(_) => return None,
            Task::Survey { walk, empty_from } => {
                self.survey(index, walk, empty_from);
                walk
            }
            Task::Replay {
                walk,
                replayed_to,
                begun,
            } => {
                if !std::mem::replace(begun, true) {
                    let file = &self.files[index];
                    let cut = file.header.map_or(Position(0), |header| header.cut);
                    if file.is_inferred && self.covered.is_none() {
                        // What it begins with may be what was lost of it.
                        let [_, behind] = self.expected_bases(index);
                        self.covered = behind.filter(|base| *base < cut);
                    }
                    self.note_missing(cut, each);
                }
                let stopped_before = self.stopped.is_some();
                let stopped = match stopped_before {
                    true => None,
                    false => self.replay(index, walk, replayed_to, each),
                };
                self.runs.carry(walk.window(), each);
                if stopped_before {
                    self.spare = walk.take_window();
                    return None;
                }
                if let Some(end) = stopped {
                    self.end_of_replay(index, *replayed_to);
                    let Task::Replay { mut walk, .. } = scan.task else {
                        return None;
                    };
                    walk.restart_of_headers(end);
                    let task = Task::Torn { walk, end, last: end };
                    return Some(Scan { index, task });
                }
                walk
            }
            Task::Torn { walk, last, .. } => {
                while let Next::Step(step) = walk.next() {
                    if let Step::Entry { header, .. } = step
                        && header.kind != EntryKind::PAD
                    {
                        *last = (*last).max(header.end());
                    }
                }
                walk
            }
        };
        if let Next::Read { start, len } = walk.next() {
            self.spare = walk.take_window();
            self.want(index, start, len);
            self.scan = Some(scan);
            return None;
        }
        self.spare = walk.take_window();
        let length = walk.length();
        match scan.task {
            Task::Infer(_) => {}
            Task::Survey { empty_from, .. } => self.files[index].found = Some((length, empty_from)),
            Task::Replay { replayed_to, .. } => {
                let file = &self.files[index];
                let (segment, limit) = (file.segment, file.limit);
                let base = file.header.map_or(limit, |header| header.base);
                self.note_truncated(segment, base.plus(length).max(replayed_to), limit);
                self.covered = Some(limit);
                self.end_of_replay(index, replayed_to);
            }
            Task::Torn { end, last, .. } => self.torn_bytes += last.0.saturating_sub(end.0),
        }
        None
    }

    fn want(&mut self, index: usize, start: u64, len: u64) {
        self.wanted = Some(SegmentRead {
            segment: self.files[index].segment,
            offset: PAGE_BYTES as u64 + start,
            len: usize::try_from(len).unwrap_or(usize::MAX),
        });
    }

    /// Looks for the groups of a file, or, if its header is unreadable, for what it was.
    fn begin_survey(&mut self, seed: Seed, segment: SegmentId) {
        let index = self.index_of(segment).expect("just found among the files");
        if let Some(header) = self.files[index].header {
            self.files[index].surveyed = true;
            let walk = Walk::new(seed, segment, header.base, header.end(), self.piece_bytes).of_headers();
            let task = Task::Survey { walk, empty_from: 0 };
            return self.begin(index, task);
        }
        let inference = Inference::new(seed, segment, self.expected_bases(index), self.piece_bytes);
        let (start, len) = inference.first_read();
        self.want(index, start, len);
        let task = Task::Infer(inference);
        self.scan = Some(Scan { index, task });
    }

    /// The next file to look at, and what for.
    fn begin_scan(&mut self) {
        let Some(log_seed) = self.seed() else { return };
        let seed = Seed::new(log_seed);
        if self.next.is_none() {
            let mut files = self.files.iter();
            let headless = files.find(|file| !file.surveyed && file.header.is_none());
            // How far the log was synced: usually the newest file suffices. An older one without a header has groups
            // too, and they know of nothing that came later.
            let newest = self.files.iter().rfind(|file| file.has_group || !file.surveyed);
            let newest = newest.filter(|file| !file.surveyed);
            if let Some(segment) = headless.or(newest).map(|file| file.segment) {
                return self.begin_survey(seed, segment);
            }
            self.set_limits();
            self.set_first();
        }
        let mut next = self.next.unwrap_or(self.files.len());
        while self.stopped.is_none() && next < self.files.len() {
            let file = &self.files[next];
            next += 1;
            self.next = Some(next);
            if let Some(header) = file.header.filter(|header| header.base < file.limit) {
                let mut walk = Walk::new(seed, file.segment, header.base, file.limit, self.piece_bytes);
                if let Some((data_bytes, empty_from)) = file.found {
                    walk = walk.surveyed(data_bytes, empty_from);
                }
                let task = Task::Replay {
                    walk,
                    replayed_to: header.base,
                    begun: false,
                };
                return self.begin(next - 1, task);
            }
        }
    }

    /// Wants one page to begin with even where nothing may need to be read, so that every file goes the same way.
    fn begin(&mut self, index: usize, mut task: Task) {
        if let Task::Survey { walk, .. } | Task::Replay { walk, .. } | Task::Torn { walk, .. } = &mut task {
            let (start, len) = walk.first_read();
            self.want(index, start, len);
        }
        self.scan = Some(Scan { index, task });
    }

    fn handle_inferred(&mut self, scan: Scan, inferred: Inferred) {
        let file = &self.files[scan.index];
        match inferred {
            Inferred::Read { start, len } => {
                self.want(scan.index, start, len);
                self.scan = Some(scan);
            }
            Inferred::Base(base) => {
                let header = self.infer_header(file.segment, base);
                let file = &mut self.files[scan.index];
                file.header = header;
                file.is_inferred = true;
                file.surveyed = true;
                if let Some(header) = header {
                    let seed = Seed::new(header.log_seed);
                    let walk =
                        Walk::new(seed, file.segment, base, header.end(), self.piece_bytes).of_headers();
                    self.begin(scan.index, Task::Survey { walk, empty_from: 0 });
                }
            }
            Inferred::Nothing => self.files[scan.index].surveyed = true,
        }
    }

    /// Finds how far the log was synced when the groups of a file were written.
    fn survey(&mut self, index: usize, walk: &mut Walk, empty_from: &mut u64) {
        loop {
            let Next::Step(step) = walk.next() else { return };
            let Step::Entry { header, entry } = step else {
                continue;
            };
            if header.kind == EntryKind::GROUP
                && let Some(head) = entry.and_then(|entry| GroupHead::read(entry.payload))
                && head.synced_upto <= header.position
            {
                self.synced = self.synced.max(head.synced_upto);
                self.files[index].has_group = true;
                if head.resumes_at <= head.synced_upto {
                    self.resumes_at = self.resumes_at.max(head.resumes_at);
                }
            }
            *empty_from = walk.at();
        }
    }

    /// Hands on the entries in view. `Some`: the log ends there.
    fn replay(
        &mut self,
        index: usize,
        walk: &mut Walk,
        replayed_to: &mut Position,
        each: &mut impl FnMut(ReplayedEntry<'_>),
    ) -> Option<Position> {
        let (segment, limit) = (self.files[index].segment, self.files[index].limit);
        while let Next::Step(step) = walk.next() {
            let (bad_start, bad_end) = match step {
                Step::Entry {
                    header,
                    entry: Some(entry),
                } => {
                    *replayed_to = header.end();
                    if header.kind == EntryKind::GROUP {
                        self.arrived =
                            GroupHead::read(entry.payload).map_or(self.arrived, |head| head.arrived);
                        self.files[index].oldest.get_or_insert(self.arrived);
                        self.files[index].newest = self.arrived;
                    } else if header.kind != EntryKind::PAD {
                        let length = entry.payload.len();
                        self.count(header.sequence);
                        let range = walk.range_of(&header, length);
                        self.runs.push(header, self.arrived, walk.window(), range, each);
                    }
                    continue;
                }
                Step::Entry { header, entry: None } => (header.position, header.end()),
                Step::Gap { start, end } => (start, end),
            };
            if bad_start < self.synced {
                self.note_corrupt(Some(segment), bad_start, bad_end.min(self.synced).min(limit));
                self.runs.flush(walk.window(), each);
            }
            if bad_end > self.synced {
                self.stopped = Some(bad_start.max(self.synced));
                return self.stopped;
            }
        }
        None
    }

    fn end_of_replay(&mut self, index: usize, replayed_to: Position) {
        let file = &self.files[index];
        let base = file.header.map_or(replayed_to, |header| header.base);
        if replayed_to > self.synced.max(base) {
            self.unsynced.push(file.segment);
        }
    }

    pub fn finish(mut self) -> Recovered {
        if self.next.is_none() {
            self.set_limits();
        }
        let mut cut = self.stopped.or(self.covered).unwrap_or(Position(0));
        if let Some((start, sequence)) = self.runs.unfinished() {
            self.torn_bytes += cut.0.saturating_sub(start.0);
            self.sequence_next = Some(sequence);
            cut = start;
        }
        // What such a file cut off stays cut off when it goes: it began after the end of the log.
        for header in self.files.iter().rev().filter_map(|file| file.header) {
            if header.base >= cut {
                cut = cut.min(header.cut);
            }
        }
        let has_header = self.files.iter().any(|file| file.header.is_some());
        let log_seed = self.seed().filter(|_| has_header);
        let newest = self.files.last().map_or(SegmentId(0), |file| file.segment);
        let mut next_position = self.synced.max(cut);
        let mut half_made = None;
        let (mut segments, mut removable, mut unreadable) = (Vec::new(), Vec::new(), Vec::new());
        for file in &self.files {
            let Some(header) = file.header else {
                // The newest one was being opened when the process ended.
                match file.segment == newest {
                    true => half_made = Some(file.segment),
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
                resumes_at: self.resumes_at,
                segments,
                half_made,
                removable,
            },
            log_seed,
            synced: self.synced,
            entries: self.runs.replayed,
            entries_lost: self.entries_lost,
            torn_bytes: self.torn_bytes,
            corrupt: self.corrupt,
            unsynced: self.unsynced,
            unreadable,
        }
    }

    fn seed(&self) -> Option<u64> {
        self.log_seed.or(self.fallback.map(|fallback| fallback.log_seed))
    }

    fn index_of(&self, segment: SegmentId) -> Option<usize> {
        self.files
            .binary_search_by_key(&segment, |file| file.segment)
            .ok()
    }

    /// Data bytes of a segment, as the headers have it.
    fn segment_size(&self) -> Option<u64> {
        let headers = self.files.iter().filter_map(|file| file.header);
        let size = headers.map(|header| header.size).max();
        let fallback = || self.fallback.map(|fallback| fallback.size);
        size.or_else(fallback).filter(|size| *size >= PAGE_BYTES as u64)
    }

    /// Where a file begins that lies right behind the one before it, or right before the one behind.
    fn expected_bases(&self, index: usize) -> [Option<Position>; 2] {
        let header = |index: Option<usize>| self.files.get(index?)?.header;
        let before = header(index.checked_sub(1)).map(|before| before.end());
        let behind = header(index.checked_add(1)).zip(self.segment_size());
        let behind = behind.and_then(|(behind, size)| behind.base.0.checked_sub(size));
        [before, behind.map(Position)]
    }

    /// A header for a file whose own is damaged: where it cuts off older ones is lost.
    fn infer_header(&self, segment: SegmentId, base: Position) -> Option<SegmentHeader> {
        let size = self.segment_size()?;
        Some(SegmentHeader {
            log: self.log,
            log_seed: self.seed()?,
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

    /// Passes over the files that a start does not need: those before the last one that begins with names, at or
    /// before where the log resumes, with enough behind it.
    fn set_first(&mut self) {
        self.next = Some(0);
        let Extent::Needed {
            tail_bytes: wanted,
            from,
        } = self.extent
        else {
            return;
        };
        let resumes_at = self.resumes_at.max(from);
        let mut tail_bytes = 0;
        for index in (0..self.files.len()).rev() {
            let file = &self.files[index];
            let Some(header) = file.header.filter(|header| header.base < file.limit) else {
                continue;
            };
            let empty_from = file.found.map_or(u64::MAX, |(_, empty_from)| empty_from);
            tail_bytes += file.limit.since(header.base).min(empty_from);
            let has_names = header.base.0.is_multiple_of(header.size);
            if header.base <= resumes_at && has_names && tail_bytes >= wanted {
                self.next = Some(index);
                self.first = index;
                break;
            }
        }
        // Of those that are passed over only the beginning is known: nothing in them is younger than the next one.
        let mut newest = self.files.get(self.first).and_then(|file| file.oldest);
        for file in self.files[..self.first].iter_mut().rev() {
            file.newest = newest.or(file.oldest).unwrap_or_default();
            newest = file.oldest.or(newest);
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

    /// Positions between the segments so far and one that cuts off what lies before `cut`: bad like bad
    /// bytes.
    fn note_missing(&mut self, cut: Position, each: &mut impl FnMut(ReplayedEntry<'_>)) {
        let Some(covered) = self.covered.filter(|covered| *covered < cut) else {
            return;
        };
        if covered < self.synced {
            self.runs.flush(&[], each);
            self.note_corrupt(None, covered, cut.min(self.synced));
        }
        if cut > self.synced {
            self.stopped = Some(covered.max(self.synced));
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
}

/// When the first group of a segment was begun; `data` is its first page.
fn first_arrival(header: &SegmentHeader, data: &[u8]) -> Option<WallTime> {
    let group = EntryHeader::read(Seed::new(header.log_seed), header.base, data).ok()?;
    if group.segment != header.segment || group.kind != EntryKind::GROUP {
        return None;
    }
    let head = GroupHead::read(group.entry(data).ok()?.payload)?;
    Some(head.arrived)
}
