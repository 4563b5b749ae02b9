//! From parts and spans back to a request: what [`cut`](super::cut) took apart, and annotated if so wished.
//!
//! ```text
//!  resource(part) ┐      1 resource_spans ┌ part as it came
//!  scope(part)    ├─►                     └ 2 scope_spans ┌ part as it came, or its scope with our attributes
//!  span(body) …   ┘                                       └ 2 spans: body as it came, or with another trace_state
//! ```
//!
//! Every byte is copied once, from where it lies to the output. Protobuf wants lengths before contents, so the
//! joiner first gathers slices and adds up lengths; nothing is written until all are known.

use super::cut::CutSink;
use super::tracestate::{self, Applied};
use super::value::key_value;
use super::view::SpanView;
use super::wire::{Field, Fields, Value, bytes_field_len, put_bytes_field, put_bytes_head, put_varint_field};

pub use super::tracestate::ThresholdMark;

/// What exported spans say about why they were kept.
#[derive(Clone, Copy, Debug)]
pub struct Annotation<'a> {
    /// Put on every scope, in place of attributes of the same key that came in.
    pub scope_attributes: &'a [(&'a str, AttributeValue<'a>)],
    pub threshold: ThresholdMark,
}

impl Annotation<'_> {
    /// Everything leaves as it came.
    pub const NONE: Annotation<'static> = Annotation {
        scope_attributes: &[],
        threshold: ThresholdMark::AsCame,
    };
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AttributeValue<'a> {
    String(&'a str),
    Bool(bool),
}

/// Spans whose threshold could not be written; they left with the tracestate they came with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ThresholdsNotWritten {
    pub unparsable_count: u64,
    pub too_long_count: u64,
}

/// Gathers `resource`, then its `scope`s, each followed by its `span`s; then `finish` writes them.
///
/// A joiner carries one annotation, so it serves one trace; requests for several traces are the outputs of
/// several joiners one after the other. Spans before a scope, or scopes before a resource, have an empty one.
pub struct Joiner<'a> {
    annotation: Annotation<'a>,
    segments: Vec<Segment<'a>>,
    /// Bytes that did not come in: first our scope attributes, encoded once, then tracestates.
    made: Vec<u8>,
    scope_attributes_end: usize,
    resource: Option<Open>,
    scope: Option<Open>,
    finished_bytes: usize,
    not_written: ThresholdsNotWritten,
}

/// A stretch of the output.
enum Segment<'a> {
    /// Key and length of a message.
    Head {
        number: u32,
        bytes: usize,
    },
    Came(&'a [u8]),
    /// A range of `made`.
    Made {
        begin: usize,
        end: usize,
    },
}

/// A message that is still growing.
struct Open {
    /// Its head among the segments.
    head: usize,
    bytes: usize,
}

impl<'a> Joiner<'a> {
    pub fn new(annotation: Annotation<'a>) -> Joiner<'a> {
        let mut made = Vec::new();
        annotation
            .scope_attributes
            .iter()
            .for_each(|(key, value)| put_attribute(&mut made, key, *value));
        Joiner {
            annotation,
            segments: Vec::new(),
            scope_attributes_end: made.len(),
            made,
            resource: None,
            scope: None,
            finished_bytes: 0,
            not_written: ThresholdsNotWritten::default(),
        }
    }

    /// Begins a ResourceSpans; `part` is given in pieces, each made of whole fields.
    pub fn resource(&mut self, part: &[&'a [u8]]) {
        self.close_resource();
        let head = self.head(1);
        let bytes = part.iter().map(|piece| self.came(piece)).sum();
        self.resource = Some(Open { head, bytes });
    }

    /// Begins a ScopeSpans; `part` is given in pieces, each made of whole fields.
    pub fn scope(&mut self, part: &[&'a [u8]]) {
        if self.resource.is_none() {
            self.resource(&[]);
        }
        self.close_scope();
        let head = self.head(2);
        let bytes = if self.scope_attributes_end == 0 {
            part.iter().map(|piece| self.came(piece)).sum()
        } else {
            self.annotated_scope(part)
        };
        self.scope = Some(Open { head, bytes });
    }

    /// Adds a span, given as the body of its message.
    pub fn span(&mut self, body: &'a [u8]) {
        if self.scope.is_none() {
            self.scope(&[]);
        }
        let head = self.head(2);
        let bytes = match self.new_trace_state(body) {
            None => self.came(body),
            Some((begin, end)) => {
                let kept = self.came_but(body, |field| field.number == 3);
                kept + self.made_field(3, begin, end)
            }
        };
        self.close(Open { head, bytes });
        if let Some(scope) = &mut self.scope {
            scope.bytes += bytes_field_len(2, bytes);
        }
    }

    /// Bytes that [`Joiner::finish`] will write, so far.
    pub fn encoded_len(&self) -> usize {
        let scope = self
            .scope
            .as_ref()
            .map_or(0, |scope| bytes_field_len(2, scope.bytes));
        let resource = self
            .resource
            .as_ref()
            .map_or(0, |open| bytes_field_len(1, open.bytes + scope));
        self.finished_bytes + resource
    }

    /// Appends fields 1 (`resource_spans`) of an ExportTraceServiceRequest or TracesData to `out`.
    pub fn finish(mut self, out: &mut Vec<u8>) -> ThresholdsNotWritten {
        self.close_resource();
        let end = out.len() + self.finished_bytes;
        out.reserve(self.finished_bytes);
        for segment in &self.segments {
            match *segment {
                Segment::Head { number, bytes } => put_bytes_head(out, number, bytes),
                Segment::Came(bytes) => out.extend_from_slice(bytes),
                Segment::Made { begin, end } => out.extend_from_slice(&self.made[begin..end]),
            }
        }
        debug_assert_eq!(out.len(), end, "lengths were added up wrongly");
        self.not_written
    }

    fn head(&mut self, number: u32) -> usize {
        self.segments.push(Segment::Head { number, bytes: 0 });
        self.segments.len() - 1
    }

    fn close(&mut self, message: Open) {
        if let Segment::Head { bytes, .. } = &mut self.segments[message.head] {
            *bytes = message.bytes;
        }
    }

    fn close_scope(&mut self) {
        if let Some(scope) = self.scope.take() {
            if let Some(resource) = &mut self.resource {
                resource.bytes += bytes_field_len(2, scope.bytes);
            }
            self.close(scope);
        }
    }

    fn close_resource(&mut self) {
        self.close_scope();
        if let Some(resource) = self.resource.take() {
            self.finished_bytes += bytes_field_len(1, resource.bytes);
            self.close(resource);
        }
    }

    fn came(&mut self, bytes: &'a [u8]) -> usize {
        if !bytes.is_empty() {
            self.segments.push(Segment::Came(bytes));
        }
        bytes.len()
    }

    /// Adds the fields of `message` but those that `leave_out` names. Gives the bytes added.
    fn came_but(&mut self, message: &'a [u8], leave_out: impl Fn(&Field<'a>) -> bool) -> usize {
        let (mut begin, mut at, mut added) = (0, 0, 0);
        for field in Fields::checked(message) {
            let end = at + field.raw.len();
            if leave_out(&field) {
                added += self.came(&message[begin..at]);
                begin = end;
            }
            at = end;
        }
        added + self.came(&message[begin..])
    }

    /// Adds a field with bytes of our own, unless they are empty. Gives the bytes added.
    fn made_field(&mut self, number: u32, begin: usize, end: usize) -> usize {
        if begin == end {
            return 0;
        }
        self.segments.push(Segment::Head {
            number,
            bytes: end - begin,
        });
        self.segments.push(Segment::Made { begin, end });
        bytes_field_len(number, end - begin)
    }

    /// All occurrences of the scope become one, without attributes that ours replace, and with ours.
    fn annotated_scope(&mut self, part: &[&'a [u8]]) -> usize {
        let ours = self.annotation.scope_attributes;
        let is_replaced = |field: &Field<'a>| match *field {
            Field {
                number: 3,
                value: Value::Bytes(attribute),
                ..
            } => {
                let (key, _) = key_value(attribute);
                ours.iter().any(|(name, _)| name.as_bytes() == key)
            }
            _ => false,
        };
        let mut bytes = 0;
        for piece in part {
            bytes += self.came_but(piece, |field| field.number == 1);
        }
        let head = self.head(1);
        let mut scope_bytes = 0;
        for field in part.iter().flat_map(|piece| Fields::checked(piece)) {
            if let Field {
                number: 1,
                value: Value::Bytes(scope),
                ..
            } = field
            {
                scope_bytes += self.came_but(scope, is_replaced);
            }
        }
        self.segments.push(Segment::Made {
            begin: 0,
            end: self.scope_attributes_end,
        });
        scope_bytes += self.scope_attributes_end;
        self.close(Open {
            head,
            bytes: scope_bytes,
        });
        bytes + bytes_field_len(1, scope_bytes)
    }

    /// Where in `made` the tracestate lies that the span leaves with, if it is not the one it came with.
    fn new_trace_state(&mut self, span: &'a [u8]) -> Option<(usize, usize)> {
        if self.annotation.threshold == ThresholdMark::AsCame {
            return None;
        }
        let trace_states = Fields::checked(span).filter_map(|field| match field {
            Field {
                number: 3,
                value: Value::Bytes(text),
                ..
            } => Some(text),
            _ => None,
        });
        let came = trace_states.last().unwrap_or_default();
        let begin = self.made.len();
        match tracestate::apply(came, self.annotation.threshold, &mut self.made) {
            Applied::Changed => return Some((begin, self.made.len())),
            Applied::Unchanged => {}
            Applied::Unparsable => self.not_written.unparsable_count += 1,
            Applied::TooLong => self.not_written.too_long_count += 1,
        }
        None
    }
}

impl<'a> CutSink<'a> for Joiner<'a> {
    fn resource(&mut self, part: &[&'a [u8]]) {
        Joiner::resource(self, part);
    }

    fn scope(&mut self, part: &[&'a [u8]]) {
        Joiner::scope(self, part);
    }

    fn span(&mut self, span: &SpanView<'a>) {
        Joiner::span(self, span.bytes);
    }
}

/// Writes field 3 of an InstrumentationScope: a KeyValue.
fn put_attribute(out: &mut Vec<u8>, key: &str, value: AttributeValue<'_>) {
    let mut any_value = Vec::new();
    match value {
        AttributeValue::String(text) => put_bytes_field(&mut any_value, 1, text.as_bytes()),
        AttributeValue::Bool(truth) => put_varint_field(&mut any_value, 2, truth as u64),
    }
    put_bytes_head(
        out,
        3,
        bytes_field_len(1, key.len()) + bytes_field_len(2, any_value.len()),
    );
    put_bytes_field(out, 1, key.as_bytes());
    put_bytes_field(out, 2, &any_value);
}
