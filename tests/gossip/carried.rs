//! The same decisions carried by foca itself, as custom broadcasts on its membership messages, with its settings for a
//! LAN. A link takes no time; bytes are those that it sends beyond what it sends without decisions.

use super::queues::{DECISION_BYTES, Outcome};
use foca::{AccumulatingRuntime, BroadcastHandler, Config, Foca, Invalidates, Member, State, Timer};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::cell::RefCell;
use std::collections::{HashSet, VecDeque};
use std::convert::Infallible;
use std::num::NonZeroU32;
use std::rc::Rc;
use std::time::Duration;
use tailkeep::gossip::NodeId;
use tailkeep::gossip::member::Identity;
use tailkeep::gossip::member::identity::MemberCodec;

/// foca puts a length of two bytes before each.
const PAYLOAD_BYTES: usize = DECISION_BYTES - 2;

/// The number of a decision.
#[derive(PartialEq)]
struct Decision(u32);

impl Invalidates for Decision {
    fn invalidates(&self, other: &Decision) -> bool {
        self == other
    }
}

/// What one node knows, and what is new in the packet being read.
#[derive(Default)]
struct Known {
    all: HashSet<u32>,
    new: Vec<u32>,
}

struct Handler(Rc<RefCell<Known>>);

impl BroadcastHandler<Identity> for Handler {
    type Key = Decision;
    type Error = Infallible;

    fn receive_item(&mut self, data: &[u8], from: Option<&Identity>) -> Result<Option<Decision>, Infallible> {
        let number = u32::from_le_bytes(data[..4].try_into().expect("decisions are longer"));
        let mut known = self.0.borrow_mut();
        if !known.all.insert(number) {
            return Ok(None);
        }
        if from.is_some() {
            known.new.push(number);
        }
        Ok(Some(Decision(number)))
    }
}

struct Node {
    foca: Foca<Identity, MemberCodec, SmallRng, Handler>,
    runtime: AccumulatingRuntime<Identity>,
    timers: Vec<(u64, Timer<Identity>)>,
    known: Rc<RefCell<Known>>,
}

fn identity(index: usize) -> Identity {
    Identity {
        node: NodeId(index as u64 + 1),
        incarnation: 1,
        renewal: 0,
        address: ([10, 0, 0, 1], index as u16 + 1).into(),
    }
}

impl Node {
    /// A node that knows all others, as long after they met.
    fn new(index: usize, count: usize, random: &mut SmallRng) -> Node {
        let known = Rc::new(RefCell::new(Known::default()));
        let size = NonZeroU32::new(count as u32).expect("there are nodes");
        let mut node = Node {
            foca: Foca::with_custom_broadcast(
                identity(index),
                Config::new_lan(size),
                SmallRng::seed_from_u64(random.random()),
                MemberCodec::default(),
                Handler(known.clone()),
            ),
            runtime: AccumulatingRuntime::new(),
            timers: Vec::new(),
            known,
        };
        let others = (0..count).filter(|other| *other != index);
        let others = others.map(|other| Member::new(identity(other), 0, State::Alive));
        node.foca
            .apply_many(others, false, &mut node.runtime)
            .expect("members are no news to refuse");
        // Periods of nodes that started at different times.
        node.collect_timers(random.random_range(0..1_000));
        node
    }

    fn collect_timers(&mut self, now_ms: u64) {
        while let Some((after, timer)) = self.runtime.to_schedule() {
            self.timers.push((now_ms + after.as_millis() as u64, timer));
        }
    }

    fn handle_timers(&mut self, now_ms: u64) {
        // foca wants events of one moment in its own order.
        let mut due: Vec<_> = self.timers.extract_if(.., |(due, _)| *due <= now_ms).collect();
        due.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        for (_, timer) in due {
            let _ = self.foca.handle_timer(timer, &mut self.runtime);
            self.collect_timers(now_ms);
        }
    }
}

/// `rate` decisions a second at random nodes for `load`, then as long again and ten seconds more.
pub fn run(seed: u64, count: usize, loss: f64, rate: u64, load: Duration) -> Outcome {
    let mut outcome = play(seed, count, loss, rate, load);
    outcome.bytes = outcome
        .bytes
        .saturating_sub(play(seed, count, loss, 0, load).bytes);
    outcome
}

fn play(seed: u64, count: usize, loss: f64, rate: u64, load: Duration) -> Outcome {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut nodes: Vec<Node> = (0..count)
        .map(|index| Node::new(index, count, &mut random))
        .collect();
    let load_ms = load.as_millis() as u64;
    let total = (load_ms * rate / 1000) as usize;
    let mut outcome = Outcome {
        delays: Vec::new(),
        missing: 0,
        bytes: 0,
    };
    let mut packets = VecDeque::new();
    let mut decided = 0u32;
    for ms in 0..2 * load_ms + 10_000 {
        while decided < (load_ms.min(ms + 1) * rate / 1000) as u32 {
            let mut payload = [0; PAYLOAD_BYTES];
            payload[..4].copy_from_slice(&decided.to_le_bytes());
            let node = &mut nodes[random.random_range(0..count)];
            node.foca.add_broadcast(&payload).expect("it is short enough");
            decided += 1;
        }
        for node in &mut nodes {
            node.handle_timers(ms);
            packets.extend(std::iter::from_fn(|| node.runtime.to_send()));
        }
        while let Some((to, packet)) = packets.pop_front() {
            outcome.bytes += packet.len() as u64;
            if random.random_bool(loss) {
                continue;
            }
            let node = &mut nodes[to.node.0 as usize - 1];
            node.foca
                .handle_data(&packet, &mut node.runtime)
                .expect("nobody is given up in so short a time");
            node.collect_timers(ms);
            packets.extend(std::iter::from_fn(|| node.runtime.to_send()));
            for number in node.known.borrow_mut().new.drain(..) {
                let decided_ms = u64::from(number) * 1000 / rate;
                outcome.delays.push(Duration::from_millis(ms - decided_ms));
            }
        }
    }
    outcome.missing = total * (count - 1) - outcome.delays.len();
    outcome
}
