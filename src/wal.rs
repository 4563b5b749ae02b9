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
//!                                 evicted; goes when no run in it is live
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
pub mod group;
pub mod options;
pub mod recover;
pub mod segment;

mod append;
mod failover;
mod memory;
mod ops;
mod space;

use std::collections::VecDeque;

use crate::base::block::{BLOCK_BYTES, BlockPool, PAGE_BYTES};
use crate::base::ids::Position;
use crate::base::time::{Instant, Now};

use append::Begun;
use entry::{EntryHeader, Seed};
use group::Group;
use memory::Memory;
use ops::{InFlight, PendingWrite};
use space::{Retired, Segment, SegmentState};

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
///
/// Appending is in `wal/append.rs`, disk operations in `wal/ops.rs`, what happens when they fail in
/// `wal/failover.rs`, holding and recycling in `wal/space.rs`.
///
/// Invariant (W1): [`Marks`] are ordered. Everything from `durable` on is in memory.
pub struct Log<P: BlockPool> {
    options: LogOptions,
    pool: P,
    seed: Seed,
    memory: Memory<P>,

    // appending
    begun: Option<Begun>,
    tail: Position,
    next_sequence: u64,
    prologue: Vec<u8>,
    /// Not durable yet, oldest first; only the last one may be open.
    groups: VecDeque<Group>,
    next_group: u64,

    // segments and files
    /// By position, without overlap. The last one is the one being filled or the one after it.
    segments: VecDeque<Segment>,
    next_segment: u64,
    floor: Position,
    /// Every start must fold from here on, says the caller.
    resume_floor: Position,
    /// What group heads say: see [`group`].
    resumes_at: Position,
    /// What they will say once the log is durable up to the second position.
    resumes_next: Option<(Position, Position)>,
    /// Recycled, oldest first.
    free: VecDeque<SegmentId>,
    /// Replaced after a failure before anything in them was durable.
    blank: Vec<SegmentId>,
    retired: Vec<Retired>,
    /// Recycled and to be removed, oldest first, the one that is being removed included.
    removals: VecDeque<SegmentId>,
    /// Replaced after a failure or found at the start, and to be removed, newest first.
    replaced: Vec<SegmentId>,
    /// Goes before anything new comes.
    half_made: Option<SegmentId>,
    /// Of the last group that became durable in this process.
    durable_in: Option<SegmentId>,

    // the disk
    /// By position, and so by group.
    writes: VecDeque<PendingWrite<P>>,
    /// A few at a time: searched from end to end.
    in_flight: Vec<(OpId, InFlight<P>)>,
    next_op: u64,
    durable: Position,
    /// When something last became durable, or the first of what is not was begun.
    moved_at: Instant,
    last_close: Instant,
    idle_at: Option<Instant>,

    // failures
    failed_through: Position,
    /// Since something last became durable.
    failures: u32,
    no_space: bool,
    /// No segment is opened and no file removed before these; zero when nothing failed.
    retry_at: Instant,
    remove_at: Instant,
    poisoned_segments: u64,
    poisoned_handled: u64,

    copy_bytes: u64,
    written_bytes: u64,
}

impl<P: BlockPool> Log<P> {
    /// `now` dates the segments of `start`.
    pub fn new(options: LogOptions, pool: P, start: LogStart, now: Now) -> Log<P> {
        let size = options.segment_size;
        assert!(
            size.is_multiple_of(BLOCK_BYTES as u64) && (1..=SEGMENT_SIZE_MAX).contains(&size),
            "a segment of {size} bytes"
        );
        let segments = start.segments.iter().map(|known| {
            let age = now.wall.0.saturating_sub(known.newest.0);
            let rest = options
                .retain
                .saturating_sub(std::time::Duration::from_nanos(age));
            Segment {
                state: SegmentState::Open,
                oldest: Some(known.oldest),
                newest: Some(known.newest),
                expires: now.instant.plus(rest),
                ..Segment::planned(known.segment, known.base, known.end, known.size)
            }
        });
        let segments: VecDeque<Segment> = segments.collect();
        let tail = Position(start.next_position.0.next_multiple_of(size));
        // Files that are to go wait for a group that says how far the log was synced.
        let idle_at = (!start.removable.is_empty()).then(|| now.instant.plus(ops::IDLE_DELAY));
        let mut log = Log {
            seed: Seed::new(options.log_seed),
            pool,
            memory: Memory::new(tail),
            begun: None,
            tail,
            next_sequence: start.next_sequence,
            prologue: Vec::new(),
            groups: VecDeque::new(),
            next_group: 0,
            segments,
            next_segment: start.next_segment.0,
            floor: Position(u64::MAX),
            resume_floor: start.resumes_at,
            resumes_at: start.resumes_at,
            resumes_next: None,
            free: VecDeque::new(),
            blank: Vec::new(),
            retired: Vec::new(),
            half_made: start.half_made,
            durable_in: None,
            removals: VecDeque::new(),
            replaced: start.removable,
            writes: VecDeque::new(),
            in_flight: Vec::new(),
            next_op: 0,
            durable: tail,
            moved_at: Instant(0),
            last_close: Instant(0),
            idle_at,
            failed_through: Position(0),
            failures: 0,
            no_space: false,
            retry_at: Instant(0),
            remove_at: Instant(0),
            poisoned_segments: 0,
            poisoned_handled: 0,
            copy_bytes: 0,
            written_bytes: 0,
            options,
        };
        log.plan_next_segment();
        log.segments.back_mut().expect("just planned").cut = start.cut.min(tail);
        log
    }

    /// Every entry whose end is at or before this survives power loss. Never goes back.
    #[inline]
    pub fn durable(&self) -> Position {
        self.durable
    }

    /// Waiters beyond `durable` and at or before this are to be answered `UNAVAILABLE`: their entries
    /// failed twice, or wait for space on the disk. They may still become durable later. Never goes back.
    #[inline]
    pub fn failed_through(&self) -> Position {
        self.failed_through
    }

    /// The entry at `position` if it is in memory. Its header is checked, its payload is not.
    #[inline]
    pub fn resident(&self, position: Position) -> Option<Entry<'_>> {
        let bytes = self.memory.from(position)?;
        let header = EntryHeader::read(self.seed, position, bytes).ok()?;
        Some(header.view(header.payload(bytes).ok()?))
    }

    /// Where a durable entry lies on disk: segment and file offset.
    pub fn locate(&self, position: Position) -> Option<(SegmentId, u64)> {
        let segment = &self.segments[self.segment_index(position).filter(|_| position < self.durable)?];
        Some((segment.id, PAGE_BYTES as u64 + position.since(segment.base)))
    }

    /// The entry at `position` of a durable segment, whose bytes `bytes` begin with, and where the next one begins;
    /// errors as [`Log::check`].
    pub fn walk<'a>(&self, position: Position, bytes: &'a [u8]) -> Result<(Entry<'a>, Position), EntryError> {
        let header = self.header(position, bytes)?;
        let entry = match header.kind {
            EntryKind::PAD => header.view(&[]),
            _ => header.entry(bytes)?,
        };
        Ok((entry, header.end()))
    }

    /// Data bytes of a segment.
    pub fn segment_bytes(&self) -> u64 {
        self.options.segment_size
    }

    /// Checks whole an entry that was read from disk; `bytes` begin with it. [`EntryError::Short`] says
    /// how many bytes it takes. An entry whose segment went meanwhile is [`EntryError::NoHeader`].
    pub fn check<'a>(&self, position: Position, bytes: &'a [u8]) -> Result<Entry<'a>, EntryError> {
        self.header(position, bytes)?.entry(bytes)
    }

    /// As [`Log::check`], of bytes that it found whole when they came: their payload is not gone through again.
    pub fn checked<'a>(&self, position: Position, bytes: &'a [u8]) -> Result<Entry<'a>, EntryError> {
        let header = self.header(position, bytes)?;
        Ok(header.view(header.payload(bytes)?))
    }

    /// The header at the front of `bytes`, if the entry belongs to the segment that is there now.
    fn header(&self, position: Position, bytes: &[u8]) -> Result<EntryHeader, EntryError> {
        let index = self.segment_index(position).ok_or(EntryError::NoHeader)?;
        let header = EntryHeader::read(self.seed, position, bytes)?;
        match header.segment == self.segments[index].id {
            true => Ok(header),
            false => Err(EntryError::NoHeader),
        }
    }
}
