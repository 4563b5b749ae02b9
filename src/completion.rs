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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::base::monoid::Monoid;

    const OPTIONS: CompletionOptions = CompletionOptions {
        decision_wait: Duration::from_secs(30),
        after_root: None,
        structural: true,
        quiet: Duration::from_secs(10),
        spans_max: 100,
        bytes_max: 1000,
        use_expected_count: true,
    };
    /// Opened at 100 s, last span at 101 s.
    const PROGRESS: Progress = Progress {
        opened_at: at(100),
        last_span_at: at(101),
        root_at: None,
        parents_unresolved: Some(0),
        distinct_spans: 2,
        resumed_at: None,
    };
    const DIGEST: Digest = Digest {
        span_count: 2,
        bytes: 200,
        ..Digest::EMPTY
    };
    const ROOTED: Digest = Digest {
        has_root: true,
        ..DIGEST
    };

    const fn at(seconds: u64) -> Instant {
        Instant(seconds * 1_000_000_000)
    }

    /// Open until `due`, and closed with `reason` then.
    fn check_due(options: CompletionOptions, progress: Progress, digest: Digest, due: u64, reason: Reason) {
        let before = Instant(at(due).0 - 1);
        assert_eq!(
            check(&options, &progress, &digest, progress.last_span_at),
            Completion::OpenUntil(at(due))
        );
        assert_eq!(
            check(&options, &progress, &digest, before),
            Completion::OpenUntil(at(due))
        );
        assert_eq!(
            check(&options, &progress, &digest, at(due)),
            Completion::Closed(reason)
        );
        assert_eq!(
            check(&options, &progress, &digest, at(9999)),
            Completion::Closed(reason)
        );
    }

    fn check_now(progress: Progress, digest: Digest, reason: Reason) {
        let now = progress.last_span_at;
        assert_eq!(
            check(&OPTIONS, &progress, &digest, now),
            Completion::Closed(reason)
        );
    }

    #[test]
    fn whole_trace_is_complete_after_one_quiet() {
        check_due(OPTIONS, PROGRESS, ROOTED, 111, Reason::Complete);
    }

    #[test]
    fn trace_without_root_or_parent_is_quiet_after_two() {
        check_due(OPTIONS, PROGRESS, DIGEST, 121, Reason::Quiet);
        let orphaned = Progress {
            parents_unresolved: Some(1),
            ..PROGRESS
        };
        check_due(OPTIONS, orphaned, ROOTED, 121, Reason::Quiet);
        let given_up = Progress {
            parents_unresolved: None,
            ..PROGRESS
        };
        check_due(OPTIONS, given_up, ROOTED, 121, Reason::Quiet);
        check_due(
            CompletionOptions {
                structural: false,
                ..OPTIONS
            },
            PROGRESS,
            ROOTED,
            121,
            Reason::Quiet,
        );
    }

    #[test]
    fn spans_that_keep_coming_do_not_hold_a_trace_open_beyond_its_age() {
        let busy = Progress {
            last_span_at: at(125),
            ..PROGRESS
        };
        check_due(OPTIONS, busy, ROOTED, 130, Reason::Expired);
    }

    #[test]
    fn wait_after_the_root_counts_from_the_root() {
        let options = CompletionOptions {
            after_root: Some(Duration::from_secs(5)),
            ..OPTIONS
        };
        let orphaned = Progress {
            root_at: Some(at(101)),
            parents_unresolved: Some(3),
            ..PROGRESS
        };
        check_due(options, orphaned, ROOTED, 106, Reason::Complete);
        let off = CompletionOptions {
            after_root: Some(Duration::ZERO),
            ..OPTIONS
        };
        check_due(off, orphaned, ROOTED, 121, Reason::Quiet);
        let never_rooted = Progress {
            root_at: None,
            ..orphaned
        };
        check_due(options, never_rooted, DIGEST, 121, Reason::Quiet);
    }

    #[test]
    fn expected_count_closes_at_once_when_so_many_different_spans_are_here() {
        check_now(
            PROGRESS,
            Digest {
                expected_count: 2,
                ..DIGEST
            },
            Reason::ExpectedCount,
        );
        let repeated = Digest {
            expected_count: 3,
            span_count: 9,
            ..DIGEST
        };
        check_due(OPTIONS, PROGRESS, repeated, 121, Reason::Quiet);
        let unread = CompletionOptions {
            use_expected_count: false,
            ..OPTIONS
        };
        check_due(
            unread,
            PROGRESS,
            Digest {
                expected_count: 2,
                ..DIGEST
            },
            121,
            Reason::Quiet,
        );
    }

    #[test]
    fn trace_beyond_its_limits_closes_at_once() {
        check_now(
            PROGRESS,
            Digest {
                span_count: 101,
                ..DIGEST
            },
            Reason::SpanLimit,
        );
        check_now(
            PROGRESS,
            Digest {
                bytes: 1001,
                ..DIGEST
            },
            Reason::ByteLimit,
        );
        check_due(
            OPTIONS,
            PROGRESS,
            Digest {
                span_count: 100,
                bytes: 1000,
                ..DIGEST
            },
            121,
            Reason::Quiet,
        );
        let boundless = CompletionOptions {
            spans_max: 0,
            bytes_max: 0,
            ..OPTIONS
        };
        check_due(
            boundless,
            PROGRESS,
            Digest {
                span_count: 101,
                bytes: 1001,
                ..DIGEST
            },
            121,
            Reason::Quiet,
        );
    }

    #[test]
    fn resumed_trace_waits_one_quiet_whatever_is_overdue() {
        let resumed = Progress {
            resumed_at: Some(at(500)),
            ..PROGRESS
        };
        check_due(OPTIONS, resumed, ROOTED, 510, Reason::Complete);
        check_due(OPTIONS, resumed, DIGEST, 510, Reason::Quiet);
        let old = Progress {
            last_span_at: at(129),
            ..resumed
        };
        check_due(OPTIONS, old, DIGEST, 510, Reason::Expired);
        let young = Progress {
            resumed_at: Some(at(102)),
            ..PROGRESS
        };
        check_due(OPTIONS, young, DIGEST, 121, Reason::Quiet);
        check_now(
            resumed,
            Digest {
                expected_count: 2,
                ..DIGEST
            },
            Reason::ExpectedCount,
        );
    }

    #[test]
    fn boundless_quiet_leaves_only_age() {
        let options = CompletionOptions {
            quiet: Duration::MAX,
            ..OPTIONS
        };
        check_due(options, PROGRESS, ROOTED, 130, Reason::Expired);
    }

    proptest! {
        /// The timer wheel asks again at the instant it was told, and at no other.
        #[test]
        fn answer_changes_at_the_instant_it_names_and_not_before(
            times in any::<[u8; 3]>(),
            waits in any::<[u8; 3]>(),
            root_at in prop::option::of(any::<u8>()),
            resumed_at in prop::option::of(any::<u8>()),
            (parents_unresolved, has_root) in (prop::option::of(0..2u32), any::<bool>()),
            asked_at in 0..600u64,
        ) {
            let instant = |value: u8| Instant(value.into());
            let duration = |value: u8| Duration::from_nanos(value.into());
            let options = CompletionOptions {
                decision_wait: duration(waits[0]),
                quiet: duration(waits[1]),
                after_root: Some(duration(waits[2])),
                ..OPTIONS
            };
            let progress = Progress {
                opened_at: instant(times[0].min(times[1])),
                last_span_at: instant(times[0].max(times[1])),
                root_at: root_at.map(instant),
                resumed_at: resumed_at.map(instant),
                parents_unresolved,
                ..PROGRESS
            };
            let digest = Digest { has_root, ..DIGEST };
            let first = check(&options, &progress, &digest, Instant(0));
            let asked = check(&options, &progress, &digest, Instant(asked_at));
            match first {
                Completion::Closed(_) => prop_assert_eq!(asked, first),
                Completion::OpenUntil(due) if Instant(asked_at) < due => prop_assert_eq!(asked, first),
                Completion::OpenUntil(_) => prop_assert!(matches!(asked, Completion::Closed(_))),
            }
        }
    }
}
