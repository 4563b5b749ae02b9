//! Quotas: so many spans or bytes a second over all who judge, and never more.
//!
//! ```text
//!  judge: an owner core, of any node                          ledger: one core of one node
//!  ask(40) ─ its lease has 40? ──yes──→ granted
//!               │ no                                          ┌ bucket: rate, burst
//!               ├─ the ledger surely has no 40 ──→ refused    │
//!               └─ Ask{want 40, returned 3} ────────────────→ take 40, and some for the next 100 ms
//!  later                                                      │
//!  ask(40) again ←────────────── Grant{tokens 45, left 12} ───┘
//! ```
//!
//! A quota is a leaf of a policy's rule, and no fold: its answer is not in the spans. It is Unknown until its trace is
//! closed; then it is asked once, where its answer decides something, and what it said goes with the trace
//! ([`QuotaAnswers`]). A judge on the ledger's own core asks the bucket itself; any other holds a [`lease`].
//!
//! **Where.** In one node the ledger is on the core that the policy's name hashes to; in a cluster on that core of the
//! node with the highest rendezvous score. Whoever asks states the terms, so a node serves policies that it does not
//! have, and nodes with different terms under one name have a ledger each.
//!
//! **Invariants.** Q1: in any window a ledger gives out at most burst + rate × time, so judges spend at most that and
//! what was leased to them before. Q2: a judge holds one lease at most: what it asked for, and 100 ms of the rate.
//! Q3: who asks is answered, by the ledger or by the judge's patience ([`PATIENCE`]): nothing waits for ever.
//! W4: a ledger begins empty, after a restart and wherever it moves; only the first start of a single node begins full.
//! So a move costs at most the leases that are out, and while nodes disagree who has the ledger, each adds its rate.

mod answers;
mod bucket;
mod lease;
mod ledger;

pub use answers::QuotaAnswers;
pub use bucket::TokenBucket;
pub use lease::{Lease, Ticket};
pub use ledger::{AHEAD, Ledger};

use crate::base::ids::CoreId;
use crate::base::time::{Instant, Now};
use crate::digest::Digest;
use crate::route::{self, HashKey};
use hashbrown::HashMap;
use siphasher::sip::SipHasher13;
use std::collections::VecDeque;
use std::hash::Hasher;
use std::time::Duration;

use super::PolicyIndex;

/// Quotas of one configuration at most; one more is refused at load by name.
pub const QUOTA_COUNT_MAX: usize = 64;
/// A closed trace waits so long for a ledger's answer, then it is refused.
pub const PATIENCE: Duration = Duration::from_secs(1);
/// Ledgers of one core at most, those of policies that only peers have included.
const LEDGER_COUNT_MAX: usize = 1024;

/// A quota's number in its policy set.
///
/// Invariant: below [`QUOTA_COUNT_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QuotaIndex(pub(super) u8);

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unit {
    Spans,
    /// Of span messages, as they came.
    Bytes,
}

/// So many tokens a second; so many at once at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Terms {
    pub unit: Unit,
    pub rate: u64,
    pub burst: u64,
}

/// Which ledger, for every node of every version and configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct QuotaKey {
    /// A hash of the policy's name: says where the ledger is.
    pub policy: u64,
    /// Which quota of the policy, from 0 on.
    pub part: u16,
    pub terms: Terms,
}

/// A quota as the configuration has it.
#[derive(Clone, Copy, Debug)]
pub struct Quota {
    pub key: QuotaKey,
    /// Whose rule asks it.
    pub policy: PolicyIndex,
}

/// Who holds a lease: a core of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Judge {
    /// 0 of a node without a cluster.
    pub node: u64,
    pub core: CoreId,
}

/// What judges and ledgers tell each other. Either may be lost, come twice or late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leasing {
    Ask(Ask),
    Grant(Grant),
}

/// A judge's request, one at a time for each quota; repeated until it is answered or given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    pub quota: QuotaKey,
    pub judge: Judge,
    /// Rises with each request, over restarts too; compared as a serial number.
    pub number: u32,
    /// What closed traces wait for, in all, and what the smallest of them needs.
    pub want: u64,
    pub least: u64,
    /// What will be wanted soon: of [`AHEAD`] at most.
    pub ahead: u64,
    /// Leased before and not needed.
    pub returned: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    pub quota: QuotaKey,
    pub judge: Judge,
    /// Of the request.
    pub number: u32,
    pub tokens: u64,
    /// What the ledger has now.
    pub left: u64,
}

impl Leasing {
    /// For which core of the node that gets it.
    pub fn core(&self, core_count: u16) -> CoreId {
        match self {
            Leasing::Ask(ask) => route::owner(ask.quota.policy, core_count),
            Leasing::Grant(grant) => grant.judge.core,
        }
    }
}

/// Where a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    Core(CoreId),
    Node(u64),
}

/// What a quota says of one trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// And charged.
    Granted,
    Refused {
        left: u64,
    },
    /// No ledger answered in time; as good as refused.
    Unanswered,
    /// Ask again, with this ticket.
    Later(Ticket),
}

/// How a question may be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    MayWait,
    /// The trace cannot stay: what is here decides.
    Now,
    /// The trace is kept whatever is answered; it is charged when the answer comes.
    Anyway,
}

/// Among whom ledgers are dealt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Company {
    /// There are no other nodes.
    None,
    /// Nobody has said yet who is there.
    Unknown,
    Nodes {
        live: Vec<u64>,
        key: HashKey,
    },
}

/// All quotas of one core: as the judge of its traces, and as the ledger of some.
///
/// Take what happened with [`Quotas::ask`], [`Quotas::handle`], [`Quotas::set_company`]; then [`Quotas::poll`] until
/// `None`, and again when [`Quotas::poll_timeout`] says so.
#[derive(Debug)]
pub struct Quotas {
    judge: Judge,
    core_count: u16,
    company: Company,
    seated: Vec<Seated>,
    ledgers: HashMap<QuotaKey, Ledger>,
    outbox: VecDeque<(To, Leasing)>,
    /// Some request was answered since somebody looked.
    answered: bool,
}

#[derive(Debug)]
struct Seated {
    key: QuotaKey,
    seat: Seat,
    lease: Lease,
}

/// Where a ledger is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seat {
    Here,
    At(To),
    /// Not known yet.
    Nowhere,
}

/// The same for every node.
pub fn name_hash(policy_name: &str) -> u64 {
    let mut hasher = SipHasher13::new();
    hasher.write(b"tailkeep quota 1\0");
    hasher.write(policy_name.as_bytes());
    hasher.finish()
}

impl QuotaIndex {
    pub fn number(self) -> usize {
        usize::from(self.0)
    }
}

impl Unit {
    /// What a trace costs.
    pub fn amount(self, digest: &Digest) -> u64 {
        match self {
            Unit::Spans => u64::from(digest.span_count),
            Unit::Bytes => digest.bytes,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Unit::Spans => "spans",
            Unit::Bytes => "bytes",
        }
    }
}

impl Quotas {
    /// Of a core that judges nothing yet.
    pub fn none() -> Quotas {
        let judge = Judge {
            node: 0,
            core: CoreId(0),
        };
        Quotas {
            judge,
            core_count: 1,
            company: Company::None,
            seated: Vec::new(),
            ledgers: HashMap::new(),
            outbox: VecDeque::new(),
            answered: false,
        }
    }

    /// `starts_full`: this node has never judged before, and is no part of a cluster.
    pub fn new(
        quotas: &[Quota],
        judge: Judge,
        core_count: u16,
        company: Company,
        starts_full: bool,
        now: Now,
    ) -> Quotas {
        let first_number = (now.wall.0 / 1_000_000) as u32;
        let seated = quotas.iter().map(|quota| Seated {
            key: quota.key,
            seat: Seat::Nowhere,
            lease: Lease::new(quota.key, judge, first_number),
        });
        let mut quotas = Quotas {
            judge,
            core_count,
            company: Company::Unknown,
            seated: seated.collect(),
            ledgers: HashMap::new(),
            outbox: VecDeque::new(),
            answered: false,
        };
        quotas.set_company(now.instant, company);
        if starts_full {
            let here = quotas.seated.iter().filter(|seated| seated.seat == Seat::Here);
            let full = here.map(|seated| (seated.key, Ledger::full(seated.key.terms, now.instant)));
            quotas.ledgers = full.collect();
        }
        quotas
    }

    /// There are other nodes, or others than before. A ledger that comes here begins empty; leases of one that has
    /// moved are void.
    pub fn set_company(&mut self, now: Instant, company: Company) {
        self.company = company;
        for number in 0..self.seated.len() {
            let seat = self.seat_of(self.seated[number].key);
            let seated = &mut self.seated[number];
            if seated.seat != seat {
                seated.seat = seat;
                seated.lease.void(now);
                self.answered = true;
            }
        }
        let mut ledgers = std::mem::take(&mut self.ledgers);
        ledgers.retain(|key, _| self.seat_of(*key) == Seat::Here);
        for seated in self.seated.iter().filter(|seated| seated.seat == Seat::Here) {
            let ledger = ledgers.entry(seated.key);
            ledger.or_insert_with(|| Ledger::empty(seated.key.terms, now));
        }
        self.ledgers = ledgers;
    }

    pub fn company(&self) -> &Company {
        &self.company
    }

    /// Asks a quota for what a closed trace costs. `ticket`: it was asked before.
    pub fn ask(
        &mut self,
        now: Instant,
        quota: QuotaIndex,
        amount: u64,
        ticket: Option<Ticket>,
        urgency: Urgency,
    ) -> Answer {
        let seated = &mut self.seated[quota.number()];
        if amount > seated.key.terms.burst {
            return Answer::Refused {
                left: seated.lease.level(now),
            };
        }
        match seated.seat {
            Seat::Here => {
                let key = seated.key;
                let ledger = self.ledgers.entry(key);
                let ledger = ledger.or_insert_with(|| Ledger::empty(key.terms, now));
                match ledger.take(now, amount) {
                    true => Answer::Granted,
                    false => Answer::Refused {
                        left: ledger.left(now),
                    },
                }
            }
            Seat::At(_) | Seat::Nowhere => seated.lease.ask(now, amount, ticket, urgency),
        }
    }

    /// From another core, or another node.
    pub fn handle(&mut self, now: Instant, leasing: Leasing) {
        match leasing {
            // By its own view of the cluster this node does not keep that ledger: two must not give out one rate.
            Leasing::Ask(ask) if self.seat_of(ask.quota) != Seat::Here => {}
            Leasing::Ask(ask) => {
                let terms = ask.quota.terms;
                if !self.ledgers.contains_key(&ask.quota) && self.ledgers.len() >= LEDGER_COUNT_MAX {
                    return;
                }
                let ledger = self.ledgers.entry(ask.quota);
                let ledger = ledger.or_insert_with(|| Ledger::empty(terms, now));
                if let Some(grant) = ledger.handle(now, &ask) {
                    let to = match ask.judge.node == self.judge.node {
                        true => To::Core(ask.judge.core),
                        false => To::Node(ask.judge.node),
                    };
                    self.outbox.push_back((to, Leasing::Grant(grant)));
                }
            }
            Leasing::Grant(grant) if grant.judge != self.judge => {}
            Leasing::Grant(grant) => {
                let mut asked = self.seated.iter_mut();
                if let Some(seated) = asked.find(|seated| seated.key == grant.quota)
                    && seated.lease.handle(now, &grant)
                {
                    self.answered = true;
                }
            }
        }
    }

    /// A message to be sent.
    pub fn poll(&mut self, now: Instant) -> Option<(To, Leasing)> {
        if let Some(waiting) = self.outbox.pop_front() {
            return Some(waiting);
        }
        for seated in &mut self.seated {
            let Seat::At(to) = seated.seat else { continue };
            if let Some(ask) = seated.lease.poll(now) {
                return Some((to, Leasing::Ask(ask)));
            }
        }
        None
    }

    /// When [`Quotas::poll`] has something by time.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let elsewhere = self.seated.iter();
        let elsewhere = elsewhere.filter(|seated| matches!(seated.seat, Seat::At(_)));
        elsewhere.filter_map(|seated| seated.lease.poll_timeout()).min()
    }

    /// Whether traces that wait may have their answer; says so once.
    pub fn take_answered(&mut self) -> bool {
        std::mem::take(&mut self.answered)
    }

    pub fn has_answered(&self) -> bool {
        self.answered
    }

    /// Tokens in the ledgers of this core, by quota; `None` of those that are elsewhere.
    pub fn levels(&self, now: Instant) -> Vec<Option<u64>> {
        let level = |seated: &Seated| match seated.seat {
            Seat::Here => Some(self.ledgers.get(&seated.key).map_or(0, |ledger| ledger.peek(now))),
            Seat::At(_) | Seat::Nowhere => None,
        };
        self.seated.iter().map(level).collect()
    }

    fn seat_of(&self, key: QuotaKey) -> Seat {
        let node = match &self.company {
            Company::None => self.judge.node,
            Company::Unknown => return Seat::Nowhere,
            Company::Nodes { live, key: hash_key } => {
                let live = live.iter().copied();
                route::home_of_name(*hash_key, live, key.policy).unwrap_or(self.judge.node)
            }
        };
        let core = route::owner(key.policy, self.core_count);
        match node == self.judge.node {
            true if core == self.judge.core => Seat::Here,
            true => Seat::At(To::Core(core)),
            false => Seat::At(To::Node(node)),
        }
    }
}

#[cfg(test)]
mod tests;
