//! The group: what one fdatasync covers.
//!
//! It lies in one segment, begins on a page with a group entry, and ends on a page; a pad fills the rest.
//!
//! ```text
//! payload  0            8             16           24           32
//!          ┌────────────┬─────────────┬────────────┬────────────┐
//!          │ arrived    │ synced_upto │ begins_at  │ resumes_at │  u64 each, little endian
//!          └────────────┴─────────────┴────────────┴────────────┘
//! ```
//!
//! `arrived` is the wall time when the group was begun. `synced_upto` is the position up to which the log
//! was durable when this header left for disk: bad bytes before it are corruption, after it a torn tail.
//! `begins_at` is where the entries of the group go on: positions between this entry and there were not
//! written because nothing needed them any more. `resumes_at` is the position before which nothing waits for
//! anything: a start needs to fold entries only from there on. What it rests on (the entries that settled what
//! lies before it) was durable when this header left.

use super::entry::{EntryFlags, EntryHeader, EntryKind, HEADER_BYTES, Seed, entry_bytes};
use super::segment::SegmentId;
use crate::base::ids::Position;
use crate::base::time::{Instant, WallTime};

const PAYLOAD_BYTES: usize = 32;

/// Bytes that a group entry takes in the log.
pub const GROUP_BYTES: usize = entry_bytes(PAYLOAD_BYTES);

/// The payload of a group entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupHead {
    pub arrived: WallTime,
    pub synced_upto: Position,
    pub begins_at: Position,
    /// Zero in groups that were written before there was such a field.
    pub resumes_at: Position,
}

impl GroupHead {
    /// Writes the whole entry at the front of `out`.
    pub fn stamp(&self, seed: Seed, segment: SegmentId, position: Position, sequence: u64, out: &mut [u8]) {
        let fields = [
            self.arrived.0,
            self.synced_upto.0,
            self.begins_at.0,
            self.resumes_at.0,
        ];
        out[HEADER_BYTES..GROUP_BYTES].fill(0);
        for (slot, field) in out[HEADER_BYTES..].chunks_exact_mut(8).zip(fields) {
            slot.copy_from_slice(&field.to_le_bytes());
        }
        let header = EntryHeader {
            kind: EntryKind::GROUP,
            flags: EntryFlags::NONE,
            length: PAYLOAD_BYTES as u32,
            segment,
            position,
            sequence,
        };
        header.stamp(seed, &mut out[..GROUP_BYTES]);
    }

    /// `None` if the payload is too short to be one. Bytes beyond the known fields are left to later
    /// versions.
    pub fn read(payload: &[u8]) -> Option<GroupHead> {
        let field = |index: usize| {
            let bytes = payload.get(index * 8..index * 8 + 8)?;
            Some(u64::from_le_bytes(bytes.try_into().ok()?))
        };
        Some(GroupHead {
            arrived: WallTime(field(0)?),
            synced_upto: Position(field(1)?),
            begins_at: Position(field(2)?),
            resumes_at: Position(field(3).unwrap_or(0)),
        })
    }
}

/// A group that is not durable yet.
#[derive(Debug)]
pub(super) struct Group {
    pub number: u64,
    /// Where it is written; changes when that segment fails.
    pub segment: SegmentId,
    pub start: Position,
    /// Where the next group begins, once closed.
    pub end: Option<Position>,
    /// The number of its group entry.
    pub sequence: u64,
    pub arrived: WallTime,
    /// Somebody waits for what is in it, or did when it had entries already.
    pub awaited: bool,
    pub opened_at: Instant,
    /// The group entry is on its way to disk and may not change any more.
    pub head_left: bool,
    /// Writes asked for and not yet reported.
    pub writes: u32,
    /// Live runs in it. They become the segment's when the group is durable: until then a failure may
    /// move the group to another segment.
    pub holds: u64,
    /// Only there to carry `synced_upto`.
    pub idle: bool,
}
