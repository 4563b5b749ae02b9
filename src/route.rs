//! Which core owns a trace, and what travels between the core where spans landed and the owner.
//!
//! ```text
//!   landing core                                 owner
//!   ────────────                                 ─────
//!   request → log entries                        table: trace → digest, places
//!        └── ItemBatch (digests, places) ──────→ merge
//!   verdict entry → export or let go ←────────── Settlement (verdict, places)
//! ```
//!
//! Spans stay where they land; digests travel. One batch a turn goes to each core, never a message per span,
//! and no byte of a span is in it. Where both ends are the same core the batch is handed over by reference.

use crate::base::ids::{CoreId, LogId, Place, TraceId};
use crate::digest::Digest;
use crate::verdict::{Reason, Threshold, Verdict};
use siphasher::sip::SipHasher13;
use smallvec::SmallVec;
use std::hash::Hasher;
use std::ops::Range;

/// A 128-bit secret that keeps clients from choosing the core, the bucket or the fingerprint they hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashKey(pub [u64; 2]);

impl HashKey {
    /// A keyed hash of a trace id: its owner, the bucket of the table, and the fingerprint of decisions.
    #[inline]
    pub fn trace(self, trace: &TraceId) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(self.0[0], self.0[1]);
        hasher.write(trace.as_bytes());
        hasher.finish()
    }

    /// A 4-byte keyed fingerprint of a span id, never zero. One multiplication: a client that defeats it
    /// closes its own trace a little early, nothing more.
    #[inline]
    pub fn span(self, span_id: &[u8; 8]) -> u32 {
        let product = (u64::from_ne_bytes(*span_id) ^ self.0[0]) as u128 * (self.0[1] | 1) as u128;
        (((product >> 64) as u64 ^ product as u64) >> 32) as u32 | 1
    }
}

/// The owner among `core_count` of a trace with this hash: an even split of the range of its low half.
///
/// The high half is not looked at: it places what one owner remembers, and the highest bits are not known of a
/// decision that was carried along in a log.
#[inline]
pub fn owner(hash: u64, core_count: u16) -> CoreId {
    let low = hash & 0xffff_ffff;
    CoreId(((low * u64::from(core_count)) >> 32) as u16)
}

/// The home of a trace among live nodes: the one with the highest score (rendezvous hashing), so that a node that
/// comes or goes changes the home of no trace but its own. `None`: no node.
pub fn home(key: HashKey, live: impl Iterator<Item = u64>, trace: &TraceId) -> Option<u64> {
    let hash = key.trace(trace);
    live.max_by_key(|node| (mix(hash ^ mix(*node)), *node))
}

/// As [`home`], of what has a name: the same node for all who see the same nodes.
pub fn home_of_name(key: HashKey, live: impl Iterator<Item = u64>, name_hash: u64) -> Option<u64> {
    let hash = mix(name_hash ^ key.0[0]) ^ key.0[1];
    live.max_by_key(|node| (mix(hash ^ mix(*node)), *node))
}

/// Spreads every bit over all (the finaliser of splitmix64).
fn mix(value: u64) -> u64 {
    let value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

/// What one request showed of one trace.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    pub trace: TraceId,
    pub digest: Digest,
    /// Into [`ItemBatch::places`].
    pub places: Range<u32>,
    /// Into [`ItemBatch::fingerprints`]: one of each span id.
    pub spans: Range<u32>,
    /// Into [`ItemBatch::fingerprints`]: one of each parent id that is no span of this item.
    pub parents: Range<u32>,
}

/// Items for one owner, in flat vectors that are reused from turn to turn.
#[derive(Clone, Debug, Default)]
pub struct ItemBatch {
    pub items: Vec<Item>,
    pub places: Vec<Place>,
    pub fingerprints: Vec<u32>,
}

impl ItemBatch {
    pub fn clear(&mut self) {
        self.items.clear();
        self.places.clear();
        self.fingerprints.clear();
    }

    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The places of an item, the fingerprints of its spans, and those of parents that are not among them.
    pub fn lists(&self, item: &Item) -> (&[Place], &[u32], &[u32]) {
        let fingerprints = |range: &Range<u32>| &self.fingerprints[range.start as usize..range.end as usize];
        (
            &self.places[item.places.start as usize..item.places.end as usize],
            fingerprints(&item.spans),
            fingerprints(&item.parents),
        )
    }
}

/// What was decided about a trace, as it goes into logs and onto data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    pub verdict: Verdict,
    pub reason: Reason,
    /// The policy that decided, by its number in the core's table of names.
    pub policy: Option<PolicyNumber>,
    /// What becomes of `ot=th` on exported spans: raised to at least this, or erased.
    pub threshold: Option<Threshold>,
    /// The structure of the trace was not whole when it was decided.
    pub incomplete: bool,
    /// It was dropped first, and kept later while its bytes were in the log.
    pub upgraded: bool,
}

/// A policy's name by its number in the core's table of names, which outlives changes of configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyNumber(pub u16);

/// Where the spans of one trace lie: one place for each entry with some of them, mostly one or two.
pub type Places = SmallVec<[Place; 2]>;

/// A decision on its way to a landing core, with the places there that it settles.
///
/// Invariant: all places are of one log, and there is at least one.
#[derive(Clone, Debug, PartialEq)]
pub struct Settlement {
    pub trace: TraceId,
    pub decision: Decision,
    /// The spans came after the decision.
    pub late: bool,
    pub span_count: u32,
    pub places: Places,
}

impl Settlement {
    /// The log that its places are in.
    pub fn log(&self) -> LogId {
        self.places.first().expect("a settlement settles something").log()
    }
}

/// The core that works on a log: logs belong to the directory and outnumber cores after a change of `node.cores`.
#[inline]
pub fn keeper(log: LogId, cores: u16) -> CoreId {
    CoreId(u16::from(log.0) % cores)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_share_the_hash_range_evenly() {
        assert_eq!(owner(0, 3), CoreId(0));
        assert_eq!(owner(u64::MAX, 3), CoreId(2));
        assert_eq!(owner(u64::from(u32::MAX / 2), 3), CoreId(1));
        assert_eq!(owner(u64::MAX, 1), CoreId(0));
    }

    #[test]
    fn a_node_that_goes_changes_the_home_of_its_own_traces_only() {
        let key = HashKey([1, 2]);
        let traces = (1..4000u128).map(|n| TraceId::new(&n.to_be_bytes()).expect("not zero"));
        let (mut moved, mut homes) = (0, [0; 5]);
        for trace in traces {
            let all = home(key, 0..5, &trace).expect("one of five");
            let rest = home(key, (0..5).filter(|node| *node != 3), &trace).expect("one of four");
            homes[all as usize] += 1;
            moved += u32::from(all != rest);
            assert!(all == rest || all == 3);
        }
        assert_eq!(moved, homes[3]);
        assert!(homes.iter().all(|count| (700..900).contains(count)), "{homes:?}");
        assert_eq!(
            home(
                key,
                std::iter::empty(),
                &TraceId::new(&[1; 16]).expect("not zero")
            ),
            None
        );
    }

    #[test]
    fn span_fingerprints_depend_on_the_key_and_are_never_zero() {
        let (a, b) = (HashKey([1, 3 << 40]), HashKey([2, 5 << 50]));
        let differing = (0..1000u64).filter(|id| a.span(&id.to_be_bytes()) != b.span(&id.to_be_bytes()));
        assert!(differing.count() > 990);
        assert!((0..1000u64).all(|id| a.span(&id.to_be_bytes()) != 0));
    }
}
