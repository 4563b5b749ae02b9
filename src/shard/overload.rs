//! What a core does when more comes than it can take.
//!
//! ```text
//!  pressure   0 ─────────── 25 % ─────────── 50 % ─────────── 100 %
//!  refuse     everything is taken                            │ refused, with a delay to come again after
//!  sample     a share is given back ←┤   it stays  ├→ a share more of all traces is not taken (and 100 %: refused)
//! ```
//!
//! Pressure is the worst of three: bytes that wait for their sync, how long the oldest request has waited for it, and how
//! full the account of trace state is. A share is counted in sixteenths of all traces, those of lowest randomness R: the
//! same ones at every core and in every request, and those that a probabilistic policy drops first. Cores tell each other
//! (io does) so that all leave out the share of the one that is worst off. A share grows fast and goes slowly, because
//! traces that are open when it changes lose a part.

use crate::base::time::{Instant, Now};
use std::time::Duration;

/// `overload`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnOverload {
    /// At the bound of an account requests are refused.
    #[default]
    Refuse,
    /// Before that a share of all traces is acknowledged and not taken, counted as lost.
    Sample,
}

/// Parts of all traces that a share is counted in.
pub const SHARE_MAX: u8 = 16;
/// How often a share changes at most, upwards and downwards.
const GROW_INTERVAL: Duration = Duration::from_millis(100);
const SHRINK_INTERVAL: Duration = Duration::from_secs(2);
const PRESSURE_HIGH: u64 = 50;
const PRESSURE_LOW: u64 = 25;

/// The share of traces that is not taken.
#[derive(Debug, Default)]
pub struct Overload {
    mode: OnOverload,
    /// What this core's pressure asks for, and the highest of all cores.
    own: u8,
    node: u8,
    changed_at: Option<Instant>,
}

impl Overload {
    pub fn new(mode: OnOverload) -> Overload {
        Overload {
            mode,
            ..Overload::default()
        }
    }

    /// Follows the pressure, in percent of what would refuse.
    pub fn look(&mut self, now: Now, pressure: u64) {
        if self.mode == OnOverload::Refuse {
            return;
        }
        let since = self.changed_at.map(|at| now.instant.since(at));
        let is_due = |interval| since.is_none_or(|since| since >= interval);
        let share = match pressure {
            // One part is always taken, so that it shows when there is room again.
            PRESSURE_HIGH.. if is_due(GROW_INTERVAL) => (self.own + 1).min(SHARE_MAX - 1),
            ..PRESSURE_LOW if is_due(SHRINK_INTERVAL) => self.own.saturating_sub(1),
            _ => self.own,
        };
        if share != self.own {
            self.changed_at = Some(now.instant);
            self.own = share;
        }
    }

    pub fn own_share(&self) -> u8 {
        self.own
    }

    pub fn set_node_share(&mut self, share: u8) {
        self.node = share;
    }

    /// The share that is left out now, of [`SHARE_MAX`].
    pub fn share(&self) -> u8 {
        self.own.max(self.node)
    }

    /// Traces with a randomness below this are not taken.
    pub fn taken_from(&self) -> u64 {
        u64::from(self.share()) * ((1 << 56) / u64::from(SHARE_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::time::WallTime;

    fn at(milliseconds: u64) -> Now {
        Now {
            instant: Instant(milliseconds * 1_000_000),
            wall: WallTime(0),
        }
    }

    #[test]
    fn a_share_grows_under_pressure_stays_between_and_goes_slowly() {
        let mut overload = Overload::new(OnOverload::Sample);
        (0..500).for_each(|time| overload.look(at(time), 60));
        assert_eq!(overload.share(), 5);
        (500..5_000).for_each(|time| overload.look(at(time), 30));
        assert_eq!(overload.share(), 5);
        (5_000..9_500).for_each(|time| overload.look(at(time), 10));
        assert_eq!(overload.share(), 2, "one part every two seconds");
        (10_000..20_000).for_each(|time| overload.look(at(time), 100));
        assert_eq!(overload.share(), SHARE_MAX - 1, "something is always taken");
        assert!(overload.taken_from() < 1 << 56);
    }

    #[test]
    fn the_worst_core_decides_for_all() {
        let mut overload = Overload::new(OnOverload::Sample);
        overload.set_node_share(4);
        assert_eq!((overload.own_share(), overload.share()), (0, 4));
        assert_eq!(overload.taken_from(), 1 << 54);
    }

    #[test]
    fn who_refuses_leaves_nothing_out() {
        let mut overload = Overload::new(OnOverload::Refuse);
        (0..1_000).for_each(|time| overload.look(at(time), 100));
        assert_eq!(overload.taken_from(), 0);
    }
}
