//! Once a second: what nobody needs any more is let go, and what is too much.

use super::{Gossip, STREAM_COUNT_KEPT};
use crate::base::time::{Instant, Now};
use crate::gossip::NodeId;
use std::collections::BTreeSet;

impl Gossip {
    /// Lets go of what nobody needs any more, or what is too much.
    pub(super) fn upkeep(&mut self, now: Now) {
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
