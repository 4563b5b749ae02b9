//! Clients: traces in parts, each part a request to any core, sent again until it is acknowledged.

use std::collections::{BTreeMap, BTreeSet};

use crate::random::Random;
use crate::spans::{self, SpanKey};

/// Requests that wait to be sent at most.
const UNSENT_MAX: usize = 60;

/// Which requests of a trace bring an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Errors {
    Never,
    /// The one with this span.
    At(u64),
    /// Every one: whatever is lost or late, the trace is one to keep.
    Always,
}

pub struct Part {
    trace: u64,
    from: u64,
    count: u64,
    filler: usize,
}

#[derive(Default)]
pub struct Client {
    /// By number, which is also the waiter.
    pub requests: Vec<Vec<Part>>,
    pub traces: BTreeMap<u64, Errors>,
    unsent: Vec<usize>,
    unanswered: BTreeSet<usize>,
    early: BTreeSet<usize>,
    pub acknowledged: BTreeSet<SpanKey>,
}

impl Client {
    /// One more trace, if not too much waits.
    pub fn begin(&mut self, random: &mut Random) {
        if self.unsent.len() > UNSENT_MAX {
            return;
        }
        let trace = self.traces.len() as u64 + 1;
        let mut from = 0;
        let first = self.requests.len();
        for _ in 0..1 + random.below(5) {
            let count = 1 + random.below(4);
            let filler = match random.below(8) {
                0 => random.below(60_000),
                _ => random.below(2_000),
            };
            let part = Part {
                trace,
                from,
                count,
                filler: filler as usize,
            };
            from += count;
            match random.below(4) {
                0 if !self.unsent.is_empty() => {
                    // Together with another trace.
                    let index = self.unsent[random.index(self.unsent.len())];
                    match self.unanswered.contains(&index) || self.requests[index].len() > 3 {
                        true => self.push(part),
                        false => self.requests[index].push(part),
                    }
                }
                _ => self.push(part),
            }
        }
        let errors = match random.below(5) {
            0 | 1 => Errors::Always,
            2 => Errors::At(random.below(from)),
            _ => Errors::Never,
        };
        self.traces.insert(trace, errors);
        self.unsent.extend(first..self.requests.len());
    }

    fn push(&mut self, part: Part) {
        self.requests.push(vec![part]);
    }

    /// The number and the body of a request to send, mostly one of the oldest.
    pub fn next(&mut self, random: &mut Random) -> Option<(usize, Vec<u8>)> {
        let reach = match random.below(10) {
            0 => self.unsent.len(),
            _ => self.unsent.len().min(6),
        };
        let number = match reach {
            0 => return None,
            _ => self.unsent.remove(random.index(reach)),
        };
        self.unanswered.insert(number);
        let mut all = Vec::new();
        for part in &self.requests[number] {
            let fails = |span: u64| match self.traces[&part.trace] {
                Errors::Never => false,
                Errors::At(at) => at == span,
                Errors::Always => span == part.from,
            };
            let range = part.from..part.from + part.count;
            all.extend(range.map(|span| spans::span(part.trace, span, fails(span), part.filler)));
        }
        Some((number, spans::request(all)))
    }

    /// The canary: believed before anything is durable, and so never sent again.
    pub fn acknowledged_early(&mut self, number: usize) {
        self.early.insert(number);
        self.acknowledged(number);
    }

    pub fn spans_of(&self, number: usize) -> Vec<SpanKey> {
        keys(&self.requests[number]).collect()
    }

    pub fn answered(&mut self, number: usize, is_acknowledged: bool) {
        match (self.early.remove(&number), is_acknowledged) {
            (true, _) => {}
            (false, true) => self.acknowledged(number),
            (false, false) => self.refused(number),
        }
    }

    fn acknowledged(&mut self, number: usize) {
        assert!(self.unanswered.remove(&number), "one answer to one request");
        self.acknowledged.extend(keys(&self.requests[number]));
    }

    /// Refused: it will be sent again.
    pub fn refused(&mut self, number: usize) {
        assert!(self.unanswered.remove(&number), "one answer to one request");
        self.unsent.push(number);
    }

    /// No answer will come any more: whatever may have been written is sent again.
    pub fn disconnected(&mut self) {
        self.unsent.extend(std::mem::take(&mut self.unanswered));
    }

    pub fn has_nothing_to_do(&self) -> bool {
        self.unsent.is_empty() && self.unanswered.is_empty()
    }

    pub fn sent_spans(&self) -> BTreeSet<SpanKey> {
        self.requests.iter().flat_map(|request| keys(request)).collect()
    }
}

fn keys(request: &[Part]) -> impl Iterator<Item = SpanKey> + '_ {
    let keys = |part: &Part| {
        let trace = part.trace;
        (part.from..part.from + part.count).map(move |span| (trace, span))
    };
    request.iter().flat_map(keys)
}
