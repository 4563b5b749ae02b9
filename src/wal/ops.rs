//! Disk operations: what to do next, and what their results mean.
//!
//! ```text
//!  group:   open ──close──▶ closed ──last write reported──▶ syncing ──sync reported──▶ durable
//!            ▲  full blocks leave at once                      │
//!            └── the next group opens with the next entry      └──failed──▶ failover
//! ```
//!
//! A group closes by itself only while no older one is on its way: the sync paces the group. One that nobody waits for
//! lingers, so that a request that comes soon takes it along. Only the end of a segment closes groups earlier; they then
//! wait for their syncs in order.

use std::time::Duration;

use super::Log;
use super::disk::{DiskOp, OpId};
use super::memory::restamp;
use super::options::DiskError;
use super::segment::{SegmentHeader, SegmentId};
use super::space::{Claim, Segment, SegmentState};
use crate::base::block::{BLOCK_BYTES, BlockPool, PAGE_BYTES};
use crate::base::ids::Position;
use crate::base::time::{Instant, Now};

/// How long the log stays silent before it writes an empty group to say that the last one was synced.
/// With the sync of that group itself it is within 100 ms.
pub(super) const IDLE_DELAY: Duration = Duration::from_millis(50);

/// Between attempts after the disk failed.
pub(super) const RETRY_DELAY: Duration = Duration::from_secs(1);

/// A write that was not handed out yet.
pub(super) struct PendingWrite<P: BlockPool> {
    pub group: u64,
    pub position: Position,
    pub bytes: usize,
    pub source: Source<P>,
}

pub(super) enum Source<P: BlockPool> {
    /// The sealed block at the position, from what `seal` was told.
    Block { from: usize },
    /// The end of a group in a buffer of its own.
    Copy(P::Shared),
    /// Written before to a segment that failed: copied from memory when its turn comes.
    Again,
}

/// An operation under way.
pub(super) enum InFlight<P: BlockPool> {
    Open {
        segment: SegmentId,
    },
    Write {
        segment: SegmentId,
        group: u64,
        position: Position,
        copy: Option<P::Shared>,
    },
    Sync {
        segment: SegmentId,
    },
    Remove {
        segment: SegmentId,
    },
}

impl<P: BlockPool> InFlight<P> {
    pub fn segment(&self) -> SegmentId {
        match self {
            InFlight::Open { segment }
            | InFlight::Write { segment, .. }
            | InFlight::Sync { segment }
            | InFlight::Remove { segment } => *segment,
        }
    }
}

impl<P: BlockPool> Log<P> {
    /// The next thing to do on disk. To be called until `None` after everything else that was called;
    /// an entry that was begun and not finished is forgotten.
    pub fn poll_op(&mut self, now: Now) -> Option<(OpId, DiskOp<P>)> {
        self.housekeep(now);
        let (op, in_flight) = self
            .next_open(now)
            .or_else(|| self.next_write())
            .or_else(|| self.next_sync())
            .or_else(|| self.next_remove(now))?;
        let id = OpId(self.next_op);
        self.next_op += 1;
        self.in_flight.push((id, in_flight));
        Some((id, op))
    }

    /// The result of an operation. The executor must have dropped its clone of the data.
    pub fn handle_op(&mut self, now: Now, op: OpId, result: Result<(), DiskError>) {
        let index = self.in_flight.iter().position(|(id, _)| *id == op);
        let index = index.unwrap_or_else(|| panic!("{op:?} is not under way"));
        match self.in_flight.swap_remove(index).1 {
            InFlight::Open { segment } => self.handle_open(now, segment, result),
            InFlight::Write {
                segment,
                group,
                position,
                copy,
            } => {
                match copy {
                    Some(copy) => {
                        self.copy_bytes -= copy.as_ref().len() as u64;
                        self.pool.give(copy);
                    }
                    None => {
                        let block = self
                            .memory
                            .sealed_at(position)
                            .expect("a block stays while it is written");
                        block.writes -= 1;
                    }
                }
                self.handle_write(now, segment, group, result);
            }
            InFlight::Sync { segment } => match result {
                Ok(()) => self.group_is_durable(now),
                Err(_) => self.poison(segment),
            },
            InFlight::Remove { segment } => {
                if result.is_ok() {
                    self.removals.retain(|removal| *removal != segment);
                    self.replaced.retain(|replaced| *replaced != segment);
                    self.half_made = self.half_made.filter(|half_made| *half_made != segment);
                } else {
                    self.remove_at = now.instant.plus(RETRY_DELAY);
                }
            }
        }
        self.retire_finished();
    }

    /// When [`Log::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let planned = self
            .segments
            .iter()
            .any(|segment| segment.state == SegmentState::Planned);
        let retry = (planned && self.retry_at > Instant(0)).then_some(self.retry_at);
        let remove = (self.remove_at > Instant(0)).then_some(self.remove_at);
        let expires = self.may_recycle_first().then(|| self.segments[0].expires);
        [retry, remove, self.closes_at(), self.idle_at, expires]
            .into_iter()
            .flatten()
            .min()
    }

    pub fn handle_timeout(&mut self, now: Now) {
        self.housekeep(now);
    }

    /// When the open group is closed, unless it waits for the one before it or for its segment.
    fn closes_at(&self) -> Option<Instant> {
        let group = self.groups.front().filter(|group| group.end.is_none())?;
        if self.state_of(group.segment) != Some(SegmentState::Open) {
            return None;
        }
        let at = self.last_close.plus(self.options.group_interval);
        let leaves_at_once = group.awaited || self.tail.since(group.start) >= BLOCK_BYTES as u64;
        Some(match leaves_at_once {
            true => at,
            false => at.max(group.opened_at.plus(self.options.linger)),
        })
    }

    /// Everything that is due: all of it may be done at any time and again.
    fn housekeep(&mut self, now: Now) {
        self.begun = None;
        for at in [&mut self.retry_at, &mut self.remove_at] {
            if *at <= now.instant {
                *at = Instant(0);
            }
        }
        self.fail_over(now);
        self.recycle_surplus(now);
        if self.idle_at.is_some_and(|at| at <= now.instant) {
            self.open_group(now, 0);
            self.hasten();
        }
        self.plan_ahead();
        if self.closes_at().is_some_and(|at| at <= now.instant) {
            self.close_group(now);
            self.settle_unsynced(now);
        }
    }

    fn next_open(&mut self, now: Now) -> Option<(DiskOp<P>, InFlight<P>)> {
        // One at a time, so that the newest file is always the only one that may be half made.
        let busy = self
            .in_flight
            .iter()
            .any(|(_, op)| matches!(op, InFlight::Open { .. }));
        let planned = self
            .segments
            .iter()
            .find(|segment| segment.state == SegmentState::Planned)?;
        if busy || self.half_made.is_some() || now.instant < self.retry_at {
            return None;
        }
        let needed = planned.base < self.tail;
        let Claim(reuse) = self.claim_file(needed)?;
        // Claiming may have let an older segment go.
        let known = self
            .segments
            .iter_mut()
            .find(|segment| segment.state == SegmentState::Planned)?;
        known.state = SegmentState::Opening;
        let (segment, base, size) = (known.id, known.base, known.size);
        let header = SegmentHeader {
            log: self.options.log,
            log_seed: self.options.log_seed,
            segment,
            base,
            cut: known.cut,
            size,
        };
        let op = DiskOp::OpenSegment {
            segment,
            base,
            size,
            reuse,
            header: header.page(),
        };
        self.written_bytes += PAGE_BYTES as u64;
        Some((op, InFlight::Open { segment }))
    }

    fn next_write(&mut self) -> Option<(DiskOp<P>, InFlight<P>)> {
        let number = self.writes.front()?.group;
        let group = self.group_numbered(number).expect("a write belongs to a group");
        let segment = self.groups[group].segment;
        let index = self.segments.iter().rposition(|known| known.id == segment)?;
        if self.segments[index].state != SegmentState::Open {
            return None;
        }
        let PendingWrite {
            group,
            position,
            bytes,
            source,
        } = self.writes.pop_front()?;
        let offset = PAGE_BYTES as u64 + position.since(self.segments[index].base);
        self.written_bytes += bytes as u64;
        let (data, from, copy) = match source {
            Source::Block { from } => {
                let block = self
                    .memory
                    .sealed_at(position)
                    .expect("a block stays until it is written");
                block.writes += 1;
                (block.shared.clone(), from, None)
            }
            Source::Copy(copy) => (copy.clone(), 0, Some(copy)),
            Source::Again => {
                let mut copy = self.pool.take(bytes);
                let block = self
                    .memory
                    .from(position)
                    .expect("what is not durable stays in memory");
                copy.as_mut().copy_from_slice(&block[..bytes]);
                restamp(self.seed, segment, position, copy.as_mut());
                let copy = self.pool.seal(copy, 0);
                self.copy_bytes += bytes as u64;
                (copy.clone(), 0, Some(copy))
            }
        };
        let op = DiskOp::Write {
            segment,
            offset,
            data,
            from,
        };
        Some((
            op,
            InFlight::Write {
                segment,
                group,
                position,
                copy,
            },
        ))
    }

    fn next_sync(&mut self) -> Option<(DiskOp<P>, InFlight<P>)> {
        let group = self.groups.front()?;
        let ready = group.end.is_some() && group.writes == 0 && self.options.sync;
        let segment = group.segment;
        if !ready || self.sync_is_under_way() || self.state_of(segment) != Some(SegmentState::Open) {
            return None;
        }
        Some((DiskOp::Sync { segment }, InFlight::Sync { segment }))
    }

    /// One at a time. Recycled files go oldest first, so that what is left after a crash is the log's newer
    /// part. Replaced ones stay until what takes over from them is there, and a group in it is durable: theirs may be
    /// the only ones that say how far the log was synced, and without that damage passes for a torn tail. They go
    /// newest first: a file without the one before it would show the second half of a run, or what that one cut off.
    fn next_remove(&mut self, now: Now) -> Option<(DiskOp<P>, InFlight<P>)> {
        let is_awaited = self.segment_is_awaited();
        let taken_over = |replaced: &SegmentId| self.durable_in > Some(*replaced) && !is_awaited;
        // Without space nothing can take over, so they go first.
        let in_the_way = self.no_space && self.blank.is_empty() && self.retired.is_empty();
        let newest = self.replaced.iter().max();
        let replaced = newest.filter(|newest| taken_over(newest) || in_the_way);
        // A file that is about to be used again is older, and until its new header is there it may come back.
        let opening = |(_, op): &(OpId, InFlight<P>)| matches!(op, InFlight::Open { .. });
        let recycled = self
            .removals
            .front()
            .filter(|_| !self.in_flight.iter().any(opening));
        let segment = *self.half_made.as_ref().or(recycled).or(replaced)?;
        let busy = self
            .in_flight
            .iter()
            .any(|(_, op)| matches!(op, InFlight::Remove { .. }));
        if busy || now.instant < self.remove_at {
            return None;
        }
        Some((DiskOp::Remove { segment }, InFlight::Remove { segment }))
    }

    /// Entries are there already whose segment is not.
    fn segment_is_awaited(&self) -> bool {
        let last = self
            .segments
            .iter()
            .rev()
            .take_while(|segment| segment.end > self.durable);
        let absent = |segment: &Segment| match segment.state {
            SegmentState::Planned | SegmentState::Opening => segment.base < self.tail,
            SegmentState::Open | SegmentState::Poisoned => false,
        };
        last.into_iter().any(absent)
    }

    fn handle_open(&mut self, now: Now, segment: SegmentId, result: Result<(), DiskError>) {
        let Some(known) = self.segments.iter_mut().find(|known| known.id == segment) else {
            // A failure made it superfluous while it was being opened; `retire_finished` takes the file.
            if result.is_err() {
                self.retired.retain(|retired| retired.segment != segment);
            }
            return;
        };
        match result {
            Ok(()) => {
                known.state = SegmentState::Open;
                self.no_space = false;
                self.retry_at = Instant(0);
            }
            Err(error) => {
                known.state = SegmentState::Planned;
                let waited_for = known.base < self.tail;
                self.no_space = error == DiskError::NoSpace;
                self.retry_at = now.instant.plus(RETRY_DELAY);
                if waited_for {
                    // Nothing else is tried for these entries, so this alone is as good as two failures.
                    self.failures = self.failures.max(1) + 1;
                    self.failed_through = self.tail;
                }
            }
        }
    }

    fn handle_write(&mut self, now: Now, segment: SegmentId, group: u64, result: Result<(), DiskError>) {
        // A write to a segment that failed meanwhile says nothing about the group's new place.
        let Some(index) = self
            .group_numbered(group)
            .filter(|index| self.groups[*index].segment == segment)
        else {
            self.note_late_failure(segment, result);
            return;
        };
        match result {
            Ok(()) => self.groups[index].writes -= 1,
            Err(_) => self.poison(segment),
        }
        self.settle_unsynced(now);
    }

    /// Without syncs a group is done when its writes are.
    fn settle_unsynced(&mut self, now: Now) {
        while !self.options.sync
            && self.groups.front().is_some_and(|group| {
                group.end.is_some()
                    && group.writes == 0
                    && self.state_of(group.segment) == Some(SegmentState::Open)
            })
        {
            self.group_is_durable(now);
        }
    }

    /// The oldest group is covered.
    fn group_is_durable(&mut self, now: Now) {
        let group = self.groups.pop_front().expect("a group was synced");
        let end = group.end.expect("only a closed group is synced");
        assert!(
            group.start == self.durable && end > self.durable && group.writes == 0,
            "W2: {group:?}"
        );
        self.durable = end;
        self.durable_in = Some(group.segment);
        self.moved_at = now.instant;
        self.failures = 0;
        let known = self.segments.iter_mut().find(|known| known.id == group.segment);
        let known = known.expect("W1: a segment stays until it is durable");
        known.holds += group.holds;
        if self.groups.is_empty() && !group.idle {
            self.idle_at = Some(now.instant.plus(IDLE_DELAY));
        }
    }

    pub(super) fn sync_is_under_way(&self) -> bool {
        self.in_flight
            .iter()
            .any(|(_, op)| matches!(op, InFlight::Sync { .. }))
    }

    /// Where an operation writes what is not durable yet. A write to a segment that failed is not one.
    pub(super) fn position_written_by(&self, op: &InFlight<P>) -> Option<Position> {
        match op {
            InFlight::Write {
                segment,
                group,
                position,
                ..
            } => {
                let index = self.group_numbered(*group)?;
                (self.groups[index].segment == *segment).then_some(*position)
            }
            InFlight::Open { .. } | InFlight::Sync { .. } | InFlight::Remove { .. } => None,
        }
    }

    /// The index of a group that is not durable yet.
    pub(super) fn group_numbered(&self, number: u64) -> Option<usize> {
        let first = self.groups.front()?.number;
        let index = usize::try_from(number.checked_sub(first)?).ok()?;
        (index < self.groups.len()).then_some(index)
    }
}
