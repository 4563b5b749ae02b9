//! Latencies in buckets that grow by powers of two, exact in count and sum.

use std::time::Duration;

/// Upper bounds in seconds, 64 µs to 67 s, then everything else.
const BOUND_COUNT: usize = 21;
/// The first bound is 2^16 ns.
const FIRST_BOUND_SHIFT: u32 = 16;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    buckets: [u64; BOUND_COUNT + 1],
    sum_ns: u64,
}

impl Histogram {
    #[inline]
    pub fn record(&mut self, value: Duration) {
        let ns = value.as_nanos().min(u64::MAX as u128) as u64;
        // The smallest n with ns ≤ 2^n.
        let power = 64 - ns.saturating_sub(1).leading_zeros();
        let index = power.saturating_sub(FIRST_BOUND_SHIFT) as usize;
        self.buckets[index.min(BOUND_COUNT)] += 1;
        self.sum_ns = self.sum_ns.saturating_add(ns);
    }

    pub fn merge(&mut self, other: &Histogram) {
        for (bucket, more) in self.buckets.iter_mut().zip(other.buckets) {
            *bucket += more;
        }
        self.sum_ns = self.sum_ns.saturating_add(other.sum_ns);
    }

    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    pub fn sum_seconds(&self) -> f64 {
        self.sum_ns as f64 / 1e9
    }

    /// Pairs of upper bound in seconds and values at or below it, without the last, endless bucket.
    pub fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> {
        self.buckets[..BOUND_COUNT]
            .iter()
            .enumerate()
            .scan(0, |total, (index, count)| {
                *total += count;
                Some(((1u64 << (FIRST_BOUND_SHIFT + index as u32)) as f64 / 1e9, *total))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_falls_below_the_first_bound_that_is_not_smaller() {
        let mut histogram = Histogram::default();
        histogram.record(Duration::ZERO);
        histogram.record(Duration::from_nanos(1 << 16));
        histogram.record(Duration::from_nanos((1 << 16) + 1));
        histogram.record(Duration::from_secs(100_000));
        let cumulative: Vec<_> = histogram.cumulative().map(|(_, count)| count).collect();
        assert_eq!(cumulative[..3], [2, 3, 3]);
        assert_eq!(cumulative[BOUND_COUNT - 1], 3);
        assert_eq!(histogram.count(), 4);
    }
}
