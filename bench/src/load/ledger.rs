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

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use super::Outcome;
use super::batch::Sent;

pub const MAGIC: &[u8; 8] = b"TKLEDG01";
/// Outcome: acknowledged whole.
pub const ACKED: u8 = 1;

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
            Outcome::Acked => ACKED,
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

/// A request as a ledger has it.
#[derive(Debug, Default)]
pub struct SentRequest {
    pub runs: Vec<SentRun>,
    /// `None`: unanswered.
    pub outcome: Option<u8>,
}

#[derive(Debug)]
pub struct SentRun {
    pub trace_id: [u8; 16],
    pub marks: u8,
    pub span_ids: Vec<[u8; 8]>,
}

/// Every request by its number. A torn last record is left out; other bytes that are no ledger are an error.
pub fn read(bytes: &[u8]) -> Result<BTreeMap<u64, SentRequest>, &'static str> {
    let mut rest = bytes.strip_prefix(MAGIC).ok_or("it is no ledger")?;
    let mut requests: BTreeMap<u64, SentRequest> = BTreeMap::new();
    while let Some((head, tail)) = rest.split_first_chunk::<5>() {
        let length = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
        let Some((record, tail)) = tail.split_at_checked(length) else {
            break;
        };
        rest = tail;
        let (number, mut body) = record
            .split_first_chunk::<8>()
            .ok_or("a record without a number")?;
        let request = requests.entry(u64::from_le_bytes(*number)).or_default();
        if head[0] == b'A' {
            request.outcome = body.first().copied();
            continue;
        }
        while !body.is_empty() {
            let (run, tail) = read_run(body).ok_or("a run that ends early")?;
            request.runs.push(run);
            body = tail;
        }
    }
    Ok(requests)
}

fn read_run(bytes: &[u8]) -> Option<(SentRun, &[u8])> {
    let (trace_id, bytes) = bytes.split_first_chunk::<16>()?;
    let (&marks, bytes) = bytes.split_first()?;
    let (count, bytes) = bytes.split_first_chunk::<2>()?;
    let (ids, tail) = bytes.split_at_checked(8 * usize::from(u16::from_le_bytes(*count)))?;
    let run = SentRun {
        trace_id: *trace_id,
        marks,
        span_ids: ids.as_chunks::<8>().0.to_vec(),
    };
    Some((run, tail))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_record_is_left_out_and_other_bytes_are_an_error() {
        let mut bytes = MAGIC.to_vec();
        let run = [&[7; 16][..], &[1, 1, 0], &[9; 8]].concat();
        bytes.extend_from_slice(&[b'S', 8 + 27, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend_from_slice(&run);
        let whole = bytes.len();
        bytes.extend_from_slice(&[b'A', 9, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, ACKED]);
        let outcome = |bytes: &[u8]| read(bytes).expect("a ledger")[&5].outcome;
        assert_eq!(outcome(&bytes), Some(ACKED));
        for end in whole..bytes.len() {
            assert_eq!(outcome(&bytes[..end]), None);
        }
        let sent = &read(&bytes).expect("a ledger")[&5].runs[0];
        assert_eq!(
            (sent.trace_id, sent.marks, &sent.span_ids[..]),
            ([7; 16], 1, &[[9; 8]][..])
        );
        assert!(read(b"something else").is_err());
    }
}
