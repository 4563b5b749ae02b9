//! From a percentage to what a trace is compared with: T of consistent sampling, or the Collector's hash.

use crate::base::ids::TraceId;
use crate::verdict::Threshold;

/// T that keeps `percentage` of traces; `None` if it keeps none (0 or less).
///
/// The share is rounded so that it, or what it lacks of 1, whichever is smaller, keeps at least 16
/// significant bits, in whole hexadecimal digits of T: 1 % is `th:fd70a4`, 25 % `th:c`, a third `th:aaaab`.
/// That is precise to 0.002 % of the share and short on the wire, and T is decided with as it is written:
/// what `th` says is exactly how often such a trace is kept.
pub fn threshold_of_percentage(percentage: f64) -> Option<Threshold> {
    const DIGIT_COUNT_MAX: u32 = 14;
    let share = percentage / 100.0;
    if share >= 1.0 {
        return Some(Threshold::KEEP_ALL);
    }
    if share <= 0.0 || share.is_nan() {
        return None;
    }
    let significant_bits = 16 + leading_zero_bits(share.min(1.0 - share));
    let digits = significant_bits.div_ceil(4).min(DIGIT_COUNT_MAX);
    let unit = 1u64 << (4 * (DIGIT_COUNT_MAX - digits));

    // Below 2⁻⁵⁶ there is no T: the smallest share that is none.
    let kept = ((share * Threshold::LIMIT as f64).round() as u64).max(1);
    let rejected = Threshold::LIMIT - kept;
    Threshold::new((rejected + unit / 2) / unit * unit)
}

/// How many binary zeros follow the point of `share`, which lies between 0 and 1.
fn leading_zero_bits(share: f64) -> u32 {
    let mut bits = 0;
    let mut scaled = share;
    while scaled < 0.5 && bits < 56 {
        scaled *= 2.0;
        bits += 1;
    }
    bits
}

/// The Collector's `probabilistic` with a salt: FNV-1a 64 over salt and trace id, kept up to a limit.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Salted {
    /// FNV's state after the salt.
    state: u64,
    limit: u64,
    percentage: f64,
}

impl Salted {
    pub fn new(salt: &str, percentage: f64) -> Salted {
        const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
        Salted {
            state: fnv_1a(OFFSET_BASIS, salt.as_bytes()),
            limit: salted_limit(percentage / 100.0),
            percentage,
        }
    }

    pub fn keeps(&self, trace: TraceId) -> bool {
        fnv_1a(self.state, trace.as_bytes()) <= self.limit
    }

    pub fn percentage(&self) -> f64 {
        self.percentage
    }
}

fn fnv_1a(state: u64, bytes: &[u8]) -> u64 {
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    bytes.iter().fold(state, |state, byte| {
        (state ^ u64::from(*byte)).wrapping_mul(PRIME)
    })
}

/// `share × (2⁶⁴ − 1)`, truncated and saturated. The Collector rounds the product to a mantissa of 64 bits
/// first, which changes no limit: what it rounds away lies below the bit that truncation cuts at.
fn salted_limit(share: f64) -> u64 {
    if share >= 1.0 {
        return u64::MAX;
    }
    // What is not a normal number in (0, 1) lies far below one hash.
    if share.is_nan() || share < f64::MIN_POSITIVE {
        return 0;
    }
    let bits = share.to_bits();
    let mantissa = bits & ((1 << 52) - 1) | 1 << 52;
    let halvings = 1075 - (bits >> 52) as u32; // share = mantissa / 2^halvings
    let product = u128::from(u64::MAX) * u128::from(mantissa);
    product.checked_shr(halvings).unwrap_or(0) as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As Go's `big.Float` of 64 bits does it, bit by bit.
    fn limit_by_rounding(share: f64) -> u64 {
        let (mut whole, mut halvings) = (share, 0);
        while whole.fract() != 0.0 {
            whole *= 2.0;
            halvings += 1;
        }
        let mut product = u128::from(u64::MAX) * whole as u128;
        let (mut half, mut rest) = (false, false);
        while product >= 1 << 64 {
            rest |= half;
            half = product & 1 == 1;
            product >>= 1;
            halvings -= 1;
        }
        if half && (rest || product & 1 == 1) {
            product += 1;
        }
        product.checked_shr(halvings).unwrap_or(0) as u64
    }

    proptest! {
        #[test]
        fn salted_limit_is_the_collectors_though_it_rounds_first(share in 0.0..1.0f64, halvings in 0..80i32) {
            let share = share * 0.5f64.powi(halvings);
            prop_assert_eq!(salted_limit(share), limit_by_rounding(share));
            let power = 0.5f64.powi(halvings + 1);
            prop_assert_eq!(salted_limit(power), limit_by_rounding(power));
        }
    }

    #[test]
    fn thresholds_are_the_ones_the_specification_shows() {
        for (percentage, expected) in [
            (100.0, 0),
            (250.0, 0),
            (50.0, 0x80_0000_0000_0000),
            (25.0, 0xc0_0000_0000_0000),
            (10.0, 0xe6_6660_0000_0000),
            (1.0, 0xfd_70a4_0000_0000),
            (0.1, 0xff_be76_d000_0000),
            (100.0 / 3.0, 0xaa_aab0_0000_0000),
            (99.9, 0x00_4189_3000_0000),
            (1e-300, 0xff_ffff_ffff_ffff),
        ] {
            let threshold = threshold_of_percentage(percentage).map(Threshold::value);
            assert_eq!(threshold, Some(expected), "{percentage} % gave {threshold:x?}");
        }
        assert_eq!(threshold_of_percentage(0.0), None);
        assert_eq!(threshold_of_percentage(-1.0), None);
        assert_eq!(threshold_of_percentage(f64::NAN), None);
    }

    #[test]
    fn hash_is_fnv_1a_64() {
        const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
        // From the reference test suite of FNV.
        assert_eq!(fnv_1a(OFFSET_BASIS, b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv_1a(OFFSET_BASIS, b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv_1a(OFFSET_BASIS, b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn salted_limit_is_a_64_bit_product_truncated() {
        assert_eq!(salted_limit(1.0), u64::MAX);
        assert_eq!(salted_limit(7.0), u64::MAX);
        assert_eq!(salted_limit(0.0), 0);
        assert_eq!(salted_limit(-0.5), 0);
        assert_eq!(salted_limit(f64::NAN), 0);
        assert_eq!(salted_limit(0.5), (1 << 63) - 1);
        assert_eq!(salted_limit(0.25), (1 << 62) - 1);
        // 0.1 is 0x1999999999999a × 2^-56; times 2^64 - 1: 0x199999999999_99ff.e666…
        assert_eq!(salted_limit(0.1), 0x1999_9999_9999_99ff);
        assert_eq!(salted_limit(1e-25), 0);
    }
}
