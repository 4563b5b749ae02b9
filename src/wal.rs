//! The write-ahead log of one core: the segment on disk and the arena in memory are the same thing.
//!
//! ```text
//! positions ──▶   begin      head             durable        written   sealed   tail
//!                   │          │                 │              │         │       │
//!  segments  ┌──────┴──────────┼──────┬──────────┼──────────────┼─────────┼───────┼────┐
//!            │ nothing holds it│ held │          │  syncing     │ writing │filling│    │
//!            └─────────────────┴──────┴──────────┴──────────────┴─────────┴───────┴────┘
//!  in memory                      ░░░░░░░░▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓
//!                                 may be  must stay until durable
//!                                 evicted
//! ```
//!
//! An entry is written once, by its caller, in place in a block; that block is what is read, what goes to
//! disk and what stays resident. While one *group* syncs the next one fills: full blocks of it leave at
//! once, the partly filled last one is copied to a buffer of its size and padded to the page, so nothing
//! is written twice. At most one fdatasync is under way; the reply to a request waits for the one that
//! covers its last entry ([`Log::durable`]).
//!
//! The log does no I/O and reads no clock. The order of calls in a turn:
//!
//! 1. [`Log::admit`], then [`Log::begin`], fill, [`Log::finish`] for each entry; wait for `durable`.
//! 2. [`Log::poll_op`] until `None` at the end of the turn: it closes the group when the disk is idle.
//! 3. [`Log::handle_op`] with each result, then answer waiters: those at or before [`Log::durable`] are
//!    safe, those at or before [`Log::failed_through`] (and not safe) are `UNAVAILABLE`. Then 2 again.
//! 4. [`Log::handle_timeout`] at [`Log::poll_timeout`], then 2 again.
//!
//! After a failed write or sync the segment is *poisoned*: it is never synced again. What earlier syncs
//! covered stays where it is; everything after, still in memory, is written at the same positions to a new
//! segment, which begins where the failed group began.

pub mod disk;
pub mod entry;
pub mod options;
pub mod recover;
pub mod segment;

use crate::base::block::BlockPool;
use crate::base::ids::Position;
use crate::base::time::{Instant, Now};

pub use disk::{DiskOp, OpId};
pub use entry::{ENTRY_BYTES_MAX, Entry, EntryError, EntryFlags, EntryKind};
pub use options::{DiskError, KnownSegment, LogOptions, LogStart, Marks, Refused, Usage};
pub use segment::{SegmentHeader, SegmentId, parse_header};

/// Data bytes of a segment at most.
pub const SEGMENT_SIZE_MAX: u64 = 1 << 30;

/// Positions stay below this, so that a [`crate::base::ids::Place`] can name them.
pub const POSITION_MAX: u64 = 1 << 50;

/// Where an entry went: its place, and the position that [`Log::durable`] must reach for it to be safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    pub position: Position,
    pub end: Position,
}

/// One log of one core.
pub struct Log<P: BlockPool> {
    pool: P,
    options: LogOptions,
}

impl<P: BlockPool> Log<P> {
    /// `now` dates the segments of `start`.
    pub fn new(options: LogOptions, pool: P, start: LogStart, now: Now) -> Log<P> {
        let _ = (start, now);
        Log { pool, options }
    }

    // ---- appending

    /// Whether a request of `bytes` (all its entries) may be appended now. Entries that must be written
    /// whatever happens (verdicts, cursors) are appended without asking: a segment is kept back for them.
    pub fn admit(&self, bytes: u64) -> Result<(), Refused> {
        let _ = (bytes, &self.options, &self.pool);
        todo!()
    }

    /// Payload bytes that the next entry should have at most, so that blocks are filled to the end: what
    /// fits in the current block, or in a fresh one when that is too little; never more than
    /// [`ENTRY_BYTES_MAX`] with its header. A larger entry is allowed.
    pub fn payload_room(&self) -> usize {
        todo!()
    }

    /// Begins an entry and lends its payload, to be filled whole (its bytes are unspecified). Nothing is
    /// appended before [`Log::finish`]; an entry begun and not finished is forgotten at the next `begin`.
    /// `kind` is `NAMES` or at least [`EntryKind::FIRST_FREE`].
    ///
    /// # Errors
    /// [`Refused::TooLarge`] if no segment can hold it; nothing else.
    pub fn begin(&mut self, now: Now, kind: EntryKind, payload: usize) -> Result<&mut [u8], Refused> {
        let _ = (now, kind, payload);
        todo!()
    }

    /// Appends the entry that was begun: one pass over the payload for its check.
    pub fn finish(&mut self, flags: EntryFlags) -> Appended {
        let _ = flags;
        todo!()
    }

    /// What every segment from the next one on begins with: a `NAMES` entry with this payload. Empty (at
    /// the start): none.
    ///
    /// # Errors
    /// [`Refused::TooLarge`] beyond [`ENTRY_BYTES_MAX`].
    pub fn set_prologue(&mut self, payload: Vec<u8>) -> Result<(), Refused> {
        let _ = payload;
        todo!()
    }

    // ---- the disk

    /// The next thing to do on disk. To be called until `None` after everything else that was called.
    pub fn poll_op(&mut self, now: Now) -> Option<(OpId, DiskOp<P>)> {
        let _ = now;
        todo!()
    }

    /// The result of an operation. The executor must have dropped its clone of the data.
    pub fn handle_op(&mut self, now: Now, op: OpId, result: Result<(), DiskError>) {
        let _ = (now, op, result);
        todo!()
    }

    /// When [`Log::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        todo!()
    }

    pub fn handle_timeout(&mut self, now: Now) {
        let _ = now;
        todo!()
    }

    /// Every entry whose end is at or before this survives power loss. Never goes back.
    pub fn durable(&self) -> Position {
        todo!()
    }

    /// Waiters beyond `durable` and at or before this are to be answered `UNAVAILABLE`: their entries
    /// failed twice. They may still become durable later. Never goes back.
    pub fn failed_through(&self) -> Position {
        todo!()
    }

    // ---- reading

    /// The entry at `position` if it is in memory. Its header is checked, its payload is not.
    pub fn resident(&self, position: Position) -> Option<Entry<'_>> {
        let _ = position;
        todo!()
    }

    /// Where a durable entry lies on disk: segment and file offset.
    pub fn locate(&self, position: Position) -> Option<(SegmentId, u64)> {
        let _ = position;
        todo!()
    }

    /// Checks whole an entry that was read from disk; `bytes` begin with it. [`EntryError::Short`] says
    /// how many bytes it takes.
    pub fn check<'a>(&self, position: Position, bytes: &'a [u8]) -> Result<Entry<'a>, EntryError> {
        let _ = (position, bytes);
        todo!()
    }

    // ---- letting go

    /// `count` runs of the entry at `position` are live: its segment stays.
    pub fn hold(&mut self, position: Position, count: u32) {
        let _ = (position, count);
        todo!()
    }

    /// Takes back what `hold` said.
    pub fn release(&mut self, position: Position, count: u32) {
        let _ = (position, count);
        todo!()
    }

    /// Nothing at or after `position` may be recycled. At the start there is no floor.
    pub fn set_floor(&mut self, position: Position) {
        let _ = position;
        todo!()
    }

    /// Lets the oldest durable blocks go from memory until `resident_bytes_target` is met or none is
    /// left that may go. Returns the bytes that went.
    pub fn evict(&mut self, resident_bytes_target: u64) -> u64 {
        let _ = resident_bytes_target;
        todo!()
    }

    /// All marks at once (W1); walks the writes under way.
    pub fn marks(&self) -> Marks {
        todo!()
    }

    /// Walks the segments.
    pub fn usage(&self) -> Usage {
        todo!()
    }
}
