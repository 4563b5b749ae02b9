//! What was decided about a trace, and why it was closed.
//!
//! Verdicts only rise (V1): they may arrive twice, late or out of order, from this core, another core
//! or another node, and joining them in any order gives the same answer.

use crate::base::monoid::Monoid;

/// A point of the order `Pending < Rollup < Deny < Keep`; `merge` takes the higher.
///
/// Keep is the top because an export cannot be taken back. (Inside one evaluation a drop rule beats a
/// keep rule; that is settled by `policy` before a verdict exists.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(u8)]
pub enum Verdict {
    #[default]
    Pending = 0,
    /// No rule keeps it: its data live on in the rollup.
    Rollup = 1,
    /// A drop rule matched.
    Deny = 2,
    Keep = 3,
}

impl Verdict {
    pub const ALL: [Verdict; 4] = [Verdict::Pending, Verdict::Rollup, Verdict::Deny, Verdict::Keep];

    /// The word of the contract: `pending kept rolled_up denied`.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Pending => "pending",
            Verdict::Rollup => "rolled_up",
            Verdict::Deny => "denied",
            Verdict::Keep => "kept",
        }
    }

    /// From the byte of a verdict entry; `None` for a byte no version wrote.
    pub fn from_byte(byte: u8) -> Option<Verdict> {
        Verdict::ALL.get(byte as usize).copied()
    }
}

impl Monoid for Verdict {
    const EMPTY: Verdict = Verdict::Pending;

    fn merge(self, other: Verdict) -> Verdict {
        self.max(other)
    }
}

/// Why a trace was closed: a closed list, written on the data as `tailkeep.reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Reason {
    /// Root seen, every parent resolved, and quiet since; or the wait after the root is over.
    Complete = 0,
    /// Quiet for twice as long without the structure being whole.
    Quiet = 1,
    /// Older than `decision_wait`.
    Expired = 2,
    /// As many distinct spans as the trace said it would have.
    ExpectedCount = 3,
    SpanLimit = 4,
    ByteLimit = 5,
    MemoryPressure = 6,
    Shutdown = 7,
    /// A peer or the trace's home decided.
    Peer = 8,
}

impl Reason {
    pub const ALL: [Reason; 9] = [
        Reason::Complete,
        Reason::Quiet,
        Reason::Expired,
        Reason::ExpectedCount,
        Reason::SpanLimit,
        Reason::ByteLimit,
        Reason::MemoryPressure,
        Reason::Shutdown,
        Reason::Peer,
    ];

    /// The word of the contract.
    pub fn name(self) -> &'static str {
        match self {
            Reason::Complete => "complete",
            Reason::Quiet => "quiet",
            Reason::Expired => "expired",
            Reason::ExpectedCount => "expected_count",
            Reason::SpanLimit => "span_limit",
            Reason::ByteLimit => "byte_limit",
            Reason::MemoryPressure => "memory_pressure",
            Reason::Shutdown => "shutdown",
            Reason::Peer => "peer",
        }
    }

    /// From the byte of a verdict entry; `None` for a byte no version wrote.
    pub fn from_byte(byte: u8) -> Option<Reason> {
        Reason::ALL.get(byte as usize).copied()
    }
}

/// A rejection threshold T of consistent probability sampling, in 1/2⁵⁶: a trace is kept when its
/// randomness R ≥ T. Zero keeps all.
///
/// Invariant: below 2⁵⁶.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Threshold(u64);

impl Threshold {
    /// One more than the highest randomness.
    pub const LIMIT: u64 = 1 << 56;
    pub const KEEP_ALL: Threshold = Threshold(0);

    /// `None` at 2⁵⁶ and above: such a threshold would keep nothing and has no `th`.
    pub fn new(value: u64) -> Option<Threshold> {
        (value < Self::LIMIT).then_some(Threshold(value))
    }

    #[inline]
    pub fn value(self) -> u64 {
        self.0
    }

    #[inline]
    pub fn keeps(self, randomness: u64) -> bool {
        randomness >= self.0
    }
}
