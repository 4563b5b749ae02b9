//! One core at work: drives a [`Shard`] on its executor.
//!
//! ```text
//!  connection ─ export ─┐                       ┌─ disk operations, reads, shipments (tasks)
//!  result of a task ────┼─→ turn: handle, ──────┤
//!  timer ───────────────┘   advance, effects    └─ replies (tickets)
//! ```
//!
//! Whoever has something for the shard hands it over and begins a turn; a turn ends when there is no effect
//! left. What other cores are to know goes out once for the turns of one pass of the executor. There is one timer
//! task per core, and one task per operation on its way to the disk.

use super::clock::Clock;
use super::cluster::SPEAKER;
use super::datadir;
use super::disk::{Disk, DmaPool};
use super::egress::Sink;
use super::ingress::{
    self, Connection, Durable, Partial, Replied, Submitted, Ticket, TraceService, Unavailable,
};
use super::mesh::{Mesh, Post};
use super::seats::{LeftOut, Seats};
use crate::base::ids::{CoreId, LogId, Place, TraceId};
use crate::base::time::{Instant, Now};
use crate::export::{Notice, Shipment};
use crate::gossip::{Inbound, Outbound};
use crate::landing::fetch::{ReadOp, WhichLog};
use crate::landing::{Effect, Request, Searched, Submission};
use crate::route::Decision;
use crate::shard::{self, Message, Shard, Upgrade};
use crate::stats::{Refusal, Stats, Transport};
use crate::wal::{DiskOp, EntryError, OpId, Refused};
use futures_util::future::{Either, select};
use glommio::TaskQueueHandle;
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

/// The timer task sleeps no longer, so that a clock that stood still (a suspended host) is noticed.
const SLEEP_MAX: Duration = Duration::from_secs(1);
/// Sleeps shorter than this are not worth a timer.
const SLEEP_MIN: Duration = Duration::from_micros(200);
/// What a client is told to wait when its request found no room in memory.
const IN_FLIGHT_RETRY: Duration = Duration::from_secs(1);
const DISK_LOW_RETRY: Duration = Duration::from_secs(5);
const PUSHED_BACK_RETRY: Duration = Duration::from_secs(5);
/// A disk that keeps a group waiting for longer makes the core not ready.
const STALL_MAX: Duration = Duration::from_secs(10);

/// The shard of one core and what it needs of the outside.
pub struct Core {
    shard: RefCell<Shard<DmaPool, Ticket>>,
    clock: Rc<Clock>,
    mesh: Rc<Mesh>,
    seats: Seats,
    left_out: LeftOut,
    pool: DmaPool,
    disk: Disk,
    sinks: Vec<Sink>,
    queue: TaskQueueHandle,
    export_queue: TaskQueueHandle,
    /// State of a xorshift, for the jitter of retries; never 0.
    random: Cell<u64>,
    span_bytes_max: usize,
    serving: Cell<bool>,
    draining: Cell<bool>,
    disk_low: Cell<bool>,
    /// A task will post what other cores are to know.
    posting: Cell<bool>,
    /// When the timer task wakes, and how to wake it earlier.
    wakes_at: Cell<Instant>,
    timer: RefCell<Option<Waker>>,
    woken: Cell<bool>,
    /// A task goes on with work that was too much for one turn.
    continuing: Cell<bool>,
}

/// What a core has besides its shard.
pub struct CoreParts {
    pub clock: Rc<Clock>,
    pub mesh: Rc<Mesh>,
    pub seats: Seats,
    pub left_out: LeftOut,
    /// Of the logs' blocks.
    pub pool: DmaPool,
    pub disk: Disk,
    /// One for each exporter, in the order of the configuration.
    pub sinks: Vec<Sink>,
    pub queue: TaskQueueHandle,
    pub export_queue: TaskQueueHandle,
    pub span_bytes_max: usize,
}

/// The core that writes the files of all.
pub const FILE_WRITER: CoreId = CoreId(0);

impl Core {
    pub fn new(shard: Shard<DmaPool, Ticket>, parts: CoreParts) -> Rc<Core> {
        let CoreParts {
            clock,
            mesh,
            seats,
            left_out,
            pool,
            disk,
            sinks,
            queue,
            export_queue,
            span_bytes_max,
        } = parts;
        Rc::new(Core {
            shard: RefCell::new(shard),
            clock,
            mesh,
            seats,
            left_out,
            pool,
            disk,
            sinks,
            queue,
            export_queue,
            random: Cell::new(datadir::random_u64()),
            span_bytes_max,
            serving: Cell::new(true),
            draining: Cell::new(false),
            disk_low: Cell::new(false),
            posting: Cell::new(false),
            wakes_at: Cell::new(Instant(u64::MAX)),
            timer: RefCell::new(None),
            woken: Cell::new(false),
            continuing: Cell::new(false),
        })
    }

    pub fn shard(&self) -> std::cell::Ref<'_, Shard<DmaPool, Ticket>> {
        self.shard.borrow()
    }

    pub fn now(&self) -> Now {
        self.clock.now()
    }

    pub fn mesh(&self) -> &Mesh {
        &self.mesh
    }

    /// Of buffers for the disk that wait for their next use.
    pub fn spare_bytes(&self) -> usize {
        self.pool.spare_bytes() + self.disk.spare_bytes()
    }

    /// Memory that was idle for some seconds goes back to the system, a little at a time; ten times a second.
    pub fn give_back(&self) {
        self.pool.give_back();
    }

    pub fn sinks(&self) -> &[Sink] {
        &self.sinks
    }

    /// Spawns the timer task. The core works from now on.
    pub fn start(self: &Rc<Core>) {
        let core = self.clone();
        let timer = async move { core.keep_time().await };
        glommio::spawn_local_into(timer, self.queue)
            .expect("the queue exists")
            .detach();
        self.turn(self.clock.now());
    }

    /// Takes no more requests.
    pub fn refuse(&self) {
        self.serving.set(false);
    }

    /// Takes no more requests, decides everything, and empties the queues.
    pub fn drain(self: &Rc<Core>) {
        if !self.draining.replace(true) {
            self.refuse();
            self.shard.borrow_mut().drain();
            self.turn(self.clock.now());
        }
    }

    /// [`Shard::upgrade`], and a turn.
    pub fn upgrade(self: &Rc<Core>, trace: TraceId, decision: Decision) -> Upgrade {
        let upgrade = self.shard.borrow_mut().upgrade(trace, decision);
        self.turn(self.clock.now());
        upgrade
    }

    /// [`Shard::find`], and a turn.
    pub fn find(self: &Rc<Core>, trace: TraceId) -> Option<u64> {
        let number = self.shard.borrow_mut().find(trace)?;
        self.turn(self.clock.now());
        Some(number)
    }

    pub fn take_found(&self, number: u64) -> Option<Searched> {
        self.shard.borrow_mut().take_found(number)
    }

    pub fn give_up_find(&self, number: u64) {
        self.shard.borrow_mut().give_up_find(number);
    }

    /// Less is free on the disk than has to be: requests are refused, exports go on.
    pub fn set_disk_low(&self, low: bool) {
        if self.disk_low.replace(low) != low {
            match low {
                true => tracing::error!("the disk is nearly full (wal.min_free); refusing requests"),
                false => tracing::info!("the disk has room again; taking requests"),
            }
        }
    }

    /// Everything handed out is finished, or `patience` runs out. Destinations get no more after `delivery`.
    pub async fn stop(self: &Rc<Core>, patience: Duration, delivery: Duration) -> bool {
        let now = self.clock.now();
        self.shard.borrow_mut().stop(now, delivery.min(patience));
        let until = now.instant.plus(patience);
        loop {
            let now = self.clock.now();
            self.turn(now);
            if self.shard.borrow().is_settled(now) {
                return true;
            }
            if now.instant >= until {
                return false;
            }
            glommio::timer::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Nothing is under way any more; `false`: patience ran out.
    pub async fn wait_quiet(self: &Rc<Core>, patience: Duration) -> bool {
        let until = self.clock.now().instant.plus(patience);
        loop {
            let now = self.clock.now();
            self.turn(now);
            if self.shard.borrow().is_quiet() {
                return true;
            }
            if now.instant >= until {
                return false;
            }
            glommio::timer::sleep(Duration::from_millis(2)).await;
        }
    }

    /// The payload of an entry of a log that this core keeps, from memory or from disk; `None`: it is not there
    /// any more.
    pub async fn read_entry(&self, place: Place) -> Option<Vec<u8>> {
        let (log, entry) = (place.log(), place.entry());
        if let Some(payload) = self.shard.borrow().landing(log)?.resident(entry) {
            return Some(payload.to_vec());
        }
        // Its file must not be used again while it is read.
        if !self.shard.borrow_mut().landing_mut(log)?.try_hold(entry) {
            return None;
        }
        let _held = Held { core: self, place };
        let mut op = self.shard.borrow().landing(log)?.read_op(entry)?;
        loop {
            let bytes = self.disk.read(log, op).await?;
            match self.shard.borrow().landing(log)?.check(entry, &bytes) {
                Ok(payload) => return Some(payload.to_vec()),
                Err(EntryError::Short { needed }) if needed > op.len => op.len = needed,
                Err(_) => return None,
            }
        }
    }

    /// Why this core is not ready; empty if it is.
    pub fn obstacles(&self) -> Vec<String> {
        let mut why = Vec::new();
        if self.draining.get() {
            why.push("draining".to_string());
        } else if !self.serving.get() {
            why.push("stopping".to_string());
        }
        if self.disk_low.get() {
            why.push("disk: less is free than wal.min_free".to_string());
        }
        if let Some(obstacle) = self.log_obstacle() {
            why.push(format!("log: {obstacle}"));
        }
        why
    }

    /// Why the log of this core takes no requests, or would not acknowledge them.
    pub fn log_obstacle(&self) -> Option<String> {
        let shard = self.shard.borrow();
        let landing = &shard.landings()[0];
        if let Err(refused) = landing.admits() {
            return Some(refused.to_string());
        }
        let stalled = landing.stalled_for(self.now());
        (stalled >= STALL_MAX).then(|| format!("the disk has not answered for {} s", stalled.as_secs()))
    }

    /// Runs the shard until it has nothing more to do without waiting.
    ///
    /// What is due is taken along: a busy executor gets to its timer task too seldom to decide all the traces
    /// that its requests open.
    pub fn turn(self: &Rc<Core>, now: Now) {
        let more_due = self.expire(now);
        let more = self.shard.borrow_mut().advance(now) || more_due;
        loop {
            let effect = self.shard.borrow_mut().poll_effect(now);
            let Some(shard::Effect { log, what }) = effect else {
                break;
            };
            match what {
                Effect::Reply(ticket, answer) => ticket.answer(answer.map_err(|_| Unavailable)),
                Effect::Disk(which, id, op) => self.spawn_op(log, which, id, op),
                Effect::Read(read) => self.spawn_read(log, read),
                Effect::Ship(destination, shipment) => self.spawn_shipment(log, destination, shipment),
            }
        }
        self.post_soon();
        if more && !self.continuing.replace(true) {
            let core = self.clone();
            self.spawn(async move {
                core.continuing.set(false);
                core.turn(core.clock.now());
            });
        }
        let due = self.shard.borrow().poll_timeout();
        if due.is_some_and(|due| due < self.wakes_at.get()) {
            self.woken.set(true);
            if let Some(timer) = self.timer.borrow_mut().take() {
                timer.wake();
            }
        }
    }

    /// Leaves out what the core leaves out that is worst off.
    fn share_overload(&self) {
        let mut shard = self.shard.borrow_mut();
        let overload = shard.overload_mut();
        overload.set_node_share(self.left_out.exchange(self.mesh.core(), overload.own_share()));
    }

    pub fn spawn(&self, work: impl Future<Output = ()> + 'static) {
        glommio::spawn_local_into(work, self.queue)
            .expect("the queue exists")
            .detach();
    }

    /// Posts what other cores are to know, once for all the turns before the task has its own.
    fn post_soon(self: &Rc<Core>) {
        let has_something = {
            let shard = self.shard.borrow();
            shard.has_messages() || shard.has_outbound()
        };
        if !has_something || self.posting.replace(true) {
            return;
        }
        let core = self.clone();
        self.spawn(async move {
            core.posting.set(false);
            while let Some((to, message)) = core.poll_message() {
                core.mesh.post(to, Post::Message(message));
            }
            core.post_outbound();
        });
    }

    /// What the cluster is to know goes through the core that speaks to it.
    fn post_outbound(&self) {
        let now = self.clock.now();
        let mut list = Vec::new();
        while let Some(outbound) = self.poll_outbound(now) {
            list.push(outbound);
        }
        if !list.is_empty() {
            self.mesh.post(SPEAKER, Post::Outbound(list));
        }
    }

    fn poll_outbound(&self, now: Now) -> Option<Outbound> {
        self.shard.borrow_mut().poll_outbound(now)
    }

    /// What the cluster told this shard, one after another; [`Core::turn`] comes after the last.
    pub fn handle_inbound(&self, inbound: Inbound) {
        let now = self.clock.now();
        self.shard.borrow_mut().handle_inbound(now, inbound);
    }

    fn poll_message(&self) -> Option<(CoreId, Message)> {
        self.shard.borrow_mut().poll_message()
    }

    /// Messages of other cores, one after another; [`Core::turn`] comes after the last.
    pub fn handle_message(&self, from: CoreId, message: Message) {
        let now = self.clock.now();
        self.shard.borrow_mut().handle_message(now, from, message);
    }

    fn spawn_shipment(self: &Rc<Core>, log: LogId, destination: usize, shipment: Shipment) {
        let core = self.clone();
        let ship = async move {
            let through = shipment.through;
            let result = core.sinks[destination].ship(shipment).await;
            let (now, random) = (core.clock.now(), core.random());
            let mut shard = core.shard.borrow_mut();
            if let Some(notice) = shard.handle_shipped(now, log, destination, through, result, random) {
                log_notice(shard.landings()[0].destination_id(destination), notice);
            }
            drop(shard);
            core.turn(now);
        };
        glommio::spawn_local_into(ship, self.export_queue)
            .expect("the queue exists")
            .detach();
    }

    /// Appends lines that another core exports to a file that this core writes.
    pub async fn append(&self, destination: usize, lines: Vec<Vec<u8>>) -> Result<(), String> {
        match &self.sinks[destination] {
            Sink::File(file) => file.append(lines).await,
            Sink::Otlp(_) | Sink::Elsewhere(..) => unreachable!("only the writer of a file is sent lines"),
        }
    }

    fn spawn_op(self: &Rc<Core>, log: LogId, which: WhichLog, id: OpId, op: DiskOp<DmaPool>) {
        let core = self.clone();
        let synced_since = matches!(op, DiskOp::Sync { .. }).then(|| self.clock.instant());
        self.spawn(async move {
            let result = core.disk.execute(log, which, op).await;
            let now = core.clock.now();
            let mut shard = core.shard.borrow_mut();
            if let Some(since) = synced_since {
                shard.stats_mut().wal_sync.record(now.instant.since(since));
            }
            shard.handle_op(now, log, which, id, result);
            drop(shard);
            core.turn(now);
        });
    }

    fn spawn_read(self: &Rc<Core>, log: LogId, read: ReadOp) {
        let core = self.clone();
        self.spawn(async move {
            let bytes = core.disk.read(log, read).await;
            core.shard.borrow_mut().handle_read(log, read, bytes);
            core.turn(core.clock.now());
        });
    }

    fn random(&self) -> u64 {
        let mut random = self.random.get().max(1);
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        self.random.set(random);
        random
    }

    async fn keep_time(self: Rc<Core>) {
        loop {
            let now = self.clock.now();
            let due = self.shard.borrow().poll_timeout();
            let sleep = due
                .map_or(SLEEP_MAX, |due| due.since(now.instant))
                .clamp(SLEEP_MIN, SLEEP_MAX);
            self.wakes_at.set(now.instant.plus(sleep));
            let woken = poll_fn(|context| {
                if self.woken.replace(false) {
                    return Poll::Ready(());
                }
                *self.timer.borrow_mut() = Some(context.waker().clone());
                Poll::Pending
            });
            // The waker is asked first: a glommio timer that is polled again is registered again.
            if let Either::Left(_) = select(pin!(woken), pin!(glommio::timer::sleep(sleep))).await {
                continue;
            }
            self.turn(self.clock.now());
        }
    }

    /// `true`: more is due than one turn should take.
    fn expire(&self, now: Now) -> bool {
        let mut shard = self.shard.borrow_mut();
        let is_due = |due: Option<Instant>| due.is_some_and(|due| due <= now.instant);
        if is_due(shard.poll_timeout()) {
            shard.handle_timeout(now);
        }
        is_due(shard.poll_timeout())
    }
}

/// An entry that stays in the log while somebody reads it.
struct Held<'a> {
    core: &'a Core,
    place: Place,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if let Some(landing) = self.core.shard.borrow_mut().landing_mut(self.place.log()) {
            landing.release(self.place.entry());
        }
    }
}

fn log_notice(exporter: &str, notice: Notice) {
    match notice {
        Notice::Failing { error } => {
            tracing::warn!(
                exporter,
                error,
                "cannot export; the traces stay in the kept log, retrying"
            );
        }
        Notice::Dropped { spans, error, help } => {
            tracing::error!(
                exporter,
                spans,
                error,
                help,
                "the destination refused traces for good"
            );
        }
        Notice::Rejected { spans, message } => {
            tracing::warn!(
                exporter,
                spans,
                message,
                "the destination rejected a part of a request"
            );
        }
        Notice::Recovered => tracing::info!(exporter, "exporting again"),
    }
}

/// The core as ingress sees it.
pub struct Service(pub Rc<Core>);

impl TraceService for Service {
    fn export(&self, transport: Transport, body: &[u8]) -> Submitted {
        let core = &self.0;
        if !core.serving.get() {
            core.shard.borrow_mut().stats_mut().refused[transport as usize][Refusal::NotReady as usize] += 1;
            let message = match core.draining.get() {
                true => "this node is draining".to_string(),
                false => "this node is stopping".to_string(),
            };
            return Submitted::Refused {
                retry_after: IN_FLIGHT_RETRY,
                message,
            };
        }
        if core.disk_low.get() {
            core.shard.borrow_mut().stats_mut().refused[transport as usize][Refusal::Log as usize] += 1;
            let message = "the disk of this node is nearly full".to_string();
            return Submitted::Refused {
                retry_after: DISK_LOW_RETRY,
                message,
            };
        }
        let (ticket, durable) = ingress::ticket::ticket();
        let now = core.clock.now();
        core.share_overload();
        let (submission, ticket) = core.shard.borrow_mut().handle_export(
            now,
            Request {
                transport,
                body,
                waiter: ticket,
            },
        );
        core.turn(now);
        let accepted = |durable, rejected: crate::landing::Rejected| {
            let partial = (rejected.count() > 0).then(|| Partial {
                rejected_spans: rejected.count(),
                message: rejected.message(core.span_bytes_max),
            });
            Submitted::Accepted { durable, partial }
        };
        match submission {
            Submission::Appended(rejected) => accepted(durable, rejected),
            Submission::Empty(rejected) => {
                if let Some(ticket) = ticket {
                    ticket.answer(Ok(()));
                }
                accepted(Durable::already(), rejected)
            }
            Submission::Invalid(error) => Submitted::Invalid {
                message: error.to_string(),
            },
            Submission::LogRefused(refused) => match refused {
                Refused::TooLarge { .. } => Submitted::TooLarge {
                    message: refused.to_string(),
                },
                Refused::Full { retry } | Refused::NoSpace { retry } | Refused::Failing { retry } => {
                    Submitted::Refused {
                        retry_after: retry,
                        message: refused.to_string(),
                    }
                }
            },
            Submission::PushedBack { exporter } => Submitted::Refused {
                retry_after: PUSHED_BACK_RETRY,
                message: format!("the queue of exporter {exporter} is full"),
            },
            Submission::InFlight => Submitted::Refused {
                retry_after: IN_FLIGHT_RETRY,
                message: "too much waits to be written to disk".to_string(),
            },
        }
    }

    fn ready(&self) -> bool {
        self.0.obstacles().is_empty()
    }

    fn place(&self, transport: Transport, connection: Connection) -> Option<Connection> {
        let core = &self.0;
        let seat = core.seats.take(core.mesh.core());
        if seat.core() == core.mesh.core() {
            return Some(Connection {
                seat: Some(seat),
                ..connection
            });
        }
        let accepted = connection.tcp.into_accepted();
        core.mesh
            .post(seat.core(), Post::Connection(transport, accepted, seat));
        None
    }

    fn replied(&self, reply: &Replied) {
        let mut shard = self.0.shard.borrow_mut();
        let stats: &mut Stats = shard.stats_mut();
        let transport = reply.transport as usize;
        stats.requests[transport].count(reply.code as u16);
        stats.received_wire_bytes[transport] += reply.wire_bytes;
        stats.received_decoded_bytes[transport] += reply.body_bytes;
        stats.ack_latency[transport].record(reply.elapsed);
    }
}
