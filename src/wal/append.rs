//! Appending: where the next entry goes, and the padding between entries, groups, blocks and segments.

use super::entry::{ENTRY_BYTES_MAX, EntryFlags, EntryHeader, EntryKind, HEADER_BYTES, entry_bytes};
use super::group::{GROUP_BYTES, Group, GroupHead};
use super::memory::Filling;
use super::ops::{PendingWrite, Source};
use super::options::Refused;
use super::{Appended, Log};
use crate::base::block::{BLOCK_BYTES, BlockPool, PAGE_BYTES};
use crate::base::ids::Position;
use crate::base::time::Now;

/// A rest of a block that is smaller is not offered to callers: what an entry repeats (resource, scope,
/// directory) would cost more than the rest is worth.
const ROOM_BYTES_MIN: usize = 4 << 10;

/// An entry whose payload is being filled, at the cursor of the block.
#[derive(Clone, Copy)]
pub(super) struct Begun {
    kind: EntryKind,
    payload: usize,
}

impl<P: BlockPool> Log<P> {
    /// Payload bytes that the next entry should have at most, so that blocks are filled to the end: what
    /// fits in the current block, or in a fresh one when that is too little; never more than
    /// [`ENTRY_BYTES_MAX`] with its header. A larger entry is allowed.
    pub fn payload_room(&self) -> usize {
        const MAX: usize = ENTRY_BYTES_MAX - HEADER_BYTES;
        let taken = HEADER_BYTES
            + if self.group_is_open() {
                0
            } else {
                self.group_overhead()
            };
        let here = self
            .memory
            .filling
            .as_ref()
            .map_or(0, |filling| filling.room().saturating_sub(taken));
        // A fresh block always holds an entry of the largest size behind a group and a prologue.
        if here < ROOM_BYTES_MIN { MAX } else { here.min(MAX) }
    }

    /// Begins an entry and lends its payload, to be filled whole (its bytes are unspecified). Nothing is
    /// appended before [`Log::finish`]; an entry begun and not finished is forgotten at the next `begin`.
    /// `kind` is `NAMES` or at least [`EntryKind::FIRST_FREE`].
    ///
    /// # Errors
    /// [`Refused::TooLarge`] if no segment can hold it; nothing else.
    #[inline]
    pub fn begin(&mut self, now: Now, kind: EntryKind, payload: usize) -> Result<&mut [u8], Refused> {
        assert!(
            kind == EntryKind::NAMES || kind.0 >= EntryKind::FIRST_FREE,
            "{kind:?} is the log's own"
        );
        let limit = self.payload_max();
        if payload > limit {
            return Err(Refused::TooLarge { limit });
        }
        self.make_room(now, entry_bytes(payload));
        self.begun = Some(Begun { kind, payload });
        let filling = self.memory.filling.as_mut().expect("make_room leaves a block");
        let at = filling.cursor + HEADER_BYTES;
        Ok(&mut filling.block.as_mut()[at..at + payload])
    }

    /// Appends the entry that was begun: one pass over the payload for its check.
    #[inline]
    pub fn finish(&mut self, flags: EntryFlags) -> Appended {
        let Begun { kind, payload } = self.begun.take().expect("finish follows begin");
        let group = self.groups.back().expect("begin leaves a group open");
        let filling = self.memory.filling.as_mut().expect("begin leaves a block");
        let position = filling.start.plus(filling.cursor as u64);
        let header = EntryHeader {
            kind,
            flags,
            length: payload as u32,
            segment: group.segment,
            position,
            sequence: self.next_sequence,
        };
        let bytes = entry_bytes(payload);
        let entry = &mut filling.block.as_mut()[filling.cursor..filling.cursor + bytes];
        entry[HEADER_BYTES + payload..].fill(0);
        header.stamp(self.seed, entry);
        filling.cursor += bytes;
        self.next_sequence += 1;
        self.tail = position.plus(bytes as u64);
        Appended {
            position,
            end: self.tail,
        }
    }

    /// Somebody waits for what was appended last: its group leaves as soon as the one before is durable.
    #[inline]
    pub fn hasten(&mut self) {
        if let Some(group) = self.groups.back_mut() {
            group.awaited = true;
        }
    }

    /// What every segment from the next one on begins with: a `NAMES` entry with this payload. Empty (at
    /// the start): none.
    ///
    /// # Errors
    /// [`Refused::TooLarge`] beyond [`ENTRY_BYTES_MAX`].
    pub fn set_prologue(&mut self, payload: Vec<u8>) -> Result<(), Refused> {
        let limit = ENTRY_BYTES_MAX - HEADER_BYTES;
        if payload.len() > limit {
            return Err(Refused::TooLarge { limit });
        }
        self.prologue = payload;
        Ok(())
    }

    /// Payload bytes of the largest entry that a segment of its own can hold.
    fn payload_max(&self) -> usize {
        let taken = GROUP_BYTES + self.prologue_bytes() + HEADER_BYTES;
        (self.options.segment_size as usize).saturating_sub(taken)
    }

    fn prologue_bytes(&self) -> usize {
        if self.prologue.is_empty() {
            0
        } else {
            entry_bytes(self.prologue.len())
        }
    }

    pub(super) fn group_is_open(&self) -> bool {
        self.groups.back().is_some_and(|group| group.end.is_none())
    }

    /// Bytes that the log itself writes before an entry that begins a group at the tail.
    fn group_overhead(&self) -> usize {
        let fresh = self
            .segment_index(self.tail)
            .is_none_or(|index| self.segments[index].base == self.tail);
        GROUP_BYTES + if fresh { self.prologue_bytes() } else { 0 }
    }

    /// Makes the current block have `need` free bytes within an open group. Never fails: what can be
    /// refused is refused before.
    #[inline]
    fn make_room(&mut self, now: Now, need: usize) {
        if !(self.group_is_open() && self.room() >= need) {
            self.make_room_slowly(now, need);
        }
    }

    /// Where the segment of the open group ends.
    fn open_segment_end(&self) -> Position {
        let segment = self.groups.back().expect("an open group").segment;
        let known = self.segments.iter().rfind(|known| known.id == segment);
        known.expect("a group's segment is known").end
    }

    fn room(&self) -> usize {
        self.memory.filling.as_ref().map_or(0, Filling::room)
    }

    #[cold]
    fn make_room_slowly(&mut self, now: Now, need: usize) {
        if !self.group_is_open() {
            self.open_group(now, need);
        }
        if self.room() >= need {
            return;
        }
        let block_end = self.memory.filling.as_ref().map_or(self.tail, Filling::end);
        let segment_end = self.open_segment_end();
        let bytes = need.next_multiple_of(BLOCK_BYTES);
        if block_end.plus(bytes as u64) <= segment_end {
            self.turn_block(bytes);
        } else {
            self.seal_segment(now);
            self.open_group(now, need);
        }
        debug_assert!(self.room() >= need);
    }

    /// Begins a group at the tail, in a block that has room for `need` bytes more if its segment has.
    pub(super) fn open_group(&mut self, now: Now, need: usize) {
        if self.segment_index(self.tail).is_none() {
            self.plan_next_segment();
        }
        let index = self.segment_index(self.tail).expect("planned above");
        let (segment, base, end) = {
            let segment = &mut self.segments[index];
            segment.oldest.get_or_insert(now.wall);
            segment.newest = Some(now.wall);
            (segment.id, segment.base, segment.end)
        };
        if self.memory.filling.is_none() {
            let bytes = (self.group_overhead() + need).next_multiple_of(BLOCK_BYTES);
            // Too large for the rest of the segment: the caller seals it and comes again.
            let fits = self.tail.plus(bytes as u64) <= end;
            self.start_block(if fits { bytes } else { BLOCK_BYTES });
        }
        self.idle_at = None;
        if self.groups.is_empty() {
            self.moved_at = now.instant;
        }
        self.groups.push_back(Group {
            number: self.next_group,
            segment,
            start: self.tail,
            end: None,
            sequence: self.next_sequence,
            arrived: now.wall,
            awaited: false,
            opened_at: now.instant,
            head_left: false,
            writes: 0,
            holds: 0,
            idle: false,
        });
        self.next_group += 1;
        let start = self.tail;
        self.advance(GROUP_BYTES);
        self.stamp_group_head();
        if start == base && !self.prologue.is_empty() {
            let prologue = std::mem::take(&mut self.prologue);
            let filling = self.memory.filling.as_mut().expect("started above");
            let at = filling.cursor + HEADER_BYTES;
            filling.block.as_mut()[at..at + prologue.len()].copy_from_slice(&prologue);
            self.begun = Some(Begun {
                kind: EntryKind::NAMES,
                payload: prologue.len(),
            });
            self.finish(EntryFlags::NONE);
            self.prologue = prologue;
        }
    }

    /// Ends the open group on a page and sends what is left of it to disk.
    pub(super) fn close_group(&mut self, now: Now) {
        self.leave_group_head();
        let filling = self.memory.filling.as_ref().expect("an open group has a block");
        let rest = filling.cursor.next_multiple_of(PAGE_BYTES) - filling.cursor;
        self.pad(rest, rest);
        let filling = self.memory.filling.as_mut().expect("an open group has a block");
        if filling.room() == 0 {
            self.seal_block();
        } else if filling.written < filling.cursor {
            let (from, until) = (filling.written, filling.cursor);
            let position = filling.start.plus(from as u64);
            filling.written = until;
            let mut copy = self.pool.take(until - from);
            copy.as_mut()
                .copy_from_slice(&filling.block.as_ref()[from..until]);
            let copy = self.pool.seal(copy, 0);
            self.copy_bytes += (until - from) as u64;
            self.queue_write(position, until - from, Source::Copy(copy));
        }
        self.end_group(now);
    }

    /// Ends the open group and its segment, at the end of what can be appended there: a pad says that
    /// nothing follows.
    fn seal_segment(&mut self, now: Now) {
        let end = self.open_segment_end();
        self.leave_group_head();
        if self.room() == 0 && self.tail < end {
            self.turn_block(PAGE_BYTES);
        }
        let room = self.room();
        if room > 0 {
            self.pad(room, end.since(self.tail) as usize);
        }
        self.seal_block();
        self.tail = end;
        self.end_group(now);
    }

    fn end_group(&mut self, now: Now) {
        let tail = self.tail;
        let group = self.groups.back_mut().expect("an open group");
        group.end = Some(tail);
        group.idle = group.sequence == self.next_sequence;
        let segment = group.segment;
        self.last_close = now.instant;
        let expires = now.instant.plus(self.options.retain);
        if let Some(segment) = self.segments.iter_mut().rfind(|known| known.id == segment) {
            segment.expires = expires;
            segment.newest = Some(now.wall);
        }
    }

    /// Fills the current block up with padding, sends it on its way, and takes the next one.
    fn turn_block(&mut self, bytes: usize) {
        let filling = self.memory.filling.as_ref().expect("turning follows filling");
        if filling.cursor == 0 {
            // Nothing was finished in it: an entry was begun, forgotten, and the next one is larger.
            let filling = self.memory.filling.take().expect("as above");
            let unused = self.pool.seal(filling.block, 0);
            self.pool.give(unused);
        } else {
            self.leave_group_head();
            let room = self.room();
            self.pad(room, room);
            self.seal_block();
        }
        self.start_block(bytes);
    }

    fn start_block(&mut self, bytes: usize) {
        let block = self.pool.take(bytes);
        assert_eq!(block.as_ref().len(), bytes, "the pool lends what was asked for");
        self.memory.filling = Some(Filling {
            start: self.tail,
            block,
            bytes,
            cursor: 0,
            written: 0,
        });
    }

    /// The current block is complete: to disk with what has not left yet.
    fn seal_block(&mut self) {
        let filling = self.memory.filling.take().expect("sealing follows filling");
        let Filling {
            start,
            block,
            bytes,
            cursor,
            written,
        } = filling;
        debug_assert_eq!(cursor, bytes);
        let shared = self.pool.seal(block, written);
        self.memory.push(start, shared, 0);
        if written < bytes {
            let position = start.plus(written as u64);
            self.queue_write(position, bytes - written, Source::Block { from: written });
        }
    }

    fn queue_write(&mut self, position: Position, bytes: usize, source: Source<P>) {
        let group = self.groups.back_mut().expect("only an open group writes");
        group.writes += 1;
        let group = group.number;
        self.writes.push_back(PendingWrite {
            group,
            position,
            bytes,
            source,
        });
    }

    /// Writes a pad that skips `skip` bytes, of which the first `bytes` lie in this block. Both are zero,
    /// or at least 64, because entries are aligned.
    fn pad(&mut self, bytes: usize, skip: usize) {
        if skip == 0 {
            return;
        }
        let (segment, sequence) = (
            self.groups.back().expect("an open group").segment,
            self.next_sequence,
        );
        let filling = self.memory.filling.as_mut().expect("padding follows filling");
        let pad = &mut filling.block.as_mut()[filling.cursor..filling.cursor + bytes];
        pad.fill(0);
        let header = EntryHeader {
            kind: EntryKind::PAD,
            flags: EntryFlags::NONE,
            length: (skip - HEADER_BYTES) as u32,
            segment,
            position: filling.start.plus(filling.cursor as u64),
            sequence,
        };
        header.stamp(self.seed, pad);
        self.advance(bytes);
    }

    fn advance(&mut self, bytes: usize) {
        let filling = self.memory.filling.as_mut().expect("a block to advance in");
        filling.cursor += bytes;
        self.tail = filling.start.plus(filling.cursor as u64);
    }

    /// The last chance to say how far the log is durable: the group entry is about to leave.
    fn leave_group_head(&mut self) {
        let group = self.groups.back().expect("an open group");
        if !group.head_left {
            self.move_resumption();
            self.stamp_group_head();
            self.groups.back_mut().expect("as above").head_left = true;
        }
    }

    /// Writes the entry of the open group, which lies in the current block.
    fn stamp_group_head(&mut self) {
        let group = self.groups.back().expect("an open group");
        let filling = self.memory.filling.as_mut().expect("the block of its beginning");
        let at = group.start.since(filling.start) as usize;
        let head = GroupHead {
            arrived: group.arrived,
            synced_upto: self.durable,
            begins_at: group.start,
            resumes_at: self.resumes_at,
        };
        let out = &mut filling.block.as_mut()[at..];
        head.stamp(self.seed, group.segment, group.start, group.sequence, out);
    }
}
