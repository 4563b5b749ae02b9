//! JSON numbers as integers, exactly: 64-bit times do not fit a double.

/// The length of the JSON number at the front of `text`; `None` if there is none.
pub fn token_length(text: &[u8]) -> Option<usize> {
    let digits = |from: usize| {
        text[from..]
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .count()
    };
    let mut at = usize::from(text.first() == Some(&b'-'));
    at += match text.get(at)? {
        b'0' => 1,
        b'1'..=b'9' => digits(at),
        _ => return None,
    };
    if text.get(at) == Some(&b'.') {
        let count = digits(at + 1);
        if count == 0 {
            return None;
        }
        at += 1 + count;
    }
    if let Some(b'e' | b'E') = text.get(at) {
        let sign = usize::from(matches!(text.get(at + 1), Some(b'+' | b'-')));
        let count = digits(at + 1 + sign);
        if count == 0 {
            return None;
        }
        at += 1 + sign + count;
    }
    Some(at)
}

/// The value of a whole JSON number that is an integer, however it is written (`1000`, `1e3`, `10.0e2`);
/// `None` for other numbers, other texts, and beyond 128 bits.
#[inline]
pub fn integer(text: &[u8]) -> Option<i128> {
    // Up to 18 digits fit any 64-bit type: nearly all numbers there are.
    if (1..=18).contains(&text.len()) && text[0] != b'0' && text.iter().all(u8::is_ascii_digit) {
        let value = text
            .iter()
            .fold(0u64, |value, digit| value * 10 + u64::from(digit - b'0'));
        return Some(i128::from(value));
    }
    integer_of_any_form(text)
}

fn integer_of_any_form(text: &[u8]) -> Option<i128> {
    if token_length(text) != Some(text.len()) {
        return None;
    }
    let is_negative = text[0] == b'-';
    let exponent_at = text.iter().position(|byte| matches!(byte, b'e' | b'E'));
    let mut exponent = exponent_at.map_or(0, |at| saturating_exponent(&text[at + 1..]));
    let mantissa = &text[usize::from(is_negative)..exponent_at.unwrap_or(text.len())];
    let point_at = mantissa.iter().position(|byte| *byte == b'.');
    exponent = exponent.saturating_sub(point_at.map_or(0, |at| (mantissa.len() - at - 1) as i64));
    // Zeros count only once another digit follows, so that those at the end stay out of the value.
    let (mut value, mut zeros) = (0i128, 0u32);
    for byte in mantissa {
        match byte {
            b'.' => {}
            b'0' => zeros += u32::from(value != 0),
            digit => {
                let scale = 10i128.checked_pow(zeros + 1)?;
                value = value.checked_mul(scale)?.checked_add(i128::from(digit - b'0'))?;
                zeros = 0;
            }
        }
    }
    if value == 0 {
        return Some(0);
    }
    let scale = 10i128.checked_pow(u32::try_from(exponent.saturating_add(i64::from(zeros))).ok()?)?;
    value = value.checked_mul(scale)?;
    Some(if is_negative { -value } else { value })
}

/// Far beyond any integer is as good as the true exponent.
fn saturating_exponent(text: &[u8]) -> i64 {
    let is_negative = text[0] == b'-';
    let digits = text.iter().filter(|byte| byte.is_ascii_digit());
    let value = digits.fold(0i64, |value, digit| {
        value.saturating_mul(10).saturating_add(i64::from(digit - b'0'))
    });
    if is_negative { -value } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn whole_numbers_are_read_in_every_form() {
        for (text, value) in [
            ("0", 0),
            ("-0", 0),
            ("-0.0e5", 0),
            ("1e3", 1000),
            ("10.0E+2", 1000),
            ("1.5e1", 15),
            ("1500e-2", 15),
            ("-120", -120),
            ("18446744073709551615", i128::from(u64::MAX)),
            ("1.8446744073709551615e19", i128::from(u64::MAX)),
            ("-9223372036854775808", i128::from(i64::MIN)),
            ("0e99999999999999999999", 0),
        ] {
            assert_eq!(integer(text.as_bytes()), Some(value), "{text}");
        }
    }

    #[test]
    fn other_texts_are_no_whole_numbers() {
        for text in [
            "",
            "-",
            "+1",
            "01",
            "00",
            "1.",
            ".5",
            "1e",
            "1e+",
            "0.5",
            "15e-1",
            "1e-99999999999999999999",
            "1e40",
            "1e99999999999999999999",
            " 1",
            "1 ",
            "0x10",
            "NaN",
            "１",
            "1_000",
            "--1",
        ] {
            assert_eq!(integer(text.as_bytes()), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn integers_are_read_as_written(value: i64, zeros in 0usize..40) {
            prop_assert_eq!(integer(value.to_string().as_bytes()), Some(i128::from(value)));
            let scaled = format!("{value}{}e-{zeros}", "0".repeat(zeros));
            prop_assume!(value != 0);
            prop_assert_eq!(integer(scaled.as_bytes()), Some(i128::from(value)));
        }

        #[test]
        fn tokens_are_those_of_serde_json(text in "-?[0-9]{1,3}(\\.[0-9]{0,2})?([eE][+-]?[0-9]{0,2})?") {
            let whole = token_length(text.as_bytes()) == Some(text.len());
            prop_assert_eq!(whole, serde_json::from_str::<f64>(&text).is_ok());
        }
    }
}
