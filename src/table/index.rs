//! Trace → link to its slot: a hash table in parts, each growing by itself.
//!
//! ```text
//!  hash of the trace   ┌ 63 … 56 ┬ 55 … 40 ┬ 39 … 32 ┬ 31 … 0 ┐
//!                      │ owner   │         │ part    │ stored │   link: 4 bytes beside it
//!                      └─────────┴─────────┴─────────┴────────┘
//! ```
//!
//! One table with room for all traces that memory allows would spread the few that are open over all of that room,
//! every look a miss of cache and TLB; one that grows moves a million entries within one turn. A part moves its
//! share of them, 1/256, and needs no look at their slots for it. A link is enough: it is removed with its trace.

use crate::base::prefetch::prefetch;
use crate::base::slab::Link;
use hashbrown::HashTable;

const PART_COUNT: usize = 256;

#[derive(Clone, Copy, Debug)]
struct Entry {
    hash: u32,
    link: Link,
}

/// Links to open traces by the hash of their trace.
#[derive(Debug)]
pub(super) struct Index {
    parts: Vec<HashTable<Entry>>,
    /// Bytes of all parts.
    bytes: usize,
}

impl Index {
    pub fn new() -> Index {
        Index {
            parts: (0..PART_COUNT).map(|_| HashTable::new()).collect(),
            bytes: 0,
        }
    }

    /// What is found among the links of `hash`.
    #[inline]
    pub fn find<F>(&self, hash: u64, mut look: impl FnMut(Link) -> Option<F>) -> Option<F> {
        let stored = hash as u32;
        let mut found = None;
        self.parts[part(hash)].find(spread(stored), |entry| {
            if entry.hash == stored {
                found = look(entry.link);
            }
            found.is_some()
        });
        found
    }

    /// Asks for the entries that a look at `hash` will compare.
    #[inline]
    pub fn prefetch(&self, hash: u64) {
        self.parts[part(hash)].find(spread(hash as u32), |entry| {
            prefetch(entry);
            false
        });
    }

    /// `link` must not be in it.
    pub fn insert(&mut self, hash: u64, link: Link) {
        let stored = hash as u32;
        let entry = Entry { hash: stored, link };
        let part = &mut self.parts[part(hash)];
        if part.len() < part.capacity() {
            part.insert_unique(spread(stored), entry, |entry| spread(entry.hash));
            return;
        }
        let before = part.allocation_size();
        part.insert_unique(spread(stored), entry, |entry| spread(entry.hash));
        self.bytes = self.bytes + part.allocation_size() - before;
    }

    /// Bytes of all parts. They do not shrink: a part that was full once will be again.
    pub fn memory_bytes(&self) -> usize {
        self.bytes
    }

    /// Whether `link` was in it.
    pub fn remove(&mut self, hash: u64, link: Link) -> bool {
        let found = self.parts[part(hash)].find_entry(spread(hash as u32), |entry| entry.link == link);
        found.map(|entry| entry.remove()).is_ok()
    }
}

fn part(hash: u64) -> usize {
    (hash >> 32) as usize % PART_COUNT
}

/// A hash table takes the bucket from the low bits and a tag from the highest, so both must vary.
fn spread(stored: u32) -> u64 {
    u64::from(stored).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::TraceId;
    use crate::base::slab::{Key, Slab};
    use crate::route::{HashKey, owner};

    #[test]
    fn links_are_told_apart_by_whoever_asks() {
        let (mut index, mut slab) = (Index::new(), Slab::default());
        let keys: Vec<Key> = (0..1000u64).map(|value| slab.insert(value)).collect();
        // Every hash twice.
        let hash = |value: u64| (value / 2).wrapping_mul(0xd129_42ad_f1ca_35b9);
        for (value, key) in keys.iter().enumerate() {
            index.insert(hash(value as u64), Link::from(*key));
        }
        let find = |index: &Index, value: u64| {
            let look = |link| slab.linked(link).filter(|(_, found)| **found == value);
            index.find(hash(value), look).map(|(key, _)| key)
        };
        for (value, key) in keys.iter().enumerate() {
            assert_eq!(find(&index, value as u64), Some(*key));
        }
        assert!(index.remove(hash(4), Link::from(keys[4])));
        assert!(!index.remove(hash(4), Link::from(keys[4])));
        assert_eq!(find(&index, 4), None);
        assert_eq!(find(&index, 5), Some(keys[5]));
    }

    #[test]
    fn trace_ids_that_are_alike_spread_over_parts_and_cores() {
        const PER_PART: usize = 64;
        let key = HashKey([0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908]);
        let alike: [fn(u64) -> [u64; 2]; 3] = [
            |number| [7, number],
            |number| [number, 7],
            |number| [number << 32, number << 32],
        ];
        for halves in alike {
            let (mut parts, mut owned) = ([0; PART_COUNT], [0; 2]);
            for number in 1..=(PER_PART * PART_COUNT) as u64 {
                let bytes: Vec<u8> = halves(number)
                    .iter()
                    .flat_map(|half| half.to_be_bytes())
                    .collect();
                let hash = key.trace(&TraceId::new(&bytes).expect("not zero"));
                parts[part(hash)] += 1;
                owned[usize::from(owner(hash, 2).0)] += 1;
            }
            // Six standard deviations of what chance gives a part, and a core.
            assert!(parts.iter().all(|count| (16..=112).contains(count)), "{parts:?}");
            assert!(
                owned.iter().all(|count| (7808..=8576).contains(count)),
                "{owned:?}"
            );
        }
    }
}
