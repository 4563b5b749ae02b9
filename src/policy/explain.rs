//! Why a trace is judged as it is, in words.

use super::PolicySet;
use super::predicate::{Predicate, Wants};
use super::rule::{Evidence, Leaf, Rule, Truth};

/// What one policy makes of a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyResult<'a> {
    pub name: &'a str,
    pub result: Outcome,
    /// What was asked and found, for people.
    pub detail: String,
}

/// Whether a policy matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Match,
    NoMatch,
    /// Spans that may still come decide.
    Unknown,
}

impl Outcome {
    /// The word of the contract.
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Match => "match",
            Outcome::NoMatch => "no_match",
            Outcome::Unknown => "unknown",
        }
    }
}

pub(super) fn explain<'a>(set: &'a PolicySet, evidence: &Evidence<'_>) -> Vec<PolicyResult<'a>> {
    let explained = set
        .infos
        .iter()
        .zip(&set.policies)
        .map(|(info, policy)| PolicyResult {
            name: &info.name,
            result: match policy.rule.truth(evidence) {
                Truth::True => Outcome::Match,
                Truth::False => Outcome::NoMatch,
                Truth::Unknown => Outcome::Unknown,
            },
            detail: describe(set, &policy.rule, evidence),
        });
    explained.collect()
}

fn describe(set: &PolicySet, rule: &Rule, evidence: &Evidence<'_>) -> String {
    match rule {
        Rule::Leaf(leaf) => describe_leaf(set, leaf, evidence),
        Rule::All(parts) if parts.is_empty() => "nothing asked".into(),
        Rule::All(parts) => parts
            .iter()
            .map(|part| describe(set, part, evidence))
            .collect::<Vec<_>>()
            .join(" and "),
        Rule::Not(inner) => format!("not ({})", describe(set, inner, evidence)),
    }
}

fn describe_leaf(set: &PolicySet, leaf: &Leaf, evidence: &Evidence<'_>) -> String {
    let digest = evidence.digest;
    match leaf {
        Leaf::Always => "every trace".into(),
        Leaf::Seen(index) => {
            let question = describe_predicate(set.predicates.predicate(*index));
            let seen = if digest.predicates.contains(*index) {
                "seen"
            } else {
                "not seen"
            };
            format!("{question}: {seen}")
        }
        Leaf::LongerThan(ms) => format!("{} ms > {ms} ms", evidence.duration_ms()),
        Leaf::MoreSpansThan(count) => format!("{} spans > {count}", digest.span_count),
        Leaf::Chance(None) => "no trace".into(),
        Leaf::Chance(Some(threshold)) => {
            format!(
                "randomness {:014x} >= threshold {:014x}",
                evidence.randomness(),
                threshold.value()
            )
        }
        Leaf::Quota(index) => {
            let terms = set.quotas[index.number()].key.terms;
            let cost = format!("{} {}", terms.unit.amount(digest), terms.unit.name());
            let limit = format!("{} a second, {} at once", terms.rate, terms.burst);
            match (evidence.quotas.of(*index), evidence.quotas.left(*index)) {
                (Some(true), _) => format!("{cost}: within {limit}"),
                (Some(false), Some(Some(left))) => format!("{cost}, {left} tokens left: beyond {limit}"),
                (Some(false), Some(None)) => format!("{cost}: nobody answered for {limit}"),
                (Some(false), None) => format!("{cost}: beyond {limit}"),
                (None, _) => format!("{cost} against {limit}: not asked"),
            }
        }
        Leaf::Hashed(salted) => {
            let place = if salted.keeps(evidence.trace) {
                "within"
            } else {
                "beyond"
            };
            format!("salted hash {place} {} %", salted.percentage())
        }
    }
}

fn describe_predicate(predicate: &Predicate) -> String {
    match predicate {
        Predicate::Status(codes) => {
            let names = ["UNSET", "OK", "ERROR"].into_iter().enumerate();
            let names = names
                .filter(|(code, _)| codes >> code & 1 == 1)
                .map(|(_, name)| name);
            format!("status {}", names.collect::<Vec<_>>().join(" or "))
        }
        Predicate::Attribute { key, wants } => match wants {
            Wants::OneOf(values) => format!("{key} one of {values:?}"),
            Wants::Matching(patterns) => format!("{key} matching one of {:?}", patterns.texts),
            Wants::Within {
                min: Some(min),
                max: Some(max),
            } => format!("{key} from {min} to {max}"),
            Wants::Within {
                min: Some(min),
                max: None,
            } => format!("{key} at least {min}"),
            Wants::Within {
                min: None,
                max: Some(max),
            } => format!("{key} at most {max}"),
            Wants::Within { min: None, max: None } => format!("{key} a number"),
            Wants::Equal(value) => format!("{key} {value}"),
        },
    }
}
