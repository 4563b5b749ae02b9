//! The log in memory: sealed blocks, and the one that is being filled.
//!
//! ```text
//!            sealed (read only)                 filling
//! ┌───────────────┬───────────────┬──────────┬───────────────────────────────┐
//! │               │               │          │ written   │ to go │ free      │
//! └───────────────┴───────────────┴──────────┴───────────┴───────┴───────────┘
//!                                            start       written cursor      len
//! ```
//!
//! A block covers a contiguous range of positions and begins on a multiple of 256 KiB. It is one such unit
//! long, unless an entry needs more. No entry lies in two blocks.
//!
//! Live runs are counted by 256 KiB of positions: a block without any is of no use to anyone in memory, however
//! young it is.

use std::collections::VecDeque;

use super::entry::{EntryHeader, EntryKind, Seed};
use super::segment::SegmentId;
use crate::base::block::{BLOCK_BYTES, BlockPool};
use crate::base::ids::Position;

/// A block that is complete.
pub(super) struct Sealed<P: BlockPool> {
    pub start: Position,
    pub shared: P::Shared,
    /// Writes of this very block (not of copies) under way: the pool must not get it back before.
    pub writes: u32,
}

impl<P: BlockPool> Sealed<P> {
    pub fn bytes(&self) -> usize {
        self.shared.as_ref().len()
    }

    pub fn end(&self) -> Position {
        self.start.plus(self.bytes() as u64)
    }
}

/// The block that entries are appended to.
pub(super) struct Filling<P: BlockPool> {
    pub start: Position,
    pub block: P::Block,
    pub bytes: usize,
    /// Where the next entry begins.
    pub cursor: usize,
    /// Bytes that left for disk as copies, with the groups that ended in this block.
    pub written: usize,
}

impl<P: BlockPool> Filling<P> {
    pub fn room(&self) -> usize {
        self.bytes - self.cursor
    }

    pub fn end(&self) -> Position {
        self.start.plus(self.bytes as u64)
    }
}

/// All blocks of a log, by position.
pub(super) struct Memory<P: BlockPool> {
    pub sealed: VecDeque<Sealed<P>>,
    pub filling: Option<Filling<P>>,
    pub sealed_bytes: u64,
    /// Live runs in each unit of 256 KiB, beginning with number `first_unit`.
    live: VecDeque<u32>,
    first_unit: u64,
    /// The last live run of some unit has gone since blocks were last looked through.
    has_settled: bool,
}

impl<P: BlockPool> Memory<P> {
    /// Of a log whose first entry will be at `tail`.
    pub fn new(tail: Position) -> Memory<P> {
        Memory {
            sealed: VecDeque::new(),
            filling: None,
            sealed_bytes: 0,
            live: VecDeque::new(),
            first_unit: tail.0 / BLOCK_BYTES as u64,
            has_settled: false,
        }
    }

    /// Runs of the entry at `position` are live. What was never in memory is not counted.
    pub fn hold(&mut self, position: Position, count: u32) {
        if let Some(unit) = self.unit(position) {
            if unit >= self.live.len() {
                self.live.resize(unit + 1, 0);
            }
            self.live[unit] += count;
        }
    }

    pub fn release(&mut self, position: Position, count: u32) {
        if let Some(unit) = self.unit(position) {
            self.live[unit] -= count;
            self.has_settled |= self.live[unit] == 0;
        }
    }

    fn unit(&self, position: Position) -> Option<usize> {
        let unit = (position.0 / BLOCK_BYTES as u64).checked_sub(self.first_unit)?;
        usize::try_from(unit).ok()
    }

    /// Takes out the blocks before `durable` without a live run, if a last one has gone since the last call.
    pub fn take_settled(&mut self, durable: Position) -> Vec<P::Shared> {
        if !std::mem::take(&mut self.has_settled) {
            return Vec::new();
        }
        let mut settled = Vec::new();
        let mut at = 0;
        while let Some(block) = self.sealed.get(at).filter(|block| block.end() <= durable) {
            if block.writes > 0 || self.is_live(block) {
                at += 1;
                continue;
            }
            let block = self.sealed.remove(at).expect("looked at above");
            self.sealed_bytes -= block.bytes() as u64;
            settled.push(block.shared);
        }
        self.forget_units();
        settled
    }

    fn is_live(&self, block: &Sealed<P>) -> bool {
        let unit_of = |position: Position| self.unit(position).unwrap_or(0);
        let until = unit_of(block.end()).min(self.live.len());
        let from = unit_of(block.start).min(until);
        self.live.range(from..until).any(|count| *count > 0)
    }

    /// Units before everything that is in memory are not looked at any more.
    fn forget_units(&mut self) {
        let filling = self.filling.as_ref().map(|filling| filling.start);
        let Some(oldest) = self.sealed.front().map(|block| block.start).or(filling) else {
            return;
        };
        let count = self.unit(oldest).unwrap_or(0).min(self.live.len());
        self.live.drain(..count);
        self.first_unit += count as u64;
    }

    pub fn push(&mut self, start: Position, shared: P::Shared, writes: u32) {
        let block = Sealed {
            start,
            shared,
            writes,
        };
        debug_assert!(self.sealed.back().is_none_or(|last| last.end() <= start));
        self.sealed_bytes += block.bytes() as u64;
        self.sealed.push_back(block);
    }

    pub fn pop_oldest(&mut self) -> Option<P::Shared> {
        let block = self.sealed.pop_front()?;
        self.sealed_bytes -= block.bytes() as u64;
        self.forget_units();
        Some(block.shared)
    }

    /// The sealed block that `position` lies in.
    pub fn sealed_at(&mut self, position: Position) -> Option<&mut Sealed<P>> {
        let index = self
            .sealed
            .partition_point(|block| block.start <= position)
            .checked_sub(1)?;
        let block = &mut self.sealed[index];
        (position < block.end()).then_some(block)
    }

    /// What is in memory from `position` to the end of its block, or to the last finished entry.
    pub fn from(&self, position: Position) -> Option<&[u8]> {
        if let Some(filling) = &self.filling
            && filling.start <= position
        {
            let at = usize::try_from(position.since(filling.start)).ok()?;
            return filling.block.as_ref().get(at..filling.cursor);
        }
        let index = self
            .sealed
            .partition_point(|block| block.start <= position)
            .checked_sub(1)?;
        let block = &self.sealed[index];
        block
            .shared
            .as_ref()
            .get(usize::try_from(position.since(block.start)).ok()?..)
    }

    /// The parts of `start..end` that lie in one block each. Where a segment ended early there is none.
    pub fn extents(&self, start: Position, end: Position) -> impl Iterator<Item = (Position, usize)> {
        let first = self.sealed.partition_point(|block| block.end() <= start);
        let sealed = self
            .sealed
            .iter()
            .skip(first)
            .map(|block| (block.start, block.end()));
        let filling = self.filling.iter().map(|filling| (filling.start, filling.end()));
        sealed.chain(filling).map_while(move |(block_start, block_end)| {
            let (from, until) = (block_start.max(start), block_end.min(end));
            (from < until).then(|| (from, until.since(from) as usize))
        })
    }

    pub fn bytes(&self) -> u64 {
        self.sealed_bytes + self.filling.as_ref().map_or(0, |filling| filling.bytes as u64)
    }
}

/// Gives every entry in `bytes`, which begin with an entry at `position`, the id of another segment.
pub(super) fn restamp(seed: Seed, segment: SegmentId, position: Position, bytes: &mut [u8]) {
    let mut at = 0;
    while at < bytes.len() {
        let here = position.plus(at as u64);
        let mut header =
            EntryHeader::read(seed, here, &bytes[at..]).expect("entries in memory follow one another");
        // The pad before the end of a segment reaches beyond its block.
        let end = (header.end().since(position) as usize).min(bytes.len());
        header.segment = segment;
        let until = match header.kind {
            EntryKind::PAD => bytes.len(),
            _ => end,
        };
        header.stamp(seed, &mut bytes[at..until]);
        at = end;
    }
}
