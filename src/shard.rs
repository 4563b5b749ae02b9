//! One core, whole: its landing cores' logs, the table of the traces it owns, and what goes to other cores.
//!
//! ```text
//!             ┌──────────── items ────────────┐            ┌── other cores
//!  request ─→ landing ─ own items ─→ table ←──┼── Message ─┤
//!             │   ↑                   │       │            └── other cores
//!             │   └── settlements ────┴───────┘
//!             └─→ log, kept log, destinations
//! ```
//!
//! A core keeps one log, into which its requests go. After a change of `node.cores` it may keep older ones too:
//! these are read, settled and delivered to their end, and take no requests.
//!
//! A shard is sans-IO. Methods, and the order to call them in a turn:
//!
//! 1. `handle_*`: what happened. Each takes the time; none waits.
//! 2. [`Shard::advance`] until it returns `false`; between two calls others may have their turn.
//! 3. [`Shard::poll_effect`] until `None`: what io is to do. Results come back by `handle_*`.
//! 4. [`Shard::poll_message`] until `None`, once for several turns if they follow each other closely: what other
//!    cores are to know.
//! 5. [`Shard::poll_timeout`]: when [`Shard::handle_timeout`] is to be called.

pub mod overload; // when more comes than can be taken
mod asking; // copying forward, between landing core and owner
mod message; // what one core tells another
mod quotas; // leases, from core to core and node to node
mod resuming; // from the logs of all cores to a table
mod upgrades; // dropped traces that are kept after all

pub use message::Message;
pub use overload::{OnOverload, Overload};
pub use resuming::Resuming;
pub use upgrades::Upgrade;

use crate::base::block::BlockPool;
use crate::base::ids::{CoreId, LogId, Position};
use crate::base::time::{Instant, Now};
use crate::export::Notice;
use crate::export::retry::{Arrival, Failure};
use crate::gossip::{Inbound, Outbound, PeerDecision};
use crate::landing::fetch::{ReadOp, WhichLog};
use crate::landing::forward::{Answer, Question};
use crate::landing::{self, Landing, Request, SearchId, Submission};
use crate::policy::PolicySet;
use crate::policy::quota::Leasing;
use crate::route::{self, ItemBatch, Settlement};
use crate::stats::{Refusal, Stats};
use crate::table::Table;
use crate::verdict::Reason;
use crate::wal::{DiskError, OpId};
use std::collections::VecDeque;
use std::time::Duration;

/// Traces decided in one turn while draining.
const DRAIN_COUNT: usize = 256;

/// What may be on its way to one other core, and wait in this one's logs for its copy. Simulations lower it to see
/// it bind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credit {
    /// Give or take those of one request.
    pub items: usize,
    /// Give or take those of one turn.
    pub settlements: usize,
}

impl Default for Credit {
    fn default() -> Credit {
        Credit {
            items: 64 << 10,
            settlements: 64 << 10,
        }
    }
}

/// Keeps that wait to be announced, give or take those of one turn. Nothing is decided above it.
const ANNOUNCEMENTS_MAX: usize = 256 << 10;

/// What io is to do for one of the core's logs.
pub struct Effect<P: BlockPool, W> {
    pub log: LogId,
    pub what: landing::Effect<P, W>,
}

/// One core. `W` is whoever waits for an acknowledgement.
///
/// Invariant: `landings` are of logs whose keeper this core is, the first of the core's own.
pub struct Shard<P: BlockPool, W> {
    core: CoreId,
    policies: PolicySet,
    table: Table,
    /// The first takes the requests.
    landings: Vec<Landing<P, W>>,
    stats: Stats,
    credit: Credit,
    overload: Overload,
    /// Items to be sent, by owner.
    batches: Vec<ItemBatch>,
    /// By core; this core's own stays empty.
    peers: Vec<Peer>,
    /// Out of the table, to be given to the keepers of their logs.
    settlements: Vec<Settlement>,
    /// Items of other cores that wait for credit.
    inbox: VecDeque<(CoreId, ItemBatch)>,
    /// Keeps for the cluster, announced or answered with, and the position up to which the log must be durable first.
    announcements: VecDeque<(Position, Outbound)>,
    upgrades: upgrades::Upgrades,
    draining: bool,
    stopping: bool,
    /// Messages of other cores so far.
    messages_taken: u64,
}

/// Credit and what waits to be sent.
#[derive(Default)]
struct Peer {
    items_on_way: usize,
    settlements_on_way: usize,
    settlements: Vec<Settlement>,
    items_absorbed: usize,
    settlements_taken: usize,
    /// One request and one answer of each quota at most, of each core of the node.
    leasings: Vec<Leasing>,
    /// Bounded by what a landing core asks for at a time.
    questions: Vec<(LogId, Question)>,
    answers: Vec<(LogId, Answer)>,
    /// Of `items_on_way` by message, each with the place of its first item.
    batches_on_way: VecDeque<(usize, Position)>,
    /// To be sent before what is not a message yet.
    sealed: VecDeque<Message>,
}

impl Peer {
    /// There are settlements for it, or credit to give back; none for settlements while `lags`.
    fn is_owed_settled(&self, lags: bool) -> bool {
        !self.settlements.is_empty() || self.items_absorbed > 0 || (self.settlements_taken > 0 && !lags)
    }

    fn is_owed_words(&self) -> bool {
        !self.questions.is_empty() || !self.answers.is_empty() || !self.leasings.is_empty()
    }

    fn take_settled(&mut self, lags: bool) -> Message {
        let settlements = std::mem::take(&mut self.settlements);
        self.settlements_on_way += settlements.len();
        Message::Settled {
            settlements,
            items_absorbed: std::mem::take(&mut self.items_absorbed),
            settlements_taken: match lags {
                true => 0,
                false => std::mem::take(&mut self.settlements_taken),
            },
        }
    }

    /// What comes next is to be told after the settlements there are. Credit for settlements can wait.
    fn seal_settled(&mut self) {
        if self.is_owed_settled(true) {
            let settled = self.take_settled(true);
            self.sealed.push_back(settled);
        }
    }

    /// The owner has counted back so many items.
    fn items_came_home(&mut self, mut count: usize) {
        self.items_on_way -= count;
        while count > 0 {
            let (items, _) = self
                .batches_on_way
                .pop_front()
                .expect("B1: credit for what was sent");
            count -= items;
        }
    }
}

impl<P: BlockPool, W> Shard<P, W> {
    /// Ends the replay of the node: adopts the fragments of this core's traces, takes what came early.
    /// `landings` are those of this core's logs, by [`Landing::resume`]. Their fragments have been handed on.
    pub fn new(
        resuming: Resuming,
        policies: PolicySet,
        landings: Vec<Landing<P, W>>,
        now: Now,
    ) -> Shard<P, W> {
        assert!(
            resuming.is_complete(),
            "W4: a log of the node is not replayed yet"
        );
        let Resuming {
            core,
            core_count,
            table,
            fragments,
            upgrades,
            early,
            credit,
            on_overload,
            quotas_start_full,
            ..
        } = resuming;
        for landing in &landings {
            let keeper = route::keeper(landing.log(), core_count);
            assert_eq!(keeper, core, "a log has one keeper");
        }
        let mut shard = Shard {
            core,
            stats: Stats::new(policies.policies().len()),
            policies,
            table,
            landings,
            credit,
            overload: Overload::new(on_overload),
            batches: (0..core_count).map(|_| ItemBatch::default()).collect(),
            peers: (0..core_count).map(|_| Peer::default()).collect(),
            settlements: Vec::new(),
            inbox: VecDeque::new(),
            announcements: VecDeque::new(),
            upgrades: upgrades::Upgrades::default(),
            draining: false,
            stopping: false,
            messages_taken: 0,
        };
        shard.limit(quotas_start_full, now);
        shard.stats.traces.upgrades_skipped += shard.table.end_replay();
        let resumed = shard.table.take_resumed_keeps().into_iter();
        shard
            .announcements
            .extend(resumed.map(|keep| (Position::default(), Outbound::Announce(keep))));
        for fragment in fragments {
            shard.table.adopt(
                now,
                fragment,
                &shard.policies,
                &mut shard.stats,
                &mut shard.settlements,
            );
        }
        shard.dispatch(now);
        shard.resume_upgrades(upgrades);
        // Before a decided entry covers the announcements that say so.
        shard.follow_peers();
        shard.write_wishes(now);
        for (from, message) in early {
            shard.handle_message(now, from, message);
        }
        shard
    }

    // ---- what happens -----------------------------------------------------------------------------------

    /// Takes one request. On `Appended` the waiter is answered by an effect; otherwise it is given back.
    pub fn handle_export(&mut self, now: Now, request: Request<'_, W>) -> (Submission, Option<W>) {
        let transport = request.transport;
        self.overload.look(now, self.pressure(now));
        self.landings[0].set_taken_from(self.overload.taken_from());
        // Without room for traces, and none for what deciding some would set going.
        let is_stuck = self.table.pressure_tier() > 0 && self.lacks_settlement_credit();
        let (submission, waiter) = if is_stuck || self.lacks_item_credit() {
            (Submission::InFlight, Some(request.waiter))
        } else {
            self.landings[0].handle_request(now, request, &self.policies, &mut self.stats, &mut self.batches)
        };
        let refused = &mut self.stats.refused[transport as usize];
        match &submission {
            Submission::Appended(rejected) | Submission::Empty(rejected) => {
                refused[Refusal::InvalidItem as usize] += rejected.count();
            }
            Submission::Invalid(_) => {}
            Submission::LogRefused(_) => refused[Refusal::Log as usize] += 1,
            Submission::InFlight => refused[Refusal::InFlight as usize] += 1,
            Submission::PushedBack { .. } => refused[Refusal::ExporterQueue as usize] += 1,
        }
        let own = usize::from(self.core.0);
        let mut batch = std::mem::take(&mut self.batches[own]);
        self.absorb(now, &batch);
        batch.clear();
        self.batches[own] = batch;
        self.dispatch(now);
        (submission, waiter)
    }

    pub fn handle_message(&mut self, now: Now, from: CoreId, message: Message) {
        self.messages_taken += 1;
        match message {
            Message::Items(batch) => {
                self.inbox.push_back((from, batch));
                self.take_items(now);
            }
            Message::Settled {
                mut settlements,
                items_absorbed,
                settlements_taken,
            } => {
                let peer = &mut self.peers[usize::from(from.0)];
                peer.settlements_taken += settlements.len();
                peer.items_came_home(items_absorbed);
                peer.settlements_on_way -= settlements_taken;
                self.settlements.append(&mut settlements);
                self.dispatch(now);
                self.take_items(now);
            }
            Message::Asked { log, questions } => {
                for question in questions {
                    let answer = self.answer(question);
                    self.peers[usize::from(from.0)].answers.push((log, answer));
                }
            }
            Message::Answered { log, answers } => {
                let number = self.number(log);
                for answer in answers {
                    self.landings[number].handle_answer(answer);
                }
            }
            Message::Search {
                number,
                trace,
                wanted,
            } => {
                self.serve_search(SearchId { asker: from, number }, trace, wanted);
            }
            Message::Searched(searched) => self.handle_searched(searched),
            Message::Leasing(leasings) => {
                for leasing in leasings {
                    self.table.quotas_mut().handle(now.instant, leasing);
                }
            }
            Message::Decided(_) | Message::Adopt(_) | Message::Upgrades(_) | Message::Replayed => {
                unreachable!("{from:?} told that it has replayed before")
            }
        }
    }

    /// Something came from the cluster: what concerns a trace, to its owner; the rest to every core.
    pub fn handle_inbound(&mut self, now: Now, inbound: Inbound) {
        if let Inbound::PolicyNames(names) = &inbound {
            for landing in &mut self.landings {
                landing.add_policy_names(now, names);
            }
        }
        self.table.handle_inbound(
            now,
            inbound,
            &self.policies,
            &mut self.stats,
            &mut self.settlements,
        );
        self.dispatch(now);
    }

    pub fn handle_op(
        &mut self,
        now: Now,
        log: LogId,
        which: WhichLog,
        op: OpId,
        result: Result<(), DiskError>,
    ) {
        let number = self.number(log);
        self.landings[number].handle_op(now, which, op, result);
    }

    pub fn handle_read(&mut self, log: LogId, op: ReadOp, bytes: Option<Vec<u8>>) {
        let number = self.number(log);
        self.landings[number].handle_read(op, bytes);
    }

    /// The notice is to be logged.
    pub fn handle_shipped(
        &mut self,
        now: Now,
        log: LogId,
        destination: usize,
        through: Position,
        result: Result<Arrival, Failure>,
        random: u64,
    ) -> Option<Notice> {
        let number = self.number(log);
        self.landings[number].handle_shipped(now, destination, through, result, random)
    }

    pub fn handle_timeout(&mut self, now: Now) {
        let lacks = self.lacks_settlement_credit() || self.lacks_outbound_room();
        if !self.stopping && !lacks {
            self.table
                .handle_timeout(now, &self.policies, &mut self.stats, &mut self.settlements);
            self.dispatch(now);
        }
        self.exchange_leases(now);
        for landing in &mut self.landings {
            landing.handle_timeout(now);
        }
    }

    /// Moves what can move without I/O; `true`: call again, others may have their turn first.
    pub fn advance(&mut self, now: Now) -> bool {
        let mut more = false;
        for landing in &mut self.landings {
            more |= landing.advance(now, &self.policies, &mut self.stats);
        }
        // Copies that were made may have been what items waited for.
        self.take_items(now);
        more |= self.ask_owners();
        more |= self.advance_upgrades(now);
        more |= self.decide_all(now);
        self.exchange_leases(now);
        more
    }

    // ---- what is to be done -----------------------------------------------------------------------------

    pub fn poll_effect(&mut self, now: Now) -> Option<Effect<P, W>> {
        self.landings.iter_mut().find_map(|landing| {
            let what = landing.poll_effect(now)?;
            Some(Effect {
                log: landing.log(),
                what,
            })
        })
    }

    /// A message for another core.
    pub fn poll_message(&mut self) -> Option<(CoreId, Message)> {
        let lags = self.lags();
        for (number, peer) in self.peers.iter_mut().enumerate() {
            let core = CoreId(number as u16);
            if core == self.core {
                continue;
            }
            if let Some(message) = peer.sealed.pop_front() {
                return Some((core, message));
            }
            let batch = &mut self.batches[number];
            if let Some(first) = batch.places.first() {
                peer.items_on_way += batch.items.len();
                peer.batches_on_way.push_back((batch.items.len(), first.entry()));
                return Some((core, Message::Items(std::mem::take(batch))));
            }
            if peer.is_owed_settled(lags) {
                return Some((core, peer.take_settled(lags)));
            }
            if !peer.leasings.is_empty() {
                return Some((core, Message::Leasing(std::mem::take(&mut peer.leasings))));
            }
            // Behind what was settled before.
            if let Some((log, questions)) = asking::take_of_one_log(&mut peer.questions) {
                return Some((core, Message::Asked { log, questions }));
            }
            if let Some((log, answers)) = asking::take_of_one_log(&mut peer.answers) {
                return Some((core, Message::Answered { log, answers }));
            }
        }
        None
    }

    /// Something for the cluster. A Keep is durable in this core's log.
    pub fn poll_outbound(&mut self, now: Now) -> Option<Outbound> {
        let (durable, failed) = self.landings[0].log_reach();
        let position = self.announcements.front().map(|(position, _)| *position);
        if position.is_some_and(|position| position <= durable.max(failed)) {
            let (position, told) = self.announcements.pop_front().expect("just seen");
            if position <= durable {
                return Some(told);
            }
            // Its entry is in no log.
            self.log_told(now, vec![told]);
        }
        self.table.poll_outbound()
    }

    /// Whether there is something for the cluster.
    pub fn has_outbound(&self) -> bool {
        let (durable, failed) = self.landings[0].log_reach();
        let front = self.announcements.front();
        self.table.has_outbound() || front.is_some_and(|(position, _)| *position <= durable.max(failed))
    }

    /// Whether there is a message for another core.
    pub fn has_messages(&self) -> bool {
        let lags = self.lags();
        let peers = self.peers.iter().zip(&self.batches).enumerate();
        peers
            .filter(|(number, _)| *number != usize::from(self.core.0))
            .any(|(_, (peer, batch))| {
                !batch.is_empty()
                    || peer.is_owed_settled(lags)
                    || peer.is_owed_words()
                    || !peer.sealed.is_empty()
            })
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        let lacks = self.lacks_settlement_credit() || self.lacks_outbound_room();
        let table = match self.stopping || lacks {
            // What is due waits for credit, or for the next start, not for time.
            true => None,
            false => self.table.poll_timeout(),
        };
        let leases = match self.stopping {
            true => None,
            false => self.table.quotas().poll_timeout(),
        };
        let landings = self.landings.iter().map(Landing::poll_timeout);
        landings.chain([table, leases]).flatten().min()
    }

    /// While draining: decides what is open; `true`: there is more.
    fn decide_all(&mut self, now: Now) -> bool {
        if !self.draining || self.table.is_empty() || self.lacks_settlement_credit() {
            return false;
        }
        let oldest = (DRAIN_COUNT, Reason::Shutdown);
        let more = self.table.close_oldest(
            now,
            oldest,
            &self.policies,
            &mut self.stats,
            &mut self.settlements,
        );
        self.dispatch(now);
        more
    }

    // ---- between table and logs -------------------------------------------------------------------------

    fn absorb(&mut self, now: Now, batch: &ItemBatch) {
        self.table
            .absorb(now, batch, &self.policies, &mut self.stats, &mut self.settlements);
    }

    /// Takes items of other cores, as far as there is credit for what they may decide.
    fn take_items(&mut self, now: Now) {
        while !self.lacks_settlement_credit()
            && let Some((from, batch)) = self.inbox.pop_front()
        {
            self.absorb(now, &batch);
            self.peers[usize::from(from.0)].items_absorbed += batch.items.len();
            self.dispatch(now);
        }
    }

    /// Gives settlements to the keepers of their logs.
    fn dispatch(&mut self, now: Now) {
        self.log_keeps(now);
        if self.peers.len() == 1 && self.landings.len() == 1 {
            self.landings[0].settle(now, &mut self.settlements, &mut self.stats);
            return;
        }
        let mut settlements = std::mem::take(&mut self.settlements);
        let core_count = self.peers.len() as u16;
        let mut own: Vec<Vec<Settlement>> = self.landings.iter().map(|_| Vec::new()).collect();
        for settlement in settlements.drain(..) {
            let log = settlement.log();
            match route::keeper(log, core_count) {
                core if core == self.core => own[self.number(log)].push(settlement),
                core => self.peers[usize::from(core.0)].settlements.push(settlement),
            }
        }
        self.settlements = settlements;
        for (landing, mut settlements) in self.landings.iter_mut().zip(own) {
            landing.settle(now, &mut settlements, &mut self.stats);
        }
    }

    /// Logs the Keeps that the cluster is to be told, behind the wishes to follow those of traces that were dropped
    /// here: a decided entry may cover an announcement at any time, and of what it covers a start learns no more that
    /// it is still to be followed.
    fn log_keeps(&mut self, now: Now) {
        let keeps = self.table.take_keeps();
        if !keeps.is_empty() {
            self.follow_peers();
            self.write_wishes(now);
            self.log_told(now, keeps);
        }
    }

    fn log_told(&mut self, now: Now, told: Vec<Outbound>) {
        let announced = told.iter().filter_map(|told| match told {
            Outbound::Announce(keep) => Some(*keep),
            Outbound::Answer(..) | Outbound::Digest(..) | Outbound::Leasing(..) => None,
        });
        let announced: Vec<PeerDecision> = announced.collect();
        let end = self.landings[0].log_announced(now, &announced);
        self.announcements
            .extend(told.into_iter().map(|told| (end, told)));
    }

    /// The cluster takes nothing: what is decided would pile up here.
    fn lacks_outbound_room(&self) -> bool {
        self.announcements.len() >= ANNOUNCEMENTS_MAX || self.table.lacks_outbound_room()
    }

    /// What would refuse requests at 100.
    fn pressure(&self, now: Now) -> u64 {
        let tier = u64::from(self.table.pressure_tier());
        self.landings[0].pressure(now).max(tier * 100 / 3)
    }

    pub fn overload(&self) -> &Overload {
        &self.overload
    }

    pub fn overload_mut(&mut self) -> &mut Overload {
        &mut self.overload
    }

    fn lacks_item_credit(&self) -> bool {
        let on_way = self.peers.iter().zip(&self.batches);
        let mut on_way = on_way.map(|(peer, batch)| peer.items_on_way + batch.items.len());
        on_way.any(|count| count >= self.credit.items)
    }

    fn lacks_settlement_credit(&self) -> bool {
        let mut on_way = self
            .peers
            .iter()
            .map(|peer| peer.settlements_on_way + peer.settlements.len());
        on_way.any(|count| count >= self.credit.settlements) || self.lags()
    }

    /// So many kept fragments wait for their copy that no more should be decided (M1).
    fn lags(&self) -> bool {
        let mut landings = self.landings.iter();
        landings.any(|landing| landing.uncopied_count() >= self.credit.settlements)
    }

    fn number(&self, log: LogId) -> usize {
        let mut landings = self.landings.iter();
        let found = landings.position(|landing| landing.log() == log);
        found.expect("a log is kept until nothing waits in it")
    }

    /// The landing core of one of the logs that this core keeps.
    pub fn landing(&self, log: LogId) -> Option<&Landing<P, W>> {
        self.landings.iter().find(|landing| landing.log() == log)
    }

    pub fn landing_mut(&mut self, log: LogId) -> Option<&mut Landing<P, W>> {
        self.landings.iter_mut().find(|landing| landing.log() == log)
    }

    // ---- stopping and looking ---------------------------------------------------------------------------

    /// No new requests will come: everything open is decided, and destinations get all that is kept, however long that
    /// takes.
    pub fn drain(&mut self) {
        self.draining = true;
        self.landings.iter_mut().for_each(Landing::drain);
    }

    /// Nothing is left to decide or to export, and nothing is on its way to or from this core: how many messages it
    /// took until then. When all cores say so twice with the same numbers, the node is drained.
    pub fn drained(&self) -> Option<u64> {
        let is_home = |peer: &Peer| peer.items_on_way == 0 && peer.settlements_on_way == 0;
        let is_drained = self.draining
            && self.table.is_empty()
            && self.inbox.is_empty()
            && !self.has_messages()
            && self.peers.iter().all(is_home)
            && self.upgrades_are_idle()
            && self.landings.iter().all(Landing::is_drained);
        is_drained.then_some(self.messages_taken)
    }

    /// No new requests will come, and nothing is decided by time any more: destinations are handed what there is and waited for as long as `patience`,
    /// cursors are logged.
    pub fn stop(&mut self, now: Now, patience: Duration) {
        self.stopping = true;
        self.landings
            .iter_mut()
            .for_each(|landing| landing.stop(now, patience));
    }

    /// Nothing is under way, here or to and from other cores, but open traces. When all cores say so after they have
    /// stopped, nothing changes any more.
    pub fn is_quiet(&self) -> bool {
        let is_home = |peer: &Peer| peer.items_on_way == 0 && peer.settlements_on_way == 0;
        self.inbox.is_empty()
            && !self.has_messages()
            && self.peers.iter().all(is_home)
            && self.upgrades_are_idle()
            && self.landings.iter().all(Landing::is_quiet)
    }

    /// Nothing waits here. Items that are on their way to other cores are in the log, and go there again after
    /// the next start.
    pub fn is_settled(&self, now: Now) -> bool {
        self.inbox.is_empty()
            && !self.has_messages()
            && self.landings.iter().all(|landing| landing.is_settled(now))
    }

    pub fn core(&self) -> CoreId {
        self.core
    }

    pub fn policies(&self) -> &PolicySet {
        &self.policies
    }

    pub fn table(&self) -> &Table {
        &self.table
    }

    /// Those of all the logs that this core keeps; the first takes the requests.
    pub fn landings(&self) -> &[Landing<P, W>] {
        &self.landings
    }

    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    pub fn stats_mut(&mut self) -> &mut Stats {
        &mut self.stats
    }
}
