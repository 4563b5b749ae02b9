//! What came, held against what ledgers of `load` call acknowledged.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::{Value, json};

use super::Expect;
use super::arrivals::{Arrivals, SpanId, TraceId};
use crate::load::batch::{MARK_ERROR, MARK_SLOW};
use crate::load::ledger::{ACKED, SentRequest};

#[derive(Default)]
pub struct Check {
    known: HashSet<TraceId>,
    expected_spans: u64,
    expected_traces: u64,
    missing_spans: u64,
    /// Expected traces of which some spans came.
    torn_traces: u64,
    /// Expected traces of which nothing came.
    absent_traces: u64,
    /// Spans of traces that no ledger has.
    foreign_spans: u64,
    examples: Vec<String>,
}

const EXAMPLES_MAX: usize = 5;

/// A trace as a ledger has it: over all requests it was spread over.
#[derive(Default)]
struct Expected {
    spans: Vec<SpanId>,
    marks: u8,
    /// A request of it has no clear answer: the server may hold a part that explains its verdict.
    is_unsure: bool,
}

impl Check {
    pub fn add(&mut self, requests: &BTreeMap<u64, SentRequest>, expect: Expect, arrivals: &Arrivals) {
        let mut traces: HashMap<TraceId, Expected> = HashMap::new();
        for request in requests.values() {
            for run in &request.runs {
                self.known.insert(run.trace_id);
                let trace = traces.entry(run.trace_id).or_default();
                match request.outcome {
                    Some(ACKED) => {
                        trace.spans.extend_from_slice(&run.span_ids);
                        trace.marks |= run.marks;
                    }
                    _ => trace.is_unsure = true,
                }
            }
        }
        for (id, trace) in traces {
            let is_expected = match expect {
                Expect::All => true,
                // Latency is judged over what came; a part that is not sure to be there may decide it.
                Expect::Marked if trace.is_unsure => trace.marks & MARK_ERROR != 0,
                Expect::Marked => trace.marks & (MARK_ERROR | MARK_SLOW) != 0,
            };
            if is_expected && !trace.spans.is_empty() {
                self.compare(&id, &trace.spans, arrivals);
            }
        }
    }

    fn compare(&mut self, id: &TraceId, spans: &[SpanId], arrivals: &Arrivals) {
        self.expected_traces += 1;
        self.expected_spans += spans.len() as u64;
        let came = arrivals.trace(id);
        let missing = spans
            .iter()
            .filter(|span| !came.is_some_and(|trace| trace.has(span)));
        let missing = missing.count();
        if missing == 0 {
            return;
        }
        self.missing_spans += missing as u64;
        match came {
            Some(_) => self.torn_traces += 1,
            None => self.absent_traces += 1,
        }
        if self.examples.len() < EXAMPLES_MAX {
            self.examples
                .push(id.iter().map(|byte| format!("{byte:02x}")).collect());
        }
    }

    /// When all ledgers are in.
    pub fn finish(&mut self, arrivals: &Arrivals) {
        self.foreign_spans = arrivals.spans_outside(&self.known);
    }

    pub fn missing_spans(&self) -> u64 {
        self.missing_spans
    }

    pub fn to_json(&self) -> Value {
        json!({
            "expected_spans": self.expected_spans, "expected_traces": self.expected_traces,
            "missing_spans": self.missing_spans, "torn_traces": self.torn_traces,
            "absent_traces": self.absent_traces, "foreign_spans": self.foreign_spans, "examples": self.examples,
        })
    }

    pub fn to_text(&self) -> String {
        let examples = self
            .examples
            .iter()
            .map(|id| format!("           lacks spans: {id}\n"));
        format!(
            "ledger   {} spans of {} traces expected; {} missing: {} traces torn, {} absent; {} spans of traces nobody sent\n{}",
            self.expected_spans,
            self.expected_traces,
            self.missing_spans,
            self.torn_traces,
            self.absent_traces,
            self.foreign_spans,
            examples.collect::<String>()
        )
    }
}
