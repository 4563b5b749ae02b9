//! What a destination's answer means: it arrived, it may be sent again and when, or it must not be.
//!
//! ```text
//!  gRPC   retried: CANCELLED DEADLINE_EXCEEDED ABORTED OUT_OF_RANGE UNAVAILABLE DATA_LOSS,
//!                  RESOURCE_EXHAUSTED with RetryInfo only             (OTLP/gRPC, "Failures")
//!  HTTP   retried: 429 502 503 504                                    (OTLP/HTTP, "Retryable Response Codes")
//!  no answer (name, connection, time)   retried                       (OTLP/HTTP, "Other")
//!  all else                             dropped and counted: MUST NOT be retried
//! ```
//!
//! A wait is the larger of our own backoff and what the destination asked for. No clock and no chance in here:
//! both are arguments.

use crate::base::time::Instant;
use crate::otlp::status::Code;
use std::borrow::Cow;
use std::time::Duration;

/// A destination that asks for a longer silence is asked again after this one all the same: a wrong header
/// would otherwise silence it until somebody looks.
const ASKED_WAIT_MAX: Duration = Duration::from_secs(3600);

/// `retry_on_failure`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryOptions {
    pub enabled: bool,
    pub initial_interval: Duration,
    pub interval_max: Duration,
    /// At least 1.
    pub multiplier: f64,
    /// Of the interval, to both sides; 0 to 1.
    pub randomization_factor: f64,
    /// From a shipment's first failure until it is given up; `None`: never.
    pub elapsed_max: Option<Duration>,
}

impl RetryOptions {
    /// The Collector's, but that nothing is given up.
    pub const OTLP: RetryOptions = RetryOptions {
        enabled: true,
        initial_interval: Duration::from_secs(5),
        interval_max: Duration::from_secs(30),
        multiplier: 1.5,
        randomization_factor: 0.5,
        elapsed_max: None,
    };

    /// A file has nobody to be patient with: a full disk, a missing directory.
    pub const FILE: RetryOptions = RetryOptions {
        enabled: true,
        initial_interval: Duration::from_millis(200),
        interval_max: Duration::from_secs(5),
        multiplier: 2.0,
        randomization_factor: 0.0,
        elapsed_max: None,
    };
}

/// A shipment that the destination has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arrival {
    /// Bytes that were written, compressed as they were.
    pub wire_bytes: u64,
    /// Of a `partial_success`: spans that the destination took and threw away. They are not sent again.
    pub rejected: u64,
    /// In the destination's words; with nothing rejected it is a warning.
    pub message: String,
}

/// A shipment that the destination has not got, as far as we know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub cause: Cause,
    /// For people.
    pub message: String,
    /// The destination asked for this much silence (RetryInfo, Retry-After).
    pub asked_wait: Option<Duration>,
}

/// Why it has not arrived: the label `code` of retries and `reason` of losses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    Grpc(Code),
    Http(u16),
    /// The name has no address.
    Resolve,
    Connect,
    /// The connection ended without an answer.
    Disconnect,
    Timeout,
    /// Above 4 MiB: to be treated as not retryable (OTLP).
    ReplyTooLarge,
    /// The disk, for files.
    Io,
}

impl Cause {
    pub fn name(self) -> Cow<'static, str> {
        match self {
            Cause::Grpc(code) => code.name().into(),
            Cause::Http(status) => status.to_string().into(),
            Cause::Resolve => "resolve".into(),
            Cause::Connect => "connect".into(),
            Cause::Disconnect => "disconnect".into(),
            Cause::Timeout => "timeout".into(),
            Cause::ReplyTooLarge => "reply_too_large".into(),
            Cause::Io => "io".into(),
        }
    }

    /// What an operator can do about data that was refused for good.
    pub fn help(self) -> &'static str {
        match self {
            Cause::Grpc(Code::Unauthenticated | Code::PermissionDenied) | Cause::Http(401 | 403 | 407) => {
                "look at the exporter's headers and at the destination's access rules"
            }
            Cause::Grpc(Code::Unimplemented | Code::NotFound) | Cause::Http(404 | 405 | 415) => {
                "nothing at the exporter's endpoint takes OTLP traces in this form; look at its address and \
                 compression"
            }
            Cause::Grpc(Code::ResourceExhausted) | Cause::Http(413) => {
                "lower the exporter's max_request_size, or raise the destination's limit"
            }
            Cause::ReplyTooLarge => "an OTLP receiver answers in less than 4 MiB; look at the endpoint",
            _ => "the destination's own log says why",
        }
    }
}

impl Failure {
    pub fn new(cause: Cause, message: impl Into<String>) -> Failure {
        Failure {
            cause,
            message: message.into(),
            asked_wait: None,
        }
    }

    /// Whether the same bytes may be sent once more.
    pub fn is_retryable(&self) -> bool {
        match self.cause {
            Cause::Grpc(code) => match code {
                Code::Cancelled
                | Code::DeadlineExceeded
                | Code::Aborted
                | Code::OutOfRange
                | Code::Unavailable
                | Code::DataLoss => true,
                Code::ResourceExhausted => self.asked_wait.is_some(),
                Code::Ok
                | Code::Unknown
                | Code::InvalidArgument
                | Code::NotFound
                | Code::AlreadyExists
                | Code::PermissionDenied
                | Code::FailedPrecondition
                | Code::Unimplemented
                | Code::Internal
                | Code::Unauthenticated => false,
            },
            Cause::Http(status) => matches!(status, 429 | 502 | 503 | 504),
            Cause::Resolve | Cause::Connect | Cause::Disconnect | Cause::Timeout | Cause::Io => true,
            Cause::ReplyTooLarge => false,
        }
    }
}

/// Why items will never reach a destination: the label `reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Refused for good.
    Refused(Cause),
    /// `retry_on_failure.max_elapsed_time` is over.
    GivenUp,
    /// The destination's `partial_success` says so.
    PartialSuccess,
    /// The destination's queue, or the kept log, had no room.
    QueueFull,
    /// It waited longer than `queue.max_age`.
    TooOld,
    /// The bytes cannot be written as JSON.
    Unwritable,
    /// The disk does not give the bytes back.
    Unreadable,
}

impl Loss {
    pub fn name(self) -> Cow<'static, str> {
        match self {
            Loss::Refused(cause) => cause.name(),
            Loss::GivenUp => "max_elapsed_time".into(),
            Loss::PartialSuccess => "partial_success".into(),
            Loss::QueueFull => "queue_full".into(),
            Loss::TooOld => "max_age".into(),
            Loss::Unwritable => "unwritable".into(),
            Loss::Unreadable => "unreadable".into(),
        }
    }
}

/// What to do with a shipment that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Again { wait: Duration },
    Drop(Loss),
}

/// The failures of the shipment at one destination's cursor.
#[derive(Clone, Copy, Debug, Default)]
pub struct Backoff {
    /// Before jitter; zero when nothing has failed.
    interval: Duration,
    /// When the shipment at the cursor first failed.
    since: Option<Instant>,
}

impl Backoff {
    /// `random` is any number.
    pub fn handle_failure(
        &mut self,
        now: Instant,
        options: &RetryOptions,
        failure: &Failure,
        random: u64,
    ) -> Fate {
        if !failure.is_retryable() || !options.enabled {
            *self = Backoff::default();
            return Fate::Drop(Loss::Refused(failure.cause));
        }
        self.interval = match self.interval.is_zero() {
            true => options.initial_interval,
            false => self
                .interval
                .mul_f64(options.multiplier)
                .min(options.interval_max),
        };
        let fraction = random as f64 / u64::MAX as f64;
        let jitter = 1.0 + options.randomization_factor * (2.0 * fraction - 1.0);
        let asked = failure.asked_wait.unwrap_or_default().min(ASKED_WAIT_MAX);
        let wait = self.interval.mul_f64(jitter).max(asked);
        let since = *self.since.get_or_insert(now);
        if options
            .elapsed_max
            .is_some_and(|elapsed_max| now.since(since) + wait > elapsed_max)
        {
            *self = Backoff::default();
            return Fate::Drop(Loss::GivenUp);
        }
        Fate::Again { wait }
    }

    pub fn handle_arrival(&mut self) {
        *self = Backoff::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(cause: Cause, seconds: u64) -> Failure {
        Failure {
            asked_wait: Some(Duration::from_secs(seconds)),
            ..Failure::new(cause, "")
        }
    }

    #[test]
    fn c02_the_codes_of_grpc_that_are_retried() {
        let retried = [
            "CANCELLED",
            "DEADLINE_EXCEEDED",
            "ABORTED",
            "OUT_OF_RANGE",
            "UNAVAILABLE",
            "DATA_LOSS",
        ];
        for number in 0..=16 {
            let code = Code::from_number(number).expect("a code");
            let failure = Failure::new(Cause::Grpc(code), "");
            assert_eq!(failure.is_retryable(), retried.contains(&code.name()), "{code:?}");
        }
        assert!(asked(Cause::Grpc(Code::ResourceExhausted), 0).is_retryable());
        assert!(!asked(Cause::Grpc(Code::InvalidArgument), 1).is_retryable());
    }

    #[test]
    fn c03_the_statuses_of_http_that_are_retried() {
        for status in 300..600 {
            let retried = [429, 502, 503, 504].contains(&status);
            assert_eq!(
                Failure::new(Cause::Http(status), "").is_retryable(),
                retried,
                "{status}"
            );
            assert_eq!(asked(Cause::Http(status), 1).is_retryable(), retried, "{status}");
        }
    }

    const PLAIN: RetryOptions = RetryOptions {
        enabled: true,
        initial_interval: Duration::from_secs(4),
        interval_max: Duration::from_secs(10),
        multiplier: 2.0,
        randomization_factor: 0.5,
        elapsed_max: None,
    };

    fn wait(fate: Fate) -> u64 {
        match fate {
            Fate::Again { wait } => wait.as_millis() as u64,
            Fate::Drop(loss) => panic!("{loss:?}"),
        }
    }

    #[test]
    fn c05_waits_grow_to_their_bound_and_jitter_to_both_sides() {
        let unavailable = Failure::new(Cause::Http(503), "");
        for (random, expected) in [
            (0, [2_000, 4_000, 5_000, 5_000]),
            (u64::MAX, [6_000, 12_000, 15_000, 15_000]),
        ] {
            let mut backoff = Backoff::default();
            for expected in expected {
                let fate = backoff.handle_failure(Instant(0), &PLAIN, &unavailable, random);
                assert_eq!(wait(fate), expected);
            }
            backoff.handle_arrival();
            let fate = backoff.handle_failure(Instant(0), &PLAIN, &unavailable, random);
            assert_eq!(wait(fate), expected[0]);
        }
    }

    #[test]
    fn c06_a_wait_is_never_shorter_than_was_asked_for() {
        let mut backoff = Backoff::default();
        let long = asked(Cause::Http(429), 77);
        assert_eq!(wait(backoff.handle_failure(Instant(0), &PLAIN, &long, 0)), 77_000);
        let short = asked(Cause::Http(429), 1);
        assert_eq!(wait(backoff.handle_failure(Instant(0), &PLAIN, &short, 0)), 4_000);
        let endless = asked(Cause::Http(429), u64::MAX);
        assert_eq!(
            wait(backoff.handle_failure(Instant(0), &PLAIN, &endless, 0)),
            3_600_000
        );
    }

    #[test]
    fn a_shipment_is_given_up_when_its_time_is_over_and_the_next_has_its_own() {
        let options = RetryOptions {
            elapsed_max: Some(Duration::from_secs(5)),
            randomization_factor: 0.0,
            ..PLAIN
        };
        let failure = Failure::new(Cause::Connect, "");
        let mut backoff = Backoff::default();
        let mut at =
            |seconds: u64| backoff.handle_failure(Instant(seconds * 1_000_000_000), &options, &failure, 0);
        assert_eq!(wait(at(0)), 4_000);
        assert_eq!(at(4), Fate::Drop(Loss::GivenUp));
        assert_eq!(wait(at(5)), 4_000);
    }

    #[test]
    fn without_retries_every_failure_drops() {
        let options = RetryOptions {
            enabled: false,
            ..PLAIN
        };
        let failure = Failure::new(Cause::Timeout, "");
        let fate = Backoff::default().handle_failure(Instant(0), &options, &failure, 0);
        assert_eq!(fate, Fate::Drop(Loss::Refused(Cause::Timeout)));
    }
}
