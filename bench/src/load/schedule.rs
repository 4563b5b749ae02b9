//! When requests are to be sent.

use std::time::Duration;

use quanta::Instant;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use tokio::net::unix::pipe::Receiver;

/// Deals moments to lanes, in order, up to the end of the run or as many as there may be.
pub struct Schedule {
    begin: Instant,
    end: Instant,
    /// `None`: at once.
    interval_seconds: Option<f64>,
    count_max: u64,
    dealt: u64,
}

/// The right to send one request.
#[derive(Clone, Copy, Debug)]
pub struct Turn {
    /// Latency counts from here.
    pub intended: Instant,
}

impl Schedule {
    pub fn new(begin: Instant, end: Instant, interval_seconds: Option<f64>, count_max: u64) -> Schedule {
        Schedule {
            begin,
            end,
            interval_seconds,
            count_max,
            dealt: 0,
        }
    }

    /// `None` when all are dealt or the next moment lies at or beyond the end.
    pub fn next(&mut self, now: Instant) -> Option<Turn> {
        let intended = match self.interval_seconds {
            None => now,
            Some(interval) => self.begin + Duration::from_secs_f64(interval * self.dealt as f64),
        };
        if self.dealt == self.count_max || now >= self.end || intended >= self.end {
            return None;
        }
        self.dealt += 1;
        Some(Turn { intended })
    }

    /// Moments that have passed without a lane to take them: how far the server is behind the rate.
    pub fn due(&self, now: Instant) -> u64 {
        let Some(interval) = self.interval_seconds else {
            return 0;
        };
        let elapsed = now
            .min(self.end)
            .saturating_duration_since(self.begin)
            .as_secs_f64();
        ((elapsed / interval) as u64)
            .min(self.count_max)
            .saturating_sub(self.dealt)
    }
}

/// A lane's timer. The runtime's own timers are rounded to milliseconds, which is more than an
/// acknowledgement takes.
///
/// tokio registers foreign descriptors only through `unsafe`, but takes anything that is read like a
/// pipe, and a timer is: eight bytes when it has expired.
pub struct Pacer {
    timer: Receiver,
}

impl Pacer {
    /// Within a runtime only.
    pub fn new() -> std::io::Result<Pacer> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?;
        Ok(Pacer {
            timer: Receiver::from_owned_fd_unchecked(timer)?,
        })
    }

    /// Returns after `time`, at once when that is zero or a timer cannot be set.
    pub async fn wait(&self, time: Duration) {
        if time.is_zero() {
            return;
        }
        let once = Itimerspec {
            it_interval: Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            },
            it_value: Timespec {
                tv_sec: time.as_secs() as i64,
                tv_nsec: i64::from(time.subsec_nanos()),
            },
        };
        if rustix::time::timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once).is_err() {
            return;
        }
        let mut expirations = [0; 8];
        while self.timer.readable().await.is_ok() && self.timer.try_read(&mut expirations).is_err() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_loop_moments_do_not_wait_for_anyone() {
        let begin = quanta::Clock::new().now();
        let at = |seconds| begin + Duration::from_secs_f64(seconds);
        let mut schedule = Schedule::new(begin, at(1.0), Some(0.25), u64::MAX);
        // All four moments of the second are dealt, however late the lanes come for them.
        let moments: Vec<_> = std::iter::from_fn(|| schedule.next(at(0.9)))
            .map(|turn| turn.intended)
            .collect();
        assert_eq!(moments, [at(0.0), at(0.25), at(0.5), at(0.75)]);
    }

    #[test]
    fn moments_without_a_lane_are_counted_as_due() {
        let begin = quanta::Clock::new().now();
        let mut schedule = Schedule::new(begin, begin + Duration::from_secs(10), Some(1.0), u64::MAX);
        schedule.next(begin);
        assert_eq!(schedule.due(begin + Duration::from_millis(4500)), 3);
    }

    #[test]
    fn nothing_is_dealt_after_the_end() {
        let begin = quanta::Clock::new().now();
        let end = begin + Duration::from_secs(1);
        assert!(Schedule::new(begin, end, None, u64::MAX).next(end).is_none());
        assert!(Schedule::new(begin, end, Some(0.1), u64::MAX).next(end).is_none());
    }

    #[test]
    fn no_more_is_dealt_or_due_than_there_may_be() {
        let begin = quanta::Clock::new().now();
        for interval in [None, Some(0.1)] {
            let mut schedule = Schedule::new(begin, begin + Duration::from_secs(10), interval, 3);
            assert!((0..3).all(|_| schedule.next(begin).is_some()));
            assert!(schedule.next(begin).is_none());
            assert_eq!(schedule.due(begin + Duration::from_secs(9)), 0);
        }
    }
}
