//! A core between its start and its first request: it learns what the logs say of the traces it owns.
//!
//! Every core replays the logs that it keeps and tells the owners. A decision of any log must be known before a
//! fragment of another is adopted, so fragments wait until all cores have replayed all logs.

use super::Credit;
use super::message::Message;
use super::overload::OnOverload;
use crate::base::ids::{CoreId, TraceId};
use crate::route::{self, Decision, HashKey};
use crate::table::{FoundDecision, Table, Trace};

/// Items per message.
const MESSAGE_COUNT_MAX: usize = 1024;

/// The table of a core that does not serve yet.
pub struct Resuming {
    pub(super) core: CoreId,
    pub(super) core_count: u16,
    hash_key: HashKey,
    pub(super) table: Table,
    pub(super) fragments: Vec<Trace>,
    pub(super) upgrades: Vec<(TraceId, Decision)>,
    /// Cores that have not replayed all their logs.
    missing: u16,
    /// From cores that serve already.
    pub(super) early: Vec<(CoreId, Message)>,
    pub(super) credit: Credit,
    pub(super) on_overload: OnOverload,
    pub(super) quotas_start_full: bool,
}

impl Resuming {
    pub fn new(core: CoreId, core_count: u16, hash_key: HashKey, table: Table) -> Resuming {
        Resuming {
            core,
            core_count,
            hash_key,
            table,
            fragments: Vec::new(),
            upgrades: Vec::new(),
            missing: core_count,
            early: Vec::new(),
            credit: Credit::default(),
            on_overload: OnOverload::default(),
            quotas_start_full: false,
        }
    }

    pub fn with_credit(self, credit: Credit) -> Resuming {
        Resuming { credit, ..self }
    }

    pub fn with_overload(self, on_overload: OnOverload) -> Resuming {
        Resuming { on_overload, ..self }
    }

    /// This directory has never judged before: quotas begin with their burst, if there are no other nodes.
    pub fn with_full_quotas(self, quotas_start_full: bool) -> Resuming {
        Resuming {
            quotas_start_full,
            ..self
        }
    }

    pub fn handle_message(&mut self, from: CoreId, message: Message) {
        match message {
            Message::Decided(found) => found
                .into_iter()
                .for_each(|found| self.table.remember_replayed(found)),
            Message::Adopt(fragments) => self.fragments.extend(fragments),
            Message::Upgrades(upgrades) => self.upgrades.extend(upgrades),
            Message::Replayed => self.missing -= 1,
            Message::Items(_)
            | Message::Settled { .. }
            | Message::Asked { .. }
            | Message::Answered { .. }
            | Message::Search { .. }
            | Message::Searched(_)
            | Message::Leasing(_) => self.early.push((from, message)),
        }
    }

    /// What a log decided: kept here if this core owns the trace, otherwise to be sent.
    pub fn decided(&mut self, found: Vec<FoundDecision>) -> Vec<(CoreId, Message)> {
        let hash_key = self.hash_key;
        let by_owner = self.by_owner(found, |found| found.hash(hash_key));
        self.deliver(by_owner, Message::Decided)
    }

    /// What a log holds undecided, and what it says is to be kept after all.
    pub fn replayed(
        &mut self,
        fragments: Vec<Trace>,
        upgrades: Vec<(TraceId, Decision)>,
    ) -> Vec<(CoreId, Message)> {
        let hash_key = self.hash_key;
        let by_owner = self.by_owner(fragments, |fragment| hash_key.trace(&fragment.id()));
        let mut messages = self.deliver(by_owner, Message::Adopt);
        let by_owner = self.by_owner(upgrades, |(trace, _)| hash_key.trace(trace));
        messages.extend(self.deliver(by_owner, Message::Upgrades));
        messages
    }

    /// Every log of the node is replayed: the shard can be made.
    pub fn is_complete(&self) -> bool {
        self.missing == 0
    }

    fn by_owner<T>(&self, all: Vec<T>, hash: impl Fn(&T) -> u64) -> Vec<Vec<T>> {
        let mut by_owner: Vec<Vec<T>> = (0..self.core_count).map(|_| Vec::new()).collect();
        for one in all {
            let owner = route::owner(hash(&one), self.core_count);
            by_owner[owner.0 as usize].push(one);
        }
        by_owner
    }

    fn deliver<T>(
        &mut self,
        by_owner: Vec<Vec<T>>,
        message: impl Fn(Vec<T>) -> Message,
    ) -> Vec<(CoreId, Message)> {
        let mut messages = Vec::new();
        for (owner, all) in by_owner.into_iter().enumerate() {
            let owner = CoreId(owner as u16);
            let mut rest = all.into_iter();
            while rest.len() > 0 {
                // In the order of the log.
                let part = rest.by_ref().take(MESSAGE_COUNT_MAX).collect();
                match owner == self.core {
                    true => self.handle_message(owner, message(part)),
                    false => messages.push((owner, message(part))),
                }
            }
        }
        messages
    }
}
