//! When a trace was opened, when its last span came and when its root did, in 16 bytes.
//!
//! ```text
//!  opened_at               last span          root             both in whole milliseconds since the opening, rounded up;
//!  8 bytes, nanoseconds    4 bytes            4 bytes          u32::MAX: no root yet
//! ```
//!
//! Deadlines count from these moments, and a deadline may be late by what the timer wheel is late anyway, 16.8 ms,
//! but never early: so what is rounded is rounded up. For the same reason the opening gives way, and not the last span,
//! when a trace comes to be older than 49 days.

use crate::base::time::Instant;
use std::time::Duration;

/// Nanoseconds of the unit that moments after the opening are told in.
const UNIT_NS: u64 = 1_000_000;
const NO_ROOT: u32 = u32::MAX;
/// 49.7 days.
const UNITS_MAX: u32 = NO_ROOT - 1;

/// The moments that completion goes by.
///
/// Invariant: the last span is told at most a millisecond late and never early; so is the root, of a trace younger than
/// 49 days. The opening is told as it was, of an older trace late.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moments {
    opened_at: Instant,
    last_span: u32,
    root: u32,
}

impl Moments {
    /// A trace whose first span comes now; its root may.
    pub fn new(opened_at: Instant) -> Moments {
        Moments {
            opened_at,
            last_span: 0,
            root: NO_ROOT,
        }
    }

    /// None of the other two lies before the opening.
    pub fn of(opened_at: Instant, last_span_at: Instant, root_at: Option<Instant>) -> Moments {
        let mut moments = Moments::new(opened_at);
        moments.set_last_span(last_span_at);
        if let Some(root_at) = root_at {
            moments.set_root(root_at);
        }
        moments
    }

    #[inline]
    pub fn set_last_span(&mut self, at: Instant) {
        self.last_span = match u32::try_from(self.units_to(at)) {
            Ok(units) if units <= UNITS_MAX => units,
            Ok(_) | Err(_) => self.reopen(at),
        };
    }

    #[inline]
    pub fn set_root(&mut self, at: Instant) {
        self.root = self.units_to(at).min(u64::from(UNITS_MAX)) as u32;
    }

    pub fn opened_at(&self) -> Instant {
        self.opened_at
    }

    #[inline]
    pub fn last_span_at(&self) -> Instant {
        self.at(self.last_span)
    }

    #[inline]
    pub fn root_at(&self) -> Option<Instant> {
        (self.root != NO_ROOT).then(|| self.at(self.root))
    }

    /// Of two parts of one trace.
    pub fn merge(self, other: Moments) -> Moments {
        Moments::of(
            self.opened_at.min(other.opened_at),
            self.last_span_at().max(other.last_span_at()),
            self.root_at().into_iter().chain(other.root_at()).min(),
        )
    }

    /// The trace is taken for one that was opened as long before `at` as can be told: returns that.
    #[cold]
    fn reopen(&mut self, at: Instant) -> u32 {
        let root_at = self.root_at();
        self.opened_at = Instant(at.0 - u64::from(UNITS_MAX) * UNIT_NS);
        if let Some(root_at) = root_at {
            self.set_root(root_at);
        }
        UNITS_MAX
    }

    #[inline]
    fn units_to(&self, at: Instant) -> u64 {
        at.0.saturating_sub(self.opened_at.0).div_ceil(UNIT_NS)
    }

    #[inline]
    fn at(&self, units: u32) -> Instant {
        self.opened_at
            .plus(Duration::from_nanos(u64::from(units) * UNIT_NS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DAY_NS: u64 = 24 * 60 * 60 * 1_000_000_000;

    #[test]
    fn whole_milliseconds_after_the_opening_are_told_exactly() {
        let at = |ms: u64| Instant(123_456_789 + ms * UNIT_NS);
        let moments = Moments::of(at(0), at(70_000), Some(at(3)));
        let told = (moments.opened_at(), moments.last_span_at(), moments.root_at());
        assert_eq!(told, (at(0), at(70_000), Some(at(3))));
        assert_eq!(size_of::<Moments>(), 16);
    }

    #[test]
    fn a_trace_of_two_months_is_taken_for_a_younger_one_whose_last_span_came_when_it_did() {
        let mut moments = Moments::of(Instant(5), Instant(7), Some(Instant(6)));
        let last = Instant(60 * DAY_NS + 1);
        moments.set_last_span(last);
        assert_eq!(moments.last_span_at(), last);
        assert!(moments.opened_at() > Instant(10 * DAY_NS) && moments.opened_at() < Instant(11 * DAY_NS));
        assert_eq!(moments.root_at(), Some(moments.opened_at()));
        moments.set_root(Instant(u64::MAX));
        assert!(moments.root_at().is_some());
    }

    proptest! {
        #[test]
        fn nothing_is_told_early_nor_more_than_a_millisecond_late_for_each_part_merged(
            parts in prop::collection::vec((0..DAY_NS, 0..DAY_NS, prop::option::of(0..DAY_NS)), 1..6),
        ) {
            let all: Vec<_> = parts
                .iter()
                .map(|(opened, last, root)| (*opened, opened + last, root.map(|root| opened + root)))
                .collect();
            let told = all
                .iter()
                .map(|(opened, last, root)| Moments::of(Instant(*opened), Instant(*last), root.map(Instant)))
                .reduce(Moments::merge)
                .expect("one at least");
            let late_max = all.len() as u64 * UNIT_NS;
            let check = |told: Instant, was: u64| told.0 >= was && told.0 - was < late_max;
            prop_assert_eq!(told.opened_at().0, all.iter().map(|part| part.0).min().expect("one at least"));
            prop_assert!(check(told.last_span_at(), all.iter().map(|part| part.1).max().expect("one at least")));
            let root = all.iter().filter_map(|part| part.2).min();
            prop_assert_eq!(told.root_at().is_some(), root.is_some());
            prop_assert!(told.root_at().zip(root).is_none_or(|(told, was)| check(told, was)));
        }
    }
}
