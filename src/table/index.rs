//! Trace → key of its slot: a hash table in parts, each growing by itself.
//!
//! ```text
//!  hash of the trace   ┌ 63 … 56 ┬ 55 … 40 ┬ 39 … 32 ┬ 31 … 0 ┐
//!                      │ owner   │         │ part    │ stored │   key: 8 bytes beside it
//!                      └─────────┴─────────┴─────────┴────────┘
//! ```
//!
//! One table with room for all traces that memory allows would spread the few that are open over all of that room,
//! every look a miss of cache and TLB; one that grows moves a million entries within one turn. A part moves its
//! share of them, 1/256, and needs no look at their slots for it.

use crate::base::prefetch::prefetch;
use crate::base::slab::Key;
use hashbrown::HashTable;

const PART_COUNT: usize = 256;

#[derive(Clone, Copy, Debug)]
struct Entry {
    hash: u32,
    key: Key,
}

/// The keys of open traces by the hash of their trace.
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

    /// The key among those of `hash` that `is_it`.
    #[inline]
    pub fn find(&self, hash: u64, mut is_it: impl FnMut(Key) -> bool) -> Option<Key> {
        let stored = hash as u32;
        let found =
            self.parts[part(hash)].find(spread(stored), |entry| entry.hash == stored && is_it(entry.key));
        found.map(|entry| entry.key)
    }

    /// Asks for the entries that a look at `hash` will compare.
    #[inline]
    pub fn prefetch(&self, hash: u64) {
        self.parts[part(hash)].find(spread(hash as u32), |entry| {
            prefetch(entry);
            false
        });
    }

    /// `key` must not be in it.
    pub fn insert(&mut self, hash: u64, key: Key) {
        let stored = hash as u32;
        let entry = Entry { hash: stored, key };
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

    /// Whether `key` was in it.
    pub fn remove(&mut self, hash: u64, key: Key) -> bool {
        let found = self.parts[part(hash)].find_entry(spread(hash as u32), |entry| entry.key == key);
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
    use crate::base::slab::Slab;

    #[test]
    fn keys_are_told_apart_by_whoever_asks() {
        let (mut index, mut slab) = (Index::new(), Slab::default());
        let keys: Vec<Key> = (0..1000u64).map(|value| slab.insert(value)).collect();
        // Every hash twice.
        let hash = |value: u64| (value / 2).wrapping_mul(0xd129_42ad_f1ca_35b9);
        for (value, key) in keys.iter().enumerate() {
            index.insert(hash(value as u64), *key);
        }
        let find = |index: &Index, value: u64| index.find(hash(value), |key| slab.get(key) == Some(&value));
        for (value, key) in keys.iter().enumerate() {
            assert_eq!(find(&index, value as u64), Some(*key));
        }
        assert!(index.remove(hash(4), keys[4]));
        assert!(!index.remove(hash(4), keys[4]));
        assert_eq!(find(&index, 4), None);
        assert_eq!(find(&index, 5), Some(keys[5]));
    }
}
