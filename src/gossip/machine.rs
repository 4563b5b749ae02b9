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

mod counts; // what happened, in numbers
mod peer; // what is kept of each other node
mod receive; // what comes in
mod repair; // what is missing, and what others miss
mod send; // what goes out

pub use counts::{Counts, Outcome};
pub use repair::FRAME_BYTES_MAX;

use super::datagram::{ClusterKey, DATAGRAM_BYTES_MAX, Lane, Opener, Origin, Rejected, Sealer};
use super::member::{Identity, Membership};
use super::stream::content::{Decisions, Directed, PolicyNames};
use super::stream::{Incoming, Outgoing, StreamId};
use super::{Inbound, Members, NodeId, Outbound};
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
use std::collections::{BTreeMap, BTreeSet, VecDeque};
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
            broadcast: Outgoing::new(),
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

    // ---- membership -------------------------------------------------------------------------------------

    /// Sends what the membership protocol has to say, and takes in who came and went.
    fn follow_membership(&mut self, now: Now) {
        while let Some((to, message)) = self.membership.poll_send() {
            let body = proto::packet::Body::Membership(message);
            // An identity that only an address is known of has incarnation 0 in no case: it said who it is.
            self.send(to.address, to.node, to.incarnation, body);
        }
        if !self.membership.take_changed() {
            return;
        }
        let live: BTreeMap<NodeId, Identity> = self
            .membership
            .live()
            .map(|identity| (identity.node, identity))
            .collect();
        for (node, peer) in &mut self.peers {
            if !live.contains_key(node) && peer.is_live() {
                peer.gone = Some(now.instant);
                peer.drop_outgoing();
            }
        }
        for (node, identity) in &live {
            let known = self.peers.get_mut(node);
            let news = match known {
                Some(peer) if peer.identity.incarnation == identity.incarnation => {
                    let back = peer.gone.take().is_some();
                    peer.identity = *identity;
                    peer.left = false;
                    back.then(|| self.inbounds.push_back(Inbound::Renewed(*node)))
                }
                Some(peer) => {
                    *peer = Peer::new(now.instant, *identity);
                    self.inbounds.push_back(Inbound::Renewed(*node));
                    Some(())
                }
                None => {
                    self.peers.insert(*node, Peer::new(now.instant, *identity));
                    Some(())
                }
            };
            if news.is_some() {
                self.welcome(now, *identity);
            }
        }
        if let Some(until) = &mut self.joining_until
            && !live.is_empty()
        {
            // The first one tells of the others.
            *until = (*until).min(now.instant.plus(JOIN_TIME / 10));
        }
        self.tell_members();
    }

    /// Exchanges names and heads with a member that is new or back.
    fn welcome(&mut self, now: Now, identity: Identity) {
        if let Some(peer) = self.peers.get_mut(&identity.node) {
            // Whatever was dropped while it was gone is sent anew by shards.
            peer.lossy = false;
            peer.beat_at = now.instant;
        }
        for stream in self.streams.values_mut() {
            // A new life has nothing yet.
            stream.held.remove(&identity.node);
            stream.incoming.hope(now.instant, identity.node);
        }
        self.send_hello(identity.address, true, false);
        self.send_heads(identity);
    }

    fn end_joining(&mut self) {
        if self.joining_until.take().is_some() {
            self.tell_members();
        }
    }

    fn tell_members(&mut self) {
        if self.joining_until.is_some() {
            return;
        }
        let mut live: Vec<NodeId> = self.live_peers().iter().map(|peer| peer.node).collect();
        live.push(self.own.origin);
        live.sort();
        if live != self.live {
            self.live = live.clone();
            self.inbounds.push_back(Inbound::Members(Members {
                own: self.own.origin,
                live,
                home_key: self.home_key,
            }));
        }
    }

    fn live_peers(&self) -> Vec<Identity> {
        let live = self.peers.values().filter(|peer| peer.is_live());
        live.map(|peer| peer.identity).collect()
    }

    fn choose(&mut self, among: &[Identity]) -> Option<Identity> {
        match among.len() {
            0 => None,
            count => Some(among[self.random.random_range(0..count)]),
        }
    }

    /// Asks who is not a member but should be: configured addresses, and peers that were lost.
    fn ask_seeds(&mut self, now: Now) {
        let live = self.live_peers();
        let is_member = |address: &SocketAddr| live.iter().any(|peer| peer.address == *address);
        let lost = self.peers.values().filter(|peer| !peer.is_live() && !peer.left);
        let mut wanted: Vec<SocketAddr> = lost.map(|peer| peer.identity.address).collect();
        wanted.extend(&self.seeds);
        wanted.sort();
        wanted.dedup();
        wanted.retain(|address| *address != self.options.address && !is_member(address));
        for address in wanted {
            self.send_hello(address, true, false);
        }
        for peer in self.nameless() {
            self.send_hello(peer, true, false);
        }
        let pause = match live.is_empty() {
            true => SEEDS_PAUSE_ALONE,
            false => SEEDS_PAUSE,
        };
        self.seeds_at = now.instant.plus(pause);
    }

    fn nameless(&self) -> Vec<SocketAddr> {
        let nameless = self
            .peers
            .values()
            .filter(|peer| peer.is_live() && peer.name.is_none());
        nameless.map(|peer| peer.identity.address).collect()
    }

    // ---- housekeeping -----------------------------------------------------------------------------------

    /// Lets go of what nobody needs any more, or what is too much.
    fn upkeep(&mut self, now: Now) {
        let retention = self.options.retention.as_nanos() as u64;
        let old = Instant(now.instant.0.saturating_sub(retention));
        // Who comes back after long goes on with the same numbers.
        let known: BTreeSet<NodeId> = self.membership.known().map(|known| known.identity.node).collect();
        self.peers.retain(|node, _| known.contains(node));
        let expected: Vec<(NodeId, u64)> = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.is_expected(old))
            .map(|(node, peer)| (*node, peer.acknowledged))
            .collect();
        if let Some(all_have) = expected.iter().map(|(_, acknowledged)| *acknowledged).min() {
            self.broadcast.release_through(all_have);
        }
        self.broadcast.expire(old);
        let live: Vec<NodeId> = self.live_peers().iter().map(|peer| peer.node).collect();
        for (id, stream) in &mut self.streams {
            let others = expected
                .iter()
                .map(|(node, _)| *node)
                .filter(|node| *node != id.origin);
            let all_have = others
                .map(|node| stream.held.get(&node).copied().unwrap_or(0))
                .min();
            stream
                .incoming
                .release_through(all_have.unwrap_or(u64::MAX).min(stream.incoming.contiguous()));
            stream.incoming.expire(old);
            let origin_lives = live.contains(&id.origin);
            self.counts.gaps_unrepairable += stream.incoming.give_up(|since, lacking| {
                since < old || origin_lives && live.iter().all(|node| lacking.contains(node))
            });
        }
        self.shrink_streams();
        self.forget_streams(now.instant);
        self.syncs.retain(|sync| !sync.is_overdue(now.instant));
    }

    /// Streams of lives that are over and of which nobody has anything. A few stay, so that a node that was away
    /// for longer still knows what it missed.
    fn forget_streams(&mut self, now: Instant) {
        if self.streams.len() <= STREAM_COUNT_KEPT {
            return;
        }
        let very_old = Instant(now.0.saturating_sub(2 * self.options.retention.as_nanos() as u64));
        let peers = &self.peers;
        self.streams.retain(|id, stream| {
            let lives = peers
                .get(&id.origin)
                .is_some_and(|peer| peer.identity.incarnation == id.incarnation);
            lives || !stream.incoming.is_empty() || stream.mentioned >= very_old
        });
    }

    /// Others' decisions take no more than their share: the longest stream goes first.
    fn shrink_streams(&mut self) {
        let share = self.options.retained_bytes_max / 2;
        loop {
            let total: usize = self.streams.values().map(|stream| stream.incoming.bytes()).sum();
            let longest = self
                .streams
                .values_mut()
                .max_by_key(|stream| stream.incoming.bytes());
            let Some(longest) = longest.filter(|_| total > share) else {
                break;
            };
            let bytes = longest.incoming.bytes();
            longest
                .incoming
                .shrink(bytes.saturating_sub((total - share).max(bytes / 8)));
        }
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
