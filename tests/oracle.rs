//! The engine decides as the oracle does: fold and judge against a naive sampler over decoded spans.

#[path = "oracle/feed.rs"]
mod feed;
#[path = "oracle/generate.rs"]
mod generate;
#[path = "oracle/sampler.rs"]
mod sampler;

use proptest::prelude::*;
use tailkeep::base::ids::TraceId;
use tailkeep::policy::{Outcome, PolicySet, Ruling, threshold_of_percentage};
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
