//! One core from start to stop, on an executor pinned to its CPU.
//!
//! ```text
//!  replay own logs ── tell owners ─┐
//!                                  ├→ shard ─→ ingress ─→ up ─→ serving ─→ stop ─→ settled ─→ all are settled
//!  listen to other cores ──────────┘
//! ```
//!
//! Cores share nothing but the posts of [`super::mesh`] and a handful of flags: what signals ask for, and how
//! many cores are up or settled.

use super::admin::{Admin, Facts};
use super::budget::Budget;
use super::checkpoint::{self, Checkpoint, Terms};
use super::clock::Clock;
use super::cluster::{self, Cluster, ClusterParts, Sockets};
use super::core::{Core, CoreParts, FILE_WRITER, Service};
use super::datadir::{self, DataDir};
use super::disk::{Disk, DmaPool};
use super::drain;
use super::egress::{ExporterOptions, Sink, SinkOptions};
use super::epoll::Epoll;
use super::ingress::{Connection, Ingress, TraceService, Transport};
use super::mesh::{Inbox, Mesh, Post};
use super::metronome::Metronome;
use super::node::{NodeError, NodeOptions};
use super::reload::Events;
use super::resume::{self, Found};
use super::seats::{LeftOut, Seats};
use crate::base::ids::{CoreId, LogId};
use crate::config::options::Durability;
use crate::gossip::{self, Gossip};
use crate::landing::Landing;
use crate::shard::{Resuming, Shard};
use crate::table::{Table, TableOptions};
use glommio::{Latency, Shares, TaskQueueHandle};
use std::cell::RefCell;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::time::Duration;

/// From SIGTERM to exit at most, split between clients and destinations.
const STOP_CLIENTS_TIME: Duration = Duration::from_secs(10);
const STOP_LOG_TIME: Duration = Duration::from_secs(15);
/// Until nothing is under way between cores, so that a checkpoint can be written.
const STOP_QUIET_TIME: Duration = Duration::from_secs(1);
/// How long destinations are handed what there is after SIGTERM.
const DELIVERY_PATIENCE: Duration = Duration::from_secs(8);
/// Before new policies: what is not delivered goes on right after.
const RELOAD_CLIENTS_TIME: Duration = Duration::from_secs(1);
const RELOAD_DELIVERY_TIME: Duration = Duration::from_millis(200);
/// For what other cores still had to say when they were done.
const STOP_LAST_TIME: Duration = Duration::from_secs(2);
/// How often signals, the free disk and idle memory are looked at.
const HOUSEKEEPING: Duration = Duration::from_millis(100);
/// How often a core that waits for all others looks.
const WAIT_FOR_ALL: Duration = Duration::from_millis(2);
/// Decisions are kept for other nodes for twice the age of a trace, at least.
const RETENTION_MIN: Duration = Duration::from_secs(60);
/// What waits for one node that takes nothing.
const DIRECTED_BYTES_MAX: usize = 1 << 20;

/// What all cores look at.
#[derive(Default)]
pub struct Flags {
    pub stop: Arc<AtomicBool>,
    pub reopen: Arc<AtomicBool>,
    pub failed_flushes: Arc<AtomicU64>,
    /// SIGHUP asks for new policies.
    pub reload: Arc<AtomicBool>,
    pub reloads_succeeded: AtomicU64,
    pub reloads_failed: AtomicU64,
    /// Cores end, and start again with other policies.
    pub restart: AtomicBool,
    /// Nothing is accepted any more, and the process ends when nothing is left.
    pub drain: AtomicBool,
    /// Cores that serve.
    up: AtomicU16,
    /// Cores that have nothing left to do.
    settled: AtomicU16,
    /// Cores where nothing changes any more.
    quiet: AtomicU16,
}

impl Flags {
    /// All cores have ended and are about to start again.
    pub fn begin_again(&self) {
        self.up.store(0, Ordering::Relaxed);
        self.settled.store(0, Ordering::Relaxed);
        self.quiet.store(0, Ordering::Relaxed);
        self.restart.store(false, Ordering::Relaxed);
    }

    /// This life of the cores is to end.
    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.restart.load(Ordering::Relaxed)
    }
}

/// Everything one core starts from.
pub struct CoreSetup {
    pub core: CoreId,
    pub core_count: u16,
    pub cpu: usize,
    /// The logs that this core keeps; requests go into the first.
    pub logs: Vec<LogId>,
    pub options: Arc<NodeOptions>,
    pub facts: Arc<Facts>,
    pub data_dir: Arc<DataDir>,
    /// What policy numbers mean.
    pub names: Arc<Vec<String>>,
    pub flags: Arc<Flags>,
    pub events: Events,
    /// What the next start must agree in to use what this one leaves behind.
    pub terms: Arc<Terms>,
    pub checkpoint: Option<Arc<Checkpoint>>,
    /// Cores of this process were up before.
    pub says_again: bool,
    pub mesh: Mesh,
    pub inbox: Inbox,
    pub seats: Seats,
    pub left_out: LeftOut,
    pub grpc: TcpListener,
    pub http: TcpListener,
    /// On one core only.
    pub admin: Option<TcpListener>,
    /// Likewise, if there is a cluster.
    pub cluster: Option<Sockets>,
}

/// A core's life. `Err` before it serves: the node cannot start.
pub async fn live(setup: CoreSetup) -> Result<(), NodeError> {
    let CoreSetup {
        core: id,
        core_count,
        cpu,
        logs,
        options,
        facts,
        data_dir,
        names,
        flags,
        events,
        terms,
        checkpoint,
        says_again,
        mesh,
        mut inbox,
        seats,
        left_out,
        grpc,
        http,
        admin: admin_listener,
        cluster: sockets,
    } = setup;
    let clock = Rc::new(Clock::new());
    let mesh = Rc::new(mesh);
    let queues = Queues::create();
    let epoll = Epoll::start(queues.ingest).map_err(NodeError::Epoll)?;
    let admin = Admin::new(
        facts.clone(),
        clock.clone(),
        mesh.clone(),
        flags.clone(),
        events,
        cpu as u32,
    );
    let says_ready = admin_listener.is_some();
    if let Some(listener) = admin_listener {
        admin.serve(listener, epoll.clone());
    }
    let sinks = open_sinks(&options.exporters, &clock, &mesh, &epoll)?;

    let hash_key = data_dir.hash_key();
    let for_cluster = retained_bytes(&options);
    let budget = Budget::new(options.memory_limit_bytes - for_cluster, core_count);
    let mut table = Table::new(table_options(&options, budget, hash_key), clock.now());
    if let Some(cluster) = &options.cluster {
        let cluster = crate::table::ClusterOptions {
            own: data_dir.node_id(),
            spans_arrive: cluster.spans_arrive,
        };
        table = table.in_cluster(cluster, clock.now());
    }
    let resuming = Resuming::new(id, core_count, hash_key, table)
        .with_credit(budget.credit)
        .with_overload(options.on_overload)
        .with_full_quotas(data_dir.identity().incarnation == 1 && !says_again);
    let resuming = Rc::new(RefCell::new(resuming));
    let mut early = Vec::new();
    // A block that leaves when all are lent is the next one to be taken.
    let pool = DmaPool::new(budget.blocks_resident() as usize + budget.spares);
    let replay = {
        let sources = resume::Sources {
            options: &options,
            data_dir: &data_dir,
            names: &names,
            logs: &logs,
            core_count,
            budget,
            pool: &pool,
            core: id,
            checkpoint: checkpoint.as_deref(),
        };
        let awake = Metronome::start(queues.log);
        let listening = listen_while_resuming(&mut inbox, &resuming, &admin, &mut early);
        let replaying = resume::landings(sources, &clock, &mesh, &resuming);
        let (replay, ()) = futures_util::future::try_join(replaying, listening).await?;
        drop(awake);
        replay
    };
    let Found {
        landings,
        mut last_replay,
    } = replay;
    let resuming = Rc::into_inner(resuming)
        .expect("both tasks that held it are over")
        .into_inner();
    let shard = Shard::new(resuming, options.policies.clone(), landings, clock.now());
    last_replay.traces_resumed = shard.table().len() as u64;
    let core = Core::new(
        shard,
        CoreParts {
            clock: clock.clone(),
            mesh: mesh.clone(),
            seats,
            left_out,
            pool,
            disk: Disk::new(
                data_dir.path().to_path_buf(),
                budget.spares,
                flags.failed_flushes.clone(),
            ),
            sinks,
            queue: queues.log,
            export_queue: queues.export,
            span_bytes_max: options.span_bytes_max(),
        },
    );
    core.start();
    if flags.drain.load(Ordering::Relaxed) {
        core.drain();
    }
    let ingress = start_ingress(
        &options,
        &core,
        &clock,
        (epoll, queues.ingest),
        grpc,
        http,
        &facts,
    )?;
    admin.attach(core.clone(), ingress.clone(), last_replay);
    let cluster = sockets.map(|sockets| {
        let gossip = gossip(&options, &data_dir, &names, &facts, &clock, &sockets);
        Cluster::start(ClusterParts {
            gossip,
            data_dir: data_dir.clone(),
            clock: clock.clone(),
            mesh,
            hash_key,
            core_count,
            queue: queues.gossip,
            sockets,
            join: options
                .cluster
                .iter()
                .flat_map(|cluster| cluster.join.clone())
                .collect(),
        })
    });
    if let Some(cluster) = &cluster {
        admin.attach_cluster(cluster.clone());
    }
    let desk = Desk {
        core: core.clone(),
        cluster: cluster.clone(),
        ingress: ingress.clone(),
        admin: admin.clone(),
    };
    for (from, post) in early {
        desk.take(from, post);
    }
    let posts = glommio::spawn_local_into(desk.serve(inbox), queues.log).expect("the queue exists");

    flags.up.fetch_add(1, Ordering::Relaxed);
    if says_ready {
        wait_for_all(&flags.up, core_count, &flags.stop, Duration::MAX, &clock).await;
        let cluster = facts.cluster.as_ref();
        let cluster = cluster.map_or(String::new(), |cluster| format!(" cluster={}", cluster.address));
        let state = match flags.drain.load(Ordering::Relaxed) {
            true => "draining",
            false => "ready",
        };
        match says_again {
            true => tracing::info!("serving with the new policies"),
            false => eprintln!(
                "tailkeep {state} node={} grpc={} http={} admin={}{cluster} data={}",
                facts.node, facts.grpc, facts.http, facts.admin, facts.data_dir
            ),
        }
        let drain = drain::watch(admin.clone(), flags.clone());
        glommio::spawn_local_into(drain, queues.log)
            .expect("the queue exists")
            .detach();
    }
    watch(&options, &core, cluster.as_ref(), &flags).await;
    tracing::info!(core = id.0, "stopping: finishing what is in flight");
    admin.set_stopping();
    core.refuse();
    let is_reload = !flags.stop.load(Ordering::Relaxed);
    let (clients, delivery) = match is_reload {
        true => (RELOAD_CLIENTS_TIME, RELOAD_DELIVERY_TIME),
        false => (STOP_CLIENTS_TIME, DELIVERY_PATIENCE),
    };
    stop_clients(&ingress, clients).await;
    let until = clock.instant().plus(STOP_LOG_TIME);
    let settled = core.stop(STOP_LOG_TIME, delivery).await;
    flags.settled.fetch_add(1, Ordering::Relaxed);
    // Others may still have something for this core to settle or to write.
    let patient = AtomicBool::new(false);
    let patience = until.since(clock.instant().min(until));
    let everybody = wait_for_all(&flags.settled, core_count, &patient, patience, &clock).await;
    let settled = everybody && core.stop(STOP_LAST_TIME, delivery).await && settled;
    // What the cluster has been told, and waits for, is only in the logs.
    let may_save = options.durability == Durability::Fsync && options.cluster.is_none();
    if settled && !is_reload && may_save {
        let quiet = core.wait_quiet(STOP_QUIET_TIME).await;
        flags.quiet.fetch_add(u16::from(quiet), Ordering::Relaxed);
        if wait_for_all(&flags.quiet, core_count, &patient, STOP_QUIET_TIME, &clock).await {
            save(&core, &data_dir, &terms, core_count);
        }
    }
    if let Some(cluster) = &cluster {
        cluster.leave().await;
    }
    let pending = core.shard().table().len();
    tracing::info!(core = id.0, pending_traces = pending, "stopped");
    posts.cancel().await;
    match settled {
        true => Ok(()),
        false => Err(NodeError::Unsettled),
    }
}

struct Queues {
    ingest: TaskQueueHandle,
    log: TaskQueueHandle,
    export: TaskQueueHandle,
    gossip: TaskQueueHandle,
}

impl Queues {
    fn create() -> Queues {
        let soon = Latency::Matters(Duration::from_millis(1));
        let queue = |name, shares| glommio::executor().create_task_queue(Shares::Static(shares), soon, name);
        Queues {
            ingest: queue("ingest", 1000),
            log: queue("log", 1000),
            export: queue("export", 500),
            gossip: queue("gossip", 500),
        }
    }
}

fn table_options(options: &NodeOptions, budget: Budget, hash_key: crate::route::HashKey) -> TableOptions {
    TableOptions {
        completion: options.completion,
        hash_key,
        state_bytes_max: budget.trace_state,
        kept_count_max: budget.kept_count,
        decided_count_max: budget.decided_count,
    }
}

fn open_sinks(
    exporters: &[ExporterOptions],
    clock: &Rc<Clock>,
    mesh: &Rc<Mesh>,
    epoll: &Rc<Epoll>,
) -> Result<Vec<Sink>, NodeError> {
    let open = |(number, exporter): (usize, &ExporterOptions)| {
        let seed = datadir::random_u64();
        let sink = Sink::new(&exporter.sink, number, clock.clone(), mesh, epoll, seed);
        sink.map_err(|error| NodeError::File {
            id: exporter.destination.id.clone(),
            path: match &exporter.sink {
                SinkOptions::File(file) => file.path.clone(),
                SinkOptions::Otlp(_) => PathBuf::new(),
            },
            error,
        })
    };
    exporters.iter().enumerate().map(open).collect()
}

/// Takes what other cores found in their logs, until every log is replayed. What else comes is kept for later.
async fn listen_while_resuming(
    inbox: &mut Inbox,
    resuming: &RefCell<Resuming>,
    admin: &Rc<Admin>,
    early: &mut Vec<(CoreId, Post)>,
) -> Result<(), NodeError> {
    while !resuming.borrow().is_complete() {
        match inbox.next().await {
            (from, Post::Message(message)) => resuming.borrow_mut().handle_message(from, message),
            (_, Post::Ask(question)) => question(admin),
            (_, Post::Misfit) => return Err(NodeError::Checkpoint),
            other => early.push(other),
        }
    }
    Ok(())
}

/// Leaves behind what is open, for the next start.
fn save(core: &Core, data_dir: &DataDir, terms: &Terms, core_count: u16) {
    let shard = core.shard();
    let logs = shard.landings().iter().map(Landing::saved).collect();
    let (table, number) = (shard.table(), core.mesh().core().0);
    let traces = table.saved(core.now());
    let count = table.len() as u64;
    let written = checkpoint::write(data_dir.path(), terms, (number, core_count), logs, traces, count);
    if let Err(error) = written {
        tracing::warn!("no checkpoint, the next start folds the logs: {error}");
    }
}

fn start_ingress(
    options: &NodeOptions,
    core: &Rc<Core>,
    clock: &Rc<Clock>,
    (epoll, queue): (Rc<Epoll>, TaskQueueHandle),
    grpc: TcpListener,
    http: TcpListener,
    facts: &Facts,
) -> Result<Rc<Ingress>, NodeError> {
    let service: Rc<dyn TraceService> = Rc::new(Service(core.clone()));
    let ingress = Ingress::start(options.ingress.clone(), service, clock.clone(), epoll, queue);
    for (protocol, transport, listener, address) in [
        ("grpc", Transport::Grpc, grpc, facts.grpc),
        ("http", Transport::Http, http, facts.http),
    ] {
        let served = ingress.serve(transport, listener);
        served.map_err(|error| NodeError::Port {
            protocol,
            address: address.to_string(),
            error,
        })?;
    }
    Ok(ingress)
}

/// Whom posts are for, once this core serves.
struct Desk {
    core: Rc<Core>,
    /// On the core that speaks for the node, if there is a cluster.
    cluster: Option<Rc<Cluster>>,
    ingress: Rc<Ingress>,
    admin: Rc<Admin>,
}

impl Desk {
    async fn serve(self, mut inbox: Inbox) {
        loop {
            let (from, post) = inbox.next().await;
            self.take(from, post);
            while let Some((from, post)) = inbox.next_here() {
                self.take(from, post);
                if glommio::executor().need_preempt() {
                    break;
                }
            }
            self.core.turn(self.core.now());
            glommio::yield_if_needed().await;
        }
    }

    fn take(&self, from: CoreId, post: Post) {
        match post {
            Post::Message(message) => self.core.handle_message(from, message),
            Post::Inbound(list) => list
                .into_iter()
                .for_each(|inbound| self.core.handle_inbound(inbound)),
            Post::Outbound(list) => {
                if let Some(cluster) = &self.cluster {
                    list.into_iter().for_each(|outbound| cluster.take(outbound));
                    cluster.work();
                }
            }
            Post::Connection(transport, accepted, seat) => {
                let connection = Connection {
                    tcp: accepted.bind_to_executor(),
                    seat: Some(seat),
                };
                self.ingress.take(transport, connection);
            }
            Post::Append {
                destination,
                lines,
                done,
            } => {
                let core = self.core.clone();
                self.core.spawn(async move {
                    let _ = done.send(core.append(destination, lines).await);
                });
            }
            Post::Ask(question) => question(&self.admin),
            Post::Misfit => unreachable!("all logs are folded"),
        }
    }
}

/// `false`: patience ran out, or `given_up` was set.
async fn wait_for_all(
    count: &AtomicU16,
    all: u16,
    given_up: &AtomicBool,
    patience: Duration,
    clock: &Clock,
) -> bool {
    let began = clock.instant();
    while count.load(Ordering::Relaxed) < all {
        if given_up.load(Ordering::Relaxed) || clock.instant().since(began) >= patience {
            return false;
        }
        glommio::timer::sleep(WAIT_FOR_ALL).await;
    }
    true
}

/// Until a signal ends it: reopens files on SIGHUP, refuses while the disk is nearly full.
async fn watch(options: &NodeOptions, core: &Rc<Core>, cluster: Option<&Rc<Cluster>>, flags: &Flags) {
    let mut rounds = 0u32;
    while !flags.is_over() {
        glommio::timer::sleep(HOUSEKEEPING).await;
        if core.mesh().core() == FILE_WRITER && flags.reopen.swap(false, Ordering::Relaxed) {
            tracing::info!("SIGHUP: reopening output files");
            core.sinks().iter().for_each(Sink::reopen);
            if let Some(cluster) = cluster {
                read_keys(options, cluster);
            }
        }
        if flags.drain.load(Ordering::Relaxed) {
            core.drain();
        }
        core.give_back();
        if rounds.is_multiple_of(10) {
            let disk = rustix::fs::statvfs(&options.data_dir);
            let free = disk.map_or(u64::MAX, |disk| disk.f_bavail * disk.f_frsize);
            core.set_disk_low(free < options.free_bytes_min);
        }
        rounds = rounds.wrapping_add(1);
    }
}

/// What this node tells others of, and of whom it hears.
fn gossip(
    options: &NodeOptions,
    data_dir: &DataDir,
    names: &[String],
    facts: &Facts,
    clock: &Clock,
    sockets: &Sockets,
) -> Gossip {
    let cluster = options.cluster.as_ref().expect("sockets are there for it");
    let traces_live = options.completion.decision_wait * 2;
    let options = gossip::Options {
        own: data_dir.node_id(),
        name: facts.node.clone(),
        incarnation: facts.incarnation,
        address: cluster
            .advertise
            .map_or(sockets.address, |advertise| match advertise.port() {
                0 => SocketAddr::new(advertise.ip(), sockets.address.port()),
                _ => advertise,
            }),
        cluster: cluster.name.clone(),
        keys: cluster.keys.clone(),
        retention: traces_live.max(RETENTION_MIN),
        retained_bytes_max: retained_bytes(options) as usize,
        directed_bytes_max: DIRECTED_BYTES_MAX,
        predicates: options.policies.predicate_hashes(),
        policy_names: names.to_vec(),
    };
    Gossip::new(options, clock.now(), datadir::random_u64())
}

/// What decisions that are kept for other nodes may take of the memory; nothing without a cluster.
fn retained_bytes(options: &NodeOptions) -> u64 {
    const LEAST: u64 = 4 << 20;
    const MOST: u64 = 256 << 20;
    let share = (options.memory_limit_bytes / 16).clamp(LEAST, MOST);
    options.cluster.as_ref().map_or(0, |_| share)
}

/// Keys are exchanged without a restart: a new one is added everywhere, then put first, then the old one removed.
fn read_keys(options: &NodeOptions, cluster: &Cluster) {
    let key_file = options
        .cluster
        .as_ref()
        .and_then(|cluster| cluster.key_file.as_deref());
    match key_file.map(|path| (path, cluster::keys::read(path))) {
        None => {}
        Some((path, Ok(keys))) => {
            tracing::info!(path = %path.display(), keys = keys.len(), "SIGHUP: read the cluster's keys");
            cluster.set_keys(&keys);
        }
        Some((path, Err(error))) => {
            tracing::error!(path = %path.display(), %error, "cluster.key_file: the keys in use stay");
        }
    }
}

async fn stop_clients(ingress: &Rc<Ingress>, patience: Duration) {
    let patience = glommio::timer::sleep(patience);
    futures_util::future::select(std::pin::pin!(ingress.stop()), std::pin::pin!(patience)).await;
}
