//! Searches in the logs of all cores, and what they serve: keeping traces that were dropped.
//!
//! ```text
//!  wanted ─→ written to this core's log ─durable─→ open?    promised: kept when it closes ─→ logs durable? ─┐
//!   by hand, by a peer,                       └─→ decided:  verdict rises ─→ every log searches, copies ────┤
//!   by a late span                                                                                         done
//!                   (late span: ─→ every log searches, folds ─→ judged ─Keep─→ wanted)
//! ```
//!
//! The owner's verdict rises in the same turn in which all cores are asked, behind the settlements that went before it.
//! So a landing core knows what follows the new verdict as late spans: what it has told the owner of and what has not
//! been counted back. All the rest of the trace in its log is upgraded.
//!
//! What is written and not done is taken up by the next start; spans may then be exported twice.

use super::Shard;
use super::message::Message;
use crate::base::block::BlockPool;
use crate::base::ids::{CoreId, Position, TraceId};
use crate::base::monoid::Monoid;
use crate::base::time::Now;
use crate::digest::Digest;
use crate::landing::{SearchId, Searched, Wanted};
use crate::route::{self, Decision, Places};
use crate::table::{self, LateCandidate, LateEvidence};
use crate::verdict::Verdict;
use hashbrown::{HashMap, HashSet};
use std::collections::VecDeque;

/// Traces that wait to be written to the log.
const WAITING_MAX: usize = 16 << 10;
/// Traces that are written and not done: their segments stay.
const ASKED_MAX: usize = 1024;
/// Searches of one core under way, for upgrades, for late spans that match something and for others.
const UPGRADES_MAX: usize = 16;
const LIKELY_MAX: usize = 12;
const POSSIBLE_MAX: usize = 4;
/// Searches for people.
const FINDS_MAX: usize = 8;

/// What became of a wish to keep a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upgrade {
    /// It will be kept: what the logs have of it now, and what comes.
    Begun,
    /// It is kept already.
    Kept,
    /// Too many wait (B1); nothing was changed, and asking again later helps.
    Refused,
}

/// A wish that is in the log.
#[derive(Clone, Copy, Debug)]
struct Asked {
    trace: TraceId,
    decision: Decision,
    at: Position,
    durable_at: Position,
    /// A start found it.
    resumed: bool,
}

/// What this core asked all cores.
#[derive(Debug)]
struct Search {
    number: u64,
    trace: TraceId,
    purpose: Purpose,
    missing: u16,
    found: Searched,
}

#[derive(Clone, Copy, Debug)]
enum Purpose {
    Upgrade { at: Position },
    Late { dropped: Decision, likely: bool },
    Find,
}

/// What a core is asked, by itself too.
#[derive(Debug)]
struct Served {
    id: SearchId,
    /// Landings that have not answered.
    missing: usize,
    found: Searched,
}

#[derive(Debug, Default)]
pub(super) struct Upgrades {
    waiting: VecDeque<(TraceId, Decision, bool)>,
    asked: VecDeque<Asked>,
    /// Asked for while open, by where in the log.
    promised: HashMap<TraceId, Position>,
    /// All traces in `waiting`, `asked`, `promised`, or searched for by an upgrade.
    under_way: HashSet<TraceId>,
    searches: Vec<Search>,
    served: Vec<Served>,
    finds: Vec<Searched>,
    next: u64,
    /// A landing was given something to do since its last turn.
    stirred: bool,
}

impl Upgrades {
    fn count(&self, is_one: impl Fn(Purpose) -> bool) -> usize {
        self.searches
            .iter()
            .filter(|search| is_one(search.purpose))
            .count()
    }
}

impl<P: BlockPool, W> Shard<P, W> {
    /// Keeps a trace that was dropped here, or is open, or is not known any more: its owner's part of
    /// `POST /traces/{id}/keep`, of a peer's Keep, and of late spans. `decision` is a Keep; whoever gives it says policy,
    /// reason and threshold (`None` erases `th`). A turn comes next.
    pub fn upgrade(&mut self, trace: TraceId, decision: Decision) -> Upgrade {
        assert_eq!(decision.verdict, Verdict::Keep, "V1: verdicts only rise");
        let is_kept = |known: Decision| known.verdict == Verdict::Keep;
        if self.table.open_trace(&trace).is_none() && self.table.decided(&trace).is_some_and(is_kept) {
            return Upgrade::Kept;
        }
        if self.upgrades.under_way.contains(&trace) {
            return Upgrade::Begun;
        }
        if self.upgrades.waiting.len() >= WAITING_MAX {
            return Upgrade::Refused;
        }
        self.upgrades.under_way.insert(trace);
        self.upgrades.waiting.push_back((trace, decision, false));
        Upgrade::Begun
    }

    /// Whether an upgrade of this trace is not done yet.
    pub fn is_upgrading(&self, trace: &TraceId) -> bool {
        self.upgrades.under_way.contains(trace)
    }

    /// No upgrade and no search is under way, but for promises about open traces.
    pub fn upgrades_are_idle(&self) -> bool {
        let Upgrades {
            waiting,
            asked,
            searches,
            served,
            ..
        } = &self.upgrades;
        waiting.is_empty() && asked.is_empty() && searches.is_empty() && served.is_empty()
    }

    /// Looks for a trace in the logs of all cores. The number is for [`Shard::take_found`]; `None`: too many look.
    pub fn find(&mut self, trace: TraceId) -> Option<u64> {
        let finds = self.upgrades.count(|purpose| matches!(purpose, Purpose::Find));
        if finds + self.upgrades.finds.len() >= FINDS_MAX {
            return None;
        }
        Some(self.search(trace, Purpose::Find, Wanted::Places))
    }

    /// What a search has found, once it is over; whoever asks no more leaves nothing behind by [`Shard::give_up_find`].
    pub fn take_found(&mut self, number: u64) -> Option<Searched> {
        let finds = &mut self.upgrades.finds;
        let index = finds.iter().position(|found| found.id.number == number)?;
        Some(finds.swap_remove(index))
    }

    /// Nobody waits for this search any more.
    pub fn give_up_find(&mut self, number: u64) {
        self.upgrades.finds.retain(|found| found.id.number != number);
        self.upgrades.searches.retain(|search| search.number != number);
    }

    /// What logs were found to ask for, when their traces' owner begins.
    pub(super) fn resume_upgrades(&mut self, resumed: Vec<(TraceId, Decision)>) {
        for (trace, decision) in resumed {
            if self.upgrades.under_way.insert(trace) {
                self.upgrades.waiting.push_back((trace, decision, true));
            }
        }
    }

    /// Moves everything about upgrades forward, in every turn after the landings; `true`: these have more to do.
    pub(super) fn advance_upgrades(&mut self, now: Now) -> bool {
        self.collect_answers();
        self.follow_peers();
        for candidate in self.table.take_late_candidates() {
            self.consider(candidate);
        }
        for trace in self.table.take_kept_promises() {
            if let Some(at) = self.upgrades.promised.remove(&trace) {
                self.search(trace, Purpose::Upgrade { at }, Wanted::Durability);
            }
        }
        self.write_wishes(now);
        let durable = self.landings[0].durable();
        while self
            .upgrades
            .count(|purpose| matches!(purpose, Purpose::Upgrade { .. }))
            < UPGRADES_MAX
            && let Some(asked) = self.upgrades.asked.front().copied()
            && asked.durable_at <= durable
        {
            self.upgrades.asked.pop_front();
            self.fulfil(now, asked);
        }
        std::mem::take(&mut self.upgrades.stirred)
    }

    /// What was dropped here and is kept by the cluster.
    pub(super) fn follow_peers(&mut self) {
        for keep in self.table.take_raised() {
            let decision = Decision {
                threshold: keep.decision.threshold.filter(|_| keep.by_home),
                upgraded: true,
                ..keep.decision
            };
            if self.upgrade(keep.trace, decision) == Upgrade::Refused {
                self.table.want_again(keep);
            }
        }
    }

    pub(super) fn write_wishes(&mut self, now: Now) {
        let open = self.upgrades.asked.len() + self.upgrades.promised.len();
        let count = self.upgrades.waiting.len().min(ASKED_MAX.saturating_sub(open));
        if count == 0 {
            return;
        }
        let wishes: Vec<_> = self.upgrades.waiting.drain(..count).collect();
        let wanted: Vec<(TraceId, Decision)> = wishes
            .iter()
            .map(|(trace, decision, _)| (*trace, *decision))
            .collect();
        let (at, durable_at) = self.landings[0].ask(now, &wanted);
        let asked = wishes.into_iter().map(|(trace, decision, resumed)| Asked {
            trace,
            decision,
            at,
            durable_at,
            resumed,
        });
        self.upgrades.asked.extend(asked);
    }

    /// The wish is durable.
    fn fulfil(&mut self, now: Now, asked: Asked) {
        let Asked {
            trace,
            decision,
            at,
            resumed,
            ..
        } = asked;
        if self.table.open_trace(&trace).is_some() {
            self.table.promise(trace, decision);
            self.upgrades.promised.insert(trace, at);
            return;
        }
        let is_kept = |known: Decision| known.verdict == Verdict::Keep;
        if !resumed && self.table.decided(&trace).is_some_and(is_kept) {
            self.end_upgrade(trace, at);
            return;
        }
        self.table.raise(now, trace, decision, &mut self.stats);
        self.dispatch(now);
        self.search(trace, Purpose::Upgrade { at }, Wanted::Keep(decision));
    }

    fn end_upgrade(&mut self, trace: TraceId, at: Position) {
        self.upgrades.stirred = true;
        self.landings[0].finish_upgrade(at, trace);
        self.upgrades.under_way.remove(&trace);
    }

    /// Late spans of a dropped trace may have made it one to keep.
    fn consider(&mut self, candidate: LateCandidate) {
        let LateCandidate {
            trace,
            dropped,
            evidence,
        } = candidate;
        if self.upgrades.under_way.contains(&trace) {
            return;
        }
        let likely = match evidence {
            LateEvidence::Certain(decision) => {
                if self.upgrade(trace, decision) == Upgrade::Refused {
                    self.stats.traces.upgrades_skipped += 1;
                }
                return;
            }
            LateEvidence::Likely => true,
            LateEvidence::Possible => false,
        };
        let is_looked_for =
            |search: &Search| search.trace == trace && matches!(search.purpose, Purpose::Late { .. });
        if self.upgrades.searches.iter().any(is_looked_for) {
            // What it finds may lack these spans; as good as one that was skipped.
            self.stats.traces.upgrades_skipped += 1;
            return;
        }
        let is_alike = |purpose| matches!(purpose, Purpose::Late { likely: other, .. } if other == likely);
        let count_max = if likely { LIKELY_MAX } else { POSSIBLE_MAX };
        if self.upgrades.count(is_alike) >= count_max {
            self.stats.traces.upgrades_skipped += 1;
            return;
        }
        self.search(trace, Purpose::Late { dropped, likely }, Wanted::Digest);
    }

    // ---- searches ---------------------------------------------------------------------------------------

    /// Asks all cores.
    fn search(&mut self, trace: TraceId, purpose: Purpose, wanted: Wanted) -> u64 {
        self.upgrades.next += 1;
        let number = self.upgrades.next;
        let id = SearchId {
            asker: self.core,
            number,
        };
        self.upgrades.searches.push(Search {
            number,
            trace,
            purpose,
            missing: self.peers.len() as u16,
            found: nothing(id),
        });
        for core in 0..self.peers.len() {
            if core == usize::from(self.core.0) {
                continue;
            }
            let peer = &mut self.peers[core];
            // Behind the settlements before it, and before those of what the peer will tell from now on.
            peer.seal_settled();
            peer.sealed.push_back(Message::Search {
                number,
                trace,
                wanted,
            });
        }
        self.serve_search(id, trace, wanted);
        number
    }

    /// Somebody asks for what the logs of this core have.
    pub(super) fn serve_search(&mut self, id: SearchId, trace: TraceId, wanted: Wanted) {
        self.upgrades.stirred = true;
        for number in 0..self.landings.len() {
            let tail = self.landings[number].tail();
            let before = match wanted {
                Wanted::Keep(_) if number == 0 => self.untold(id.asker).unwrap_or(tail),
                Wanted::Keep(_) | Wanted::Digest | Wanted::Places | Wanted::Durability => tail,
            };
            self.landings[number].begin_search(id, trace, wanted, before);
        }
        self.upgrades.served.push(Served {
            id,
            missing: self.landings.len(),
            found: nothing(id),
        });
    }

    /// From where on the owner has not counted back what this core's log holds.
    fn untold(&self, owner: CoreId) -> Option<Position> {
        let owner = usize::from(owner.0);
        let on_way = self.peers[owner].batches_on_way.front().map(|(_, first)| *first);
        on_way.or_else(|| self.batches[owner].places.first().map(|place| place.entry()))
    }

    fn collect_answers(&mut self) {
        for number in 0..self.landings.len() {
            while let Some(searched) = self.landings[number].poll_searched() {
                let served = &mut self.upgrades.served;
                let index = served.iter().position(|served| served.id == searched.id);
                let index = index.expect("a landing answers what it was asked, once");
                merge(&mut served[index].found, searched);
                served[index].missing -= 1;
                if served[index].missing == 0 {
                    let Served { id, found, .. } = served.swap_remove(index);
                    match id.asker == self.core {
                        true => self.handle_searched(found),
                        false => {
                            let peer = &mut self.peers[usize::from(id.asker.0)];
                            peer.seal_settled();
                            peer.sealed.push_back(Message::Searched(found));
                        }
                    }
                }
            }
        }
    }

    /// All logs of one core have been searched.
    pub(super) fn handle_searched(&mut self, searched: Searched) {
        let searches = &mut self.upgrades.searches;
        let Some(index) = searches
            .iter()
            .position(|search| search.number == searched.id.number)
        else {
            // Nobody waits for it any more.
            return;
        };
        merge(&mut searches[index].found, searched);
        searches[index].missing -= 1;
        if searches[index].missing > 0 {
            return;
        }
        let Search {
            trace,
            purpose,
            found,
            ..
        } = searches.swap_remove(index);
        match purpose {
            Purpose::Upgrade { at } => self.end_upgrade(trace, at),
            Purpose::Find => self.upgrades.finds.push(found),
            Purpose::Late { dropped, .. } => {
                let ruling = self.policies.judge_again(trace, &found.digest, dropped.verdict);
                if ruling.verdict == Verdict::Keep
                    && self.upgrade(trace, table::upgrade_by(&ruling, dropped)) == Upgrade::Refused
                {
                    self.stats.traces.upgrades_skipped += 1;
                }
            }
        }
    }

    /// Whether this core owns the trace.
    pub fn owns(&self, trace: &TraceId) -> bool {
        let hash = self.landings[0].hash_key().trace(trace);
        route::owner(hash, self.peers.len() as u16) == self.core
    }
}

fn nothing(id: SearchId) -> Searched {
    Searched {
        id,
        span_count: 0,
        digest: Digest::EMPTY,
        places: Places::new(),
    }
}

fn merge(found: &mut Searched, more: Searched) {
    found.span_count += more.span_count;
    found.digest = found.digest.merge(more.digest);
    found.places.extend(more.places);
}
