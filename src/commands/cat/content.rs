//! What an entry means: the records of [`crate::landing::record`], told apart by kind.

use crate::base::ids::TraceId;
use crate::landing::record::{
    self, CONTENTS, COPIED, CURSORS, CopiedRecord, Cursors, DECIDED, DecidedRecord, INDEX, KEPT, KeptRecord,
    NamesRecord, SPANS, UPGRADED, UPGRADES, UpgradedRecord, VERDICTS, VerdictRecord,
};
use crate::otlp::cut::{CutSink, cut};
use crate::otlp::join::{Annotation, Joiner};
use crate::otlp::payload::{Run, Spans, SpansPayload};
use crate::otlp::view::SpanView;
use crate::wal::EntryKind;
use crate::wal::recover::ReplayedEntry;

pub enum Content<'a> {
    Spans(SpansPayload<'a>),
    Verdicts(Vec<VerdictRecord>),
    Copied(Vec<CopiedRecord>),
    Cursors(Cursors),
    Names(NamesRecord),
    Decided(DecidedRecord),
    /// To be kept after all.
    Upgrades(Vec<VerdictRecord>),
    Upgraded(Vec<UpgradedRecord>),
    /// Where traces stand in the log; says nothing about them.
    Index,
    Kept(KeptRecord<'a>),
    /// Its checksum holds, and no version that is known here wrote it.
    Unknown,
}

impl<'a> Content<'a> {
    pub fn of(entry: &ReplayedEntry<'a>) -> Content<'a> {
        let payload = entry.payload;
        let content = match entry.kind {
            SPANS => SpansPayload::parse(payload).ok().map(Content::Spans),
            VERDICTS => VerdictRecord::read_all(payload).map(Content::Verdicts),
            COPIED => CopiedRecord::read_all(payload).map(Content::Copied),
            CURSORS => record::read_cursors(payload).map(Content::Cursors),
            EntryKind::NAMES => NamesRecord::read(payload).map(Content::Names),
            DECIDED => DecidedRecord::read(payload).map(Content::Decided),
            UPGRADES => VerdictRecord::read_all(payload).map(Content::Upgrades),
            UPGRADED => UpgradedRecord::read_all(payload).map(Content::Upgraded),
            INDEX | CONTENTS => Some(Content::Index),
            KEPT => KeptRecord::read(payload).map(Content::Kept),
            _ => None,
        };
        content.unwrap_or(Content::Unknown)
    }
}

/// The runs of an entry, of one trace if so wished.
pub fn runs_of<'a>(
    payload: SpansPayload<'a>,
    trace: Option<TraceId>,
) -> impl Iterator<Item = (Run, Spans<'a>)> {
    payload
        .runs()
        .filter(move |(run, _)| trace.is_none_or(|trace| run.trace == trace))
}

/// A run as `resource_spans` fields, as they came in. `None`: the entry does not have the contexts it names.
pub fn frame(payload: &SpansPayload<'_>, spans: Spans<'_>) -> Option<Vec<u8>> {
    let mut joiner = Joiner::new(Annotation::NONE);
    payload.join(spans, &mut joiner)?;
    let mut framed = Vec::with_capacity(joiner.encoded_len());
    joiner.finish(&mut framed);
    Some(framed)
}

/// The spans of `resource_spans` fields.
pub fn each_span<'a>(framed: &'a [u8], each: impl FnMut(&SpanView<'a>)) {
    struct Sink<F>(F);
    impl<'a, F: FnMut(&SpanView<'a>)> CutSink<'a> for Sink<F> {
        fn resource(&mut self, _part: &[&'a [u8]]) {}
        fn scope(&mut self, _part: &[&'a [u8]]) {}
        fn span(&mut self, span: &SpanView<'a>) {
            (self.0)(span);
        }
    }
    // Spans before damage count; there is none behind a checksum that holds.
    let _ = cut(framed, &mut Sink(each));
}

/// The name of a verdict's policy, by the names entry that stands before it.
pub fn policy_name<'n>(verdict: &VerdictRecord, names: &'n [String]) -> Option<&'n str> {
    let number = verdict.decision.policy?;
    names.get(number.0 as usize).map(String::as_str)
}
