//! What was sent and what was acknowledged, on disk, for comparing with what a server exports after a
//! crash.
//!
//! ```text
//!  file     = "TKLEDG01", then records; little-endian throughout
//!  record   = kind (1), length of the rest (4), rest
//!  kind 'S' = request (8), then runs: a request is about to be sent
//!     run   = trace id (16), marks (1), span count (2), span ids (8 each)
//!  kind 'A' = request (8), outcome (1): its reply was read, or will not come
//! ```
//!
//! Requests are numbered from 0. Marks: 1, one of the run's spans has status ERROR; 2, its root took
//! longer than two seconds. Outcomes: 1 acknowledged whole, 2 in part, 3 refused, 4 failed; no 'A' means
//! unanswered. A trace may have several runs, in one request and in several. Each record is one write, made
//! before the send and after the reply, so a generator that is killed leaves a true ledger with at most
//! a torn last record.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use super::Outcome;
use super::batch::Sent;

pub const MAGIC: &[u8; 8] = b"TKLEDG01";

pub struct Ledger {
    file: File,
    record: Vec<u8>,
}

impl Ledger {
    /// Replaces a file that is there.
    pub fn create(path: &Path) -> io::Result<Ledger> {
        let mut file = File::create(path)?;
        file.write_all(MAGIC)?;
        Ok(Ledger {
            file,
            record: Vec::new(),
        })
    }

    pub fn sent(&mut self, request: u64, spans: impl Iterator<Item = Sent>) {
        self.begin(b'S', request);
        let mut run: Option<Run> = None;
        for span in spans {
            let trace_id = span.trace.trace_id();
            let continued = run.take_if(|run| run.trace_id == trace_id && run.count < u16::MAX);
            let mut current = continued.unwrap_or_else(|| Run::begin(&mut self.record, trace_id));
            self.record.extend_from_slice(&span.span_id);
            current.count += 1;
            self.record[current.marks_at] |= span.marks;
            self.record[current.marks_at + 1..][..2].copy_from_slice(&current.count.to_le_bytes());
            run = Some(current);
        }
        self.write();
    }

    pub fn settled(&mut self, request: u64, outcome: Outcome) {
        self.begin(b'A', request);
        self.record.push(match outcome {
            Outcome::Acked => 1,
            Outcome::AckedInPart(_) => 2,
            Outcome::Refused => 3,
            Outcome::Failed => 4,
        });
        self.write();
    }

    fn begin(&mut self, kind: u8, request: u64) {
        self.record.clear();
        self.record.extend_from_slice(&[kind, 0, 0, 0, 0]);
        self.record.extend_from_slice(&request.to_le_bytes());
    }

    fn write(&mut self) {
        let length = (self.record.len() - 5) as u32;
        self.record[1..5].copy_from_slice(&length.to_le_bytes());
        self.file
            .write_all(&self.record)
            .expect("a ledger that misses records would convict an honest server");
    }
}

struct Run {
    trace_id: [u8; 16],
    marks_at: usize,
    count: u16,
}

impl Run {
    fn begin(record: &mut Vec<u8>, trace_id: [u8; 16]) -> Run {
        record.extend_from_slice(&trace_id);
        let marks_at = record.len();
        record.extend_from_slice(&[0; 3]);
        Run {
            trace_id,
            marks_at,
            count: 0,
        }
    }
}
