//! From a draft to entries of the log: spans of one trace side by side, contexts once per entry.
//!
//! Entries are filled greedily to the room that the current block has ([`Log::payload_room`]), so that no
//! block ends with a large hole. Each trace of each entry is a run with a place; the places, digests and
//! fingerprints of a trace become one item for its owner.

use super::collect::{Draft, PartDraft};
use super::index::Index;
use super::record::SPANS;
use crate::base::block::BlockPool;
use crate::base::ids::{LogId, Place, Position};
use crate::base::time::Now;
use crate::otlp::payload::{self, Run, Span};
use crate::route::{self, Item, ItemBatch};
use crate::wal::{EntryFlags, Log};
use bumpalo::Bump;
use bumpalo::collections::Vec as BumpVec;

/// Writes the draft to the log as one run of entries and its items to the batches of their owners.
/// Returns the position that must be durable before the request is acknowledged; `None` when nothing was
/// written.
pub(super) fn write<P: BlockPool>(
    now: Now,
    bump: &Bump,
    draft: &Draft<'_, '_>,
    log_id: LogId,
    log: &mut Log<P>,
    index: &mut Index,
    batches: &mut [ItemBatch],
) -> Option<Position> {
    if draft.spans.is_empty() {
        return None;
    }
    let order = order_by_trace(bump, draft);
    let mut writer = Writer::new(bump, draft);
    let mut places = BumpVec::with_capacity_in(draft.traces.len() + 8, bump);
    let mut start = 0;
    let mut end = Position::default();
    while start < order.len() {
        let room = log.payload_room();
        let taken = writer.plan(&order[start..], room);
        let spans = &order[start..start + taken];
        start += taken;
        let out = log.begin(now, SPANS, writer.payload_len);
        writer.write(
            out.expect("collecting rejects a span that fits in no segment"),
            spans,
        );
        let flags = if start == order.len() {
            EntryFlags::LAST_OF_RUN
        } else {
            EntryFlags::NONE
        };
        let appended = log.finish(flags);
        log.hold(appended.position, writer.runs.len() as u32);
        end = appended.end;
        for (number, trace) in writer.run_traces.iter().enumerate() {
            places.push((*trace, Place::new(log_id, appended.position, number as u16)));
            index.note(draft.traces[*trace as usize].hash, appended.position);
        }
    }
    add_items(draft, &order, &places, batches);
    Some(end)
}

/// Numbers of spans, those of one trace side by side, otherwise as they came: a counting sort.
fn order_by_trace<'b>(bump: &'b Bump, draft: &Draft<'_, '_>) -> BumpVec<'b, u32> {
    let mut starts = BumpVec::with_capacity_in(draft.traces.len() + 1, bump);
    starts.resize(draft.traces.len() + 1, 0u32);
    for span in &draft.spans {
        starts[span.trace as usize + 1] += 1;
    }
    for trace in 0..draft.traces.len() {
        starts[trace + 1] += starts[trace];
    }
    let mut order = BumpVec::with_capacity_in(draft.spans.len(), bump);
    order.resize(draft.spans.len(), 0);
    for (number, span) in draft.spans.iter().enumerate() {
        let at = &mut starts[span.trace as usize];
        order[*at as usize] = number as u32;
        *at += 1;
    }
    order
}

/// The plan of one entry, reused for the next.
struct Writer<'d, 'a, 'b> {
    draft: &'d Draft<'a, 'b>,
    payload_len: usize,
    resources: BumpVec<'d, u32>,
    scopes: BumpVec<'d, u32>,
    runs: BumpVec<'d, Run>,
    run_traces: BumpVec<'d, u32>,
    /// By resource and scope of the request: number in the entry that `marks` names.
    resource_numbers: BumpVec<'d, (u32, u16)>,
    scope_numbers: BumpVec<'d, (u32, u16)>,
    /// Counts entries, so that the tables above need no clearing.
    mark: u32,
    bump: &'d Bump,
}

impl<'d, 'a, 'b> Writer<'d, 'a, 'b> {
    fn new(bump: &'d Bump, draft: &'d Draft<'a, 'b>) -> Self {
        let table = |len| {
            let mut table = BumpVec::with_capacity_in(len, bump);
            table.resize(len, (0, 0));
            table
        };
        Writer {
            draft,
            payload_len: 0,
            resources: BumpVec::new_in(bump),
            scopes: BumpVec::new_in(bump),
            runs: BumpVec::new_in(bump),
            run_traces: BumpVec::new_in(bump),
            resource_numbers: table(draft.resources.len()),
            scope_numbers: table(draft.scopes.len()),
            mark: 0,
            bump,
        }
    }

    /// Takes as many spans from the front of `order` as fit into `room`; the first always, since a span that
    /// is larger than a block gets an entry of its own.
    fn plan(&mut self, order: &[u32], room: usize) -> usize {
        self.mark += 1;
        self.resources.clear();
        self.scopes.clear();
        self.runs.clear();
        self.run_traces.clear();
        self.payload_len = payload::HEADER_BYTES;
        for (taken, number) in order.iter().enumerate() {
            let span = &self.draft.spans[*number as usize];
            let scope = &self.draft.scopes[span.scope as usize];
            let new_scope = self.scope_numbers[span.scope as usize].0 != self.mark;
            let new_resource = new_scope && self.resource_numbers[scope.resource as usize].0 != self.mark;
            let new_run = self.run_traces.last() != Some(&span.trace);
            let mut len = payload::SPAN_BYTES + span.bytes.len();
            if new_scope {
                len += payload::SCOPE_BYTES + scope.len;
            }
            if new_resource {
                len += payload::RESOURCE_BYTES + self.draft.resources[scope.resource as usize].len;
            }
            if new_run {
                len += payload::RUN_BYTES;
            }
            let full = self.payload_len + len > room
                || (new_run && self.runs.len() == Place::RUN_COUNT_MAX)
                || (new_scope && self.scopes.len() == u16::MAX as usize);
            if full && taken > 0 {
                return taken;
            }
            self.payload_len += len;
            if new_resource {
                self.resource_numbers[scope.resource as usize] = (self.mark, self.resources.len() as u16);
                self.resources.push(scope.resource);
            }
            if new_scope {
                self.scope_numbers[span.scope as usize] = (self.mark, self.scopes.len() as u16);
                self.scopes.push(span.scope);
            }
            if new_run {
                let trace = self.draft.traces[span.trace as usize].id;
                self.runs.push(Run {
                    trace,
                    span_count: 0,
                    span_bytes: 0,
                });
                self.run_traces.push(span.trace);
            }
            let run = self.runs.last_mut().expect("pushed above or for the span before");
            run.span_count += 1;
            run.span_bytes += (payload::SPAN_BYTES + span.bytes.len()) as u32;
        }
        order.len()
    }

    fn write(&self, out: &mut [u8], order: &[u32]) {
        let draft = self.draft;
        let pieces = |part: &PartDraft| &draft.pieces[part.pieces.clone()];
        let mut resources = BumpVec::with_capacity_in(self.resources.len(), self.bump);
        resources.extend(
            self.resources
                .iter()
                .map(|number| pieces(&draft.resources[*number as usize])),
        );
        let mut scopes = BumpVec::with_capacity_in(self.scopes.len(), self.bump);
        scopes.extend(self.scopes.iter().map(|number| {
            let scope = &draft.scopes[*number as usize];
            (self.resource_numbers[scope.resource as usize].1, pieces(scope))
        }));
        let spans = order.iter().map(|number| {
            let span = &draft.spans[*number as usize];
            Span {
                scope: self.scope_numbers[span.scope as usize].1,
                bytes: span.bytes,
            }
        });
        payload::write(out, &resources, &scopes, &self.runs, spans);
    }
}

/// One item per trace, to the batch of the trace's owner. `places` stand in the order of traces.
fn add_items(draft: &Draft<'_, '_>, order: &[u32], places: &[(u32, Place)], batches: &mut [ItemBatch]) {
    let (mut order, mut places) = (order, places);
    for (number, trace) in draft.traces.iter().enumerate() {
        let number = number as u32;
        let batch = &mut batches[route::owner(trace.hash, batches.len() as u16).0 as usize];
        let is_mine = |span: &&u32| draft.spans[**span as usize].trace == number;
        let (spans, rest) = order.split_at(order.iter().take_while(is_mine).count());
        order = rest;
        if spans.is_empty() {
            // Left out.
            continue;
        }
        let place_count = places.iter().take_while(|(trace, _)| *trace == number).count();
        let places_start = batch.places.len() as u32;
        batch
            .places
            .extend(places[..place_count].iter().map(|(_, place)| *place));
        places = &places[place_count..];
        let span_of = |span: &u32| &draft.spans[*span as usize];
        let spans_start = batch.fingerprints.len() as u32;
        batch
            .fingerprints
            .extend(spans.iter().map(|span| span_of(span).fingerprint));
        let parents_start = batch.fingerprints.len() as u32;
        add_parents(
            &mut batch.fingerprints,
            spans_start as usize,
            spans.iter().map(|span| span_of(span).parent),
        );
        batch.items.push(Item {
            trace: trace.id,
            digest: trace.digest,
            places: places_start..batch.places.len() as u32,
            spans: spans_start..parents_start,
            parents: parents_start..batch.fingerprints.len() as u32,
        });
    }
}

/// Appends the parents that are none of the spans `fingerprints[spans_start..]`, each once or more.
fn add_parents(fingerprints: &mut Vec<u32>, spans_start: usize, parents: impl Iterator<Item = u32>) {
    /// Above this many spans a sorted copy is searched instead of the list.
    const SCAN_COUNT_MAX: usize = 32;
    let spans_end = fingerprints.len();
    let mut sorted = Vec::new();
    if spans_end - spans_start > SCAN_COUNT_MAX {
        sorted.extend_from_slice(&fingerprints[spans_start..]);
        sorted.sort_unstable();
    }
    for parent in parents.filter(|parent| *parent != 0) {
        let known = match sorted.is_empty() {
            true => fingerprints[spans_start..spans_end].contains(&parent),
            false => sorted.binary_search(&parent).is_ok(),
        };
        if !known && fingerprints.last() != Some(&parent) {
            fingerprints.push(parent);
        }
    }
}
