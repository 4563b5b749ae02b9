//! What happens to a cluster, as a seed has it.

use std::time::Duration;

use tailkeep::base::time::{Instant, Now, WallTime};
use tailkeep::gossip::SpansArrive;

use crate::client::Client;
use crate::disk::Crash;
use crate::model::{self, Output};
use crate::network::Network;
use crate::node::{Node, Outside};
use crate::random::Random;

const NODES_MAX: u64 = 5;
const STEPS: u64 = 1500;
const CALM_TRACES: usize = 12;
/// Of simulated time, for everything to come to rest.
const REST_MS: u64 = 200_000;

/// A mistake made on purpose, to be caught.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Canary {
    None,
    ForgottenHomeChange,
    AddedDigests,
    LostAnnouncements,
    ForgetfulLedger,
}

/// What one run came to.
#[derive(Debug)]
#[allow(dead_code, reason = "read by people")]
pub struct Outcome {
    nodes: usize,
    traces: usize,
    kept: usize,
    exact: usize,
    raised: u64,
    judged_alone: u64,
    digests: u64,
    /// Spans by the limit, of so many earned.
    limited: Option<(u64, u64)>,
    unanswered: u64,
}

struct World {
    nodes: Vec<Node>,
    outside: Outside,
    /// When a node looks again who is there.
    views: Vec<Option<Instant>>,
    /// When a node that is down starts.
    starts: Vec<Option<Instant>>,
    judged_alone: u64,
    /// In a limited run: what ledgers may have given out, in billionths of tokens, and what has been spent.
    earned: u128,
    spent: Spent,
}

/// By lives that are over.
#[derive(Clone, Copy, Default)]
struct Spent {
    tokens: u64,
    traces: u64,
    unanswered: u64,
}

/// One run from the first start to the last span.
pub fn live(seed: u64, canary: Canary) -> Outcome {
    let mut random = Random(seed);
    let faults = random.below(4);
    let mut network = Network::default();
    network.loss = [0, 0, 20, 200][random.index(4)];
    network.repeats = [0, 50][random.index(2)];
    network.delay_ms = match faults {
        0 => 1 + random.below(50),
        _ => [1, 5, 50, 200][random.index(4)],
    };
    network.loses_announcements = canary == Canary::LostAnnouncements;
    network.digests_add_up = canary == Canary::AddedDigests;
    network.ledgers_forget = canary == Canary::ForgetfulLedger;
    let by_trace_id = canary == Canary::None && random.below(8) == 0;
    let limited = match canary {
        Canary::None => seed.is_multiple_of(2),
        canary => canary == Canary::ForgetfulLedger,
    };
    let node_count = 2 + random.below(NODES_MAX - 1) as usize;
    let mut world = World {
        nodes: (0..node_count).map(Node::new).collect(),
        outside: Outside {
            client: Client::default(),
            output: Output::default(),
            network,
            now: Now {
                instant: Instant(1_000_000_000),
                wall: WallTime(1_700_000_000_000_000_000 + seed % 1000),
            },
            policies: model::policies(limited),
            spans_arrive: match by_trace_id {
                true => SpansArrive::ByTraceId,
                false => SpansArrive::Anywhere,
            },
            random,
        },
        views: vec![None; node_count],
        starts: vec![None; node_count],
        judged_alone: 0,
        earned: 0,
        spent: Spent::default(),
    };
    for node in &mut world.nodes {
        node.hears_of_members_once = canary == Canary::ForgottenHomeChange;
    }
    // Some join later.
    let first = 1 + world.outside.random.index(node_count);
    (0..first).for_each(|node| world.start(node));
    for node in first..node_count {
        let wait = Duration::from_millis(world.outside.random.below(6_000));
        world.starts[node] = Some(world.outside.now.instant.plus(wait));
    }
    world.run_for(2_000);
    let has_faults = faults > 0 || first < node_count || world.outside.network.loss > 0;
    world.busy(by_trace_id, faults);
    if has_faults {
        world.outside.client.alarm(0);
    }
    world.rest();
    world.calm(by_trace_id);
    world.rest();
    for node in &world.nodes {
        node.assert_ledger(&world.outside.policies);
    }
    world.count_spent_of_all();
    let earned = (world.earned / 1_000_000_000) as u64;
    if limited {
        world.assert_limit(earned);
    }
    let Outside {
        client,
        output,
        network,
        ..
    } = &world.outside;
    assert!(client.has_nothing_to_do(), "requests are refused for ever");
    let (kept, exact) = output.check(client);
    if by_trace_id {
        assert_eq!(network.digests, 0, "nobody needs digests");
    }
    let raised = world
        .nodes
        .iter()
        .map(|node| node.stats(&world.outside.policies).traces.upgraded);
    let judged_alone = world
        .nodes
        .iter()
        .map(|node| node.stats(&world.outside.policies).traces.judged_alone);
    Outcome {
        nodes: node_count,
        traces: client.traces.len(),
        kept,
        exact,
        raised: raised.sum(),
        judged_alone: world.judged_alone + judged_alone.sum::<u64>(),
        digests: network.digests,
        limited: limited.then_some((world.spent.tokens, earned)),
        unanswered: world.spent.unanswered,
    }
}

impl World {
    fn start(&mut self, node: usize) {
        self.starts[node] = None;
        self.nodes[node].start(&mut self.outside);
        self.topology_changed();
    }

    fn crash(&mut self, node: usize) {
        let crash = match self.outside.random.coin() {
            true => Crash::Kill,
            false => Crash::PowerCut,
        };
        self.judged_alone += self.nodes[node].stats(&self.outside.policies).traces.judged_alone;
        self.count_spent(node);
        self.nodes[node].crash(&mut self.outside, crash);
        let away = Duration::from_millis(100 + self.outside.random.below(6_000));
        self.starts[node] = Some(self.outside.now.instant.plus(away));
        self.topology_changed();
    }

    /// What a limit has let through in this life of a node.
    fn count_spent(&mut self, node: usize) {
        for counts in &self.nodes[node].stats(&self.outside.policies).policies {
            self.spent.tokens += counts.quota.tokens;
            self.spent.traces += counts.quota.granted;
            self.spent.unanswered += counts.quota.unanswered;
        }
    }

    fn count_spent_of_all(&mut self) {
        (0..self.nodes.len()).for_each(|node| self.count_spent(node));
    }

    /// Q1 over the cluster: every ledger began empty, so all that was spent has come in by its rate, as long as some
    /// node took itself for the one that keeps it.
    fn assert_limit(&self, earned: u64) {
        let spent = self.spent;
        assert!(spent.tokens <= earned, "Q1: {} spent of {earned}", spent.tokens);
        let through = self.outside.output.limited_count();
        assert!(
            through <= spent.traces,
            "Q1: {through} traces by the limit, {} charged",
            spent.traces
        );
    }

    /// Each node finds out in its own time.
    fn topology_changed(&mut self) {
        for node in 0..self.nodes.len() {
            let wait = Duration::from_millis(50 + self.outside.random.below(1_000));
            self.views[node] = Some(self.outside.now.instant.plus(wait));
        }
    }

    fn up(&self) -> Vec<usize> {
        (0..self.nodes.len())
            .filter(|node| self.nodes[*node].is_up())
            .collect()
    }

    fn pass(&mut self, milliseconds: u64) {
        let duration = Duration::from_millis(milliseconds);
        let now = &mut self.outside.now;
        *now = Now {
            instant: now.instant.plus(duration),
            wall: now.wall.plus(duration),
        };
    }

    /// Everything that is due.
    fn step(&mut self, milliseconds: u64) {
        let ledgers = self.nodes.iter().filter(|node| node.has_ledger(self.outside.now));
        let came = u128::from(model::LIMIT_RATE) * u128::from(milliseconds) * 1_000_000;
        self.earned += ledgers.count() as u128 * came;
        self.pass(milliseconds);
        let now = self.outside.now.instant;
        for node in 0..self.nodes.len() {
            if self.starts[node].is_some_and(|at| at <= now) {
                self.start(node);
            }
            if self.nodes[node].is_up() && self.views[node].is_some_and(|at| at <= now) {
                self.views[node] = None;
                let up = self.up().into_iter();
                let live = up
                    .filter(|other| !self.outside.network.is_apart(node, *other, now))
                    .collect();
                self.nodes[node].members(&mut self.outside, live);
            }
        }
        let up = self.up();
        // A request that is refused is due again at once, so not for ever.
        for _ in 0..50 {
            let Outside { client, random, .. } = &mut self.outside;
            let Some((number, node, body)) = client.next(random, now, &up) else {
                break;
            };
            self.nodes[node].request(&mut self.outside, number, &body);
        }
        for node in up {
            for log in 0..self.nodes[node].log_count() {
                for _ in 0..self.outside.random.below(4) {
                    self.nodes[node].complete(&mut self.outside, log);
                }
                if self.outside.random.coin() {
                    self.nodes[node].ship(&mut self.outside, log, true);
                }
            }
            if self.outside.random.below(3) > 0 {
                self.nodes[node].wake(&mut self.outside);
            }
        }
        for _ in 0..200 {
            let Some(packet) = self.outside.network.next(now) else {
                break;
            };
            self.nodes[packet.to].handle_inbound(&mut self.outside, packet.inbound);
        }
    }

    fn run_for(&mut self, milliseconds: u64) {
        let end = self.outside.now.instant.plus(Duration::from_millis(milliseconds));
        while self.outside.now.instant < end {
            let step = 1 + self.outside.random.below(20);
            self.step(step);
        }
    }

    fn begin(&mut self, by_trace_id: bool, wave_ms: u64) {
        let Outside {
            client, random, now, ..
        } = &mut self.outside;
        let first = client.requests.len();
        client.begin(random, now.instant, self.nodes.len(), wave_ms);
        if by_trace_id {
            let node = client.traces.len() % self.nodes.len();
            client.requests[first..]
                .iter_mut()
                .for_each(|request| request.node = node);
        }
    }

    fn busy(&mut self, by_trace_id: bool, faults: u64) {
        for _ in 0..STEPS {
            let step = 1 + self.outside.random.below(12);
            self.step(step);
            match self.outside.random.below(400) {
                0..16 => {
                    let wave_ms = match faults {
                        0 => 60,
                        _ => [50, 300, 900][self.outside.random.index(3)],
                    };
                    self.begin(by_trace_id, wave_ms);
                }
                16 | 17 if faults & 1 == 1 => {
                    let up = self.up();
                    if up.len() > 1 {
                        let node = up[self.outside.random.index(up.len())];
                        self.crash(node);
                    }
                }
                18 | 19 if faults & 2 == 2 => self.cut(),
                _ => {}
            }
        }
    }

    /// One way, or a part of the nodes from the others.
    fn cut(&mut self) {
        let now = self.outside.now.instant;
        let until = now.plus(Duration::from_millis(100 + self.outside.random.below(5_000)));
        let (one, other) = (
            self.outside.random.index(self.nodes.len()),
            self.outside.random.index(self.nodes.len()),
        );
        if self.outside.random.coin() {
            self.outside.network.cut(one, other, until);
            return;
        }
        let side = self.outside.random.next();
        for from in 0..self.nodes.len() {
            for to in 0..self.nodes.len() {
                if (side >> from ^ side >> to) & 1 == 1 {
                    self.outside.network.cut(from, to, until);
                }
            }
        }
        self.topology_changed();
    }

    /// Everything heals and everybody is up, until nothing pends.
    fn rest(&mut self) {
        self.outside.network.heal();
        self.outside.network.loss = 0;
        self.outside.network.delay_ms = self.outside.network.delay_ms.min(50);
        self.topology_changed();
        let end = self.outside.now.instant.plus(Duration::from_millis(REST_MS));
        while self.outside.now.instant < end {
            self.step(20);
            let (now, network) = (self.outside.now, &self.outside.network);
            let everybody = self.starts.iter().all(Option::is_none) && self.views.iter().all(Option::is_none);
            let is_settled = self.nodes.iter().all(|node| node.is_settled(now));
            if everybody && is_settled && network.is_empty() && self.outside.client.has_nothing_to_do() {
                return;
            }
        }
        let pending: Vec<usize> = self.nodes.iter().map(Node::pending).collect();
        panic!("it does not come to rest: {pending:?} traces pend");
    }

    /// Traces of which every span comes in good time.
    fn calm(&mut self, by_trace_id: bool) {
        for _ in 0..CALM_TRACES {
            self.begin(by_trace_id, 60);
            self.run_for(100);
        }
    }
}
