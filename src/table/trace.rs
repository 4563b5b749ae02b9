//! One open trace: its digest, its places, and how near it is to being complete.

use crate::base::ids::{Place, TraceId};
use crate::base::monoid::Monoid;
use crate::base::slab::{Key, Slab};
use crate::base::time::{Instant, Now};
use crate::completion::Progress;
use crate::completion::structure::Structure;
use crate::digest::Digest;
use crate::route::Places;

const NO_ROOT: Instant = Instant(u64::MAX);

// What a million pending traces cost: BENCHMARKS.md says how much else.
const _: () = assert!(Slab::<Trace>::SLOT_BYTES <= 208);

/// State of an open trace on its owner.
///
/// Invariant: `digest` is the merge of all items absorbed, `places` their places in order of arrival.
#[derive(Debug)]
pub struct Trace {
    id: TraceId,
    digest: Digest,
    opened_at: Instant,
    last_span_at: Instant,
    /// When the first span without parent came; [`NO_ROOT`] until then.
    root_at: Instant,
    resumed: bool,
    structure: Structure,
    places: Places,
    /// Neighbours in the table's list of traces by opening.
    pub(super) older: Option<Key>,
    pub(super) newer: Option<Key>,
}

impl Trace {
    pub(super) fn new(id: TraceId, now: Now, structural: bool) -> Trace {
        Trace {
            id,
            digest: Digest::EMPTY,
            opened_at: now.instant,
            last_span_at: now.instant,
            root_at: NO_ROOT,
            resumed: false,
            structure: if structural {
                Structure::default()
            } else {
                Structure::given_up()
            },
            places: Places::new(),
            older: None,
            newer: None,
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
        if digest.has_root && self.root_at == NO_ROOT {
            self.root_at = now.instant;
        }
        self.digest = self.digest.merge(digest);
        self.last_span_at = now.instant;
        self.structure.absorb(spans, parents);
        self.places.extend_from_slice(places);
    }

    /// After a replay the wait begins anew: it is not the trace's fault that the process was away.
    pub(super) fn resume(&mut self, now: Now) {
        self.resumed = true;
        self.last_span_at = now.instant;
    }

    pub(super) fn into_places(self) -> Places {
        self.places
    }

    pub fn id(&self) -> TraceId {
        self.id
    }

    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    pub fn opened_at(&self) -> Instant {
        self.opened_at
    }

    pub fn places(&self) -> impl Iterator<Item = Place> {
        self.places.iter().copied()
    }

    /// Root seen and every parent resolved, as far as anyone has looked.
    pub fn is_whole(&self) -> bool {
        self.digest.has_root && self.structure.unresolved().is_none_or(|count| count == 0)
    }

    /// What completion goes by.
    pub fn progress(&self) -> Progress {
        Progress {
            opened_at: self.opened_at,
            last_span_at: self.last_span_at,
            root_at: (self.root_at != NO_ROOT).then_some(self.root_at),
            parents_unresolved: self.structure.unresolved(),
            distinct_spans: self.structure.distinct(),
            resumed_at: self.resumed.then_some(self.last_span_at),
        }
    }

    /// Bytes outside the table's slot.
    pub(super) fn heap_bytes(&self) -> u64 {
        let place_bytes = match self.places.spilled() {
            true => self.places.capacity() * size_of::<Place>(),
            false => 0,
        };
        place_bytes as u64 + self.structure.heap_bytes() as u64
    }
}
