//! Which core serves a connection: the one that serves fewest.
//!
//! The kernel spreads connections over listening sockets by a hash of their addresses, so four clients may all
//! end up on one core. Whoever accepts a connection looks for the core with the fewest and hands it over if
//! that is another. Connections live long and one cannot know which will be busy; a core that serves few is
//! given no more work by that than by a wrong guess at load.

use crate::base::ids::CoreId;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

/// What share of traces each core leaves out. All leave out the largest, or a trace would be taken in part.
#[derive(Clone)]
pub struct LeftOut(Arc<[AtomicU8]>);

impl LeftOut {
    pub fn new(core_count: u16) -> LeftOut {
        LeftOut((0..core_count).map(|_| AtomicU8::new(0)).collect())
    }

    /// Says what `core` asks for; returns what the node does.
    pub fn exchange(&self, core: CoreId, own: u8) -> u8 {
        self.0[usize::from(core.0)].store(own, Ordering::Relaxed);
        let shares = self.0.iter().map(|share| share.load(Ordering::Relaxed));
        shares.max().unwrap_or(own)
    }
}

/// Connections by core. Numbers only: what they count stays with its core.
#[derive(Clone)]
pub struct Seats(Arc<[AtomicU32]>);

/// One connection's place on a core, given back on drop.
pub struct Seat {
    seats: Seats,
    core: CoreId,
}

impl Seats {
    pub fn new(core_count: u16) -> Seats {
        Seats((0..core_count).map(|_| AtomicU32::new(0)).collect())
    }

    /// Takes a place on the core with the fewest connections; on `own` if no other has fewer.
    pub fn take(&self, own: CoreId) -> Seat {
        let count = |core: u16| self.0[usize::from(core)].load(Ordering::Relaxed);
        let mut best = own;
        for core in 0..self.0.len() as u16 {
            if count(core) < count(best.0) {
                best = CoreId(core);
            }
        }
        self.0[usize::from(best.0)].fetch_add(1, Ordering::Relaxed);
        Seat {
            seats: self.clone(),
            core: best,
        }
    }
}

impl Seat {
    pub fn core(&self) -> CoreId {
        self.core
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seats.0[usize::from(self.core.0)].fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_of_one_listener_spread_over_all_cores() {
        let seats = Seats::new(3);
        let taken: Vec<Seat> = (0..9).map(|_| seats.take(CoreId(1))).collect();
        let on = |core| taken.iter().filter(|seat| seat.core() == CoreId(core)).count();
        assert_eq!([on(0), on(1), on(2)], [3, 3, 3]);
        assert_eq!(taken[0].core(), CoreId(1), "its own core first");
        drop(taken);
        assert_eq!(seats.take(CoreId(2)).core(), CoreId(2));
    }
}
