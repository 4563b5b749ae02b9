//! Trace and span ids as a pure function of the seed and of numbers.
//!
//! A trace may be spread over several requests that are built at different moments; none of them has to
//! remember what the others drew, because all ids follow from (seed, trace number, span index).

use clap::ValueEnum;

/// Finalizer of SplitMix64: a bijection, so different counters never share an output.
#[inline]
pub fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// The increment of SplitMix64: 2⁶⁴ over the golden ratio, odd.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// What the trace ids of a run have in common. Span ids are drawn in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum TraceIds {
    /// Nothing: as an SDK draws them
    #[default]
    Random,
    /// Each is the one before and one more
    Sequential,
    /// The first eight bytes
    SameHigh,
    /// The last eight bytes, with them the randomness that probabilities go by
    SameLow,
    /// Everything: all spans are of one trace
    One,
}

impl std::fmt::Display for TraceIds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let value = self.to_possible_value();
        f.write_str(value.as_ref().map_or("", |value| value.get_name()))
    }
}

/// The ids of one run of the generator.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    seed: u64,
    trace_ids: TraceIds,
}

/// The ids of one trace, or of that part of the one trace which has a number of its own.
///
/// Invariant: neither half is all zero by chance alone; no span id is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceIdentity {
    high: u64,
    low: u64,
    /// Where its span ids begin.
    spans: u64,
}

impl Identity {
    pub fn new(seed: u64, trace_ids: TraceIds) -> Identity {
        Identity {
            seed: mix(seed.wrapping_add(STEP)),
            trace_ids,
        }
    }

    /// Distinct for distinct numbers of one run, but for [`TraceIds::One`].
    #[inline]
    pub fn trace(&self, number: u64) -> TraceIdentity {
        let drawn_high = mix(self.seed.wrapping_add(number.wrapping_mul(STEP)));
        let drawn_low = mix(drawn_high ^ self.seed.rotate_left(32));
        let (high, low) = match self.trace_ids {
            TraceIds::Random => (drawn_high, drawn_low),
            TraceIds::Sequential => (self.seed, number.wrapping_add(1)),
            TraceIds::SameHigh => (self.seed, drawn_low),
            TraceIds::SameLow => (drawn_high, self.seed),
            TraceIds::One => (self.seed, self.seed),
        };
        TraceIdentity {
            high,
            low,
            spans: drawn_low,
        }
    }
}

impl TraceIdentity {
    #[inline]
    pub fn trace_id(&self) -> [u8; 16] {
        (u128::from(self.high) << 64 | u128::from(self.low)).to_be_bytes()
    }

    /// Distinct for distinct indexes of one trace. A Weyl sequence from a random origin: its ids differ in
    /// about half their bits, and two are needed for every span, so they are not mixed once more.
    #[inline]
    pub fn span_id(&self, index: u16) -> [u8; 8] {
        let id = self.spans.wrapping_add((u64::from(index) + 1).wrapping_mul(STEP));
        id.max(1).to_ne_bytes()
    }
}

/// A seeded stream of numbers, for what is drawn once when batches are built.
#[derive(Clone, Debug)]
pub struct Draw {
    state: u64,
}

impl Draw {
    pub fn new(seed: u64) -> Draw {
        Draw { state: mix(seed) }
    }

    pub fn number(&mut self) -> u64 {
        self.state = self.state.wrapping_add(STEP);
        mix(self.state)
    }

    /// A number of `low..high`, nearly even; `low < high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.number() % (high - low)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn ids_never_repeat_within_a_run() {
        for trace_ids in TraceIds::value_variants() {
            let identity = Identity::new(7, *trace_ids);
            let (mut traces, mut spans) = (HashSet::new(), HashSet::new());
            for number in 0..10_000 {
                let trace = identity.trace(number);
                let is_new = traces.insert(trace.trace_id());
                assert!(
                    is_new || *trace_ids == TraceIds::One && number > 0,
                    "{trace_ids:?}"
                );
                assert!((0..8).all(|index| spans.insert(trace.span_id(index))));
            }
        }
    }

    #[test]
    fn trace_ids_have_in_common_what_was_asked_for() {
        let halves = |trace_ids, number| {
            let id = Identity::new(7, trace_ids).trace(number).trace_id();
            (id[..8].to_vec(), id[8..].to_vec())
        };
        for number in 1..100 {
            let both = |trace_ids| (halves(trace_ids, 0), halves(trace_ids, number));
            let (first, other) = both(TraceIds::Random);
            assert!(first.0 != other.0 && first.1 != other.1);
            let (first, other) = both(TraceIds::SameHigh);
            assert!(first.0 == other.0 && first.1 != other.1);
            let (first, other) = both(TraceIds::SameLow);
            assert!(first.0 != other.0 && first.1 == other.1);
            let (first, other) = both(TraceIds::One);
            assert_eq!(first, other);
            let (first, other) = both(TraceIds::Sequential);
            assert_eq!((first.0, (number + 1).to_be_bytes().to_vec()), other);
        }
    }

    #[test]
    fn seeds_give_different_ids_and_the_same_seed_the_same() {
        let trace = |seed| Identity::new(seed, TraceIds::Random).trace(5);
        assert_eq!(trace(1), trace(1));
        assert_ne!(trace(1), trace(2));
    }
}
