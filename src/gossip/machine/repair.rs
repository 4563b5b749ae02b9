//! What this node misses, and what others ask it for.
//!
//! ```text
//!  gap ─2 ms→ Missing to the origin ─×3→ to another peer ─×3→ SyncRequest over TCP, to one peer after another
//!                                                                └─ all have said no, or it is too old: counted
//! ```

use super::{Gossip, NUMBER_MAX, Outcome, SyncCall};
use crate::base::time::{Instant, Now};
use crate::gossip::NodeId;
use crate::gossip::datagram::{Lane, Opened};
use crate::gossip::member::Identity;
use crate::gossip::stream::{RANGE_COUNT_MAX, Range, StreamId};
use crate::proto;
use bytes::Bytes;
use prost::Message;
use proto::packet::Body;
use rand::RngExt;
use std::time::Duration;

/// Requests over TCP that wait for their response.
const SYNC_COUNT_MAX: usize = 4;
/// Longer than any transport waits.
const SYNC_OVERDUE: Duration = Duration::from_secs(30);
/// Of one response, give or take a batch.
const SYNC_BYTES_MAX: usize = 256 << 10;
/// A frame over TCP is no longer.
pub const FRAME_BYTES_MAX: usize = 1 << 20;
/// Numbers looked for on one request by datagram.
const LOOKED_FOR_MAX: usize = 512;

/// A request over TCP under way.
pub(super) struct Sync {
    id: u64,
    peer: StreamId,
    about: About,
    asked: Vec<Range>,
    since: Instant,
}

/// Which stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum About {
    Broadcast(StreamId),
    /// From this node to us.
    Directed(NodeId),
}

impl Sync {
    pub fn is_overdue(&self, now: Instant) -> bool {
        now.since(self.since) > SYNC_OVERDUE
    }
}

impl Gossip {
    /// Asks for what has been missing for long enough.
    pub(super) fn repair_due(&mut self, now: Now) {
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now.instant);
        let streams = self
            .streams
            .iter()
            .filter(|(_, stream)| due(stream.incoming.poll_timeout()));
        let broadcast = streams.map(|(id, _)| About::Broadcast(*id));
        let peers = self
            .peers
            .iter()
            .filter(|(_, peer)| due(peer.incoming.poll_timeout()));
        let directed = peers.map(|(node, _)| About::Directed(*node));
        let due: Vec<About> = broadcast.chain(directed).collect();
        due.into_iter().for_each(|about| self.repair(now, about));
    }

    fn repair(&mut self, now: Now, about: About) {
        let live = self.live_peers();
        let random = &mut self.random;
        let incoming = match about {
            About::Broadcast(id) => self.streams.get_mut(&id).map(|stream| &mut stream.incoming),
            About::Directed(node) => self.peers.get_mut(&node).map(|peer| &mut peer.incoming),
        };
        let Some(incoming) = incoming else {
            return;
        };
        let repairs = incoming.due(now.instant, || random.random());
        let origin = live.iter().find(|peer| is_origin(about, peer)).copied();
        let others: Vec<Identity> = match about {
            About::Broadcast(_) => live
                .iter()
                .filter(|peer| !is_origin(about, peer))
                .copied()
                .collect(),
            About::Directed(_) => Vec::new(),
        };
        let other = self.choose(&others);
        if let Some(to) = origin.or(other) {
            self.ask(to, about, repairs.of_origin);
        }
        if let Some(to) = other.or(origin) {
            self.ask(to, about, repairs.of_others);
        }
        if repairs.over_tcp {
            self.sync(now, about, origin, others);
        }
    }

    fn ask(&mut self, to: Identity, about: About, ranges: Vec<Range>) {
        if !ranges.is_empty() {
            let missing = missing(about, &to, &ranges);
            self.send(to.address, to.node, to.incarnation, Body::Missing(missing));
        }
    }

    /// Asks one peer after another over TCP, the origin first.
    fn sync(&mut self, now: Now, about: About, origin: Option<Identity>, others: Vec<Identity>) {
        let running = self.syncs.iter().any(|sync| sync.about == about);
        if running || self.syncs.len() >= SYNC_COUNT_MAX {
            return;
        }
        let (incoming, attempts) = match about {
            About::Broadcast(id) => match self.streams.get_mut(&id) {
                Some(stream) => (&stream.incoming, &mut stream.sync_attempts),
                None => return,
            },
            About::Directed(node) => match self.peers.get(&node) {
                Some(peer) => (&peer.incoming, &mut 0),
                None => return,
            },
        };
        let candidates = origin.into_iter().chain(others);
        let mut candidates: Vec<(Identity, Vec<Range>)> = candidates
            .map(|peer| (peer, incoming.missing(peer.node)))
            .filter(|(_, asked)| !asked.is_empty())
            .collect();
        if candidates.is_empty() {
            return;
        }
        let (to, asked) = candidates.swap_remove(*attempts % candidates.len());
        *attempts += 1;
        let request = proto::SyncRequest {
            to: to.node.0,
            to_incarnation: to.incarnation,
            id: self.random.random(),
            missing: Some(missing(about, &to, &asked)),
            question: Bytes::new(),
        };
        self.syncs.push(Sync {
            id: request.id,
            peer: StreamId {
                origin: to.node,
                incarnation: to.incarnation,
            },
            about,
            asked,
            since: now.instant,
        });
        self.counts.syncs += 1;
        self.calls.push_back(SyncCall {
            id: request.id,
            to: to.address,
            frame: self.sealer.seal(Lane::Sync, &request.encode_to_vec()),
        });
    }

    /// What came back for a [`SyncCall`]; `None`: nothing did.
    pub fn handle_sync_reply(&mut self, now: Now, id: u64, frame: Option<&[u8]>) {
        let Some(index) = self.syncs.iter().position(|sync| sync.id == id) else {
            return;
        };
        let sync = self.syncs.swap_remove(index);
        let response = frame.and_then(|frame| self.open_response(&sync, frame));
        let Some(response) = response else {
            self.counts.syncs_failed += 1;
            return;
        };
        let came = !response.batches.is_empty();
        for batch in response.batches {
            let sequence = batch.sequence;
            let asked = sync
                .asked
                .iter()
                .any(|(first, last)| (*first..=*last).contains(&sequence));
            let about = match batch.directed {
                true => About::Directed(NodeId(batch.origin)),
                false => About::Broadcast(StreamId {
                    origin: NodeId(batch.origin),
                    incarnation: batch.incarnation,
                }),
            };
            if asked && about == sync.about {
                match batch.directed {
                    true => self.handle_directed(now, sync.peer, batch),
                    false => self.handle_broadcast(now, batch),
                };
            }
        }
        let incoming = match sync.about {
            About::Broadcast(id) => self.streams.get_mut(&id).map(|stream| &mut stream.incoming),
            About::Directed(node) => self.peers.get_mut(&node).map(|peer| &mut peer.incoming),
        };
        let Some(incoming) = incoming else {
            return;
        };
        if !response.more {
            incoming.lack(sync.peer.origin, &sync.asked);
        }
        if let About::Directed(_) = sync.about {
            // Nobody else has it.
            self.counts.gaps_renewed += incoming.skip_below(response.oldest.min(NUMBER_MAX));
            self.read_directed(sync.peer);
        } else if came && !incoming.is_whole() {
            // It goes well: on at once.
            let live = self.live_peers();
            let (origin, others): (Vec<_>, Vec<_>) =
                live.into_iter().partition(|peer| is_origin(sync.about, peer));
            self.sync(now, sync.about, origin.first().copied(), others);
        }
    }

    fn open_response(&mut self, sync: &Sync, frame: &[u8]) -> Option<proto::SyncResponse> {
        self.counts.bytes_in += frame.len() as u64;
        let opened = self.opener.open(Lane::Sync, frame).ok()?;
        let response = proto::SyncResponse::decode(opened.content).ok()?;
        let for_us = (response.to, response.to_incarnation) == (self.own.origin.0, self.own.incarnation);
        let of_peer = (opened.sender, opened.incarnation) == (sync.peer.origin, sync.peer.incarnation);
        (for_us && of_peer && response.id == sync.id).then_some(response)
    }

    /// A frame that came over TCP, and what to answer. `None`: nothing, and the connection is to be closed.
    pub fn handle_sync_request(&mut self, frame: &[u8]) -> Option<Vec<u8>> {
        let (opened, request) = self.open_request(frame)?;
        self.respond(&opened, request)
    }

    pub(super) fn respond(&mut self, opened: &Opened, request: proto::SyncRequest) -> Option<Vec<u8>> {
        let asked = request.missing?;
        let about = about(&asked, opened.sender);
        let mut response = proto::SyncResponse {
            to: opened.sender.0,
            to_incarnation: opened.incarnation,
            id: request.id,
            batches: Vec::new(),
            more: false,
            oldest: self.oldest(about),
            answer: Bytes::new(),
        };
        let mut bytes = 0;
        for (first, last) in ranges(&asked) {
            // Numbers that never were take no time: they are cut to what is here.
            let (first, last) = (first.max(response.oldest), last.min(self.highest(about)));
            for sequence in first..=last {
                let Some(batch) = self.batch(about, sequence) else {
                    continue;
                };
                if bytes > SYNC_BYTES_MAX {
                    response.more = true;
                    break;
                }
                bytes += batch.content.len() + 64;
                response.batches.push(batch);
            }
        }
        self.counts.resent += response.batches.len() as u64;
        let frame = self.sealer.seal(Lane::Sync, &response.encode_to_vec());
        self.counts.bytes_out += frame.len() as u64;
        Some(frame)
    }

    /// A peer misses batches that this node may have.
    pub(super) fn handle_missing(&mut self, now: Now, sender: StreamId, asked: &proto::Missing) -> Outcome {
        let Some(to) = self.peer_mut(sender).map(|peer| peer.identity) else {
            return Outcome::Accepted;
        };
        if !asked.ranges.len().is_multiple_of(2) {
            return Outcome::Garbage;
        }
        let about = about(asked, sender.origin);
        let (oldest, highest) = (self.oldest(about), self.highest(about));
        let sequences = ranges(asked).flat_map(|(first, last)| first.max(oldest)..=last.min(highest));
        let sequences: Vec<u64> = sequences.take(LOOKED_FOR_MAX).collect();
        for sequence in sequences {
            let Some(batch) = self.batch(about, sequence) else {
                continue;
            };
            let sent = self.broadcast.highest();
            if !self
                .peer_mut(sender)
                .is_some_and(|peer| peer.may_resend(now.instant, sent))
            {
                break;
            }
            self.counts.resent += 1;
            self.send(to.address, to.node, to.incarnation, Body::Batch(batch));
        }
        Outcome::Accepted
    }

    /// What this node has of a stream; a directed one is ours to the node that asks.
    fn batch(&self, about: About, sequence: u64) -> Option<proto::Batch> {
        match about {
            About::Broadcast(id) => self.broadcast_batch(id, sequence),
            About::Directed(node) => self.directed_batch(node, sequence),
        }
    }

    fn oldest(&self, about: About) -> u64 {
        match about {
            About::Broadcast(id) if id == self.own => self.broadcast.oldest(),
            About::Broadcast(id) => self.streams.get(&id).map_or(1, |stream| stream.incoming.oldest()),
            About::Directed(node) => self.peers.get(&node).map_or(1, |peer| peer.outgoing.oldest()),
        }
    }

    fn highest(&self, about: About) -> u64 {
        match about {
            About::Broadcast(id) if id == self.own => self.broadcast.highest(),
            About::Broadcast(id) => self
                .streams
                .get(&id)
                .map_or(0, |stream| stream.incoming.highest()),
            // No further than it has been sent: what waits for the window comes by itself.
            About::Directed(node) => self.peers.get(&node).map_or(0, |peer| peer.sent),
        }
    }
}

fn is_origin(about: About, peer: &Identity) -> bool {
    match about {
        About::Broadcast(id) => (peer.node, peer.incarnation) == (id.origin, id.incarnation),
        About::Directed(node) => peer.node == node,
    }
}

/// As the asker says it: a directed stream is the one from `to` to us.
fn missing(about: About, to: &Identity, ranges: &[Range]) -> proto::Missing {
    let (id, directed) = match about {
        About::Broadcast(id) => (id, false),
        About::Directed(origin) => {
            let incarnation = to.incarnation;
            (StreamId { origin, incarnation }, true)
        }
    };
    proto::Missing {
        origin: id.origin.0,
        incarnation: id.incarnation,
        directed,
        ranges: ranges.iter().flat_map(|(first, last)| [*first, *last]).collect(),
    }
}

/// As the one who is asked reads it.
fn about(asked: &proto::Missing, asker: NodeId) -> About {
    match asked.directed {
        true => About::Directed(asker),
        false => About::Broadcast(StreamId {
            origin: NodeId(asked.origin),
            incarnation: asked.incarnation,
        }),
    }
}

fn ranges(asked: &proto::Missing) -> impl Iterator<Item = Range> + '_ {
    let pairs = asked.ranges.chunks_exact(2).take(RANGE_COUNT_MAX);
    pairs
        .map(|pair| (pair[0], pair[1]))
        .filter(|(first, last)| first <= last)
}
