//! Two generations of decisions: one that is filled, and the one before it. Both are looked at; the older is forgotten
//! as a whole when the newer is full, and takes its turn.
//!
//! ```text
//!  words    ┌ line 0 of one ┬ line 0 of the other ┬ line 1 of one ┬ … 64 bytes each
//!  line     ┌ epoch 56 │ count 8 ┬ entry ┬ entry ┬ … 7 ┐   full: its generation's next line goes on
//!  entry    ┌ 58 bits of a keyed hash │ 6 bits of decision ┐
//! ```
//!
//! A look is two cache lines side by side (one miss of the TLB), whose address follows from the hash, so it can be asked
//! for ahead. Forgetting raises an epoch; a line of an older one counts as empty. So nothing is cleared, and memory is
//! first touched by use.

use crate::base::prefetch::{LINE_BYTES, prefetch_words};

/// Bits of an entry that are not the fingerprint.
pub(super) const DECISION_BITS: u32 = 6;

const LINE_WORDS: usize = LINE_BYTES / size_of::<u64>();
const LINE_ENTRIES: usize = LINE_WORDS - 1;
/// Entries of a line, on average, when a generation is full: then one line in twenty goes on in the next.
const LINE_LOAD: usize = 4;
const COUNT_BITS: u32 = 8;

/// At least the last `count_max` entries, and at most twice as many.
///
/// Invariant: of the lines that an entry of a generation may lie in, only the last has room.
#[derive(Debug)]
pub(super) struct Generations {
    words: Vec<u64>,
    /// Of the first line in `words`, which the allocator does not align.
    first: usize,
    line_count: usize,
    count_max: usize,
    /// The number of the generation that is filled. It is also its epoch, and the one before it has the one before.
    current: u64,
    /// Entries of the current generation.
    len: usize,
}

impl Generations {
    /// Memory for each entry of `count_max`.
    pub const BYTES_EACH: u64 = (2 * LINE_BYTES / LINE_LOAD) as u64;

    pub fn memory_bytes(&self) -> usize {
        self.words.len() * size_of::<u64>()
    }

    pub fn new(count_max: usize) -> Generations {
        let line_count = count_max / LINE_LOAD + 1;
        let words = vec![0; (2 * line_count + 1) * LINE_WORDS];
        Generations {
            first: words.as_ptr().align_offset(LINE_BYTES),
            words,
            line_count,
            count_max,
            // Untouched lines have epoch 0, which neither of the first two generations has.
            current: 2,
            len: 0,
        }
    }

    /// Asks for the memory of a look that will come soon.
    #[inline]
    pub fn prefetch(&self, fingerprint: u64) {
        let line = self.line(fingerprint, 0);
        prefetch_words(&self.words[line..line + 2 * LINE_WORDS]);
    }

    /// The newest entry with this fingerprint.
    #[inline]
    pub fn find(&self, fingerprint: u64) -> Option<u64> {
        let found = self
            .seek(fingerprint, self.current)
            .or_else(|_| self.seek(fingerprint, self.current - 1));
        found.ok().map(|at| self.words[at])
    }

    /// Whether the next entry begins no new generation.
    pub fn has_room(&self) -> bool {
        self.len < self.count_max
    }

    /// Adds an entry, or puts it in place of the one with its fingerprint.
    pub fn insert(&mut self, entry: u64) {
        if self.len >= self.count_max {
            self.current += 1;
            self.len = 0;
        }
        match self.seek(entry, self.current) {
            Ok(at) => self.words[at] = entry,
            Err(line) => {
                let head = match self.words[line] {
                    head if head >> COUNT_BITS == self.current => head,
                    _ => self.current << COUNT_BITS,
                };
                let count = (head & 0xff) as usize;
                self.words[line + 1 + count] = entry;
                self.words[line] = head + 1;
                self.len += 1;
            }
        }
    }

    /// Where the entry with this fingerprint stands in a generation, or else the line that has room for it.
    #[inline]
    fn seek(&self, fingerprint: u64, generation: u64) -> Result<usize, usize> {
        let mut line = self.line(fingerprint, generation);
        loop {
            let words = &self.words[line..line + LINE_WORDS];
            let count = match words[0] {
                head if head >> COUNT_BITS == generation => (head & 0xff) as usize,
                _ => 0,
            };
            let is_it = |entry: &u64| (entry ^ fingerprint) >> DECISION_BITS == 0;
            if let Some(index) = words[1..=count].iter().position(is_it) {
                return Ok(line + 1 + index);
            }
            if count < LINE_ENTRIES {
                return Err(line);
            }
            line += 2 * LINE_WORDS;
            if line >= self.first + 2 * self.line_count * LINE_WORDS {
                line -= 2 * self.line_count * LINE_WORDS;
            }
        }
    }

    #[inline]
    fn line(&self, fingerprint: u64, generation: u64) -> usize {
        let number = (u128::from(fingerprint) * self.line_count as u128) >> 64;
        self.first + (2 * number as usize + (generation % 2) as usize) * LINE_WORDS
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
        fn they_hold_what_was_put_in_since_the_one_before_was_begun(
            steps in prop::collection::vec((0..80u64, 0..64u64), 0..400),
        ) {
            let mut generations = Generations::new(48);
            let mut model = [HashMap::new(), HashMap::new()];
            for (key, decision) in steps {
                let fingerprint = (key << 3 | u64::MAX << 56) << DECISION_BITS;
                let known = model[0].get(&key).or_else(|| model[1].get(&key));
                prop_assert_eq!(generations.find(fingerprint), known.copied());
                if model[0].len() == 48 {
                    model.swap(0, 1);
                    model[0].clear();
                }
                generations.insert(fingerprint | decision);
                model[0].insert(key, fingerprint | decision);
            }
        }
    }
}
