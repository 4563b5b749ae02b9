//! Who is there: SWIM by foca's state machine, with our identity, codec, timers and transport around it.
//!
//! ```text
//!  datagram ─→ handle_data ─┐          ┌─→ poll_send: datagrams for members
//!  seed ────→ announce ─────┼─→ foca ──┼─→ changed: live members are not what they were
//!  time ────→ handle_timeout┘          └─→ timers, in time that passes only while this node runs
//! ```
//!
//! A node that was late itself accuses nobody: what it waited for may lie unread in its socket. When a timer fires
//! more than [`LATE`] after its time, all timers are set back by as much, so that probes and suspicions get the time
//! that this node did not look.

pub mod identity; // who, which life, where; and its bytes

pub use identity::Identity;

use super::NodeId;
use crate::base::time::Instant;
use bytes::Bytes;
use foca::{AccumulatingRuntime, Config, Foca, Member, NoCustomBroadcast, PeriodicParams, State, Timer};
use identity::{MemberCodec, NODE_COUNT_MAX, Named};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use std::num::{NonZeroU8, NonZeroUsize};
use std::time::Duration;

/// Later than this the node was late, not its peers.
const LATE: Duration = Duration::from_millis(100);
/// Time to read what came meanwhile.
const CATCH_UP: Duration = Duration::from_millis(50);
/// A message of the protocol at most: a datagram less what goes around it.
const MESSAGE_BYTES_MAX: usize = 1100;

/// The membership of one node.
pub struct Membership {
    foca: Foca<Identity, MemberCodec, SmallRng, NoCustomBroadcast>,
    runtime: AccumulatingRuntime<Identity>,
    /// Few: one or two for each protocol period and each suspicion.
    timers: Vec<(Instant, Timer<Identity>)>,
    named: Named,
    changed: bool,
    /// Of this node being late, in total.
    lag: Duration,
    left: bool,
}

/// What is known of one member, this node not included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    pub identity: Identity,
    pub state: State,
}

impl Membership {
    pub fn new(own: Identity, seed: u64) -> Membership {
        let rng = SmallRng::seed_from_u64(seed);
        let named = Named::default();
        let codec = MemberCodec { named: named.clone() };
        Membership {
            foca: Foca::new(own, config(), rng, codec),
            named,
            runtime: AccumulatingRuntime::new(),
            timers: Vec::new(),
            changed: false,
            lag: Duration::ZERO,
            left: false,
        }
    }

    /// As others know this node: renewed whenever they had given it up.
    pub fn own(&self) -> Identity {
        *self.foca.identity()
    }

    /// `Err`: not bytes of this protocol; nothing changed.
    pub fn handle_data(&mut self, now: Instant, bytes: &[u8]) -> Result<(), foca::Error> {
        if self.left {
            return Ok(());
        }
        if self.named.borrow().len() >= NODE_COUNT_MAX {
            let known = self.foca.iter_membership_state().map(|member| member.id().node);
            *self.named.borrow_mut() = known.collect();
        }
        let result = self.foca.handle_data(bytes, &mut self.runtime);
        self.collect(now);
        result
    }

    /// Asks a node that said who it is to take this one in.
    pub fn announce(&mut self, now: Instant, to: Identity) {
        if !self.left {
            // What cannot be sent is announced again: the seeds are asked until they are members.
            let _ = self.foca.announce(to, &mut self.runtime);
            self.collect(now);
        }
    }

    /// A peer says that it suspects this node, of which it knows so many refutations. foca itself would learn of it
    /// from rumours only, which loss delays.
    pub fn refute(&mut self, now: Instant, refutations: u16, to: Identity) {
        let suspected = Member::new(self.own(), refutations, State::Suspect);
        let _ = self
            .foca
            .apply_many(std::iter::once(suspected), false, &mut self.runtime);
        // Whatever comes from here now says how often it was refuted.
        self.announce(now, to);
    }

    /// Whom this node suspects, and how many refutations it knows of each.
    pub fn suspects(&self) -> impl Iterator<Item = (NodeId, u16)> {
        let suspects = self
            .foca
            .iter_members()
            .filter(|member| member.state() == State::Suspect);
        suspects.map(|member| (member.id().node, member.incarnation()))
    }

    /// Tells the others that this node goes.
    pub fn leave(&mut self, now: Instant) {
        if !self.left {
            let _ = self.foca.leave_cluster(&mut self.runtime);
            self.collect(now);
            self.left = true;
            self.timers.clear();
        }
    }

    /// The next message of the protocol and whom it goes to.
    pub fn poll_send(&mut self) -> Option<(Identity, Bytes)> {
        self.runtime.to_send()
    }

    /// Whether live members may differ from those at the call before.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Live ones, suspects among them.
    pub fn live(&self) -> impl Iterator<Item = Identity> {
        self.foca.iter_members().map(|member| *member.id())
    }

    /// Everybody of whom is known, the dead of the last day included.
    pub fn known(&self) -> impl Iterator<Item = Known> {
        self.foca.iter_membership_state().map(|member| Known {
            identity: *member.id(),
            state: member.state(),
        })
    }

    /// How long this node was late in total.
    pub fn lag(&self) -> Duration {
        self.lag
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.iter().map(|(due, _)| *due).min()
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        let Some(first) = self.poll_timeout() else {
            return;
        };
        let late = now.since(first);
        if late > LATE {
            self.lag += late;
            let set_back = late + CATCH_UP;
            self.timers
                .iter_mut()
                .for_each(|(due, _)| *due = due.plus(set_back));
            return;
        }
        // foca wants events of one moment in its own order.
        let mut due: Vec<_> = self.timers.extract_if(.., |(due, _)| *due <= now).collect();
        due.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        for (_, timer) in due {
            // Its errors here are of a timer that no longer means anything; the next period begins anew.
            let _ = self.foca.handle_timer(timer, &mut self.runtime);
            self.collect(now);
        }
    }

    fn collect(&mut self, now: Instant) {
        while let Some((after, timer)) = self.runtime.to_schedule() {
            self.timers.push((now.plus(after), timer));
        }
        while self.runtime.to_notify().is_some() {
            self.changed = true;
        }
    }
}

/// For 3 to 100 nodes on a network of a data centre.
fn config() -> Config {
    let count = |count| NonZeroUsize::new(count).expect("not zero");
    let every = |seconds, members| PeriodicParams {
        frequency: Duration::from_secs(seconds),
        num_members: count(members),
    };
    Config {
        probe_period: Duration::from_secs(1),
        probe_rtt: Duration::from_millis(300),
        num_indirect_probes: count(3),
        // foca's own formula gives 2 for three nodes, which one lost datagram in five defeats.
        max_transmissions: NonZeroU8::new(8).expect("not zero"),
        suspect_to_down_after: Duration::from_secs(5),
        remove_down_after: Some(Duration::from_secs(24 * 60 * 60)),
        max_packet_size: count(MESSAGE_BYTES_MAX),
        notify_down_members: true,
        periodic_announce: Some(every(10, 1)),
        periodic_announce_to_down_members: Some(every(5, 2)),
        periodic_gossip: Some(PeriodicParams {
            frequency: Duration::from_millis(200),
            num_members: count(3),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(node: u64) -> Identity {
        Identity {
            node: NodeId(node),
            incarnation: 1,
            renewal: 0,
            address: format!("10.0.0.{node}:1").parse().expect("an address"),
        }
    }

    /// Runs both for `ms`, delivering at once what `cut` lets through; the second looks every `step` ms only.
    fn run(pair: &mut [Membership; 2], from_ms: u64, ms: u64, step: u64, cut: bool) {
        for time in from_ms..from_ms + ms {
            let now = Instant(time * 1_000_000);
            for index in 0..2 {
                if index == 1 && !time.is_multiple_of(step) {
                    continue;
                }
                pair[index].handle_timeout(now);
                while let Some((_, bytes)) = pair[index].poll_send() {
                    if !cut {
                        let _ = pair[1 - index].handle_data(now, &bytes);
                    }
                }
            }
        }
    }

    fn pair() -> [Membership; 2] {
        let mut pair = [Membership::new(identity(1), 1), Membership::new(identity(2), 2)];
        pair[0].announce(Instant(0), identity(2));
        run(&mut pair, 0, 100, 1, false);
        assert_eq!(pair.each_ref().map(|member| member.live().count()), [1, 1]);
        pair
    }

    #[test]
    fn a_silent_member_is_given_up_and_taken_back() {
        let mut pair = pair();
        run(&mut pair, 100, 12_000, 1, true);
        assert_eq!(pair.each_ref().map(|member| member.live().count()), [0, 0]);
        pair[0].announce(Instant(12_100 * 1_000_000), identity(2));
        run(&mut pair, 12_100, 12_000, 1, false);
        assert_eq!(pair.each_ref().map(|member| member.live().count()), [1, 1]);
    }

    #[test]
    fn a_node_that_was_late_itself_accuses_nobody() {
        let mut pair = pair();
        // The second looks once in 4 s, and its probes are answered within the silence.
        for round in 0..8 {
            run(&mut pair, 100 + round * 4_000, 4_000, 4_000, false);
        }
        assert_eq!(pair[1].live().count(), 1);
        assert!(pair[1].lag() > Duration::from_secs(3));
    }

    #[test]
    fn who_leaves_is_gone_at_once() {
        let mut pair = pair();
        pair[1].leave(Instant(101_000_000));
        run(&mut pair, 101, 50, 1, false);
        assert_eq!(pair[0].live().count(), 0);
    }
}
