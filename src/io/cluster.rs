//! The cluster's end on the first core: drives [`Gossip`] over one UDP socket and one TCP port.
//!
//! ```text
//!  shards of all cores ── Post::Outbound ──→ ┌────────┐ ←─ datagrams (udp) ─→ other nodes
//!                      ←─ Post::Inbound ──── │ Gossip │ ←─ frames    (tcp) ─→
//!                                            └────────┘ ←─ addresses (seeds)
//! ```
//!
//! Whoever has something for the gossip hands it over and then lets it work ([`Cluster::work`]). What concerns a trace
//! goes to the core that owns it, members and names go to every core, names first.

mod ask; // what people ask all nodes
pub mod keys; // the key file
mod seeds; // addresses behind the names to join, looked up again and again
mod tcp; // frames over TCP, for long gaps
mod udp; // the socket

pub use udp::{Sockets, address_towards, bind};

use super::clock::Clock;
use super::datadir::DataDir;
use super::mesh::{Mesh, Post};
use crate::base::ids::CoreId;
use crate::base::time::Instant;
use crate::config::options::Endpoint;
use crate::gossip::datagram::ClusterKey;
use crate::gossip::machine::{Counts, MemberView};
use crate::gossip::{Gossip, Inbound, Outbound, SpansArrive};
use crate::route::{self, HashKey};
use crate::stats::Histogram;
use futures_util::future::{Either, select};
use glommio::TaskQueueHandle;
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;
use udp::Udp;

/// The core that speaks for the node.
pub const SPEAKER: CoreId = CoreId(0);
const SLEEP_MAX: Duration = Duration::from_secs(1);
const SLEEP_MIN: Duration = Duration::from_micros(200);
/// For everybody to have what this node decided last, before it says goodbye.
const LEAVE_PATIENCE: Duration = Duration::from_secs(2);

/// `cluster`, as far as the host has to do with it.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    pub name: String,
    pub listen: Vec<SocketAddr>,
    /// `None`: where it listens, or this host's address on the way to the others.
    pub advertise: Option<SocketAddr>,
    pub join: Vec<Endpoint>,
    pub keys: Vec<ClusterKey>,
    /// Where they came from, to be read again.
    pub key_file: Option<PathBuf>,
    pub spans_arrive: SpansArrive,
}

/// What status and metrics say.
#[derive(Clone, Debug)]
pub struct ClusterReport {
    pub members: Vec<MemberView>,
    pub counts: Counts,
    pub delay: Histogram,
}

/// The gossip of this node and what it needs of the outside.
pub struct Cluster {
    gossip: RefCell<Gossip>,
    clock: Rc<Clock>,
    data_dir: Arc<DataDir>,
    mesh: Rc<Mesh>,
    hash_key: HashKey,
    core_count: u16,
    queue: TaskQueueHandle,
    udp: Udp,
    delay: RefCell<Histogram>,
    answerer: RefCell<Option<ask::Answerer>>,
    wakes_at: Cell<Instant>,
    timer: RefCell<Option<Waker>>,
    woken: Cell<bool>,
}

/// What a cluster is made of beside its options.
pub struct ClusterParts {
    pub gossip: Gossip,
    pub clock: Rc<Clock>,
    pub data_dir: Arc<DataDir>,
    pub mesh: Rc<Mesh>,
    pub hash_key: HashKey,
    pub core_count: u16,
    pub queue: TaskQueueHandle,
    pub sockets: Sockets,
    pub join: Vec<Endpoint>,
}

impl Cluster {
    /// Listens, joins, and works from now on.
    pub fn start(parts: ClusterParts) -> Rc<Cluster> {
        let Sockets { udp, tcp, .. } = parts.sockets;
        let cluster = Rc::new(Cluster {
            gossip: RefCell::new(parts.gossip),
            clock: parts.clock,
            data_dir: parts.data_dir,
            mesh: parts.mesh,
            hash_key: parts.hash_key,
            core_count: parts.core_count,
            queue: parts.queue,
            udp: Udp::new(udp),
            delay: RefCell::default(),
            answerer: RefCell::new(None),
            wakes_at: Cell::new(Instant(u64::MAX)),
            timer: RefCell::new(None),
            woken: Cell::new(false),
        });
        cluster.spawn(udp::receive(cluster.clone()));
        cluster.spawn(tcp::serve(cluster.clone(), tcp));
        cluster.spawn(seeds::look_up(cluster.clone(), parts.join));
        cluster.spawn(keep_time(cluster.clone()));
        cluster
    }

    /// From a shard; [`Cluster::work`] comes after the last.
    pub fn take(&self, outbound: Outbound) {
        let now = self.clock.now();
        self.gossip.borrow_mut().handle_outbound(now, outbound);
    }

    pub fn set_keys(&self, keys: &[ClusterKey]) {
        self.gossip.borrow_mut().set_keys(keys);
    }

    pub fn report(&self) -> ClusterReport {
        let gossip = self.gossip.borrow();
        ClusterReport {
            members: gossip.members(),
            counts: gossip.counts().clone(),
            delay: *self.delay.borrow(),
        }
    }

    /// Sends what is to be sent and hands over what came.
    pub fn work(self: &Rc<Cluster>) {
        while let Some(transmit) = self.poll(Gossip::poll_transmit) {
            self.udp.send(&transmit);
        }
        while let Some(call) = self.poll(Gossip::poll_sync) {
            self.spawn(tcp::call(self.clone(), call));
        }
        self.hand_over();
        let delays = self.gossip.borrow_mut().take_delays();
        for (delay, count) in delays {
            (0..count).for_each(|_| self.delay.borrow_mut().record(delay));
        }
        let due = self.gossip.borrow().poll_timeout();
        if due.is_some_and(|due| due < self.wakes_at.get()) {
            self.woken.set(true);
            if let Some(timer) = self.timer.borrow_mut().take() {
                timer.wake();
            }
        }
    }

    /// Everybody gets what this node decided last; then it says goodbye.
    pub async fn leave(self: &Rc<Cluster>) {
        let until = self.clock.instant().plus(LEAVE_PATIENCE);
        while self.clock.instant() < until && !self.gossip.borrow().is_settled() {
            glommio::timer::sleep(Duration::from_millis(2)).await;
        }
        let now = self.clock.now();
        self.gossip.borrow_mut().leave(now);
        self.work();
    }

    fn poll<T>(&self, poll: impl FnOnce(&mut Gossip) -> Option<T>) -> Option<T> {
        poll(&mut self.gossip.borrow_mut())
    }

    fn hand_over(&self) {
        let mut by_core: Vec<Vec<Inbound>> = vec![Vec::new(); usize::from(self.core_count)];
        while let Some(inbound) = self.poll(Gossip::poll_inbound) {
            let owner_of = |trace| route::owner(self.hash_key.trace(trace), self.core_count);
            let owner = match &inbound {
                Inbound::Announced(decision) | Inbound::Answer(_, decision) => {
                    Some(owner_of(&decision.trace))
                }
                Inbound::Digest(_, digest) => Some(owner_of(&digest.trace)),
                Inbound::Leasing(leasing) => Some(leasing.core(self.core_count)),
                Inbound::Members(_) | Inbound::Renewed(_) | Inbound::PolicyNames(_) => None,
            };
            match owner {
                Some(owner) => {
                    // What a peer says may name a core that is not there.
                    if let Some(list) = by_core.get_mut(usize::from(owner.0)) {
                        list.push(inbound);
                    }
                }
                None => {
                    if let Inbound::Members(members) = &inbound {
                        tracing::info!(live = members.live.len(), "members of the cluster changed");
                    }
                    if let Inbound::PolicyNames(names) = &inbound {
                        self.remember(names);
                    }
                    by_core.iter_mut().for_each(|list| list.push(inbound.clone()));
                }
            }
        }
        for (core, list) in self.mesh.cores().zip(by_core) {
            if !list.is_empty() {
                self.mesh.post(core, Post::Inbound(list));
            }
        }
    }

    /// Before any log has a decision by one of these policies: the next start must know what they are called.
    fn remember(&self, names: &[String]) {
        if let Err(error) = self.data_dir.add_policy_names(names) {
            tracing::warn!(%error, "the next start will not know the names of other nodes' policies");
        }
    }

    /// Timers that are due, after what waits in the socket: it may be what they wait for.
    fn handle_timeout(self: &Rc<Cluster>) {
        let now = self.clock.now();
        let due = self.gossip.borrow().poll_timeout();
        if due.is_some_and(|due| due <= now.instant) {
            udp::receive_waiting(self);
            self.gossip.borrow_mut().handle_timeout(now);
        }
        self.work();
    }

    fn spawn(&self, work: impl Future<Output = ()> + 'static) {
        glommio::spawn_local_into(work, self.queue)
            .expect("the queue exists")
            .detach();
    }
}

async fn keep_time(cluster: Rc<Cluster>) {
    loop {
        let now = cluster.clock.instant();
        let due = cluster.gossip.borrow().poll_timeout();
        let sleep = due
            .map_or(SLEEP_MAX, |due| due.since(now))
            .clamp(SLEEP_MIN, SLEEP_MAX);
        cluster.wakes_at.set(now.plus(sleep));
        let woken = poll_fn(|context| {
            if cluster.woken.replace(false) {
                return Poll::Ready(());
            }
            *cluster.timer.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        });
        // The waker is asked first: a glommio timer that is polled again is registered again.
        if let Either::Left(_) = select(pin!(woken), pin!(glommio::timer::sleep(sleep))).await {
            continue;
        }
        cluster.handle_timeout();
    }
}
