//! What came: spans by trace, and what can be said of them without knowing what was sent.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use serde_json::{Value, json};

pub type TraceId = [u8; 16];
pub type SpanId = [u8; 8];

#[derive(Default)]
pub struct Arrivals {
    traces: HashMap<TraceId, Trace>,
    first: Option<quanta::Instant>,
    last: Option<quanta::Instant>,
    requests: u64,
    /// Of logs and metrics: acknowledged, not looked at.
    other_requests: u64,
    undecodable_requests: u64,
    bytes: u64,
    spans: u64,
    duplicate_spans: u64,
    /// Spans whose ids have no place in a trace.
    invalid_spans: u64,
}

/// The parent of each span; a root has none.
#[derive(Default)]
pub struct Trace {
    spans: HashMap<SpanId, Option<SpanId>>,
}

impl Arrivals {
    pub fn begin_request(&mut self, now: quanta::Instant, bytes: usize) {
        self.first.get_or_insert(now);
        self.last = Some(now);
        self.requests += 1;
        self.bytes += bytes as u64;
    }

    pub fn add_other(&mut self) {
        self.other_requests += 1;
    }

    pub fn add_undecodable(&mut self) {
        self.undecodable_requests += 1;
    }

    pub fn add(&mut self, request: &ExportTraceServiceRequest) {
        let scopes = request
            .resource_spans
            .iter()
            .flat_map(|resource| &resource.scope_spans);
        for span in scopes.flat_map(|scope| &scope.spans) {
            self.spans += 1;
            let ids = (
                span.trace_id.as_slice().try_into(),
                span.span_id.as_slice().try_into(),
            );
            let (Ok(trace_id), Ok(span_id)) = ids else {
                self.invalid_spans += 1;
                continue;
            };
            let trace: &mut Trace = self.traces.entry(trace_id).or_default();
            let parent = span.parent_span_id.as_slice().try_into().ok();
            if trace.spans.insert(span_id, parent).is_some() {
                self.duplicate_spans += 1;
            }
        }
    }

    /// When the last request came.
    pub fn last(&self) -> Option<quanta::Instant> {
        self.last
    }

    pub fn trace(&self, id: &TraceId) -> Option<&Trace> {
        self.traces.get(id)
    }

    /// Distinct spans of traces that are not among `known`.
    pub fn spans_outside(&self, known: &HashSet<TraceId>) -> u64 {
        let foreign = self.traces.iter().filter(|(id, _)| !known.contains(*id));
        foreign.map(|(_, trace)| trace.spans.len() as u64).sum()
    }

    fn seconds(&self) -> f64 {
        let (Some(first), Some(last)) = (self.first, self.last) else {
            return 0.0;
        };
        last.saturating_duration_since(first)
            .max(Duration::from_millis(1))
            .as_secs_f64()
    }

    /// Traces that are whole, that have no root, and that name a parent which has not come.
    fn completeness(&self) -> (u64, u64, u64) {
        let (mut whole, mut rootless, mut orphaned) = (0, 0, 0);
        for trace in self.traces.values() {
            let has_root = trace.spans.values().any(Option::is_none);
            let parents = trace.spans.values().flatten();
            let is_resolved = parents.into_iter().all(|parent| trace.has(parent));
            whole += u64::from(has_root && is_resolved);
            rootless += u64::from(!has_root);
            orphaned += u64::from(!is_resolved);
        }
        (whole, rootless, orphaned)
    }

    pub fn to_json(&self) -> Value {
        let (whole, rootless, orphaned) = self.completeness();
        let seconds = self.seconds();
        json!({
            "requests": self.requests, "other_requests": self.other_requests,
            "undecodable_requests": self.undecodable_requests, "bytes": self.bytes, "seconds": seconds,
            "spans": self.spans, "duplicate_spans": self.duplicate_spans, "invalid_spans": self.invalid_spans,
            "spans_per_second": if seconds > 0.0 { self.spans as f64 / seconds } else { 0.0 },
            "traces": self.traces.len(), "whole_traces": whole, "rootless_traces": rootless,
            "orphaned_traces": orphaned,
        })
    }

    pub fn to_text(&self) -> String {
        let (whole, rootless, orphaned) = self.completeness();
        let seconds = self.seconds();
        let rate = if seconds > 0.0 {
            self.spans as f64 / seconds
        } else {
            0.0
        };
        format!(
            "came     {} spans in {} requests, {} bytes, over {seconds:.2} s: {rate:.0} spans/s\n\
             not ok   {} spans twice, {} without valid ids, {} requests undecodable; {} requests of other signals\n\
             traces   {}: {whole} whole, {rootless} without a root, {orphaned} without a parent they name\n",
            self.spans,
            self.requests,
            self.bytes,
            self.duplicate_spans,
            self.invalid_spans,
            self.undecodable_requests,
            self.other_requests,
            self.traces.len(),
        )
    }
}

impl Trace {
    pub fn has(&self, span: &SpanId) -> bool {
        self.spans.contains_key(span)
    }
}
