//! Early Keeps of peers about traces of which nothing has come here yet.
//!
//! They wait a little for the word of the trace's home. Spans that come meanwhile open a trace that knows of the
//! Keep; if none come, the decision moves on to the cache of decisions.

use crate::base::ids::TraceId;
use crate::base::time::Instant;
use crate::route::Decision;
use hashbrown::HashMap;
use std::collections::VecDeque;
use std::time::Duration;

/// One more makes the oldest go.
const COUNT_MAX: usize = 64 << 10;

#[derive(Debug, Default)]
pub(super) struct Heard {
    keeps: HashMap<TraceId, (Decision, Instant)>,
    /// By time; some are gone already.
    order: VecDeque<(Instant, TraceId)>,
}

impl Heard {
    /// Returns the one that had to go for it.
    pub fn insert(&mut self, id: TraceId, decision: Decision, now: Instant) -> Option<(TraceId, Decision)> {
        if self.keeps.contains_key(&id) {
            return None;
        }
        self.keeps.insert(id, (decision, now));
        self.order.push_back((now, id));
        match self.order.len() > COUNT_MAX {
            true => self.pop(),
            false => None,
        }
    }

    pub fn take(&mut self, id: &TraceId) -> Option<(Decision, Instant)> {
        self.keeps.remove(id)
    }

    /// The next one that has waited for `patience`.
    pub fn expire(&mut self, now: Instant, patience: Duration) -> Option<(TraceId, Decision)> {
        while self.next(patience).is_some_and(|due| due <= now) {
            let expired = self.pop();
            if expired.is_some() {
                return expired;
            }
        }
        None
    }

    pub fn next(&self, patience: Duration) -> Option<Instant> {
        self.order.front().map(|(since, _)| since.plus(patience))
    }

    pub fn state_bytes(&self) -> u64 {
        const EACH: usize = size_of::<(TraceId, (Decision, Instant))>() + size_of::<(Instant, TraceId)>();
        (self.order.len() * EACH) as u64
    }

    fn pop(&mut self) -> Option<(TraceId, Decision)> {
        let (since, id) = self.order.pop_front()?;
        let is_it = self.keeps.get(&id).is_some_and(|(_, known)| *known == since);
        is_it
            .then(|| self.keeps.remove(&id))
            .flatten()
            .map(|(decision, _)| (id, decision))
    }
}
