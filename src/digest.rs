//! What a trace has shown so far, in a small fixed-size `Copy` value.
//!
//! ```text
//!  span ─fold→ digest ┐
//!  span ─fold→ digest ┼─merge→ digest of the trace ─judge→ verdict
//!  span ─fold→ digest ┘
//! ```
//!
//! Absorbing a span *is* merging its one-span digest; there is no other update path. A new policy adds a
//! predicate bit, not a field here. D1 (merge is a commutative monoid) and D2 (the digest of spans that
//! were split anyhow is the merge of the digests of the parts) hold because every field is a sum, a
//! maximum, a minimum or a union; `tests/laws.rs` checks both.

use crate::base::monoid::Monoid;

/// Predicates of one configuration at most; one more is refused at load by name.
pub const PREDICATE_COUNT_MAX: usize = 128;

/// Which numbered predicates some span of the trace has matched.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub struct PredicateSet([u64; PREDICATE_COUNT_MAX / 64]);

// Words, not one u128: its alignment of 16 bytes would cost each open trace as many.
impl PredicateSet {
    pub const NONE: PredicateSet = PredicateSet([0; PREDICATE_COUNT_MAX / 64]);

    #[inline]
    pub fn insert(&mut self, predicate: PredicateIndex) {
        self.0[predicate.index() / 64] |= 1 << (predicate.index() % 64);
    }

    #[inline]
    pub fn is_empty(self) -> bool {
        self == PredicateSet::NONE
    }

    #[inline]
    pub fn contains(self, predicate: PredicateIndex) -> bool {
        self.0[predicate.index() / 64] >> (predicate.index() % 64) & 1 == 1
    }

    #[inline]
    pub fn union(self, other: PredicateSet) -> PredicateSet {
        PredicateSet(std::array::from_fn(|word| self.0[word] | other.0[word]))
    }

    /// Bit n is of the predicate with number n.
    pub fn bits(self) -> u128 {
        u128::from(self.0[1]) << 64 | u128::from(self.0[0])
    }

    pub fn from_bits(bits: u128) -> PredicateSet {
        PredicateSet([bits as u64, (bits >> 64) as u64])
    }
}

/// A predicate's number in its policy set.
///
/// Invariant: below [`PREDICATE_COUNT_MAX`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct PredicateIndex(u8);

impl PredicateIndex {
    /// `None` when a configuration has too many predicates.
    pub fn new(index: usize) -> Option<PredicateIndex> {
        (index < PREDICATE_COUNT_MAX).then_some(PredicateIndex(index as u8))
    }

    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// The explicit randomness (`ot=rv`) seen so far: the root's wins over any other, the smaller wins among
/// equals. A minimum over (rank, value), so it merges.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct RandomnessSeen(u64);

impl RandomnessSeen {
    const RANK_ANY: u64 = 1 << 56;
    const NONE: RandomnessSeen = RandomnessSeen(u64::MAX);

    /// `value` is the 56 bits of an `rv`.
    #[inline]
    pub fn new(value: u64, on_root: bool) -> RandomnessSeen {
        debug_assert!(value < 1 << 56);
        RandomnessSeen(if on_root { value } else { Self::RANK_ANY | value })
    }

    /// Rank and value, as other nodes are told; `None`: none was seen.
    pub fn ranked(self) -> Option<u64> {
        (self != Self::NONE).then_some(self.0)
    }

    /// `None` where no [`RandomnessSeen::ranked`] gives such a number.
    pub fn from_ranked(ranked: u64) -> Option<RandomnessSeen> {
        (ranked < Self::RANK_ANY << 1).then_some(RandomnessSeen(ranked))
    }

    /// The 56 bits to use instead of the trace id's, if any span brought some.
    #[inline]
    pub fn value(self) -> Option<u64> {
        (self != Self::NONE).then_some(self.0 & (Self::RANK_ANY - 1))
    }
}

/// What the spans merged so far have shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Digest {
    pub predicates: PredicateSet,
    /// Earliest `start_time_unix_nano`, clients' clocks; `u64::MAX` while no span had one (0 counts as unset).
    pub start_ns: u64,
    /// Latest `end_time_unix_nano`; 0 while no span had one.
    pub end_ns: u64,
    /// Bytes of the span messages as they came.
    pub bytes: u64,
    pub randomness: RandomnessSeen,
    /// Spans, duplicates counted.
    pub span_count: u32,
    /// Highest value of the expected-count attribute; 0 while none was seen.
    pub expected_count: u32,
    /// Some span has no parent.
    pub has_root: bool,
    /// Some span has status ERROR.
    pub has_error: bool,
}

impl Digest {
    /// Whole milliseconds from earliest start to latest end; `None` while either is unknown or the end
    /// lies before the start (hostile clocks give no duration, never an overflow).
    pub fn duration_ms(&self) -> Option<u64> {
        if self.start_ns == u64::MAX || self.end_ns == 0 {
            return None;
        }
        self.end_ns.checked_sub(self.start_ns).map(|ns| ns / 1_000_000)
    }
}

/// A [`Digest`] at rest, in the slot of an open trace: 58 bytes, where alignment makes 64 of them.
///
/// Invariant: it becomes the digest that it was made of.
#[derive(Clone, Copy, Debug)]
#[repr(Rust, packed(2))]
pub struct PackedDigest {
    predicates: PredicateSet,
    start_ns: u64,
    end_ns: u64,
    bytes: u64,
    randomness: RandomnessSeen,
    span_count: u32,
    expected_count: u32,
    has_root: bool,
    has_error: bool,
}

impl From<Digest> for PackedDigest {
    #[inline]
    fn from(digest: Digest) -> PackedDigest {
        PackedDigest {
            predicates: digest.predicates,
            start_ns: digest.start_ns,
            end_ns: digest.end_ns,
            bytes: digest.bytes,
            randomness: digest.randomness,
            span_count: digest.span_count,
            expected_count: digest.expected_count,
            has_root: digest.has_root,
            has_error: digest.has_error,
        }
    }
}

impl From<PackedDigest> for Digest {
    #[inline]
    fn from(packed: PackedDigest) -> Digest {
        Digest {
            predicates: packed.predicates,
            start_ns: packed.start_ns,
            end_ns: packed.end_ns,
            bytes: packed.bytes,
            randomness: packed.randomness,
            span_count: packed.span_count,
            expected_count: packed.expected_count,
            has_root: packed.has_root,
            has_error: packed.has_error,
        }
    }
}

impl Monoid for Digest {
    const EMPTY: Digest = Digest {
        predicates: PredicateSet::NONE,
        start_ns: u64::MAX,
        end_ns: 0,
        bytes: 0,
        randomness: RandomnessSeen::NONE,
        span_count: 0,
        expected_count: 0,
        has_root: false,
        has_error: false,
    };

    #[inline]
    fn merge(self, other: Digest) -> Digest {
        Digest {
            predicates: self.predicates.union(other.predicates),
            start_ns: self.start_ns.min(other.start_ns),
            end_ns: self.end_ns.max(other.end_ns),
            bytes: self.bytes.saturating_add(other.bytes),
            randomness: self.randomness.min(other.randomness),
            span_count: self.span_count.saturating_add(other.span_count),
            expected_count: self.expected_count.max(other.expected_count),
            has_root: self.has_root | other.has_root,
            has_error: self.has_error | other.has_error,
        }
    }
}
