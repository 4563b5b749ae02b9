//! Runs of entries at replay: a run counts when its last entry is there.
//!
//! The entries of one request become durable together or the request was never answered. So the entries
//! of a run are held until its last one is seen, and a run that the end of the log cut short is dropped.
//! Where corruption took entries out of the middle, what is left of a run counts: it was answered for.

use std::ops::Range;

use super::ReplayedEntry;
use crate::base::ids::Position;
use crate::base::time::WallTime;
use crate::wal::entry::{EntryFlags, EntryHeader, EntryKind};

/// Bytes of held entries that are carried from one segment to the next at most: more is no request that
/// the log ever admitted, and counts as it is.
const CARRIED_BYTES_MAX: usize = 256 << 20;

/// Entries of a run whose last one was not seen yet.
#[derive(Default)]
pub(super) struct Runs {
    held: Vec<Held>,
    carried_bytes: usize,
    pub replayed: u64,
}

struct Held {
    header: EntryHeader,
    arrived: WallTime,
    payload: Payload,
}

enum Payload {
    /// In the window that is loaded.
    Here(Range<usize>),
    /// Of a window that is gone from memory.
    Carried(Vec<u8>),
}

impl Runs {
    /// An entry whose payload lies at `range` of `file`.
    pub fn push(
        &mut self,
        header: EntryHeader,
        arrived: WallTime,
        file: &[u8],
        range: Range<usize>,
        each: &mut impl FnMut(ReplayedEntry<'_>),
    ) {
        // Names stand at the beginning of a segment, perhaps amid a run: they neither end nor begin one.
        let last = match header.kind {
            EntryKind::NAMES => self.held.is_empty(),
            _ => header.flags.contains(EntryFlags::LAST_OF_RUN),
        };
        self.held.push(Held {
            header,
            arrived,
            payload: Payload::Here(range),
        });
        if last {
            self.flush(file, each);
        }
    }

    /// What is held counts as it is.
    pub fn flush(&mut self, file: &[u8], each: &mut impl FnMut(ReplayedEntry<'_>)) {
        for Held {
            header,
            arrived,
            payload,
        } in self.held.drain(..)
        {
            let payload = match &payload {
                Payload::Here(range) => &file[range.clone()],
                Payload::Carried(bytes) => bytes,
            };
            let EntryHeader {
                position,
                kind,
                flags,
                sequence,
                ..
            } = header;
            each(ReplayedEntry {
                position,
                kind,
                flags,
                sequence,
                arrived,
                payload,
            });
            self.replayed += 1;
        }
        self.carried_bytes = 0;
    }

    /// The window leaves memory.
    pub fn carry(&mut self, file: &[u8], each: &mut impl FnMut(ReplayedEntry<'_>)) {
        for held in &mut self.held {
            if let Payload::Here(range) = &held.payload {
                self.carried_bytes += range.len();
                held.payload = Payload::Carried(file[range.clone()].to_vec());
            }
        }
        if self.carried_bytes > CARRIED_BYTES_MAX {
            self.flush(file, each);
        }
    }

    /// Where the unfinished run begins, and the number of its first entry.
    pub fn unfinished(&self) -> Option<(Position, u64)> {
        self.held
            .first()
            .map(|held| (held.header.position, held.header.sequence))
    }
}
