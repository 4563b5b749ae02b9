//! What homes and peers say of a trace, and what a new home is reminded of.
//!
//! Whatever comes may come twice, late, or for a trace that is not there any more: only a rise acts (V1).

use super::super::{DUE_COUNT_MAX, DecidedTrace, Table};
use super::{Context, KnownKeep, OUTBOUND_MAX, Pending, REMINDERS_MAX};
use crate::base::ids::TraceId;
use crate::base::monoid::Monoid;
use crate::base::time::Now;
use crate::digest::PredicateSet;
use crate::gossip::home::Word;
use crate::gossip::{Members, NodeDigest, Outbound, PeerDecision, SpansArrive};
use crate::route::Decision;
use crate::verdict::Verdict;

impl Table {
    /// A home that is new to a trace knows nothing of those who were answered before: what this node has dropped of it
    /// not long ago is told again. The answer changes nothing here unless it is a Keep.
    pub(super) fn remind_homes(&mut self, now: Now, is_new: impl Fn(&Members, &TraceId) -> bool) {
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
            };
            cluster.reminders.push((members.home(&decided.trace), digest));
        }
    }

    /// Some of the reminders, as there is room.
    pub(super) fn remind(&mut self, context: &mut Context<'_>) {
        for _ in 0..DUE_COUNT_MAX {
            let Some(cluster) = &mut self.cluster else {
                return;
            };
            if cluster.is_full() {
                return;
            }
            let Some((home, mut digest)) = cluster.reminders.pop() else {
                return;
            };
            // Later than all that was said of the trace before it was dropped.
            digest.version = (context.now.wall.0 / 1_000_000) as u32;
            if home == cluster.options.own {
                let (own, now) = (cluster.options.own, context.now);
                self.at_home(context, |home, bench, words| {
                    home.absorb(now, own, &digest, bench, words);
                });
            } else {
                context.stats.traces.digests_sent += 1;
                cluster.outbound.push_back(Outbound::Digest(home, digest));
            }
        }
    }

    /// Gives what this core's home said to whom it is for.
    pub(in crate::table) fn hear_home(&mut self, context: &mut Context<'_>) {
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
    pub(super) fn hear_keep(&mut self, keep: PeerDecision, context: &mut Context<'_>) {
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
            Some(_) => context.stats.traces.upgrades_skipped += u64::from(!self.want_raised(keep)),
            None if by_home => self.decided.insert(hash, id, decision),
            None => {
                if let Some((id, decision)) = cluster.heard.insert(id, decision, now) {
                    self.decided
                        .insert(self.options.hash_key.trace(&id), id, decision);
                }
            }
        }
    }

    /// A trace that was dropped here is kept elsewhere; `false`: too many such wait already.
    pub(in crate::table) fn want_raised(&mut self, keep: PeerDecision) -> bool {
        let Some(cluster) = &mut self.cluster else {
            return true;
        };
        if cluster.wanted.contains(&keep.trace) {
            return true;
        }
        let has_room = cluster.wanted.len() < OUTBOUND_MAX;
        if has_room {
            cluster.wanted.insert(keep.trace);
            cluster.raised.push(keep);
        }
        has_room
    }

    /// A trace that had been dropped is kept; the cluster is told, unless it was the cluster that said so.
    pub(in crate::table) fn tell_raised(&mut self, trace: TraceId, decision: Decision) {
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
    pub(super) fn hear_answer(&mut self, version: u32, answer: PeerDecision, context: &mut Context<'_>) {
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
}
