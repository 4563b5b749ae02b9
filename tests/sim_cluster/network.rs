//! What is on its way between nodes: announcements come sooner or later, digests and answers may be lost.
//!
//! An announcement is in its node's stream, which every other node gets whole, those that come later too, for as
//! long as the node lives. Links are cut for a time, in one direction or in both.

use std::collections::BTreeMap;
use std::time::Duration;

use tailkeep::base::time::Instant;
use tailkeep::gossip::{Inbound, NodeDigest, NodeId, Outbound, PeerDecision};
use tailkeep::policy::quota::{Grant, Leasing};

use crate::random::Random;

/// What is lost on a cut link is sent again after this.
const AGAIN: Duration = Duration::from_millis(200);

pub fn node_id(node: usize) -> NodeId {
    NodeId(100 + node as u64)
}

#[derive(Clone, Debug)]
pub struct Packet {
    pub from: usize,
    pub to: usize,
    /// The life of the sender that sent it.
    life: u64,
    pub inbound: Inbound,
}

#[derive(Default)]
pub struct Network {
    on_way: BTreeMap<(Instant, u64), Packet>,
    sent: u64,
    cuts: BTreeMap<(usize, usize), Instant>,
    /// Of each node: how often it started, whether it is up, and what it announced since.
    lives: Vec<(u64, bool, Vec<PeerDecision>)>,
    /// In a thousand.
    pub loss: u32,
    pub repeats: u32,
    pub delay_ms: u64,
    /// The canary: what one node announces never comes to another one.
    pub loses_announcements: bool,
    /// The canary: each version of a digest looks like that of another node.
    pub digests_add_up: bool,
    /// The canary: a ledger leases what it has leased already.
    pub ledgers_forget: bool,
    pub digests: u64,
}

impl Network {
    pub fn started(&mut self, node: usize, now: Instant, random: &mut Random) {
        if self.lives.len() <= node {
            self.lives.resize(node + 1, (0, false, Vec::new()));
        }
        let life = &mut self.lives[node];
        *life = (life.0 + 1, true, Vec::new());
        for from in 0..self.lives.len() {
            if from != node && self.lives[from].1 {
                let is_lost = self.loses_announcements && (from, node) == (0, 1);
                for keep in self.lives[from].2.clone().into_iter().filter(|_| !is_lost) {
                    self.push(now, random, from, node, Inbound::Announced(keep));
                }
            }
        }
    }

    pub fn ended(&mut self, node: usize) {
        self.lives[node].1 = false;
    }

    pub fn cut(&mut self, from: usize, to: usize, until: Instant) {
        self.cuts.insert((from, to), until);
    }

    pub fn heal(&mut self) {
        self.cuts.clear();
    }

    fn is_cut(&self, from: usize, to: usize, now: Instant) -> bool {
        self.cuts.get(&(from, to)).is_some_and(|until| now < *until)
    }

    /// Nothing comes through in either direction.
    pub fn is_apart(&self, one: usize, other: usize, now: Instant) -> bool {
        self.is_cut(one, other, now) && self.is_cut(other, one, now)
    }

    pub fn send(&mut self, now: Instant, random: &mut Random, from: usize, outbound: Outbound) {
        let index = |id: NodeId| (id.0 - 100) as usize;
        let (to, inbound) = match outbound {
            Outbound::Announce(keep) => {
                self.lives[from].2.push(keep);
                for to in (0..self.lives.len()).filter(|to| *to != from) {
                    if !self.loses_announcements || (from, to) != (0, 1) {
                        self.push(now, random, from, to, Inbound::Announced(keep));
                    }
                }
                return;
            }
            Outbound::Digest(to, digest) => {
                self.digests += 1;
                (index(to), Inbound::Digest(self.origin(from, &digest), digest))
            }
            Outbound::Answer(to, version, decision) if to.0 < 100 + self.lives.len() as u64 => {
                (index(to), Inbound::Answer(version, decision))
            }
            Outbound::Answer(..) => return,
            Outbound::Leasing(to, leasing) => (index(to), Inbound::Leasing(self.forget(leasing))),
        };
        if random.per_mille(self.loss) || self.is_cut(from, to, now) {
            return;
        }
        if random.per_mille(self.repeats) {
            self.push(now, random, from, to, inbound.clone());
        }
        self.push(now, random, from, to, inbound);
    }

    fn forget(&self, leasing: Leasing) -> Leasing {
        match leasing {
            Leasing::Grant(grant) if self.ledgers_forget => Leasing::Grant(Grant {
                tokens: grant.quota.terms.burst,
                left: grant.quota.terms.burst,
                ..grant
            }),
            Leasing::Grant(_) | Leasing::Ask(_) => leasing,
        }
    }

    fn origin(&self, from: usize, digest: &NodeDigest) -> NodeId {
        match self.digests_add_up {
            true => NodeId(100_000 + u64::from(digest.version)),
            false => node_id(from),
        }
    }

    fn push(&mut self, now: Instant, random: &mut Random, from: usize, to: usize, inbound: Inbound) {
        let life = self.lives[from].0;
        let packet = Packet {
            from,
            to,
            life,
            inbound,
        };
        let wait = Duration::from_micros(100 + random.below(1 + self.delay_ms * 1000));
        self.on_way.insert((now.plus(wait), self.sent), packet);
        self.sent += 1;
    }

    /// A packet that arrives now.
    pub fn next(&mut self, now: Instant) -> Option<Packet> {
        while let Some(first) = self.on_way.first_entry().filter(|first| first.key().0 <= now) {
            let packet = first.remove();
            let (life, up, _) = &self.lives[packet.from];
            let sender_lives = *up && *life == packet.life;
            let receiver_is_up = self.lives[packet.to].1;
            let passes = receiver_is_up && !self.is_cut(packet.from, packet.to, now);
            let is_announcement = matches!(packet.inbound, Inbound::Announced(_));
            match passes {
                true => return Some(packet),
                false if is_announcement && sender_lives && receiver_is_up => {
                    self.on_way.insert((now.plus(AGAIN), self.sent), packet);
                    self.sent += 1;
                }
                // Who starts gets the whole streams of those who are up.
                false => {}
            }
        }
        None
    }

    pub fn is_empty(&self) -> bool {
        self.on_way.is_empty()
    }
}
