//! What the owner of a dropped trace wants kept after all stands in its log before any log exports a span of it, and
//! until all logs have: a start takes up what was not finished.
//!
//! ```text
//!  log of the owner's core   … upgrades ──durable──→ all logs search and copy ──all answered──→ upgraded …
//! ```

use super::Landing;
use super::record::{UPGRADED, UPGRADES, UpgradedRecord, VerdictRecord};
use crate::base::block::BlockPool;
use crate::base::ids::{Position, TraceId};
use crate::base::time::Now;
use crate::route::Decision;
use crate::wal::entry::entry_bytes;

/// One trace of an upgrades entry.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Asked {
    /// Of the entry.
    pub at: Position,
    pub trace: TraceId,
    pub decision: Decision,
}

/// Those of one log that are not done.
#[derive(Debug, Default)]
pub(super) struct Upgrades {
    /// In the order of the log.
    open: Vec<Asked>,
    /// As a replay found them, until their owner has written them anew.
    resumed: Vec<Asked>,
    /// For the next upgraded entry.
    done: Vec<u8>,
}

impl Upgrades {
    pub fn resumed(found: Vec<Asked>) -> Upgrades {
        Upgrades {
            resumed: found,
            ..Upgrades::default()
        }
    }

    /// A start must fold the log from here on.
    pub fn floor(&self) -> Position {
        let open = self.open.first().into_iter().chain(self.resumed.first());
        open.map(|asked| asked.at).min().unwrap_or(Position(u64::MAX))
    }
}

impl<P: BlockPool, W> Landing<P, W> {
    /// Writes what the owner wants. Returned are the entry's position and the one that must be durable.
    pub fn ask(&mut self, now: Now, wanted: &[(TraceId, Decision)]) -> (Position, Position) {
        let record = |(trace, decision): &(TraceId, Decision)| VerdictRecord {
            trace: *trace,
            decision: *decision,
            late: false,
        };
        let mut payload = Vec::new();
        wanted.iter().for_each(|wanted| record(wanted).put(&mut payload));
        let end = self.append(now, UPGRADES, &payload);
        self.log.hasten();
        let at = Position(end.0 - entry_bytes(payload.len()) as u64);
        let asked = |(trace, decision): &(TraceId, Decision)| Asked {
            at,
            trace: *trace,
            decision: *decision,
        };
        self.upgrades.open.extend(wanted.iter().map(asked));
        self.note_decided(wanted.iter().map(record), end);
        (at, end)
    }

    /// Everything before this is durable.
    pub fn durable(&self) -> Position {
        self.log.durable()
    }

    /// Nothing before this is in the log any more.
    pub fn reaches_back_to(&self) -> Position {
        self.log.begins_at()
    }

    /// Everything appended so far lies before this.
    pub fn tail(&self) -> Position {
        self.tail
    }

    /// All logs have exported what they had of the trace.
    pub fn finish_upgrade(&mut self, at: Position, trace: TraceId) {
        let is_it = |asked: &Asked| asked.at == at && asked.trace == trace;
        let count = self.upgrades.open.len();
        self.upgrades.open.retain(|asked| !is_it(asked));
        if self.upgrades.open.len() < count {
            UpgradedRecord { asked_at: at, trace }.put(&mut self.upgrades.done);
        }
    }

    /// The owner has written anew, durably, what this log was found to ask for.
    pub(super) fn forget_resumed(&mut self, trace: TraceId) {
        let resumed = std::mem::take(&mut self.upgrades.resumed);
        let (over, left) = resumed.into_iter().partition(|asked| asked.trace == trace);
        self.upgrades.resumed = left;
        let over: Vec<Asked> = over;
        for asked in over {
            let asked_at = asked.at;
            UpgradedRecord { asked_at, trace }.put(&mut self.upgrades.done);
        }
    }

    /// What a replay found, for the owners of these traces.
    pub fn resumed_upgrades(&self) -> Vec<(TraceId, Decision)> {
        let resumed = self.upgrades.resumed.iter();
        resumed.map(|asked| (asked.trace, asked.decision)).collect()
    }

    pub(super) fn log_upgraded(&mut self, now: Now) {
        if self.upgrades.done.is_empty() {
            return;
        }
        let done = std::mem::take(&mut self.upgrades.done);
        self.append(now, UPGRADED, &done);
        self.move_floors();
    }
}
