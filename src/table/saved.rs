//! An open trace outside the process: what a checkpoint has of it.
//!
//! Moments are wall time, because the monotonic clock begins anew with each process.

use super::Table;
use super::trace::Trace;
use crate::base::ids::{LogId, Place, Position, TraceId};
use crate::base::monoid::Monoid;
use crate::base::time::{Instant, Now, WallTime};
use crate::digest::{Digest, PredicateSet, RandomnessSeen};
use rkyv::{Archive, Deserialize, Serialize};

/// One open trace.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct SavedTrace {
    pub id: [u8; 16],
    pub predicates: u128,
    pub start_ns: u64,
    pub end_ns: u64,
    pub bytes: u64,
    pub randomness: Option<u64>,
    pub span_count: u32,
    pub expected_count: u32,
    pub has_root: bool,
    pub has_error: bool,
    /// Wall time.
    pub opened_at: u64,
    pub root_at: Option<u64>,
    /// Fingerprints of spans, and of parents that are missing.
    pub spans: Vec<u32>,
    pub parents: Vec<u32>,
    /// The check of parents was given up at so many spans.
    pub given_up: Option<u32>,
    /// Log, position of the entry, run.
    pub places: Vec<(u8, u64, u16)>,
    /// Spans by log; empty while all are in one.
    pub shares: Vec<(u8, u32)>,
}

impl Table {
    /// Everything that is open.
    pub fn saved(&self, now: Now) -> impl Iterator<Item = SavedTrace> {
        self.traces.iter().map(move |(_, trace)| trace.save(now))
    }
}

impl Trace {
    fn save(&self, now: Now) -> SavedTrace {
        let wall = |instant: Instant| {
            let ago = now.instant.since(instant).as_nanos() as u64;
            now.wall.0.saturating_sub(ago)
        };
        let digest = self.digest();
        let structure = self.structure();
        let (spans, parents, given_up) = structure.parts();
        let place = |place: Place| (place.log().0, place.entry().0, place.run());
        SavedTrace {
            id: *self.id().as_bytes(),
            predicates: digest.predicates.bits(),
            start_ns: digest.start_ns,
            end_ns: digest.end_ns,
            bytes: digest.bytes,
            randomness: digest.randomness.ranked(),
            span_count: digest.span_count,
            expected_count: digest.expected_count,
            has_root: digest.has_root,
            has_error: digest.has_error,
            opened_at: wall(self.opened_at()),
            root_at: self.progress().root_at.map(wall),
            spans: spans.to_vec(),
            parents: parents.to_vec(),
            given_up,
            places: self.places().map(place).collect(),
            shares: self.shares().map(|(log, count)| (log.0, count)).collect(),
        }
    }

    /// `None`: no version saved it.
    pub fn restore(now: Now, saved: &SavedTrace) -> Option<Trace> {
        let instant = |wall: u64| {
            let ago = now.wall.0.saturating_sub(WallTime(wall).0);
            Instant(now.instant.0.saturating_sub(ago))
        };
        let randomness = match saved.randomness {
            None => Digest::EMPTY.randomness,
            Some(ranked) => RandomnessSeen::from_ranked(ranked)?,
        };
        let digest = Digest {
            predicates: PredicateSet::from_bits(saved.predicates),
            start_ns: saved.start_ns,
            end_ns: saved.end_ns,
            bytes: saved.bytes,
            randomness,
            span_count: saved.span_count,
            expected_count: saved.expected_count,
            has_root: saved.has_root,
            has_error: saved.has_error,
        };
        let place = |(log, entry, run): &(u8, u64, u16)| {
            let is_place = entry.is_multiple_of(Place::ENTRY_ALIGN)
                && *entry < crate::wal::POSITION_MAX
                && usize::from(*run) < Place::RUN_COUNT_MAX;
            is_place.then(|| Place::new(LogId(*log), Position(*entry), *run))
        };
        let structure =
            crate::completion::structure::Structure::of(&saved.spans, &saved.parents, saved.given_up);
        let places = saved.places.iter().map(place).collect::<Option<Vec<_>>>()?;
        if places.is_empty() {
            return None;
        }
        let shares = saved.shares.iter().map(|(log, count)| (LogId(*log), *count));
        let opened_at = instant(saved.opened_at);
        let root_at = saved.root_at.map(instant);
        let id = TraceId::new(&saved.id)?;
        Some(Trace::whole(
            id,
            digest,
            (opened_at, root_at),
            structure,
            &places,
            shares.collect(),
        ))
    }
}
