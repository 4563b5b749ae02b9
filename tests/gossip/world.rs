//! A network of simulated nodes: their gossip is the real one, datagrams and time are not.
//!
//! ```text
//!  node ─ poll_transmit ─→ link: lost? cut? twice? when? ─→ queue of events ─→ handle_datagram ─→ node
//!       ─ poll_sync ─────→ connection: cut? when? ────────→                ─→ handle_sync_*
//! ```
//!
//! One seed decides everything, so a run repeats exactly.

use bytes::Bytes;
use prost::Message;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::SocketAddr;
use std::time::Duration;
use tailkeep::base::ids::TraceId;
use tailkeep::base::monoid::Monoid;
use tailkeep::base::time::{Instant, Now, WallTime};
use tailkeep::digest::{Digest, PredicateSet};
use tailkeep::gossip::datagram::{ClusterKey, HEADER_BYTES};
use tailkeep::gossip::{Gossip, Inbound, NodeDigest, NodeId, Options, Outbound, PeerDecision};
use tailkeep::policy::quota::Leasing;
use tailkeep::proto;
use tailkeep::route::{Decision, PolicyNumber};
use tailkeep::verdict::{Reason, Threshold, Verdict};

/// How links treat what they carry.
#[derive(Clone, Copy, Debug)]
pub struct Net {
    pub loss: f64,
    pub twice: f64,
    pub delay: (Duration, Duration),
}

impl Net {
    pub const fn new(loss: f64, twice: f64, delay_us: (u64, u64)) -> Net {
        Net {
            loss,
            twice,
            delay: (
                Duration::from_micros(delay_us.0),
                Duration::from_micros(delay_us.1),
            ),
        }
    }

    /// One switch.
    pub const GOOD: Net = Net::new(0.0, 0.0, (50, 200));
}

/// What all nodes are given.
#[derive(Clone)]
pub struct Setup {
    pub keys: Vec<ClusterKey>,
    pub retention: Duration,
    pub retained_bytes_max: usize,
    pub directed_bytes_max: usize,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup {
            keys: Vec::new(),
            retention: Duration::from_secs(60),
            retained_bytes_max: 64 << 20,
            directed_bytes_max: 4 << 20,
        }
    }
}

pub struct Node {
    pub gossip: Gossip,
    pub address: SocketAddr,
    pub incarnation: u64,
    /// Policy names as this node's shards know them.
    pub names: Vec<String>,
    /// Decisions that came, how often, and when first.
    pub came: BTreeMap<TraceId, (u32, Instant)>,
    /// Versions of digests that came, by sender.
    pub digests: BTreeMap<NodeId, Vec<u32>>,
    pub answers: Vec<(u32, TraceId)>,
    pub leasings: Vec<Leasing>,
    pub live: Vec<NodeId>,
    /// Every set of members that its shards were told.
    pub members_told: Vec<Vec<NodeId>>,
    pub renewed: Vec<NodeId>,
    /// When its timers are due; whoever touches the node drains it.
    due: Option<Instant>,
}

enum Event {
    Datagram {
        to: usize,
        bytes: Bytes,
    },
    Call {
        from: usize,
        life: u64,
        to: usize,
        id: u64,
        frame: Vec<u8>,
    },
    Reply {
        to: usize,
        life: u64,
        id: u64,
        frame: Option<Vec<u8>>,
    },
}

/// A decision that was announced.
#[derive(Clone, Copy, Debug)]
pub struct Announced {
    pub by: usize,
    pub at: Instant,
}

pub struct World {
    pub nodes: Vec<Option<Node>>,
    pub net: Net,
    pub now: Instant,
    /// From, to: nothing passes.
    pub cut: BTreeSet<(usize, usize)>,
    /// To this node no batch with this number of that origin ever passes.
    pub poisoned: Option<(usize, NodeId, u64)>,
    pub setup: Setup,
    pub announced: BTreeMap<TraceId, Announced>,
    /// Every datagram that was delivered, if asked for.
    pub capture: Option<Vec<(usize, Bytes)>>,
    pub datagrams: u64,
    pub bytes: u64,
    events: BinaryHeap<Reverse<(Instant, u64)>>,
    what: BTreeMap<u64, Event>,
    next: u64,
    starts: u64,
    pub random: SmallRng,
}

const WALL: u64 = 1_700_000_000_000_000_000;

pub fn node_id(index: usize) -> NodeId {
    NodeId(1000 + index as u64)
}

fn address(index: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, (index / 200) as u8, (index % 200) as u8 + 1], 5337))
}

impl World {
    pub fn new(seed: u64, net: Net, setup: Setup) -> World {
        World {
            nodes: Vec::new(),
            net,
            now: Instant(1_000_000_000),
            cut: BTreeSet::new(),
            poisoned: None,
            setup,
            announced: BTreeMap::new(),
            capture: None,
            datagrams: 0,
            bytes: 0,
            events: BinaryHeap::new(),
            what: BTreeMap::new(),
            next: 0,
            starts: 0,
            random: SmallRng::seed_from_u64(seed),
        }
    }

    /// `count` nodes that know the first one's address, and each other after a while.
    pub fn cluster(seed: u64, count: usize, net: Net, setup: Setup) -> World {
        let mut world = World::new(seed, Net::GOOD, setup);
        for index in 0..count {
            world.start(index);
        }
        world.run(Duration::from_secs(4));
        for (index, node) in world.living() {
            assert_eq!(node.live.len(), count, "node {index} knows {:?}", node.live);
        }
        world.net = net;
        world
    }

    /// Starts a node, or starts it again with a new incarnation and no memory.
    pub fn start(&mut self, index: usize) {
        self.starts += 1;
        // Nodes number the same policies differently.
        let mut names: Vec<String> = ["errors", "slow", "baseline"].map(String::from).into();
        names.rotate_left(index % 3);
        let mut predicates = vec![11, 22, 33];
        predicates.rotate_left(index % 3);
        let options = Options {
            own: node_id(index),
            name: format!("node-{index}"),
            incarnation: self.starts,
            address: address(index),
            cluster: "test".to_string(),
            keys: self.setup.keys.clone(),
            retention: self.setup.retention,
            retained_bytes_max: self.setup.retained_bytes_max,
            directed_bytes_max: self.setup.directed_bytes_max,
            predicates,
            policy_names: names.clone(),
        };
        let now = self.now();
        let mut gossip = Gossip::new(options, now, self.random.random());
        gossip.handle_seeds(now, vec![address(0), address(1)]);
        let node = Node {
            gossip,
            address: address(index),
            incarnation: self.starts,
            names,
            came: BTreeMap::new(),
            leasings: Vec::new(),
            digests: BTreeMap::new(),
            answers: Vec::new(),
            live: Vec::new(),
            members_told: Vec::new(),
            renewed: Vec::new(),
            due: None,
        };
        while self.nodes.len() <= index {
            self.nodes.push(None);
        }
        self.nodes[index] = Some(node);
        self.drain(index);
    }

    pub fn stop(&mut self, index: usize) {
        self.nodes[index] = None;
    }

    pub fn now(&self) -> Now {
        Now {
            instant: self.now,
            wall: WallTime(WALL + self.now.0),
        }
    }

    pub fn living(&self) -> impl Iterator<Item = (usize, &Node)> {
        let nodes = self.nodes.iter().enumerate();
        nodes.filter_map(|(index, node)| node.as_ref().map(|node| (index, node)))
    }

    pub fn node(&self, index: usize) -> &Node {
        self.nodes[index].as_ref().expect("it lives")
    }

    pub fn node_mut(&mut self, index: usize) -> &mut Node {
        self.nodes[index].as_mut().expect("it lives")
    }

    /// Nothing passes between the two groups.
    pub fn partition(&mut self, left: &[usize], right: &[usize]) {
        for l in left {
            for r in right {
                self.cut.extend([(*l, *r), (*r, *l)]);
            }
        }
    }

    /// Has a node announce a Keep of a trace that nobody else knows.
    pub fn announce(&mut self, by: usize) -> TraceId {
        let trace = TraceId::new(&self.random.random::<u128>().to_be_bytes()).expect("not zero");
        let at = self.now;
        self.announced.insert(trace, Announced { by, at });
        let policy = self.policy_of(by, trace);
        let decision = Decision {
            verdict: Verdict::Keep,
            reason: Reason::Complete,
            policy: Some(policy),
            threshold: Some(Threshold::KEEP_ALL),
            incomplete: false,
            upgraded: false,
        };
        self.outbound(
            by,
            Outbound::Announce(PeerDecision {
                trace,
                decision,
                by_home: true,
            }),
        );
        trace
    }

    /// Which policy kept a trace is a function of the trace, so that any node can check the name.
    fn policy_of(&self, index: usize, trace: TraceId) -> PolicyNumber {
        let name = policy_name(trace);
        let place = self.node(index).names.iter().position(|known| known == name);
        PolicyNumber(place.expect("all are configured everywhere") as u16)
    }

    pub fn send_digest(&mut self, from: usize, to: usize, version: u32) {
        let digest = NodeDigest {
            trace: TraceId::new(&[7; 16]).expect("not zero"),
            digest: Digest {
                predicates: PredicateSet::from_bits(1),
                span_count: version,
                ..Digest::EMPTY
            },
            unknown: PredicateSet::NONE,
            version,
        };
        self.outbound(from, Outbound::Digest(node_id(to), digest));
    }

    pub fn outbound(&mut self, index: usize, outbound: Outbound) {
        let now = self.now();
        let node = self.nodes[index].as_mut().expect("it lives");
        node.gossip.handle_outbound(now, outbound);
        self.drain(index);
    }

    pub fn leave(&mut self, index: usize) {
        let now = self.now();
        self.nodes[index].as_mut().expect("it lives").gossip.leave(now);
        self.drain(index);
    }

    pub fn run(&mut self, time: Duration) {
        self.run_with(time, |_| {});
    }

    /// Runs for `time`, and calls `each` every millisecond.
    pub fn run_with(&mut self, time: Duration, mut each: impl FnMut(&mut World)) {
        let until = self.now.plus(time);
        while self.now < until {
            self.run_until(self.now.plus(Duration::from_millis(1)));
            each(self);
        }
    }

    fn run_until(&mut self, until: Instant) {
        loop {
            let event = self.events.peek().map(|Reverse((at, _))| *at);
            let timer = self
                .living()
                .filter_map(|(index, node)| node.due.map(|at| (at.max(self.now), index)));
            let timer = timer.min();
            match (event, timer) {
                (Some(at), timer) if at <= until && timer.is_none_or(|(due, _)| at <= due) => {
                    self.now = self.now.max(at);
                    let Reverse((_, id)) = self.events.pop().expect("peeked");
                    let what = self.what.remove(&id).expect("each event once");
                    self.handle(what);
                }
                (_, Some((due, index))) if due <= until => {
                    self.now = due;
                    let now = self.now();
                    self.nodes[index]
                        .as_mut()
                        .expect("it lives")
                        .gossip
                        .handle_timeout(now);
                    self.drain(index);
                }
                _ => break,
            }
        }
        self.now = until;
    }

    fn handle(&mut self, event: Event) {
        let now = self.now();
        match event {
            Event::Datagram { to, bytes } => {
                let Some(node) = &mut self.nodes[to] else {
                    return;
                };
                node.gossip.handle_datagram(now, &bytes);
                if let Some(capture) = &mut self.capture {
                    capture.push((to, bytes));
                }
                self.drain(to);
            }
            Event::Call {
                from,
                life,
                to,
                id,
                frame,
            } => {
                let reply = self.nodes[to]
                    .as_mut()
                    .and_then(|node| node.gossip.handle_sync_request(&frame));
                let passes = !self.cut.contains(&(to, from));
                let delay = self.delay();
                let reply = Event::Reply {
                    to: from,
                    life,
                    id,
                    frame: reply.filter(|_| passes),
                };
                self.push(delay, reply);
            }
            Event::Reply { to, life, id, frame } => {
                let Some(node) = self.nodes[to].as_mut().filter(|node| node.incarnation == life) else {
                    return;
                };
                node.gossip.handle_sync_reply(now, id, frame.as_deref());
                self.drain(to);
            }
        }
    }

    /// Takes everything out of a node.
    fn drain(&mut self, index: usize) {
        let mut transmits = Vec::new();
        let mut calls = Vec::new();
        let node = self.nodes[index].as_mut().expect("it lives");
        while let Some(transmit) = node.gossip.poll_transmit() {
            transmits.push(transmit);
        }
        while let Some(call) = node.gossip.poll_sync() {
            calls.push(call);
        }
        while let Some(inbound) = node.gossip.poll_inbound() {
            node.take(self.now, inbound);
        }
        node.gossip.take_delays();
        node.due = node.gossip.poll_timeout();
        for transmit in transmits {
            self.datagrams += 1;
            self.bytes += transmit.bytes.len() as u64;
            let Some(to) = self.at(transmit.to) else {
                continue;
            };
            if self.cut.contains(&(index, to)) || self.is_poisoned(to, &transmit.bytes) {
                continue;
            }
            let copies = 1 + u32::from(self.random.random_bool(self.net.twice));
            for _ in 0..copies {
                if !self.random.random_bool(self.net.loss) {
                    let delay = self.delay();
                    let bytes = transmit.bytes.clone();
                    self.push(delay, Event::Datagram { to, bytes });
                }
            }
        }
        let life = self.node(index).incarnation;
        for call in calls {
            let to = self.at(call.to);
            let passes = to.filter(|to| !self.cut.contains(&(index, *to)) && self.poisoned.is_none());
            let (id, frame) = (call.id, call.frame);
            match passes {
                Some(to) => {
                    let delay = self.delay();
                    self.push(
                        delay,
                        Event::Call {
                            from: index,
                            life,
                            to,
                            id,
                            frame,
                        },
                    );
                }
                None => self.push(
                    Duration::from_secs(1),
                    Event::Reply {
                        to: index,
                        life,
                        id,
                        frame: None,
                    },
                ),
            }
        }
    }

    /// Only without keys can the network look into datagrams.
    fn is_poisoned(&self, to: usize, bytes: &Bytes) -> bool {
        let Some((victim, origin, number)) = self.poisoned.filter(|(victim, ..)| *victim == to) else {
            return false;
        };
        debug_assert_eq!(victim, to);
        let content = bytes.slice(HEADER_BYTES..bytes.len() - 4);
        let body = proto::Packet::decode(content).expect("ours").body;
        matches!(body, Some(proto::packet::Body::Batch(batch))
            if (batch.origin, batch.sequence, batch.directed) == (origin.0, number, false))
    }

    fn at(&self, to: SocketAddr) -> Option<usize> {
        self.living()
            .find(|(_, node)| node.address == to)
            .map(|(index, _)| index)
    }

    fn delay(&mut self) -> Duration {
        let (least, most) = self.net.delay;
        Duration::from_nanos(
            self.random
                .random_range(least.as_nanos() as u64..=most.as_nanos() as u64),
        )
    }

    fn push(&mut self, after: Duration, event: Event) {
        self.next += 1;
        self.events.push(Reverse((self.now.plus(after), self.next)));
        self.what.insert(self.next, event);
    }

    /// What is wrong with the decisions that node `index` has: each of every other node, once.
    pub fn check_decisions(&self, index: usize, due: impl Fn(&Announced) -> bool) -> Vec<String> {
        let node = self.node(index);
        let due = self
            .announced
            .iter()
            .filter(|(_, announced)| announced.by != index && due(announced));
        let missing = due.filter(|(trace, _)| !node.came.contains_key(trace));
        let missing = missing.map(|(trace, by)| format!("node {index} lacks {trace} of {by:?}"));
        let twice = node.came.iter().filter(|(_, (count, _))| *count != 1);
        let twice = twice.map(|(trace, (count, _))| format!("node {index} got {trace} {count} times"));
        missing.chain(twice).collect()
    }

    pub fn assert_all_came(&self, seed: u64) {
        for (index, _) in self.living() {
            let wrong = self.check_decisions(index, |_| true);
            let counts = self.node(index).gossip.counts();
            assert!(
                wrong.is_empty(),
                "seed {seed}: {} wrong, {:?}, {counts:?}",
                wrong.len(),
                &wrong[..wrong.len().min(3)]
            );
        }
    }
}

impl Node {
    fn take(&mut self, now: Instant, inbound: Inbound) {
        match inbound {
            Inbound::Announced(PeerDecision {
                trace,
                decision,
                by_home,
            }) => {
                assert!(by_home);
                let policy = decision
                    .policy
                    .map(|policy| self.names[usize::from(policy.0)].as_str());
                assert_eq!(policy, Some(policy_name(trace)), "names survive the way");
                self.came.entry(trace).or_insert((0, now)).0 += 1;
            }
            Inbound::Leasing(leasing) => self.leasings.push(leasing),
            Inbound::Digest(from, digest) => {
                assert_eq!(digest.digest.span_count, digest.version);
                self.digests.entry(from).or_default().push(digest.version);
            }
            Inbound::Answer(version, answer) => self.answers.push((version, answer.trace)),
            Inbound::Members(members) => {
                self.members_told.push(members.live.clone());
                self.live = members.live;
            }
            Inbound::Renewed(node) => self.renewed.push(node),
            Inbound::PolicyNames(names) => self.names.extend(names),
        }
    }
}

fn policy_name(trace: TraceId) -> &'static str {
    ["errors", "slow", "baseline"][usize::from(trace.as_bytes()[0] % 3)]
}
