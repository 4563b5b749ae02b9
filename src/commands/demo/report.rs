//! What the demo says, in plain lines.

use std::fmt::Write;
use std::time::Duration;

use serde_json::Value;

use super::traffic::Outcome;
use crate::commands::show::{grouped, number};

/// The engine's own account, from its status page.
#[derive(Clone, Debug, Default)]
pub struct Account {
    status: Value,
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

    /// What is wrong by its own account, a line each.
    pub fn problems(&self) -> impl Iterator<Item = String> {
        let problems = self.status["problems"].as_array().into_iter().flatten();
        problems.map(|problem| problem["message"].as_str().unwrap_or_default().to_owned())
    }
}

pub const PROGRESS_HEAD: &str = "\n  time  spans sent  acknowledged  traces open     kept  rolled up\n";

pub fn progress(elapsed: Duration, sent: u64, acknowledged: u64, account: &Account) -> String {
    format!(
        "{:>4} s  {:>10}  {:>12}  {:>11}  {:>7}  {:>9}\n",
        elapsed.as_secs(),
        grouped(sent),
        grouped(acknowledged),
        grouped(account.traces("pending")),
        grouped(account.traces("kept")),
        grouped(account.traces("rolled_up")),
    )
}

pub fn summary(sent: u64, acknowledged: u64, outcome: &Outcome, account: &Account) -> String {
    let mut out = String::from("\n");
    let mut row = |name: &str, value: String, remark: String| {
        out += format!("{name:<20}{value:>12}  {remark}").trim_end();
        out.push('\n');
    };
    let requests = format!(
        "in {} requests, from five services",
        grouped(outcome.request_count)
    );
    row("spans sent", grouped(sent), requests);
    let acks = format!(
        "each after the sync of the log that covers it: median {:.1} ms, 99 % within {:.1} ms",
        outcome.ack_ms(50),
        outcome.ack_ms(99)
    );
    row("  acknowledged", grouped(acknowledged), acks);
    row("traces", grouped(account.traces("opened")), String::new());
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
    let wal = &account.status["wal"];
    let bytes = number(&wal["used_bytes"]) + number(&wal["retained_bytes"]);
    row(
        "log",
        format!("{:.1} MB", bytes as f64 / 1e6),
        "on disk, in segments of 8 MiB".to_owned(),
    );
    out + &policies(account)
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
