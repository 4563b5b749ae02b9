//! From options to a [`PolicySet`]: everything checked, equal predicates numbered once.
//!
//! A policy that could never match is refused, although the Collector takes it: it is a mistake each time,
//! and its silence costs the traces it was written for.

use thiserror::Error;

use crate::digest::{PREDICATE_COUNT_MAX, PredicateIndex};

use super::options::{PolicyEntry, PolicyKind, PolicyOptions, StatusCode};
use super::pattern;
use super::predicate::{Patterns, Predicate, PredicateTable, Wants};
use super::probability::{Salted, threshold_of_percentage};
use super::quota::{self, QUOTA_COUNT_MAX, Quota, QuotaIndex, QuotaKey, Terms, Unit};
use super::rule::{Leaf, Rule};
use super::{POLICY_COUNT_MAX, Policy, PolicyIndex, PolicyInfo, PolicyMask, PolicySet};

/// The operator's mistake in the policies. No policy set was made; one that is in use stays in use.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{path}: {message}")]
pub struct CompileError {
    /// Below `tail_sampling`, for example `policies[1].string_attribute.values[0]`.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub help: String,
}

/// `and` and `not` within each other at most, so that a rule is judged on a bounded stack.
const DEPTH_MAX: usize = 16;

pub(super) fn compile(options: &PolicyOptions) -> Result<PolicySet, Vec<CompileError>> {
    let mut compiler = Compiler::default();
    let mut drops = PolicyMask::NONE;
    let mut policies = Vec::with_capacity(options.policies.len());
    for (index, entry) in options.policies.iter().enumerate() {
        let path = format!("policies[{index}]");
        compiler.check_name(options, index);
        if index >= POLICY_COUNT_MAX {
            compiler.refuse(
                &path,
                format!(
                    "policy {:?} is one more than the {POLICY_COUNT_MAX} there can be",
                    entry.name
                ),
                "join policies into one, for example values of one attribute into one list",
            );
            continue;
        }
        compiler.policy = (PolicyIndex(index as u16), quota::name_hash(&entry.name), 0);
        let rule = match &entry.kind {
            PolicyKind::Drop(parts) => {
                drops.insert(PolicyIndex(index as u16));
                compiler.all(parts, &format!("{path}.drop.drop_sub_policy"), 0)
            }
            _ => compiler.rule(entry, &path, 0),
        };
        policies.push(Policy {
            threshold: rule.threshold(),
            asks_quota: rule.asks_quota(),
            rule,
        });
    }
    if !compiler.errors.is_empty() {
        return Err(compiler.errors);
    }
    let infos = options.policies.iter().map(|entry| PolicyInfo {
        name: entry.name.clone(),
        type_name: entry.kind.type_name(),
    });
    Ok(PolicySet {
        infos: infos.collect(),
        policies,
        drops,
        first_match: options.sample_on_first_match,
        quotas: compiler.quotas,
        predicates: PredicateTable::new(compiler.predicates, &options.expected_count_attribute),
    })
}

#[derive(Default)]
struct Compiler {
    predicates: Vec<Predicate>,
    quotas: Vec<Quota>,
    /// The policy at the top that is being compiled, the hash of its name, and how many quotas it has so far.
    policy: (PolicyIndex, u64, u16),
    errors: Vec<CompileError>,
}

impl Compiler {
    fn refuse(&mut self, path: &str, message: impl Into<String>, help: impl Into<String>) {
        self.errors.push(CompileError {
            path: path.into(),
            message: message.into(),
            help: help.into(),
        });
    }

    fn check_name(&mut self, options: &PolicyOptions, index: usize) {
        let name = &options.policies[index].name;
        let path = format!("policies[{index}].name");
        if name.is_empty() {
            self.refuse(
                &path,
                "the name is empty",
                "name the policy: traces it keeps carry the name",
            );
        } else if let Some(first) = options.policies[..index]
            .iter()
            .position(|entry| entry.name == *name)
        {
            self.refuse(
                &path,
                format!("policies[{first}] is named {name:?} too"),
                "give each policy its own name",
            );
        }
    }

    /// The rule of an entry at `path`. What is refused gives a rule all the same, so that the rest is
    /// checked too.
    fn rule(&mut self, entry: &PolicyEntry, path: &str, depth: usize) -> Rule {
        let options = format!("{path}.{}", entry.kind.type_name());
        if depth > DEPTH_MAX {
            self.refuse(
                path,
                format!("nested more than {DEPTH_MAX} deep"),
                "flatten the nested `and` and `not`",
            );
            return Rule::Leaf(Leaf::Always);
        }
        match &entry.kind {
            PolicyKind::AlwaysSample => Rule::Leaf(Leaf::Always),
            PolicyKind::StatusCode { codes } => self.status_code(codes, &options),
            PolicyKind::Latency {
                threshold_ms,
                upper_threshold_ms,
            } => self.latency(*threshold_ms, *upper_threshold_ms, &options),
            PolicyKind::StringAttribute {
                key,
                values,
                regex,
                invert,
            } => {
                let wants = if *regex {
                    self.patterns(values, &options)
                } else {
                    let mut values: Vec<_> =
                        values.iter().filter(|value| !value.is_empty()).cloned().collect();
                    values.sort_unstable();
                    values.dedup();
                    Wants::OneOf(values)
                };
                self.attribute(key, wants, *invert, &options)
            }
            PolicyKind::NumericAttribute {
                key,
                min,
                max,
                invert,
            } => {
                self.check_range(*min, *max, &options);
                self.attribute(key, Wants::Within { min: *min, max: *max }, *invert, &options)
            }
            PolicyKind::BooleanAttribute { key, value, invert } => {
                self.attribute(key, Wants::Equal(*value), *invert, &options)
            }
            PolicyKind::Probabilistic {
                percentage,
                hash_salt,
            } => self.probabilistic(*percentage, hash_salt.as_deref(), &options),
            PolicyKind::SpanCount { min, max } => self.span_count(*min, *max, &options),
            PolicyKind::RateLimiting {
                spans_per_second,
                burst,
            } => self.quota(
                Unit::Spans,
                (*spans_per_second, *burst),
                (&options, "spans_per_second"),
            ),
            PolicyKind::BytesLimiting {
                bytes_per_second,
                burst,
            } => self.quota(
                Unit::Bytes,
                (*bytes_per_second, *burst),
                (&options, "bytes_per_second"),
            ),
            PolicyKind::And(parts) => self.all(parts, &format!("{options}.and_sub_policy"), depth),
            PolicyKind::Not(part) => self
                .rule(part, &format!("{options}.not_sub_policy"), depth + 1)
                .negated(),
            PolicyKind::Drop(_) => {
                self.refuse(
                    path,
                    "drop is not a part of other policies",
                    "make it a policy of its own: it denies a trace whatever others say",
                );
                Rule::Leaf(Leaf::Always)
            }
        }
    }

    fn all(&mut self, parts: &[PolicyEntry], path: &str, depth: usize) -> Rule {
        let parts = parts.iter().enumerate();
        let mut rules: Vec<Rule> = parts
            .map(|(index, part)| self.rule(part, &format!("{path}[{index}]"), depth + 1))
            .collect();
        // A quota is asked last, so that only what matches otherwise is charged.
        rules.sort_by_key(Rule::asks_quota);
        Rule::All(rules.into())
    }

    fn quota(&mut self, unit: Unit, (rate, burst): (u64, u64), (path, key): (&str, &str)) -> Rule {
        if rate == 0 {
            self.refuse(
                &format!("{path}.{key}"),
                format!("0 {} a second: matches no trace", unit.name()),
                "raise it, or leave the policy out",
            );
        }
        if self.quotas.len() >= QUOTA_COUNT_MAX {
            self.refuse(
                path,
                format!("one more limit than the {QUOTA_COUNT_MAX} there can be"),
                "join policies that are limited alike",
            );
            return Rule::Leaf(Leaf::Always);
        }
        let (policy, name, part) = self.policy;
        self.policy.2 += 1;
        let burst = match burst {
            0 => rate.saturating_mul(2),
            burst => burst,
        };
        self.quotas.push(Quota {
            key: QuotaKey {
                policy: name,
                part,
                terms: Terms { unit, rate, burst },
            },
            policy,
        });
        Rule::Leaf(Leaf::Quota(QuotaIndex(self.quotas.len() as u8 - 1)))
    }

    fn status_code(&mut self, codes: &[StatusCode], path: &str) -> Rule {
        if codes.is_empty() {
            self.refuse(
                &format!("{path}.status_codes"),
                "the list is empty",
                "list some of OK, ERROR, UNSET",
            );
        }
        let codes = codes.iter().fold(0, |mask, code| mask | 1 << *code as i32);
        self.seen(Predicate::Status(codes), path)
    }

    fn latency(&mut self, threshold_ms: i64, upper_threshold_ms: i64, path: &str) -> Rule {
        if upper_threshold_ms == 0 {
            return Rule::Leaf(Leaf::LongerThan(threshold_ms));
        }
        if upper_threshold_ms <= threshold_ms {
            self.refuse(
                &format!("{path}.upper_threshold_ms"),
                format!("no duration is above {threshold_ms} ms and not above {upper_threshold_ms} ms"),
                "raise it above threshold_ms, or leave it out to have no upper bound",
            );
        }
        between(
            Leaf::LongerThan(threshold_ms),
            Leaf::LongerThan(upper_threshold_ms),
        )
    }

    fn span_count(&mut self, min: i32, max: i32, path: &str) -> Rule {
        let at_least = Leaf::MoreSpansThan(i64::from(min) - 1);
        if max == 0 {
            return Rule::Leaf(at_least);
        }
        if max < min {
            self.refuse(
                &format!("{path}.max_spans"),
                format!("no trace has at least {min} and at most {max} spans"),
                "raise it to min_spans, or leave it out to have no upper bound",
            );
        }
        between(at_least, Leaf::MoreSpansThan(i64::from(max)))
    }

    fn check_range(&mut self, min: Option<i64>, max: Option<i64>, path: &str) {
        match (min, max) {
            (None, None) => self.refuse(path, "neither min_value nor max_value is given", "give one or both"),
            (Some(min), Some(max)) if min > max => self.refuse(
                &format!("{path}.max_value"),
                format!("no number is at least {min} and at most {max}"),
                "raise it to min_value, or leave it out to have no upper bound; 0 is a bound here, unlike in the Collector",
            ),
            _ => {}
        }
    }

    fn probabilistic(&mut self, percentage: f64, salt: Option<&str>, path: &str) -> Rule {
        if !percentage.is_finite() {
            self.refuse(
                &format!("{path}.sampling_percentage"),
                format!("{percentage} is no percentage"),
                "give a number from 0 to 100",
            );
        }
        match salt {
            Some(salt) if !salt.is_empty() => Rule::Leaf(Leaf::Hashed(Salted::new(salt, percentage))),
            _ => Rule::Leaf(Leaf::Chance(threshold_of_percentage(percentage))),
        }
    }

    fn patterns(&mut self, values: &[String], path: &str) -> Wants {
        let mut texts = Vec::new();
        for (index, value) in values.iter().enumerate().filter(|(_, value)| !value.is_empty()) {
            match pattern::check(value) {
                Ok(()) => texts.push(value.clone()),
                Err(message) => self.refuse(
                    &format!("{path}.values[{index}]"),
                    message,
                    "the syntax is RE2's: https://github.com/google/re2/wiki/Syntax",
                ),
            }
        }
        let set = pattern::compile(&texts).unwrap_or_else(|message| {
            self.refuse(
                &format!("{path}.values"),
                message,
                "split the list over several policies",
            );
            regex::bytes::RegexSet::empty()
        });
        Wants::Matching(Patterns { texts, set })
    }

    fn attribute(&mut self, key: &str, wants: Wants, invert: bool, path: &str) -> Rule {
        if key.is_empty() {
            self.refuse(
                &format!("{path}.key"),
                "the key is empty",
                "name the attribute to look at",
            );
        }
        let seen = self.seen(
            Predicate::Attribute {
                key: key.into(),
                wants,
            },
            path,
        );
        if invert { seen.negated() } else { seen }
    }

    /// The leaf for a predicate, under the number of an equal one if there is one.
    fn seen(&mut self, predicate: Predicate, path: &str) -> Rule {
        let index = self
            .predicates
            .iter()
            .position(|known| *known == predicate)
            .unwrap_or_else(|| {
                self.predicates.push(predicate);
                self.predicates.len() - 1
            });
        let Some(index) = PredicateIndex::new(index) else {
            self.refuse(
                path,
                format!(
                    "asks one more thing of spans than the {PREDICATE_COUNT_MAX} different ones there can be"
                ),
                "join values of one attribute into one list, or drop policies",
            );
            return Rule::Leaf(Leaf::Always);
        };
        Rule::Leaf(Leaf::Seen(index))
    }
}

fn between(above: Leaf, not_above: Leaf) -> Rule {
    Rule::All(Box::new([Rule::Leaf(above), Rule::Leaf(not_above).negated()]))
}
