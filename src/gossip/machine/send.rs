//! What goes out: batches when they are full or have waited, beats, heads, and who this node is.

use super::peer::Peer;
use super::receive::address_bytes;
use super::{FLUSH_AFTER, Gossip, TRANSMIT_COUNT_MAX, Transmit, packet};
use crate::base::time::Now;
use crate::gossip::datagram::{CONTENT_BYTES_MAX, Lane};
use crate::gossip::member::Identity;
use crate::gossip::stream::content::{Directed, PolicyNames};
use crate::gossip::stream::{StreamId, WINDOW};
use crate::gossip::{NodeId, PeerDecision};
use crate::proto;
use bytes::Bytes;
use prost::Message;
use proto::packet::Body;
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// Heads of one datagram: 44 bytes each at most.
const HEAD_COUNT_MAX: usize = 24;

impl Gossip {
    pub(super) fn announce(&mut self, now: Now, decision: &PeerDecision) {
        self.counts.decisions_out += 1;
        self.decisions.push(now.wall, decision, &self.names);
        match self.decisions.is_full(0) {
            true => self.flush_broadcast(now),
            false => {
                self.flush_at.get_or_insert(now.instant.plus(FLUSH_AFTER));
            }
        }
    }

    /// Numbers what waits and sends it to every peer that keeps up.
    fn flush_broadcast(&mut self, now: Now) {
        self.flush_at = None;
        if self.decisions.is_empty() {
            return;
        }
        let content: Bytes = self.decisions.take().encode_to_vec().into();
        let sequence = self.broadcast.push(now.instant, content.clone());
        self.broadcast.shrink(self.options.retained_bytes_max / 2);
        let batch = proto::Batch {
            origin: self.own.origin.0,
            incarnation: self.own.incarnation,
            directed: false,
            sequence,
            oldest: self.broadcast.oldest(),
            content,
        };
        // Sealed once for all: it is for whoever reads it.
        let sealed = self.seal(&packet(NodeId(0), 0, Body::Batch(batch)));
        let mut to = Vec::new();
        let count = self.peers.len();
        for peer in self.peers.values_mut().filter(|peer| peer.is_live()) {
            peer.beat_soon(now.instant);
            peer.tell_tail(now.instant, count);
            if !peer.lags(sequence) {
                to.push(peer.identity.address);
            }
        }
        to.into_iter().for_each(|to| self.transmit(to, sealed.clone()));
    }

    /// Something for one peer. It is dropped if the peer is gone or takes nothing; shards learn when it is back.
    pub(super) fn direct(&mut self, now: Now, to: NodeId, push: impl FnOnce(&mut Directed, &PolicyNames)) {
        let bytes_max = self.options.directed_bytes_max;
        let predicates = &self.options.predicates;
        let Some(peer) = self.peers.get_mut(&to).filter(|peer| peer.is_live()) else {
            self.counts.directed_dropped += 1;
            return;
        };
        if peer.outgoing.bytes() >= bytes_max {
            peer.lossy = true;
            self.counts.directed_dropped += 1;
            return;
        }
        if !peer.stated {
            peer.stated = true;
            peer.pending.state_predicates(predicates);
            peer.flush(now);
        }
        push(&mut peer.pending, &self.names);
        peer.flush_at.get_or_insert(now.instant.plus(FLUSH_AFTER));
        if peer.pending.is_full() {
            peer.flush(now);
        }
        self.send_window(to);
    }

    /// Sends what is numbered for a peer and within its window.
    pub(super) fn send_window(&mut self, to: NodeId) {
        loop {
            let Some(peer) = self.peers.get_mut(&to).filter(|peer| peer.is_live()) else {
                return;
            };
            let through = peer.outgoing.highest().min(peer.outgoing.oldest() - 1 + WINDOW);
            if peer.sent >= through {
                return;
            }
            peer.sent += 1;
            let (sequence, identity) = (peer.sent, peer.identity);
            self.send_directed(identity, sequence);
        }
    }

    pub(super) fn send_directed(&mut self, to: Identity, sequence: u64) {
        let Some(batch) = self.directed_batch(to.node, sequence) else {
            return;
        };
        self.send(to.address, to.node, to.incarnation, Body::Batch(batch));
    }

    pub(super) fn directed_batch(&self, to: NodeId, sequence: u64) -> Option<proto::Batch> {
        let outgoing = &self.peers.get(&to)?.outgoing;
        Some(proto::Batch {
            origin: self.own.origin.0,
            incarnation: self.own.incarnation,
            directed: true,
            sequence,
            oldest: outgoing.oldest(),
            content: outgoing.get(sequence)?.clone(),
        })
    }

    /// A batch of decisions that this node has, its own or another's.
    pub(super) fn broadcast_batch(&self, id: StreamId, sequence: u64) -> Option<proto::Batch> {
        let (oldest, content) = match id == self.own {
            true => (self.broadcast.oldest(), self.broadcast.get(sequence)?),
            false => {
                let incoming = &self.streams.get(&id)?.incoming;
                (incoming.oldest(), incoming.get(sequence)?)
            }
        };
        Some(proto::Batch {
            origin: id.origin.0,
            incarnation: id.incarnation,
            directed: false,
            sequence,
            oldest,
            content: content.clone(),
        })
    }

    pub(super) fn flush_due(&mut self, now: Now) {
        if self.flush_at.is_some_and(|at| at <= now.instant) {
            self.flush_broadcast(now);
        }
        self.flush_directed(now, |peer| peer.flush_at.is_some_and(|at| at <= now.instant));
    }

    pub(super) fn flush_all(&mut self, now: Now) {
        self.flush_broadcast(now);
        self.flush_directed(now, |peer| !peer.pending.is_empty());
    }

    fn flush_directed(&mut self, now: Now, is_due: impl Fn(&Peer) -> bool) {
        let due = self.peers.iter_mut().filter(|(_, peer)| is_due(peer));
        let flushed = due.map(|(node, peer)| {
            peer.flush(now);
            *node
        });
        let flushed: Vec<NodeId> = flushed.collect();
        flushed.into_iter().for_each(|node| self.send_window(node));
    }

    pub(super) fn beat_due(&mut self, now: Now) {
        let (highest, oldest) = (self.broadcast.highest(), self.broadcast.oldest());
        let suspects: BTreeMap<NodeId, u16> = self.membership.suspects().collect();
        let mut beats = Vec::new();
        for peer in self
            .peers
            .values_mut()
            .filter(|peer| peer.has_beat_due(now.instant))
        {
            let id = StreamId {
                origin: peer.identity.node,
                incarnation: peer.identity.incarnation,
            };
            let beat = proto::Beat {
                highest,
                oldest,
                acknowledged: self
                    .streams
                    .get(&id)
                    .map_or(0, |stream| stream.incoming.contiguous()),
                directed_highest: peer.sent,
                directed_oldest: peer.outgoing.oldest(),
                directed_acknowledged: peer.incoming.contiguous(),
                suspected: suspects
                    .get(&id.origin)
                    .map_or(0, |refutations| u32::from(*refutations) + 1),
            };
            peer.beaten(now.instant, beat);
            beats.push((peer.identity, beat));
        }
        for (to, beat) in beats {
            self.send(to.address, to.node, to.incarnation, Body::Beat(beat));
        }
    }

    /// What this node has of every stream of decisions.
    pub(super) fn send_heads(&mut self, to: Identity) {
        let own = proto::Head {
            origin: self.own.origin.0,
            incarnation: self.own.incarnation,
            oldest: self.broadcast.oldest(),
            contiguous: self.broadcast.highest(),
            highest: self.broadcast.highest(),
        };
        let others = self.streams.iter().filter(|(id, stream)| {
            let lives = self
                .peers
                .get(&id.origin)
                .is_some_and(|peer| peer.identity.incarnation == id.incarnation);
            lives || !stream.incoming.is_empty()
        });
        let others = others.map(|(id, stream)| proto::Head {
            origin: id.origin.0,
            incarnation: id.incarnation,
            oldest: stream.incoming.oldest(),
            contiguous: stream.incoming.contiguous(),
            highest: stream.incoming.highest(),
        });
        let heads: Vec<_> = std::iter::once(own).chain(others).collect();
        for heads in heads.chunks(HEAD_COUNT_MAX) {
            let heads = proto::Heads {
                heads: heads.to_vec(),
            };
            self.send(to.address, to.node, to.incarnation, Body::Heads(heads));
        }
    }

    /// Says who this node is to whoever is at `to`.
    pub(super) fn send_hello(&mut self, to: SocketAddr, answer: bool, leaving: bool) {
        let hello = proto::Hello {
            address: address_bytes(self.options.address),
            name: self.options.name.clone(),
            answer,
            leaving,
        };
        self.send(to, NodeId(0), 0, Body::Hello(hello));
    }

    pub(super) fn send(&mut self, to: SocketAddr, node: NodeId, incarnation: u64, body: Body) {
        let sealed = self.seal(&packet(node, incarnation, body));
        self.transmit(to, sealed);
    }

    fn seal(&mut self, content: &[u8]) -> Bytes {
        debug_assert!(content.len() <= CONTENT_BYTES_MAX, "{} bytes", content.len());
        self.sealer.seal(Lane::Datagram, content).into()
    }

    fn transmit(&mut self, to: SocketAddr, bytes: Bytes) {
        match self.transmits.len() < TRANSMIT_COUNT_MAX {
            true => self.transmits.push_back(Transmit { to, bytes }),
            false => self.counts.datagrams_dropped += 1,
        }
    }
}

impl Peer {
    /// Numbers what waits for it.
    fn flush(&mut self, now: Now) {
        self.flush_at = None;
        if !self.pending.is_empty() {
            let content = self.pending.take();
            self.outgoing.push(now.instant, content);
            self.beat_soon(now.instant);
        }
    }
}
