//! A log, its disk, and a model of what was appended; every step is checked.

use std::collections::BTreeMap;
use std::time::Duration;

use tailkeep::base::block::VecPool;
use tailkeep::base::ids::{LogId, Position};
use tailkeep::base::time::{Instant, Now, WallTime};
use tailkeep::wal::recover::{Extent, HEAD_BYTES, Recovered, Recovery};
use tailkeep::wal::{Appended, EntryFlags, EntryKind, Log, LogOptions, LogStart, Refused};

use crate::disk::{Crash, Disk};
use crate::random::Random;

pub const KIND: EntryKind = EntryKind(20);
pub const PROLOGUE: &[u8] = b"names of policies";
const SEED: u64 = 0x5eed_0f10_60aa_55ee;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelEntry {
    pub end: Position,
    pub id: u64,
    pub length: usize,
    /// End of the last entry of its run.
    pub run_end: Position,
    pub held: u32,
}

pub struct World {
    pub log: Log<VecPool>,
    pub disk: Disk,
    pub options: LogOptions,
    pub now: Now,
    pub entries: BTreeMap<Position, ModelEntry>,
    next_id: u64,
    /// Entries that a recovery dropped. They never come back, unless a full disk made the log remove the
    /// file that cut them off before there was room for another one to do so.
    dropped: BTreeMap<Position, ModelEntry>,
    was_full: bool,
}

pub fn payload(id: u64, length: usize) -> Vec<u8> {
    let mut random = Random(id);
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        bytes.extend_from_slice(&random.next().to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

pub fn options() -> LogOptions {
    LogOptions {
        log: LogId(3),
        log_seed: SEED,
        segment_size: 1 << 20,
        size_max: 12 << 20,
        retain: Duration::from_millis(300),
        group_interval: Duration::ZERO,
        linger: Duration::ZERO,
        sync: true,
    }
}

pub type Checked = Result<(), String>;

macro_rules! ensure {
    ($truth:expr, $($message:tt)*) => {
        if !$truth {
            return Err(format!($($message)*));
        }
    };
}
pub(crate) use ensure;

impl World {
    pub fn new(seed: u64, options: LogOptions) -> World {
        let now = Now {
            instant: Instant(1_000_000_000),
            wall: WallTime(1_700_000_000_000_000_000),
        };
        let mut log = Log::new(options.clone(), VecPool::default(), LogStart::fresh(), now);
        log.set_prologue(PROLOGUE.to_vec()).expect("short");
        World {
            log,
            disk: Disk::new(seed),
            options,
            now,
            entries: BTreeMap::new(),
            next_id: 0,
            dropped: BTreeMap::new(),
            was_full: false,
        }
    }

    /// One run of entries; nothing if the log refuses.
    pub fn append(&mut self, lengths: &[usize]) -> Result<Option<Appended>, String> {
        let bytes: usize = lengths.iter().map(|length| length + 64).sum();
        if self.log.admit(bytes as u64).is_err() {
            return Ok(None);
        }
        let Err(Refused::TooLarge { limit }) = self.log.begin(self.now, KIND, usize::MAX / 2) else {
            return Err("an entry without bounds".into());
        };
        ensure!(
            limit + 1024 > self.options.segment_size as usize,
            "{limit} bytes are the limit"
        );
        let lengths: Vec<usize> = lengths
            .iter()
            .copied()
            .filter(|length| *length <= limit)
            .collect();
        let mut placed = Vec::new();
        for (index, &length) in lengths.iter().enumerate() {
            let id = self.next_id;
            self.next_id += 1;
            let out = self
                .log
                .begin(self.now, KIND, length)
                .map_err(|refused| refused.to_string())?;
            out.copy_from_slice(&payload(id, length));
            let last = index + 1 == lengths.len();
            let flags = if last {
                EntryFlags::LAST_OF_RUN
            } else {
                EntryFlags::NONE
            };
            let appended = self.log.finish(flags);
            placed.push((appended, id, length));
        }
        let Some(&(last, ..)) = placed.last() else {
            return Ok(None);
        };
        for (Appended { position, end }, id, length) in placed {
            let entry = ModelEntry {
                end,
                id,
                length,
                run_end: last.end,
                held: 0,
            };
            let twin = self.entries.insert(position, entry);
            ensure!(twin.is_none(), "{position} was given twice");
        }
        self.check()?;
        Ok(Some(last))
    }

    pub fn poll(&mut self, count: usize) -> Checked {
        for _ in 0..count {
            let Some((id, op)) = self.log.poll_op(self.now) else {
                break;
            };
            self.disk.submit(id, op);
            self.check()?;
        }
        self.check()
    }

    pub fn complete(&mut self, which: usize) -> Checked {
        if self.disk.under_way() > 0 {
            let id = self.disk.complete(which % self.disk.under_way());
            self.log.handle_op(self.now, id, Ok(()));
        }
        self.check()
    }

    /// Whatever the disk does next.
    fn step(&mut self) -> Checked {
        if let Some((id, result)) = self.disk.step() {
            self.log.handle_op(self.now, id, result);
        }
        self.check()
    }

    pub fn fail(&mut self, which: usize, no_space: bool) -> Checked {
        self.was_full |= no_space;

        if self.disk.under_way() > 0 {
            let (id, error) = self.disk.fail(which % self.disk.under_way(), no_space);
            self.log.handle_op(self.now, id, Err(error));
        }
        self.check()
    }

    pub fn wait(&mut self, duration: Duration) -> Checked {
        self.now.instant = self.now.instant.plus(duration);
        self.now.wall = self.now.wall.plus(duration);
        self.log.handle_timeout(self.now);
        self.check()
    }

    /// Completes everything, without failures, until the log wants nothing for ten seconds.
    pub fn settle(&mut self) -> Checked {
        let until = self.now.instant.plus(Duration::from_secs(10));
        for _ in 0..10_000 {
            self.poll(usize::MAX)?;
            if self.disk.under_way() > 0 {
                self.step()?;
                continue;
            }
            match self.log.poll_timeout() {
                Some(at) if at <= until => {
                    ensure!(
                        at > self.now.instant,
                        "a timeout at {at:?} that has passed is still wanted"
                    );
                    self.wait(at.since(self.now.instant))?;
                }
                Some(_) | None => {
                    let tail = self.log.marks().tail;
                    ensure!(self.log.durable() == tail, "idle, and {:?}", self.log.marks());
                    return Ok(());
                }
            }
        }
        Err("the log does not come to rest".into())
    }

    pub fn hold(&mut self, which: usize) -> Checked {
        let begin = self.log.marks().begin;
        let count = self.entries.range(begin..).count();
        if let Some((position, entry)) = self.entries.range_mut(begin..).nth(which % count.max(1)) {
            entry.held += 2;
            self.log.hold(*position, 2);
        }
        self.check()
    }

    pub fn release(&mut self, which: usize) -> Checked {
        let held = self
            .entries
            .iter_mut()
            .filter(|(_, entry)| entry.held > 0)
            .collect::<Vec<_>>();
        let count = held.len().max(1);
        if let Some((position, entry)) = held.into_iter().nth(which % count) {
            entry.held -= 1;
            self.log.release(*position, 1);
        }
        self.check()
    }

    /// What must hold at every moment.
    pub fn check(&mut self) -> Checked {
        if let Some(broken) = self.disk.broken.take() {
            return Err(broken);
        }
        let marks = self.log.marks();
        let first_held = self.entries.iter().find(|(_, entry)| entry.held > 0);
        if let Some((position, _)) = first_held {
            ensure!(
                marks.begin <= *position,
                "{position} is held, and the log begins at {}",
                marks.begin
            );
            ensure!(
                marks.head <= *position,
                "{position} is held, and the head is at {}",
                marks.head
            );
        }
        Ok(())
    }

    /// Reads one entry where the log says it is.
    pub fn read(&mut self, which: usize) -> Checked {
        let marks = self.log.marks();
        let count = self.entries.range(marks.begin..).count();
        let Some((position, entry)) = self.entries.range(marks.begin..).nth(which % count.max(1)) else {
            return Ok(());
        };
        let expected = payload(entry.id, entry.length);
        if let Some(resident) = self.log.resident(*position) {
            ensure!(
                resident.payload == expected && resident.kind == KIND,
                "{position} differs in memory"
            );
            return Ok(());
        }
        ensure!(
            entry.end <= marks.durable,
            "{position} is not durable and not in memory"
        );
        let (segment, offset) = self
            .log
            .locate(*position)
            .ok_or(format!("{position} is nowhere"))?;
        let bytes = self
            .disk
            .read(segment, offset, entry.length + 64)
            .ok_or(format!("{segment:?} is no file"))?;
        let found = self.log.check(*position, &bytes);
        let found = found.map_err(|error| format!("{position} on disk: {error}"))?;
        ensure!(found.payload == expected, "{position} differs on disk");
        Ok(())
    }

    /// Crashes, recovers, compares what comes back with the model, and goes on.
    pub fn crash(&mut self, crash: Crash) -> Checked {
        let marks = self.log.marks();
        self.disk.crash(crash);
        let (recovered, replayed) = recover(&self.disk)?;
        ensure!(
            recovered.corrupt.is_empty(),
            "a crash was taken for corruption: {recovered:?}"
        );
        ensure!(recovered.entries_lost == 0, "a crash lost entries: {recovered:?}");
        ensure!(
            recovered.unreadable.is_empty(),
            "a crash made files unreadable: {recovered:?}"
        );
        if self.was_full {
            for (position, entry) in &self.dropped {
                if replayed.contains_key(position) {
                    self.entries.entry(*position).or_insert(*entry);
                }
            }
        }
        self.compare(&replayed, marks.begin, marks.durable)?;

        // A run counts whole or not at all.
        for (position, entry) in self.entries.range(marks.begin..) {
            let last = self
                .entries
                .range(..entry.run_end)
                .next_back()
                .expect("its own run");
            let whole = replayed.contains_key(position) == replayed.contains_key(last.0);
            ensure!(whole, "the run that ends at {} came back in part", entry.run_end);
        }
        for segment in &recovered.unsynced {
            self.disk.sync(*segment);
        }
        let (kept, dropped) = std::mem::take(&mut self.entries)
            .into_iter()
            .partition(|(position, _)| replayed.contains_key(position));
        self.entries = kept;
        self.dropped.extend::<BTreeMap<_, _>>(dropped);

        self.now.instant = self.now.instant.plus(Duration::from_millis(10));
        self.log = Log::new(
            self.options.clone(),
            VecPool::default(),
            recovered.start,
            self.now,
        );
        self.log.set_prologue(PROLOGUE.to_vec()).expect("short");
        for (position, entry) in &self.entries {
            if entry.held > 0 {
                self.log.hold(*position, entry.held);
            }
        }
        self.check()
    }

    /// W2: what was acknowledged and not let go is there, once, in order, byte for byte; and nothing else
    /// is that was never appended.
    pub fn compare(&self, replayed: &Replayed, begin: Position, durable: Position) -> Checked {
        for (position, (id_length, bytes)) in replayed {
            let entry = self
                .entries
                .get(position)
                .ok_or(format!("{position} was never appended"))?;
            ensure!(*id_length == entry.length, "{position} has another length");
            ensure!(
                *bytes == payload(entry.id, entry.length),
                "{position} has other bytes"
            );
        }
        let oldest = replayed.keys().next().copied().unwrap_or(begin).min(begin);
        for (position, entry) in self.entries.range(oldest..) {
            let owed = entry.run_end <= durable;
            ensure!(
                !owed || replayed.contains_key(position),
                "{position} was acknowledged and is gone"
            );
        }
        Ok(())
    }
}

/// Payloads by position.
pub type Replayed = BTreeMap<Position, (usize, Vec<u8>)>;

pub fn recover(disk: &Disk) -> Result<(Recovered, Replayed), String> {
    let files = disk
        .files
        .iter()
        .map(|(segment, file)| (*segment, file.bytes()))
        .collect();
    recover_files(&files)
}

pub fn recover_files(
    files: &BTreeMap<tailkeep::wal::SegmentId, Vec<u8>>,
) -> Result<(Recovered, Replayed), String> {
    let whole = recover_in_pieces(files, 1 << 20)?;
    // What is found does not depend on how much is read at a time.
    for piece_bytes in [4096, 10_000, 256 << 10] {
        let pieces = recover_in_pieces(files, piece_bytes)?;
        ensure!(
            pieces == whole,
            "in pieces of {piece_bytes}: {pieces:?}, not {whole:?}"
        );
    }
    Ok(whole)
}

fn recover_in_pieces(
    files: &BTreeMap<tailkeep::wal::SegmentId, Vec<u8>>,
    piece_bytes: u64,
) -> Result<(Recovered, Replayed), String> {
    let mut recovery = Recovery::new(options().log, Extent::Whole).in_pieces_of(piece_bytes);
    for (segment, file) in files {
        let head = &file[..file.len().min(HEAD_BYTES)];
        recovery
            .header(*segment, head)
            .map_err(|error| error.to_string())?;
    }
    let mut replayed = Replayed::new();
    let mut wrong = None;
    let (mut last, mut count) = (None, 0);
    while let Some(read) = recovery.poll_read() {
        let file = &files[&read.segment];
        let start = (read.offset as usize).min(file.len());
        let bytes = file[start..(start + read.len).min(file.len())].to_vec();
        recovery.handle_read(bytes, &mut |entry| {
            count += 1;
            if last >= Some(entry.position) {
                wrong.get_or_insert(format!("{} comes out of order", entry.position));
            }
            last = Some(entry.position);
            if entry.arrived < WallTime(1_700_000_000_000_000_000) && entry.arrived != WallTime(0) {
                wrong.get_or_insert(format!("{} arrived at {:?}", entry.position, entry.arrived));
            }
            if entry.kind == EntryKind::NAMES {
                if entry.payload != PROLOGUE {
                    wrong.get_or_insert(format!("{} has other names", entry.position));
                }
                return;
            }
            replayed.insert(entry.position, (entry.payload.len(), entry.payload.to_vec()));
        });
    }
    let recovered = recovery.finish();
    ensure!(recovered.entries == count, "{count} entries, and {recovered:?}");
    match wrong {
        Some(wrong) => Err(wrong),
        None => Ok((recovered, replayed)),
    }
}
