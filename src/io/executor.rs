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
use super::clock::Clock;
use super::core::{Core, CoreParts, FILE_WRITER, Service};
use super::datadir::{self, DataDir};
use super::disk::{Disk, DmaPool};
use super::drain;
use super::egress::{ExporterOptions, Sink, SinkOptions};
use super::ingress::{Connection, Ingress, TraceService, Transport};
use super::mesh::{Inbox, Mesh, Post};
use super::metronome::Metronome;
use super::node::{NodeError, NodeOptions};
use super::resume::{self, Found};
use super::seats::{LeftOut, Seats};
use crate::base::ids::{CoreId, LogId};
use crate::shard::{Resuming, Shard};
use crate::table::{Table, TableOptions};
use glommio::{Latency, Shares, TaskQueueHandle};
use std::cell::RefCell;
use std::net::TcpListener;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::Duration;

/// From SIGTERM to exit at most, split between clients and destinations.
const STOP_CLIENTS_TIME: Duration = Duration::from_secs(10);
const STOP_LOG_TIME: Duration = Duration::from_secs(15);
/// For what other cores still had to say when they were done.
const STOP_LAST_TIME: Duration = Duration::from_secs(2);
/// How often signals and the free disk are looked at.
const HOUSEKEEPING: Duration = Duration::from_millis(100);
/// How often a core that waits for all others looks.
const WAIT_FOR_ALL: Duration = Duration::from_millis(2);

/// What all cores look at.
#[derive(Default)]
pub struct Flags {
    pub stop: Arc<AtomicBool>,
    pub reopen: Arc<AtomicBool>,
    /// Nothing is accepted any more, and the process ends when nothing is left.
    pub drain: AtomicBool,
    /// Cores that serve.
    up: AtomicU16,
    /// Cores that have nothing left to do.
    settled: AtomicU16,
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
    pub mesh: Mesh,
    pub inbox: Inbox,
    pub seats: Seats,
    pub left_out: LeftOut,
    pub grpc: TcpListener,
    pub http: TcpListener,
    /// On one core only.
    pub admin: Option<TcpListener>,
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
        mesh,
        mut inbox,
        seats,
        left_out,
        grpc,
        http,
        admin: admin_listener,
    } = setup;
    let clock = Rc::new(Clock::new());
    let mesh = Rc::new(mesh);
    let queues = Queues::create();
    let admin = Admin::new(
        facts.clone(),
        clock.clone(),
        mesh.clone(),
        flags.clone(),
        cpu as u32,
    );
    let says_ready = admin_listener.is_some();
    if let Some(listener) = admin_listener {
        admin.serve(listener);
    }
    let sinks = open_sinks(&options.exporters, &clock, &mesh)?;

    let hash_key = data_dir.hash_key();
    let budget = Budget::new(options.memory_limit_bytes, core_count);
    let table = Table::new(table_options(&options, budget, hash_key), clock.now());
    let resuming = Resuming::new(id, core_count, hash_key, table)
        .with_credit(budget.credit)
        .with_overload(options.on_overload);
    let resuming = Rc::new(RefCell::new(resuming));
    let mut early = Vec::new();
    let pool = DmaPool::new(budget.spares);
    let replay = {
        let sources = resume::Sources {
            options: &options,
            data_dir: &data_dir,
            names: &names,
            logs: &logs,
            core_count,
            budget,
            pool: &pool,
        };
        let awake = Metronome::start(queues.log);
        let listening = listen_while_resuming(&mut inbox, &resuming, &admin, &mut early);
        let replaying = resume::landings(sources, &clock, &mesh, &resuming);
        let (replay, ()) = futures_util::future::try_join(replaying, async {
            listening.await;
            Ok(())
        })
        .await?;
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
            mesh,
            seats,
            left_out,
            pool,
            disk: Disk::new(data_dir.path().to_path_buf(), budget.spares),
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
    let ingress = start_ingress(&options, &core, &clock, queues.ingest, grpc, http, &facts)?;
    admin.attach(core.clone(), ingress.clone(), last_replay);
    let desk = Desk {
        core: core.clone(),
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
        let state = match flags.drain.load(Ordering::Relaxed) {
            true => "draining",
            false => "ready",
        };
        eprintln!(
            "tailkeep {state} node={} grpc={} http={} admin={} data={}",
            facts.node, facts.grpc, facts.http, facts.admin, facts.data_dir
        );
        let drain = drain::watch(admin.clone(), flags.clone());
        glommio::spawn_local_into(drain, queues.log)
            .expect("the queue exists")
            .detach();
    }
    watch(&options, &core, &flags).await;
    tracing::info!(core = id.0, "stopping: finishing what is in flight");
    admin.set_stopping();
    core.refuse();
    stop_clients(&ingress).await;
    let until = clock.instant().plus(STOP_LOG_TIME);
    let settled = core.stop(STOP_LOG_TIME).await;
    flags.settled.fetch_add(1, Ordering::Relaxed);
    // Others may still have something for this core to settle or to write.
    let patient = AtomicBool::new(false);
    let patience = until.since(clock.instant().min(until));
    let everybody = wait_for_all(&flags.settled, core_count, &patient, patience, &clock).await;
    let settled = everybody && core.stop(STOP_LAST_TIME).await && settled;
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
}

impl Queues {
    fn create() -> Queues {
        let soon = Latency::Matters(Duration::from_millis(1));
        let queue = |name, shares| glommio::executor().create_task_queue(Shares::Static(shares), soon, name);
        Queues {
            ingest: queue("ingest", 1000),
            log: queue("log", 1000),
            export: queue("export", 500),
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
) -> Result<Vec<Sink>, NodeError> {
    let open = |(number, exporter): (usize, &ExporterOptions)| {
        let seed = datadir::random_u64();
        let sink = Sink::new(&exporter.sink, number, clock.clone(), mesh, seed);
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
) {
    while !resuming.borrow().is_complete() {
        match inbox.next().await {
            (from, Post::Message(message)) => resuming.borrow_mut().handle_message(from, message),
            (_, Post::Ask(question)) => question(admin),
            other => early.push(other),
        }
    }
}

fn start_ingress(
    options: &NodeOptions,
    core: &Rc<Core>,
    clock: &Rc<Clock>,
    queue: TaskQueueHandle,
    grpc: TcpListener,
    http: TcpListener,
    facts: &Facts,
) -> Result<Rc<Ingress>, NodeError> {
    let service: Rc<dyn TraceService> = Rc::new(Service(core.clone()));
    let ingress = Ingress::start(options.ingress.clone(), service, clock.clone(), queue);
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
async fn watch(options: &NodeOptions, core: &Rc<Core>, flags: &Flags) {
    let mut rounds = 0u32;
    while !flags.stop.load(Ordering::Relaxed) {
        glommio::timer::sleep(HOUSEKEEPING).await;
        if core.mesh().core() == FILE_WRITER && flags.reopen.swap(false, Ordering::Relaxed) {
            tracing::info!("SIGHUP: reopening output files");
            core.sinks().iter().for_each(Sink::reopen);
        }
        if flags.drain.load(Ordering::Relaxed) {
            core.drain();
        }
        if rounds.is_multiple_of(10) {
            let disk = rustix::fs::statvfs(&options.data_dir);
            let free = disk.map_or(u64::MAX, |disk| disk.f_bavail * disk.f_frsize);
            core.set_disk_low(free < options.free_bytes_min);
        }
        rounds = rounds.wrapping_add(1);
    }
}

async fn stop_clients(ingress: &Rc<Ingress>) {
    let patience = glommio::timer::sleep(STOP_CLIENTS_TIME);
    futures_util::future::select(std::pin::pin!(ingress.stop()), std::pin::pin!(patience)).await;
}
