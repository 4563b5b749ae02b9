//! The kept entries that some destination has not got, and whose each of them is.
//!
//! ```text
//!  number     7        8        9        10
//!  entries  │ A B    │   B    │ A      │ A B    │     readers: a bit per destination
//!             ↑ first           ↑ A has passed over 8, for it is not A's
//! ```

use crate::base::ids::{Place, Position, TraceId};
use crate::base::time::Instant;
use crate::route::PolicyNumber;
use std::collections::VecDeque;

/// Bits of [`Readers`]; a configuration beyond it is refused by name.
pub const DESTINATION_COUNT_MAX: usize = 64;

/// Entries that an empty queue keeps room for.
const CAPACITY_KEPT: usize = 4096;

/// Destinations that are to get an entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readers(u64);

impl Readers {
    pub fn add(&mut self, destination: usize) {
        assert!(destination < DESTINATION_COUNT_MAX, "config sees to it");
        self.0 |= 1 << destination;
    }

    pub fn remove(&mut self, destination: usize) {
        self.0 &= !(1 << destination);
    }

    pub fn contains(self, destination: usize) -> bool {
        self.0 >> destination & 1 == 1
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// A kept entry that some destination has not got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptEntry {
    pub trace: TraceId,
    pub position: Position,
    pub end: Position,
    pub framed_len: u32,
    pub span_count: u32,
    /// Which policy kept it, by its number in the landing core's names.
    pub policy: Option<PolicyNumber>,
    pub readers: Readers,
    pub kept_at: Instant,
    /// Its spans lie in the log at or after this: should the kept log be damaged, a start finds them there.
    pub needs: Position,
}

/// Spans and framed bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    pub spans: u64,
    pub bytes: u64,
}

impl Amount {
    pub fn add(&mut self, entry: &KeptEntry) {
        self.spans += u64::from(entry.span_count);
        self.bytes += u64::from(entry.framed_len);
    }
}

impl std::ops::AddAssign for Amount {
    fn add_assign(&mut self, more: Amount) {
        self.spans += more.spans;
        self.bytes += more.bytes;
    }
}

impl std::ops::Sub for Amount {
    type Output = Amount;

    fn sub(self, less: Amount) -> Amount {
        Amount {
            spans: self.spans - less.spans,
            bytes: self.bytes - less.bytes,
        }
    }
}

/// Kept entries in order. They are numbered from the start of the process.
#[derive(Debug, Default)]
pub struct Queue {
    entries: VecDeque<KeptEntry>,
    /// Number of the first.
    first: u64,
    end: Position,
}

impl Queue {
    pub fn push(&mut self, entry: KeptEntry) {
        debug_assert!(entry.position.0.is_multiple_of(Place::ENTRY_ALIGN));
        self.end = entry.end;
        self.entries.push_back(entry);
    }

    pub fn get(&self, number: u64) -> Option<&KeptEntry> {
        self.entries
            .get(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }

    /// That the next entry will have.
    pub fn next_number(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    pub fn memory_bytes(&self) -> u64 {
        (self.entries.capacity() * size_of::<KeptEntry>()) as u64
    }

    /// The first entry that some destination has not got.
    pub fn front(&self) -> Option<&KeptEntry> {
        self.entries.front()
    }

    /// Entries from this number on.
    pub fn from(&self, number: u64) -> impl Iterator<Item = &KeptEntry> {
        let gone = number.saturating_sub(self.first);
        self.entries
            .iter()
            .skip(usize::try_from(gone).unwrap_or(usize::MAX))
    }

    /// Removes the first entry if its number is below `next`.
    pub fn pop_before(&mut self, next: u64) -> Option<KeptEntry> {
        if self.first >= next {
            return None;
        }
        let entry = self.entries.pop_front()?;
        self.first += 1;
        if self.entries.is_empty() && self.entries.capacity() > CAPACITY_KEPT {
            self.entries = VecDeque::new();
        }
        Some(entry)
    }

    /// Where the last entry ever pushed ends.
    pub fn end(&self) -> Position {
        self.end
    }
}
