//! Copying forward: what an old segment still holds for open traces is written again at the tail, so that a long
//! trace pins no segment.
//!
//! ```text
//!  oldest held segment ─ read, a piece at a time ─→ which of these places are of open traces?  ──→ owners
//!                                                                                                    │
//!            tail ←─ entry that names what it replaces ←──────────── these ←─────────────────────────┘
//!              └─ durable ─→ «old place is now new place» ──→ owner: from now on settlements name the new one
//!                                                               └──→ the old place is let go (W3)
//! ```
//!
//! A place that is being moved has a record from the question on. A settlement that names it while it is only asked
//! for ends the record: nothing was written, nothing will be. One that names it later settles the copy instead, so that
//! the log has for each verdict the places that a replay finds for it: a copy is never written after the verdict on
//! what it replaces. Only the old entry stays until its copy is durable, whatever was decided meanwhile.
//!
//! It is done when the oldest held segment is older than `retain`, or files are nearly as many as may be. Bytes copied
//! are bounded by bytes that came in: a log that is mostly alive refuses requests instead.

use super::fetch::{ReadOp, WhichLog};
use super::record::SPANS;
use super::{Landing, settle};
use crate::base::block::BlockPool;
use crate::base::ids::{Place, Position, TraceId};
use crate::base::time::{Instant, Now};
use crate::otlp::payload::{self, Run, Span, SpansPayload};
use crate::route::Settlement;
use crate::wal::entry::entry_bytes;
use crate::wal::{EntryError, EntryFlags};
use hashbrown::HashMap;
use std::time::Duration;

/// Read together, and so about what is copied together.
const PIECE_BYTES: usize = 1 << 20;
/// Between two looks at a segment that stays held.
const REST: Duration = Duration::from_secs(1);
/// Of so many bytes appended one may be copied.
const APPENDED_PER_COPIED: u64 = 3;

/// A question to the owner of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// Is this a place of an open trace?
    Open { trace: TraceId, place: Place },
    /// The spans at `old` are at `new` too, durably. Once this is answered no settlement names `old` any more.
    Moved { trace: TraceId, old: Place, new: Place },
}

/// What the owner says, after all settlements that it gave before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Open { place: Place, is_open: bool },
    Moved { old: Place },
}

impl Question {
    pub fn trace(&self) -> TraceId {
        match self {
            Question::Open { trace, .. } | Question::Moved { trace, .. } => *trace,
        }
    }
}

impl Answer {
    /// The place that was asked about.
    pub fn place(&self) -> Place {
        match self {
            Answer::Open { place, .. } | Answer::Moved { old: place } => *place,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Asked,
    Open,
    /// Copied to a place whose entry ends at `end`; `settled`: no settlement will name the old place any more.
    Copied {
        new: Place,
        end: Position,
        settled: bool,
    },
    /// The owner has been told of the copy.
    Told {
        new: Place,
    },
}

#[derive(Clone, Copy, Debug)]
struct Record {
    trace: TraceId,
    phase: Phase,
}

/// The segment being gone through: what is left of it.
#[derive(Clone, Copy, Debug)]
struct Walk {
    position: Position,
    end: Position,
    /// Bytes that the next piece needs at least.
    needed: usize,
}

/// What is being copied forward.
///
/// Invariant: the log holds the old place of each record beyond [`Phase::Open`] once, and its new one.
#[derive(Debug, Default)]
pub(super) struct Forward {
    walk: Option<Walk>,
    /// To be read, or being read.
    wanted: Option<ReadOp>,
    reading: Option<ReadOp>,
    /// Spans entries of the piece, while they are asked for.
    entries: Vec<(Position, Vec<u8>)>,
    records: HashMap<Place, Record>,
    questions: Vec<Question>,
    /// Questions of this piece that were not answered yet. None may be left when another one begins, or its answer
    /// would be taken for that to a later question.
    unanswered: usize,
    rests_until: Option<Instant>,
    /// Bytes that may be copied, and up to where the log had grown when they were counted.
    allowance: u64,
    counted_to: Position,
    copied_bytes: u64,
}

impl Forward {
    pub fn new(tail: Position, segment_bytes: u64) -> Forward {
        Forward {
            allowance: segment_bytes,
            counted_to: tail,
            ..Forward::default()
        }
    }

    pub fn poll_read(&mut self) -> Option<ReadOp> {
        let op = self.wanted.take()?;
        self.reading = Some(op);
        Some(op)
    }

    pub fn is_reading(&self, op: &ReadOp) -> bool {
        self.reading == Some(*op)
    }

    /// Nothing is being moved, so that the log holds each place once.
    pub fn is_idle(&self) -> bool {
        let reads = self.wanted.is_some() || self.reading.is_some();
        !reads && self.records.is_empty() && self.entries.is_empty() && self.unanswered == 0
    }

    pub fn memory_bytes(&self) -> u64 {
        let entries: usize = self.entries.iter().map(|(_, payload)| payload.capacity()).sum();
        (entries + self.records.capacity() * size_of::<(Place, Record)>()) as u64
    }

    /// A settlement names these places. Of one that has been copied it settles the copy.
    pub fn settle(&mut self, settlement: &mut Settlement) {
        if self.records.is_empty() {
            return;
        }
        for place in &mut settlement.places {
            let Some(record) = self.records.get_mut(place) else {
                continue;
            };
            match &mut record.phase {
                Phase::Asked | Phase::Open => {
                    self.records.remove(place);
                }
                Phase::Copied { new, settled, .. } => {
                    *settled = true;
                    *place = *new;
                }
                Phase::Told { new } => *place = *new,
            }
        }
    }
}

impl<P: BlockPool, W> Landing<P, W> {
    /// Questions for the owners of traces.
    pub fn take_questions(&mut self) -> Vec<Question> {
        std::mem::take(&mut self.forward.questions)
    }

    pub fn handle_answer(&mut self, answer: Answer) {
        self.forward.unanswered -= 1;
        match answer {
            Answer::Open { place, is_open } => {
                let Some(record) = self.forward.records.get_mut(&place) else {
                    return;
                };
                match (record.phase, is_open) {
                    (Phase::Asked, true) => record.phase = Phase::Open,
                    (Phase::Asked, false) => {
                        self.forward.records.remove(&place);
                    }
                    (phase, _) => unreachable!("{place:?} was asked for and is {phase:?}"),
                }
            }
            Answer::Moved { old } => {
                let record = self.forward.records.remove(&old);
                assert!(record.is_some(), "W3: {old:?} was moved and is not known");
                self.log.release(old.entry(), 1);
            }
        }
    }

    /// The piece that was asked for, as far as the file has it.
    pub(super) fn handle_piece(&mut self, bytes: Option<Vec<u8>>) {
        let read = self.forward.reading.take();
        let (Some(op), Some(walk)) = (read, &mut self.forward.walk) else {
            return;
        };
        let bytes = bytes.unwrap_or_default();
        let mut at = 0;
        while walk.position < walk.end && at < bytes.len() {
            match self.log.walk(walk.position, &bytes[at..]) {
                Ok((entry, next)) => {
                    if entry.kind == SPANS {
                        self.forward
                            .entries
                            .push((entry.position, entry.payload.to_vec()));
                    }
                    walk.position = next;
                    walk.needed = 0;
                }
                Err(EntryError::Short { needed })
                    if (at > 0 || needed > op.len) && walk.position.plus(needed as u64) <= walk.end =>
                {
                    walk.needed = needed;
                    break;
                }
                // Damaged, or the end of a group that was not finished: on to the next that can be one.
                Err(_) => walk.position = walk.position.plus(Place::ENTRY_ALIGN),
            }
            at = walk.position.since(op.position) as usize;
        }
        if bytes.is_empty() {
            // The disk gives nothing back: these places stay where they are.
            walk.position = walk.end;
        }
        for (position, payload) in &self.forward.entries {
            let Ok(payload) = SpansPayload::parse(payload) else {
                continue;
            };
            for (number, (run, _)) in payload.runs().enumerate() {
                let place = Place::new(self.options.log, *position, number as u16);
                let trace = run.trace;
                let phase = Phase::Asked;
                self.forward.records.insert(place, Record { trace, phase });
                self.forward.questions.push(Question::Open { trace, place });
                self.forward.unanswered += 1;
            }
        }
    }

    /// Goes on with copying as far as that is possible now.
    pub(super) fn copy_forward(&mut self, now: Now) {
        self.count_allowance();
        if self.forward.wanted.is_some() || self.forward.reading.is_some() {
            return;
        }
        if !self.forward.records.is_empty() || !self.forward.entries.is_empty() {
            self.move_records(now);
        }
        if !self.forward.records.is_empty() || self.forward.unanswered > 0 {
            return;
        }
        if self.forward.walk.is_none_or(|walk| walk.position >= walk.end) {
            let is_done = self.forward.walk.take().is_some();
            if is_done {
                self.forward.rests_until = Some(now.instant.plus(REST));
            }
            if self.forward.rests_until.is_some_and(|until| now.instant < until) {
                return;
            }
            self.forward.rests_until = None;
            if self.stopping {
                return;
            }
            let Some((position, end)) = self.log.pinned(now) else {
                return;
            };
            let needed = 0;
            self.forward.walk = Some(Walk {
                position,
                end,
                needed,
            });
        }
        let walk = self.forward.walk.expect("begun above");
        let Some(op) = settle::read_op(&self.log, walk.position) else {
            // It has been let go meanwhile.
            self.forward.walk = None;
            self.forward.rests_until = Some(now.instant.plus(REST));
            return;
        };
        let rest = walk.end.since(walk.position) as usize;
        let len = PIECE_BYTES.max(walk.needed).min(rest);
        self.forward.wanted = Some(ReadOp {
            log: WhichLog::Main,
            len,
            ..op
        });
    }

    /// When it is worth another look although nothing happens.
    pub(super) fn forward_timeout(&self) -> Option<Instant> {
        match self.forward.rests_until {
            Some(until) => Some(until),
            None if self.forward.walk.is_some() => None,
            None => self.log.pinned_from(),
        }
    }

    /// Copies what is open, tells of what is durable.
    fn move_records(&mut self, now: Now) {
        let is_asked = |record: &Record| record.phase == Phase::Asked;
        if self.forward.records.values().any(is_asked) {
            return;
        }
        let entries = std::mem::take(&mut self.forward.entries);
        for (position, payload) in &entries {
            self.copy_entry(now, *position, payload);
        }
        let durable = self.log.durable();
        let Landing { forward, log, .. } = self;
        let questions = &mut forward.questions;
        forward.records.retain(|old, record| match record.phase {
            // There was no room for its copy.
            Phase::Open => false,
            Phase::Copied { end, .. } if end > durable => true,
            Phase::Copied { settled: true, .. } => {
                log.release(old.entry(), 1);
                false
            }
            Phase::Copied { new, .. } => {
                let (trace, old) = (record.trace, *old);
                questions.push(Question::Moved { trace, old, new });
                forward.unanswered += 1;
                record.phase = Phase::Told { new };
                true
            }
            Phase::Asked | Phase::Told { .. } => true,
        });
        // In the order of the log, so that the same log is always copied in the same way.
        questions.sort_unstable_by_key(|question| match question {
            Question::Open { place, .. } => *place,
            Question::Moved { old, .. } => *old,
        });
    }

    /// Writes the runs of an entry that are open again, if there is room for them.
    fn copy_entry(&mut self, now: Now, position: Position, payload: &[u8]) {
        let Ok(payload) = SpansPayload::parse(payload) else {
            return;
        };
        let place = |number: u16| Place::new(self.options.log, position, number);
        let is_open = |number: &u16| {
            let record = self.forward.records.get(&place(*number));
            record.is_some_and(|record| record.phase == Phase::Open)
        };
        let open: Vec<u16> = (0..payload.run_count()).filter(is_open).collect();
        let Some(copy) = RunsCopy::new(payload, &open, position) else {
            return;
        };
        let bytes = entry_bytes(copy.len) as u64;
        if bytes > self.forward.allowance || !self.log.has_room_for_own(bytes) {
            return;
        }
        let Ok(out) = self.log.begin(now, SPANS, copy.len) else {
            return;
        };
        copy.write(out);
        let appended = self.log.finish(EntryFlags::LAST_OF_RUN);
        self.tail = appended.end;
        self.forward.allowance -= bytes;
        self.forward.copied_bytes += bytes;
        // What is copied is not what came in.
        self.forward.counted_to = self.forward.counted_to.plus(bytes);
        self.log.hold(appended.position, open.len() as u32);
        for (number, old) in open.iter().enumerate() {
            let old = Place::new(self.options.log, position, *old);
            let new = Place::new(self.options.log, appended.position, number as u16);
            let record = self.forward.records.get_mut(&old).expect("it is open");
            let hash = self.options.hash_key.trace(&record.trace);
            self.index.note(hash, appended.position);
            record.phase = Phase::Copied {
                new,
                end: appended.end,
                settled: false,
            };
        }
    }

    fn count_allowance(&mut self) {
        let grown = self.tail.0.saturating_sub(self.forward.counted_to.0) / APPENDED_PER_COPIED;
        if grown > 0 {
            self.forward.counted_to = self.tail;
            self.forward.allowance = (self.forward.allowance + grown).min(self.log.segment_bytes());
        }
    }

    /// Bytes copied forward since the start.
    pub fn forwarded_bytes(&self) -> u64 {
        self.forward.copied_bytes
    }
}

/// Some runs of a spans entry, with the contexts that they need, as another entry.
struct RunsCopy<'a> {
    payload: SpansPayload<'a>,
    resources: Vec<&'a [u8]>,
    /// Number of the resource in the copy, and the part.
    scopes: Vec<(u16, &'a [u8])>,
    /// By scope of the original: its number in the copy.
    scope_numbers: Vec<Option<u16>>,
    runs: Vec<Run>,
    replaces: Vec<(Position, u16)>,
    len: usize,
}

impl<'a> RunsCopy<'a> {
    /// `None`: there is nothing to copy, or no version wrote this.
    fn new(payload: SpansPayload<'a>, numbers: &[u16], position: Position) -> Option<RunsCopy<'a>> {
        let mut copy = RunsCopy {
            payload,
            resources: Vec::new(),
            scopes: Vec::new(),
            scope_numbers: vec![None; usize::from(payload.scope_count())],
            runs: Vec::new(),
            replaces: Vec::new(),
            len: 0,
        };
        let mut resource_numbers: HashMap<u16, u16> = HashMap::new();
        for number in numbers {
            let (run, spans) = payload.run(*number)?;
            copy.runs.push(run);
            copy.replaces.push((position, *number));
            for span in spans {
                let known = copy.scope_numbers.get_mut(usize::from(span.scope))?;
                if known.is_some() {
                    continue;
                }
                let (resource_part, scope_part) = payload.context(span.scope)?;
                let resources = &mut copy.resources;
                let resource = *resource_numbers
                    .entry(payload.resource_of(span.scope)?)
                    .or_insert_with(|| {
                        resources.push(resource_part);
                        resources.len() as u16 - 1
                    });
                *known = Some(copy.scopes.len() as u16);
                copy.scopes.push((resource, scope_part));
            }
        }
        let lens = |parts: &[&[u8]]| parts.iter().map(|part| part.len()).collect::<Vec<_>>();
        let scope_parts: Vec<&[u8]> = copy.scopes.iter().map(|(_, part)| *part).collect();
        copy.len = payload::payload_len(&lens(&copy.resources), &lens(&scope_parts), &copy.runs)
            + payload::REPLACES_BYTES * copy.runs.len();
        (!copy.runs.is_empty()).then_some(copy)
    }

    fn write(&self, out: &mut [u8]) {
        let resources: Vec<[&[u8]; 1]> = self.resources.iter().map(|part| [*part]).collect();
        let resources: Vec<&[&[u8]]> = resources.iter().map(|pieces| &pieces[..]).collect();
        let scopes: Vec<(u16, [&[u8]; 1])> = self
            .scopes
            .iter()
            .map(|(resource, part)| (*resource, [*part]))
            .collect();
        let scopes: Vec<(u16, &[&[u8]])> = scopes
            .iter()
            .map(|(resource, pieces)| (*resource, &pieces[..]))
            .collect();
        let spans = self.replaces.iter().flat_map(|(_, number)| {
            let (_, spans) = self.payload.run(*number).expect("looked at before");
            spans.map(|span| Span {
                scope: self.scope_numbers[usize::from(span.scope)].expect("every scope of a run is copied"),
                bytes: span.bytes,
            })
        });
        payload::write_moved(out, &resources, &scopes, &self.runs, &self.replaces, spans);
    }
}
