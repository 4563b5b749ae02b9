//! `tailkeep status`: what a running tailkeep says of itself, for people or as it is.

use std::fmt::Write;

use serde_json::Value;

use super::show::{self, Columns, items, number, text};
use super::{Failure, StatusArguments, print_result};
use crate::io::clock::Clock;

pub fn status(arguments: &StatusArguments) -> Result<(), Failure> {
    let answer = arguments.admin.open()?.ask_ok("/api/v1/status")?;
    match arguments.json {
        true => print_result(&answer.text),
        false => print_result(&draw(&answer.value, Clock::new().now().wall.0)),
    }
}

/// Tolerates what is missing: a node that still replays has no counters, another version has others.
fn draw(status: &Value, now_ns: u64) -> String {
    let mut out = String::new();
    head(&mut out, status, now_ns);
    for problem in items(&status["problems"]) {
        say(
            &mut out,
            &text(&problem["severity"]),
            &format!(
                "{} (since {})",
                text(&problem["message"]),
                text(&problem["since"])
            ),
        );
    }
    if !status["signals"].is_object() {
        out += "\nThere are no counters yet: the log is being replayed.\n";
        return out;
    }
    traffic(&mut out, status);
    traces(&mut out, &status["traces"]);
    policies(&mut out, status);
    stores(&mut out, status);
    exporters(&mut out, status);
    cores(&mut out, status);
    cluster(&mut out, &status["cluster"]);
    out
}

fn say(out: &mut String, name: &str, value: &str) {
    writeln!(out, "{name:<10}{value}").expect("a string takes everything");
}

fn head(out: &mut String, status: &Value, now_ns: u64) {
    let since = text(&status["started_at"]);
    let up = humantime::parse_rfc3339(&since)
        .ok()
        .and_then(|began| began.duration_since(std::time::UNIX_EPOCH).ok())
        .map(|began| {
            let seconds = (now_ns / 1_000_000_000).saturating_sub(began.as_secs());
            format!(", up {}", show::age(seconds))
        });
    say(
        out,
        &text(&status["node"]),
        &format!(
            "{}{}, tailkeep {} ({}), start {} of {}",
            text(&status["state"]),
            up.unwrap_or_default(),
            text(&status["version"]),
            text(&status["commit"]),
            number(&status["incarnation"]),
            text(&status["node_id"]),
        ),
    );
    let endpoints = &status["endpoints"];
    let named = ["grpc", "http", "admin", "cluster"].map(|name| (name, &endpoints[name]));
    let ports = named
        .iter()
        .filter(|(_, address)| !address.is_null())
        .map(|(name, address)| format!("{name} {}", text(address)));
    say(out, "ports", &ports.collect::<Vec<_>>().join("  "));
    let config = &status["config"];
    let files: Vec<String> = items(&config["files"]).map(text).collect();
    let files = if files.is_empty() {
        "built-in".to_owned()
    } else {
        files.join(" ")
    };
    let mut line = format!("{files} ({})", text(&config["hash"]));
    if config["compat"] == "strict" {
        line += ", compat strict";
    }
    if config["dry_run"] == true {
        line += ", dry run: every trace is kept";
    }
    say(out, "config", &line);
}

fn traffic(out: &mut String, status: &Value) {
    const COUNTS: [&str; 9] = [
        "accepted",
        "resumed",
        "kept",
        "rolled_up",
        "denied",
        "upgraded",
        "pending",
        "refused",
        "lost",
    ];
    let mut columns = Columns::new(
        1,
        &[
            "signal",
            "accepted",
            "resumed",
            "kept",
            "rolled up",
            "denied",
            "upgraded",
            "pending",
            "refused",
            "lost",
        ],
    );
    for (signal, name) in [
        ("spans", "spans"),
        ("log_records", "log records"),
        ("metric_points", "points"),
    ] {
        let counts = &status["signals"][signal];
        let is_used = COUNTS.iter().any(|which| number(&counts[which]) > 0);
        if signal == "spans" || is_used {
            let cells = COUNTS.map(|which| show::count(&counts[which]));
            columns.row([name.to_owned()].into_iter().chain(cells));
        }
    }
    *out += "\n";
    *out += &columns.draw("");
}

fn traces(out: &mut String, traces: &Value) {
    let count = |which: &str| show::count(&traces[which]);
    let mut line = format!(
        "{} opened, {} pending, {} kept, {} rolled up, {} denied",
        count("opened"),
        count("pending"),
        count("kept"),
        count("rolled_up"),
        count("denied"),
    );
    for (which, what) in [
        ("upgraded", "upgraded by late spans"),
        ("incomplete", "incomplete"),
        ("forced", "decided early for want of memory"),
    ] {
        if number(&traces[which]) > 0 {
            line += &format!(", {} {what}", count(which));
        }
    }
    *out += "\n";
    say(out, "traces", &line);
    let closed = traces["closed"].as_object().into_iter().flatten();
    let reasons = closed
        .filter(|(_, count)| number(count) > 0)
        .map(|(reason, count)| format!("{} {}", show::count(count), show::plain(reason)));
    let reasons: Vec<String> = reasons.collect();
    if !reasons.is_empty() {
        say(out, "closed", &reasons.join(", "));
    }
}

fn policies(out: &mut String, status: &Value) {
    let mut columns = Columns::new(
        2,
        &[
            "policy",
            "type",
            "evaluated",
            "matched",
            "decided",
            "sole",
            "kept spans",
            "kept bytes",
        ],
    );
    for policy in items(&status["policies"]) {
        let name = match policy["dry_run"] == true {
            true => format!("{} (dry run)", text(&policy["name"])),
            false => text(&policy["name"]),
        };
        let counts = ["evaluated", "matched", "decided", "sole", "kept_spans"];
        let cells = counts.map(|which| show::count(&policy[which]));
        let kept = show::bytes(number(&policy["kept_bytes"]));
        columns.row(
            [name, text(&policy["type"])]
                .into_iter()
                .chain(cells)
                .chain([kept]),
        );
    }
    *out += "\n";
    *out += &columns.draw("");
}

fn stores(out: &mut String, status: &Value) {
    let wal = &status["wal"];
    *out += "\n";
    say(
        out,
        "log",
        &format!(
            "{} of {} in {} segments, {} free on disk, reaches back {}, durability {}, in {}",
            show::bytes(number(&wal["used_bytes"])),
            show::bytes(number(&wal["max_bytes"])),
            show::count(&wal["segments"]),
            show::bytes(number(&wal["free_disk_bytes"])),
            show::age(number(&wal["oldest_age_seconds"])),
            text(&wal["durability"]),
            text(&wal["dir"]),
        ),
    );
    let replay = &wal["last_replay"];
    say(
        out,
        "replay",
        &format!(
            "{} entries in {} segments took {:.2} s, {} traces resumed{}",
            show::count(&replay["entries"]),
            show::count(&replay["segments"]),
            replay["seconds"].as_f64().unwrap_or(0.0),
            show::count(&replay["traces_resumed"]),
            match number(&replay["skipped_bytes"]) {
                0 => String::new(),
                skipped => format!(", {} skipped as corrupt", show::bytes(skipped)),
            }
        ),
    );
    let memory = &status["memory"];
    let pressure = match number(&memory["tier"]) {
        0 => String::new(),
        tier => format!(", short of room for traces (tier {tier} of 3)"),
    };
    say(
        out,
        "memory",
        &format!(
            "{} of {}, {} evicted{pressure}",
            show::bytes(number(&memory["used_bytes"])),
            show::bytes(number(&memory["limit_bytes"])),
            show::bytes(number(&memory["evicted_bytes"])),
        ),
    );
}

fn exporters(out: &mut String, status: &Value) {
    let mut columns = Columns::new(
        2,
        &["exporter", "state", "sent", "failed", "queued", "queue", "oldest"],
    );
    let mut errors = String::new();
    for exporter in items(&status["exporters"]) {
        let counts = ["sent", "failed", "queued_items"].map(|which| show::count(&exporter[which]));
        let queue = show::bytes(number(&exporter["queued_bytes"]));
        let oldest = show::age(number(&exporter["oldest_age_seconds"]));
        let names = [text(&exporter["id"]), text(&exporter["state"])];
        columns.row(names.into_iter().chain(counts).chain([queue, oldest]));
        if !exporter["last_error"].is_null() {
            errors += &format!("  {}: {}\n", text(&exporter["id"]), text(&exporter["last_error"]));
        }
    }
    *out += "\n";
    *out += &columns.draw("");
    *out += &errors;
}

fn cores(out: &mut String, status: &Value) {
    let mut columns = Columns::new(0, &["core", "cpu", "up", "busy", "pending traces"]);
    for core in items(&status["cores"]) {
        columns.row([
            text(&core["core"]),
            text(&core["cpu"]),
            if core["up"] == true { "yes" } else { "no" }.to_owned(),
            format!("{:.0} %", core["busy_ratio"].as_f64().unwrap_or(0.0) * 100.0),
            show::count(&core["pending_traces"]),
        ]);
    }
    *out += "\n";
    *out += &columns.draw("");
}

fn cluster(out: &mut String, cluster: &Value) {
    if cluster.is_null() {
        return;
    }
    let kind = if cluster["encrypted"] == true {
        "encrypted"
    } else {
        "not encrypted"
    };
    *out += "\n";
    say(out, "cluster", &format!("{} ({kind})", text(&cluster["name"])));
    let mut columns = Columns::new(3, &["member", "address", "state", "incarnation"]);
    for member in items(&cluster["members"]) {
        columns.row(["name", "address", "state", "incarnation"].map(|key| text(&member[key])));
    }
    *out += &columns.draw("");
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_node_that_replays_has_a_head_and_no_counters() {
        let status = json!({ "node": "a", "state": "starting", "started_at": "1970-01-01T00:00:10Z",
                             "endpoints": { "grpc": "127.0.0.1:1", "cluster": null } });
        let text = draw(&status, 75_000_000_000);
        assert!(text.contains("starting, up 1 min 5 s"), "{text}");
        assert!(text.contains("grpc 127.0.0.1:1\n"), "{text}");
        assert!(text.ends_with("being replayed.\n"), "{text}");
    }

    #[test]
    fn names_from_outside_cannot_command_the_terminal() {
        let status = json!({ "node": "a\u{1b}[2J", "signals": {}, "policies": [{ "name": "\u{7}" }],
                             "problems": [{ "severity": "error", "message": "\u{1b}c", "since": "" }] });
        assert!(!draw(&status, 0).contains(|letter: char| letter.is_control() && letter != '\n'));
    }
}
