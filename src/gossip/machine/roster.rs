//! Who is there: what membership says, made into peers, and told to shards.

use super::peer::Peer;
use super::{Gossip, JOIN_TIME, SEEDS_PAUSE, SEEDS_PAUSE_ALONE};
use crate::base::time::Now;
use crate::gossip::member::Identity;
use crate::gossip::{Inbound, Members, NodeId};
use crate::proto;
use rand::RngExt;
use std::collections::BTreeMap;
use std::net::SocketAddr;

impl Gossip {
    /// Sends what the membership protocol has to say, and takes in who came and went.
    pub(super) fn follow_membership(&mut self, now: Now) {
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

    pub(super) fn end_joining(&mut self) {
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

    pub(super) fn live_peers(&self) -> Vec<Identity> {
        let live = self.peers.values().filter(|peer| peer.is_live());
        live.map(|peer| peer.identity).collect()
    }

    pub(super) fn choose(&mut self, among: &[Identity]) -> Option<Identity> {
        match among.len() {
            0 => None,
            count => Some(among[self.random.random_range(0..count)]),
        }
    }

    /// Asks who is not a member but should be: configured addresses, and peers that were lost.
    pub(super) fn ask_seeds(&mut self, now: Now) {
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
}
