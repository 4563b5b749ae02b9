//! The fold of a log as one would write it without a table: lists of spans, and a set of what was decided.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use tailkeep::base::ids::{LogId, Place, TraceId};
use tailkeep::base::monoid::Monoid;
use tailkeep::digest::Digest;
use tailkeep::landing::record::{DECIDED, DecidedRecord, SPANS, UPGRADES, VERDICTS, VerdictRecord};
use tailkeep::otlp::payload::SpansPayload;
use tailkeep::otlp::view::{self, SpanView};
use tailkeep::policy::PolicySet;
use tailkeep::route::{Decision, HashKey};
use tailkeep::table::CompactDecision;
use tailkeep::verdict::{Reason, Verdict};
use tailkeep::wal::recover::ReplayedEntry;

type Spans = Vec<(Digest, Place)>;

pub struct Naive {
    hash_key: HashKey,
    spans: BTreeMap<TraceId, Spans>,
    decided: BTreeSet<TraceId>,
    /// Of decisions that were carried along, without the six bits of verdict and reason.
    dropped: HashSet<u64>,
}

impl Naive {
    pub fn new(hash_key: HashKey) -> Naive {
        Naive {
            hash_key,
            spans: BTreeMap::new(),
            decided: BTreeSet::new(),
            dropped: HashSet::new(),
        }
    }

    fn is_decided(&self, trace: &TraceId) -> bool {
        let any = Decision {
            verdict: Verdict::Rollup,
            reason: Reason::Complete,
            policy: None,
            threshold: None,
            incomplete: false,
            upgraded: false,
        };
        let compact = CompactDecision::new(self.hash_key.trace(trace), &any);
        self.decided.contains(trace) || self.dropped.contains(&(compact.bits() >> 6))
    }

    pub fn entry(&mut self, log: LogId, policies: &PolicySet, entry: &ReplayedEntry<'_>) {
        if entry.kind == DECIDED {
            let record = DecidedRecord::read(entry.payload).expect("checked by its sum");
            self.decided.extend(record.kept.iter().map(|record| record.trace));
            self.dropped
                .extend(record.dropped.iter().map(|compact| compact.bits() >> 6));
        }
        if entry.kind == VERDICTS || entry.kind == UPGRADES {
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
                if let Some((old, old_run)) = payload.replaces(number as u16) {
                    let old = Place::new(log, old, old_run);
                    let spans = self.spans.entry(run.trace).or_default();
                    spans.retain(|(_, place)| *place != old);
                }
                self.spans
                    .entry(run.trace)
                    .or_default()
                    .push((policies.fold(&view, matched), place));
            }
        }
    }

    /// As [`tailkeep::table::Table::fold_of_open_traces`] has it.
    pub fn open_traces(&self) -> Vec<(TraceId, Digest, Vec<Place>)> {
        let open = self.spans.iter().filter(|(trace, _)| !self.is_decided(trace));
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
