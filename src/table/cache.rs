//! What was decided about traces that are no longer open, so that late spans follow.
//!
//! ```text
//!  current generation  ──full──→  previous generation  ──next full──→  forgotten
//! ```
//!
//! A kept trace is remembered with its id and its decision. Of a dropped one only 59 bits of a keyed hash stay,
//! with the reason in the other five: a false hit would send a new trace the way of a dropped one, so its odds
//! are bounded ([`FALSE_HIT_ODDS_MAX`]) and tested.

use crate::base::ids::TraceId;
use crate::route::{Decision, HashKey};
use crate::verdict::{Reason, Verdict};
use hashbrown::HashTable;
use siphasher::sip::SipHasher13;
use std::hash::Hasher;

/// Odds that a new trace is taken for a dropped one, at the highest count of dropped traces allowed.
pub const FALSE_HIT_ODDS_MAX: f64 = 1e-9;

/// Dropped traces remembered at most: 2^27 of them among 2^59 fingerprints are odds of 2.3·10⁻¹⁰.
const DROPPED_COUNT_LIMIT: usize = 1 << 27;
const REASON_BITS: u32 = 5;

#[derive(Clone, Copy, Debug)]
struct Kept {
    trace: TraceId,
    decision: Decision,
}

/// Two generations of each kind of decision.
///
/// Invariant: each kind holds at least the last `count_max` decisions, and at most twice as many.
#[derive(Debug)]
pub struct DecidedCache {
    /// Of the fingerprints: another key than the table's, so that they are independent of buckets.
    fingerprint_key: HashKey,
    hash_key: HashKey,
    kept_count_max: usize,
    dropped_count_max: usize,
    kept: [HashTable<Kept>; 2],
    dropped: [HashTable<u64>; 2],
}

impl DecidedCache {
    pub fn new(hash_key: HashKey, kept_count_max: usize, dropped_count_max: usize) -> DecidedCache {
        DecidedCache {
            fingerprint_key: HashKey([!hash_key.0[1], !hash_key.0[0]]),
            hash_key,
            kept_count_max: kept_count_max.max(1),
            dropped_count_max: dropped_count_max.clamp(1, DROPPED_COUNT_LIMIT / 2),
            kept: Default::default(),
            dropped: Default::default(),
        }
    }

    /// `hash` is the table's hash of `trace`. A later Keep overrules a drop (V1).
    pub fn insert(&mut self, hash: u64, trace: TraceId, decision: Decision) {
        match decision.verdict {
            Verdict::Pending => {}
            Verdict::Keep => {
                if self.find_kept(hash, &trace).is_some() {
                    return;
                }
                if self.kept[0].len() >= self.kept_count_max {
                    self.kept.swap(0, 1);
                    self.kept[0].clear();
                }
                let key = self.hash_key;
                self.kept[0].insert_unique(hash, Kept { trace, decision }, |kept| key.trace(&kept.trace));
            }
            Verdict::Rollup | Verdict::Deny => {
                if self.dropped[0].len() >= self.dropped_count_max {
                    self.dropped.swap(0, 1);
                    self.dropped[0].clear();
                }
                let denied = u64::from(decision.verdict == Verdict::Deny) << 4;
                let entry = self.fingerprint(&trace) | denied | decision.reason as u64;
                self.dropped[0].insert_unique(entry >> REASON_BITS, entry, |entry| entry >> REASON_BITS);
            }
        }
    }

    /// The decision, if this trace was decided as far back as the cache reaches.
    pub fn get(&self, hash: u64, trace: &TraceId) -> Option<Decision> {
        if let Some(kept) = self.find_kept(hash, trace) {
            return Some(kept.decision);
        }
        if self.dropped.iter().all(|generation| generation.is_empty()) {
            return None;
        }
        let fingerprint = self.fingerprint(trace);
        let is_it = |entry: &u64| (entry ^ fingerprint) >> REASON_BITS == 0;
        let [current, previous] = &self.dropped;
        let find = |generation: &HashTable<u64>| generation.find(fingerprint >> REASON_BITS, is_it).copied();
        let entry = find(current).or_else(|| find(previous))?;
        Some(Decision {
            verdict: if entry >> 4 & 1 == 1 { Verdict::Deny } else { Verdict::Rollup },
            reason: Reason::from_byte((entry & 0xf) as u8).expect("written from a reason"),
            policy: None,
            threshold: None,
            incomplete: false,
        })
    }

    fn find_kept(&self, hash: u64, trace: &TraceId) -> Option<&Kept> {
        let [current, previous] = &self.kept;
        let is_it = |kept: &Kept| kept.trace == *trace;
        current.find(hash, is_it).or_else(|| previous.find(hash, is_it))
    }

    fn fingerprint(&self, trace: &TraceId) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(self.fingerprint_key.0[0], self.fingerprint_key.0[1]);
        hasher.write(trace.as_bytes());
        hasher.finish() >> REASON_BITS << REASON_BITS
    }

    /// Bytes of both kinds.
    pub fn memory_bytes(&self) -> u64 {
        let kept: usize = self.kept.iter().map(|generation| generation.allocation_size()).sum();
        let dropped: usize = self.dropped.iter().map(|generation| generation.allocation_size()).sum();
        (kept + dropped) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::PolicyNumber;
    use crate::verdict::Threshold;

    fn trace(number: u64) -> TraceId {
        let mut bytes = [7; 16];
        bytes[..8].copy_from_slice(&number.to_be_bytes());
        TraceId::new(&bytes).expect("not zero")
    }

    fn decision(verdict: Verdict, reason: Reason) -> Decision {
        let policy = (verdict == Verdict::Keep).then_some(PolicyNumber(3));
        let threshold = policy.and(Threshold::new(77));
        Decision { verdict, reason, policy, threshold, incomplete: false }
    }

    const KEY: HashKey = HashKey([11, 13]);

    #[test]
    fn every_decision_is_remembered_for_its_count_and_then_forgotten() {
        let mut cache = DecidedCache::new(KEY, 100, 100);
        for verdict in [Verdict::Keep, Verdict::Rollup, Verdict::Deny] {
            for reason in Reason::ALL {
                let (id, decided) = (trace(reason as u64 + 100 * verdict as u64), decision(verdict, reason));
                cache.insert(KEY.trace(&id), id, decided);
                assert_eq!(cache.get(KEY.trace(&id), &id), Some(decided));
            }
        }
        for number in 1000..1400 {
            for verdict in [Verdict::Keep, Verdict::Rollup] {
                let id = trace(number * 4 + verdict as u64);
                cache.insert(KEY.trace(&id), id, decision(verdict, Reason::Quiet));
            }
        }
        assert_eq!(cache.get(KEY.trace(&trace(100)), &trace(100)), None);
        for number in 1300..1400 {
            for verdict in [Verdict::Keep, Verdict::Rollup] {
                let id = trace(number * 4 + verdict as u64);
                assert_eq!(cache.get(KEY.trace(&id), &id).map(|found| found.verdict), Some(verdict));
            }
        }
    }

    #[test]
    fn keep_overrules_a_drop_whichever_came_first() {
        for verdicts in [[Verdict::Keep, Verdict::Rollup], [Verdict::Rollup, Verdict::Keep]] {
            let mut cache = DecidedCache::new(KEY, 10, 10);
            for verdict in verdicts {
                cache.insert(KEY.trace(&trace(1)), trace(1), decision(verdict, Reason::Complete));
            }
            let found = cache.get(KEY.trace(&trace(1)), &trace(1));
            assert_eq!(found.map(|found| found.verdict), Some(Verdict::Keep));
        }
    }

    #[test]
    fn odds_of_a_false_hit_are_bounded_and_none_is_seen_in_a_million() {
        assert!(DROPPED_COUNT_LIMIT as f64 / 2f64.powi(64 - REASON_BITS as i32) < FALSE_HIT_ODDS_MAX);
        let mut cache = DecidedCache::new(KEY, 10, 200_000);
        for number in 0..200_000 {
            let id = trace(number);
            cache.insert(KEY.trace(&id), id, decision(Verdict::Rollup, Reason::Quiet));
        }
        let false_hits = (1 << 32..(1 << 32) + 1_000_000u64).map(trace);
        assert_eq!(false_hits.filter(|id| cache.get(KEY.trace(id), id).is_some()).count(), 0);
    }
}
