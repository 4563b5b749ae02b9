//! `tailkeep explain ID`: what became of a trace, and why, as the admin port tells it.

use std::fmt::Write;

use serde_json::Value;

use super::show::{self, Columns, items, number, text};
use super::{ExplainArguments, Failure, print_result};
use crate::base::ids::TraceId;

pub fn explain(arguments: &ExplainArguments) -> Result<(), Failure> {
    let given = arguments.trace.trim();
    let Some(trace) = TraceId::from_hex(given) else {
        let found = given.escape_debug();
        return Err(Failure::Usage(format!(
            "error: explain: expected a trace id of 32 hexadecimal digits, not all zero, found \"{found}\""
        )));
    };
    let mut port = arguments.admin.open()?;
    let answer = port.ask(&format!("/api/v1/traces/{trace}"))?;
    match (answer.status, arguments.json) {
        (200, true) => print_result(&answer.text),
        (200, false) => print_result(&draw(&answer.value)),
        (_, json) => {
            if json {
                print_result(&answer.text)?;
            }
            let message = show::text(&answer.value["error"]["message"]);
            Err(Failure::Environment(format!("trace {trace}: {message}")))
        }
    }
}

fn draw(trace: &Value) -> String {
    let mut out = format!("trace {}\n", text(&trace["trace_id"]));
    let mut say = |name: &str, value: String| {
        writeln!(out, "  {name:<11}{value}").expect("a string takes everything");
    };
    say("verdict", verdict(trace));
    if !trace["dry_run"].is_null() {
        say("dry run", format!("would have been {}", text(&trace["dry_run"])));
    }
    if !trace["decided_at"].is_null() {
        say(
            "decided",
            format!("{} by {}", text(&trace["decided_at"]), text(&trace["decided_by"])),
        );
    }
    if !trace["spans"].is_null() {
        say("content", content(trace));
    }
    let root = &trace["root"];
    if root.is_object() {
        let names = [&root["service"], &root["name"]].map(|name| match name.is_null() {
            true => String::new(),
            false => format!("{}, ", text(name)),
        });
        let took = root["duration_ms"].as_f64().unwrap_or(0.0);
        say("root", format!("{}{}{took} ms", names[0], names[1]));
    }
    if !trace["first_seen"].is_null() {
        say(
            "seen",
            format!("{} to {}", text(&trace["first_seen"]), text(&trace["last_seen"])),
        );
    }
    if !trace["randomness"].is_null() {
        let threshold = match &trace["threshold"] {
            Value::Null => "none".to_owned(),
            threshold => text(threshold),
        };
        say(
            "sampling",
            format!("randomness {}, threshold {threshold}", text(&trace["randomness"])),
        );
    }
    if trace["source"] == "cache" {
        out += "\nIt was decided long ago: of such traces only the verdict is remembered.\n";
    }
    out += &policies(trace);
    out += &nodes(trace);
    out
}

fn verdict(trace: &Value) -> String {
    let mut line = text(&trace["verdict"]);
    if !trace["policy"].is_null() {
        line += &format!(" by policy {}", text(&trace["policy"]));
    }
    if !trace["reason"].is_null() {
        line += &format!(", closed because {}", text(&trace["reason"]));
    }
    for (key, remark) in [
        ("incomplete", ", incomplete"),
        ("upgraded", ", dropped first and kept later"),
    ] {
        if trace[key] == true {
            line += remark;
        }
    }
    if trace["certain"] == false && trace["source"] == "log" {
        line += " (nobody remembers the decision; this is what the policies say of what the log has)";
    } else if trace["certain"] == false {
        line += " (known by a fingerprint, which may be another's with odds of less than 1 in 10^9)";
    }
    line
}

fn content(trace: &Value) -> String {
    let mut line = format!(
        "{} spans, {} log records, {}",
        show::count(&trace["spans"]),
        show::count(&trace["log_records"]),
        show::bytes(number(&trace["bytes"])),
    );
    if number(&trace["late_spans"]) > 0 {
        line += &format!(", {} spans late", show::count(&trace["late_spans"]));
    }
    let services: Vec<String> = items(&trace["services"]).map(text).collect();
    if !services.is_empty() {
        line += &format!(", of {}", services.join(", "));
    }
    line
}

/// What each policy said, as a table; nothing if that is not known.
pub fn policies(trace: &Value) -> String {
    let mut columns = Columns::new(4, &["policy", "result", "span", "detail"]);
    let mut any = false;
    for policy in items(&trace["policies"]) {
        any = true;
        let cells = ["name", "result", "span_id"].map(|key| text(&policy[key]));
        let detail = policy["detail"].as_str().map(show::plain).unwrap_or_default();
        columns.row(cells.into_iter().chain([detail]));
    }
    match any {
        true => format!("\n{}", columns.draw("  ")),
        false => String::new(),
    }
}

fn nodes(trace: &Value) -> String {
    let mut columns = Columns::new(1, &["node", "core", "spans", "in memory", "on disk"]);
    let mut any = false;
    let mut sent = String::new();
    for node in items(&trace["nodes"]) {
        any = true;
        columns.row(["node", "core", "spans", "in_memory", "on_disk"].map(|key| text(&node[key])));
        for (exporter, counts) in node["exporters"].as_object().into_iter().flatten() {
            sent += &format!(
                "  {} of {}: {} accepted, {} queued\n",
                show::plain(exporter),
                text(&node["node"]),
                show::count(&counts["accepted"]),
                show::count(&counts["queued"]),
            );
        }
    }
    match any {
        true => format!("\n{}{sent}", columns.draw("  ")),
        false => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_kept_trace_says_who_kept_it_and_where_it_is() {
        let trace = json!({
            "trace_id": "ab", "verdict": "kept", "certain": true, "source": "table", "policy": "errors",
            "reason": "complete", "incomplete": true, "upgraded": false, "dry_run": null,
            "randomness": "00ff", "threshold": null, "spans": 12, "log_records": 0, "bytes": 2048,
            "late_spans": 0, "services": ["a", "b"], "root": { "service": "a", "name": "GET /", "duration_ms": 3 },
            "first_seen": "f", "last_seen": "l", "decided_at": "d", "decided_by": "n",
            "policies": [{ "name": "errors", "result": "match", "span_id": "01", "detail": "status ERROR" }],
            "nodes": [{ "node": "n", "core": 0, "spans": 12, "in_memory": 0, "on_disk": 12,
                        "exporters": { "file": { "accepted": 12, "queued": 0 } } }],
        });
        let expected = "\
trace ab
  verdict    kept by policy errors, closed because complete, incomplete
  decided    d by n
  content    12 spans, 0 log records, 2.0 KiB, of a, b
  root       a, GET /, 3 ms
  seen       f to l
  sampling   randomness 00ff, threshold none

  policy  result  span  detail
  errors  match   01    status ERROR

  node  core  spans  in memory  on disk
  n        0     12          0       12
  file of n: 12 accepted, 0 queued
";
        assert_eq!(draw(&trace), expected);
    }

    #[test]
    fn of_an_old_decision_only_what_is_known_is_told() {
        let trace = json!({ "trace_id": "ab", "verdict": "rolled_up", "certain": false, "source": "cache",
                            "policy": null, "reason": "quiet", "threshold": null });
        let text = draw(&trace);
        assert!(
            text.contains("rolled_up, closed because quiet (known by a fingerprint"),
            "{text}"
        );
        assert!(!text.contains("spans") && !text.contains("null"), "{text}");
    }
}
