//! Stand-in for `otlp/tracestate`.

/// The 56 bits of `ot=rv`, if it is there and well formed.
pub fn parse_rv(trace_state: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(trace_state).ok()?;
    let ot = text
        .split(',')
        .find_map(|member| member.trim().strip_prefix("ot="))?;
    let rv = ot.split(';').find_map(|part| part.strip_prefix("rv:"))?;
    (rv.len() == 14).then(|| u64::from_str_radix(rv, 16).ok())?
}
