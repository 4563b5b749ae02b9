//! What was acknowledged, span by span, held against what the engine exported.
//!
//! A span is lost when its request was acknowledged, its trace had to be kept by what was acknowledged of it, and
//! the output file has no span of its ids. Whether a trace had to be kept is worked out here, from the ids and
//! times that were sent, and not asked of the engine. Where the rules of the engine and of this file could differ
//! by rounding (a duration of 1,000 to 1,001 ms, a randomness at the very threshold), nothing is claimed.

use std::collections::{BTreeMap, BTreeSet};

use super::traffic::Fact;

type TraceKey = [u8; 16];
type SpanKey = [u8; 8];

/// `latency.threshold_ms` of the demo's configuration, and what is surely above it.
const SLOW_NS: u64 = 1_001_000_000;
/// Surely at or above the threshold of 5 %: 0.95 × 2^56 is `f33333…` in hexadecimal.
const BASELINE_RANDOMNESS: u64 = 0x00f3_3340_0000_0000;

/// Every acknowledged span by trace.
#[derive(Debug, Default)]
pub struct Ledger {
    traces: BTreeMap<TraceKey, Trace>,
    pub span_count: u64,
}

#[derive(Debug, Default)]
struct Trace {
    spans: BTreeSet<SpanKey>,
    start_ns: u64,
    end_ns: u64,
    has_error: bool,
}

/// What the output file has.
#[derive(Debug, Default)]
pub struct Exported {
    spans: BTreeMap<TraceKey, BTreeSet<SpanKey>>,
    pub span_count: u64,
    /// Spans that came again.
    pub repeated: u64,
}

/// Spans, and the traces that they are of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub spans: u64,
    pub traces: u64,
}

#[derive(Debug, Default)]
pub struct Balance {
    pub acknowledged: Count,
    /// Of traces that had to be kept.
    pub due: Count,
    pub found: Count,
    /// Due and not in the output; a trace counts that lacks a span.
    pub lost: Count,
    /// Some of the traces that lack a span.
    pub examples: Vec<String>,
}

/// Traces named when some are lost.
const EXAMPLES_MAX: usize = 3;

impl Ledger {
    pub fn add(&mut self, facts: &[Fact]) {
        for fact in facts {
            let trace = self.traces.entry(fact.trace_id).or_insert_with(|| Trace {
                start_ns: u64::MAX,
                ..Trace::default()
            });
            self.span_count += u64::from(trace.spans.insert(fact.span_id));
            trace.start_ns = trace.start_ns.min(fact.start_ns);
            trace.end_ns = trace.end_ns.max(fact.end_ns);
            trace.has_error |= fact.has_error;
        }
    }

    pub fn balance(&self, exported: &Exported) -> Balance {
        let mut balance = Balance::default();
        let none = BTreeSet::new();
        for (id, trace) in &self.traces {
            balance.acknowledged.add(trace.spans.len());
            if !trace.is_due(id) {
                continue;
            }
            balance.due.add(trace.spans.len());
            let there = exported.spans.get(id).unwrap_or(&none);
            let found = trace.spans.intersection(there).count();
            if found > 0 {
                balance.found.add(found);
            }
            if found < trace.spans.len() {
                balance.lost.add(trace.spans.len() - found);
                if balance.examples.len() < EXAMPLES_MAX {
                    balance.examples.push(hex(id));
                }
            }
        }
        balance
    }
}

impl Trace {
    fn is_due(&self, id: &TraceKey) -> bool {
        let low: [u8; 8] = id[8..].try_into().expect("eight of sixteen");
        let randomness = u64::from_be_bytes(low) & ((1 << 56) - 1);
        self.has_error
            || self.end_ns.saturating_sub(self.start_ns) >= SLOW_NS
            || randomness >= BASELINE_RANDOMNESS
    }
}

impl Exported {
    /// Ids in hexadecimal, as OTLP/JSON has them; others are no spans of ours.
    pub fn add(&mut self, trace_id: &str, span_id: &str) {
        let (Some(trace), Some(span)) = (unhex(trace_id), unhex(span_id)) else {
            return;
        };
        self.span_count += 1;
        let is_new = self.spans.entry(trace).or_default().insert(span);
        self.repeated += u64::from(!is_new);
    }
}

impl Count {
    fn add(&mut self, spans: usize) {
        self.spans += spans as u64;
        self.traces += 1;
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex<const LENGTH: usize>(text: &str) -> Option<[u8; LENGTH]> {
    let mut bytes = [0; LENGTH];
    if text.len() != 2 * LENGTH || !text.is_ascii() {
        return None;
    }
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * index..][..2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fact(trace: u8, span: u8, took_ms: u64, has_error: bool) -> Fact {
        let mut trace_id = [0; 16];
        trace_id[0] = trace;
        Fact {
            trace_id,
            span_id: [span; 8],
            start_ns: 5,
            end_ns: 5 + took_ms * 1_000_000,
            has_error,
        }
    }

    fn exported(facts: &[Fact]) -> Exported {
        let mut exported = Exported::default();
        for fact in facts {
            exported.add(&hex(&fact.trace_id), &hex(&fact.span_id));
        }
        exported
    }

    fn count(spans: u64, traces: u64) -> Count {
        Count { spans, traces }
    }

    #[test]
    fn every_acknowledged_span_of_a_due_trace_must_be_there() {
        let failed = [fact(1, 1, 1, false), fact(1, 2, 1, true)];
        let slow = [fact(2, 1, 1_500, false), fact(2, 2, 1, false)];
        let ordinary = [fact(3, 1, 1, false)];
        let mut ledger = Ledger::default();
        for facts in [&failed[..], &slow, &ordinary] {
            ledger.add(facts);
        }
        let whole = ledger.balance(&exported(&[failed[0], failed[1], slow[0], slow[1]]));
        assert_eq!((whole.acknowledged, whole.due), (count(5, 3), count(4, 2)));
        assert_eq!((whole.found, whole.lost), (count(4, 2), count(0, 0)));
        let torn = ledger.balance(&exported(&[failed[1], slow[0], slow[1]]));
        assert_eq!(torn.lost, count(1, 1));
        assert_eq!(torn.examples, [hex(&failed[0].trace_id)]);
        assert_eq!(ledger.balance(&Exported::default()).lost, count(4, 2));
    }

    #[test]
    fn one_of_twenty_is_due_by_its_id() {
        let mut fact = fact(1, 1, 1, false);
        fact.trace_id[9..11].copy_from_slice(&[0xf3, 0x34]);
        let mut ledger = Ledger::default();
        ledger.add(&[fact]);
        assert_eq!(ledger.balance(&Exported::default()).lost, count(1, 1));
    }

    #[test]
    fn a_span_that_is_sent_or_exported_again_counts_once() {
        let facts = [fact(1, 1, 1, true), fact(1, 1, 1, true)];
        let mut ledger = Ledger::default();
        ledger.add(&facts);
        let exported = exported(&facts);
        assert_eq!((exported.span_count, exported.repeated), (2, 1));
        let balance = ledger.balance(&exported);
        assert_eq!((balance.acknowledged, balance.lost), (count(1, 1), count(0, 0)));
    }
}
