//! One open trace: its digest, its places, and how near it is to being complete.

use super::recent::{DecidedTrace, PLACES_REMEMBERED};
use crate::base::ids::{LogId, Place, TraceId};
use crate::base::monoid::Monoid;
use crate::base::slab::{Link, Slab};
use crate::base::time::{Instant, Now, WallTime};
use crate::base::wheel::Armed;
use crate::completion::Progress;
use crate::completion::structure::Structure;
use crate::digest::Digest;
use crate::policy::QuotaAnswers;
use crate::route::{Decision, Places, Settlement};

const NO_ROOT: Instant = Instant(u64::MAX);

// What a million pending traces cost: BENCHMARKS.md says how much else.
const _: () = assert!(Slab::<Trace>::SLOT_BYTES <= 200);

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
    /// In the table's wheel.
    pub(super) armed: Armed,
    structure: Structure,
    places: Places,
    /// Spans by log; `None` while all places are of one log.
    #[allow(
        clippy::box_collection,
        reason = "one word in the slot of a trace that has none"
    )]
    shares: Option<Box<Vec<(LogId, u32)>>>,
    /// Neighbours in the table's list of traces by opening.
    pub(super) older: Link,
    pub(super) newer: Link,
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
            armed: Armed::NOT,
            structure: if structural {
                Structure::default()
            } else {
                Structure::given_up()
            },
            places: Places::new(),
            shares: None,
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
            digest,
            opened_at,
            last_span_at: opened_at,
            root_at: root_at.unwrap_or(NO_ROOT),
            resumed: true,
            structure,
            places: Places::from_slice(places),
            shares: (!shares.is_empty()).then(|| Box::new(shares)),
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
        if digest.has_root && self.root_at == NO_ROOT {
            self.root_at = now.instant;
        }
        self.add_share(places, digest.span_count);
        self.digest = self.digest.merge(digest);
        self.last_span_at = now.instant;
        self.structure.absorb(spans, parents);
        self.places.extend_from_slice(places);
    }

    /// Takes in what another log holds of this trace.
    pub(super) fn merge(&mut self, other: Trace) {
        assert!(other.shares.is_none(), "a log is a fragment by itself");
        self.add_share(&other.places, other.digest.span_count);
        self.digest = self.digest.merge(other.digest);
        self.opened_at = self.opened_at.min(other.opened_at);
        self.last_span_at = self.last_span_at.max(other.last_span_at);
        self.root_at = self.root_at.min(other.root_at);
        self.resumed |= other.resumed;
        self.structure.merge(&other.structure);
        self.places.extend_from_slice(&other.places);
    }

    /// `false`: no spans of it are at `old`.
    pub(super) fn move_place(&mut self, old: Place, new: Place) -> bool {
        let place = self.places.iter_mut().find(|place| **place == old);
        place.map(|place| *place = new).is_some()
    }

    /// Counts spans that lie at `places`, before they are merged.
    fn add_share(&mut self, places: &[Place], span_count: u32) {
        let Some(log) = places.first().map(|place| place.log()) else {
            return;
        };
        if self.shares.is_none() {
            match self.places.first().map(|place| place.log()) {
                Some(known) if known != log => {
                    self.shares = Some(Box::new(vec![(known, self.digest.span_count)]));
                }
                Some(_) | None => return,
            }
        }
        let shares = self.shares.as_mut().expect("made above");
        match shares.iter_mut().find(|(known, _)| *known == log) {
            Some((_, count)) => *count += span_count,
            None => shares.push((log, span_count)),
        }
    }

    /// After a replay the wait begins anew: it is not the trace's fault that the process was away.
    pub(super) fn resume(&mut self, now: Now) {
        self.resumed = true;
        self.last_span_at = now.instant;
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
            digest: self.digest,
            first_seen: wall_of(self.opened_at),
            last_seen: wall_of(self.last_span_at),
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
        let Trace {
            id: trace,
            digest,
            places,
            shares,
            ..
        } = self;
        let part = move |span_count, places| Settlement {
            trace,
            decision,
            late,
            span_count,
            places,
        };
        let (whole, shares) = match shares {
            None => (Some(part(digest.span_count, places.clone())), Vec::new()),
            Some(shares) => (None, *shares),
        };
        let parts = shares.into_iter().map(move |(log, span_count)| {
            let here = places.iter().copied().filter(|place| place.log() == log);
            part(span_count, here.collect())
        });
        whole.into_iter().chain(parts)
    }

    pub(super) fn structure(&self) -> &Structure {
        &self.structure
    }

    /// Spans by log, while they are in several.
    pub(super) fn shares(&self) -> impl Iterator<Item = (LogId, u32)> {
        self.shares.iter().flat_map(|shares| shares.iter().copied())
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

    pub fn last_span_at(&self) -> Instant {
        self.last_span_at
    }

    /// It is closed: nobody will ask for its structure any more.
    pub(super) fn forget_structure(&mut self) {
        self.structure = Structure::given_up();
    }

    pub fn places(&self) -> impl Iterator<Item = Place> {
        self.places.iter().copied()
    }

    pub fn has_place(&self, place: Place) -> bool {
        self.places.contains(&place)
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
        let share_bytes = self
            .shares
            .as_ref()
            .map_or(0, |shares| shares.capacity() * size_of::<(LogId, u32)>());
        (place_bytes + share_bytes + self.structure.heap_bytes()) as u64
    }
}
