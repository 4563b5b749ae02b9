//! How it goes, while it goes: a table redrawn in place on a terminal, otherwise a line every now and then.

use std::io::{self, IsTerminal};
use std::time::Duration;

use super::report::Account;
use crate::commands::show::{self, grouped, items, number, text};
use crate::commands::{Failure, print_result};

/// Between two drawings on a terminal.
const REDRAW: Duration = Duration::from_millis(500);
/// Lines where nothing can be redrawn, unless they would be further apart than people wait.
const LINES: u32 = 20;
const LINE_INTERVAL_MAX: Duration = Duration::from_secs(10);
/// A reading of rates reaches back this far, so that they do not jump with every batch.
const RATE_TIME: Duration = Duration::from_secs(3);

/// What is shown once.
#[derive(Clone, Default)]
pub struct Reading {
    pub elapsed: Duration,
    pub sent: u64,
    pub acknowledged: u64,
    /// Of the requests acknowledged since the last reading: the middle one, and the slowest of a hundred.
    pub ack_ms: Option<(f64, f64)>,
    pub account: Account,
}

pub struct Live {
    duration: Duration,
    on_terminal: bool,
    interval: Duration,
    next: Duration,
    /// Lines of the table that stand on the screen.
    drawn: usize,
    /// The last few readings, oldest first.
    sent: Vec<(Duration, u64)>,
}

impl Live {
    pub fn new(duration: Duration) -> Live {
        let dumb = std::env::var_os("TERM").is_none_or(|kind| kind == "dumb");
        let on_terminal = io::stdout().is_terminal() && !dumb;
        let interval = match on_terminal {
            true => REDRAW,
            false => (duration / LINES).clamp(Duration::from_secs(1), LINE_INTERVAL_MAX),
        };
        Live {
            duration,
            on_terminal,
            interval,
            next: if on_terminal { Duration::ZERO } else { interval },
            drawn: 0,
            sent: Vec::new(),
        }
    }

    /// Whether it is time for a reading.
    pub fn is_due(&self, elapsed: Duration) -> bool {
        elapsed >= self.next
    }

    pub fn show(&mut self, reading: &Reading) -> Result<(), Failure> {
        while self.next <= reading.elapsed {
            self.next += self.interval;
        }
        self.sent.push((reading.elapsed, reading.sent));
        let keep_from = reading.elapsed.saturating_sub(RATE_TIME);
        let recent = self.sent.iter().position(|(at, _)| *at >= keep_from).unwrap_or(0);
        self.sent.drain(..recent);
        match self.on_terminal {
            true => {
                let table = self.table(reading);
                let out = format!("{}{table}", self.erase());
                self.drawn = table.lines().count();
                print_result(&out)
            }
            false => {
                let head = match self.drawn {
                    0 => line_head(reading),
                    _ => String::new(),
                };
                self.drawn = 1;
                print_result(&format!("{head}{}", line(reading)))
            }
        }
    }

    /// A line that stays, above the table.
    pub fn tell(&mut self, event: &str) -> Result<(), Failure> {
        let out = match self.on_terminal {
            true => format!("{}{event}\n", self.erase()),
            false => format!("{event}\n"),
        };
        if self.on_terminal {
            self.drawn = 0;
        }
        print_result(&out)
    }

    /// Up to the table's first line, and everything from there cleared.
    fn erase(&self) -> String {
        match self.drawn {
            0 => String::new(),
            lines => format!("\x1b[{lines}A\x1b[J"),
        }
    }

    fn per_second(&self) -> f64 {
        let (Some((from, before)), Some((to, after))) = (self.sent.first(), self.sent.last()) else {
            return 0.0;
        };
        let seconds = to.saturating_sub(*from).as_secs_f64();
        if seconds > 0.0 {
            (after - before) as f64 / seconds
        } else {
            0.0
        }
    }

    /// Lines of at most 78 columns: one that wraps cannot be redrawn.
    fn table(&self, reading: &Reading) -> String {
        let account = &reading.account;
        let memory = &account.status["memory"];
        let ack = reading
            .ack_ms
            .map_or("no request answered".to_owned(), |(median, slowest)| {
                format!("within {median:.1} ms, 99 % within {slowest:.1} ms")
            });
        let kept: Vec<String> = items(&account.status["policies"])
            .map(|policy| format!("{} {}", text(&policy["name"]), show::count(&policy["decided"])))
            .collect();
        let rows = [
            (
                "in",
                reading.sent,
                format!("spans, {:.0} a second", self.per_second()),
            ),
            ("acknowledged", reading.acknowledged, ack),
            (
                "pending",
                account.traces("pending"),
                "traces wait for their verdict".to_owned(),
            ),
            (
                "kept",
                account.traces("kept"),
                format!("traces: {}", kept.join(", ")),
            ),
            (
                "dropped",
                account.traces("rolled_up") + account.traces("denied"),
                "traces that no policy wants".to_owned(),
            ),
        ];
        let mut out = format!(
            "\n  {:<14}{:>9} s of {} s\n",
            "time",
            reading.elapsed.min(self.duration).as_secs(),
            self.duration.as_secs()
        );
        for (name, value, remark) in rows {
            out += &format!("  {name:<14}{:>9} {remark}\n", grouped(value));
        }
        for (name, value, remark) in [
            ("log", account.log_bytes(), "on disk".to_owned()),
            (
                "memory",
                number(&memory["used_bytes"]),
                format!("of {}", show::bytes(number(&memory["limit_bytes"]))),
            ),
        ] {
            out += &format!("  {name:<14}{:>9} {remark}\n", show::bytes(value));
        }
        let fits = out
            .lines()
            .map(|line| line.chars().take(78).collect::<String>() + "\n");
        fits.collect()
    }
}

/// Policies' names stand above their counts.
fn policies(account: &Account) -> impl Iterator<Item = (String, u64)> + '_ {
    items(&account.status["policies"]).map(|policy| (text(&policy["name"]), number(&policy["decided"])))
}

fn line_head(reading: &Reading) -> String {
    let kept: String = policies(&reading.account)
        .map(|(name, _)| format!("  {name:>8}"))
        .collect();
    format!("\n  time   spans in  acknowledged  99 % ms  pending{kept}  rolled up       log    memory\n")
}

fn line(reading: &Reading) -> String {
    let account = &reading.account;
    let kept: String = policies(account)
        .map(|(_, count)| format!("  {:>8}", grouped(count)))
        .collect();
    format!(
        "{:>4} s  {:>9}  {:>12}  {:>7}  {:>7}{kept}  {:>9}  {:>8}  {:>8}\n",
        reading.elapsed.as_secs(),
        grouped(reading.sent),
        grouped(reading.acknowledged),
        reading
            .ack_ms
            .map_or("-".to_owned(), |(_, slowest)| format!("{slowest:.1}")),
        grouped(account.traces("pending")),
        grouped(account.traces("rolled_up") + account.traces("denied")),
        show::bytes(account.log_bytes()),
        show::bytes(number(&account.status["memory"]["used_bytes"])),
    )
}

/// Durations of answers since the last reading, in milliseconds.
#[derive(Default)]
pub struct Answers(Vec<f64>);

impl Answers {
    pub fn add(&mut self, took: Duration) {
        self.0.push(took.as_secs_f64() * 1e3);
    }

    /// The middle one and the slowest of a hundred.
    pub fn percentiles(&mut self) -> Option<(f64, f64)> {
        self.0.sort_by(f64::total_cmp);
        let last = self.0.len().checked_sub(1)?;
        Some((self.0[last / 2], self.0[last * 99 / 100]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_table_is_as_high_each_time_and_never_wraps() {
        let mut live = Live::new(Duration::from_secs(10));
        let policy = |name: &str| json!({ "name": name, "decided": 1_000_000_000u64 });
        let status = json!({ "policies": [policy(&"x".repeat(100)), policy("y")] });
        let mut reading = Reading::default();
        let low = live.table(&reading).lines().count();
        reading.account = Account::new(status);
        reading.ack_ms = Some((1.0, 2.0));
        live.sent.push((Duration::ZERO, 0));
        let table = live.table(&reading);
        assert_eq!(table.lines().count(), low);
        assert!(table.lines().all(|line| line.chars().count() <= 78), "{table}");
    }

    #[test]
    fn percentiles_are_of_what_was_answered() {
        let mut answers = Answers::default();
        assert_eq!(answers.percentiles(), None);
        (1..=100).for_each(|ms| answers.add(Duration::from_millis(ms)));
        assert_eq!(answers.percentiles(), Some((50.0, 99.0)));
    }
}
