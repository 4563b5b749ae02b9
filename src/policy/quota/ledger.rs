//! The ledger of one quota: a bucket, and what each judge was told last.
//!
//! A request counts once. One that comes again gets the same answer again; an older one gets none. What a judge
//! returns is taken back once too, and only from a judge that this ledger has given something: after a move or a
//! restart the ledger begins empty, and tokens of another one's are not its own.

use super::{Ask, Grant, Judge, Terms, TokenBucket};
use crate::base::time::Instant;
use hashbrown::HashMap;
use std::time::Duration;

/// For so long ahead of its need a judge gets tokens.
pub const AHEAD: Duration = Duration::from_millis(100);
/// A judge that has asked nothing for so long is forgotten: the next life of its node may count from anywhere.
const JUDGE_FORGOTTEN: Duration = Duration::from_secs(5);
/// Judges that are known at a time; one more is not answered.
const JUDGE_COUNT_MAX: usize = 4096;

#[derive(Clone, Debug)]
pub struct Ledger {
    terms: Terms,
    bucket: TokenBucket,
    judges: HashMap<Judge, Account>,
    /// Of the judge on this very core.
    own: Standing,
    swept_at: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Account {
    told: Grant,
    asked_at: Instant,
    standing: Standing,
}

/// When a judge was given something last, and what it lacked since.
#[derive(Clone, Copy, Debug)]
struct Standing {
    granted_at: Instant,
    lacked: Option<(Instant, u64)>,
}

impl Ledger {
    pub fn full(terms: Terms, now: Instant) -> Ledger {
        Ledger::with(terms, TokenBucket::full(terms, now), now)
    }

    pub fn empty(terms: Terms, now: Instant) -> Ledger {
        Ledger::with(terms, TokenBucket::empty(terms, now), now)
    }

    fn with(terms: Terms, bucket: TokenBucket, now: Instant) -> Ledger {
        Ledger {
            terms,
            bucket,
            judges: HashMap::new(),
            own: Standing::NEW,
            swept_at: now,
        }
    }

    /// For a judge on this very core.
    pub fn take(&mut self, now: Instant, tokens: u64) -> bool {
        let is_there = self.bucket.left(now) >= tokens
            && self.bucket.left(now) >= tokens.saturating_add(self.reserved(now, self.own));
        let taken = is_there && self.bucket.take(now, tokens);
        self.own.note(now, taken, tokens);
        taken
    }

    pub fn left(&mut self, now: Instant) -> u64 {
        self.bucket.left(now)
    }

    /// As [`Ledger::left`], of a ledger that others use.
    pub fn peek(&self, now: Instant) -> u64 {
        self.bucket.clone().left(now)
    }

    /// `None`: the request is out of date, or of one judge too many.
    pub fn handle(&mut self, now: Instant, ask: &Ask) -> Option<Grant> {
        self.sweep(now);
        let mut standing = Standing::NEW;
        match self.judges.get(&ask.judge) {
            Some(account) if account.told.number == ask.number => return Some(account.told),
            Some(account) if (ask.number.wrapping_sub(account.told.number) as i32) < 0 => return None,
            Some(account) => {
                standing = account.standing;
                self.bucket.give_back(now, ask.returned);
            }
            None if self.judges.len() >= JUDGE_COUNT_MAX => return None,
            None => {}
        }
        let reserved = match self.bucket.left(now) >= ask.least {
            true => self.reserved(now, standing),
            false => 0,
        };
        let free = self.bucket.left(now).saturating_sub(reserved);
        let wanted = self.bucket.take_some(now, ask.least, ask.want.min(free));
        let ahead = match wanted == ask.want {
            true => self.ahead(now, reserved).min(ask.ahead),
            false => 0,
        };
        let ahead = self.bucket.take_some(now, 0, ahead);
        if ask.want > 0 {
            standing.note(now, wanted > 0, ask.least);
        }
        let grant = Grant {
            quota: ask.quota,
            judge: ask.judge,
            number: ask.number,
            tokens: wanted + ahead,
            left: self.bucket.left(now),
        };
        let account = Account {
            told: grant,
            asked_at: now,
            standing,
        };
        self.judges.insert(ask.judge, account);
        Some(grant)
    }

    /// What one judge gets ahead: never so much that the others find nothing.
    fn ahead(&mut self, now: Instant, reserved: u64) -> u64 {
        let free = self.bucket.left(now).saturating_sub(reserved);
        let share = free / (self.judges.len() as u64 + 2);
        share.min(ahead_max(self.terms))
    }

    /// What is not for somebody who was given something after those who lack something now: while there is too little
    /// for all, they take turns.
    fn reserved(&self, now: Instant, asker: Standing) -> u64 {
        let accounts = self.judges.values().map(|account| account.standing);
        let standings = accounts.chain([self.own]);
        let first = standings.filter(|standing| standing.granted_at < asker.granted_at);
        let lacked = first.filter_map(|standing| standing.lacked_now(now));
        // Who needs nearly all of it must not keep all from the rest.
        lacked.map(|tokens| tokens.min(self.terms.burst / 4)).sum()
    }

    fn sweep(&mut self, now: Instant) {
        if now.since(self.swept_at) >= JUDGE_FORGOTTEN {
            self.swept_at = now;
            let is_known = |account: &Account| now.since(account.asked_at) < JUDGE_FORGOTTEN;
            self.judges.retain(|_, account| is_known(account));
        }
    }
}

impl Standing {
    const NEW: Standing = Standing {
        granted_at: Instant(0),
        lacked: None,
    };

    fn note(&mut self, now: Instant, granted: bool, tokens: u64) {
        match granted {
            true => {
                *self = Standing {
                    granted_at: now,
                    lacked: None,
                }
            }
            false => self.lacked = Some((now, tokens)),
        }
    }

    fn lacked_now(&self, now: Instant) -> Option<u64> {
        self.lacked
            .filter(|(at, _)| now.since(*at) < AHEAD)
            .map(|(_, tokens)| tokens)
    }
}

/// The tokens of [`AHEAD`].
pub(super) fn ahead_max(terms: Terms) -> u64 {
    terms.rate / (1_000 / AHEAD.as_millis() as u64)
}
