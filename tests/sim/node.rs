//! A whole node: cores, the logs they keep, and what is on its way between them.
//!
//! ```text
//!            requests                     ┌─ queue (0→1) ─┐
//!               │                  core 0 ┤               ├ core 1      messages are delivered late, the pairs
//!   log l ── core l % N                   └─ queue (1→0) ─┘             interleaved, each pair in its order
//!    main and kept disk, reads, one shipment
//! ```
//!
//! Every method is one event; which comes next is for the caller. A start is a node of its own, made from the
//! logs of the one before.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tailkeep::base::block::VecPool;
use tailkeep::base::ids::{CoreId, LogId};
use tailkeep::base::time::{Now, WallTime};
use tailkeep::export::Shipment;
use tailkeep::export::retry::{Arrival, Cause, Failure};
use tailkeep::landing::fetch::{ReadOp, WhichLog};
use tailkeep::landing::{Effect, Landing, Request, SavedLog, Submission};
use tailkeep::policy::PolicySet;
use tailkeep::route::{self, Decision, HashKey};
use tailkeep::shard::{Credit, Message, Resuming, Shard};
use tailkeep::stats::Transport;
use tailkeep::table::{SavedTrace, Trace};
use tailkeep::verdict::{Reason, Verdict};
use tailkeep::wal::recover::{Extent, Fallback};

use crate::checkers::{Output, Ways};
use crate::client::Client;
use crate::damage::Toll;
use crate::disk::{Crash, Faults};
use crate::history::History;
use crate::life::Canary;
use crate::naive::Naive;
use crate::random::Random;
use crate::spans;
use crate::start::{self, LogDisks, Setting};

pub const HASH_KEY: HashKey = HashKey([0x1234_5678_9abc_def0, 0x0fed_cba9_8765_4321]);
const SEGMENT_BYTES: u64 = 256 << 10;
const LOG_BYTES_MAX: u64 = 8 << 20;
/// Long enough that most traces are whole when they are decided, short enough that some are not; and, now and then,
/// long enough that segments grow old with traces open in them.
const QUIET: [Duration; 2] = [Duration::from_millis(400), Duration::from_millis(2_500)];

pub type Serving = Shard<VecPool, usize>;

/// A log of the directory, whoever keeps it.
pub struct LogFiles {
    disks: LogDisks,
    reads: VecDeque<ReadOp>,
    shipment: Option<Shipment>,
}

/// A core between its start and its first request, then one that serves.
#[allow(clippy::large_enum_variant, reason = "a handful of them, and briefly")]
enum Core {
    Starting(Resuming, Vec<Landing<VecPool, usize>>),
    Serving(Box<Serving>),
}

/// What goes on from start to start.
pub struct Outside {
    pub random: Random,
    pub client: Client,
    pub output: Output,
    pub history: History,
    pub now: Now,
    pub logs: Vec<LogFiles>,
    pub counted_lost: u64,
    pub forwarded: u64,
    /// Nothing was done to any disk so far.
    pub disks_are_sound: bool,
    /// The canary: one message of settlements goes astray.
    pub loses_settlements: bool,
    /// What a node that stopped well has left for the next one.
    pub saved: Option<Saved>,
    /// No log of the nodes before has let go of anything. What it let go of may be there again after a crash.
    pub logs_were_whole: bool,
    /// How long segments stay that nothing needs.
    pub retain: Duration,
    /// Some disk did not keep what it was given.
    pub has_damage: bool,
    pub canary: Canary,
}

/// A checkpoint.
pub struct Saved {
    logs: Vec<SavedLog>,
    traces: Vec<SavedTrace>,
}

impl Saved {
    /// Whether the logs end where they ended when this was written. A node takes it for all of them or for none.
    fn fits(&self, outside: &Outside) -> bool {
        let fits = self.logs.iter().all(|saved| {
            let log = LogId(saved.log);
            let files = &outside.logs[usize::from(log.0)].disks.main.files;
            let files = files.iter().map(|(segment, file)| (*segment, file.bytes()));
            let fallback = Some(fallback(log));
            let found = start::recover_files(log, &files.collect(), fallback, Extent::Whole, |_| ());
            saved.fits(found.start.next_sequence)
        });
        let lies = outside.canary == Canary::SyncsThatDoNothing;
        assert!(fits || outside.has_damage || lies, "nothing was written since");
        fits
    }
}

pub struct Node {
    cores: Vec<Option<Core>>,
    queues: BTreeMap<(u16, u16), VecDeque<Message>>,
    ways: Ways,
    credit: Credit,
    policies: PolicySet,
}

impl Node {
    /// Adopts all logs, adds those that are missing. W4 is checked on the way.
    pub fn start(outside: &mut Outside, core_count: u16, credit: Credit) -> Node {
        let now = outside.now;
        while outside.logs.len() < usize::from(core_count) {
            let mut disks = LogDisks::new(outside.random.next());
            disks.main.lies = outside.canary == Canary::SyncsThatDoNothing;
            outside.logs.push(LogFiles {
                disks,
                reads: VecDeque::new(),
                shipment: None,
            });
        }
        let mut node = Node {
            cores: (0..core_count).map(|_| None).collect(),
            queues: BTreeMap::new(),
            ways: Ways::default(),
            credit,
            policies: start::errors_policy(),
        };
        let saved = outside.saved.take().filter(|saved| saved.fits(outside));
        let mut naive = Naive::new(HASH_KEY);
        let quiet = QUIET[usize::from(outside.random.below(4) == 0)];
        for core in 0..core_count {
            let table = start::table(HASH_KEY, quiet, now);
            let mut resuming = Resuming::new(CoreId(core), core_count, HASH_KEY, table).with_credit(credit);
            let landings = node.replay(outside, core, &mut resuming, &mut naive, saved.as_ref());
            node.cores[usize::from(core)] = Some(Core::Starting(resuming, landings));
        }
        for from in 0..core_count {
            (0..core_count).for_each(|to| node.push(outside, CoreId(from), CoreId(to), Message::Replayed));
        }
        while node.starting() > 0 {
            assert!(node.deliver(outside), "W4: a start waits for nothing");
        }
        let mut fold: Vec<_> = node
            .serving()
            .flat_map(|shard| shard.table().fold_of_open_traces())
            .collect();
        let mut naive = naive.open_traces();
        for fold in [&mut fold, &mut naive] {
            fold.sort_by_key(|(trace, ..)| *trace);
            fold.iter_mut().for_each(|(_, _, places)| places.sort());
        }
        if !outside.has_damage {
            assert_eq!(fold, naive, "W4");
        }
        outside.output.started(node.serving());
        (0..core_count).for_each(|core| node.turn(outside, core));
        node
    }

    fn replay(
        &mut self,
        outside: &mut Outside,
        core: u16,
        resuming: &mut Resuming,
        naive: &mut Naive,
        saved: Option<&Saved>,
    ) -> Vec<Landing<VecPool, usize>> {
        let count = self.cores.len() as u16;
        let mut landings = Vec::new();
        for number in (core..outside.logs.len() as u16).step_by(usize::from(count)) {
            let log = LogId(number.try_into().expect("few logs"));
            assert_eq!(route::keeper(log, count), CoreId(core));
            let policies = self.policies.clone();
            let logs = saved.iter().flat_map(|saved| &saved.logs);
            let saved_log = logs.clone().find(|saved| u16::from(saved.log) == number);
            let setting = Setting {
                hash_key: HASH_KEY,
                policies: &policies,
                segment_bytes: SEGMENT_BYTES,
                size_max: LOG_BYTES_MAX,
                retain: outside.retain,
                log_seed: log_seed(log),
                saved: saved_log,
                now: outside.now,
                damaged: outside.has_damage,
            };
            let mut told = Vec::new();
            let disks = &mut outside.logs[usize::from(number)].disks;
            let mut toll = Toll::default();
            toll.collect(log, &mut disks.main, fallback(log));
            toll.collect(log, &mut disks.kept, fallback(log));
            outside.history.note(&("damage", log, &toll));
            outside.output.damaged(&toll, &outside.client);
            let replayed = start::replay(&setting, log, disks, naive, |found| {
                told.extend(resuming.decided(found));
            });
            let lies = outside.canary == Canary::SyncsThatDoNothing;
            assert!(
                lies || outside.has_damage || replayed.corrupt == 0,
                "a cut is not damage"
            );
            let (mut landing, fragments) = Landing::resume(replayed.parts, &policies, outside.now);
            if let Some(saved) = saved_log {
                landing.hold_saved(saved);
            }
            told.extend(resuming.replayed(fragments, landing.resumed_upgrades()));
            for (to, message) in told {
                self.push(outside, CoreId(core), to, message);
            }
            landings.push(landing);
        }
        let traces = saved.iter().flat_map(|saved| &saved.traces);
        for trace in traces.skip(usize::from(core)).step_by(usize::from(count)) {
            let trace = Trace::restore(outside.now, trace).expect("sound");
            for (to, message) in resuming.replayed(vec![trace], Vec::new()) {
                self.push(outside, CoreId(core), to, message);
            }
        }
        landings
    }

    // ---- events -----------------------------------------------------------------------------------------

    /// A request to a core.
    pub fn send(&mut self, outside: &mut Outside, core: u16) {
        let Some((number, body)) = outside.client.next(&mut outside.random) else {
            return;
        };
        let now = outside.now;
        let lacks_credit = self.ways.lacks_items(CoreId(core), self.credit);
        let request = Request {
            transport: Transport::Http,
            body: &body,
            waiter: number,
        };
        let shard = self.shard(core);
        let before = shard.table().len();
        let (submission, waiter) = shard.handle_export(now, request);
        outside.history.note(&("send", core, number, &submission, before));
        outside.history.note(&("spans", outside.client.spans_of(number)));
        if lacks_credit {
            assert!(
                matches!(submission, Submission::InFlight),
                "B1: taken without credit"
            );
        }
        match (&submission, waiter) {
            (Submission::Appended(rejected), None) => {
                assert_eq!(rejected.count(), 0);
                if outside.canary == Canary::EarlyAcknowledgements {
                    outside.client.acknowledged_early(number);
                }
            }
            (
                Submission::LogRefused(_) | Submission::InFlight | Submission::PushedBack { .. },
                Some(number),
            ) => {
                outside.client.refused(number);
            }
            (other, _) => panic!("{other:?} to a sound request"),
        }
        self.learn_own(outside, core);
        self.turn(outside, core);
    }

    /// Items of a core for itself have no message; what its table holds now, its owner knows.
    fn learn_own(&mut self, outside: &mut Outside, core: u16) {
        let shard = self.shard(core);
        outside.output.learned(shard);
        self.decided(outside, core);
    }

    /// Somebody wants a trace kept, whatever it is.
    pub fn wish(&mut self, outside: &mut Outside, trace: u64) {
        let id = spans::trace_id(trace);
        let core = route::owner(HASH_KEY.trace(&id), self.cores.len() as u16).0;
        let decision = Decision {
            verdict: Verdict::Keep,
            reason: Reason::Expired,
            policy: None,
            threshold: None,
            incomplete: false,
            upgraded: true,
        };
        let upgrade = self.shard(core).upgrade(id, decision);
        outside.history.note(&("wish", trace, upgrade));
        outside.output.wished.insert(trace);
        self.turn(outside, core);
    }

    /// Everything open is decided, everything kept goes out.
    pub fn drain(&mut self, outside: &mut Outside) {
        outside.history.note(&"drain");
        for core in 0..self.core_count() {
            self.shard(core).drain();
            self.turn(outside, core);
        }
        self.settle(outside);
        let drained = |shard: &Serving| shard.drained().is_some();
        assert!(self.serving().all(drained), "a core has something left");
    }

    /// Stops as a process does on SIGTERM: what is under way is finished, nothing more is decided, and what is open is
    /// left for the next node. Nothing is left if it takes too long.
    pub fn stop(&mut self, outside: &mut Outside) {
        outside.history.note(&"stop");
        for core in 0..self.core_count() {
            let now = outside.now;
            self.shard(core).stop(now, Duration::ZERO);
        }
        for _ in 0..200 {
            for log in 0..outside.logs.len() {
                self.complete(outside, log);
                self.ship(outside, log, true);
            }
            (0..self.core_count()).for_each(|core| self.post(outside, core));
            while self.deliver(outside) {}
            if self.serving().all(|shard| shard.is_quiet()) {
                let landings = self.serving().flat_map(|shard| shard.landings());
                let logs = landings.map(Landing::saved).collect();
                let now = outside.now;
                let traces = self
                    .serving()
                    .flat_map(|shard| shard.table().saved(now))
                    .collect();
                outside.saved = Some(Saved { logs, traces });
                outside.history.note(&"checkpoint");
                return;
            }
            outside.pass(5);
            (0..self.core_count()).for_each(|core| self.wake(outside, core));
        }
    }

    /// No log has lost anything.
    pub fn logs_are_whole(&self) -> bool {
        let mut landings = self.serving().flat_map(|shard| shard.landings());
        landings.all(|landing| landing.reaches_back_to().0 == 0)
    }

    pub fn skipped_upgrades(&self) -> u64 {
        self.serving()
            .map(|shard| shard.stats().traces.upgrades_skipped)
            .sum()
    }

    /// An operation or a read of a log.
    pub fn complete(&mut self, outside: &mut Outside, log: usize) {
        let core = (log % self.cores.len()) as u16;
        let now = outside.now;
        let id = LogId(log.try_into().expect("few logs"));
        let files = &mut outside.logs[log];
        let which = match outside.random.below(5) {
            0 => {
                if let Some(read) = files.reads.pop_front() {
                    let disk = match read.log {
                        WhichLog::Main => &files.disks.main,
                        WhichLog::Kept => &files.disks.kept,
                    };
                    let bytes = disk.read(read.segment, read.offset, read.len);
                    outside.history.note(&("read", log, &read));
                    self.shard(core).handle_read(id, read, bytes);
                }
                self.turn(outside, core);
                return;
            }
            1 | 2 => WhichLog::Kept,
            _ => WhichLog::Main,
        };
        let disk = match which {
            WhichLog::Main => &mut files.disks.main,
            WhichLog::Kept => &mut files.disks.kept,
        };
        if let Some((op, result)) = disk.step() {
            outside.history.note(&("op", log, op, &result));
            self.shard(core).handle_op(now, id, which, op, result);
        }
        self.turn(outside, core);
    }

    /// The shipment of a log arrives, or does not.
    pub fn ship(&mut self, outside: &mut Outside, log: usize, arrives: bool) {
        let Some(shipment) = outside.logs[log].shipment.take() else {
            return;
        };
        let core = (log % self.cores.len()) as u16;
        outside.history.note(&("ship", log, shipment.through, arrives));
        let result = match arrives {
            true => {
                outside
                    .history
                    .note(&("out", spans::exported(&shipment.pieces.concat())));
                outside.output.exported(&shipment.pieces.concat());
                Ok(Arrival::default())
            }
            false => Err(Failure::new(Cause::Io, "the destination is away")),
        };
        let (now, random) = (outside.now, outside.random.next());
        let id = LogId(log.try_into().expect("few logs"));
        self.shard(core)
            .handle_shipped(now, id, 0, shipment.through, result, random);
        self.turn(outside, core);
    }

    /// The time has passed; a core looks what is due.
    pub fn wake(&mut self, outside: &mut Outside, core: u16) {
        let now = outside.now;
        let lacks_credit = self.ways.lacks_settlements(CoreId(core), self.credit);
        let shard = self.shard(core);
        if shard.poll_timeout().is_some_and(|due| due <= now.instant) {
            let before = decisions(shard);
            shard.handle_timeout(now);
            assert!(
                !lacks_credit || decisions(shard) == before,
                "B1: decided without credit"
            );
        }
        self.decided(outside, core);
        self.turn(outside, core);
    }

    /// Some message arrives; `false`: there is none.
    pub fn deliver(&mut self, outside: &mut Outside) -> bool {
        let ways: Vec<(u16, u16)> = self
            .queues
            .iter()
            .filter(|(_, queue)| !queue.is_empty())
            .map(|(way, _)| *way)
            .collect();
        if ways.is_empty() {
            return false;
        }
        let way = ways[outside.random.index(ways.len())];
        self.deliver_on(outside, way);
        true
    }

    /// The queues to a core that have something.
    pub fn waiting_for(&self, core: u16) -> Vec<(u16, u16)> {
        let waiting = self
            .queues
            .iter()
            .filter(|((_, to), queue)| *to == core && !queue.is_empty());
        waiting.map(|(way, _)| *way).collect()
    }

    pub fn deliver_on(&mut self, outside: &mut Outside, way: (u16, u16)) {
        let Some(message) = self.queues.get_mut(&way).and_then(VecDeque::pop_front) else {
            return;
        };
        let (from, to) = (CoreId(way.0), way.1);
        outside.history.note(&("deliver", way, &message));
        self.ways.delivered(from, CoreId(to), &message);
        let lacks_credit = self.ways.lacks_settlements(CoreId(to), self.credit);
        let now = outside.now;
        match self.cores[usize::from(to)].take().expect("in use by nobody") {
            Core::Starting(mut resuming, landings) => {
                resuming.handle_message(from, message);
                self.cores[usize::from(to)] = Some(match resuming.is_complete() {
                    true => Core::Serving(Box::new(Shard::new(
                        resuming,
                        self.policies.clone(),
                        landings,
                        now,
                    ))),
                    false => Core::Starting(resuming, landings),
                });
                if self.starting() == 0 || self.is_serving(to) {
                    self.turn(outside, to);
                }
            }
            Core::Serving(mut shard) => {
                if let Message::Items(batch) = &message {
                    outside.output.items_taken(batch);
                }
                let is_items = matches!(message, Message::Items(_));
                let before = decisions(&shard);
                shard.handle_message(now, from, message);
                let went_on = decisions(&shard) != before;
                assert!(
                    !(is_items && lacks_credit && went_on),
                    "B1: decided without credit"
                );
                self.cores[usize::from(to)] = Some(Core::Serving(shard));
                self.decided(outside, to);
                self.turn(outside, to);
            }
        }
    }

    /// Takes what a core has for others.
    pub fn post(&mut self, outside: &mut Outside, core: u16) {
        while let Some((to, message)) = self.shard(core).poll_message() {
            self.ways.sent(CoreId(core), to, &message, self.credit);
            let settles = matches!(&message, Message::Settled { settlements, .. } if !settlements.is_empty());
            if settles && std::mem::take(&mut outside.loses_settlements) {
                continue;
            }
            self.push(outside, CoreId(core), to, message);
        }
    }

    fn push(&mut self, outside: &mut Outside, from: CoreId, to: CoreId, message: Message) {
        outside.history.note(&("post", from, to, &message));
        self.queues.entry((from.0, to.0)).or_default().push_back(message);
    }

    fn turn(&mut self, outside: &mut Outside, core: u16) {
        let now = outside.now;
        while self.shard(core).advance(now) {}
        self.decided(outside, core);
        while let Some(effect) = self.shard(core).poll_effect(now) {
            let files = &mut outside.logs[usize::from(u16::from(effect.log.0))];
            match effect.what {
                Effect::Reply(number, answer) => {
                    outside.history.note(&("reply", number, &answer));
                    outside.client.answered(number, answer.is_ok());
                }
                Effect::Disk(WhichLog::Main, id, op) => files.disks.main.submit(id, op),
                Effect::Disk(WhichLog::Kept, id, op) => files.disks.kept.submit(id, op),
                Effect::Read(read) => files.reads.push_back(read),
                Effect::Ship(_, shipment) => {
                    let before = files.shipment.replace(shipment);
                    assert!(before.is_none(), "B1: one shipment at a time");
                }
            }
            assert_eq!(files.disks.main.broken, None);
            assert_eq!(files.disks.kept.broken, None);
        }
        // Several turns may follow each other closely.
        if outside.random.below(3) > 0 {
            self.post(outside, core);
        }
    }

    fn decided(&mut self, outside: &mut Outside, core: u16) {
        let count = self.cores.len() as u16;
        let shard = self.shard(core);
        outside
            .output
            .decided(shard, count, &outside.client, outside.disks_are_sound);
    }

    // ---- ends -------------------------------------------------------------------------------------------

    /// All processes of the node at once.
    pub fn crash(mut self, outside: &mut Outside, crash: Crash) {
        outside.history.note(&("crash", crash));
        outside.logs_were_whole &= self.logs_are_whole();
        outside.counted_lost += self.lost_spans();
        outside.forwarded += self.forwarded_bytes();
        outside.take_note_of_damage();
        self.cores.clear();
        for files in &mut outside.logs {
            if let Some(shipment) = files.shipment.take().filter(|_| outside.random.coin()) {
                // It had arrived, and nobody knows.
                outside.output.exported(&shipment.pieces.concat());
            }
            files.reads.clear();
            files.disks.main.crash(crash);
            files.disks.kept.crash(crash);
        }
        outside.client.disconnected();
    }

    /// Bytes change on some disks of a node that is not running.
    pub fn rot(outside: &mut Outside) {
        for number in 0..outside.logs.len() {
            if outside.random.coin() {
                continue;
            }
            outside.history.note(&("rot", number));
            let disks = &mut outside.logs[number].disks;
            let which = outside.random.below(3);
            if outside.canary == Canary::IgnoredChecksums {
                let log = LogId(number.try_into().expect("few logs"));
                crate::damage::change_behind_the_checks(&mut disks.main, log_seed(log), &mut outside.random);
                disks.main.accept_damage();
                continue;
            }
            if which < 2 {
                disks.main.rot();
            }
            if which > 0 {
                disks.kept.rot();
            }
        }
        outside.take_note_of_damage();
    }

    pub fn fail_disks(outside: &mut Outside, faults: Faults) {
        outside.disks_are_sound &= faults == Faults::default();
        for files in &mut outside.logs {
            files.disks.main.faults = faults;
            files.disks.kept.faults = faults;
        }
    }

    /// Everything under way is done, again and again, until there is nothing left and nothing pends.
    pub fn settle(&mut self, outside: &mut Outside) {
        for _ in 0..5_000 {
            for log in 0..outside.logs.len() {
                for _ in 0..1_000 {
                    let files = &outside.logs[log];
                    if files.disks.main.under_way() + files.disks.kept.under_way() + files.reads.len() == 0 {
                        break;
                    }
                    self.complete(outside, log);
                }
                self.ship(outside, log, true);
            }
            (0..self.cores.len() as u16).for_each(|core| self.post(outside, core));
            while self.deliver(outside) {}
            if self.is_settled(outside) {
                crate::checkers::assert_ledger(self.serving());
                self.ways.assert_all_came_home();
                return;
            }
            outside.pass(20);
            (0..self.cores.len() as u16).for_each(|core| self.wake(outside, core));
        }
        let pending: usize = self.serving().map(|shard| shard.table().len()).sum();
        panic!("it does not settle: {pending} traces pend");
    }

    fn is_settled(&self, outside: &Outside) -> bool {
        let is_delivered = |shard: &Serving| {
            let mut reports = shard.landings().iter().flat_map(Landing::destinations);
            reports.all(|report| report.queued_spans == 0)
        };
        self.queues.values().all(VecDeque::is_empty)
            && outside.logs.iter().all(|files| files.shipment.is_none())
            && self.serving().all(|shard| {
                let is_idle = shard.table().is_empty() && shard.upgrades_are_idle();
                is_idle && shard.is_settled(outside.now) && is_delivered(shard)
            })
    }

    /// Kept spans that the node says it lost: a kept log took no writes, or a disk did not give them back.
    pub fn lost_spans(&self) -> u64 {
        let not_copied: u64 = self.serving().map(|shard| shard.stats().spans_not_copied).sum();
        let landings = self.serving().flat_map(|shard| shard.landings());
        let reports = landings.flat_map(Landing::destinations);
        not_copied + reports.map(|report| report.failed_spans()).sum::<u64>()
    }

    /// Copied forward since the start.
    pub fn forwarded_bytes(&self) -> u64 {
        let landings = self.serving().flat_map(|shard| shard.landings());
        landings.map(Landing::forwarded_bytes).sum()
    }

    pub fn core_count(&self) -> u16 {
        self.cores.len() as u16
    }

    pub fn serving(&self) -> impl Iterator<Item = &Serving> + Clone {
        self.cores.iter().filter_map(|core| match core {
            Some(Core::Serving(shard)) => Some(&**shard),
            _ => None,
        })
    }

    fn starting(&self) -> usize {
        self.cores.len() - self.serving().count()
    }

    fn is_serving(&self, core: u16) -> bool {
        matches!(self.cores[usize::from(core)], Some(Core::Serving(_)))
    }

    fn shard(&mut self, core: u16) -> &mut Serving {
        match &mut self.cores[usize::from(core)] {
            Some(Core::Serving(shard)) => shard,
            _ => unreachable!("a core that starts gets messages only"),
        }
    }
}

impl Outside {
    /// Somebody sets the wall clock, hours forth or back. The monotonic one goes on.
    pub fn set_clock(&mut self) {
        const HOUR_NS: u64 = 3_600_000_000_000;
        let wall = self.now.wall.0;
        self.now.wall = WallTime(match self.random.coin() {
            true => wall + HOUR_NS,
            false => wall - HOUR_NS,
        });
        self.history.note(&("clock", self.now.wall));
    }

    pub fn take_note_of_damage(&mut self) {
        let is_damaged = |files: &LogFiles| files.disks.main.is_damaged || files.disks.kept.is_damaged;
        self.has_damage |= self.logs.iter().any(is_damaged);
        self.disks_are_sound &= !self.has_damage;
    }

    pub fn pass(&mut self, milliseconds: u64) {
        let duration = Duration::from_millis(milliseconds);
        self.now = Now {
            instant: self.now.instant.plus(duration),
            wall: self.now.wall.plus(duration),
        };
    }
}

/// As a directory has it: it follows from the log.
fn log_seed(log: LogId) -> u64 {
    0x5eed_0000 + u64::from(log.0)
}

fn fallback(log: LogId) -> Fallback {
    Fallback {
        log_seed: log_seed(log),
        size: SEGMENT_BYTES,
    }
}

fn decisions(shard: &Serving) -> u64 {
    shard.stats().traces.decided.iter().sum()
}
