//! A node from start to stop: directory, ports, one executor per core, farewell.
//!
//! ```text
//!  lock and ports ─→ a thread per core: executor ─→ replay ─→ serving ─→ settled ─→ exit
//!                          one of them: admin answers from the first moment
//! ```

use super::admin::{BY_HAND, ClusterFacts, Facts};
use super::checkpoint::{self, Checkpoint, Terms};
use super::clock::Clock;
use super::cluster::{self, ClusterOptions};
use super::datadir::{DataDir, DataDirError};
use super::egress::ExporterOptions;
use super::executor::{self, CoreSetup, Flags};
use super::ingress::{self, listener};
use super::mesh::mesh;
use super::recovery::RecoveryError;
use super::reload::{Event, Load, oversee};
use super::seats::{LeftOut, Seats};
use crate::base::ids::{CoreId, LogId};
use crate::base::time::Now;
use crate::completion::CompletionOptions;
use crate::config::options::Durability;
use crate::policy::PolicySet;
use crate::route;
use crate::shard::OnOverload;
use glommio::{LocalExecutorBuilder, Placement};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::time::Duration;
use thiserror::Error;

/// Ports and lock are tried again for this long: the process before may still be going.
const TAKE_OVER_TIME: Duration = Duration::from_secs(5);
/// The registered memory of an executor: blocks beyond it are written unregistered.
const IO_MEMORY_MIN: u64 = 4 << 20;
const IO_MEMORY_MAX: u64 = 64 << 20;
/// Bytes that a span's entry has beside the span, its resource and its scope, amply.
const ENTRY_OVERHEAD: u64 = 64 << 10;

/// Everything a node needs to know, worked out from a configuration by `commands/run`.
#[derive(Clone)]
pub struct NodeOptions {
    pub name: String,
    /// One for each core; a CPU may stand there more than once.
    pub cpus: Vec<usize>,
    pub data_dir: PathBuf,
    pub durability: Durability,
    pub segment_bytes: u64,
    pub wal_bytes_max: u64,
    pub free_bytes_min: u64,
    pub retain: Duration,
    pub policies: PolicySet,
    pub policies_hash: u64,
    /// How the policies are read again.
    pub load: Load,
    pub completion: CompletionOptions,
    pub annotate: bool,
    pub memory_limit_bytes: u64,
    pub on_overload: OnOverload,
    pub exporters: Vec<ExporterOptions>,
    pub grpc: Vec<SocketAddr>,
    pub http: Vec<SocketAddr>,
    pub admin: Vec<SocketAddr>,
    pub admin_token: Option<String>,
    /// `None`: one node.
    pub cluster: Option<ClusterOptions>,
    pub ingress: ingress::Options,
    /// Accept nothing, decide and export everything, and end.
    pub drain: bool,
    pub config_files: Vec<String>,
    pub config_hash: String,
    pub version: &'static str,
    pub commit: &'static str,
}

impl NodeOptions {
    /// A span with its resource and scope must not be larger.
    pub fn span_bytes_max(&self) -> usize {
        (self.segment_bytes - ENTRY_OVERHEAD) as usize
    }
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
    #[error("cluster.listen: {address}: {error}{}", port_help(error))]
    ClusterPort { address: String, error: io::Error },
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
        "cannot watch sockets: {0}\n  help: each core needs a file descriptor for it (ulimit -n) and an epoll \
         instance (sysctl fs.epoll.max_user_watches)"
    )]
    Epoll(io::Error),
    #[error("the checkpoint does not fit the logs")]
    Checkpoint,
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

/// One socket per core and protocol.
struct Listeners {
    grpc: Vec<TcpListener>,
    http: Vec<TcpListener>,
    admin: TcpListener,
    cluster: Option<cluster::Sockets>,
}

/// Runs a node until a signal ends it. Blocks the thread.
pub fn run(mut options: NodeOptions) -> Result<(), NodeError> {
    let flags = Arc::new(Flags::default());
    flags.drain.store(options.drain, Ordering::Relaxed);
    handle_signals(&flags);
    let core_count = options.cpus.len() as u16;
    let tmpfs_allowed = options.durability == Durability::None;
    let mut data_dir = retry(|| {
        let opened = DataDir::open(&options.data_dir, tmpfs_allowed);
        let busy = matches!(opened, Err(DataDirError::Locked { .. }));
        (opened, busy)
    })?;
    data_dir.add_logs(core_count as u8)?;
    let data_dir = Arc::new(data_dir);
    let listeners = bind_all(&options)?;
    let began = Clock::new().now();
    let mut says_again = false;
    let mut checkpoint = checkpoint::take(&data_dir, &terms(&options, &data_dir, 1));
    loop {
        let (load, current) = (options.load.clone(), options.policies_hash);
        let shared = Arc::new(options);
        let happened = start(
            &shared,
            &data_dir,
            &listeners,
            &flags,
            (began, says_again),
            checkpoint.take(),
        )?;
        options = match oversee(&happened, core_count, current, &load, &flags) {
            Ok(None) => return Ok(()),
            Ok(Some(reloaded)) => {
                says_again = true;
                NodeOptions {
                    policies: reloaded.policies,
                    policies_hash: reloaded.policies_hash,
                    config_hash: reloaded.config_hash,
                    ..(*shared).clone()
                }
            }
            Err(NodeError::Checkpoint) => {
                tracing::warn!("the checkpoint does not fit the logs; they are folded instead");
                (*shared).clone()
            }
            Err(error) => return Err(error),
        };
        flags.begin_again();
    }
}

/// Of this start, or of one so many starts ago.
fn terms(options: &NodeOptions, data_dir: &DataDir, ago: u64) -> Terms {
    let identity = data_dir.identity();
    Terms {
        node_id: identity.node_id.clone(),
        incarnation: data_dir.incarnation().saturating_sub(ago),
        policies_hash: options.policies_hash,
        structural: options.completion.structural,
    }
}

/// A thread for each core. What comes back tells how they end.
fn start(
    options: &Arc<NodeOptions>,
    data_dir: &Arc<DataDir>,
    listeners: &Listeners,
    flags: &Arc<Flags>,
    (began, says_again): (Now, bool),
    checkpoint: Option<Arc<Checkpoint>>,
) -> Result<Receiver<Event>, NodeError> {
    let core_count = options.cpus.len() as u16;
    if options.cluster.is_some() {
        // Numbers of what is told begin anew with the cores.
        let least = data_dir.incarnation() + u64::from(says_again);
        data_dir.raise_incarnation(least.max(Clock::new().now().wall.0 / 1_000_000_000))?;
    }
    let policies = options.policies.policies().iter();
    let mut configured: Vec<String> = policies.map(|policy| policy.name.clone()).collect();
    if !configured.iter().any(|name| name == BY_HAND) {
        configured.push(BY_HAND.to_string());
    }
    let names = Arc::new(data_dir.policy_names(&configured)?);
    let facts = Arc::new(facts(options, data_dir, listeners, began));
    let terms = Arc::new(terms(options, data_dir, 0));
    let seats = Seats::new(core_count);
    let left_out = LeftOut::new(core_count);
    // The ports stay bound while cores start again; ingress has shut its own down.
    let unclonable = |error| NodeError::Executor(format!("a listening socket: {error}"));
    let again = |listener: &TcpListener| {
        let cloned = listener::listen_again(listener).and_then(|()| listener.try_clone());
        cloned.map_err(unclonable)
    };
    let mut admin = Some(again(&listeners.admin)?);
    let mut sockets_of_cluster = match &listeners.cluster {
        None => None,
        Some(sockets) => Some(cluster::Sockets {
            udp: sockets.udp.try_clone().map_err(unclonable)?,
            tcp: again(&sockets.tcp)?,
            address: sockets.address,
        }),
    };
    let (events, happened) = std::sync::mpsc::channel();
    for (number, (mesh, inbox)) in mesh(core_count).into_iter().enumerate() {
        let core = CoreId(number as u16);
        let kept_by_it = |log: &&LogId| route::keeper(**log, core_count) == core;
        let setup = CoreSetup {
            core,
            core_count,
            cpu: options.cpus[number],
            logs: data_dir.logs().iter().filter(kept_by_it).copied().collect(),
            options: options.clone(),
            facts: facts.clone(),
            data_dir: data_dir.clone(),
            names: names.clone(),
            flags: flags.clone(),
            events: events.clone(),
            terms: terms.clone(),
            checkpoint: checkpoint.clone(),
            says_again,
            mesh,
            inbox,
            seats: seats.clone(),
            left_out: left_out.clone(),
            grpc: again(&listeners.grpc[number])?,
            http: again(&listeners.http[number])?,
            admin: admin.take(),
            cluster: sockets_of_cluster.take(),
        };
        let ended = events.clone();
        let thread = std::thread::Builder::new().name(format!("tailkeep-{number}"));
        let spawned = thread.spawn(move || {
            let _ = ended.send(Event::Ended(run_core(setup)));
        });
        spawned.map_err(|error| NodeError::Executor(error.to_string()))?;
    }
    Ok(happened)
}

/// Blocks the thread for the life of the core.
fn run_core(setup: CoreSetup) -> Result<(), NodeError> {
    let io_memory = io_memory_bytes(setup.options.memory_limit_bytes, setup.core_count);
    let executor = LocalExecutorBuilder::new(Placement::Fixed(setup.cpu))
        .name(&format!("tailkeep-{}", setup.core.0))
        .io_memory(io_memory as usize)
        .make()
        .map_err(|error| NodeError::Executor(error.to_string()))?;
    executor.run(executor::live(setup))
}

/// What each executor registers with its ring.
pub fn io_memory_bytes(memory_limit_bytes: u64, core_count: u16) -> u64 {
    (memory_limit_bytes / 10 / u64::from(core_count)).clamp(IO_MEMORY_MIN, IO_MEMORY_MAX)
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
        grpc: bind(&options.grpc, options.cpus.len()).map_err(port("grpc"))?,
        http: bind(&options.http, options.cpus.len()).map_err(port("http"))?,
        admin: bind(&options.admin, 1)
            .map_err(|(address, error)| NodeError::AdminPort { address, error })?
            .remove(0),
        cluster: match &options.cluster {
            None => None,
            Some(cluster) => Some(
                bind_first(&cluster.listen, cluster::bind)
                    .map_err(|(address, error)| NodeError::ClusterPort { address, error })?,
            ),
        },
    })
}

/// Binds the first of a name's addresses that can be bound, once for each core.
fn bind(addresses: &[SocketAddr], core_count: usize) -> Result<Vec<TcpListener>, (String, io::Error)> {
    bind_first(addresses, |address| listener::bind(address, core_count))
}

fn bind_first<T>(
    addresses: &[SocketAddr],
    bind: impl Fn(SocketAddr) -> io::Result<T>,
) -> Result<T, (String, io::Error)> {
    let mut failed = None;
    for address in addresses {
        let bound = retry(|| {
            let bound = bind(*address);
            let busy = bound
                .as_ref()
                .is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse);
            (bound, busy)
        });
        match bound {
            Ok(bound) => return Ok(bound),
            Err(error) => failed = Some((address.to_string(), error)),
        }
    }
    Err(failed.unwrap_or_else(|| ("no address".to_string(), io::ErrorKind::AddrNotAvailable.into())))
}

fn facts(options: &NodeOptions, data_dir: &DataDir, listeners: &Listeners, began: Now) -> Facts {
    let address = |listener: &TcpListener| {
        listener
            .local_addr()
            .unwrap_or_else(|_| SocketAddr::from(([127, 0, 0, 1], 0)))
    };
    Facts {
        version: options.version,
        commit: options.commit,
        node: options.name.clone(),
        node_id: data_dir.identity().node_id.clone(),
        incarnation: data_dir.incarnation(),
        started_at: began.wall,
        started: began.instant,
        loaded_at: Clock::new().now().wall,
        hash_key: data_dir.hash_key(),
        data_dir: data_dir.path().display().to_string(),
        durability: options.durability.name(),
        config_files: options.config_files.clone(),
        config_hash: options.config_hash.clone(),
        grpc: address(&listeners.grpc[0]),
        http: address(&listeners.http[0]),
        admin: address(&listeners.admin),
        cluster: options
            .cluster
            .as_ref()
            .zip(listeners.cluster.as_ref())
            .map(|(options, sockets)| ClusterFacts {
                name: options.name.clone(),
                encrypted: !options.keys.is_empty(),
                address: sockets.address,
            }),
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

/// The first SIGTERM or SIGINT asks to stop, a second one ends the process at once: nothing that was acknowledged
/// is lost by that. SIGHUP asks for policies to be read and files to be opened anew.
fn handle_signals(flags: &Flags) {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    for signal in [SIGTERM, SIGINT] {
        // Order matters: the flag is looked at before it is set.
        let second = signal_hook::flag::register_conditional_shutdown(signal, 1, flags.stop.clone());
        let first = signal_hook::flag::register(signal, flags.stop.clone());
        second.and(first).expect("SIGTERM and SIGINT may be handled");
    }
    for flag in [&flags.reopen, &flags.reload] {
        signal_hook::flag::register(SIGHUP, flag.clone()).expect("SIGHUP may be handled");
    }
}
