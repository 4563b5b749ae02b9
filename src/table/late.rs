//! What changes about a trace after its verdict: late spans that would have kept it, and others that want it kept.
//!
//! ```text
//!  late span of a dropped trace
//!    ├─ its trace is among the last decisions: judge what is known of it ──Keep──→ certain
//!    └─ else: can this span make a keep rule rise? ───────────────────────yes──→ to be folded again from the log
//! ```
//!
//! Both are candidates; what becomes of them needs the logs, and so is the shard's.

use super::Table;
use super::recent::DecidedTrace;
use crate::base::ids::{Place, TraceId};
use crate::base::monoid::Monoid;
use crate::base::time::Now;
use crate::digest::Digest;
use crate::policy::{PolicySet, Ruling};
use crate::route::{Decision, PolicyNumber};
use crate::stats::Stats;
use crate::verdict::Verdict;
use std::time::Duration;

/// Candidates that wait for the shard.
const CANDIDATES_MAX: usize = 256;

/// A dropped trace that a late span may have made one to keep.
#[derive(Clone, Copy, Debug)]
pub struct LateCandidate {
    pub trace: TraceId,
    /// What was decided about it.
    pub dropped: Decision,
    pub evidence: LateEvidence,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LateEvidence {
    /// All its spans are known, and with them it is one to keep.
    Certain(Decision),
    /// The late spans by themselves match something.
    Likely,
    /// Some rule asks how long or how large a trace is.
    Possible,
}

impl Table {
    /// Counts late spans and looks whether they change anything.
    pub(super) fn note_late(
        &mut self,
        now: Now,
        (trace, digest): (TraceId, &Digest),
        dropped: Decision,
        places: &[Place],
        policies: &PolicySet,
        stats: &mut Stats,
    ) {
        stats.late_spans[dropped.verdict as usize] += u64::from(digest.span_count);
        let mut dropped = dropped;
        let known = self.recent.get_mut(&trace).map(|decided| {
            let age = now.wall.0.saturating_sub(decided.decided_at.0);
            stats.late_span_age.record(Duration::from_nanos(age));
            decided.add_late(*digest, places);
            // It knows more of it than the cache.
            dropped = decided.decision;
            decided
                .is_known_whole()
                .then(|| decided.digest.merge(decided.late))
        });
        if dropped.verdict == Verdict::Keep {
            return;
        }
        let evidence = match known.flatten() {
            Some(digest) => {
                let ruling = policies.judge_again(trace, &digest, dropped.verdict);
                (ruling.verdict == Verdict::Keep).then(|| LateEvidence::Certain(upgrade_by(&ruling, dropped)))
            }
            None => policies
                .may_raise(trace, digest)
                .map(|by_itself| match by_itself {
                    true => LateEvidence::Likely,
                    false => LateEvidence::Possible,
                }),
        };
        let Some(evidence) = evidence else { return };
        if self.candidates.len() >= CANDIDATES_MAX {
            stats.traces.upgrades_skipped += 1;
            return;
        }
        self.candidates.push(LateCandidate {
            trace,
            dropped,
            evidence,
        });
    }

    /// Since the last call.
    pub fn take_late_candidates(&mut self) -> Vec<LateCandidate> {
        std::mem::take(&mut self.candidates)
    }

    /// From now on the verdict of a trace that is not open is this Keep (V1). Late spans follow it.
    pub fn raise(&mut self, now: Now, trace: TraceId, decision: Decision, stats: &mut Stats) {
        assert_eq!(
            decision.verdict,
            Verdict::Keep,
            "V1: only Keep is above what was decided"
        );
        self.decided
            .insert(self.options.hash_key.trace(&trace), trace, decision);
        stats.traces.upgraded += 1;
        self.tell_raised(trace, decision);
        if let Some(decided) = self.recent.get_mut(&trace) {
            decided.decision = decision;
            decided.decided_at = now.wall;
        }
    }

    /// When this open trace closes it is kept, whatever the policies say. If they keep it too, they are what is recorded.
    pub fn promise(&mut self, trace: TraceId, decision: Decision) {
        self.promised.insert(trace, decision);
    }

    pub fn is_promised(&self, trace: &TraceId) -> bool {
        self.promised.contains_key(trace)
    }

    /// Promised traces that have been closed since the last call.
    pub fn take_kept_promises(&mut self) -> Vec<TraceId> {
        std::mem::take(&mut self.kept_promises)
    }

    /// What was promised about a trace that is about to be decided so.
    pub(super) fn redeem(&mut self, trace: TraceId, judged: Decision) -> Decision {
        let Some(promised) = self.promised.remove(&trace) else {
            return judged;
        };
        self.kept_promises.push(trace);
        match judged.verdict {
            Verdict::Keep => judged,
            Verdict::Pending | Verdict::Rollup | Verdict::Deny => Decision {
                verdict: Verdict::Keep,
                policy: promised.policy,
                threshold: promised.threshold,
                ..judged
            },
        }
    }
}

/// What a dropped trace becomes by a ruling over all its spans.
pub fn upgrade_by(ruling: &Ruling, dropped: Decision) -> Decision {
    Decision {
        verdict: ruling.verdict,
        policy: ruling.policy.map(|policy| PolicyNumber(policy.0)),
        threshold: ruling.threshold,
        upgraded: true,
        ..dropped
    }
}

impl DecidedTrace {
    fn is_known_whole(&self) -> bool {
        !self.is_replayed
    }
}
