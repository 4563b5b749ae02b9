//! What a log is told at the start, and what it says about itself.

use std::time::Duration;

use thiserror::Error;

use super::segment::SegmentId;
use crate::base::ids::{LogId, Position};
use crate::base::time::WallTime;

/// Set once, when the log is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogOptions {
    pub log: LogId,
    /// Drawn once per log and kept in every segment header: seeds the checks of entries.
    pub log_seed: u64,
    /// Data bytes of a segment: a multiple of [`crate::base::block::BLOCK_BYTES`], at most
    /// [`super::SEGMENT_SIZE_MAX`].
    pub segment_size: u64,
    /// Bytes of all files together that `admit` fills up to. At least four segments; a smaller value
    /// counts as four.
    pub size_max: u64,
    /// A segment whose newest entry is younger goes only when its space is needed.
    pub retain: Duration,
    /// Time between the closings of two groups at least. Zero: the sync paces the group.
    pub group_interval: Duration,
    /// How long a group that nobody waits for ([`super::Log::hasten`]) waits for more, unless it fills a block. Each
    /// group costs a sync.
    pub linger: Duration,
    /// False for `durability: write`: a group counts as durable when its writes are done.
    pub sync: bool,
}

/// Where a log begins: [`LogStart::fresh`], or what recovery found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogStart {
    /// Higher than every id ever used.
    pub next_segment: SegmentId,
    /// Where appending goes on: a multiple of the segment size, beyond everything ever written.
    pub next_position: Position,
    /// Where the log so far ends: the next segment cuts off what lies between here and itself.
    pub cut: Position,
    pub next_sequence: u64,
    /// Nothing before it waits for anything.
    pub resumes_at: Position,
    /// Segments that hold what was replayed, oldest first.
    pub segments: Vec<KnownSegment>,
    /// The file that was being opened at the end. The log removes it first of all: it is known for what
    /// it is by being the newest.
    pub half_made: Option<SegmentId>,
    /// Files that hold nothing that counts. The log removes them once its first segment, which cuts off what they cut
    /// off, has a durable group, which says how far the log was synced.
    pub removable: Vec<SegmentId>,
}

impl LogStart {
    /// A log without a past.
    pub fn fresh() -> LogStart {
        LogStart {
            next_segment: SegmentId(1),
            next_position: Position(0),
            cut: Position(0),
            next_sequence: 0,
            resumes_at: Position(0),
            segments: Vec::new(),
            half_made: None,
            removable: Vec::new(),
        }
    }
}

/// A segment that recovery found. It holds the positions `base..end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownSegment {
    pub segment: SegmentId,
    pub base: Position,
    pub end: Position,
    /// As its header says; a file of another size than the options' is not used again.
    pub size: u64,
    /// Arrival of its first and its last group.
    pub oldest: WallTime,
    pub newest: WallTime,
}

/// The marks of a log.
///
/// Invariant (W1): `begin ≤ head ≤ durable ≤ written ≤ sealed ≤ tail`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marks {
    /// Where the oldest segment begins.
    pub begin: Position,
    /// The oldest position still needed: nothing before it is held or at the floor.
    pub head: Position,
    /// Everything before is covered by a sync that succeeded.
    pub durable: Position,
    /// Everything before is written.
    pub written: Position,
    /// Everything before is on its way to disk and will not change.
    pub sealed: Position,
    /// Where the next entry begins, or the padding before it.
    pub tail: Position,
}

impl Marks {
    /// W1.
    pub fn assert_ordered(&self) {
        let Marks {
            begin,
            head,
            durable,
            written,
            sealed,
            tail,
        } = *self;
        let ordered =
            begin <= head && head <= durable && durable <= written && written <= sealed && sealed <= tail;
        assert!(ordered, "W1: {self:?}");
    }
}

/// What the log takes up. The three kinds of disk bytes add up to the files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Segments that hold positions of the log.
    pub segments: usize,
    /// Disk bytes from `head` on: held, beyond the floor, not yet durable, or being filled.
    pub used_bytes: u64,
    /// Disk bytes before `head`: nothing needs them, kept for `retain`.
    pub retained_bytes: u64,
    /// Disk bytes of files that wait for their next use.
    pub free_bytes: u64,
    /// Bytes of blocks in memory.
    pub resident_bytes: u64,
    /// The part of `resident_bytes` that is not durable and therefore cannot be evicted.
    pub undurable_bytes: u64,
    /// Bytes in memory of copies on their way to disk.
    pub copy_bytes: u64,
    /// Bytes written to segments so far, headers and rewriting included.
    pub written_bytes: u64,
    /// Segments whose write or sync failed, since the start.
    pub poisoned_segments: u64,
    /// Arrival of the oldest group in the log.
    pub oldest: Option<WallTime>,
}

/// Why nothing can be appended now. The log is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refused {
    /// The sender's: no segment has room for an entry of so many payload bytes.
    #[error("an entry of this size fits in no segment; {limit} bytes are the limit")]
    TooLarge { limit: usize },
    /// The operator's: `wal.max_size` is filled with what is still needed.
    #[error("the log is full; retry in {retry:?}")]
    Full { retry: Duration },
    /// The operator's: no room on the disk for another segment.
    #[error("the disk is full; retry in {retry:?}")]
    NoSpace { retry: Duration },
    /// The disk's: two segments in a row failed. The log keeps trying new ones.
    #[error("the disk fails; retry in {retry:?}")]
    Failing { retry: Duration },
}

/// How a disk operation failed, as its executor saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DiskError {
    #[error("no space left on the disk")]
    NoSpace,
    #[error("only {written} bytes were written")]
    ShortWrite { written: u64 },
    #[error("the operation was cancelled")]
    Cancelled,
    /// The sync said yes, but the device may have let go of what it was to make durable.
    #[error("a flush for another file failed meanwhile")]
    FlushFailedElsewhere,
    /// The error number.
    #[error("disk error {0}")]
    Io(i32),
}

impl Usage {
    /// Of two logs together.
    pub fn merge(self, other: Usage) -> Usage {
        Usage {
            segments: self.segments + other.segments,
            used_bytes: self.used_bytes + other.used_bytes,
            retained_bytes: self.retained_bytes + other.retained_bytes,
            free_bytes: self.free_bytes + other.free_bytes,
            resident_bytes: self.resident_bytes + other.resident_bytes,
            undurable_bytes: self.undurable_bytes + other.undurable_bytes,
            copy_bytes: self.copy_bytes + other.copy_bytes,
            written_bytes: self.written_bytes + other.written_bytes,
            poisoned_segments: self.poisoned_segments + other.poisoned_segments,
            oldest: [self.oldest, other.oldest].into_iter().flatten().min(),
        }
    }
}
