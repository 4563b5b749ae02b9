//! One node of the cluster: its cores, the logs they keep, and their disks.
//!
//! Messages between cores arrive at once and in order; `tests/sim.rs` has them late.

use std::collections::VecDeque;
use std::time::Duration;

use tailkeep::base::block::VecPool;
use tailkeep::base::ids::{CoreId, LogId, TraceId};
use tailkeep::base::time::Now;
use tailkeep::export::Shipment;
use tailkeep::export::retry::{Arrival, Cause, Failure};
use tailkeep::gossip::{Inbound, Members, SpansArrive};
use tailkeep::landing::fetch::{ReadOp, WhichLog};
use tailkeep::landing::{Effect, Landing, Request, Submission};
use tailkeep::policy::PolicySet;
use tailkeep::route::{self, HashKey};
use tailkeep::shard::{Message, Resuming, Shard};
use tailkeep::stats::{Stats, Transport};
use tailkeep::table::ClusterOptions;

use crate::client::Client;
use crate::disk::Crash;
use crate::model::Output;
use crate::naive::Naive;
use crate::network::{Network, node_id};
use crate::random::Random;
use crate::start::{self, LogDisks, Setting};

const SEGMENT_BYTES: u64 = 512 << 10;
const LOG_BYTES_MAX: u64 = 8 << 20;
pub const QUIET: Duration = Duration::from_millis(400);
/// Trace state of one table at most (M1): its share and what one turn may bring.
const STATE_BYTES_MAX: u64 = 65 << 20;

type Serving = Shard<VecPool, usize>;

/// What all nodes and clients share.
pub struct Outside {
    pub random: Random,
    pub client: Client,
    pub output: Output,
    pub network: Network,
    pub now: Now,
    pub policies: PolicySet,
    pub spans_arrive: SpansArrive,
}

struct LogFiles {
    disks: LogDisks,
    reads: VecDeque<ReadOp>,
    shipment: Option<Shipment>,
}

pub struct Node {
    number: usize,
    hash_key: HashKey,
    logs: Vec<LogFiles>,
    cores: Vec<Serving>,
    queue: VecDeque<(CoreId, CoreId, Message)>,
    /// The canary: whom it heard of first is all it will ever know.
    pub hears_of_members_once: bool,
    knows_members: bool,
}

impl Node {
    pub fn new(number: usize) -> Node {
        let mix = number as u64 + 1;
        Node {
            number,
            hash_key: HashKey([0x1234_5678_9abc_def0 * mix, 0x0fed_cba9_8765_4321 ^ mix << 40]),
            logs: Vec::new(),
            cores: Vec::new(),
            queue: VecDeque::new(),
            hears_of_members_once: false,
            knows_members: false,
        }
    }

    pub fn is_up(&self) -> bool {
        !self.cores.is_empty()
    }

    pub fn start(&mut self, outside: &mut Outside) {
        let core_count = 1 + outside.random.below(2) as u16;
        let now = outside.now;
        while self.logs.len() < usize::from(core_count) {
            self.logs.push(LogFiles {
                disks: LogDisks::new(outside.random.next()),
                reads: VecDeque::new(),
                shipment: None,
            });
        }
        let mut naive = Naive::new(self.hash_key);
        let mut starting = Vec::new();
        let mut told = VecDeque::new();
        for core in 0..core_count {
            let options = ClusterOptions {
                own: node_id(self.number),
                spans_arrive: outside.spans_arrive,
            };
            let table = start::table(self.hash_key, QUIET, now).in_cluster(options, now);
            let mut resuming = Resuming::new(CoreId(core), core_count, self.hash_key, table);
            let mut landings = Vec::new();
            for number in (core..self.logs.len() as u16).step_by(usize::from(core_count)) {
                let log = LogId(number as u8);
                let setting = Setting {
                    hash_key: self.hash_key,
                    policies: &outside.policies,
                    segment_bytes: SEGMENT_BYTES,
                    size_max: LOG_BYTES_MAX,
                    retain: Duration::from_secs(600),
                    log_seed: outside.random.next(),
                    now,
                    damaged: false,
                    saved: None,
                };
                let disks = &mut self.logs[usize::from(number)].disks;
                let replayed = start::replay(&setting, log, disks, &mut naive, |found| {
                    told.extend(resuming.decided(found));
                });
                let (landing, fragments) = Landing::resume(replayed.parts, &outside.policies, now);
                told.extend(resuming.replayed(fragments, landing.resumed_upgrades()));
                landings.push(landing);
            }
            starting.push((resuming, landings));
        }
        for (to, message) in told {
            starting[usize::from(to.0)].0.handle_message(to, message);
        }
        for (resuming, _) in &mut starting {
            for core in 0..core_count {
                resuming.handle_message(CoreId(core), Message::Replayed);
            }
        }
        self.cores = starting
            .into_iter()
            .map(|(resuming, landings)| Shard::new(resuming, outside.policies.clone(), landings, now))
            .collect();
        self.knows_members = false;
        outside
            .network
            .started(self.number, now.instant, &mut outside.random);
        self.turn(outside);
    }

    // ---- events -----------------------------------------------------------------------------------------

    pub fn request(&mut self, outside: &mut Outside, number: usize, body: &[u8]) {
        let core = outside.random.index(self.cores.len());
        let request = Request {
            transport: Transport::Http,
            body,
            waiter: number,
        };
        let (submission, waiter) = self.cores[core].handle_export(outside.now, request);
        match (&submission, waiter) {
            (Submission::Appended(_), None) => outside.client.appended(number),
            (_, Some(number)) => outside.client.refused(number),
            (other, None) => panic!("{other:?} keeps the waiter"),
        }
        self.turn(outside);
    }

    /// Operations and reads of a log.
    pub fn complete(&mut self, outside: &mut Outside, log: usize) {
        if log >= self.logs.len() {
            return;
        }
        let core = log % self.cores.len();
        let id = LogId(log as u8);
        let files = &mut self.logs[log];
        while let Some(read) = files.reads.pop_front() {
            let disk = match read.log {
                WhichLog::Main => &files.disks.main,
                WhichLog::Kept => &files.disks.kept,
            };
            let bytes = disk.read(read.segment, read.offset, read.len);
            self.cores[core].handle_read(id, read, bytes);
        }
        for which in [WhichLog::Main, WhichLog::Kept] {
            let files = &mut self.logs[log];
            let disk = match which {
                WhichLog::Main => &mut files.disks.main,
                WhichLog::Kept => &mut files.disks.kept,
            };
            if let Some((op, result)) = disk.step() {
                self.cores[core].handle_op(outside.now, id, which, op, result);
            }
        }
        self.turn(outside);
    }

    pub fn ship(&mut self, outside: &mut Outside, log: usize, arrives: bool) {
        let Some(shipment) = self.logs.get_mut(log).and_then(|files| files.shipment.take()) else {
            return;
        };
        let result = match arrives {
            true => {
                outside.output.exported(&shipment.pieces.concat());
                Ok(Arrival::default())
            }
            false => Err(Failure::new(Cause::Io, "the destination is away")),
        };
        let core = log % self.cores.len();
        let random = outside.random.next();
        self.cores[core].handle_shipped(outside.now, LogId(log as u8), 0, shipment.through, result, random);
        self.turn(outside);
    }

    pub fn wake(&mut self, outside: &mut Outside) {
        for core in &mut self.cores {
            if core.poll_timeout().is_some_and(|due| due <= outside.now.instant) {
                core.handle_timeout(outside.now);
            }
            assert!(core.table().state_bytes() < STATE_BYTES_MAX, "M1");
        }
        self.turn(outside);
    }

    pub fn handle_inbound(&mut self, outside: &mut Outside, inbound: Inbound) {
        let count = self.cores.len() as u16;
        let owner = |trace: &TraceId| usize::from(route::owner(self.hash_key.trace(trace), count).0);
        let core = match &inbound {
            Inbound::Announced(keep) | Inbound::Answer(_, keep) => owner(&keep.trace),
            Inbound::Digest(_, digest) => owner(&digest.trace),
            Inbound::Leasing(leasing) => usize::from(leasing.core(count).0),
            Inbound::Members(_) | Inbound::Renewed(_) | Inbound::PolicyNames(_) => {
                for core in &mut self.cores {
                    core.handle_inbound(outside.now, inbound.clone());
                }
                self.turn(outside);
                return;
            }
        };
        // It had more cores when it asked.
        if let Some(core) = self.cores.get_mut(core) {
            core.handle_inbound(outside.now, inbound);
        }
        self.turn(outside);
    }

    pub fn members(&mut self, outside: &mut Outside, live: Vec<usize>) {
        if self.hears_of_members_once && self.knows_members {
            return;
        }
        self.knows_members = true;
        let members = Members {
            own: node_id(self.number),
            live: live.into_iter().map(node_id).collect(),
            home_key: HashKey([7, 9]),
        };
        self.handle_inbound(outside, Inbound::Members(members));
    }

    fn turn(&mut self, outside: &mut Outside) {
        loop {
            for core in 0..self.cores.len() {
                self.effects(outside, core);
                while let Some((to, message)) = self.cores[core].poll_message() {
                    self.queue.push_back((CoreId(core as u16), to, message));
                }
            }
            let Some((from, to, message)) = self.queue.pop_front() else {
                break;
            };
            self.cores[usize::from(to.0)].handle_message(outside.now, from, message);
        }
        for core in &mut self.cores {
            while let Some(outbound) = core.poll_outbound(outside.now) {
                outside
                    .network
                    .send(outside.now.instant, &mut outside.random, self.number, outbound);
            }
        }
    }

    fn effects(&mut self, outside: &mut Outside, core: usize) {
        let now = outside.now;
        while self.cores[core].advance(now) {}
        while let Some(effect) = self.cores[core].poll_effect(now) {
            let files = &mut self.logs[usize::from(effect.log.0)];
            match effect.what {
                Effect::Reply(number, Ok(())) => outside.client.acknowledged(number),
                Effect::Reply(number, Err(_)) => outside.client.refused(number),
                Effect::Disk(WhichLog::Main, id, op) => files.disks.main.submit(id, op),
                Effect::Disk(WhichLog::Kept, id, op) => files.disks.kept.submit(id, op),
                Effect::Read(read) => files.reads.push_back(read),
                Effect::Ship(_, shipment) => files.shipment = Some(shipment),
            }
            assert_eq!(files.disks.main.broken, None);
            assert_eq!(files.disks.kept.broken, None);
        }
    }

    // ---- ends -------------------------------------------------------------------------------------------

    pub fn crash(&mut self, outside: &mut Outside, crash: Crash) {
        self.cores.clear();
        self.queue.clear();
        outside.network.ended(self.number);
        for files in &mut self.logs {
            if let Some(shipment) = files.shipment.take().filter(|_| outside.random.coin()) {
                outside.output.exported(&shipment.pieces.concat());
            }
            files.reads.clear();
            files.disks.main.crash(crash);
            files.disks.kept.crash(crash);
        }
        outside.client.disconnected(self.number);
    }

    pub fn log_count(&self) -> usize {
        self.logs.len()
    }

    /// Nothing pends and nothing is under way.
    pub fn is_settled(&self, now: Now) -> bool {
        let is_delivered = |shard: &Serving| {
            let mut reports = shard.landings().iter().flat_map(Landing::destinations);
            reports.all(|report| report.queued_spans == 0)
        };
        self.cores.iter().all(|shard| {
            let is_idle = shard.table().is_empty() && shard.upgrades_are_idle();
            is_idle && shard.is_settled(now) && !shard.has_outbound() && is_delivered(shard)
        }) && self.logs.iter().all(|files| {
            files.shipment.is_none()
                && files.reads.is_empty()
                && files.disks.main.under_way() + files.disks.kept.under_way() == 0
        })
    }

    /// Whether this node keeps a ledger, as it sees the cluster.
    pub fn has_ledger(&self, now: Now) -> bool {
        let mut levels = self
            .cores
            .iter()
            .flat_map(|shard| shard.table().quotas().levels(now.instant));
        levels.any(|level| level.is_some())
    }

    pub fn pending(&self) -> usize {
        self.cores.iter().map(|shard| shard.table().len()).sum()
    }

    pub fn stats(&self, policies: &PolicySet) -> Stats {
        let mut stats = Stats::new(policies.policies().len());
        self.cores.iter().for_each(|core| stats.merge(core.stats()));
        stats
    }

    /// C1 of this node.
    pub fn assert_ledger(&self, policies: &PolicySet) {
        let stats = self.stats(policies).spans;
        let pending: u64 = self.cores.iter().map(|core| core.table().pending_spans()).sum();
        let went = stats.decided.iter().chain(&stats.lost).sum::<u64>();
        assert_eq!(
            stats.accepted_total() + stats.resumed + stats.upgraded,
            went + pending,
            "C1: {stats:?}"
        );
    }
}
