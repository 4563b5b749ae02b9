//! Identifiers and log positions: newtypes that allow only the arithmetic they mean.

use std::fmt;

/// The 16 bytes that name a trace, in wire order.
///
/// Invariant: a `TraceId` inside tailkeep is never all zero; [`TraceId::new`] refuses it (OTLP P01).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TraceId([u8; 16]);

impl TraceId {
    /// `None` unless `bytes` are 16 and not all zero.
    #[inline]
    pub fn new(bytes: &[u8]) -> Option<TraceId> {
        let bytes: [u8; 16] = bytes.try_into().ok()?;
        (u128::from_ne_bytes(bytes) != 0).then_some(TraceId(bytes))
    }

    /// From 32 hexadecimal digits of either case.
    pub fn from_hex(text: &str) -> Option<TraceId> {
        let mut bytes = [0; 16];
        decode_hex(text, &mut bytes)?;
        TraceId::new(&bytes)
    }

    #[inline]
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// The low 56 bits: the randomness of a trace that brings no `ot=rv` (OTel tracestate-handling).
    #[inline]
    pub fn randomness(&self) -> u64 {
        let low: [u8; 8] = self.0[8..].try_into().expect("8 of 16 bytes");
        u64::from_be_bytes(low) & ((1 << 56) - 1)
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

/// The 8 bytes that name a span within its trace, in wire order.
///
/// Invariant: never all zero (OTLP P01).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpanId([u8; 8]);

impl SpanId {
    /// `None` unless `bytes` are 8 and not all zero.
    #[inline]
    pub fn new(bytes: &[u8]) -> Option<SpanId> {
        let bytes: [u8; 8] = bytes.try_into().ok()?;
        (u64::from_ne_bytes(bytes) != 0).then_some(SpanId(bytes))
    }

    #[inline]
    pub fn as_bytes(&self) -> &[u8; 8] {
        &self.0
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

/// An executor of this node, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CoreId(pub u16);

/// A directory of log segments below the data directory. It belongs to the directory, not to a core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LogId(pub u8);

/// A byte position in a log's endless address space. Segments cover ranges of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Position(pub u64);

impl Position {
    /// The position `bytes` further on.
    #[inline]
    pub fn plus(self, bytes: u64) -> Position {
        Position(self.0 + bytes)
    }

    /// Bytes from `earlier` to `self`.
    #[inline]
    pub fn since(self, earlier: Position) -> u64 {
        debug_assert!(self >= earlier, "W1: {self:?} lies before {earlier:?}");
        self.0 - earlier.0
    }

    /// The first multiple of `unit` (a power of two) at or after `self`.
    #[inline]
    pub fn align_up(self, unit: u64) -> Position {
        debug_assert!(unit.is_power_of_two());
        Position((self.0 + unit - 1) & !(unit - 1))
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// Where the spans of one trace lie: a run of one entry of one log, in 8 bytes.
///
/// ```text
///  63      56 55                              12 11        0
/// ┌──────────┬──────────────────────────────────┬───────────┐
/// │ log (8)  │ entry position / 64 (44)         │ run (12)  │
/// └──────────┴──────────────────────────────────┴───────────┘
/// ```
///
/// Entries begin on multiples of 64 bytes, and an entry's trace directory has at most 4,096 runs.
/// Places live in memory and in checkpoints only, never in a log.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place(u64);

impl Place {
    /// Runs of one entry at most.
    pub const RUN_COUNT_MAX: usize = 1 << 12;
    /// Entries begin on multiples of this many bytes.
    pub const ENTRY_ALIGN: u64 = 64;

    #[inline]
    pub fn new(log: LogId, entry: Position, run: u16) -> Place {
        assert!(
            entry.0.is_multiple_of(Self::ENTRY_ALIGN) && entry.0 >> 50 == 0,
            "entry at {entry}"
        );
        assert!((run as usize) < Self::RUN_COUNT_MAX, "run {run}");
        Place((log.0 as u64) << 56 | (entry.0 >> 6) << 12 | run as u64)
    }

    /// All of it, as drawn.
    #[inline]
    pub fn bits(self) -> u64 {
        self.0
    }

    /// From what [`Place::bits`] gave.
    #[inline]
    pub fn from_bits(bits: u64) -> Place {
        Place(bits)
    }

    #[inline]
    pub fn log(self) -> LogId {
        LogId((self.0 >> 56) as u8)
    }

    #[inline]
    pub fn entry(self) -> Position {
        Position((self.0 >> 12 & ((1 << 44) - 1)) << 6)
    }

    #[inline]
    pub fn run(self) -> u16 {
        (self.0 & 0xfff) as u16
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}#{}", self.log().0, self.entry(), self.run())
    }
}

/// Writes lower-case hexadecimal digits.
pub fn write_hex(out: &mut impl fmt::Write, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
}

/// Fills `out` from exactly twice as many hexadecimal digits of either case, or returns `None`.
pub fn decode_hex(text: &str, out: &mut [u8]) -> Option<()> {
    let digits = text.as_bytes();
    if digits.len() != out.len() * 2 {
        return None;
    }
    let digit = |byte: u8| (byte as char).to_digit(16).map(|value| value as u8);
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn place_gives_back_its_three_parts() {
        for (log, entry, run) in [(0, 0, 0), (255, ((1 << 44) - 1) << 6, 4095), (7, 0x1234_5640, 17)] {
            let place = Place::new(LogId(log), Position(entry), run);
            assert_eq!((place.log().0, place.entry().0, place.run()), (log, entry, run));
            assert_eq!(Place::from_bits(place.bits()), place);
        }
    }

    #[test]
    fn zero_and_short_ids_are_no_ids() {
        assert_eq!(TraceId::new(&[0; 16]), None);
        assert_eq!(TraceId::new(&[1; 15]), None);
        assert_eq!(SpanId::new(&[0; 8]), None);
        assert_eq!(SpanId::new(&[]), None);
    }

    #[test]
    fn hex_is_read_in_either_case_and_written_in_lower_case() {
        let id = TraceId::from_hex("5B8EFFF798038103D269B633813FC60c").expect("32 digits");
        assert_eq!(id.to_string(), "5b8efff798038103d269b633813fc60c");
        assert_eq!(TraceId::from_hex("5b8e"), None);
        assert_eq!(TraceId::from_hex("zb8efff798038103d269b633813fc60c"), None);
    }

    #[test]
    fn randomness_is_the_low_56_bits() {
        let id = TraceId::from_hex("ffffffffffffffffff00000000000001").expect("32 digits");
        assert_eq!(id.randomness(), 1);
    }
}
