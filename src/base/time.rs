//! Points in time as plain arguments. Only `io/clock` reads a clock (S1).

use std::time::Duration;

/// Nanoseconds on a clock that never goes back; its origin means nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(pub u64);

impl Instant {
    #[inline]
    pub fn plus(self, duration: Duration) -> Instant {
        Instant(self.0.saturating_add(nanoseconds(duration)))
    }

    /// Zero if `earlier` is later.
    #[inline]
    pub fn since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// Nanoseconds since 1970-01-01 UTC, as the host believes. May step in either direction: it names
/// moments for people and in the log, and decides nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct WallTime(pub u64);

impl WallTime {
    #[inline]
    pub fn plus(self, duration: Duration) -> WallTime {
        WallTime(self.0.saturating_add(nanoseconds(duration)))
    }
}

/// Both clocks, read together once a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Now {
    pub instant: Instant,
    pub wall: WallTime,
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
