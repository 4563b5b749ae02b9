//! D2: the digest of spans that were split anyhow is the merge of the digests of the parts.

use proptest::prelude::*;
use tailkeep::base::monoid::Monoid;
use tailkeep::digest::Digest;
use tailkeep::policy::PolicySet;

use crate::sampler::SpanOfResource;
use crate::{feed, generate};

/// Each span with the part it falls into, in random order.
pub fn split_trace() -> impl Strategy<Value = Vec<(usize, SpanOfResource)>> {
    generate::trace().prop_flat_map(|spans| {
        let parts = prop::collection::vec(0..4usize, spans.len());
        parts
            .prop_map(move |parts| parts.into_iter().zip(spans.clone()).collect::<Vec<_>>())
            .prop_shuffle()
    })
}

/// The digests of the parts of a split trace.
pub fn fold_parts(set: &PolicySet, split: &[(usize, SpanOfResource)]) -> Vec<Digest> {
    let part = |number: usize| {
        split
            .iter()
            .filter(move |(part, _)| *part == number)
            .map(|(_, span)| span)
    };
    (0..4).map(|number| feed::fold_all(set, part(number))).collect()
}

proptest! {
    #[test]
    fn digest_of_a_trace_is_the_merge_of_the_digests_of_its_parts(
        options in generate::policies(),
        split in split_trace(),
    ) {
        let set = PolicySet::compile(&options).expect("generated policies are right");
        let whole = feed::fold_all(&set, split.iter().map(|(_, span)| span));
        let backwards = feed::fold_all(&set, split.iter().rev().map(|(_, span)| span));
        let merged = fold_parts(&set, &split).into_iter().fold(Digest::EMPTY, Monoid::merge);
        prop_assert_eq!(merged, whole);
        prop_assert_eq!(backwards, whole);
    }
}
