//! The traces this core owns: trace → digest, places, deadline, decision.
//!
//! ```text
//!  ItemBatch ──absorb──→ open trace ──closed──→ judged ──→ Settlement to every landing core
//!                 │           ↑ wheel                           │
//!                 └─ decided already: the late spans follow ────┘
//! ```
//!
//! The table is a fold of the logs: items merge into it in any order and split, and replaying the logs rebuilds it
//! (W4): each log becomes [`Fragments`], whose traces the table adopts. It never sees a byte of a span.
//!
//! Order of calls: after a start [`Table::remember_replayed`] for every verdict of every log, [`Table::end_replay`],
//! [`Table::adopt`] for every fragment; then `absorb` and `handle_timeout` as things happen, each filling a list of settlements;
//! `poll_timeout` says when `handle_timeout` is due.

mod cache;
mod cluster;
mod fragments;
mod found;
mod generation;
mod heard;
mod index;
mod late;
mod lists;
mod moments;
mod quota;
mod recent;
mod saved;
mod trace;

pub use cache::{CompactDecision, DecidedCache, FALSE_HIT_ODDS_MAX};
pub use cluster::ClusterOptions;
pub use found::FoundDecision;
pub use fragments::Fragments;
pub use late::{LateCandidate, LateEvidence, upgrade_by};
pub use recent::{DecidedTrace, Recent};
pub use saved::SavedTrace;
pub use trace::Trace;

use crate::base::ids::{CoreId, Place, TraceId};
use crate::base::slab::{Key, Link, Slab};
use crate::base::time::{Instant, Now};
use crate::base::wheel::{Armed, Wheel};
use crate::completion::{self, Completion, CompletionOptions};
use crate::digest::Digest;
use crate::gossip::PeerDecision;
use crate::policy::{PolicySet, QuotaAnswers, Quotas, Ruling};
use crate::route::{self, Decision, HashKey, Item, ItemBatch, Places, PolicyNumber, Settlement};
use crate::stats::Stats;
use crate::verdict::{Reason, Verdict};
use cluster::{Asked, Context};
use hashbrown::HashMap;
use index::Index;
use std::time::Duration;

/// Traces whose memory is asked for together, before the first of them is looked at.
const AHEAD_COUNT: usize = 16;
/// Traces judged in one call of `handle_timeout`, so that no turn is long.
const DUE_COUNT_MAX: usize = 256;
/// A share of the traces is forced at most this often while the account is not full.
const PRESSURE_INTERVAL: Duration = Duration::from_secs(1);
/// Traces forced in one turn, so that none is long.
const FORCED_COUNT_MAX: usize = 256;

#[derive(Clone, Debug)]
pub struct TableOptions {
    pub completion: CompletionOptions,
    pub hash_key: HashKey,
    /// The share of `memory.limit` for trace state.
    pub state_bytes_max: u64,
    /// Kept traces remembered at least with policy and threshold, for late spans.
    pub kept_count_max: usize,
    /// Decided traces remembered at least, for late spans.
    pub decided_count_max: usize,
}

#[derive(Debug)]
pub struct Table {
    options: TableOptions,
    traces: Slab<Trace>,
    index: Index,
    wheel: Wheel<Key>,
    due: Vec<Key>,
    /// Oldest and newest of the list through [`Trace`]'s links, by opening.
    oldest: Option<Key>,
    newest: Option<Key>,
    /// Bytes of the lists that traces own.
    heap_bytes: u64,
    /// Of the batch being absorbed or the traces that are due.
    hashes: Vec<u64>,
    decided: DecidedCache,
    recent: Recent,
    /// Dropped traces with late spans that may matter.
    candidates: Vec<LateCandidate>,
    /// Open traces that will be kept, and those that have been since somebody asked.
    promised: HashMap<TraceId, Decision>,
    kept_promises: Vec<TraceId>,
    relieved_at: Option<Instant>,
    /// What limits traces, and closed ones that wait for its answer.
    quotas: Quotas,
    waiting: quota::Waiting,
    /// Keeps that logs were found to announce, until all logs are replayed.
    announced: Vec<PeerDecision>,
    /// There are, or may be, other nodes.
    cluster: Option<Box<cluster::Cluster>>,
    /// Traces that are still to be forced of the share that was last due, and by which tier.
    forcing: (u8, usize),
}

impl Table {
    pub fn new(options: TableOptions, now: Now) -> Table {
        Table {
            decided: DecidedCache::new(
                options.hash_key,
                options.kept_count_max,
                options.decided_count_max,
            ),
            traces: Slab::default(),
            index: Index::new(),
            wheel: Wheel::new(now.instant),
            due: Vec::new(),
            oldest: None,
            newest: None,
            heap_bytes: 0,
            hashes: Vec::new(),
            recent: Recent::default(),
            candidates: Vec::new(),
            promised: HashMap::new(),
            kept_promises: Vec::new(),
            relieved_at: None,
            quotas: Quotas::none(),
            waiting: quota::Waiting::default(),
            announced: Vec::new(),
            cluster: None,
            forcing: (0, 0),
            options,
        }
    }

    /// Merges a batch. What is decided by it is appended to `out`.
    pub fn absorb(
        &mut self,
        now: Now,
        batch: &ItemBatch,
        policies: &PolicySet,
        stats: &mut Stats,
        out: &mut Vec<Settlement>,
    ) {
        let key = self.options.hash_key;
        let mut hashes = std::mem::take(&mut self.hashes);
        hashes.clear();
        hashes.extend(batch.items.iter().map(|item| key.trace(&item.trace)));
        for (items, hashes) in batch.items.chunks(AHEAD_COUNT).zip(hashes.chunks(AHEAD_COUNT)) {
            // Looks that depend on memory and not on each other, so that they wait together.
            let mut links = [Link::NONE; AHEAD_COUNT];
            for (hash, found) in hashes.iter().zip(&mut links) {
                match self.index.find(*hash, Some) {
                    Some(link) => {
                        self.traces.prefetch(link);
                        *found = link;
                    }
                    None => self.decided.prefetch(*hash),
                }
            }
            for (_, trace) in links.into_iter().filter_map(|link| self.traces.linked(link)) {
                trace.prefetch_lists();
            }
            for (item, hash) in items.iter().zip(hashes) {
                self.absorb_item(now, (item, *hash), batch, policies, stats, out);
            }
        }
        self.hashes = hashes;
        self.relieve_pressure(now, policies, stats, out);
    }

    fn absorb_item(
        &mut self,
        now: Now,
        (item, hash): (&Item, u64),
        batch: &ItemBatch,
        policies: &PolicySet,
        stats: &mut Stats,
        out: &mut Vec<Settlement>,
    ) {
        let (places, spans, parents) = batch.lists(item);
        let key = match self.find(hash, &item.trace) {
            Some(key) => key,
            None => {
                // Late spans follow the verdict at once, with a settlement of their own.
                if let Some(decision) = self.decided.get(hash, &item.trace) {
                    self.note_late(now, (item.trace, &item.digest), decision, places, policies, stats);
                    out.push(Settlement {
                        trace: item.trace,
                        decision,
                        late: true,
                        span_count: item.digest.span_count,
                        places: Places::from_slice(places),
                    });
                    return;
                }
                stats.traces.opened += 1;
                let trace = Trace::new(item.trace, now, self.options.completion.structural);
                let key = self.insert(now, hash, trace);
                self.recall(key, &item.trace);
                key
            }
        };
        let trace = self.traces.get_mut(key).expect("found or opened above");
        let heap_before = trace.heap_bytes();
        trace.absorb(now, item.digest, places, spans, parents);
        self.heap_bytes = self.heap_bytes + trace.heap_bytes() - heap_before;
        self.check(now, key, policies, stats, out);
    }

    fn find(&self, hash: u64, trace: &TraceId) -> Option<Key> {
        self.index.find(hash, |link| {
            let (key, found) = self.traces.linked(link)?;
            (found.id() == *trace).then_some(key)
        })
    }

    fn insert(&mut self, now: Now, hash: u64, mut trace: Trace) -> Key {
        self.heap_bytes += trace.heap_bytes();
        trace.older = Link::from(self.newest);
        let key = self.traces.insert(trace);
        match self.newest.replace(key) {
            Some(before) => {
                self.traces
                    .get_mut(before)
                    .expect("the list names open traces")
                    .newer = Link::from(key)
            }
            None => self.oldest = Some(key),
        }
        self.index.insert(hash, Link::from(key));
        self.arm(now.instant, key);
        key
    }

    fn arm(&mut self, deadline: Instant, key: Key) {
        let armed = self.wheel.arm(deadline, key);
        if let Some(trace) = self.traces.get_mut(key) {
            trace.armed = armed;
        }
    }

    /// Closes the trace if a rule of completion says so; otherwise makes sure that it will come up again.
    fn check(
        &mut self,
        now: Now,
        key: Key,
        policies: &PolicySet,
        stats: &mut Stats,
        out: &mut Vec<Settlement>,
    ) -> Option<Instant> {
        if let Some(reason) = self.waiting.reason(key) {
            self.close_if_answered(now, key, reason, policies, stats, out);
            return None;
        }
        let trace = self.traces.get(key)?;
        let completion = completion::check(
            &self.options.completion,
            &trace.progress(),
            &trace.digest(),
            now.instant,
        );
        if self.cluster.is_some() {
            let context = Context {
                now,
                policies,
                stats,
                out,
            };
            return self.check_in_cluster(key, completion, context);
        }
        match completion {
            Completion::Closed(reason) => {
                self.close(now, key, reason, policies, stats, out);
                None
            }
            Completion::OpenUntil(until) => Some(until),
        }
    }

    fn close(
        &mut self,
        now: Now,
        key: Key,
        reason: Reason,
        policies: &PolicySet,
        stats: &mut Stats,
        out: &mut Vec<Settlement>,
    ) {
        let Some((ruling, quotas)) = self.judge_asking(now, key, reason, policies, stats) else {
            return;
        };
        let Some(trace) = self.remove(key) else { return };
        let incomplete = !trace.is_whole();
        let decision = Decision {
            verdict: ruling.verdict,
            reason,
            policy: ruling.policy.map(|policy| PolicyNumber(policy.0)),
            threshold: ruling.threshold,
            incomplete,
            upgraded: false,
        };
        let decision = self.redeem(trace.id(), decision);
        let decision = self.decide_alone(key, trace.id(), decision, stats);
        self.count_decision(now, &trace, &ruling, decision, stats);
        self.remember(now, &trace, decision, quotas);
        out.extend(trace.into_settlements(decision, false));
    }

    fn count_decision(
        &self,
        now: Now,
        trace: &Trace,
        ruling: &Ruling,
        decision: Decision,
        stats: &mut Stats,
    ) {
        let digest = trace.digest();
        stats.traces.closed[decision.reason as usize][usize::from(!decision.incomplete)] += 1;
        stats.traces.decided[decision.verdict as usize] += 1;
        stats.traces.incomplete += u64::from(decision.incomplete);
        if digest.has_error {
            stats.traces.with_error[decision.verdict as usize] += 1;
        }
        stats.decision_age.record(now.instant.since(trace.opened_at()));
        stats.count_policies(ruling, &digest);
    }

    fn remember(&mut self, now: Now, trace: &Trace, decision: Decision, quotas: QuotaAnswers) {
        self.decided
            .insert(self.options.hash_key.trace(&trace.id()), trace.id(), decision);
        self.recent.push(DecidedTrace {
            quotas,
            ..trace.decided(now, decision)
        });
    }

    fn remove(&mut self, key: Key) -> Option<Trace> {
        let trace = self.traces.remove(key)?;
        let hash = self.options.hash_key.trace(&trace.id());
        let indexed = self.index.remove(hash, Link::from(key));
        assert!(indexed, "every open trace is indexed");
        let neighbour = |link| self.traces.linked(link).map(|(key, _)| key);
        let (older, newer) = (neighbour(trace.older), neighbour(trace.newer));
        match older {
            Some(older) => self.traces.get_mut(older).expect("listed").newer = trace.newer,
            None => self.oldest = newer,
        }
        match newer {
            Some(newer) => self.traces.get_mut(newer).expect("listed").older = trace.older,
            None => self.newest = older,
        }
        self.wheel.disarm(trace.armed, key);
        self.waiting.remove(key);
        self.heap_bytes -= trace.heap_bytes();
        Some(trace)
    }

    /// Closes what is due.
    pub fn handle_timeout(
        &mut self,
        now: Now,
        policies: &PolicySet,
        stats: &mut Stats,
        out: &mut Vec<Settlement>,
    ) {
        let mut due = std::mem::take(&mut self.due);
        self.wheel.expire(now.instant, DUE_COUNT_MAX, &mut due);
        let mut hashes = std::mem::take(&mut self.hashes);
        self.ask_for_slots(&due, 0);
        for begin in (0..due.len()).step_by(AHEAD_COUNT) {
            self.ask_for_slots(&due, begin + AHEAD_COUNT);
            let keys = &due[begin..due.len().min(begin + AHEAD_COUNT)];
            self.look_ahead(keys, &mut hashes);
            for key in keys {
                if let Some(trace) = self.traces.get_mut(*key) {
                    trace.armed = Armed::NOT;
                }
                if let Some(until) = self.check(now, *key, policies, stats, out) {
                    self.arm(until, *key);
                }
            }
        }
        due.clear();
        self.due = due;
        self.hashes = hashes;
        self.ask_again(now, policies, stats, out);
        self.cluster_timeout(&mut Context {
            now,
            policies,
            stats,
            out,
        });
        if self.forcing.1 > 0 {
            self.relieve_pressure(now, policies, stats, out);
        }
    }

    /// Asks for the slots of some of the keys, beginning with number `begin`.
    fn ask_for_slots(&self, keys: &[Key], begin: usize) {
        let keys = keys.iter().skip(begin).take(AHEAD_COUNT);
        keys.for_each(|key| self.traces.prefetch(*key));
    }

    /// Asks for what closing these traces touches beside their slots. All of it lies where it was left a `quiet` ago.
    fn look_ahead(&self, keys: &[Key], hashes: &mut Vec<u64>) {
        hashes.clear();
        for trace in keys.iter().filter_map(|key| self.traces.get(*key)) {
            hashes.push(self.options.hash_key.trace(&trace.id()));
            self.traces.prefetch(trace.older);
            self.traces.prefetch(trace.newer);
            trace.prefetch_lists();
        }
        for hash in hashes {
            self.decided.prefetch(*hash);
            self.index.prefetch(*hash);
        }
    }

    /// Closes the oldest traces, at most so many.
    pub fn close_oldest(
        &mut self,
        now: Now,
        (count, reason): (usize, Reason),
        policies: &PolicySet,
        stats: &mut Stats,
        out: &mut Vec<Settlement>,
    ) -> bool {
        let (mut next, mut closed) = (self.oldest, 0);
        while closed < count
            && let Some(key) = next
        {
            let newer = self.traces.get(key).map_or(Link::NONE, |trace| trace.newer);
            next = self.traces.linked(newer).map(|(key, _)| key);
            if self.waiting.reason(key).is_some() {
                continue;
            }
            match self.whom_to_ask(key) {
                Asked::Nobody => self.close(now, key, reason, policies, stats, out),
                Asked::Home => {
                    let context = Context {
                        now,
                        policies,
                        stats,
                        out,
                    };
                    self.check_in_cluster(key, Completion::Closed(reason), context);
                }
                Asked::Already => continue,
            }
            closed += 1;
        }
        closed > 0
    }

    /// When `handle_timeout` is due next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let own = match self.forcing {
            (_, 0) if !self.has_answers() => self.wheel.next(),
            _ => Some(Instant(0)),
        };
        own.into_iter().chain(self.cluster_poll_timeout()).min()
    }

    // ---- copying forward --------------------------------------------------------------------------------

    pub fn owner_of(&self, trace: &TraceId, core_count: u16) -> CoreId {
        route::owner(self.options.hash_key.trace(trace), core_count)
    }

    /// Whether an open trace has spans at this place.
    pub fn is_open_at(&self, trace: &TraceId, place: Place) -> bool {
        self.open_trace(trace).is_some_and(|trace| trace.has_place(place))
    }

    /// Spans of a trace were copied forward: nothing will name their old place any more.
    pub fn move_place(&mut self, trace: &TraceId, old: Place, new: Place) {
        let key = self.find(self.options.hash_key.trace(trace), trace);
        if let Some(trace) = key.and_then(|key| self.traces.get_mut(key)) {
            trace.move_place(old, new);
        }
    }

    // ---- memory -----------------------------------------------------------------------------------------

    /// The account of trace state: slots in use, index, wheel, and the lists that traces own.
    pub fn state_bytes(&self) -> u64 {
        let slots = self.traces.len() * Slab::<Trace>::SLOT_BYTES;
        (slots + self.index.memory_bytes() + self.wheel.memory_bytes()) as u64
            + self.heap_bytes
            + self.waiting.memory_bytes()
            + self.cluster_bytes()
    }

    /// Memory that is there for traces and not in use: slots that wait for the next ones.
    pub fn spare_bytes(&self) -> u64 {
        (self.traces.memory_bytes() - self.traces.len() * Slab::<Trace>::SLOT_BYTES) as u64
    }

    /// What is remembered of decided traces.
    pub fn decided_bytes(&self) -> u64 {
        self.decided.memory_bytes() + self.recent.memory_bytes()
    }

    /// Decides the oldest traces early: 10 % of them above 90 % of the account, 30 % above 95 %, at most once a
    /// second and not all in one turn; above 100 % at once as many as needed (M1).
    fn relieve_pressure(
        &mut self,
        now: Now,
        policies: &PolicySet,
        stats: &mut Stats,
        out: &mut Vec<Settlement>,
    ) {
        let tier = self.pressure_tier();
        if tier == 0 {
            self.forcing = (0, 0);
            return;
        }
        let has_rested = |at| now.instant.since(at) >= PRESSURE_INTERVAL;
        if self.forcing.1 == 0 && self.relieved_at.is_none_or(has_rested) {
            let tenths = if tier == 1 { 1 } else { 3 };
            self.forcing = (tier, (self.traces.len() * tenths / 10).max(1));
            self.relieved_at = Some(now.instant);
        }
        let (forced_by, count) = self.forcing;
        let count_now = count.min(FORCED_COUNT_MAX);
        self.forcing.1 -= count_now;
        for _ in 0..count_now {
            self.force_oldest(now, forced_by, policies, stats, out);
        }
        while self.state_bytes() >= self.options.state_bytes_max
            && self.force_oldest(now, 3, policies, stats, out)
        {}
    }

    /// `false`: there is none.
    fn force_oldest(
        &mut self,
        now: Now,
        tier: u8,
        policies: &PolicySet,
        stats: &mut Stats,
        out: &mut Vec<Settlement>,
    ) -> bool {
        let Some(oldest) = self.oldest else { return false };
        stats.traces.forced[usize::from(tier) - 1] += 1;
        self.close(now, oldest, Reason::MemoryPressure, policies, stats, out);
        true
    }

    /// 0 while trace state is below 90 % of its account, then 1, 2 and 3 at 90, 95 and 100 %.
    pub fn pressure_tier(&self) -> u8 {
        let (account, used) = (self.options.state_bytes_max, self.state_bytes());
        match used {
            _ if used * 100 < account * 90 => 0,
            _ if used * 100 < account * 95 => 1,
            _ if used < account => 2,
            _ => 3,
        }
    }

    // ---- replay -----------------------------------------------------------------------------------------

    /// A decision that stands in a log.
    pub fn remember_replayed(&mut self, found: FoundDecision) {
        match found {
            FoundDecision::Verdict {
                trace,
                decision,
                late,
                seen,
            } => {
                let hash = self.options.hash_key.trace(&trace);
                self.decided.insert(hash, trace, decision);
                let seen = seen.map(|seen| DecidedTrace {
                    // Another log may have said that it was upgraded.
                    decision: self.decided.get(hash, &trace).unwrap_or(decision),
                    ..seen
                });
                let Some(seen) = seen else {
                    self.know_upgraded(&trace, decision);
                    return;
                };
                if decision.verdict == Verdict::Keep && !late {
                    let keep = PeerDecision {
                        trace,
                        decision,
                        by_home: false,
                    };
                    self.resume_keep(keep, seen.decided_at);
                }
                match self.recent.get_mut(&trace) {
                    Some(known) if late => known.add_late(seen.digest, &seen.places),
                    Some(known) => known.merge(seen),
                    None if late => {}
                    None => self.recent.push(seen.replayed()),
                }
            }
            FoundDecision::Announced { keep, logged_at } => {
                self.announced.push(keep);
                self.resume_keep(keep, logged_at);
            }
            FoundDecision::CarriedDrop(compact) => self.decided.insert_older(compact, None),
            FoundDecision::CarriedKeep {
                compact,
                trace,
                decision,
                decided_at,
            } => {
                self.decided.insert_older(compact, Some((trace, decision)));
                if let Some(decided_at) = decided_at {
                    let keep = PeerDecision {
                        trace,
                        decision,
                        by_home: false,
                    };
                    self.resume_keep(keep, decided_at);
                }
            }
        }
    }

    /// All logs are replayed, and so what was dropped before its Keep was announced is known. An announcement settles
    /// nothing: what the logs have of such a trace is still to be kept. Returns of how many it will not be, since too
    /// many such wait.
    pub fn end_replay(&mut self) -> u64 {
        let mut skipped = 0;
        for keep in std::mem::take(&mut self.announced) {
            let hash = self.options.hash_key.trace(&keep.trace);
            match self.decided.get(hash, &keep.trace) {
                Some(known) if known.verdict != Verdict::Keep => {
                    skipped += u64::from(!self.want_raised(keep));
                }
                Some(_) | None => self.decided.insert(hash, keep.trace, keep.decision),
            }
        }
        skipped
    }

    /// Of an upgrade its owner's log says only that it was decided.
    fn know_upgraded(&mut self, trace: &TraceId, decision: Decision) {
        if let Some(known) = self.recent.get_mut(trace).filter(|_| decision.upgraded) {
            known.decision = decision;
        }
    }

    /// What a log holds of a trace without a verdict after it. It resumes with one full `quiet`; or, if the
    /// trace was decided on what came before, its spans are late ones like any other.
    pub fn adopt(
        &mut self,
        now: Now,
        mut fragment: Trace,
        policies: &PolicySet,
        stats: &mut Stats,
        out: &mut Vec<Settlement>,
    ) {
        let hash = self.options.hash_key.trace(&fragment.id());
        let span_count = fragment.digest().span_count;
        stats.spans.resumed += u64::from(span_count);
        if let Some(decision) = self.decided.get(hash, &fragment.id()) {
            let places: Places = fragment.places().collect();
            let late = (fragment.id(), &fragment.digest());
            self.note_late(now, late, decision, &places, policies, stats);
            out.extend(fragment.into_settlements(decision, true));
            return;
        }
        fragment.resume(now);
        match self.find(hash, &fragment.id()) {
            Some(key) => {
                let trace = self.traces.get_mut(key).expect("found just now");
                let heap_before = trace.heap_bytes();
                trace.merge(fragment);
                self.heap_bytes = self.heap_bytes + trace.heap_bytes() - heap_before;
            }
            None => {
                stats.traces.resumed += 1;
                self.insert(now, hash, fragment);
            }
        }
    }

    // ---- for people -------------------------------------------------------------------------------------

    pub fn len(&self) -> usize {
        self.traces.len()
    }

    pub fn is_empty(&self) -> bool {
        self.traces.is_empty()
    }

    pub fn pending_spans(&self) -> u64 {
        self.traces
            .iter()
            .map(|(_, trace)| u64::from(trace.digest().span_count))
            .sum()
    }

    pub fn open_trace(&self, id: &TraceId) -> Option<&Trace> {
        self.traces.get(self.find(self.options.hash_key.trace(id), id)?)
    }

    /// The decision about a trace that is no longer open, as far as the cache reaches back.
    pub fn decided(&self, id: &TraceId) -> Option<Decision> {
        self.decided.get(self.options.hash_key.trace(id), id)
    }

    pub fn recent(&self) -> &Recent {
        &self.recent
    }

    /// What replaying the logs must rebuild (W4), in an order that two tables share.
    pub fn fold_of_open_traces(&self) -> Vec<(TraceId, Digest, Vec<Place>)> {
        let mut fold: Vec<_> = self
            .traces
            .iter()
            .map(|(_, trace)| (trace.id(), trace.digest(), trace.places().collect::<Vec<_>>()))
            .collect();
        fold.sort_by_key(|(trace, ..)| *trace);
        fold
    }
}
