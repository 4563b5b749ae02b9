//! D1: merge is associative and commutative, and EMPTY changes nothing; V1 follows for verdicts.

use std::fmt::Debug;

use proptest::prelude::*;
use proptest::sample::select;
use tailkeep::base::monoid::Monoid;
use tailkeep::digest::{
    Digest, PREDICATE_COUNT_MAX, PackedDigest, PredicateIndex, PredicateSet, RandomnessSeen,
};
use tailkeep::verdict::Verdict;

/// Holds three values of one fold to the laws.
fn check_laws<T: Monoid + Copy + PartialEq + Debug>(a: T, b: T, c: T) -> Result<(), TestCaseError> {
    prop_assert_eq!(a.merge(T::EMPTY), a, "EMPTY is an identity on the right");
    prop_assert_eq!(T::EMPTY.merge(a), a, "EMPTY is an identity on the left");
    prop_assert_eq!(a.merge(b), b.merge(a), "merge is commutative");
    prop_assert_eq!(a.merge(b).merge(c), a.merge(b.merge(c)), "merge is associative");
    Ok(())
}

/// For folds that are joins: what came already changes nothing.
fn check_join<T: Monoid + Copy + PartialEq + Debug>(a: T, b: T) -> Result<(), TestCaseError> {
    prop_assert_eq!(a.merge(a), a, "merge is idempotent");
    prop_assert_eq!(
        a.merge(b).merge(a),
        a.merge(b),
        "what came already changes nothing"
    );
    Ok(())
}

fn randomness() -> impl Strategy<Value = RandomnessSeen> {
    let value = prop_oneof![Just(0), Just((1 << 56) - 1), 0u64..1 << 56];
    prop_oneof![
        Just(Digest::EMPTY.randomness),
        (value, any::<bool>()).prop_map(|(value, on_root)| RandomnessSeen::new(value, on_root)),
    ]
}

fn predicates() -> impl Strategy<Value = PredicateSet> {
    prop::collection::vec(0..PREDICATE_COUNT_MAX, 0..5).prop_map(|indices| {
        let mut set = PredicateSet::NONE;
        for index in indices {
            set.insert(PredicateIndex::new(index).expect("below the bound"));
        }
        set
    })
}

/// Digests that no span may ever have, with sums near their end.
fn digest() -> impl Strategy<Value = Digest> {
    let counts = || prop_oneof![0u32..9, u32::MAX - 9..=u32::MAX];
    let bytes = prop_oneof![0u64..9, u64::MAX - 9..=u64::MAX];
    let flags = any::<(bool, bool)>();
    (
        predicates(),
        any::<(u64, u64)>(),
        bytes,
        randomness(),
        (counts(), counts()),
        flags,
    )
        .prop_map(|(predicates, times, bytes, randomness, counts, flags)| Digest {
            predicates,
            start_ns: times.0,
            end_ns: times.1,
            bytes,
            randomness,
            span_count: counts.0,
            expected_count: counts.1,
            has_root: flags.0,
            has_error: flags.1,
        })
}

proptest! {
    #[test]
    fn digests_are_a_commutative_monoid(a in digest(), b in digest(), c in digest()) {
        check_laws(a, b, c)?;
    }

    #[test]
    fn a_packed_digest_becomes_what_it_was_in_58_bytes(digest in digest()) {
        prop_assert_eq!(Digest::from(PackedDigest::from(digest)), digest);
        prop_assert_eq!(size_of::<PackedDigest>(), 58);
    }

    #[test]
    fn verdicts_are_a_commutative_monoid_and_only_rise(
        a in select(&Verdict::ALL[..]),
        b in select(&Verdict::ALL[..]),
        c in select(&Verdict::ALL[..]),
    ) {
        check_laws(a, b, c)?;
        check_join(a, b)?;
        prop_assert!(a.merge(b) >= a, "V1");
    }
}
