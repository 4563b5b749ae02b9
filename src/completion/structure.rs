//! Are all parents here, and how many different spans? Four bytes per span of an open trace answer it.
//!
//! ```text
//!  up to 9 fingerprints   in place:  spans … │ unresolved parents …          40 bytes, no allocation
//!  up to 4,096 spans      on the heap: the same, in one allocation           + 4 bytes per fingerprint
//!  above                  given up: a count                                  the heap is free again
//! ```
//!
//! A fingerprint is 32 bits of a keyed hash of a span id, so that nobody outside can choose ids that collide.
//! Two that collide all the same make a missing parent look present, or two spans look like one; either
//! costs at most an early close, never a span. An item brings the fingerprints of its spans, and those of
//! parents it does not hold itself; a parent leaves the list when its span comes.
//!
//! Lookups run over unsorted `u32`s: at 8 spans a trace that is a few vector compares, at the 4,096 that
//! bound it about a microsecond.

/// Above so many spans, or unresolved parents, the check is given up.
pub const SPAN_COUNT_MAX: usize = 4096;

/// Fingerprints that fit in place: the most that leave [`Structure`] at 40 bytes.
const IN_PLACE: usize = 9;

/// The spans of one open trace and the parents it still lacks.
///
/// Invariant: no fingerprint stands in it twice, neither among spans or parents nor across.
#[derive(Clone, Debug, Default)]
pub struct Structure(Shape);

#[derive(Clone, Debug)]
enum Shape {
    InPlace {
        span_count: u8,
        parent_count: u8,
        slots: [u32; IN_PLACE],
    },
    /// Spans first. The slots beyond `span_count` are parents.
    Heap { span_count: u16, slots: Vec<u32> },
    GivenUp {
        /// Spans known different when it was given up, and all that came since.
        distinct: u32,
    },
}

impl Default for Shape {
    fn default() -> Shape {
        Shape::InPlace {
            span_count: 0,
            parent_count: 0,
            slots: [0; IN_PLACE],
        }
    }
}

impl Structure {
    /// For a trace whose completion does not look at parents: takes no memory, only counts.
    pub fn given_up() -> Structure {
        Structure(Shape::GivenUp { distinct: 0 })
    }

    /// Takes in an item: its spans, and the parents of its spans that are not among them. Repeated
    /// fingerprints and items change nothing.
    pub fn absorb(&mut self, span_fps: &[u32], parent_fps: &[u32]) {
        if self.begin_with(span_fps, parent_fps) {
            return;
        }
        for (place, span) in span_fps.iter().enumerate() {
            if !self.insert_span(*span) {
                let rest = span_fps.len() - place - 1;
                return self.count_only(rest);
            }
        }
        for parent in parent_fps {
            if !self.insert_parent(*parent) {
                return;
            }
        }
    }

    /// Spans, missing parents, and how many spans there are if it was given up.
    pub fn parts(&self) -> (&[u32], &[u32], Option<u32>) {
        match &self.0 {
            Shape::InPlace {
                span_count,
                parent_count,
                slots,
            } => {
                let (spans, rest) = slots.split_at(usize::from(*span_count));
                (spans, &rest[..usize::from(*parent_count)], None)
            }
            Shape::Heap { span_count, slots } => {
                let (spans, parents) = slots.split_at(usize::from(*span_count));
                (spans, parents, None)
            }
            Shape::GivenUp { distinct } => (&[], &[], Some(*distinct)),
        }
    }

    /// From what [`Structure::parts`] gave.
    pub fn of(spans: &[u32], parents: &[u32], given_up: Option<u32>) -> Structure {
        if let Some(distinct) = given_up {
            return Structure(Shape::GivenUp { distinct });
        }
        let mut structure = Structure::default();
        structure.absorb(spans, parents);
        structure
    }

    /// From spans and, behind `span_count` of them, missing parents, of which none stands there twice.
    #[inline]
    pub fn of_distinct(fingerprints: &[u32], span_count: usize) -> Structure {
        debug_assert!(span_count <= SPAN_COUNT_MAX && fingerprints.len() - span_count <= SPAN_COUNT_MAX);
        let count = fingerprints.len();
        if count <= IN_PLACE {
            return Structure(Shape::InPlace {
                span_count: span_count as u8,
                parent_count: (count - span_count) as u8,
                slots: std::array::from_fn(|slot| fingerprints.get(slot).copied().unwrap_or(0)),
            });
        }
        let mut slots = Vec::with_capacity(count + growth(count));
        slots.extend_from_slice(fingerprints);
        Structure(Shape::Heap {
            span_count: span_count as u16,
            slots,
        })
    }

    /// Takes in what another log knows of the same trace.
    pub fn merge(&mut self, other: &Structure) {
        match &other.0 {
            Shape::InPlace {
                span_count,
                parent_count,
                slots,
            } => {
                let (spans, parents) = slots.split_at(usize::from(*span_count));
                self.absorb(spans, &parents[..usize::from(*parent_count)]);
            }
            Shape::Heap { span_count, slots } => {
                let (spans, parents) = slots.split_at(usize::from(*span_count));
                self.absorb(spans, parents);
            }
            Shape::GivenUp { distinct } => {
                let known = self.distinct();
                self.0 = Shape::GivenUp {
                    distinct: known.saturating_add(*distinct),
                };
            }
        }
    }

    /// Takes in the first item of a trace, if it fits in place: it meets nothing but itself.
    fn begin_with(&mut self, span_fps: &[u32], parent_fps: &[u32]) -> bool {
        let Shape::InPlace {
            span_count: span_count @ 0,
            parent_count: parent_count @ 0,
            slots,
        } = &mut self.0
        else {
            return false;
        };
        if span_fps.len() + parent_fps.len() > IN_PLACE {
            return false;
        }
        let mut count = 0;
        let mut push = |fingerprint: u32| {
            if !slots[..count].contains(&fingerprint) {
                slots[count] = fingerprint;
                count += 1;
            }
            count as u8
        };
        *span_count = span_fps.iter().map(|span| push(*span)).last().unwrap_or(0);
        let last = parent_fps.iter().map(|parent| push(*parent)).last();
        *parent_count = last.map_or(0, |count| count - *span_count);
        true
    }

    /// Parents that are not here; `None`: given up.
    pub fn unresolved(&self) -> Option<u32> {
        match &self.0 {
            Shape::InPlace { parent_count, .. } => Some(u32::from(*parent_count)),
            Shape::Heap { span_count, slots } => Some((slots.len() - usize::from(*span_count)) as u32),
            Shape::GivenUp { .. } => None,
        }
    }

    /// Different spans; once given up, those known different until then and everything since.
    pub fn distinct(&self) -> u32 {
        match &self.0 {
            Shape::InPlace { span_count, .. } => u32::from(*span_count),
            Shape::Heap { span_count, .. } => u32::from(*span_count),
            Shape::GivenUp { distinct } => *distinct,
        }
    }

    /// Bytes held outside the value itself, for the trace state account.
    pub fn heap_bytes(&self) -> usize {
        match &self.0 {
            Shape::Heap { slots, .. } => slots.capacity() * size_of::<u32>(),
            Shape::InPlace { .. } | Shape::GivenUp { .. } => 0,
        }
    }

    /// `false` if it gave up, with `span` counted.
    fn insert_span(&mut self, span: u32) -> bool {
        let Some((spans, parents)) = self.lists() else {
            self.count_only(1);
            return false;
        };
        if spans.contains(&span) {
            return true;
        }
        if let Some(place) = parents.iter().position(|parent| *parent == span) {
            // The parent has come: it moves over the border between the lists.
            let border = spans.len();
            self.slots_mut().swap(border, border + place);
            self.move_border();
        } else if spans.len() == SPAN_COUNT_MAX {
            self.0 = Shape::GivenUp {
                distinct: SPAN_COUNT_MAX as u32 + 1,
            };
            return false;
        } else {
            let (border, end) = (spans.len(), spans.len() + parents.len());
            self.push(span);
            self.slots_mut().swap(border, end);
            self.move_border();
        }
        true
    }

    /// `false` if it gave up.
    fn insert_parent(&mut self, parent: u32) -> bool {
        let Some((spans, parents)) = self.lists() else {
            return false;
        };
        if spans.contains(&parent) || parents.contains(&parent) {
            return true;
        }
        if parents.len() == SPAN_COUNT_MAX {
            self.0 = Shape::GivenUp {
                distinct: self.distinct(),
            };
            return false;
        }
        self.push(parent);
        true
    }

    fn count_only(&mut self, spans: usize) {
        if let Shape::GivenUp { distinct } = &mut self.0 {
            *distinct = distinct.saturating_add(u32::try_from(spans).unwrap_or(u32::MAX));
        }
    }

    /// Spans and parents; `None`: given up.
    fn lists(&self) -> Option<(&[u32], &[u32])> {
        match &self.0 {
            Shape::InPlace {
                span_count,
                parent_count,
                slots,
            } => {
                let (spans, rest) = slots.split_at(usize::from(*span_count));
                Some((spans, &rest[..usize::from(*parent_count)]))
            }
            Shape::Heap { span_count, slots } => Some(slots.split_at(usize::from(*span_count))),
            Shape::GivenUp { .. } => None,
        }
    }

    fn slots_mut(&mut self) -> &mut [u32] {
        match &mut self.0 {
            Shape::InPlace { slots, .. } => slots,
            Shape::Heap { slots, .. } => slots,
            Shape::GivenUp { .. } => &mut [],
        }
    }

    /// The first parent becomes a span.
    fn move_border(&mut self) {
        match &mut self.0 {
            Shape::InPlace {
                span_count,
                parent_count,
                ..
            } => {
                *span_count += 1;
                *parent_count -= 1;
            }
            Shape::Heap { span_count, .. } => *span_count += 1,
            Shape::GivenUp { .. } => {}
        }
    }

    /// Appends a parent.
    fn push(&mut self, parent: u32) {
        match &mut self.0 {
            Shape::InPlace {
                span_count,
                parent_count,
                slots,
            } => {
                let used = usize::from(*span_count + *parent_count);
                if let Some(slot) = slots.get_mut(used) {
                    *slot = parent;
                    *parent_count += 1;
                } else {
                    let span_count = u16::from(*span_count);
                    let mut moved = Vec::with_capacity(IN_PLACE + growth(IN_PLACE));
                    moved.extend_from_slice(slots);
                    moved.push(parent);
                    self.0 = Shape::Heap {
                        span_count,
                        slots: moved,
                    };
                }
            }
            Shape::Heap { slots, .. } => {
                if slots.len() == slots.capacity() {
                    slots.reserve_exact(growth(slots.len()));
                }
                slots.push(parent);
            }
            Shape::GivenUp { .. } => {}
        }
    }
}

/// An eighth more: what doubling would cost in memory matters more here than the copies it saves.
fn growth(len: usize) -> usize {
    (len / 8).max(4)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn structure_takes_40_bytes_and_none_elsewhere_up_to_9_fingerprints() {
        let mut structure = Structure::default();
        structure.absorb(&[1, 2, 3, 4, 5, 6, 7, 8], &[9]);
        assert_eq!((size_of::<Structure>(), structure.heap_bytes()), (40, 0));
        structure.absorb(&[9, 10], &[]);
        assert!(structure.heap_bytes() > 0);
    }

    #[test]
    fn heap_is_at_most_an_eighth_larger_than_its_fingerprints() {
        let mut structure = Structure::default();
        for span in 0..SPAN_COUNT_MAX as u32 {
            structure.absorb(&[span], &[]);
            let needed = (span as usize + 1) * 4;
            assert!(structure.heap_bytes() <= needed + needed / 8 + 16, "at {span}");
        }
    }

    #[test]
    fn above_4096_spans_it_gives_up_and_frees_its_memory() {
        let mut structure = Structure::default();
        let spans: Vec<u32> = (0..SPAN_COUNT_MAX as u32).collect();
        structure.absorb(&spans, &[u32::MAX]);
        assert_eq!((structure.unresolved(), structure.distinct()), (Some(1), 4096));
        structure.absorb(&[4096, 4097], &[]);
        assert_eq!(
            (
                structure.unresolved(),
                structure.distinct(),
                structure.heap_bytes()
            ),
            (None, 4098, 0)
        );
        structure.absorb(&[4098], &[7]);
        assert_eq!((structure.unresolved(), structure.distinct()), (None, 4099));
    }

    #[test]
    fn above_4096_unresolved_parents_it_gives_up() {
        let mut structure = Structure::default();
        let parents: Vec<u32> = (0..=SPAN_COUNT_MAX as u32).collect();
        structure.absorb(&[u32::MAX], &parents);
        assert_eq!(
            (
                structure.unresolved(),
                structure.distinct(),
                structure.heap_bytes()
            ),
            (None, 1, 0)
        );
    }

    proptest! {
        #[test]
        fn structure_is_what_two_sets_say(
            items in prop::collection::vec(
                (prop::collection::vec(0u32..40, 0..6), prop::collection::vec(0u32..40, 0..4)),
                0..24,
            ),
        ) {
            let mut structure = Structure::default();
            let (mut spans, mut parents) = (BTreeSet::new(), BTreeSet::new());
            for (span_fps, parent_fps) in items {
                structure.absorb(&span_fps, &parent_fps);
                spans.extend(span_fps);
                parents.extend(parent_fps);
                prop_assert_eq!(structure.distinct() as usize, spans.len());
                prop_assert_eq!(structure.unresolved(), Some(parents.difference(&spans).count() as u32));
            }
        }
    }
}
