//! What must come out: a model that knows all spans of all nodes at once.

use std::collections::{BTreeMap, BTreeSet};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;
use tailkeep::otlp::json;
use tailkeep::policy::{PolicyEntry, PolicyKind, PolicyOptions, PolicySet, StatusCode};

use crate::client::Client;
use crate::spans::SpanKey;

pub const SLOW_MS: u64 = 1000;
pub const MANY_SPANS: u64 = 12;

/// Spans a second of traces that nothing else keeps, in runs with a limit.
pub const LIMIT_RATE: u64 = 4;
const LIMIT_BURST: u64 = 40;
const LIMIT: &str = "limit";

/// Keeps traces with an error, slow ones, and those of many spans; in a limited run so many others.
pub fn policies(limited: bool) -> PolicySet {
    let entry = |name: &str, kind| PolicyEntry {
        name: name.to_owned(),
        kind,
    };
    let limit = PolicyKind::RateLimiting {
        spans_per_second: LIMIT_RATE,
        burst: LIMIT_BURST,
    };
    let mut options = PolicyOptions {
        policies: vec![
            entry(
                "errors",
                PolicyKind::StatusCode {
                    codes: vec![StatusCode::Error],
                },
            ),
            entry(
                "slow",
                PolicyKind::Latency {
                    threshold_ms: SLOW_MS as i64,
                    upper_threshold_ms: 0,
                },
            ),
            entry(
                "many",
                PolicyKind::SpanCount {
                    min: MANY_SPANS as i32,
                    max: 0,
                },
            ),
        ],
        ..PolicyOptions::default()
    };
    if limited {
        options.policies.push(entry(LIMIT, limit));
    }
    PolicySet::compile(&options).expect("right policies")
}

/// Whether the policies keep these spans, each as often as it says.
fn keeps(client: &Client, trace: u64, count: impl Fn(&SpanKey) -> u32) -> bool {
    let all = client.traces[trace as usize].spans.iter().enumerate();
    let there = all.filter_map(|(number, shown)| {
        let times = count(&(trace, number as u64));
        (times > 0).then_some((shown, times))
    });
    let there: Vec<_> = there.collect();
    let start = there.iter().map(|(shown, _)| shown.start_ms).min().unwrap_or(0);
    let end = there.iter().map(|(shown, _)| shown.end_ms).max().unwrap_or(0);
    let spans: u32 = there.iter().map(|(_, times)| times).sum();
    there.iter().any(|(shown, _)| shown.fails)
        || end.saturating_sub(start) > SLOW_MS
        || u64::from(spans) >= MANY_SPANS
}

/// What came out, of each span how often, and in how many ways it was marked.
#[derive(Default)]
pub struct Output {
    pub spans: BTreeMap<SpanKey, u32>,
    /// Policies and reasons that the spans of a trace say, but for those that followed a decision.
    said: BTreeMap<u64, BTreeSet<String>>,
    /// Traces of which some span says that the limit kept it, those that followed a decision among them.
    by_limit: BTreeSet<u64>,
}

impl Output {
    pub fn exported(&mut self, lines: &[u8]) {
        for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let keys = exported(line);
            let text = String::from_utf8_lossy(line);
            for key in &keys {
                *self.spans.entry(*key).or_default() += 1;
            }
            let value = |name: &str| {
                let from = text.find(name).map_or(text.len(), |at| at + name.len());
                text[from..]
                    .chars()
                    .take(40)
                    .take_while(|letter| *letter != '}')
                    .collect::<String>()
            };
            let Some((trace, _)) = keys.first() else { continue };
            let policy = value("tailsampling.policy");
            if policy.contains(LIMIT) {
                self.by_limit.insert(*trace);
            }
            if !text.contains("tailsampling.cached_decision") {
                let said = policy + &value("tailkeep.reason");
                self.said.entry(*trace).or_default().insert(said);
            }
        }
    }

    pub fn is_out(&self, trace: u64) -> bool {
        self.spans.range((trace, 0)..(trace + 1, 0)).next().is_some()
    }

    /// Traces that the limit let through, as their spans say that followed no decision.
    pub fn limited_count(&self) -> u64 {
        let says_limit = |said: &&BTreeSet<String>| said.iter().any(|text| text.contains(LIMIT));
        self.said.values().filter(says_limit).count() as u64
    }

    /// G1, and the model; returns how many traces were kept and how many of them were surely to be.
    pub fn check(&self, client: &Client) -> (usize, usize) {
        let (mut kept, mut exact) = (0, 0);
        for (trace, info) in client.traces.iter().enumerate() {
            let trace = trace as u64;
            let is_out = self.is_out(trace);
            let acknowledged = |key: &SpanKey| u32::from(client.acknowledged.contains(key));
            let written = |key: &SpanKey| client.written.get(key).copied().unwrap_or(0);
            kept += usize::from(is_out);
            if is_out {
                let due = client.acknowledged.range((trace, 0)..(trace + 1, 0));
                let missing: Vec<_> = due.filter(|key| !self.spans.contains_key(key)).collect();
                assert!(
                    missing.is_empty(),
                    "G1: trace {trace} is kept, and these of its spans did not come out: {missing:?}"
                );
                assert!(
                    keeps(client, trace, written) || self.by_limit.contains(&trace),
                    "trace {trace} is kept without a reason, said to be {:?}: {:?}",
                    self.said.get(&trace),
                    info.spans
                );
            }
            if info.is_calm {
                exact += 1;
                assert_eq!(
                    is_out,
                    keeps(client, trace, acknowledged) || (is_out && self.by_limit.contains(&trace)),
                    "trace {trace} of calm times, {:?}",
                    info.spans
                );
                let said = self.said.get(&trace).map_or(0, BTreeSet::len);
                assert!(
                    said <= 1,
                    "nodes say different things of trace {trace}: {:?}",
                    self.said.get(&trace)
                );
            }
        }
        for key in self.spans.keys() {
            assert!(client.written.contains_key(key), "{key:?} was never sent");
        }
        (kept, exact)
    }
}

fn exported(line: &[u8]) -> Vec<SpanKey> {
    let number = |bytes: &[u8]| u64::from_be_bytes(bytes[bytes.len() - 8..].try_into().expect("8 bytes"));
    let mut protobuf = Vec::new();
    json::decode(&json::TRACES_DATA, line, &mut protobuf).expect("our own JSON");
    let request = ExportTraceServiceRequest::decode(&protobuf[..]).expect("protobuf");
    let scopes = request.resource_spans.iter().flat_map(|part| &part.scope_spans);
    let spans = scopes.flat_map(|scope| &scope.spans);
    spans
        .map(|span| (number(&span.trace_id), number(&span.span_id) - 1))
        .collect()
}
