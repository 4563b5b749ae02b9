//! For people: a line an entry; of one trace, a line a span as well.
//!
//! ```text
//!  log-00           0x1000  spans    2026-01-02T03:04:05.678Z  3 traces, 12 spans
//!  log-00           0x4000  verdict  2026-01-02T03:04:08.901Z  4bf9…  kept  complete  errors
//! ```

use std::time::{Duration, UNIX_EPOCH};

use super::content::{Content, each_span, policy_name, runs_of};
use super::output::Output;
use super::{Failure, Log};
use crate::base::ids::{TraceId, write_hex};
use crate::landing::record::{Cursors, VerdictRecord};
use crate::otlp::view::SpanView;
use crate::wal::recover::ReplayedEntry;

pub fn print(logs: &[Log], trace: Option<TraceId>, output: &mut Output) -> Result<(), Failure> {
    for log in logs {
        let mut names = Vec::new();
        log.read(output, true, |entry, output| {
            let line = Line {
                log: &log.name,
                entry,
                trace,
            };
            line.print(&mut names, output);
        })?;
    }
    Ok(())
}

struct Line<'a> {
    log: &'a str,
    entry: &'a ReplayedEntry<'a>,
    trace: Option<TraceId>,
}

impl Line<'_> {
    fn print(&self, names: &mut Vec<String>, output: &mut Output) {
        let whole = self.trace.is_none();
        let is_wanted = |found: TraceId| self.trace.is_none_or(|trace| trace == found);
        match Content::of(self.entry) {
            Content::Spans(payload) => {
                let runs: Vec<_> = runs_of(payload, self.trace).collect();
                if runs.is_empty() {
                    return;
                }
                let spans = runs.iter().map(|(run, _)| u64::from(run.span_count)).sum();
                let traces = count(runs.len() as u64, "trace");
                output.line(
                    self.begin("spans", &format!("{traces}, {}", count(spans, "span")))
                        .as_bytes(),
                );
                if !whole {
                    let bodies = runs.into_iter().flat_map(|(_, spans)| spans);
                    let views = bodies.filter_map(|span| SpanView::parse(span.bytes).ok());
                    views.for_each(|view| output.line(span_line(&view).as_bytes()));
                }
            }
            Content::Kept(kept) if is_wanted(kept.trace) => {
                let spans = count(kept.span_count.into(), "span");
                let late = if kept.late { "  late" } else { "" };
                let text = format!("{}  {spans}, {}{late}", kept.trace, kept.reason.name());
                output.line(self.begin("kept", &text).as_bytes());
                if !whole {
                    each_span(kept.framed, |view| output.line(span_line(view).as_bytes()));
                }
            }
            Content::Verdicts(verdicts) | Content::Upgrades(verdicts) => {
                for verdict in verdicts.iter().filter(|verdict| is_wanted(verdict.trace)) {
                    let line = self.begin("verdict", &verdict_text(verdict, names));
                    match whole {
                        true => output.line(line.as_bytes()),
                        false => output.note(&line),
                    }
                }
            }
            Content::Copied(copied) if whole => {
                output.line(
                    self.begin("copied", &count(copied.len() as u64, "trace"))
                        .as_bytes(),
                );
            }
            Content::Names(found) => {
                *names = found.policies;
                if whole {
                    let text = format!("policies {}; {}", names.join(", "), cursors_text(&found.cursors));
                    output.line(self.begin("names", &text).as_bytes());
                }
            }
            Content::Cursors(cursors) if whole => {
                output.line(self.begin("cursors", &cursors_text(&cursors)).as_bytes());
            }
            Content::Decided(decided) if whole => {
                let (dropped, kept) = (decided.dropped.len(), decided.kept.len());
                let text = format!("{dropped} dropped, {kept} kept");
                output.line(self.begin("decided", &text).as_bytes());
            }
            Content::Upgraded(upgraded) if whole => {
                let text = count(upgraded.len() as u64, "trace");
                output.line(self.begin("upgraded", &text).as_bytes());
            }
            Content::Index if whole => {
                let text = format!("{} bytes", self.entry.payload.len());
                output.line(self.begin("index", &text).as_bytes());
            }
            Content::Unknown if whole => {
                let text = format!("kind {}, {} bytes", self.entry.kind.0, self.entry.payload.len());
                output.line(self.begin("unknown", &text).as_bytes());
            }
            Content::Kept(_)
            | Content::Copied(_)
            | Content::Cursors(_)
            | Content::Decided(_)
            | Content::Upgraded(_)
            | Content::Index
            | Content::Unknown => {}
        }
    }

    fn begin(&self, kind: &str, text: &str) -> String {
        // A clock that was beyond the year 9999 is shown as one that was never set.
        const LAST: Duration = Duration::from_secs(253_402_300_799);
        let since = Duration::from_nanos(self.entry.arrived.0).min(LAST);
        let time = humantime::format_rfc3339_millis(UNIX_EPOCH + since);
        format!(
            "{}  {:>14}  {kind:<7}  {time}  {text}",
            self.log,
            self.entry.position.to_string()
        )
    }
}

fn verdict_text(verdict: &VerdictRecord, names: &[String]) -> String {
    let decision = verdict.decision;
    let mut text = format!(
        "{}  {:<9}  {}",
        verdict.trace,
        decision.verdict.name(),
        decision.reason.name()
    );
    if let Some(policy) = policy_name(verdict, names) {
        text += &format!("  {policy}");
    }
    let words = [
        (decision.incomplete, "incomplete"),
        (verdict.late, "late"),
        (decision.upgraded, "upgraded"),
    ];
    for (is_so, word) in words {
        if is_so {
            text += &format!("  {word}");
        }
    }
    text
}

fn span_line(span: &SpanView<'_>) -> String {
    let mut line = "    span ".to_owned();
    write_hex(&mut line, span.span_id).expect("a string takes everything");
    line += " in ";
    match span.parent_span_id {
        [] => line += "-               ",
        parent => write_hex(&mut line, parent).expect("a string takes everything"),
    }
    let status = if span.status_code == 2 { "  ERROR" } else { "" };
    let took_ms = span.end_ns.saturating_sub(span.start_ns) as f64 / 1e6;
    // Names are other people's text: line ends and control characters must not break the listing.
    let name = String::from_utf8_lossy(span.name());
    line + &format!("  {took_ms:>10.3} ms  {}{status}", name.escape_debug())
}

fn cursors_text(cursors: &Cursors) -> String {
    let texts = cursors.iter().map(|(id, position)| format!("{id} at {position}"));
    texts.collect::<Vec<_>>().join(", ")
}

fn count(count: u64, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}
