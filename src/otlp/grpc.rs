//! gRPC's own small syntax: length-prefixed messages, timeouts, and status text (gRPC over HTTP/2, "Requests").
//!
//! ```text
//!  DATA frames:  ┌──────────┐┌───┐┌───────────────────────────┐      split anywhere, as HTTP/2 likes
//!                └──────────┘└───┘└───────────────────────────┘
//!  messages:     ┌ flag 1 │ length 4, big-endian │ message … ┐ …     flag 1: compressed as grpc-encoding says
//! ```

use std::fmt::Write;
use std::time::Duration;

use bytes::{Buf, Bytes};
use thiserror::Error;

/// Bytes before each message.
pub const PREFIX_BYTES: usize = 5;

/// A message gets room in steps of at least this much, and of as much as has come already: memory follows the
/// bytes received, never the length declared.
const ROOM_BYTES: usize = 64 * 1024;

/// A request's framing is wrong or too large: the client's fault. The deframer is of no more use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum DeframeError {
    #[error("message of {declared_bytes} bytes is larger than the limit of {bytes_max}")]
    TooLarge { declared_bytes: u32, bytes_max: usize },
    #[error("message begins with {flag:#04x}, not with 0 or 1")]
    Flag { flag: u8 },
    #[error("stream ends inside a message")]
    Truncated,
}

/// One message as it came over the wire.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// By the request's `grpc-encoding`.
    pub compressed: bool,
    pub body: Bytes,
}

/// Puts messages together from the chunks of a stream.
///
/// A message that lies in one chunk is a slice of it. Any other is copied once, into one buffer.
#[derive(Debug)]
pub struct Deframer {
    bytes_max: usize,
    prefix: [u8; PREFIX_BYTES],
    prefix_len: usize,
    body: Vec<u8>,
}

impl Deframer {
    /// Messages above `bytes_max` are refused as soon as their length is known.
    pub fn new(bytes_max: usize) -> Deframer {
        Deframer {
            bytes_max,
            prefix: [0; PREFIX_BYTES],
            prefix_len: 0,
            body: Vec::new(),
        }
    }

    /// Takes bytes from the front of `chunk`, up to the end of one message, which it then gives. With `None` the
    /// chunk is used up.
    pub fn next(&mut self, chunk: &mut Bytes) -> Result<Option<Message>, DeframeError> {
        if self.prefix_len < PREFIX_BYTES {
            let taken = chunk.len().min(PREFIX_BYTES - self.prefix_len);
            chunk.copy_to_slice(&mut self.prefix[self.prefix_len..self.prefix_len + taken]);
            self.prefix_len += taken;
            if self.prefix_len < PREFIX_BYTES {
                return Ok(None);
            }
        }
        let [flag, length @ ..] = self.prefix;
        let declared_bytes = u32::from_be_bytes(length);
        if flag > 1 {
            return Err(DeframeError::Flag { flag });
        }
        if declared_bytes as usize > self.bytes_max {
            return Err(DeframeError::TooLarge {
                declared_bytes,
                bytes_max: self.bytes_max,
            });
        }
        let Some(body) = self.take_body(chunk, declared_bytes as usize) else {
            return Ok(None);
        };
        self.prefix_len = 0;
        Ok(Some(Message {
            compressed: flag == 1,
            body,
        }))
    }

    fn take_body(&mut self, chunk: &mut Bytes, declared: usize) -> Option<Bytes> {
        if self.body.is_empty() && chunk.len() >= declared {
            return Some(chunk.split_to(declared));
        }
        let taken = chunk.len().min(declared - self.body.len());
        let come = self.body.len() + taken;
        if self.body.capacity() < come {
            let room = declared.min(ROOM_BYTES.max(2 * come));
            self.body.reserve_exact(room - self.body.len());
        }
        self.body.extend_from_slice(&chunk[..taken]);
        chunk.advance(taken);
        (come == declared).then(|| Bytes::from(std::mem::take(&mut self.body)))
    }

    /// Bytes held for a message that is still coming.
    pub fn held_bytes(&self) -> usize {
        self.body.capacity()
    }

    /// The stream is over: an error unless it ended between two messages.
    pub fn finish(&self) -> Result<(), DeframeError> {
        if self.prefix_len == 0 {
            Ok(())
        } else {
            Err(DeframeError::Truncated)
        }
    }
}

/// What goes before a message of `bytes` bytes.
pub fn prefix(compressed: bool, bytes: u32) -> [u8; PREFIX_BYTES] {
    let [a, b, c, d] = bytes.to_be_bytes();
    [compressed as u8, a, b, c, d]
}

/// The value of `grpc-timeout`: 1 to 8 digits and a unit. `None` for anything else.
pub fn parse_timeout(header: &[u8]) -> Option<Duration> {
    let (unit, digits) = header.split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let count = digits
        .iter()
        .fold(0, |count: u64, digit| count * 10 + (digit - b'0') as u64);
    Some(match unit {
        b'H' => Duration::from_secs(count * 3600),
        b'M' => Duration::from_secs(count * 60),
        b'S' => Duration::from_secs(count),
        b'm' => Duration::from_millis(count),
        b'u' => Duration::from_micros(count),
        b'n' => Duration::from_nanos(count),
        _ => return None,
    })
}

/// The value of `grpc-message` for `text`: printable ASCII but `%` as it is, every other byte as `%XX`.
pub fn encode_message(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => encoded.push(byte as char),
            _ => write!(encoded, "%{byte:02X}").expect("a String takes all"),
        }
    }
    encoded
}

/// The text of a `grpc-message`. Nothing is refused: what is no escape stands for itself, what is no UTF-8
/// becomes U+FFFD.
pub fn decode_message(header: &[u8]) -> String {
    let digit = |byte: u8| (byte as char).to_digit(16).map(|value| value as u8);
    let mut text = Vec::with_capacity(header.len());
    let mut rest = header;
    while let [byte, tail @ ..] = rest {
        let escaped = match rest {
            [b'%', high, low, ..] => digit(*high).zip(digit(*low)),
            _ => None,
        };
        match escaped {
            Some((high, low)) => text.push(high << 4 | low),
            None => text.push(*byte),
        }
        rest = if escaped.is_some() { &rest[3..] } else { tail };
    }
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn framed(messages: &[(bool, Vec<u8>)]) -> Vec<u8> {
        let mut stream = Vec::new();
        for (compressed, body) in messages {
            stream.extend(prefix(*compressed, body.len() as u32));
            stream.extend(body);
        }
        stream
    }

    proptest! {
        #[test]
        fn messages_come_out_whole_however_the_stream_was_split(
            messages in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 0..300)), 0..6),
            cuts in prop::collection::vec(0..60usize, 1..40),
        ) {
            let mut stream = Bytes::from(framed(&messages));
            let mut deframer = Deframer::new(300);
            let mut came = Vec::new();
            let mut cuts = cuts.into_iter().cycle();
            // A length of zero is an empty DATA frame; after a few of them the rest comes at once.
            for _ in 0..1000 {
                let mut chunk = stream.split_to(cuts.next().unwrap().min(stream.len()));
                while let Some(message) = deframer.next(&mut chunk).unwrap() {
                    came.push((message.compressed, message.body.to_vec()));
                }
                prop_assert!(chunk.is_empty());
            }
            while let Some(message) = deframer.next(&mut stream).unwrap() {
                came.push((message.compressed, message.body.to_vec()));
            }
            prop_assert_eq!(came, messages);
            prop_assert_eq!(deframer.finish(), Ok(()));
        }

        #[test]
        fn status_text_survives_the_header(text in any::<String>()) {
            let header = encode_message(&text);
            prop_assert!(header.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
            prop_assert_eq!(decode_message(header.as_bytes()), text);
        }
    }

    #[test]
    fn memory_follows_the_bytes_received_and_not_the_length_declared() {
        let mut deframer = Deframer::new(usize::MAX);
        let mut come = 0;
        deframer
            .next(&mut Bytes::copy_from_slice(&prefix(false, u32::MAX)))
            .unwrap();
        assert_eq!(deframer.held_bytes(), 0);
        for _ in 0..100 {
            come += 16_384;
            assert_eq!(deframer.next(&mut Bytes::from(vec![7; 16_384])), Ok(None));
            assert!(deframer.held_bytes() <= ROOM_BYTES.max(2 * come));
        }
        assert_eq!(deframer.finish(), Err(DeframeError::Truncated));
    }

    #[test]
    fn room_is_never_more_than_the_message_needs() {
        let mut deframer = Deframer::new(usize::MAX);
        deframer
            .next(&mut Bytes::copy_from_slice(&prefix(false, 100_000)))
            .unwrap();
        for _ in 0..9 {
            deframer.next(&mut Bytes::from(vec![7; 10_000])).unwrap();
            assert!(deframer.held_bytes() <= 100_000);
        }
        let message = deframer
            .next(&mut Bytes::from(vec![7; 10_000]))
            .unwrap()
            .expect("whole");
        assert_eq!(message.body, vec![7; 100_000]);
        assert_eq!(deframer.held_bytes(), 0);
    }

    #[test]
    fn a_message_within_one_chunk_is_not_copied() {
        let mut chunk = Bytes::from(framed(&[(true, vec![1, 2, 3])]));
        let lies_at = chunk[5..].as_ptr();
        let message = Deframer::new(3).next(&mut chunk).unwrap().expect("whole");
        assert_eq!((message.compressed, message.body.as_ptr()), (true, lies_at));
    }

    #[test]
    fn a_message_above_the_limit_is_refused_by_its_prefix_alone() {
        let mut prefix_only = Bytes::copy_from_slice(&prefix(false, 301));
        let error = DeframeError::TooLarge {
            declared_bytes: 301,
            bytes_max: 300,
        };
        assert_eq!(Deframer::new(300).next(&mut prefix_only), Err(error));
    }

    #[test]
    fn flags_other_than_0_and_1_are_refused() {
        let mut stream = Bytes::from_static(&[2, 0, 0, 0, 0]);
        assert_eq!(
            Deframer::new(300).next(&mut stream),
            Err(DeframeError::Flag { flag: 2 })
        );
    }

    #[test]
    fn timeouts_have_at_most_eight_digits_and_one_of_six_units() {
        for (header, expect) in [
            ("1H", Some(Duration::from_secs(3600))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("3S", Some(Duration::from_secs(3))),
            ("00000100m", Some(Duration::from_millis(100))),
            ("5u", Some(Duration::from_micros(5))),
            ("0n", Some(Duration::ZERO)),
            ("100000000n", None),
            ("", None),
            ("S", None),
            ("1", None),
            ("1s", None),
            ("-1S", None),
            ("1.5S", None),
        ] {
            assert_eq!(parse_timeout(header.as_bytes()), expect, "{header}");
        }
    }

    #[test]
    fn broken_escapes_stand_for_themselves() {
        assert_eq!(
            decode_message(b"100% of %41%4g%e2%82%ac %ff%"),
            "100% of A%4g\u{20ac} \u{fffd}%"
        );
        assert_eq!(encode_message("a%\n\u{20ac}"), "a%25%0A%E2%82%AC");
    }
}
