//! What one core tells another.
//!
//! ```text
//!  start:    Decided*  Adopt*  Upgrades*  Replayed      each core to every other, in this order
//!  then:     Items →    ← Settled            landing core to owner, owner to landing core
//!            Asked →    ← Answered           copying forward, a piece of one log at a time
//!            ← Search   Searched →           owner to the keepers of all logs, and back
//!            Leasing                         judges of quotas and their ledgers, both ways
//! ```
//!
//! Both kinds are credit: so many items and settlements are on their way between two cores at most, until the
//! other end counts them back. A core that lacks credit for items refuses requests; one that lacks credit for
//! settlements decides nothing and leaves items waiting. `Settled` itself is always taken at once, whatever its
//! receiver lacks, so that no two cores can wait for each other.

use crate::base::ids::{LogId, TraceId};
use crate::landing::forward::{Answer, Question};
use crate::landing::{Searched, Wanted};
use crate::policy::quota::Leasing;
use crate::route::{Decision, ItemBatch, Settlement};
use crate::table::{FoundDecision, Trace};

#[derive(Debug)]
pub enum Message {
    /// Decisions that stand in a log, for the owners of their traces.
    Decided(Vec<FoundDecision>),
    /// What a log holds of traces without a verdict, for their owners.
    Adopt(Vec<Trace>),
    /// Traces that a log says are to be kept after all, for their owners.
    Upgrades(Vec<(TraceId, Decision)>),
    /// All of the sender's logs are replayed.
    Replayed,
    Items(ItemBatch),
    Settled {
        settlements: Vec<Settlement>,
        /// Credit given back for items, and for settlements that came the other way.
        items_absorbed: usize,
        settlements_taken: usize,
    },
    /// About places in a log of the sender.
    Asked {
        log: LogId,
        questions: Vec<Question>,
    },
    /// Goes out behind all settlements that were given before.
    Answered {
        log: LogId,
        answers: Vec<Answer>,
    },
    /// Look for a trace in the receiver's logs. So many are under way from one core as it allows itself.
    Search {
        number: u64,
        trace: TraceId,
        wanted: Wanted,
    },
    Searched(Searched),
    /// One request and one answer of each quota at a time.
    Leasing(Vec<Leasing>),
}
