//! One core, whole: the landing core and the owner, and the items and settlements between them.
//!
//! ```text
//!  request ─→ landing ─ items ─→ table ─ settlements ─→ landing ─→ log, kept log, destinations
//!                          owner of its traces
//! ```
//!
//! A shard is sans-IO. Methods, and the order to call them in a turn:
//!
//! 1. `handle_*`: what happened. Each takes the time; none waits.
//! 2. [`Shard::advance`] until it returns `false`; between two calls others may have their turn.
//! 3. [`Shard::poll_effect`] until `None`: what io is to do. Results come back by `handle_*`.
//! 4. [`Shard::poll_timeout`]: when [`Shard::handle_timeout`] is to be called.

use crate::base::block::BlockPool;
use crate::base::ids::Position;
use crate::base::time::{Instant, Now};
use crate::export::retry::{Arrival, Failure};
use crate::export::{Destination, Notice};
use crate::landing::fetch::{ReadOp, WhichLog};
use crate::landing::replay::{KeptReplay, Replayed};
use crate::landing::{Effect, Landing, LandingOptions, Request, Submission};
use crate::policy::PolicySet;
use crate::route::{ItemBatch, Settlement};
use crate::stats::{Refusal, Stats};
use crate::table::Table;
use crate::wal::{DiskError, Log, OpId};
use std::time::Duration;

/// What a shard is made of once its logs have been replayed.
pub struct ShardParts<P: BlockPool> {
    pub policies: PolicySet,
    /// Replayed into, not yet resumed.
    pub table: Table,
    pub log: Log<P>,
    pub kept: Log<P>,
    pub replayed: Replayed,
    pub kept_replay: KeptReplay,
    /// In the order of the configuration, cursors as the replay found them.
    pub destinations: Vec<Destination>,
    pub landing: LandingOptions,
}

/// One core. `W` is whoever waits for an acknowledgement.
pub struct Shard<P: BlockPool, W> {
    policies: PolicySet,
    table: Table,
    landing: Landing<P, W>,
    stats: Stats,
    /// By owner core: with one core, one batch.
    batches: Vec<ItemBatch>,
    settlements: Vec<Settlement>,
}

impl<P: BlockPool, W> Shard<P, W> {
    /// Ends the replay: resumes what was pending, copies again what has to be.
    pub fn new(parts: ShardParts<P>, now: Now) -> Shard<P, W> {
        let ShardParts {
            policies,
            mut table,
            log,
            kept,
            mut replayed,
            kept_replay,
            destinations,
            mut landing,
        } = parts;
        let lowest_cursor = destinations
            .iter()
            .map(Destination::cursor)
            .min()
            .unwrap_or_default();
        let (keeps, kept_entries) = kept_replay.reconcile(&mut replayed, lowest_cursor);
        landing.policy_names = replayed.policy_names;
        landing.assert_names(&policies);
        let mut stats = Stats::new(policies.policies().len());
        let mut settlements = Vec::new();
        let mut landing = Landing::new(landing, log, kept, destinations, kept_entries, now);
        for (_, _, places) in table.fold_of_open_traces() {
            places.into_iter().for_each(|place| landing.hold(place));
        }
        for keep in &keeps {
            keep.places.iter().for_each(|place| landing.hold(*place));
        }
        landing.resume_keeps(now, keeps);
        stats.traces.resumed = table.len() as u64;
        stats.spans.resumed = table.pending_spans();
        table.resume(now, &mut stats, &mut settlements);
        for settlement in &settlements {
            settlement.places.iter().for_each(|place| landing.hold(*place));
            stats.spans.resumed += u64::from(settlement.span_count);
        }
        landing.settle(now, &mut settlements, &mut stats);
        Shard {
            policies,
            table,
            landing,
            stats,
            batches: vec![ItemBatch::default()],
            settlements,
        }
    }

    /// Takes one request. On `Appended` the waiter is answered by an effect; otherwise it is given back.
    pub fn handle_export(&mut self, now: Now, request: Request<'_, W>) -> (Submission, Option<W>) {
        let transport = request.transport;
        let Shard {
            policies,
            table,
            landing,
            stats,
            batches,
            settlements,
        } = self;
        let (submission, waiter) = landing.handle_request(now, request, policies, stats, batches);
        let refused = &mut stats.refused[transport as usize];
        match &submission {
            Submission::Appended(rejected) | Submission::Empty(rejected) => {
                refused[Refusal::InvalidItem as usize] += rejected.count();
            }
            Submission::Invalid(_) => {}
            Submission::LogRefused(_) => refused[Refusal::Log as usize] += 1,
            Submission::InFlight => refused[Refusal::InFlight as usize] += 1,
            Submission::PushedBack { .. } => refused[Refusal::ExporterQueue as usize] += 1,
        }
        for batch in batches {
            table.absorb(now, batch, policies, stats, settlements);
            batch.clear();
        }
        landing.settle(now, settlements, stats);
        (submission, waiter)
    }

    pub fn handle_op(&mut self, now: Now, log: WhichLog, op: OpId, result: Result<(), DiskError>) {
        self.landing.handle_op(now, log, op, result);
    }

    pub fn handle_read(&mut self, op: ReadOp, bytes: Option<Vec<u8>>) {
        self.landing.handle_read(op, bytes);
    }

    /// The notice is to be logged.
    pub fn handle_shipped(
        &mut self,
        now: Now,
        destination: usize,
        through: Position,
        result: Result<Arrival, Failure>,
        random: u64,
    ) -> Option<Notice> {
        self.landing
            .handle_shipped(now, destination, through, result, random)
    }

    pub fn handle_timeout(&mut self, now: Now) {
        let Shard {
            policies,
            table,
            landing,
            stats,
            settlements,
            ..
        } = self;
        table.handle_timeout(now, policies, stats, settlements);
        landing.settle(now, settlements, stats);
        landing.handle_timeout(now);
    }

    /// Moves what can move without I/O; `true`: call again, others may have their turn first.
    pub fn advance(&mut self, now: Now) -> bool {
        self.landing.advance(now, &mut self.stats)
    }

    pub fn poll_effect(&mut self, now: Now) -> Option<Effect<P, W>> {
        self.landing.poll_effect(now)
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        [self.table.poll_timeout(), self.landing.poll_timeout()]
            .into_iter()
            .flatten()
            .min()
    }

    /// No new requests will come: destinations are handed what there is and waited for as long as `patience`,
    /// cursors are logged.
    pub fn stop(&mut self, now: Now, patience: Duration) {
        self.landing.stop(now, patience);
    }

    pub fn is_settled(&self, now: Now) -> bool {
        self.landing.is_settled(now)
    }

    pub fn policies(&self) -> &PolicySet {
        &self.policies
    }

    pub fn table(&self) -> &Table {
        &self.table
    }

    pub fn landing(&self) -> &Landing<P, W> {
        &self.landing
    }

    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    pub fn stats_mut(&mut self) -> &mut Stats {
        &mut self.stats
    }
}
