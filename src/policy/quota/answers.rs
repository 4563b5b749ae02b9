//! What quotas have said of one trace.

use super::{Answer, QuotaIndex, Ticket};

/// Goes with a trace from its close on, so that no quota is asked twice.
///
/// Invariant: a quota is granted, refused, or neither.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct QuotaAnswers {
    granted: u64,
    refused: u64,
    /// The last one that refused, and what it had left.
    shortest: Option<(QuotaIndex, Option<u64>)>,
    /// One that will answer later.
    awaited: Option<(QuotaIndex, Ticket)>,
}

impl QuotaAnswers {
    /// Nobody has been asked.
    pub const NONE: QuotaAnswers = QuotaAnswers {
        granted: 0,
        refused: 0,
        shortest: None,
        awaited: None,
    };

    pub fn is_none(&self) -> bool {
        self.granted == 0 && self.refused == 0
    }

    pub fn of(&self, quota: QuotaIndex) -> Option<bool> {
        match (self.granted >> quota.0 & 1, self.refused >> quota.0 & 1) {
            (1, _) => Some(true),
            (_, 1) => Some(false),
            _ => None,
        }
    }

    /// What a quota had left when it refused; the inner `None`: nobody answered.
    pub fn left(&self, quota: QuotaIndex) -> Option<Option<u64>> {
        self.shortest
            .filter(|(shortest, _)| *shortest == quota)
            .map(|(_, left)| left)
    }

    /// Given by a quota that could not answer at once.
    pub fn ticket(&self, quota: QuotaIndex) -> Option<Ticket> {
        self.awaited
            .filter(|(awaited, _)| *awaited == quota)
            .map(|(_, ticket)| ticket)
    }

    pub fn note(&mut self, quota: QuotaIndex, answer: Answer) {
        let bit = 1 << quota.0;
        self.awaited = None;
        match answer {
            Answer::Granted => self.granted |= bit,
            Answer::Refused { left } => {
                self.refused |= bit;
                self.shortest = Some((quota, Some(left)));
            }
            Answer::Unanswered => {
                self.refused |= bit;
                self.shortest = Some((quota, None));
            }
            Answer::Later(ticket) => self.awaited = Some((quota, ticket)),
        }
    }
}
