//! Quantities as people write them: durations, sizes, shares of a disk, endpoints.
//!
//! Each has a `parse_` that gives `None` or a help text for what is none, and a `show_` whose result
//! parses to the same value; `config/render.rs` relies on the pair.

use std::time::Duration;

use super::options::Endpoint;

/// Longest first where one is the beginning of another.
const DURATION_UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

const SIZE_UNITS: [(&str, u64); 5] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

/// Go's syntax without a sign: `500ms`, `1m30s`, `1.5h`, `0`. Nanoseconds below one are cut off.
pub fn parse_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    if text.is_empty() {
        return None;
    }
    let mut total_ns: u64 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(number_end);
        let unit_end = after
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let (_, unit_ns) = DURATION_UNITS.iter().find(|(name, _)| *name == unit)?;
        total_ns = total_ns.checked_add(scale(number, *unit_ns)?)?;
        rest = after;
    }
    // Go's durations end at 2⁶³ ns (292 years); beyond that a deadline cannot be reckoned either.
    (total_ns <= i64::MAX as u64).then_some(Duration::from_nanos(total_ns))
}

/// `1h0m30s` is `1h30s` here; parts that are zero are left out.
pub fn show_duration(duration: Duration) -> String {
    let mut rest_ns = duration.as_nanos();
    let mut text = String::new();
    for unit in ["h", "m", "s", "ms", "us", "ns"] {
        let unit_ns = DURATION_UNITS
            .iter()
            .find(|(name, _)| *name == unit)
            .map_or(1, |(_, ns)| *ns as u128);
        if rest_ns >= unit_ns {
            text.push_str(&format!("{}{unit}", rest_ns / unit_ns));
            rest_ns %= unit_ns;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// `64MiB`, `1.5GiB`, or whole bytes.
pub fn parse_size(text: &str) -> Option<u64> {
    let number_end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(number_end);
    if unit.is_empty() {
        return number.parse().ok();
    }
    let (_, unit_bytes) = SIZE_UNITS
        .iter()
        .find(|(name, _)| *name == unit.trim_start_matches(' '))?;
    scale(number, *unit_bytes)
}

pub fn show_size(bytes: u64) -> String {
    let unit = SIZE_UNITS
        .iter()
        .rev()
        .find(|(name, unit)| *name != "B" && bytes.is_multiple_of(*unit));
    match unit {
        Some((name, unit)) if bytes != 0 => format!("{}{name}", bytes / unit),
        _ => bytes.to_string(),
    }
}

/// `5%`, `0.5%`: 0 to 100.
pub fn parse_percent(text: &str) -> Option<f64> {
    let number = text.strip_suffix('%')?;
    if !number.chars().all(|c| c.is_ascii_digit() || c == '.') {
        return None;
    }
    number
        .parse()
        .ok()
        .filter(|percent| (0.0..=100.0).contains(percent))
}

/// `host:port`, `[address]:port` or, for every address of the host, `:port`. The error is a help text.
pub fn parse_endpoint(text: &str) -> Result<Endpoint, &'static str> {
    if text.contains("://") {
        return Err("write host:port without a scheme, such as 127.0.0.1:4317");
    }
    let (host, port) = text
        .rsplit_once(':')
        .ok_or("write host:port, such as 127.0.0.1:4317")?;
    let port_is_number = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let port = match port.parse() {
        Ok(port) if port_is_number => port,
        _ => return Err("the port is a number up to 65535; 0 lets the system choose one"),
    };
    let host = match host.strip_prefix('[').map(|host| host.strip_suffix(']')) {
        Some(Some(address)) if is_ipv6(address) => address,
        Some(_) => return Err("between brackets stands an IPv6 address, such as [::1]:4317"),
        None if host.is_empty() => "0.0.0.0",
        None if host.contains(':') => return Err("an IPv6 address needs brackets, such as [::1]:4317"),
        None if is_name(host) => host,
        None => return Err("the host is a name or an address, such as localhost or 127.0.0.1"),
    };
    Ok(Endpoint::new(host, port))
}

/// A zone may follow (`fe80::1%eth0`).
fn is_ipv6(address: &str) -> bool {
    let (address, zone) = address.split_once('%').unwrap_or((address, "none"));
    address.parse::<std::net::Ipv6Addr>().is_ok() && !zone.is_empty() && is_name(zone)
}

fn is_name(host: &str) -> bool {
    host.len() <= 253
        && host
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// A decimal number times `unit`, cut off below one.
fn scale(number: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    // Digits beyond the 18th are below every unit.
    let fraction = &fraction[..fraction.len().min(18)];
    let digits: u128 = if fraction.is_empty() {
        0
    } else {
        fraction.parse().ok()?
    };
    let part = digits * unit as u128 / 10_u128.pow(fraction.len() as u32);
    whole.checked_mul(unit)?.checked_add(u64::try_from(part).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nanoseconds(text: &str) -> Option<u64> {
        parse_duration(text).map(|duration| duration.as_nanos() as u64)
    }

    #[test]
    fn durations_are_written_as_in_go() {
        for (text, expected) in [
            ("0", 0),
            ("0s", 0),
            ("500ms", 500_000_000),
            ("1m30s", 90_000_000_000),
            ("1.5h", 5_400_000_000_000),
            (".5s", 500_000_000),
            ("1.s", 1_000_000_000),
            ("1µs", 1_000),
            ("1us2ns", 1_002),
            ("2562047h", 9_223_369_200_000_000_000),
        ] {
            assert_eq!(nanoseconds(text), Some(expected), "{text}");
        }
        for text in [
            "",
            "5",
            "-1s",
            "+1s",
            "s",
            ".s",
            "1 s",
            "1d",
            "1sm",
            "2562048h",
            "1..5s",
            "99999999999999999999s",
        ] {
            assert_eq!(nanoseconds(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_are_whole_bytes_or_have_a_binary_unit() {
        for (text, expected) in [
            ("0", 0),
            ("1", 1),
            ("64MiB", 64 << 20),
            ("1.5GiB", 3 << 29),
            ("2 KiB", 2048),
            ("12B", 12),
        ] {
            assert_eq!(parse_size(text), Some(expected), "{text}");
        }
        for text in [
            "",
            "MiB",
            "64MB",
            "64mib",
            "-1",
            "1.5",
            "1e3",
            "16777216TiB",
            "1.5.1MiB",
        ] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }

    #[test]
    fn endpoints_are_a_host_and_a_port() {
        for (text, host, port) in [
            ("localhost:4317", "localhost", 4317),
            ("127.0.0.1:0", "127.0.0.1", 0),
            ("[::1]:4317", "::1", 4317),
            ("[fe80::1%eth0]:1", "fe80::1%eth0", 1),
            (":4317", "0.0.0.0", 4317),
        ] {
            assert_eq!(parse_endpoint(text), Ok(Endpoint::new(host, port)), "{text}");
        }
        for text in [
            "",
            "4317",
            "localhost",
            "localhost:",
            "localhost:65536",
            "localhost:+1",
            "::1:4317",
        ] {
            assert!(parse_endpoint(text).is_err(), "{text}");
        }
        for text in [
            "http://localhost:4317",
            "[localhost]:1",
            "[::1:4317",
            "a b:1",
            "é:1",
            "[::1%]:1",
        ] {
            assert!(parse_endpoint(text).is_err(), "{text}");
        }
    }

    #[test]
    fn percentages_are_within_0_and_100() {
        assert_eq!(parse_percent("5%"), Some(5.0));
        assert_eq!(parse_percent("0.25%"), Some(0.25));
        for text in ["5", "101%", "-1%", "%", "1e1%", "nan%", "5 %"] {
            assert_eq!(parse_percent(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_shown_duration_parses_to_itself(ns in 0..=i64::MAX as u64) {
            let duration = Duration::from_nanos(ns);
            prop_assert_eq!(parse_duration(&show_duration(duration)), Some(duration));
        }

        #[test]
        fn a_shown_size_parses_to_itself(bytes: u64) {
            prop_assert_eq!(parse_size(&show_size(bytes)), Some(bytes));
        }

        #[test]
        fn no_text_makes_a_parser_panic(text in r"\PC{0,12}|[0-9.]{0,24}[a-zµ%]{0,3}") {
            let _ = (parse_duration(&text), parse_size(&text), parse_percent(&text), parse_endpoint(&text));
        }
    }
}
