//! What landing cores ask the owners of traces while they copy forward ([`crate::landing::forward`]).
//!
//! An answer goes out behind all settlements that its core gave before, so that a landing core that has it knows what
//! will not be named any more.

use super::Shard;
use crate::base::block::BlockPool;
use crate::base::ids::LogId;
use crate::landing::forward::{Answer, Question};

impl<P: BlockPool, W> Shard<P, W> {
    /// Hands what landing cores ask to the owners of the traces; `true`: some was answered here.
    pub(super) fn ask_owners(&mut self) -> bool {
        let mut answered = false;
        for number in 0..self.landings.len() {
            let log = self.landings[number].log();
            for question in self.landings[number].take_questions() {
                match self.table.owner_of(&question.trace(), self.peers.len() as u16) {
                    owner if owner == self.core => {
                        let answer = self.answer(question);
                        self.landings[number].handle_answer(answer);
                        answered = true;
                    }
                    owner => self.peers[usize::from(owner.0)].questions.push((log, question)),
                }
            }
        }
        answered
    }

    /// What this core knows as the owner of the trace.
    pub(super) fn answer(&mut self, question: Question) -> Answer {
        match question {
            Question::Open { trace, place } => Answer::Open {
                place,
                is_open: self.table.is_open_at(&trace, place),
            },
            Question::Moved { trace, old, new } => {
                self.table.move_place(&trace, old, new);
                Answer::Moved { old }
            }
        }
    }
}

/// All that there is for the first log that there is something for.
pub(super) fn take_of_one_log<T>(all: &mut Vec<(LogId, T)>) -> Option<(LogId, Vec<T>)> {
    let log = all.first()?.0;
    let (taken, rest): (Vec<_>, Vec<_>) = std::mem::take(all).into_iter().partition(|(of, _)| *of == log);
    *all = rest;
    Some((log, taken.into_iter().map(|(_, one)| one).collect()))
}
