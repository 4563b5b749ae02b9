//! The traces that this core judges for the cluster: the newest digest of each node that holds a fragment.
//!
//! ```text
//!  digest of A, version 7 ─┐ replaces version 3 of A (D3)
//!  digest of B, version 2 ─┼─ merge ─→ open judgement: Keep for good? ──→ Keep at once
//!  digest of C, version 1 ─┘        └─ root and quiet, twice quiet, age ─→ closed judgement ─→ answers
//! ```
//!
//! Sums are not idempotent, so a newer digest of a node takes the place of its older one. No structure is checked
//! here: a home never sees ids of spans. A trace that was judged is remembered for a while; a later digest opens it
//! again, and only a rise of the verdict is news to those that were answered before.
//!
//! Quotas are charged here, for the whole trace: when it is closed, once, what they said goes with it; or when it is kept
//! before that, by what is known then. A trace whose quota answers later stays open so long.

use super::{NodeDigest, NodeId, PeerDecision, is_newer};
use crate::base::ids::TraceId;
use crate::base::monoid::Monoid;
use crate::base::time::{Instant, Now};
use crate::base::wheel::Wheel;
use crate::digest::{Digest, PredicateSet};
use crate::policy::quota::{PATIENCE, Urgency};
use crate::policy::{Answer, PolicySet, QuotaAnswers, QuotaIndex, Ruling, Ticket};
use crate::route::{Decision, PolicyNumber};
use crate::verdict::{Reason, Verdict};
use hashbrown::HashMap;
use smallvec::SmallVec;
use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

/// Nodes that hold fragments of one trace at most; a digest of one more is not taken.
const PARTS_MAX: usize = 256;
/// Traces judged in one call of `handle_timeout`, so that no turn is long.
const DUE_COUNT_MAX: usize = 256;

#[derive(Clone, Copy, Debug)]
pub struct HomeOptions {
    /// A trace with a root is closed this long after its newest digest; one without after twice as long.
    pub quiet: Duration,
    /// The most a trace may wait, from its first digest on.
    pub age_max: Duration,
    /// How long after its judgement a trace is remembered for later digests.
    pub remembered: Duration,
    pub bytes_max: u64,
}

/// By what a home judges.
pub struct Bench<'a> {
    pub policies: &'a PolicySet,
    /// [`crate::policy::Quotas::ask`]
    pub ask: &'a mut dyn FnMut(QuotaIndex, u64, Option<Ticket>, Urgency) -> Answer,
}

/// What the home says.
#[derive(Clone, Debug, PartialEq)]
pub enum Word {
    /// A Keep, for everybody once it is durable.
    Keep(PeerDecision),
    /// To a node, of this version of its digest.
    Answer(NodeId, u32, PeerDecision),
}

/// Methods take what happened and append what is to be said to `out`.
///
/// Invariant (D3): of each trace and node one digest stands here, the newest that came.
#[derive(Debug)]
pub struct Home {
    options: HomeOptions,
    traces: HashMap<TraceId, HomeTrace>,
    wheel: Wheel<TraceId>,
    due: Vec<TraceId>,
    /// By opening; some are gone already.
    by_age: VecDeque<(Instant, TraceId)>,
    /// Closed, and a quota will answer later: those with `closing`, by since when, and some that were kept meanwhile.
    waiting: BTreeSet<(Instant, TraceId)>,
    /// Parts that did not fit into their trace.
    heap_bytes: u64,
}

#[derive(Debug)]
struct HomeTrace {
    parts: SmallVec<[Part; 2]>,
    /// When it was first opened: names its entry in `by_age`.
    known_since: Instant,
    /// When it was opened, or opened again.
    opened_at: Instant,
    newest_at: Instant,
    is_open: bool,
    decided: Option<Decision>,
    forgotten_at: Instant,
    quotas: QuotaAnswers,
    /// Since when a quota's answer is all that is missing, and why the trace was closed.
    closing: Option<(Instant, Reason)>,
    /// When the wheel brings it up.
    armed: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Part {
    node: NodeId,
    version: u32,
    /// This version was answered.
    answered: bool,
    unknown: PredicateSet,
    digest: Digest,
}

impl Home {
    pub fn new(options: HomeOptions, now: Now) -> Home {
        Home {
            options,
            traces: HashMap::new(),
            wheel: Wheel::new(now.instant),
            due: Vec::new(),
            by_age: VecDeque::new(),
            waiting: BTreeSet::new(),
            heap_bytes: 0,
        }
    }

    /// Takes a digest. An older one than is known changes nothing; one that is known is answered again.
    pub fn absorb(
        &mut self,
        now: Now,
        from: NodeId,
        digest: &NodeDigest,
        bench: &mut Bench<'_>,
        out: &mut Vec<Word>,
    ) {
        let (id, options) = (digest.trace, self.options);
        let by_age = &mut self.by_age;
        let trace = self.traces.entry(id).or_insert_with(|| {
            by_age.push_back((now.instant, id));
            HomeTrace::new(now.instant)
        });
        let heap_before = trace.heap_bytes();
        let news = trace.replace(from, digest);
        self.heap_bytes = self.heap_bytes + trace.heap_bytes() - heap_before;
        match news {
            News::None => {}
            News::Again => trace.answer(id, out),
            News::Newer => {
                trace.newest_at = now.instant;
                if !trace.is_open && !trace.is_kept() {
                    trace.is_open = true;
                    trace.opened_at = now.instant;
                }
                let early = trace.judge(id, bench.policies, false);
                if early.verdict == Verdict::Keep && !trace.is_kept() {
                    trace.charge(id, bench);
                }
                if early.verdict == Verdict::Keep || trace.is_kept() {
                    let decision = trace.decision_of(&early, trace.reason_so_far());
                    trace.decide(now, &options, id, decision, out);
                }
            }
        }
        self.arm(id);
        self.relieve_pressure(now, bench, out);
    }

    /// Somebody keeps the trace. Of one that is known here and not kept this is the home's decision too, with what the
    /// home has to say of it. Another home's decision stands as it is.
    pub fn handle_keep(&mut self, now: Now, kept: &PeerDecision, bench: &mut Bench<'_>, out: &mut Vec<Word>) {
        let options = self.options;
        let Some(trace) = self.traces.get_mut(&kept.trace) else {
            return;
        };
        if trace.is_kept() {
            return;
        }
        if kept.by_home {
            trace.decided = Some(kept.decision);
            trace.end_round(now, &options);
            trace.answer(kept.trace, out);
        } else {
            trace.charge(kept.trace, bench);
            let ruling = trace.judge(kept.trace, bench.policies, true);
            let decision = match ruling.verdict {
                Verdict::Keep => trace.decision_of(&ruling, kept.decision.reason),
                _ => kept.decision,
            };
            trace.decide(now, &options, kept.trace, decision, out);
        }
        self.arm(kept.trace);
    }

    /// Judges what is due, forgets what is old.
    pub fn handle_timeout(&mut self, now: Now, bench: &mut Bench<'_>, out: &mut Vec<Word>) {
        let mut due = std::mem::take(&mut self.due);
        self.wheel.expire(now.instant, DUE_COUNT_MAX, &mut due);
        for id in due.drain(..) {
            let Some(trace) = self.traces.get_mut(&id) else {
                continue;
            };
            if trace.armed > now.instant {
                continue;
            }
            trace.armed = Instant(u64::MAX);
            if trace.is_open {
                self.close_if_due(now, id, bench, out);
            } else if now.instant >= trace.forgotten_at {
                self.forget(&id);
                continue;
            }
            self.arm(id);
        }
        self.due = due;
        // Their patience is over, or they were kept meanwhile.
        while let Some((since, _)) = self.waiting.first()
            && now.instant.since(*since) > 2 * PATIENCE
        {
            self.waiting.pop_first();
        }
    }

    /// Whether traces wait for the answer of a quota.
    pub fn waits(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Some ledger has answered.
    pub fn ask_again(&mut self, now: Now, bench: &mut Bench<'_>, out: &mut Vec<Word>) {
        let waiting: Vec<_> = self.waiting.iter().copied().collect();
        for (since, id) in waiting {
            let trace = self.traces.get(&id);
            match trace.and_then(|trace| trace.closing) {
                Some((waits_since, _)) if waits_since == since => self.close_if_due(now, id, bench, out),
                // It was kept meanwhile.
                Some(_) | None => _ = self.waiting.remove(&(since, id)),
            }
            self.arm(id);
        }
    }

    /// What quotas said of a trace.
    pub fn quotas_of(&self, id: &TraceId) -> QuotaAnswers {
        self.traces
            .get(id)
            .map_or(QuotaAnswers::NONE, |trace| trace.quotas)
    }

    fn close_if_due(&mut self, now: Now, id: TraceId, bench: &mut Bench<'_>, out: &mut Vec<Word>) {
        let options = self.options;
        let Some(trace) = self.traces.get_mut(&id).filter(|trace| trace.is_open) else {
            return;
        };
        let Some(reason) = trace.closed(now.instant, &options) else {
            return;
        };
        let (since, reason) = trace.closing.unwrap_or((now.instant, reason));
        let urgency = match now.instant.since(since) >= PATIENCE {
            true => Urgency::Now,
            false => Urgency::MayWait,
        };
        match trace.judge_asking(id, urgency, bench) {
            Some(ruling) => {
                let decision = trace.decision_of(&ruling, reason);
                trace.decide(now, &options, id, decision, out);
                self.waiting.remove(&(since, id));
            }
            None => {
                trace.closing = Some((since, reason));
                self.waiting.insert((since, id));
            }
        }
    }

    /// When `handle_timeout` is due next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.wheel.next()
    }

    /// After a change of members: lets go of traces that wait here and have their home elsewhere now. Their digests
    /// are sent there.
    pub fn retain(&mut self, is_home: impl Fn(&TraceId) -> bool) {
        let waits_in_vain = |(id, trace): &(&TraceId, &HomeTrace)| trace.decided.is_none() && !is_home(id);
        let gone: Vec<TraceId> = self
            .traces
            .iter()
            .filter(waits_in_vain)
            .map(|(id, _)| *id)
            .collect();
        gone.iter().for_each(|id| self.forget(id));
    }

    /// Bytes of all that is remembered here (M1).
    pub fn state_bytes(&self) -> u64 {
        const PER_TRACE: usize =
            size_of::<(TraceId, HomeTrace)>() + size_of::<(u64, TraceId)>() + size_of::<(Instant, TraceId)>();
        const PER_WAITING: usize = size_of::<(Instant, TraceId)>() * 2;
        (self.traces.len() * PER_TRACE + self.waiting.len() * PER_WAITING) as u64 + self.heap_bytes
    }

    pub fn len(&self) -> usize {
        self.traces.len()
    }

    pub fn is_empty(&self) -> bool {
        self.traces.is_empty()
    }

    fn arm(&mut self, id: TraceId) {
        let Some(trace) = self.traces.get_mut(&id) else {
            return;
        };
        let due = match trace.is_open {
            true => trace.due(&self.options).0,
            false => trace.forgotten_at,
        };
        if due < trace.armed {
            trace.armed = due;
            self.wheel.arm(due, id);
        }
    }

    fn forget(&mut self, id: &TraceId) {
        if let Some(trace) = self.traces.remove(id) {
            if let Some((since, _)) = trace.closing {
                self.waiting.remove(&(since, *id));
            }
            self.heap_bytes -= trace.heap_bytes();
        }
        while let Some((since, id)) = self.by_age.front()
            && self
                .traces
                .get(id)
                .is_none_or(|trace| trace.known_since != *since)
        {
            self.by_age.pop_front();
        }
    }

    /// Above its share the home judges the oldest as they are, and forgets them.
    fn relieve_pressure(&mut self, now: Now, bench: &mut Bench<'_>, out: &mut Vec<Word>) {
        let options = self.options;
        while self.state_bytes() > options.bytes_max
            && let Some((_, id)) = self.by_age.front().copied()
        {
            if let Some(trace) = self.traces.get_mut(&id).filter(|trace| trace.is_open)
                && let Some(ruling) = trace.judge_asking(id, Urgency::Now, bench)
            {
                let decision = trace.decision_of(&ruling, Reason::MemoryPressure);
                trace.decide(now, &options, id, decision, out);
            }
            self.forget(&id);
        }
    }
}

/// What a digest brought.
enum News {
    /// It is older than what is known, or of one node too many.
    None,
    /// It is known.
    Again,
    Newer,
}

impl HomeTrace {
    fn new(now: Instant) -> HomeTrace {
        HomeTrace {
            parts: SmallVec::new(),
            known_since: now,
            opened_at: now,
            newest_at: now,
            is_open: true,
            decided: None,
            forgotten_at: now,
            quotas: QuotaAnswers::NONE,
            closing: None,
            armed: Instant(u64::MAX),
        }
    }

    fn replace(&mut self, node: NodeId, digest: &NodeDigest) -> News {
        let newer = Part {
            node,
            version: digest.version,
            answered: false,
            unknown: digest.unknown,
            digest: digest.digest,
        };
        let is_room = self.parts.len() < PARTS_MAX;
        match self.parts.iter_mut().find(|part| part.node == node) {
            Some(part) if part.version == digest.version => {
                part.answered = false;
                News::Again
            }
            Some(part) if is_newer(digest.version, part.version) => {
                *part = newer;
                News::Newer
            }
            Some(_) => News::None,
            None if is_room => {
                self.parts.push(newer);
                News::Newer
            }
            None => News::None,
        }
    }

    fn merged(&self) -> (Digest, PredicateSet) {
        let none = (Digest::EMPTY, PredicateSet::NONE);
        self.parts.iter().fold(none, |(digest, unknown), part| {
            (digest.merge(part.digest), unknown.union(part.unknown))
        })
    }

    fn judge(&self, id: TraceId, policies: &PolicySet, closed: bool) -> Ruling {
        let (digest, unknown) = self.merged();
        policies.judge_merged(id, &digest, unknown, closed)
    }

    /// As it is, with its quotas asked. `None`: an answer comes later.
    fn judge_asking(&mut self, id: TraceId, urgency: Urgency, bench: &mut Bench<'_>) -> Option<Ruling> {
        let (digest, unknown) = self.merged();
        let Bench { policies, ask } = bench;
        let ask = &mut |quota, amount, ticket| ask(quota, amount, ticket, urgency);
        policies.judge_asking(id, &digest, unknown, &mut self.quotas, ask)
    }

    /// It is kept whatever quotas say: those that match by what is known are charged.
    fn charge(&mut self, id: TraceId, bench: &mut Bench<'_>) {
        let (digest, unknown) = self.merged();
        let Bench { policies, ask } = bench;
        let ask = &mut |quota, amount, ticket| ask(quota, amount, ticket, Urgency::Anyway);
        policies.charge_open(id, &digest, unknown, &mut self.quotas, ask);
    }

    fn decision_of(&self, ruling: &Ruling, reason: Reason) -> Decision {
        Decision {
            verdict: ruling.verdict,
            reason,
            policy: ruling.policy.map(|policy| PolicyNumber(policy.0)),
            threshold: ruling.threshold,
            incomplete: !self.has_root(),
            upgraded: false,
        }
    }

    fn is_kept(&self) -> bool {
        self.decided.is_some_and(|known| known.verdict == Verdict::Keep)
    }

    fn has_root(&self) -> bool {
        self.parts.iter().any(|part| part.digest.has_root)
    }

    fn reason_so_far(&self) -> Reason {
        match self.has_root() {
            true => Reason::Complete,
            false => Reason::Quiet,
        }
    }

    /// When it will be closed unless a digest comes, and why.
    fn due(&self, options: &HomeOptions) -> (Instant, Reason) {
        if let Some((since, reason)) = self.closing {
            return (since.plus(PATIENCE), reason);
        }
        let wait = match self.has_root() {
            true => options.quiet,
            false => options.quiet.saturating_mul(2),
        };
        let quiet = (self.newest_at.plus(wait), self.reason_so_far());
        let aged = (self.opened_at.plus(options.age_max), Reason::Expired);
        if quiet.0 <= aged.0 { quiet } else { aged }
    }

    fn closed(&self, now: Instant, options: &HomeOptions) -> Option<Reason> {
        if let Some((_, reason)) = self.closing {
            return Some(reason);
        }
        let (due, reason) = self.due(options);
        (now >= due).then_some(reason)
    }

    /// Ends the round with this decision, or with the one before if that is not lower (V1).
    fn decide(
        &mut self,
        now: Now,
        options: &HomeOptions,
        id: TraceId,
        decision: Decision,
        out: &mut Vec<Word>,
    ) {
        let before = self.decided.map_or(Verdict::Pending, |known| known.verdict);
        if decision.verdict > before {
            self.decided = Some(decision);
        }
        self.end_round(now, options);
        if decision.verdict == Verdict::Keep && before != Verdict::Keep {
            self.parts.iter_mut().for_each(|part| part.answered = true);
            out.push(Word::Keep(by_home(id, decision)));
        } else {
            self.answer(id, out);
        }
    }

    fn end_round(&mut self, now: Now, options: &HomeOptions) {
        self.is_open = false;
        self.closing = None;
        self.forgotten_at = now.instant.plus(options.remembered);
    }

    /// Answers those who were not.
    fn answer(&mut self, id: TraceId, out: &mut Vec<Word>) {
        let Some(decision) = self.decided.filter(|_| !self.is_open) else {
            return;
        };
        for part in self.parts.iter_mut().filter(|part| !part.answered) {
            part.answered = true;
            out.push(Word::Answer(part.node, part.version, by_home(id, decision)));
        }
    }

    fn heap_bytes(&self) -> u64 {
        match self.parts.spilled() {
            true => (self.parts.capacity() * size_of::<Part>()) as u64,
            false => 0,
        }
    }
}

fn by_home(trace: TraceId, decision: Decision) -> PeerDecision {
    PeerDecision {
        trace,
        decision,
        by_home: true,
    }
}
