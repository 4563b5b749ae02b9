//! The only place that reads a clock (S1). All else is handed a [`Now`] or an [`Instant`].
//!
//! One `Clock` belongs to one executor. `now` reads both clocks and remembers the answer; `recent` gives
//! the remembered one for nothing, for readers to whom a turn's worth of staleness does not matter.

use std::cell::Cell;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::base::time::{Instant, Now, WallTime};

/// Both clocks of the host.
///
/// Invariant: `Instant`s of one process have one origin, whichever core's clock made them, and those of
/// one `Clock` never go back.
pub struct Clock {
    monotonic: quanta::Clock,
    recent: Cell<Now>,
}

impl Clock {
    /// The first one of a process calibrates the time stamp counter (10 to 200 ms).
    pub fn new() -> Clock {
        let clock = Clock {
            monotonic: quanta::Clock::new(),
            recent: Cell::new(Now::default()),
        };
        clock.now();
        clock
    }

    /// Reads both clocks: some 40 ns.
    pub fn now(&self) -> Now {
        let now = Now {
            instant: self.instant(),
            wall: wall(),
        };
        self.recent.set(now);
        now
    }

    /// What [`Clock::now`] said last.
    #[inline]
    pub fn recent(&self) -> Now {
        self.recent.get()
    }

    /// Reads the monotonic clock alone: some 10 ns.
    #[inline]
    pub fn instant(&self) -> Instant {
        // The counter's own origin: `quanta` keeps one calibration per process. Counters of different
        // cores may differ by a few ns, and a host may be wrong about their being invariant.
        let read = Instant(self.monotonic.delta_as_nanos(0, self.monotonic.raw()));
        read.max(self.recent.get().instant)
    }
}

impl Default for Clock {
    fn default() -> Clock {
        Clock::new()
    }
}

#[allow(clippy::disallowed_methods, reason = "S1: this is the one place")]
fn wall() -> WallTime {
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    WallTime(u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_never_go_back() {
        let clock = Clock::new();
        let mut last = clock.instant();
        for _ in 0..1000 {
            let next = clock.now().instant;
            assert!(next >= last);
            last = next;
        }
    }

    #[test]
    fn clocks_of_one_process_share_their_origin() {
        let (one, two) = (Clock::new(), Clock::new());
        let apart = two
            .instant()
            .since(one.instant())
            .max(one.instant().since(two.instant()));
        assert!(apart < Duration::from_secs(60), "{apart:?}");
    }

    #[test]
    fn recent_is_what_now_said() {
        let clock = Clock::new();
        let now = clock.now();
        assert_eq!(clock.recent(), now);
        assert!(now.wall.0 > 1_600_000_000 * 1_000_000_000);
    }
}
