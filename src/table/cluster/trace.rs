//! One trace of a cluster's node: from its close to its settlement.
//!
//! A digest goes out whenever the fragment has grown; what is known of the trace elsewhere decides when and as what it
//! is settled.

use super::super::{Table, Trace};
use super::{Closed, Context, HOME_PATIENCE, KnownKeep, Pending, RESEND_QUIETS};
use crate::base::slab::Key;
use crate::base::time::Instant;
use crate::digest::PredicateSet;
use crate::gossip::{NodeDigest, Outbound, PeerDecision, SpansArrive, is_newer};
use crate::policy::quota::PATIENCE;
use crate::policy::{PolicyIndex, QuotaAnswers, Ruling};
use crate::route::{Decision, PolicyNumber};
use crate::verdict::Verdict;

impl Table {
    /// Moves a trace on as far as it can. `closing`: it was closed just now.
    pub(in crate::table) fn go_on(&mut self, key: Key, closing: bool, context: &mut Context<'_>) {
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
            let ruling = context.policies.judge_open(trace.id(), &trace.digest());
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
                Some(keep) => self.settle(key, keep.onto_data(closed.reason), QuotaAnswers::NONE, context),
                None => self.settle_alone(key, closed, context),
            }
        } else if let (Some(decision), false, None) = (pending.answer, grown, pending.keep) {
            self.settle(key, decision, QuotaAnswers::NONE, context);
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
    pub(super) fn digest_state(&self, key: Key, now: Instant) -> Option<(bool, Instant, bool, bool)> {
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

    pub(super) fn send_digest(&mut self, key: Key, context: &mut Context<'_>) {
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
            digest: trace.digest(),
            unknown: PredicateSet::NONE,
            version: pending.version,
        };
        if home == own {
            self.at_home(context, |home, bench, words| {
                home.absorb(now, own, &digest, bench, words);
            });
        } else {
            context.stats.traces.digests_sent += 1;
            cluster.outbound.push_back(Outbound::Digest(home, digest));
        }
    }

    pub(super) fn settle_alone(&mut self, key: Key, closed: Closed, context: &mut Context<'_>) {
        let Some(id) = self.traces.get(key).map(Trace::id) else {
            return;
        };
        let asked = self.judge_asking(context.now, key, closed.reason, context.policies, context.stats);
        let Some((ruling, quotas)) = asked else {
            if let Some(cluster) = &mut self.cluster {
                cluster.arm(key, context.now.instant.plus(PATIENCE));
            }
            return;
        };
        let decision = decision_of(&ruling, closed);
        let decision = self.decide_alone(key, id, decision, context.stats);
        self.settle(key, decision, quotas, context);
    }

    pub(super) fn settle(
        &mut self,
        key: Key,
        decision: Decision,
        quotas: QuotaAnswers,
        context: &mut Context<'_>,
    ) {
        let Some(trace) = self.remove(key) else { return };
        if let Some(cluster) = &mut self.cluster {
            cluster.pending.remove(&key);
            cluster.wanted.remove(&trace.id());
        }
        let quotas = match quotas.is_none() {
            true => self.quotas_at_home(&trace.id()),
            false => quotas,
        };
        let decision = self.redeem(trace.id(), decision);
        let own = context.policies.judge_closed(trace.id(), &trace.digest());
        let count = context.policies.policies().len();
        let policy = decision.policy.filter(|policy| usize::from(policy.0) < count);
        let policy = policy.map(|policy| PolicyIndex(policy.0));
        let mut matched = own.matched;
        if let Some(policy) = policy {
            matched.insert(policy);
        }
        let ruling = Ruling {
            verdict: decision.verdict,
            policy,
            threshold: decision.threshold,
            matched,
        };
        self.count_decision(context.now, &trace, &ruling, decision, context.stats);
        self.remember(context.now, &trace, decision, quotas);
        context.out.extend(trace.into_settlements(decision, false));
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
