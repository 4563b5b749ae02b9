//! What must hold, asked of a node from outside.

use std::collections::{BTreeMap, BTreeSet};

use tailkeep::base::ids::CoreId;
use tailkeep::route::{self, ItemBatch};
use tailkeep::shard::{Credit, Message};
use tailkeep::stats::Stats;
use tailkeep::verdict::Verdict;

use crate::client::{Client, Errors};
use crate::damage::Toll;
use crate::node::{HASH_KEY, Serving};
use crate::spans::{self, SpanKey};

/// Items of one request at most: as many traces as a client puts into one.
const REQUEST_ITEMS_MAX: usize = 8;

/// What comes out, and what need not.
#[derive(Default)]
pub struct Output {
    pub spans: BTreeMap<SpanKey, u32>,
    /// Traces with one error whose verdict was given before it came. Late spans follow the verdict.
    excused: BTreeSet<u64>,
    /// Spans that damage hit in a log, or their only copy in a kept log.
    hit: BTreeSet<SpanKey>,
    /// Traces of which damage took spans before they were judged.
    robbed: BTreeSet<u64>,
    /// Traces whose error their owner has been told of since the start.
    known_errors: BTreeSet<u64>,
    /// Traces that somebody wanted kept.
    pub wished: BTreeSet<u64>,
}

impl Output {
    pub fn exported(&mut self, lines: &[u8]) {
        for key in spans::exported(lines) {
            *self.spans.entry(key).or_default() += 1;
        }
    }

    /// Damage took these entries. What was hit may be lost; of its trace the rest may be dropped for want of the error
    /// that was in it, or of the verdict.
    pub fn damaged(&mut self, toll: &Toll, client: &Client) {
        self.hit.extend(toll.spans.iter().chain(&toll.copies));
        let single = |trace: &u64| matches!(client.traces[trace], Errors::At(_));
        self.excused.extend(toll.traces.iter().copied().filter(single));
        self.robbed.extend(toll.spans.iter().map(|(trace, _)| *trace));
    }

    /// A start: owners know what stands in the logs.
    pub fn started<'a>(&mut self, serving: impl Iterator<Item = &'a Serving>) {
        self.known_errors.clear();
        serving.for_each(|shard| self.learned(shard));
    }

    /// What a table holds, its owner knows.
    pub fn learned(&mut self, shard: &Serving) {
        let open = shard.table().fold_of_open_traces().into_iter();
        let errored = open.filter(|(_, digest, _)| digest.has_error);
        self.known_errors
            .extend(errored.map(|(trace, ..)| spans::number(trace)));
    }

    pub fn items_taken(&mut self, batch: &ItemBatch) {
        let errored = batch.items.iter().filter(|item| item.digest.has_error);
        self.known_errors
            .extend(errored.map(|item| spans::number(item.trace)));
    }

    /// An owner has decided something. A verdict that knew of an error is Keep.
    pub fn decided(&mut self, shard: &Serving, core_count: u16, client: &Client, is_faultless: bool) {
        let once = client
            .traces
            .iter()
            .filter(|(_, errors)| matches!(errors, Errors::At(_)));
        for (trace, _) in once {
            let id = spans::trace_id(*trace);
            if route::owner(HASH_KEY.trace(&id), core_count) != shard.core() || self.excused.contains(trace) {
                continue;
            }
            let dropped = |verdict| matches!(verdict, Verdict::Rollup | Verdict::Deny);
            if shard
                .table()
                .decided(&id)
                .is_some_and(|decision| dropped(decision.verdict))
            {
                assert!(
                    !self.known_errors.contains(trace),
                    "trace {trace} was dropped by an owner that knew of its error"
                );
                let is_out = self.spans.range((*trace, 0)..(*trace + 1, 0)).next().is_some();
                assert!(
                    !(is_faultless && is_out),
                    "V1: trace {trace} was kept, and then dropped"
                );
                self.excused.insert(*trace);
            }
        }
    }

    /// Every acknowledged span that is to be kept is out, but for so many that the node said it lost.
    pub fn assert_durable(&self, client: &Client, counted_lost: u64) -> usize {
        let due = self.due(client);
        let missing: Vec<_> = due.iter().filter(|key| !self.spans.contains_key(key)).collect();
        assert!(
            missing.len() as u64 <= counted_lost,
            "W2: {} of {} due spans are lost, {counted_lost} counted: {missing:?}",
            missing.len(),
            due.len()
        );
        due.len()
    }

    fn due(&self, client: &Client) -> Vec<SpanKey> {
        let is_due = |key: &&SpanKey| match client.traces[&key.0] {
            _ if self.hit.contains(key) || self.robbed.contains(&key.0) => false,
            Errors::Never => false,
            Errors::At(at) => client.acknowledged.contains(&(key.0, at)) && !self.excused.contains(&key.0),
            Errors::Always => true,
        };
        client.acknowledged.iter().filter(is_due).copied().collect()
    }

    pub fn assert_nothing_invented(&self, client: &Client) {
        let sent = client.sent_spans();
        for key in self.spans.keys() {
            assert!(sent.contains(key), "{key:?} was never sent");
            let is_wished = self.wished.contains(&key.0);
            assert!(
                is_wished || client.traces[&key.0] != Errors::Never,
                "trace {} has no error",
                key.0
            );
        }
    }

    /// Whatever its owner says is kept is out whole, from all logs, as long as these have it.
    pub fn assert_kept_is_out<'a>(
        &self,
        client: &Client,
        serving: impl Iterator<Item = &'a Serving> + Clone,
    ) {
        let count = serving.clone().count() as u16;
        let is_kept = |trace: &u64| {
            let id = spans::trace_id(*trace);
            let owner = route::owner(HASH_KEY.trace(&id), count);
            let mut serving = serving.clone();
            let shard = serving.find(|shard| shard.core() == owner).expect("an owner");
            let decision = shard.table().decided(&id);
            decision.is_some_and(|decision| decision.verdict == Verdict::Keep)
        };
        for trace in client.traces.keys().filter(|trace| is_kept(trace)) {
            let acknowledged = client.acknowledged.range((*trace, 0)..(*trace + 1, 0));
            let missing: Vec<_> = acknowledged.filter(|key| !self.spans.contains_key(key)).collect();
            assert!(
                missing.is_empty(),
                "W3: trace {trace} is kept, and {missing:?} never came out"
            );
        }
    }

    /// An error that comes late makes a dropped trace one to keep.
    pub fn assert_late_errors_keep(&self, client: &Client) {
        for (trace, errors) in &client.traces {
            if let Errors::At(at) = errors
                && client.acknowledged.contains(&(*trace, *at))
            {
                assert!(
                    self.spans.contains_key(&(*trace, *at)),
                    "trace {trace} has an error and is not kept"
                );
            }
        }
    }

    /// Without a fault: what is kept comes out once.
    pub fn assert_exactly_once(&self, client: &Client) {
        let twice: Vec<_> = self.spans.iter().filter(|(_, count)| **count > 1).collect();
        assert!(twice.is_empty(), "came out again: {twice:?}");
        for key in self.due(client) {
            assert_eq!(self.spans.get(&key), Some(&1), "{key:?}");
        }
    }
}

/// C1 over all cores of a node where nothing is on its way.
pub fn assert_ledger<'a>(serving: impl Iterator<Item = &'a Serving> + Clone) {
    let mut stats = Stats::new(1);
    serving.clone().for_each(|shard| stats.merge(shard.stats()));
    let pending: u64 = serving.map(|shard| shard.table().pending_spans()).sum();
    let spans = &stats.spans;
    let went = spans.decided.iter().sum::<u64>() + spans.lost_total();
    assert_eq!(
        spans.accepted_total() + spans.resumed + spans.upgraded,
        went + pending,
        "C1: {spans:?}"
    );
}

/// B1: what is on its way from one core to another, counted by who carries it.
#[derive(Default)]
pub struct Ways {
    items: BTreeMap<(u16, u16), usize>,
    settlements: BTreeMap<(u16, u16), usize>,
}

impl Ways {
    pub fn sent(&mut self, from: CoreId, to: CoreId, message: &Message, credit: Credit) {
        match message {
            Message::Items(batch) => {
                let on_way = self.items.entry((from.0, to.0)).or_default();
                *on_way += batch.items.len();
                assert!(
                    *on_way < credit.items + REQUEST_ITEMS_MAX,
                    "B1: {on_way} items on the way"
                );
            }
            Message::Settled { settlements, .. } => {
                *self.settlements.entry((from.0, to.0)).or_default() += settlements.len();
            }
            _ => {}
        }
    }

    /// Credit comes home with `Settled`.
    pub fn delivered(&mut self, from: CoreId, to: CoreId, message: &Message) {
        if let Message::Settled {
            items_absorbed,
            settlements_taken,
            ..
        } = message
        {
            let give_back = |ways: &mut BTreeMap<(u16, u16), usize>, count: usize| {
                let on_way = ways.entry((to.0, from.0)).or_default();
                *on_way = on_way
                    .checked_sub(count)
                    .expect("B1: credit for what was never sent");
            };
            give_back(&mut self.items, *items_absorbed);
            give_back(&mut self.settlements, *settlements_taken);
        }
    }

    pub fn lacks_items(&self, from: CoreId, credit: Credit) -> bool {
        lacks(&self.items, from, credit.items)
    }

    pub fn lacks_settlements(&self, from: CoreId, credit: Credit) -> bool {
        lacks(&self.settlements, from, credit.settlements)
    }

    pub fn assert_all_came_home(&self) {
        let ways = self.items.values().chain(self.settlements.values());
        assert_eq!(ways.sum::<usize>(), 0, "B1: credit is lost");
    }
}

fn lacks(ways: &BTreeMap<(u16, u16), usize>, from: CoreId, bound: usize) -> bool {
    ways.range((from.0, 0)..=(from.0, u16::MAX))
        .any(|(_, on_way)| *on_way >= bound)
}
