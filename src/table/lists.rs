//! What an open trace lists: fingerprints of its spans and of parents it lacks, places, and spans by log.
//!
//! ```text
//!  one place, ≤ 3 fingerprints   in the slot                                                24 bytes, no allocation
//!  ≤ 64 words                    spans │ parents │ shares │ places, oldest first            + one allocation, exact
//!                                1 word each       1        2 words each
//!  above                         as whoever looks at them has it                            + a list of each
//! ```
//!
//! Most traces are small and get all their spans in one to three items. Three lists that each keep room for more would
//! cost them more than what is in the lists, so small ones lie packed: what changes one unpacks it, changes it and
//! packs it again. An item, which is what changes them for every span, leaves places packed.
//!
//! A place takes two words, a share one: the log above 24 bits of count. Where fingerprints are no longer known one word
//! has the number of spans in their stead, if there are any.

use crate::base::ids::{LogId, Place};
use crate::base::prefetch::{LINE_BYTES, prefetch};
use crate::completion::structure::Structure;
use smallvec::SmallVec;
use std::cell::Cell;

/// Fingerprints in the slot: as many as fit beside a place.
const BRIEF_MAX: usize = 3;
/// Words of one allocation, which each item copies. A trace that has more pays for room of its own in each list, which is
/// then less than what is in them.
const WORDS_MAX: usize = 64;
/// Spans in one log, as a word has room for them.
const SHARE_MAX: u32 = (1 << 24) - 1;

/// The lists of one open trace.
///
/// Invariant: a packed trace has one allocation at most, and no word in it is spare.
#[derive(Debug)]
pub(super) struct Lists(Shape);

#[derive(Debug)]
enum Shape {
    Brief {
        known: Known,
        fingerprints: [u32; BRIEF_MAX],
        place: Place,
    },
    Packed {
        known: Known,
        share_count: u8,
        words: Box<[u32]>,
    },
    Large(Box<Unpacked>),
}

/// How the first words of a packed trace are to be read.
#[derive(Clone, Copy, Debug)]
struct Known {
    /// Words of spans.
    span_count: u8,
    /// Words of parents.
    parent_count: u8,
    /// What words of spans there are have their number, and not who they are.
    given_up: bool,
}

/// The lists of a trace as they are changed.
#[derive(Debug, Default)]
pub(super) struct Unpacked {
    pub structure: Structure,
    pub places: SmallVec<[Place; 4]>,
    /// Spans by log; empty while all places are of one log.
    pub shares: Shares,
    /// Behind the place that was looked for last, and behind the one that was moved last. What is copied forward asks for
    /// places in the order of the log, which is that of arrival, so the next one is near.
    looked: Cell<usize>,
    moved: Cell<usize>,
}

/// Spans by log; mostly there are none.
pub(super) type Shares = SmallVec<[(LogId, u32); 2]>;

impl Lists {
    /// Of a trace that has no span yet.
    pub fn new(structural: bool) -> Lists {
        let known = Known {
            span_count: 0,
            parent_count: 0,
            given_up: !structural,
        };
        Lists(Shape::Packed {
            known,
            share_count: 0,
            words: Box::default(),
        })
    }

    /// Takes in an item of a trace that had `spans_before`: its places, the number of its spans, their fingerprints, and
    /// those of parents that are not among them.
    #[inline]
    pub fn absorb(
        &mut self,
        (places, span_count): (&[Place], u32),
        (spans, parents): (&[u32], &[u32]),
        spans_before: u32,
    ) {
        if let Shape::Large(lists) = &mut self.0 {
            lists.structure.absorb(spans, parents);
            lists.absorb_places(places, span_count, spans_before);
            return;
        }
        let mut structure = self.structure();
        structure.absorb(spans, parents);
        let mut shares = self.shares().collect();
        let known = self.places().next().map(|place| (place.log(), spans_before));
        add_share(&mut shares, known, places, span_count);
        let halves;
        let places_before: &[u32] = match &self.0 {
            Shape::Brief { place, .. } => {
                halves = halves_of(*place);
                &halves
            }
            Shape::Packed {
                known,
                share_count,
                words,
            } => &words[known.len() + usize::from(*share_count)..],
            Shape::Large(_) => unreachable!("returned above"),
        };
        match Shape::pack(&structure, &shares, places_before, places) {
            Some(packed) => self.0 = packed,
            None => {
                let places = self.places().chain(places.iter().copied()).collect();
                self.0 = Shape::Large(Box::new(Unpacked::new(structure, places, shares)));
            }
        }
    }

    pub fn has_place(&self, place: Place) -> bool {
        match &self.0 {
            Shape::Brief { .. } | Shape::Packed { .. } => self.places().any(|known| known == place),
            Shape::Large(lists) => lists.find(place, &lists.looked).is_some(),
        }
    }

    /// `false`: `old` is none of them.
    pub fn move_place(&mut self, old: Place, new: Place) -> bool {
        if !matches!(self.0, Shape::Large(_)) && !self.has_place(old) {
            return false;
        }
        self.change(|lists| {
            let found = lists.find(old, &lists.moved);
            found.map(|index| lists.places[index] = new).is_some()
        })
    }

    /// Changes them in place where they are large, otherwise a copy that then takes their place.
    #[inline]
    pub fn change<R>(&mut self, change: impl FnOnce(&mut Unpacked) -> R) -> R {
        if let Shape::Large(lists) = &mut self.0 {
            return change(lists);
        }
        let mut lists = self.unpack();
        let result = change(&mut lists);
        *self = Lists::from(lists);
        result
    }

    #[inline]
    pub fn into_unpacked(self) -> Unpacked {
        match self.0 {
            Shape::Large(lists) => *lists,
            Shape::Brief { .. } | Shape::Packed { .. } => self.unpack(),
        }
    }

    /// [`Structure::unresolved`].
    #[inline]
    pub fn unresolved(&self) -> Option<u32> {
        match &self.0 {
            Shape::Brief { known, .. } | Shape::Packed { known, .. } => {
                (!known.given_up).then_some(u32::from(known.parent_count))
            }
            Shape::Large(lists) => lists.structure.unresolved(),
        }
    }

    /// [`Structure::distinct`].
    #[inline]
    pub fn distinct(&self) -> u32 {
        match &self.0 {
            Shape::Brief {
                known, fingerprints, ..
            } => known.distinct(fingerprints),
            Shape::Packed { known, words, .. } => known.distinct(words),
            Shape::Large(lists) => lists.structure.distinct(),
        }
    }

    pub fn structure(&self) -> Structure {
        match &self.0 {
            Shape::Brief {
                known, fingerprints, ..
            } => known.structure(fingerprints),
            Shape::Packed { known, words, .. } => known.structure(words),
            Shape::Large(lists) => lists.structure.clone(),
        }
    }

    /// In order of arrival.
    pub fn places(&self) -> impl Iterator<Item = Place> {
        let (brief, words, large): (_, &[u32], &[Place]) = match &self.0 {
            Shape::Brief { place, .. } => (Some(*place), &[], &[]),
            Shape::Packed {
                known,
                share_count,
                words,
            } => (None, &words[known.len() + usize::from(*share_count)..], &[]),
            Shape::Large(lists) => (None, &[], &lists.places),
        };
        let packed = words.as_chunks().0.iter().map(|halves| place_of(*halves));
        brief.into_iter().chain(packed).chain(large.iter().copied())
    }

    /// Spans by log, while they are in several.
    pub fn shares(&self) -> impl Iterator<Item = (LogId, u32)> {
        let (words, large): (&[u32], &[(LogId, u32)]) = match &self.0 {
            Shape::Brief { .. } => (&[], &[]),
            Shape::Packed {
                known,
                share_count,
                words,
            } => (&words[known.len()..][..usize::from(*share_count)], &[]),
            Shape::Large(lists) => (&[], &lists.shares),
        };
        let packed = words.iter().map(|word| share_of(*word));
        packed.chain(large.iter().copied())
    }

    /// Asks for what of them is outside of the slot.
    #[inline]
    pub fn prefetch(&self) {
        match &self.0 {
            Shape::Brief { .. } => {}
            Shape::Packed { words, .. } => {
                let lines = words.chunks(LINE_BYTES / size_of::<u32>());
                // They need not begin with a line.
                let firsts = lines.filter_map(|line| line.first());
                firsts.chain(words.last()).for_each(prefetch);
            }
            Shape::Large(lists) => prefetch(&**lists),
        }
    }

    /// Bytes outside of themselves.
    pub fn heap_bytes(&self) -> usize {
        match &self.0 {
            Shape::Brief { .. } => 0,
            Shape::Packed { words, .. } => size_of_val(&**words),
            Shape::Large(lists) => {
                let spilled = |is_spilled, bytes| if is_spilled { bytes } else { 0 };
                let places = lists.places.capacity() * size_of::<Place>();
                let shares = lists.shares.capacity() * size_of::<(LogId, u32)>();
                size_of::<Unpacked>()
                    + lists.structure.heap_bytes()
                    + spilled(lists.places.spilled(), places)
                    + spilled(lists.shares.spilled(), shares)
            }
        }
    }

    #[inline]
    fn unpack(&self) -> Unpacked {
        Unpacked::new(self.structure(), self.places().collect(), self.shares().collect())
    }
}

impl From<Unpacked> for Lists {
    /// As small as they can be.
    fn from(lists: Unpacked) -> Lists {
        let packed = Shape::pack(&lists.structure, &lists.shares, &[], &lists.places);
        Lists(packed.unwrap_or_else(|| Shape::Large(Box::new(lists))))
    }
}

impl Shape {
    /// Of places the earlier ones are packed already. `None`: there is too much, or too many spans of one log.
    #[inline]
    fn pack(
        structure: &Structure,
        shares: &[(LogId, u32)],
        places_before: &[u32],
        places: &[Place],
    ) -> Option<Shape> {
        let (spans, parents, given_up) = structure.parts();
        let number = given_up.filter(|number| *number > 0);
        let spans = if given_up.is_some() {
            number.as_slice()
        } else {
            spans
        };
        let fingerprint_count = spans.len() + parents.len();
        let place_words = places_before.len() + 2 * places.len();
        let word_count = fingerprint_count + shares.len() + place_words;
        if word_count > WORDS_MAX || shares.iter().any(|(_, count)| *count > SHARE_MAX) {
            return None;
        }
        let known = Known {
            span_count: spans.len() as u8,
            parent_count: parents.len() as u8,
            given_up: given_up.is_some(),
        };
        if let ([place], [], []) = (places, places_before, shares)
            && fingerprint_count <= BRIEF_MAX
        {
            let mut fingerprints = [0; BRIEF_MAX];
            let all = spans.iter().chain(parents);
            fingerprints
                .iter_mut()
                .zip(all)
                .for_each(|(to, from)| *to = *from);
            return Some(Shape::Brief {
                known,
                fingerprints,
                place: *place,
            });
        }
        let mut words = Vec::with_capacity(word_count);
        words.extend_from_slice(spans);
        words.extend_from_slice(parents);
        words.extend(shares.iter().map(|share| word_of(*share)));
        words.extend_from_slice(places_before);
        places
            .iter()
            .for_each(|place| words.extend_from_slice(&halves_of(*place)));
        Some(Shape::Packed {
            known,
            share_count: shares.len() as u8,
            words: words.into_boxed_slice(),
        })
    }
}

impl Known {
    /// Words that it is about.
    #[inline]
    fn len(self) -> usize {
        usize::from(self.span_count) + usize::from(self.parent_count)
    }

    #[inline]
    fn distinct(self, words: &[u32]) -> u32 {
        match (self.given_up, self.span_count) {
            (true, 1..) => words[0],
            (true, 0) => 0,
            (false, span_count) => u32::from(span_count),
        }
    }

    #[inline]
    fn structure(self, words: &[u32]) -> Structure {
        if self.given_up {
            return Structure::of(&[], &[], Some(self.distinct(words)));
        }
        Structure::of_distinct(&words[..self.len()], usize::from(self.span_count))
    }
}

impl Unpacked {
    #[inline]
    pub fn new(structure: Structure, places: SmallVec<[Place; 4]>, shares: Shares) -> Unpacked {
        Unpacked {
            structure,
            places,
            shares,
            looked: Cell::default(),
            moved: Cell::default(),
        }
    }

    /// Begins where the last look of its kind ended.
    fn find(&self, place: Place, from: &Cell<usize>) -> Option<usize> {
        let start = from.get().min(self.places.len());
        let (before, after) = self.places.split_at(start);
        let is_it = |known: &Place| *known == place;
        let behind = after.iter().position(is_it).map(|index| start + index);
        let found = behind.or_else(|| before.iter().position(is_it))?;
        from.set(found + 1);
        Some(found)
    }

    /// Takes in places of one item and their spans, of a trace that had `spans_before`.
    pub fn absorb_places(&mut self, places: &[Place], span_count: u32, spans_before: u32) {
        let known = self.places.first().map(|place| (place.log(), spans_before));
        add_share(&mut self.shares, known, places, span_count);
        self.places.extend_from_slice(places);
    }
}

/// Counts spans of a log. `known`: the log of all that came before while there are no shares, and how many they are.
#[inline]
fn add_share(shares: &mut Shares, known: Option<(LogId, u32)>, places: &[Place], span_count: u32) {
    let Some(log) = places.first().map(|place| place.log()) else {
        return;
    };
    if shares.is_empty() {
        match known {
            Some(known) if known.0 != log => shares.push(known),
            Some(_) | None => return,
        }
    }
    match shares.iter_mut().find(|(known, _)| *known == log) {
        Some((_, count)) => *count += span_count,
        None => shares.push((log, span_count)),
    }
}

fn halves_of(place: Place) -> [u32; 2] {
    [place.bits() as u32, (place.bits() >> 32) as u32]
}

fn place_of([low, high]: [u32; 2]) -> Place {
    Place::from_bits(u64::from(high) << 32 | u64::from(low))
}

fn word_of((LogId(log), count): (LogId, u32)) -> u32 {
    u32::from(log) << 24 | count
}

fn share_of(word: u32) -> (LogId, u32) {
    (LogId((word >> 24) as u8), word & SHARE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::Position;
    use proptest::prelude::*;

    fn place(log: u8, number: u16) -> Place {
        Place::new(
            LogId(log),
            Position(Place::ENTRY_ALIGN * (1 << 40 | u64::from(number))),
            number % Place::RUN_COUNT_MAX as u16,
        )
    }

    /// Lists that got items of `spans_each` spans, the parent of each first one missing.
    fn with_items(count: u16, spans_each: u32) -> Lists {
        let mut lists = Lists::new(true);
        for item in 0..count {
            let first = u32::from(item) * spans_each;
            let spans: Vec<u32> = (first..first + spans_each).collect();
            lists.absorb((&[place(0, item)], spans_each), (&spans, &[1_000_000]), first);
        }
        lists
    }

    #[test]
    fn lists_take_24_bytes_and_one_exact_allocation_up_to_64_words() {
        assert_eq!(size_of::<Lists>(), 24);
        assert_eq!(with_items(1, 2).heap_bytes(), 0);
        assert_eq!(with_items(1, 3).heap_bytes(), 4 * 4 + 8);
        assert_eq!(with_items(3, 3).heap_bytes(), 10 * 4 + 3 * 8);
        assert_eq!(with_items(21, 1).heap_bytes(), 64 * 4 - 8 + 8);
        assert!(with_items(22, 1).heap_bytes() > 65 * 4);
    }

    #[test]
    fn a_trace_of_no_fingerprints_takes_a_word_for_their_number() {
        let mut lists = Lists::new(false);
        assert_eq!(
            (lists.distinct(), lists.unresolved(), lists.heap_bytes()),
            (0, None, 0)
        );
        for item in 0..2 {
            lists.absorb((&[place(0, item)], 2), (&[1, 2], &[3]), 2 * u32::from(item));
            assert_eq!(lists.distinct(), 2 + 2 * u32::from(item));
            assert_eq!(
                (lists.unresolved(), lists.structure().parts().2),
                (None, Some(lists.distinct()))
            );
        }
        assert_eq!(lists.heap_bytes(), 4 + 2 * 8);
    }

    #[test]
    fn a_share_too_large_for_its_word_is_told_all_the_same() {
        let mut lists = Lists::new(false);
        lists.change(|lists| lists.absorb_places(&[place(7, 1)], SHARE_MAX, 0));
        lists.change(|lists| lists.absorb_places(&[place(255, 1)], SHARE_MAX, SHARE_MAX));
        assert!(matches!(lists.0, Shape::Packed { .. }));
        lists.change(|lists| lists.absorb_places(&[place(7, 2)], 1, 2 * SHARE_MAX));
        let shares: Vec<_> = lists.shares().collect();
        assert_eq!(shares, [(LogId(7), SHARE_MAX + 1), (LogId(255), SHARE_MAX)]);
    }

    proptest! {
        /// Whatever comes in whatever items, they are what one never packed is.
        #[test]
        fn packed_lists_are_what_unpacked_ones_are(
            structural in any::<bool>(),
            items in prop::collection::vec(
                (
                    prop::collection::vec(0..200u32, 1..12),
                    prop::collection::vec(0..200u32, 0..4),
                    (0..4u8, 1..3u16),
                ),
                1..24,
            ),
            by_item in prop::collection::vec(any::<bool>(), 24),
        ) {
            let mut lists = Lists::new(structural);
            let mut unpacked = Unpacked::default();
            if !structural {
                unpacked.structure = Structure::given_up();
            }
            let mut spans_before = 0;
            for (number, (spans, parents, (log, place_count))) in items.into_iter().enumerate() {
                let first = 2 * number as u16;
                let places: Vec<_> = (first..first + place_count).map(|number| place(log, number)).collect();
                let span_count = spans.len() as u32;
                let absorb = |lists: &mut Unpacked| {
                    lists.structure.absorb(&spans, &parents);
                    lists.absorb_places(&places, span_count, spans_before);
                };
                absorb(&mut unpacked);
                match by_item[number] {
                    true => lists.absorb((&places, span_count), (&spans, &parents), spans_before),
                    false => lists.change(absorb),
                }
                spans_before += span_count;

                let sorted = |of: &[u32]| std::collections::BTreeSet::from_iter(of.iter().copied());
                let (told, was) = (lists.structure(), &unpacked.structure);
                prop_assert_eq!(sorted(told.parts().0), sorted(was.parts().0));
                prop_assert_eq!(sorted(told.parts().1), sorted(was.parts().1));
                prop_assert_eq!(told.parts().2, was.parts().2);
                prop_assert_eq!(lists.distinct(), was.distinct());
                prop_assert_eq!(lists.unresolved(), was.unresolved());
                prop_assert!(lists.places().eq(unpacked.places.iter().copied()));
                prop_assert!(lists.shares().eq(unpacked.shares.iter().copied()));
            }
            let told = lists.into_unpacked();
            prop_assert_eq!((told.places, told.shares), (unpacked.places, unpacked.shares));
        }

        /// In the order of the log, or any other; places that are not there too.
        #[test]
        fn each_place_is_found_and_moved_wherever_the_last_one_was(
            count in 1..200u16,
            looks in prop::collection::vec((0..220u16, any::<bool>()), 0..100),
        ) {
            let mut lists = with_items(count, 1);
            let mut naive: Vec<_> = lists.places().collect();
            let in_order = (0..count).map(|number| (number, number % 2 == 0));
            for (step, (number, moves)) in looks.into_iter().chain(in_order).enumerate() {
                let old = place(0, number);
                let known = naive.iter().position(|known| *known == old);
                prop_assert_eq!(lists.has_place(old), known.is_some());
                if moves {
                    let new = place(0, 1_000 + step as u16);
                    prop_assert_eq!(lists.move_place(old, new), known.is_some());
                    known.into_iter().for_each(|index| naive[index] = new);
                }
                prop_assert!(lists.places().eq(naive.iter().copied()));
            }
        }
    }
}
