//! What a checkpoint has of a log: where folding may begin, and how much the open traces hold in which segment.
//!
//! It is taken when nothing is under way: every item is absorbed, every settlement is acted upon, every copy durable.

use super::Landing;
use crate::base::block::BlockPool;
use crate::base::ids::Position;
use rkyv::{Archive, Deserialize, Serialize};

#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct SavedLog {
    pub log: u8,
    /// Spans before it are decided, or of traces that the checkpoint has; what else stands there is needed by nobody.
    pub fold_from: u64,
    /// Of the next entry: nothing may have been written since.
    next_sequence: u64,
    /// Nothing that stands in the log is needed: its files may go or stay.
    is_empty: bool,
    /// Where segments begin, and how many places of open traces each has.
    pub held: Vec<(u64, u64)>,
}

impl SavedLog {
    /// Whether a log is as it was, by the number that a start would give its next entry. It begins at 0 where no entry
    /// stands.
    pub fn fits(&self, next_sequence: u64) -> bool {
        next_sequence == self.next_sequence || (self.is_empty && next_sequence == 0)
    }
}

impl<P: BlockPool, W> Landing<P, W> {
    /// Nothing is under way: what is open waits for its owner alone.
    pub fn is_quiet(&self) -> bool {
        let nothing_waits = self.waiters.is_empty() && self.replies.is_empty() && !self.is_searching();
        let copied = self.keeps.is_empty() && self.copies.is_empty() && self.forward.is_idle();
        // Names at the head of a segment count too.
        let durable = self.log.undurable_bytes() == 0 && self.kept_is_durable();
        nothing_waits && copied && durable
    }

    /// For [`Landing::is_quiet`] only.
    pub fn saved(&self) -> SavedLog {
        let waiting = self.queue.front().map(|entry| entry.needs);
        let needed = [
            Some(self.log.durable()),
            Some(self.decided.resume_floor()),
            Some(self.upgrades.floor()),
            waiting,
            self.index.noted_from(),
        ];
        let fold_from = needed.into_iter().flatten().min().unwrap_or_default();
        SavedLog {
            log: self.options.log.0,
            fold_from: fold_from.0,
            next_sequence: self.log.next_sequence(),
            is_empty: self.log.is_empty(),
            held: self.log.held().map(|(base, count)| (base.0, count)).collect(),
        }
    }

    /// Holds what a checkpoint says is held. Of a log that was folded as [`SavedLog`] says.
    pub fn hold_saved(&mut self, saved: &SavedLog) {
        for (base, count) in &saved.held {
            let count = u32::try_from(*count).unwrap_or(u32::MAX);
            self.log.hold(Position(*base), count);
        }
    }

    fn kept_is_durable(&self) -> bool {
        self.kept.durable() >= self.queue.end()
    }
}
