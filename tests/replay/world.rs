//! A core, its two disks, one destination, and what was sent and promised.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use tailkeep::base::block::VecPool;
use tailkeep::base::ids::{CoreId, LogId};
use tailkeep::base::time::{Instant, Now, WallTime};
use tailkeep::export::Shipment;
use tailkeep::export::retry::{Arrival, Cause, Failure};
use tailkeep::landing::fetch::{ReadOp, WhichLog};
use tailkeep::landing::{Effect, Landing, Request, SavedLog};
use tailkeep::policy::PolicySet;
use tailkeep::route::HashKey;
use tailkeep::shard::{self, Resuming, Shard};
use tailkeep::stats::Transport;
use tailkeep::table::{SavedTrace, Trace};

use crate::disk::{Crash, Faults};
use crate::naive::Naive;
use crate::random::Random;
use crate::spans::{self, SpanKey, span};
use crate::start::{self, LogDisks, ReplayedLog, Setting};

const LOG: LogId = LogId(0);
const HASH_KEY: HashKey = HashKey([0x1234_5678_9abc_def0, 0x0fed_cba9_8765_4321]);
const SEGMENT_BYTES: u64 = 512 << 10;

/// A request, as the waiter that it leaves behind.
type Waiter = u64;

pub struct World {
    policies: PolicySet,
    core: Option<Shard<VecPool, Waiter>>,
    disks: LogDisks,
    reads: VecDeque<ReadOp>,
    shipment: Option<Shipment>,
    now: Now,
    output: BTreeMap<SpanKey, u32>,

    requests: Vec<Vec<SpanKey>>,
    acknowledged: BTreeSet<SpanKey>,
    /// Traces whose error was in the first request. Only their spans are due.
    errored: BTreeSet<u64>,
    /// Spans sent of each trace, the newest traces last.
    traces: Vec<(u64, u64)>,
    next_trace: u64,
    /// The first span that came when the log, and so the core, had forgotten the verdict of its trace: from
    /// then on it is another trace.
    forgotten_from: BTreeMap<u64, u64>,
    /// Traces before this one have been damaged.
    due_from: u64,
    /// Bytes of log that the last start had no need of.
    pub passed_over: u64,
    /// Spans that earlier cores said they lost: a kept log that takes no writes loses what is kept meanwhile.
    counted_lost: u64,
    /// From the next start on.
    pub retain: Duration,
    /// For the next start.
    saved: Option<(SavedLog, Vec<SavedTrace>)>,
    /// From the next start on: traces stay open at least so long.
    pub quiet: Duration,
    /// Bytes that the cores before this one copied forward.
    forwarded: u64,
    damaged: bool,
}

/// What a start found.
pub struct Found {
    pub corrupt: usize,
}

impl World {
    pub fn new(seed: u64) -> World {
        let mut world = World {
            policies: start::errors_policy(),
            core: None,
            disks: LogDisks::new(seed),
            reads: VecDeque::new(),
            shipment: None,
            now: Now {
                instant: Instant(1_000_000_000),
                wall: WallTime(1_700_000_000_000_000_000 + seed % 1000),
            },
            output: BTreeMap::new(),
            requests: Vec::new(),
            acknowledged: BTreeSet::new(),
            errored: BTreeSet::new(),
            traces: Vec::new(),
            next_trace: 1,
            forgotten_from: BTreeMap::new(),
            due_from: 0,
            passed_over: 0,
            counted_lost: 0,
            retain: Duration::from_millis(500),
            saved: None,
            // Now and then longer than segments last.
            quiet: Duration::from_millis(if seed.is_multiple_of(3) { 3_000 } else { 200 }),
            forwarded: 0,
            damaged: false,
        };
        world.restart();
        world
    }

    // ---- what happens -----------------------------------------------------------------------------------

    /// A new trace, more of a recent one, or something late.
    pub fn send(&mut self, random: &mut Random) {
        let is_new = self.traces.is_empty() || random.below(2) == 0;
        let (trace, from, fails) = if is_new {
            self.next_trace += 1;
            self.traces.push((self.next_trace, 0));
            (self.next_trace, 0, random.below(3) == 0)
        } else {
            let back = random.below(self.traces.len().min(30) as u64) as usize + 1;
            let (trace, sent) = self.traces[self.traces.len() - back];
            (trace, sent, false)
        };
        let filler = match random.below(8) {
            0 => random.below(60_000),
            _ => random.below(2_000),
        };
        self.submit(trace, from, 1 + random.below(4), fails, filler as usize);
    }

    pub fn send_trace(&mut self, trace: u64, fails: bool) {
        self.traces.push((trace, 0));
        self.submit(trace, 0, 2, fails, 10);
    }

    /// `false`: refused.
    pub fn try_send(&mut self, trace: u64, length: usize) -> bool {
        self.traces.push((trace, 0));
        self.submit(trace, 0, 1, false, length)
    }

    /// Of all traces, in sixteenths.
    pub fn leave_out(&mut self, share: u8) {
        self.core().overload_mut().set_node_share(share);
    }

    /// Spans of a trace that came out.
    pub fn out_of(&self, trace: u64) -> usize {
        self.output.range((trace, 0)..(trace + 1, 0)).count()
    }

    /// Spans that were acknowledged and not taken.
    pub fn left_out_spans(&mut self) -> u64 {
        self.core().stats().spans.lost_total()
    }

    /// Time goes by, and all that is due is done.
    pub fn pass_idle(&mut self, milliseconds: u64) {
        for _ in 0..milliseconds / 50 {
            self.pass(50);
            self.settle_disks();
            self.ship(true);
        }
    }

    pub fn send_late(&mut self, trace: u64, fails: bool, filler: usize) {
        self.submit(trace, 100, 1, fails, filler);
    }

    /// Spans that the last start found undecided.
    pub fn resumed_spans(&mut self) -> u64 {
        self.core().stats().spans.resumed
    }

    fn submit(&mut self, trace: u64, from: u64, count: u64, fails: bool, filler: usize) -> bool {
        let spans = (from..from + count)
            .map(|number| span(trace, number, fails && number == from, filler))
            .collect();
        let body = spans::request(spans);
        if fails {
            self.errored.insert(trace);
        }
        if let Some((_, sent)) = self.traces.iter_mut().rev().find(|(known, _)| *known == trace) {
            *sent = (*sent).max(from + count);
        }
        let id = spans::trace_id(trace);
        let table = self.core().table();
        if from > 0 && table.open_trace(&id).is_none() && table.decided(&id).is_none() {
            self.forgotten_from.entry(trace).or_insert(from);
        }
        let number = self.requests.len() as Waiter;
        self.requests
            .push((from..from + count).map(|number| (trace, number)).collect());
        let now = self.now;
        let (_, given_back) = self.core().handle_export(
            now,
            Request {
                transport: Transport::Http,
                body: &body,
                waiter: number,
            },
        );
        if given_back.is_some() && fails {
            // Refused: without its error nothing of it is due.
            self.errored.remove(&trace);
        }
        self.turn();
        given_back.is_none()
    }

    pub fn complete_something(&mut self, random: &mut Random) {
        let now = self.now;
        match random.below(5) {
            0 => self.complete_read(),
            1 => {
                if let Some((op, result)) = self.disks.kept.step() {
                    self.core().handle_op(now, LOG, WhichLog::Kept, op, result);
                }
            }
            _ => {
                if let Some((op, result)) = self.disks.main.step() {
                    self.core().handle_op(now, LOG, WhichLog::Main, op, result);
                }
            }
        }
        self.turn();
    }

    fn complete_read(&mut self) {
        let Some(read) = self.reads.pop_front() else {
            return;
        };
        let disk = match read.log {
            WhichLog::Main => &self.disks.main,
            WhichLog::Kept => &self.disks.kept,
        };
        let bytes = disk.read(read.segment, read.offset, read.len);
        self.core().handle_read(LOG, read, bytes);
    }

    /// The shipment that is out arrives, or does not.
    pub fn ship(&mut self, arrives: bool) {
        let Some(shipment) = self.shipment.take() else {
            return;
        };
        let now = self.now;
        if arrives {
            self.write(&shipment);
        }
        let result = if arrives {
            Ok(Arrival::default())
        } else {
            Err(Failure::new(Cause::Io, "the destination is away"))
        };
        self.core()
            .handle_shipped(now, LOG, 0, shipment.through, result, 0);
        self.turn();
    }

    fn write(&mut self, shipment: &Shipment) {
        for key in spans::exported(&shipment.pieces.concat()) {
            *self.output.entry(key).or_default() += 1;
        }
    }

    pub fn pass(&mut self, milliseconds: u64) {
        let duration = Duration::from_millis(milliseconds);
        self.now = Now {
            instant: self.now.instant.plus(duration),
            wall: self.now.wall.plus(duration),
        };
        let now = self.now;
        if self.core().poll_timeout().is_some_and(|due| due <= now.instant) {
            self.core().handle_timeout(now);
        }
        self.turn();
    }

    fn core(&mut self) -> &mut Shard<VecPool, Waiter> {
        self.core.as_mut().expect("it runs")
    }

    fn turn(&mut self) {
        let now = self.now;
        while self.core().advance(now) {}
        for disk in [&self.disks.main, &self.disks.kept] {
            assert_eq!(disk.broken, None);
        }
        while let Some(effect) = self.core().poll_effect(now) {
            match effect.what {
                Effect::Reply(waiter, Ok(())) => self.acknowledged.extend(&self.requests[waiter as usize]),
                Effect::Reply(..) => {}
                Effect::Disk(WhichLog::Main, id, op) => self.disks.main.submit(id, op),
                Effect::Disk(WhichLog::Kept, id, op) => self.disks.kept.submit(id, op),
                Effect::Read(read) => self.reads.push_back(read),
                Effect::Ship(destination, shipment) => {
                    assert_eq!(destination, 0);
                    assert!(
                        self.shipment.replace(shipment).is_none(),
                        "B1: one shipment at a time"
                    );
                }
            }
        }
    }

    /// Everything under way is done, again and again, until there is nothing left and nothing pends.
    pub fn settle(&mut self) {
        for _ in 0..20_000 {
            self.settle_disks();
            self.ship(true);
            let now = self.now;
            let core = self.core();
            if core.table().is_empty()
                && core.is_settled(now)
                && core.landings()[0].destinations().all(|it| it.queued_spans == 0)
            {
                return;
            }
            self.pass(20);
        }
        let pending = self.core().table().len();
        panic!(
            "it does not settle: {pending} traces pend, {} reads",
            self.reads.len()
        );
    }

    pub fn settle_disks(&mut self) {
        let now = self.now;
        while self.disks.main.under_way() + self.disks.kept.under_way() + self.reads.len() > 0 {
            if let Some((op, result)) = self.disks.main.step() {
                self.core().handle_op(now, LOG, WhichLog::Main, op, result);
            }
            if let Some((op, result)) = self.disks.kept.step() {
                self.core().handle_op(now, LOG, WhichLog::Kept, op, result);
            }
            self.complete_read();
            self.turn();
        }
    }

    /// Other traffic until the segments that were there have gone.
    pub fn recycle(&mut self, random: &mut Random) {
        let last = *self.disks.main.files.keys().next_back().expect("a segment");
        for _ in 0..2_000 {
            if self.disks.main.files.keys().next() > Some(&last) {
                return;
            }
            self.fill(random, 1);
        }
        panic!("{last:?} stays");
    }

    /// Other traffic of so many bytes at least.
    pub fn fill(&mut self, random: &mut Random, bytes: usize) {
        let mut sent = 0;
        while sent < bytes {
            self.next_trace = self.next_trace.max(1_000) + 1;
            let length = 40_000 + random.below(20_000) as usize;
            self.submit(self.next_trace, 0, 1, false, length);
            self.settle_disks();
            self.pass(100);
            sent += length;
        }
    }

    /// Copied forward since the beginning.
    pub fn forwarded_bytes(&self) -> u64 {
        let landings = self.core.iter().flat_map(|core| core.landings());
        self.forwarded + landings.map(Landing::forwarded_bytes).sum::<u64>()
    }

    /// More of a trace.
    pub fn send_more(&mut self, trace: u64, number: u64) {
        self.submit(trace, number, 1, false, 3_000);
    }

    /// Files of the log, oldest and newest.
    pub fn segments(&self) -> (tailkeep::wal::SegmentId, usize) {
        let files = &self.disks.main.files;
        (*files.keys().next().expect("a segment"), files.len())
    }

    /// The core knows what was decided about it.
    pub fn is_late(&mut self, trace: u64) -> bool {
        let id = spans::trace_id(trace);
        self.core().table().open_trace(&id).is_none() && self.core().table().decided(&id).is_some()
    }

    // ---- ends and beginnings ----------------------------------------------------------------------------

    pub fn power_cut(&mut self, random: &mut Random) {
        if let Some(shipment) = self.shipment.take().filter(|_| random.below(2) == 0) {
            // It had arrived, and nobody knows.
            self.write(&shipment);
        }
        self.counted_lost += self.spans_without_room();
        self.forwarded = self.forwarded_bytes();
        self.core = None;
        self.reads.clear();
        // Now and then only the process ends: what was written is with the disk.
        let crash = match random.below(4) {
            0 => Crash::Kill,
            _ => Crash::PowerCut,
        };
        self.disks.main.crash(crash);
        self.disks.kept.crash(crash);
    }

    pub fn damage(&mut self) {
        self.damaged = true;
        self.disks.main.rot();
        self.disks.kept.rot();
    }

    pub fn fail_disks(&mut self, faults: Faults) {
        self.disks.main.faults = faults;
        self.disks.kept.faults = faults;
    }

    /// What was sent before may have been hit.
    pub fn forget_what_is_due(&mut self) {
        self.due_from = self.next_trace + 1;
        self.traces.clear();
    }

    /// A core from what the disks hold, as the node makes one. W4 is checked on the way.
    pub fn restart(&mut self) -> Found {
        let second = Duration::from_secs(1);
        self.now = Now {
            instant: self.now.instant.plus(second),
            wall: self.now.wall.plus(second),
        };
        let now = self.now;
        let table = start::table(HASH_KEY, self.quiet, now);
        let mut resuming = Resuming::new(CoreId(0), 1, HASH_KEY, table);
        let mut naive = Naive::new(HASH_KEY);
        let policies = self.policies.clone();
        let saved = self.saved.take();
        let setting = Setting {
            hash_key: HASH_KEY,
            policies: &policies,
            segment_bytes: SEGMENT_BYTES,
            size_max: 12 << 20,
            retain: self.retain,
            log_seed: 0x5eed,
            saved: saved.as_ref().map(|(log, _)| log),
            now,
            damaged: self.damaged,
        };
        let ReplayedLog {
            parts,
            passed_over,
            corrupt,
        } = start::replay(&setting, LOG, &mut self.disks, &mut naive, |found| {
            assert!(resuming.decided(found).is_empty(), "one core owns all")
        });
        self.passed_over = passed_over;
        let (mut landing, mut fragments) = Landing::resume(parts, &policies, now);
        if let Some((log, traces)) = &saved {
            landing.hold_saved(log);
            let restored = traces
                .iter()
                .map(|saved| Trace::restore(now, saved).expect("sound"));
            fragments.extend(restored);
        }
        let upgrades = landing.resumed_upgrades();
        assert!(
            resuming.replayed(fragments, upgrades).is_empty(),
            "one core owns all"
        );
        resuming.handle_message(CoreId(0), shard::Message::Replayed);
        let shard = Shard::new(resuming, policies, vec![landing], now);
        let sorted = |mut fold: Vec<(_, _, Vec<_>)>| {
            fold.iter_mut().for_each(|(_, _, places)| places.sort());
            fold
        };
        assert_eq!(
            sorted(shard.table().fold_of_open_traces()),
            sorted(naive.open_traces()),
            "W4"
        );
        self.core = Some(shard);
        self.turn();
        Found { corrupt }
    }

    /// Brings everything under way to its end, but decides nothing more, and leaves a checkpoint for the next start.
    /// `false`: the disks do not get it done.
    pub fn checkpoint(&mut self, random: &mut Random) -> bool {
        let now = self.now;
        self.core().stop(now, Duration::ZERO);
        for _ in 0..2_000 {
            self.complete_something(random);
            if random.below(10) == 0 {
                self.pass(5);
            }
            if self.core().is_quiet() {
                let now = self.now;
                let core = self.core();
                let saved = (core.landings()[0].saved(), core.table().saved(now).collect());
                self.saved = Some(saved);
                return true;
            }
        }
        false
    }

    // ---- judgement --------------------------------------------------------------------------------------

    pub fn assert_due_is_out(&self) {
        let is_due = |key: &&SpanKey| {
            // Without its error a trace was never a trace to keep.
            let has_error = self.acknowledged.contains(&(key.0, 0));
            let is_known = self.forgotten_from.get(&key.0).is_none_or(|from| key.1 < *from);
            key.0 >= self.due_from && self.errored.contains(&key.0) && has_error && is_known
        };
        let due: Vec<_> = self.acknowledged.iter().filter(is_due).collect();
        let lost: Vec<_> = due.iter().filter(|key| !self.output.contains_key(key)).collect();
        let twice = self.output.values().filter(|count| **count > 1).count();
        println!(
            "{} due, {} out, {twice} more than once, {} bytes copied forward",
            due.len(),
            self.output.len(),
            self.forwarded_bytes()
        );
        let counted = self.counted_lost + self.spans_without_room();
        assert!(
            lost.len() as u64 <= counted,
            "W2: {} of {} due spans are lost, {counted} counted: {lost:?}",
            lost.len(),
            due.len()
        );
    }

    /// Kept spans that the one destination lost because its queue was full.
    fn spans_without_room(&self) -> u64 {
        let landings = self.core.iter().flat_map(|core| core.landings());
        let reports = landings.flat_map(|landing| landing.destinations());
        reports.map(|report| report.failed_spans()).sum()
    }

    pub fn assert_nothing_invented(&self) {
        let sent: BTreeSet<&SpanKey> = self.requests.iter().flatten().collect();
        assert!(self.output.keys().all(|key| sent.contains(key)));
        assert!(
            self.output.keys().all(|(trace, _)| self.errored.contains(trace)),
            "a trace without error came out"
        );
    }

    /// C1.
    pub fn assert_ledger(&mut self) {
        let spans = &self.core().stats().spans;
        let went: u64 = spans.decided.iter().sum::<u64>() + spans.lost_total();
        assert_eq!(
            spans.accepted_total() + spans.resumed + spans.upgraded,
            went,
            "C1: {spans:?}"
        );
    }
}
