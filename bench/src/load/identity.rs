//! Trace and span ids as a pure function of the seed and of numbers.
//!
//! A trace may be spread over several requests that are built at different moments; none of them has to
//! remember what the others drew, because all ids follow from (seed, trace number, span index).

/// Finalizer of SplitMix64: a bijection, so different counters never share an output.
#[inline]
pub fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// The increment of SplitMix64: 2⁶⁴ over the golden ratio, odd.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// The ids of one run of the generator.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    seed: u64,
}

/// The ids of one trace.
///
/// Invariant: neither half is all zero by chance alone; no span id is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceIdentity {
    high: u64,
    low: u64,
}

impl Identity {
    pub fn new(seed: u64) -> Identity {
        Identity {
            seed: mix(seed.wrapping_add(STEP)),
        }
    }

    /// Distinct for distinct numbers of one run.
    #[inline]
    pub fn trace(&self, number: u64) -> TraceIdentity {
        let high = mix(self.seed.wrapping_add(number.wrapping_mul(STEP)));
        TraceIdentity {
            high,
            low: mix(high ^ self.seed.rotate_left(32)),
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
        let id = self.low.wrapping_add((u64::from(index) + 1).wrapping_mul(STEP));
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
        let identity = Identity::new(7);
        let mut traces = HashSet::new();
        for number in 0..10_000 {
            let trace = identity.trace(number);
            assert!(traces.insert(trace.trace_id()));
            let spans: HashSet<_> = (0..8).map(|index| trace.span_id(index)).collect();
            assert_eq!(spans.len(), 8);
        }
    }

    #[test]
    fn seeds_give_different_ids_and_the_same_seed_the_same() {
        assert_eq!(Identity::new(1).trace(5), Identity::new(1).trace(5));
        assert_ne!(Identity::new(1).trace(5), Identity::new(2).trace(5));
    }
}
