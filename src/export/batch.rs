//! Kept entries gathered for one hand-out, in the form that their destination takes.

use super::lines::Lines;
use crate::base::ids::TraceId;

/// What a destination takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OTLP/JSON, an object a line.
    Lines,
    /// One ExportTraceServiceRequest.
    Request,
}

/// A hand-out that is being gathered.
#[derive(Debug)]
pub enum Batch {
    Lines(Lines),
    /// Its `resource_spans`, side by side: entries stand in the kept log as they leave, and a repeated field may
    /// be repeated. Equal resources are not merged; that would mean to decode what is only passed on.
    Request(Vec<u8>),
}

impl Batch {
    pub fn new(format: Format) -> Batch {
        match format {
            Format::Lines => Batch::Lines(Lines::default()),
            Format::Request => Batch::Request(Vec::new()),
        }
    }

    /// Adds the `resource_spans` fields of one kept entry.
    pub fn push(&mut self, trace: TraceId, framed: &[u8]) {
        match self {
            Batch::Lines(lines) => lines.push(trace, framed),
            Batch::Request(request) => request.extend_from_slice(framed),
        }
    }

    /// The pieces to hand out, none of them empty, and how many traces could not be written.
    pub fn finish(self) -> (Vec<Vec<u8>>, u64) {
        match self {
            Batch::Lines(lines) => lines.finish(),
            Batch::Request(request) if request.is_empty() => (Vec::new(), 0),
            Batch::Request(request) => (vec![request], 0),
        }
    }
}
