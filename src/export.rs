//! Destinations: readers of the kept log, each with a cursor of its own.
//!
//! ```text
//!  kept log  ─────■■■■■■■■■■■■■■■■■■■■■■■■■■■──→ tail
//!                 │          │          │
//!              cursor     handed     newest
//!           (all before   out, not
//!            it arrived)  yet there
//! ```
//!
//! The kept log is the sending queue of every destination; an acknowledgement moves one cursor. A slow
//! destination delays nobody else. This file knows positions and time, not sockets and files: whoever does
//! the I/O is handed a [`Shipment`] and reports its end.
//!
//! ```text
//!          wants_shipment, shipped            arrived, or dropped for good
//!   Idle ─────────────────────────→ Shipping ─────────────────────────────→ Idle
//!    ↑                                 │ failed
//!    └──────── wait is over ─────── Waiting
//! ```

pub mod batch; // lines or a request
pub mod lines; // OTLP/JSON for files
pub mod retry; // what an answer means, and when to try again

use crate::base::ids::Position;
use crate::base::time::{Instant, Now};
use crate::stats::Histogram;
use batch::Format;
use retry::{Backoff, Cause, Failure, Fate, Loss, RetryOptions};
use std::time::Duration;

/// After so many failures in a row `retrying` is called `failing`.
const FAILING_COUNT: u32 = 10;

#[derive(Clone, Debug, PartialEq)]
pub struct DestinationOptions {
    /// The exporter's id in the configuration, `<type>[/name]`.
    pub id: String,
    pub format: Format,
    pub wants: Wants,
    /// Longest wait of a kept entry before it is handed out.
    pub flush_interval: Duration,
    /// Framed bytes that are handed out without waiting for the interval, and at most at once (unless one
    /// entry alone has more).
    pub batch_bytes: usize,
    pub retry: RetryOptions,
    /// Framed bytes that may wait: `queue.max_size`.
    pub queue_bytes_max: u64,
    /// How long a kept entry may wait: `queue.max_age`.
    pub queue_age_max: Option<Duration>,
    pub on_full: OnFull,
}

/// Which kept traces a destination gets: `send`, `include` and `policies`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wants {
    /// It takes other signals, or rollups only.
    Nothing,
    Everything,
    /// What these policies kept.
    KeptBy(Vec<String>),
}

impl Wants {
    pub fn kept_by(&self, policy: Option<&str>) -> bool {
        match self {
            Wants::Nothing => false,
            Wants::Everything => true,
            Wants::KeptBy(names) => policy.is_some_and(|policy| names.iter().any(|name| name == policy)),
        }
    }
}

/// `queue.on_full`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFull {
    /// What is kept from then on does not go to this destination, counted.
    LoseNew,
    /// Requests are refused until there is room; nothing is lost.
    PushBack,
}

/// What has become of the hand-outs, for status and metrics.
#[derive(Clone, Debug, Default)]
pub struct DestinationStats {
    pub sent_spans: u64,
    /// As written, compressed.
    pub sent_bytes: u64,
    failed_spans: Vec<(Loss, u64)>,
    retries: Vec<(Cause, u64)>,
    /// From handing a shipment out to its end.
    pub request: Histogram,
    /// From the copy of a shipment's oldest entry to its arrival.
    pub delay: Histogram,
}

impl DestinationStats {
    pub fn lose(&mut self, loss: Loss, spans: u64) {
        if spans > 0 {
            add(&mut self.failed_spans, loss, spans);
        }
    }

    /// Adds what another core counted.
    pub fn merge(&mut self, other: &DestinationStats) {
        self.sent_spans += other.sent_spans;
        self.sent_bytes += other.sent_bytes;
        for (loss, spans) in other.failed_spans() {
            add(&mut self.failed_spans, loss, spans);
        }
        for (cause, count) in other.retries() {
            add(&mut self.retries, cause, count);
        }
        self.request.merge(&other.request);
        self.delay.merge(&other.delay);
    }

    /// Spans that will never arrive, by reason.
    pub fn failed_spans(&self) -> impl Iterator<Item = (Loss, u64)> {
        self.failed_spans.iter().copied()
    }

    /// Shipments tried again, by why that was necessary.
    pub fn retries(&self) -> impl Iterator<Item = (Cause, u64)> {
        self.retries.iter().copied()
    }
}

fn add<K: PartialEq>(counts: &mut Vec<(K, u64)>, key: K, more: u64) {
    match counts.iter_mut().find(|(counted, _)| *counted == key) {
        Some((_, count)) => *count += more,
        None => counts.push((key, more)),
    }
}

/// One hand-out: what the kept log held from the cursor to `through`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shipment {
    /// What follows each other at the destination: one request, or pieces of whole lines. None is empty.
    pub pieces: Vec<Vec<u8>>,
    /// End of the last kept entry in it.
    pub through: Position,
    /// Kept entries that the cursor moves over, those that others get included.
    pub entries: u64,
    pub spans: u64,
}

/// What is worth a line of the log, said once for as long as it lasts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Nothing arrives at the moment; it is tried again.
    Failing { error: String },
    /// Data was refused for good.
    Dropped {
        spans: u64,
        error: String,
        help: &'static str,
    },
    /// The destination took a request and threw a part of it away, or warns.
    Rejected { spans: u64, message: String },
    /// Something arrived again.
    Recovered,
}

#[derive(Debug)]
enum State {
    Idle,
    /// A shipment is out.
    Shipping,
    /// Failed; the next try is due.
    Waiting {
        until: Instant,
    },
}

/// One destination's place in the kept log.
///
/// Invariant: everything before `cursor` has arrived, was refused for good, or is for others; `next` counts kept
/// entries since the queue's origin.
#[derive(Debug)]
pub struct Destination {
    pub options: DestinationOptions,
    pub stats: DestinationStats,
    cursor: Position,
    /// Number of the first kept entry that has not arrived.
    next: u64,
    state: State,
    backoff: Backoff,
    /// In a row.
    failures: u32,
    last_error: Option<String>,
    /// What the last notice was about, until something arrives.
    noticed: Option<Cause>,
    warned: bool,
}

impl Destination {
    pub fn new(options: DestinationOptions, cursor: Position) -> Destination {
        Destination {
            options,
            stats: DestinationStats::default(),
            cursor,
            next: 0,
            state: State::Idle,
            backoff: Backoff::default(),
            failures: 0,
            last_error: None,
            noticed: None,
            warned: false,
        }
    }

    /// Whether to gather a shipment now, given the kept bytes behind the cursor and when the oldest of them
    /// was kept.
    pub fn wants_shipment(
        &self,
        now: Now,
        waiting_bytes: u64,
        oldest: Option<Instant>,
        stopping: bool,
    ) -> bool {
        let Some(oldest) = oldest else { return false };
        match self.state {
            State::Shipping => false,
            State::Waiting { until } => now.instant >= until,
            State::Idle => {
                stopping
                    || waiting_bytes >= self.options.batch_bytes as u64
                    || now.instant >= oldest.plus(self.options.flush_interval)
            }
        }
    }

    /// When `wants_shipment` may change its mind without a new entry.
    pub fn poll_timeout(&self, oldest: Option<Instant>) -> Option<Instant> {
        match self.state {
            State::Shipping => None,
            State::Waiting { until } => oldest.map(|_| until),
            State::Idle => oldest.map(|oldest| oldest.plus(self.options.flush_interval)),
        }
    }

    /// The next `entries`, up to `through`, need not be handed out (any more).
    pub fn pass_over(&mut self, through: Position, entries: u64) {
        self.cursor = self.cursor.max(through);
        self.next += entries;
    }

    pub fn shipped(&mut self) {
        self.state = State::Shipping;
    }

    /// The shipment arrived, durably as far as the destination says.
    pub fn handle_arrived(&mut self, arrival: &retry::Arrival, spans: u64) -> Option<Notice> {
        self.state = State::Idle;
        self.failures = 0;
        self.last_error = None;
        self.backoff.handle_arrival();
        let rejected = arrival.rejected.min(spans);
        self.stats.sent_spans += spans - rejected;
        self.stats.sent_bytes += arrival.wire_bytes;
        self.stats.lose(Loss::PartialSuccess, rejected);
        let recovered = self.noticed.take().is_some();
        if rejected > 0 || !arrival.message.is_empty() {
            self.last_error = (rejected > 0)
                .then(|| format!("{rejected} of {spans} spans were rejected: {}", arrival.message));
            let first = !std::mem::replace(&mut self.warned, true);
            return first.then(|| Notice::Rejected {
                spans: rejected,
                message: arrival.message.clone(),
            });
        }
        self.warned = false;
        recovered.then_some(Notice::Recovered)
    }

    /// The shipment of `spans` did not arrive. With [`Fate::Again`] it is gathered again after the wait; a
    /// dropped one is counted here, and to be passed over.
    pub fn handle_failed(
        &mut self,
        now: Now,
        failure: &Failure,
        spans: u64,
        random: u64,
    ) -> (Fate, Option<Notice>) {
        self.failures = self.failures.saturating_add(1);
        self.last_error = Some(format!("{}: {}", failure.cause.name(), failure.message));
        let error = self.last_error.clone().unwrap_or_default();
        let news = self.noticed.replace(failure.cause) != Some(failure.cause);
        let fate = self
            .backoff
            .handle_failure(now.instant, &self.options.retry, failure, random);
        let notice = match fate {
            Fate::Again { wait } => {
                self.state = State::Waiting {
                    until: now.instant.plus(wait),
                };
                add(&mut self.stats.retries, failure.cause, 1);
                Notice::Failing { error }
            }
            Fate::Drop(loss) => {
                self.state = State::Idle;
                self.stats.lose(loss, spans);
                // An endless `failing` rather than `retrying`: nobody tries again.
                self.failures = self.failures.max(FAILING_COUNT);
                let help = failure.cause.help();
                Notice::Dropped { spans, error, help }
            }
        };
        (fate, news.then_some(notice))
    }

    pub fn cursor(&self) -> Position {
        self.cursor
    }

    pub fn next(&self) -> u64 {
        self.next
    }

    pub fn is_shipping(&self) -> bool {
        matches!(self.state, State::Shipping)
    }

    pub fn is_failing(&self) -> bool {
        self.failures > 0
    }

    /// The contract's word: `ok retrying failing`.
    pub fn state_name(&self) -> &'static str {
        match self.failures {
            0 => "ok",
            1..FAILING_COUNT => "retrying",
            _ => "failing",
        }
    }

    pub fn last_error(&self) -> Option<&str> {
        self.last_error.as_deref()
    }
}
