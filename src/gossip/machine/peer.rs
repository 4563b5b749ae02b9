//! What a node keeps of each other node: how far both are with each other's streams.

use crate::base::time::Instant;
use crate::gossip::member::Identity;
use crate::gossip::stream::content::{Directed, PredicateMap};
use crate::gossip::stream::{Incoming, Outgoing, WINDOW};
use crate::proto;
use std::time::Duration;

/// Between two beats while there is something to tell.
pub const BEAT: Duration = Duration::from_millis(100);
/// Between two beats of a pair that has been silent for long.
pub const BEAT_LONGEST: Duration = Duration::from_secs(1);
/// After a batch that no other followed, so that its loss is noticed: as long again for every [`TAIL_PEERS`] peers.
const TAIL: Duration = Duration::from_millis(8);
const TAIL_PEERS: u32 = 16;
/// Batches sent again to one peer in [`BEAT`] at least; more if they are a quarter of what is sent anyway.
const RESENT_MIN: u64 = 256;

/// One life of another node.
#[derive(Debug)]
pub struct Peer {
    pub identity: Identity,
    /// `Some`: given up, or gone, since.
    pub gone: Option<Instant>,
    /// It said goodbye.
    pub left: bool,
    /// What people call it, once it has said so.
    pub name: Option<String>,
    /// It has had all of our decisions up to here.
    pub acknowledged: u64,

    /// Our stream to it.
    pub outgoing: Outgoing,
    pub pending: Directed,
    pub flush_at: Option<Instant>,
    pub sent: u64,
    /// It knows what the bits of our digests mean.
    pub stated: bool,
    /// Something for it was dropped; when there is room again, shards send anew.
    pub lossy: bool,

    /// Its stream to us.
    pub incoming: Incoming,
    pub used: u64,
    pub predicates: Option<PredicateMap>,

    pub beat_at: Instant,
    beat_pause: Duration,
    /// A batch was sent, and nothing since.
    tail_at: Option<Instant>,
    told: proto::Beat,
    resends_left: u64,
    resends_since: (Instant, u64),
}

impl Peer {
    pub fn new(now: Instant, identity: Identity) -> Peer {
        Peer {
            identity,
            gone: None,
            left: false,
            name: None,
            acknowledged: 0,
            outgoing: Outgoing::default(),
            pending: Directed::default(),
            flush_at: None,
            sent: 0,
            stated: false,
            lossy: false,
            incoming: Incoming::new(1),
            used: 0,
            predicates: None,
            beat_at: now,
            beat_pause: BEAT,
            tail_at: None,
            told: proto::Beat::default(),
            resends_left: RESENT_MIN,
            resends_since: (now, 0),
        }
    }

    pub fn is_live(&self) -> bool {
        self.gone.is_none()
    }

    /// It may come back and want what was decided meanwhile, unless it has been gone since before `old`.
    pub fn is_expected(&self, old: Instant) -> bool {
        self.gone.is_none_or(|gone| !self.left && gone >= old)
    }

    /// So far behind that more would be lost too: it catches up by itself.
    pub fn lags(&self, highest: u64) -> bool {
        highest.saturating_sub(self.acknowledged) > WINDOW
    }

    /// There is something to tell it soon.
    pub fn beat_soon(&mut self, now: Instant) {
        self.beat_at = self.beat_at.min(now.plus(BEAT));
    }

    /// A batch was sent. The next one tells of its loss, or else a beat; `count` is the number of peers.
    pub fn tell_tail(&mut self, now: Instant, count: usize) {
        self.tail_at = Some(now.plus(TAIL * (1 + count as u32 / TAIL_PEERS)));
    }

    pub fn has_beat_due(&self, now: Instant) -> bool {
        self.is_live() && (self.beat_at <= now || self.tail_at.is_some_and(|at| at <= now))
    }

    /// After `beat` was sent: when the next one goes.
    pub fn beaten(&mut self, now: Instant, beat: proto::Beat) {
        self.beat_pause = match beat == self.told && beat.suspected == 0 {
            true => (self.beat_pause * 2).min(BEAT_LONGEST),
            false => BEAT,
        };
        self.told = beat;
        self.tail_at = None;
        self.beat_at = now.plus(self.beat_pause);
    }

    /// Whether one more batch may be sent again; `highest` tells how much is sent anyway.
    pub fn may_resend(&mut self, now: Instant, highest: u64) -> bool {
        let (since, then) = self.resends_since;
        if now.since(since) >= BEAT {
            self.resends_left = RESENT_MIN.max(highest.saturating_sub(then) / 4);
            self.resends_since = (now, highest);
        }
        let may = self.resends_left > 0;
        self.resends_left = self.resends_left.saturating_sub(1);
        may
    }

    /// Drops what it has not acknowledged; it learns so from the numbers.
    pub fn drop_outgoing(&mut self) {
        let highest = self.outgoing.highest();
        self.outgoing.release_through(highest);
        self.pending = Directed::default();
        self.flush_at = None;
        self.sent = highest;
        self.stated = false;
        self.lossy = true;
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        let tail_at = self.tail_at.unwrap_or(self.beat_at);
        let live = self.is_live().then_some(self.beat_at.min(tail_at));
        [live, self.flush_at, self.incoming.poll_timeout()]
            .into_iter()
            .flatten()
            .min()
    }
}
