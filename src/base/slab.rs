//! Values in numbered slots, with keys that a reused slot does not answer to, and links in half their size.

use super::prefetch::prefetch;
use std::num::NonZeroU32;

/// Names one value of one [`Slab`]: a slot and the generation that filled it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    slot: u32,
    /// Never zero, so that an `Option<Key>` takes no more room than a key.
    generation: NonZeroU32,
}

impl Key {
    /// The number of the slot: small, dense, and reused.
    #[inline]
    pub fn slot(self) -> u32 {
        self.slot
    }

    /// For those who give back 64 bits that they were given.
    #[inline]
    pub fn to_bits(self) -> u64 {
        u64::from(self.generation.get()) << 32 | u64::from(self.slot)
    }

    #[inline]
    pub fn from_bits(bits: u64) -> Option<Key> {
        let generation = NonZeroU32::new((bits >> 32) as u32)?;
        Some(Key {
            slot: bits as u32,
            generation,
        })
    }
}

/// Names a slot, or none, without its generation: for whoever forgets it when the value goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link(u32);

impl Link {
    pub const NONE: Link = Link(NO_SLOT);
}

impl From<Key> for Link {
    fn from(key: Key) -> Link {
        Link(key.slot)
    }
}

impl From<Option<Key>> for Link {
    fn from(key: Option<Key>) -> Link {
        key.map_or(Link::NONE, Link::from)
    }
}

#[derive(Clone, Debug)]
enum Entry<T> {
    Filled { generation: NonZeroU32, value: T },
    Free { generation: NonZeroU32, next: u32 },
}

/// Slots of one allocation. Growing by chunks never copies what is there, so no turn pays for it.
const CHUNK_SLOTS: usize = 1024;

/// A vector with holes. Freed slots are filled again, newest first, so that memory stays warm.
///
/// Invariant: a key answers only for the value it was given for; after `remove` it answers nothing.
#[derive(Clone, Debug)]
pub struct Slab<T> {
    chunks: Vec<Vec<Entry<T>>>,
    free: u32,
    len: usize,
}

/// No slot has this number: fewer values than that fit in memory.
const NO_SLOT: u32 = u32::MAX;

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Slab {
            chunks: Vec::new(),
            free: NO_SLOT,
            len: 0,
        }
    }
}

impl<T> Slab<T> {
    /// Bytes of memory that one value takes.
    pub const SLOT_BYTES: usize = size_of::<Entry<T>>();

    pub fn insert(&mut self, value: T) -> Key {
        self.len += 1;
        if self.free != NO_SLOT {
            let slot = self.free;
            let entry = self
                .entry_mut(slot)
                .expect("the free list names slots that exist");
            let Entry::Free { generation, next } = *entry else {
                unreachable!("the free list names free slots only")
            };
            *entry = Entry::Filled { generation, value };
            self.free = next;
            return Key { slot, generation };
        }
        if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK_SLOTS) {
            self.chunks.push(Vec::with_capacity(CHUNK_SLOTS));
        }
        let chunk_index = self.chunks.len() - 1;
        let chunk = &mut self.chunks[chunk_index];
        let slot = chunk_index * CHUNK_SLOTS + chunk.len();
        chunk.push(Entry::Filled {
            generation: NonZeroU32::MIN,
            value,
        });
        Key {
            slot: u32::try_from(slot).expect("fewer than 2^32 values fit in memory"),
            generation: NonZeroU32::MIN,
        }
    }

    pub fn remove(&mut self, key: Key) -> Option<T> {
        let next = self.free;
        let entry = self.entry_mut(key.slot)?;
        if !matches!(entry, Entry::Filled { generation, .. } if *generation == key.generation) {
            return None;
        }
        let freed = Entry::Free {
            generation: key.generation.checked_add(1).unwrap_or(NonZeroU32::MIN),
            next,
        };
        let Entry::Filled { value, .. } = std::mem::replace(entry, freed) else {
            unreachable!("matched above")
        };
        self.free = key.slot;
        self.len -= 1;
        Some(value)
    }

    #[inline]
    pub fn get(&self, key: Key) -> Option<&T> {
        match self.entry(key.slot)? {
            Entry::Filled { generation, value } if *generation == key.generation => Some(value),
            _ => None,
        }
    }

    /// The value that fills the slot now, with its key.
    #[inline]
    pub fn linked(&self, Link(slot): Link) -> Option<(Key, &T)> {
        match self.entry(slot)? {
            Entry::Filled { generation, value } => {
                let generation = *generation;
                Some((Key { slot, generation }, value))
            }
            Entry::Free { .. } => None,
        }
    }

    #[inline]
    pub fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        match self.entry_mut(key.slot)? {
            Entry::Filled { generation, value } if *generation == key.generation => Some(value),
            _ => None,
        }
    }

    /// Asks for the memory of a value that will be needed soon.
    #[inline]
    pub fn prefetch(&self, link: impl Into<Link>) {
        let Link(slot) = link.into();
        if let Some(entry) = self.entry(slot) {
            prefetch(entry);
        }
    }

    #[inline]
    fn entry(&self, slot: u32) -> Option<&Entry<T>> {
        self.chunks
            .get(slot as usize / CHUNK_SLOTS)?
            .get(slot as usize % CHUNK_SLOTS)
    }

    #[inline]
    fn entry_mut(&mut self, slot: u32) -> Option<&mut Entry<T>> {
        self.chunks
            .get_mut(slot as usize / CHUNK_SLOTS)?
            .get_mut(slot as usize % CHUNK_SLOTS)
    }

    /// Bytes of all slots, free ones included: chunks are kept for their next use.
    pub fn memory_bytes(&self) -> usize {
        self.chunks.len() * CHUNK_SLOTS * Self::SLOT_BYTES
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn iter(&self) -> impl Iterator<Item = (Key, &T)> {
        self.chunks
            .iter()
            .flatten()
            .enumerate()
            .filter_map(|(slot, entry)| match entry {
                Entry::Filled { generation, value } => Some((
                    Key {
                        slot: slot as u32,
                        generation: *generation,
                    },
                    value,
                )),
                Entry::Free { .. } => None,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reused_slot_does_not_answer_to_the_old_key() {
        let mut slab = Slab::default();
        let old = slab.insert("old");
        assert_eq!(slab.remove(old), Some("old"));
        let new = slab.insert("new");
        assert_eq!(new.slot(), old.slot());
        assert_eq!(slab.get(old), None);
        assert_eq!(slab.remove(old), None);
        assert_eq!(slab.get(new), Some(&"new"));
        assert_eq!(slab.len(), 1);
    }

    #[test]
    fn a_link_leads_to_the_key_of_whatever_fills_its_slot() {
        let mut slab = Slab::default();
        let old = slab.insert("old");
        let link = Link::from(old);
        assert_eq!(slab.linked(link), Some((old, &"old")));
        slab.remove(old);
        assert_eq!(slab.linked(link), None);
        let new = slab.insert("new");
        assert_eq!(slab.linked(link), Some((new, &"new")));
        assert_eq!(slab.linked(Link::NONE), None);
        assert_eq!(Link::from(None), Link::NONE);
    }

    #[test]
    fn iteration_shows_filled_slots_only() {
        let mut slab = Slab::default();
        let keys: Vec<_> = (0..4).map(|value| slab.insert(value)).collect();
        slab.remove(keys[1]);
        let seen: Vec<_> = slab.iter().map(|(key, value)| (key.slot(), *value)).collect();
        assert_eq!(seen, [(0, 0), (2, 2), (3, 3)]);
    }
}
