//! The two numbers of consistent probability sampling in a W3C tracestate, and how the threshold is changed.
//!
//! ```text
//!  ot=th:fd70a4;rv:0123456789abcd;x:y,vendor=anything
//!  │  │         │                 │   └ other members: kept as they came
//!  │  │         │                 └ other sub-keys: kept as they came
//!  │  │         └ randomness R, exactly 14 digits: read, never written
//!  │  └ threshold T, 1 to 14 digits, trailing zeros left out
//!  └ the one member that is ours; whoever changes it moves it to the front (W3C Trace Context §3.3.1.3)
//! ```
//!
//! Rules: OpenTelemetry "TraceState Handling" and "Probability Sampling". Digits of either case are read, lower
//! case is written. A tracestate that cannot be changed within the rules is left as it came, and the caller told.

use crate::verdict::Threshold;

/// Members of a tracestate at most (W3C §3.3.1.1).
const MEMBER_COUNT_MAX: usize = 32;
/// A tracestate we have written is no longer than this, unless it came longer: what everybody must be able to
/// carry on (W3C §3.3.1.5).
const BYTES_MAX: usize = 512;
/// The value of one member (W3C §3.3.1.3.2), so also of `ot`.
const VALUE_BYTES_MAX: usize = 256;
const DIGITS: usize = 14;

/// What a tracestate says about sampling.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sampling {
    /// `rv`: below 2⁵⁶.
    pub randomness: Option<u64>,
    /// `th`.
    pub threshold: Option<Threshold>,
}

/// What to do with the threshold on exported spans.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ThresholdMark {
    /// The spans were kept with certainty.
    AsCame,
    /// The spans passed a sampler with this threshold: `th` becomes the higher of the two.
    Raise(Threshold),
    /// The spans were kept with a probability that nobody knows: `th` goes.
    Erase,
}

/// What [`apply`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Applied {
    /// The tracestate is right as it came; nothing was written.
    Unchanged,
    /// The new tracestate was written, and may be empty.
    Changed,
    /// It is no W3C tracestate, or its `ot` is no list of sub-keys; nothing was written.
    Unparsable,
    /// With `th` it would be longer than the rules allow; nothing was written.
    TooLong,
}

/// Reads `rv` and `th`; whatever cannot be read is absent.
#[inline]
pub fn sampling(trace_state: &[u8]) -> Sampling {
    if trace_state.is_empty() {
        return Sampling::default();
    }
    let ot = members(trace_state).find_map(|member| member.strip_prefix(b"ot="));
    ot.map_or(Sampling::default(), sampling_of_ot)
}

/// Appends to `out` the tracestate that spans with `trace_state` leave with, if it is another one.
pub fn apply(trace_state: &[u8], mark: ThresholdMark, out: &mut Vec<u8>) -> Applied {
    let raised = match mark {
        ThresholdMark::AsCame | ThresholdMark::Raise(Threshold::KEEP_ALL) => return Applied::Unchanged,
        ThresholdMark::Raise(threshold) => Some(threshold),
        ThresholdMark::Erase => None,
    };
    let has_ot = members(trace_state).any(|member| member.starts_with(b"ot="));
    if raised.is_none() && !has_ot {
        return Applied::Unchanged;
    }
    let Some(came) = parse(trace_state) else {
        return Applied::Unparsable;
    };
    let is_right = match raised {
        Some(threshold) => sampling_of_ot(came.ot).threshold >= Some(threshold),
        None => !sub_keys(came.ot).any(|(key, _)| key == b"th"),
    };
    if is_right {
        return Applied::Unchanged;
    }

    let begin = out.len();
    let mut members_written = 0;
    put_ot(out, raised, came.ot);
    if out.len() > begin {
        members_written = 1;
        if out.len() - begin > b"ot=".len() + VALUE_BYTES_MAX {
            out.truncate(begin);
            return Applied::TooLong;
        }
    }
    for member in members(trace_state).filter(|member| !member.starts_with(b"ot=")) {
        if members_written > 0 {
            out.push(b',');
        }
        out.extend_from_slice(member);
        members_written += 1;
    }
    if members_written > MEMBER_COUNT_MAX || out.len() - begin > BYTES_MAX.max(trace_state.len()) {
        out.truncate(begin);
        return Applied::TooLong;
    }
    Applied::Changed
}

/// Writes the member `ot`, or nothing when it would have no sub-key.
fn put_ot(out: &mut Vec<u8>, threshold: Option<Threshold>, came: &[u8]) {
    let begin = out.len();
    if let Some(threshold) = threshold {
        out.extend_from_slice(b"ot=th:");
        put_threshold(out, threshold);
    }
    for (key, value) in sub_keys(came).filter(|(key, _)| *key != b"th") {
        out.extend_from_slice(if out.len() == begin { b"ot=" } else { b";" });
        out.extend_from_slice(key);
        out.push(b':');
        out.extend_from_slice(value);
    }
}

fn put_threshold(out: &mut Vec<u8>, threshold: Threshold) {
    let mut rest = threshold.value() << 8;
    loop {
        out.push(b"0123456789abcdef"[(rest >> 60) as usize]);
        rest <<= 4;
        if rest == 0 {
            return;
        }
    }
}

/// A tracestate that keeps to the grammar.
struct Parsed<'a> {
    /// The value of `ot`; empty when there is none.
    ot: &'a [u8],
}

/// `None` unless `trace_state` is a W3C tracestate whose `ot`, if it has one, is a list of sub-keys.
fn parse(trace_state: &[u8]) -> Option<Parsed<'_>> {
    let mut ot = None;
    let mut count = 0;
    for member in members(trace_state) {
        let at = member.iter().position(|&byte| byte == b'=')?;
        let (key, value) = (&member[..at], &member[at + 1..]);
        count += 1;
        if count > MEMBER_COUNT_MAX || !is_key(key) || !is_value(value) {
            return None;
        }
        if key == b"ot" && (ot.replace(value).is_some() || !is_sub_key_list(value)) {
            return None;
        }
    }
    Some(Parsed {
        ot: ot.unwrap_or_default(),
    })
}

/// The members, without the white space around them; empty ones, which W3C allows, are left out.
fn members(trace_state: &[u8]) -> impl Iterator<Item = &[u8]> {
    trace_state
        .split(|&byte| byte == b',')
        .map(trim)
        .filter(|member| !member.is_empty())
}

fn trim(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

/// The sub-keys with their values; what has no colon is left out.
fn sub_keys(ot: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    ot.split(|&byte| byte == b';').filter_map(|pair| {
        let at = pair.iter().position(|&byte| byte == b':')?;
        Some((&pair[..at], &pair[at + 1..]))
    })
}

fn sampling_of_ot(ot: &[u8]) -> Sampling {
    let mut sampling = Sampling::default();
    for (key, value) in sub_keys(ot) {
        match key {
            b"rv" if sampling.randomness.is_none() && value.len() == DIGITS => {
                sampling.randomness = digits(value);
            }
            b"th" if sampling.threshold.is_none() => {
                sampling.threshold = digits(value).and_then(Threshold::new);
            }
            _ => {}
        }
    }
    sampling
}

/// 1 to 14 hexadecimal digits as the first of 14.
fn digits(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > DIGITS {
        return None;
    }
    let value = text.iter().try_fold(0, |value: u64, &byte| {
        Some(value << 4 | (byte as char).to_digit(16)? as u64)
    })?;
    Some(value << (4 * (DIGITS - text.len())))
}

fn is_key(key: &[u8]) -> bool {
    let begins = matches!(key, [b'a'..=b'z' | b'0'..=b'9', ..]);
    let goes_on = |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/' | b'@');
    begins && key.len() <= 256 && key.iter().all(goes_on)
}

fn is_value(value: &[u8]) -> bool {
    let is_character = |byte: &u8| matches!(byte, b' '..=b'~') && !matches!(byte, b',' | b'=');
    !value.is_empty() && value.len() <= VALUE_BYTES_MAX && value.iter().all(is_character)
}

fn is_sub_key_list(ot: &[u8]) -> bool {
    ot.split(|&byte| byte == b';').all(|pair| {
        let Some(at) = pair.iter().position(|&byte| byte == b':') else {
            return false;
        };
        let (key, value) = (&pair[..at], &pair[at + 1..]);
        let is_key_character = |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9');
        let is_value_character = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
        matches!(key, [b'a'..=b'z', ..])
            && key.iter().all(is_key_character)
            && value.iter().all(is_value_character)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE_PERCENT: u64 = 0xfd70a4 << 32;

    fn threshold(value: u64) -> Threshold {
        Threshold::new(value).expect("below 2^56")
    }

    #[track_caller]
    fn check(came: &str, mark: ThresholdMark, expect: Result<&str, Applied>) {
        let mut out = b"before".to_vec();
        let applied = apply(came.as_bytes(), mark, &mut out);
        let written = out.strip_prefix(b"before").expect("apply only appends");
        match expect {
            Ok(new) => {
                assert_eq!(
                    (applied, std::str::from_utf8(written)),
                    (Applied::Changed, Ok(new)),
                    "{came}"
                )
            }
            Err(outcome) => assert_eq!((applied, written), (outcome, &b""[..]), "{came}"),
        }
    }

    #[track_caller]
    fn raise(came: &str, expect: Result<&str, Applied>) {
        check(came, ThresholdMark::Raise(threshold(ONE_PERCENT)), expect);
    }

    #[test]
    fn randomness_and_threshold_are_read_wherever_ot_stands() {
        let both = |randomness, th| Sampling {
            randomness,
            threshold: Option::map(th, threshold),
        };
        let rv = Some(0x0123456789abcd);
        for (text, expect) in [
            ("", both(None, None)),
            ("ot=rv:0123456789abcd", both(rv, None)),
            ("a=b , ot=th:c;rv:0123456789ABCD\t,c=d", both(rv, Some(0xc << 52))),
            ("ot=th:0", both(None, Some(0))),
            ("ot=th:ffffffffffffff", both(None, Some((1 << 56) - 1))),
            ("ot=th:00000000000001", both(None, Some(1))),
            ("ot=rv:123;th:123456789abcdef", both(None, None)),
            ("ot=rv:0123456789abcg;th:", both(None, None)),
            ("xot=th:c", both(None, None)),
        ] {
            assert_eq!(sampling(text.as_bytes()), expect, "{text}");
        }
    }

    #[test]
    fn raising_writes_the_threshold_without_trailing_zeros_and_in_front() {
        raise("", Ok("ot=th:fd70a4"));
        raise("a=b,c=d", Ok("ot=th:fd70a4,a=b,c=d"));
        raise(
            "a=b, ,\tot=rv:0123456789abcd;x:Y_\t,c= d",
            Ok("ot=th:fd70a4;rv:0123456789abcd;x:Y_,a=b,c= d"),
        );
        raise("ot=th:c", Ok("ot=th:fd70a4"));
        raise("ot=x:;th:c;y:1", Ok("ot=th:fd70a4;x:;y:1"));
        raise("ot=th:nonsense", Ok("ot=th:fd70a4"));
        check("", ThresholdMark::Raise(threshold(1)), Ok("ot=th:00000000000001"));
    }

    #[test]
    fn a_threshold_is_never_lowered() {
        raise("ot=th:fd70a4", Err(Applied::Unchanged));
        raise("a=b,ot=th:fd70a40000", Err(Applied::Unchanged));
        raise("a=b,ot=th:fd70a5", Err(Applied::Unchanged));
        check(
            "ot=th:c",
            ThresholdMark::Raise(Threshold::KEEP_ALL),
            Err(Applied::Unchanged),
        );
        check(
            "?",
            ThresholdMark::Raise(Threshold::KEEP_ALL),
            Err(Applied::Unchanged),
        );
        check("ot=th:c", ThresholdMark::AsCame, Err(Applied::Unchanged));
    }

    #[test]
    fn erasing_takes_only_the_threshold() {
        check("", ThresholdMark::Erase, Err(Applied::Unchanged));
        check("a=b", ThresholdMark::Erase, Err(Applied::Unchanged));
        check("not a tracestate", ThresholdMark::Erase, Err(Applied::Unchanged));
        check(
            "a=b,ot=rv:0123456789abcd",
            ThresholdMark::Erase,
            Err(Applied::Unchanged),
        );
        check("ot=th:c", ThresholdMark::Erase, Ok(""));
        check("a=b,ot=th:c,c=d", ThresholdMark::Erase, Ok("a=b,c=d"));
        check("a=b,ot=x:1;th:c;y:2", ThresholdMark::Erase, Ok("ot=x:1;y:2,a=b"));
        check("ot=th:c,a", ThresholdMark::Erase, Err(Applied::Unparsable));
    }

    #[test]
    fn what_is_no_tracestate_is_left_alone() {
        let long_value = format!("a={}", "x".repeat(257));
        for text in [
            "a",
            "=b",
            "A=b",
            "a=",
            "a=b=c",
            "a=\u{e9}",
            "ot=a:1,ot=b:2",
            "ot=th",
            "ot=T:1",
            "ot=a:1;",
            &long_value,
        ] {
            raise(text, Err(Applied::Unparsable));
        }
    }

    #[test]
    fn what_would_grow_too_long_is_left_alone() {
        let members = |count: usize| vec!["a=b"; count].join(",");
        raise(&members(31), Ok(&format!("ot=th:fd70a4,{}", members(31))));
        raise(&members(32), Err(Applied::TooLong));
        raise(&members(33), Err(Applied::Unparsable));
        let sub_key = |bytes: usize| format!("ot=x:{}", "y".repeat(bytes - 2));
        raise(&sub_key(246), Ok(&sub_key(246).replace("ot=", "ot=th:fd70a4;")));
        raise(&sub_key(247), Err(Applied::TooLong));
        let filler = |bytes: usize| {
            let [x, y, z] =
                [("x", 200), ("y", 200), ("z", bytes - 408)].map(|(text, count)| text.repeat(count));
            format!("a={x},b={y},c={z}")
        };
        raise(&filler(499), Ok(&format!("ot=th:fd70a4,{}", filler(499))));
        raise(&filler(500), Err(Applied::TooLong));
        let came_longer = format!("ot=th:c,{},d={}", filler(450), "z".repeat(200));
        check(
            &came_longer,
            ThresholdMark::Erase,
            Ok(&came_longer["ot=th:c,".len()..]),
        );
    }
}
