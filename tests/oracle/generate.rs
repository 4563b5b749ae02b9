//! Random traces and policies that meet each other: few keys, few values, numbers near the bounds.

use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::{Span, Status};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use tailkeep::policy::{PolicyEntry, PolicyKind, PolicyOptions, StatusCode};

use crate::sampler::SpanOfResource;

const LONG_KEY: &str = "a.key.that.is.longer.than.any.length.class.of.the.lookup.table.on.its.own";
const KEYS: [&str; 5] = ["route", "code", "flag", "admin", LONG_KEY];
const TEXTS: [&str; 5] = ["/health", "/users/7", "500", "true", ""];
const START_NS: u64 = 1_700_000_000_000_000_000;

/// One to seven spans of one trace.
pub fn trace() -> impl Strategy<Value = Vec<SpanOfResource>> {
    (any::<[u8; 16]>(), vec(span(), 1..8)).prop_map(|(mut id, mut spans)| {
        id[0] |= 1;
        for span in &mut spans {
            span.span.trace_id = id.to_vec();
        }
        spans
    })
}

/// Up to five policies.
pub fn policies() -> impl Strategy<Value = PolicyOptions> {
    (vec(policy(), 0..6), any::<bool>()).prop_map(|(kinds, sample_on_first_match)| PolicyOptions {
        policies: named(kinds),
        sample_on_first_match,
        ..PolicyOptions::default()
    })
}

fn span() -> impl Strategy<Value = SpanOfResource> {
    let parent =
        prop_oneof![2 => Just(vec![]), 1 => Just(vec![0; 8]), 3 => any::<[u8; 8]>().prop_map(Vec::from)];
    let status = prop_oneof![
        1 => Just(None),
        5 => select(vec![-1, 0, 1, 2, 3, 9]).prop_map(|code| Some(Status { code, ..Status::default() })),
    ];
    let rest = (vec(attribute(), 0..2), vec(attribute(), 0..4), trace_state());
    (parent, status, time(), time(), rest).prop_map(|(parent, status, start, end, rest)| SpanOfResource {
        resource: rest.0,
        span: Span {
            span_id: vec![1; 8],
            parent_span_id: parent,
            trace_state: rest.2,
            start_time_unix_nano: start,
            end_time_unix_nano: end,
            attributes: rest.1,
            status,
            ..Span::default()
        },
    })
}

/// Unset, or within two seconds, often a whole half second or a nanosecond beside it.
fn time() -> impl Strategy<Value = u64> {
    prop_oneof![
        1 => Just(0),
        4 => (1u64..5, -1i64..2).prop_map(|(halves, ns)| START_NS.saturating_add_signed(halves as i64 * 500_000_000 + ns)),
        2 => (0u64..2_000_000_000).prop_map(|ns| START_NS + ns),
    ]
}

fn trace_state() -> impl Strategy<Value = String> {
    let rv = prop_oneof![
        select(vec![
            "00000000000000",
            "7fffffffffffff",
            "80000000000000",
            "ffffffffffffff",
            "e6666000000000"
        ])
        .prop_map(String::from),
        (0u64..1 << 56).prop_map(|rv| format!("{rv:014x}")),
    ];
    prop_oneof![
        4 => Just(String::new()),
        1 => select(vec!["vendor=1", "ot=th:8", "ot=rv:123", "ot=rv:0123456789abcx"]).prop_map(String::from),
        3 => rv.prop_map(|rv| format!("vendor=1,ot=th:8;rv:{rv}")),
    ]
}

fn attribute() -> impl Strategy<Value = KeyValue> {
    (select(&KEYS[..]), value()).prop_map(|(key, value)| KeyValue {
        key: key.into(),
        value: Some(AnyValue { value }),
        ..KeyValue::default()
    })
}

fn value() -> impl Strategy<Value = Option<Value>> {
    prop_oneof![
        1 => Just(None),
        4 => select(&TEXTS[..]).prop_map(|text| Some(Value::StringValue(text.into()))),
        3 => select(vec![-1, 0, 1, 499, 500, 501, i64::MAX]).prop_map(|int| Some(Value::IntValue(int))),
        3 => select(vec![-0.5, 0.0, 0.5, 499.5, 500.0, 500.5, f64::NAN, f64::INFINITY])
            .prop_map(|double| Some(Value::DoubleValue(double))),
        3 => any::<bool>().prop_map(|bit| Some(Value::BoolValue(bit))),
        1 => Just(Some(Value::ArrayValue(ArrayValue::default()))),
        1 => Just(Some(Value::BytesValue(b"/health".to_vec()))),
    ]
}

/// A policy of the top level.
fn policy() -> impl Strategy<Value = PolicyKind> {
    prop_oneof![5 => rule(), 1 => vec(rule(), 1..3).prop_map(|kinds| PolicyKind::Drop(named(kinds)))]
}

fn rule() -> impl Strategy<Value = PolicyKind> {
    leaf().prop_recursive(2, 6, 3, |inner| {
        prop_oneof![
            2 => vec(inner.clone(), 0..4).prop_map(|kinds| PolicyKind::And(named(kinds))),
            1 => inner.prop_map(|kind| PolicyKind::Not(Box::new(PolicyEntry { name: String::new(), kind }))),
        ]
    })
}

fn leaf() -> impl Strategy<Value = PolicyKind> {
    let key = || select(&KEYS[..]).prop_map(String::from);
    let codes = vec(
        select(vec![StatusCode::Unset, StatusCode::Ok, StatusCode::Error]),
        1..3,
    );
    let percentage = prop_oneof![
        select(vec![-3.0, 0.0, 0.001, 10.0, 50.0, 99.9, 100.0, 120.0]),
        0.0..100.0
    ];
    let salt =
        prop_oneof![3 => Just(None), 1 => Just(Some(String::new())), 1 => Just(Some("salt".to_owned()))];
    let bound = || select(vec![None, Some(-1), Some(0), Some(500), Some(501)]);
    let range =
        (bound(), bound()).prop_filter("a range that holds something", |(min, max)| match (min, max) {
            (None, None) => false,
            (Some(min), Some(max)) => min <= max,
            _ => true,
        });
    prop_oneof![
        1 => Just(PolicyKind::AlwaysSample),
        3 => codes.prop_map(|codes| PolicyKind::StatusCode { codes }),
        4 => (select(vec![-1, 0, 499, 500, 999, 1000]), select(vec![0, 1000, 1001, 1500])).prop_filter_map(
            "a range that holds something",
            |(threshold_ms, upper_threshold_ms)| (upper_threshold_ms == 0 || threshold_ms < upper_threshold_ms)
                .then_some(PolicyKind::Latency { threshold_ms, upper_threshold_ms })
        ),
        3 => (key(), vec(select(&TEXTS[..]), 0..3), any::<bool>()).prop_map(|(key, values, invert)| {
            let values = values.into_iter().map(String::from).collect();
            PolicyKind::StringAttribute { key, values, regex: false, invert }
        }),
        2 => (key(), vec(select(vec!["^/users/", "^5..$", "", "e"]), 0..3), any::<bool>()).prop_map(
            |(key, values, invert)| {
                let values = values.into_iter().map(String::from).collect();
                PolicyKind::StringAttribute { key, values, regex: true, invert }
            }
        ),
        3 => (key(), range, any::<bool>())
            .prop_map(|(key, (min, max), invert)| PolicyKind::NumericAttribute { key, min, max, invert }),
        2 => (key(), any::<bool>(), any::<bool>())
            .prop_map(|(key, value, invert)| PolicyKind::BooleanAttribute { key, value, invert }),
        5 => (percentage, salt).prop_map(|(percentage, hash_salt)| PolicyKind::Probabilistic { percentage, hash_salt }),
        3 => (-1i32..6, select(vec![0, 4, 6])).prop_filter_map("a range that holds something", |(min, max)| {
            (max == 0 || min <= max).then_some(PolicyKind::SpanCount { min, max })
        }),
    ]
}

/// As [`policies`], some of which limit.
pub fn limiting_policies() -> impl Strategy<Value = PolicyOptions> {
    let limit = prop_oneof![
        (1..9u64, 1..9u64).prop_map(|(spans_per_second, burst)| PolicyKind::RateLimiting {
            spans_per_second,
            burst
        }),
        (1..900u64, 1..900u64).prop_map(|(bytes_per_second, burst)| PolicyKind::BytesLimiting {
            bytes_per_second,
            burst
        }),
    ];
    let limit = (limit, any::<bool>()).prop_map(|(limit, negated)| match negated {
        true => PolicyKind::Not(Box::new(PolicyEntry {
            name: String::new(),
            kind: limit,
        })),
        false => limit,
    });
    let limiting = (limit, vec(rule(), 0..3), any::<prop::sample::Index>(), 0..4u8).prop_map(
        |(limit, mut others, place, shape)| {
            others.insert(place.index(others.len() + 1), limit);
            match shape {
                0 => PolicyKind::Drop(named(others)),
                1 => others.swap_remove(0),
                _ => PolicyKind::And(named(others)),
            }
        },
    );
    let policy = prop_oneof![1 => policy(), 2 => limiting];
    (vec(policy, 0..6), any::<bool>()).prop_map(|(kinds, sample_on_first_match)| PolicyOptions {
        policies: named(kinds),
        sample_on_first_match,
        ..PolicyOptions::default()
    })
}

fn named(kinds: Vec<PolicyKind>) -> Vec<PolicyEntry> {
    let entries = kinds.into_iter().enumerate();
    entries
        .map(|(index, kind)| PolicyEntry {
            name: format!("policy-{index}"),
            kind,
        })
        .collect()
}
