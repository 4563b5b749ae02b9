//! A model of the queue in which memberlist's gossip carries messages: each goes out so many times and is then
//! forgotten. foca, which works likewise, is there itself: `carried.rs`.
//!
//! ```text
//!  every 200 ms, to 3 random nodes:  the messages that went out least often, as many as a packet has room for
//!  a message that is new here:       into the queue
//! ```
//!
//! Nodes, packets and queues as the defaults for a LAN have them; membership, probes and the exchange of whole states
//! are left out. A link takes no time.

use rand::rngs::SmallRng;
use rand::seq::index;
use rand::{RngExt, SeedableRng};
use std::time::Duration;

const INTERVAL_MS: u64 = 200;
const FANOUT: usize = 3;
const PACKET_BYTES: usize = 1400;
/// A decision and what goes around it, as if it were packed as tightly as ours.
pub const DECISION_BYTES: usize = 24;

/// How often a message goes out, by the number of nodes.
fn transmissions(count: usize) -> usize {
    4 * ((count + 1) as f64).log10().ceil() as usize
}

/// What came of the decisions of one run.
pub struct Outcome {
    pub delays: Vec<Duration>,
    pub missing: usize,
    pub bytes: u64,
}

struct Node {
    /// By number of decision.
    knows: Vec<bool>,
    /// By how often they went out.
    queue: Vec<Vec<u32>>,
    /// Of its ticks.
    phase_ms: u64,
}

/// `rate` decisions a second at random nodes for `load`, then as long again and ten seconds more.
pub fn run(seed: u64, count: usize, loss: f64, rate: u64, load: Duration) -> Outcome {
    let mut random = SmallRng::seed_from_u64(seed);
    let transmissions = transmissions(count);
    let load_ms = load.as_millis() as u64;
    let total = (load_ms * rate / 1000) as usize;
    let mut nodes: Vec<Node> = (0..count)
        .map(|_| Node {
            knows: vec![false; total],
            queue: vec![Vec::new(); transmissions],
            phase_ms: random.random_range(0..INTERVAL_MS),
        })
        .collect();
    let mut outcome = Outcome {
        delays: Vec::new(),
        missing: 0,
        bytes: 0,
    };
    let mut decided = 0;
    for ms in 0..2 * load_ms + 10_000 {
        while decided < (load_ms.min(ms + 1) * rate / 1000) as u32 {
            let node = &mut nodes[random.random_range(0..count)];
            node.knows[decided as usize] = true;
            node.queue[0].push(decided);
            decided += 1;
        }
        for from in 0..count {
            if ms % INTERVAL_MS != nodes[from].phase_ms {
                continue;
            }
            let peers = index::sample(&mut random, count - 1, FANOUT.min(count - 1));
            for peer in peers {
                let to = if peer >= from { peer + 1 } else { peer };
                let packet = nodes[from].packet();
                outcome.bytes += (packet.len() * DECISION_BYTES) as u64;
                if random.random_bool(loss) {
                    continue;
                }
                let to = &mut nodes[to];
                for decision in packet {
                    if !std::mem::replace(&mut to.knows[decision as usize], true) {
                        to.queue[0].push(decision);
                        let decided_ms = u64::from(decision) * 1000 / rate;
                        outcome.delays.push(Duration::from_millis(ms - decided_ms));
                    }
                }
            }
        }
    }
    outcome.missing = total * (count - 1) - outcome.delays.len();
    outcome
}

impl Node {
    /// Those that went out least often first, of these the newest.
    fn packet(&mut self) -> Vec<u32> {
        let mut packet = Vec::new();
        let mut room = PACKET_BYTES / DECISION_BYTES;
        let mut sent: Vec<Vec<u32>> = Vec::new();
        for bucket in &mut self.queue {
            let taken = bucket.split_off(bucket.len().saturating_sub(room));
            room -= taken.len();
            packet.extend_from_slice(&taken);
            sent.push(taken);
        }
        for (bucket, sent) in self.queue.iter_mut().skip(1).zip(sent) {
            bucket.extend(sent);
        }
        packet
    }
}
