//! Verdicts at the landing core: logged first, then acted upon.
//!
//! A Keep acts once its verdict entry is durable: the spans are read where they lie, framed for export with
//! their annotations, and appended to the kept log; only when that copy is durable, or every destination has
//! got it, is the place in the log let go (W3). Any other verdict lets go at once.

use super::fetch::{Fetched, READ_BYTES, ReadOp, WhichLog};
use super::queue::{KeptEntry, Readers};
use super::record::{BY_HOME, COPIED, CopiedRecord, EARLY, KEPT, KeptRecord, VERDICTS, VerdictRecord};
use super::room::Room;
use super::search::SearchId;
use super::{Landing, LandingOptions};
use crate::base::block::BlockPool;
use crate::base::ids::{Place, Position, TraceId};
use crate::base::time::Now;
use crate::export::retry::Loss;
use crate::gossip::PeerDecision;
use crate::otlp::join::{Annotation, AttributeValue, Joiner, ThresholdMark};
use crate::otlp::payload::SpansPayload;
use crate::route::{Decision, Places, Settlement};
use crate::stats::Stats;
use crate::verdict::Verdict;
use crate::wal::{EntryFlags, Log, Refused};

/// Framed bytes copied in one turn, and so how long a turn may get.
const TURN_BYTES_MAX: usize = 256 << 10;
/// Verdicts of one entry.
const VERDICTS_PER_ENTRY: usize = 1024;
/// Places looked ahead for reads while the first one is waited for.
const LOOK_AHEAD_COUNT: usize = 32;

/// A kept fragment on its way to the kept log.
#[derive(Debug)]
pub(super) struct KeepJob {
    trace: TraceId,
    decision: Decision,
    late: bool,
    span_count: u32,
    places: Places,
    /// The place to copy next.
    next: usize,
    copied_spans: u32,
    /// What was written of it so far.
    kept: Option<(Position, Position)>,
    /// End of its verdict entry.
    durable_at: Position,
    /// An upgrade: who waits for the copies.
    search: Option<SearchId>,
}

impl KeepJob {
    /// Of a trace that was dropped, whose places were found again and are held.
    pub fn upgrade(
        search: SearchId,
        trace: TraceId,
        decision: Decision,
        places: Places,
        span_count: u32,
        durable_at: Position,
    ) -> KeepJob {
        KeepJob {
            trace,
            decision,
            late: false,
            span_count,
            places,
            next: 0,
            copied_spans: 0,
            kept: None,
            durable_at,
            search: Some(search),
        }
    }
}

impl<P: BlockPool, W> Landing<P, W> {
    /// Logs the verdicts and lets go of what is not kept. Empties the list.
    pub fn settle(&mut self, now: Now, settlements: &mut Vec<Settlement>, stats: &mut Stats) {
        while !settlements.is_empty() {
            let chunk = ..settlements.len().min(VERDICTS_PER_ENTRY);
            for settlement in &mut settlements[chunk] {
                self.forward.settle(settlement);
            }
            let mut payload = std::mem::take(&mut self.framed);
            payload.clear();
            let records = || settlements[chunk].iter().map(VerdictRecord::of);
            records().for_each(|record| record.put(&mut payload));
            let end = self.append(now, VERDICTS, &payload);
            self.framed = payload;
            self.note_decided(records(), end);
            for settlement in settlements.drain(chunk) {
                stats.spans.decided[settlement.decision.verdict as usize] += u64::from(settlement.span_count);
                self.act_on(settlement, end);
            }
        }
    }

    /// Logs a Keep that the cluster is to be told, and that settles nothing here. It may be told once the log is
    /// durable up to the position returned.
    pub fn log_announced(&mut self, now: Now, keeps: &[PeerDecision]) -> Position {
        for kind in [EARLY, BY_HOME] {
            let of_kind = keeps.iter().filter(|keep| keep.by_home == (kind == BY_HOME));
            let records: Vec<VerdictRecord> = of_kind
                .map(|keep| VerdictRecord {
                    trace: keep.trace,
                    decision: keep.decision,
                    late: false,
                })
                .collect();
            for chunk in records.chunks(VERDICTS_PER_ENTRY) {
                let mut payload = Vec::with_capacity(chunk.len() * VerdictRecord::BYTES);
                chunk.iter().for_each(|record| record.put(&mut payload));
                let end = self.append(now, kind, &payload);
                self.note_announced(chunk, end);
            }
        }
        self.log.hasten();
        self.tail
    }

    /// The log is on disk up to the first position; what ends between the two could not be written.
    pub fn log_reach(&self) -> (Position, Position) {
        (self.log.durable(), self.log.failed_through())
    }

    fn act_on(&mut self, settlement: Settlement, durable_at: Position) {
        match settlement.decision.verdict {
            Verdict::Keep => self.keeps.push_back(KeepJob {
                trace: settlement.trace,
                decision: settlement.decision,
                late: settlement.late,
                span_count: settlement.span_count,
                places: settlement.places,
                next: 0,
                copied_spans: 0,
                kept: None,
                durable_at,
                search: None,
            }),
            Verdict::Rollup | Verdict::Deny => {
                settlement
                    .places
                    .iter()
                    .for_each(|place| self.log.release(place.entry(), 1));
            }
            Verdict::Pending => unreachable!("V1: a settlement carries a verdict"),
        }
    }

    /// Keeps that a replay found without a copy: their verdicts are durable already.
    ///
    /// If the kept log has lost copies, it goes on beyond them, so cursors pass their positions before they are made
    /// anew, and another replay would take them for delivered. So they are declared void, and until the new ones are on
    /// record cursors stand still for the log: damage to either record loses nothing.
    pub(super) fn resume_keeps(&mut self, now: Now, keeps: Vec<Settlement>, has_lost: bool) {
        if has_lost {
            self.stand_still(keeps.len());
        }
        for chunk in keeps.chunks(VERDICTS_PER_ENTRY) {
            let mut payload = Vec::new();
            for keep in chunk {
                if let Some(last) = last_to_leave(&keep.places) {
                    CopiedRecord::void(keep.trace, last).put(&mut payload);
                }
            }
            self.append(now, COPIED, &payload);
        }
        keeps
            .into_iter()
            .for_each(|keep| self.act_on(keep, Position::default()));
    }

    /// Appends one of our own entries; these are not subject to admission.
    pub(super) fn append(&mut self, now: Now, kind: crate::wal::EntryKind, payload: &[u8]) -> Position {
        let out = self.log.begin(now, kind, payload.len());
        out.expect("our own entries fit in a segment")
            .copy_from_slice(payload);
        self.tail = self.log.finish(EntryFlags::LAST_OF_RUN).end;
        self.tail
    }

    /// Copies what was kept and whose verdict is durable; `true`: there is more for another turn.
    pub(super) fn copy_kept(&mut self, now: Now, stats: &mut Stats) -> bool {
        let durable = self.log.durable();
        let (mut bytes, mut finished_count) = (0, 0);
        let mut more = false;
        while self.keeps.front().is_some_and(|job| job.durable_at <= durable) {
            if bytes >= TURN_BYTES_MAX {
                more = true;
                break;
            }
            let mut job = self.keeps.pop_front().expect("just seen");
            let finished = self.copy_job(now, &mut job, &mut bytes, stats);
            if !finished {
                more = bytes >= TURN_BYTES_MAX;
                self.keeps.push_front(job);
                break;
            }
            self.finish_job(&job, stats);
            finished_count += 1;
        }
        if !self.copied.is_empty() {
            let copied = std::mem::take(&mut self.copied);
            self.append(now, COPIED, &copied);
            self.copied = copied;
            self.copied.clear();
        }
        self.note_recorded(finished_count);
        more
    }

    fn finish_job(&mut self, job: &KeepJob, stats: &mut Stats) {
        let lost = u64::from(job.span_count.saturating_sub(job.copied_spans));
        stats.spans_not_copied += lost;
        let tail = self.queue.end();
        let (from, to) = job.kept.unwrap_or((tail, tail));
        if let Some(search) = job.search {
            self.upgrade_is_copied(to, search, u64::from(job.copied_spans));
        }
        let Some(last) = last_to_leave(&job.places) else {
            return;
        };
        let (entry, run) = (last.entry(), last.run());
        CopiedRecord {
            trace: job.trace,
            entry,
            run,
            span_count: job.span_count,
            from,
            to,
        }
        .put(&mut self.copied);
    }

    /// Copies places of one job; `true` when all are done.
    fn copy_job(&mut self, now: Now, job: &mut KeepJob, bytes: &mut usize, stats: &mut Stats) -> bool {
        while let Some(place) = job.places.get(job.next).copied() {
            if *bytes >= TURN_BYTES_MAX {
                return false;
            }
            let Landing {
                log,
                fetcher,
                framed,
                options,
                ..
            } = self;
            framed.clear();
            let spans = match find_payload(log, fetcher, place.entry()) {
                Found::Waiting => {
                    self.look_ahead(job);
                    return false;
                }
                Found::Lost => None,
                Found::Here(payload) => frame(options, job, place, payload, framed, stats),
            };
            match spans {
                Some(span_count) => {
                    let framed = std::mem::take(&mut self.framed);
                    let kept = self.keep_framed(now, job, place, span_count, &framed);
                    let framed_len = framed.len();
                    self.framed = framed;
                    if !kept {
                        return false;
                    }
                    *bytes += framed_len;
                }
                None => self.log.release(place.entry(), 1),
            }
            job.next += 1;
        }
        true
    }

    /// Appends `framed` to the kept log for those that want it. Whoever has no room loses it, counted, and with
    /// nobody left to get it the place is let go. `false`: there will be room later.
    fn keep_framed(
        &mut self,
        now: Now,
        job: &mut KeepJob,
        place: Place,
        span_count: u32,
        framed: &[u8],
    ) -> bool {
        if self.kept.undurable_bytes() > self.options.unsynced_bytes_max {
            // There is room again with the end of a sync (M1).
            return false;
        }
        let len = KeptRecord::HEADER_BYTES + framed.len();
        let wanted = self.wanted_by(job.decision.policy);
        let room = match self.kept.admit(len as u64) {
            _ if wanted.is_empty() => Room::None,
            Ok(()) => Room::Made,
            Err(Refused::Full { .. }) => match self.make_room(wanted) {
                // Room that is not there yet comes with the end of a write.
                Room::Made if self.kept.admit(len as u64).is_err() => Room::Later,
                room => room,
            },
            Err(Refused::NoSpace { .. } | Refused::Failing { .. }) => Room::Later,
            Err(Refused::TooLarge { .. }) => Room::None,
        };
        let readers = match room {
            Room::Later => return false,
            Room::Made => self.readers_of(wanted, framed.len(), span_count),
            Room::None => {
                self.lose_for(wanted, Loss::QueueFull, u64::from(span_count));
                Readers::default()
            }
        };
        job.copied_spans += span_count;
        if readers.is_empty() {
            self.log.release(place.entry(), 1);
            return true;
        }
        let record = KeptRecord {
            trace: job.trace,
            span_count,
            policy: job.decision.policy,
            reason: job.decision.reason,
            late: job.late,
            framed,
        };
        match self.kept.begin(now, KEPT, len) {
            Ok(out) => {
                record.write(out);
                let appended = self.kept.finish(EntryFlags::LAST_OF_RUN);
                self.kept.hold(appended.position, 1);
                self.copies.push_back((appended.end, place));
                self.enqueue(KeptEntry {
                    trace: job.trace,
                    position: appended.position,
                    end: appended.end,
                    framed_len: framed.len() as u32,
                    span_count,
                    policy: job.decision.policy,
                    readers,
                    kept_at: now.instant,
                    needs: self.log.resumes_at(),
                });
                let from = job.kept.map_or(appended.position, |(from, _)| from);
                job.kept = Some((from, appended.end));
            }
            Err(_) => {
                self.lose_for(readers, Loss::QueueFull, u64::from(span_count));
                self.log.release(place.entry(), 1);
            }
        }
        true
    }

    /// Asks for the entries that the next jobs will want.
    fn look_ahead(&mut self, job: &KeepJob) {
        let durable = self.log.durable();
        let ahead = self.keeps.iter().take_while(|job| job.durable_at <= durable);
        let places = job.places[job.next..]
            .iter()
            .chain(ahead.flat_map(|job| &job.places));
        let mut asked = None;
        for place in places.take(LOOK_AHEAD_COUNT) {
            if asked != Some(place.entry()) && self.log.resident(place.entry()).is_none() {
                asked = Some(place.entry());
                if let Some(op) = read_op(&self.log, place.entry())
                    && self.fetcher.fetch(op) == Fetched::Busy
                {
                    return;
                }
            }
        }
    }

    /// Kept fragments that wait for their copy.
    pub fn uncopied_count(&self) -> usize {
        self.keeps.len()
    }

    /// Spans of a kept trace that are not in the kept log yet.
    pub(super) fn uncopied_spans_of(&self, trace: TraceId) -> u64 {
        let jobs = self.keeps.iter().filter(|job| job.trace == trace);
        jobs.map(|job| u64::from(job.span_count.saturating_sub(job.copied_spans)))
            .sum()
    }

    /// Lets go of places whose copy is durable or has reached every destination.
    pub(super) fn let_copies_go(&mut self) {
        let safe = self.kept.durable().max(self.lowest_cursor());
        while let Some((end, place)) = self.copies.front().copied()
            && end <= safe
        {
            self.copies.pop_front();
            self.log.release(place.entry(), 1);
        }
        self.answer_upgrades(safe);
    }
}

/// Which of the places of a fragment leaves the log last; a copy forward may stand before it in the list.
pub(super) fn last_to_leave(places: &Places) -> Option<Place> {
    places.iter().max().copied()
}

pub(super) enum Found<'a> {
    Here(&'a [u8]),
    Waiting,
    Lost,
}

pub(super) fn read_op<P: BlockPool>(log: &Log<P>, entry: Position) -> Option<ReadOp> {
    let (segment, offset) = log.locate(entry)?;
    Some(ReadOp {
        log: WhichLog::Main,
        position: entry,
        segment,
        offset,
        len: READ_BYTES,
    })
}

/// The payload of the entry at `position`, from memory or from disk.
pub(super) fn find_payload<'a, P: BlockPool>(
    log: &'a Log<P>,
    fetcher: &'a mut super::Fetcher,
    position: Position,
) -> Found<'a> {
    if let Some(entry) = log.resident(position) {
        return Found::Here(entry.payload);
    }
    let Some(op) = read_op(log, position) else {
        return Found::Lost;
    };
    match fetcher.fetch(op) {
        Fetched::Waiting | Fetched::Busy => Found::Waiting,
        Fetched::Lost => Found::Lost,
        Fetched::Here(bytes) => match log.checked(position, bytes) {
            Ok(entry) => Found::Here(entry.payload),
            Err(_) => Found::Lost,
        },
    }
}

/// Writes the run that `place` names to `out`, framed and annotated. `None`: the payload has no such run.
fn frame(
    options: &LandingOptions,
    job: &KeepJob,
    place: Place,
    payload: &[u8],
    out: &mut Vec<u8>,
    stats: &mut Stats,
) -> Option<u32> {
    let payload = SpansPayload::parse(payload).ok()?;
    let (run, spans) = payload.run(place.run())?;
    assert_eq!(
        run.trace, job.trace,
        "W3: place {place:?} names a run of another trace"
    );
    let attributes = scope_attributes(options, job);
    let threshold = job
        .decision
        .threshold
        .map_or(ThresholdMark::Erase, ThresholdMark::Raise);
    let mut joiner = Joiner::new(Annotation {
        scope_attributes: &attributes,
        threshold,
    });
    payload.join(spans, &mut joiner)?;
    let not_written = joiner.finish(out);
    stats.thresholds_unwritten += not_written.unparsable_count + not_written.too_long_count;
    Some(run.span_count)
}

/// What the contract puts on every scope of a kept trace.
fn scope_attributes<'a>(
    options: &'a LandingOptions,
    job: &KeepJob,
) -> Vec<(&'static str, AttributeValue<'a>)> {
    if !options.annotate {
        return Vec::new();
    }
    let policy = job
        .decision
        .policy
        .and_then(|number| options.policy_names.get(number.0 as usize));
    let mut attributes = Vec::with_capacity(6);
    if let Some(policy) = policy {
        attributes.push(("tailsampling.policy", AttributeValue::String(policy)));
    }
    if job.late {
        attributes.push(("tailsampling.cached_decision", AttributeValue::Bool(true)));
    }
    attributes.push((
        "tailkeep.reason",
        AttributeValue::String(job.decision.reason.name()),
    ));
    attributes.push(("tailkeep.node", AttributeValue::String(&options.node)));
    if job.decision.incomplete {
        attributes.push(("tailkeep.incomplete", AttributeValue::Bool(true)));
    }
    if job.decision.upgraded {
        attributes.push(("tailkeep.upgraded", AttributeValue::Bool(true)));
    }
    attributes
}
