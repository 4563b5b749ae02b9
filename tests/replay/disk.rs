//! A disk in memory. A power cut keeps any 512-byte sectors of what was written and not synced.

use std::collections::BTreeMap;

use tailkeep::base::block::{PAGE_BYTES, VecPool};
use tailkeep::wal::{DiskOp, OpId, SegmentId};

const SECTOR: usize = 512;

/// Pseudo-random numbers from one seed (splitmix64).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

#[derive(Default)]
pub struct File {
    pub durable: Vec<u8>,
    /// Reported writes that no sync covered: when, where, what.
    volatile: Vec<(u64, usize, Vec<u8>)>,
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

#[derive(Default)]
pub struct Disk {
    pub files: BTreeMap<SegmentId, File>,
    under_way: Vec<(OpId, DiskOp<VecPool>, u64)>,
    clock: u64,
}

impl Disk {
    pub fn submit(&mut self, id: OpId, op: DiskOp<VecPool>) {
        self.clock += 1;
        self.under_way.push((id, op, self.clock));
    }

    pub fn is_idle(&self) -> bool {
        self.under_way.is_empty()
    }

    /// Carries out any one operation.
    pub fn complete(&mut self, which: u64) -> Option<OpId> {
        if self.under_way.is_empty() {
            return None;
        }
        let (id, op, asked) = self
            .under_way
            .remove((which % self.under_way.len() as u64) as usize);
        self.clock += 1;
        match op {
            DiskOp::OpenSegment {
                segment,
                size,
                reuse,
                header,
                ..
            } => {
                let reused = reuse.and_then(|reuse| self.files.remove(&reuse));
                let mut durable = reused.map_or_else(Vec::new, |file| file.bytes());
                durable.resize(size as usize + PAGE_BYTES, 0);
                durable[..PAGE_BYTES].copy_from_slice(&header[..]);
                self.files.insert(
                    segment,
                    File {
                        durable,
                        volatile: Vec::new(),
                    },
                );
            }
            DiskOp::Write {
                segment,
                offset,
                data,
                from,
            } => {
                let file = self.files.get_mut(&segment).expect("an open segment");
                file.volatile
                    .push((self.clock, offset as usize, data.as_ref()[from..].to_vec()));
            }
            DiskOp::Sync { segment } => {
                let file = self.files.get_mut(&segment).expect("an open segment");
                let (covered, rest): (Vec<_>, Vec<_>) =
                    file.volatile.drain(..).partition(|write| write.0 < asked);
                file.volatile = rest;
                for (_, offset, data) in covered {
                    file.durable[offset..offset + data.len()].copy_from_slice(&data);
                }
            }
            DiskOp::Remove { segment } => {
                self.files.remove(&segment);
            }
        }
        Some(id)
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

    /// Ends everything. Writes under way, like those that were reported, are there in part.
    pub fn power_cut(&mut self, random: &mut Random) {
        for (_, op, _) in std::mem::take(&mut self.under_way) {
            if let DiskOp::Write {
                segment,
                offset,
                data,
                from,
            } = op
                && let Some(file) = self.files.get_mut(&segment)
            {
                file.volatile
                    .push((u64::MAX, offset as usize, data.as_ref()[from..].to_vec()));
            }
        }
        for file in self.files.values_mut() {
            for (_, offset, data) in std::mem::take(&mut file.volatile) {
                // All, none, a first part, or any.
                let how = random.below(4);
                let cut = random.below((data.len() / SECTOR) as u64 + 1);
                for (index, sector) in data.chunks(SECTOR).enumerate() {
                    let keep = match how {
                        0 => true,
                        1 => false,
                        2 => (index as u64) < cut,
                        _ => random.below(2) == 0,
                    };
                    if keep {
                        let at = offset + index * SECTOR;
                        file.durable[at..at + sector.len()].copy_from_slice(sector);
                    }
                }
            }
        }
    }

    /// Changes some bytes where something is written.
    pub fn damage(&mut self, random: &mut Random) {
        let files: Vec<SegmentId> = self.files.keys().copied().collect();
        for segment in files {
            if random.below(2) == 0 {
                continue;
            }
            let file = self.files.get_mut(&segment).expect("listed");
            let written = file.durable.iter().rposition(|byte| *byte != 0).unwrap_or(0) as u64 + 1;
            for _ in 0..1 + random.below(3) {
                let at = random.below(written) as usize;
                let end = (at + 1 + random.below(64) as usize).min(file.durable.len());
                file.durable[at..end]
                    .iter_mut()
                    .for_each(|byte| *byte ^= random.next() as u8 | 1);
            }
        }
    }
}
