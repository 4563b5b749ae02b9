//! A naive sampler: what the policies say about one whole trace, from decoded spans.
//!
//! It is written straight from the documented semantics and shares nothing with the engine but the options'
//! types: no predicates, no digest, no three-valued logic, one obvious loop per rule. Where engine and
//! oracle differ, one of them is wrong.

use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use regex::Regex;
use tailkeep::policy::{PolicyEntry, PolicyKind, PolicyOptions};

/// A span and the attributes of its resource.
#[derive(Clone, Debug, Default)]
pub struct SpanOfResource {
    pub resource: Vec<KeyValue>,
    pub span: Span,
}

/// What becomes of the trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Keep { policy: String, th: Th },
    Deny { policy: String },
    Rollup,
}

/// What becomes of `th` on its spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Th {
    AsCame,
    /// The higher of this T, in 1/2⁵⁶, and the one that came.
    AtLeast(u64),
    Erased,
}

/// Decides a trace that is whole. All spans have the same trace id.
pub fn decide(options: &PolicyOptions, spans: &[SpanOfResource]) -> Decision {
    decide_limited(options, spans, &mut |_, _| panic!("no policy limits anything"))
}

/// As [`decide`]; a limiting policy asks `limit` for what the trace costs, once, when all else that it asks is so.
pub fn decide_limited(
    options: &PolicyOptions,
    spans: &[SpanOfResource],
    limit: &mut dyn FnMut(&PolicyKind, u64) -> bool,
) -> Decision {
    let is_drop = |entry: &&PolicyEntry| matches!(entry.kind, PolicyKind::Drop(_));
    let drops = options.policies.iter().filter(is_drop);
    let others = options.policies.iter().filter(|entry| !is_drop(entry));
    for drop in drops {
        if matches_limited(&drop.kind, spans, limit) {
            return Decision::Deny {
                policy: drop.name.clone(),
            };
        }
    }
    let mut matching = Vec::new();
    for entry in others {
        let is_over = options.sample_on_first_match && !matching.is_empty();
        // Nobody is charged any more; what matches without asking counts for `th`.
        if is_over && asks_limit(&entry.kind) {
            continue;
        }
        if matches_limited(&entry.kind, spans, limit) {
            matching.push(entry);
        }
    }
    let Some(first) = matching.first() else {
        return Decision::Rollup;
    };
    let lowest = matching.iter().filter_map(|entry| threshold(&entry.kind)).min();
    let th = match lowest {
        Some(0) => Th::AsCame,
        Some(threshold) => Th::AtLeast(threshold),
        None => Th::Erased,
    };
    Decision::Keep {
        policy: first.name.clone(),
        th,
    }
}

/// Whether a policy limits what it keeps.
pub fn asks_limit(kind: &PolicyKind) -> bool {
    match kind {
        PolicyKind::RateLimiting { .. } | PolicyKind::BytesLimiting { .. } => true,
        PolicyKind::And(parts) | PolicyKind::Drop(parts) => parts.iter().any(|part| asks_limit(&part.kind)),
        PolicyKind::Not(part) => asks_limit(&part.kind),
        _ => false,
    }
}

fn matches_limited(
    kind: &PolicyKind,
    spans: &[SpanOfResource],
    limit: &mut dyn FnMut(&PolicyKind, u64) -> bool,
) -> bool {
    match kind {
        PolicyKind::RateLimiting { .. } => limit(kind, spans.len() as u64),
        PolicyKind::BytesLimiting { .. } => {
            let bytes = spans.iter().map(|span| span.span.encoded_len() as u64);
            limit(kind, bytes.sum())
        }
        PolicyKind::And(parts) | PolicyKind::Drop(parts) => {
            let (limits, others): (Vec<_>, Vec<_>) = parts.iter().partition(|part| asks_limit(&part.kind));
            others.iter().all(|part| matches(&part.kind, spans))
                && limits
                    .iter()
                    .all(|part| matches_limited(&part.kind, spans, limit))
        }
        PolicyKind::Not(part) => !matches_limited(&part.kind, spans, limit),
        _ => matches(kind, spans),
    }
}

/// Whether the policy matches the trace, of one that limits nothing.
pub fn matches(kind: &PolicyKind, spans: &[SpanOfResource]) -> bool {
    match kind {
        PolicyKind::AlwaysSample => true,
        PolicyKind::StatusCode { codes } => spans.iter().any(|span| {
            codes
                .iter()
                .any(|code| span.span.status.clone().unwrap_or_default().code == *code as i32)
        }),
        PolicyKind::Latency {
            threshold_ms,
            upper_threshold_ms,
        } => {
            let ms = duration_ms(spans);
            ms > *threshold_ms && (*upper_threshold_ms == 0 || ms <= *upper_threshold_ms)
        }
        PolicyKind::StringAttribute {
            key,
            values,
            regex,
            invert,
        } => {
            let matches = |text: &str| {
                values.iter().filter(|value| !value.is_empty()).any(|value| {
                    if *regex {
                        Regex::new(value).expect("checked").is_match(text)
                    } else {
                        value == text
                    }
                })
            };
            invert
                ^ any_value(spans, key, |value| match value {
                    Value::StringValue(text) => matches(text),
                    _ => false,
                })
        }
        PolicyKind::NumericAttribute {
            key,
            min,
            max,
            invert,
        } => {
            invert
                ^ any_value(spans, key, |value| match value {
                    Value::IntValue(int) => {
                        min.is_none_or(|min| *int >= min) && max.is_none_or(|max| *int <= max)
                    }
                    Value::DoubleValue(double) => {
                        min.is_none_or(|min| *double >= min as f64)
                            && max.is_none_or(|max| *double <= max as f64)
                            && !double.is_nan()
                    }
                    _ => false,
                })
        }
        PolicyKind::BooleanAttribute {
            key,
            value: wanted,
            invert,
        } => invert ^ any_value(spans, key, |value| *value == Value::BoolValue(*wanted)),
        PolicyKind::Probabilistic {
            percentage,
            hash_salt,
        } => match hash_salt.as_deref() {
            None | Some("") => {
                threshold_of(*percentage).is_some_and(|threshold| randomness(spans) >= threshold)
            }
            Some(salt) => hash(salt, trace_id(spans)) <= hash_limit(percentage / 100.0),
        },
        PolicyKind::SpanCount { min, max } => {
            let count = spans.len() as i64;
            count >= i64::from(*min) && (*max == 0 || count <= i64::from(*max))
        }
        PolicyKind::And(parts) | PolicyKind::Drop(parts) => {
            parts.iter().all(|part| matches(&part.kind, spans))
        }
        PolicyKind::Not(part) => !matches(&part.kind, spans),
        PolicyKind::RateLimiting { .. } | PolicyKind::BytesLimiting { .. } => {
            panic!("what is limited is not in the spans alone")
        }
    }
}

/// The T with which the policy keeps what it keeps; `None` if no T says it.
pub fn threshold(kind: &PolicyKind) -> Option<u64> {
    match kind {
        PolicyKind::Probabilistic {
            hash_salt: Some(salt),
            ..
        } if !salt.is_empty() => None,
        PolicyKind::Probabilistic { percentage, .. } => Some(threshold_of(*percentage).unwrap_or(0)),
        PolicyKind::RateLimiting { .. } | PolicyKind::BytesLimiting { .. } => None,
        PolicyKind::And(parts) | PolicyKind::Drop(parts) => {
            let thresholds: Option<Vec<u64>> = parts.iter().map(|part| threshold(&part.kind)).collect();
            Some(thresholds?.into_iter().max().unwrap_or(0))
        }
        // What is not not so is so.
        PolicyKind::Not(part) => match &part.kind {
            PolicyKind::Not(inner) => threshold(&inner.kind),
            kind if threshold(kind) == Some(0) => Some(0),
            _ => None,
        },
        _ => Some(0),
    }
}

/// R: of a root's `rv` the smallest, else the smallest of any, else the trace id's last 56 bits.
pub fn randomness(spans: &[SpanOfResource]) -> u64 {
    let is_root = |span: &&SpanOfResource| span.span.parent_span_id.iter().all(|byte| *byte == 0);
    let of_roots = spans
        .iter()
        .filter(is_root)
        .filter_map(|span| rv(&span.span.trace_state))
        .min();
    let of_any = spans.iter().filter_map(|span| rv(&span.span.trace_state)).min();
    of_roots.or(of_any).unwrap_or_else(|| {
        trace_id(spans)[9..]
            .iter()
            .fold(0, |value, byte| value * 256 + u64::from(*byte))
    })
}

fn rv(trace_state: &str) -> Option<u64> {
    let ot = trace_state
        .split(',')
        .find_map(|member| member.trim().strip_prefix("ot="))?;
    let rv = ot.split(';').find_map(|part| part.strip_prefix("rv:"))?;
    let is_rv = rv.len() == 14 && rv.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_rv.then(|| u64::from_str_radix(rv, 16).expect("14 hexadecimal digits"))
}

fn trace_id(spans: &[SpanOfResource]) -> &[u8] {
    &spans[0].span.trace_id
}

fn any_value(spans: &[SpanOfResource], key: &str, matches: impl Fn(&Value) -> bool) -> bool {
    spans.iter().any(|span| {
        span.resource
            .iter()
            .chain(&span.span.attributes)
            .any(|attribute| {
                let value = attribute.value.as_ref().and_then(|value| value.value.as_ref());
                attribute.key == key && value.is_some_and(&matches)
            })
    })
}

fn duration_ms(spans: &[SpanOfResource]) -> i64 {
    let starts = spans
        .iter()
        .map(|span| span.span.start_time_unix_nano)
        .filter(|ns| *ns > 0);
    let ends = spans
        .iter()
        .map(|span| span.span.end_time_unix_nano)
        .filter(|ns| *ns > 0);
    match (starts.min(), ends.max()) {
        (Some(start), Some(end)) if end > start => ((end - start) / 1_000_000) as i64,
        _ => 0,
    }
}

/// T of a percentage, with enough hexadecimal digits for 16 significant bits of the share or of what it
/// lacks of 1; `None`: keeps nothing.
pub fn threshold_of(percentage: f64) -> Option<u64> {
    let share = percentage / 100.0;
    if share >= 1.0 {
        return Some(0);
    }
    if share <= 0.0 {
        return None;
    }
    let zeros = (-share.min(1.0 - share).log2()).ceil() - 1.0;
    let digits = (((16.0 + zeros) / 4.0).ceil() as usize).min(14);
    let kept = ((share * 2f64.powi(56)).round() as u64).max(1);
    let exact = format!("{:014x}", (1u64 << 56) - kept);
    let (written, cut) = exact.split_at(digits);
    let round_up = cut.chars().next().is_some_and(|digit| digit >= '8');
    let written = u64::from_str_radix(written, 16).expect("digits") + u64::from(round_up);
    Some(written << (4 * (14 - digits)))
}

fn hash(salt: &str, trace_id: &[u8]) -> u64 {
    let mut state: u64 = 14_695_981_039_346_656_037;
    for byte in salt.bytes().chain(trace_id.iter().copied()) {
        state ^= u64::from(byte);
        state = state.wrapping_mul(1_099_511_628_211);
    }
    state
}

/// `share × (2⁶⁴ − 1)` in binary floating point with 64 bits, truncated.
fn hash_limit(share: f64) -> u64 {
    if share >= 1.0 {
        return u64::MAX;
    }
    if share <= 0.0 {
        return 0;
    }
    let (mut whole, mut halvings) = (share, 0u32);
    while whole.fract() != 0.0 {
        whole *= 2.0;
        halvings += 1;
    }
    let mut product = u128::from(u64::MAX) * whole as u128;
    let (mut lost_half, mut lost_rest) = (false, false);
    while product >= 1 << 64 {
        lost_rest |= lost_half;
        lost_half = product & 1 == 1;
        product >>= 1;
        halvings -= 1;
    }
    if lost_half && (lost_rest || product & 1 == 1) {
        product += 1;
    }
    (product >> halvings.min(127)) as u64
}
