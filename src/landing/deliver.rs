//! From the kept log to destinations: who has got what, and what is handed out next.
//!
//! Each destination gathers a shipment a little at a time, so that no turn is long, and moves its cursor when
//! the shipment has arrived. What a destination is not to get (by its filter, or because its queue was full) it
//! passes over.

use super::fetch::{Fetched, ReadOp, STRETCH_BYTES, WhichLog};
use super::queue::{Amount, KeptEntry, Queue, Readers};
use super::record::{self, CURSORS, KeptRecord};
use super::{CURSOR_INTERVAL, Landing};
use crate::base::block::BlockPool;
use crate::base::ids::{Position, TraceId};
use crate::base::time::{Instant, Now};
use crate::export::batch::Batch;
use crate::export::retry::{Arrival, Failure, Fate, Loss};
use crate::export::{Destination, DestinationStats, Notice, Shipment};
use crate::route::PolicyNumber;
use crate::wal::{EntryKind, Log};

/// Framed bytes that one destination gathers in one turn, and entries of others that it passes over.
const TURN_BYTES_MAX: usize = 64 << 10;
pub(super) const TURN_PASSED_MAX: u64 = 4096;

/// A destination and the shipment that it is gathering.
#[derive(Debug)]
pub(super) struct Delivery {
    pub(super) destination: Destination,
    gathering: Option<Gathering>,
    ready: Option<(Shipment, Amount)>,
    out: Option<Out>,
    /// All that was ever queued for it, and what of that it has got or will never get.
    pub(super) queued: Amount,
    pub(super) done: Amount,
    /// Somebody was told that its queue is full.
    pub(super) full: bool,
}

#[derive(Debug)]
struct Gathering {
    batch: Batch,
    entries: u64,
    /// Entries for it, unreadable ones included.
    amount: Amount,
    unreadable_spans: u64,
    through: Position,
}

/// While copies that the kept log lost are made again the log hears of no cursor's progress.
#[derive(Debug)]
pub(super) struct Standstill {
    /// In the order of destinations.
    cursors: Vec<Position>,
    /// Copies that are not made yet. They are the first of all.
    missing: usize,
    /// Records of those that are made end here.
    recorded: Position,
}

/// The shipment that is out.
#[derive(Debug)]
struct Out {
    entries: u64,
    spans: u64,
    amount: Amount,
    since: Instant,
}

/// A destination as people see it.
#[derive(Clone, Debug)]
pub struct DestinationReport {
    pub id: String,
    pub state: &'static str,
    pub last_error: Option<String>,
    pub stats: DestinationStats,
    /// Not acknowledged yet.
    pub queued_spans: u64,
    pub queued_bytes: u64,
    pub oldest: Option<Instant>,
}

impl DestinationReport {
    /// Of the same destination as another log sees it.
    pub fn merge(&mut self, other: DestinationReport) {
        if self.last_error.is_none() && other.last_error.is_some() {
            self.state = other.state;
            self.last_error = other.last_error;
        }
        self.stats.merge(&other.stats);
        self.queued_spans += other.queued_spans;
        self.queued_bytes += other.queued_bytes;
        self.oldest = [self.oldest, other.oldest].into_iter().flatten().min();
    }

    pub fn failed_spans(&self) -> u64 {
        self.stats.failed_spans().map(|(_, spans)| spans).sum()
    }
}

impl Delivery {
    pub fn new(destination: Destination) -> Delivery {
        Delivery {
            destination,
            gathering: None,
            ready: None,
            out: None,
            queued: Amount::default(),
            done: Amount::default(),
            full: false,
        }
    }

    pub(super) fn waiting(&self) -> Amount {
        self.queued - self.done
    }

    pub(super) fn is_busy(&self) -> bool {
        self.gathering.is_some() || self.ready.is_some() || self.out.is_some()
    }

    /// Passes over what stands at the cursor and is not for it.
    fn pass_others(&mut self, queue: &Queue, index: usize) -> bool {
        let mut passed = 0;
        while passed < TURN_PASSED_MAX
            && let Some(entry) = queue.get(self.destination.next())
            && !entry.readers.contains(index)
        {
            self.destination.pass_over(entry.end, 1);
            passed += 1;
        }
        passed > 0
    }
}

impl<P: BlockPool, W> Landing<P, W> {
    /// Destinations that want what `policy` keeps.
    pub(super) fn wanted_by(&self, policy: Option<PolicyNumber>) -> Readers {
        let policy = policy.and_then(|number| self.policy_name(number));
        let mut readers = Readers::default();
        for (index, delivery) in self.deliveries.iter().enumerate() {
            if delivery.destination.options.wants.kept_by(policy) {
                readers.add(index);
            }
        }
        readers
    }

    pub(super) fn enqueue(&mut self, entry: KeptEntry) {
        for (index, delivery) in self.deliveries.iter_mut().enumerate() {
            if entry.readers.contains(index) {
                delivery.queued.add(&entry);
            }
        }
        self.queue.push(entry);
    }

    /// Puts an entry that a replay found back into the queue, for destinations that have not got it.
    pub(super) fn enqueue_replayed(&mut self, mut entry: KeptEntry) {
        self.kept.hold(entry.position, 1);
        entry.readers = self.wanted_by(entry.policy);
        for (index, delivery) in self.deliveries.iter().enumerate() {
            if entry.end <= delivery.destination.cursor() {
                entry.readers.remove(index);
            }
        }
        self.enqueue(entry);
    }

    /// Gathers shipments where they are due; `true`: there is more for another turn.
    pub(super) fn gather(&mut self, now: Now) -> bool {
        let mut more = false;
        let mut passed = false;
        for index in 0..self.deliveries.len() {
            let delivery = &mut self.deliveries[index];
            if !delivery.is_busy() {
                passed |= delivery.pass_old(now, &self.queue, index);
                passed |= delivery.pass_others(&self.queue, index);
            }
            more |= self.gather_for(now, index);
        }
        if passed {
            self.cursors_changed = true;
            self.forget_delivered();
        }
        more
    }

    fn gather_for(&mut self, now: Now, index: usize) -> bool {
        let Landing {
            deliveries,
            queue,
            kept,
            fetcher,
            stopping,
            draining,
            ..
        } = self;
        let at_once = *stopping || *draining;
        let delivery = &mut deliveries[index];
        let waiting_bytes = delivery.waiting().bytes;
        let destination = &mut delivery.destination;
        if delivery.ready.is_some() {
            return false;
        }
        if delivery.gathering.is_none() {
            let oldest = queue.get(destination.next()).map(|entry| entry.kept_at);
            if !destination.wants_shipment(now, waiting_bytes, oldest, at_once) {
                return false;
            }
        }
        let state = delivery.gathering.get_or_insert_with(|| Gathering {
            batch: Batch::new(destination.options.format),
            entries: 0,
            amount: Amount::default(),
            unreadable_spans: 0,
            through: Position::default(),
        });
        let batch_bytes = destination.options.batch_bytes as u64;
        let (mut turn_bytes, mut turn_passed) = (0, 0);
        let full = loop {
            let Some(entry) = queue.get(destination.next() + state.entries) else {
                break true;
            };
            if turn_bytes >= TURN_BYTES_MAX || turn_passed >= TURN_PASSED_MAX {
                break false;
            }
            if !entry.readers.contains(index) {
                turn_passed += 1;
                state.entries += 1;
                state.through = entry.end;
                continue;
            }
            if state.amount.bytes > 0 && state.amount.bytes + u64::from(entry.framed_len) > batch_bytes {
                break true;
            }
            let framed = match find_kept(kept, fetcher, entry.position, entry.end) {
                Ok(Some(payload)) => KeptRecord::read(payload),
                Ok(None) => None,
                // A shipment is as full as it can be: a disk answers sooner than a destination.
                Err(StillReading) => return false,
            };
            match framed {
                Some(kept) => state.batch.push(kept.trace, kept.framed),
                None => state.unreadable_spans += u64::from(entry.span_count),
            }
            state.entries += 1;
            state.amount.add(entry);
            state.through = entry.end;
            turn_bytes += entry.framed_len as usize;
        };
        if !full {
            return true;
        }
        let Gathering {
            batch,
            entries,
            amount,
            unreadable_spans,
            through,
        } = delivery.gathering.take().expect("just filled");
        let (pieces, unwritable) = batch.finish();
        destination.stats.lose(Loss::Unreadable, unreadable_spans);
        destination.stats.lose(Loss::Unwritable, unwritable);
        if pieces.is_empty() {
            // Nothing of it can be sent, and empty requests should not be (OTLP C15).
            destination.pass_over(through, entries);
            delivery.done += amount;
            self.cursors_changed = true;
            self.forget_delivered();
            return true;
        }
        let spans = (amount.spans - unreadable_spans).saturating_sub(unwritable);
        let shipment = Shipment {
            pieces,
            through,
            entries,
            spans,
        };
        delivery.ready = Some((shipment, amount));
        false
    }

    pub(super) fn poll_shipment(&mut self, now: Now) -> Option<(usize, Shipment)> {
        self.deliveries
            .iter_mut()
            .enumerate()
            .find_map(|(index, delivery)| {
                let (shipment, amount) = delivery.ready.take()?;
                delivery.destination.shipped();
                delivery.out = Some(Out {
                    entries: shipment.entries,
                    spans: shipment.spans,
                    amount,
                    since: now.instant,
                });
                Some((index, shipment))
            })
    }

    /// The shipment of a destination ended: `Ok` once it is as durable as the destination makes it. `random` is
    /// any number. What comes back is to be logged.
    pub fn handle_shipped(
        &mut self,
        now: Now,
        index: usize,
        through: Position,
        result: Result<Arrival, Failure>,
        random: u64,
    ) -> Option<Notice> {
        let delivery = &mut self.deliveries[index];
        let destination = &mut delivery.destination;
        let out = delivery.out.take().expect("one shipment is out, and it ended");
        destination.stats.request.record(now.instant.since(out.since));
        let (over, notice) = match result {
            Ok(arrival) => {
                if let Some(oldest) = self.queue.get(destination.next()) {
                    destination.stats.delay.record(now.instant.since(oldest.kept_at));
                }
                (true, destination.handle_arrived(&arrival, out.spans))
            }
            Err(failure) => {
                let (fate, notice) = destination.handle_failed(now, &failure, out.spans, random);
                (matches!(fate, Fate::Drop(_)), notice)
            }
        };
        if over {
            destination.pass_over(through, out.entries);
            delivery.done += out.amount;
            self.cursors_changed = true;
            self.forget_delivered();
            self.write_prologue();
        }
        notice
    }

    pub(super) fn forget_delivered(&mut self) {
        let next = self
            .deliveries
            .iter()
            .map(|delivery| delivery.destination.next())
            .min();
        let Some(next) = next else { return };
        while let Some(entry) = self.queue.pop_before(next) {
            self.kept.release(entry.position, 1);
        }
    }

    /// Everything before it has reached every destination.
    pub(super) fn lowest_cursor(&self) -> Position {
        let cursors = self
            .deliveries
            .iter()
            .map(|delivery| delivery.destination.cursor());
        cursors.min().unwrap_or_default()
    }

    fn cursors(&self) -> impl ExactSizeIterator<Item = (&str, Position)> {
        self.deliveries.iter().map(|delivery| {
            let destination = &delivery.destination;
            (destination.options.id.as_str(), destination.cursor())
        })
    }

    /// As the log is to have them.
    fn cursors_to_log(&self) -> impl ExactSizeIterator<Item = (&str, Position)> {
        let stand = self.standstill.as_ref().map(|standstill| &standstill.cursors);
        let cursors = self.cursors().enumerate();
        cursors.map(move |(index, (id, cursor))| (id, stand.map_or(cursor, |stand| stand[index])))
    }

    /// The next `missing` copies are made in place of ones that the log has records of.
    pub(super) fn stand_still(&mut self, missing: usize) {
        self.standstill = Some(Standstill {
            cursors: self.cursors().map(|(_, cursor)| cursor).collect(),
            missing,
            recorded: Position::default(),
        });
    }

    /// So many more copies are made, and on record before the tail.
    pub(super) fn note_recorded(&mut self, count: usize) {
        if let Some(standstill) = self
            .standstill
            .as_mut()
            .filter(|standstill| standstill.missing > 0)
        {
            standstill.missing = standstill.missing.saturating_sub(count);
            standstill.recorded = self.tail;
        }
    }

    pub(super) fn log_cursors(&mut self, now: Now) {
        let durable = self.log.durable();
        let is_over = |standstill: &mut Standstill| standstill.missing == 0 && standstill.recorded <= durable;
        if self.standstill.take_if(is_over).is_some() {
            self.cursors_changed = true;
        }
        let due = self.stopping || now.instant.since(self.cursors_logged_at) >= CURSOR_INTERVAL;
        if !self.cursors_changed || !due {
            return;
        }
        let mut payload = Vec::new();
        record::put_cursors(&mut payload, self.cursors_to_log());
        self.append(now, CURSORS, &payload);
        self.cursors_changed = false;
        self.cursors_logged_at = now.instant;
    }

    /// What the next segments begin with. Those of the kept log need names only: what its numbers mean.
    pub(super) fn write_prologue(&mut self) {
        let names = self.names();
        self.log
            .set_prologue(names)
            .expect("names and cursors are few, config sees to it");
    }

    fn names(&self) -> Vec<u8> {
        let mut payload = Vec::new();
        let decided = self.decided.newest();
        let contents = self.index.newest();
        record::put_names(
            &mut payload,
            &self.options.policy_names,
            self.cursors_to_log(),
            decided,
            contents,
        );
        payload
    }

    /// Names that decisions of peers may bring from now on.
    pub fn add_policy_names(&mut self, now: Now, names: &[String]) {
        self.options.policy_names.extend_from_slice(names);
        self.write_prologue();
        self.write_kept_prologue();
        // Decisions that are logged before the next segment begins need them too.
        let names = self.names();
        self.append(now, EntryKind::NAMES, &names);
    }

    pub(super) fn write_kept_prologue(&mut self) {
        let mut payload = Vec::new();
        record::put_names(
            &mut payload,
            &self.options.policy_names,
            [].into_iter(),
            None,
            None,
        );
        self.kept
            .set_prologue(payload)
            .expect("names are few, config sees to it");
    }

    pub(super) fn delivery_timeout(&self) -> Option<Instant> {
        let timeouts = self.deliveries.iter().filter_map(|delivery| {
            if delivery.ready.is_some() || delivery.gathering.is_some() {
                return None;
            }
            let oldest = self
                .queue
                .get(delivery.destination.next())
                .map(|entry| entry.kept_at);
            let age_max = delivery.destination.options.queue_age_max;
            let too_old = oldest.zip(age_max).map(|(oldest, age_max)| oldest.plus(age_max));
            let too_old = too_old.filter(|_| !delivery.is_busy());
            [delivery.destination.poll_timeout(oldest), too_old]
                .into_iter()
                .flatten()
                .min()
        });
        timeouts.min()
    }

    pub(super) fn queues_are_empty(&self) -> bool {
        let is_empty = |delivery: &Delivery| {
            !delivery.is_busy() && self.queue.get(delivery.destination.next()).is_none()
        };
        self.deliveries.iter().all(is_empty)
    }

    pub(super) fn deliveries_are_settled(&self) -> bool {
        self.deliveries.iter().all(|delivery| {
            let destination = &delivery.destination;
            let waiting = self.queue.get(destination.next()).is_some();
            !destination.is_shipping() && (!waiting || destination.is_failing())
        })
    }

    /// Spans of a kept trace that each destination has not got yet; walks the queue.
    pub fn queued_spans_of(&self, trace: TraceId) -> impl Iterator<Item = (&str, u64)> {
        let uncopied = self.uncopied_spans_of(trace);
        self.deliveries.iter().enumerate().map(move |(number, delivery)| {
            let destination = &delivery.destination;
            let waiting = self.queue.from(destination.next());
            let queued = waiting.filter(|entry| entry.trace == trace && entry.readers.contains(number));
            let queued: u64 = queued.map(|entry| u64::from(entry.span_count)).sum();
            (destination.options.id.as_str(), queued + uncopied)
        })
    }

    /// Bytes of shipments that are gathered or out.
    pub(super) fn shipment_bytes(&self) -> u64 {
        let amounts = self.deliveries.iter().flat_map(|delivery| {
            let gathering = delivery.gathering.as_ref().map(|gathering| gathering.amount);
            let ready = delivery.ready.as_ref().map(|(_, amount)| *amount);
            [gathering, ready, delivery.out.as_ref().map(|out| out.amount)]
        });
        amounts.flatten().map(|amount| amount.bytes).sum()
    }

    pub fn destination_id(&self, number: usize) -> &str {
        &self.deliveries[number].destination.options.id
    }

    pub fn destinations(&self) -> impl Iterator<Item = DestinationReport> {
        self.deliveries.iter().map(|delivery| {
            let destination = &delivery.destination;
            DestinationReport {
                id: destination.options.id.clone(),
                state: destination.state_name(),
                last_error: destination.last_error().map(str::to_string),
                stats: destination.stats.clone(),
                queued_spans: delivery.waiting().spans,
                queued_bytes: delivery.waiting().bytes,
                oldest: self.queue.get(destination.next()).map(|entry| entry.kept_at),
            }
        })
    }
}

struct StillReading;

/// The payload of a kept entry; `Ok(None)` if the disk does not give it back.
fn find_kept<'a, P: BlockPool>(
    kept: &'a Log<P>,
    fetcher: &'a mut super::Fetcher,
    position: Position,
    end: Position,
) -> Result<Option<&'a [u8]>, StillReading> {
    if let Some(entry) = kept.resident(position) {
        return Ok(Some(entry.payload));
    }
    let Some((segment, offset)) = kept.locate(position) else {
        return Ok(None);
    };
    let op = ReadOp {
        log: WhichLog::Kept,
        position,
        segment,
        offset,
        len: STRETCH_BYTES,
    };
    match fetcher.fetch_stretch(op, end.since(position)) {
        Fetched::Waiting | Fetched::Busy => Err(StillReading),
        Fetched::Lost => Ok(None),
        Fetched::Here(bytes) => Ok(kept.check(position, bytes).ok().map(|entry| entry.payload)),
    }
}
