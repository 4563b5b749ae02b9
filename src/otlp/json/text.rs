//! How text and bytes look inside JSON: string escapes, hexadecimal, base64.

use std::io::Write as _;

/// Length of the front of `bytes` that stands for itself in a JSON string: no quote, backslash or control
/// character, and with `ASCII_ONLY` nothing above 0x7f.
#[inline]
pub fn plain_length<const ASCII_ONLY: bool>(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::MAX / 0xff;
    const HIGHS: u64 = ONES << 7;
    // Marks the high bit of every byte below `limit`. Bytes above the lowest marked one may be marked
    // wrongly (borrows go upwards); only the lowest is used.
    let below = |word: u64, limit: u8| word.wrapping_sub(ONES * u64::from(limit)) & !word & HIGHS;
    let mut length = 0;
    for chunk in bytes.chunks_exact(8) {
        let word = u64::from_le_bytes(chunk.try_into().expect("chunks of 8"));
        let mut stops = below(word, 0x20)
            | below(word ^ (ONES * u64::from(b'"')), 1)
            | below(word ^ (ONES * u64::from(b'\\')), 1);
        if ASCII_ONLY {
            stops |= word & HIGHS;
        }
        if stops != 0 {
            return length + stops.trailing_zeros() as usize / 8;
        }
        length += 8;
    }
    let is_plain =
        |byte: &u8| *byte >= 0x20 && *byte != b'"' && *byte != b'\\' && !(ASCII_ONLY && *byte >= 0x80);
    length + bytes[length..].iter().take_while(|byte| is_plain(byte)).count()
}

/// Appends `text` as a JSON string; a run that is not UTF-8 becomes U+FFFD.
#[inline]
pub fn push_string(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'"');
    let plain = plain_length::<true>(text);
    out.extend_from_slice(&text[..plain]);
    if plain < text.len() {
        push_escaped_lossy(out, &text[plain..]);
    }
    out.push(b'"');
}

fn push_escaped_lossy(out: &mut Vec<u8>, text: &[u8]) {
    for chunk in text.utf8_chunks() {
        push_escaped(out, chunk.valid().as_bytes());
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
}

fn push_escaped(out: &mut Vec<u8>, mut text: &[u8]) {
    loop {
        let (plain, rest) = text.split_at(plain_length::<false>(text));
        out.extend_from_slice(plain);
        let Some((special, rest)) = rest.split_first() else {
            return;
        };
        match special {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            control => write!(out, "\\u{control:04x}").expect("a Vec takes all bytes"),
        }
        text = rest;
    }
}

/// Appends lower-case hexadecimal digits.
#[inline]
pub fn push_hex(out: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    // Ids have 8 or 16 bytes.
    for chunk in bytes.chunks(16) {
        let mut digits = [[0; 2]; 16];
        for (digits, byte) in digits.iter_mut().zip(chunk) {
            *digits = [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]];
        }
        out.extend_from_slice(digits[..chunk.len()].as_flattened());
    }
}

/// Replaces `bytes` by what hexadecimal digits of either case say; `None` when they say nothing.
#[inline]
pub fn decode_hex(digits: &[u8], bytes: &mut Vec<u8>) -> Option<()> {
    bytes.clear();
    let (pairs, []) = digits.as_chunks::<2>() else {
        return None;
    };
    let digit = |byte: u8| (byte as char).to_digit(16);
    for [high, low] in pairs {
        bytes.push((digit(*high)? << 4 | digit(*low)?) as u8);
    }
    Some(())
}

/// Appends base64 in the standard alphabet, padded.
pub fn push_base64(out: &mut Vec<u8>, bytes: &[u8]) {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for chunk in bytes.chunks(3) {
        let mut group = [0; 3];
        group[..chunk.len()].copy_from_slice(chunk);
        let bits = u32::from_be_bytes([0, group[0], group[1], group[2]]);
        for index in 0..4 {
            let sextet = (bits >> (18 - 6 * index)) & 63;
            out.push(if index <= chunk.len() {
                ALPHABET[sextet as usize]
            } else {
                b'='
            });
        }
    }
}

/// Replaces `bytes` by what base64 of either alphabet says, padded or not; `None` when it says nothing.
pub fn decode_base64(text: &[u8], bytes: &mut Vec<u8>) -> Option<()> {
    bytes.clear();
    let unpadded = match text {
        [front @ .., b'=', b'='] | [front @ .., b'='] if text.len().is_multiple_of(4) => front,
        _ => text,
    };
    for chunk in unpadded.chunks(4) {
        let mut bits = 0;
        for byte in chunk {
            bits = bits << 6 | sextet(*byte)?;
        }
        // 2, 3 and 4 digits hold 1, 2 and 3 bytes; what is left over in the last digit is ignored.
        let count = chunk.len().checked_sub(1).filter(|count| *count > 0)?;
        bits <<= 6 * (4 - chunk.len());
        bytes.extend_from_slice(&bits.to_be_bytes()[1..=count]);
    }
    Some(())
}

fn sextet(byte: u8) -> Option<u32> {
    Some(u32::from(match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' | b'-' => 62,
        b'/' | b'_' => 63,
        _ => return None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn base64_is_read_in_both_alphabets_padded_or_not() {
        let read = |text: &str| {
            let mut bytes = Vec::new();
            decode_base64(text.as_bytes(), &mut bytes).map(|()| bytes)
        };
        assert_eq!(read(""), Some(vec![]));
        for text in ["+/8=", "-_8=", "+/8", "-_8"] {
            assert_eq!(read(text), Some(vec![0xfb, 0xff]), "{text}");
        }
        for text in ["-w==", "-w"] {
            assert_eq!(read(text), Some(vec![0xfb]), "{text}");
        }
        for text in [
            "A", "AAAAA", "A===", "AA=", "AAA==", "====", "=", "AA==AA==", "A A=", "AA\n",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn hexadecimal_needs_whole_pairs_of_digits() {
        let read = |text: &str| {
            let mut bytes = Vec::new();
            decode_hex(text.as_bytes(), &mut bytes).map(|()| bytes)
        };
        assert_eq!(read("00fFA9"), Some(vec![0x00, 0xff, 0xa9]));
        assert_eq!(read(""), Some(vec![]));
        for text in ["0", "0g", "+f", "é"] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn strings_are_as_serde_json_reads_them(bytes: Vec<u8>) {
            let mut out = Vec::new();
            push_string(&mut out, &bytes);
            let read: String = serde_json::from_slice(&out).expect("a JSON string");
            prop_assert_eq!(read, String::from_utf8_lossy(&bytes));
        }

        #[test]
        fn plain_ends_at_the_first_special_byte(bytes in proptest::collection::vec(prop_oneof![
            9 => 0x20u8..0x7f, 1 => any::<u8>(),
        ], 0..40)) {
            let special = |byte: &u8| *byte < 0x20 || *byte == b'"' || *byte == b'\\';
            let first = |is: &dyn Fn(&u8) -> bool| bytes.iter().position(is).unwrap_or(bytes.len());
            prop_assert_eq!(plain_length::<false>(&bytes), first(&special));
            prop_assert_eq!(plain_length::<true>(&bytes), first(&|byte| special(byte) || *byte >= 0x80));
        }

        #[test]
        fn bytes_survive_base64_and_hexadecimal(bytes: Vec<u8>) {
            let (mut text, mut back) = (Vec::new(), Vec::new());
            push_base64(&mut text, &bytes);
            prop_assert_eq!(text.len() % 4, 0);
            decode_base64(&text, &mut back).expect("what we wrote");
            prop_assert_eq!(&back, &bytes);
            text.clear();
            push_hex(&mut text, &bytes);
            decode_hex(&text, &mut back).expect("what we wrote");
            prop_assert_eq!(&back, &bytes);
        }
    }
}
