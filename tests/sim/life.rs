//! What happens to a node, as a seed has it.

use std::time::Duration;

use tailkeep::base::time::{Instant, Now, WallTime};
use tailkeep::shard::Credit;

use crate::checkers::Output;
use crate::client::Client;
use crate::disk::{Crash, Faults};
use crate::history::History;
use crate::node::{Node, Outside};
use crate::random::Random;

const CORES_MAX: u64 = 4;
const STEPS: u64 = 500;
/// A run with faults goes on for so long at least, and over so many restarts.
const LIFE: Duration = Duration::from_secs(60);
const LIVES: u32 = 3;
/// A core is slow or a destination away for so many steps at most.
const AWAY_STEPS_MAX: u64 = 150;

/// A mistake made on purpose, to be caught.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Canary {
    None,
    SyncsThatDoNothing,
    LostSettlements,
    EarlyAcknowledgements,
    IgnoredChecksums,
}

/// What may go wrong in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    pub crashes: bool,
    /// Disks fail, fill up, and stall.
    pub bad_disks: bool,
    /// They also lose and misplace what they were given, and rot.
    pub damage: bool,
    pub bad_destinations: bool,
    /// Traces are kept by hand, nodes are drained, and logs keep all they can.
    pub wishes: bool,
}

impl Plan {
    pub const FAULTLESS: Plan = Plan {
        crashes: false,
        bad_disks: false,
        damage: false,
        bad_destinations: false,
        wishes: false,
    };

    /// As the seed has it.
    pub fn draw(seed: u64, canary: Canary) -> Plan {
        let mut random = Random(seed);
        let (disks, damage) = (random.below(2) == 0, random.below(3) == 0);
        Plan {
            crashes: true,
            bad_disks: disks,
            damage: damage && canary == Canary::None || canary == Canary::IgnoredChecksums,
            bad_destinations: random.coin(),
            wishes: canary == Canary::None && !damage && random.below(4) == 0,
        }
    }

    /// What damage hits cannot be kept after all.
    pub fn with_wishes(self) -> Plan {
        Plan {
            damage: false,
            wishes: true,
            ..self
        }
    }
}

/// What one run came to.
pub struct Outcome {
    pub history: History,
    pub seconds: u64,
    pub restarts: u32,
    /// The node's disks lost or changed something.
    pub damaged: bool,
    pub due: usize,
    pub out: usize,
    pub forwarded: u64,
}

/// One run from the first start to the last span, with whatever the seed has in store.
pub fn live(seed: u64, canary: Canary) -> Outcome {
    live_by(Plan::draw(seed, canary), seed, canary)
}

pub fn live_by(plan: Plan, seed: u64, canary: Canary) -> Outcome {
    let random = Random(!seed);
    let mut wishes = plan.wishes.then_some(Random(seed));
    let mut outside = Outside {
        client: Client::default(),
        output: Output::default(),
        history: History::default(),
        now: Now {
            instant: Instant(1_000_000_000),
            wall: WallTime(1_700_000_000_000_000_000 + seed % 1000),
        },
        logs: Vec::new(),
        counted_lost: 0,
        forwarded: 0,
        disks_are_sound: true,
        logs_were_whole: true,
        loses_settlements: canary == Canary::LostSettlements,
        has_damage: false,
        canary,
        saved: None,
        retain: Duration::from_millis(match plan.wishes && !seed.is_multiple_of(3) {
            true => 3_600_000,
            false => 500,
        }),
        random,
    };
    let began = outside.now.instant;
    let mut restarts = 0;
    while plan.crashes && (restarts < LIVES || outside.now.instant.since(began) < LIFE) {
        restarts += 1;
        let mut node = start(&mut outside);
        Node::fail_disks(&mut outside, faults(plan, canary));
        let steps = outside.random.below(STEPS);
        busy(&mut node, &mut outside, steps, plan.bad_destinations, &mut wishes);
        let drains = wishes.as_mut().is_some_and(|random| random.below(4) == 0);
        if !plan.bad_disks && drains {
            node.drain(&mut outside);
        }
        if !plan.bad_disks && outside.random.below(4) == 0 {
            node.settle(&mut outside);
        }
        if !plan.bad_disks && wishes.as_mut().is_some_and(|random| random.coin()) {
            node.stop(&mut outside);
        }
        let crash = match outside.random.coin() {
            true => Crash::Kill,
            false => Crash::PowerCut,
        };
        node.crash(&mut outside, crash);
        Node::fail_disks(&mut outside, Faults::default());
        if plan.damage && outside.random.coin() {
            Node::rot(&mut outside);
        }
    }
    let mut node = start(&mut outside);
    busy(
        &mut node,
        &mut outside,
        STEPS / 2,
        plan.bad_destinations,
        &mut wishes,
    );
    for _ in 0..1_000 {
        if outside.client.has_nothing_to_do() {
            break;
        }
        for core in 0..node.core_count() {
            node.send(&mut outside, core);
        }
        node.settle(&mut outside);
    }
    node.settle(&mut outside);
    assert!(
        outside.client.has_nothing_to_do(),
        "requests are refused for ever"
    );
    outside.counted_lost += node.lost_spans();
    outside.forwarded += node.forwarded_bytes();
    let due = outside
        .output
        .assert_durable(&outside.client, outside.counted_lost);
    outside.output.assert_nothing_invented(&outside.client);
    let logs_are_whole = outside.logs_were_whole && node.logs_are_whole();
    if !plan.damage && logs_are_whole && outside.counted_lost == 0 {
        outside.output.assert_kept_is_out(&outside.client, node.serving());
    }
    if plan == Plan::FAULTLESS {
        outside.output.assert_exactly_once(&outside.client);
        if logs_are_whole && node.skipped_upgrades() == 0 {
            outside.output.assert_late_errors_keep(&outside.client);
        }
    }
    Outcome {
        seconds: outside.now.instant.since(began).as_secs(),
        restarts,
        damaged: outside.has_damage,
        history: outside.history,
        due,
        out: outside.output.spans.len(),
        forwarded: outside.forwarded,
    }
}

fn faults(plan: Plan, canary: Canary) -> Faults {
    let odds = |is_planned: bool, per_mille| if is_planned { per_mille } else { 0 };
    let strays = plan.damage && canary == Canary::None;
    Faults {
        write_error: odds(plan.bad_disks, 5),
        sync_error: odds(plan.bad_disks, 10),
        no_space: odds(plan.bad_disks, 20),
        stall: odds(plan.bad_disks, 20),
        misdirect: odds(strays, 3),
        lose: odds(strays, 3),
    }
}

/// With any number of cores, whatever it was before.
fn start(outside: &mut Outside) -> Node {
    // Down for a moment, or for long.
    let seconds = 1 + outside.random.below(10);
    outside.pass(seconds * 1000);
    if outside.random.below(4) == 0 {
        outside.set_clock();
    }
    let cores = 1 + outside.random.below(CORES_MAX);
    let credit = match outside.random.coin() {
        true => Credit::default(),
        false => Credit {
            items: 1 + outside.random.index(20),
            settlements: 1 + outside.random.index(20),
        },
    };
    outside.history.note(&("start", cores, credit));
    Node::start(outside, cores as u16, credit)
}

fn busy(
    node: &mut Node,
    outside: &mut Outside,
    steps: u64,
    has_bad_destinations: bool,
    wishes: &mut Option<Random>,
) {
    // Until which step a core is slow, and the destination of a log away.
    let mut slow = vec![0; usize::from(node.core_count())];
    let mut away = vec![0; outside.logs.len()];
    for step in 0..steps {
        let core = outside.random.index(slow.len());
        let log = outside.random.index(away.len());
        let until = step + outside.random.below(AWAY_STEPS_MAX);
        let keeper_is_slow = slow[log % slow.len()] > step;
        let core_is_slow = slow[core] > step;
        if let Some(random) = wishes
            && random.below(20) == 0
        {
            let trace = 1 + random.below(outside.client.traces.len().max(1) as u64);
            node.wish(outside, trace);
        }
        match outside.random.below(100) {
            0..8 => outside.client.begin(&mut outside.random),
            8..28 if !core_is_slow => node.send(outside, core as u16),
            28..60 if !keeper_is_slow => node.complete(outside, log),
            60..78 if !core_is_slow => {
                let ways = node.waiting_for(core as u16);
                if !ways.is_empty() {
                    let way = ways[outside.random.index(ways.len())];
                    node.deliver_on(outside, way);
                }
            }
            78..84 if !keeper_is_slow => {
                let is_away = away[log] > step;
                node.ship(outside, log, !is_away);
            }
            84..97 => {
                let longest = match outside.random.below(40) {
                    0 => {
                        if outside.random.below(3) == 0 {
                            outside.set_clock();
                        }
                        6_000
                    }
                    1..6 => 400,
                    _ => 40,
                };
                let milliseconds = 1 + outside.random.below(longest);
                outside.pass(milliseconds);
                for core in (0..slow.len()).filter(|core| slow[*core] <= step) {
                    node.wake(outside, core as u16);
                    node.post(outside, core as u16);
                }
            }
            97..99 => slow[core] = until,
            99 if has_bad_destinations => away[log] = until,
            _ => {}
        }
    }
}
