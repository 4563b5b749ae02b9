//! `tailkeep demo`: the engine at work on the traffic of a small shop, and one of the traces it kept.
//!
//! ```text
//!  shop ─ spans ─► traffic: eight services ─ OTLP/HTTP ─► engine: `tailkeep run` ─► tailkeep-demo.jsonl ─► tree
//!                     │ acknowledged ids                      └─ status ─► live, report       │
//!                     └──────────────► ledger ◄──────────────────── exported ids ─────────────┘
//! ```
//!
//! Nothing is staged: the engine is a process of its own with a log on disk, and what is printed is what its
//! status and its output file say. Half-way something happens: a deploy makes one route slow, or with `--crash`
//! the engine is killed in mid-load and started again. What was lost then is worked out from ids.

mod engine;
mod ledger;
mod live;
mod report;
mod shop;
mod traffic;
mod tree;

use std::cell::Cell;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::http::Client;
use super::show::{self, number};
use super::{DemoArguments, Failure, LogFlags, explain, print_result};
use crate::base::time::Instant;
use crate::config::units::{parse_duration, show_duration};
use crate::io::clock::Clock;
use crate::io::datadir::random_u64;
use engine::{Engine, Scratch, Start};
use ledger::Ledger;
use live::{Answers, Live, Reading};
use report::Account;
use shop::{Batches, Service, Shop};
use traffic::{Acknowledged, Clients};
use tree::Output;

const DURATION: Duration = Duration::from_secs(20);
/// Longer ones would fill the disk of someone who forgot about it.
const DURATION_MAX: Duration = Duration::from_secs(3600);
/// The ids of every acknowledged span are kept: some 100 bytes each.
const CRASH_DURATION_MAX: Duration = Duration::from_secs(600);
const SPANS_PER_SECOND: f64 = 2_000.0;
const TICK: Duration = Duration::from_millis(100);
/// For the last traces to be decided and exported: several times `decision_wait`.
const SETTLE_TIME: Duration = Duration::from_secs(60);
const VERSIONS: [&str; 2] = ["1.4.2", "1.5.0"];

pub fn demo(arguments: &DemoArguments, log: &LogFlags) -> Result<(), Failure> {
    let longest = if arguments.crash {
        CRASH_DURATION_MAX
    } else {
        DURATION_MAX
    };
    let duration = match &arguments.duration {
        None => DURATION,
        Some(text) => parse_duration(text)
            .filter(|duration| !duration.is_zero() && *duration <= longest)
            .ok_or_else(|| {
                let found = text.escape_debug();
                Failure::Usage(format!(
                    "error: --for: expected a duration up to {} such as 30s, found \"{found}\"",
                    show_duration(longest)
                ))
            })?,
    };
    let interrupts = Interrupts::install()?;
    let scratch = Scratch::new()?;
    let start = Start {
        scratch: &scratch,
        flags: log,
        // What a client tries again after the restart must not come after the verdict.
        decision_wait: if arguments.crash { "9s" } else { "4s" },
    };
    let mut engine = Engine::start(&start, None, &interrupts)?;
    let shown = Demo {
        start: &start,
        interrupts: &interrupts,
        clock: Clock::new(),
        duration,
        crashes: arguments.crash,
        acknowledged: 0,
        recent: Answers::default(),
        answers: Answers::default(),
        ledger: Ledger::default(),
        deployed_at_ns: None,
    }
    .show(&mut engine);
    engine.stop(&interrupts);
    let remarks = engine.remarks();
    if !remarks.is_empty() {
        eprint!("{remarks}");
    }
    shown
}

/// SIGINT and SIGTERM, taken note of, so that the engine is ended and its directory removed.
pub struct Interrupts {
    signalled: Arc<AtomicBool>,
    asked: Cell<bool>,
}

impl Interrupts {
    fn install() -> Result<Interrupts, Failure> {
        use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
        let signalled = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, signalled.clone())
                .map_err(|error| Failure::Environment(format!("signals: {error}")))?;
        }
        Ok(Interrupts {
            signalled,
            asked: Cell::new(false),
        })
    }

    /// Whether the demo is to end.
    pub fn stop(&self) -> bool {
        if self.again() {
            self.asked.set(true);
        }
        self.asked.get()
    }

    /// Whether a signal came since the last look.
    pub fn again(&self) -> bool {
        self.signalled.swap(false, Ordering::Relaxed)
    }

    fn check(&self) -> Result<(), Failure> {
        match self.stop() {
            true => Err(Failure::Environment("interrupted".to_owned())),
            false => Ok(()),
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "the demo's threads are no executors")]
fn pause(duration: Duration) {
    std::thread::sleep(duration);
}

/// One demo, and what its clients were told so far.
struct Demo<'a> {
    start: &'a Start<'a>,
    interrupts: &'a Interrupts,
    clock: Clock,
    duration: Duration,
    crashes: bool,
    /// Spans.
    acknowledged: u64,
    /// Since the last reading.
    recent: Answers,
    answers: Answers,
    /// Of a demo that crashes.
    ledger: Ledger,
    deployed_at_ns: Option<u64>,
}

impl Demo<'_> {
    fn show(mut self, engine: &mut Engine) -> Result<(), Failure> {
        let event = match self.crashes {
            true => "Half-way the engine is killed with SIGKILL and started again.",
            false => "Half-way a deploy of checkout makes one route slow.",
        };
        print_result(&format!(
            "A small shop of {} services sends some {SPANS_PER_SECOND} spans a second for {} to a tailkeep of its own.\n\
             It keeps traces with errors, traces slower than 1 s, and 5 % of the rest. {event}\n\
             Watch it in a browser: http://{}/\n\n{}\n",
            Service::ALL.len(),
            show_duration(self.duration),
            engine.addresses.admin,
            engine.ready
        ))?;
        let mut admin = Client::new(&engine.addresses.admin);
        let clients = Clients::start(&engine.addresses.http);
        let driven = self.drive(engine, &clients, &mut admin);
        if driven.is_err() {
            // Also after an interrupt: their threads end with the requests they have.
            clients.give_up();
        }
        let outcome = clients.finish(|acknowledged| self.note(acknowledged));
        driven?;
        let account = self.settle(&mut admin)?;
        let ack_ms = self.answers.percentiles().unwrap_or_default();
        print_result(&report::traffic(self.acknowledged, ack_ms, &outcome))?;
        // A restarted engine counts from its restart.
        if !self.crashes {
            print_result(&report::verdicts(&account))?;
        }
        for problem in outcome.last_error.iter().cloned().chain(account.problems()) {
            // A connection that breaks is what a crash looks like from outside.
            if !self.crashes {
                eprintln!("warning: {}", show::plain(&problem));
            }
        }
        if self.acknowledged == 0 {
            return Err(Failure::Environment("the engine acknowledged nothing".to_owned()));
        }
        let path = &self.start.scratch.output;
        let output = read(path)?;
        if let Some(at_ns) = self.deployed_at_ns {
            print_result(&report::deploy(&output.shifts("slow", at_ns)))?;
        }
        let balance = self.crashes.then(|| self.ledger.balance(&output.exported));
        if let Some(balance) = &balance {
            print_result(&report::balance(balance, &output.exported))?;
        }
        print_result(&kept_trace(&output, &mut admin, path))?;
        match balance.map_or(0, |balance| balance.lost.spans) {
            0 => Ok(()),
            lost => Err(Failure::Environment(format!(
                "{lost} acknowledged spans are not in the output"
            ))),
        }
    }

    fn note(&mut self, answer: Acknowledged) {
        self.acknowledged += answer.spans.len() as u64;
        self.recent.add(answer.took);
        self.answers.add(answer.took);
        if self.crashes {
            self.ledger.add(&answer.spans);
        }
    }

    /// Sends for as long as was asked, and tells how it goes.
    fn drive(&mut self, engine: &mut Engine, clients: &Clients, admin: &mut Client) -> Result<(), Failure> {
        let began = self.clock.now().instant;
        let mut shop = Shop::new(random_u64());
        let mut batches = Batches::default();
        let mut made = 0;
        let mut live = Live::new(self.duration);
        let mut is_before_event = true;
        loop {
            self.interrupts.check()?;
            let now = self.clock.now();
            let elapsed = now.instant.since(began);
            if is_before_event && elapsed >= self.duration / 2 {
                is_before_event = false;
                if self.crashes {
                    self.crash(engine, clients, admin, &mut live)?;
                } else {
                    shop.deploy();
                    self.deployed_at_ns = Some(now.wall.0);
                    let seconds = elapsed.as_secs();
                    live.tell(&format!("{seconds:>4} s  checkout {} is deployed", VERSIONS[1]))?;
                }
                continue;
            }
            let due = (elapsed.min(self.duration).as_secs_f64() * SPANS_PER_SECOND) as usize;
            while made < due {
                made += shop.visit(now.wall.0, &mut batches);
            }
            clients.offer(&mut batches, VERSIONS[usize::from(shop.is_deployed())]);
            clients.acknowledged().for_each(|answer| self.note(answer));
            if live.is_due(elapsed) {
                let reading = self.read(elapsed, clients, admin)?;
                live.show(&reading)?;
            }
            if elapsed >= self.duration && batches.iter().all(Vec::is_empty) {
                return Ok(());
            }
            pause(TICK);
        }
    }

    fn read(&mut self, elapsed: Duration, clients: &Clients, admin: &mut Client) -> Result<Reading, Failure> {
        Ok(Reading {
            elapsed,
            sent: clients.shared.sent.load(Ordering::Relaxed),
            acknowledged: self.acknowledged,
            ack_ms: std::mem::take(&mut self.recent).percentiles(),
            account: account(admin)?,
        })
    }

    /// Kills the engine while its clients send, and starts it on the same ports and the same directory.
    fn crash(
        &mut self,
        engine: &mut Engine,
        clients: &Clients,
        admin: &mut Client,
        live: &mut Live,
    ) -> Result<(), Failure> {
        let pending = account(admin)?.traces("pending");
        engine.kill();
        let killed: Instant = self.clock.instant();
        clients.acknowledged().for_each(|answer| self.note(answer));
        live.tell(&format!(
            "\nSIGKILL: {} spans are acknowledged, {} traces have no verdict yet. Starting again …",
            show::grouped(self.acknowledged),
            show::grouped(pending)
        ))?;
        let addresses = engine.addresses.clone();
        *engine = Engine::start(self.start, Some(&addresses), self.interrupts)?;
        let away = self.clock.instant().since(killed);
        *admin = Client::new(&addresses.admin);
        let replay = account(admin)?.status["wal"]["last_replay"].take();
        live.tell(&format!(
            "Ready again after {:.1} s: {} log entries read in {:.2} s, {} traces taken up again.\n",
            away.as_secs_f64(),
            show::count(&replay["entries"]),
            replay["seconds"].as_f64().unwrap_or(0.0),
            show::grouped(number(&replay["traces_resumed"])),
        ))
    }

    /// Waits until every trace is decided and the kept ones are in the file.
    fn settle(&self, admin: &mut Client) -> Result<Account, Failure> {
        let until = self.clock.instant().plus(SETTLE_TIME);
        loop {
            self.interrupts.check()?;
            let account = account(admin)?;
            if account.is_settled() {
                return Ok(account);
            }
            if self.clock.instant() >= until {
                eprintln!(
                    "warning: not everything was decided and exported within {} s",
                    SETTLE_TIME.as_secs()
                );
                return Ok(account);
            }
            pause(TICK);
        }
    }
}

fn account(admin: &mut Client) -> Result<Account, Failure> {
    let failure = |why: String| Failure::Environment(format!("the engine does not answer: {why}"));
    let reply = admin
        .get("/api/v1/status")
        .map_err(|error| failure(error.to_string()))?;
    let status = serde_json::from_slice(&reply.body).map_err(|error| failure(error.to_string()))?;
    Ok(Account::new(status))
}

fn read(output: &Path) -> Result<Output, Failure> {
    let failure = |error: std::io::Error| Failure::Environment(format!("{}: {error}", output.display()));
    Output::read(BufReader::new(File::open(output).map_err(failure)?)).map_err(failure)
}

fn kept_trace(output: &Output, admin: &mut Client, path: &Path) -> String {
    let drawn = match output.most_telling() {
        Some(trace) => format!(
            "One of the kept traces, read back from the output:\n\n{}{}",
            trace.draw(),
            why(admin, &trace.trace_id)
        ),
        None => "No trace was kept: so few were sent that none had an error or was slow.\n".to_owned(),
    };
    let program = std::env::args().next().unwrap_or_else(|| "tailkeep".to_owned());
    format!(
        "\n{drawn}\n\
         All of them are in {}. What to do next:\n\
         \x20 {program} demo --crash             kill the engine in mid-load and see what is lost\n\
         \x20 {program} doctor                   see whether this host is fit\n\
         \x20 {program} run                      receive on 127.0.0.1:4317 (gRPC) and :4318 (HTTP), keep every trace\n\
         \x20 {program} print-config --example   a configuration with sampling, to begin with\n",
        path.display()
    )
}

/// What each policy said of it, as far as the engine still knows.
fn why(admin: &mut Client, trace_id: &str) -> String {
    let reply = admin.get(&format!("/api/v1/traces/{trace_id}"));
    let explained = reply
        .ok()
        .and_then(|reply| serde_json::from_slice(&reply.body).ok());
    explained.map_or_else(String::new, |explained| explain::policies(&explained))
}
