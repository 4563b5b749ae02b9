//! A log folded again after a start: the ingest code without its effects (W4).
//!
//! ```text
//!  spans     → items → fragments (merge only); what was copied forward takes the place of what it replaces, if
//!              that was folded
//!  verdicts  → the fragment goes; a Keep becomes a job; the trace's owner is told
//!  copied    → the job has its copy in the kept log
//!  names, cursors → what numbers mean, how far destinations have come; jobs that all of them have passed go
//!  decided   → owners are told; the entries of segments that need no folding are read one by one
//! ```
//!
//! The log of landed spans comes first, then the kept log, of which only what some destination lacks is remembered.
//! So memory is bounded by what is pending and undelivered, not by what the log retains.
//!
//! What is left at the end is what was pending when the process ended: fragments without a verdict, which their
//! owners adopt, and Keeps whose copy neither reached every destination nor stands in the kept log. Those are
//! copied again; a span may so be exported twice, never not at all.
//!
//! Any core can fold any log: logs belong to the directory.

use super::decided::{Batch, Uncovered};
use super::index::Index;
use super::queue::Readers;
use super::record::{
    self, BY_HOME, CONTENTS, COPIED, CURSORS, CopiedRecord, DECIDED, DecidedRecord, EARLY, INDEX, KEPT,
    KeptRecord, NamesRecord, SPANS, UPGRADED, UPGRADES, UpgradedRecord, VERDICTS, VerdictRecord,
};
use super::settle::last_to_leave;
use super::{Asked, KeptEntry, LandingOptions};
use crate::base::ids::{LogId, Place, Position, SpanId, TraceId};
use crate::base::monoid::Monoid;
use crate::base::time::{Instant, Now, WallTime};
use crate::digest::Digest;
use crate::gossip::PeerDecision;
use crate::otlp::payload::SpansPayload;
use crate::otlp::view::{self, SpanView};
use crate::policy::{PolicySet, ResourceMatch};
use crate::route::{HashKey, Item, ItemBatch, PolicyNumber, Settlement};
use crate::table::{CompactDecision, FoundDecision, Fragments, Trace};
use crate::verdict::Verdict;
use crate::wal::recover::ReplayedEntry;
use crate::wal::{EntryKind, LogStart};
use hashbrown::{HashMap, HashSet};
use std::collections::BTreeMap;
use std::time::Duration;

/// The fold of one log, while it goes on.
pub struct Replay<'a> {
    log: LogId,
    hash_key: HashKey,
    policies: &'a PolicySet,
    /// What policy numbers mean in this process.
    names: &'a [String],
    fragments: Fragments,
    /// For the owners of their traces.
    found: Vec<FoundDecision>,
    now: Now,
    /// What policy numbers mean in the segment that is being replayed.
    segment_names: Vec<String>,
    jobs: HashMap<(TraceId, Place), Job>,
    job_count: usize,
    /// Jobs with a copy, by the end of it.
    copies: BTreeMap<(Position, TraceId), Place>,
    destinations: Vec<String>,
    cursors: HashMap<String, Position>,
    names_seen: bool,
    decided: DecidedChain,
    /// Not done for all that is known.
    upgrades: Vec<Asked>,
    index: Index,
    kept_position_max: Position,
    batch: ItemBatch,
    /// Entries whose payload no version of tailkeep wrote.
    malformed: u64,
    spans: u64,
}

struct Job {
    /// Order of verdicts.
    number: usize,
    settlement: Settlement,
    copy: Option<(Position, Position)>,
}

/// What a replay found besides decisions.
#[derive(Debug, Default)]
pub struct Replayed {
    /// For their owners to adopt.
    pub fragments: Vec<Trace>,
    cursors: HashMap<String, Position>,
    /// Who is not among `cursors` is new. Otherwise what would say so was damaged.
    pub knows_cursors: bool,
    /// Every destination has got what is before it.
    pub lowest_cursor: Position,
    pub decided: DecidedChain,
    /// Traces to be kept after all, of which some log may not have exported its part.
    pub upgrades: Vec<Asked>,
    pub(super) index: Index,
    /// Kept fragments, oldest verdict first, with their copies in the kept log.
    pub keeps: Vec<(Settlement, Option<(Position, Position)>)>,
    /// The kept log must go on beyond this: positions before it have had a meaning.
    pub kept_position_max: Position,
    pub spans: u64,
    pub malformed: u64,
}

impl<'a> Replay<'a> {
    /// `names` are those of [`LandingOptions::policy_names`]; `structural`: completion looks at parents;
    /// `destinations` are those of the configuration.
    pub fn new(
        log: LogId,
        hash_key: HashKey,
        policies: &'a PolicySet,
        names: &'a [String],
        structural: bool,
        destinations: Vec<String>,
        now: Now,
    ) -> Self {
        Replay {
            log,
            hash_key,
            policies,
            names,
            fragments: Fragments::new(structural),
            found: Vec::new(),
            now,
            segment_names: names.to_vec(),
            jobs: HashMap::new(),
            job_count: 0,
            copies: BTreeMap::new(),
            destinations,
            cursors: HashMap::new(),
            names_seen: false,
            decided: DecidedChain::default(),
            upgrades: Vec::new(),
            index: Index::default(),
            kept_position_max: Position::default(),
            batch: ItemBatch::default(),
            malformed: 0,
            spans: 0,
        }
    }

    /// Decisions that [`Replay::take_found`] would return.
    pub fn found_count(&self) -> usize {
        self.found.len()
    }

    /// Decisions found since the last call, for the owners of their traces.
    pub fn take_found(&mut self) -> Vec<FoundDecision> {
        std::mem::take(&mut self.found)
    }

    /// Folds one entry, in the order of the log.
    pub fn entry(&mut self, entry: &ReplayedEntry<'_>) {
        let folded = match entry.kind {
            SPANS => self.spans(entry),
            VERDICTS => self.verdicts(entry),
            EARLY | BY_HOME => self.announced(entry),
            COPIED => self.copied(entry.payload),
            CURSORS => record::read_cursors(entry.payload).map(|cursors| self.move_cursors(cursors)),
            DECIDED => self.decided(entry),
            UPGRADES => self.upgrades(entry),
            UPGRADED => self.upgraded(entry.payload),
            INDEX => Some(()),
            CONTENTS => self.index.contents_found(entry.position, entry.payload),
            EntryKind::NAMES => NamesRecord::read(entry.payload).map(|names| {
                self.segment_names = names.policies;
                self.index.names_found(names.contents);
                // A destination that is not among them any more begins anew when it comes back.
                self.cursors.clear();
                self.move_cursors(names.cursors);
                if !std::mem::replace(&mut self.names_seen, true) && self.decided.batches.is_empty() {
                    self.decided.older = names.decided;
                    self.decided.newest = names.decided;
                }
            }),
            _ => None,
        };
        self.malformed += u64::from(folded.is_none());
    }

    fn spans(&mut self, entry: &ReplayedEntry<'_>) -> Option<()> {
        let payload = SpansPayload::parse(entry.payload).ok()?;
        let now = moment(self.now, entry.arrived);
        let resources: Vec<ResourceMatch> = payload
            .resources()
            .map(|part| self.policies.match_resource(view::resource_attributes(part)))
            .collect();
        self.batch.clear();
        for (number, (run, spans)) in payload.runs().enumerate() {
            let place = Place::new(self.log, entry.position, number as u16);
            self.index.note(self.hash_key.trace(&run.trace), entry.position);
            if let Some((old, old_run)) = payload.replaces(number as u16)
                && let Some(old) = place_of(self.log, old, old_run)
                && self.fragments.move_place(&run.trace, old, place)
            {
                continue;
            }
            let mut digest = Digest::EMPTY;
            let spans_start = self.batch.fingerprints.len() as u32;
            let mut parents = Vec::new();
            for span in spans {
                let Ok(view) = SpanView::parse(span.bytes) else {
                    continue;
                };
                let resource = payload.resource_of(span.scope)?;
                digest = digest.merge(self.policies.fold(&view, resources[resource as usize]));
                if let Some(id) = SpanId::new(view.span_id) {
                    self.batch.fingerprints.push(self.hash_key.span(id.as_bytes()));
                }
                parents.extend(SpanId::new(view.parent_span_id).map(|id| self.hash_key.span(id.as_bytes())));
            }
            let parents_start = self.batch.fingerprints.len() as u32;
            self.batch.fingerprints.extend(parents);
            let places_start = self.batch.places.len() as u32;
            self.batch.places.push(place);
            self.spans += u64::from(digest.span_count);
            self.batch.items.push(Item {
                trace: run.trace,
                digest,
                places: places_start..places_start + 1,
                spans: spans_start..parents_start,
                parents: parents_start..self.batch.fingerprints.len() as u32,
            });
        }
        self.fragments.absorb(now, &self.batch);
        Some(())
    }

    fn verdicts(&mut self, entry: &ReplayedEntry<'_>) -> Option<()> {
        let now = moment(self.now, entry.arrived);
        for record in self.read_verdicts(entry.payload)? {
            // Late ones too: the verdict that they followed may have been lost with the end of another log.
            self.decided.uncovered.add(self.hash_key, &record);
            self.decided.uncovered.from.get_or_insert(entry.position);
            let VerdictRecord {
                trace,
                decision,
                late,
            } = record;
            let fragment = self.fragments.settle(&trace);
            self.found.push(FoundDecision::Verdict {
                trace,
                decision,
                late,
                seen: fragment.as_ref().map(|fragment| fragment.decided(now, decision)),
            });
            let kept = fragment.filter(|_| decision.verdict == Verdict::Keep);
            for settlement in kept
                .into_iter()
                .flat_map(|kept| kept.into_settlements(decision, late))
            {
                let last = last_to_leave(&settlement.places).expect("an item has places");
                self.job_count += 1;
                let job = Job {
                    number: self.job_count,
                    settlement,
                    copy: None,
                };
                self.jobs.insert((trace, last), job);
            }
        }
        Some(())
    }

    /// With the policy numbers of this process.
    fn read_verdicts(&self, payload: &[u8]) -> Option<Vec<VerdictRecord>> {
        let mut records = VerdictRecord::read_all(payload)?;
        for record in &mut records {
            record.decision.policy = match record.decision.policy {
                Some(number) => policy_number(self.names, self.segment_names.get(number.0 as usize)?),
                None => None,
            };
        }
        Some(records)
    }

    /// Settles nothing: its spans wait for the verdict entry that does.
    fn announced(&mut self, entry: &ReplayedEntry<'_>) -> Option<()> {
        let logged_at = moment(self.now, entry.arrived).wall;
        for record in self.read_verdicts(entry.payload)? {
            self.decided.uncovered.add(self.hash_key, &record);
            self.decided.uncovered.from.get_or_insert(entry.position);
            let keep = PeerDecision {
                trace: record.trace,
                decision: record.decision,
                by_home: entry.kind == BY_HOME,
            };
            self.found.push(FoundDecision::Announced { keep, logged_at });
        }
        Some(())
    }

    /// A decision about traces, not about what stands before it: that has its verdicts.
    fn upgrades(&mut self, entry: &ReplayedEntry<'_>) -> Option<()> {
        for record in self.read_verdicts(entry.payload)? {
            let VerdictRecord { trace, decision, .. } = record;
            self.decided.uncovered.add(self.hash_key, &record);
            self.decided.uncovered.from.get_or_insert(entry.position);
            self.found.push(FoundDecision::Verdict {
                trace,
                decision,
                late: false,
                seen: None,
            });
            let at = entry.position;
            self.upgrades.push(Asked { at, trace, decision });
        }
        Some(())
    }

    fn upgraded(&mut self, payload: &[u8]) -> Option<()> {
        for record in UpgradedRecord::read_all(payload)? {
            let is_it = |asked: &Asked| asked.at == record.asked_at && asked.trace == record.trace;
            self.upgrades.retain(|asked| !is_it(asked));
        }
        Some(())
    }

    fn decided(&mut self, entry: &ReplayedEntry<'_>) -> Option<()> {
        let record = DecidedRecord::read(entry.payload)?;
        if record.covers {
            self.decided.uncovered = Uncovered::default();
        }
        if self.decided.batches.is_empty() && !self.names_seen {
            self.decided.older = record.previous;
        }
        let count = remember(record, self.hash_key, self.names, &mut self.found);
        let position = entry.position;
        self.decided.batches.push(Batch { position, count });
        self.decided.newest = Some(position);
        Some(())
    }

    fn move_cursors(&mut self, cursors: record::Cursors) {
        self.cursors.extend(cursors);
        let lowest = self.lowest_cursor();
        while let Some(copy) = self.copies.first_entry().filter(|copy| copy.key().0 <= lowest) {
            let (_, trace) = *copy.key();
            let last = copy.remove();
            self.jobs.remove(&(trace, last));
        }
    }

    /// New destinations, of which the log knows nothing, are owed nothing that it speaks of. If it does not say who
    /// they are, because that was damaged, they are owed everything.
    fn lowest_cursor(&self) -> Position {
        let cursors = self.destinations.iter().filter_map(|id| self.cursors.get(id));
        let of_none = match self.knows_cursors() {
            true => Position(u64::MAX),
            false => Position(0),
        };
        cursors.min().copied().unwrap_or(of_none)
    }

    fn knows_cursors(&self) -> bool {
        self.names_seen || !self.cursors.is_empty()
    }

    fn copied(&mut self, payload: &[u8]) -> Option<()> {
        for record in CopiedRecord::read_all(payload)? {
            self.kept_position_max = self.kept_position_max.max(record.to);
            let last = place_of(self.log, record.entry, record.run)?;
            let lowest = self.lowest_cursor();
            let job = self.jobs.get_mut(&(record.trace, last));
            // The copy of a part: all of it is copied again.
            let Some(job) = job.filter(|job| record.is_whole(job.settlement.span_count)) else {
                continue;
            };
            if let Some((_, to)) = job.copy.take() {
                self.copies.remove(&(to, record.trace));
            }
            match record.copy() {
                // There was nothing to copy, or everyone has it.
                Some((from, to)) if from == to || to <= lowest => {
                    self.jobs.remove(&(record.trace, last));
                }
                Some((from, to)) => {
                    job.copy = Some((from, to));
                    self.copies.insert((to, record.trace), last);
                }
                None => {}
            }
        }
        Some(())
    }

    /// As [`Replay::finish`], where a checkpoint has what is open and nothing was being copied.
    pub fn finish_saved(self) -> Replayed {
        let mut replayed = self.finish();
        replayed.fragments.clear();
        replayed
    }

    pub fn finish(self) -> Replayed {
        let (lowest_cursor, knows_cursors) = (self.lowest_cursor(), self.knows_cursors());
        let mut jobs: Vec<Job> = self.jobs.into_values().collect();
        jobs.sort_by_key(|job| job.number);
        let cursor_max = self.cursors.values().copied().max().unwrap_or_default();
        Replayed {
            lowest_cursor,
            decided: self.decided,
            upgrades: self.upgrades,
            index: self.index,
            fragments: self.fragments.into_traces().collect(),
            knows_cursors,
            cursors: self.cursors,
            keeps: jobs.into_iter().map(|job| (job.settlement, job.copy)).collect(),
            kept_position_max: self.kept_position_max.max(cursor_max),
            spans: self.spans,
            malformed: self.malformed,
        }
    }
}

/// The decided entries of a log, from the newest one back.
#[derive(Debug, Default)]
pub struct DecidedChain {
    /// In the order of the log.
    batches: Vec<Batch>,
    newest: Option<Position>,
    /// The next one to read: it lies before what was folded.
    older: Option<Position>,
    uncovered: Uncovered,
}

impl DecidedChain {
    /// Of the next decided entry that is wanted, for [`Replayed::read_decided`].
    pub fn poll_older(&self) -> Option<Position> {
        self.older
    }

    /// For [`super::Landing::resume_decided`].
    pub fn into_parts(self) -> (Vec<Batch>, Option<Position>, Uncovered) {
        (self.batches, self.newest, self.uncovered)
    }
}

impl Replayed {
    /// Where in the kept log a destination goes on: a new one at its tail, and at its beginning if it is not known who
    /// is new. Then some traces come out twice; nothing that is owed is passed over.
    pub fn cursor(&self, destination: &str, kept: &LogStart) -> Position {
        let begin = kept.segments.first().map(|segment| segment.base);
        let of_unknown = match self.knows_cursors {
            true => kept.next_position,
            false => begin.unwrap_or(kept.next_position),
        };
        self.cursors.get(destination).copied().unwrap_or(of_unknown)
    }

    /// The payload of the decided entry at `position`; `None` if it has left the log, and all before it. Returned
    /// is what the owners are to be told.
    pub fn read_decided(
        &mut self,
        position: Position,
        payload: Option<&[u8]>,
        hash_key: HashKey,
        names: &[String],
    ) -> Vec<FoundDecision> {
        let mut found = Vec::new();
        let chain = &mut self.decided;
        chain.older = None;
        let Some(record) = payload.and_then(DecidedRecord::read) else {
            return found;
        };
        // An entry names an older one, so this ends.
        chain.older = record.previous.filter(|previous| *previous < position);
        let count = remember(record, hash_key, names, &mut found);
        chain.batches.insert(0, Batch { position, count });
        found
    }
}

/// When an entry arrived, on the clocks of this process.
fn moment(now: Now, arrived: WallTime) -> Now {
    let ago = Duration::from_nanos(now.wall.0.saturating_sub(arrived.0));
    let instant = Instant(now.instant.0.saturating_sub(ago.as_nanos() as u64));
    Now {
        instant,
        wall: arrived.min(now.wall),
    }
}

/// `None`: there can be no such place.
pub(super) fn place_of(log: LogId, entry: Position, run: u16) -> Option<Place> {
    let aligned = entry.0.is_multiple_of(Place::ENTRY_ALIGN) && entry.0 < crate::wal::POSITION_MAX;
    (aligned && usize::from(run) < Place::RUN_COUNT_MAX).then(|| Place::new(log, entry, run))
}

/// Returns how many decisions the record has.
fn remember(
    record: DecidedRecord,
    hash_key: HashKey,
    names: &[String],
    found: &mut Vec<FoundDecision>,
) -> usize {
    let count = record.dropped.len() + record.kept.len();
    found.extend(record.dropped.into_iter().map(FoundDecision::CarriedDrop));
    for VerdictRecord {
        trace, mut decision, ..
    } in record.kept
    {
        let name = decision.policy.map(|number| &record.policies[number.0 as usize]);
        decision.policy = name.and_then(|name| policy_number(names, name));
        found.push(FoundDecision::CarriedKeep {
            decided_at: record.decided_at,
            compact: CompactDecision::new(hash_key.trace(&trace), &decision),
            trace,
            decision,
        });
    }
    count
}

/// `None`: a policy that the directory has forgotten.
fn policy_number(names: &[String], name: &str) -> Option<PolicyNumber> {
    let known = names.iter().position(|known| known == name);
    known.map(|number| PolicyNumber(number as u16))
}

/// The fold of the kept log: what some destination has not got, and which copies stand whole.
#[derive(Debug, Default)]
pub struct KeptReplay {
    lowest_cursor: Position,
    /// Whose copy should end where.
    wanted: HashMap<Position, TraceId>,
    whole: HashSet<Position>,
    entries: Vec<KeptEntry>,
    /// What policy numbers mean in the segment that is being replayed.
    segment_names: Vec<String>,
    pub malformed: u64,
}

impl KeptReplay {
    pub fn new(replayed: &Replayed) -> KeptReplay {
        let copies = replayed.keeps.iter().filter_map(|(settlement, copy)| {
            let (_, to) = (*copy)?;
            Some((to, settlement.trace))
        });
        KeptReplay {
            lowest_cursor: replayed.lowest_cursor,
            wanted: copies.collect(),
            ..KeptReplay::default()
        }
    }

    /// `names` are those of [`LandingOptions::policy_names`].
    pub fn entry(&mut self, entry: &ReplayedEntry<'_>, names: &[String], now: Now) {
        if entry.kind == EntryKind::NAMES {
            match NamesRecord::read(entry.payload) {
                Some(record) => self.segment_names = record.policies,
                None => self.malformed += 1,
            }
        }
        if entry.kind != KEPT {
            return;
        }
        let Some(kept) = KeptRecord::read(entry.payload) else {
            self.malformed += 1;
            return;
        };
        let end = entry
            .position
            .plus((crate::wal::entry::HEADER_BYTES + entry.payload.len()) as u64)
            .align_up(Place::ENTRY_ALIGN);
        if end <= self.lowest_cursor {
            return;
        }
        // The kept log loses its end, not its middle: with the last piece of a copy the others are there.
        if self.wanted.get(&end) == Some(&kept.trace) {
            self.whole.insert(end);
        }
        self.entries.push(KeptEntry {
            trace: kept.trace,
            position: entry.position,
            end,
            framed_len: kept.framed.len() as u32,
            span_count: kept.span_count,
            policy: kept
                .policy
                .and_then(|number| policy_number(names, self.segment_names.get(number.0 as usize)?)),
            readers: Readers::default(),
            kept_at: moment(now, entry.arrived).instant,
            needs: Position(0),
        });
    }

    /// No destination lacks anything.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What the kept log has of what the log says that it has.
    pub fn reconcile(self, replayed: &mut Replayed) -> Reconciled {
        let mut reconciled = Reconciled {
            entries: self.entries,
            again: Vec::new(),
            has_lost: false,
        };
        for (settlement, copy) in std::mem::take(&mut replayed.keeps) {
            let is_whole = copy.is_some_and(|(_, to)| self.whole.contains(&to));
            if !is_whole {
                reconciled.again.push(settlement);
                reconciled.has_lost |= copy.is_some();
            }
        }
        reconciled
    }
}

/// What a start has to deliver, and to copy before that.
pub struct Reconciled {
    /// Some destination has not got them.
    pub entries: Vec<KeptEntry>,
    /// Kept fragments that must be copied, oldest verdict first.
    pub again: Vec<Settlement>,
    /// Some of them had been copied, and the kept log does not have it.
    pub has_lost: bool,
}

impl LandingOptions {
    /// The numbers that decisions of the table carry are those of the configuration's policies.
    pub fn assert_names(&self, policies: &PolicySet) {
        let mut names = self.policy_names.iter();
        let same = policies
            .policies()
            .iter()
            .all(|policy| names.next() == Some(&policy.name));
        assert!(same, "policy names begin with those of the configuration");
    }
}
