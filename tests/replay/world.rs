//! A core, its two disks, one destination, and what was sent and promised.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use prost::Message;
use tailkeep::base::block::VecPool;
use tailkeep::base::ids::{CoreId, LogId, Position, TraceId};
use tailkeep::base::time::{Instant, Now, WallTime};
use tailkeep::completion::CompletionOptions;
use tailkeep::export::batch::Format;
use tailkeep::export::retry::{Arrival, Cause, Failure, RetryOptions};
use tailkeep::export::{Destination, DestinationOptions, OnFull, Shipment, Wants};
use tailkeep::landing::fetch::{ReadOp, WhichLog};
use tailkeep::landing::replay::{KeptReplay, Replay};
use tailkeep::landing::{Effect, Landing, LandingOptions, LandingParts, Request};
use tailkeep::otlp::json;
use tailkeep::policy::{PolicyEntry, PolicyKind, PolicyOptions, PolicySet, StatusCode};
use tailkeep::route::HashKey;
use tailkeep::shard::{self, Resuming, Shard};
use tailkeep::stats::Transport;
use tailkeep::table::{Table, TableOptions};
use tailkeep::wal::recover::{Extent, HEAD_BYTES, Recovered, Recovery, ReplayedEntry};
use tailkeep::wal::{Log, LogOptions};

use crate::disk::{Crash, Disk, Faults};
use crate::naive::Naive;
use crate::random::Random;

const LOG: LogId = LogId(0);
const HASH_KEY: HashKey = HashKey([0x1234_5678_9abc_def0, 0x0fed_cba9_8765_4321]);
const SEGMENT_BYTES: u64 = 1 << 20;

/// Trace and number of the span in it.
type SpanKey = (u64, u64);
/// A request, as the waiter that it leaves behind.
type Waiter = u64;

pub struct World {
    policies: PolicySet,
    core: Option<Shard<VecPool, Waiter>>,
    main: Disk,
    kept: Disk,
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
}

/// What a start found.
pub struct Found {
    pub corrupt: usize,
}

impl World {
    pub fn new(seed: u64) -> World {
        let errors = PolicyKind::StatusCode {
            codes: vec![StatusCode::Error],
        };
        let options = PolicyOptions {
            policies: vec![PolicyEntry {
                name: "errors".to_owned(),
                kind: errors,
            }],
            ..PolicyOptions::default()
        };
        let mut world = World {
            policies: PolicySet::compile(&options).expect("a right policy"),
            core: None,
            main: Disk::new(seed),
            kept: Disk::new(!seed),
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

    pub fn send_late(&mut self, trace: u64) {
        self.submit(trace, 100, 1, false, 10);
    }

    fn submit(&mut self, trace: u64, from: u64, count: u64, fails: bool, filler: usize) {
        let spans = (from..from + count)
            .map(|number| span(trace, number, fails && number == from, filler))
            .collect();
        let request = ExportTraceServiceRequest {
            resource_spans: vec![ResourceSpans {
                scope_spans: vec![ScopeSpans {
                    spans,
                    ..ScopeSpans::default()
                }],
                ..ResourceSpans::default()
            }],
        };
        if fails {
            self.errored.insert(trace);
        }
        if let Some((_, sent)) = self.traces.iter_mut().rev().find(|(known, _)| *known == trace) {
            *sent = (*sent).max(from + count);
        }
        let id = TraceId::new(&trace_id(trace)).expect("not zero");
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
                body: &request.encode_to_vec(),
                waiter: number,
            },
        );
        if given_back.is_some() && fails {
            // Refused: without its error nothing of it is due.
            self.errored.remove(&trace);
        }
        self.turn();
    }

    pub fn complete_something(&mut self, random: &mut Random) {
        let now = self.now;
        match random.below(5) {
            0 => self.complete_read(),
            1 => {
                if let Some((op, result)) = self.kept.step() {
                    self.core().handle_op(now, LOG, WhichLog::Kept, op, result);
                }
            }
            _ => {
                if let Some((op, result)) = self.main.step() {
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
            WhichLog::Main => &self.main,
            WhichLog::Kept => &self.kept,
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
        for line in shipment
            .bytes
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
        {
            let mut protobuf = Vec::new();
            json::decode(&json::TRACES_DATA, line, &mut protobuf).expect("our own JSON");
            let request = ExportTraceServiceRequest::decode(&protobuf[..]).expect("protobuf");
            let scopes = request.resource_spans.iter().flat_map(|part| &part.scope_spans);
            for span in scopes.flat_map(|scope| &scope.spans) {
                let number =
                    |bytes: &[u8]| u64::from_be_bytes(bytes[bytes.len() - 8..].try_into().expect("8 bytes"));
                *self
                    .output
                    .entry((number(&span.trace_id), number(&span.span_id) - 1))
                    .or_default() += 1;
            }
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
        for disk in [&self.main, &self.kept] {
            assert_eq!(disk.broken, None);
        }
        while let Some(effect) = self.core().poll_effect(now) {
            match effect.what {
                Effect::Reply(waiter, Ok(())) => self.acknowledged.extend(&self.requests[waiter as usize]),
                Effect::Reply(..) => {}
                Effect::Disk(WhichLog::Main, id, op) => self.main.submit(id, op),
                Effect::Disk(WhichLog::Kept, id, op) => self.kept.submit(id, op),
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
        while self.main.under_way() + self.kept.under_way() + self.reads.len() > 0 {
            if let Some((op, result)) = self.main.step() {
                self.core().handle_op(now, LOG, WhichLog::Main, op, result);
            }
            if let Some((op, result)) = self.kept.step() {
                self.core().handle_op(now, LOG, WhichLog::Kept, op, result);
            }
            self.complete_read();
            self.turn();
        }
    }

    /// Other traffic until the segments that were there have gone.
    pub fn recycle(&mut self, random: &mut Random) {
        let last = *self.main.files.keys().next_back().expect("a segment");
        for _ in 0..2_000 {
            if self.main.files.keys().next() > Some(&last) {
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

    /// The core knows what was decided about it.
    pub fn is_late(&mut self, trace: u64) -> bool {
        let id = TraceId::new(&trace_id(trace)).expect("not zero");
        self.core().table().open_trace(&id).is_none() && self.core().table().decided(&id).is_some()
    }

    // ---- ends and beginnings ----------------------------------------------------------------------------

    pub fn power_cut(&mut self, random: &mut Random) {
        if let Some(shipment) = self.shipment.take().filter(|_| random.below(2) == 0) {
            // It had arrived, and nobody knows.
            self.write(&shipment);
        }
        self.counted_lost += self.spans_without_room();
        self.core = None;
        self.reads.clear();
        // Now and then only the process ends: what was written is with the disk.
        let crash = match random.below(4) {
            0 => Crash::Kill,
            _ => Crash::PowerCut,
        };
        self.main.crash(crash);
        self.kept.crash(crash);
    }

    pub fn damage(&mut self) {
        self.main.rot();
        self.kept.rot();
    }

    pub fn fail_disks(&mut self, faults: Faults) {
        self.main.faults = faults;
        self.kept.faults = faults;
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
        let completion = CompletionOptions {
            decision_wait: Duration::from_secs(5),
            after_root: None,
            structural: true,
            quiet: Duration::from_millis(200),
            spans_max: 1000,
            bytes_max: 0,
            use_expected_count: true,
        };
        let options = TableOptions {
            completion,
            hash_key: HASH_KEY,
            state_bytes_max: 64 << 20,
            kept_count_max: 100_000,
            decided_count_max: 100_000,
        };
        let names = vec!["errors".to_owned()];
        let mut resuming = Resuming::new(CoreId(0), 1, HASH_KEY, Table::new(options, now));
        // Like a start, only what is needed; the oracle reads all there is.
        let mut naive = Naive::new(HASH_KEY);
        recover(&mut self.main, Extent::Whole, |entry| {
            naive.entry(LOG, &self.policies, entry)
        });
        let destinations = vec!["file".to_owned()];
        let mut replay = Replay::new(LOG, HASH_KEY, &self.policies, &names, true, destinations, now);
        let needed = Extent::Needed { tail_bytes: 1 << 20 };
        let mut first = None;
        let found = recover(&mut self.main, needed, |entry| {
            first.get_or_insert(entry.position);
            replay.entry(entry);
        });
        assert!(
            resuming.decided(replay.take_found()).is_empty(),
            "one core owns all"
        );
        let mut replayed = replay.finish();
        let mut kept_replay = KeptReplay::new(&replayed);
        let kept_found = recover(&mut self.kept, Extent::Whole, |entry| {
            kept_replay.entry(entry, &names, now)
        });
        assert_eq!((replayed.malformed, kept_replay.malformed), (0, 0));
        let log_options = |interval| LogOptions {
            log: LOG,
            log_seed: 0x5eed,
            segment_size: SEGMENT_BYTES,
            size_max: 12 << 20,
            retain: self.retain,
            group_interval: interval,
            sync: true,
        };
        let mut kept_start = kept_found.start;
        let beyond = replayed.kept_position_max.0.div_ceil(SEGMENT_BYTES) * SEGMENT_BYTES;
        kept_start.next_position = kept_start.next_position.max(Position(beyond));
        let kept_tail = kept_start.next_position;
        let seeded = |options: LogOptions, seed: Option<u64>| LogOptions {
            log_seed: seed.unwrap_or(0x5eed),
            ..options
        };
        let log = Log::new(
            seeded(log_options(Duration::ZERO), found.log_seed),
            VecPool::default(),
            found.start,
            now,
        );
        while let Some(position) = replayed.decided.poll_older() {
            let payload = log.locate(position).and_then(|(segment, offset)| {
                let bytes = self.main.read(segment, offset, 1 << 20)?;
                log.check(position, &bytes)
                    .map(|entry| entry.payload.to_vec())
                    .ok()
            });
            let older = replayed.read_decided(position, payload.as_deref(), HASH_KEY, &names);
            resuming.decided(older);
        }
        self.passed_over = first
            .zip(naive.first)
            .map_or(0, |(first, oldest)| first.since(oldest));

        let kept_options = LogOptions {
            retain: Duration::ZERO,
            ..seeded(log_options(Duration::from_millis(20)), kept_found.log_seed)
        };
        let kept = Log::new(kept_options, VecPool::default(), kept_start, now);
        let destination = DestinationOptions {
            id: "file".to_owned(),
            flush_interval: Duration::from_millis(30),
            batch_bytes: 64 << 10,
            format: Format::Lines,
            wants: Wants::Everything,
            retry: RetryOptions::FILE,
            queue_bytes_max: u64::MAX,
            on_full: OnFull::LoseNew,
        };
        let cursor = replayed.cursors.get("file").copied().unwrap_or(kept_tail);
        let landing = LandingOptions {
            log: LOG,
            hash_key: HASH_KEY,
            node: "node".to_owned(),
            annotate: true,
            acknowledge_at_once: false,
            span_bytes_max: SEGMENT_BYTES as usize - (64 << 10),
            // Little, so that spans leave memory and are read back.
            block_bytes_max: 2 << 20,
            unsynced_bytes_max: 4 << 20,
            decided_count_max: 100_000,
            policy_names: names,
        };
        let destinations = vec![Destination::new(destination, cursor)];
        let policies = self.policies.clone();
        let corrupt = found.corrupt.len() + kept_found.corrupt.len();
        let parts = LandingParts {
            options: landing,
            log,
            kept,
            replayed,
            kept_replay,
            destinations,
        };
        let (landing, fragments) = Landing::resume(parts, &policies, now);
        assert!(resuming.replayed(fragments).is_empty(), "one core owns all");
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
            "{} due, {} out, {twice} more than once",
            due.len(),
            self.output.len()
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
        let went: u64 = spans.decided.iter().sum::<u64>() + spans.lost;
        assert_eq!(
            spans.accepted_total() + spans.resumed + spans.upgraded,
            went,
            "C1: {spans:?}"
        );
    }
}

fn recover(disk: &mut Disk, extent: Extent, mut each: impl FnMut(&ReplayedEntry<'_>)) -> Recovered {
    let mut recovery = Recovery::new(LOG, extent).in_pieces_of(64 << 10);
    let files: BTreeMap<_, _> = disk
        .files
        .iter()
        .map(|(segment, file)| (*segment, file.bytes()))
        .collect();
    for (segment, file) in &files {
        recovery
            .header(*segment, &file[..file.len().min(HEAD_BYTES)])
            .expect("one log, one version");
    }
    while let Some(read) = recovery.poll_read() {
        let file = &files[&read.segment];
        let start = (read.offset as usize).min(file.len());
        let bytes = file[start..(start + read.len).min(file.len())].to_vec();
        recovery.handle_read(bytes, &mut |entry: ReplayedEntry<'_>| each(&entry));
    }
    let recovered = recovery.finish();
    recovered.unsynced.iter().for_each(|segment| disk.sync(*segment));
    recovered
}

fn trace_id(trace: u64) -> Vec<u8> {
    let mut id = vec![0x7e; 16];
    id[8..].copy_from_slice(&trace.to_be_bytes());
    id
}

fn span(trace: u64, number: u64, fails: bool, filler: usize) -> Span {
    let id = |number: u64| (number + 1).to_be_bytes().to_vec();
    let text = AnyValue {
        value: Some(Value::StringValue("x".repeat(filler))),
    };
    Span {
        trace_id: trace_id(trace),
        span_id: id(number),
        parent_span_id: if number == 0 { Vec::new() } else { id(0) },
        start_time_unix_nano: 1_700_000_000_000_000_000 + number,
        end_time_unix_nano: 1_700_000_000_000_000_000 + number * 1_000_000,
        attributes: vec![KeyValue {
            key: "filler".to_owned(),
            value: Some(text),
            ..KeyValue::default()
        }],
        status: Some(Status {
            code: if fails { 2 } else { 0 },
            message: String::new(),
        }),
        ..Span::default()
    }
}
