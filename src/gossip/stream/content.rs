//! What is in a batch: decisions in columns, digests, and how policies and predicates are named between nodes.
//!
//! Numbers of policies and predicates mean something within one node only. A batch of decisions brings the names that
//! it uses; a directed stream says once what the bits of its digests ask, by a stable hash of each predicate. So every
//! batch of decisions can be read by itself, in any order and given on by anybody, and nodes with different policies
//! understand each other as far as they ask the same.

mod leasing; // between judges and ledgers of quotas

pub use leasing::read_leasing;

use super::BATCH_BYTES_MAX;
use crate::base::ids::TraceId;
use crate::base::monoid::Monoid;
use crate::base::time::WallTime;
use crate::digest::{Digest, PredicateIndex, PredicateSet, RandomnessSeen};
use crate::gossip::{NodeDigest, PeerDecision};
use crate::policy::quota::Leasing;
use crate::proto;
use crate::route::{Decision, PolicyNumber};
use crate::verdict::{Reason, Threshold, Verdict};
use bytes::{Bytes, BytesMut};
use leasing::{LEASING_BYTES, write_leasing};
use prost::Message;
use std::collections::BTreeMap;
use thiserror::Error;

/// What is wrong with a batch that a member sent. It counts as received, and nothing of it was used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ContentError {
    #[error("not a message of this protocol")]
    Malformed,
    #[error("columns of different lengths")]
    Columns,
    #[error("a value that no version writes")]
    Value,
    #[error("digests came before what their bits mean")]
    Predicates,
}

impl From<prost::DecodeError> for ContentError {
    fn from(_: prost::DecodeError) -> ContentError {
        ContentError::Malformed
    }
}

/// Longer names of policies are cut: they would fill a batch.
const NAME_BYTES_MAX: usize = 256;
/// One decision at most: id, outcome, number of the policy, threshold.
const DECISION_BYTES: usize = 16 + 1 + 2 + 9;
/// One digest at most, every field at its longest.
const DIGEST_BYTES: usize = 104;
const VERSION_BYTES: usize = 5;
/// The time, and tags and lengths of columns.
const COLUMNS_BYTES: usize = 34;

/// Names of policies by their numbers in this node, which only grow.
#[derive(Debug)]
pub struct PolicyNames {
    names: Vec<String>,
    numbers: BTreeMap<String, PolicyNumber>,
    /// Learned since they were last taken.
    learned: usize,
}

/// More than a cluster has; a name beyond it is none.
const NAME_COUNT_MAX: usize = 8192;

impl PolicyNames {
    pub fn new(names: Vec<String>) -> PolicyNames {
        // Of equal names the first counts.
        let numbered = names.iter().enumerate().rev();
        let numbers = numbered.map(|(number, name)| (name.clone(), PolicyNumber(number as u16)));
        PolicyNames {
            numbers: numbers.collect(),
            learned: names.len(),
            names,
        }
    }

    pub fn name(&self, number: PolicyNumber) -> Option<&str> {
        self.names.get(usize::from(number.0)).map(String::as_str)
    }

    fn number(&mut self, name: &str) -> Option<PolicyNumber> {
        if let Some(number) = self.numbers.get(name) {
            return Some(*number);
        }
        if self.names.len() >= NAME_COUNT_MAX {
            return None;
        }
        let number = PolicyNumber(self.names.len() as u16);
        self.names.push(name.to_string());
        self.numbers.insert(name.to_string(), number);
        Some(number)
    }

    /// Names that peers used first, to be told to whoever reads numbers.
    pub fn take_learned(&mut self) -> Option<Vec<String>> {
        let learned = self.names[self.learned..].to_vec();
        self.learned = self.names.len();
        (!learned.is_empty()).then_some(learned)
    }
}

/// Decisions on their way into a batch.
#[derive(Debug, Default)]
pub struct Decisions {
    message: proto::Decisions,
    traces: BytesMut,
    outcomes: BytesMut,
    bytes: usize,
}

impl Decisions {
    pub fn is_empty(&self) -> bool {
        self.outcomes.is_empty()
    }

    pub fn len(&self) -> usize {
        self.outcomes.len()
    }

    /// Of the batch, so far, at most.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether one more might not fit beside `others` bytes.
    pub fn is_full(&self, others: usize) -> bool {
        self.bytes + others + DECISION_BYTES + NAME_BYTES_MAX + 3 > BATCH_BYTES_MAX
    }

    pub fn push(&mut self, wall: WallTime, decided: &PeerDecision, names: &PolicyNames) {
        if self.is_empty() {
            self.message.announced_unix_nano = wall.0;
            self.bytes = COLUMNS_BYTES;
        }
        let decision = &decided.decision;
        let outcome = decision.verdict as u8
            | (decision.reason as u8) << 2
            | u8::from(decided.by_home) << 6
            | u8::from(decision.incomplete) << 7;
        self.traces.extend_from_slice(decided.trace.as_bytes());
        self.outcomes.extend_from_slice(&[outcome]);
        let name = decision.policy.and_then(|number| names.name(number));
        let policy = name.map_or(0, |name| self.name(cut(name)));
        self.message.policies.push(policy);
        let threshold = decision.threshold.map_or(0, |threshold| threshold.value() + 1);
        self.message.thresholds.push(threshold);
        self.bytes += 17
            + prost::length_delimiter_len(policy as usize)
            + prost::length_delimiter_len(threshold as usize);
    }

    /// One more than the name's place in this batch.
    fn name(&mut self, name: &str) -> u32 {
        let names = &mut self.message.policy_names;
        let place = names.iter().position(|known| known == name).unwrap_or_else(|| {
            self.bytes += name.len() + 3;
            names.push(name.to_string());
            names.len() - 1
        });
        place as u32 + 1
    }

    pub fn take(&mut self) -> proto::Decisions {
        self.bytes = 0;
        proto::Decisions {
            traces: self.traces.split().freeze(),
            outcomes: self.outcomes.split().freeze(),
            ..std::mem::take(&mut self.message)
        }
    }
}

/// Reads a batch of decisions; `each` gets them in order, only if all are sound. When the first was announced.
pub fn read_decisions(
    message: &proto::Decisions,
    names: &mut PolicyNames,
    mut each: impl FnMut(PeerDecision),
) -> Result<WallTime, ContentError> {
    let count = message.outcomes.len();
    let columns = [message.policies.len(), message.thresholds.len()];
    if message.traces.len() != 16 * count || columns != [count; 2] {
        return Err(ContentError::Columns);
    }
    let traces = message.traces.chunks_exact(16);
    let name_count = message.policy_names.len();
    let sound = |policy: u32, threshold: u64| policy as usize <= name_count && threshold <= Threshold::LIMIT;
    let values = message.policies.iter().zip(&message.thresholds);
    if !values
        .clone()
        .all(|(policy, threshold)| sound(*policy, *threshold))
        || traces.clone().any(|trace| TraceId::new(trace).is_none())
    {
        return Err(ContentError::Value);
    }
    let numbers: Vec<_> = message
        .policy_names
        .iter()
        .map(|name| names.number(cut(name)))
        .collect();
    for ((trace, outcome), (policy, threshold)) in traces.zip(&message.outcomes[..]).zip(values) {
        let verdict = Verdict::from_byte(outcome & 3).ok_or(ContentError::Value)?;
        let decision = Decision {
            verdict,
            // A reason that a later version knows.
            reason: Reason::from_byte(outcome >> 2 & 15).unwrap_or(Reason::Peer),
            policy: policy.checked_sub(1).and_then(|place| numbers[place as usize]),
            threshold: threshold.checked_sub(1).and_then(Threshold::new),
            incomplete: outcome >> 7 == 1,
            // Only who dropped a trace before can say that it was upgraded.
            upgraded: false,
        };
        each(PeerDecision {
            trace: TraceId::new(trace).ok_or(ContentError::Value)?,
            decision,
            by_home: outcome >> 6 & 1 == 1,
        });
    }
    Ok(WallTime(message.announced_unix_nano))
}

/// Digests and answers on their way into a batch of a directed stream.
#[derive(Debug, Default)]
pub struct Directed {
    predicates: Option<proto::PredicateTable>,
    digests: Vec<proto::Digest>,
    answers: Decisions,
    versions: Vec<u32>,
    leasings: Vec<proto::Leasing>,
    bytes: usize,
}

impl Directed {
    pub fn is_empty(&self) -> bool {
        self.predicates.is_none()
            && self.digests.is_empty()
            && self.answers.is_empty()
            && self.leasings.is_empty()
    }

    pub fn is_full(&self) -> bool {
        const NEXT_BYTES: usize = if DIGEST_BYTES > LEASING_BYTES {
            DIGEST_BYTES
        } else {
            LEASING_BYTES
        };
        self.answers.is_full(self.bytes + NEXT_BYTES + VERSION_BYTES)
    }

    /// From here on bits mean this. Its batch has nothing else.
    pub fn state_predicates(&mut self, hashes: &[u64]) {
        self.predicates = Some(proto::PredicateTable {
            hashes: hashes.to_vec(),
        });
        self.bytes = BATCH_BYTES_MAX;
    }

    pub fn push_digest(&mut self, digest: &NodeDigest) {
        self.digests.push(write_digest(digest));
        self.bytes += DIGEST_BYTES;
    }

    pub fn push_leasing(&mut self, leasing: &Leasing) {
        self.leasings.push(write_leasing(leasing));
        self.bytes += LEASING_BYTES;
    }

    /// To the digest of this version.
    pub fn push_answer(&mut self, wall: WallTime, version: u32, answer: &PeerDecision, names: &PolicyNames) {
        self.answers.push(wall, answer, names);
        self.versions.push(version);
        self.bytes += VERSION_BYTES;
    }

    pub fn take(&mut self) -> Bytes {
        self.bytes = 0;
        let answers = (!self.answers.is_empty()).then(|| self.answers.take());
        let message = proto::Directed {
            predicates: self.predicates.take(),
            digests: std::mem::take(&mut self.digests),
            answers,
            answered_versions: std::mem::take(&mut self.versions),
            leasings: std::mem::take(&mut self.leasings),
        };
        message.encode_to_vec().into()
    }
}

/// Reads answers with the versions of the digests that they answer.
pub fn read_answers(
    message: &proto::Directed,
    names: &mut PolicyNames,
) -> Result<Vec<(u32, PeerDecision)>, ContentError> {
    let mut answers = Vec::new();
    if let Some(decisions) = &message.answers {
        if decisions.outcomes.len() != message.answered_versions.len() {
            return Err(ContentError::Columns);
        }
        let mut versions = message.answered_versions.iter();
        read_decisions(decisions, names, |answer| {
            answers.extend(versions.next().map(|version| (*version, answer)));
        })?;
    }
    Ok(answers)
}

/// From the bits of one sender to ours.
#[derive(Clone, Debug)]
pub struct PredicateMap {
    /// By the sender's number: ours.
    ours: Vec<Option<PredicateIndex>>,
    /// Ours, of which the sender knows nothing.
    unknown: PredicateSet,
}

impl PredicateMap {
    /// `own`: our predicates' hashes, by number.
    pub fn new(own: &[u64], theirs: &proto::PredicateTable) -> PredicateMap {
        let ours = |hash: &u64| PredicateIndex::new(own.iter().position(|own| own == hash)?);
        let mut unknown = PredicateSet::NONE;
        let lacking = own
            .iter()
            .enumerate()
            .filter(|(_, hash)| !theirs.hashes.contains(hash));
        lacking
            .filter_map(|(index, _)| PredicateIndex::new(index))
            .for_each(|index| unknown.insert(index));
        PredicateMap {
            ours: theirs.hashes.iter().map(ours).collect(),
            unknown,
        }
    }

    fn translate(&self, bits: u128) -> PredicateSet {
        let mut set = PredicateSet::NONE;
        let named = self.ours.iter().enumerate().take(128);
        let matched = named.filter(|(number, _)| bits >> number & 1 == 1);
        matched
            .filter_map(|(_, ours)| *ours)
            .for_each(|ours| set.insert(ours));
        set
    }

    pub fn read_digest(&self, message: &proto::Digest) -> Result<NodeDigest, ContentError> {
        let trace = u128::from(message.trace_high) << 64 | u128::from(message.trace_low);
        let trace = TraceId::new(&trace.to_be_bytes()).ok_or(ContentError::Value)?;
        let bits = u128::from(message.predicates_high) << 64 | u128::from(message.predicates_low);
        let randomness = match message.randomness.checked_sub(1) {
            None => Digest::EMPTY.randomness,
            Some(ranked) => RandomnessSeen::from_ranked(ranked).ok_or(ContentError::Value)?,
        };
        let digest = Digest {
            predicates: self.translate(bits),
            start_ns: match message.start_unix_nano {
                0 => Digest::EMPTY.start_ns,
                start => start,
            },
            end_ns: message.end_unix_nano,
            bytes: message.bytes,
            randomness,
            span_count: message.span_count,
            expected_count: message.expected_count,
            has_root: message.flags & HAS_ROOT != 0,
            has_error: message.flags & HAS_ERROR != 0,
        };
        Ok(NodeDigest {
            trace,
            digest,
            unknown: self.unknown,
            version: message.version,
        })
    }
}

const HAS_ROOT: u32 = 1;
const HAS_ERROR: u32 = 2;

fn write_digest(node: &NodeDigest) -> proto::Digest {
    let digest = &node.digest;
    let trace = u128::from_be_bytes(*node.trace.as_bytes());
    let bits = digest.predicates.bits();
    let flag = |holds: bool, flag| if holds { flag } else { 0 };
    proto::Digest {
        trace_high: (trace >> 64) as u64,
        trace_low: trace as u64,
        version: node.version,
        flags: flag(digest.has_root, HAS_ROOT) | flag(digest.has_error, HAS_ERROR),
        predicates_high: (bits >> 64) as u64,
        predicates_low: bits as u64,
        start_unix_nano: match digest.start_ns {
            u64::MAX => 0,
            start => start,
        },
        end_unix_nano: digest.end_ns,
        bytes: digest.bytes,
        span_count: digest.span_count,
        expected_count: digest.expected_count,
        randomness: digest.randomness.ranked().map_or(0, |ranked| ranked + 1),
    }
}

/// To at most [`NAME_BYTES_MAX`] bytes.
fn cut(name: &str) -> &str {
    &name[..name.floor_char_boundary(NAME_BYTES_MAX)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn trace() -> impl Strategy<Value = TraceId> {
        any::<[u8; 16]>().prop_filter_map("zero", |bytes| TraceId::new(&bytes))
    }

    prop_compose! {
        fn decision()(trace in trace(), verdict in 0u8..4, reason in 0u8..9, policy in prop::option::of(0u16..5), threshold in prop::option::of(0..Threshold::LIMIT), incomplete in any::<bool>(), by_home in any::<bool>()) -> PeerDecision {
            PeerDecision { trace, by_home, decision: Decision {
                verdict: Verdict::from_byte(verdict).expect("below 4"),
                reason: Reason::from_byte(reason).expect("below 9"),
                policy: policy.map(PolicyNumber),
                threshold: threshold.and_then(Threshold::new),
                incomplete, upgraded: false } }
        }
    }

    prop_compose! {
        fn digest()(trace in trace(), bits in any::<u128>(), start_ns in 1..=u64::MAX, end_ns in any::<u64>(), randomness in prop::option::of(0..Threshold::LIMIT << 1), counts in any::<[u32; 3]>(), flags in any::<[bool; 2]>(), bytes in any::<u64>()) -> NodeDigest {
            NodeDigest { trace, unknown: PredicateSet::NONE, version: counts[2], digest: Digest {
                predicates: PredicateSet::from_bits(bits), start_ns, end_ns, bytes,
                randomness: randomness.map_or(Digest::EMPTY.randomness, |ranked| RandomnessSeen::from_ranked(ranked).expect("in range")),
                span_count: counts[0], expected_count: counts[1], has_root: flags[0], has_error: flags[1],
            } }
        }
    }

    fn names(names: &[&str]) -> PolicyNames {
        PolicyNames::new(names.iter().map(|name| name.to_string()).collect())
    }

    proptest! {
        /// Policies keep their names among nodes that number them differently, and a batch keeps its bound.
        #[test]
        fn decisions_come_back(decisions in prop::collection::vec(decision(), 1..80), long in 0usize..400) {
            let long = "n".repeat(long);
            let sender = names(&["errors", "slow", "ä", &long]);
            let mut receiver = names(&["slow", "other"]);
            let mut batch = Decisions::default();
            let mut read = Vec::new();
            let sent: Vec<_> = decisions.iter().take_while(|decision| {
                let fits = !batch.is_full(0);
                if fits {
                    batch.push(WallTime(5), decision, &sender);
                }
                fits
            }).collect();
            let bound = batch.bytes();
            let encoded: Bytes = batch.take().encode_to_vec().into();
            prop_assert!(encoded.len() <= bound && bound <= BATCH_BYTES_MAX);
            let message = proto::Decisions::decode(encoded).expect("ours");
            let wall = read_decisions(&message, &mut receiver, |decision| read.push(decision)).expect("ours");
            prop_assert_eq!(wall, WallTime(5));
            prop_assert_eq!(read.len(), sent.len());
            for (read, sent) in read.iter().zip(sent) {
                let name = |names: &PolicyNames, decision: &PeerDecision| {
                    decision.decision.policy.and_then(|number| names.name(number).map(|name| cut(name).to_string()))
                };
                prop_assert_eq!(name(&receiver, read), name(&sender, sent));
                let bare = |decision: &PeerDecision| PeerDecision { decision: Decision { policy: None, ..decision.decision }, ..*decision };
                prop_assert_eq!(bare(read), bare(sent));
            }
        }

        #[test]
        fn digests_come_back_and_fit(digests in prop::collection::vec(digest(), 1..20)) {
            let own: Vec<u64> = (0..128).collect();
            let map = PredicateMap::new(&own, &proto::PredicateTable { hashes: own.clone() });
            let mut batch = Directed::default();
            let sent = digests.iter().take_while(|digest| {
                let fits = !batch.is_full();
                if fits {
                    batch.push_digest(digest);
                }
                fits
            }).count();
            let encoded = batch.take();
            prop_assert!(encoded.len() <= BATCH_BYTES_MAX);
            let message = proto::Directed::decode(encoded).expect("ours");
            prop_assert_eq!(message.digests.len(), sent);
            for (message, sent) in message.digests.iter().zip(&digests) {
                prop_assert_eq!(map.read_digest(message).expect("ours"), *sent);
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let bytes = Bytes::from(bytes);
            if let Ok(message) = proto::Decisions::decode(bytes.clone()) {
                let _ = read_decisions(&message, &mut names(&[]), |_| {});
            }
            if let Ok(message) = proto::Directed::decode(bytes) {
                let map = PredicateMap::new(&[1], &message.predicates.clone().unwrap_or_default());
                for digest in &message.digests {
                    let _ = map.read_digest(digest);
                }
                let _ = read_answers(&message, &mut names(&[]));
            }
        }
    }

    #[test]
    fn unequal_columns_and_bad_values_are_refused_whole() {
        let good = proto::Decisions {
            traces: Bytes::from_static(&[1; 32]),
            outcomes: Bytes::from_static(&[3, 3]),
            policies: vec![0, 0],
            thresholds: vec![0, Threshold::LIMIT],
            ..proto::Decisions::default()
        };
        let read = |message: &proto::Decisions| {
            let mut count = 0;
            read_decisions(message, &mut names(&[]), |_| count += 1).map(|_| count)
        };
        assert_eq!(read(&good), Ok(2));
        let bad = |change: fn(&mut proto::Decisions)| {
            let mut message = good.clone();
            change(&mut message);
            read(&message).expect_err("refused")
        };
        assert_eq!(bad(|message| message.policies.push(0)), ContentError::Columns);
        assert_eq!(
            bad(|message| message.traces = Bytes::from_static(&[1; 31])),
            ContentError::Columns
        );
        assert_eq!(
            bad(|message| message.traces = Bytes::from_static(&[0; 32])),
            ContentError::Value
        );
        assert_eq!(bad(|message| message.policies[1] = 1), ContentError::Value);
        assert_eq!(bad(|message| message.thresholds[1] += 1), ContentError::Value);
    }

    #[test]
    fn predicates_of_another_configuration_are_mapped_or_unknown() {
        let theirs = proto::PredicateTable {
            hashes: vec![30, 99, 10],
        };
        let map = PredicateMap::new(&[10, 20, 30], &theirs);
        let bits = |numbers: &[u32]| numbers.iter().fold(0, |bits, number| bits | 1 << number);
        assert_eq!(map.translate(bits(&[0, 1])), PredicateSet::from_bits(bits(&[2])));
        assert_eq!(map.translate(bits(&[2, 5])), PredicateSet::from_bits(bits(&[0])));
        assert_eq!(map.unknown, PredicateSet::from_bits(bits(&[1])));
    }

    #[test]
    fn a_table_of_all_predicates_fits_a_batch() {
        let mut batch = Directed::default();
        batch.state_predicates(&[u64::MAX; crate::digest::PREDICATE_COUNT_MAX]);
        assert!(batch.is_full());
        assert!(batch.take().len() <= BATCH_BYTES_MAX);
    }
}
