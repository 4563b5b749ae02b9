//! The landing core: from a request to the log, and from a verdict to the kept log or to nothing.
//!
//! ```text
//!  request ──collect, write──→ log ──────── items ──────────→ owner
//!     │                         │                               │
//!     └── reply waits for ──────┤ durable                  settlement
//!                               │                               │
//!                 verdict entry ←──────────── settle ───────────┘
//!                               │ durable, if Keep
//!                               ├── Keep:  copy the spans, framed ──→ kept log ──→ destinations
//!                               └── other: let the spans go
//! ```
//!
//! The landing core keeps no state per trace: what it must remember of one stands in the log. It holds the
//! bytes, so whatever is done to bytes is done here, and nowhere else.
//!
//! Order of calls: `handle_request`, `settle` and the other `handle_*` as things happen, then
//! [`Landing::advance`] until it returns `false`, then [`Landing::poll_effect`] until `None`.

pub mod decided; // what was decided, carried along
pub mod fetch; // entries read back
pub mod forward; // what old segments hold, copied to the tail
pub mod queue; // kept entries and whose they are
pub mod record; // what is written besides spans
pub mod replay; // a log folded again after a start

mod collect;
mod deliver;
mod index;
mod saved;
mod search;
mod room;
mod settle;
mod upgrades;
mod write;

pub use collect::Rejected;
pub use deliver::DestinationReport;
pub use queue::{DESTINATION_COUNT_MAX, KeptEntry};
pub use saved::SavedLog;
pub use search::{SearchId, Searched, Wanted};
pub use upgrades::Asked;

use crate::base::block::BlockPool;
use crate::base::ids::{LogId, Place, Position};
use crate::base::time::{Instant, Now};
use crate::export::{Destination, Shipment};
use crate::otlp::cut;
use crate::otlp::wire::FramingError;
use crate::policy::PolicySet;
use crate::route::{HashKey, ItemBatch};
use crate::stats::{ItemLoss, Stats, Transport};
use crate::table::Trace;
use crate::wal::{DiskError, DiskOp, Log, OpId, Refused, Usage};
use bumpalo::Bump;
use deliver::{Delivery, Standstill};
use fetch::{Fetcher, ReadOp, WhichLog};
use hashbrown::HashTable;
use replay::{KeptReplay, Reconciled, Replayed};
use settle::KeepJob;
use std::collections::VecDeque;
use std::time::Duration;

/// A disk that makes requests wait longer for their sync gets no more of them.
const COMMIT_WAIT_MAX: Duration = Duration::from_secs(1);
/// The arena of one request is given back to the system above this.
const SCRATCH_BYTES_MAX: usize = 4 << 20;
/// Cursors are logged at most this often.
const CURSOR_INTERVAL: Duration = Duration::from_millis(100);

#[derive(Clone, Debug)]
pub struct LandingOptions {
    pub log: LogId,
    pub hash_key: HashKey,
    pub node: String,
    /// Write scope attributes on kept spans.
    pub annotate: bool,
    /// `durability: none`: an acknowledgement waits for nothing.
    pub acknowledge_at_once: bool,
    /// A span with its resource and scope must not be larger.
    pub span_bytes_max: usize,
    /// Above this the oldest blocks of both logs leave memory (M1).
    pub block_bytes_resident_max: u64,
    /// Bytes that may wait for their sync.
    pub unsynced_bytes_max: u64,
    /// Kept entries that may wait for a destination: each takes memory, whatever is in it.
    pub queued_count_max: usize,
    /// Decisions that are carried along when their segments go, at least.
    pub decided_count_max: usize,
    /// Names of policies: first those of the configuration, in order, then older ones that entries of the logs
    /// may still name.
    pub policy_names: Vec<String>,
}

/// A request as it was received.
pub struct Request<'r, W> {
    pub transport: Transport,
    /// One ExportTraceServiceRequest.
    pub body: &'r [u8],
    /// Whoever waits for the acknowledgement.
    pub waiter: W,
}

/// What became of a request. The waiter of an `Appended` one gets its answer by an effect.
#[derive(Debug)]
pub enum Submission {
    /// In the log; acknowledged once durable.
    Appended(Rejected),
    /// Nothing to write: acknowledge at once.
    Empty(Rejected),
    /// The client's bytes are no such message; nothing was written.
    Invalid(FramingError),
    /// The log cannot take it now; nothing was written.
    LogRefused(Refused),
    /// Too much waits for its sync, or for too long; nothing was written.
    InFlight,
    /// The queue of this destination is full, and it pushes back; nothing was written.
    PushedBack { exporter: String },
}

/// The answer to a waiter: durable, or the disk failed twice.
pub type Acknowledged = Result<(), NotDurable>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the log could not be written; what was sent may or may not be kept, send it again")]
pub struct NotDurable;

/// What io is to do.
pub enum Effect<P: BlockPool, W> {
    Reply(W, Acknowledged),
    Disk(WhichLog, OpId, DiskOp<P>),
    Read(ReadOp),
    /// To the destination with this number.
    Ship(usize, Shipment),
}

/// What a landing core is made of once its two logs have been replayed.
pub struct LandingParts<P: BlockPool> {
    pub options: LandingOptions,
    pub log: Log<P>,
    pub kept: Log<P>,
    pub replayed: Replayed,
    pub kept_replay: KeptReplay,
    /// In the order of the configuration, cursors as the replay found them.
    pub destinations: Vec<Destination>,
}

impl<P: BlockPool> LandingParts<P> {
    /// Every span of these logs is decided, and what was kept is delivered.
    pub fn nothing_waits(&self) -> bool {
        let Replayed {
            fragments,
            keeps,
            upgrades,
            ..
        } = &self.replayed;
        fragments.is_empty() && keeps.is_empty() && upgrades.is_empty() && self.kept_replay.is_empty()
    }
}

/// One landing core. `W` is whoever waits for an acknowledgement.
pub struct Landing<P: BlockPool, W> {
    options: LandingOptions,
    log: Log<P>,
    kept: Log<P>,
    /// By the position that must be durable, with the moment of the request.
    waiters: VecDeque<(Position, Instant, W)>,
    replies: VecDeque<(W, Acknowledged)>,
    /// See [`Landing::set_taken_from`].
    taken_from: u64,
    /// End of the last entry of the log.
    tail: Position,
    /// Keep verdicts in the order of their entries.
    keeps: VecDeque<KeepJob>,
    /// Places whose copy ends at this position of the kept log, to be let go when that is durable.
    copies: VecDeque<(Position, Place)>,
    /// Records of copies for the next copied entry.
    copied: Vec<u8>,
    decided: decided::Decided,
    upgrades: upgrades::Upgrades,
    index: index::Index,
    searches: search::Searches,
    fetcher: Fetcher,
    forward: forward::Forward,
    queue: queue::Queue,
    deliveries: Vec<Delivery>,
    standstill: Option<Standstill>,
    cursors_logged_at: Instant,
    cursors_changed: bool,
    stopping: bool,
    draining: bool,
    /// When destinations are waited for no more.
    parting: Option<Instant>,
    bump: Bump,
    by_trace: HashTable<u32>,
    framed: Vec<u8>,
    evicted_bytes: u64,
}

impl<P: BlockPool, W> Landing<P, W> {
    /// Ends the replay of its logs: holds what is pending, copies again what has to be. Returned are also the
    /// fragments that the owners of their traces are to adopt.
    pub fn resume(parts: LandingParts<P>, policies: &PolicySet, now: Now) -> (Landing<P, W>, Vec<Trace>) {
        let LandingParts {
            options,
            log,
            kept,
            mut replayed,
            kept_replay,
            destinations,
        } = parts;
        options.assert_names(policies);
        let Reconciled {
            entries,
            again: keeps,
            has_lost,
        } = kept_replay.reconcile(&mut replayed);
        let mut landing = Landing::new(options, log, kept, destinations, now);
        for entry in entries {
            landing.enqueue_replayed(entry);
        }
        landing.upgrades = upgrades::Upgrades::resumed(replayed.upgrades);
        landing.index = replayed.index;
        let (batches, newest, uncovered) = replayed.decided.into_parts();
        landing.resume_decided(batches, newest, uncovered);
        let fragments = replayed.fragments;
        let open_places = fragments.iter().flat_map(Trace::places);
        let kept_places = keeps.iter().flat_map(|keep| keep.places.iter().copied());
        for place in open_places.chain(kept_places) {
            landing.log.hold(place.entry(), 1);
        }
        landing.resume_keeps(now, keeps, has_lost);
        (landing, fragments)
    }

    fn new(
        options: LandingOptions,
        log: Log<P>,
        kept: Log<P>,
        destinations: Vec<Destination>,
        now: Now,
    ) -> Landing<P, W> {
        let (tail, segment_bytes) = (log.durable(), log.segment_bytes());
        let mut landing = Landing {
            options,
            log,
            kept,
            waiters: VecDeque::new(),
            replies: VecDeque::new(),
            taken_from: 0,
            tail,
            keeps: VecDeque::new(),
            copies: VecDeque::new(),
            copied: Vec::new(),
            decided: decided::Decided::default(),
            upgrades: upgrades::Upgrades::default(),
            index: index::Index::default(),
            searches: search::Searches::default(),
            fetcher: Fetcher::default(),
            forward: forward::Forward::new(tail, segment_bytes),
            queue: queue::Queue::default(),
            deliveries: destinations.into_iter().map(Delivery::new).collect(),
            standstill: None,
            cursors_logged_at: now.instant,
            cursors_changed: false,
            stopping: false,
            draining: false,
            parting: None,
            bump: Bump::new(),
            by_trace: HashTable::new(),
            framed: Vec::new(),
            evicted_bytes: 0,
        };
        landing.write_prologue();
        landing.write_kept_prologue();
        landing
    }

    // ---- requests ---------------------------------------------------------------------------------------

    /// Takes one ExportTraceServiceRequest. Items go to the batches of their owners, which are not cleared.
    /// On `Appended` the waiter is kept; otherwise it is given back.
    pub fn handle_request(
        &mut self,
        now: Now,
        request: Request<'_, W>,
        policies: &PolicySet,
        stats: &mut Stats,
        batches: &mut [ItemBatch],
    ) -> (Submission, Option<W>) {
        let Request {
            transport,
            body,
            waiter,
        } = request;
        if self.pressure(now) >= 100 {
            return (Submission::InFlight, Some(waiter));
        }
        if let Err(refused) = self.log.admit(body.len() as u64) {
            return (Submission::LogRefused(refused), Some(waiter));
        }
        if let Some(exporter) = self.pushed_back_by() {
            let exporter = exporter.to_owned();
            return (Submission::PushedBack { exporter }, Some(waiter));
        }
        let Landing {
            bump,
            by_trace,
            log,
            options,
            taken_from,
            index,
            ..
        } = self;
        let mut draft =
            collect::Draft::new(bump, by_trace, policies, options.hash_key, options.span_bytes_max);
        let submission = match cut::cut(body, &mut draft) {
            Err(error) => Submission::Invalid(error),
            Ok(()) => {
                let rejected = draft.rejected;
                stats.spans.accepted[transport as usize] += draft.spans.len() as u64;
                stats.spans.lost[ItemLoss::OverloadSampled as usize] += draft.leave_out(*taken_from);
                match write::write(now, bump, &draft, options.log, log, index, batches) {
                    Some(end) => {
                        self.tail = end;
                        Submission::Appended(rejected)
                    }
                    None => Submission::Empty(rejected),
                }
            }
        };
        drop(draft);
        if self.bump.allocated_bytes() > SCRATCH_BYTES_MAX {
            self.bump = Bump::new();
        } else {
            self.bump.reset();
        }
        if matches!(submission, Submission::Appended(_)) {
            self.log.hasten();
            self.waiters.push_back((self.tail, now.instant, waiter));
            (submission, None)
        } else {
            (submission, Some(waiter))
        }
    }

    /// Of what waits for its sync, in percent of what refuses requests: its bytes, or how long it has waited.
    pub fn pressure(&self, now: Now) -> u64 {
        let bytes = self.tail.since(self.log.durable().min(self.tail));
        let waits = self
            .waiters
            .front()
            .map(|(_, since, _)| now.instant.since(*since));
        let waits = waits.map_or(0, |waits| waits.as_nanos() * 100 / COMMIT_WAIT_MAX.as_nanos());
        (bytes * 100 / self.options.unsynced_bytes_max.max(1)).max(waits as u64)
    }

    /// Of traces with a randomness below this nothing is taken from now on ([`ItemLoss::OverloadSampled`]).
    pub fn set_taken_from(&mut self, randomness: u64) {
        self.taken_from = randomness;
    }

    fn answer_waiters(&mut self) {
        let (durable, failed) = (self.log.durable(), self.log.failed_through());
        while let Some((position, ..)) = self.waiters.front() {
            let answer = match *position {
                _ if self.options.acknowledge_at_once => Ok(()),
                position if position <= durable => Ok(()),
                position if position <= failed => Err(NotDurable),
                _ => break,
            };
            let (.., waiter) = self.waiters.pop_front().expect("just seen");
            self.replies.push_back((waiter, answer));
        }
    }

    // ---- the disk ---------------------------------------------------------------------------------------

    pub fn handle_op(&mut self, now: Now, which: WhichLog, op: OpId, result: Result<(), DiskError>) {
        match which {
            WhichLog::Main => self.log.handle_op(now, op, result),
            WhichLog::Kept => self.kept.handle_op(now, op, result),
        }
    }

    /// A read came back with the bytes at its place, fewer only at the end of the file.
    pub fn handle_read(&mut self, op: ReadOp, bytes: Option<Vec<u8>>) {
        use crate::wal::EntryError;
        if self.forward.is_reading(&op) {
            return self.handle_piece(bytes);
        }
        let log = match op.log {
            WhichLog::Main => &self.log,
            WhichLog::Kept => &self.kept,
        };
        let checked = bytes
            .as_ref()
            .map(|bytes| log.check(op.position, bytes).map(|_| ()));
        match checked {
            Some(Ok(())) => self.fetcher.handle_read(op.log, op.position, bytes),
            Some(Err(EntryError::Short { needed })) if needed > op.len => {
                self.fetcher.read_more(ReadOp { len: needed, ..op });
            }
            Some(Err(_)) | None => self.fetcher.handle_read(op.log, op.position, None),
        }
    }

    pub fn handle_timeout(&mut self, now: Now) {
        self.log.handle_timeout(now);
        self.kept.handle_timeout(now);
    }

    /// Moves everything forward that can move without I/O; `true`: there is more to do in another turn.
    pub fn advance(&mut self, now: Now, policies: &PolicySet, stats: &mut Stats) -> bool {
        self.answer_waiters();
        let more_searches = self.advance_searches(policies, stats);
        let more_keeps = self.copy_kept(now, stats);
        self.let_copies_go();
        let more_deliveries = self.gather(now);
        self.log_cursors(now);
        self.carry_decided(now);
        self.copy_forward(now);
        self.log_upgraded(now);
        self.write_index(now);
        if self.stopping || self.draining {
            self.log.hasten();
            self.kept.hasten();
        }
        self.evict();
        more_searches || more_keeps || more_deliveries
    }

    pub fn poll_effect(&mut self, now: Now) -> Option<Effect<P, W>> {
        if let Some((waiter, answer)) = self.replies.pop_front() {
            return Some(Effect::Reply(waiter, answer));
        }
        if let Some((id, op)) = self.log.poll_op(now) {
            return Some(Effect::Disk(WhichLog::Main, id, op));
        }
        if let Some((id, op)) = self.kept.poll_op(now) {
            return Some(Effect::Disk(WhichLog::Kept, id, op));
        }
        if let Some(read) = self.fetcher.poll_read().or_else(|| self.forward.poll_read()) {
            return Some(Effect::Read(read));
        }
        self.poll_shipment(now)
            .map(|(destination, shipment)| Effect::Ship(destination, shipment))
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        let cursors = self
            .cursors_changed
            .then(|| self.cursors_logged_at.plus(CURSOR_INTERVAL));
        [
            self.log.poll_timeout(),
            self.kept.poll_timeout(),
            cursors,
            self.delivery_timeout(),
            self.forward_timeout(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Lets settled blocks leave memory; above what may be resident the oldest durable ones too.
    fn evict(&mut self) {
        self.log.drop_settled();
        self.kept.drop_settled();
        let target = self.options.block_bytes_resident_max;
        if self.log.resident_bytes() + self.kept.resident_bytes() <= target {
            return;
        }
        self.evicted_bytes += self.kept.evict(target / 4);
        let kept_bytes = self.kept.resident_bytes().min(target);
        self.evicted_bytes += self.log.evict(target - kept_bytes);
    }

    // ---- stopping and looking ---------------------------------------------------------------------------

    /// From now on destinations are handed what there is without waiting, for as long as `patience`, and the
    /// logs are closed up.
    pub fn stop(&mut self, now: Now, patience: Duration) {
        self.stopping = true;
        self.parting = Some(now.instant.plus(patience));
    }

    /// From now on destinations are handed what there is without waiting.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// Every destination has got all that was kept.
    pub fn is_drained(&self) -> bool {
        self.keeps.is_empty() && self.copies.is_empty() && !self.is_searching() && self.queues_are_empty()
    }

    /// Nothing waits for the disk, for a reply or for a destination. Destinations that fail, or take longer than
    /// the patience of `stop`, are not waited for: what they lack is in the logs.
    pub fn is_settled(&self, now: Now) -> bool {
        let parted = self.parting.is_some_and(|parting| now.instant >= parting);
        let copied = self.keeps.is_empty() && self.copies.is_empty() && !self.is_searching();
        let delivered = copied && self.deliveries_are_settled();
        self.waiters.is_empty()
            && self.replies.is_empty()
            && self.log.durable() >= self.tail
            && !self.cursors_changed
            && (parted || delivered)
    }

    pub fn hash_key(&self) -> HashKey {
        self.options.hash_key
    }

    /// The log that it keeps.
    pub fn log(&self) -> LogId {
        self.options.log
    }

    pub fn usage(&self, which: WhichLog) -> Usage {
        match which {
            WhichLog::Main => self.log.usage(),
            WhichLog::Kept => self.kept.usage(),
        }
    }

    /// Whether the log takes writes now, for readiness.
    pub fn admits(&self) -> Result<(), Refused> {
        self.log.admit(0)
    }

    /// How long the log has been waiting for its disk.
    pub fn stalled_for(&self, now: Now) -> Duration {
        self.log.stalled_for(now)
    }

    pub fn evicted_bytes(&self) -> u64 {
        self.evicted_bytes
    }

    /// The payload of an entry of the log, if it is in memory.
    pub fn resident(&self, entry: Position) -> Option<&[u8]> {
        self.log.resident(entry).map(|entry| entry.payload)
    }

    /// Keeps an entry in the log until [`Landing::release`]; false if it has left it.
    pub fn try_hold(&mut self, entry: Position) -> bool {
        let is_there = self.log.has(entry);
        if is_there {
            self.log.hold(entry, 1);
        }
        is_there
    }

    pub fn release(&mut self, entry: Position) {
        self.log.release(entry, 1);
    }

    /// How to read an entry of the log that is not in memory; `None`: it has left the log.
    pub fn read_op(&self, entry: Position) -> Option<ReadOp> {
        settle::read_op(&self.log, entry)
    }

    /// The payload in what was read so. [`crate::wal::EntryError::Short`] says how much to read instead.
    pub fn check<'a>(&self, entry: Position, bytes: &'a [u8]) -> Result<&'a [u8], crate::wal::EntryError> {
        self.log.check(entry, bytes).map(|entry| entry.payload)
    }

    pub fn policy_number(&self, name: &str) -> Option<crate::route::PolicyNumber> {
        let number = self.options.policy_names.iter().position(|known| known == name)?;
        Some(crate::route::PolicyNumber(number as u16))
    }

    pub fn policy_name(&self, number: crate::route::PolicyNumber) -> Option<&str> {
        self.options
            .policy_names
            .get(number.0 as usize)
            .map(String::as_str)
    }

    /// What is on its way: bytes that wait for their sync and their copies, fragments that wait for their copy,
    /// entries read back, and shipments.
    pub fn in_flight_bytes(&self) -> u64 {
        let jobs = self.keeps.capacity() * size_of::<KeepJob>();
        let copies = self.copies.capacity() * size_of::<(Position, Place)>();
        let logs = [&self.log, &self.kept].map(|log| log.copy_bytes() + log.undurable_bytes_resident());
        logs.iter().sum::<u64>()
            + (jobs + copies) as u64
            + self.fetcher.memory_bytes()
            + self.forward.memory_bytes()
            + self.index.memory_bytes()
            + self.shipment_bytes()
    }

    /// Blocks in memory that could leave it.
    pub fn durable_block_bytes(&self) -> u64 {
        let durable = |log: &Log<P>| log.resident_bytes() - log.undurable_bytes_resident();
        durable(&self.log) + durable(&self.kept)
    }

    /// Of kept entries that wait for a destination.
    pub fn queued_memory_bytes(&self) -> u64 {
        self.queue.memory_bytes()
    }
}
