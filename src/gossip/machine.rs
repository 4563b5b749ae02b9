//! One node of a cluster, whole: membership, streams, repair, and what goes to and comes from shards.
//!
//! ```text
//!  handle_datagram ─┐                                  ┌─ poll_transmit: datagrams
//!  handle_sync_* ───┤   seal · member · streams        ├─ poll_sync: requests over TCP
//!  handle_outbound ─┼─────────────────────────────────→┤
//!  handle_timeout ──┤   a peer's state: machine/peer   └─ poll_inbound: for shards
//!  handle_seeds ────┘
//! ```
//!
//! Sans-IO. After any `handle_*` call each `poll_*` until `None`; call `handle_timeout` when `poll_timeout` says so.
//! Datagrams that wait in the socket go first: what they say may be what a timer waits for.
//!
//! Everything is bounded: streams by bytes and age, peers by membership, gaps and requests by count. A peer that takes
//! nothing costs its own bound and no more; it is told what it missed, or that it is gone.

mod ask; // what people ask all nodes
mod counts; // what happened, in numbers
mod peer; // what is kept of each other node
mod receive; // what comes in
mod repair; // what is missing, and what others miss
mod roster; // who is there
mod send; // what goes out
mod upkeep; // what is let go

pub use ask::{AskCall, Question, Served};
pub use counts::{Counts, Outcome};
pub use repair::FRAME_BYTES_MAX;

use super::datagram::{ClusterKey, DATAGRAM_BYTES_MAX, Lane, Opener, Origin, Rejected, Sealer};
use super::member::{Identity, Membership};
use super::stream::content::{Decisions, Directed, PolicyNames};
use super::stream::{Incoming, Outgoing, StreamId};
use super::{Inbound, NodeId, Outbound};
use crate::base::time::{Instant, Now};
use crate::proto;
use crate::route::HashKey;
use bytes::Bytes;
use foca::State;
use peer::Peer;
use prost::Message;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use repair::Sync;
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

/// For configured addresses to answer before this node takes itself for alone.
const JOIN_TIME: Duration = Duration::from_secs(2);
/// What waits in a batch for more.
const FLUSH_AFTER: Duration = Duration::from_millis(3);
/// Between two exchanges of heads with a random peer, give or take a fifth.
const HEADS_PAUSE: Duration = Duration::from_secs(1);
/// How often the configured addresses are asked, alone and in company.
const SEEDS_PAUSE_ALONE: Duration = Duration::from_secs(1);
const SEEDS_PAUSE: Duration = Duration::from_secs(5);
const UPKEEP_PAUSE: Duration = Duration::from_secs(1);
/// Datagrams that wait for the socket.
const TRANSMIT_COUNT_MAX: usize = 16 << 10;
/// Delays of batches that wait to be taken.
const DELAY_COUNT_MAX: usize = 4096;
/// Streams of lives of nodes, those of the dead included as long as somebody has some of them.
const STREAM_COUNT_MAX: usize = 1024;
const STREAM_COUNT_KEPT: usize = 128;
/// A number beyond it is nobody's: at a million batches a second it takes 100,000 years.
const NUMBER_MAX: u64 = 1 << 62;

/// Everything a node's gossip starts from.
#[derive(Clone, Debug)]
pub struct Options {
    pub own: NodeId,
    /// What people call it.
    pub name: String,
    /// Higher than at any start before.
    pub incarnation: u64,
    /// Where others reach it, UDP and TCP.
    pub address: SocketAddr,
    /// Datagrams of clusters with other names are strangers'.
    pub cluster: String,
    /// The first seals, all open; none: checksums only.
    pub keys: Vec<ClusterKey>,
    /// Decisions are kept for peers as long as traces live.
    pub retention: Duration,
    /// Half for this node's decisions, half for those of others.
    pub retained_bytes_max: usize,
    /// Digests and answers that wait for one peer.
    pub directed_bytes_max: usize,
    /// What this node's predicates ask, by number.
    pub predicates: Vec<u64>,
    pub policy_names: Vec<String>,
}

/// A datagram to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    pub to: SocketAddr,
    pub bytes: Bytes,
}

/// A frame to be sent over TCP; the one that comes back is handed to [`Gossip::handle_sync_reply`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncCall {
    pub id: u64,
    pub to: SocketAddr,
    pub frame: Vec<u8>,
}

/// One node as people see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberView {
    pub node: NodeId,
    pub name: String,
    pub address: SocketAddr,
    /// `alive suspect down left`.
    pub state: &'static str,
    pub incarnation: u64,
}

/// The broadcast stream of another node's life.
struct Stream {
    incoming: Incoming,
    /// Up to where others have it, as they said.
    held: BTreeMap<NodeId, u64>,
    /// When somebody last spoke of it.
    mentioned: Instant,
    sync_attempts: usize,
}

/// One node of a cluster.
pub struct Gossip {
    options: Options,
    own: StreamId,
    home_key: HashKey,
    sealer: Sealer,
    opener: Opener,
    membership: Membership,
    peers: BTreeMap<NodeId, Peer>,
    /// As shards were told.
    live: Vec<NodeId>,
    /// They are told nothing before: whoever joins a cluster is not alone for a moment.
    joining_until: Option<Instant>,
    names: PolicyNames,

    decisions: Decisions,
    flush_at: Option<Instant>,
    broadcast: Outgoing,
    streams: BTreeMap<StreamId, Stream>,
    syncs: Vec<Sync>,

    seeds: Vec<SocketAddr>,
    seeds_at: Instant,
    heads_at: Instant,
    upkeep_at: Instant,
    leaving: bool,

    transmits: VecDeque<Transmit>,
    calls: VecDeque<SyncCall>,
    inbounds: VecDeque<Inbound>,
    delays: Vec<(Duration, u32)>,
    counts: Counts,
    random: SmallRng,
}

impl Gossip {
    /// `seed` must not be guessable nor come twice: it salts the keys.
    pub fn new(options: Options, now: Now, seed: u64) -> Gossip {
        let mut random = SmallRng::seed_from_u64(seed);
        let own = StreamId {
            origin: options.own,
            incarnation: options.incarnation,
        };
        let origin = Origin {
            node: options.own,
            incarnation: options.incarnation,
            salt: random.random(),
        };
        let identity = Identity {
            node: options.own,
            incarnation: options.incarnation,
            renewal: 0,
            address: options.address,
        };
        Gossip {
            own,
            home_key: home_key(&options.cluster),
            sealer: Sealer::new(&options.cluster, &options.keys, origin),
            opener: Opener::new(&options.cluster, &options.keys),
            membership: Membership::new(identity, random.random()),
            peers: BTreeMap::new(),
            live: Vec::new(),
            joining_until: Some(now.instant.plus(JOIN_TIME)),
            names: PolicyNames::new(options.policy_names.clone()),
            decisions: Decisions::default(),
            flush_at: None,
            broadcast: Outgoing::default(),
            streams: BTreeMap::new(),
            syncs: Vec::new(),
            seeds: Vec::new(),
            seeds_at: now.instant,
            heads_at: now.instant.plus(HEADS_PAUSE),
            upkeep_at: now.instant.plus(UPKEEP_PAUSE),
            leaving: false,
            transmits: VecDeque::new(),
            calls: VecDeque::new(),
            inbounds: VecDeque::new(),
            delays: Vec::new(),
            counts: Counts::default(),
            random,
            options,
        }
    }

    // ---- what happens -----------------------------------------------------------------------------------

    /// Whatever came over UDP.
    pub fn handle_datagram(&mut self, now: Now, bytes: &[u8]) {
        self.counts.bytes_in += bytes.len() as u64;
        let opened = match bytes.len() > DATAGRAM_BYTES_MAX {
            true => Err(Rejected::Oversized),
            false => self.opener.open(Lane::Datagram, bytes),
        };
        let outcome = match opened {
            Ok(opened) => self.handle_opened(now, opened),
            Err(rejected) => rejected.into(),
        };
        self.counts.datagrams_in[outcome as usize] += 1;
        self.follow_membership(now);
    }

    /// What a shard has for the cluster.
    pub fn handle_outbound(&mut self, now: Now, outbound: Outbound) {
        match outbound {
            Outbound::Announce(decision) => self.announce(now, &decision),
            Outbound::Digest(to, digest) if to == self.own.origin => {
                self.inbounds.push_back(Inbound::Digest(to, digest));
            }
            Outbound::Answer(to, version, answer) if to == self.own.origin => {
                self.inbounds.push_back(Inbound::Answer(version, answer));
            }
            Outbound::Leasing(to, leasing) if to == self.own.origin => {
                self.inbounds.push_back(Inbound::Leasing(leasing));
            }
            Outbound::Leasing(to, leasing) => {
                self.direct(now, to, |pending, _| pending.push_leasing(&leasing));
            }
            Outbound::Digest(to, digest) => {
                self.counts.digests_out += 1;
                self.direct(now, to, |pending, _| pending.push_digest(&digest));
            }
            Outbound::Answer(to, version, answer) => {
                let push = |pending: &mut Directed, names: &_| {
                    pending.push_answer(now.wall, version, &answer, names);
                };
                self.direct(now, to, push);
            }
        }
    }

    /// The addresses of the configuration, whenever they were looked up.
    pub fn handle_seeds(&mut self, now: Now, seeds: Vec<SocketAddr>) {
        if seeds.iter().all(|seed| *seed == self.options.address) {
            // Nobody to be asked.
            self.end_joining();
        }
        if self.seeds != seeds {
            self.seeds = seeds;
            self.seeds_at = now.instant;
        }
    }

    /// Other keys from now on; see [`Options::keys`].
    pub fn set_keys(&mut self, keys: &[ClusterKey]) {
        self.sealer.set_keys(keys);
        self.opener.set_keys(keys);
    }

    /// Says goodbye. What is to arrive should have: [`Gossip::is_settled`].
    pub fn leave(&mut self, now: Now) {
        if self.leaving {
            return;
        }
        self.flush_all(now);
        for peer in self.live_peers() {
            self.send_hello(peer.address, false, true);
        }
        self.membership.leave(now.instant);
        self.follow_membership(now);
        self.leaving = true;
    }

    pub fn handle_timeout(&mut self, now: Now) {
        if self.leaving {
            return;
        }
        if self.joining_until.is_some_and(|until| until <= now.instant) {
            self.end_joining();
        }
        self.membership.handle_timeout(now.instant);
        self.follow_membership(now);
        self.flush_due(now);
        self.repair_due(now);
        self.beat_due(now);
        if self.heads_at <= now.instant {
            let fifth = self
                .random
                .random_range(0..=HEADS_PAUSE.as_millis() as u64 * 2 / 5);
            self.heads_at = now
                .instant
                .plus(HEADS_PAUSE * 4 / 5 + Duration::from_millis(fifth));
            let live = self.live_peers();
            if let Some(peer) = self.choose(&live) {
                self.send_heads(peer);
            }
        }
        if self.seeds_at <= now.instant {
            self.ask_seeds(now);
        }
        if self.upkeep_at <= now.instant {
            self.upkeep_at = now.instant.plus(UPKEEP_PAUSE);
            self.upkeep(now);
        }
    }

    // ---- what follows -----------------------------------------------------------------------------------

    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        let transmit = self.transmits.pop_front()?;
        self.counts.datagrams_out += 1;
        self.counts.bytes_out += transmit.bytes.len() as u64;
        Some(transmit)
    }

    pub fn poll_sync(&mut self) -> Option<SyncCall> {
        self.calls.pop_front()
    }

    /// For the shard that owns the trace, or for all.
    pub fn poll_inbound(&mut self) -> Option<Inbound> {
        self.inbounds.pop_front()
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.leaving {
            return None;
        }
        let own = [
            Some(self.seeds_at),
            Some(self.heads_at),
            Some(self.upkeep_at),
            self.flush_at,
            self.joining_until,
        ];
        let peers = self.peers.values().filter_map(Peer::poll_timeout);
        let streams = self
            .streams
            .values()
            .filter_map(|stream| stream.incoming.poll_timeout());
        let membership = self.membership.poll_timeout();
        own.into_iter()
            .flatten()
            .chain(peers)
            .chain(streams)
            .chain(membership)
            .min()
    }

    /// How long batches of decisions took to come here, by the clocks of both ends, with how many were in each.
    pub fn take_delays(&mut self) -> Vec<(Duration, u32)> {
        std::mem::take(&mut self.delays)
    }

    /// Everybody who is there has had everything.
    pub fn is_settled(&self) -> bool {
        let highest = self.broadcast.highest();
        let has_all = |peer: &Peer| {
            peer.acknowledged >= highest
                && peer.pending.is_empty()
                && peer.outgoing.oldest() > peer.outgoing.highest()
        };
        let mut live = self.peers.values().filter(|peer| peer.is_live());
        self.decisions.is_empty() && live.all(has_all)
    }

    // ---- what is known ----------------------------------------------------------------------------------

    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// This node first.
    pub fn members(&self) -> Vec<MemberView> {
        let own = MemberView {
            node: self.own.origin,
            name: self.options.name.clone(),
            address: self.options.address,
            state: if self.leaving { "left" } else { "alive" },
            incarnation: self.own.incarnation,
        };
        let others = self.membership.known().map(|known| {
            let Identity {
                node,
                incarnation,
                address,
                ..
            } = known.identity;
            let peer = self
                .peers
                .get(&node)
                .filter(|peer| peer.identity.incarnation == incarnation);
            let name = peer.and_then(|peer| peer.name.clone());
            MemberView {
                node,
                name: name.unwrap_or_else(|| format!("{:016x}", node.0)),
                address,
                state: match known.state {
                    State::Alive => "alive",
                    State::Suspect => "suspect",
                    State::Down if peer.is_some_and(|peer| peer.left) => "left",
                    State::Down => "down",
                },
                incarnation,
            }
        });
        std::iter::once(own)
            .chain(others.filter(|other| other.node != self.own.origin))
            .collect()
    }

    /// Bytes kept for others, in all.
    pub fn retained_bytes(&self) -> usize {
        let streams = self.streams.values().map(|stream| stream.incoming.bytes());
        let peers = self
            .peers
            .values()
            .map(|peer| peer.outgoing.bytes() + peer.incoming.bytes());
        self.broadcast.bytes() + streams.sum::<usize>() + peers.sum::<usize>()
    }
}

/// The same for every node of a cluster, and through every exchange of keys.
fn home_key(cluster: &str) -> HashKey {
    let hash = Sha256::new()
        .chain_update(b"tailkeep home 1\0")
        .chain_update(cluster)
        .finalize();
    let half = |at: usize| {
        let bytes: [u8; 8] = hash[at..at + 8].try_into().expect("8 of 32 bytes");
        u64::from_le_bytes(bytes)
    };
    HashKey([half(0), half(8)])
}

/// What is sent as one message, for whoever it is.
fn packet(to: NodeId, to_incarnation: u64, body: proto::packet::Body) -> Vec<u8> {
    let packet = proto::Packet {
        to: to.0,
        to_incarnation,
        body: Some(body),
    };
    packet.encode_to_vec()
}
