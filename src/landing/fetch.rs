//! Reading entries back: from memory, or from disk through a small window of reads.
//!
//! A place names an entry; most entries that are asked for are still resident. The others are read from disk,
//! once per entry however many of its runs are wanted, and stay here for a moment because traces that were
//! logged together are often exported together. What was read behind an entry serves those that lie there: a
//! destination that comes back after hours gets small entries of the kept log in a row, and a read for each of them
//! would be slower than what comes in.

use crate::base::ids::Position;
use crate::wal::SegmentId;
use std::collections::VecDeque;

/// Entries read back and kept for the next run.
const CACHED_COUNT_MAX: usize = 32;
/// Reads under way at most.
const READ_COUNT_MAX: usize = 32;
/// First guess of an entry's length on disk: one entry of the usual largest size.
pub const READ_BYTES: usize = 68 << 10;
/// What a destination that is behind reads at a time: many entries of the kept log, in the order they are sent.
pub const STRETCH_BYTES: usize = 256 << 10;

/// Which of the two logs of a landing core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WhichLog {
    Main,
    Kept,
}

/// A read for io to carry out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadOp {
    pub log: WhichLog,
    pub position: Position,
    pub segment: SegmentId,
    pub offset: u64,
    pub len: usize,
}

#[derive(Debug)]
enum Slot {
    /// To be handed to io.
    Wanted(ReadOp),
    Reading(SegmentId),
    /// Bytes of that segment that begin with the entry.
    Here(SegmentId, Vec<u8>),
    Lost,
}

/// Entries on their way from disk, and the last ones that came.
#[derive(Debug, Default)]
pub struct Fetcher {
    slots: VecDeque<((WhichLog, Position), Slot)>,
}

/// What became of a request for an entry that is not resident.
#[derive(Debug, PartialEq, Eq)]
pub enum Fetched<'a> {
    Here(&'a [u8]),
    /// Asked for; ask again after a read has come back.
    Waiting,
    /// The disk does not give it back.
    Lost,
    /// Too much is under way; ask again after a read has come back.
    Busy,
}

impl Fetcher {
    /// The entry's bytes, `len` with its header, if they are here or were read with an entry before it; otherwise
    /// `op` is queued once.
    pub fn fetch_stretch(&mut self, op: ReadOp, len: u64) -> Fetched<'_> {
        let covering = self.slots.iter().position(|((log, from), slot)| match slot {
            // Behind its end a segment may have what another one has taken over.
            Slot::Here(segment, bytes)
                if *segment == op.segment && *log == op.log && *from <= op.position =>
            {
                op.position.since(*from) + len <= bytes.len() as u64
            }
            _ => false,
        });
        match covering {
            Some(index) => {
                let ((_, from), Slot::Here(_, bytes)) = &self.slots[index] else {
                    unreachable!("just found to be here")
                };
                Fetched::Here(&bytes[op.position.since(*from) as usize..])
            }
            None => self.fetch(op),
        }
    }

    /// The entry's bytes, if they are here; otherwise `op` is queued once.
    pub fn fetch(&mut self, op: ReadOp) -> Fetched<'_> {
        let key = (op.log, op.position);
        if let Some(index) = self.slots.iter().position(|(slot_key, _)| *slot_key == key) {
            return match &self.slots[index].1 {
                Slot::Wanted(_) | Slot::Reading(_) => Fetched::Waiting,
                Slot::Here(_, bytes) => Fetched::Here(bytes),
                Slot::Lost => Fetched::Lost,
            };
        }
        let under_way = self
            .slots
            .iter()
            .filter(|(_, slot)| matches!(slot, Slot::Wanted(_) | Slot::Reading(_)))
            .count();
        if under_way >= READ_COUNT_MAX {
            return Fetched::Busy;
        }
        if self.slots.len() >= CACHED_COUNT_MAX + READ_COUNT_MAX {
            let done = |(_, slot): &(_, Slot)| matches!(slot, Slot::Here(..) | Slot::Lost);
            if let Some(oldest) = self.slots.iter().position(done) {
                self.slots.remove(oldest);
            }
        }
        self.slots.push_back((key, Slot::Wanted(op)));
        Fetched::Waiting
    }

    pub fn poll_read(&mut self) -> Option<ReadOp> {
        self.slots.iter_mut().find_map(|(_, slot)| match slot {
            Slot::Wanted(op) => {
                let op = *op;
                *slot = Slot::Reading(op.segment);
                Some(op)
            }
            _ => None,
        })
    }

    /// A read came back: the bytes of the whole entry, or `None` if they cannot be had.
    pub fn handle_read(&mut self, log: WhichLog, position: Position, bytes: Option<Vec<u8>>) {
        let slot = self.slots.iter_mut().find(|(key, _)| *key == (log, position));
        let (_, slot) = slot.expect("a read that is under way is never dropped");
        let Slot::Reading(segment) = *slot else {
            unreachable!("a read comes back once")
        };
        *slot = bytes.map_or(Slot::Lost, |bytes| Slot::Here(segment, bytes));
    }

    /// A read brought fewer bytes than the entry has: it is read again, longer.
    pub fn read_more(&mut self, op: ReadOp) {
        let slot = self
            .slots
            .iter_mut()
            .find(|(key, _)| *key == (op.log, op.position));
        let (_, slot) = slot.expect("a read that is under way is never dropped");
        *slot = Slot::Wanted(op);
    }

    pub fn memory_bytes(&self) -> u64 {
        self.slots
            .iter()
            .map(|(_, slot)| {
                if let Slot::Here(_, bytes) = slot {
                    bytes.len() as u64
                } else {
                    0
                }
            })
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(position: u64) -> ReadOp {
        let position = Position(position * 64);
        ReadOp {
            log: WhichLog::Main,
            position,
            segment: SegmentId(1),
            offset: 0,
            len: READ_BYTES,
        }
    }

    #[test]
    fn an_entry_is_read_once_for_all_who_want_it() {
        let mut fetcher = Fetcher::default();
        assert_eq!(fetcher.fetch(op(1)), Fetched::Waiting);
        assert_eq!(fetcher.fetch(op(1)), Fetched::Waiting);
        assert_eq!((fetcher.poll_read(), fetcher.poll_read()), (Some(op(1)), None));
        fetcher.handle_read(WhichLog::Main, op(1).position, Some(vec![7]));
        assert_eq!(fetcher.fetch(op(1)), Fetched::Here(&[7]));
    }

    #[test]
    fn what_was_read_behind_an_entry_serves_the_next_ones() {
        let mut fetcher = Fetcher::default();
        assert_eq!(fetcher.fetch_stretch(op(1), 64), Fetched::Waiting);
        assert_eq!(fetcher.poll_read(), Some(op(1)));
        let bytes: Vec<u8> = (0..200).collect();
        fetcher.handle_read(WhichLog::Main, op(1).position, Some(bytes));
        assert_eq!(
            fetcher.fetch_stretch(op(2), 100),
            Fetched::Here(&(64..200).collect::<Vec<u8>>())
        );
        assert_eq!(
            fetcher.fetch_stretch(op(3), 73),
            Fetched::Waiting,
            "a part of it is not there"
        );
        let kept = ReadOp {
            log: WhichLog::Kept,
            ..op(2)
        };
        assert_eq!(fetcher.fetch_stretch(kept, 64), Fetched::Waiting, "another log");
        let mut fetcher = Fetcher::default();
        fetcher.fetch(op(1));
        fetcher.poll_read();
        fetcher.handle_read(WhichLog::Main, op(1).position, Some(vec![0; 200]));
        let elsewhere = ReadOp {
            segment: SegmentId(2),
            ..op(2)
        };
        assert_eq!(
            fetcher.fetch_stretch(elsewhere, 64),
            Fetched::Waiting,
            "another file"
        );
    }

    #[test]
    fn reads_under_way_and_entries_kept_are_bounded() {
        let mut fetcher = Fetcher::default();
        for position in 0..READ_COUNT_MAX as u64 {
            assert_eq!(fetcher.fetch(op(position)), Fetched::Waiting);
        }
        assert_eq!(fetcher.fetch(op(1000)), Fetched::Busy);
        for position in 0..1000 {
            fetcher.fetch(op(position));
            while let Some(read) = fetcher.poll_read() {
                fetcher.handle_read(read.log, read.position, Some(vec![0]));
            }
        }
        assert!(fetcher.slots.len() <= CACHED_COUNT_MAX + READ_COUNT_MAX);
    }
}
