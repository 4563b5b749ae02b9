//! What the landing core writes to its logs besides spans: byte layouts and their codecs.
//!
//! Integers are little-endian; a payload stands behind an entry's checksum. Readers return `None` for bytes
//! that no version wrote.
//!
//! ```text
//!  verdicts │ n × { trace id 16, verdict u8, reason u8, flags u8, 0 u8, policy u16, 0 u16, threshold u64 }
//!  early    │ as verdicts: Keeps that the cluster is told and that settle nothing in this log
//!  by home  │ the same, given by this node as the home of the traces
//!  copied   │ n × { trace id 16, entry u64, run u16, 0 u16, span count u32, kept log from u64, kept log to u64 }
//!  upgrades │ as verdicts: what the owner of these traces keeps after all
//!  upgraded │ n × { position of an upgrades entry u64, trace id 16 }: all logs have exported what they had
//!  names    │ policies: u16 count, each { u16 length, name };  then as cursors;  position of the newest decided
//!           │ entry u64, all ones for none;  position of the newest contents entry u64 likewise
//!  cursors  │ destinations: u16 count, each { u16 length, id, position in the kept log u64 }
//!  decided  │ position of the decided entry before u64, all ones for none; flags u8; if one says so when the newest
//!           │ was decided u64; policies as in names; u32 count, each { 58 bits of a keyed hash of the trace id, verdict, reason: u64 };  then as verdicts
//!  kept     │ trace id 16, span count u32, policy u16, reason u8, flags u8, then `resource_spans` fields
//! ```
//!
//! A policy number counts in the names entry at the head of the same segment, in a decided entry in its own list;
//! 0xffff is none.

use crate::base::codec::Reader;
use crate::base::ids::{Place, Position, TraceId};
use crate::base::time::WallTime;
use crate::route::{Decision, PolicyNumber, Settlement};
use crate::table::CompactDecision;
use crate::verdict::{Reason, Threshold, Verdict};
use crate::wal::EntryKind;

pub const SPANS: EntryKind = EntryKind(EntryKind::FIRST_FREE);
pub const VERDICTS: EntryKind = EntryKind(EntryKind::FIRST_FREE + 1);
pub const COPIED: EntryKind = EntryKind(EntryKind::FIRST_FREE + 2);
pub const CURSORS: EntryKind = EntryKind(EntryKind::FIRST_FREE + 3);
/// In the kept log only.
pub const KEPT: EntryKind = EntryKind(EntryKind::FIRST_FREE + 4);
pub const DECIDED: EntryKind = EntryKind(EntryKind::FIRST_FREE + 5);
/// Dropped traces that their owner keeps after all; layout as verdicts.
pub const UPGRADES: EntryKind = EntryKind(EntryKind::FIRST_FREE + 8);
pub const UPGRADED: EntryKind = EntryKind(EntryKind::FIRST_FREE + 9);
/// Layouts of these two stand in `index.rs`.
pub const INDEX: EntryKind = EntryKind(EntryKind::FIRST_FREE + 10);
pub const CONTENTS: EntryKind = EntryKind(EntryKind::FIRST_FREE + 11);
/// Told to the cluster, settling nothing; layout as verdicts.
pub const EARLY: EntryKind = EntryKind(EntryKind::FIRST_FREE + 12);
pub const BY_HOME: EntryKind = EntryKind(EntryKind::FIRST_FREE + 13);

const LATE: u8 = 1;
const HAS_THRESHOLD: u8 = 2;
const INCOMPLETE: u8 = 4;
const IS_UPGRADED: u8 = 8;
const NO_POLICY: u16 = u16::MAX;
const NO_POSITION: u64 = u64::MAX;
const COVERS: u8 = 1;
const HAS_TIME: u8 = 2;

/// One decision as the log has it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct VerdictRecord {
    pub trace: TraceId,
    pub decision: Decision,
    pub late: bool,
}

impl VerdictRecord {
    pub const BYTES: usize = 32;

    pub fn of(settlement: &Settlement) -> VerdictRecord {
        VerdictRecord {
            trace: settlement.trace,
            decision: settlement.decision,
            late: settlement.late,
        }
    }

    pub fn put(&self, out: &mut Vec<u8>) {
        let Decision {
            verdict,
            reason,
            policy,
            threshold,
            incomplete,
            upgraded,
        } = self.decision;
        let mut flags = if self.late { LATE } else { 0 };
        flags |= if threshold.is_some() { HAS_THRESHOLD } else { 0 };
        flags |= if incomplete { INCOMPLETE } else { 0 };
        flags |= if upgraded { IS_UPGRADED } else { 0 };
        out.extend_from_slice(self.trace.as_bytes());
        out.extend_from_slice(&[verdict as u8, reason as u8, flags, 0]);
        out.extend_from_slice(&policy.map_or(NO_POLICY, |policy| policy.0).to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&threshold.map_or(0, Threshold::value).to_le_bytes());
    }

    /// All records of a verdicts entry; `None` if one of them was never written.
    pub fn read_all(payload: &[u8]) -> Option<Vec<VerdictRecord>> {
        let mut reader = Reader::new(payload);
        let mut records = Vec::with_capacity(payload.len() / Self::BYTES);
        while !reader.is_empty() {
            let trace = TraceId::new(reader.bytes(16)?)?;
            let [verdict, reason, flags, _] = reader.array::<4>()?;
            let policy = reader.u16()?;
            reader.u16()?;
            let threshold = reader.u64()?;
            let decision = Decision {
                verdict: Verdict::from_byte(verdict)?,
                reason: Reason::from_byte(reason)?,
                policy: (policy != NO_POLICY).then_some(PolicyNumber(policy)),
                threshold: if flags & HAS_THRESHOLD != 0 {
                    Some(Threshold::new(threshold)?)
                } else {
                    None
                },
                incomplete: flags & INCOMPLETE != 0,
                upgraded: flags & IS_UPGRADED != 0,
            };
            records.push(VerdictRecord {
                trace,
                decision,
                late: flags & LATE != 0,
            });
        }
        Some(records)
    }
}

/// A kept fragment has been copied to `from..to` of the kept log; empty if there was nothing to copy. `from`
/// after `to`: the kept log has lost the copy, and another one will be made.
///
/// It names the last place of the fragment, because that is the one that leaves the log last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopiedRecord {
    pub trace: TraceId,
    pub entry: Position,
    pub run: u16,
    /// Of the fragment. A verdict may find more before it in the log than it settled: what had landed and was on its way
    /// to the owner, and stands before a place that was copied forward. Zero in records of the first days.
    pub span_count: u32,
    pub from: Position,
    pub to: Position,
}

impl CopiedRecord {
    /// Takes back what was said of this fragment before.
    pub fn void(trace: TraceId, last: Place) -> CopiedRecord {
        let (entry, run) = (last.entry(), last.run());
        CopiedRecord {
            trace,
            entry,
            run,
            span_count: 0,
            from: Position(u64::MAX),
            to: Position(0),
        }
    }

    /// Whether it is the copy of a fragment of so many spans.
    pub fn is_whole(&self, span_count: u32) -> bool {
        self.span_count == 0 || self.span_count >= span_count
    }

    /// Where the copy is, if it is anywhere.
    pub fn copy(&self) -> Option<(Position, Position)> {
        (self.from <= self.to).then_some((self.from, self.to))
    }

    pub fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.trace.as_bytes());
        out.extend_from_slice(&self.entry.0.to_le_bytes());
        out.extend_from_slice(&self.run.to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&self.span_count.to_le_bytes());
        out.extend_from_slice(&self.from.0.to_le_bytes());
        out.extend_from_slice(&self.to.0.to_le_bytes());
    }

    pub fn read_all(payload: &[u8]) -> Option<Vec<CopiedRecord>> {
        let mut reader = Reader::new(payload);
        let mut records = Vec::new();
        while !reader.is_empty() {
            let trace = TraceId::new(reader.bytes(16)?)?;
            let (entry, run) = (Position(reader.u64()?), reader.u16()?);
            reader.bytes(2)?;
            let span_count = reader.u32()?;
            let (from, to) = (Position(reader.u64()?), Position(reader.u64()?));
            records.push(CopiedRecord {
                trace,
                entry,
                run,
                span_count,
                from,
                to,
            });
        }
        Some(records)
    }
}

/// What an upgrades entry asked for is done for one of its traces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpgradedRecord {
    /// Of the upgrades entry.
    pub asked_at: Position,
    pub trace: TraceId,
}

impl UpgradedRecord {
    pub fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.asked_at.0.to_le_bytes());
        out.extend_from_slice(self.trace.as_bytes());
    }

    pub fn read_all(payload: &[u8]) -> Option<Vec<UpgradedRecord>> {
        let mut reader = Reader::new(payload);
        let mut records = Vec::new();
        while !reader.is_empty() {
            records.push(UpgradedRecord {
                asked_at: Position(reader.u64()?),
                trace: TraceId::new(reader.bytes(16)?)?,
            });
        }
        Some(records)
    }
}

/// How far each destination has come in the kept log.
pub type Cursors = Vec<(String, Position)>;

fn put_text(out: &mut Vec<u8>, text: &str) {
    let len = u16::try_from(text.len()).expect("names are shorter than 64 KiB, config sees to it");
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn read_text(reader: &mut Reader<'_>) -> Option<String> {
    let len = reader.u16()? as usize;
    String::from_utf8(reader.bytes(len)?.to_vec()).ok()
}

pub fn put_cursors<'a>(out: &mut Vec<u8>, cursors: impl ExactSizeIterator<Item = (&'a str, Position)>) {
    out.extend_from_slice(&(cursors.len() as u16).to_le_bytes());
    for (id, position) in cursors {
        put_text(out, id);
        out.extend_from_slice(&position.0.to_le_bytes());
    }
}

pub fn read_cursors(payload: &[u8]) -> Option<Cursors> {
    cursors(&mut Reader::new(payload))
}

fn cursors(reader: &mut Reader<'_>) -> Option<Cursors> {
    let count = reader.u16()?;
    (0..count)
        .map(|_| Some((read_text(reader)?, Position(reader.u64()?))))
        .collect()
}

/// What a segment begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamesRecord {
    pub policies: Vec<String>,
    pub cursors: Cursors,
    /// Where the newest decided entry before it is.
    pub decided: Option<Position>,
    /// Where the newest contents entry of the index before it is.
    pub contents: Option<Position>,
}

pub fn put_names<'a>(
    out: &mut Vec<u8>,
    policies: &[String],
    cursors: impl ExactSizeIterator<Item = (&'a str, Position)>,
    decided: Option<Position>,
    contents: Option<Position>,
) {
    put_policies(out, policies.iter());
    put_cursors(out, cursors);
    put_position(out, decided);
    put_position(out, contents);
}

impl NamesRecord {
    pub fn read(payload: &[u8]) -> Option<NamesRecord> {
        let mut reader = Reader::new(payload);
        // Segments of the first days have neither.
        let later = |reader: &mut Reader<'_>| match reader.is_empty() {
            true => Some(None),
            false => read_position(reader),
        };
        Some(NamesRecord {
            policies: read_policies(&mut reader)?,
            cursors: cursors(&mut reader)?,
            decided: later(&mut reader)?,
            contents: later(&mut reader)?,
        })
    }
}

fn put_policies<'a>(out: &mut Vec<u8>, policies: impl ExactSizeIterator<Item = &'a String>) {
    out.extend_from_slice(&(policies.len() as u16).to_le_bytes());
    policies.for_each(|name| put_text(out, name));
}

fn read_policies(reader: &mut Reader<'_>) -> Option<Vec<String>> {
    let count = reader.u16()?;
    (0..count).map(|_| read_text(reader)).collect()
}

fn put_position(out: &mut Vec<u8>, position: Option<Position>) {
    let position = position.map_or(NO_POSITION, |position| position.0);
    out.extend_from_slice(&position.to_le_bytes());
}

fn read_position(reader: &mut Reader<'_>) -> Option<Option<Position>> {
    let position = reader.u64()?;
    Some((position != NO_POSITION).then_some(Position(position)))
}

/// What was decided, so that late spans follow when the segments with the verdicts have gone.
///
/// It can be read by itself: policy numbers of `kept` count in its own `policies`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DecidedRecord {
    /// The entry of this kind before it.
    pub previous: Option<Position>,
    /// Every verdicts entry before it is in it or in an earlier one. A copy of an older entry covers nothing.
    pub covers: bool,
    /// When the newest of them was decided at the latest; a copy says the same. Entries of before had none.
    pub decided_at: Option<WallTime>,
    pub policies: Vec<String>,
    pub dropped: Vec<CompactDecision>,
    pub kept: Vec<VerdictRecord>,
}

impl DecidedRecord {
    pub fn put(&self, out: &mut Vec<u8>) {
        put_position(out, self.previous);
        let covers = if self.covers { COVERS } else { 0 };
        let has_time = if self.decided_at.is_some() { HAS_TIME } else { 0 };
        out.push(covers | has_time);
        if let Some(decided_at) = self.decided_at {
            out.extend_from_slice(&decided_at.0.to_le_bytes());
        }
        put_policies(out, self.policies.iter());
        out.extend_from_slice(&(self.dropped.len() as u32).to_le_bytes());
        for decision in &self.dropped {
            out.extend_from_slice(&decision.bits().to_le_bytes());
        }
        self.kept.iter().for_each(|record| record.put(out));
    }

    pub fn read(payload: &[u8]) -> Option<DecidedRecord> {
        let mut reader = Reader::new(payload);
        let previous = read_position(&mut reader)?;
        let flags = reader.u8()?;
        let decided_at = match flags & HAS_TIME {
            0 => None,
            _ => Some(WallTime(reader.u64()?)),
        };
        let policies = read_policies(&mut reader)?;
        let count = reader.u32()?;
        let dropped = (0..count)
            .map(|_| CompactDecision::from_bits(reader.u64()?))
            .collect::<Option<_>>()?;
        let kept = VerdictRecord::read_all(reader.rest())?;
        let is_named = |record: &VerdictRecord| {
            let number = record.decision.policy;
            number.is_none_or(|number| (number.0 as usize) < policies.len())
        };
        kept.iter().all(is_named).then_some(DecidedRecord {
            previous,
            covers: flags & COVERS != 0,
            decided_at,
            policies,
            dropped,
            kept,
        })
    }

    /// Makes a copy of an entry: at another place of the chain, and covering nothing.
    pub fn relink(payload: &mut [u8], previous: Option<Position>) {
        let position = previous.map_or(NO_POSITION, |position| position.0);
        payload[..8].copy_from_slice(&position.to_le_bytes());
        payload[8] &= !COVERS;
    }
}

/// A piece of a kept trace, framed for export.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KeptRecord<'a> {
    pub trace: TraceId,
    pub span_count: u32,
    pub policy: Option<PolicyNumber>,
    pub reason: Reason,
    pub late: bool,
    /// `resource_spans` fields of a TracesData.
    pub framed: &'a [u8],
}

impl<'a> KeptRecord<'a> {
    pub const HEADER_BYTES: usize = 24;

    /// Fills exactly `HEADER_BYTES + framed.len()` bytes.
    pub fn write(&self, out: &mut [u8]) {
        let mut writer = crate::base::codec::Writer::new(out);
        writer.bytes(self.trace.as_bytes());
        writer.u32(self.span_count);
        writer.u16(self.policy.map_or(NO_POLICY, |policy| policy.0));
        writer.u8(self.reason as u8);
        writer.u8(if self.late { LATE } else { 0 });
        writer.bytes(self.framed);
        writer.finish();
    }

    pub fn read(payload: &'a [u8]) -> Option<KeptRecord<'a>> {
        let mut reader = Reader::new(payload);
        let trace = TraceId::new(reader.bytes(16)?)?;
        let span_count = reader.u32()?;
        let policy = reader.u16()?;
        let reason = Reason::from_byte(reader.u8()?)?;
        let late = reader.u8()? & LATE != 0;
        let policy = (policy != NO_POLICY).then_some(PolicyNumber(policy));
        Some(KeptRecord {
            trace,
            span_count,
            policy,
            reason,
            late,
            framed: reader.rest(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace() -> TraceId {
        TraceId::new(&[9; 16]).expect("not zero")
    }

    #[test]
    fn verdicts_are_read_back() {
        let mut records = Vec::new();
        for verdict in Verdict::ALL {
            for reason in Reason::ALL {
                let kept = verdict == Verdict::Keep;
                let decision = Decision {
                    verdict,
                    reason,
                    policy: kept.then_some(PolicyNumber(reason as u16)),
                    threshold: kept.then_some(Threshold::KEEP_ALL),
                    incomplete: reason == Reason::Quiet,
                    upgraded: reason == Reason::Expired,
                };
                records.push(VerdictRecord {
                    trace: trace(),
                    decision,
                    late: reason == Reason::Peer,
                });
            }
        }
        let mut payload = Vec::new();
        records.iter().for_each(|record| record.put(&mut payload));
        assert_eq!(payload.len(), records.len() * VerdictRecord::BYTES);
        assert_eq!(VerdictRecord::read_all(&payload), Some(records));
        assert_eq!(VerdictRecord::read_all(&payload[1..]), None);
    }

    #[test]
    fn decided_is_read_back_and_a_copy_covers_nothing() {
        let decision = |verdict, policy| Decision {
            verdict,
            reason: Reason::Complete,
            policy,
            threshold: None,
            incomplete: false,
            upgraded: false,
        };
        let dropped = decision(Verdict::Rollup, None);
        let record = DecidedRecord {
            previous: None,
            covers: true,
            decided_at: Some(WallTime(7)),
            policies: vec!["errors".to_string()],
            dropped: vec![CompactDecision::new(crate::route::HashKey([1, 2]).trace(&trace()), &dropped); 3],
            kept: vec![VerdictRecord {
                trace: trace(),
                decision: decision(Verdict::Keep, Some(PolicyNumber(0))),
                late: false,
            }],
        };
        let old = DecidedRecord {
            decided_at: None,
            ..record.clone()
        };
        let mut payload = Vec::new();
        old.put(&mut payload);
        assert_eq!(DecidedRecord::read(&payload), Some(old));
        payload.clear();
        record.put(&mut payload);
        assert_eq!(DecidedRecord::read(&payload), Some(record.clone()));
        assert_eq!(DecidedRecord::read(&payload[..payload.len() - 1]), None);
        DecidedRecord::relink(&mut payload, Some(Position(64)));
        let copy = DecidedRecord {
            previous: Some(Position(64)),
            covers: false,
            ..record
        };
        assert_eq!(DecidedRecord::read(&payload), Some(copy));
    }

    #[test]
    fn copied_names_cursors_and_kept_are_read_back() {
        let copied = CopiedRecord {
            trace: trace(),
            entry: Position(128),
            run: 7,
            span_count: 3,
            from: Position(64),
            to: Position(4096),
        };
        let mut payload = Vec::new();
        copied.put(&mut payload);
        assert_eq!(CopiedRecord::read_all(&payload), Some(vec![copied]));

        let (names, cursor) = (
            vec!["errors".to_string(), "größer".to_string()],
            ("file", Position(77)),
        );
        let mut payload = Vec::new();
        put_names(
            &mut payload,
            &names,
            [cursor].into_iter(),
            Some(Position(640)),
            Some(Position(704)),
        );
        let read = NamesRecord {
            policies: names,
            cursors: vec![(cursor.0.to_string(), cursor.1)],
            decided: Some(Position(640)),
            contents: Some(Position(704)),
        };
        assert_eq!(NamesRecord::read(&payload), Some(read.clone()));
        let (older, old) = (payload.len() - 16, payload.len() - 8);
        let without = NamesRecord {
            contents: None,
            ..read
        };
        assert_eq!(NamesRecord::read(&payload[..old]), Some(without.clone()));
        let without = NamesRecord {
            decided: None,
            ..without
        };
        assert_eq!(NamesRecord::read(&payload[..older]), Some(without));
        let is_whole = |len| len == old || len == older;
        assert!((0..payload.len()).all(|len| is_whole(len) || NamesRecord::read(&payload[..len]).is_none()));

        let kept = KeptRecord {
            trace: trace(),
            span_count: 3,
            policy: None,
            reason: Reason::Expired,
            late: true,
            framed: b"framed",
        };
        let mut payload = vec![0; KeptRecord::HEADER_BYTES + kept.framed.len()];
        kept.write(&mut payload);
        assert_eq!(KeptRecord::read(&payload), Some(kept));
    }
}
