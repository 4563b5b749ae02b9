//! From files to a shard: finds the segments of a log, has them surveyed and replayed, and says what it found.

use super::clock::Clock;
use super::datadir;
use crate::base::block::{BlockPool, PAGE_BYTES};
use crate::base::ids::{LogId, Position};
use crate::wal::recover::{Extent, Fallback, HEAD_BYTES, RecoverError, Recovered, Recovery, ReplayedEntry};
use crate::wal::{ENTRY_BYTES_MAX, EntryError, Log, LogStart, SegmentId};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use thiserror::Error;

#[derive(Debug, Error)]
pub enum RecoveryError {
    #[error("{path}: {error}")]
    Io { path: PathBuf, error: io::Error },
    #[error("{path}: {error}")]
    Log { path: PathBuf, error: RecoverError },
}

/// A log as it was found.
#[derive(Debug)]
pub struct FoundLog {
    pub start: LogStart,
    /// `None`: the log is new.
    pub log_seed: Option<u64>,
    pub segments: usize,
    pub entries: u64,
    pub torn_bytes: u64,
    pub corrupt_bytes: u64,
    pub entries_lost: u64,
}

/// A start folds at least so much of the end of the log, although nothing waits in it: people ask what was decided
/// last.
const TAIL_BYTES: u64 = 32 << 20;

/// The files of one log, read a piece at a time. Blocks while it reads.
///
/// Nothing is written and no lock is needed: whoever does not hold it opens with [`LogFiles::open_live`].
pub struct LogFiles {
    directory: PathBuf,
    recovery: Recovery,
    segments: Vec<SegmentId>,
    foreign: Vec<PathBuf>,
    /// The file that was read last.
    file: Option<(SegmentId, File)>,
    /// Another process may recycle files meanwhile.
    live: bool,
    recycled: Vec<SegmentId>,
}

impl LogFiles {
    /// For the process that holds the lock: only what a start needs is read; a file that goes away is an error.
    ///
    /// `log_seed` serves where no header is sound. What waits before `from` is known otherwise.
    pub fn open(
        directory: &Path,
        log: LogId,
        log_seed: u64,
        from: Position,
    ) -> Result<LogFiles, RecoveryError> {
        let tail_bytes = TAIL_BYTES;
        let extent = Extent::Needed { tail_bytes, from };
        LogFiles::open_as(directory, log, Some(log_seed), false, extent)
    }

    /// For readers beside a running process: the oldest files may go away while they read.
    pub fn open_live(directory: &Path, log: LogId, log_seed: Option<u64>) -> Result<LogFiles, RecoveryError> {
        LogFiles::open_as(directory, log, log_seed, true, Extent::Whole)
    }

    fn open_as(
        directory: &Path,
        log: LogId,
        log_seed: Option<u64>,
        live: bool,
        extent: Extent,
    ) -> Result<LogFiles, RecoveryError> {
        let listed = datadir::segments(directory);
        let (segments, foreign) = listed.map_err(|error| RecoveryError::Io {
            path: directory.to_path_buf(),
            error,
        })?;
        let length = |segment: &SegmentId| {
            let found = std::fs::symlink_metadata(directory.join(segment.file_name()));
            found.map_or(0, |found| found.len())
        };
        let size = segments.iter().map(length).max().unwrap_or(0);
        let fallback = log_seed.map(|log_seed| Fallback {
            log_seed,
            size: size.saturating_sub(PAGE_BYTES as u64),
        });
        let mut files = LogFiles {
            directory: directory.to_path_buf(),
            recovery: Recovery::new(log, extent).with_fallback(fallback),
            segments,
            foreign,
            file: None,
            live,
            recycled: Vec::new(),
        };
        for segment in files.segments.clone() {
            if let Some(head) = files.read(segment, 0, HEAD_BYTES, Vec::new())? {
                let read = files.recovery.header(segment, &head);
                read.map_err(|error| RecoveryError::Log {
                    path: directory.to_path_buf(),
                    error,
                })?;
            }
        }
        Ok(files)
    }

    /// What lies among the segments and is none.
    pub fn foreign(&self) -> &[PathBuf] {
        &self.foreign
    }

    pub fn segment_count(&self) -> usize {
        self.segments.len()
    }

    /// Reads one piece and hands on the entries in it that count, oldest first. `false`: there is none left.
    pub fn step(&mut self, fold: &mut impl FnMut(&ReplayedEntry<'_>)) -> Result<bool, RecoveryError> {
        let Some(read) = self.recovery.poll_read() else {
            return Ok(false);
        };
        let buffer = self.recovery.take_buffer();
        let bytes = self
            .read(read.segment, read.offset, read.len, buffer)?
            .unwrap_or_default();
        self.recovery
            .handle_read(bytes, &mut |entry: ReplayedEntry<'_>| fold(&entry));
        Ok(true)
    }

    /// What was found; files that were recycled meanwhile do not count as corrupt.
    pub fn finish(self) -> Recovered {
        let mut recovered = self.recovery.finish();
        let is_recycled = |segment: Option<SegmentId>| segment.is_some_and(|id| self.recycled.contains(&id));
        recovered.corrupt.retain(|range| !is_recycled(range.segment));
        recovered
    }

    /// Up to `len` bytes from `offset`, fewer at the end of the file. `None`: it was recycled before it was read, or
    /// while it was.
    fn read(
        &mut self,
        segment: SegmentId,
        offset: u64,
        len: usize,
        mut buffer: Vec<u8>,
    ) -> Result<Option<Vec<u8>>, RecoveryError> {
        let path = self.directory.join(segment.file_name());
        let mut read = || {
            if self.file.as_ref().is_none_or(|(open, _)| *open != segment) {
                self.file = Some((segment, datadir::open_segment(&self.directory, segment)?));
            }
            let (_, file) = self.file.as_ref().expect("just opened");
            read_at(file, offset, len, &mut buffer)?;
            if self.live {
                std::fs::symlink_metadata(&path)?;
            }
            Ok::<_, io::Error>(())
        };
        match read() {
            Ok(()) => Ok(Some(buffer)),
            Err(error) if self.live && error.kind() == io::ErrorKind::NotFound => {
                self.recycled.push(segment);
                Ok(None)
            }
            Err(error) => Err(RecoveryError::Io { path, error }),
        }
    }
}

/// Reads what is there of `len` bytes. Preallocated space that was never written is zeros without asking the disk.
fn read_at(file: &File, offset: u64, len: usize, buffer: &mut Vec<u8>) -> io::Result<()> {
    let rest = file.metadata()?.len().saturating_sub(offset);
    let len = len.min(usize::try_from(rest).unwrap_or(usize::MAX));
    buffer.clear();
    buffer.resize(len, 0);
    let data_start = match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(offset)) {
        Ok(data_start) => data_start,
        // No data from here on.
        Err(rustix::io::Errno::NXIO) => return Ok(()),
        // A file system that knows no holes.
        Err(_) => offset,
    };
    let mut filled =
        usize::try_from(data_start.saturating_sub(offset)).map_or(len, |skipped| skipped.min(len));
    while filled < len {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    buffer.truncate(filled);
    Ok(())
}

/// The payload of one durable entry of a log that has begun, as it is on disk; `None` if it is not there.
pub fn read_entry<P: BlockPool>(directory: &Path, log: &Log<P>, position: Position) -> Option<Vec<u8>> {
    let (segment, offset) = log.locate(position)?;
    let file = datadir::open_segment(directory, segment).ok()?;
    let (mut bytes, mut len) = (Vec::new(), ENTRY_BYTES_MAX);
    loop {
        read_at(&file, offset, len, &mut bytes).ok()?;
        match log.check(position, &bytes) {
            Ok(entry) => return Some(entry.payload.to_vec()),
            Err(EntryError::Short { needed }) if needed > len => len = needed,
            Err(_) => return None,
        }
    }
}

/// Replays one log through `fold`, oldest entry first, `from` as in [`LogFiles::open`]. Between two pieces that are read the executor has its turn, so
/// that the admin port answers meanwhile.
pub async fn replay(
    directory: &Path,
    log: LogId,
    (log_seed, from): (u64, Position),
    clock: &Clock,
    mut fold: impl FnMut(&ReplayedEntry<'_>),
) -> Result<FoundLog, RecoveryError> {
    let began = clock.now();
    let mut files = LogFiles::open(directory, log, log_seed, from)?;
    for path in files.foreign() {
        tracing::warn!(path = %path.display(), "not a segment; left alone");
    }
    while files.step(&mut fold)? {
        glommio::executor().yield_task_queue_now().await;
    }
    let segments = files.segment_count();
    let recovered = files.finish();
    make_durable(directory, &recovered)?;
    let found = FoundLog {
        segments,
        log_seed: recovered.log_seed,
        entries: recovered.entries,
        torn_bytes: recovered.torn_bytes,
        corrupt_bytes: corrupt_bytes(directory, &recovered),
        entries_lost: recovered.entries_lost,
        start: recovered.start.clone(),
    };
    report(
        directory,
        &recovered,
        &found,
        clock.now().instant.since(began.instant),
    );
    Ok(found)
}

/// What was lost to damage: ranges of positions, and whole files of which nothing is sound.
fn corrupt_bytes(directory: &Path, recovered: &Recovered) -> u64 {
    let ranges = recovered.corrupt.iter();
    let lost: u64 = ranges.map(|range| range.end.since(range.start)).sum();
    let length = |segment: &SegmentId| {
        let found = std::fs::symlink_metadata(directory.join(segment.file_name()));
        found.map_or(0, |found| found.len())
    };
    lost + recovered.unreadable.iter().map(length).sum::<u64>()
}

fn report(directory: &Path, recovered: &Recovered, found: &FoundLog, took: std::time::Duration) {
    for range in &recovered.corrupt {
        let segment = range.segment.map(SegmentId::file_name);
        tracing::error!(
            directory = %directory.display(), segment, from = %range.start, to = %range.end,
            "corrupt: what was acknowledged here is lost; the rest of the log is used"
        );
    }
    for segment in &recovered.unreadable {
        tracing::error!(
            directory = %directory.display(), segment = segment.file_name(),
            "no page of this file is readable; it is left alone"
        );
    }
    if found.segments > 0 {
        tracing::info!(
            directory = %directory.display(), segments = found.segments, entries = found.entries,
            torn_bytes = found.torn_bytes, corrupt_bytes = found.corrupt_bytes,
            seconds = took.as_secs_f64(), "replayed"
        );
    }
}

/// Entries that were written and not known to be synced count from now on, so they must not vanish.
fn make_durable(directory: &Path, recovered: &Recovered) -> Result<(), RecoveryError> {
    for segment in &recovered.unsynced {
        let path = directory.join(segment.file_name());
        let synced = datadir::open_segment(directory, *segment).and_then(|file| file.sync_data());
        synced.map_err(|error| RecoveryError::Io { path, error })?;
    }
    Ok(())
}
