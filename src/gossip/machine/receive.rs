//! What comes in: genuine datagrams, by what they say.
//!
//! The sender of a genuine datagram holds a key of the cluster and is believed. Numbers are checked all the same: a
//! mistake of one node must not take the memory of another.

use super::peer::Peer;
use super::{DELAY_COUNT_MAX, Gossip, NUMBER_MAX, Outcome, STREAM_COUNT_MAX, Stream};
use crate::base::time::Now;
use crate::gossip::datagram::Opened;
use crate::gossip::member::Identity;
use crate::gossip::stream::content::{
    ContentError, PredicateMap, read_answers, read_decisions, read_leasing,
};
use crate::gossip::stream::{Incoming, Received, StreamId};
use crate::gossip::{Inbound, NodeId};
use crate::proto;
use bytes::Bytes;
use prost::Message;
use proto::packet::Body;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

impl Gossip {
    pub(super) fn handle_opened(&mut self, now: Now, opened: Opened) -> Outcome {
        let sender = StreamId {
            origin: opened.sender,
            incarnation: opened.incarnation,
        };
        if sender.origin == self.own.origin {
            if sender.incarnation > self.own.incarnation {
                self.counts.twins += 1;
            }
            return Outcome::Stale;
        }
        let Ok(packet) = proto::Packet::decode(opened.content) else {
            return Outcome::Garbage;
        };
        let own = (self.own.origin.0, self.own.incarnation);
        let for_us = (packet.to, packet.to_incarnation) == own;
        if packet.to != 0 && !for_us {
            return Outcome::Stale;
        }
        match packet.body {
            Some(Body::Membership(message)) if for_us => {
                match self.membership.handle_data(now.instant, &message) {
                    Ok(()) => Outcome::Accepted,
                    Err(_) => Outcome::Garbage,
                }
            }
            Some(Body::Hello(hello)) => self.handle_hello(now, sender, &hello),
            Some(Body::Batch(batch)) if batch.directed && for_us => self.handle_directed(now, sender, batch),
            Some(Body::Batch(batch)) if !batch.directed => self.handle_broadcast(now, batch),
            Some(Body::Beat(beat)) if for_us => self.handle_beat(now, sender, &beat),
            Some(Body::Heads(heads)) if for_us => self.handle_heads(now, sender, &heads),
            Some(Body::Missing(missing)) if for_us => self.handle_missing(now, sender, &missing),
            Some(
                Body::Membership(_) | Body::Batch(_) | Body::Beat(_) | Body::Heads(_) | Body::Missing(_),
            )
            | None => Outcome::Garbage,
        }
    }

    /// A member in the life that speaks.
    pub(super) fn peer_mut(&mut self, sender: StreamId) -> Option<&mut Peer> {
        let peer = self.peers.get_mut(&sender.origin)?;
        (peer.identity.incarnation == sender.incarnation).then_some(peer)
    }

    fn handle_hello(&mut self, now: Now, sender: StreamId, hello: &proto::Hello) -> Outcome {
        let Some(address) = parse_address(&hello.address) else {
            return Outcome::Garbage;
        };
        if let Some(peer) = self.peer_mut(sender) {
            let name: String = hello.name.chars().filter(|c| !c.is_control()).take(255).collect();
            peer.name = Some(name).filter(|name| !name.is_empty());
            peer.left = hello.leaving;
        }
        if self.leaving || hello.leaving {
            return Outcome::Accepted;
        }
        let is_live = self.peer_mut(sender).is_some_and(|peer| peer.is_live());
        if !is_live {
            let identity = Identity {
                node: sender.origin,
                incarnation: sender.incarnation,
                renewal: 0,
                address,
            };
            self.membership.announce(now.instant, identity);
        }
        if hello.answer {
            self.send_hello(address, false, false);
        }
        Outcome::Accepted
    }

    /// A batch of decisions, from its origin or from whoever had it.
    pub(super) fn handle_broadcast(&mut self, now: Now, batch: proto::Batch) -> Outcome {
        let id = StreamId {
            origin: NodeId(batch.origin),
            incarnation: batch.incarnation,
        };
        if batch.sequence == 0 || batch.sequence > NUMBER_MAX {
            return Outcome::Garbage;
        }
        if id.origin == self.own.origin {
            // What this node decided stands in its own log.
            return Outcome::Accepted;
        }
        let oldest = batch.oldest.clamp(1, batch.sequence);
        let Some(stream) = self.stream_mut(now, id, oldest) else {
            return Outcome::Accepted;
        };
        match stream
            .incoming
            .receive(now.instant, batch.sequence, batch.content.clone())
        {
            Received::New => {}
            Received::Repaired => self.counts.gaps_repaired += 1,
            Received::Again | Received::TooFar => return Outcome::Accepted,
        }
        if let Some(peer) = self.peer_mut(id) {
            peer.beat_soon(now.instant);
        }
        if self.read_broadcast(now, batch.content).is_err() {
            self.counts.unreadable += 1;
        }
        Outcome::Accepted
    }

    fn read_broadcast(&mut self, now: Now, content: Bytes) -> Result<(), ContentError> {
        let message = proto::Decisions::decode(content)?;
        let mut decisions = Vec::with_capacity(message.outcomes.len().min(256));
        let announced = read_decisions(&message, &mut self.names, |decision| decisions.push(decision))?;
        self.tell_names();
        self.counts.decisions_in += decisions.len() as u64;
        if self.delays.len() < DELAY_COUNT_MAX {
            let delay = Duration::from_nanos(now.wall.0.saturating_sub(announced.0));
            self.delays.push((delay, decisions.len() as u32));
        }
        self.inbounds
            .extend(decisions.into_iter().map(Inbound::Announced));
        Ok(())
    }

    /// New names go to shards before anything that uses them.
    fn tell_names(&mut self) {
        if let Some(learned) = self.names.take_learned() {
            self.inbounds.push_back(Inbound::PolicyNames(learned));
        }
    }

    /// The stream of decisions of a node's life. One that was not known begins at `oldest`: what was before is older
    /// than this node's part in the cluster. `None`: there are too many.
    fn stream_mut(&mut self, now: Now, id: StreamId, oldest: u64) -> Option<&mut Stream> {
        if !self.streams.contains_key(&id) {
            if self.streams.len() >= STREAM_COUNT_MAX {
                return None;
            }
            let stream = Stream {
                incoming: Incoming::new(oldest),
                held: BTreeMap::new(),
                mentioned: now.instant,
                sync_attempts: 0,
            };
            self.streams.insert(id, stream);
        }
        let stream = self.streams.get_mut(&id)?;
        stream.mentioned = now.instant;
        Some(stream)
    }

    pub(super) fn handle_directed(&mut self, now: Now, sender: StreamId, batch: proto::Batch) -> Outcome {
        let origin = (NodeId(batch.origin), batch.incarnation);
        if origin != (sender.origin, sender.incarnation) || batch.sequence == 0 || batch.sequence > NUMBER_MAX
        {
            return Outcome::Garbage;
        }
        let Some(peer) = self.peer_mut(sender) else {
            // Membership will learn of it, and it will be asked for the batch.
            return Outcome::Accepted;
        };
        peer.beat_soon(now.instant);
        let missed = peer.incoming.skip_below(batch.oldest.min(batch.sequence));
        let received = peer.incoming.receive(now.instant, batch.sequence, batch.content);
        self.counts.gaps_renewed += missed;
        self.counts.gaps_repaired += u64::from(received == Received::Repaired);
        self.read_directed(sender);
        Outcome::Accepted
    }

    /// Uses what has come in order.
    pub(super) fn read_directed(&mut self, sender: StreamId) {
        while let Some(peer) = self.peer_mut(sender) {
            let Some((number, content)) = peer.incoming.take_after(peer.used) else {
                return;
            };
            peer.used = number;
            if self.read_directed_batch(sender, content).is_err() {
                self.counts.unreadable += 1;
            }
        }
    }

    fn read_directed_batch(&mut self, sender: StreamId, content: Bytes) -> Result<(), ContentError> {
        let message = proto::Directed::decode(content)?;
        let own = std::mem::take(&mut self.options.predicates);
        let stated = message
            .predicates
            .as_ref()
            .map(|table| PredicateMap::new(&own, table));
        self.options.predicates = own;
        let mut digests = Vec::with_capacity(message.digests.len().min(64));
        if let Some(peer) = self.peer_mut(sender) {
            peer.predicates = stated.or(peer.predicates.take());
            for digest in &message.digests {
                let map = peer.predicates.as_ref().ok_or(ContentError::Predicates)?;
                digests.push(map.read_digest(digest)?);
            }
        }
        let answers = read_answers(&message, &mut self.names)?;
        let mut leasings = Vec::with_capacity(message.leasings.len().min(16));
        for leasing in &message.leasings {
            leasings.extend(read_leasing(leasing, sender.origin, self.own.origin)?.map(Inbound::Leasing));
        }
        self.tell_names();
        let answer = |(version, answer)| Inbound::Answer(version, answer);
        self.counts.digests_in += digests.len() as u64;
        let digests = digests
            .into_iter()
            .map(|digest| Inbound::Digest(sender.origin, digest));
        self.inbounds
            .extend(digests.chain(answers.into_iter().map(answer)).chain(leasings));
        Ok(())
    }

    fn handle_beat(&mut self, now: Now, sender: StreamId, beat: &proto::Beat) -> Outcome {
        let numbers = [
            beat.highest,
            beat.oldest,
            beat.directed_highest,
            beat.directed_oldest,
        ];
        if numbers.iter().any(|number| *number > NUMBER_MAX) {
            return Outcome::Garbage;
        }
        let highest = self.broadcast.highest();
        let directed_bytes_max = self.options.directed_bytes_max;
        let Some(peer) = self.peer_mut(sender) else {
            return Outcome::Accepted;
        };
        let identity = peer.identity;
        peer.acknowledged = peer.acknowledged.max(beat.acknowledged.min(highest));
        peer.outgoing
            .release_through(beat.directed_acknowledged.min(peer.sent));
        let missed = peer.incoming.skip_below(beat.directed_oldest);
        peer.incoming.learn(now.instant, beat.directed_highest);
        let renewed = peer.lossy && peer.is_live() && peer.outgoing.bytes() <= directed_bytes_max / 2;
        if renewed {
            peer.lossy = false;
            self.inbounds.push_back(Inbound::Renewed(sender.origin));
        }
        self.counts.gaps_renewed += missed;
        if let Some(refutations) = beat.suspected.checked_sub(1) {
            let refutations = u16::try_from(refutations).unwrap_or(u16::MAX);
            self.membership.refute(now.instant, refutations, identity);
        }
        self.read_directed(sender);
        self.send_window(sender.origin);
        let oldest = beat.oldest.clamp(1, beat.highest + 1);
        if let Some(stream) = self.stream_mut(now, sender, oldest) {
            stream.incoming.learn(now.instant, beat.highest);
        }
        Outcome::Accepted
    }

    fn handle_heads(&mut self, now: Now, sender: StreamId, heads: &proto::Heads) -> Outcome {
        for head in &heads.heads {
            if head.highest > NUMBER_MAX || head.contiguous > head.highest {
                return Outcome::Garbage;
            }
            let id = StreamId {
                origin: NodeId(head.origin),
                incarnation: head.incarnation,
            };
            if id == self.own {
                let highest = self.broadcast.highest();
                if let Some(peer) = self.peer_mut(sender) {
                    peer.acknowledged = peer.acknowledged.max(head.contiguous.min(highest));
                }
            }
            if id.origin == self.own.origin {
                continue;
            }
            let oldest = head.oldest.clamp(1, head.contiguous + 1);
            let Some(stream) = self.stream_mut(now, id, oldest) else {
                continue;
            };
            stream.incoming.learn(now.instant, head.highest);
            let held = stream.held.entry(sender.origin).or_default();
            if head.contiguous > *held {
                *held = head.contiguous;
                stream.incoming.hope(now.instant, sender.origin);
            }
        }
        Outcome::Accepted
    }
}

/// 4 or 16 bytes of address and 2 of port, in network order.
pub(super) fn address_bytes(address: SocketAddr) -> Bytes {
    let mut bytes = match address.ip() {
        std::net::IpAddr::V4(ip) => ip.octets().to_vec(),
        std::net::IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    bytes.extend_from_slice(&address.port().to_be_bytes());
    bytes.into()
}

pub(super) fn parse_address(bytes: &[u8]) -> Option<SocketAddr> {
    let (ip, port) = bytes.split_last_chunk::<2>()?;
    let port = u16::from_be_bytes(*port);
    if let Ok(ip) = <[u8; 4]>::try_from(ip) {
        return Some((ip, port).into());
    }
    <[u8; 16]>::try_from(ip).ok().map(|ip| (ip, port).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_back() {
        for text in ["10.1.2.3:5337", "[2001:db8::1]:80"] {
            let address: SocketAddr = text.parse().expect("an address");
            assert_eq!(parse_address(&address_bytes(address)), Some(address));
        }
        assert_eq!(parse_address(&[1, 2, 3, 4, 5]), None);
        assert_eq!(parse_address(&[]), None);
    }
}
