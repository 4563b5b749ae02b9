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

pub mod lines;

use crate::base::ids::Position;
use crate::base::time::{Instant, Now};
use std::time::Duration;

/// After a failure the next try waits this long, then longer.
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, PartialEq)]
pub struct DestinationOptions {
    /// The exporter's id in the configuration, `<type>[/name]`.
    pub id: String,
    /// Longest wait of a kept entry before it is handed out.
    pub flush_interval: Duration,
    /// Framed bytes that are handed out without waiting for the interval, and at most at once (give or take
    /// one entry).
    pub batch_bytes: usize,
}

/// What has become of the hand-outs, for status and metrics.
#[derive(Clone, Copy, Debug, Default)]
pub struct DestinationStats {
    pub sent_spans: u64,
    pub sent_bytes: u64,
    pub failed_spans: u64,
    pub retries: u64,
}

/// One hand-out: what the kept log held from the cursor to `through`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shipment {
    pub bytes: Vec<u8>,
    /// End of the last kept entry in it.
    pub through: Position,
    /// Kept entries in it.
    pub entries: u64,
    pub spans: u64,
}

#[derive(Debug)]
enum State {
    Idle,
    /// A shipment is out.
    Shipping,
    /// Failed; the next try is due.
    Backoff {
        until: Instant,
        wait: Duration,
    },
}

/// One destination's place in the kept log.
///
/// Invariant: everything before `cursor` has arrived; `next` counts kept entries since the queue's origin.
#[derive(Debug)]
pub struct Destination {
    pub options: DestinationOptions,
    pub stats: DestinationStats,
    cursor: Position,
    /// Number of the first kept entry that has not arrived.
    next: u64,
    state: State,
    failures: u32,
    last_error: Option<String>,
}

impl Destination {
    pub fn new(options: DestinationOptions, cursor: Position) -> Destination {
        Destination {
            options,
            stats: DestinationStats::default(),
            cursor,
            next: 0,
            state: State::Idle,
            failures: 0,
            last_error: None,
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
            State::Backoff { until, .. } => now.instant >= until,
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
            State::Backoff { until, .. } => oldest.map(|_| until),
            State::Idle => oldest.map(|oldest| oldest.plus(self.options.flush_interval)),
        }
    }

    /// A replayed kept entry that lies before the cursor.
    pub fn pass_over(&mut self) {
        self.next += 1;
    }

    pub fn shipped(&mut self) {
        self.state = State::Shipping;
    }

    /// The shipment arrived, durably as far as the destination says.
    pub fn handle_arrived(&mut self, through: Position, entries: u64, spans: u64, bytes: u64) {
        self.state = State::Idle;
        self.failures = 0;
        self.last_error = None;
        self.cursor = self.cursor.max(through);
        self.next += entries;
        self.stats.sent_spans += spans;
        self.stats.sent_bytes += bytes;
    }

    /// The shipment did not arrive; it is gathered again after a while, longer each time.
    pub fn handle_failed(&mut self, now: Now, error: String) {
        let wait = match self.state {
            State::Backoff { wait, .. } => (wait * 2).min(RETRY_MAX),
            State::Idle | State::Shipping => RETRY_FIRST * 2u32.pow(self.failures.min(5)),
        };
        let wait = wait.min(RETRY_MAX);
        self.state = State::Backoff {
            until: now.instant.plus(wait),
            wait,
        };
        self.failures += 1;
        self.stats.retries += 1;
        self.last_error = Some(error);
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

    /// The contract's word: `ok retrying failing`.
    pub fn state_name(&self) -> &'static str {
        match self.failures {
            0 => "ok",
            1..10 => "retrying",
            _ => "failing",
        }
    }

    pub fn last_error(&self) -> Option<&str> {
        self.last_error.as_deref()
    }
}
