//! From the kept log to destinations: who has got what, and what is handed out next.
//!
//! The queue lists the kept entries that some destination has not got. Each destination gathers a shipment a
//! little at a time, so that no turn is long, and moves its cursor when the shipment has arrived.

use super::fetch::{Fetched, READ_BYTES, ReadOp, WhichLog};
use super::record::{self, CURSORS, KeptRecord};
use super::{CURSOR_INTERVAL, Landing};
use crate::base::block::BlockPool;
use crate::base::ids::{Position, TraceId};
use crate::base::time::{Instant, Now};
use crate::export::lines::Lines;
use crate::export::{Destination, Shipment};
use crate::stats::Stats;
use crate::wal::Log;
use std::collections::VecDeque;

/// Framed bytes that one destination gathers in one turn.
const TURN_BYTES_MAX: usize = 64 << 10;

/// A kept entry that some destination has not got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptEntry {
    pub trace: TraceId,
    pub position: Position,
    pub end: Position,
    pub framed_len: u32,
    pub span_count: u32,
    pub kept_at: Instant,
    /// Its spans lie in the log at or after this: should the kept log be damaged, a start finds them there.
    pub needs: Position,
}

/// Kept entries in order. They are numbered from the start of the process.
#[derive(Debug, Default)]
pub(super) struct Queue {
    entries: VecDeque<KeptEntry>,
    /// Number of the first.
    first: u64,
    end: Position,
    /// All that was ever pushed.
    pushed: Amount,
}

/// Spans and framed bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Amount {
    spans: u64,
    bytes: u64,
}

impl Amount {
    fn add(&mut self, entry: &KeptEntry) {
        self.spans += u64::from(entry.span_count);
        self.bytes += u64::from(entry.framed_len);
    }
}

impl Queue {
    pub fn push(&mut self, entry: KeptEntry) {
        self.end = entry.end;
        self.pushed.add(&entry);
        self.entries.push_back(entry);
    }

    fn get(&self, number: u64) -> Option<&KeptEntry> {
        self.entries
            .get(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }

    /// The first entry that some destination has not got.
    pub fn oldest(&self) -> Option<&KeptEntry> {
        self.entries.front()
    }

    /// Where the last entry ever pushed ends.
    pub fn end(&self) -> Position {
        self.end
    }
}

/// A destination and the shipment that it is gathering.
#[derive(Debug)]
pub(super) struct Delivery {
    destination: Destination,
    gathering: Option<Gathering>,
    ready: Option<Shipment>,
    /// The shipment that is out: entries, spans and bytes of it.
    out: Option<(u64, u64, u64)>,
    out_at: Instant,
    /// Of all that was ever pushed to the queue, what has been gathered.
    gathered: Amount,
    /// `gathered` when the shipment that is out was begun.
    gathered_before: Amount,
}

#[derive(Debug, Default)]
struct Gathering {
    lines: Lines,
    entries: u64,
    spans: u64,
    framed_bytes: usize,
    through: Position,
}

/// A destination as people see it.
#[derive(Clone, Debug, PartialEq)]
pub struct DestinationReport {
    pub id: String,
    pub state: &'static str,
    pub last_error: Option<String>,
    pub sent_spans: u64,
    pub sent_bytes: u64,
    pub failed_spans: u64,
    pub retries: u64,
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
        self.sent_spans += other.sent_spans;
        self.sent_bytes += other.sent_bytes;
        self.failed_spans += other.failed_spans;
        self.retries += other.retries;
        self.queued_spans += other.queued_spans;
        self.queued_bytes += other.queued_bytes;
        self.oldest = [self.oldest, other.oldest].into_iter().flatten().min();
    }
}

impl Delivery {
    pub fn new(destination: Destination) -> Delivery {
        Delivery {
            destination,
            gathering: None,
            ready: None,
            out: None,
            out_at: Instant::default(),
            gathered: Amount::default(),
            gathered_before: Amount::default(),
        }
    }
}

impl<P: BlockPool, W> Landing<P, W> {
    /// Puts an entry that a replay found back into the queue; destinations that have it pass over it.
    pub(super) fn enqueue_replayed(&mut self, entry: KeptEntry) {
        self.kept.hold(entry.position, 1);
        for delivery in &mut self.deliveries {
            if entry.end <= delivery.destination.cursor() {
                delivery.destination.pass_over();
                delivery.gathered.add(&entry);
            }
        }
        self.queue.push(entry);
    }

    /// Gathers shipments where they are due; `true`: there is more for another turn.
    pub(super) fn gather(&mut self, now: Now) -> bool {
        let mut more = false;
        for index in 0..self.deliveries.len() {
            more |= self.gather_for(now, index);
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
            ..
        } = self;
        let Delivery {
            destination,
            gathering,
            ready,
            gathered,
            gathered_before,
            ..
        } = &mut deliveries[index];
        if ready.is_some() {
            return false;
        }
        if gathering.is_none() {
            let oldest = queue.get(destination.next()).map(|entry| entry.kept_at);
            let waiting_bytes = queue.pushed.bytes - gathered.bytes;
            if !destination.wants_shipment(now, waiting_bytes, oldest, *stopping) {
                return false;
            }
            *gathered_before = *gathered;
        }
        let state = gathering.get_or_insert_default();
        let mut turn_bytes = 0;
        let full = loop {
            if state.framed_bytes >= destination.options.batch_bytes {
                break true;
            }
            let Some(entry) = queue.get(destination.next() + state.entries) else {
                break true;
            };
            if turn_bytes >= TURN_BYTES_MAX {
                break false;
            }
            let framed = match find_kept(kept, fetcher, entry.position) {
                Ok(Some(payload)) => KeptRecord::read(payload),
                Ok(None) => None,
                // What was gathered before it can go ahead while the entry is read.
                Err(StillReading) => break state.entries > 0,
            };
            match framed {
                Some(kept) => {
                    state.lines.push(kept.trace, kept.framed);
                    state.spans += u64::from(entry.span_count);
                }
                None => destination.stats.failed_spans += u64::from(entry.span_count),
            }
            state.entries += 1;
            gathered.add(entry);
            state.framed_bytes += entry.framed_len as usize;
            state.through = entry.end;
            turn_bytes += entry.framed_len as usize;
        };
        if !full {
            return turn_bytes >= TURN_BYTES_MAX;
        }
        let Gathering {
            lines,
            entries,
            spans,
            through,
            ..
        } = gathering.take().expect("just filled");
        let (bytes, unwritable) = lines.finish();
        destination.stats.failed_spans += unwritable;
        *ready = Some(Shipment {
            bytes,
            through,
            entries,
            spans,
        });
        false
    }

    pub(super) fn poll_shipment(&mut self, now: Now) -> Option<(usize, Shipment)> {
        self.deliveries
            .iter_mut()
            .enumerate()
            .find_map(|(index, delivery)| {
                let shipment = delivery.ready.take()?;
                delivery.destination.shipped();
                delivery.out_at = now.instant;
                delivery.out = Some((shipment.entries, shipment.spans, shipment.bytes.len() as u64));
                Some((index, shipment))
            })
    }

    /// The shipment of a destination ended: `Ok` once it is as durable as the destination makes it.
    pub fn handle_shipped(
        &mut self,
        now: Now,
        index: usize,
        through: Position,
        result: Result<(), String>,
        stats: &mut Stats,
    ) {
        let delivery = &mut self.deliveries[index];
        let (entries, spans, bytes) = delivery.out.take().expect("one shipment is out, and it ended");
        stats.exporter_request.record(now.instant.since(delivery.out_at));
        if result.is_ok()
            && let Some(oldest) = self.queue.get(delivery.destination.next())
        {
            stats.export_delay.record(now.instant.since(oldest.kept_at));
        }
        match result {
            Ok(()) => {
                delivery
                    .destination
                    .handle_arrived(through, entries, spans, bytes);
                self.cursors_changed = true;
                self.forget_delivered();
                self.write_prologue();
            }
            Err(error) => {
                delivery.gathered = delivery.gathered_before;
                delivery.destination.handle_failed(now, error);
            }
        }
    }

    fn forget_delivered(&mut self) {
        let next = self
            .deliveries
            .iter()
            .map(|delivery| delivery.destination.next())
            .min();
        let Some(next) = next else { return };
        while self.queue.first < next
            && let Some(entry) = self.queue.entries.pop_front()
        {
            self.queue.first += 1;
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

    pub(super) fn log_cursors(&mut self, now: Now) {
        let due = self.stopping || now.instant.since(self.cursors_logged_at) >= CURSOR_INTERVAL;
        if !self.cursors_changed || !due {
            return;
        }
        let mut payload = Vec::new();
        record::put_cursors(&mut payload, self.cursors());
        self.append(now, CURSORS, &payload);
        self.cursors_changed = false;
        self.cursors_logged_at = now.instant;
    }

    /// What the next segments begin with.
    pub(super) fn write_prologue(&mut self) {
        let mut payload = Vec::new();
        let decided = self.decided.newest();
        record::put_names(&mut payload, &self.options.policy_names, self.cursors(), decided);
        self.log
            .set_prologue(payload)
            .expect("names and cursors are few, config sees to it");
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
            delivery.destination.poll_timeout(oldest)
        });
        timeouts.min()
    }

    pub(super) fn deliveries_are_settled(&self) -> bool {
        self.deliveries.iter().all(|delivery| {
            let destination = &delivery.destination;
            let waiting = self.queue.get(destination.next()).is_some();
            !destination.is_shipping() && (!waiting || destination.last_error().is_some())
        })
    }

    /// Spans of a kept trace that each destination has not got yet; walks the queue.
    pub fn queued_spans_of(&self, trace: TraceId) -> impl Iterator<Item = (&str, u64)> {
        let uncopied = self.uncopied_spans_of(trace);
        self.deliveries.iter().map(move |delivery| {
            let destination = &delivery.destination;
            let first = destination.next().saturating_sub(self.queue.first);
            let waiting = self.queue.entries.iter().skip(first as usize);
            let queued = waiting.filter(|entry| entry.trace == trace);
            let queued: u64 = queued.map(|entry| u64::from(entry.span_count)).sum();
            (destination.options.id.as_str(), queued + uncopied)
        })
    }

    pub fn destinations(&self) -> impl Iterator<Item = DestinationReport> {
        self.deliveries.iter().map(|delivery| {
            let destination = &delivery.destination;
            DestinationReport {
                id: destination.options.id.clone(),
                state: destination.state_name(),
                last_error: destination.last_error().map(str::to_string),
                sent_spans: destination.stats.sent_spans,
                sent_bytes: destination.stats.sent_bytes,
                failed_spans: destination.stats.failed_spans,
                retries: destination.stats.retries,
                queued_spans: self.queue.pushed.spans - delivery.gathered.spans,
                queued_bytes: self.queue.pushed.bytes - delivery.gathered.bytes,
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
        len: READ_BYTES,
    };
    match fetcher.fetch(op) {
        Fetched::Waiting | Fetched::Busy => Err(StillReading),
        Fetched::Lost => Ok(None),
        Fetched::Here(bytes) => Ok(kept.check(position, bytes).ok().map(|entry| entry.payload)),
    }
}
