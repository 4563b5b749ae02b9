//! `tailkeep demo`: the engine at work on the traffic of a small shop, and one of the traces it kept.
//!
//! ```text
//!  shop ─ spans ─► traffic: five services ─ OTLP/HTTP ─► engine: `tailkeep run` ─► tailkeep-demo.jsonl ─► tree
//!                                                            └─ status ─► report
//! ```
//!
//! Nothing is staged: the engine is a process of its own with a log on disk, and what is printed is what its
//! status page and its output file say.

mod engine;
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
use super::{DemoArguments, Failure, LogFlags, not_yet, print_result};
use crate::config::units::{parse_duration, show_duration};
use crate::io::clock::Clock;
use crate::io::datadir::random_u64;
use engine::{Engine, Scratch};
use report::Account;
use shop::{Batches, Shop};
use traffic::Clients;

const DURATION: Duration = Duration::from_secs(10);
/// Longer ones would fill the disk of someone who forgot about it.
const DURATION_MAX: Duration = Duration::from_secs(3600);
const SPANS_PER_SECOND: f64 = 2_000.0;
const TICK: Duration = Duration::from_millis(100);
/// Lines of progress at most.
const PROGRESS_LINES_MAX: u32 = 20;
/// For the last traces to be decided and exported: several times `decision_wait`.
const SETTLE_TIME: Duration = Duration::from_secs(30);

pub fn demo(arguments: &DemoArguments, log: &LogFlags) -> Result<(), Failure> {
    let duration = match &arguments.duration {
        None => DURATION,
        Some(text) => parse_duration(text)
            .filter(|duration| !duration.is_zero() && *duration <= DURATION_MAX)
            .ok_or_else(|| {
                let found = text.escape_debug();
                Failure::Usage(format!(
                    "error: --for: expected a duration up to 1h such as 30s, found \"{found}\""
                ))
            })?,
    };
    if arguments.crash {
        return not_yet("demo --crash");
    }
    let interrupts = Interrupts::install()?;
    let scratch = Scratch::new()?;
    let mut engine = Engine::start(&scratch, log, &interrupts)?;
    let shown = show(&engine, &scratch.output, duration, &interrupts);
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

fn show(engine: &Engine, output: &Path, duration: Duration, interrupts: &Interrupts) -> Result<(), Failure> {
    print_result(&format!(
        "A small shop of five services sends some {SPANS_PER_SECOND} spans a second for {} to a tailkeep of its own.\n\
         It keeps traces with errors, traces slower than 1 s, and 5 % of the rest.\n\n{}\n",
        show_duration(duration),
        engine.ready
    ))?;
    let mut admin = Client::new(&engine.admin);
    let clients = Clients::start(&engine.http);
    let counts = clients.counts.clone();
    let count = || {
        (
            counts.sent.load(Ordering::Relaxed),
            counts.acknowledged.load(Ordering::Relaxed),
        )
    };
    let driven = drive(&clients, &mut admin, duration, interrupts, &count);
    // Also after an interrupt: their threads end with the requests they have.
    let outcome = clients.finish();
    driven?;
    let account = settle(&mut admin, interrupts)?;
    let (sent, acknowledged) = count();
    print_result(&report::summary(sent, acknowledged, &outcome, &account))?;
    for problem in outcome.last_error.iter().cloned().chain(account.problems()) {
        eprintln!("warning: {problem}");
    }
    if acknowledged == 0 {
        return Err(Failure::Environment("the engine acknowledged nothing".to_owned()));
    }
    print_result(&kept_trace(output)?)
}

/// Sends for as long as was asked, and tells how it goes.
fn drive(
    clients: &Clients,
    admin: &mut Client,
    duration: Duration,
    interrupts: &Interrupts,
    count: &impl Fn() -> (u64, u64),
) -> Result<(), Failure> {
    let clock = Clock::new();
    let began = clock.now().instant;
    let mut shop = Shop::new(random_u64());
    let mut batches = Batches::default();
    let mut made = 0;
    let interval = (duration / PROGRESS_LINES_MAX).max(Duration::from_secs(1));
    let mut told = Duration::ZERO;
    print_result(report::PROGRESS_HEAD)?;
    loop {
        interrupts.check()?;
        let now = clock.now();
        let elapsed = now.instant.since(began);
        let due = (elapsed.min(duration).as_secs_f64() * SPANS_PER_SECOND) as usize;
        while made < due {
            made += shop.visit(now.wall.0, &mut batches);
        }
        clients.offer(&mut batches);
        if elapsed >= told + interval {
            told += interval;
            let (sent, acknowledged) = count();
            let account = account(admin)?;
            print_result(&report::progress(elapsed, sent, acknowledged, &account))?;
        }
        if elapsed >= duration && batches.iter().all(Vec::is_empty) {
            return Ok(());
        }
        pause(TICK);
    }
}

/// Waits until every trace is decided and the kept ones are in the file.
fn settle(admin: &mut Client, interrupts: &Interrupts) -> Result<Account, Failure> {
    let clock = Clock::new();
    let until = clock.instant().plus(SETTLE_TIME);
    loop {
        interrupts.check()?;
        let account = account(admin)?;
        if account.is_settled() {
            return Ok(account);
        }
        if clock.instant() >= until {
            eprintln!(
                "warning: not everything was decided and exported within {} s",
                SETTLE_TIME.as_secs()
            );
            return Ok(account);
        }
        pause(TICK);
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

fn kept_trace(output: &Path) -> Result<String, Failure> {
    let failure = |error: std::io::Error| Failure::Environment(format!("{}: {error}", output.display()));
    let lines = BufReader::new(File::open(output).map_err(failure)?);
    let trace = tree::most_telling(lines).map_err(failure)?;
    let drawn = match trace {
        Some(trace) => format!(
            "One of the kept traces, read back from the output:\n\n{}",
            trace.draw()
        ),
        None => "No trace was kept: so few were sent that none had an error or was slow.\n".to_owned(),
    };
    let program = std::env::args().next().unwrap_or_else(|| "tailkeep".to_owned());
    Ok(format!(
        "\n{drawn}\n\
         All of them are in {}. What to do next:\n\
         \x20 {program} run                      receive on 127.0.0.1:4317 (gRPC) and :4318 (HTTP), keep every trace\n\
         \x20 {program} print-config --example   a configuration with sampling, to begin with\n\
         \x20 {program} cat --help               see what a data directory holds\n",
        output.display()
    ))
}
