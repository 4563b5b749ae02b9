//! Which traces are worth keeping: rules over digests, in three-valued logic.
//!
//! ```text
//!  options ──compile──→ PolicySet
//!                          │ fold          one span, its resource's match → one-span digest
//!                          │ judge_open    digest of a trace that may still grow → Ruling, perhaps Pending
//!                          ├ judge_asking  digest of a closed trace, quotas asked → Ruling, never Pending
//!                          └ judge_closed  likewise, without asking any
//! ```
//!
//! A policy is a [`rule`] over the digest; what a rule asks of single spans is a numbered [`predicate`],
//! shared by all rules that ask the same. Drop policies come first, in list order, and beat every other
//! inside one evaluation. The recorded policy is the first in that order that gave the verdict.
//!
//! Invariant (V2): a ruling of `judge_open` that is not Pending has the verdict and the threshold that
//! `judge_closed` gives for every digest the trace may grow into; with `sample_on_first_match` it names
//! the same policy too. `tests/laws.rs` holds it to that.
//!
//! **The threshold** of a kept trace is the lowest T among all matching policies, whichever is recorded,
//! because that is the T with which a trace of this content is kept. T is known when policies are compiled:
//!
//! | policy | T |
//! |---|---|
//! | asks only what the spans hold | 0: `th` stays as it came |
//! | `probabilistic` | its own |
//! | `and` | the highest of its parts |
//! | `rate_limiting`, `bytes_limiting`, `probabilistic` with `hash_salt`, `not` around a probability, `and` with one of them | none: `th` is erased, since R says nothing about how often such a trace is kept |
//!
//! A policy without T gives way to any with one.

use crate::base::ids::TraceId;
use crate::digest::{Digest, PredicateSet};
use crate::otlp::view::{AnyValueView, SpanView};
use crate::verdict::{Threshold, Verdict};

mod compile;
mod explain;
pub mod options;
mod pattern;
mod predicate;
mod probability;
pub mod quota;
mod rule;

pub use compile::CompileError;
pub use explain::{Outcome, PolicyResult};
pub use options::{PolicyEntry, PolicyKind, PolicyOptions, StatusCode};
pub use predicate::ResourceMatch;
pub use probability::threshold_of_percentage;
pub use quota::{Answer, Quota, QuotaAnswers, QuotaIndex, Quotas, Ticket};

use predicate::PredicateTable;
use rule::{Evidence, Rule, Truth};

/// Policies of one configuration at most; one more is refused at load by name.
pub const POLICY_COUNT_MAX: usize = 128;

/// A compiled configuration. A clone shares no caches with its original: one for each core.
#[derive(Clone, Debug)]
pub struct PolicySet {
    infos: Vec<PolicyInfo>,
    policies: Vec<Policy>,
    drops: PolicyMask,
    quotas: Vec<Quota>,
    first_match: bool,
    predicates: PredicateTable,
}

/// What people and counters call a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyInfo {
    pub name: String,
    pub type_name: &'static str,
}

#[derive(Clone, Debug)]
struct Policy {
    rule: Rule,
    /// T of a trace that this policy keeps; `None` erases `th`.
    threshold: Option<Threshold>,
    asks_quota: bool,
}

/// A policy's place in the configuration's list, and in [`PolicySet::policies`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyIndex(pub u16);

/// A set of policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct PolicyMask(u128);

/// What the policies say about a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ruling {
    pub verdict: Verdict,
    /// Who gave the verdict: of a Keep or Deny; `None` of a Rollup and while Pending.
    pub policy: Option<PolicyIndex>,
    /// Of a Keep: raise `th` to it, where [`Threshold::KEEP_ALL`] leaves `th` as it came; `None` erases
    /// `th`. `None` of any other verdict: whoever keeps such a trace does it at an unknown rate.
    pub threshold: Option<Threshold>,
    /// All policies that match (of an open trace: for good), those that the verdict did not need too.
    pub matched: PolicyMask,
}

impl PolicySet {
    /// Checks and numbers everything; reports all that is wrong at once.
    pub fn compile(options: &PolicyOptions) -> Result<PolicySet, Vec<CompileError>> {
        compile::compile(options)
    }

    /// In the order of the configuration; [`PolicyIndex`] counts them.
    pub fn policies(&self) -> &[PolicyInfo] {
        &self.infos
    }

    /// What the bits of a digest mean, for other nodes: a hash of each predicate, by its number, that is the same
    /// in every version and configuration.
    pub fn predicate_hashes(&self) -> Vec<u64> {
        self.predicates.hashes()
    }

    /// Whether `fold` reads span attributes at all.
    pub fn wants_attributes(&self) -> bool {
        self.predicates.wants_attributes()
    }

    /// What a resource's attributes match. It counts for every span below that resource, and for none
    /// if it has no spans.
    pub fn match_resource<'a>(
        &self,
        attributes: impl Iterator<Item = (&'a [u8], AnyValueView<'a>)>,
    ) -> ResourceMatch {
        self.predicates.match_resource(attributes)
    }

    /// The digest of one span under a resource that matched `resource`.
    #[inline]
    pub fn fold(&self, span: &SpanView<'_>, resource: ResourceMatch) -> Digest {
        self.predicates.fold(span, resource)
    }

    /// Whether some rule asks for the attribute `key`.
    #[inline]
    pub fn wants_attribute(&self, key: &[u8]) -> bool {
        self.predicates.wants_attribute(key)
    }

    /// Adds what one attribute of a span matches.
    #[inline]
    pub fn match_attribute(&self, key: &[u8], value: AnyValueView<'_>, matched: &mut ResourceMatch) {
        self.predicates.look_up(key, value, matched);
    }

    /// As [`PolicySet::fold`], for a span whose attributes have been matched: `matched` is what its resource and
    /// they match together.
    #[inline]
    pub fn fold_matched(&self, span: &SpanView<'_>, matched: ResourceMatch) -> Digest {
        self.predicates.fold_matched(span, matched)
    }

    /// What the policies limit; [`QuotaIndex`] counts them.
    pub fn quotas(&self) -> &[Quota] {
        &self.quotas
    }

    /// Judges a trace that may still grow: Pending unless nothing that may come can change verdict or
    /// threshold (V2).
    pub fn judge_open(&self, trace: TraceId, digest: &Digest) -> Ruling {
        self.judge_merged(trace, digest, PredicateSet::NONE, false)
    }

    /// Judges a trace as it is, and asks no quota: a policy that hangs on one does not match. Never Pending.
    pub fn judge_closed(&self, trace: TraceId, digest: &Digest) -> Ruling {
        self.judge_merged(trace, digest, PredicateSet::NONE, true)
    }

    /// Judges what several nodes have seen of a trace, of which some do not know the predicates `unknown`. Open:
    /// as [`PolicySet::judge_open`]. Closed: policies match that match whatever those predicates hold, and the
    /// ruling is never Pending.
    pub fn judge_merged(
        &self,
        trace: TraceId,
        digest: &Digest,
        unknown: PredicateSet,
        closed: bool,
    ) -> Ruling {
        self.judge(&Evidence {
            trace,
            digest,
            closed,
            unknown,
            quotas: QuotaAnswers::NONE,
        })
    }

    /// Judges a closed trace and charges its quotas: in order, drop policies first, as far as the ruling goes; in a
    /// conjunction last. What is in `answers` is not asked again. `None`: a quota will answer later, ask again then.
    pub fn judge_asking(
        &self,
        trace: TraceId,
        digest: &Digest,
        unknown: PredicateSet,
        answers: &mut QuotaAnswers,
        ask: &mut dyn FnMut(QuotaIndex, u64, Option<Ticket>) -> Answer,
    ) -> Option<Ruling> {
        let evidence = |quotas| Evidence {
            trace,
            digest,
            closed: true,
            unknown,
            quotas,
        };
        if !self.quotas.is_empty() {
            self.ask_quotas(&evidence(QuotaAnswers::NONE), answers, ask)?;
        }
        Some(self.judge(&evidence(*answers)))
    }

    /// Charges a trace that is kept before it is closed: every quota whose policy matches by what is known now.
    /// Nobody waits for an answer, and none changes the ruling.
    pub fn charge_open(
        &self,
        trace: TraceId,
        digest: &Digest,
        unknown: PredicateSet,
        answers: &mut QuotaAnswers,
        ask: &mut dyn FnMut(QuotaIndex, u64, Option<Ticket>) -> Answer,
    ) {
        let evidence = Evidence {
            trace,
            digest,
            closed: false,
            unknown,
            quotas: QuotaAnswers::NONE,
        };
        if !self.quotas.is_empty() {
            let _ = self.ask_quotas(&evidence, answers, ask);
        }
    }

    fn ask_quotas(
        &self,
        evidence: &Evidence<'_>,
        answers: &mut QuotaAnswers,
        ask: &mut dyn FnMut(QuotaIndex, u64, Option<Ticket>) -> Answer,
    ) -> Option<()> {
        let policies = || self.policies.iter().enumerate();
        let is_drop = |index: usize| self.drops.contains(PolicyIndex(index as u16));
        let drops = policies().filter(|(index, _)| is_drop(*index));
        for (index, policy) in drops.chain(policies().filter(|(index, _)| !is_drop(*index))) {
            let ends_it = is_drop(index) || self.first_match;
            if !policy.asks_quota && !ends_it {
                continue;
            }
            let mut waits = false;
            let truth = policy.rule.ask(evidence, &mut |quota| {
                if waits {
                    return Truth::Unknown;
                }
                if answers.of(quota).is_none() {
                    let amount = self.quotas[quota.number()].key.terms.unit.amount(evidence.digest);
                    answers.note(quota, ask(quota, amount, answers.ticket(quota)));
                }
                waits = answers.of(quota).is_none();
                answers.of(quota).map_or(Truth::Unknown, Truth::settled)
            });
            if waits {
                return None;
            }
            if truth == Truth::True && ends_it {
                break;
            }
        }
        Some(())
    }

    /// Judges a decided trace anew, with late spans. No quota is asked again, and what one of them had a part in
    /// denying stays denied.
    pub fn judge_again(&self, trace: TraceId, digest: &Digest, before: Verdict) -> Ruling {
        let evidence = Evidence {
            trace,
            digest,
            closed: true,
            unknown: PredicateSet::NONE,
            quotas: QuotaAnswers::NONE,
        };
        let denies = |policy: &Policy| policy.asks_quota && policy.rule.truth(&evidence) == Truth::Unknown;
        let mut drops = self.drops.iter();
        let denied_by = drops.find(|index| denies(&self.policies[usize::from(index.0)]));
        match denied_by.filter(|_| before == Verdict::Deny) {
            Some(policy) => Ruling {
                verdict: Verdict::Deny,
                policy: Some(policy),
                threshold: None,
                matched: PolicyMask::NONE,
            },
            None => self.judge(&evidence),
        }
    }

    /// Whether spans with this digest, added to a trace that was dropped, may make a policy keep it: `Some(true)` if
    /// they match something by themselves, `Some(false)` if a rule asks how long or how large the trace is.
    pub fn may_raise(&self, trace: TraceId, digest: &Digest) -> Option<bool> {
        if !digest.predicates.is_empty() || self.judge_closed(trace, digest).verdict == Verdict::Keep {
            return Some(true);
        }
        let asks_extent = |policy: &Policy| policy.rule.asks_extent();
        self.policies.iter().any(asks_extent).then_some(false)
    }

    /// Says of each policy, in the order of the configuration, what it makes of the trace and why.
    pub fn explain(&self, trace: TraceId, digest: &Digest, closed: bool) -> Vec<PolicyResult<'_>> {
        self.explain_asked(trace, digest, closed, QuotaAnswers::NONE)
    }

    /// As [`PolicySet::explain`], with what quotas said.
    pub fn explain_asked(
        &self,
        trace: TraceId,
        digest: &Digest,
        closed: bool,
        quotas: QuotaAnswers,
    ) -> Vec<PolicyResult<'_>> {
        explain::explain(
            self,
            &Evidence {
                trace,
                digest,
                closed,
                unknown: PredicateSet::NONE,
                quotas,
            },
        )
    }

    fn judge(&self, evidence: &Evidence<'_>) -> Ruling {
        let (mut matched, mut unknown) = (PolicyMask::NONE, PolicyMask::NONE);
        for (index, policy) in self.policies.iter().enumerate() {
            match policy.rule.truth(evidence) {
                Truth::True => matched.insert(PolicyIndex(index as u16)),
                // Nobody will know it any better.
                Truth::Unknown if evidence.closed => {}
                Truth::Unknown => unknown.insert(PolicyIndex(index as u16)),
                Truth::False => {}
            }
        }
        let (verdict, policy, threshold) = self.rule_on(matched, unknown);
        debug_assert!(
            !evidence.closed || verdict != Verdict::Pending,
            "V2: {:?} pends closed",
            evidence.trace
        );
        Ruling {
            verdict,
            policy,
            threshold,
            matched,
        }
    }

    fn rule_on(
        &self,
        matched: PolicyMask,
        unknown: PolicyMask,
    ) -> (Verdict, Option<PolicyIndex>, Option<Threshold>) {
        const PENDING: (Verdict, Option<PolicyIndex>, Option<Threshold>) = (Verdict::Pending, None, None);
        // Whether a policy of `among` that is still unknown may take the place of `winner`.
        let contested = |winner: PolicyIndex, among: PolicyMask| {
            self.first_match && among.first().is_some_and(|unknown| unknown < winner)
        };

        let unknown_drops = unknown.intersection(self.drops);
        if let Some(winner) = matched.intersection(self.drops).first() {
            return if contested(winner, unknown_drops) {
                PENDING
            } else {
                (Verdict::Deny, Some(winner), None)
            };
        }
        if !unknown_drops.is_empty() {
            return PENDING;
        }
        let Some(winner) = matched.first() else {
            return if unknown.is_empty() {
                (Verdict::Rollup, None, None)
            } else {
                PENDING
            };
        };
        let threshold = self.lowest_threshold(matched);
        let may_fall = match (self.lowest_threshold(unknown), threshold) {
            (Some(possible), Some(reached)) => possible < reached,
            (Some(_), None) => true,
            (None, _) => false,
        };
        if may_fall || contested(winner, unknown) {
            return PENDING;
        }
        (Verdict::Keep, Some(winner), threshold)
    }

    fn lowest_threshold(&self, policies: PolicyMask) -> Option<Threshold> {
        policies
            .iter()
            .filter_map(|index| self.policies[usize::from(index.0)].threshold)
            .min()
    }
}

impl PolicyMask {
    pub const NONE: PolicyMask = PolicyMask(0);

    #[inline]
    pub fn insert(&mut self, policy: PolicyIndex) {
        self.0 |= 1 << policy.0;
    }

    #[inline]
    pub fn contains(self, policy: PolicyIndex) -> bool {
        self.0 >> policy.0 & 1 == 1
    }

    #[inline]
    pub fn intersection(self, other: PolicyMask) -> PolicyMask {
        PolicyMask(self.0 & other.0)
    }

    #[inline]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many.
    #[inline]
    pub fn count(self) -> u32 {
        self.0.count_ones()
    }

    /// The earliest in the configuration's order.
    #[inline]
    pub fn first(self) -> Option<PolicyIndex> {
        (self.0 != 0).then(|| PolicyIndex(self.0.trailing_zeros() as u16))
    }

    /// In the configuration's order.
    pub fn iter(self) -> impl Iterator<Item = PolicyIndex> {
        let mut left = self.0;
        std::iter::from_fn(move || {
            let first = PolicyMask(left).first()?;
            left &= left - 1;
            Some(first)
        })
    }
}

#[cfg(test)]
mod tests;
