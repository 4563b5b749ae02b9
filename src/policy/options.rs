//! Stand-in for the policy module's options, replaced at integration.

#[derive(Clone, Debug, PartialEq)]
pub struct PolicyOptions {
    pub policies: Vec<PolicyEntry>,
    pub sample_on_first_match: bool,
    pub expected_count_attribute: String,
}

#[derive(Clone, Debug, PartialEq)]
pub struct PolicyEntry {
    pub name: String,
    pub kind: PolicyKind,
}

#[derive(Clone, Debug, PartialEq)]
pub enum PolicyKind {
    AlwaysSample,
    StatusCode {
        codes: Vec<StatusCode>,
    },
    Latency {
        threshold_ms: i64,
        upper_threshold_ms: i64,
    },
    StringAttribute {
        key: String,
        values: Vec<String>,
        regex: bool,
        invert: bool,
    },
    NumericAttribute {
        key: String,
        min: Option<i64>,
        max: Option<i64>,
        invert: bool,
    },
    BooleanAttribute {
        key: String,
        value: bool,
        invert: bool,
    },
    Probabilistic {
        percentage: f64,
        hash_salt: Option<String>,
    },
    SpanCount {
        min: i32,
        max: i32,
    },
    And(Vec<PolicyEntry>),
    Not(Box<PolicyEntry>),
    Drop(Vec<PolicyEntry>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusCode {
    Ok,
    Error,
    Unset,
}

pub const TYPES_NOT_YET: [&str; 6] = [
    "rate_limiting",
    "bytes_limiting",
    "trace_state",
    "trace_flags",
    "ottl_condition",
    "composite",
];
