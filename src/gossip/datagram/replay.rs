//! Which counters of one sender have been seen: each is taken once.

/// Counters that may come late: at 2,000 datagrams a second those of the last two seconds.
pub const WINDOW: u64 = 4096;
const WORDS: usize = (WINDOW / 64) as usize;

/// A ring of bits behind the highest counter seen, as IPsec and WireGuard keep it (RFC 6479).
///
/// Invariant: bit `c % WINDOW` tells of counter `c` for the [`WINDOW`] counters up to `highest`.
#[derive(Clone, Debug)]
pub struct ReplayWindow {
    /// One more than the highest counter seen; 0: none was.
    next: u64,
    bits: [u64; WORDS],
}

impl ReplayWindow {
    pub const NEW: ReplayWindow = ReplayWindow {
        next: 0,
        bits: [0; WORDS],
    };

    /// Whether [`ReplayWindow::take`] would take it.
    pub fn is_fresh(&self, counter: u64) -> bool {
        if counter >= self.next {
            // The last one is never sent, so that `next` has a value.
            return counter != u64::MAX;
        }
        self.next - counter <= WINDOW && self.bits[word(counter)] & bit(counter) == 0
    }

    /// `false`: it was seen, or is too old to tell.
    pub fn take(&mut self, counter: u64) -> bool {
        if !self.is_fresh(counter) {
            return false;
        }
        if counter >= self.next {
            match counter - self.next >= WINDOW {
                true => self.bits = [0; WORDS],
                false => (self.next..counter).for_each(|skipped| self.bits[word(skipped)] &= !bit(skipped)),
            }
            self.next = counter + 1;
        }
        self.bits[word(counter)] |= bit(counter);
        true
    }
}

fn word(counter: u64) -> usize {
    (counter % WINDOW / 64) as usize
}

fn bit(counter: u64) -> u64 {
    1 << (counter % 64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        /// Against a set that forgets nothing: nothing is taken twice, and what is not too late is taken.
        #[test]
        fn each_counter_is_taken_once(steps in prop::collection::vec(0u64..3 * WINDOW, 1..400), base in 0u64..1 << 40) {
            let (mut window, mut seen) = (ReplayWindow::NEW, BTreeSet::new());
            for step in steps {
                let counter = base + step;
                let too_late = seen.last().is_some_and(|last| last - counter.min(*last) >= WINDOW);
                prop_assert_eq!(window.take(counter), !too_late && seen.insert(counter));
            }
        }
    }

    #[test]
    fn the_highest_counter_of_all_is_refused() {
        let mut window = ReplayWindow::NEW;
        assert!(!window.take(u64::MAX));
        assert!(window.take(u64::MAX - 1));
        assert!(!window.take(u64::MAX - 1));
    }
}
