//! Stand-in for `otlp/tracestate`.

/// What a tracestate says about sampling.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sampling {
    /// `rv`: below 2⁵⁶.
    pub randomness: Option<u64>,
}

/// Reads `rv`; whatever cannot be read is absent.
pub fn sampling(trace_state: &[u8]) -> Sampling {
    Sampling {
        randomness: randomness(trace_state),
    }
}

fn randomness(trace_state: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(trace_state).ok()?;
    let ot = text
        .split(',')
        .find_map(|member| member.trim().strip_prefix("ot="))?;
    let rv = ot.split(';').find_map(|part| part.strip_prefix("rv:"))?;
    (rv.len() == 14).then(|| u64::from_str_radix(rv, 16).ok())?
}
