//! From files to a shard: finds the segments of a log, has them surveyed and replayed, and says what it found.

use super::clock::Clock;
use super::datadir;
use crate::base::block::PAGE_BYTES;
use crate::base::ids::LogId;
use crate::wal::recover::{RecoverError, Recovered, Recovery, ReplayedEntry};
use crate::wal::{LogStart, SegmentId};
use std::fs::File;
use std::io::{self, Read};
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

/// Replays one log through `fold`, oldest entry first. Segments are loaded whole, one at a time; between two
/// of them `rest` is awaited, so that the admin port answers meanwhile.
pub async fn replay(
    directory: &Path,
    log: LogId,
    clock: &Clock,
    mut fold: impl FnMut(&ReplayedEntry<'_>),
) -> Result<FoundLog, RecoveryError> {
    let at = |path: PathBuf| move |error| RecoveryError::Io { path, error };
    let began = clock.now();
    let (segments, foreign) = datadir::segments(directory).map_err(at(directory.to_path_buf()))?;
    for path in foreign {
        tracing::warn!(path = %path.display(), "not a segment; left alone");
    }
    let mut recovery = Recovery::new(log);
    let refused = |error| RecoveryError::Log {
        path: directory.to_path_buf(),
        error,
    };
    for segment in &segments {
        let page = read_segment(directory, *segment, PAGE_BYTES as u64)?;
        recovery.header(*segment, &page).map_err(refused)?;
    }
    while let Some(segment) = recovery.survey_next() {
        recovery.survey(segment, &read_segment(directory, segment, u64::MAX)?);
        glommio::executor().yield_task_queue_now().await;
    }
    while let Some(segment) = recovery.replay_next() {
        let file = read_segment(directory, segment, u64::MAX)?;
        recovery.replay(segment, &file, &mut |entry: ReplayedEntry<'_>| fold(&entry));
        glommio::executor().yield_task_queue_now().await;
    }
    let recovered = recovery.finish();
    make_durable(directory, &recovered)?;
    let found = FoundLog {
        segments: segments.len(),
        log_seed: recovered.log_seed,
        entries: recovered.entries,
        torn_bytes: recovered.torn_bytes,
        corrupt_bytes: recovered
            .corrupt
            .iter()
            .map(|range| range.end.since(range.start))
            .sum(),
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

fn read_segment(directory: &Path, segment: SegmentId, len_max: u64) -> Result<Vec<u8>, RecoveryError> {
    let read = || {
        let file: File = datadir::open_segment(directory, segment)?;
        let mut bytes = Vec::new();
        file.take(len_max).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map_err(|error| RecoveryError::Io {
        path: directory.join(segment.file_name()),
        error,
    })
}
