//! The fold of a log as one would write it without a table: lists of spans, and a set of what was decided.

use std::collections::{BTreeMap, BTreeSet};

use tailkeep::base::ids::{LogId, Place, TraceId};
use tailkeep::base::monoid::Monoid;
use tailkeep::digest::Digest;
use tailkeep::landing::record::{SPANS, VERDICTS, VerdictRecord};
use tailkeep::otlp::payload::SpansPayload;
use tailkeep::otlp::view::{self, SpanView};
use tailkeep::policy::PolicySet;
use tailkeep::wal::recover::ReplayedEntry;

type Spans = Vec<(Digest, Place)>;

#[derive(Default)]
pub struct Naive {
    spans: BTreeMap<TraceId, Spans>,
    decided: BTreeSet<TraceId>,
}

impl Naive {
    pub fn entry(&mut self, log: LogId, policies: &PolicySet, entry: &ReplayedEntry<'_>) {
        if entry.kind == VERDICTS {
            let records = VerdictRecord::read_all(entry.payload).expect("checked by its sum");
            self.decided.extend(records.iter().map(|record| record.trace));
        }
        if entry.kind != SPANS {
            return;
        }
        let payload = SpansPayload::parse(entry.payload).expect("checked by its sum");
        for (number, (run, spans)) in payload.runs().enumerate() {
            for span in spans {
                let view = SpanView::parse(span.bytes).expect("accepted before");
                let (resource, _) = payload.context(span.scope).expect("it has a scope");
                let matched = policies.match_resource(view::resource_attributes(resource));
                let place = Place::new(log, entry.position, number as u16);
                self.spans
                    .entry(run.trace)
                    .or_default()
                    .push((policies.fold(&view, matched), place));
            }
        }
    }

    /// As [`tailkeep::table::Table::fold_of_open_traces`] has it.
    pub fn open_traces(&self) -> Vec<(TraceId, Digest, Vec<Place>)> {
        let open = self
            .spans
            .iter()
            .filter(|(trace, _)| !self.decided.contains(*trace));
        open.map(|(trace, spans)| {
            let digest = spans
                .iter()
                .fold(Digest::EMPTY, |digest, (span, _)| digest.merge(*span));
            let mut places: Vec<Place> = spans.iter().map(|(_, place)| *place).collect();
            places.dedup();
            (*trace, digest, places)
        })
        .collect()
    }
}
