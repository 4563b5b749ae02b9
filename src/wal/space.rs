//! Space: which segments there are, what keeps them, and where the next file comes from.
//!
//! Segments go strictly oldest first, so that what is left is always the newer part of the log and a
//! verdict never goes before the spans it settles. One goes when it is durable, before the floor and held
//! by no live run; younger than `retain` only when its space is needed. A crash between letting a file go
//! and using it again brings it back: replay then sees a log that reaches further back, nothing else.

use super::Log;
use super::ops::RETRY_DELAY;
use super::options::{Marks, Refused, Usage};
use super::segment::SegmentId;
use crate::base::block::{BLOCK_BYTES, BlockPool, PAGE_BYTES};
use crate::base::ids::Position;
use crate::base::time::{Instant, Now, WallTime};
use std::time::Duration;

/// Files kept for their next use; more are removed.
const FREE_COUNT_MAX: usize = 2;

/// Segments that `admit` leaves for entries that are appended without asking.
const RESERVE_COUNT: u64 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SegmentState {
    /// Has positions, perhaps entries in memory, and no file yet.
    Planned,
    Opening,
    Open,
    /// A write or sync failed: never synced again.
    Poisoned,
}

#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub id: SegmentId,
    pub base: Position,
    pub end: Position,
    pub cut: Position,
    /// Data bytes of the file.
    pub size: u64,
    pub state: SegmentState,
    /// Live runs in its durable part.
    pub holds: u64,
    pub oldest: Option<WallTime>,
    pub newest: Option<WallTime>,
    /// When its newest entry is older than `retain`.
    pub expires: Instant,
}

impl Segment {
    pub fn planned(id: SegmentId, base: Position, end: Position, size: u64) -> Segment {
        Segment {
            id,
            base,
            end,
            cut: base,
            size,
            state: SegmentState::Planned,
            holds: 0,
            oldest: None,
            newest: None,
            expires: Instant(0),
        }
    }

    /// Begins where a group of the one before failed, and so without a names entry of its own.
    fn continues(&self) -> bool {
        !self.base.0.is_multiple_of(self.size)
    }
}

/// A file whose positions another segment has taken over, waiting for the end of its operations.
#[derive(Debug)]
pub(super) struct Retired {
    pub segment: SegmentId,
    pub reusable: bool,
}

impl<P: BlockPool> Log<P> {
    /// Whether a request of `bytes` (all its entries) may be appended now. Entries that must be written
    /// whatever happens (verdicts, cursors) are appended without asking: a segment is kept back for them.
    pub fn admit(&self, bytes: u64) -> Result<(), Refused> {
        self.admit_beside(bytes, RESERVE_COUNT * self.options.segment_size)
    }

    fn admit_beside(&self, bytes: u64, reserve: u64) -> Result<(), Refused> {
        if self.failures > 1 {
            return Err(match self.no_space {
                true => Refused::NoSpace { retry: RETRY_DELAY },
                false => Refused::Failing { retry: RETRY_DELAY },
            });
        }
        // Padding, group and entry headers on top, generously.
        let mut needed = bytes + bytes / 16 + 2 * BLOCK_BYTES as u64;
        needed += reserve;
        // What has no file yet takes one of those that can still be had.
        let ahead = self
            .segments
            .iter()
            .rev()
            .take_while(|segment| segment.end > self.tail);
        let ready: u64 = ahead
            .filter(|segment| segment.state != SegmentState::Planned)
            .map(|segment| segment.end.since(segment.base.max(self.tail)))
            .sum();
        if ready >= needed {
            return Ok(());
        }
        let mut spare = (self.free.len() + self.blank.len()) as u64;
        if !self.no_space {
            spare += self.file_count_max().saturating_sub(self.file_count());
        }
        let missing = (needed - ready).div_ceil(self.options.segment_size);
        if spare + self.recyclable_count(missing.saturating_sub(spare)) >= missing {
            return Ok(());
        }
        Err(match self.no_space {
            true => Refused::NoSpace { retry: RETRY_DELAY },
            false => Refused::Full { retry: RETRY_DELAY },
        })
    }

    /// `count` runs of the entry at `position` are live: its segment stays.
    pub fn hold(&mut self, position: Position, count: u32) {
        *self.holds_at(position) += u64::from(count);
        self.memory.hold(position, count);
    }

    /// Takes back what `hold` said.
    pub fn release(&mut self, position: Position, count: u32) {
        let holds = self.holds_at(position);
        *holds = holds
            .checked_sub(u64::from(count))
            .unwrap_or_else(|| panic!("W3: {position} is released more often than held"));
        self.memory.release(position, count);
    }

    /// Nothing at or after `position` may be recycled. At the start there is no floor.
    pub fn set_floor(&mut self, position: Position) {
        self.floor = position;
    }

    /// A start must fold the entries from `position` on, whatever is held. Until it is told the log keeps what it
    /// found when it was made.
    pub fn set_resume_floor(&mut self, position: Position) {
        self.resume_floor = position;
    }

    /// A start needs nothing before this.
    pub fn resumes_at(&self) -> Position {
        self.resumes_at
    }

    /// Segments that live runs keep: where each begins, and how many runs.
    pub fn held(&self) -> impl Iterator<Item = (Position, u64)> {
        let held = self.segments.iter().filter(|segment| segment.holds > 0);
        held.map(|segment| (segment.base, segment.holds))
    }

    /// The number of the next entry of a caller.
    pub fn next_sequence(&self) -> u64 {
        self.next_sequence
    }

    /// It has let go of all that was appended. Files that had it may still be there.
    pub fn is_empty(&self) -> bool {
        self.begins_at() >= self.durable
    }

    /// Whether something in it is younger than `retain`.
    pub fn retains(&self, now: Now) -> bool {
        let mut known = self.segments.iter().filter(|segment| segment.newest.is_some());
        known.any(|segment| segment.expires > now.instant)
    }

    /// Where the oldest segment begins: nothing before it is in the log.
    pub fn begins_at(&self) -> Position {
        self.segments.front().map_or(self.tail, |segment| segment.base)
    }

    /// How long what was appended has been waiting for the disk; zero if nothing is.
    pub fn stalled_for(&self, now: Now) -> Duration {
        match self.groups.is_empty() {
            true => Duration::ZERO,
            false => now.instant.since(self.moved_at),
        }
    }

    /// Segments find no file, unless an old one is used again.
    pub fn is_out_of_space(&self) -> bool {
        self.no_space
    }

    /// Whether the entry at `position` is durable and has not left the log.
    pub fn has(&self, position: Position) -> bool {
        self.locate(position).is_some()
    }

    /// Whether both positions lie in one segment.
    pub fn is_same_segment(&self, one: Position, other: Position) -> bool {
        let index = self.segment_index(one);
        index.is_some() && index == self.segment_index(other)
    }

    /// Entries before this may be gone soon: their segments are held by nothing, and files are nearly as many as may
    /// be, or the oldest is nearly as old as may be. What is to outlive them is to be appended again now.
    pub fn leaving(&self, now: Now) -> Position {
        const AHEAD: Duration = Duration::from_secs(5);
        // Twice those that admission counts on, and copies are in time.
        const SEGMENTS: usize = 4;
        let is_short = self.is_short();
        let goes = |segment: &&Segment| {
            let is_settled = segment.end <= self.durable && segment.holds == 0;
            is_settled && (is_short || segment.expires <= now.instant.plus(AHEAD))
        };
        let leaving = self.segments.iter().take(SEGMENTS).take_while(goes).last();
        leaving.map_or(Position(0), |segment| segment.end)
    }

    /// The oldest segment, begin and end, if nothing but what is held keeps it: files are nearly as many as may be, or
    /// it is older than `retain`. What it still holds is to be copied forward.
    pub fn pinned(&self, now: Now) -> Option<(Position, Position)> {
        let segment = self.first_held()?;
        (self.is_short() || segment.expires <= now.instant).then_some((segment.base, segment.end))
    }

    /// When `pinned` may have something without anything else happening.
    pub fn pinned_from(&self) -> Option<Instant> {
        self.first_held().map(|segment| segment.expires)
    }

    fn first_held(&self) -> Option<&Segment> {
        let held = self.segments.iter().find(|segment| segment.holds > 0);
        // The one being written would only be written to its own end.
        held.filter(|segment| segment.end <= self.durable)
    }

    /// Files are nearly as many as may be. Admission counts on two segments that can go at once.
    fn is_short(&self) -> bool {
        const SPARE_FILES: u64 = 3;
        self.file_count() + SPARE_FILES > self.file_count_max()
    }

    /// Whether an entry of our own of so many bytes that need not be written now leaves what others count on.
    pub fn has_room_for_own(&self, bytes: u64) -> bool {
        self.admit_beside(bytes, self.options.segment_size / 2).is_ok()
    }

    /// Follows what is held and the caller's floor. Heads say it only once all is durable that it rests on, so that
    /// no crash keeps the claim and loses its grounds.
    pub(super) fn move_resumption(&mut self) {
        if let Some((position, grounds)) = self.resumes_next
            && grounds <= self.durable
        {
            self.resumes_at = self.resumes_at.max(position);
            self.resumes_next = None;
        }
        if self.resumes_next.is_some() {
            return;
        }
        let first = self
            .segments
            .partition_point(|segment| segment.end <= self.resumes_at);
        let needed = self
            .segments
            .iter()
            .skip(first)
            .find(|segment| segment.end > self.durable || segment.holds > 0);
        let settled = needed.map_or(self.durable, |segment| segment.base.min(self.durable));
        let position = settled.min(self.resume_floor);
        if position > self.resumes_at {
            self.resumes_next = Some((position, self.tail));
        }
    }

    /// Lets the durable blocks go from memory in which nothing is held: few will ask for them, and those can read.
    pub fn drop_settled(&mut self) {
        for block in self.memory.take_settled(self.durable) {
            self.pool.give(block);
        }
    }

    /// Lets the oldest durable blocks go from memory until `resident_bytes_target` is met or none is
    /// left that may go. Returns the bytes that went.
    pub fn evict(&mut self, resident_bytes_target: u64) -> u64 {
        let before = self.memory.bytes();
        while self.memory.bytes() > resident_bytes_target
            && self
                .memory
                .sealed
                .front()
                .is_some_and(|block| block.end() <= self.durable && block.writes == 0)
        {
            let block = self.memory.pop_oldest().expect("looked at above");
            self.pool.give(block);
        }
        before - self.memory.bytes()
    }

    /// Bytes of blocks in memory.
    #[inline]
    pub fn resident_bytes(&self) -> u64 {
        self.memory.bytes()
    }

    /// Of those in memory: padding up to the end of a segment is not.
    pub fn undurable_bytes_resident(&self) -> u64 {
        self.undurable_bytes().min(self.memory.bytes())
    }

    /// Of copies on their way to disk.
    pub fn copy_bytes(&self) -> u64 {
        self.copy_bytes
    }

    /// Appended and not durable yet.
    #[inline]
    pub fn undurable_bytes(&self) -> u64 {
        self.tail.since(self.durable)
    }

    /// All marks at once (W1); walks the writes under way and the segments before `head`.
    pub fn marks(&self) -> Marks {
        let begin = self
            .segments
            .front()
            .map_or(self.durable, |segment| segment.base.min(self.durable));
        let marks = Marks {
            begin,
            head: self.head(),
            durable: self.durable,
            written: self.written_mark(),
            sealed: self.sealed_mark(),
            tail: self.tail,
        };
        marks.assert_ordered();
        marks
    }

    /// Walks the segments.
    pub fn usage(&self) -> Usage {
        let head = self.head();
        let mut usage = Usage {
            resident_bytes: self.memory.bytes(),
            undurable_bytes: self.tail.since(self.durable).min(self.memory.bytes()),
            copy_bytes: self.copy_bytes,
            written_bytes: self.written_bytes,
            poisoned_segments: self.poisoned_segments,
            oldest: self.segments.iter().find_map(|segment| segment.oldest),
            ..Usage::default()
        };
        for segment in &self.segments {
            if segment.state == SegmentState::Planned {
                continue;
            }
            usage.segments += 1;
            let file_bytes = segment.size + PAGE_BYTES as u64;
            match segment.end <= head {
                true => usage.retained_bytes += file_bytes,
                false => usage.used_bytes += file_bytes,
            }
        }
        let free = self.file_count_free() as u64;
        usage.free_bytes = free * (self.options.segment_size + PAGE_BYTES as u64);
        usage
    }

    fn head(&self) -> Position {
        let first = (0..self.segments.len()).find(|index| !self.may_recycle(*index));
        let head = first.map_or(self.durable, |index| self.segments[index].base);
        head.min(self.durable)
    }

    pub(super) fn sealed_mark(&self) -> Position {
        match &self.memory.filling {
            Some(filling) => filling.start.plus(filling.written as u64),
            None => self.tail,
        }
    }

    fn written_mark(&self) -> Position {
        if self.poisoned_segments != self.poisoned_handled {
            return self.durable;
        }
        let waiting = self.writes.front().map(|write| write.position);
        let under_way = self
            .in_flight
            .iter()
            .filter_map(|(_, op)| self.position_written_by(op));
        under_way
            .chain(waiting)
            .min()
            .unwrap_or(self.sealed_mark())
            .max(self.durable)
    }

    fn holds_at(&mut self, position: Position) -> &mut u64 {
        if position >= self.durable {
            let index = self.groups.partition_point(|group| group.start <= position);
            let index = index.checked_sub(1).filter(|_| position < self.tail);
            return match index {
                Some(index) => &mut self.groups[index].holds,
                None => panic!("W3: {position} is not in the log"),
            };
        }
        match self.segment_index(position) {
            Some(index) => &mut self.segments[index].holds,
            None => panic!("W3: the segment of {position} is gone"),
        }
    }

    /// The segment whose positions include `position`.
    pub(super) fn segment_index(&self, position: Position) -> Option<usize> {
        let index = self
            .segments
            .partition_point(|segment| segment.base <= position)
            .checked_sub(1)?;
        (position < self.segments[index].end).then_some(index)
    }

    pub(super) fn state_of(&self, segment: SegmentId) -> Option<SegmentState> {
        self.segments
            .iter()
            .rfind(|known| known.id == segment)
            .map(|known| known.state)
    }

    pub(super) fn take_segment_id(&mut self) -> SegmentId {
        let id = SegmentId(self.next_segment);
        self.next_segment += 1;
        id
    }

    pub(super) fn plan_next_segment(&mut self) {
        let size = self.options.segment_size;
        let base = self
            .segments
            .back()
            .map_or(self.tail, |last| last.end.max(self.tail));
        debug_assert!(base.0.is_multiple_of(size));
        let id = self.take_segment_id();
        self.segments
            .push_back(Segment::planned(id, base, base.plus(size), size));
    }

    /// Asks for the next segment when the current one is half full, so that it is open when it is needed.
    pub(super) fn plan_ahead(&mut self) {
        let last = self.segments.back().expect("a segment is always planned");
        let half = last.base.plus(last.end.since(last.base) / 2);
        if self.tail >= half {
            self.plan_next_segment();
        }
    }

    /// A file for the next segment: one to use again, or `None` for a new one. Nothing at all when the
    /// log is at its size and the segment is not needed yet.
    pub(super) fn claim_file(&mut self, needed: bool) -> Option<Claim> {
        if let Some(blank) = self.blank.pop() {
            return Some(Claim(Some(blank)));
        }
        let full = self.no_space || self.file_count() >= self.file_count_max();
        if full && self.free.is_empty() && self.may_recycle_first() {
            self.recycle_first();
        }
        // Older files must be gone first, else a crash would leave a hole in the log.
        if self.removals.is_empty()
            && let Some(free) = self.free.pop_front()
        {
            return Some(Claim(Some(free)));
        }
        (!full || needed || self.no_space).then_some(Claim(None))
    }

    fn file_count_max(&self) -> u64 {
        (self.options.size_max / (self.options.segment_size + PAGE_BYTES as u64)).max(4)
    }

    fn file_count(&self) -> u64 {
        let planned = self
            .segments
            .iter()
            .filter(|segment| segment.state == SegmentState::Planned)
            .count();
        (self.segments.len() - planned + self.file_count_free()) as u64
    }

    /// Files that hold no position of the log.
    fn file_count_free(&self) -> usize {
        let going = self.removals.len() + self.replaced.len() + self.retired.len();
        self.free.len() + self.blank.len() + going
    }

    /// Whether nothing needs this segment any more, its age aside.
    fn may_recycle(&self, index: usize) -> bool {
        let segment = &self.segments[index];
        let idle = segment.end <= self.durable
            && segment.end <= self.floor
            && segment.holds == 0
            && !self.in_flight.iter().any(|(_, op)| op.segment() == segment.id);
        // Its names serve the segment that continues it.
        idle && self
            .segments
            .get(index + 1)
            .is_none_or(|next| !next.continues() || self.may_recycle(index + 1))
    }

    /// Whether the oldest segment may go now. Files that were replaced go before the segments that cut
    /// them off do.
    pub(super) fn may_recycle_first(&self) -> bool {
        let replaced_are_gone = self.replaced.is_empty() && self.retired.is_empty() && self.blank.is_empty();
        replaced_are_gone && !self.segments.is_empty() && self.may_recycle(0)
    }

    fn recyclable_count(&self, wanted: u64) -> u64 {
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
        (0..self.segments.len())
            .take(wanted)
            .take_while(|index| self.may_recycle(*index))
            .count() as u64
    }

    /// Lets go what is too old, and what is too much: each start brings a segment that nobody admitted.
    pub(super) fn recycle_surplus(&mut self, now: Now) {
        while self.may_recycle_first() && (self.segments[0].expires <= now.instant || self.is_over_size()) {
            self.recycle_first();
        }
    }

    fn is_over_size(&self) -> bool {
        // Files that are going were counted when they were told to.
        let planned = self.segments.iter().rev();
        let planned = planned.take_while(|segment| segment.state == SegmentState::Planned);
        let files = self.segments.len() - planned.count() + self.free.len() + self.blank.len();
        files as u64 > self.file_count_max()
    }

    fn recycle_first(&mut self) {
        let segment = self.segments.pop_front().expect("may_recycle_first");
        while self
            .memory
            .sealed
            .front()
            .is_some_and(|block| block.end() <= segment.end && block.writes == 0)
        {
            let block = self.memory.pop_oldest().expect("looked at above");
            self.pool.give(block);
        }
        let reusable = segment.state == SegmentState::Open && segment.size == self.options.segment_size;
        if reusable && self.free.len() < FREE_COUNT_MAX {
            self.free.push_back(segment.id);
            return;
        }
        if !reusable {
            // Files leave in the order of their ids.
            self.removals.extend(self.free.drain(..));
            self.removals.push_back(segment.id);
            return;
        }
        self.removals.extend(self.free.pop_front());
        self.free.push_back(segment.id);
    }

    /// Other segments have taken over all positions of this one.
    pub(super) fn retire(&mut self, segment: &Segment) {
        if segment.state != SegmentState::Planned {
            let reusable =
                segment.state != SegmentState::Poisoned && segment.size == self.options.segment_size;
            self.retired.push(Retired {
                segment: segment.id,
                reusable,
            });
            self.retire_finished();
        }
    }

    /// Files without operations under way can be used again, or go.
    pub(super) fn retire_finished(&mut self) {
        let mut index = 0;
        while index < self.retired.len() {
            let segment = self.retired[index].segment;
            if self.in_flight.iter().any(|(_, op)| op.segment() == segment) {
                index += 1;
                continue;
            }
            match self.retired.swap_remove(index).reusable {
                true => self.blank.push(segment),
                false => self.replaced.push(segment),
            }
        }
    }
}

/// Where the file of a new segment comes from: the old one, or none.
pub(super) struct Claim(pub Option<SegmentId>);
