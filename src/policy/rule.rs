//! Rules over a digest, and how far they are settled while the trace may still grow.
//!
//! A leaf has a plain truth value on the digest as it is, and says how that value moves when spans are
//! added. Both together give its value in Kleene's logic; `All` and `Not` work on those.
//!
//! | leaf | moves | open: holds → | open: does not hold → |
//! |---|---|---|---|
//! | `Seen`, `LongerThan`, `MoreSpansThan` | Rising | True | Unknown |
//! | `Chance`, once a root brought its `rv` | Falling | Unknown | False |
//! | `Always`, `Hashed`, `Chance` of all or none | Fixed | True | False |
//! | `Chance` before that | Free | Unknown | Unknown |
//! | `Quota` | not in the spans | Unknown | Unknown |
//!
//! An upper bound is a `Not` around a Rising leaf, hence Falling; so is `invert_match`. A range is an `All`
//! of both: Unknown inside it, False above it, and True only for a closed trace. A quota stays Unknown after the close
//! until it is asked ([`Rule::ask`]): last in its `All`, and only if the rest holds.

use crate::base::ids::TraceId;
use crate::digest::{Digest, PredicateIndex, PredicateSet, RandomnessSeen};
use crate::verdict::Threshold;

use super::probability::Salted;
use super::quota::{QuotaAnswers, QuotaIndex};

/// What a rule is asked about.
pub(super) struct Evidence<'a> {
    pub trace: TraceId,
    pub digest: &'a Digest,
    /// No span will be added.
    pub closed: bool,
    /// Of these nobody looked at all spans: what was not seen may be there all the same.
    pub unknown: PredicateSet,
    /// What quotas have said; counts when it is closed.
    pub quotas: QuotaAnswers,
}

/// Kleene's three values, in the order that makes conjunction the minimum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Truth {
    /// For good.
    False,
    /// Spans that may still come decide.
    Unknown,
    /// For good.
    True,
}

/// A question to a digest.
#[derive(Clone, Debug)]
pub(super) enum Rule {
    Leaf(Leaf),
    /// Empty: True.
    All(Box<[Rule]>),
    Not(Box<Rule>),
}

#[derive(Clone, Debug)]
pub(super) enum Leaf {
    Always,
    /// Some span matches the predicate.
    Seen(PredicateIndex),
    /// Milliseconds.
    LongerThan(i64),
    MoreSpansThan(i64),
    /// R ≥ T; `None`: never, a T above every R.
    Chance(Option<Threshold>),
    /// The Collector's hash of salt and trace id.
    Hashed(Salted),
    /// Whether the quota has what the trace costs.
    Quota(QuotaIndex),
}

/// How a leaf's plain value moves as spans are added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    /// Once true, always true.
    Rising,
    /// Once false, always false.
    Falling,
    /// Never.
    Fixed,
    /// Anyhow.
    Free,
}

impl Truth {
    pub fn not(self) -> Truth {
        match self {
            Truth::False => Truth::True,
            Truth::Unknown => Truth::Unknown,
            Truth::True => Truth::False,
        }
    }

    pub fn settled(value: bool) -> Truth {
        if value { Truth::True } else { Truth::False }
    }
}

impl Evidence<'_> {
    /// R: the explicit one if any span brought it, else the trace id's.
    pub fn randomness(&self) -> u64 {
        self.digest
            .randomness
            .value()
            .unwrap_or_else(|| self.trace.randomness())
    }

    /// Unknown or negative durations count as 0: wrong clocks make no trace slow.
    pub fn duration_ms(&self) -> i64 {
        i64::try_from(self.digest.duration_ms().unwrap_or(0)).unwrap_or(i64::MAX)
    }

    /// From here on only a smaller `rv`, of another root, can replace R.
    fn randomness_only_falls(&self) -> bool {
        self.digest.randomness <= RandomnessSeen::new(Threshold::LIMIT - 1, true)
    }
}

impl Rule {
    /// `Not` that cancels another.
    pub fn negated(self) -> Rule {
        match self {
            Rule::Not(inner) => *inner,
            rule => Rule::Not(Box::new(rule)),
        }
    }

    pub fn truth(&self, evidence: &Evidence<'_>) -> Truth {
        match self {
            Rule::Leaf(leaf) => leaf.truth(evidence),
            Rule::All(parts) => {
                let mut truth = Truth::True;
                for part in parts {
                    truth = truth.min(part.truth(evidence));
                    if truth == Truth::False {
                        break;
                    }
                }
                truth
            }
            Rule::Not(inner) => inner.truth(evidence).not(),
        }
    }

    /// As [`Rule::truth`] of a closed trace, with quotas asked where their answer decides.
    pub fn ask(&self, evidence: &Evidence<'_>, ask: &mut dyn FnMut(QuotaIndex) -> Truth) -> Truth {
        match self {
            Rule::Leaf(Leaf::Quota(quota)) => ask(*quota),
            Rule::Leaf(leaf) => leaf.truth(evidence),
            Rule::All(parts) => {
                let mut truth = Truth::True;
                for part in parts {
                    // Those that ask a quota stand last.
                    if truth == Truth::False || (truth == Truth::Unknown && part.asks_quota()) {
                        break;
                    }
                    truth = truth.min(part.ask(evidence, ask));
                }
                truth
            }
            Rule::Not(inner) => inner.ask(evidence, ask).not(),
        }
    }

    /// Whether its answer may lie with a quota.
    pub fn asks_quota(&self) -> bool {
        match self {
            Rule::Leaf(leaf) => matches!(leaf, Leaf::Quota(_)),
            Rule::All(parts) => parts.iter().any(Rule::asks_quota),
            Rule::Not(inner) => inner.asks_quota(),
        }
    }

    /// Whether it asks how long or how large a trace is.
    pub fn asks_extent(&self) -> bool {
        match self {
            Rule::Leaf(Leaf::LongerThan(_) | Leaf::MoreSpansThan(_)) => true,
            Rule::Leaf(Leaf::Always | Leaf::Seen(_) | Leaf::Chance(_) | Leaf::Hashed(_) | Leaf::Quota(_)) => {
                false
            }
            Rule::All(parts) => parts.iter().any(Rule::asks_extent),
            Rule::Not(inner) => inner.asks_extent(),
        }
    }

    /// T of a trace that this rule keeps; `None` if R does not say how often that is.
    pub fn threshold(&self) -> Option<Threshold> {
        match self {
            Rule::Leaf(Leaf::Chance(threshold)) => Some(threshold.unwrap_or(Threshold::KEEP_ALL)),
            Rule::Leaf(Leaf::Hashed(_) | Leaf::Quota(_)) => None,
            Rule::Leaf(Leaf::Always | Leaf::Seen(_) | Leaf::LongerThan(_) | Leaf::MoreSpansThan(_)) => {
                Some(Threshold::KEEP_ALL)
            }
            Rule::All(parts) => parts.iter().try_fold(Threshold::KEEP_ALL, |highest, part| {
                Some(highest.max(part.threshold()?))
            }),
            Rule::Not(inner) => inner
                .threshold()
                .filter(|threshold| *threshold == Threshold::KEEP_ALL),
        }
    }
}

impl Leaf {
    pub fn truth(&self, evidence: &Evidence<'_>) -> Truth {
        if let Leaf::Quota(quota) = self {
            let answer = evidence.quotas.of(*quota).filter(|_| evidence.closed);
            return answer.map_or(Truth::Unknown, Truth::settled);
        }
        let holds = self.holds(evidence);
        if let Leaf::Seen(predicate) = self
            && !holds
            && evidence.unknown.contains(*predicate)
        {
            return Truth::Unknown;
        }
        if evidence.closed {
            return Truth::settled(holds);
        }
        match (self.direction(evidence), holds) {
            (Direction::Fixed, _) | (Direction::Rising, true) | (Direction::Falling, false) => {
                Truth::settled(holds)
            }
            (Direction::Rising, false) | (Direction::Falling, true) | (Direction::Free, _) => Truth::Unknown,
        }
    }

    /// On the digest as it is.
    fn holds(&self, evidence: &Evidence<'_>) -> bool {
        match self {
            Leaf::Always => true,
            Leaf::Seen(predicate) => evidence.digest.predicates.contains(*predicate),
            Leaf::LongerThan(ms) => evidence.duration_ms() > *ms,
            Leaf::MoreSpansThan(count) => i64::from(evidence.digest.span_count) > *count,
            Leaf::Chance(threshold) => {
                threshold.is_some_and(|threshold| threshold.keeps(evidence.randomness()))
            }
            Leaf::Hashed(salted) => salted.keeps(evidence.trace),
            Leaf::Quota(_) => false,
        }
    }

    fn direction(&self, evidence: &Evidence<'_>) -> Direction {
        match self {
            Leaf::Seen(_) | Leaf::LongerThan(_) | Leaf::MoreSpansThan(_) => Direction::Rising,
            Leaf::Always | Leaf::Hashed(_) | Leaf::Chance(None | Some(Threshold::KEEP_ALL)) => {
                Direction::Fixed
            }
            Leaf::Chance(Some(_)) if evidence.randomness_only_falls() => Direction::Falling,
            Leaf::Chance(Some(_)) | Leaf::Quota(_) => Direction::Free,
        }
    }
}
