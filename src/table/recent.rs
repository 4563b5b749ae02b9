//! The last decisions with what they were made of, for people who ask.

use crate::base::ids::{Place, TraceId};
use crate::base::monoid::Monoid;
use crate::base::prefetch::prefetch;
use crate::base::time::WallTime;
use crate::digest::Digest;
use crate::policy::QuotaAnswers;
use crate::route::{Decision, Places};
use hashbrown::{DefaultHashBuilder, HashTable};
use std::hash::BuildHasher;

/// Decisions remembered; the oldest gives way.
const COUNT_MAX: usize = 4096;
/// Of a trace the first places are remembered, for its root and services.
pub(super) const PLACES_REMEMBERED: usize = 16;

/// What became of one trace.
#[derive(Clone, Debug)]
pub struct DecidedTrace {
    pub trace: TraceId,
    pub decision: Decision,
    pub digest: Digest,
    pub first_seen: WallTime,
    pub last_seen: WallTime,
    pub decided_at: WallTime,
    pub late_spans: u32,
    /// Of those.
    pub late: Digest,
    /// What quotas said of it here.
    pub quotas: QuotaAnswers,
    /// A start found it: other logs may know more of it.
    pub is_replayed: bool,
    /// Where its spans are, or were: the log keeps them no longer for this.
    pub places: Places,
}

impl DecidedTrace {
    /// What another log knows of the same decision.
    pub(super) fn merge(&mut self, other: DecidedTrace) {
        self.digest = self.digest.merge(other.digest);
        self.first_seen = self.first_seen.min(other.first_seen);
        self.last_seen = self.last_seen.max(other.last_seen);
        let room = PLACES_REMEMBERED.saturating_sub(self.places.len());
        self.places.extend(other.places.into_iter().take(room));
    }

    pub(super) fn replayed(self) -> DecidedTrace {
        DecidedTrace {
            is_replayed: true,
            ..self
        }
    }

    pub(super) fn add_late(&mut self, late: Digest, places: &[Place]) {
        self.late_spans += late.span_count;
        self.late = self.late.merge(late);
        let room = PLACES_REMEMBERED.saturating_sub(self.places.len());
        self.places.extend(places.iter().take(room).copied());
    }
}

/// A ring of decisions, found by trace too.
///
/// Invariant: `by_trace` names a place of the ring, the newest of that trace. With room for all from the start, in two
/// bytes each, it stays small enough for the cache: every decision goes through it, few are ever asked for.
#[derive(Debug)]
pub struct Recent {
    ring: Vec<DecidedTrace>,
    /// Where the next decision goes: the end, or the oldest.
    next: u16,
    by_trace: HashTable<u16>,
    hasher: DefaultHashBuilder,
}

impl Default for Recent {
    fn default() -> Recent {
        Recent {
            ring: Vec::new(),
            next: 0,
            by_trace: HashTable::with_capacity(COUNT_MAX),
            hasher: DefaultHashBuilder::default(),
        }
    }
}

impl Recent {
    pub fn push(&mut self, decided: DecidedTrace) {
        let Recent {
            ring,
            next,
            by_trace,
            hasher,
        } = self;
        let place = *next;
        let hash = |trace: &TraceId| hasher.hash_one(trace);
        if let Some(oldest) = ring.get(place as usize)
            && let Ok(named) = by_trace.find_entry(hash(&oldest.trace), |named| *named == place)
        {
            named.remove();
        }
        let trace = decided.trace;
        match ring.get_mut(place as usize) {
            Some(oldest) => *oldest = decided,
            None => ring.push(decided),
        }
        let is_it = |named: &u16| *named != place && ring[*named as usize].trace == trace;
        match by_trace.find_mut(hash(&trace), is_it) {
            Some(named) => *named = place,
            None => {
                by_trace.insert_unique(hash(&trace), place, |named| hash(&ring[*named as usize].trace));
            }
        }
        *next = (place + 1) % COUNT_MAX as u16;
        // The oldest has not been touched for as long as it is in the ring.
        ring.get(*next as usize).inspect(|oldest| prefetch(*oldest));
    }

    pub fn get(&self, trace: &TraceId) -> Option<&DecidedTrace> {
        self.ring.get(self.place(trace)?)
    }

    pub fn get_mut(&mut self, trace: &TraceId) -> Option<&mut DecidedTrace> {
        let place = self.place(trace)?;
        self.ring.get_mut(place)
    }

    fn place(&self, trace: &TraceId) -> Option<usize> {
        let is_it = |named: &u16| self.ring[*named as usize].trace == *trace;
        let named = self.by_trace.find(self.hasher.hash_one(trace), is_it)?;
        Some(*named as usize)
    }

    /// When the oldest decision that is remembered here was taken.
    pub fn reaches_back_to(&self) -> Option<WallTime> {
        let oldest = match self.ring.len() {
            COUNT_MAX => self.ring.get(self.next as usize),
            _ => self.ring.first(),
        };
        oldest.map(|decided| decided.decided_at)
    }

    /// Places beyond the first two lie outside and are few.
    pub fn memory_bytes(&self) -> u64 {
        (self.ring.capacity() * size_of::<DecidedTrace>() + self.by_trace.allocation_size()) as u64
    }

    /// The newest first.
    pub fn iter(&self) -> impl Iterator<Item = &DecidedTrace> {
        let (newer, older) = self.ring.split_at(self.next as usize);
        newer.iter().rev().chain(older.iter().rev())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::monoid::Monoid;
    use crate::verdict::{Reason, Verdict};

    fn decided(number: u64) -> DecidedTrace {
        let mut id = [1; 16];
        id[..8].copy_from_slice(&number.to_be_bytes());
        let decision = Decision {
            verdict: Verdict::Rollup,
            reason: Reason::Quiet,
            policy: None,
            threshold: None,
            incomplete: false,
            upgraded: false,
        };
        DecidedTrace {
            trace: TraceId::new(&id).expect("not zero"),
            decision,
            digest: Digest::EMPTY,
            first_seen: WallTime(0),
            last_seen: WallTime(0),
            decided_at: WallTime(number),
            late_spans: 0,
            late: Digest::EMPTY,
            quotas: QuotaAnswers::NONE,
            is_replayed: false,
            places: Places::new(),
        }
    }

    #[test]
    fn the_newest_of_a_trace_is_found_until_it_leaves_the_ring() {
        let mut recent = Recent::default();
        recent.push(decided(7));
        let mut again = decided(7);
        again.late_spans = 3;
        recent.push(again);
        assert_eq!(
            recent.get(&decided(7).trace).map(|found| found.late_spans),
            Some(3)
        );
        (100..100 + COUNT_MAX as u64 - 1).for_each(|number| recent.push(decided(number)));
        assert!(recent.get(&decided(7).trace).is_some());
        recent.push(decided(99));
        assert!(recent.get(&decided(7).trace).is_none());
        assert_eq!(recent.iter().count(), COUNT_MAX);
        assert_eq!(recent.by_trace.len(), COUNT_MAX);
        assert_eq!(
            recent.get(&decided(99).trace).map(|found| found.decided_at),
            Some(WallTime(99))
        );
    }
}
