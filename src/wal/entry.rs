//! The entry: a header of 48 bytes and a payload, beginning on a multiple of 64 bytes.
//!
//! ```text
//!  0        4    5    6       8          12         16        24         32         40          44      48
//! ┌────────┬────┬────┬───────┬──────────┬──────────┬─────────┬──────────┬──────────┬───────────┬───────┬─────
//! │ magic  │ver │kind│ flags │ length   │ zero     │ segment │ position │ sequence │ header    │ entry │ payload …
//! │ u32    │ u8 │ u8 │ u16   │ u32      │ u32      │ u64     │ u64      │ u64      │ check u32 │ check │ length bytes
//! └────────┴────┴────┴───────┴──────────┴──────────┴─────────┴──────────┴──────────┴───────────┴───────┴─────
//! ```
//!
//! All little endian. `header check` is the CRC32C of the log's seed (8 bytes) and bytes 0..40; `entry
//! check` continues it over the payload. So a damaged length never drives the reader; and because segment,
//! position and seed are inside both checks, bytes that lie in a file from before it was recycled, that
//! were written to the wrong place, or that belong to another log, are no entries. The rest up to the
//! next multiple of 64 is zero.
//!
//! A *pad* is a header alone: its length says how many bytes after it hold nothing, and its entry check
//! equals its header check. `sequence` counts the entries of callers; groups and pads carry the number of
//! the next one, so a hole in the numbers says how many entries damage took.

use thiserror::Error;

use super::segment::SegmentId;
use crate::base::ids::{Place, Position};

/// Bytes before the payload.
pub const HEADER_BYTES: usize = 48;

/// Bytes of an entry, header included, that callers should not exceed unless one span is larger.
pub const ENTRY_BYTES_MAX: usize = 64 << 10;

/// The format written today, and the only one read.
pub const ENTRY_VERSION: u8 = 1;

pub(super) const MAGIC: u32 = u32::from_le_bytes(*b"tkE1");

/// What an entry is. The log gives meaning to the reserved ones only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntryKind(pub u8);

impl EntryKind {
    /// Opens a group: written by the log alone.
    pub const GROUP: EntryKind = EntryKind(1);
    /// Says how many bytes hold nothing: written by the log alone.
    pub const PAD: EntryKind = EntryKind(2);
    /// What each segment begins with ([`super::Log::set_prologue`]); callers may append it too.
    pub const NAMES: EntryKind = EntryKind(3);
    /// Callers' kinds begin here.
    pub const FIRST_FREE: u8 = 16;
}

/// Sixteen bits of an entry's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct EntryFlags(pub u16);

impl EntryFlags {
    pub const NONE: EntryFlags = EntryFlags(0);
    /// The last (or only) entry of a run. Replay drops a run that the tail of the log left without one.
    pub const LAST_OF_RUN: EntryFlags = EntryFlags(1);

    pub fn contains(self, other: EntryFlags) -> bool {
        self.0 & other.0 == other.0
    }
}

/// A checked view of one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    pub position: Position,
    pub kind: EntryKind,
    pub flags: EntryFlags,
    pub sequence: u64,
    pub payload: &'a [u8],
}

/// Why bytes are not the entry that should be there. Nothing was changed by looking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum EntryError {
    /// The reader's: it brought fewer bytes than the entry has. `needed` is for the whole entry, or for
    /// its header when not even that is there.
    #[error("an entry of {needed} bytes, of which only a part was read")]
    Short { needed: usize },
    /// The disk's, or nothing was ever written here: no header, or one of another place or log.
    #[error("no entry header at this position")]
    NoHeader,
    /// The disk's: header sound, payload damaged.
    #[error("the entry's payload fails its check")]
    Payload,
    /// The operator's: written by a newer tailkeep.
    #[error("entry of format version {0}, newer than this program reads ({ENTRY_VERSION})")]
    Newer(u8),
}

/// The 48 bytes, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryHeader {
    pub kind: EntryKind,
    pub flags: EntryFlags,
    /// Payload bytes; for a pad the bytes to skip after the header.
    pub length: u32,
    pub segment: SegmentId,
    pub position: Position,
    pub sequence: u64,
}

/// The state of the checks after the log's seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seed(u32);

impl Seed {
    pub fn new(log_seed: u64) -> Seed {
        Seed(crc32c::crc32c(&log_seed.to_le_bytes()))
    }
}

impl EntryHeader {
    /// Writes header and checks in front of a payload that stands already at `out[48..]`.
    /// `out` is the entry without its alignment; of a pad only the header is touched.
    #[inline]
    pub fn stamp(&self, seed: Seed, out: &mut [u8]) {
        let (header, payload) = out.split_at_mut(HEADER_BYTES);
        header[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        header[4] = ENTRY_VERSION;
        header[5] = self.kind.0;
        header[6..8].copy_from_slice(&self.flags.0.to_le_bytes());
        header[8..12].copy_from_slice(&self.length.to_le_bytes());
        header[12..16].fill(0);
        header[16..24].copy_from_slice(&self.segment.0.to_le_bytes());
        header[24..32].copy_from_slice(&self.position.0.to_le_bytes());
        header[32..40].copy_from_slice(&self.sequence.to_le_bytes());
        let header_check = crc32c::crc32c_append(seed.0, &header[..40]);
        let entry_check = match self.kind {
            EntryKind::PAD => header_check,
            _ => crc32c::crc32c_append(header_check, &payload[..self.length as usize]),
        };
        header[40..44].copy_from_slice(&header_check.to_le_bytes());
        header[44..48].copy_from_slice(&entry_check.to_le_bytes());
    }

    /// Reads the header at the front of `bytes` and holds it to its own check and to `position`. The
    /// segment is the caller's to compare: in memory an entry may carry the id of a file that failed.
    #[inline]
    pub fn read(seed: Seed, position: Position, bytes: &[u8]) -> Result<EntryHeader, EntryError> {
        let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Err(EntryError::Short { needed: HEADER_BYTES });
        };
        if u32_at(header, 0) != MAGIC
            || u64_at(header, 24) != position.0
            || u32_at(header, 40) != crc32c::crc32c_append(seed.0, &header[..40])
        {
            return Err(EntryError::NoHeader);
        }
        if header[4] > ENTRY_VERSION {
            return Err(EntryError::Newer(header[4]));
        }
        Ok(EntryHeader {
            kind: EntryKind(header[5]),
            flags: EntryFlags(u16::from_le_bytes([header[6], header[7]])),
            length: u32_at(header, 8),
            segment: SegmentId(u64_at(header, 16)),
            position,
            sequence: u64_at(header, 32),
        })
    }

    /// The payload behind this header, not yet held to its check. Empty for a pad.
    #[inline]
    pub fn payload<'a>(&self, bytes: &'a [u8]) -> Result<&'a [u8], EntryError> {
        let needed = match self.kind {
            EntryKind::PAD => HEADER_BYTES,
            _ => HEADER_BYTES + self.length as usize,
        };
        bytes
            .get(HEADER_BYTES..needed)
            .ok_or(EntryError::Short { needed })
    }

    /// The whole entry behind this header, held to its check.
    #[inline]
    pub fn entry<'a>(&self, bytes: &'a [u8]) -> Result<Entry<'a>, EntryError> {
        let payload = self.payload(bytes)?;
        let check = crc32c::crc32c_append(u32_at(bytes, 40), payload);
        if check != u32_at(bytes, 44) {
            return Err(EntryError::Payload);
        }
        Ok(self.view(payload))
    }

    #[inline]
    pub fn view<'a>(&self, payload: &'a [u8]) -> Entry<'a> {
        let EntryHeader {
            position,
            kind,
            flags,
            sequence,
            ..
        } = *self;
        Entry {
            position,
            kind,
            flags,
            sequence,
            payload,
        }
    }

    /// Where the next entry begins.
    #[inline]
    pub fn end(&self) -> Position {
        self.position.plus(entry_bytes(self.length as usize) as u64)
    }
}

/// Bytes that an entry takes in the log: header, payload, alignment.
#[inline]
pub const fn entry_bytes(payload: usize) -> usize {
    (HEADER_BYTES + payload).next_multiple_of(Place::ENTRY_ALIGN as usize)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
