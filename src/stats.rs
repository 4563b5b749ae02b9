//! Plain counters of one core, merged when somebody reads them.
//!
//! Counting is `+= 1` on memory that nobody else touches; names, labels and formats are given by whoever
//! reports (`io/admin`). The ledger (C1): with no request in flight,
//! `accepted + resumed + upgraded = kept + rolled_up + denied + lost + pending`.

mod histogram;

pub use histogram::Histogram;

use crate::digest::Digest;
use crate::policy::{Answer, PolicyIndex, Ruling};
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

/// Why items were acknowledged and lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ItemLoss {
    /// `overload: sample`: of a share of all traces nothing was taken.
    OverloadSampled = 0,
}

impl ItemLoss {
    pub const ALL: [ItemLoss; 1] = [ItemLoss::OverloadSampled];

    pub fn name(self) -> &'static str {
        match self {
            ItemLoss::OverloadSampled => "overload_sampled",
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
    /// By [`ItemLoss`].
    pub lost: [u64; 1],
}

impl Ledger {
    pub fn accepted_total(&self) -> u64 {
        self.accepted.iter().sum()
    }

    fn merge(&mut self, other: &Ledger) {
        add_all(&mut self.accepted, &other.accepted);
        self.resumed += other.resumed;
        self.upgraded += other.upgraded;
        add_all(&mut self.decided, &other.decided);
        add_all(&mut self.lost, &other.lost);
    }

    pub fn lost_total(&self) -> u64 {
        self.lost.iter().sum()
    }

    /// What the ledger of a node says is still undecided; must equal the table's count (C1).
    pub fn pending(&self) -> u64 {
        let entered = self.accepted_total() + self.resumed + self.upgraded;
        // Cores are asked one after another: a decision may be counted before the arrival.
        entered.saturating_sub(self.decided.iter().sum::<u64>() + self.lost_total())
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
    /// By what this node has of them, since their home did not answer.
    pub judged_alone: u64,
    /// Sent to the homes of traces.
    pub digests_sent: u64,
    /// Dropped and kept later.
    pub upgraded: u64,
    /// Dropped, and late spans may have made them ones to keep, but too many were looked at already.
    pub upgrades_skipped: u64,
}

impl TraceCounts {
    fn merge(&mut self, other: &TraceCounts) {
        self.opened += other.opened;
        self.resumed += other.resumed;
        self.closed
            .iter_mut()
            .zip(&other.closed)
            .for_each(|(mine, theirs)| add_all(mine, theirs));
        add_all(&mut self.decided, &other.decided);
        add_all(&mut self.with_error, &other.with_error);
        self.incomplete += other.incomplete;
        add_all(&mut self.forced, &other.forced);
        self.judged_alone += other.judged_alone;
        self.digests_sent += other.digests_sent;
        self.upgraded += other.upgraded;
        self.upgrades_skipped += other.upgrades_skipped;
    }
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
    pub quota: QuotaCounts,
}

/// What the quotas of one policy said.
#[derive(Clone, Copy, Debug, Default)]
pub struct QuotaCounts {
    /// Traces.
    pub granted: u64,
    pub refused: u64,
    /// Refused because no ledger answered in time.
    pub unanswered: u64,
    /// Spans or bytes of those that were granted.
    pub tokens: u64,
}

impl PolicyCounts {
    fn merge(&mut self, other: &PolicyCounts) {
        self.evaluated += other.evaluated;
        self.matched += other.matched;
        self.decided += other.decided;
        self.sole += other.sole;
        self.kept_spans += other.kept_spans;
        self.kept_bytes += other.kept_bytes;
        self.quota.granted += other.quota.granted;
        self.quota.refused += other.quota.refused;
        self.quota.unanswered += other.quota.unanswered;
        self.quota.tokens += other.quota.tokens;
    }
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

    fn merge(&mut self, other: &RequestCounts) {
        for (code, more) in other.iter() {
            match self.counts.iter_mut().find(|(counted, _)| *counted == code) {
                Some((_, count)) => *count += more,
                None => self.counts.push((code, more)),
            }
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

fn add_all(mine: &mut [u64], theirs: &[u64]) {
    mine.iter_mut()
        .zip(theirs)
        .for_each(|(mine, theirs)| *mine += theirs);
}

impl Stats {
    pub fn new(policy_count: usize) -> Stats {
        Stats {
            policies: vec![PolicyCounts::default(); policy_count],
            ..Stats::default()
        }
    }

    /// Adds what another core counted.
    pub fn merge(&mut self, other: &Stats) {
        let Stats {
            spans,
            refused,
            requests,
            received_wire_bytes,
            received_decoded_bytes,
            ack_latency,
            traces,
            policies,
            late_spans,
            late_span_age,
            decision_age,
            wal_sync,
            spans_not_copied,
            thresholds_unwritten,
        } = self;
        spans.merge(&other.spans);
        traces.merge(&other.traces);
        refused
            .iter_mut()
            .zip(&other.refused)
            .for_each(|(mine, theirs)| add_all(mine, theirs));
        requests
            .iter_mut()
            .zip(&other.requests)
            .for_each(|(mine, theirs)| mine.merge(theirs));
        add_all(received_wire_bytes, &other.received_wire_bytes);
        add_all(received_decoded_bytes, &other.received_decoded_bytes);
        ack_latency
            .iter_mut()
            .zip(&other.ack_latency)
            .for_each(|(mine, theirs)| mine.merge(theirs));
        policies
            .iter_mut()
            .zip(&other.policies)
            .for_each(|(mine, theirs)| mine.merge(theirs));
        add_all(late_spans, &other.late_spans);
        late_span_age.merge(&other.late_span_age);
        decision_age.merge(&other.decision_age);
        wal_sync.merge(&other.wal_sync);
        *spans_not_copied += other.spans_not_copied;
        *thresholds_unwritten += other.thresholds_unwritten;
    }

    /// Counts what a quota of a policy said of a trace that costs so much.
    pub fn count_quota(&mut self, policy: PolicyIndex, answer: Answer, amount: u64) {
        let Some(counts) = self.policies.get_mut(usize::from(policy.0)) else {
            return;
        };
        match answer {
            Answer::Granted => {
                counts.quota.granted += 1;
                counts.quota.tokens += amount;
            }
            Answer::Refused { .. } => counts.quota.refused += 1,
            Answer::Unanswered => counts.quota.unanswered += 1,
            Answer::Later(_) => {}
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
