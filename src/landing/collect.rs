//! One pass over a request: what the cutter sees becomes a draft of log entries and items.
//!
//! The draft borrows the request's body; its vectors live in a bump arena that is reset with each request, so
//! collecting allocates nothing once the arena has grown to the usual size.

use crate::base::ids::{SpanId, TraceId};
use crate::base::monoid::Monoid;
use crate::digest::Digest;
use crate::otlp::cut::CutSink;
use crate::otlp::view::{self, AnyValueView, SpanView};
use crate::policy::{PolicySet, ResourceMatch};
use crate::route::HashKey;
use bumpalo::Bump;
use bumpalo::collections::Vec as BumpVec;
use hashbrown::HashTable;

/// A span of the request.
pub(super) struct SpanDraft<'a> {
    pub bytes: &'a [u8],
    pub scope: u32,
    pub trace: u32,
    pub fingerprint: u32,
    /// 0 for a root.
    pub parent: u32,
}

/// A trace of the request.
pub(super) struct TraceDraft {
    pub id: TraceId,
    pub hash: u64,
    pub digest: Digest,
}

/// A resource or scope part: pieces of the body, side by side in `Draft::pieces`.
pub(super) struct PartDraft {
    pub pieces: std::ops::Range<usize>,
    pub len: usize,
    /// Of a scope: its resource. Of a resource: unused.
    pub resource: u32,
}

/// A request, cut.
pub(super) struct Draft<'a, 'b> {
    policies: &'b PolicySet,
    hash_key: HashKey,
    span_bytes_max: usize,
    by_trace: &'b mut HashTable<u32>,
    resource_match: ResourceMatch,
    /// What the resource and the attributes seen of the next span match.
    span_match: ResourceMatch,
    pub pieces: BumpVec<'b, &'a [u8]>,
    pub resources: BumpVec<'b, PartDraft>,
    pub scopes: BumpVec<'b, PartDraft>,
    pub traces: BumpVec<'b, TraceDraft>,
    pub spans: BumpVec<'b, SpanDraft<'a>>,
    pub rejected: Rejected,
}

/// Spans that were not taken, by reason: the request's `partial_success`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rejected {
    pub bad_trace_id: u64,
    pub bad_span_id: u64,
    pub too_large: u64,
}

impl Rejected {
    pub fn count(&self) -> u64 {
        self.bad_trace_id + self.bad_span_id + self.too_large
    }

    /// One English sentence for the client (OTLP S04).
    pub fn message(&self, span_bytes_max: usize) -> String {
        let mut parts = Vec::new();
        if self.bad_trace_id > 0 {
            parts.push(format!(
                "{} without a trace id of 16 bytes that are not all zero",
                self.bad_trace_id
            ));
        }
        if self.bad_span_id > 0 {
            parts.push(format!(
                "{} without a span id of 8 bytes that are not all zero",
                self.bad_span_id
            ));
        }
        if self.too_large > 0 {
            let limit = format!("larger than {span_bytes_max} bytes with its resource and scope");
            parts.push(format!("{} {limit} (raise wal.segment_size)", self.too_large));
        }
        format!("spans not accepted: {}", parts.join(", "))
    }
}

impl<'a, 'b> Draft<'a, 'b> {
    pub fn new(
        bump: &'b Bump,
        by_trace: &'b mut HashTable<u32>,
        policies: &'b PolicySet,
        hash_key: HashKey,
        span_bytes_max: usize,
    ) -> Draft<'a, 'b> {
        by_trace.clear();
        Draft {
            policies,
            hash_key,
            span_bytes_max,
            by_trace,
            resource_match: ResourceMatch::NONE,
            span_match: ResourceMatch::NONE,
            pieces: BumpVec::new_in(bump),
            resources: BumpVec::new_in(bump),
            scopes: BumpVec::new_in(bump),
            traces: BumpVec::new_in(bump),
            spans: BumpVec::with_capacity_in(64, bump),
            rejected: Rejected::default(),
        }
    }

    /// Leaves out the traces whose randomness is below `taken_from`; returns how many spans they have.
    pub fn leave_out(&mut self, taken_from: u64) -> u64 {
        if taken_from == 0 {
            return 0;
        }
        let before = self.spans.len();
        let Draft { spans, traces, .. } = self;
        spans.retain(|span| {
            let trace = &traces[span.trace as usize];
            let randomness = trace.digest.randomness.value();
            randomness.unwrap_or_else(|| trace.id.randomness()) >= taken_from
        });
        (before - self.spans.len()) as u64
    }

    fn part(&mut self, pieces: &[&'a [u8]], resource: u32) -> PartDraft {
        let start = self.pieces.len();
        self.pieces.extend_from_slice(pieces);
        let len = pieces.iter().map(|piece| piece.len()).sum();
        PartDraft {
            pieces: start..self.pieces.len(),
            len,
            resource,
        }
    }

    /// The number of a trace in `traces`; spans of one trace mostly stand together.
    #[inline]
    fn trace_number(&mut self, id: TraceId) -> u32 {
        if let Some(last) = self.spans.last()
            && self.traces[last.trace as usize].id == id
        {
            return last.trace;
        }
        let hash = self.hash_key.trace(&id);
        let Draft { by_trace, traces, .. } = self;
        let is_it = |number: &u32| traces[*number as usize].id == id;
        if let Some(number) = by_trace.find(hash, is_it) {
            return *number;
        }
        let number = traces.len() as u32;
        traces.push(TraceDraft {
            id,
            hash,
            digest: Digest::EMPTY,
        });
        by_trace.insert_unique(hash, number, |number| traces[*number as usize].hash);
        number
    }
}

impl<'a> CutSink<'a> for Draft<'a, '_> {
    fn resource(&mut self, part: &[&'a [u8]]) {
        let attributes = part.iter().flat_map(|piece| view::resource_attributes(piece));
        self.resource_match = self.policies.match_resource(attributes);
        self.span_match = self.resource_match;
        let part = self.part(part, 0);
        self.resources.push(part);
    }

    fn scope(&mut self, part: &[&'a [u8]]) {
        let part = self.part(part, self.resources.len() as u32 - 1);
        self.scopes.push(part);
    }

    #[inline(always)]
    fn wants_attribute(&self, key: &[u8]) -> bool {
        self.policies.wants_attribute(key)
    }

    fn attribute(&mut self, key: &'a [u8], value: AnyValueView<'a>) {
        self.policies.match_attribute(key, value, &mut self.span_match);
    }

    #[inline]
    fn span(&mut self, span: &SpanView<'a>) {
        let matched = std::mem::replace(&mut self.span_match, self.resource_match);
        let Some(trace) = TraceId::new(span.trace_id) else {
            self.rejected.bad_trace_id += 1;
            return;
        };
        let Some(span_id) = SpanId::new(span.span_id) else {
            self.rejected.bad_span_id += 1;
            return;
        };
        let scope = &self.scopes[self.scopes.len() - 1];
        let alone = span.bytes.len() + scope.len + self.resources[scope.resource as usize].len;
        if alone > self.span_bytes_max {
            self.rejected.too_large += 1;
            return;
        }
        let trace = self.trace_number(trace);
        let digest = self.policies.fold_matched(span, matched);
        let merged = &mut self.traces[trace as usize].digest;
        *merged = merged.merge(digest);
        let parent = SpanId::new(span.parent_span_id);
        self.spans.push(SpanDraft {
            bytes: span.bytes,
            scope: self.scopes.len() as u32 - 1,
            trace,
            fingerprint: self.hash_key.span(span_id.as_bytes()),
            parent: parent.map_or(0, |parent| self.hash_key.span(parent.as_bytes())),
        });
    }
}
