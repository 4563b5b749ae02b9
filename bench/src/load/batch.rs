//! Requests that are encoded once and sent many times, each time with fresh ids and times.
//!
//! ```text
//!  ┌ gRPC prefix (5) ┬ ExportTraceServiceRequest ───────────────────────────────────────────┐
//!  │ 0, length       │ resource_spans: resource, scope, span span span …                     │
//!  └─────────────────┴──────────────────────────────────┬─────────────────────────────────── ┘
//!                     patched in place: trace id, span id, parent id, start, end, event time
//! ```
//!
//! Encoding afresh would make the generator dearer than the server it measures. Sending the same bytes
//! again would be worse: repeated trace ids defeat grouping, and what is never closed is never decided.
//! So only what must differ is written anew, a few dozen bytes of each span.
//!
//! Requests come in *groups*: the traces of a group are spread over its `requests_per_trace` requests,
//! the members. With 1, the default, every request holds its traces whole.

pub mod encode;
pub mod span;

use bytes::BytesMut;

use super::identity::{Draw, Identity, TraceIdentity, TraceIds};
use encode::Message;

/// What the traffic looks like.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Mean bytes of a span as it lies in its scope, exception events not counted; single spans are up
    /// to a quarter smaller or larger.
    pub span_bytes: usize,
    pub spans_per_trace: usize,
    pub spans_per_request: usize,
    /// Members of a group.
    pub requests_per_trace: usize,
    /// Share of traces with one span that has status ERROR and an exception event.
    pub error_ratio: f64,
    /// Share of traces that take between 2.2 and 6 seconds; the others stay below 400 ms.
    pub slow_ratio: f64,
    /// Resources in each request.
    pub services: usize,
    /// Traces whose spans lie among each other within a request.
    pub interleave: usize,
    pub trace_ids: TraceIds,
}

/// Bytes before the message: the gRPC prefix, which HTTP leaves out.
pub const PREFIX_LEN: usize = 5;

/// One request, to be patched before each send.
///
/// Invariant: patching changes neither the length nor any byte that is not an id or a time.
pub struct Batch {
    pub bytes: BytesMut,
    pub member: usize,
    spans: Vec<SpanPatch>,
    traces_per_group: u64,
}

/// Where a span's changing parts lie in [`Batch::bytes`], and what to write there.
struct SpanPatch {
    span_at: u32,
    times_at: u32,
    /// 0: no event.
    event_time_at: u32,
    /// Within the group.
    trace: u32,
    index: u16,
    /// Of a root: its own index.
    parent: u16,
    started_before_ns: u64,
    ended_before_ns: u64,
    marks: u8,
}

/// A span of a patched batch, for the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    pub trace: TraceIdentity,
    pub span_id: [u8; 8],
    /// `MARK_ERROR`, `MARK_SLOW`.
    pub marks: u8,
}

/// This span has status ERROR.
pub const MARK_ERROR: u8 = 1;
/// This span is the root of a trace longer than two seconds.
pub const MARK_SLOW: u8 = 2;

impl Batch {
    pub fn span_count(&self) -> usize {
        self.spans.len()
    }

    /// Bytes of the OTLP message.
    pub fn body_len(&self) -> usize {
        self.bytes.len() - PREFIX_LEN
    }

    /// Writes the ids of group `group` and times that end at `now_ns` (Unix time).
    pub fn patch(&mut self, identity: &Identity, group: u64, now_ns: u64) {
        let first_trace = group * self.traces_per_group;
        let bytes = &mut self.bytes[..];
        let mut number = u64::MAX;
        let mut trace = identity.trace(first_trace);
        let mut trace_id = trace.trace_id();
        for span in &self.spans {
            if number != u64::from(span.trace) {
                number = u64::from(span.trace);
                trace = identity.trace(first_trace + number);
                trace_id = trace.trace_id();
            }
            let ids = &mut bytes[span.span_at as usize..][..span::PARENT_ID_AT + 8];
            ids[span::TRACE_ID_AT..][..16].copy_from_slice(&trace_id);
            ids[span::SPAN_ID_AT..][..8].copy_from_slice(&trace.span_id(span.index));
            if span.parent != span.index {
                ids[span::PARENT_ID_AT..][..8].copy_from_slice(&trace.span_id(span.parent));
            }
            let started = now_ns.wrapping_sub(span.started_before_ns).to_le_bytes();
            let ended = now_ns.wrapping_sub(span.ended_before_ns).to_le_bytes();
            let times = &mut bytes[span.times_at as usize..][..span::END_AFTER_START + 8];
            times[..8].copy_from_slice(&started);
            times[span::END_AFTER_START..].copy_from_slice(&ended);
            if span.event_time_at != 0 {
                bytes[span.event_time_at as usize..][..8].copy_from_slice(&ended);
            }
        }
    }

    /// The spans in wire order, as [`Batch::patch`] with the same group writes them.
    pub fn spans<'a>(&'a self, identity: &'a Identity, group: u64) -> impl Iterator<Item = Sent> + 'a {
        self.spans.iter().map(move |span| {
            let trace = identity.trace(group * self.traces_per_group + u64::from(span.trace));
            Sent {
                trace,
                span_id: trace.span_id(span.index),
                marks: span.marks,
            }
        })
    }
}

/// Which span of which trace of the group a request holds.
#[derive(Clone, Copy)]
struct Slot {
    trace: usize,
    index: usize,
    trace_len: usize,
}

/// Builds the members of groups, one group after the other.
pub struct Builder<'a> {
    shape: &'a Shape,
    draw: Draw,
    traces_built: u64,
}

impl<'a> Builder<'a> {
    /// Requires a shape that passed [`Shape::check`].
    pub fn new(shape: &'a Shape, seed: u64) -> Builder<'a> {
        Builder {
            shape,
            draw: Draw::new(seed ^ 0x7461_696c),
            traces_built: 0,
        }
    }

    /// One batch for each member.
    pub fn group(&mut self) -> Vec<Batch> {
        let shape = self.shape;
        let traces = shape.traces_per_group();
        let fates: Vec<Fate> = (0..traces).map(|_| self.fate()).collect();
        (0..shape.requests_per_trace)
            .map(|member| self.batch(member, &shape.slots(member), &fates))
            .collect()
    }

    /// Shares are dealt evenly instead of drawn, so that every run has the share it was asked for.
    fn fate(&mut self) -> Fate {
        let number = self.traces_built as f64;
        self.traces_built += 1;
        let dealt = |ratio: f64, offset: f64| {
            ((number + 1.0) * ratio + offset).floor() > (number * ratio + offset).floor()
        };
        let slow = dealt(self.shape.slow_ratio, 0.5);
        let duration_ms = if slow {
            self.draw.between(2_200, 6_000)
        } else {
            self.draw.between(20, 400)
        };
        Fate {
            error: dealt(self.shape.error_ratio, 0.0),
            slow,
            duration_ns: duration_ms * 1_000_000,
        }
    }

    fn batch(&mut self, member: usize, slots: &[Slot], fates: &[Fate]) -> Batch {
        let mut request = Message::default();
        let mut patches = Vec::with_capacity(slots.len());
        let services = self.shape.services;
        for service in 0..services {
            let mine = slots
                .iter()
                .filter(|slot| (slot.trace + slot.index) % services == service);
            let mut scope_spans = Message::default();
            let mut scope = Message::default();
            scope
                .text(1, "io.opentelemetry.tomcat-10.0")
                .text(2, "2.20.1-alpha");
            scope_spans.bytes(1, &scope.0);
            let first = patches.len();
            for slot in mine {
                let patch = self.span(&mut scope_spans, patches.len(), slot, &fates[slot.trace]);
                patches.push(patch);
            }
            let mut resource_spans = Message::default();
            resource_spans.bytes(1, &span::resource(service, &mut self.draw).0);
            let scope_at = resource_spans.bytes(2, &scope_spans.0);
            resource_spans.text(3, "https://opentelemetry.io/schemas/1.37.0");
            let resource_at = request.bytes(1, &resource_spans.0);
            for patch in &mut patches[first..] {
                patch.moved((PREFIX_LEN + resource_at + scope_at) as u32);
            }
        }
        let mut bytes = BytesMut::with_capacity(PREFIX_LEN + request.0.len());
        bytes.extend_from_slice(&[0]);
        bytes.extend_from_slice(&(request.0.len() as u32).to_be_bytes());
        bytes.extend_from_slice(&request.0);
        Batch {
            bytes,
            member,
            spans: patches,
            traces_per_group: fates.len() as u64,
        }
    }

    fn span(&mut self, scope_spans: &mut Message, position: usize, slot: &Slot, fate: &Fate) -> SpanPatch {
        // Neighbours have different sizes; the mean is one.
        const SIZES_PERCENT: [usize; 5] = [75, 110, 100, 125, 90];
        let index = slot.index;
        let has_error = fate.error && index + 1 == slot.trace_len;
        let plan = span::Plan {
            role: span::Role::of(index as u16),
            has_parent: index != 0,
            has_error,
            size: self.shape.span_bytes * SIZES_PERCENT[position % SIZES_PERCENT.len()] / 100,
        };
        let encoded = span::encode(&plan, &mut self.draw);
        let span_at = scope_spans.bytes(2, &encoded.message.0) as u32;
        // A span at depth d lies inside its parent: every level takes a tenth off both ends.
        let margin = fate.duration_ns / 20 * u64::from(depth(index).min(9));
        SpanPatch {
            span_at,
            times_at: span_at + encoded.times_at as u32,
            event_time_at: encoded.event_time_at.map_or(0, |at| span_at + at as u32),
            trace: slot.trace as u32,
            index: index as u16,
            parent: index.saturating_sub(1) as u16 / 2,
            started_before_ns: fate.duration_ns - margin,
            ended_before_ns: margin,
            marks: u8::from(has_error) * MARK_ERROR + u8::from(fate.slow && index == 0) * MARK_SLOW,
        }
    }
}

/// What befalls a trace.
struct Fate {
    error: bool,
    slow: bool,
    duration_ns: u64,
}

/// Levels below the root, where each span has two children.
fn depth(index: usize) -> u32 {
    (index + 1).ilog2()
}

impl SpanPatch {
    fn moved(&mut self, by: u32) {
        self.span_at += by;
        self.times_at += by;
        if self.event_time_at != 0 {
            self.event_time_at += by;
        }
    }
}

impl Shape {
    /// What cannot be built, in words for the operator.
    pub fn check(&self) -> Result<(), String> {
        let refuse = |wrong: bool, text: String| if wrong { Err(text) } else { Ok(()) };
        let span_bytes_min = span::SIZE_MIN * 4 / 3;
        refuse(
            self.span_bytes < span_bytes_min || self.span_bytes > 1 << 20,
            format!("--span-bytes must be {span_bytes_min} to 1048576"),
        )?;
        refuse(
            !(1..=1 << 20).contains(&self.spans_per_request),
            "--spans-per-request must be 1 to 1048576".into(),
        )?;
        refuse(
            !(1..=1 << 15).contains(&self.spans_per_trace),
            "--spans-per-trace must be 1 to 32768".into(),
        )?;
        refuse(
            !(1..=self.spans_per_trace).contains(&self.requests_per_trace),
            "--requests-per-trace must be 1 to --spans-per-trace".into(),
        )?;
        refuse(
            self.spans_per_trace > self.spans_per_request * self.requests_per_trace,
            "a trace does not fit: --spans-per-trace exceeds --spans-per-request × --requests-per-trace"
                .into(),
        )?;
        refuse(
            self.spans_per_request.saturating_mul(self.span_bytes) > 1 << 30,
            "a request would exceed 1 GiB".into(),
        )?;
        refuse(
            !(1..=self.spans_per_request).contains(&self.services) || self.interleave == 0,
            "--services must be 1 to --spans-per-request, --interleave at least 1".into(),
        )?;
        for (flag, ratio) in [
            ("--error-ratio", self.error_ratio),
            ("--slow-ratio", self.slow_ratio),
        ] {
            refuse(!(0.0..=1.0).contains(&ratio), format!("{flag} must be 0 to 1"))?;
        }
        Ok(())
    }

    /// The last trace of a group may be shorter than the others.
    pub fn traces_per_group(&self) -> usize {
        (self.spans_per_request * self.requests_per_trace).div_ceil(self.spans_per_trace)
    }

    /// The spans of member `member` in wire order: children before parents, as they end.
    fn slots(&self, member: usize) -> Vec<Slot> {
        let members = self.requests_per_trace;
        let spans = self.spans_per_request * members;
        let mut runs = Vec::new();
        for trace in 0..self.traces_per_group() {
            let trace_len = self.spans_per_trace.min(spans - trace * self.spans_per_trace);
            // Parts go round by trace, so that members have equally many spans.
            let mine = |index: &usize| (index * members / trace_len.max(members) + trace) % members == member;
            let run: Vec<Slot> = (0..trace_len)
                .rev()
                .filter(mine)
                .map(|index| Slot {
                    trace,
                    index,
                    trace_len,
                })
                .collect();
            runs.push(run);
        }
        let mut slots = Vec::with_capacity(self.spans_per_request);
        for together in runs.chunks(self.interleave) {
            let longest = together.iter().map(Vec::len).max().unwrap_or(0);
            for turn in 0..longest {
                slots.extend(together.iter().filter_map(|run| run.get(turn)));
            }
        }
        slots
    }
}

#[cfg(test)]
mod tests;
