//! Clients: the spans of a trace go to nodes at random, in several waves, each request again until it is
//! acknowledged.

use std::collections::{BTreeMap, BTreeSet};

use tailkeep::base::time::Instant;

use crate::random::Random;
use crate::spans::{self, SpanKey};

/// One span as a policy sees it.
#[derive(Clone, Copy, Debug)]
pub struct Shown {
    pub fails: bool,
    pub start_ms: u64,
    pub end_ms: u64,
}

pub struct Trace {
    pub spans: Vec<Shown>,
    /// Nothing was wrong from its first span until it was decided.
    pub is_calm: bool,
}

pub struct Request {
    pub node: usize,
    pub keys: Vec<SpanKey>,
    at: Instant,
}

#[derive(Default)]
pub struct Client {
    pub traces: Vec<Trace>,
    pub requests: Vec<Request>,
    unsent: BTreeSet<usize>,
    unanswered: BTreeSet<usize>,
    pub acknowledged: BTreeSet<SpanKey>,
    /// How often each span may have been written.
    pub written: BTreeMap<SpanKey, u32>,
}

impl Client {
    /// One more trace: its spans at nodes at random, in waves so far apart.
    pub fn begin(&mut self, random: &mut Random, now: Instant, nodes: usize, wave_ms: u64) {
        let trace = self.traces.len() as u64;
        let count = match random.below(4) {
            0 => 1 + random.below(3),
            _ => 3 + random.below(14),
        };
        let fails = random.below(5) == 0;
        let failing = random.below(count);
        let spread = [200, 900, 3000][random.index(3)];
        let shown = (0..count).map(|number| {
            let start_ms = random.below(spread);
            Shown {
                fails: fails && number == failing,
                start_ms,
                end_ms: start_ms + random.below(200),
            }
        });
        let shown: Vec<Shown> = shown.collect();
        let waves = 1 + random.below(3);
        let mut requests: BTreeMap<(usize, u64), Vec<SpanKey>> = BTreeMap::new();
        for number in 0..count {
            let slot = (random.index(nodes), random.below(waves));
            requests.entry(slot).or_default().push((trace, number));
        }
        for ((node, wave), keys) in requests {
            let wait = std::time::Duration::from_millis(wave * wave_ms + random.below(1 + wave_ms / 2));
            self.unsent.insert(self.requests.len());
            self.requests.push(Request {
                node,
                keys,
                at: now.plus(wait),
            });
        }
        self.traces.push(Trace {
            spans: shown,
            is_calm: true,
        });
    }

    /// A request that is due at a node that is up: its number and body.
    pub fn next(
        &mut self,
        random: &mut Random,
        now: Instant,
        up: &[usize],
    ) -> Option<(usize, usize, Vec<u8>)> {
        if up.is_empty() {
            return None;
        }
        let number = *self
            .unsent
            .iter()
            .find(|number| self.requests[**number].at <= now)?;
        let request = &mut self.requests[number];
        if !up.contains(&request.node) {
            // A client takes another one.
            request.node = up[random.index(up.len())];
        }
        self.unsent.remove(&number);
        self.unanswered.insert(number);
        let request = &self.requests[number];
        let span = |key: &SpanKey| {
            let shown = self.traces[key.0 as usize].spans[key.1 as usize];
            let mut span = spans::span(key.0, key.1, shown.fails, 20);
            let base = span.start_time_unix_nano - key.1;
            span.start_time_unix_nano = base + shown.start_ms * 1_000_000;
            span.end_time_unix_nano = base + shown.end_ms * 1_000_000;
            span
        };
        let body = spans::request(request.keys.iter().map(span).collect());
        Some((number, request.node, body))
    }

    pub fn appended(&mut self, number: usize) {
        for key in &self.requests[number].keys {
            *self.written.entry(*key).or_default() += 1;
        }
    }

    pub fn acknowledged(&mut self, number: usize) {
        assert!(self.unanswered.remove(&number), "one answer to one request");
        self.acknowledged
            .extend(self.requests[number].keys.iter().copied());
    }

    /// Refused: it will be sent again.
    pub fn refused(&mut self, number: usize) {
        assert!(self.unanswered.remove(&number), "one answer to one request");
        self.unsent.insert(number);
    }

    /// No answer of this node will come any more.
    pub fn disconnected(&mut self, node: usize) {
        let lost: Vec<usize> = self
            .unanswered
            .iter()
            .copied()
            .filter(|number| self.requests[*number].node == node)
            .collect();
        for number in lost {
            self.refused(number);
        }
    }

    pub fn has_nothing_to_do(&self) -> bool {
        self.unsent.is_empty() && self.unanswered.is_empty()
    }

    /// Something is wrong: of the traces that are not surely decided nothing exact can be said.
    pub fn alarm(&mut self, first: usize) {
        self.traces[first..]
            .iter_mut()
            .for_each(|trace| trace.is_calm = false);
    }
}
