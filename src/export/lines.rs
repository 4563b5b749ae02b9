//! Kept entries as lines of OTLP/JSON: one object a line, never two traces in one line.

use crate::base::ids::TraceId;
use crate::otlp::json;

/// Collects kept entries; entries of one trace that follow each other share a line.
#[derive(Debug, Default)]
pub struct Lines {
    out: Vec<u8>,
    trace: Option<TraceId>,
    /// `resource_spans` fields of the trace that the next line is for.
    framed: Vec<u8>,
    /// Entries that could not be written as JSON: never for bytes that the cutter accepted.
    pub unwritable: u64,
}

impl Lines {
    pub fn push(&mut self, trace: TraceId, framed: &[u8]) {
        if self.trace != Some(trace) {
            self.end_line();
            self.trace = Some(trace);
        }
        self.framed.extend_from_slice(framed);
    }

    fn end_line(&mut self) {
        if self.framed.is_empty() {
            return;
        }
        let start = self.out.len();
        match json::encode(&json::TRACES_DATA, &self.framed, &mut self.out) {
            Ok(()) => self.out.push(b'\n'),
            Err(_) => {
                self.out.truncate(start);
                self.unwritable += 1;
            }
        }
        self.framed.clear();
    }

    /// All lines, each with its end.
    pub fn finish(mut self) -> (Vec<u8>, u64) {
        self.end_line();
        (self.out, self.unwritable)
    }
}
