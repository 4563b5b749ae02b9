//! The load generator: one thread that outruns a tail sampler on another core.
//!
//! ```text
//!  Source ── Parcel (patched request) ──▶ grpc | http ──▶ server
//!    ▲        ledger: sent                     │
//!    └── buffer comes back ── Tally ◀── Outcome ┘
//!                      ledger: acknowledged
//! ```
//!
//! Two loops. *Closed*: each of the `connections × in-flight` lanes sends its next request when the last
//! one is answered; that shows the highest rate, and its latencies only say how deep the queues were.
//! *Open* (`--rate`): requests have intended moments that do not wait for the server, and latency counts
//! from the intended moment, so a server that stalls cannot hide it by slowing its client down.
//!
//! Bias, to be stated with every figure: client and server share caches and memory bandwidth, the
//! loopback charges the receiving half of TCP to the sender, and the latency includes this thread's own
//! queue (one patch of a 200 KB request takes about 10 µs).

pub mod batch;
mod cork;
mod grpc;
mod http;
mod identity;
pub mod ledger;
mod process;
mod report;
mod schedule;
mod source;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::{BenchError, pinned_runtime};
use batch::Shape;
use identity::TraceIds;
use ledger::Ledger;
use process::Usage;
use report::{Report, Tally};
use schedule::{Pacer, Schedule, Turn};
use source::{Parcel, Source};

#[derive(Args, Clone, Debug)]
pub struct LoadArguments {
    #[arg(long, value_enum, default_value_t = Transport::Grpc)]
    transport: Transport,
    /// host:port; 127.0.0.1:4317 for gRPC, 127.0.0.1:4318 for HTTP
    #[arg(long)]
    endpoint: Option<String>,
    /// TCP connections; 4 for gRPC, 32 for HTTP
    #[arg(long)]
    connections: Option<usize>,
    /// Concurrent requests of one gRPC connection; HTTP/1.1 has one
    #[arg(long, default_value_t = 8)]
    in_flight: usize,
    /// Spans a second, sent at even intervals whether or not the server keeps up; otherwise as fast as
    /// acknowledgements allow
    #[arg(long)]
    rate: Option<f64>,
    /// Measured time: 10s, 500ms, 2m
    #[arg(long, default_value = "10s", value_parser = parse_duration)]
    duration: Duration,
    /// Ends when so many spans were sent, if that is before its time; the last request is a whole one
    #[arg(long)]
    spans: Option<u64>,
    /// Load before measuring begins
    #[arg(long, default_value = "2s", value_parser = parse_duration)]
    warmup: Duration,
    /// Cores to run on, such as 1 or 2,3: a thread on each, which share connections and rate
    #[arg(long, alias = "cpu", value_delimiter = ',', value_name = "CPU")]
    cpus: Vec<usize>,
    /// Decides every id and size
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Mean bytes of a span message
    #[arg(long, default_value_t = 380)]
    span_bytes: usize,
    #[arg(long, default_value_t = 8)]
    spans_per_trace: usize,
    #[arg(long, default_value_t = 512)]
    spans_per_request: usize,
    /// Spread each trace over this many requests
    #[arg(long, default_value_t = 1)]
    requests_per_trace: usize,
    /// Share of traces with an error span
    #[arg(long, default_value_t = 0.03)]
    error_ratio: f64,
    /// Share of traces longer than two seconds
    #[arg(long, default_value_t = 0.01)]
    slow_ratio: f64,
    /// Resources in each request, as behind a Collector
    #[arg(long, default_value_t = 1)]
    services: usize,
    /// Traces whose spans lie among each other within a request
    #[arg(long, default_value_t = 1)]
    interleave: usize,
    /// What trace ids have in common
    #[arg(long, value_enum, default_value_t)]
    trace_ids: TraceIds,
    /// Report CPU and memory of this process
    #[arg(long)]
    server_pid: Option<u32>,
    /// Write what was sent and acknowledged (layout: bench/src/load/ledger.rs); with several cores a file
    /// for each, FILE.0 and so on
    #[arg(long)]
    ledger: Option<PathBuf>,
    /// The report as one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Transport {
    Grpc,
    Http,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The server answers for every span.
    Acked,
    /// For all but this many, which it names in `partial_success`.
    AckedInPart(u64),
    /// Not admitted for now: RESOURCE_EXHAUSTED, UNAVAILABLE, 429, 502, 503, 504.
    Refused,
    /// Any other answer, or none. The server may or may not have the spans.
    Failed,
}

/// What all lanes of one run share; one thread, so no lock.
struct Run {
    clock: quanta::Clock,
    source: RefCell<Source>,
    schedule: RefCell<Schedule>,
    tally: RefCell<Tally>,
}

/// After a refusal a lane pauses, or it would do nothing but ask again.
const PAUSE_AFTER_REFUSAL: Duration = Duration::from_millis(10);

/// Requests still unanswered this long after the end are given up and counted as failed.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(10);

impl Run {
    /// Waits for the moment of the next request; `None` when the run is over.
    async fn turn(&self, pacer: &Pacer) -> Option<Turn> {
        let now = self.clock.now();
        let turn = self.schedule.borrow_mut().next(now)?;
        pacer.wait(turn.intended.saturating_duration_since(now)).await;
        Some(turn)
    }

    fn checkout(&self) -> Parcel {
        self.source.borrow_mut().checkout(wall_ns())
    }

    /// Books the outcome and takes the buffer back; says whether to pause.
    async fn settle(&self, parcel: Parcel, turn: Turn, outcome: Outcome) {
        let latency = self.clock.now().saturating_duration_since(turn.intended);
        let (spans, bytes) = (parcel.span_count(), parcel.body_len());
        self.tally.borrow_mut().settle(outcome, spans, bytes, latency);
        self.source.borrow_mut().settle(parcel, outcome);
        if outcome == Outcome::Refused {
            tokio::time::sleep(PAUSE_AFTER_REFUSAL).await;
        }
    }
}

pub fn run(arguments: &LoadArguments) -> Result<(), BenchError> {
    let shares = arguments.shares();
    let measured: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = shares
            .iter()
            .map(|share| scope.spawn(|| run_share(share)))
            .collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        joined.map(|outcome| outcome.expect("a panic aborts")).collect()
    });
    let mut all: Option<Report> = None;
    let mut lost = None;
    for share in measured {
        let (report, why) = share?;
        lost = lost.or(why);
        match &mut all {
            None => all = Some(report),
            Some(all) => all.merge(report),
        }
    }
    let mut report = all.expect("there is a share at least");
    report.setting.connections = arguments.connection_count();
    report.setting.rate = arguments.rate;
    if arguments.json {
        println!("{}", report.to_json());
    } else {
        print!("{}", report.to_text());
    }
    lost.map_or(Ok(()), |reason| Err(BenchError::ConnectionsLost(reason)))
}

fn run_share(share: &LoadArguments) -> Result<(Report, Option<String>), BenchError> {
    let runtime = pinned_runtime(share.cpus.first().copied())?;
    tokio::task::LocalSet::new().block_on(&runtime, measure(share))
}

/// The report, and why the last connection was lost if none lived to the end.
async fn measure(arguments: &LoadArguments) -> Result<(Report, Option<String>), BenchError> {
    let shape = arguments.shape();
    shape.check().map_err(BenchError::Usage)?;
    let address = arguments.address()?;
    let lanes = arguments.connection_count() * arguments.lanes_per_connection();
    if lanes == 0 || arguments.rate.is_some_and(|rate| rate.is_nan() || rate <= 0.0) {
        return Err(BenchError::Usage(
            "--connections, --in-flight and --rate must be positive".into(),
        ));
    }
    let ledger = match &arguments.ledger {
        Some(path) => {
            Some(Ledger::create(path).map_err(BenchError::environment(path.display().to_string()))?)
        }
        None => None,
    };
    let source = Source::new(&shape, arguments.seed, lanes, ledger);
    let request_bytes_mean = source.request_bytes_mean();
    let mut connections = Vec::new();
    for _ in 0..arguments.connection_count() {
        let stream = tokio::net::TcpStream::connect(address)
            .await
            .and_then(|stream| stream.set_nodelay(true).map(|()| stream))
            .map_err(BenchError::environment(format!("connect to {address}")))?;
        connections.push(stream);
    }

    let clock = quanta::Clock::new();
    let begin = clock.now();
    let end = begin + arguments.warmup + arguments.duration;
    let interval = arguments.rate.map(|rate| shape.spans_per_request as f64 / rate);
    let spans_per_request = shape.spans_per_request as u64;
    let request_count = |spans: u64| spans.div_ceil(spans_per_request);
    let count_max = arguments.spans.map_or(u64::MAX, request_count);
    let run = Rc::new(Run {
        clock: clock.clone(),
        source: RefCell::new(source),
        schedule: RefCell::new(Schedule::new(begin, end, interval, count_max)),
        tally: RefCell::new(Tally::default()),
    });
    eprintln!("tailkeep-bench load begins");
    let authority = address.to_string();
    let mut tasks = tokio::task::JoinSet::new();
    for stream in connections {
        let (run, authority, in_flight) = (run.clone(), authority.clone(), arguments.in_flight);
        match arguments.transport {
            Transport::Grpc => tasks.spawn_local(grpc::drive(run, stream, authority, in_flight)),
            Transport::Http => tasks.spawn_local(http::drive(run, stream, authority)),
        };
    }

    let server = |what| move |error| BenchError::environment(format!("--server-pid, {what}"))(error);
    let usage = || match arguments.server_pid {
        Some(pid) => Usage::of(pid).map(Some),
        None => Ok(None),
    };
    // A run without a living connection has nothing to wait for.
    let mut lost = None;
    let mut wait_until = async |moment: quanta::Instant, lost: &mut Option<String>| {
        let sleep = tokio::time::sleep(moment.saturating_duration_since(clock.now()));
        tokio::pin!(sleep);
        loop {
            tokio::select! {
                () = &mut sleep => return,
                ended = tasks.join_next() => match ended {
                    None => return,
                    Some(Ok(Ok(()))) => {}
                    Some(Ok(Err(error))) => *lost = Some(error),
                    Some(Err(panic)) => *lost = Some(panic.to_string()),
                },
            }
        }
    };
    wait_until(begin + arguments.warmup, &mut lost).await;
    let server_before = usage().map_err(server("at the begin"))?;
    let own_before = Usage::of_self();
    run.tally.borrow_mut().begin(clock.now());

    wait_until(end, &mut lost).await;
    let server_after = usage();
    let own_after = Usage::of_self();
    run.tally.borrow_mut().finish(clock.now());
    let behind_requests = run.schedule.borrow().due(clock.now());

    wait_until(clock.now() + DRAIN_TIME_MAX, &mut lost).await;
    let all_lost = lost.filter(|_| run.clock.now() < end);
    let given_up = run.source.borrow().checked_out();
    // A server that died in the middle has no last figures; the report goes without them.
    let server = match (server_before, server_after) {
        (Some(before), Ok(Some(after))) => Some((before, after)),
        (Some(_), Err(error)) if all_lost.is_none() => return Err(server("at the end")(error)),
        _ => None,
    };
    let report = Report {
        setting: arguments.setting(request_bytes_mean),
        tally: run.tally.take(),
        behind_requests,
        given_up_requests: given_up,
        own: (own_before, own_after),
        server,
    };
    Ok((report, all_lost))
}

impl LoadArguments {
    /// What each core's thread does: its part of the connections and of the rate, and ids of its own.
    fn shares(&self) -> Vec<LoadArguments> {
        let count = self.cpus.len().clamp(1, self.connection_count().max(1));
        let share = |index: usize| {
            let mut share = self.clone();
            share.cpus = self.cpus.get(index).copied().into_iter().collect();
            let (whole, rest) = (self.connection_count() / count, self.connection_count() % count);
            share.connections = Some(whole + usize::from(index < rest));
            share.rate = self.rate.map(|rate| rate / count as f64);
            share.spans = self.spans.map(|spans| spans / count as u64);
            share.seed = self.seed.wrapping_add((index as u64) << 48);
            if count > 1 {
                let numbered = |path: &PathBuf| PathBuf::from(format!("{}.{index}", path.display()));
                share.ledger = self.ledger.as_ref().map(numbered);
            }
            share
        };
        (0..count).map(share).collect()
    }

    fn shape(&self) -> Shape {
        Shape {
            span_bytes: self.span_bytes,
            spans_per_trace: self.spans_per_trace,
            spans_per_request: self.spans_per_request,
            requests_per_trace: self.requests_per_trace,
            error_ratio: self.error_ratio,
            slow_ratio: self.slow_ratio,
            services: self.services,
            interleave: self.interleave,
            trace_ids: self.trace_ids,
        }
    }

    fn address(&self) -> Result<SocketAddr, BenchError> {
        let default = match self.transport {
            Transport::Grpc => "127.0.0.1:4317",
            Transport::Http => "127.0.0.1:4318",
        };
        let endpoint = self.endpoint.as_deref().unwrap_or(default);
        let mut addresses = endpoint
            .to_socket_addrs()
            .map_err(|error| BenchError::Usage(format!("--endpoint {endpoint}: {error}")))?;
        addresses
            .next()
            .ok_or_else(|| BenchError::Usage(format!("--endpoint {endpoint}: no address")))
    }

    fn connection_count(&self) -> usize {
        self.connections.unwrap_or(match self.transport {
            Transport::Grpc => 4,
            Transport::Http => 32,
        })
    }

    fn lanes_per_connection(&self) -> usize {
        match self.transport {
            Transport::Grpc => self.in_flight,
            Transport::Http => 1,
        }
    }

    fn setting(&self, request_bytes_mean: f64) -> report::Setting {
        report::Setting {
            transport: self.transport,
            threads: 1,
            connections: self.connection_count(),
            in_flight: self.lanes_per_connection(),
            rate: self.rate,
            span_bytes: self.span_bytes,
            spans_per_trace: self.spans_per_trace,
            spans_per_request: self.spans_per_request,
            requests_per_trace: self.requests_per_trace,
            services: self.services,
            interleave: self.interleave,
            trace_ids: self.trace_ids,
            error_ratio: self.error_ratio,
            slow_ratio: self.slow_ratio,
            seed: self.seed,
            request_bytes_mean,
        }
    }
}

/// Unix time. A generator stamps spans with the host's clock, as an SDK does.
fn wall_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        _ => return Err("expected a duration such as 10s, 500ms or 2m".into()),
    };
    let count: f64 = digits.parse().map_err(|_| format!("not a number: {digits:?}"))?;
    Duration::try_from_secs_f64(count * unit).map_err(|error| error.to_string())
}
