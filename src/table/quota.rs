//! Quotas at the table: closed traces are asked for here, and wait here for a ledger on another core or node.
//!
//! ```text
//!  closed ─→ judged, its quotas asked ──answered──→ settled
//!                     │ later                          ↑
//!                     └─→ waiting: still among the open traces, at most PATIENCE
//! ```
//!
//! A trace that waits has been closed: spans that come meanwhile merge, and do not open it again. It is in nobody's
//! way: a replay brings it back, and asks anew.

use super::Table;
use super::cluster::{Asked, Context};
use crate::base::slab::Key;
use crate::base::time::{Instant, Now};
use crate::digest::PredicateSet;
use crate::policy::quota::{PATIENCE, Urgency};
use crate::policy::{PolicySet, QuotaAnswers, Quotas, Ruling};
use crate::route::Settlement;
use crate::stats::Stats;
use crate::verdict::Reason;
use hashbrown::HashMap;
use std::collections::VecDeque;

/// Closed traces that wait for an answer at most; one more gets what there is at once.
const WAITING_MAX: usize = 64 << 10;
/// Traces that are asked for again in one turn.
const AGAIN_COUNT_MAX: usize = 256;

/// Closed traces by what they wait for.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    traces: HashMap<Key, Waits>,
    /// In the order in which they were closed; some are gone already.
    order: VecDeque<Key>,
    /// How many of `order` may have their answer.
    to_ask: usize,
}

#[derive(Clone, Copy, Debug)]
struct Waits {
    reason: Reason,
    since: Instant,
    answers: QuotaAnswers,
}

impl Waiting {
    /// Why the trace was closed, if it waits.
    pub fn reason(&self, key: Key) -> Option<Reason> {
        self.traces.get(&key).map(|waits| waits.reason)
    }

    pub fn remove(&mut self, key: Key) {
        self.traces.remove(&key);
    }

    fn push(&mut self, key: Key) {
        if self.order.len() > 2 * self.traces.len() + AGAIN_COUNT_MAX && self.to_ask == 0 {
            self.order.retain(|key| self.traces.contains_key(key));
        }
        self.order.push_back(key);
    }

    pub fn memory_bytes(&self) -> u64 {
        (self.traces.len() * size_of::<(u64, Key, Waits)>() + self.order.len() * size_of::<Key>()) as u64
    }
}

impl Table {
    /// From now on these limit what is kept. To be called before anything is judged.
    pub fn set_quotas(&mut self, quotas: Quotas) {
        self.quotas = quotas;
    }

    pub fn quotas(&self) -> &Quotas {
        &self.quotas
    }

    pub fn quotas_mut(&mut self) -> &mut Quotas {
        &mut self.quotas
    }

    /// Closed traces that wait for an answer.
    pub fn waiting_count(&self) -> usize {
        self.waiting.traces.len()
    }

    /// Judges a trace that is closed, and charges its quotas once. `None`: it waits for an answer from elsewhere; the
    /// wheel brings it up when its patience is over.
    pub(super) fn judge_asking(
        &mut self,
        now: Now,
        key: Key,
        reason: Reason,
        policies: &PolicySet,
        stats: &mut Stats,
    ) -> Option<(Ruling, QuotaAnswers)> {
        let Table {
            traces,
            quotas,
            waiting,
            ..
        } = self;
        let trace = traces.get(key)?;
        let waits = waiting.traces.get(&key).copied();
        let since = waits.map_or(now.instant, |waits| waits.since);
        let mut answers = waits.map_or(QuotaAnswers::NONE, |waits| waits.answers);
        let is_urgent = reason == Reason::MemoryPressure
            || now.instant.since(since) >= PATIENCE
            || (waits.is_none() && waiting.traces.len() >= WAITING_MAX);
        let urgency = match is_urgent {
            true => Urgency::Now,
            false => Urgency::MayWait,
        };
        let ruling = policies.judge_asking(
            trace.id(),
            &trace.digest(),
            PredicateSet::NONE,
            &mut answers,
            &mut |quota, amount, ticket| {
                let answer = quotas.ask(now.instant, quota, amount, ticket, urgency);
                stats.count_quota(policies.quotas()[quota.number()].policy, answer, amount);
                answer
            },
        );
        if let Some(ruling) = ruling {
            return Some((ruling, answers));
        }
        if waits.is_none() {
            waiting.push(key);
            let armed = trace.armed;
            self.wheel.disarm(armed, key);
            self.arm(since.plus(PATIENCE), key);
        }
        let waits = Waits {
            reason,
            since,
            answers,
        };
        self.waiting.traces.insert(key, waits);
        None
    }

    /// A trace that waits came up.
    pub(super) fn close_if_answered(
        &mut self,
        now: Now,
        key: Key,
        reason: Reason,
        policies: &PolicySet,
        stats: &mut Stats,
        out: &mut Vec<Settlement>,
    ) {
        let is_over = |waits: &Waits| now.instant.since(waits.since) >= PATIENCE;
        if self.waiting.traces.get(&key).is_some_and(is_over) {
            self.close(now, key, reason, policies, stats, out);
        }
    }

    /// Some ledger has answered, and traces wait.
    pub(super) fn has_answers(&self) -> bool {
        let waits = !self.waiting.traces.is_empty();
        (waits && self.waiting.to_ask > 0) || ((waits || self.home_waits()) && self.quotas.has_answered())
    }

    /// Asks again for those who wait, in the order in which they were closed.
    pub(super) fn ask_again(
        &mut self,
        now: Now,
        policies: &PolicySet,
        stats: &mut Stats,
        out: &mut Vec<Settlement>,
    ) {
        if self.quotas.take_answered() {
            self.waiting.to_ask = self.waiting.order.len();
            let mut context = Context {
                now,
                policies,
                stats,
                out,
            };
            self.at_home(&mut context, |home, bench, words| {
                home.ask_again(now, bench, words)
            });
            self.hear_home(&mut context);
        }
        for _ in 0..self.waiting.to_ask.min(AGAIN_COUNT_MAX) {
            self.waiting.to_ask -= 1;
            let Some(key) = self.waiting.order.pop_front() else {
                break;
            };
            let Some(waits) = self.waiting.traces.get(&key).copied() else {
                continue;
            };
            match self.whom_to_ask(key) {
                Asked::Nobody => self.close(now, key, waits.reason, policies, stats, out),
                Asked::Home | Asked::Already => {
                    let mut context = Context {
                        now,
                        policies,
                        stats,
                        out,
                    };
                    self.go_on(key, false, &mut context);
                }
            }
            if self.waiting.traces.contains_key(&key) {
                self.waiting.order.push_back(key);
            }
        }
    }
}
