//! What the demo says, in plain lines.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::Value;

use super::ledger::{Balance, Exported};
use super::shop::Service;
use super::traffic::Outcome;
use super::tree::Shift;
use crate::commands::show::{self, Columns, grouped, number};

/// The engine's own account: its status document.
#[derive(Clone, Debug, Default)]
pub struct Account {
    pub status: Value,
}

impl Account {
    pub fn new(status: Value) -> Account {
        Account { status }
    }

    pub fn traces(&self, which: &str) -> u64 {
        number(&self.status["traces"][which])
    }

    fn spans(&self, which: &str) -> u64 {
        number(&self.status["signals"]["spans"][which])
    }

    fn exporter(&self, which: &str) -> u64 {
        number(&self.status["exporters"][0][which])
    }

    /// Everything was decided, and what was kept has been exported.
    pub fn is_settled(&self) -> bool {
        let exported = self.exporter("sent") + self.exporter("failed");
        self.traces("pending") == 0 && self.exporter("queued_items") == 0 && exported >= self.spans("kept")
    }

    /// Disk that the logs take.
    pub fn log_bytes(&self) -> u64 {
        let wal = &self.status["wal"];
        number(&wal["used_bytes"]) + number(&wal["retained_bytes"])
    }

    /// What is wrong by its own account, a line each.
    pub fn problems(&self) -> impl Iterator<Item = String> {
        let problems = self.status["problems"].as_array().into_iter().flatten();
        problems.map(|problem| problem["message"].as_str().unwrap_or_default().to_owned())
    }
}

/// What the clients saw.
pub fn traffic(acknowledged: u64, ack_ms: (f64, f64), outcome: &Outcome) -> String {
    let requests = format!(
        "in {} requests, from {} services",
        grouped(outcome.request_count),
        Service::ALL.len()
    );
    let sent = grouped(acknowledged + outcome.unacknowledged);
    let (median, slowest) = ack_ms;
    let acks = format!(
        "each after the sync of the log that covers it: median {median:.1} ms, 99 % within {slowest:.1} ms"
    );
    format!(
        "\n{}{}",
        row("spans sent", sent, requests),
        row("  acknowledged", grouped(acknowledged), acks)
    )
}

fn row(name: &str, value: String, remark: String) -> String {
    let line = format!("{name:<20}{value:>12}  {remark}");
    format!("{}\n", line.trim_end())
}

/// What became of it, by the engine's account.
pub fn verdicts(account: &Account) -> String {
    let mut out = String::new();
    let mut row = |name: &str, value: String, remark: String| out += &row(name, value, remark);
    row(
        "traces",
        grouped(account.traces("opened") + account.traces("resumed")),
        String::new(),
    );
    let exported = format!("{} spans exported", grouped(account.exporter("sent")));
    row("  kept", grouped(account.traces("kept")), exported);
    row(
        "  rolled up",
        grouped(account.traces("rolled_up")),
        "no policy wanted them".to_owned(),
    );
    for (which, name) in [("denied", "  denied"), ("pending", "  still open")] {
        if account.traces(which) > 0 {
            row(name, grouped(account.traces(which)), String::new());
        }
    }
    row(
        "log",
        show::bytes(account.log_bytes()),
        "on disk, in segments of 8 MiB".to_owned(),
    );
    out + &policies(account)
}

/// Which routes' traces a deploy made slow, by what was kept of them.
pub fn deploy(shifts: &BTreeMap<&str, Shift>) -> String {
    let mut columns = Columns::new(1, &["kept by policy slow", "before the deploy", "after"]);
    for (route, shift) in shifts {
        columns.row([show::plain(route), grouped(shift.before), grouped(shift.after)]);
    }
    format!("\n{}", columns.draw(""))
}

/// What the crash cost, by the ids that were acknowledged and those in the output.
pub fn balance(balance: &Balance, exported: &Exported) -> String {
    let mut out = format!("\n{:<22}{:>10}{:>10}\n", "", "spans", "traces");
    let rows = [
        (
            "acknowledged",
            balance.acknowledged,
            "by ids, before and after the kill",
        ),
        (
            "  to be kept",
            balance.due,
            "an error, slower than 1 s, or one of the 5 %",
        ),
        ("  in the output", balance.found, "of those"),
        (
            "lost",
            balance.lost,
            "acknowledged, to be kept, and not in the output",
        ),
    ];
    for (name, count, remark) in rows {
        out += &format!(
            "{name:<22}{:>10}{:>10}  {remark}\n",
            grouped(count.spans),
            grouped(count.traces)
        );
    }
    out += &format!(
        "{:<22}{:>10}{:>10}  allowed after a crash: nothing is dropped in doubt\n",
        "exported twice",
        grouped(exported.repeated),
        ""
    );
    for trace in &balance.examples {
        out += &format!("  lacks a span: trace {trace}\n");
    }
    out
}

fn policies(account: &Account) -> String {
    let mut out = String::from("\npolicy      type             traces matched  traces kept  spans kept\n");
    for policy in account.status["policies"].as_array().into_iter().flatten() {
        let word = |key: &str| policy[key].as_str().unwrap_or_default().to_owned();
        let count = |key: &str| grouped(number(&policy[key]));
        writeln!(
            out,
            "{:<10}  {:<15}  {:>14}  {:>11}  {:>10}",
            word("name"),
            word("type"),
            count("matched"),
            count("decided"),
            count("kept_spans")
        )
        .expect("a string takes everything");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nothing_is_settled_before_the_kept_spans_are_exported() {
        let account = |pending: u64, queued: u64, sent: u64| {
            Account::new(json!({
                "traces": { "pending": pending }, "signals": { "spans": { "kept": 7 } },
                "exporters": [{ "queued_items": queued, "sent": sent, "failed": 0 }],
            }))
        };
        assert!(account(0, 0, 7).is_settled());
        for (pending, queued, sent) in [(1, 0, 7), (0, 1, 7), (0, 0, 6)] {
            assert!(!account(pending, queued, sent).is_settled());
        }
    }
}
