//! Decisions that the replay of a log finds, on their way to the owners of their traces.

use super::cache::CompactDecision;
use super::recent::DecidedTrace;
use crate::base::ids::TraceId;
use crate::base::time::WallTime;
use crate::gossip::PeerDecision;
use crate::route::{Decision, HashKey};

/// What one log says of one decision.
#[derive(Clone, Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "a start has a few thousand of them at a time, mostly large ones"
)]
pub enum FoundDecision {
    /// A verdict that was folded, and what it settled in this log.
    Verdict {
        trace: TraceId,
        decision: Decision,
        late: bool,
        seen: Option<DecidedTrace>,
    },
    /// A Keep that the cluster was or was to be told. It settled nothing.
    Announced { keep: PeerDecision, logged_at: WallTime },
    /// Carried along from a segment that is gone or needs no folding: older than all verdicts that are folded.
    CarriedDrop(CompactDecision),
    CarriedKeep {
        compact: CompactDecision,
        trace: TraceId,
        decision: Decision,
        /// At the latest, if that is known.
        decided_at: Option<WallTime>,
    },
}

impl FoundDecision {
    /// What names the owner of its trace ([`crate::route::owner`]).
    pub fn hash(&self, hash_key: HashKey) -> u64 {
        match self {
            FoundDecision::Verdict { trace, .. } | FoundDecision::CarriedKeep { trace, .. } => {
                hash_key.trace(trace)
            }
            FoundDecision::Announced { keep, .. } => hash_key.trace(&keep.trace),
            FoundDecision::CarriedDrop(compact) => compact.hash(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::time::{Instant, Now};
    use crate::completion::CompletionOptions;
    use crate::gossip::{NodeId, SpansArrive};
    use crate::table::{ClusterOptions, Table, TableOptions};
    use crate::verdict::{Reason, Verdict};
    use std::time::Duration;

    const KEY: HashKey = HashKey([1, 2]);

    fn table(now: Now) -> Table {
        let options = TableOptions {
            completion: CompletionOptions {
                decision_wait: Duration::from_secs(30),
                after_root: None,
                structural: true,
                quiet: Duration::from_secs(1),
                spans_max: 1000,
                bytes_max: 0,
                use_expected_count: true,
            },
            hash_key: KEY,
            state_bytes_max: 1 << 20,
            kept_count_max: 100,
            decided_count_max: 100,
        };
        let cluster = ClusterOptions {
            own: NodeId(1),
            spans_arrive: SpansArrive::Anywhere,
        };
        Table::new(options, now).in_cluster(cluster, now)
    }

    /// A node that was away while the Keep was announced hears of it only so.
    #[test]
    fn a_keep_that_was_carried_along_is_announced_again_while_it_is_young() {
        let second = 1_000_000_000;
        let now = Now {
            instant: Instant(1),
            wall: WallTime(1_000 * second),
        };
        let trace = TraceId::new(&[7; 16]).expect("not zero");
        let decision = Decision {
            verdict: Verdict::Keep,
            reason: Reason::Quiet,
            policy: None,
            threshold: None,
            incomplete: false,
            upgraded: false,
        };
        let young = Some(WallTime(970 * second));
        let old = Some(WallTime(800 * second));
        for (decided_at, count) in [(young, 1), (old, 0), (None, 0)] {
            let mut table = table(now);
            table.remember_replayed(FoundDecision::CarriedKeep {
                compact: CompactDecision::new(KEY.trace(&trace), &decision),
                trace,
                decision,
                decided_at,
            });
            assert_eq!(table.take_resumed_keeps().len(), count, "{decided_at:?}");
        }
    }

    /// Its node ended when the Keep was in the log and the wish to follow it was not; logs are read in any order.
    #[test]
    fn an_announced_keep_does_not_settle_what_had_been_dropped() {
        let now = Now {
            instant: Instant(1),
            wall: WallTime(1_000_000_000_000),
        };
        let trace = TraceId::new(&[7; 16]).expect("not zero");
        let decision = |verdict| Decision {
            verdict,
            reason: Reason::Quiet,
            policy: None,
            threshold: None,
            incomplete: false,
            upgraded: false,
        };
        let keep = PeerDecision {
            trace,
            decision: decision(Verdict::Keep),
            by_home: true,
        };
        let announced = FoundDecision::Announced {
            keep,
            logged_at: now.wall,
        };
        let verdict = |verdict| FoundDecision::Verdict {
            trace,
            decision: decision(verdict),
            late: false,
            seen: None,
        };
        let check = |found: &[&FoundDecision], expected: Verdict, raised: &[PeerDecision]| {
            let mut table = table(now);
            found
                .iter()
                .for_each(|found| table.remember_replayed((*found).clone()));
            table.end_replay();
            let known = table.decided(&trace).map(|known| known.verdict);
            assert_eq!(known, Some(expected), "{found:?}");
            assert_eq!(table.take_raised(), raised, "{found:?}");
            assert_eq!(table.take_resumed_keeps(), [keep], "{found:?}");
        };
        let (dropped, kept) = (verdict(Verdict::Rollup), verdict(Verdict::Keep));
        check(&[&announced], Verdict::Keep, &[]);
        check(&[&dropped, &announced], Verdict::Rollup, &[keep]);
        check(&[&announced, &dropped], Verdict::Rollup, &[keep]);
        // The wish was written.
        check(&[&dropped, &announced, &kept], Verdict::Keep, &[]);
    }
}
