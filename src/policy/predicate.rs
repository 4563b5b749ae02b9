//! What rules ask of single spans, numbered, and answered for all rules in one pass over a span.
//!
//! ```text
//!  view ─ status ──────────────────────→ set[status]            ┐
//!       ─ attributes: key ─by length─→ key's tests ─ value ───→ ├ union → digest.predicates
//!  resource's match, made once per resource ──────────────────→ ┘
//! ```
//!
//! A key is looked up once for all predicates that ask for it, and most keys of real spans are turned away
//! by their length alone. A test whose predicate the span has matched already is skipped.
//!
//! Values keep their type: a string rule does not see the number 5 in the string "5", nor a number rule the
//! string in it, and a missing or mistyped value matches nothing. A key that stands twice in one span
//! matches if either value does. Scope, event and link attributes are not consulted, as in the Collector.

use regex::bytes::RegexSet;

use siphasher::sip::SipHasher13;
use std::hash::Hasher;

use crate::base::monoid::Monoid;
use crate::digest::{Digest, PredicateIndex, PredicateSet, RandomnessSeen};
use crate::otlp::tracestate;
use crate::otlp::view::{AnyValueView, SpanView};

use super::options::StatusCode;

/// A question to one span, as rules name it. Equal questions are one predicate.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Predicate {
    /// One bit per code, at its number.
    Status(u8),
    Attribute {
        key: String,
        wants: Wants,
    },
}

/// What an attribute's value has to be.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Wants {
    /// Sorted, none empty.
    OneOf(Vec<String>),
    /// Patterns as the configuration wrote them, and compiled. Equal patterns are equal questions.
    Matching(Patterns),
    /// Both inclusive.
    Within {
        min: Option<i64>,
        max: Option<i64>,
    },
    Equal(bool),
}

/// Regular expressions, of which one has to match somewhere in the value.
#[derive(Clone, Debug)]
pub(super) struct Patterns {
    pub texts: Vec<String>,
    pub set: RegexSet,
}

/// What the attributes of one resource match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResourceMatch {
    predicates: PredicateSet,
    expected_count: u32,
}

/// All predicates of a policy set, arranged for one pass over a span.
#[derive(Clone, Debug)]
pub(super) struct PredicateTable {
    predicates: Vec<Predicate>,
    /// By status code; the last is of codes that OTLP does not know.
    by_status: [PredicateSet; 4],
    /// Ordered by [`length_class`].
    keys: Vec<Key>,
    /// Where in `keys` a length class begins, or [`NO_KEY`].
    class_begin: [u8; LENGTH_CLASS_COUNT],
}

#[derive(Clone, Debug)]
struct Key {
    text: Box<[u8]>,
    tests: Vec<Test>,
    is_expected_count: bool,
}

#[derive(Clone, Debug)]
struct Test {
    predicate: PredicateIndex,
    wants: Wants,
}

/// Keys of 63 bytes and more share the last class.
const LENGTH_CLASS_COUNT: usize = 64;
/// Above any place in `keys`: there is at most one key per predicate, and the expected count's.
const NO_KEY: u8 = u8::MAX;

impl ResourceMatch {
    /// Of a resource without attributes.
    pub const NONE: ResourceMatch = ResourceMatch {
        predicates: PredicateSet::NONE,
        expected_count: 0,
    };
}

impl PredicateTable {
    /// `predicates` are distinct, and numbered as they stand.
    pub fn new(predicates: Vec<Predicate>, expected_count_attribute: &str) -> PredicateTable {
        let mut by_status = [PredicateSet::NONE; 4];
        let mut keys: Vec<Key> = Vec::new();
        if !expected_count_attribute.is_empty() {
            key_mut(&mut keys, expected_count_attribute).is_expected_count = true;
        }
        for (index, predicate) in predicates.iter().enumerate() {
            let index = PredicateIndex::new(index).expect("the compiler refuses more than there can be");
            match predicate {
                Predicate::Status(codes) => {
                    for code in [StatusCode::Unset, StatusCode::Ok, StatusCode::Error] {
                        if codes >> code as i32 & 1 == 1 {
                            by_status[code as usize].insert(index);
                        }
                    }
                }
                Predicate::Attribute { key, wants } => {
                    key_mut(&mut keys, key).tests.push(Test {
                        predicate: index,
                        wants: wants.clone(),
                    });
                }
            }
        }
        keys.sort_by_key(|key| length_class(&key.text));
        let mut class_begin = [NO_KEY; LENGTH_CLASS_COUNT];
        for (place, key) in keys.iter().enumerate().rev() {
            class_begin[length_class(&key.text)] = place as u8;
        }
        PredicateTable {
            predicates,
            by_status,
            keys,
            class_begin,
        }
    }

    pub fn predicate(&self, index: PredicateIndex) -> &Predicate {
        &self.predicates[index.index()]
    }

    /// By number.
    pub fn hashes(&self) -> Vec<u64> {
        self.predicates.iter().map(Predicate::stable_hash).collect()
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.predicates.len()
    }

    pub fn wants_attributes(&self) -> bool {
        !self.keys.is_empty()
    }

    pub fn match_resource<'a>(
        &self,
        attributes: impl Iterator<Item = (&'a [u8], AnyValueView<'a>)>,
    ) -> ResourceMatch {
        let mut matched = ResourceMatch::NONE;
        if self.wants_attributes() {
            attributes.for_each(|(key, value)| self.look_up(key, value, &mut matched));
        }
        matched
    }

    /// Whether a rule asks for a key of this length.
    #[inline]
    pub fn wants_attribute(&self, key: &[u8]) -> bool {
        self.class_begin[length_class(key)] != NO_KEY
    }

    pub fn fold(&self, span: &SpanView<'_>, resource: ResourceMatch) -> Digest {
        let mut matched = resource;
        if self.wants_attributes() {
            span.attributes().wanted(
                |key| self.wants_attribute(key),
                |key, value| self.look_up(key, value, &mut matched),
            );
        }
        self.fold_matched(span, matched)
    }

    #[inline]
    pub fn fold_matched(&self, span: &SpanView<'_>, matched: ResourceMatch) -> Digest {
        let status = usize::try_from(span.status_code).map_or(3, |code| code.min(3));
        let is_root = span.parent_span_id.iter().all(|byte| *byte == 0);
        let randomness = tracestate::sampling(span.trace_state).randomness;
        let randomness = randomness.map_or(Digest::EMPTY.randomness, |value| {
            RandomnessSeen::new(value, is_root)
        });
        Digest {
            predicates: matched.predicates.union(self.by_status[status]),
            start_ns: if span.start_ns == 0 {
                Digest::EMPTY.start_ns
            } else {
                span.start_ns
            },
            end_ns: span.end_ns,
            bytes: span.bytes.len() as u64,
            randomness,
            span_count: 1,
            expected_count: matched.expected_count,
            has_root: is_root,
            has_error: status == StatusCode::Error as usize,
        }
    }

    /// Adds what an attribute matches; a predicate that is matched already is not asked again.
    #[inline]
    pub fn look_up(&self, key: &[u8], value: AnyValueView<'_>, matched: &mut ResourceMatch) {
        let class = length_class(key);
        let begin = self.class_begin[class];
        if begin == NO_KEY {
            return;
        }
        let candidates = &self.keys[usize::from(begin)..];
        for candidate in candidates
            .iter()
            .take_while(|candidate| length_class(&candidate.text) == class)
        {
            // Most keys of the right length differ in their first byte.
            if candidate.text.first() == key.first() && *candidate.text == *key {
                candidate.absorb(value, matched);
                return;
            }
        }
    }
}

impl Predicate {
    /// Names the question among nodes of any version: equal questions have equal hashes. A kind keeps its number
    /// for ever; one that changes its meaning gets a new one.
    fn stable_hash(&self) -> u64 {
        let mut hasher = SipHasher13::new();
        let text = |hasher: &mut SipHasher13, text: &str| {
            hasher.write(&(text.len() as u64).to_le_bytes());
            hasher.write(text.as_bytes());
        };
        let bound = |hasher: &mut SipHasher13, bound: Option<i64>| {
            hasher.write(&[u8::from(bound.is_some())]);
            hasher.write(&bound.unwrap_or(0).to_le_bytes());
        };
        match self {
            Predicate::Status(codes) => hasher.write(&[1, *codes]),
            Predicate::Attribute { key, wants } => {
                hasher.write(&[2]);
                text(&mut hasher, key);
                match wants {
                    Wants::OneOf(values) => {
                        hasher.write(&[1]);
                        values.iter().for_each(|value| text(&mut hasher, value));
                    }
                    Wants::Matching(patterns) => {
                        hasher.write(&[2]);
                        patterns
                            .texts
                            .iter()
                            .for_each(|pattern| text(&mut hasher, pattern));
                    }
                    Wants::Within { min, max } => {
                        hasher.write(&[3]);
                        bound(&mut hasher, *min);
                        bound(&mut hasher, *max);
                    }
                    Wants::Equal(wanted) => hasher.write(&[4, u8::from(*wanted)]),
                }
            }
        }
        hasher.finish()
    }
}

impl Key {
    fn absorb(&self, value: AnyValueView<'_>, matched: &mut ResourceMatch) {
        if self.is_expected_count
            && let AnyValueView::Int(count) = value
        {
            let count = u32::try_from(count.max(0)).unwrap_or(u32::MAX);
            matched.expected_count = matched.expected_count.max(count);
        }
        for test in &self.tests {
            if !matched.predicates.contains(test.predicate) && test.wants.accepts(value) {
                matched.predicates.insert(test.predicate);
            }
        }
    }
}

impl Wants {
    fn accepts(&self, value: AnyValueView<'_>) -> bool {
        match (self, value) {
            (Wants::OneOf(values), AnyValueView::String(text)) => values
                .binary_search_by(|value| value.as_bytes().cmp(text))
                .is_ok(),
            (Wants::Matching(patterns), AnyValueView::String(text)) => patterns.set.is_match(text),
            (Wants::Within { min, max }, AnyValueView::Int(int)) => {
                min.is_none_or(|min| min <= int) && max.is_none_or(|max| int <= max)
            }
            (Wants::Within { min, max }, AnyValueView::Double(double)) => {
                // A whole bound divides doubles as it divides their floor or ceiling, which is exact.
                !double.is_nan()
                    && min.is_none_or(|min| i128::from(min) <= double.floor() as i128)
                    && max.is_none_or(|max| double.ceil() as i128 <= i128::from(max))
            }
            (Wants::Equal(wanted), AnyValueView::Bool(found)) => *wanted == found,
            (Wants::OneOf(_) | Wants::Matching(_) | Wants::Within { .. } | Wants::Equal(_), _) => false,
        }
    }
}

impl PartialEq for Patterns {
    fn eq(&self, other: &Patterns) -> bool {
        self.texts == other.texts
    }
}

fn length_class(key: &[u8]) -> usize {
    key.len().min(LENGTH_CLASS_COUNT - 1)
}

fn key_mut<'k>(keys: &'k mut Vec<Key>, text: &str) -> &'k mut Key {
    let place = keys
        .iter()
        .position(|key| *key.text == *text.as_bytes())
        .unwrap_or_else(|| {
            keys.push(Key {
                text: text.as_bytes().into(),
                tests: Vec::new(),
                is_expected_count: false,
            });
            keys.len() - 1
        });
    &mut keys[place]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(key: &str, wants: Wants) -> Predicate {
        Predicate::Attribute {
            key: key.to_string(),
            wants,
        }
    }

    /// Nodes of several versions compare these: the numbers must never change.
    #[test]
    fn a_predicate_is_named_alike_by_every_version() {
        let one_of = |values: &[&str]| Wants::OneOf(values.iter().map(|value| value.to_string()).collect());
        let within = |min, max| Wants::Within { min, max };
        let known = [
            Predicate::Status(4),
            Predicate::Status(2),
            attribute("a", one_of(&["x"])),
            attribute("a", one_of(&["x", "y"])),
            attribute("ax", one_of(&["y"])),
            attribute("a", within(Some(0), None)),
            attribute("a", within(None, Some(0))),
            attribute("a", Wants::Equal(true)),
            attribute("a", Wants::Equal(false)),
        ];
        let table = PredicateTable::new(known.to_vec(), "");
        let hashes = table.hashes();
        let distinct: std::collections::BTreeSet<_> = hashes.iter().collect();
        assert_eq!(distinct.len(), known.len());
        let unchanged = [
            (0, 0x3dc8_b854_2df1_cbb1),
            (2, 0x1cc1_d39a_7dc0_db06),
            (5, 0x15be_1bad_a1e4_035c),
            (7, 0x317a_dd77_03f5_196f),
        ];
        for (number, hash) in unchanged {
            assert_eq!(hashes[number], hash, "{:?}", known[number]);
        }
    }
}
