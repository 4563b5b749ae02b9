//! From the two disks of a log to what its landing core is made of, as the node does it at a start.

use std::collections::BTreeMap;
use std::time::Duration;

use tailkeep::base::block::VecPool;
use tailkeep::base::ids::{LogId, Position};
use tailkeep::base::time::Now;
use tailkeep::completion::CompletionOptions;
use tailkeep::export::batch::Format;
use tailkeep::export::retry::RetryOptions;
use tailkeep::export::{Destination, DestinationOptions, OnFull, Wants};
use tailkeep::landing::record::SPANS;
use tailkeep::landing::replay::{KeptReplay, Replay};
use tailkeep::landing::{LandingOptions, LandingParts, SavedLog};
use tailkeep::policy::{PolicyEntry, PolicyKind, PolicyOptions, PolicySet, StatusCode};
use tailkeep::route::HashKey;
use tailkeep::table::{FoundDecision, Table, TableOptions};
use tailkeep::wal::SegmentId;
use tailkeep::wal::recover::{Extent, Fallback, HEAD_BYTES, Recovered, Recovery, ReplayedEntry};
use tailkeep::wal::{Log, LogOptions};

use crate::disk::Disk;
use crate::naive::Naive;

const POLICY: &str = "errors";
const DESTINATION: &str = "file";

/// The disk of a log and that of its kept log.
pub struct LogDisks {
    pub main: Disk,
    pub kept: Disk,
}

impl LogDisks {
    pub fn new(seed: u64) -> LogDisks {
        LogDisks {
            main: Disk::new(seed),
            kept: Disk::new(!seed),
        }
    }
}

/// What does not come from the disks.
pub struct Setting<'a> {
    pub hash_key: HashKey,
    pub policies: &'a PolicySet,
    pub segment_bytes: u64,
    pub size_max: u64,
    pub retain: Duration,
    /// Of new logs.
    pub log_seed: u64,
    /// What a checkpoint has of this log.
    pub saved: Option<&'a SavedLog>,
    pub now: Now,
    /// Damage may have hit a copy forward whose original lies in what a start passes over.
    pub damaged: bool,
}

pub struct ReplayedLog {
    pub parts: LandingParts<VecPool>,
    /// Bytes of log that the start had no need of.
    pub passed_over: u64,
    pub corrupt: usize,
}

/// Keeps traces with an error.
pub fn errors_policy() -> PolicySet {
    let errors = PolicyKind::StatusCode {
        codes: vec![StatusCode::Error],
    };
    let options = PolicyOptions {
        policies: vec![PolicyEntry {
            name: POLICY.to_owned(),
            kind: errors,
        }],
        ..PolicyOptions::default()
    };
    PolicySet::compile(&options).expect("a right policy")
}

pub fn table(hash_key: HashKey, quiet: Duration, now: Now) -> Table {
    let completion = CompletionOptions {
        decision_wait: Duration::from_secs(60),
        after_root: None,
        structural: true,
        quiet,
        spans_max: 1000,
        bytes_max: 0,
        use_expected_count: true,
    };
    let options = TableOptions {
        completion,
        hash_key,
        state_bytes_max: 64 << 20,
        kept_count_max: 100_000,
        decided_count_max: 100_000,
    };
    Table::new(options, now)
}

/// Reads what a start needs. `naive` is shown all there is; `tell` has the decisions for the owners of traces.
pub fn replay(
    setting: &Setting<'_>,
    log_id: LogId,
    disks: &mut LogDisks,
    naive: &mut Naive,
    mut tell: impl FnMut(Vec<FoundDecision>),
) -> ReplayedLog {
    let Setting {
        hash_key,
        policies,
        segment_bytes,
        now,
        saved,
        ..
    } = *setting;
    let names: Vec<String> = policies
        .policies()
        .iter()
        .map(|policy| policy.name.clone())
        .collect();
    let fallback = Some(Fallback {
        log_seed: setting.log_seed,
        size: segment_bytes,
    });
    let destinations = vec![DESTINATION.to_owned()];
    let mut replay = Replay::new(log_id, hash_key, policies, &names, true, destinations, now);
    let needed = Extent::Needed {
        tail_bytes: segment_bytes,
        from: saved.map_or(Position(0), |saved| Position(saved.fold_from)),
    };
    let mut first = None;
    let found = recover(log_id, &mut disks.main, fallback, needed, |entry| {
        first.get_or_insert(entry.position);
        replay.entry(entry);
    });
    let mut oldest = None;
    recover(log_id, &mut disks.main, fallback, Extent::Whole, |entry| {
        oldest.get_or_insert(entry.position);
        let passed_over = first.is_none_or(|first| entry.position < first);
        if !(setting.damaged && passed_over && entry.kind == SPANS) {
            naive.entry(log_id, policies, entry);
        }
    });
    tell(replay.take_found());
    let mut replayed = match saved {
        None => replay.finish(),
        Some(saved) => {
            assert!(saved.fits(found.start.next_sequence), "nothing was written since");
            replay.finish_saved()
        }
    };
    let mut kept_replay = KeptReplay::new(&replayed);
    let kept_found = recover(log_id, &mut disks.kept, fallback, Extent::Whole, |entry| {
        kept_replay.entry(entry, &names, now)
    });
    assert_eq!((replayed.malformed, kept_replay.malformed), (0, 0));
    let log_options = |retain, group_interval, seed: Option<u64>| LogOptions {
        log: log_id,
        log_seed: seed.unwrap_or(setting.log_seed),
        segment_size: segment_bytes,
        size_max: setting.size_max,
        retain,
        group_interval,
        linger: Duration::from_millis(50),
        sync: true,
    };
    let mut kept_start = kept_found.start;
    let beyond = replayed.kept_position_max.0.div_ceil(segment_bytes) * segment_bytes;
    kept_start.next_position = kept_start.next_position.max(Position(beyond));
    let main_options = log_options(setting.retain, Duration::ZERO, found.log_seed);
    let log = Log::new(main_options, VecPool::default(), found.start, now);
    while let Some(position) = replayed.decided.poll_older() {
        let payload = log.locate(position).and_then(|(segment, offset)| {
            let bytes = disks.main.read(segment, offset, segment_bytes as usize)?;
            log.check(position, &bytes)
                .map(|entry| entry.payload.to_vec())
                .ok()
        });
        tell(replayed.read_decided(position, payload.as_deref(), hash_key, &names));
    }
    let kept_options = log_options(Duration::ZERO, Duration::from_millis(20), kept_found.log_seed);
    let cursor = replayed.cursor(DESTINATION, &kept_start);
    let kept = Log::new(kept_options, VecPool::default(), kept_start, now);
    let passed_over = first.zip(oldest);
    let parts = LandingParts {
        options: landing(log_id, hash_key, segment_bytes, names),
        log,
        kept,
        replayed,
        kept_replay,
        destinations: vec![Destination::new(destination(), cursor)],
    };
    ReplayedLog {
        parts,
        passed_over: passed_over.map_or(0, |(first, oldest)| first.since(oldest)),
        corrupt: found.corrupt.len() + kept_found.corrupt.len(),
    }
}

fn landing(log: LogId, hash_key: HashKey, segment_bytes: u64, policy_names: Vec<String>) -> LandingOptions {
    LandingOptions {
        log,
        hash_key,
        node: "node".to_owned(),
        annotate: true,
        acknowledge_at_once: false,
        span_bytes_max: segment_bytes as usize - (64 << 10),
        // Little, so that spans leave memory and are read back.
        block_bytes_resident_max: (2 << 20) / 10 * 7,
        unsynced_bytes_max: 4 << 20,
        queued_count_max: 1_000_000,
        decided_count_max: 100_000,
        policy_names,
    }
}

fn destination() -> DestinationOptions {
    DestinationOptions {
        id: DESTINATION.to_owned(),
        flush_interval: Duration::from_millis(30),
        batch_bytes: 64 << 10,
        format: Format::Lines,
        wants: Wants::Everything,
        retry: RetryOptions::FILE,
        queue_bytes_max: u64::MAX,
        queue_age_max: None,
        on_full: OnFull::LoseNew,
    }
}

fn recover(
    log: LogId,
    disk: &mut Disk,
    fallback: Option<Fallback>,
    extent: Extent,
    each: impl FnMut(&ReplayedEntry<'_>),
) -> Recovered {
    let files = disk.files.iter().map(|(segment, file)| (*segment, file.bytes()));
    let recovered = recover_files(log, &files.collect(), fallback, extent, each);
    recovered.unsynced.iter().for_each(|segment| disk.sync(*segment));
    recovered
}

/// Without a disk: what a start would find in these files.
pub fn recover_files(
    log: LogId,
    files: &BTreeMap<SegmentId, Vec<u8>>,
    fallback: Option<Fallback>,
    extent: Extent,
    mut each: impl FnMut(&ReplayedEntry<'_>),
) -> Recovered {
    let mut recovery = Recovery::new(log, extent)
        .in_pieces_of(64 << 10)
        .with_fallback(fallback);
    for (segment, file) in files {
        recovery
            .header(*segment, &file[..file.len().min(HEAD_BYTES)])
            .expect("one log, one version");
    }
    while let Some(read) = recovery.poll_read() {
        let file = &files[&read.segment];
        let start = (read.offset as usize).min(file.len());
        let bytes = file[start..(start + read.len).min(file.len())].to_vec();
        recovery.handle_read(bytes, &mut |entry: ReplayedEntry<'_>| each(&entry));
    }
    recovery.finish()
}
