//! V2: what is decided early is decided for good.

use proptest::prelude::*;
use tailkeep::base::ids::TraceId;
use tailkeep::base::monoid::Monoid;
use tailkeep::digest::{Digest, PredicateSet};
use tailkeep::policy::{Answer, Outcome, PolicyOptions, PolicySet, QuotaAnswers, QuotaIndex};
use tailkeep::verdict::Verdict;

use crate::digest::{fold_parts, split_trace};
use crate::{feed, generate};

/// Every digest that a trace may show on its way: of each part alone, of the parts merged so far, and of
/// the spans merged so far one by one.
fn stages(set: &PolicySet, split: &[(usize, crate::sampler::SpanOfResource)]) -> Vec<Digest> {
    let running = |digests: Vec<Digest>| {
        digests.into_iter().scan(Digest::EMPTY, |merged, digest| {
            *merged = merged.merge(digest);
            Some(*merged)
        })
    };
    let parts = fold_parts(set, split);
    let spans = split.iter().map(|(_, span)| feed::fold(set, span)).collect();
    let merged: Vec<_> = running(parts.clone()).collect();
    parts.into_iter().chain(merged).chain(running(spans)).collect()
}

fn check(
    options: &PolicyOptions,
    split: &[(usize, crate::sampler::SpanOfResource)],
    grants: u64,
) -> Result<(), TestCaseError> {
    let set = PolicySet::compile(options).expect("generated policies are right");
    let trace = TraceId::new(&split[0].1.span.trace_id).expect("generated ids are right");
    let whole = feed::fold_all(&set, split.iter().map(|(_, span)| span));
    // Whatever quotas say at the end.
    let mut answers = QuotaAnswers::NONE;
    let mut says = |quota: QuotaIndex, _, _| match grants >> quota.number() & 1 {
        1 => Answer::Granted,
        _ => Answer::Refused { left: 0 },
    };
    let last = set.judge_asking(trace, &whole, PredicateSet::NONE, &mut answers, &mut says);
    let last = last.expect("nobody answers later");
    let last_results = set.explain_asked(trace, &whole, true, answers);

    for digest in stages(&set, split) {
        let early = set.judge_open(trace, &digest);
        if early.verdict != Verdict::Pending {
            prop_assert_eq!(
                (early.verdict, early.threshold),
                (last.verdict, last.threshold),
                "V2 at {:?}",
                digest
            );
            if options.sample_on_first_match {
                prop_assert_eq!(early.policy, last.policy, "V2 at {:?}", digest);
            }
        }
        prop_assert_eq!(
            early.matched.intersection(last.matched),
            early.matched,
            "a match is for good"
        );
        for (early, last) in set.explain(trace, &digest, false).iter().zip(&last_results) {
            let settled = early.result == Outcome::Unknown || early.result == last.result;
            prop_assert!(
                settled,
                "{} was {} and became {}",
                early.name,
                early.detail,
                last.detail
            );
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8192))]

    #[test]
    fn early_ruling_is_the_final_ruling(
        options in prop_oneof![2 => generate::policies(), 1 => generate::limiting_policies()],
        split in split_trace(),
        grants in any::<u64>(),
    ) {
        check(&options, &split, grants)?;
    }
}
