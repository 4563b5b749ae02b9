//! A disk in memory that forgets, tears, fails and lies like one: the disk of every simulated log.
//!
//! ```text
//!  submit ─→ under way ─→ carried out ─→ volatile ──sync──→ durable
//!               │            │              └─ a power cut keeps any sectors
//!               ├─ stalls    ├─ at another place (misdirected)
//!               └─ fails, in part (EIO, short, no space)          rot changes what is durable
//! ```
//!
//! A file is what survived the last sync plus writes that did not, in 512-byte sectors. A power cut keeps
//! any of those sectors; a kill keeps every write that was reported and any sectors of the others. A
//! failed sync loses some sectors for ever and would say yes the next time. Operations are carried out in any
//! order: by number ([`Disk::complete`], [`Disk::fail`]), or as the seed has it ([`Disk::step`]) with the odds of
//! [`Faults`].
//!
//! The disk also holds the log to its promises: nothing is written twice, nothing is synced after a
//! failure, one sync at a time, no operation on a file that another one is opening or removing.

use std::collections::{BTreeMap, BTreeSet};

use tailkeep::base::block::VecPool;
use tailkeep::wal::{DiskError, DiskOp, OpId, SegmentHeader, SegmentId};

use crate::random::Random;

pub const SECTOR: usize = 512;
const PAGE: usize = 4096;

#[derive(Clone, Default)]
pub struct File {
    durable: Vec<u8>,
    /// Reported writes that no sync covered yet: when, where, what.
    volatile: Vec<(u64, usize, Vec<u8>)>,
    /// Written since it was opened, by offset: nothing is written twice.
    written: BTreeMap<u64, u64>,
    poisoned: bool,
}

impl File {
    /// What a process sees.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        for (_, offset, data) in &self.volatile {
            bytes[*offset..*offset + data.len()].copy_from_slice(data);
        }
        bytes
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    Kill,
    PowerCut,
}

/// Odds of what goes wrong with one operation, in thousandths. None by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// A write fails, in part or after a part (a short write).
    pub write_error: u32,
    pub sync_error: u32,
    /// A segment finds no space.
    pub no_space: u32,
    /// An operation makes others wait for it, up to [`STALL_STEPS_MAX`] steps.
    pub stall: u32,
    /// A write says yes and lands on another page of its file.
    pub misdirect: u32,
}

/// Steps that an operation stalls at most.
pub const STALL_STEPS_MAX: u64 = 50;

struct UnderWay {
    id: OpId,
    op: DiskOp<VecPool>,
    asked: u64,
    /// Not before this step.
    not_before: u64,
}

pub struct Disk {
    pub files: BTreeMap<SegmentId, File>,
    under_way: Vec<UnderWay>,
    clock: u64,
    steps: u64,
    pub random: Random,
    pub faults: Faults,
    /// Says yes to a sync and does nothing.
    pub lies: bool,
    /// The first promise that the log did not keep.
    pub broken: Option<String>,
}

impl Disk {
    pub fn new(seed: u64) -> Disk {
        Disk {
            files: BTreeMap::new(),
            under_way: Vec::new(),
            clock: 0,
            steps: 0,
            random: Random(seed),
            faults: Faults::default(),
            lies: false,
            broken: None,
        }
    }

    pub fn under_way(&self) -> usize {
        self.under_way.len()
    }

    pub fn submit(&mut self, id: OpId, op: DiskOp<VecPool>) {
        self.clock += 1;
        if let Err(broken) = self.admit(&op) {
            self.broken.get_or_insert(broken);
        }
        let stall = match self.random.per_mille(self.faults.stall) {
            true => self.random.below(STALL_STEPS_MAX),
            false => 0,
        };
        self.under_way.push(UnderWay {
            id,
            op,
            asked: self.clock,
            not_before: self.steps + stall,
        });
    }

    /// Carries out some operation under way as the seed and the faults have it. `None`: none is, or all stall.
    pub fn step(&mut self) -> Option<(OpId, Result<(), DiskError>)> {
        self.steps += 1;
        let ready: Vec<usize> = (0..self.under_way.len())
            .filter(|index| self.under_way[*index].not_before <= self.steps)
            .collect();
        let index = *ready.get(self.random.index(ready.len().max(1)))?;
        let (odds, no_space) = match &self.under_way[index].op {
            DiskOp::OpenSegment { .. } => (self.faults.no_space, true),
            DiskOp::Write { .. } => (self.faults.write_error, false),
            DiskOp::Sync { .. } => (self.faults.sync_error, false),
            DiskOp::Remove { .. } => (0, false),
        };
        if self.random.per_mille(odds) {
            let (id, error) = self.fail(index, no_space);
            return Some((id, Err(error)));
        }
        Some((self.complete(index), Ok(())))
    }

    fn admit(&mut self, op: &DiskOp<VecPool>) -> Result<(), String> {
        let others = || self.under_way.iter().map(|under_way| &under_way.op);
        match op {
            DiskOp::OpenSegment {
                segment,
                reuse,
                header,
                base,
                size,
            } => {
                let header = tailkeep::wal::parse_header(&header[..]).map_err(|error| error.to_string())?;
                let SegmentHeader {
                    segment: named,
                    base: begins,
                    size: long,
                    ..
                } = header;
                if (named, begins, long) != (*segment, *base, *size) {
                    return Err(format!("the header of {segment:?} says {header:?}"));
                }
                if self.files.contains_key(segment) || self.files.keys().next_back() > Some(segment) {
                    return Err(format!("{segment:?} is not a new id"));
                }
                if let Some(reuse) = reuse {
                    if !self.files.contains_key(reuse) || others().any(|op| segments(op).contains(reuse)) {
                        return Err(format!("{reuse:?} cannot be used again now"));
                    }
                    if self.files[reuse].poisoned {
                        return Err(format!("{reuse:?} failed and is used again"));
                    }
                }
                if others().any(|op| matches!(op, DiskOp::OpenSegment { .. })) {
                    return Err("two segments are opened at a time".into());
                }
            }
            DiskOp::Write {
                segment,
                offset,
                data,
                from,
            } => {
                let length = (data.as_ref().len() - from) as u64;
                if length == 0 || !offset.is_multiple_of(4096) || !length.is_multiple_of(4096) {
                    return Err(format!("a write of {length} at {offset}"));
                }
                let file = self
                    .files
                    .get_mut(segment)
                    .ok_or(format!("a write to {segment:?}, not open"))?;
                if *offset < 4096 || offset + length > file.durable.len() as u64 {
                    return Err(format!("a write of {length} at {offset} outside of {segment:?}"));
                }
                let before = file.written.range(..offset + length).next_back();
                if before.is_some_and(|(at, bytes)| at + bytes > *offset) {
                    return Err(format!("{segment:?} is written twice at {offset}"));
                }
                file.written.insert(*offset, length);
            }
            DiskOp::Sync { segment } => {
                if others().any(|op| matches!(op, DiskOp::Sync { .. })) {
                    return Err("two syncs at a time".into());
                }
                let file = self
                    .files
                    .get(segment)
                    .ok_or(format!("a sync of {segment:?}, not open"))?;
                if file.poisoned {
                    return Err(format!("{segment:?} is synced after a failure"));
                }
            }
            DiskOp::Remove { segment } => {
                if others().any(|op| segments(op).contains(segment)) {
                    return Err(format!("{segment:?} is removed while it is used"));
                }
            }
        }
        Ok(())
    }

    /// Carries out the `index`-th operation under way.
    pub fn complete(&mut self, index: usize) -> OpId {
        let UnderWay { id, op, asked, .. } = self.under_way.remove(index);
        self.clock += 1;
        match op {
            DiskOp::OpenSegment {
                segment,
                size,
                reuse,
                header,
                ..
            } => {
                let length = size as usize + 4096;
                let mut bytes = reuse
                    .and_then(|reuse| self.files.remove(&reuse))
                    .map(|file| file.bytes());
                let bytes = bytes.get_or_insert_with(|| vec![0; length]);
                bytes.resize(length, 0);
                bytes[..4096].copy_from_slice(&header[..]);
                self.files.insert(
                    segment,
                    File {
                        durable: std::mem::take(bytes),
                        ..File::default()
                    },
                );
            }
            DiskOp::Write {
                segment,
                offset,
                data,
                from,
            } => {
                let data = data.as_ref()[from..].to_vec();
                let mut offset = offset as usize;
                let file = self.files.get_mut(&segment).expect("admitted");
                if self.random.per_mille(self.faults.misdirect) {
                    let pages = (file.durable.len() - data.len()) / PAGE;
                    offset = self.random.index(pages + 1) * PAGE;
                }
                file.volatile.push((self.clock, offset, data));
            }
            DiskOp::Sync { segment } => {
                let lies = self.lies;
                let file = self.files.get_mut(&segment).expect("admitted");
                if !lies {
                    let (covered, rest) = file.volatile.drain(..).partition(|write| write.0 < asked);
                    file.volatile = rest;
                    let covered: Vec<(u64, usize, Vec<u8>)> = covered;
                    for (_, offset, data) in covered {
                        file.durable[offset..offset + data.len()].copy_from_slice(&data);
                    }
                }
            }
            DiskOp::Remove { segment } => {
                self.files.remove(&segment);
            }
        }
        id
    }

    /// Fails the `index`-th operation under way.
    pub fn fail(&mut self, index: usize, no_space: bool) -> (OpId, DiskError) {
        let UnderWay { id, op, .. } = self.under_way.remove(index);
        let mut error = match self.random.index(2) {
            0 => DiskError::Io(5),
            _ => DiskError::Cancelled,
        };
        match op {
            DiskOp::OpenSegment { segment, reuse, .. } => {
                self.files.remove(&segment);
                reuse.map(|reuse| self.files.remove(&reuse));
                if no_space {
                    error = DiskError::NoSpace;
                }
            }
            DiskOp::Write {
                segment,
                offset,
                data,
                from,
            } => {
                let sectors = self.some_sectors(offset as usize, &data.as_ref()[from..]);
                let written = (sectors.len() * SECTOR) as u64;
                if let Some(file) = self.files.get_mut(&segment) {
                    file.volatile.extend(sectors);
                    file.poisoned = true;
                }
                if self.random.coin() {
                    error = DiskError::ShortWrite { written };
                }
            }
            DiskOp::Sync { segment } => {
                // Some sectors reach the disk; the others are marked clean and never will.
                let file = self.files.get_mut(&segment).expect("admitted");
                file.poisoned = true;
                let volatile = std::mem::take(&mut file.volatile);
                self.keep_some(segment, volatile);
            }
            DiskOp::Remove { .. } => {}
        }
        (id, error)
    }

    /// Ends the process, or the power. What was under way happened in part.
    pub fn crash(&mut self, crash: Crash) {
        for UnderWay { op, .. } in std::mem::take(&mut self.under_way) {
            match op {
                DiskOp::OpenSegment {
                    segment,
                    size,
                    reuse,
                    header,
                    ..
                } => {
                    self.crash_while_opening(segment, size as usize, reuse, &header[..]);
                }
                DiskOp::Write {
                    segment,
                    offset,
                    data,
                    from,
                } => {
                    let sectors = self.some_sectors(offset as usize, &data.as_ref()[from..]);
                    if let Some(file) = self.files.get_mut(&segment) {
                        file.volatile.extend(sectors);
                    }
                }
                DiskOp::Sync { .. } => {}
                DiskOp::Remove { segment } => {
                    if self.random.coin() {
                        self.files.remove(&segment);
                    }
                }
            }
        }
        let names: Vec<SegmentId> = self.files.keys().copied().collect();
        for name in names {
            let file = self.files.get_mut(&name).expect("listed");
            file.written.clear();
            file.poisoned = false;
            if crash == Crash::PowerCut {
                let volatile = std::mem::take(&mut file.volatile);
                self.keep_some(name, volatile);
            } else {
                // O_DIRECT: the bytes are with the disk, and another sync can make them durable.
            }
        }
    }

    /// What recovery asks for before anything is built on what it read.
    pub fn sync(&mut self, segment: SegmentId) {
        let file = self
            .files
            .get_mut(&segment)
            .expect("recovery names files that exist");
        file.durable = file.bytes();
        file.volatile.clear();
    }

    pub fn read(&self, segment: SegmentId, offset: u64, len: usize) -> Option<Vec<u8>> {
        let bytes = self.files.get(&segment)?.bytes();
        let start = (offset as usize).min(bytes.len());
        Some(bytes[start..(start + len).min(bytes.len())].to_vec())
    }

    /// Changes some bytes where something is written, in about half of the files.
    pub fn rot(&mut self) {
        let random = &mut self.random;
        for file in self.files.values_mut() {
            if random.coin() {
                continue;
            }
            let written = file.durable.iter().rposition(|byte| *byte != 0).unwrap_or(0) + 1;
            for _ in 0..1 + random.index(3) {
                let at = random.index(written);
                let end = (at + 1 + random.index(64)).min(file.durable.len());
                for byte in file.durable.get_mut(at..end).unwrap_or_default() {
                    *byte ^= random.next() as u8 | 1;
                }
            }
        }
    }

    fn crash_while_opening(
        &mut self,
        segment: SegmentId,
        size: usize,
        reuse: Option<SegmentId>,
        header: &[u8],
    ) {
        let how = self.random.index(4);
        if how == 0 {
            return;
        }
        let mut bytes = match reuse {
            Some(reuse) => self.files.remove(&reuse).expect("admitted").bytes(),
            None => vec![0; self.random.index(size + PAGE)],
        };
        match how {
            1 => {}
            2 => {
                let sectors = self.some_sectors(0, header);
                for (_, offset, data) in sectors {
                    if offset + data.len() <= bytes.len() {
                        bytes[offset..offset + data.len()].copy_from_slice(&data);
                    }
                }
            }
            _ => {
                bytes.resize(size + 4096, 0);
                bytes[..4096].copy_from_slice(header);
            }
        }
        self.files.insert(
            segment,
            File {
                durable: bytes,
                ..File::default()
            },
        );
    }

    fn some_sectors(&mut self, offset: usize, data: &[u8]) -> Vec<(u64, usize, Vec<u8>)> {
        // All, none, a first part, or any: real disks do each of them.
        let how = self.random.index(4);
        let cut = self.random.index(data.len() / SECTOR + 1);
        let mut kept = Vec::new();
        for (index, sector) in data.chunks(SECTOR).enumerate() {
            let keep = match how {
                0 => true,
                1 => false,
                2 => index < cut,
                _ => self.random.coin(),
            };
            if keep {
                kept.push((self.clock, offset + index * SECTOR, sector.to_vec()));
            }
        }
        kept
    }

    fn keep_some(&mut self, name: SegmentId, volatile: Vec<(u64, usize, Vec<u8>)>) {
        for (_, offset, data) in volatile {
            for (_, offset, sector) in self.some_sectors(offset, &data) {
                let file = self.files.get_mut(&name).expect("it holds the sectors");
                file.durable[offset..offset + sector.len()].copy_from_slice(&sector);
            }
        }
    }
}

fn segments(op: &DiskOp<VecPool>) -> BTreeSet<SegmentId> {
    match op {
        DiskOp::OpenSegment { segment, reuse, .. } => [*segment].into_iter().chain(*reuse).collect(),
        DiskOp::Write { segment, .. } | DiskOp::Sync { segment } | DiskOp::Remove { segment } => {
            [*segment].into()
        }
    }
}
