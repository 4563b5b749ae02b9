//! The policies as the configuration states them: plain values, filled by `config`, compiled by
//! [`PolicySet::compile`](super::PolicySet::compile).
//!
//! Field names are the Collector's keys where they say what they mean. Nothing here is checked yet:
//! `compile` reports everything wrong with it at once.

/// The judging part of `tail_sampling` and `completion`.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyOptions {
    /// In the order of the file.
    pub policies: Vec<PolicyEntry>,
    /// Judge by the first policy that matches: no later one is charged, and an early verdict names the
    /// policy that the final one names.
    pub sample_on_first_match: bool,
    /// Attribute of a span or resource that says how many spans the trace has; empty: none is read.
    pub expected_count_attribute: String,
}

impl Default for PolicyOptions {
    fn default() -> PolicyOptions {
        PolicyOptions {
            policies: Vec::new(),
            sample_on_first_match: false,
            expected_count_attribute: "trace.expected_span_count".into(),
        }
    }
}

/// One policy, or one sub-policy of `and`, `not` or `drop`.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyEntry {
    /// Unique among the top-level policies; sub-policies may repeat or lack one.
    pub name: String,
    pub kind: PolicyKind,
}

/// What a policy asks of a trace. `and` and `not` nest; `drop` stands only at the top level.
#[derive(Clone, Debug, PartialEq)]
pub enum PolicyKind {
    AlwaysSample,
    /// Some span has one of the codes.
    StatusCode {
        codes: Vec<StatusCode>,
    },
    /// Whole milliseconds from earliest start to latest end: above `threshold_ms`, and not above
    /// `upper_threshold_ms` unless that is 0.
    Latency {
        threshold_ms: i64,
        upper_threshold_ms: i64,
    },
    /// Some span, or its resource, has a string under `key` that is one of `values` (or, with `regex`,
    /// contains a match of one). `invert`: none has.
    StringAttribute {
        key: String,
        values: Vec<String>,
        regex: bool,
        invert: bool,
    },
    /// Some span, or its resource, has an integer or double under `key` with `min ≤ value ≤ max`.
    /// A bound that was not given is `None`; 0 is a bound. `invert`: none has.
    NumericAttribute {
        key: String,
        min: Option<i64>,
        max: Option<i64>,
        invert: bool,
    },
    /// Some span, or its resource, has this boolean under `key`. `invert`: none has.
    BooleanAttribute {
        key: String,
        value: bool,
        invert: bool,
    },
    /// This share of traces, by the trace's randomness R; with a salt by the Collector's hash instead.
    Probabilistic {
        percentage: f64,
        /// `None` or empty: consistent sampling by R.
        hash_salt: Option<String>,
    },
    /// `min ≤ spans`, and not above `max` unless that is 0.
    SpanCount {
        min: i32,
        max: i32,
    },
    /// The token bucket of the policy has as many tokens as the trace has spans: `rate` more each second, `burst` at
    /// most. All or nothing.
    RateLimiting {
        spans_per_second: u64,
        /// 0: twice the rate.
        burst: u64,
    },
    /// Likewise with the bytes of the trace's spans.
    BytesLimiting {
        bytes_per_second: u64,
        /// 0: twice the rate.
        burst: u64,
    },
    /// All match; none at all counts as a match, as in the Collector.
    And(Vec<PolicyEntry>),
    /// The sub-policy does not match.
    Not(Box<PolicyEntry>),
    /// Denies the trace when all match, whatever other policies say.
    Drop(Vec<PolicyEntry>),
}

impl PolicyKind {
    /// The Collector's word for it, which is also the key of its options.
    pub fn type_name(&self) -> &'static str {
        match self {
            PolicyKind::AlwaysSample => "always_sample",
            PolicyKind::StatusCode { .. } => "status_code",
            PolicyKind::Latency { .. } => "latency",
            PolicyKind::StringAttribute { .. } => "string_attribute",
            PolicyKind::NumericAttribute { .. } => "numeric_attribute",
            PolicyKind::BooleanAttribute { .. } => "boolean_attribute",
            PolicyKind::Probabilistic { .. } => "probabilistic",
            PolicyKind::SpanCount { .. } => "span_count",
            PolicyKind::RateLimiting { .. } => "rate_limiting",
            PolicyKind::BytesLimiting { .. } => "bytes_limiting",
            PolicyKind::And(_) => "and",
            PolicyKind::Not(_) => "not",
            PolicyKind::Drop(_) => "drop",
        }
    }
}

/// The status of a span, with OTLP's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum StatusCode {
    Unset = 0,
    Ok = 1,
    Error = 2,
}

impl StatusCode {
    /// `UNSET`, `OK` or `ERROR`; upper case only, as in the Collector.
    pub fn from_name(name: &str) -> Option<StatusCode> {
        match name {
            "UNSET" => Some(StatusCode::Unset),
            "OK" => Some(StatusCode::Ok),
            "ERROR" => Some(StatusCode::Error),
            _ => None,
        }
    }
}

/// Types of the Collector that are not built yet: a configuration that names one gets «not yet», not
/// «unknown».
pub const TYPES_NOT_YET: [&str; 4] = ["trace_state", "trace_flags", "ottl_condition", "composite"];
