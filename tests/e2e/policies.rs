//! Policy sets for the process, as YAML, and the same ones for the oracle.

use serde_json::{Value, json};
use tailkeep::policy::{PolicyEntry, PolicyKind, PolicyOptions, StatusCode};

use crate::output::Exported;
use crate::sampler::SpanOfResource;
use crate::traffic::Random;

/// One to five policies whose keys and values are met in the traffic.
pub fn random(random: &mut Random, spans: &[SpanOfResource]) -> PolicyOptions {
    let count = 1 + random.below(4);
    let mut policies: Vec<PolicyEntry> = (0..count)
        .map(|at| entry(at, leaf(random, spans, true)))
        .collect();
    if random.below(3) == 0 {
        policies.push(entry(
            count,
            PolicyKind::Drop(vec![entry(0, leaf(random, spans, false))]),
        ));
    }
    PolicyOptions {
        policies,
        ..PolicyOptions::default()
    }
}

fn leaf(random: &mut Random, spans: &[SpanOfResource], nested: bool) -> PolicyKind {
    // Keys and strings that are there, so that policies match something.
    let met = |random: &mut Random| {
        let span = random.pick(spans);
        let attributes: Vec<_> = span.resource.iter().chain(&span.span.attributes).collect();
        attributes
            .get(random.below(attributes.len().max(1) as u64) as usize)
            .map_or(("absent".to_owned(), None), |attribute| {
                (
                    attribute.key.clone(),
                    attribute.value.clone().and_then(|value| value.value),
                )
            })
    };
    use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
    match random.below(if nested { 10 } else { 8 }) {
        0 => PolicyKind::StatusCode {
            codes: vec![*random.pick(&[StatusCode::Error, StatusCode::Ok])],
        },
        1 => {
            let threshold_ms = *random.pick(&[0, 5, 50, 500]);
            PolicyKind::Latency {
                threshold_ms,
                upper_threshold_ms: *random.pick(&[0, threshold_ms + 20]),
            }
        }
        2 => PolicyKind::Probabilistic {
            percentage: *random.pick(&[1.0, 10.0, 33.3, 75.0]),
            hash_salt: None,
        },
        3 => PolicyKind::Probabilistic {
            percentage: 25.0,
            hash_salt: Some("salt".to_owned()),
        },
        4 => PolicyKind::SpanCount {
            min: *random.pick(&[2, 4, 8]),
            max: *random.pick(&[0, 12]),
        },
        5..8 => match met(random) {
            (key, Some(Any::IntValue(value))) => {
                let min = value.saturating_sub(1).max(0);
                PolicyKind::NumericAttribute {
                    key,
                    min: Some(min),
                    max: None,
                    invert: random.below(4) == 0,
                }
            }
            (key, Some(Any::BoolValue(value))) => PolicyKind::BooleanAttribute {
                key,
                value,
                invert: random.below(4) == 0,
            },
            (key, value) => {
                let value = match value {
                    Some(Any::StringValue(text)) => text,
                    _ => "nothing is like this".to_owned(),
                };
                let values = vec![value];
                PolicyKind::StringAttribute {
                    key,
                    values,
                    regex: false,
                    invert: random.below(4) == 0,
                }
            }
        },
        8 => {
            let parts = (0..2).map(|at| entry(at, leaf(random, spans, false))).collect();
            PolicyKind::And(parts)
        }
        _ => PolicyKind::Not(Box::new(entry(0, leaf(random, spans, false)))),
    }
}

fn entry(number: u64, kind: PolicyKind) -> PolicyEntry {
    PolicyEntry {
        name: format!("policy-{number}"),
        kind,
    }
}

/// What the configuration says for it: JSON, which is YAML.
pub fn yaml(options: &PolicyOptions) -> String {
    Value::from(options.policies.iter().map(value).collect::<Vec<_>>()).to_string()
}

fn value(entry: &PolicyEntry) -> Value {
    let list = |entries: &[PolicyEntry]| Value::from(entries.iter().map(value).collect::<Vec<_>>());
    let options = match &entry.kind {
        PolicyKind::AlwaysSample => json!({}),
        PolicyKind::StatusCode { codes } => {
            let name = |code: &StatusCode| match code {
                StatusCode::Unset => "UNSET",
                StatusCode::Ok => "OK",
                StatusCode::Error => "ERROR",
            };
            json!({ "status_codes": codes.iter().map(name).collect::<Vec<_>>() })
        }
        PolicyKind::Latency {
            threshold_ms,
            upper_threshold_ms,
        } => {
            json!({ "threshold_ms": threshold_ms, "upper_threshold_ms": upper_threshold_ms })
        }
        PolicyKind::StringAttribute {
            key,
            values,
            regex,
            invert,
        } => json!({
            "key": key, "values": values, "enabled_regex_matching": regex, "invert_match": invert,
        }),
        PolicyKind::NumericAttribute {
            key,
            min,
            max,
            invert,
        } => {
            let mut options = json!({ "key": key, "invert_match": invert });
            for (name, bound) in [("min_value", min), ("max_value", max)] {
                if let Some(bound) = bound {
                    options[name] = json!(bound);
                }
            }
            options
        }
        PolicyKind::BooleanAttribute { key, value, invert } => {
            json!({ "key": key, "value": value, "invert_match": invert })
        }
        PolicyKind::Probabilistic {
            percentage,
            hash_salt,
        } => match hash_salt {
            Some(salt) => json!({ "sampling_percentage": percentage, "hash_salt": salt }),
            None => json!({ "sampling_percentage": percentage }),
        },
        PolicyKind::SpanCount { min, max } => json!({ "min_spans": min, "max_spans": max }),
        PolicyKind::RateLimiting {
            spans_per_second,
            burst,
        } => json!({ "spans_per_second": spans_per_second, "burst_capacity": burst }),
        PolicyKind::BytesLimiting {
            bytes_per_second,
            burst,
        } => json!({ "bytes_per_second": bytes_per_second, "burst_capacity": burst }),
        PolicyKind::And(parts) => json!({ "and_sub_policy": list(parts) }),
        PolicyKind::Not(part) => json!({ "not_sub_policy": value(part) }),
        PolicyKind::Drop(parts) => json!({ "drop_sub_policy": list(parts) }),
    };
    let mut out = json!({ "name": entry.name, "type": entry.kind.type_name() });
    if !matches!(entry.kind, PolicyKind::AlwaysSample) {
        out[entry.kind.type_name()] = options;
    }
    out
}

/// As the oracle wants them.
pub fn of_resource(span: &Exported) -> SpanOfResource {
    let resource = span.alone.resource.clone().unwrap_or_default();
    SpanOfResource {
        resource: resource.attributes,
        span: span.span().clone(),
    }
}
