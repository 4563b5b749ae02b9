//! The output file, read back: every kept trace, and one of them drawn as an indented tree.

use std::collections::BTreeMap;
use std::io::{self, BufRead};

use serde_json::Value;

use super::ledger::Exported;
use crate::commands::show::plain;

/// A trace as it was exported.
#[derive(Debug, Default)]
pub struct KeptTrace {
    pub trace_id: String,
    /// Why it was kept.
    pub policy: String,
    pub reason: String,
    spans: Vec<KeptSpan>,
}

#[derive(Debug)]
struct KeptSpan {
    service: String,
    name: String,
    span_id: String,
    parent_id: String,
    start_ns: u64,
    end_ns: u64,
    failed: bool,
    exception: Option<String>,
}

/// Everything that was exported.
#[derive(Debug, Default)]
pub struct Output {
    traces: BTreeMap<String, KeptTrace>,
    pub exported: Exported,
}

/// How many traces of a route a policy kept, before a moment and from it on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shift {
    pub before: u64,
    pub after: u64,
}

impl Output {
    pub fn read(lines: impl BufRead) -> io::Result<Output> {
        let mut output = Output::default();
        for line in lines.lines() {
            output.add(&serde_json::from_str(&line?)?);
        }
        Ok(output)
    }

    fn add(&mut self, line: &Value) {
        for resource_spans in items(line, "resourceSpans") {
            let service = attribute(&resource_spans["resource"], "service.name");
            for scope_spans in items(resource_spans, "scopeSpans") {
                for span in items(scope_spans, "spans") {
                    let id = text(&span["traceId"]);
                    let span = KeptSpan::new(&service, span);
                    self.exported.add(&id, &span.span_id);
                    let trace = self.traces.entry(id.clone()).or_default();
                    trace.trace_id = id;
                    trace.policy = attribute(&scope_spans["scope"], "tailsampling.policy");
                    trace.reason = attribute(&scope_spans["scope"], "tailkeep.reason");
                    // After a crash a span may come twice.
                    if trace.spans.iter().all(|known| known.span_id != span.span_id) {
                        trace.spans.push(span);
                    }
                }
            }
        }
    }

    /// The trace that shows most: kept for an error, with many spans, and recent, so that it can be asked about.
    pub fn most_telling(&self) -> Option<&KeptTrace> {
        const MANY: usize = 12;
        self.traces.values().max_by_key(|trace| {
            let newest = trace.spans.iter().map(|span| span.end_ns).max();
            (trace.policy == "errors", trace.spans.len().min(MANY), newest)
        })
    }

    /// Traces that `policy` kept, by the name of their root.
    pub fn shifts(&self, policy: &str, at_ns: u64) -> BTreeMap<&str, Shift> {
        let mut shifts: BTreeMap<&str, Shift> = BTreeMap::new();
        for trace in self.traces.values().filter(|trace| trace.policy == policy) {
            let Some(root) = trace.spans.iter().find(|span| span.parent_id.is_empty()) else {
                continue;
            };
            let shift = shifts.entry(&root.name).or_default();
            match root.end_ns < at_ns {
                true => shift.before += 1,
                false => shift.after += 1,
            }
        }
        shifts
    }
}

impl KeptSpan {
    fn new(service: &str, span: &Value) -> KeptSpan {
        let exception = items(span, "events")
            .find(|event| event["name"] == "exception")
            .map(|event| {
                format!(
                    "{}: {}",
                    attribute(event, "exception.type"),
                    attribute(event, "exception.message")
                )
            });
        KeptSpan {
            service: service.to_owned(),
            name: text(&span["name"]),
            span_id: text(&span["spanId"]),
            parent_id: text(&span["parentSpanId"]),
            start_ns: nanoseconds(&span["startTimeUnixNano"]),
            end_ns: nanoseconds(&span["endTimeUnixNano"]),
            failed: span["status"]["code"] == 2,
            exception,
        }
    }
}

impl KeptTrace {
    /// Its lines, the first of which says why it was kept.
    pub fn draw(&self) -> String {
        let mut rows = Vec::new();
        for root in self.spans_where(|span| !self.has(&span.parent_id)) {
            self.draw_below(root, 1, &mut rows);
        }
        let width = rows
            .iter()
            .map(|(label, _)| label.chars().count())
            .max()
            .unwrap_or(0);
        let mut out = format!(
            "trace {}: {} spans, kept by policy {}, closed because {}\n",
            plain(&self.trace_id),
            self.spans.len(),
            plain(&self.policy),
            plain(&self.reason)
        );
        for (label, facts) in rows {
            out += format!("{label:<width$}  {facts}").trim_end();
            out.push('\n');
        }
        out
    }

    fn draw_below(&self, span: &KeptSpan, depth: usize, rows: &mut Vec<(String, String)>) {
        // Data that names itself its own ancestor must not hold us for ever.
        if depth > self.spans.len() {
            return;
        }
        let took_ms = span.end_ns.saturating_sub(span.start_ns) as f64 / 1e6;
        let status = if span.failed { "ERROR" } else { "ok" };
        let mut facts = format!("{took_ms:>9.2} ms  {status}");
        if let Some(exception) = &span.exception {
            facts += &format!("  {}", plain(exception));
        }
        rows.push((
            format!(
                "{}{}  {}",
                "  ".repeat(depth),
                plain(&span.service),
                plain(&span.name)
            ),
            facts,
        ));
        for child in self.spans_where(|child| child.parent_id == span.span_id) {
            self.draw_below(child, depth + 1, rows);
        }
    }

    /// In the order of their beginnings.
    fn spans_where(&self, is_wanted: impl Fn(&KeptSpan) -> bool) -> Vec<&KeptSpan> {
        let mut spans: Vec<&KeptSpan> = self.spans.iter().filter(|span| is_wanted(span)).collect();
        spans.sort_by_key(|span| span.start_ns);
        spans
    }

    fn has(&self, span_id: &str) -> bool {
        self.spans.iter().any(|span| span.span_id == span_id)
    }
}

fn items<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value[key].as_array().into_iter().flatten()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// 64-bit integers are strings in OTLP/JSON.
fn nanoseconds(value: &Value) -> u64 {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn attribute(of: &Value, key: &str) -> String {
    let found = items(of, "attributes").find(|attribute| attribute["key"] == key);
    found
        .map(|attribute| text(&attribute["value"]["stringValue"]))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn line(trace: &str, policy: &str, spans: &[(&str, &str, u64)]) -> String {
        let spans = spans.iter().map(|(id, parent, start)| {
            json!({ "traceId": trace, "spanId": id, "parentSpanId": parent, "name": format!("op {id}"),
                    "startTimeUnixNano": start.to_string(), "endTimeUnixNano": "5000000" })
        });
        let attribute = |key: &str, value: &str| json!({ "key": key, "value": { "stringValue": value } });
        let scope = json!({ "attributes": [
            attribute("tailsampling.policy", policy), attribute("tailkeep.reason", "complete"),
        ] });
        let resource = json!({ "attributes": [attribute("service.name", "shop")] });
        let scope_spans = json!([{ "scope": scope, "spans": spans.collect::<Vec<_>>() }]);
        json!({ "resourceSpans": [{ "resource": resource, "scopeSpans": scope_spans }] }).to_string() + "\n"
    }

    #[test]
    fn an_errored_trace_is_drawn_over_its_lines() {
        let lines = line(
            "aa",
            "baseline",
            &[("01", "", 0), ("02", "01", 0), ("03", "01", 0)],
        ) + &line(
            "bb",
            "errors",
            &[("02", "01", 3_000_000), ("03", "01", 2_000_000)],
        ) + &line("bb", "errors", &[("01", "", 1_000_000)]);
        let output = Output::read(lines.as_bytes()).expect("readable");
        let trace = output.most_telling().expect("one");
        let expected = "\
trace bb: 3 spans, kept by policy errors, closed because complete
  shop  op 01         4.00 ms  ok
    shop  op 03       3.00 ms  ok
    shop  op 02       2.00 ms  ok
";
        assert_eq!(trace.draw(), expected);
    }

    #[test]
    fn spans_that_are_each_other_s_parents_end() {
        let lines = line("aa", "errors", &[("01", "", 0), ("02", "02", 0), ("03", "01", 0)]);
        let output = Output::read(lines.as_bytes()).expect("readable");
        let trace = output.most_telling().expect("one");
        assert_eq!(trace.draw().lines().count(), 3);
    }

    #[test]
    fn a_shift_counts_traces_around_a_moment() {
        let lines = line("aa", "slow", &[("01", "", 0)]) + &line("bb", "errors", &[("01", "", 0)]);
        let output = Output::read(lines.as_bytes()).expect("readable");
        let at = |at_ns| output.shifts("slow", at_ns)["op 01"];
        assert_eq!(at(5_000_000), Shift { before: 0, after: 1 });
        assert_eq!(at(5_000_001), Shift { before: 1, after: 0 });
    }
}
