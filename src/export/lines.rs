//! Kept entries as lines of OTLP/JSON: one object a line, never two traces in one line.

use crate::base::ids::TraceId;
use crate::otlp::json;

/// Where a piece should end: an allocator hands out so much from memory that is there, and more from fresh pages
/// each time.
const PIECE_BYTES: usize = 512 << 10;
/// What a span takes as JSON, in its bytes as protobuf: seldom more.
const JSON_FACTOR: usize = 3;

/// Collects kept entries; entries of one trace that follow each other share a line.
#[derive(Debug, Default)]
pub struct Lines {
    /// Whole lines each, [`PIECE_BYTES`] or a little more; only the first grows from nothing, since most batches end
    /// in it.
    pieces: Vec<Vec<u8>>,
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
        let wanted = self.framed.len() * JSON_FACTOR;
        match self.pieces.last() {
            Some(piece) if piece.is_empty() || piece.len() + wanted <= PIECE_BYTES => {}
            Some(_) => self.pieces.push(Vec::with_capacity(wanted.max(PIECE_BYTES))),
            None => self.pieces.push(Vec::new()),
        }
        let out = self.pieces.last_mut().expect("pushed, if there was none");
        match json::encode(&json::TRACES_DATA, &self.framed, out) {
            Ok(()) => out.push(b'\n'),
            Err(_) => self.unwritable += 1,
        }
        self.framed.clear();
    }

    /// All lines, each with its end, and how many entries are missing.
    pub fn finish(mut self) -> (Vec<Vec<u8>>, u64) {
        self.end_line();
        self.pieces.retain(|piece| !piece.is_empty());
        (self.pieces, self.unwritable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `resource_spans` of one span with so many bytes of name.
    fn framed(name_len: usize) -> Vec<u8> {
        use prost::Message;
        let span = opentelemetry_proto::tonic::trace::v1::Span {
            name: "n".repeat(name_len),
            ..Default::default()
        };
        let scopes = opentelemetry_proto::tonic::trace::v1::ScopeSpans {
            spans: vec![span],
            ..Default::default()
        };
        let resource = opentelemetry_proto::tonic::trace::v1::ResourceSpans {
            scope_spans: vec![scopes],
            ..Default::default()
        };
        opentelemetry_proto::tonic::trace::v1::TracesData {
            resource_spans: vec![resource],
        }
        .encode_to_vec()
    }

    #[test]
    fn pieces_are_whole_lines_and_follow_each_other() {
        let trace = |number: u8| TraceId::new(&[number; 16]).expect("not zero");
        // Two entries of a trace share a line; one line is larger than a piece.
        let entries = [
            (1, 10),
            (1, 20),
            (2, 300_000),
            (3, 300_000),
            (4, PIECE_BYTES),
            (5, 1),
            (6, 1),
        ];
        let mut lines = Lines::default();
        for (number, name_len) in entries {
            lines.push(trace(number), &framed(name_len));
        }
        let (pieces, unwritable) = lines.finish();
        assert_eq!(unwritable, 0);
        assert!(pieces.len() > 2, "{} pieces", pieces.len());
        for piece in &pieces {
            assert_eq!(piece.last(), Some(&b'\n'));
        }
        let spans_of_line = |line: &[u8]| -> Vec<usize> {
            let line: serde_json::Value = serde_json::from_slice(line).expect("JSON");
            let resources = line["resourceSpans"].as_array().expect("a list");
            let name = |resource: &serde_json::Value| {
                let name = &resource["scopeSpans"][0]["spans"][0]["name"];
                name.as_str().expect("a name").len()
            };
            resources.iter().map(name).collect()
        };
        let all = pieces.concat();
        let read: Vec<_> = all
            .split_inclusive(|byte| *byte == b'\n')
            .map(spans_of_line)
            .collect();
        assert_eq!(
            read,
            [
                vec![10, 20],
                vec![300_000],
                vec![300_000],
                vec![PIECE_BYTES],
                vec![1],
                vec![1]
            ]
        );
    }

    #[test]
    fn nothing_gives_no_piece() {
        assert_eq!(Lines::default().finish(), (Vec::new(), 0));
        let mut damaged = Lines::default();
        damaged.push(TraceId::new(&[1; 16]).expect("not zero"), b"\x0a\x7f");
        assert_eq!(damaged.finish(), (Vec::new(), 1));
    }
}
