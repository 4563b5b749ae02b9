//! A set of decisions that is filled up, looked at, and forgotten as a whole.
//!
//! ```text
//!  line of 64 bytes   ┌ epoch 56 │ count 8 ┬ entry ┬ entry ┬ … 7 ┐   full: the next line goes on
//!  entry              ┌ 58 bits of a keyed hash │ 6 bits of decision ┐
//! ```
//!
//! A look is one cache line, whose address follows from the hash, so it can be asked for ahead. Forgetting raises the
//! epoch; a line of an older one counts as empty. So nothing is cleared, and memory is first touched by use.

use crate::base::prefetch::{LINE_BYTES, prefetch};

/// Bits of an entry that are not the fingerprint.
pub(super) const DECISION_BITS: u32 = 6;

const LINE_WORDS: usize = LINE_BYTES / size_of::<u64>();
const LINE_ENTRIES: usize = LINE_WORDS - 1;
/// Entries of a line, on average, when the set is full: then one line in twenty goes on in the next.
const LINE_LOAD: usize = 4;
const COUNT_BITS: u32 = 8;

/// At most `count_max` entries.
///
/// Invariant: only the last line of those that an entry may lie in has room.
#[derive(Debug)]
pub(super) struct Generation {
    words: Vec<u64>,
    /// Of the first line in `words`, which the allocator does not align.
    first: usize,
    line_count: usize,
    epoch: u64,
    len: usize,
    count_max: usize,
}

impl Generation {
    pub fn new(count_max: usize) -> Generation {
        let line_count = count_max / LINE_LOAD + 1;
        let words = vec![0; (line_count + 1) * LINE_WORDS];
        Generation {
            first: words.as_ptr().align_offset(LINE_BYTES),
            words,
            line_count,
            epoch: 1,
            len: 0,
            count_max,
        }
    }

    pub fn is_full(&self) -> bool {
        self.len >= self.count_max
    }

    pub fn clear(&mut self) {
        self.epoch += 1;
        self.len = 0;
    }

    #[inline]
    pub fn prefetch(&self, fingerprint: u64) {
        prefetch(&self.words[self.line(fingerprint)]);
    }

    #[inline]
    pub fn find(&self, fingerprint: u64) -> Option<u64> {
        self.seek(fingerprint).ok().map(|at| self.words[at])
    }

    /// Adds an entry, or puts it in place of the one with its fingerprint. There is room.
    pub fn insert(&mut self, entry: u64) {
        match self.seek(entry) {
            Ok(at) => self.words[at] = entry,
            Err(line) => {
                let head = match self.words[line] {
                    head if head >> COUNT_BITS == self.epoch => head,
                    _ => self.epoch << COUNT_BITS,
                };
                let count = (head & 0xff) as usize;
                self.words[line + 1 + count] = entry;
                self.words[line] = head + 1;
                self.len += 1;
            }
        }
    }

    /// Where the entry with this fingerprint stands, or else the line that has room for it.
    #[inline]
    fn seek(&self, fingerprint: u64) -> Result<usize, usize> {
        let mut line = self.line(fingerprint);
        loop {
            let words = &self.words[line..line + LINE_WORDS];
            let count = match words[0] {
                head if head >> COUNT_BITS == self.epoch => (head & 0xff) as usize,
                _ => 0,
            };
            let is_it = |entry: &u64| (entry ^ fingerprint) >> DECISION_BITS == 0;
            if let Some(index) = words[1..=count].iter().position(is_it) {
                return Ok(line + 1 + index);
            }
            if count < LINE_ENTRIES {
                return Err(line);
            }
            line += LINE_WORDS;
            if line == self.first + self.line_count * LINE_WORDS {
                line = self.first;
            }
        }
    }

    #[inline]
    fn line(&self, fingerprint: u64) -> usize {
        let number = (u128::from(fingerprint) * self.line_count as u128) >> 64;
        self.first + number as usize * LINE_WORDS
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    proptest! {
        /// Few lines and clustered fingerprints, so that lines overflow and wrap around.
        #[test]
        fn it_holds_what_was_put_in_since_it_was_cleared(
            steps in prop::collection::vec((0..50u64, 0..64u64, 0..40u8), 0..300),
        ) {
            let mut generation = Generation::new(64);
            let mut model = HashMap::new();
            for (key, decision, clears) in steps {
                let fingerprint = (key << 3 | u64::MAX << 56) << DECISION_BITS;
                prop_assert_eq!(generation.find(fingerprint), model.get(&key).copied());
                if clears == 0 {
                    generation.clear();
                    model.clear();
                }
                generation.insert(fingerprint | decision);
                model.insert(key, fingerprint | decision);
            }
            prop_assert_eq!(generation.len, model.len());
        }
    }
}
