//! What the log asks of a disk.

use super::segment::SegmentId;
use crate::base::block::{BlockPool, PAGE_BYTES};
use crate::base::ids::Position;

/// Names one operation from [`super::Log::poll_op`] to [`super::Log::handle_op`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OpId(pub u64);

/// An operation for the executor of disk operations. Every one is reported exactly once, in any order.
/// The log never has two operations under way of which one must follow the other.
#[derive(Debug)]
pub enum DiskOp<P: BlockPool> {
    /// Make `segment.seg` ready: rename `reuse` to it, or create it anew (a file of that name is left of
    /// a failed attempt and goes), with a header page and `size` data bytes that are preallocated and
    /// *written* (an fdatasync on unwritten extents commits metadata every time); write `header` to the
    /// first page; fdatasync; fsync the directory. Reported when all of it is done. After a failure
    /// neither file exists or counts: the operation comes again without `reuse`.
    OpenSegment {
        segment: SegmentId,
        base: Position,
        size: u64,
        reuse: Option<SegmentId>,
        header: Box<[u8; PAGE_BYTES]>,
    },
    /// Write `data[from..]` at file offset `offset`. All three are multiples of the page. `from` is the
    /// `written` that `data` was sealed with. A short write is a failure.
    Write {
        segment: SegmentId,
        offset: u64,
        data: P::Shared,
        from: usize,
    },
    /// Fdatasync. Covers the writes reported before it was asked for. Must not be retried on failure.
    Sync { segment: SegmentId },
    /// Unlink the file and fsync the directory. A file that does not exist is a success.
    Remove { segment: SegmentId },
}
