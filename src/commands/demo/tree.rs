//! One kept trace, read from the output file and drawn as an indented tree.

use std::collections::BTreeMap;
use std::io::{self, BufRead};

use serde_json::Value;

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

/// The trace that shows most: kept for an error, with the most spans.
pub fn most_telling(lines: impl BufRead) -> io::Result<Option<KeptTrace>> {
    let mut traces: BTreeMap<String, KeptTrace> = BTreeMap::new();
    for line in lines.lines() {
        let value: Value = serde_json::from_str(&line?)?;
        for resource_spans in items(&value, "resourceSpans") {
            let service = attribute(&resource_spans["resource"], "service.name");
            for scope_spans in items(resource_spans, "scopeSpans") {
                for span in items(scope_spans, "spans") {
                    let id = text(&span["traceId"]);
                    let trace = traces.entry(id.clone()).or_default();
                    trace.trace_id = id;
                    trace.policy = attribute(&scope_spans["scope"], "tailsampling.policy");
                    trace.reason = attribute(&scope_spans["scope"], "tailkeep.reason");
                    trace.spans.push(KeptSpan::new(&service, span));
                }
            }
        }
    }
    Ok(traces
        .into_values()
        .max_by_key(|trace| (trace.policy == "errors", trace.spans.len())))
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
        let width = rows.iter().map(|(label, _)| label.len()).max().unwrap_or(0);
        let mut out = format!(
            "trace {}: {} spans, kept by policy {}, closed because {}\n",
            self.trace_id,
            self.spans.len(),
            self.policy,
            self.reason
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
            facts += &format!("  {exception}");
        }
        rows.push((
            format!("{}{}  {}", "  ".repeat(depth), span.service, span.name),
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
        let trace = most_telling(lines.as_bytes()).expect("readable").expect("one");
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
        let trace = most_telling(lines.as_bytes()).expect("readable").expect("one");
        assert_eq!(trace.draw().lines().count(), 3);
    }
}
