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

mod bench; // quotas, at the home and among nodes
mod hear; // what homes and peers say of a trace, and what they are reminded of
mod trace; // one trace, from its close to its settlement

use super::heard::Heard;
use super::{DUE_COUNT_MAX, Table};
use crate::base::ids::TraceId;
use crate::base::slab::Key;
use crate::base::time::{Instant, Now, WallTime};
use crate::base::wheel::Wheel;
use crate::completion::Completion;
use crate::gossip::home::{Home, HomeOptions, Word};
use crate::gossip::{Inbound, Members, NodeDigest, NodeId, Outbound, PeerDecision, SpansArrive};
use crate::policy::PolicySet;
use crate::route::{Decision, Settlement};
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
                self.at_home(&mut context, |home, bench, words| {
                    home.handle_keep(now, &keep, bench, words);
                });
                self.hear_keep(keep, &mut context);
            }
            // One that finds no room is sent again.
            Inbound::Digest(..) if cluster.is_full() => {}
            Inbound::Digest(from, digest) => {
                self.at_home(&mut context, |home, bench, words| {
                    home.absorb(now, from, &digest, bench, words);
                });
            }
            Inbound::Answer(version, answer) => self.hear_answer(version, answer, &mut context),
            Inbound::Members(members) => {
                let is_first = cluster.members.is_none();
                let company = bench::company_of(&members);
                let before = cluster.set_members(members);
                self.quotas.set_company(now.instant, company);
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
            Inbound::Leasing(leasing) => self.quotas.handle(now.instant, leasing),
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
        self.at_home(context, |home, bench, words| {
            home.handle_timeout(now, bench, words)
        });
        let Some(cluster) = &mut self.cluster else {
            return;
        };
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

    /// Something else for another node. While there is no room it is lost, as on the way.
    pub fn send(&mut self, outbound: Outbound) {
        if let Some(cluster) = self.cluster.as_mut().filter(|cluster| !cluster.is_full()) {
            cluster.outbound.push_back(outbound);
        }
    }

    /// A digest, an answer, or a lease.
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
