//! What happens to a node, as a seed has it.

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
/// A core is slow or a destination away for so many steps at most.
const AWAY_STEPS_MAX: u64 = 150;

/// A mistake made on purpose, to be caught.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Canary {
    None,
    SyncsThatDoNothing,
    LostSettlements,
}

/// What one run came to.
pub struct Outcome {
    pub history: History,
    pub due: usize,
    pub out: usize,
    pub forwarded: u64,
}

/// One run from the first start to the last span.
pub fn live(seed: u64, canary: Canary) -> Outcome {
    let mut random = Random(seed);
    let has_crashes = random.below(4) > 0;
    let has_bad_disks = has_crashes && random.below(3) == 0;
    let has_bad_destinations = random.coin();
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
        loses_settlements: canary == Canary::LostSettlements,
        disks_lie: canary == Canary::SyncsThatDoNothing,
        random,
    };
    let lives = match has_crashes {
        true => 1 + outside.random.below(4),
        false => 0,
    };
    for _ in 0..lives {
        let mut node = start(&mut outside);
        if has_bad_disks {
            let faults = Faults {
                write_error: 5,
                sync_error: 10,
                no_space: 20,
                stall: 20,
                misdirect: 0,
            };
            Node::fail_disks(&mut outside, faults);
        }
        let steps = outside.random.below(STEPS);
        busy(&mut node, &mut outside, steps, has_bad_destinations);
        if !has_bad_disks && outside.random.below(4) == 0 {
            node.settle(&mut outside);
        }
        let crash = match outside.random.coin() {
            true => Crash::Kill,
            false => Crash::PowerCut,
        };
        node.crash(&mut outside, crash);
        Node::fail_disks(&mut outside, Faults::default());
    }
    let mut node = start(&mut outside);
    busy(&mut node, &mut outside, STEPS / 2, has_bad_destinations);
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
    if !has_crashes && !has_bad_destinations {
        outside.output.assert_exactly_once(&outside.client);
    }
    Outcome {
        history: outside.history,
        due,
        out: outside.output.spans.len(),
        forwarded: outside.forwarded,
    }
}

/// With any number of cores, whatever it was before.
fn start(outside: &mut Outside) -> Node {
    outside.pass(1000);
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

fn busy(node: &mut Node, outside: &mut Outside, steps: u64, has_bad_destinations: bool) {
    // Until which step a core is slow, and the destination of a log away.
    let mut slow = vec![0; usize::from(node.core_count())];
    let mut away = vec![0; outside.logs.len()];
    for step in 0..steps {
        let core = outside.random.index(slow.len());
        let log = outside.random.index(away.len());
        let until = step + outside.random.below(AWAY_STEPS_MAX);
        let keeper_is_slow = slow[log % slow.len()] > step;
        let core_is_slow = slow[core] > step;
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
                let longest = if outside.random.below(8) == 0 { 400 } else { 40 };
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
