//! Finding a trace in a log: its places by the index, and what is done with them.
//!
//! ```text
//!  asked ─→ contents of passed-over segments ─→ buckets ─→ entries: is it there? ─→ Keep:    copied like a verdict
//!              (read once per start)                                               ├─ Digest:  folded again
//!                                                                                  └─ Places:  named
//! ```
//!
//! Keep upgrades a dropped trace: its spans are counted again, held (W3), copied to the kept log like those of any kept
//! trace, and the answer is given when the copies are durable. What the landing core has told the owner of and has had
//! no verdict for is not part of it (`before`): the owner has risen its verdict, so these follow as late spans. Of a run
//! and the copy that was made of it while the trace was open, the copy counts.

use super::index::read_bucket;
use super::replay::place_of;
use super::settle::{Found, KeepJob, find_payload, read_op};
use super::{Fetcher, Landing};
use crate::base::block::BlockPool;
use crate::base::ids::{CoreId, LogId, Place, Position, SpanId, TraceId};
use crate::base::monoid::Monoid;
use crate::digest::Digest;
use crate::otlp::payload::{Spans, SpansPayload};
use crate::otlp::view::{self, SpanView};
use crate::policy::PolicySet;
use crate::route::{Decision, Places};
use crate::stats::Stats;
use crate::verdict::Verdict;
use crate::wal::Log;
use hashbrown::HashSet;
use std::collections::VecDeque;

/// Searches that go on side by side; the others wait.
const ACTIVE_COUNT_MAX: usize = 4;
/// Entries and buckets that one search looks at in one turn.
const TURN_COUNT_MAX: usize = 32;
/// Reads asked for ahead of the one that is waited for.
const LOOK_AHEAD_COUNT: usize = 6;

/// Names a search to whoever asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SearchId {
    pub asker: CoreId,
    pub number: u64,
}

/// What is to become of the spans that are found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Wanted {
    /// Export them all with this decision.
    Keep(Decision),
    /// Fold them again.
    Digest,
    /// Fold them again, and say where they are.
    Places,
    /// Look for nothing: answer when all that was appended so far is durable.
    Durability,
}

/// What a search came to in one log, or in all logs of a core.
#[derive(Clone, Debug, PartialEq)]
pub struct Searched {
    pub id: SearchId,
    pub span_count: u64,
    /// Of these spans, if it was asked for.
    pub digest: Digest,
    /// If they were asked for.
    pub places: Places,
}

#[derive(Debug)]
struct Search {
    id: SearchId,
    trace: TraceId,
    hash: u64,
    wanted: Wanted,
    /// Entries from here on do not count.
    before: Position,
    /// What is to be read, once the index is known whole.
    plan: Option<Plan>,
    found: Searched,
}

#[derive(Debug, Default)]
struct Plan {
    /// Newest last.
    buckets: Vec<Position>,
    /// Entries to be looked at; each is held.
    candidates: Vec<Position>,
    /// What was found; its entries are held.
    runs: Vec<FoundRun>,
}

/// The spans of the trace in one entry.
#[derive(Debug)]
struct FoundRun {
    place: Place,
    /// The place of which this is a copy, made while the trace was open.
    copy_of: Option<Place>,
    span_count: u32,
    digest: Digest,
}

#[derive(Debug, Default)]
pub(super) struct Searches {
    active: VecDeque<Search>,
    done: VecDeque<Searched>,
    /// Upgrades whose copies end there in the kept log.
    copied: VecDeque<(Position, Searched)>,
}

enum Step {
    Done,
    Waiting,
    /// Enough for one turn.
    More,
}

impl<P: BlockPool, W> Landing<P, W> {
    /// Looks for the spans of a trace at positions before `before`.
    pub fn begin_search(&mut self, id: SearchId, trace: TraceId, wanted: Wanted, before: Position) {
        // Who asks so has the wish in his log by now.
        if matches!(wanted, Wanted::Keep(_) | Wanted::Durability) {
            self.forget_resumed(trace);
        }
        self.searches.active.push_back(Search {
            id,
            trace,
            hash: self.options.hash_key.trace(&trace),
            wanted,
            before,
            plan: None,
            found: Searched {
                id,
                span_count: 0,
                digest: Digest::EMPTY,
                places: Places::new(),
            },
        });
    }

    pub fn poll_searched(&mut self) -> Option<Searched> {
        self.searches.done.pop_front()
    }

    /// `true`: there is more for another turn.
    pub(super) fn advance_searches(&mut self, policies: &PolicySet, stats: &mut Stats) -> bool {
        let mut more = false;
        let mut number = 0;
        while number < self.searches.active.len().min(ACTIVE_COUNT_MAX) {
            let mut search = std::mem::take(&mut self.searches.active);
            let step = self.step(&mut search[number], policies);
            let over = matches!(step, Step::Done)
                .then(|| search.remove(number))
                .flatten();
            self.searches.active = search;
            more |= matches!(step, Step::More);
            match over {
                Some(search) => self.end_search(search, stats),
                None => number += 1,
            }
        }
        more
    }

    fn step(&mut self, search: &mut Search, policies: &PolicySet) -> Step {
        if search.wanted == Wanted::Durability {
            return match self.log.durable() >= search.before {
                true => Step::Done,
                false => Step::Waiting,
            };
        }
        if search.plan.is_none() {
            if !self.index.read_older(&self.log, &mut self.fetcher) {
                return Step::Waiting;
            }
            let mut plan = Plan {
                buckets: self.index.written(search.hash).collect(),
                ..Plan::default()
            };
            let noted: Vec<Position> = self.index.noted(search.hash).collect();
            self.add_candidates(&mut plan, noted);
            search.plan = Some(plan);
        }
        let plan = search.plan.as_mut().expect("made above");
        for _ in 0..TURN_COUNT_MAX {
            if let Some(bucket) = plan.buckets.last().copied() {
                let entries = match find_payload(&self.log, &mut self.fetcher, bucket) {
                    Found::Waiting => {
                        look_ahead(&self.log, &mut self.fetcher, &plan.buckets);
                        return Step::Waiting;
                    }
                    // It has left the log, and what it covers went before it; or the disk has lost it.
                    Found::Lost => Vec::new(),
                    Found::Here(payload) => read_bucket(payload, search.hash).unwrap_or_default(),
                };
                plan.buckets.pop();
                self.add_candidates(plan, entries);
                continue;
            }
            let Some(candidate) = plan.candidates.last().copied() else {
                return Step::Done;
            };
            let found = match find_payload(&self.log, &mut self.fetcher, candidate) {
                Found::Waiting => {
                    look_ahead(&self.log, &mut self.fetcher, &plan.candidates);
                    return Step::Waiting;
                }
                Found::Lost => None,
                Found::Here(payload) => {
                    let entry = (self.options.log, candidate);
                    look_at(entry, payload, search.trace, search.wanted, policies)
                }
            };
            plan.candidates.pop();
            match found {
                // The owner has been told of what a copy was made of.
                Some(run) if candidate < search.before || run.copy_of.is_some() => plan.runs.push(run),
                Some(_) | None => self.log.release(candidate, 1),
            }
        }
        Step::More
    }

    /// Holds those that are in the log.
    fn add_candidates(&mut self, plan: &mut Plan, entries: Vec<Position>) {
        for entry in entries {
            let is_there = entry >= self.log.durable() || self.log.has(entry);
            if entry < self.tail && is_there {
                self.log.hold(entry, 1);
                plan.candidates.push(entry);
            }
        }
    }

    fn end_search(&mut self, search: Search, stats: &mut Stats) {
        let Search {
            id,
            trace,
            wanted,
            plan,
            mut found,
            ..
        } = search;
        let runs = plan.unwrap_or_default().runs;
        let copied: HashSet<Place> = runs.iter().filter_map(|run| run.copy_of).collect();
        let mut places = Places::new();
        for run in runs {
            if copied.contains(&run.place) {
                self.log.release(run.place.entry(), 1);
                continue;
            }
            found.span_count += u64::from(run.span_count);
            found.digest = found.digest.merge(run.digest);
            places.push(run.place);
        }
        places.sort_unstable();
        if let Wanted::Keep(decision) = wanted
            && !places.is_empty()
        {
            stats.spans.upgraded += found.span_count;
            stats.spans.decided[Verdict::Keep as usize] += found.span_count;
            let span_count = found.span_count.min(u64::from(u32::MAX)) as u32;
            let durable_at = self.tail;
            let job = KeepJob::upgrade(id, trace, decision, places, span_count, durable_at);
            self.keeps.push_back(job);
            return;
        }
        for place in &places {
            self.log.release(place.entry(), 1);
        }
        if wanted == Wanted::Places {
            found.places = places;
        }
        self.searches.done.push_back(found);
    }

    /// The copies of an upgraded trace end at `end` of the kept log.
    pub(super) fn upgrade_is_copied(&mut self, end: Position, id: SearchId, span_count: u64) {
        let searched = Searched {
            id,
            span_count,
            digest: Digest::EMPTY,
            places: Places::new(),
        };
        self.searches.copied.push_back((end, searched));
    }

    /// Everything before `safe` of the kept log is durable or has reached every destination.
    pub(super) fn answer_upgrades(&mut self, safe: Position) {
        while self.searches.copied.front().is_some_and(|(end, _)| *end <= safe) {
            let (_, searched) = self.searches.copied.pop_front().expect("just seen");
            self.searches.done.push_back(searched);
        }
    }

    pub(super) fn is_searching(&self) -> bool {
        let Searches { active, done, copied } = &self.searches;
        !active.is_empty() || !done.is_empty() || !copied.is_empty()
    }
}

/// Asks for what will be waited for next; the last is waited for already.
fn look_ahead<P: BlockPool>(log: &Log<P>, fetcher: &mut Fetcher, positions: &[Position]) {
    for position in positions.iter().rev().skip(1).take(LOOK_AHEAD_COUNT) {
        if log.resident(*position).is_none()
            && let Some(op) = read_op(log, *position)
        {
            fetcher.fetch(op);
        }
    }
}

/// The run of the trace in an entry, and if wanted its digest.
fn look_at(
    (log, entry): (LogId, Position),
    payload: &[u8],
    trace: TraceId,
    wanted: Wanted,
    policies: &PolicySet,
) -> Option<FoundRun> {
    let payload = SpansPayload::parse(payload).ok()?;
    let (number, (run, spans)) = payload
        .runs()
        .enumerate()
        .find(|(_, (run, _))| run.trace == trace)?;
    let digest = match wanted {
        Wanted::Digest | Wanted::Places => fold(payload, spans, policies)?,
        Wanted::Keep(_) | Wanted::Durability => Digest::EMPTY,
    };
    let replaced = payload.replaces(number as u16);
    Some(FoundRun {
        place: Place::new(log, entry, number as u16),
        copy_of: replaced.and_then(|(old, run)| place_of(log, old, run)),
        span_count: run.span_count,
        digest,
    })
}

fn fold(payload: SpansPayload<'_>, spans: Spans<'_>, policies: &PolicySet) -> Option<Digest> {
    let mut digest = Digest::EMPTY;
    let mut matched = None;
    for span in spans {
        let resource = payload.resource_of(span.scope)?;
        let resource_match = match matched {
            Some((known, resource_match)) if known == resource => resource_match,
            _ => {
                let part = payload.resources().nth(usize::from(resource))?;
                policies.match_resource(view::resource_attributes(part))
            }
        };
        matched = Some((resource, resource_match));
        let Ok(view) = SpanView::parse(span.bytes) else {
            continue;
        };
        if SpanId::new(view.span_id).is_some() {
            digest = digest.merge(policies.fold(&view, resource_match));
        }
    }
    Some(digest)
}
