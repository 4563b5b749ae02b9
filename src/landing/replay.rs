//! A log folded again after a start: the ingest code without its effects (W4).
//!
//! ```text
//!  spans     → items → table (merge only)
//!  verdicts  → table gives up the trace's places; a Keep becomes a job
//!  copied    → the job has its copy in the kept log
//!  names, cursors → what numbers mean, how far destinations have come
//! ```
//!
//! What is left at the end is what was pending when the process ended: open traces in the table, and Keeps
//! whose copy neither reached every destination nor stands in the kept log. Those are copied again; a span may
//! so be exported twice, never not at all.

use super::queue::Readers;
use super::record::{self, COPIED, CURSORS, CopiedRecord, KEPT, KeptRecord, SPANS, VERDICTS, VerdictRecord};
use super::{KeptEntry, LandingOptions};
use crate::base::ids::{LogId, Place, Position, SpanId, TraceId};
use crate::base::monoid::Monoid;
use crate::base::time::{Instant, Now, WallTime};
use crate::digest::Digest;
use crate::otlp::payload::SpansPayload;
use crate::otlp::view::{self, SpanView};
use crate::policy::{PolicySet, ResourceMatch};
use crate::route::{HashKey, Item, ItemBatch, PolicyNumber, Settlement};
use crate::stats::Stats;
use crate::table::Table;
use crate::verdict::Verdict;
use crate::wal::EntryKind;
use crate::wal::recover::ReplayedEntry;
use hashbrown::HashMap;
use std::time::Duration;

/// The fold of one log, while it goes on.
pub struct Replay<'a> {
    log: LogId,
    hash_key: HashKey,
    policies: &'a PolicySet,
    table: &'a mut Table,
    now: Now,
    /// What policy numbers mean in the segment that is being replayed.
    segment_names: Vec<String>,
    policy_names: Vec<String>,
    jobs: HashMap<(TraceId, Place), Job>,
    cursors: HashMap<String, Position>,
    kept_position_max: Position,
    batch: ItemBatch,
    /// Entries whose payload no version of tailkeep wrote.
    malformed: u64,
    spans: u64,
    uncounted: Stats,
}

struct Job {
    /// Order of verdicts.
    number: usize,
    settlement: Settlement,
    copy: Option<(Position, Position)>,
}

/// What a replay found besides what is in the table.
#[derive(Debug, Default)]
pub struct Replayed {
    /// For [`LandingOptions::policy_names`].
    pub policy_names: Vec<String>,
    pub cursors: HashMap<String, Position>,
    /// Kept fragments, oldest verdict first, with their copies in the kept log.
    pub keeps: Vec<(Settlement, Option<(Position, Position)>)>,
    /// The kept log must go on beyond this: positions before it have had a meaning.
    pub kept_position_max: Position,
    pub spans: u64,
    pub malformed: u64,
}

impl<'a> Replay<'a> {
    /// `table` has not resumed.
    pub fn new(
        log: LogId,
        hash_key: HashKey,
        policies: &'a PolicySet,
        table: &'a mut Table,
        now: Now,
    ) -> Self {
        let policy_names: Vec<String> = policies
            .policies()
            .iter()
            .map(|policy| policy.name.clone())
            .collect();
        Replay {
            log,
            hash_key,
            policies,
            table,
            now,
            segment_names: policy_names.clone(),
            policy_names,
            jobs: HashMap::new(),
            cursors: HashMap::new(),
            kept_position_max: Position::default(),
            batch: ItemBatch::default(),
            malformed: 0,
            spans: 0,
            uncounted: Stats::default(),
        }
    }

    /// Folds one entry, in the order of the log.
    pub fn entry(&mut self, entry: &ReplayedEntry<'_>) {
        let folded = match entry.kind {
            SPANS => self.spans(entry),
            VERDICTS => self.verdicts(entry.payload),
            COPIED => self.copied(entry.payload),
            CURSORS => record::read_cursors(entry.payload).map(|cursors| self.cursors.extend(cursors)),
            EntryKind::NAMES => record::read_names(entry.payload).map(|(names, cursors)| {
                self.segment_names = names;
                self.cursors.extend(cursors);
            }),
            _ => None,
        };
        self.malformed += u64::from(folded.is_none());
    }

    fn spans(&mut self, entry: &ReplayedEntry<'_>) -> Option<()> {
        let payload = SpansPayload::parse(entry.payload).ok()?;
        let now = self.moment(entry.arrived);
        let resources: Vec<ResourceMatch> = payload
            .resources()
            .map(|part| self.policies.match_resource(view::resource_attributes(part)))
            .collect();
        self.batch.clear();
        for (number, (run, spans)) in payload.runs().enumerate() {
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
            let place = self.batch.places.len() as u32;
            self.batch
                .places
                .push(Place::new(self.log, entry.position, number as u16));
            self.spans += u64::from(digest.span_count);
            self.batch.items.push(Item {
                trace: run.trace,
                digest,
                places: place..place + 1,
                spans: spans_start..parents_start,
                parents: parents_start..self.batch.fingerprints.len() as u32,
            });
        }
        self.table.absorb(
            now,
            &self.batch,
            self.policies,
            &mut self.uncounted,
            &mut Vec::new(),
        );
        Some(())
    }

    /// When the entry arrived, on the clocks of this process.
    fn moment(&self, arrived: WallTime) -> Now {
        let ago = Duration::from_nanos(self.now.wall.0.saturating_sub(arrived.0));
        let instant = Instant(self.now.instant.0.saturating_sub(ago.as_nanos() as u64));
        Now {
            instant,
            wall: arrived.min(self.now.wall),
        }
    }

    fn verdicts(&mut self, payload: &[u8]) -> Option<()> {
        for mut record in VerdictRecord::read_all(payload)? {
            record.decision.policy = match record.decision.policy {
                Some(number) => {
                    let name = self.segment_names.get(number.0 as usize)?.clone();
                    Some(number_in(&mut self.policy_names, name))
                }
                None => None,
            };
            let (places, span_count) = self.table.replay_settlement(record.trace, record.decision);
            let Some(last) = places.last().copied() else {
                continue;
            };
            if record.decision.verdict == Verdict::Keep {
                let VerdictRecord {
                    trace,
                    decision,
                    late,
                } = record;
                let settlement = Settlement {
                    trace,
                    decision,
                    late,
                    span_count,
                    places,
                };
                let job = Job {
                    number: self.jobs.len(),
                    settlement,
                    copy: None,
                };
                self.jobs.insert((trace, last), job);
            }
        }
        Some(())
    }

    fn copied(&mut self, payload: &[u8]) -> Option<()> {
        for record in CopiedRecord::read_all(payload)? {
            self.kept_position_max = self.kept_position_max.max(record.to);
            let aligned = record.entry.0.is_multiple_of(Place::ENTRY_ALIGN) && record.entry.0 >> 50 == 0;
            if !aligned || record.run as usize >= Place::RUN_COUNT_MAX {
                return None;
            }
            let last = Place::new(self.log, record.entry, record.run);
            if let Some(job) = self.jobs.get_mut(&(record.trace, last)) {
                job.copy = record.copy();
            }
        }
        Some(())
    }

    pub fn finish(self) -> Replayed {
        let mut jobs: Vec<Job> = self.jobs.into_values().collect();
        jobs.sort_by_key(|job| job.number);
        let cursor_max = self.cursors.values().copied().max().unwrap_or_default();
        Replayed {
            policy_names: self.policy_names,
            cursors: self.cursors,
            keeps: jobs.into_iter().map(|job| (job.settlement, job.copy)).collect(),
            kept_position_max: self.kept_position_max.max(cursor_max),
            spans: self.spans,
            malformed: self.malformed,
        }
    }
}

/// The number of `name` in `names`, to which it is added if need be.
fn number_in(names: &mut Vec<String>, name: String) -> PolicyNumber {
    let known = names.iter().position(|known| *known == name);
    let number = known.unwrap_or_else(|| {
        names.push(name);
        names.len() - 1
    });
    PolicyNumber(number as u16)
}

/// The fold of the kept log: its entries, and whose they are.
#[derive(Debug, Default)]
pub struct KeptReplay {
    entries: Vec<(TraceId, KeptEntry)>,
    /// Every name that a policy number of this log has had; entries count in it until they are reconciled.
    names: Vec<String>,
    /// Where in `names` those of the segment that is being replayed begin.
    segment_names: usize,
    pub malformed: u64,
}

impl KeptReplay {
    pub fn entry(&mut self, entry: &ReplayedEntry<'_>, now: Now) {
        if entry.kind == EntryKind::NAMES {
            self.names(entry.payload);
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
            .plus((crate::wal::entry::HEADER_BYTES + entry.payload.len()) as u64);
        let kept_entry = KeptEntry {
            position: entry.position,
            end: end.align_up(Place::ENTRY_ALIGN),
            framed_len: kept.framed.len() as u32,
            span_count: kept.span_count,
            policy: kept.policy.and_then(|number| self.number_of(number)),
            readers: Readers::default(),
            kept_at: now.instant,
        };
        self.entries.push((kept.trace, kept_entry));
    }

    fn names(&mut self, payload: &[u8]) {
        let Some((names, _)) = record::read_names(payload) else {
            self.malformed += 1;
            return;
        };
        // Segments of one process have the same names; only a change is remembered.
        if self.names[self.segment_names..] != names[..] {
            self.segment_names = self.names.len();
            self.names.extend(names);
        }
    }

    fn number_of(&self, number: PolicyNumber) -> Option<PolicyNumber> {
        let at = self.segment_names + usize::from(number.0);
        (at < self.names.len()).then(|| u16::try_from(at).ok().map(PolicyNumber))?
    }

    /// Whether the copy `from..to` of a fragment of `trace` stands in the kept log whole.
    fn holds(&self, trace: TraceId, from: Position, to: Position) -> bool {
        let start = self.entries.partition_point(|(_, entry)| entry.position < from);
        let copy = self.entries[start..]
            .iter()
            .take_while(|(_, entry)| entry.position < to);
        let mut last_end = None;
        for (owner, entry) in copy {
            if *owner == trace {
                last_end = Some(entry.end);
            }
        }
        last_end == Some(to)
    }

    /// Which kept fragments must be copied again, given how far all destinations have come; and the entries
    /// that some destination has not got.
    pub fn reconcile(
        self,
        replayed: &mut Replayed,
        lowest_cursor: Position,
    ) -> (Vec<Settlement>, Vec<KeptEntry>) {
        let keeps = std::mem::take(&mut replayed.keeps);
        let again = keeps.into_iter().filter(|(settlement, copy)| {
            let Some((from, to)) = *copy else { return true };
            from != to && to > lowest_cursor && !self.holds(settlement.trace, from, to)
        });
        let again = again.map(|(settlement, _)| settlement).collect();
        let numbers: Vec<PolicyNumber> = self
            .names
            .into_iter()
            .map(|name| number_in(&mut replayed.policy_names, name))
            .collect();
        let waiting = self.entries.into_iter().map(|(_, entry)| KeptEntry {
            policy: entry.policy.map(|number| numbers[usize::from(number.0)]),
            ..entry
        });
        (again, waiting.filter(|entry| entry.end > lowest_cursor).collect())
    }
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
