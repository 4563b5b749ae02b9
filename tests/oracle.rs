//! The engine decides as the oracle does: fold and judge against a naive sampler over decoded spans.

#[path = "oracle/feed.rs"]
mod feed;
#[path = "oracle/generate.rs"]
mod generate;
#[path = "oracle/sampler.rs"]
mod sampler;

use proptest::prelude::*;
use tailkeep::base::ids::TraceId;
use tailkeep::digest::PredicateSet;
use tailkeep::policy::{
    Answer, Outcome, PolicyIndex, PolicyKind, PolicySet, QuotaAnswers, Ruling, threshold_of_percentage,
};
use tailkeep::verdict::{Threshold, Verdict};

use sampler::{Decision, Th};

/// A ruling in the oracle's words.
fn decision(set: &PolicySet, ruling: Ruling) -> Decision {
    let policy = || {
        let index = ruling.policy.expect("kept and denied traces have a policy");
        set.policies()[usize::from(index.0)].name.clone()
    };
    match ruling.verdict {
        Verdict::Keep => {
            let th = match ruling.threshold {
                Some(Threshold::KEEP_ALL) => Th::AsCame,
                Some(threshold) => Th::AtLeast(threshold.value()),
                None => Th::Erased,
            };
            Decision::Keep { policy: policy(), th }
        }
        Verdict::Deny => Decision::Deny { policy: policy() },
        Verdict::Rollup => Decision::Rollup,
        Verdict::Pending => panic!("V2: a closed trace pends"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn closed_traces_are_judged_as_the_oracle_judges_them(options in generate::policies(), spans in generate::trace()) {
        let set = PolicySet::compile(&options).expect("generated policies are right");
        let trace = TraceId::new(&spans[0].span.trace_id).expect("generated ids are right");
        let digest = feed::fold_all(&set, &spans);
        let ruling = set.judge_closed(trace, &digest);
        prop_assert_eq!(decision(&set, ruling), sampler::decide(&options, &spans));

        let explained = set.explain(trace, &digest, true);
        for (index, (entry, explained)) in options.policies.iter().zip(explained).enumerate() {
            let expected = if sampler::matches(&entry.kind, &spans) { Outcome::Match } else { Outcome::NoMatch };
            prop_assert_eq!(explained.result, expected, "{}: {}", entry.name, explained.detail);
            let counted = ruling.matched.iter().any(|policy| usize::from(policy.0) == index);
            prop_assert_eq!(counted, expected == Outcome::Match);
        }
    }

    /// Quotas are asked what the oracle asks, in the same order, and what they say decides as it does there.
    #[test]
    fn quotas_are_charged_as_the_oracle_charges_them(options in generate::limiting_policies(), spans in generate::trace()) {
        let set = PolicySet::compile(&options).expect("generated policies are right");
        let trace = TraceId::new(&spans[0].span.trace_id).expect("generated ids are right");
        let digest = feed::fold_all(&set, &spans);
        let says = |rate: u64, burst: u64, cost: u64| !(rate + burst + cost).is_multiple_of(3);

        let (mut charged, mut answers) = (Vec::new(), QuotaAnswers::NONE);
        let ruling = set.judge_asking(trace, &digest, PredicateSet::NONE, &mut answers, &mut |quota, cost, _| {
            let terms = set.quotas()[quota.number()].key.terms;
            charged.push((terms.rate, terms.burst, cost));
            match says(terms.rate, terms.burst, cost) {
                true => Answer::Granted,
                false => Answer::Refused { left: 0 },
            }
        });
        let ruling = ruling.expect("nobody answers later");
        let mut expected = Vec::new();
        let decided = sampler::decide_limited(&options, &spans, &mut |kind, cost| {
            let (rate, burst) = match kind {
                PolicyKind::RateLimiting { spans_per_second, burst } => (*spans_per_second, *burst),
                PolicyKind::BytesLimiting { bytes_per_second, burst } => (*bytes_per_second, *burst),
                other => panic!("{other:?} limits nothing"),
            };
            expected.push((rate, burst, cost));
            says(rate, burst, cost)
        });
        prop_assert_eq!(decision(&set, ruling), decided);
        prop_assert_eq!(charged, expected);

        // V2: whatever quotas say, what was decided early stays.
        let early = set.judge_open(trace, &digest);
        if early.verdict != Verdict::Pending {
            prop_assert_eq!((early.verdict, early.threshold), (ruling.verdict, ruling.threshold));
        }
        for (explained, policy) in set.explain_asked(trace, &digest, true, answers).iter().zip(0..) {
            let counted = ruling.matched.contains(PolicyIndex(policy));
            prop_assert_eq!(counted, explained.result == Outcome::Match, "{}", explained.detail);
        }
    }

    #[test]
    fn percentages_give_the_threshold_of_the_oracle(percentage in prop_oneof![0.0..100.0f64, 0.0..0.01f64, 99.99..100.0f64]) {
        prop_assert_eq!(threshold_of_percentage(percentage).map(Threshold::value), sampler::threshold_of(percentage));
    }

    #[test]
    fn thresholds_keep_the_share_they_were_made_of(percentage in 0.0001..100.0f64) {
        let threshold = threshold_of_percentage(percentage).expect("above zero").value();
        let kept = 1.0 - threshold as f64 / Threshold::LIMIT as f64;
        let share = percentage / 100.0;
        prop_assert!((kept - share).abs() <= share.min(1.0 - share) / 32768.0, "{share} became {kept}");
    }
}
