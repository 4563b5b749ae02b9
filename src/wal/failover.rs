//! After a failed write or sync: the same positions, another file.
//!
//! ```text
//!  before   segment 5  │ durable │ failed group │ next group … │      segment 6 (perhaps written to)
//!  after    segment 5  │ durable │ (cut)
//!           segment 7            │ failed group │ next group … │      segment 8
//! ```
//!
//! The failed file is never synced again: after a failed fdatasync the kernel marks pages clean that never
//! reached the disk, and a second one says yes. Since ids only rise and a segment cuts off what lower ids
//! hold from its beginning on, replay takes segment 7 for what segment 5 may still have of the group.
//! Entries name their segment inside their checks, so they are stamped anew: in place in the block that is
//! being filled, in copies where a block is sealed.

use std::collections::VecDeque;

use super::Log;
use super::group::Group;
use super::memory::restamp;
use super::ops::{PendingWrite, RETRY_DELAY, Source};
use super::options::DiskError;
use super::segment::SegmentId;
use super::space::{Segment, SegmentState};
use crate::base::block::BlockPool;
use crate::base::ids::Position;
use crate::base::time::Now;

impl<P: BlockPool> Log<P> {
    /// A write or sync of this segment failed.
    pub(super) fn poison(&mut self, segment: SegmentId) {
        let known = self.segments.iter_mut().find(|known| known.id == segment);
        let known = known.expect("a group's segment is known");
        if known.state != SegmentState::Poisoned {
            known.state = SegmentState::Poisoned;
            self.poisoned_segments += 1;
        }
    }

    /// A write failed whose group is elsewhere by now: its file must not be used again.
    pub(super) fn note_late_failure(&mut self, segment: SegmentId, result: Result<(), DiskError>) {
        if result.is_err() {
            for retired in self
                .retired
                .iter_mut()
                .filter(|retired| retired.segment == segment)
            {
                retired.reusable = false;
            }
        }
    }

    /// Moves everything that is not durable out of the first poisoned segment and those behind it.
    pub(super) fn fail_over(&mut self, now: Now) {
        // A sync under way may still succeed for the group it was asked for.
        if self.poisoned_segments == self.poisoned_handled || self.sync_is_under_way() {
            return;
        }
        self.poisoned_handled = self.poisoned_segments;
        let poisoned = |group: &Group| self.state_of(group.segment) == Some(SegmentState::Poisoned);
        let Some(first) = self.groups.iter().position(poisoned) else {
            return;
        };
        let from = self.groups[first].start;
        self.replace_segments(now, from);
        self.requeue_writes(first);
        self.failures += 1;
        if self.failures > 1 {
            self.failed_through = self.tail;
            self.retry_at = now.instant.plus(RETRY_DELAY);
        }
    }

    /// Cuts the segment of `from` there and plans new ones for it and for those after it that have data.
    fn replace_segments(&mut self, now: Now, from: Position) {
        let index = self.segment_index(from).expect("a group lies in a segment");
        let replaced: Vec<Segment> = self.segments.drain(index..).collect();
        for (nth, old) in replaced.into_iter().enumerate() {
            let base = old.base.max(from);
            // The first segment after a restart keeps cutting off what lies before it.
            let cut = if base == old.base { old.cut } else { base };
            let planned = (nth == 0 || old.base < self.tail).then(|| {
                let mut new = Segment::planned(self.take_segment_id(), base, old.end, old.size);
                new.cut = cut;
                new.oldest = old.newest;
                new.newest = old.newest;
                new.expires = old.expires;
                new
            });
            if nth == 0 && old.base < from {
                self.segments.push_back(Segment {
                    end: from,
                    state: SegmentState::Poisoned,
                    expires: now.instant.plus(self.options.retain),
                    ..old
                });
            } else {
                debug_assert_eq!(old.holds, 0, "holds of what is not durable are the groups'");
                self.retire(&old);
            }
            self.segments.extend(planned);
        }
    }

    /// Everything of the groups from `first` on that left before leaves again, in order.
    fn requeue_writes(&mut self, first: usize) {
        let number = self.groups[first].number;
        let kept = self
            .writes
            .iter()
            .position(|write| write.group >= number)
            .unwrap_or(self.writes.len());
        for write in self.writes.drain(kept..) {
            if let Source::Copy(copy) = write.source {
                self.copy_bytes -= copy.as_ref().len() as u64;
                self.pool.give(copy);
            }
        }
        let (tail, sealed) = (self.tail, self.sealed_mark());
        let mut again = VecDeque::new();
        for index in first..self.groups.len() {
            let start = self.groups[index].start;
            let end = self.groups[index].end.unwrap_or(tail).min(sealed);
            let segment = self.segments[self.segment_index(start).expect("replaced above")].id;
            let group = &mut self.groups[index];
            group.segment = segment;
            group.writes = 0;
            for (position, bytes) in self.memory.extents(start, end) {
                again.push_back(PendingWrite {
                    group: group.number,
                    position,
                    bytes,
                    source: Source::Again,
                });
                group.writes += 1;
            }
            if let Some(filling) = &mut self.memory.filling {
                // What is still to be appended to, or to be written from, this block.
                let until = group.end.unwrap_or(tail);
                if until > filling.start {
                    let at = start.max(filling.start);
                    let range = at.since(filling.start) as usize..until.since(filling.start) as usize;
                    restamp(self.seed, segment, at, &mut filling.block.as_mut()[range]);
                }
            }
        }
        self.writes.append(&mut again);
    }
}
