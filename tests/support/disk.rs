//! A disk in memory that forgets, tears, fails and lies like one: the disk of every simulated log.
//!
//! ```text
//!  submit ─→ under way ─→ carried out ─→ volatile ──sync──→ durable
//!               │            │              └─ a power cut keeps any sectors
//!               ├─ stalls    ├─ at another place (misdirected), or nowhere: the old block stays
//!               └─ fails, in part (EIO, short, no space)          rot changes what is durable
//! ```
//!
//! A file is what survived the last sync plus writes that did not, in 512-byte sectors. A power cut keeps
//! any of those sectors, whatever their order; a kill keeps every write that was reported and any sectors of the others. A
//! failed sync loses some sectors for ever and would say yes the next time. Operations are carried out in any
//! order: by number ([`Disk::complete`], [`Disk::fail`]), or as the seed has it ([`Disk::step`]) with the odds of
//! [`Faults`].
//!
//! Each file is kept twice: as it is, and as it would be had no write gone astray and no bit rotted
//! ([`File::sound_bytes`]). What only the second one has is what damage took.
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
    /// As `durable`, without damage.
    sound: Vec<u8>,
    /// Reported writes that no sync covered yet.
    volatile: Vec<Written>,
    /// Written since it was opened, by offset: nothing is written twice.
    written: BTreeMap<u64, u64>,
    poisoned: bool,
}

/// Bytes that were written, or a part of them.
#[derive(Clone)]
struct Written {
    when: u64,
    /// Where they were to go.
    offset: usize,
    /// Where they went, if anywhere.
    landed: Option<usize>,
    data: Vec<u8>,
}

impl Written {
    fn part(&self, from: usize, length: usize) -> Written {
        Written {
            when: self.when,
            offset: self.offset + from,
            landed: self.landed.map(|landed| landed + from),
            data: self.data[from..from + length].to_vec(),
        }
    }
}

impl File {
    fn holding(bytes: Vec<u8>) -> File {
        File {
            sound: bytes.clone(),
            durable: bytes,
            ..File::default()
        }
    }

    fn keep(&mut self, written: &Written) {
        let (offset, data) = (written.offset, &written.data);
        self.sound[offset..offset + data.len()].copy_from_slice(data);
        if let Some(landed) = written.landed {
            self.durable[landed..landed + data.len()].copy_from_slice(data);
        }
    }

    fn with_volatile(&self) -> File {
        let mut seen = File {
            volatile: Vec::new(),
            ..self.clone()
        };
        self.volatile.iter().for_each(|written| seen.keep(written));
        seen
    }

    /// What a process sees.
    pub fn bytes(&self) -> Vec<u8> {
        match self.volatile.is_empty() {
            true => self.durable.clone(),
            false => self.with_volatile().durable,
        }
    }

    /// What it would see on a disk without damage.
    pub fn sound_bytes(&self) -> Vec<u8> {
        self.with_volatile().sound
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
    /// A write says yes and is not done: what was there before stays.
    pub lose: u32,
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
    /// A write went astray, or a bit rotted, since [`Disk::accept_damage`].
    pub is_damaged: bool,
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
            is_damaged: false,
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
                let reused = reuse.and_then(|reuse| self.files.remove(&reuse));
                let mut bytes = reused.map_or_else(|| vec![0; length], |file| file.bytes());
                bytes.resize(length, 0);
                bytes[..4096].copy_from_slice(&header[..]);
                self.files.insert(segment, File::holding(bytes));
            }
            DiskOp::Write {
                segment,
                offset,
                data,
                from,
            } => {
                let data = data.as_ref()[from..].to_vec();
                let offset = offset as usize;
                let file = self.files.get_mut(&segment).expect("admitted");
                let mut landed = Some(offset);
                if self.random.per_mille(self.faults.misdirect) {
                    let pages = (file.durable.len() - data.len()) / PAGE;
                    landed = Some(self.random.index(pages + 1) * PAGE);
                }
                if self.random.per_mille(self.faults.lose) {
                    landed = None;
                }
                self.is_damaged |= landed != Some(offset);
                file.volatile.push(Written {
                    when: self.clock,
                    offset,
                    landed,
                    data,
                });
            }
            DiskOp::Sync { segment } => {
                let lies = self.lies;
                let file = self.files.get_mut(&segment).expect("admitted");
                if !lies {
                    let written = std::mem::take(&mut file.volatile);
                    let (covered, rest): (Vec<_>, _) =
                        written.into_iter().partition(|written| written.when < asked);
                    file.volatile = rest;
                    covered.iter().for_each(|written| file.keep(written));
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
                let sectors = self.some_sectors(&self.at_its_place(offset as usize, &data.as_ref()[from..]));
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
                    let sectors =
                        self.some_sectors(&self.at_its_place(offset as usize, &data.as_ref()[from..]));
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
        for written in std::mem::take(&mut file.volatile) {
            file.keep(&written);
        }
    }

    pub fn read(&self, segment: SegmentId, offset: u64, len: usize) -> Option<Vec<u8>> {
        let bytes = self.files.get(&segment)?.bytes();
        let start = (offset as usize).min(bytes.len());
        Some(bytes[start..(start + len).min(bytes.len())].to_vec())
    }

    /// What damage took is gone from here on: the files are as they are.
    pub fn accept_damage(&mut self) {
        self.is_damaged = false;
        for file in self.files.values_mut() {
            file.sound.clone_from(&file.durable);
            file.volatile.retain(|written| written.landed.is_some());
            for written in &mut file.volatile {
                written.offset = written.landed.expect("retained");
            }
        }
    }

    /// Changes what is durable of a file behind everybody's back.
    pub fn alter(&mut self, segment: SegmentId, change: impl FnOnce(&mut [u8])) {
        let file = self.files.get_mut(&segment).expect("it is there");
        change(&mut file.durable);
        self.is_damaged = true;
    }

    /// Changes some bytes where something is written, in about half of the files.
    pub fn rot(&mut self) {
        self.is_damaged = true;
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
                let sectors = self.some_sectors(&self.at_its_place(0, header));
                for Written { offset, data, .. } in sectors {
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
        self.files.insert(segment, File::holding(bytes));
    }

    fn at_its_place(&self, offset: usize, data: &[u8]) -> Written {
        Written {
            when: self.clock,
            offset,
            landed: Some(offset),
            data: data.to_vec(),
        }
    }

    fn some_sectors(&mut self, written: &Written) -> Vec<Written> {
        // All, none, a first part, or any: real disks do each of them.
        let how = self.random.index(4);
        let length = written.data.len();
        let cut = self.random.index(length / SECTOR + 1);
        let mut kept = Vec::new();
        for (index, from) in (0..length).step_by(SECTOR).enumerate() {
            let keep = match how {
                0 => true,
                1 => false,
                2 => index < cut,
                _ => self.random.coin(),
            };
            if keep {
                kept.push(written.part(from, SECTOR.min(length - from)));
            }
        }
        kept
    }

    fn keep_some(&mut self, name: SegmentId, volatile: Vec<Written>) {
        for written in volatile {
            for sector in self.some_sectors(&written) {
                let file = self.files.get_mut(&name).expect("it holds the sectors");
                file.keep(&sector);
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
