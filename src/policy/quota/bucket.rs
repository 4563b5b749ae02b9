//! A token bucket, exact to the nanosecond.
//!
//! Tokens are held in billionths, so that a rate in tokens a second adds `rate` of them each nanosecond: nothing is
//! rounded, however often anybody looks.

use super::Terms;
use crate::base::time::Instant;

/// Of one token.
const BILLION: u128 = 1_000_000_000;

/// Invariant (Q1): holds `burst` at most, and between two moments gives out no more than it held and
/// `rate` × the time between them.
#[derive(Clone, Copy, Debug)]
pub struct TokenBucket {
    terms: Terms,
    billionths: u128,
    /// The level is of then.
    at: Instant,
}

impl TokenBucket {
    pub fn full(terms: Terms, now: Instant) -> TokenBucket {
        TokenBucket {
            terms,
            billionths: u128::from(terms.burst) * BILLION,
            at: now,
        }
    }

    pub fn empty(terms: Terms, now: Instant) -> TokenBucket {
        TokenBucket {
            terms,
            billionths: 0,
            at: now,
        }
    }

    /// All or nothing.
    pub fn take(&mut self, now: Instant, tokens: u64) -> bool {
        self.take_some(now, tokens, tokens) == tokens
    }

    /// As many as there are up to `most`, but none if they are fewer than `least`.
    pub fn take_some(&mut self, now: Instant, least: u64, most: u64) -> u64 {
        let taken = self.left(now).min(most);
        if taken < least {
            return 0;
        }
        self.billionths -= u128::from(taken) * BILLION;
        taken
    }

    /// Tokens that were taken and not used. What does not fit is gone.
    pub fn give_back(&mut self, now: Instant, tokens: u64) {
        self.fill(now);
        self.add(u128::from(tokens) * BILLION);
    }

    pub fn left(&mut self, now: Instant) -> u64 {
        self.fill(now);
        (self.billionths / BILLION) as u64
    }

    fn fill(&mut self, now: Instant) {
        let elapsed = now.since(self.at).as_nanos();
        self.at = self.at.max(now);
        self.add(u128::from(self.terms.rate) * elapsed);
    }

    fn add(&mut self, billionths: u128) {
        let full = u128::from(self.terms.burst) * BILLION;
        self.billionths = self.billionths.saturating_add(billionths).min(full);
    }
}
