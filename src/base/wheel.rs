//! Deadlines by the million: a hashed timer wheel.
//!
//! ```text
//!  slot   0   1   2   …   cursor … 4095        one slot = one tick = 16.8 ms
//!         │               │
//!         └─ keys due at ticks ≡ 0 mod 4096, this round or a later one
//! ```
//!
//! A key is armed once and not moved when its deadline moves away: when it comes up, its owner looks at the
//! true deadline and arms it again; one whose owner goes earlier is taken out, lest keys pile up that mean nothing. So a span costs the wheel nothing, and a trace one push and one pop.

use crate::base::time::Instant;

/// Nanoseconds of a tick, as a shift: 2^24 ns = 16.8 ms.
const TICK_SHIFT: u32 = 24;
const SLOT_COUNT: u64 = 4096;
const SLOT_BITS: u32 = SLOT_COUNT.trailing_zeros();
/// A slot that held more keys than this gives its memory back when it has been emptied: 4,096 slots that each keep the
/// room of a busy tick would be as much memory as the traces themselves.
const SLOT_KEYS_KEPT: usize = 16;

/// Keys of one slot that are searched for one to be disarmed that is not where it was put.
const SEARCH_KEYS_MAX: usize = 1024;

/// Where a key is armed: its slot in the low bits, above them where in the slot it was put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Armed(u32);

impl Armed {
    /// Nowhere.
    pub const NOT: Armed = Armed(u32::MAX);

    /// A position too large for it is told as the largest.
    fn new(slot: usize, index: usize) -> Armed {
        const INDEX_MAX: usize = (u32::MAX >> SLOT_BITS) as usize - 1;
        Armed((index.min(INDEX_MAX) as u32) << SLOT_BITS | slot as u32)
    }

    fn slot(self) -> usize {
        self.0 as usize % SLOT_COUNT as usize
    }

    fn index(self) -> usize {
        (self.0 >> SLOT_BITS) as usize
    }
}

/// Keys by the tick at which they come up.
///
/// Invariant: a key comes up at or after its deadline and at most one tick late, provided `expire` is called
/// at each [`Wheel::next`].
#[derive(Debug)]
pub struct Wheel<K> {
    /// A key with the round in which it is due: its tick without the low bits, which name the slot.
    slots: Vec<Vec<(u32, K)>>,
    /// What the slots have room for.
    capacity: usize,
    /// Every tick before this one has been expired.
    cursor: u64,
    len: usize,
}

impl<K: Copy + PartialEq> Wheel<K> {
    pub fn new(now: Instant) -> Wheel<K> {
        Wheel {
            slots: (0..SLOT_COUNT).map(|_| Vec::new()).collect(),
            capacity: 0,
            cursor: now.0 >> TICK_SHIFT,
            len: 0,
        }
    }

    /// `key` comes up once, at or soon after `deadline`. Returned is where it is armed.
    #[inline]
    pub fn arm(&mut self, deadline: Instant, key: K) -> Armed {
        // The tick that begins at or after the deadline, so that a key is never early.
        let tick = (deadline.0.saturating_add((1 << TICK_SHIFT) - 1) >> TICK_SHIFT).max(self.cursor);
        let number = (tick % SLOT_COUNT) as usize;
        let slot = &mut self.slots[number];
        let armed = Armed::new(number, slot.len());
        let before = slot.capacity();
        slot.push(((tick / SLOT_COUNT) as u32, key));
        self.capacity += slot.capacity() - before;
        self.len += 1;
        armed
    }

    /// `key` need not come up any more. Among very many of one tick it may not be found; then it does come up.
    ///
    /// Those of a tick that go in the order in which they were armed, or in the opposite one, are found at once: a
    /// key is where it was put until the last one takes the place of one that went.
    pub fn disarm(&mut self, armed: Armed, key: K) {
        if armed == Armed::NOT {
            return;
        }
        let slot = &mut self.slots[armed.slot()];
        let is_it = |(_, other): &(u32, K)| *other == key;
        let first = slot.len().saturating_sub(SEARCH_KEYS_MAX);
        let found = match slot.get(armed.index()).is_some_and(is_it) {
            true => Some(armed.index()),
            false => slot[first..].iter().rposition(is_it).map(|found| first + found),
        };
        let Some(found) = found else {
            return;
        };
        slot.swap_remove(found);
        self.len -= 1;
        if slot.is_empty() && slot.capacity() > SLOT_KEYS_KEPT {
            self.capacity -= slot.capacity();
            *slot = Vec::new();
        }
    }

    /// Moves the keys that are due at `now` to `due`, at most `count_max`; true if more are waiting.
    pub fn expire(&mut self, now: Instant, count_max: usize, due: &mut Vec<K>) -> bool {
        let now_tick = now.0 >> TICK_SHIFT;
        if self.len == 0 {
            self.cursor = self.cursor.max(now_tick + 1);
            return false;
        }
        let mut taken = 0;
        // After a long pause one round visits every slot once.
        self.cursor = self.cursor.max((now_tick + 1).saturating_sub(SLOT_COUNT));
        while self.cursor <= now_tick {
            let slot = &mut self.slots[(self.cursor % SLOT_COUNT) as usize];
            // Of two ticks in one slot the later one has the higher round.
            let now_round = (now_tick - self.cursor % SLOT_COUNT) / SLOT_COUNT;
            let mut index = 0;
            while index < slot.len() {
                if u64::from(slot[index].0) > now_round {
                    index += 1;
                } else if taken == count_max {
                    return true;
                } else {
                    due.push(slot.swap_remove(index).1);
                    taken += 1;
                    self.len -= 1;
                }
            }
            if slot.is_empty() && slot.capacity() > SLOT_KEYS_KEPT {
                self.capacity -= slot.capacity();
                *slot = Vec::new();
            }
            self.cursor += 1;
        }
        false
    }

    /// When `expire` is next worth calling: the next tick while anything is armed.
    pub fn next(&self) -> Option<Instant> {
        (self.len > 0).then_some(Instant(self.cursor << TICK_SHIFT))
    }

    /// Bytes of all slots.
    pub fn memory_bytes(&self) -> usize {
        self.slots.len() * size_of::<Vec<(u32, K)>>() + self.capacity * size_of::<(u32, K)>()
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TICK_NS: u64 = 1 << TICK_SHIFT;

    #[test]
    fn a_key_that_is_disarmed_does_not_come_up_and_takes_no_memory() {
        let mut wheel = Wheel::new(Instant(0));
        let empty = wheel.memory_bytes();
        let armed: Vec<Armed> = (0..500).map(|key| wheel.arm(Instant(5), key)).collect();
        for key in (0..500).filter(|key| *key != 77) {
            wheel.disarm(armed[key], key);
        }
        wheel.disarm(Armed::NOT, 77);
        let mut due = Vec::new();
        assert!(!wheel.expire(Instant(TICK_NS), 1000, &mut due));
        assert_eq!((due, wheel.len(), wheel.memory_bytes()), (vec![77], 0, empty));
    }

    #[test]
    fn keys_of_a_crowded_tick_are_found_in_the_order_they_were_armed_and_the_opposite_one() {
        let count = 8 * SEARCH_KEYS_MAX;
        for reversed in [false, true] {
            let mut wheel = Wheel::new(Instant(0));
            let empty = wheel.memory_bytes();
            let mut armed: Vec<_> = (0..count).map(|key| (wheel.arm(Instant(5), key), key)).collect();
            if reversed {
                armed.reverse();
            }
            armed
                .into_iter()
                .for_each(|(armed, key)| wheel.disarm(armed, key));
            assert_eq!((wheel.len(), wheel.memory_bytes()), (0, empty));
        }
    }

    #[test]
    fn a_position_too_large_to_be_told_is_not_taken_for_nowhere() {
        let far = Armed::new(SLOT_COUNT as usize - 1, usize::MAX);
        assert_ne!(far, Armed::NOT);
        assert_eq!(far.slot(), SLOT_COUNT as usize - 1);
    }

    #[test]
    fn a_full_slot_is_taken_in_parts() {
        let mut wheel = Wheel::new(Instant(0));
        for key in 0..10 {
            wheel.arm(Instant(5), key);
        }
        let mut due = Vec::new();
        assert!(wheel.expire(Instant(TICK_NS), 4, &mut due));
        assert!(wheel.expire(Instant(TICK_NS), 4, &mut due));
        assert!(!wheel.expire(Instant(TICK_NS), 4, &mut due));
        due.sort();
        assert_eq!(due, (0..10).collect::<Vec<_>>());
    }

    proptest! {
        #[test]
        fn every_key_comes_up_once_never_early_and_at_most_a_tick_late(
            deadlines in prop::collection::vec(0..20_000 * TICK_NS, 1..60),
            steps in prop::collection::vec(1..9_000 * TICK_NS, 1..60),
        ) {
            let mut wheel = Wheel::new(Instant(0));
            for (key, deadline) in deadlines.iter().enumerate() {
                wheel.arm(Instant(*deadline), key);
            }
            let mut seen = vec![false; deadlines.len()];
            let (mut now, mut before) = (0, 0);
            for step in steps.into_iter().chain([30_000 * TICK_NS]) {
                now += step;
                let mut due = Vec::new();
                wheel.expire(Instant(now), usize::MAX, &mut due);
                for key in due {
                    prop_assert!(!std::mem::replace(&mut seen[key], true));
                    prop_assert!(deadlines[key] <= now, "early");
                    prop_assert!(deadlines[key] + 2 * TICK_NS > before, "late");
                }
                before = now;
            }
            prop_assert!(seen.iter().all(|seen| *seen) && wheel.is_empty());
        }
    }
}
