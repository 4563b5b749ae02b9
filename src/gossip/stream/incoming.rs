//! What has come of one stream, what is missing, and when it is asked for again.
//!
//! ```text
//!   … 11 12 13 14 __ __ 17 18 __ 20
//!          └ contiguous  └ gap     └ highest: it is known that there is as much
//! ```
//!
//! A gap is waited for a little, since datagrams overtake each other; then asked for at growing intervals, first of the
//! origin, then of another peer, at last over TCP. It ends when its batches come, or when nobody has them any more.

use super::{
    GAP_COUNT_MAX, GAP_DATAGRAM_MAX, RANGE_COUNT_MAX, REORDER_GRACE, RETRY_FIRST, RETRY_LONGEST, Range,
    SYNC_LONGEST, TRIES_DATAGRAM, TRIES_ORIGIN,
};
use crate::base::time::Instant;
use crate::gossip::NodeId;
use bytes::Bytes;
use smallvec::SmallVec;
use std::collections::BTreeMap;
use std::time::Duration;

/// Invariant: `gaps` are sorted and apart, none reaches beyond `highest`, and every number above `begin` and up to
/// `highest` is in a gap or has been received or given up.
#[derive(Debug)]
pub struct Incoming {
    highest: u64,
    gaps: Vec<Gap>,
    /// What is kept: for peers that lack it, or until its turn comes.
    batches: BTreeMap<u64, (Instant, Bytes)>,
    bytes: usize,
}

/// Numbers that have not come.
#[derive(Clone, Debug)]
struct Gap {
    first: u64,
    last: u64,
    since: Instant,
    tries: u32,
    /// When it is asked for next.
    due: Instant,
    /// Who has said not to have it.
    lacking: SmallVec<[NodeId; 4]>,
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    New,
    /// New, and it had been asked for.
    Repaired,
    /// It was here before, or was given up.
    Again,
    /// Too many gaps: it is not taken, and will be asked for.
    TooFar,
}

/// What is to be asked for now.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Repairs {
    pub of_origin: Vec<Range>,
    pub of_others: Vec<Range>,
    pub over_tcp: bool,
}

impl Incoming {
    /// A stream whose numbers before `oldest` are none of ours.
    pub fn new(oldest: u64) -> Incoming {
        Incoming {
            highest: oldest.saturating_sub(1),
            gaps: Vec::new(),
            batches: BTreeMap::new(),
            bytes: 0,
        }
    }

    /// All up to it have come, or were given up.
    pub fn contiguous(&self) -> u64 {
        self.gaps.first().map_or(self.highest, |gap| gap.first - 1)
    }

    pub fn highest(&self) -> u64 {
        self.highest
    }

    /// The first number from which on this node can give the stream to others, as far as it has it.
    pub fn oldest(&self) -> u64 {
        self.batches
            .keys()
            .next()
            .map_or(self.contiguous() + 1, |first| *first)
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    pub fn get(&self, number: u64) -> Option<&Bytes> {
        self.batches.get(&number).map(|(_, content)| content)
    }

    pub fn receive(&mut self, now: Instant, number: u64, content: Bytes) -> Received {
        let mut received = Received::New;
        if number > self.highest {
            let skips = number > self.highest + 1;
            if skips && self.gaps.len() >= GAP_COUNT_MAX {
                return Received::TooFar;
            }
            if skips {
                self.gaps.push(Gap::new(now, self.highest + 1, number - 1));
            }
            self.highest = number;
        } else {
            let Some(index) = self.gap_with(number) else {
                return Received::Again;
            };
            let within = self.gaps[index].first < number && number < self.gaps[index].last;
            if within && self.gaps.len() >= GAP_COUNT_MAX {
                return Received::TooFar;
            }
            if self.gaps[index].tries > 0 {
                received = Received::Repaired;
            }
            self.close(index, number, number);
        }
        self.bytes += content.len();
        self.batches.insert(number, (now, content));
        received
    }

    /// Somebody says that there is as much.
    pub fn learn(&mut self, now: Instant, highest: u64) {
        if highest <= self.highest {
            return;
        }
        let first = self.highest + 1;
        self.highest = highest;
        let too_many = self.gaps.len() >= GAP_COUNT_MAX;
        match self.gaps.last_mut() {
            // Not to have one gap for each time that it is said.
            Some(gap) if gap.last + 1 == first && (gap.tries == 0 || too_many) => {
                gap.last = highest;
            }
            _ => self.gaps.push(Gap::new(now, first, highest)),
        }
    }

    /// The next batch in order, for streams that are used so: it is not kept.
    pub fn take_after(&mut self, used: u64) -> Option<(u64, Bytes)> {
        let entry = self.batches.first_entry()?;
        let number = *entry.key();
        // Numbers between the two were given up.
        if number <= used || self.gaps.first().is_some_and(|gap| gap.first < number) {
            return None;
        }
        let (_, content) = entry.remove();
        self.bytes -= content.len();
        Some((number, content))
    }

    /// Nobody has anything below `oldest` any more. How many batches were missed by that.
    pub fn skip_below(&mut self, oldest: u64) -> u64 {
        let mut missed = 0;
        while let Some(first) = self
            .gaps
            .first()
            .map(|gap| gap.first)
            .filter(|first| *first < oldest)
        {
            let last = self.gaps[0].last.min(oldest - 1);
            missed += last - first + 1;
            self.close(0, first, last);
        }
        if oldest > self.highest + 1 {
            missed += oldest - 1 - self.highest;
            self.highest = oldest - 1;
        }
        missed
    }

    /// Gives up every gap for which `hopeless` holds of (since when it is missed, who has said not to have it). How
    /// many batches that were.
    pub fn give_up(&mut self, hopeless: impl Fn(Instant, &[NodeId]) -> bool) -> u64 {
        let mut missed = 0u64;
        self.gaps.retain(|gap| {
            let gone = hopeless(gap.since, &gap.lacking);
            if gone {
                missed = missed.saturating_add(gap.last - gap.first + 1);
            }
            !gone
        });
        missed
    }

    /// What is missing, oldest first, for one request over TCP to `peer`: nothing that it does not have.
    pub fn missing(&self, peer: NodeId) -> Vec<Range> {
        let gaps = self.gaps.iter().filter(|gap| !gap.lacking.contains(&peer));
        gaps.take(RANGE_COUNT_MAX)
            .map(|gap| (gap.first, gap.last))
            .collect()
    }

    pub fn is_whole(&self) -> bool {
        self.gaps.is_empty()
    }

    /// `peer` was asked for these and gave all it had: what is still missing of them it does not have.
    pub fn lack(&mut self, peer: NodeId, asked: &[Range]) {
        for gap in &mut self.gaps {
            let overlaps = asked
                .iter()
                .any(|(first, last)| *first <= gap.last && gap.first <= *last);
            if overlaps && !gap.lacking.contains(&peer) {
                gap.lacking.push(peer);
            }
        }
    }

    /// What `peer` has may have changed; what is missing is asked for soon.
    pub fn hope(&mut self, now: Instant, peer: NodeId) {
        for gap in &mut self.gaps {
            gap.lacking.retain(|lacking| *lacking != peer);
            gap.tries = gap.tries.min(TRIES_DATAGRAM);
            gap.due = gap.due.min(now.plus(RETRY_LONGEST));
        }
    }

    /// What is due to be asked for, each then at a later time again. `random` gives any number.
    pub fn due(&mut self, now: Instant, mut random: impl FnMut() -> u64) -> Repairs {
        let mut repairs = Repairs::default();
        for gap in self.gaps.iter_mut().filter(|gap| gap.due <= now) {
            if gap.last - gap.first >= GAP_DATAGRAM_MAX {
                gap.tries = gap.tries.max(TRIES_DATAGRAM);
            }
            let range = (gap.first, gap.last);
            let pause = match gap.tries {
                tries if tries < TRIES_DATAGRAM => {
                    let ranges = match tries < TRIES_ORIGIN {
                        true => &mut repairs.of_origin,
                        false => &mut repairs.of_others,
                    };
                    if ranges.len() >= RANGE_COUNT_MAX {
                        // Its turn comes with the next round.
                        continue;
                    }
                    ranges.push(range);
                    (RETRY_FIRST * 2u32.pow(tries)).min(RETRY_LONGEST)
                }
                tries => {
                    repairs.over_tcp = true;
                    (RETRY_LONGEST * 2u32.pow((tries - TRIES_DATAGRAM).min(8))).min(SYNC_LONGEST)
                }
            };
            gap.tries = gap.tries.saturating_add(1);
            gap.due = now.plus(jitter(pause, random()));
        }
        repairs
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        self.gaps.iter().map(|gap| gap.due).min()
    }

    /// Everybody has had all up to `number`; it is not kept for others.
    pub fn release_through(&mut self, number: u64) {
        self.drop_while(|first, _, _| first <= number);
    }

    pub fn expire(&mut self, before: Instant) {
        self.drop_while(|_, at, _| at < before);
    }

    pub fn shrink(&mut self, bytes_max: usize) {
        self.drop_while(|_, _, bytes| bytes > bytes_max);
    }

    fn drop_while(&mut self, goes: impl Fn(u64, Instant, usize) -> bool) {
        while let Some(entry) = self.batches.first_entry() {
            if !goes(*entry.key(), entry.get().0, self.bytes) {
                break;
            }
            self.bytes -= entry.remove().1.len();
        }
    }

    fn gap_with(&self, number: u64) -> Option<usize> {
        let index = self.gaps.partition_point(|gap| gap.last < number);
        self.gaps
            .get(index)
            .filter(|gap| gap.first <= number)
            .map(|_| index)
    }

    /// Takes a range out of the gap that it lies in.
    fn close(&mut self, index: usize, first: u64, last: u64) {
        let gap = &mut self.gaps[index];
        match (gap.first == first, gap.last == last) {
            (true, true) => drop(self.gaps.remove(index)),
            (true, false) => gap.first = last + 1,
            (false, true) => gap.last = first - 1,
            (false, false) => {
                let rest = Gap {
                    first: last + 1,
                    ..gap.clone()
                };
                gap.last = first - 1;
                self.gaps.insert(index + 1, rest);
            }
        }
    }
}

impl Gap {
    fn new(now: Instant, first: u64, last: u64) -> Gap {
        Gap {
            first,
            last,
            since: now,
            tries: 0,
            due: now.plus(REORDER_GRACE),
            lacking: SmallVec::new(),
        }
    }
}

/// Half to one and a half of it, so that receivers that miss the same do not ask together.
fn jitter(pause: Duration, random: u64) -> Duration {
    pause / 2 + pause.mul_f64((random >> 11) as f64 / (1u64 << 53) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn at(ms: u64) -> Instant {
        Instant(ms * 1_000_000)
    }

    fn missing(stream: &Incoming) -> Vec<Range> {
        stream.gaps.iter().map(|gap| (gap.first, gap.last)).collect()
    }

    proptest! {
        /// Against a set of all numbers that have come.
        #[test]
        fn gaps_are_what_has_not_come(steps in prop::collection::vec((1u64..60, 0usize..8), 1..200), oldest in 1u64..20) {
            let mut stream = Incoming::new(oldest);
            let (mut here, mut highest): (BTreeSet<u64>, u64) = ((1..oldest).collect(), oldest - 1);
            for (number, kind) in steps {
                match kind {
                    0 => {
                        stream.learn(at(0), number);
                        highest = highest.max(number);
                    }
                    1 => {
                        let missed = stream.skip_below(number);
                        let before = here.len();
                        here.extend(1..number);
                        highest = highest.max(number - 1);
                        prop_assert_eq!(missed, (here.len() - before) as u64);
                    }
                    _ => {
                        let new = stream.receive(at(0), number, Bytes::from_static(b"x")) == Received::New;
                        prop_assert_eq!(new, here.insert(number));
                        highest = highest.max(number);
                    }
                }
                prop_assert_eq!(stream.highest(), highest);
                let lacking: Vec<u64> = (1..=highest).filter(|number| !here.contains(number)).collect();
                let gaps: Vec<u64> = missing(&stream).iter().flat_map(|(first, last)| *first..=*last).collect();
                prop_assert_eq!(&gaps, &lacking);
                prop_assert_eq!(stream.contiguous(), lacking.first().map_or(highest, |first| first - 1));
            }
        }
    }

    #[test]
    fn a_gap_is_asked_for_of_the_origin_then_of_others_then_over_tcp() {
        let mut stream = Incoming::new(1);
        stream.receive(at(0), 1, Bytes::new());
        stream.receive(at(0), 4, Bytes::new());
        assert_eq!(stream.due(at(1), || 0), Repairs::default());
        let mut seen = Vec::new();
        let mut now = at(2);
        for _ in 0..8 {
            let repairs = stream.due(now, || 0);
            seen.push((repairs.of_origin.len(), repairs.of_others.len(), repairs.over_tcp));
            now = stream.poll_timeout().expect("still missing");
        }
        let (origin, others, tcp) = ((1, 0, false), (0, 1, false), (0, 0, true));
        assert_eq!(seen, [origin, origin, origin, others, others, others, tcp, tcp]);
        stream.receive(now, 2, Bytes::new());
        stream.receive(now, 3, Bytes::new());
        assert_eq!(stream.poll_timeout(), None);
    }

    #[test]
    fn a_long_gap_goes_over_tcp_at_once() {
        let mut stream = Incoming::new(1);
        stream.learn(at(0), 1000);
        assert!(stream.due(at(2), || 0).over_tcp);
    }

    #[test]
    fn gaps_are_bounded_and_what_is_not_taken_is_asked_for() {
        let mut stream = Incoming::new(1);
        for number in 1..4 * GAP_COUNT_MAX as u64 {
            stream.receive(at(0), 2 * number, Bytes::new());
        }
        assert_eq!(stream.gaps.len(), GAP_COUNT_MAX);
        assert_eq!(stream.highest(), 2 * GAP_COUNT_MAX as u64);
        stream.learn(at(0), u64::MAX);
        stream.learn(at(0), u64::MAX);
        assert!(stream.gaps.len() <= GAP_COUNT_MAX + 1);
    }

    #[test]
    fn in_order_means_in_order() {
        let mut stream = Incoming::new(1);
        for number in [2, 3, 6] {
            stream.receive(at(0), number, Bytes::new());
        }
        assert_eq!(stream.take_after(0), None);
        stream.receive(at(0), 1, Bytes::new());
        let mut taken = Vec::new();
        while let Some((number, _)) = stream.take_after(taken.last().copied().unwrap_or(0)) {
            taken.push(number);
        }
        assert_eq!(taken, [1, 2, 3]);
        assert_eq!(stream.skip_below(6), 2);
        assert_eq!(stream.take_after(3).map(|(number, _)| number), Some(6));
    }

    #[test]
    fn who_lacks_it_is_not_asked_again_until_there_is_hope() {
        let mut stream = Incoming::new(1);
        stream.learn(at(0), 9);
        stream.lack(NodeId(1), &[(1, 9)]);
        assert_eq!(stream.missing(NodeId(1)), []);
        assert_eq!(stream.missing(NodeId(2)), [(1, 9)]);
        assert_eq!(stream.give_up(|_, lacking| lacking.len() > 1), 0);
        stream.hope(at(1), NodeId(1));
        assert_eq!(stream.missing(NodeId(1)), [(1, 9)]);
        assert_eq!(stream.give_up(|_, lacking| lacking.is_empty()), 9);
        assert!(stream.is_whole());
    }
}
