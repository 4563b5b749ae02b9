//! What damage may cost: the entries that it hit, each of them told, and nothing else.

use std::collections::{BTreeMap, BTreeSet};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;
use tailkeep::base::ids::{LogId, Position, TraceId};
use tailkeep::landing::record::{DECIDED, DecidedRecord, KEPT, KeptRecord, SPANS, VERDICTS, VerdictRecord};
use tailkeep::otlp::payload::SpansPayload;
use tailkeep::otlp::view::SpanView;
use tailkeep::wal::entry::{EntryHeader, Seed};
use tailkeep::wal::group::GroupHead;
use tailkeep::wal::recover::{Extent, Fallback, Recovered};
use tailkeep::wal::{EntryFlags, EntryKind, SegmentId, parse_header};

use crate::disk::Disk;
use crate::random::Random;
use crate::spans::{self, SpanKey};
use crate::start;

type Entries = BTreeMap<Position, (EntryKind, Vec<u8>)>;

/// What stood in entries that are not there any more.
#[derive(Debug, Default)]
pub struct Toll {
    pub spans: BTreeSet<SpanKey>,
    /// Their verdicts.
    pub traces: BTreeSet<u64>,
    /// Copies in the kept log.
    pub copies: BTreeSet<SpanKey>,
    /// Entries that went with the tail of the log: nothing sound says that they were synced.
    pub untold: usize,
}

impl Toll {
    /// Compares what a start finds with what it would find on a sound disk, and takes the disk as it is.
    pub fn collect(&mut self, log: LogId, disk: &mut Disk, fallback: Fallback) {
        if !disk.is_damaged {
            return;
        }
        let files = disk.files.iter();
        let sound = files.map(|(segment, file)| (*segment, file.sound_bytes()));
        let (_, before) = entries(log, &sound.collect(), fallback);
        let files = disk.files.iter();
        let actual = files.map(|(segment, file)| (*segment, file.bytes())).collect();
        let (recovered, after) = entries(log, &actual, fallback);
        let mark = synced_by_groups(&actual, fallback);
        assert!(
            recovered.synced >= mark,
            "a group says that {log:?} was synced up to {mark}: {recovered:?}"
        );
        for (position, (kind, payload)) in &before {
            match after.get(position) {
                Some(found) => assert_eq!(
                    found,
                    &(*kind, payload.clone()),
                    "{position} is believed although it changed"
                ),
                None => {
                    let is_told = recovered
                        .corrupt
                        .iter()
                        .any(|range| range.start <= *position && *position < range.end);
                    // A request in several entries, whose end is gone beyond the mark, goes from its first entry on.
                    let is_beyond = *position >= recovered.synced.min(recovered.start.cut);
                    assert!(
                        is_told || is_beyond || !recovered.unreadable.is_empty(),
                        "{position} of {log:?} is gone and nobody says so: {recovered:?}"
                    );
                    self.untold += usize::from(!is_told);
                    self.note(*kind, payload);
                }
            }
        }
        disk.accept_damage();
    }

    fn note(&mut self, kind: EntryKind, payload: &[u8]) {
        let number = |trace: &TraceId| spans::number(*trace);
        match kind {
            SPANS => {
                let payload = SpansPayload::parse(payload).expect("sound");
                for (run, spans) in payload.runs() {
                    let ids = spans.map(|span| SpanView::parse(span.bytes).expect("accepted before"));
                    let span = |view: SpanView<'_>| {
                        u64::from_be_bytes(view.span_id.try_into().expect("8 bytes")) - 1
                    };
                    self.spans
                        .extend(ids.map(|view| (spans::number(run.trace), span(view))));
                }
            }
            VERDICTS => {
                let records = VerdictRecord::read_all(payload).expect("sound");
                self.traces
                    .extend(records.iter().map(|record| number(&record.trace)));
            }
            DECIDED => {
                let record = DecidedRecord::read(payload).expect("sound");
                self.traces
                    .extend(record.kept.iter().map(|record| number(&record.trace)));
            }
            KEPT => {
                let record = KeptRecord::read(payload).expect("sound");
                let framed = ExportTraceServiceRequest::decode(record.framed).expect("sound");
                let scopes = framed.resource_spans.iter().flat_map(|part| &part.scope_spans);
                let id = |bytes: &[u8]| u64::from_be_bytes(bytes.try_into().expect("8 bytes")) - 1;
                let spans = scopes.flat_map(|scope| &scope.spans);
                self.copies
                    .extend(spans.map(|span| (number(&record.trace), id(&span.span_id))));
            }
            _ => {}
        }
    }
}

/// How far the log was synced as any sound group of a file with a sound header says, whatever a start looks at.
fn synced_by_groups(files: &BTreeMap<SegmentId, Vec<u8>>, fallback: Fallback) -> Position {
    let seed = Seed::new(fallback.log_seed);
    let mut synced = Position(0);
    for (segment, bytes) in files {
        let header = parse_header(&bytes[..bytes.len().min(4096)]).ok();
        let Some(header) = header.filter(|header| header.segment == *segment) else {
            continue;
        };
        for at in (4096..bytes.len()).step_by(4096) {
            let position = header.base.plus(at as u64 - 4096);
            let Ok(entry) = EntryHeader::read(seed, position, &bytes[at..]) else {
                continue;
            };
            if entry.kind == EntryKind::GROUP
                && entry.segment == *segment
                && let Ok(group) = entry.entry(&bytes[at..])
                && let Some(head) = GroupHead::read(group.payload)
            {
                synced = synced.max(head.synced_upto);
            }
        }
    }
    synced
}

fn entries(log: LogId, files: &BTreeMap<SegmentId, Vec<u8>>, fallback: Fallback) -> (Recovered, Entries) {
    let mut found = Entries::new();
    let recovered = start::recover_files(log, files, Some(fallback), Extent::Whole, |entry| {
        found.insert(entry.position, (entry.kind, entry.payload.to_vec()));
    });
    (recovered, found)
}

/// The canary of ignored checksums: spans change and their entries are stamped anew, as if nobody had looked.
pub fn change_behind_the_checks(disk: &mut Disk, seed: u64, random: &mut Random) {
    let segments: Vec<SegmentId> = disk.files.keys().copied().collect();
    for segment in segments {
        disk.alter(segment, |bytes| change(bytes, segment, Seed::new(seed), random));
    }
}

fn change(bytes: &mut [u8], segment: SegmentId, seed: Seed, random: &mut Random) {
    let u64_at = |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight"));
    for at in (4096..bytes.len() - 64).step_by(64) {
        if bytes[at..at + 4] != *b"tkE1" || bytes[at + 5] != SPANS.0 || u64_at(bytes, at + 16) != segment.0 {
            continue;
        }
        let length = u32::from_le_bytes(bytes[at + 8..at + 12].try_into().expect("four"));
        let entry = &mut bytes[at..at + 48 + length as usize];
        let header = EntryHeader {
            kind: SPANS,
            flags: EntryFlags(u16::from_le_bytes([entry[6], entry[7]])),
            length,
            segment,
            position: Position(u64_at(entry, 24)),
            sequence: u64_at(entry, 32),
        };
        // Only fillers are long rows of one letter, and their spans stay well formed.
        let is_filler = |at: usize| entry[at - 4..at + 4] == *b"xxxxxxxx";
        let from = 56 + random.index(entry.len());
        let Some(hit) = (from..entry.len().saturating_sub(8)).find(|at| is_filler(*at)) else {
            continue;
        };
        entry[hit] = b'y';
        header.stamp(seed, entry);
    }
}
