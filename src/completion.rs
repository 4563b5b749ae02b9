//! When a trace is closed.
//!
//! ```text
//!             at once   more spans or bytes than a trace may have          span_limit, byte_limit
//!                       as many distinct spans as it said                  expected_count
//!   after a while       root, every parent here, `quiet` since a span      complete
//!     (whichever        `after_root` since the root                        complete
//!      is first)        2 × `quiet` since a span                           quiet
//!                       `decision_wait` since the first span               expired
//! ```
//!
//! Arrival rules, never the spans' own clocks: a client with a wrong clock must not close other people's
//! traces. A trace that a replay brought back waits one full `quiet` from then on, whatever is overdue,
//! because its clients could not reach us while we were away.

use std::time::Duration;

use crate::base::time::Instant;
use crate::digest::Digest;
use crate::verdict::Reason;

pub mod structure;

/// The rules' settings, filled by `config`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompletionOptions {
    /// The most a trace may wait, from its first span on.
    pub decision_wait: Duration,
    /// Closes this long after the root came; `None` and zero: never.
    pub after_root: Option<Duration>,
    /// Believe in root and parents. Off: only silence and age close.
    pub structural: bool,
    /// How long no span may come before a whole trace is believed to be whole; twice that for others.
    pub quiet: Duration,
    /// Spans a trace may have, duplicates counted; 0: any number.
    pub spans_max: u32,
    /// Bytes of spans a trace may have; 0: any number.
    pub bytes_max: u64,
    /// Close when as many distinct spans are here as the expected-count attribute says.
    pub use_expected_count: bool,
}

/// What the table knows of an open trace besides its digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    pub opened_at: Instant,
    pub last_span_at: Instant,
    /// When the first span without parent came.
    pub root_at: Option<Instant>,
    /// [`structure::Structure::unresolved`]; `None`: given up, silence rules.
    pub parents_unresolved: Option<u32>,
    /// [`structure::Structure::distinct`].
    pub distinct_spans: u32,
    /// When a replay brought the trace back.
    pub resumed_at: Option<Instant>,
}

/// The answer of [`check`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completion {
    Closed(Reason),
    /// Without a further span the answer stays so until this instant and is `Closed` from then on.
    OpenUntil(Instant),
}

/// Whether the trace is closed at `now`, and if not, when it will be unless a span comes.
pub fn check(options: &CompletionOptions, progress: &Progress, digest: &Digest, now: Instant) -> Completion {
    if let Some(reason) = closed_at_once(options, progress, digest) {
        return Completion::Closed(reason);
    }
    let (due, reason) = first_due(options, progress, digest);
    if now >= due {
        Completion::Closed(reason)
    } else {
        Completion::OpenUntil(due)
    }
}

/// What needs no waiting, not even after a replay.
fn closed_at_once(options: &CompletionOptions, progress: &Progress, digest: &Digest) -> Option<Reason> {
    let expected = digest.expected_count;
    if options.use_expected_count && expected > 0 && progress.distinct_spans >= expected {
        Some(Reason::ExpectedCount)
    } else if options.spans_max > 0 && digest.span_count > options.spans_max {
        Some(Reason::SpanLimit)
    } else if options.bytes_max > 0 && digest.bytes > options.bytes_max {
        Some(Reason::ByteLimit)
    } else {
        None
    }
}

/// The first of the waits to end, and its reason; of equals the one that says more about the trace.
fn first_due(options: &CompletionOptions, progress: &Progress, digest: &Digest) -> (Instant, Reason) {
    let whole = options.structural && digest.has_root && progress.parents_unresolved == Some(0);
    let quiet = progress.last_span_at.plus(options.quiet);
    let silent = progress.last_span_at.plus(options.quiet.saturating_mul(2));
    let after_root = options.after_root.filter(|wait| !wait.is_zero());
    let root = progress
        .root_at
        .zip(after_root)
        .map(|(root_at, wait)| root_at.plus(wait));

    let waits = [
        (whole.then_some(quiet), Reason::Complete),
        (root, Reason::Complete),
        (Some(silent), Reason::Quiet),
        (
            Some(progress.opened_at.plus(options.decision_wait)),
            Reason::Expired,
        ),
    ];
    let mut first = (Instant(u64::MAX), Reason::Expired);
    for (due, reason) in waits {
        if let Some(due) = due
            && due < first.0
        {
            first = (due, reason);
        }
    }
    let grace = progress
        .resumed_at
        .map_or(Instant(0), |resumed_at| resumed_at.plus(options.quiet));
    (first.0.max(grace), first.1)
}
