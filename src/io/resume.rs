//! From the logs that a core keeps to its landing cores, telling the owners of traces on the way.

use super::admin::LastReplay;
use super::budget::Budget;
use super::checkpoint::{self, Checkpoint};
use super::clock::Clock;
use super::datadir::DataDir;
use super::disk::DmaPool;
use super::ingress::Ticket;
use super::mesh::{Mesh, Post};
use super::node::{NodeError, NodeOptions};
use super::recovery::{self, FoundLog};
use crate::base::ids::{CoreId, LogId, Position};
use crate::config::options::Durability;
use crate::export::Destination;
use crate::landing::fetch::WhichLog;
use crate::landing::replay::{KeptReplay, Replay, Replayed};
use crate::landing::{Landing, LandingOptions, LandingParts, SavedLog};
use crate::shard::{Message, Resuming};
use crate::wal::{Log, LogOptions};
use std::cell::RefCell;
use std::time::Duration;

/// Kept entries are synced together; nobody waits for them.
const KEPT_GROUP_INTERVAL: Duration = Duration::from_millis(50);
/// Verdicts and copies wait so long for a request that needs a sync anyway. A Keep waits for its verdict before it is
/// exported.
const LINGER: Duration = Duration::from_millis(50);
/// Decisions gathered before their owners are told.
const FOUND_COUNT: usize = 4096;

/// What is replayed, and by what rules.
pub struct Sources<'a> {
    pub options: &'a NodeOptions,
    pub data_dir: &'a DataDir,
    pub names: &'a [String],
    /// The logs that this core keeps.
    pub logs: &'a [LogId],
    /// Cores share the space of the directory, and what is dealt to one is dealt to its logs.
    pub core_count: u16,
    pub budget: Budget,
    /// Of all logs of this core.
    pub pool: &'a DmaPool,
    pub core: CoreId,
    /// What was open when the process before ended.
    pub checkpoint: Option<&'a Checkpoint>,
}

/// What the logs of one core held.
pub struct Found {
    pub landings: Vec<Landing<DmaPool, Ticket>>,
    pub last_replay: LastReplay,
}

/// Replays the logs one after another, tells the owners what they hold, and at the end that this was all. A log
/// without a core of its own that nothing waits in any more is removed.
pub async fn landings(
    sources: Sources<'_>,
    clock: &Clock,
    mesh: &Mesh,
    resuming: &RefCell<Resuming>,
) -> Result<Found, NodeError> {
    let began = clock.now();
    let mut found = Found {
        landings: Vec::new(),
        last_replay: LastReplay::default(),
    };
    for log in sources.logs {
        let parts = replay(&sources, *log, clock, mesh, resuming, &mut found.last_replay).await?;
        let has_core = u16::from(log.0) < sources.core_count;
        let saved = sources.saved(*log);
        let nothing_waits = parts.nothing_waits() && saved.is_none_or(|saved| saved.held.is_empty());
        if !has_core && nothing_waits && !parts.log.retains(clock.now()) {
            drop(parts);
            sources.data_dir.remove_log(*log);
            continue;
        }
        let (mut landing, fragments) = Landing::resume(parts, &sources.options.policies, clock.now());
        if let Some(saved) = saved {
            landing.hold_saved(saved);
        }
        let upgrades = landing.resumed_upgrades();
        post_all(mesh, resuming.borrow_mut().replayed(fragments, upgrades));
        found.landings.push(landing);
    }
    if let Some(checkpoint) = sources.checkpoint {
        for frame in checkpoint.share_of(sources.core.0, sources.core_count) {
            let Some(traces) = checkpoint::traces_of(frame, clock.now()) else {
                return Err(misfit(mesh));
            };
            post_all(mesh, resuming.borrow_mut().replayed(traces, Vec::new()));
            glommio::yield_if_needed().await;
        }
    }
    for core in mesh.cores() {
        mesh.post(core, Post::Message(Message::Replayed));
    }
    found.last_replay.seconds = clock.instant().since(began.instant).as_secs_f64();
    Ok(found)
}

impl Sources<'_> {
    fn saved(&self, log: LogId) -> Option<&SavedLog> {
        self.checkpoint?.logs.get(&log)
    }
}

/// Nothing was written yet, so every core can begin anew without the checkpoint.
fn misfit(mesh: &Mesh) -> NodeError {
    mesh.cores().for_each(|core| mesh.post(core, Post::Misfit));
    NodeError::Checkpoint
}

fn post_all(mesh: &Mesh, messages: Vec<(CoreId, Message)>) {
    for (to, message) in messages {
        mesh.post(to, Post::Message(message));
    }
}

/// Folds a log and its kept log.
async fn replay(
    sources: &Sources<'_>,
    log: LogId,
    clock: &Clock,
    mesh: &Mesh,
    resuming: &RefCell<Resuming>,
    last_replay: &mut LastReplay,
) -> Result<LandingParts<DmaPool>, NodeError> {
    let Sources {
        options,
        data_dir,
        names,
        ..
    } = *sources;
    let began = clock.now();
    let destination_ids = options
        .exporters
        .iter()
        .map(|exporter| exporter.destination.id.clone())
        .collect();
    let mut replay = Replay::new(
        log,
        data_dir.hash_key(),
        &options.policies,
        names,
        options.completion.structural,
        destination_ids,
        began,
    );
    let main_path = data_dir.log_path(WhichLog::Main, log);
    let saved = sources.saved(log);
    let from = saved.map_or(Position(0), |saved| Position(saved.fold_from));
    let [main_seed, kept_seed] = [WhichLog::Main, WhichLog::Kept].map(|which| data_dir.log_seed(which, log));
    let found = recovery::replay(&main_path, log, (main_seed, from), clock, |entry| {
        replay.entry(entry);
        if replay.found_count() >= FOUND_COUNT {
            post_all(mesh, resuming.borrow_mut().decided(replay.take_found()));
        }
    })
    .await?;
    post_all(mesh, resuming.borrow_mut().decided(replay.take_found()));
    let replayed = match saved {
        None => replay.finish(),
        Some(saved) if saved.fits(found.start.next_sequence) => replay.finish_saved(),
        Some(_) => return Err(misfit(mesh)),
    };
    let mut kept_replay = KeptReplay::new(&replayed);
    let kept_path = data_dir.log_path(WhichLog::Kept, log);
    let kept_found = recovery::replay(&kept_path, log, (kept_seed, Position(0)), clock, |entry| {
        kept_replay.entry(entry, names, began);
    })
    .await?;
    let malformed = replayed.malformed + kept_replay.malformed;
    if malformed > 0 {
        tracing::error!(
            entries = malformed,
            "entries with sound checksums and unknown contents were passed over"
        );
    }
    last_replay.segments += found.segments + kept_found.segments;
    last_replay.entries += found.entries + kept_found.entries;
    last_replay.skipped_bytes += found.corrupt_bytes + kept_found.corrupt_bytes;
    let mut parts = parts(sources, log, clock, replayed, kept_replay, found, kept_found);
    while let Some(position) = parts.replayed.decided.poll_older() {
        let payload = recovery::read_entry(&main_path, &parts.log, position);
        let older = parts
            .replayed
            .read_decided(position, payload.as_deref(), data_dir.hash_key(), names);
        post_all(mesh, resuming.borrow_mut().decided(older));
        glommio::yield_if_needed().await;
    }
    Ok(parts)
}

fn parts(
    sources: &Sources<'_>,
    log_id: LogId,
    clock: &Clock,
    replayed: Replayed,
    kept_replay: KeptReplay,
    found: FoundLog,
    kept_found: FoundLog,
) -> LandingParts<DmaPool> {
    let Sources {
        options,
        data_dir,
        names,
        core_count,
        budget,
        logs,
        pool,
        ..
    } = *sources;
    let has_core = u16::from(log_id.0) < core_count;
    let budget = match has_core {
        true => budget,
        false => budget.of_old_log(),
    };
    // What logs without a core still take goes off the share of the one that is written.
    let share = options.wal_bytes_max / 2 / u64::from(core_count);
    let size_max = |which| match has_core {
        true => {
            let old = logs.iter().filter(|log| u16::from(log.0) >= core_count);
            share.saturating_sub(old.map(|log| data_dir.log_bytes(which, *log)).sum())
        }
        false => data_dir.log_bytes(which, log_id),
    };
    let log_options = |which, retain, group_interval, seed: Option<u64>| LogOptions {
        log: log_id,
        log_seed: seed.unwrap_or_else(|| data_dir.log_seed(which, log_id)),
        segment_size: options.segment_bytes,
        size_max: size_max(which),
        retain,
        group_interval,
        linger: LINGER,
        sync: options.durability == Durability::Fsync,
    };
    // Positions that records of the log speak of must not come to mean other entries.
    let mut kept_start = kept_found.start;
    let beyond = replayed.kept_position_max.0.div_ceil(options.segment_bytes) * options.segment_bytes;
    kept_start.next_position = kept_start.next_position.max(Position(beyond));
    if !replayed.knows_cursors && !kept_start.segments.is_empty() {
        tracing::warn!(
            log = log_id.0,
            "the log does not say how far destinations have come: they get again what its kept log holds"
        );
    }
    let destinations = options.exporters.iter().map(|exporter| {
        let mut options = exporter.destination.clone();
        options.queue_bytes_max /= u64::from(core_count);
        let cursor = replayed.cursor(&options.id, &kept_start);
        Destination::new(options, cursor)
    });
    let destinations = destinations.collect();
    let now = clock.now();
    let log = Log::new(
        log_options(WhichLog::Main, options.retain, Duration::ZERO, found.log_seed),
        pool.clone(),
        found.start,
        now,
    );
    // What is behind every cursor is of no use to anyone.
    let kept_options = log_options(
        WhichLog::Kept,
        Duration::ZERO,
        KEPT_GROUP_INTERVAL,
        kept_found.log_seed,
    );
    let kept = Log::new(kept_options, pool.clone(), kept_start, now);
    let landing = LandingOptions {
        log: log_id,
        hash_key: data_dir.hash_key(),
        node: options.name.clone(),
        annotate: options.annotate,
        acknowledge_at_once: options.durability == Durability::None,
        span_bytes_max: options.span_bytes_max(),
        block_bytes_resident_max: budget.blocks_resident(),
        unsynced_bytes_max: budget.unsynced,
        queued_count_max: budget.queued_count,
        decided_count_max: budget.decided_count,
        policy_names: names.to_vec(),
    };
    LandingParts {
        options: landing,
        log,
        kept,
        replayed,
        kept_replay,
        destinations,
    }
}
