//! Recovery: from the files of a log to the entries that count, without I/O.
//!
//! The caller lists the `*.seg` files of a log's directory and then:
//!
//! 1. [`Recovery::header`] with the first page of every file;
//! 2. while [`Recovery::survey_next`] names a segment: load it whole, [`Recovery::survey`];
//! 3. while [`Recovery::replay_next`] names a segment: load it whole, [`Recovery::replay`];
//! 4. [`Recovery::finish`]; fdatasync every segment in [`Recovered::unsynced`]; start the log.

use thiserror::Error;

use super::entry::{EntryFlags, EntryKind};
use super::options::LogStart;
use super::segment::{HeaderError, SegmentId};
use crate::base::ids::{LogId, Position};
use crate::base::time::WallTime;

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
    pub log_seed: u64,
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

/// One recovery of one log. Never panics on any bytes.
pub struct Recovery {
    log: LogId,
}

impl Recovery {
    pub fn new(log: LogId) -> Recovery {
        Recovery { log }
    }

    /// The first page of the file named `segment`; fewer bytes if the file is shorter.
    pub fn header(&mut self, segment: SegmentId, page: &[u8]) -> Result<(), RecoverError> {
        let _ = (segment, page, self.log);
        todo!()
    }

    /// The next file to load for [`Recovery::survey`], newest first; usually only one.
    pub fn survey_next(&self) -> Option<SegmentId> {
        todo!()
    }

    /// Finds how far the log was synced when this file was written. `file` is all of it.
    pub fn survey(&mut self, segment: SegmentId, file: &[u8]) {
        let _ = (segment, file);
        todo!()
    }

    /// The next file to load for [`Recovery::replay`], oldest first.
    pub fn replay_next(&mut self) -> Option<SegmentId> {
        todo!()
    }

    /// Hands every entry that counts to `each`, in order.
    pub fn replay(&mut self, segment: SegmentId, file: &[u8], each: &mut impl FnMut(ReplayedEntry<'_>)) {
        let _ = (segment, file, each);
        todo!()
    }

    pub fn finish(self) -> Recovered {
        todo!()
    }
}
