//! What was decided outlives the segments that say so: late spans follow a verdict for as long as the cache of
//! decisions would remember it, restarts and recycled segments in between.
//!
//! ```text
//!  log   ┌─────────────────────┬──────────────────────┬───────────────────────┐
//!        │ …  V V   V  V       │ D  V  V V     V      │ D′ D   V …            │
//!        └─────────────────────┴─▲────────────────────┴─▲──▲──────────────────┘
//!          V verdicts            └── previous ──────────┼──┘
//!                                D the verdicts since   D′ a copy of an old D whose segment is about to go
//!                                  the last D, compact
//! ```
//!
//! A decided entry (D) is written when enough verdicts have come together, and when the log has gone on to another
//! segment. So every verdict stands in a verdicts entry of a segment that a start folds, or in a decided entry; each
//! of these names the one before, and the names entry of every segment names the newest. Before the log takes a
//! segment back, the decided entries in it are appended again. As many decisions are carried along as the cache
//! remembers at least; on a full disk, where a file must be used again before anything can be written, they are let
//! go instead: late spans are worth less than spans.
//!
//! Nothing is kept in memory of it but the verdicts since the last entry, and where the entries are.

use super::record::{DECIDED, DecidedRecord, VerdictRecord};
use super::settle::{Found, find_payload};
use super::{Landing, LandingOptions};
use crate::base::block::BlockPool;
use crate::base::ids::Position;
use crate::base::time::Now;
use crate::route::{Decision, HashKey, PolicyNumber};
use crate::table::CompactDecision;
use crate::verdict::Verdict;
use crate::wal::entry::entry_bytes;
use std::collections::VecDeque;

/// Decisions of one entry: 32 KiB of dropped traces, as much of kept ones.
const DROPPED_PER_ENTRY: usize = 4096;
const KEPT_PER_ENTRY: usize = 1024;
/// Entries copied in one turn.
const COPIES_PER_TURN: usize = 8;

/// A decided entry of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    pub position: Position,
    pub count: usize,
}

/// Verdicts that no decided entry has yet.
#[derive(Clone, Debug, Default)]
pub struct Uncovered {
    pub dropped: Vec<CompactDecision>,
    pub kept: Vec<VerdictRecord>,
    /// The first verdicts entry that has one of them.
    pub from: Option<Position>,
}

impl Uncovered {
    pub fn add(&mut self, hash_key: HashKey, record: &VerdictRecord) {
        match record.decision.verdict {
            Verdict::Keep => self.kept.push(*record),
            Verdict::Rollup | Verdict::Deny => {
                let decision = CompactDecision::new(hash_key.trace(&record.trace), &record.decision);
                self.dropped.push(decision);
            }
            Verdict::Pending => {}
        }
    }

    fn is_empty(&self) -> bool {
        self.dropped.is_empty() && self.kept.is_empty()
    }
}

/// The decided entries of one log.
///
/// Invariant: `batches` are those that a start is to find, oldest first; all of them are reached from the last one.
#[derive(Debug, Default)]
pub(super) struct Decided {
    uncovered: Uncovered,
    batches: VecDeque<Batch>,
    count: usize,
    newest: Option<Position>,
    /// Copies, and entries that cover verdicts, that are not durable: where the oldest original is, and where the
    /// newest of them ends.
    copying: Option<(Position, Position)>,
    /// The entry that is being read back; its segment is held meanwhile.
    reading: Option<Position>,
}

impl Decided {
    pub fn newest(&self) -> Option<Position> {
        self.newest
    }

    /// A start must fold verdicts from here on.
    pub fn resume_floor(&self) -> Position {
        self.uncovered.from.unwrap_or(Position(u64::MAX))
    }

    fn push(&mut self, batch: Batch, count_max: usize) {
        self.newest = Some(batch.position);
        self.count += batch.count;
        self.batches.push_back(batch);
        while self
            .batches
            .front()
            .is_some_and(|oldest| self.count - oldest.count >= count_max)
        {
            self.pop();
        }
    }

    fn pop(&mut self) -> Option<Batch> {
        let batch = self.batches.pop_front()?;
        self.count -= batch.count;
        Some(batch)
    }
}

impl<P: BlockPool, W> Landing<P, W> {
    /// What a replay found.
    pub fn resume_decided(&mut self, batches: Vec<Batch>, newest: Option<Position>, uncovered: Uncovered) {
        for batch in batches {
            self.decided.push(batch, self.options.decided_count_max);
        }
        self.decided.newest = newest;
        self.decided.uncovered = uncovered;
        self.write_prologue();
        // Before the log may let anything go.
        self.move_floors();
    }

    /// The verdicts that were just appended and end at `end`.
    pub(super) fn note_decided(
        &mut self,
        records: impl ExactSizeIterator<Item = VerdictRecord>,
        end: Position,
    ) {
        let bytes = entry_bytes(records.len() * VerdictRecord::BYTES) as u64;
        let uncovered = &mut self.decided.uncovered;
        // Late spans follow a verdict that some log has already.
        let records = records.filter(|record| !record.late);
        records.for_each(|record| uncovered.add(self.options.hash_key, &record));
        if !uncovered.is_empty() {
            uncovered.from.get_or_insert(Position(end.0 - bytes));
        }
        self.move_floors();
    }

    /// Keeps of other nodes' traces, or early ones: the entry that was just appended and ends at `end`.
    pub(super) fn note_announced(&mut self, records: &[VerdictRecord], end: Position) {
        let bytes = entry_bytes(records.len() * VerdictRecord::BYTES) as u64;
        let uncovered = &mut self.decided.uncovered;
        for record in records {
            uncovered.add(self.options.hash_key, record);
        }
        uncovered.from.get_or_insert(Position(end.0 - bytes));
        self.move_floors();
    }

    /// Tells the log what must stay in it.
    pub(super) fn move_floors(&mut self) {
        let waiting = self.queue.front().map_or(Position(u64::MAX), |entry| entry.needs);
        let asked = self.upgrades.floor();
        self.log
            .set_resume_floor(self.decided.resume_floor().min(waiting).min(asked));
        let oldest = self.decided.batches.front().map(|batch| batch.position);
        let uncovered = self.decided.uncovered.from;
        let copied = self.decided.copying.map(|(original, _)| original);
        self.log.set_floor(match self.log.is_out_of_space() {
            true => Position(u64::MAX),
            false => oldest
                .into_iter()
                .chain(uncovered)
                .chain(copied)
                .chain([asked])
                .min()
                .unwrap_or(Position(u64::MAX)),
        });
    }

    /// Writes decided entries when they are due, and copies those that are about to go.
    pub(super) fn carry_decided(&mut self, now: Now) {
        let durable = self.log.durable();
        self.decided.copying = self.decided.copying.filter(|(_, end)| *end > durable);
        let Uncovered { dropped, kept, from } = &self.decided.uncovered;
        let is_due = dropped.len() >= DROPPED_PER_ENTRY
            || kept.len() >= KEPT_PER_ENTRY
            || from.is_some_and(|from| !self.log.is_same_segment(from, self.tail));
        if is_due {
            self.cover_verdicts(now);
        }
        let leaving = self.log.leaving(now);
        self.end_reading();
        for _ in 0..COPIES_PER_TURN {
            let is_leaving = |batch: &&Batch| batch.position < leaving;
            let Some(batch) = self.decided.batches.front().filter(is_leaving).copied() else {
                break;
            };
            let mut payload = match find_payload(&self.log, &mut self.fetcher, batch.position) {
                Found::Here(payload) => payload.to_vec(),
                Found::Waiting => {
                    if self.decided.reading.is_none() {
                        self.log.hold(batch.position, 1);
                        self.decided.reading = Some(batch.position);
                    }
                    break;
                }
                Found::Lost => {
                    self.decided.pop();
                    continue;
                }
            };
            DecidedRecord::relink(&mut payload, self.decided.newest);
            self.decided.pop();
            self.append_decided(now, &payload, batch.count);
            self.copying_from(batch.position);
        }
        self.move_floors();
    }

    /// Lets the segment go that was held while an entry of it was read.
    fn end_reading(&mut self) {
        if let Some(position) = self.decided.reading
            && !matches!(
                find_payload(&self.log, &mut self.fetcher, position),
                Found::Waiting
            )
        {
            self.log.release(position, 1);
            self.decided.reading = None;
        }
    }

    fn append_decided(&mut self, now: Now, payload: &[u8], count: usize) {
        let end = self.append(now, DECIDED, payload);
        let position = Position(end.0 - entry_bytes(payload.len()) as u64);
        self.decided
            .push(Batch { position, count }, self.options.decided_count_max);
        self.write_prologue();
    }

    fn cover_verdicts(&mut self, now: Now) {
        let Uncovered { dropped, kept, from } = std::mem::take(&mut self.decided.uncovered);
        let (mut dropped, mut kept) = (dropped.chunks(DROPPED_PER_ENTRY), kept.chunks(KEPT_PER_ENTRY));
        loop {
            let (some_dropped, some_kept) = (dropped.next(), kept.next());
            let (policies, kept_records) = with_names(&self.options, some_kept.unwrap_or_default());
            let record = DecidedRecord {
                previous: self.decided.newest,
                covers: dropped.len() == 0 && kept.len() == 0,
                decided_at: Some(now.wall),
                policies,
                dropped: some_dropped.unwrap_or_default().to_vec(),
                kept: kept_records,
            };
            let mut payload = Vec::new();
            record.put(&mut payload);
            self.append_decided(now, &payload, record.dropped.len() + record.kept.len());
            if record.covers {
                break;
            }
        }
        if let Some(from) = from {
            self.copying_from(from);
        }
    }

    /// What stands at `original` was just written again and must stay there until that is durable.
    fn copying_from(&mut self, original: Position) {
        let copying = self.decided.copying;
        let oldest = copying.map_or(original, |(copied, _)| copied.min(original));
        self.decided.copying = Some((oldest, self.tail));
    }
}

/// The records, numbered in a list of just the names that they use.
fn with_names(options: &LandingOptions, records: &[VerdictRecord]) -> (Vec<String>, Vec<VerdictRecord>) {
    let mut names: Vec<String> = Vec::new();
    let renumber = |record: &VerdictRecord| {
        let name = record
            .decision
            .policy
            .and_then(|number| options.policy_names.get(number.0 as usize));
        let policy = name.map(|name| {
            let known = names.iter().position(|known| known == name);
            let number = known.unwrap_or_else(|| {
                names.push(name.clone());
                names.len() - 1
            });
            PolicyNumber(number as u16)
        });
        let decision = Decision {
            policy,
            ..record.decision
        };
        VerdictRecord { decision, ..*record }
    };
    let records = records.iter().map(renumber).collect();
    (names, records)
}
