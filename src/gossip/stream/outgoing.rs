//! What this node has put into one stream, kept until every receiver has it or it is too old to matter.

use crate::base::time::Instant;
use bytes::Bytes;
use std::collections::VecDeque;

/// Invariant: `batches[n]` has the number `oldest + n`, and `bytes` is what their contents take.
#[derive(Debug)]
pub struct Outgoing {
    oldest: u64,
    batches: VecDeque<(Instant, Bytes)>,
    bytes: usize,
}

impl Default for Outgoing {
    /// Nothing was put in yet.
    fn default() -> Outgoing {
        Outgoing {
            oldest: 1,
            batches: VecDeque::new(),
            bytes: 0,
        }
    }
}

impl Outgoing {
    /// Numbers a batch.
    pub fn push(&mut self, now: Instant, content: Bytes) -> u64 {
        self.bytes += content.len();
        self.batches.push_back((now, content));
        self.highest()
    }

    /// The number of the newest batch; 0: there was none yet.
    pub fn highest(&self) -> u64 {
        self.oldest + self.batches.len() as u64 - 1
    }

    /// The first number that is still here, or would be the next.
    pub fn oldest(&self) -> u64 {
        self.oldest
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn get(&self, number: u64) -> Option<&Bytes> {
        let index = usize::try_from(number.checked_sub(self.oldest)?).ok()?;
        self.batches.get(index).map(|(_, content)| content)
    }

    /// Everybody has had all up to `number`.
    pub fn release_through(&mut self, number: u64) {
        while self.oldest <= number && self.drop_oldest() {}
    }

    /// What was put in before is too old. How many batches went.
    pub fn expire(&mut self, before: Instant) -> u64 {
        self.drop_while(|oldest, _| oldest < before)
    }

    /// Drops the oldest until no more than `bytes_max` are kept. How many batches went.
    pub fn shrink(&mut self, bytes_max: usize) -> u64 {
        self.drop_while(|_, bytes| bytes > bytes_max)
    }

    fn drop_while(&mut self, goes: impl Fn(Instant, usize) -> bool) -> u64 {
        let began = self.oldest;
        while self.batches.front().is_some_and(|(at, _)| goes(*at, self.bytes)) {
            self.drop_oldest();
        }
        self.oldest - began
    }

    fn drop_oldest(&mut self) -> bool {
        let Some((_, content)) = self.batches.pop_front() else {
            return false;
        };
        self.bytes -= content.len();
        self.oldest += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_found_by_its_number() {
        let mut stream = Outgoing::default();
        assert_eq!((stream.highest(), stream.oldest()), (0, 1));
        for number in 1..=10u64 {
            let content = Bytes::from(vec![number as u8; 10]);
            assert_eq!(stream.push(Instant(number), content), number);
        }
        stream.release_through(2);
        assert_eq!(stream.expire(Instant(5)), 2);
        assert_eq!(stream.shrink(45), 2);
        assert_eq!((stream.oldest(), stream.highest(), stream.bytes()), (7, 10, 40));
        assert_eq!(stream.get(6), None);
        assert_eq!(stream.get(7).map(|content| content[0]), Some(7));
        assert_eq!(stream.get(11), None);
        stream.release_through(u64::MAX);
        assert_eq!((stream.oldest(), stream.highest(), stream.bytes()), (11, 10, 0));
    }
}
