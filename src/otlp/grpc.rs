//! gRPC's own small syntax: length-prefixed messages, timeouts, and status text (gRPC over HTTP/2, "Requests").
//!
//! ```text
//!  DATA frames:  ┌──────────┐┌───┐┌───────────────────────────┐      split anywhere, as HTTP/2 likes
//!                └──────────┘└───┘└───────────────────────────┘
//!  messages:     ┌ flag 1 │ length 4, big-endian │ message … ┐ …     flag 1: compressed as grpc-encoding says
//! ```

use std::fmt::Write;
use std::time::Duration;

use super::json::text::{decode_base64, push_base64};

mod deframe;

pub use deframe::{Deframe, DeframeError};

/// Bytes before each message.
pub const PREFIX_BYTES: usize = 5;

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

/// The value of a header whose name ends in `-bin`: base64 without padding.
pub fn encode_binary(bytes: &[u8]) -> String {
    let mut text = Vec::with_capacity(bytes.len().div_ceil(3) * 4);
    push_base64(&mut text, bytes);
    let padding = text.iter().rev().take_while(|digit| **digit == b'=').count();
    text.truncate(text.len() - padding);
    String::from_utf8(text).expect("base64 is ASCII")
}

/// The bytes of a header whose name ends in `-bin`; `None` if it is no base64, padded or not.
pub fn decode_binary(header: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    decode_base64(header, &mut bytes).map(|()| bytes)
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

    proptest! {
        #[test]
        fn status_text_survives_the_header(text in any::<String>()) {
            let header = encode_message(&text);
            prop_assert!(header.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
            prop_assert_eq!(decode_message(header.as_bytes()), text);
        }
    }

    #[test]
    fn timeouts_have_at_most_eight_digits_and_one_of_six_units() {
        for (header, expect) in [
            ("1H", Some(Duration::from_secs(3600))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("3S", Some(Duration::from_secs(3))),
            ("99999999S", Some(Duration::from_secs(99_999_999))),
            ("00000007n", Some(Duration::from_nanos(7))),
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
            ("1ä", None),
            ("100000000S", None),
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

    /// G10
    #[test]
    fn messages_are_percent_encoded() {
        assert_eq!(encode_message("100 % of \"ä\"\n"), "100 %25 of \"%C3%A4\"%0A");
    }

    #[test]
    fn binary_headers_are_not_padded() {
        let cases = [
            ("", ""),
            ("f", "Zg"),
            ("fo", "Zm8"),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
        ];
        for (bytes, text) in cases {
            assert_eq!(encode_binary(bytes.as_bytes()), text);
        }
    }

    #[test]
    fn a_prefix_says_flag_and_length() {
        assert_eq!(prefix(true, 0x0102_0304), [1, 1, 2, 3, 4]);
        assert_eq!(prefix(false, 0), [0; PREFIX_BYTES]);
    }
}
