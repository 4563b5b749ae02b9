//! `--json`: the spans as OTLP/JSON, a line a run, as they came in; and an object for each verdict.
//!
//! A kept trace lies in the log and, annotated, in the kept log until it is exported. Its copy is printed only
//! if the log no longer has all its spans, so that each span is printed once.

use hashbrown::{HashMap, HashSet};
use serde_json::json;

use super::content::{Content, each_span, frame, policy_name, runs_of};
use super::output::Output;
use super::{Failure, Log};
use crate::base::ids::{Position, TraceId};
use crate::landing::fetch::WhichLog;
use crate::landing::record::{KeptRecord, VerdictRecord};
use crate::otlp::json;
use crate::otlp::view::SpanView;

/// The spans of traces that the kept logs have copies of.
#[derive(Default)]
struct Copies {
    /// By trace, the spans that were printed.
    printed: HashMap<TraceId, HashSet<Vec<u8>>>,
    /// Where each kept log ended when it was first read: a running process goes on writing.
    ends: Vec<Position>,
}

pub fn print(logs: &[Log], trace: Option<TraceId>, output: &mut Output) -> Result<(), Failure> {
    let is_wanted = |found: TraceId| trace.is_none_or(|trace| trace == found);
    let kept_logs = || logs.iter().filter(|log| log.which == WhichLog::Kept);
    let mut copies = Copies::default();
    for log in kept_logs() {
        let mut end = Position(0);
        log.read(output, true, |entry, _| {
            end = entry.position;
            if let Content::Kept(kept) = Content::of(entry)
                && is_wanted(kept.trace)
            {
                copies.printed.entry(kept.trace).or_default();
            }
        })?;
        copies.ends.push(end);
    }
    for log in logs.iter().filter(|log| log.which == WhichLog::Main) {
        let mut names = Vec::new();
        log.read(output, true, |entry, output| match Content::of(entry) {
            Content::Spans(payload) => {
                for (run, spans) in runs_of(payload, trace) {
                    if let Some(printed) = copies.printed.get_mut(&run.trace) {
                        let views = spans.filter_map(|span| SpanView::parse(span.bytes).ok());
                        printed.extend(views.map(|view| view.span_id.to_vec()));
                    }
                    let framed = frame(&payload, spans);
                    print_spans(framed.as_deref(), &log.name, entry.position, output);
                }
            }
            Content::Verdicts(verdicts) | Content::Upgrades(verdicts) => {
                for verdict in verdicts.iter().filter(|verdict| is_wanted(verdict.trace)) {
                    print_verdict(verdict, &names, trace.is_some(), output);
                }
            }
            Content::Names(found) => names = found.policies,
            Content::Unknown => tell_unknown(&log.name, entry.position, output),
            Content::Copied(_)
            | Content::Cursors(_)
            | Content::Decided(_)
            | Content::Upgraded(_)
            | Content::Index
            | Content::Kept(_) => {}
        })?;
    }
    for (log, end) in kept_logs().zip(copies.ends) {
        log.read(output, false, |entry, output| {
            if let Content::Kept(kept) = Content::of(entry)
                && let Some(printed) = copies.printed.get(&kept.trace)
                && entry.position <= end
                && !has_all(printed, &kept)
            {
                print_spans(Some(kept.framed), &log.name, entry.position, output);
            }
        })?;
    }
    Ok(())
}

fn has_all(printed: &HashSet<Vec<u8>>, kept: &KeptRecord<'_>) -> bool {
    let mut all = true;
    each_span(kept.framed, |span| all &= printed.contains(span.span_id));
    all
}

fn print_spans(framed: Option<&[u8]>, log: &str, position: Position, output: &mut Output) {
    let mut line = Vec::new();
    match framed.map(|framed| json::encode(&json::TRACES_DATA, framed, &mut line)) {
        Some(Ok(())) => output.line(&line),
        Some(Err(_)) | None => tell_unknown(log, position, output),
    }
}

fn tell_unknown(log: &str, position: Position, output: &mut Output) {
    output.note(&format!(
        "{log}: {position}: an entry with a sound checksum and unknown contents"
    ));
}

/// Beside the spans of one trace its verdicts would be in the way of whoever reads spans.
fn print_verdict(verdict: &VerdictRecord, names: &[String], beside: bool, output: &mut Output) {
    let decision = verdict.decision;
    let value = json!({
        "trace_id": verdict.trace.to_string(), "verdict": decision.verdict.name(),
        "reason": decision.reason.name(), "policy": policy_name(verdict, names),
        "threshold": decision.threshold.map(|threshold| format!("{:014x}", threshold.value())),
        "incomplete": decision.incomplete, "late": verdict.late,
    });
    match beside {
        true => output.note(&value.to_string()),
        false => output.line(value.to_string().as_bytes()),
    }
}
