//! A judge's lease from a ledger that is somewhere else.
//!
//! ```text
//!           ask: not enough                    Grant
//!   idle ────────────────────→ asked ────────────────────→ leased ──unused for LAPSES──→ idle, tokens returned
//!                                │ no answer: again, again, given up
//!                                └──────────────────────────────→ idle, whoever waits runs out of patience
//! ```
//!
//! One request is out at a time; what is asked meanwhile goes into the next one. A ticket names the request that a
//! trace's need went into: once that is answered, what the lease has decides.

use super::ledger::ahead_max;
use super::{Answer, Ask, Grant, Judge, QuotaKey, Urgency};
use crate::base::time::Instant;
use std::time::Duration;

/// Tokens that nobody has used for so long go back.
const LAPSES: Duration = Duration::from_millis(200);
/// Between two tries of one request, and how many there are.
const AGAIN: Duration = Duration::from_millis(100);
const TRIES: u32 = 8;
/// What the ledger had left is believed so long; then it is asked again, for others may have returned something.
const BELIEVED: Duration = Duration::from_millis(20);

/// The number of the request that a need went into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket(u32);

impl Ticket {
    pub fn new(number: u32) -> Ticket {
        Ticket(number)
    }
}

/// Invariant (Q2): `tokens` are at most what was asked for and granted last, and what [`super::AHEAD`] brings.
#[derive(Debug)]
pub struct Lease {
    key: QuotaKey,
    judge: Judge,
    tokens: u64,
    used_at: Instant,
    /// The last request that was made, and the last one that was answered.
    number: u32,
    answered: u32,
    out: Option<Out>,
    /// For the next request.
    want: u64,
    least: u64,
    returned: u64,
    /// Of what is wanted by the next request, and by the one that is out: for traces that do not wait for it.
    owed: u64,
    owed_out: u64,
    /// Somebody has used the lease since the last request.
    in_use: bool,
    /// What the ledger had left when it answered last.
    level: Option<(u64, Instant)>,
}

/// A request on its way.
#[derive(Clone, Copy, Debug)]
struct Out {
    ask: Ask,
    tries: u32,
    again_at: Instant,
}

impl Lease {
    pub fn new(key: QuotaKey, judge: Judge, number: u32) -> Lease {
        Lease {
            key,
            judge,
            tokens: 0,
            used_at: Instant(0),
            number,
            answered: number,
            out: None,
            want: 0,
            least: 0,
            returned: 0,
            owed: 0,
            owed_out: 0,
            in_use: false,
            level: None,
        }
    }

    /// The ledger has moved: what it gave is worth nothing, and what it was asked is asked again.
    pub fn void(&mut self, now: Instant) {
        let number = self.number.wrapping_add(1);
        let asked = self.out.as_ref().map_or(0, |out| out.ask.want);
        *self = Lease {
            used_at: now,
            // Tickets of before are of requests that nobody will answer.
            answered: number.wrapping_sub(2),
            want: self.want.saturating_add(asked),
            least: self.least,
            owed: self.owed.saturating_add(self.owed_out),
            ..Lease::new(self.key, self.judge, number)
        };
    }

    pub fn ask(&mut self, now: Instant, amount: u64, ticket: Option<Ticket>, urgency: Urgency) -> Answer {
        if self.tokens >= amount {
            self.tokens -= amount;
            self.used_at = now;
            self.in_use = true;
            return Answer::Granted;
        }
        if let Some(Ticket(number)) = ticket {
            let is_answered = (self.answered.wrapping_sub(number) as i32) >= 0;
            if is_answered {
                return Answer::Refused {
                    left: self.level(now),
                };
            }
            return match urgency {
                Urgency::MayWait | Urgency::Anyway => Answer::Later(Ticket(number)),
                Urgency::Now => Answer::Unanswered,
            };
        }
        if self.surely_lacks(now, amount) {
            return Answer::Refused {
                left: self.level(now),
            };
        }
        if urgency == Urgency::Now {
            return Answer::Unanswered;
        }
        if urgency == Urgency::Anyway {
            self.owed = self.owed.saturating_add(amount);
        }
        self.least = match self.want {
            0 => amount,
            _ => self.least.min(amount),
        };
        self.want = self.want.saturating_add(amount);
        self.in_use = true;
        Answer::Later(Ticket(self.number.wrapping_add(1)))
    }

    /// `false`: nobody waits for it any more.
    pub fn handle(&mut self, now: Instant, grant: &Grant) -> bool {
        let is_it = |out: &Out| out.ask.number == grant.number;
        if self.out.as_ref().is_none_or(|out| !is_it(out)) {
            return false;
        }
        self.out = None;
        self.answered = grant.number;
        let owed = std::mem::take(&mut self.owed_out);
        self.tokens = self.tokens.saturating_add(grant.tokens.saturating_sub(owed));
        self.used_at = now;
        self.level = Some((grant.left, now));
        true
    }

    /// A request to be sent now.
    pub fn poll(&mut self, now: Instant) -> Option<Ask> {
        if let Some(out) = &mut self.out {
            if now < out.again_at {
                return None;
            }
            if out.tries < TRIES {
                out.tries += 1;
                out.again_at = now.plus(AGAIN);
                return Some(out.ask);
            }
            // What it may have granted is lost: the ledger counts it as spent.
            self.out = None;
            self.owed_out = 0;
        }
        let has_lapsed = self.lapses_at() <= now;
        self.in_use &= !has_lapsed || self.want > 0;
        if self.want > 0 || has_lapsed {
            self.returned = self.returned.saturating_add(std::mem::take(&mut self.tokens));
        }
        // Soon there will be too little.
        let ahead_max = ahead_max(self.key.terms);
        let is_low = self.in_use && self.tokens < ahead_max / 2 && !self.is_short(now);
        if self.want == 0 && self.returned == 0 && !is_low {
            return None;
        }
        self.number = self.number.wrapping_add(1);
        let ask = Ask {
            quota: self.key,
            judge: self.judge,
            number: self.number,
            want: std::mem::take(&mut self.want),
            least: self.least,
            ahead: match self.in_use {
                true => ahead_max.saturating_sub(self.tokens),
                false => 0,
            },
            returned: std::mem::take(&mut self.returned),
        };
        self.in_use = false;
        self.owed_out = std::mem::take(&mut self.owed);
        self.out = Some(Out {
            ask,
            tries: 1,
            again_at: now.plus(AGAIN),
        });
        Some(ask)
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        match &self.out {
            Some(out) => Some(out.again_at),
            None if self.want > 0 || self.returned > 0 => Some(Instant(0)),
            None => (self.tokens > 0).then(|| self.lapses_at()),
        }
    }

    /// What the ledger may have now, and what is here.
    pub fn level(&self, now: Instant) -> u64 {
        let here = self.tokens;
        self.level.map_or(here, |(left, at)| {
            let came = u128::from(self.key.terms.rate) * now.since(at).as_nanos() / 1_000_000_000;
            let burst = u128::from(self.key.terms.burst);
            here.saturating_add((u128::from(left) + came).min(burst) as u64)
        })
    }

    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    fn lapses_at(&self) -> Instant {
        self.used_at.plus(LAPSES)
    }

    /// The ledger said a moment ago that there is not so much.
    fn surely_lacks(&self, now: Instant, amount: u64) -> bool {
        let is_fresh = |at: Instant| now.since(at) < BELIEVED;
        self.level.is_some_and(|(_, at)| is_fresh(at)) && self.level(now) < amount
    }

    /// The ledger had next to nothing a moment ago: asking ahead would bring nothing.
    fn is_short(&self, now: Instant) -> bool {
        self.level
            .is_some_and(|(left, at)| left == 0 && now.since(at) < BELIEVED)
    }
}
