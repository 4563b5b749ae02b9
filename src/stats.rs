//! Plain counters of one core, merged when somebody reads them.
//!
//! Counting is `+= 1` on memory that nobody else touches; names, labels and formats are given by whoever
//! reports (`io/admin`). The ledger (C1): with no request in flight,
//! `accepted + resumed + upgraded = kept + rolled_up + denied + lost + pending`.

mod histogram;

pub use histogram::Histogram;

use crate::digest::Digest;
use crate::policy::{PolicyIndex, Ruling};
use crate::verdict::Verdict;

/// How a request came in: the label `transport`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Transport {
    Grpc = 0,
    Http = 1,
}

impl Transport {
    pub const ALL: [Transport; 2] = [Transport::Grpc, Transport::Http];

    pub fn name(self) -> &'static str {
        match self {
            Transport::Grpc => "grpc",
            Transport::Http => "http",
        }
    }
}

/// Items of one signal from admission to their end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    pub accepted: [u64; 2],
    pub resumed: u64,
    pub upgraded: u64,
    /// Indexed by verdict: what was decided about items, not what was exported.
    pub decided: [u64; 4],
    pub lost: u64,
}

impl Ledger {
    pub fn accepted_total(&self) -> u64 {
        self.accepted.iter().sum()
    }

    /// What the ledger says is still undecided; must equal the table's count (C1).
    pub fn pending(&self) -> u64 {
        let entered = self.accepted_total() + self.resumed + self.upgraded;
        entered - self.decided.iter().sum::<u64>() - self.lost
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub struct TraceCounts {
    pub opened: u64,
    pub resumed: u64,
    /// By reason, then incomplete and complete.
    pub closed: [[u64; 2]; 9],
    /// By verdict.
    pub decided: [u64; 4],
    pub with_error: [u64; 4],
    pub incomplete: u64,
    /// By memory tier 1, 2, 3.
    pub forced: [u64; 3],
}

#[derive(Clone, Copy, Debug, Default)]
pub struct PolicyCounts {
    pub evaluated: u64,
    pub matched: u64,
    /// It was the one recorded.
    pub decided: u64,
    /// It was the only one that matched.
    pub sole: u64,
    pub kept_spans: u64,
    pub kept_bytes: u64,
}

/// Requests by outcome: the reply's gRPC code or HTTP status.
#[derive(Clone, Debug, Default)]
pub struct RequestCounts {
    counts: Vec<(u16, u64)>,
}

impl RequestCounts {
    pub fn count(&mut self, code: u16) {
        match self.counts.iter_mut().find(|(counted, _)| *counted == code) {
            Some((_, count)) => *count += 1,
            None => self.counts.push((code, 1)),
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = (u16, u64)> {
        self.counts.iter().copied()
    }
}

/// Why items were not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Refusal {
    /// Trace id or span id of the wrong length or all zero, or a span too large for the log.
    InvalidItem = 0,
    /// Disk full, or the log cannot be written.
    Log = 1,
    /// The memory account for what is in flight is full.
    InFlight = 2,
    /// Not ready: starting or stopping.
    NotReady = 3,
    /// A destination's queue is full, and it pushes back.
    ExporterQueue = 4,
}

impl Refusal {
    pub const ALL: [Refusal; 5] = [
        Refusal::InvalidItem,
        Refusal::Log,
        Refusal::InFlight,
        Refusal::NotReady,
        Refusal::ExporterQueue,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Refusal::InvalidItem => "invalid_item",
            Refusal::Log => "log",
            Refusal::InFlight => "in_flight",
            Refusal::NotReady => "not_ready",
            Refusal::ExporterQueue => "exporter_queue",
        }
    }
}

#[derive(Clone, Debug, Default)]
pub struct Stats {
    pub spans: Ledger,
    /// Spans by transport and refusal; requests whose spans nobody counted add one.
    pub refused: [[u64; 5]; 2],
    pub requests: [RequestCounts; 2],
    pub received_wire_bytes: [u64; 2],
    pub received_decoded_bytes: [u64; 2],
    pub ack_latency: [Histogram; 2],
    pub traces: TraceCounts,
    pub policies: Vec<PolicyCounts>,
    /// By verdict.
    pub late_spans: [u64; 4],
    pub late_span_age: Histogram,
    /// From opening to decision.
    pub decision_age: Histogram,
    /// What one fdatasync of a log took.
    pub wal_sync: Histogram,
    /// Kept spans that the disk did not give back.
    pub spans_not_copied: u64,
    /// Keep decisions whose tracestate could not carry `th` (too long or unparsable).
    pub thresholds_unwritten: u64,
}

impl Stats {
    pub fn new(policy_count: usize) -> Stats {
        Stats {
            policies: vec![PolicyCounts::default(); policy_count],
            ..Stats::default()
        }
    }

    /// Counts one evaluation of all policies.
    pub fn count_policies(&mut self, ruling: &Ruling, digest: &Digest) {
        let sole = ruling.matched.count() == 1;
        for (index, counts) in self.policies.iter_mut().enumerate() {
            counts.evaluated += 1;
            let policy = PolicyIndex(index as u16);
            if ruling.matched.contains(policy) {
                counts.matched += 1;
                counts.sole += u64::from(sole);
            }
            if ruling.policy == Some(policy) {
                counts.decided += 1;
                if ruling.verdict == Verdict::Keep {
                    counts.kept_spans += u64::from(digest.span_count);
                    counts.kept_bytes += digest.bytes;
                }
            }
        }
    }
}
