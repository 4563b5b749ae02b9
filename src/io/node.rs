//! A node from start to stop: directory, ports, executor, replay, service, farewell.
//!
//! ```text
//!  lock and ports ─→ executor ─→ admin answers ─→ replay ─→ ready ─→ serving ─→ SIGTERM ─→ settled ─→ exit
//! ```

use super::admin::{Admin, Facts, LastReplay};
use super::clock::Clock;
use super::core::{Core, Service};
use super::datadir::{self, DataDir, DataDirError};
use super::disk::{Disk, DmaPool};
use super::egress::{FileOptions, FileSink};
use super::ingress::{self, Ingress, TraceService, Transport, listener};
use super::recovery::{self, RecoveryError};
use crate::base::ids::{LogId, Position};
use crate::completion::CompletionOptions;
use crate::config::options::Durability;
use crate::export::{Destination, DestinationOptions};
use crate::landing::LandingOptions;
use crate::landing::fetch::WhichLog;
use crate::landing::replay::{KeptReplay, Replay};
use crate::policy::PolicySet;
use crate::shard::{Shard, ShardParts};
use crate::table::{Table, TableOptions};
use crate::wal::{Log, LogOptions};
use glommio::{Latency, LocalExecutorBuilder, Placement, Shares};
use std::cell::Cell;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use thiserror::Error;

/// Ports and lock are tried again for this long: the process before may still be going.
const TAKE_OVER_TIME: Duration = Duration::from_secs(5);
/// From SIGTERM to exit at most, split between clients and destinations.
const STOP_CLIENTS_TIME: Duration = Duration::from_secs(10);
const STOP_LOG_TIME: Duration = Duration::from_secs(15);
/// How often signals and the free disk are looked at.
const HOUSEKEEPING: Duration = Duration::from_millis(100);
/// The registered memory of the executor: blocks beyond it are written unregistered.
const IO_MEMORY_MAX: u64 = 64 << 20;
/// Kept entries are synced together; nobody waits for them.
const KEPT_GROUP_INTERVAL: Duration = Duration::from_millis(50);
/// Bytes that a span's entry has beside the span, its resource and its scope, amply.
const ENTRY_OVERHEAD: u64 = 64 << 10;
/// A shipment to a file.
const FILE_BATCH_BYTES: usize = 1 << 20;

/// Everything a node needs to know, worked out from a configuration by `commands/run`.
pub struct NodeOptions {
    pub name: String,
    pub cpu: usize,
    pub data_dir: PathBuf,
    pub durability: Durability,
    pub segment_bytes: u64,
    pub wal_bytes_max: u64,
    pub free_bytes_min: u64,
    pub retain: Duration,
    pub policies: PolicySet,
    pub completion: CompletionOptions,
    pub annotate: bool,
    pub memory_limit_bytes: u64,
    pub files: Vec<FileDestination>,
    pub grpc: Vec<SocketAddr>,
    pub http: Vec<SocketAddr>,
    pub admin: Vec<SocketAddr>,
    pub admin_token: Option<String>,
    pub ingress: ingress::Options,
    pub config_files: Vec<String>,
    pub config_hash: String,
    pub version: &'static str,
    pub commit: &'static str,
}

#[derive(Clone, Debug)]
pub struct FileDestination {
    pub id: String,
    pub flush_interval: Duration,
    pub file: FileOptions,
}

/// Why a node did not start, or did not end well. Everything acknowledged is in its log.
#[derive(Debug, Error)]
pub enum NodeError {
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    #[error(
        "receivers.otlp.protocols.{protocol}.endpoint: {address}: {error}{}",
        port_help(error)
    )]
    Port {
        protocol: &'static str,
        address: String,
        error: io::Error,
    },
    #[error("admin.endpoint: {address}: {error}{}", port_help(error))]
    AdminPort { address: String, error: io::Error },
    #[error("exporters.{id}.path: {path}: {error}")]
    File {
        id: String,
        path: PathBuf,
        error: io::Error,
    },
    #[error(
        "cannot start an io_uring executor: {0}\n  help: io_uring may be switched off (sysctl \
         kernel.io_uring_disabled), forbidden by a container's seccomp profile, or short of locked memory \
         (ulimit -l, at least 512 KiB); Linux 5.19 or newer is needed"
    )]
    Executor(String),
    #[error(
        "stopped before everything was exported or synced; it is in the log and goes on at the next start"
    )]
    Unsettled,
}

fn port_help(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "\n  help: another process listens there; stop it, or use another port (0: any)"
        }
        io::ErrorKind::PermissionDenied => "\n  help: ports below 1024 need CAP_NET_BIND_SERVICE",
        _ => "",
    }
}

struct Listeners {
    grpc: TcpListener,
    http: TcpListener,
    admin: TcpListener,
}

/// Runs a node until a signal ends it. Blocks the thread.
pub fn run(options: NodeOptions) -> Result<(), NodeError> {
    let signals = Signals::install();
    let tmpfs_allowed = options.durability == Durability::None;
    let data_dir = retry(|| {
        let opened = DataDir::open(&options.data_dir, tmpfs_allowed);
        let busy = matches!(opened, Err(DataDirError::Locked { .. }));
        (opened, busy)
    })?;
    let listeners = bind_all(&options)?;
    let io_memory = (options.memory_limit_bytes / 10).clamp(4 << 20, IO_MEMORY_MAX);
    let executor = LocalExecutorBuilder::new(Placement::Fixed(options.cpu))
        .name("tailkeep-0")
        .io_memory(io_memory as usize)
        .make()
        .map_err(|error| NodeError::Executor(error.to_string()))?;
    executor.run(serve(options, data_dir, listeners, signals))
}

/// Tries for [`TAKE_OVER_TIME`] as long as `busy`.
#[allow(clippy::disallowed_methods, reason = "before there is an executor")]
fn retry<T, E>(mut attempt: impl FnMut() -> (Result<T, E>, bool)) -> Result<T, E> {
    let clock = Clock::new();
    let until = clock.now().instant.plus(TAKE_OVER_TIME);
    loop {
        let (result, busy) = attempt();
        if result.is_ok() || !busy || clock.now().instant >= until {
            return result;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn bind_all(options: &NodeOptions) -> Result<Listeners, NodeError> {
    let port = |protocol| {
        move |(address, error)| NodeError::Port {
            protocol,
            address,
            error,
        }
    };
    Ok(Listeners {
        grpc: bind(&options.grpc).map_err(port("grpc"))?,
        http: bind(&options.http).map_err(port("http"))?,
        admin: bind(&options.admin).map_err(|(address, error)| NodeError::AdminPort { address, error })?,
    })
}

/// Binds the first of a name's addresses that can be bound.
fn bind(addresses: &[SocketAddr]) -> Result<TcpListener, (String, io::Error)> {
    let mut failed = None;
    for address in addresses {
        let bound = retry(|| {
            let bound = listener::bind(*address, 1);
            let busy = bound
                .as_ref()
                .is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse);
            (bound, busy)
        });
        match bound {
            Ok(mut listeners) => return Ok(listeners.remove(0)),
            Err(error) => failed = Some((address.to_string(), error)),
        }
    }
    Err(failed.unwrap_or_else(|| ("no address".to_string(), io::ErrorKind::AddrNotAvailable.into())))
}

async fn serve(
    options: NodeOptions,
    data_dir: DataDir,
    listeners: Listeners,
    signals: Signals,
) -> Result<(), NodeError> {
    let clock = Rc::new(Clock::new());
    let facts = facts(&options, &data_dir, &listeners, &clock);
    let admin = Admin::start(facts.clone(), clock.clone(), listeners.admin);
    let sinks = open_sinks(&options)?;
    let (parts, last_replay) = replay(&options, &data_dir, &clock).await?;
    let traces_resumed = parts.table.len() as u64;
    let span_bytes_max = parts.landing.span_bytes_max;
    let disk = Disk::new(
        data_dir.log_path(WhichLog::Main, LogId(0)),
        data_dir.log_path(WhichLog::Kept, LogId(0)),
    );
    let queue =
        |name, shares, latency| glommio::executor().create_task_queue(Shares::Static(shares), latency, name);
    let soon = Latency::Matters(Duration::from_millis(1));
    let ingest = queue("ingest", 1000, soon);
    let log = queue("log", 1000, soon);
    let shard = Shard::new(parts, clock.now());
    let core = Core::new(shard, clock.clone(), disk, sinks, log, span_bytes_max);
    core.start();
    let service: Rc<dyn TraceService> = Rc::new(Service(core.clone()));
    let ingress = Ingress::start(options.ingress.clone(), service, clock.clone(), ingest);
    for (protocol, transport, listener, address) in [
        ("grpc", Transport::Grpc, listeners.grpc, facts.grpc),
        ("http", Transport::Http, listeners.http, facts.http),
    ] {
        ingress
            .serve(transport, listener)
            .map_err(|error| NodeError::Port {
                protocol,
                address: address.to_string(),
                error,
            })?;
    }
    admin.attach(
        core.clone(),
        ingress.clone(),
        LastReplay {
            traces_resumed,
            ..last_replay
        },
    );
    eprintln!(
        "tailkeep ready node={} grpc={} http={} admin={} data={}",
        facts.node, facts.grpc, facts.http, facts.admin, facts.data_dir
    );

    watch(&options, &core, &signals).await;
    tracing::info!("stopping: finishing what is in flight");
    admin.set_stopping();
    core.refuse();
    let stopped = Cell::new(false);
    let clients = async {
        ingress.stop().await;
        stopped.set(true);
    };
    futures_util::future::select(
        std::pin::pin!(clients),
        std::pin::pin!(glommio::timer::sleep(STOP_CLIENTS_TIME)),
    )
    .await;
    let settled = core.stop(STOP_LOG_TIME).await;
    let pending = core.shard().table().len();
    tracing::info!(pending_traces = pending, "stopped");
    if settled {
        Ok(())
    } else {
        Err(NodeError::Unsettled)
    }
}

/// Until a signal ends it: reopens files on SIGHUP, refuses while the disk is nearly full.
async fn watch(options: &NodeOptions, core: &Rc<Core>, signals: &Signals) {
    let data_dir = options.data_dir.to_string_lossy().into_owned();
    let mut rounds = 0u32;
    while !signals.stop.load(Ordering::Relaxed) {
        glommio::timer::sleep(HOUSEKEEPING).await;
        if signals.reopen.swap(false, Ordering::Relaxed) {
            tracing::info!("SIGHUP: reopening output files");
            core.sinks().iter().for_each(FileSink::reopen);
        }
        if rounds.is_multiple_of(10) {
            let free =
                rustix::fs::statvfs(data_dir.as_str()).map_or(u64::MAX, |disk| disk.f_bavail * disk.f_frsize);
            core.set_disk_low(free < options.free_bytes_min);
        }
        rounds = rounds.wrapping_add(1);
    }
}

fn facts(options: &NodeOptions, data_dir: &DataDir, listeners: &Listeners, clock: &Clock) -> Facts {
    let address = |listener: &TcpListener| {
        listener
            .local_addr()
            .unwrap_or_else(|_| SocketAddr::from(([127, 0, 0, 1], 0)))
    };
    let now = clock.now();
    Facts {
        version: options.version,
        commit: options.commit,
        node: options.name.clone(),
        node_id: data_dir.identity().node_id.clone(),
        incarnation: data_dir.identity().incarnation,
        started_at: now.wall,
        started: now.instant,
        data_dir: data_dir.path().display().to_string(),
        durability: options.durability.name(),
        config_files: options.config_files.clone(),
        config_hash: options.config_hash.clone(),
        grpc: address(&listeners.grpc),
        http: address(&listeners.http),
        admin: address(&listeners.admin),
        cpu: options.cpu as u32,
        memory_limit_bytes: options.memory_limit_bytes,
        wal_bytes_max: options.wal_bytes_max,
        token: options.admin_token.clone(),
        policy_types: options
            .policies
            .policies()
            .iter()
            .map(|policy| (policy.name.clone(), policy.type_name))
            .collect(),
    }
}

fn open_sinks(options: &NodeOptions) -> Result<Vec<FileSink>, NodeError> {
    let open = |destination: &FileDestination| {
        let error = |error| NodeError::File {
            id: destination.id.clone(),
            path: destination.file.path.clone(),
            error,
        };
        FileSink::new(destination.file.clone()).map_err(error)
    };
    options.files.iter().map(open).collect()
}

/// Folds both logs and makes the parts of a shard of them.
async fn replay(
    options: &NodeOptions,
    data_dir: &DataDir,
    clock: &Clock,
) -> Result<(ShardParts<DmaPool>, LastReplay), NodeError> {
    let began = clock.now();
    let log_id = LogId(0);
    let hash_key = data_dir
        .identity()
        .hash_key()
        .expect("checked when the directory was opened");
    let mut table = Table::new(
        TableOptions {
            completion: options.completion,
            hash_key,
            state_bytes_max: options.memory_limit_bytes / 100 * 40,
            kept_count_max: 100_000,
            decided_count_max: 1_000_000,
        },
        began,
    );
    let mut kept_replay = KeptReplay::default();
    let kept_found = recovery::replay(
        &data_dir.log_path(WhichLog::Kept, log_id),
        log_id,
        clock,
        |entry| {
            kept_replay.entry(entry, began);
        },
    )
    .await?;
    let mut replay = Replay::new(log_id, hash_key, &options.policies, &mut table, began);
    let found = recovery::replay(
        &data_dir.log_path(WhichLog::Main, log_id),
        log_id,
        clock,
        |entry| {
            replay.entry(entry);
        },
    )
    .await?;
    let replayed = replay.finish();
    if replayed.malformed + kept_replay.malformed > 0 {
        let entries = replayed.malformed + kept_replay.malformed;
        tracing::error!(
            entries,
            "entries with sound checksums and unknown contents were passed over"
        );
    }
    let log_options = |group_interval| LogOptions {
        log: log_id,
        log_seed: 0,
        segment_size: options.segment_bytes,
        size_max: options.wal_bytes_max / 2,
        retain: options.retain,
        group_interval,
        sync: options.durability == Durability::Fsync,
    };
    let seeded = |options: LogOptions, seed: Option<u64>| LogOptions {
        log_seed: seed.unwrap_or_else(datadir::random_u64),
        ..options
    };
    // Positions that records of the log speak of must not come to mean other entries.
    let mut kept_start = kept_found.start;
    let beyond = replayed.kept_position_max.0.div_ceil(options.segment_bytes) * options.segment_bytes;
    kept_start.next_position = kept_start.next_position.max(Position(beyond));
    let now = clock.now();
    let kept_tail = kept_start.next_position;
    let log_seed = found.log_seed;
    let pool = DmaPool::default();
    let log = Log::new(
        seeded(log_options(Duration::ZERO), log_seed),
        pool.clone(),
        found.start,
        now,
    );
    let kept_options = LogOptions {
        // What is behind every cursor is of no use to anyone.
        retain: Duration::ZERO,
        ..seeded(log_options(KEPT_GROUP_INTERVAL), kept_found.log_seed)
    };
    let kept = Log::new(kept_options, pool, kept_start, now);
    let destinations = options.files.iter().map(|file| {
        let options = DestinationOptions {
            id: file.id.clone(),
            flush_interval: file.flush_interval,
            batch_bytes: FILE_BATCH_BYTES,
        };
        // A new destination starts at the tail.
        let cursor = replayed.cursors.get(&file.id).copied().unwrap_or(kept_tail);
        Destination::new(options, cursor)
    });
    let landing = LandingOptions {
        log: log_id,
        hash_key,
        node: options.name.clone(),
        annotate: options.annotate,
        acknowledge_at_once: options.durability == Durability::None,
        span_bytes_max: (options.segment_bytes - ENTRY_OVERHEAD) as usize,
        block_bytes_max: options.memory_limit_bytes / 100 * 45,
        unsynced_bytes_max: options.memory_limit_bytes / 100 * 10,
        policy_names: replayed.policy_names.clone(),
    };
    let last_replay = LastReplay {
        seconds: now.instant.since(began.instant).as_secs_f64(),
        segments: found.segments + kept_found.segments,
        entries: found.entries + kept_found.entries,
        traces_resumed: 0,
        skipped_bytes: found.corrupt_bytes + kept_found.corrupt_bytes,
    };
    let destinations = destinations.collect();
    let policies = options.policies.clone();
    let parts = ShardParts {
        policies,
        table,
        log,
        kept,
        replayed,
        kept_replay,
        destinations,
        landing,
    };
    Ok((parts, last_replay))
}

/// What signals ask for.
struct Signals {
    stop: Arc<AtomicBool>,
    reopen: Arc<AtomicBool>,
}

impl Signals {
    /// The first SIGTERM or SIGINT asks to stop, a second one ends the process at once: nothing that was
    /// acknowledged is lost by that.
    fn install() -> Signals {
        use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
        let signals = Signals {
            stop: Arc::default(),
            reopen: Arc::default(),
        };
        for signal in [SIGTERM, SIGINT] {
            // Order matters: the flag is looked at before it is set.
            let second = signal_hook::flag::register_conditional_shutdown(signal, 1, signals.stop.clone());
            let first = signal_hook::flag::register(signal, signals.stop.clone());
            second.and(first).expect("SIGTERM and SIGINT may be handled");
        }
        signal_hook::flag::register(SIGHUP, signals.reopen.clone()).expect("SIGHUP may be handled");
        signals
    }
}
