//! The algebra of folds: `merge` is associative and commutative and `EMPTY` changes nothing (D1).
//!
//! `tests/laws.rs` holds every implementation to the laws through one generic function.

/// A value that is built by merging parts in any order and grouping.
///
/// Invariant (D1): `a.merge(EMPTY) == a`, `a.merge(b) == b.merge(a)`,
/// `a.merge(b).merge(c) == a.merge(b.merge(c))`.
pub trait Monoid: Sized {
    const EMPTY: Self;

    fn merge(self, other: Self) -> Self;
}
