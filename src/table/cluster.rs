//! A trace whose fragments lie on several nodes, as the owner of one of them sees it.
//!
//! ```text
//!        spans                     ┌─ quiet, and grown ──→ digest to the home, replacing the older one (D3)
//!          ↓                       │
//!  open ───┴── closed ──→ awaiting ┤← answer to this digest: settled so
//!    │                       │     │← Keep of the home: settled with its policy, reason and threshold
//!    │                       │     │← early Keep, a peer's or own: settled so 2 s later, `th` erased
//!    │                       │     └─ decision_wait is over: judged alone
//!    │                       └─ Keep for good by what is here: logged, announced
//!    └── nobody else is there, or all spans of a trace come here: judged as it is
//! ```
//!
//! While a trace awaits its answer it stays among the open ones: late spans merge into it, its places are held, a
//! replay brings it back. The home of a trace may be this very core; its digest then goes the short way.
//!
//! Keeps that this node gives are handed out as [`PeerDecision`]s to be logged first; digests and answers as
//! [`Outbound`]s. Losing one of the latter costs time only: what is not answered is sent again.

use super::heard::Heard;
use super::{DUE_COUNT_MAX, DecidedTrace, Table};
use crate::base::ids::TraceId;
use crate::base::monoid::Monoid;
use crate::base::slab::Key;
use crate::base::time::{Instant, Now, WallTime};
use crate::base::wheel::Wheel;
use crate::completion::Completion;
use crate::digest::PredicateSet;
use crate::gossip::home::{Home, HomeOptions, Word};
use crate::gossip::{Inbound, Members, NodeDigest, NodeId, Outbound, PeerDecision, SpansArrive, is_newer};
use crate::policy::{PolicyIndex, PolicySet, Ruling};
use crate::route::{Decision, PolicyNumber, Settlement};
use crate::stats::Stats;
use crate::verdict::{Reason, Verdict};
use hashbrown::{HashMap, HashSet};
use std::collections::VecDeque;
use std::time::Duration;

/// A node that has not heard the home of a trace for so long after a Keep exports without it.
const HOME_PATIENCE: Duration = Duration::from_secs(2);
/// An unanswered digest is sent again after so many times `quiet`: a home needs two of them at most.
const RESEND_QUIETS: u32 = 3;
/// Dropped traces that a new home is reminded of: of the last ones that are remembered.
const REMINDERS_MAX: usize = 4096;
/// Digests and answers that wait to be sent.
const OUTBOUND_MAX: usize = 64 << 10;
/// Keeps that a log holds are announced again after a start unless they are older than this, or than two waits.
const ANNOUNCED_AGAIN: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClusterOptions {
    pub own: NodeId,
    pub spans_arrive: SpansArrive,
}

/// What a table has beside its traces because there are other nodes.
#[derive(Debug)]
pub(super) struct Cluster {
    options: ClusterOptions,
    quiet: Duration,
    decision_wait: Duration,
    /// `None` until somebody has looked who is there.
    members: Option<Members>,
    pending: HashMap<Key, Pending>,
    wheel: Wheel<Key>,
    due: Vec<Key>,
    /// To be looked at because members changed.
    moved: Vec<Key>,
    /// Of dropped traces, for homes that are new to them.
    reminders: Vec<(NodeId, NodeDigest)>,
    home: Home,
    pub(super) heard: Heard,
    words: Vec<Word>,
    outbound: VecDeque<Outbound>,
    /// Keeps that are announced or answered with: told once they are durable.
    keeps: Vec<Outbound>,
    /// Dropped here, and kept elsewhere.
    raised: Vec<PeerDecision>,
    /// Those of them that are not done.
    wanted: HashSet<TraceId>,
    started: WallTime,
    /// Keeps that the logs hold, to be announced again.
    resumed: HashMap<TraceId, PeerDecision>,
}

/// What is going on about one trace beyond this node.
#[derive(Clone, Copy, Debug)]
struct Pending {
    /// Of the digest that was sent last.
    version: u32,
    sent_spans: u32,
    sent_at: Instant,
    sent_to: Option<NodeId>,
    /// The decision about that digest, if it is no Keep.
    answer: Option<Decision>,
    keep: Option<KnownKeep>,
    closed: Option<Closed>,
    /// When the wheel brings it up.
    armed: Instant,
}

#[derive(Clone, Copy, Debug)]
struct KnownKeep {
    decision: Decision,
    by_home: bool,
    since: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Closed {
    reason: Reason,
    incomplete: bool,
    at: Instant,
}

/// What every step needs of the shard.
pub(super) struct Context<'a> {
    pub now: Now,
    pub policies: &'a PolicySet,
    pub stats: &'a mut Stats,
    pub out: &'a mut Vec<Settlement>,
}

/// Who knows more of an open trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Nobody,
    Home,
    /// It is closed, and awaits its answer.
    Already,
}

impl Pending {
    const NEW: Pending = Pending {
        version: 0,
        sent_spans: 0,
        sent_at: Instant(0),
        sent_to: None,
        answer: None,
        keep: None,
        closed: None,
        armed: Instant(u64::MAX),
    };

    /// The home's word replaces an early one, never the other way round.
    fn learn(&mut self, keep: KnownKeep) {
        match &mut self.keep {
            Some(known) if known.by_home || !keep.by_home => {}
            Some(known) => {
                *known = KnownKeep {
                    since: known.since,
                    ..keep
                }
            }
            None => self.keep = Some(keep),
        }
    }
}

impl Table {
    /// From now on there are other nodes. To be called before anything is absorbed or replayed.
    pub fn in_cluster(mut self, options: ClusterOptions, now: Now) -> Table {
        let completion = self.options.completion;
        let home = HomeOptions {
            quiet: completion.quiet,
            age_max: completion.decision_wait,
            remembered: completion.decision_wait,
            bytes_max: self.options.state_bytes_max / 4,
        };
        self.cluster = Some(Box::new(Cluster {
            options,
            quiet: completion.quiet,
            decision_wait: completion.decision_wait,
            members: None,
            pending: HashMap::new(),
            wheel: Wheel::new(now.instant),
            due: Vec::new(),
            moved: Vec::new(),
            reminders: Vec::new(),
            home: Home::new(home, now),
            heard: Heard::default(),
            words: Vec::new(),
            outbound: VecDeque::new(),
            keeps: Vec::new(),
            raised: Vec::new(),
            wanted: HashSet::new(),
            started: now.wall,
            resumed: HashMap::new(),
        }));
        self
    }

    // ---- what happens -----------------------------------------------------------------------------------

    /// Something came from the cluster.
    pub fn handle_inbound(
        &mut self,
        now: Now,
        inbound: Inbound,
        policies: &PolicySet,
        stats: &mut Stats,
        out: &mut Vec<Settlement>,
    ) {
        let mut context = Context {
            now,
            policies,
            stats,
            out,
        };
        let Some(cluster) = &mut self.cluster else {
            return;
        };
        match inbound {
            Inbound::Announced(keep) => {
                cluster.home.handle_keep(now, &keep, policies, &mut cluster.words);
                self.hear_keep(keep, &mut context);
            }
            // One that finds no room is sent again.
            Inbound::Digest(..) if cluster.is_full() => {}
            Inbound::Digest(from, digest) => {
                cluster
                    .home
                    .absorb(now, from, &digest, policies, &mut cluster.words);
            }
            Inbound::Answer(version, answer) => self.hear_answer(version, answer, &mut context),
            Inbound::Members(members) => {
                let is_first = cluster.members.is_none();
                let before = cluster.set_members(members);
                // After a start this home knows nothing of what this node had dropped before.
                self.remind_homes(now, |known, id| match &before {
                    Some(before) => before.home(id) != known.home(id),
                    None => is_first && known.home(id) == known.own,
                });
            }
            Inbound::Renewed(node) => {
                cluster.send_again(node);
                self.remind_homes(now, |known, id| known.home(id) == node);
            }
            Inbound::PolicyNames(_) => {}
        }
        self.hear_home(&mut context);
    }

    /// What completion says of a trace, in a cluster; returns when it is to be asked again.
    pub(super) fn check_in_cluster(
        &mut self,
        key: Key,
        completion: Completion,
        mut context: Context<'_>,
    ) -> Option<Instant> {
        let cluster = self.cluster.as_mut()?;
        let trace = self.traces.get_mut(key)?;
        let (now, spans) = (context.now.instant, trace.digest().span_count);
        let quiet_at = trace.last_span_at().plus(cluster.quiet);
        let pending = cluster.pending.get_mut(&key);
        if let Some(pending) = pending
            && pending.closed.is_some()
        {
            if pending.sent_spans != spans && quiet_at < pending.armed {
                pending.armed = quiet_at;
                cluster.wheel.arm(quiet_at, key);
            }
            return None;
        }
        match completion {
            Completion::Closed(reason) if cluster.is_alone() && !cluster.pending.contains_key(&key) => {
                let Context {
                    now,
                    policies,
                    stats,
                    out,
                } = context;
                self.close(now, key, reason, policies, stats, out);
                None
            }
            Completion::Closed(reason) => {
                let heap_before = trace.heap_bytes();
                let closed = Closed {
                    reason,
                    incomplete: !trace.is_whole(),
                    at: now,
                };
                trace.forget_structure();
                self.heap_bytes = self.heap_bytes + trace.heap_bytes() - heap_before;
                cluster.pending.entry(key).or_insert(Pending::NEW).closed = Some(closed);
                self.go_on(key, true, &mut context);
                self.hear_home(&mut context);
                None
            }
            Completion::OpenUntil(until) if cluster.is_alone() => Some(until),
            Completion::OpenUntil(until) => {
                let sent = cluster.pending.get(&key).map_or(0, |pending| pending.sent_spans);
                if sent == spans {
                    return Some(until);
                }
                if now < quiet_at {
                    return Some(until.min(quiet_at));
                }
                self.send_digest(key, &mut context);
                self.hear_home(&mut context);
                Some(until)
            }
        }
    }

    pub(super) fn whom_to_ask(&self, key: Key) -> Asked {
        match &self.cluster {
            None => Asked::Nobody,
            Some(cluster) => match cluster.pending.get(&key) {
                Some(pending) if pending.closed.is_some() => Asked::Already,
                None if cluster.is_alone() => Asked::Nobody,
                Some(_) | None => Asked::Home,
            },
        }
    }

    /// The trace was opened by spans that came after an early Keep of a peer.
    pub(super) fn recall(&mut self, key: Key, id: &TraceId) {
        let Some(cluster) = &mut self.cluster else {
            return;
        };
        if let Some((decision, since)) = cluster.heard.take(id) {
            let keep = KnownKeep {
                decision,
                by_home: false,
                since,
            };
            cluster.pending.entry(key).or_insert(Pending::NEW).learn(keep);
        }
    }

    /// The trace is decided now, whatever others may have of it: returns what it becomes.
    pub(super) fn decide_alone(
        &mut self,
        key: Key,
        trace: TraceId,
        own: Decision,
        stats: &mut Stats,
    ) -> Decision {
        let Some(cluster) = &mut self.cluster else {
            return own;
        };
        let pending = cluster.pending.remove(&key);
        if let Some(keep) = pending.and_then(|pending| pending.keep) {
            return keep.onto_data(own.reason);
        }
        let by_home = cluster.is_alone();
        stats.traces.judged_alone += u64::from(!by_home);
        if own.verdict == Verdict::Keep {
            cluster.keeps.push(Outbound::Announce(PeerDecision {
                trace,
                decision: own,
                by_home,
            }));
        }
        own
    }

    pub(super) fn cluster_timeout(&mut self, context: &mut Context<'_>) {
        let now = context.now;
        let Some(cluster) = &mut self.cluster else {
            return;
        };
        cluster
            .home
            .handle_timeout(now, context.policies, &mut cluster.words);
        while let Some((id, decision)) = cluster.heard.expire(now.instant, HOME_PATIENCE) {
            let decision = Decision {
                threshold: None,
                reason: Reason::Peer,
                ..decision
            };
            self.decided
                .insert(self.options.hash_key.trace(&id), id, decision);
        }
        let mut due = std::mem::take(&mut cluster.due);
        let moved = cluster.moved.len().saturating_sub(DUE_COUNT_MAX);
        due.extend(cluster.moved.drain(moved..));
        let timed_from = due.len();
        cluster.wheel.expire(now.instant, DUE_COUNT_MAX, &mut due);
        for (number, key) in due.drain(..).enumerate() {
            let cluster = self.cluster.as_mut().expect("it is still there");
            let Some(pending) = cluster.pending.get_mut(&key) else {
                continue;
            };
            if number >= timed_from {
                if pending.armed > now.instant {
                    continue;
                }
                pending.armed = Instant(u64::MAX);
            }
            self.go_on(key, false, context);
        }
        if let Some(cluster) = &mut self.cluster {
            cluster.due = due;
        }
        self.remind(context);
        self.hear_home(context);
    }

    pub(super) fn cluster_poll_timeout(&self) -> Option<Instant> {
        let cluster = self.cluster.as_ref()?;
        let waits = !cluster.moved.is_empty() || !cluster.reminders.is_empty();
        let moved = waits.then_some(Instant(0));
        let times = [
            moved,
            cluster.wheel.next(),
            cluster.home.poll_timeout(),
            cluster.heard.next(HOME_PATIENCE),
        ];
        times.into_iter().flatten().min()
    }

    /// A decision that a log holds; of a Keep the cluster is told again.
    pub(super) fn resume_keep(&mut self, keep: PeerDecision, logged_at: WallTime) {
        let Some(cluster) = &mut self.cluster else {
            return;
        };
        let age = Duration::from_nanos(cluster.started.0.saturating_sub(logged_at.0));
        if age <= ANNOUNCED_AGAIN.max(cluster.decision_wait.saturating_mul(2)) {
            let known = cluster.resumed.entry(keep.trace).or_insert(keep);
            if keep.by_home {
                *known = keep;
            }
        }
    }

    // ---- what is to be done -----------------------------------------------------------------------------

    /// Announcements and answers that say Keep: the announced ones are to be logged, all to be sent once the log is
    /// durable so far.
    pub fn take_keeps(&mut self) -> Vec<Outbound> {
        let keeps = self
            .cluster
            .as_mut()
            .map(|cluster| std::mem::take(&mut cluster.keeps));
        keeps.unwrap_or_default()
    }

    /// Traces that were dropped here and that somebody else keeps: what the log has of them is to be kept too.
    pub fn take_raised(&mut self) -> Vec<PeerDecision> {
        let raised = self
            .cluster
            .as_mut()
            .map(|cluster| std::mem::take(&mut cluster.raised));
        raised.unwrap_or_default()
    }

    /// After a replay: Keeps that the logs hold, to be announced again.
    pub fn take_resumed_keeps(&mut self) -> Vec<PeerDecision> {
        let Some(cluster) = &mut self.cluster else {
            return Vec::new();
        };
        let mut keeps: Vec<_> = std::mem::take(&mut cluster.resumed).into_values().collect();
        keeps.sort_unstable_by_key(|keep| keep.trace);
        keeps
    }

    /// A digest or an answer.
    pub fn poll_outbound(&mut self) -> Option<Outbound> {
        self.cluster.as_mut()?.outbound.pop_front()
    }

    pub fn has_outbound(&self) -> bool {
        let cluster = self.cluster.as_ref();
        cluster.is_some_and(|cluster| !cluster.outbound.is_empty())
    }

    /// Nobody takes what is to be sent: nothing should be decided until somebody does.
    pub fn lacks_outbound_room(&self) -> bool {
        self.cluster.as_ref().is_some_and(|cluster| cluster.is_full())
    }

    /// Traces of which other nodes may have a part, and that wait for an answer.
    pub fn awaiting(&self) -> usize {
        let cluster = self.cluster.as_ref();
        cluster.map_or(0, |cluster| cluster.pending.len())
    }

    /// Bytes of what is remembered because there are other nodes (M1).
    pub(super) fn cluster_bytes(&self) -> u64 {
        let Some(cluster) = &self.cluster else { return 0 };
        let pending = cluster.pending.len() * (size_of::<(Key, Pending)>() + size_of::<(u64, Key)>());
        let reminders = cluster.reminders.capacity() * size_of::<(NodeId, NodeDigest)>();
        (pending + reminders) as u64 + cluster.home.state_bytes() + cluster.heard.state_bytes()
    }

    // ---- one trace --------------------------------------------------------------------------------------

    /// Moves a trace on as far as it can. `closing`: it was closed just now.
    fn go_on(&mut self, key: Key, closing: bool, context: &mut Context<'_>) {
        let now = context.now.instant;
        let Some((grown, quiet_at, is_due, moved)) = self.digest_state(key, now) else {
            return;
        };
        if moved || (grown && (closing || now >= quiet_at)) || is_due {
            self.send_digest(key, context);
            self.hear_home(context);
        }
        let Some(cluster) = &mut self.cluster else {
            return;
        };
        let (Some(pending), Some(trace)) = (cluster.pending.get_mut(&key), self.traces.get(key)) else {
            return;
        };
        let Some(closed) = pending.closed else { return };
        if pending.keep.is_none() {
            let ruling = context.policies.judge_open(trace.id(), trace.digest());
            let own = (ruling.verdict == Verdict::Keep).then(|| decision_of(&ruling, closed));
            let promised = self.promised.get(&trace.id()).map(|promised| Decision {
                reason: closed.reason,
                incomplete: closed.incomplete,
                ..*promised
            });
            if let Some(decision) = own.or(promised) {
                pending.keep = Some(KnownKeep {
                    decision,
                    by_home: false,
                    since: now,
                });
                cluster.keeps.push(Outbound::Announce(PeerDecision {
                    trace: trace.id(),
                    decision,
                    by_home: false,
                }));
            }
        }
        let grown = pending.sent_spans != trace.digest().span_count;
        let waits_until = match pending.keep {
            Some(keep) if keep.by_home => now,
            Some(keep) => keep.since.plus(HOME_PATIENCE),
            None => closed.at.plus(cluster.decision_wait),
        };
        if now >= waits_until {
            match pending.keep {
                Some(keep) => self.settle(key, keep.onto_data(closed.reason), context),
                None => self.settle_alone(key, closed, context),
            }
        } else if let (Some(decision), false, None) = (pending.answer, grown, pending.keep) {
            self.settle(key, decision, context);
        } else {
            let send_at = match grown {
                true => trace.last_span_at().plus(cluster.quiet),
                false => pending.sent_at.plus(cluster.quiet.saturating_mul(RESEND_QUIETS)),
            };
            // What found no way is tried again, not at once.
            let send_at = send_at.max(now.plus(cluster.quiet / 4));
            cluster.arm(key, waits_until.min(send_at));
        }
    }

    /// Whether its digest has grown since it was sent; when it is to be sent if so; whether it is to be sent again;
    /// whether its home is another one.
    fn digest_state(&self, key: Key, now: Instant) -> Option<(bool, Instant, bool, bool)> {
        let cluster = self.cluster.as_ref()?;
        let (pending, trace) = (cluster.pending.get(&key)?, self.traces.get(key)?);
        let kept_by_home = pending.keep.is_some_and(|keep| keep.by_home);
        let by_trace_id = cluster.options.spans_arrive == SpansArrive::ByTraceId;
        if kept_by_home || by_trace_id {
            return Some((false, now, false, false));
        }
        let grown = pending.sent_spans != trace.digest().span_count;
        let quiet_at = trace.last_span_at().plus(cluster.quiet);
        let resend_at = pending.sent_at.plus(cluster.quiet.saturating_mul(RESEND_QUIETS));
        let is_due = !grown && pending.answer.is_none() && now >= resend_at;
        let moved = pending.sent_to.is_some() && pending.sent_to != cluster.home_of(&trace.id());
        Some((grown, quiet_at, is_due, moved))
    }

    fn send_digest(&mut self, key: Key, context: &mut Context<'_>) {
        let now = context.now;
        let Some(cluster) = &mut self.cluster else {
            return;
        };
        let Some(trace) = self.traces.get(key) else {
            return;
        };
        let Some(home) = cluster.home_of(&trace.id()) else {
            return;
        };
        let own = cluster.options.own;
        if home != own && cluster.is_full() {
            return;
        }
        let pending = cluster.pending.entry(key).or_insert(Pending::NEW);
        let spans = trace.digest().span_count;
        if pending.sent_spans != spans || pending.sent_to != Some(home) {
            // The clock lets versions rise over a restart.
            let clock = (now.wall.0 / 1_000_000) as u32;
            let next = pending.version.wrapping_add(1);
            let is_first = pending.sent_to.is_none();
            pending.version = if is_first || is_newer(clock, next) {
                clock
            } else {
                next
            };
            pending.answer = None;
        }
        pending.sent_spans = spans;
        pending.sent_at = now.instant;
        pending.sent_to = Some(home);
        let digest = NodeDigest {
            trace: trace.id(),
            digest: *trace.digest(),
            unknown: PredicateSet::NONE,
            version: pending.version,
            closed: pending.closed.is_some(),
        };
        if home == own {
            cluster
                .home
                .absorb(now, own, &digest, context.policies, &mut cluster.words);
        } else {
            context.stats.traces.digests_sent += 1;
            cluster.outbound.push_back(Outbound::Digest(home, digest));
        }
    }

    /// A home that is new to a trace knows nothing of those who were answered before: what this node has dropped of it
    /// not long ago is told again. The answer changes nothing here unless it is a Keep.
    fn remind_homes(&mut self, now: Now, is_new: impl Fn(&Members, &TraceId) -> bool) {
        let Some(cluster) = &mut self.cluster else {
            return;
        };
        let Some(members) = cluster.members.clone() else {
            return;
        };
        if cluster.options.spans_arrive == SpansArrive::ByTraceId || !members.has_peers() {
            return;
        }
        let wait = cluster.decision_wait;
        let is_young = |decided: &&DecidedTrace| now.wall <= decided.decided_at.plus(wait);
        let reminders = self.recent.iter().filter(is_young);
        let reminders = reminders
            .filter(|decided| decided.decision.verdict != Verdict::Keep && is_new(&members, &decided.trace));
        for decided in reminders.take(REMINDERS_MAX) {
            let digest = NodeDigest {
                trace: decided.trace,
                digest: decided.digest.merge(decided.late),
                unknown: PredicateSet::NONE,
                version: 0,
                closed: true,
            };
            cluster.reminders.push((members.home(&decided.trace), digest));
        }
    }

    /// Some of the reminders, as there is room.
    fn remind(&mut self, context: &mut Context<'_>) {
        let Some(cluster) = &mut self.cluster else {
            return;
        };
        for _ in 0..DUE_COUNT_MAX {
            if cluster.is_full() {
                return;
            }
            let Some((home, mut digest)) = cluster.reminders.pop() else {
                return;
            };
            // Later than all that was said of the trace before it was dropped.
            digest.version = (context.now.wall.0 / 1_000_000) as u32;
            if home == cluster.options.own {
                let own = cluster.options.own;
                cluster
                    .home
                    .absorb(context.now, own, &digest, context.policies, &mut cluster.words);
            } else {
                context.stats.traces.digests_sent += 1;
                cluster.outbound.push_back(Outbound::Digest(home, digest));
            }
        }
    }

    /// Gives what this core's home said to whom it is for.
    fn hear_home(&mut self, context: &mut Context<'_>) {
        loop {
            let Some(cluster) = &mut self.cluster else {
                return;
            };
            if cluster.words.is_empty() {
                return;
            }
            let own = cluster.options.own;
            for word in std::mem::take(&mut cluster.words) {
                let Some(cluster) = &mut self.cluster else {
                    return;
                };
                match word {
                    Word::Keep(keep) => {
                        cluster.keeps.push(Outbound::Announce(keep));
                        self.hear_keep(keep, context);
                    }
                    Word::Answer(node, version, answer) if node == own => {
                        self.hear_answer(version, answer, context);
                    }
                    Word::Answer(node, version, answer) if !cluster.is_full() => {
                        let told = Outbound::Answer(node, version, answer);
                        match answer.decision.verdict {
                            Verdict::Keep => cluster.keeps.push(told),
                            _ => cluster.outbound.push_back(told),
                        }
                    }
                    // It will be asked for again.
                    Word::Answer(..) => {}
                }
            }
        }
    }

    /// A Keep of somebody. It is acted upon by the wheel, or when the trace is closed.
    fn hear_keep(&mut self, keep: PeerDecision, context: &mut Context<'_>) {
        let PeerDecision {
            trace: id,
            decision,
            by_home,
        } = keep;
        if decision.verdict != Verdict::Keep {
            return;
        }
        let hash = self.options.hash_key.trace(&id);
        let now = context.now.instant;
        let key = self.find(hash, &id);
        let Some(cluster) = &mut self.cluster else {
            return;
        };
        if let Some(key) = key {
            let pending = cluster.pending.entry(key).or_insert(Pending::NEW);
            pending.learn(KnownKeep {
                decision,
                by_home,
                since: now,
            });
            if pending.closed.is_some() {
                cluster.arm(key, now);
            }
            return;
        }
        if by_home {
            cluster.heard.take(&id);
        }
        match self.decided.get(hash, &id) {
            Some(known) if known.verdict == Verdict::Keep => {
                if by_home {
                    self.decided.rename(hash, &id, decision);
                }
            }
            Some(_) => self.want_raised(keep),
            None if by_home => self.decided.insert(hash, id, decision),
            None => {
                if let Some((id, decision)) = cluster.heard.insert(id, decision, now) {
                    self.decided
                        .insert(self.options.hash_key.trace(&id), id, decision);
                }
            }
        }
    }

    /// A trace that was dropped here is kept elsewhere.
    fn want_raised(&mut self, keep: PeerDecision) {
        let Some(cluster) = &mut self.cluster else {
            return;
        };
        if cluster.wanted.len() < OUTBOUND_MAX && cluster.wanted.insert(keep.trace) {
            cluster.raised.push(keep);
        }
    }

    /// A trace that had been dropped is kept; the cluster is told, unless it was the cluster that said so.
    pub(super) fn tell_raised(&mut self, trace: TraceId, decision: Decision) {
        let Some(cluster) = &mut self.cluster else {
            return;
        };
        if !cluster.wanted.remove(&trace) {
            let decision = Decision {
                upgraded: false,
                ..decision
            };
            cluster.keeps.push(Outbound::Announce(PeerDecision {
                trace,
                decision,
                by_home: false,
            }));
        }
    }

    /// Takes back what could not be raised now.
    pub fn want_again(&mut self, keep: PeerDecision) {
        if let Some(cluster) = &mut self.cluster {
            cluster.raised.push(keep);
        }
    }

    /// A decision about the digest with this version.
    fn hear_answer(&mut self, version: u32, answer: PeerDecision, context: &mut Context<'_>) {
        if answer.decision.verdict == Verdict::Keep {
            self.hear_keep(answer, context);
            return;
        }
        let hash = self.options.hash_key.trace(&answer.trace);
        let key = self.find(hash, &answer.trace);
        let (Some(cluster), Some(key)) = (&mut self.cluster, key) else {
            return;
        };
        let Some(pending) = cluster.pending.get_mut(&key) else {
            return;
        };
        if pending.version == version && pending.sent_to.is_some() {
            pending.answer = Some(answer.decision);
            if pending.closed.is_some() {
                cluster.arm(key, context.now.instant);
            }
        }
    }

    fn settle_alone(&mut self, key: Key, closed: Closed, context: &mut Context<'_>) {
        let Some(trace) = self.traces.get(key) else { return };
        let ruling = context.policies.judge_closed(trace.id(), trace.digest());
        let decision = decision_of(&ruling, closed);
        let id = trace.id();
        let decision = self.decide_alone(key, id, decision, context.stats);
        self.settle(key, decision, context);
    }

    fn settle(&mut self, key: Key, decision: Decision, context: &mut Context<'_>) {
        let Some(trace) = self.remove(key) else { return };
        if let Some(cluster) = &mut self.cluster {
            cluster.pending.remove(&key);
            cluster.wanted.remove(&trace.id());
        }
        let decision = self.redeem(trace.id(), decision);
        let own = context.policies.judge_closed(trace.id(), trace.digest());
        let count = context.policies.policies().len();
        let policy = decision.policy.filter(|policy| usize::from(policy.0) < count);
        let ruling = Ruling {
            verdict: decision.verdict,
            policy: policy.map(|policy| PolicyIndex(policy.0)),
            threshold: decision.threshold,
            matched: own.matched,
        };
        self.count_decision(context.now, &trace, &ruling, decision, context.stats);
        self.remember(context.now, &trace, decision);
        context.out.extend(trace.into_settlements(decision, false));
    }
}

impl Cluster {
    /// All that can be known of a trace of this node is known here.
    fn is_alone(&self) -> bool {
        let nobody_else = || self.members.as_ref().is_some_and(|members| !members.has_peers());
        self.options.spans_arrive == SpansArrive::ByTraceId || nobody_else()
    }

    fn is_full(&self) -> bool {
        self.outbound.len() >= OUTBOUND_MAX || self.keeps.len() >= OUTBOUND_MAX
    }

    fn home_of(&self, id: &TraceId) -> Option<NodeId> {
        self.members.as_ref().map(|members| members.home(id))
    }

    fn arm(&mut self, key: Key, due: Instant) {
        if let Some(pending) = self.pending.get_mut(&key)
            && due < pending.armed
        {
            pending.armed = due;
            self.wheel.arm(due, key);
        }
    }

    /// The node has nothing of what it was sent.
    fn send_again(&mut self, node: NodeId) {
        for (key, pending) in &mut self.pending {
            if pending.sent_to == Some(node) && pending.answer.is_none() {
                pending.sent_at = Instant(0);
                self.moved.push(*key);
            }
        }
        self.moved.sort_unstable_by_key(|key| key.slot());
        self.moved.dedup();
    }

    /// Returns who was there before, if that has changed.
    fn set_members(&mut self, members: Members) -> Option<Members> {
        if self.members.as_ref() == Some(&members) {
            return None;
        }
        let own = self.options.own;
        self.home.retain(|id| members.home(id) == own);
        let before = self.members.replace(members);
        self.moved = self.pending.keys().copied().collect();
        self.moved.sort_unstable_by_key(|key| key.slot());
        before
    }
}

impl KnownKeep {
    /// What the spans get: all of it from the home; without the home nobody knows how often such a trace is kept.
    fn onto_data(self, reason: Reason) -> Decision {
        match self.by_home {
            true => self.decision,
            false => Decision {
                reason,
                threshold: None,
                ..self.decision
            },
        }
    }
}

fn decision_of(ruling: &Ruling, closed: Closed) -> Decision {
    Decision {
        verdict: ruling.verdict,
        reason: closed.reason,
        policy: ruling.policy.map(|policy| PolicyNumber(policy.0)),
        threshold: ruling.threshold,
        incomplete: closed.incomplete,
        upgraded: false,
    }
}
