//! Decisions that the replay of a log finds, on their way to the owners of their traces.

use super::cache::CompactDecision;
use super::recent::DecidedTrace;
use crate::base::ids::TraceId;
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
    /// Carried along from a segment that is gone or needs no folding: older than all verdicts that are folded.
    CarriedDrop(CompactDecision),
    CarriedKeep {
        compact: CompactDecision,
        trace: TraceId,
        decision: Decision,
    },
}

impl FoundDecision {
    /// What names the owner of its trace ([`crate::route::owner`]).
    pub fn hash(&self, hash_key: HashKey) -> u64 {
        match self {
            FoundDecision::Verdict { trace, .. } | FoundDecision::CarriedKeep { trace, .. } => {
                hash_key.trace(trace)
            }
            FoundDecision::CarriedDrop(compact) => compact.hash(),
        }
    }
}
