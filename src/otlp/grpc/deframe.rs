//! gRPC's message framing of one unary request, fed chunk by chunk.
//!
//! ```text
//! ┌────────────┬──────────────────┬─────────────────┐
//! │ flag (1)   │ length (4, BE)   │ message         │   anything may be split anywhere (OTLP G11)
//! │ 0 or 1:gzip│                  │                 │
//! └────────────┴──────────────────┴─────────────────┘
//! ```
//!
//! The declared length is a bound to check against and nothing more: no memory is kept here, and what the
//! caller keeps grows with the bytes that came.

use thiserror::Error;

use super::PREFIX_BYTES;

/// Reads the prefix and counts the message; the caller keeps the bytes.
#[derive(Debug, Default)]
pub struct Deframe {
    prefix: [u8; PREFIX_BYTES],
    prefix_count: usize,
    remaining: usize,
}

/// The peer's fault, all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DeframeError {
    #[error("the compressed flag of the message is {0}, neither 0 nor 1")]
    Flag(u8),
    #[error("the message of {length} bytes exceeds the limit of {length_max}")]
    TooLarge { length: usize, length_max: usize },
    #[error("bytes follow the one message of a unary request")]
    Trailing,
    #[error("the request ends within its message")]
    Truncated,
    #[error("the request has no message")]
    Missing,
}

impl Deframe {
    /// The part of `chunk` that belongs to the message.
    pub fn take<'a>(&mut self, chunk: &'a [u8], length_max: usize) -> Result<&'a [u8], DeframeError> {
        let mut message = chunk;
        if self.prefix_count < PREFIX_BYTES {
            let count = chunk.len().min(PREFIX_BYTES - self.prefix_count);
            let (prefix, rest) = chunk.split_at(count);
            self.prefix[self.prefix_count..self.prefix_count + count].copy_from_slice(prefix);
            self.prefix_count += count;
            if self.prefix_count < PREFIX_BYTES {
                return Ok(&[]);
            }
            self.remaining = self.length();
            if self.prefix[0] > 1 {
                return Err(DeframeError::Flag(self.prefix[0]));
            }
            if self.remaining > length_max {
                return Err(DeframeError::TooLarge {
                    length: self.remaining,
                    length_max,
                });
            }
            message = rest;
        }
        if message.len() > self.remaining {
            return Err(DeframeError::Trailing);
        }
        self.remaining -= message.len();
        Ok(message)
    }

    /// At the end of the request: whether the message is compressed.
    pub fn finish(&self) -> Result<bool, DeframeError> {
        match (self.prefix_count, self.remaining) {
            (0, _) => Err(DeframeError::Missing),
            (PREFIX_BYTES, 0) => Ok(self.prefix[0] == 1),
            _ => Err(DeframeError::Truncated),
        }
    }

    /// The length of the message, once its prefix is there.
    pub fn announced(&self) -> Option<usize> {
        (self.prefix_count == PREFIX_BYTES).then(|| self.length())
    }

    fn length(&self) -> usize {
        let [_, length @ ..] = self.prefix;
        u32::from_be_bytes(length) as usize
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::prefix;
    use super::*;

    #[test]
    fn a_message_above_the_limit_is_refused_by_its_prefix_alone() {
        let take = |length| {
            Deframe::default()
                .take(&prefix(false, length), 300)
                .map(<[u8]>::len)
        };
        assert_eq!(take(300), Ok(0));
        let error = DeframeError::TooLarge {
            length: 301,
            length_max: 300,
        };
        assert_eq!(take(301), Err(error));
    }

    #[test]
    fn a_message_is_lent_and_not_copied() {
        let chunk = [1, 0, 0, 0, 3, 1, 2, 3];
        let mut deframe = Deframe::default();
        let message = deframe.take(&chunk, 3).expect("well framed");
        assert_eq!(message.as_ptr_range(), chunk[PREFIX_BYTES..].as_ptr_range());
        assert_eq!((deframe.announced(), deframe.finish()), (Some(3), Ok(true)));
    }

    #[test]
    fn hostile_framing_is_named() {
        let check = |bytes: &[u8], expected| {
            let mut deframe = Deframe::default();
            let end = deframe.take(bytes, 4).and_then(|_| deframe.finish());
            assert_eq!(end, expected, "{bytes:?}");
        };
        check(&[], Err(DeframeError::Missing));
        check(&[0, 0, 0], Err(DeframeError::Truncated));
        check(&[0, 0, 0, 0, 2, 9], Err(DeframeError::Truncated));
        check(&[0, 0, 0, 0, 1, 9, 9], Err(DeframeError::Trailing));
        check(&[2, 0, 0, 0, 0], Err(DeframeError::Flag(2)));
        check(
            &[0, 0xff, 0xff, 0xff, 0xff],
            Err(DeframeError::TooLarge {
                length: 0xffff_ffff,
                length_max: 4,
            }),
        );
        check(&[0, 0, 0, 0, 0], Ok(false));
        check(&[1, 0, 0, 0, 4, 1, 2, 3, 4], Ok(true));
    }

    proptest! {
        #[test]
        fn g11_a_message_may_be_split_anywhere(
            compressed: bool,
            message in prop::collection::vec(any::<u8>(), 0..300),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let mut framed = prefix(compressed, message.len() as u32).to_vec();
            framed.extend(&message);
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(framed.len())).collect();
            cuts.extend([0, framed.len()]);
            cuts.sort_unstable();

            let (mut deframe, mut taken) = (Deframe::default(), Vec::<u8>::new());
            for pair in cuts.windows(2) {
                taken.extend(deframe.take(&framed[pair[0]..pair[1]], 1000).expect("well framed"));
            }
            prop_assert_eq!(taken, message);
            prop_assert_eq!(deframe.finish(), Ok(compressed));
        }
    }
}
