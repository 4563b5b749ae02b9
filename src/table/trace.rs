//! One open trace: its digest, its places, and how near it is to being complete.

use super::lists::{Lists, Shares, Unpacked};
use super::moments::Moments;
use super::recent::{DecidedTrace, PLACES_REMEMBERED};
use crate::base::ids::{LogId, Place, TraceId};
use crate::base::monoid::Monoid;
use crate::base::slab::{Link, Slab};
use crate::base::time::{Instant, Now, WallTime};
use crate::base::wheel::Armed;
use crate::completion::Progress;
use crate::completion::structure::Structure;
use crate::digest::{Digest, PackedDigest};
use crate::policy::QuotaAnswers;
use crate::route::{Decision, Places, Settlement};

// What a million pending traces cost: BENCHMARKS.md says how much else.
const _: () = assert!(Slab::<Trace>::SLOT_BYTES == 136);

/// State of an open trace on its owner.
///
/// Invariant: `digest` is the merge of all items absorbed, `lists` has their places in order of arrival.
#[derive(Debug)]
pub struct Trace {
    id: TraceId,
    digest: PackedDigest,
    moments: Moments,
    lists: Lists,
    resumed: bool,
    /// In the table's wheel.
    pub(super) armed: Armed,
    /// Neighbours in the table's list of traces by opening.
    pub(super) older: Link,
    pub(super) newer: Link,
}

impl Trace {
    pub(super) fn new(id: TraceId, now: Now, structural: bool) -> Trace {
        Trace {
            id,
            digest: PackedDigest::from(Digest::EMPTY),
            moments: Moments::new(now.instant),
            lists: Lists::new(structural),
            resumed: false,
            armed: Armed::NOT,
            older: Link::NONE,
            newer: Link::NONE,
        }
    }

    /// As a checkpoint has it.
    pub(super) fn whole(
        id: TraceId,
        digest: Digest,
        (opened_at, root_at): (Instant, Option<Instant>),
        structure: Structure,
        places: &[Place],
        shares: Vec<(LogId, u32)>,
    ) -> Trace {
        Trace {
            id,
            digest: PackedDigest::from(digest),
            moments: Moments::of(opened_at, opened_at, root_at),
            lists: Lists::from(Unpacked::new(structure, places.into(), shares.into())),
            resumed: true,
            armed: Armed::NOT,
            older: Link::NONE,
            newer: Link::NONE,
        }
    }

    pub(super) fn absorb(
        &mut self,
        now: Now,
        digest: Digest,
        places: &[Place],
        spans: &[u32],
        parents: &[u32],
    ) {
        self.moments.set_last_span(now.instant);
        if digest.has_root && self.moments.root_at().is_none() {
            self.moments.set_root(now.instant);
        }
        let before = self.digest();
        self.lists
            .absorb((places, digest.span_count), (spans, parents), before.span_count);
        self.digest = before.merge(digest).into();
    }

    /// Takes in what another log holds of this trace.
    pub(super) fn merge(&mut self, other: Trace) {
        let (before, digest) = (self.digest(), other.digest());
        self.moments = self.moments.merge(other.moments);
        self.resumed |= other.resumed;
        let other = other.lists.into_unpacked();
        assert!(other.shares.is_empty(), "a log is a fragment by itself");
        self.lists.change(|lists| {
            lists.structure.merge(&other.structure);
            lists.absorb_places(&other.places, digest.span_count, before.span_count);
        });
        self.digest = before.merge(digest).into();
    }

    /// `false`: no spans of it are at `old`.
    pub(super) fn move_place(&mut self, old: Place, new: Place) -> bool {
        self.lists.move_place(old, new)
    }

    /// After a replay the wait begins anew: it is not the trace's fault that the process was away.
    pub(super) fn resume(&mut self, now: Now) {
        self.resumed = true;
        self.moments.set_last_span(now.instant);
    }

    /// What people are told of it once it is decided.
    pub fn decided(&self, now: Now, decision: Decision) -> DecidedTrace {
        let wall_of = |instant: Instant| {
            let ago = now.instant.since(instant).as_nanos() as u64;
            WallTime(now.wall.0.saturating_sub(ago))
        };
        DecidedTrace {
            trace: self.id,
            decision,
            digest: self.digest(),
            first_seen: wall_of(self.opened_at()),
            last_seen: wall_of(self.last_span_at()),
            decided_at: now.wall,
            late_spans: 0,
            late: Digest::EMPTY,
            quotas: QuotaAnswers::NONE,
            is_replayed: false,
            places: self.places().take(PLACES_REMEMBERED).collect(),
        }
    }

    /// One for each log that holds spans of it.
    pub fn into_settlements(self, decision: Decision, late: bool) -> impl Iterator<Item = Settlement> {
        let (trace, span_count) = (self.id, self.digest().span_count);
        let shares: Shares = self.shares().collect();
        let places: Places = self.places().collect();
        let part = move |span_count, places| Settlement {
            trace,
            decision,
            late,
            span_count,
            places,
        };
        let (whole, places) = match shares.is_empty() {
            true => (Some(part(span_count, places)), Places::new()),
            false => (None, places),
        };
        let parts = shares.into_iter().map(move |(log, span_count)| {
            let here = places.iter().copied().filter(|place| place.log() == log);
            part(span_count, here.collect())
        });
        whole.into_iter().chain(parts)
    }

    pub(super) fn structure(&self) -> Structure {
        self.lists.structure()
    }

    /// Spans by log, while they are in several.
    pub(super) fn shares(&self) -> impl Iterator<Item = (LogId, u32)> {
        self.lists.shares()
    }

    pub fn id(&self) -> TraceId {
        self.id
    }

    #[inline]
    pub fn digest(&self) -> Digest {
        self.digest.into()
    }

    pub fn opened_at(&self) -> Instant {
        self.moments.opened_at()
    }

    pub fn last_span_at(&self) -> Instant {
        self.moments.last_span_at()
    }

    /// It is closed: nobody will ask for its structure any more.
    pub(super) fn forget_structure(&mut self) {
        self.lists.change(|lists| lists.structure = Structure::given_up());
    }

    pub fn places(&self) -> impl Iterator<Item = Place> {
        self.lists.places()
    }

    pub fn has_place(&self, place: Place) -> bool {
        self.lists.has_place(place)
    }

    /// Root seen and every parent resolved, as far as anyone has looked.
    pub fn is_whole(&self) -> bool {
        self.digest().has_root && self.lists.unresolved().is_none_or(|count| count == 0)
    }

    /// What completion goes by.
    pub fn progress(&self) -> Progress {
        Progress {
            opened_at: self.opened_at(),
            last_span_at: self.last_span_at(),
            root_at: self.moments.root_at(),
            parents_unresolved: self.lists.unresolved(),
            distinct_spans: self.lists.distinct(),
            resumed_at: self.resumed.then_some(self.last_span_at()),
        }
    }

    /// Asks for what its settlement needs outside the table's slot.
    #[inline]
    pub(super) fn prefetch_lists(&self) {
        self.lists.prefetch();
    }

    /// Bytes outside the table's slot.
    pub(super) fn heap_bytes(&self) -> u64 {
        self.lists.heap_bytes() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Table, TableOptions};
    use super::*;
    use crate::base::ids::Position;
    use crate::completion::CompletionOptions;
    use crate::route::HashKey;
    use std::time::Duration;

    const KEY: HashKey = HashKey([0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908]);
    /// As many in each part of the index as of a million traces on two cores in sixteen times as many.
    const TRACE_COUNT: u64 = 46_672;

    /// Bytes of an allocation as glibc has them: 8 beside it, in steps of 16, and 32 at least. Up to 128 bytes mimalloc has
    /// no more.
    fn allocated(bytes: u64) -> u64 {
        match bytes {
            0 => 0,
            _ => (bytes + 8).next_multiple_of(16).max(32),
        }
    }

    /// What each of many open traces costs that came in such items, from logs in turn, one parent missing: slot, index,
    /// timer wheel and what it has on the heap.
    fn side_bytes(items: &[u32], log_count: u8) -> f64 {
        let completion = CompletionOptions {
            decision_wait: Duration::from_secs(30),
            after_root: None,
            structural: true,
            quiet: Duration::from_secs(10),
            spans_max: 0,
            bytes_max: 0,
            use_expected_count: false,
        };
        let options = TableOptions {
            completion,
            hash_key: KEY,
            state_bytes_max: u64::MAX,
            kept_count_max: 16,
            decided_count_max: 16,
        };
        let mut table = Table::new(options, Now::default());
        let empty = table.state_bytes();
        let mut rounding = 0;
        for number in 1..=TRACE_COUNT {
            let id = TraceId::new(&u128::from(number).to_be_bytes()).expect("not zero");
            let mut trace = Trace::new(id, Now::default(), true);
            let mut first = 1;
            for (item, span_count) in items.iter().enumerate() {
                let log = LogId(item as u8 % log_count);
                let place = Place::new(log, Position(Place::ENTRY_ALIGN * number), item as u16);
                let spans: Vec<u32> = (first..first + span_count).collect();
                first += span_count;
                let digest = Digest {
                    span_count: *span_count,
                    ..Digest::EMPTY
                };
                trace.absorb(Now::default(), digest, &[place], &spans, &[u32::MAX]);
            }
            rounding += allocated(trace.heap_bytes()) - trace.heap_bytes();
            table.insert(Now::default(), KEY.trace(&id), trace);
        }
        (table.state_bytes() - empty + rounding) as f64 / TRACE_COUNT as f64
    }

    #[test]
    fn an_open_trace_costs_at_most_172_bytes_with_one_span_and_256_with_eight() {
        let check = |items: &[u32], log_count| {
            let spans: u32 = items.iter().sum();
            let (costs, may_cost) = (side_bytes(items, log_count), f64::from(12 * spans + 160));
            assert!(
                costs <= may_cost,
                "{items:?} from {log_count} logs: {costs} of {may_cost}"
            );
        };
        check(&[1], 1);
        check(&[8], 1);
        check(&[4, 4], 1);
        check(&[3, 3, 2], 1);
        check(&[3, 3, 2], 2);
        // What holds for others: 12 bytes a span and 160 a trace.
        check(&[2], 1);
        check(&[5], 1);
        check(&[4, 3], 2);
        check(&[3; 4], 2);
        check(&[4; 16], 2);
        check(&[100; 3], 2);
    }
}
