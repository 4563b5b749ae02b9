//! What was decided about traces that are no longer open, so that late spans follow.
//!
//! ```text
//!  current generation  ──full──→  previous generation  ──next full──→  forgotten
//!
//!  entry of a trace:  58 bits of a keyed hash │ verdict (2) │ reason (4)
//! ```
//!
//! Every decided trace leaves such an entry; kept ones are also remembered with their id, policy and threshold.
//! So a new trace, the usual case, costs one look into each [generation](super::generation). A false hit would send a new trace the
//! way of another one; its odds are bounded ([`FALSE_HIT_ODDS_MAX`]) and tested.

use super::generation::{DECISION_BITS, Generations};
use crate::base::ids::TraceId;
use crate::route::{Decision, HashKey};
use crate::verdict::{Reason, Verdict};
use hashbrown::HashTable;

/// Odds that a new trace is taken for a decided one, at the highest count of traces allowed.
pub const FALSE_HIT_ODDS_MAX: f64 = 1e-9;

/// Traces remembered at most: 2^27 of them among 2^58 fingerprints are odds of 4.7·10⁻¹⁰.
const COUNT_LIMIT: usize = 1 << 27;
const REASON_BITS: u32 = 4;

/// A decision in eight bytes, as the cache has it: what late spans of a dropped trace need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompactDecision(u64);

impl CompactDecision {
    /// `hash` is that of [`HashKey::trace`], which is the same in every log and after every start.
    pub fn new(hash: u64, decision: &Decision) -> CompactDecision {
        CompactDecision(fingerprint(hash) | (decision.verdict as u64) << REASON_BITS | decision.reason as u64)
    }

    /// What is known of the hash: enough to name the owner of the trace ([`crate::route::owner`]).
    pub fn hash(self) -> u64 {
        self.0 >> DECISION_BITS
    }

    pub fn bits(self) -> u64 {
        self.0
    }

    /// `None` for bits that no version wrote.
    pub fn from_bits(bits: u64) -> Option<CompactDecision> {
        let reason = Reason::from_byte((bits & ((1 << REASON_BITS) - 1)) as u8);
        reason
            .filter(|_| verdict_of(bits) != Verdict::Pending)
            .map(|_| CompactDecision(bits))
    }
}

#[derive(Clone, Copy, Debug)]
struct Kept {
    trace: TraceId,
    decision: Decision,
}

/// Two generations of decisions, and two of the details of kept traces.
///
/// Invariant: each kind holds at least the last `count_max`, and at most twice as many.
#[derive(Debug)]
pub struct DecidedCache {
    hash_key: HashKey,
    kept_count_max: usize,
    kept: [HashTable<Kept>; 2],
    entries: Generations,
}

impl DecidedCache {
    pub fn new(hash_key: HashKey, kept_count_max: usize, count_max: usize) -> DecidedCache {
        let count_max = count_max.clamp(1, COUNT_LIMIT / 2);
        DecidedCache {
            hash_key,
            kept_count_max: kept_count_max.max(1),
            kept: Default::default(),
            // Room from the start: growing would move a million entries within one turn. Untouched room costs
            // address space only.
            entries: Generations::new(count_max),
        }
    }

    /// `hash` is the table's hash of `trace`. Of two decisions the higher verdict stays (V1).
    pub fn insert(&mut self, hash: u64, trace: TraceId, decision: Decision) {
        if decision.verdict == Verdict::Pending {
            return;
        }
        let CompactDecision(entry) = CompactDecision::new(hash, &decision);
        match self.entries.find(fingerprint(hash)) {
            Some(known) if verdict_of(known) >= decision.verdict => return,
            Some(_) | None => {}
        }
        self.entries.insert(entry);
        if decision.verdict == Verdict::Keep {
            if self.kept[0].len() >= self.kept_count_max {
                self.kept.swap(0, 1);
                self.kept[0].clear();
            }
            let key = self.hash_key;
            self.kept[0].insert_unique(hash, Kept { trace, decision }, |kept| key.trace(&kept.trace));
        }
    }

    /// Takes back a decision that is older than all that were inserted, if there is room for it; `kept` names a
    /// kept trace whole. What is known stays, but for a lower verdict (V1).
    pub fn insert_older(
        &mut self,
        CompactDecision(entry): CompactDecision,
        kept: Option<(TraceId, Decision)>,
    ) {
        let known = self.entries.find(entry);
        let is_higher = |known| verdict_of(known) < verdict_of(entry);
        if known.is_some_and(is_higher) || (known.is_none() && self.entries.has_room()) {
            self.entries.insert(entry);
        }
        let Some((trace, decision)) = kept else { return };
        let (key, hash) = (self.hash_key, self.hash_key.trace(&trace));
        if self.find_kept(hash, &trace).is_none() && self.kept[1].len() < self.kept_count_max {
            self.kept[1].insert_unique(hash, Kept { trace, decision }, |kept| key.trace(&kept.trace));
        }
    }

    /// The decision, if this trace was decided as far back as the cache reaches. Of a kept trace that is known
    /// by its entry only, policy and threshold are forgotten.
    pub fn get(&self, hash: u64, trace: &TraceId) -> Option<Decision> {
        let entry = self.entries.find(fingerprint(hash))?;
        let verdict = verdict_of(entry);
        if verdict == Verdict::Keep
            && let Some(kept) = self.find_kept(hash, trace)
        {
            return Some(kept.decision);
        }
        Some(Decision {
            verdict,
            reason: Reason::from_byte((entry & ((1 << REASON_BITS) - 1)) as u8)
                .expect("written from a reason"),
            policy: None,
            threshold: None,
            incomplete: false,
            upgraded: false,
        })
    }

    /// Bytes when full: what was not touched yet is no memory so far.
    pub fn memory_bytes(&self) -> u64 {
        let kept: usize = self.kept.iter().map(HashTable::allocation_size).sum();
        (self.entries.memory_bytes() + kept) as u64
    }

    /// Decisions in generations of these counts that fit into so many bytes: all, and those of kept traces.
    pub fn counts_within(bytes: u64) -> (usize, usize) {
        // A fifth for kept traces: two generations whose tables are half full at worst.
        let kept_bytes = 4 * (size_of::<Kept>() + 1) as u64;
        let count = bytes / 5 * 4 / Generations::BYTES_EACH;
        (count as usize, (bytes / 5 / kept_bytes) as usize)
    }

    /// Asks for the memory of a look that will come soon.
    #[inline]
    pub fn prefetch(&self, hash: u64) {
        self.entries.prefetch(fingerprint(hash));
    }

    fn find_kept(&self, hash: u64, trace: &TraceId) -> Option<&Kept> {
        let [current, previous] = &self.kept;
        let is_it = |kept: &Kept| kept.trace == *trace;
        current.find(hash, is_it).or_else(|| previous.find(hash, is_it))
    }
}

/// The low bits of the table's hash, at the place they have in an entry: the high ones choose the owner, so that they
/// say little among the traces of one core.
fn fingerprint(hash: u64) -> u64 {
    hash << DECISION_BITS
}

fn verdict_of(entry: u64) -> Verdict {
    Verdict::from_byte((entry >> REASON_BITS & 3) as u8).expect("two bits name four verdicts")
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
        Decision {
            verdict,
            reason,
            policy,
            threshold,
            incomplete: false,
            upgraded: false,
        }
    }

    const KEY: HashKey = HashKey([11, 13]);

    #[test]
    fn every_decision_is_remembered_for_its_count_and_then_forgotten() {
        let mut cache = DecidedCache::new(KEY, 100, 100);
        for verdict in [Verdict::Keep, Verdict::Rollup, Verdict::Deny] {
            for reason in Reason::ALL {
                let (id, decided) = (
                    trace(reason as u64 + 100 * verdict as u64),
                    decision(verdict, reason),
                );
                cache.insert(KEY.trace(&id), id, decided);
                assert_eq!(cache.get(KEY.trace(&id), &id), Some(decided));
            }
        }
        for number in 1000..1400 {
            let verdict = Verdict::ALL[1 + number as usize % 3];
            cache.insert(
                KEY.trace(&trace(number)),
                trace(number),
                decision(verdict, Reason::Quiet),
            );
        }
        assert_eq!(cache.get(KEY.trace(&trace(100)), &trace(100)), None);
        for number in 1300..1400 {
            let verdict = Verdict::ALL[1 + number as usize % 3];
            let found = cache.get(KEY.trace(&trace(number)), &trace(number));
            assert_eq!(found, Some(decision(verdict, Reason::Quiet)));
        }
    }

    #[test]
    fn keep_overrules_a_drop_whichever_came_first() {
        for verdicts in [[Verdict::Keep, Verdict::Rollup], [Verdict::Rollup, Verdict::Keep]] {
            let mut cache = DecidedCache::new(KEY, 10, 10);
            for verdict in verdicts {
                cache.insert(
                    KEY.trace(&trace(1)),
                    trace(1),
                    decision(verdict, Reason::Complete),
                );
            }
            let found = cache.get(KEY.trace(&trace(1)), &trace(1));
            assert_eq!(found.map(|found| found.verdict), Some(Verdict::Keep));
        }
    }

    #[test]
    fn odds_of_a_false_hit_are_bounded_and_none_is_seen_in_a_million() {
        assert!(COUNT_LIMIT as f64 / 2f64.powi(64 - DECISION_BITS as i32) < FALSE_HIT_ODDS_MAX);
        let mut cache = DecidedCache::new(KEY, 10, 200_000);
        for number in 0..200_000 {
            let id = trace(number);
            cache.insert(KEY.trace(&id), id, decision(Verdict::Rollup, Reason::Quiet));
        }
        let false_hits = (1 << 32..(1 << 32) + 1_000_000u64).map(trace);
        assert_eq!(
            false_hits
                .filter(|id| cache.get(KEY.trace(id), id).is_some())
                .count(),
            0
        );
    }
}
