//! The traces of one log during its replay: nothing is judged here, verdicts only take away what they settle.
//!
//! A trace's spans may stand in several logs, and each of them has the verdicts about its own. So a log folds by
//! itself, and what is left of it are fragments: traces without a verdict after their last span in that log. Their
//! owners learn first what any log decided, then adopt the fragments.

use super::trace::Trace;
use crate::base::ids::{Place, TraceId};
use crate::base::time::Now;
use crate::route::ItemBatch;
use hashbrown::HashMap;

/// The fold of one log.
#[derive(Debug)]
pub struct Fragments {
    /// Whether completion looks at parents.
    structural: bool,
    traces: HashMap<TraceId, Trace>,
}

impl Fragments {
    pub fn new(structural: bool) -> Fragments {
        Fragments {
            structural,
            traces: HashMap::new(),
        }
    }

    pub fn absorb(&mut self, now: Now, batch: &ItemBatch) {
        for item in &batch.items {
            let open = || Trace::new(item.trace, now, self.structural);
            let trace = self.traces.entry(item.trace).or_insert_with(open);
            let (places, spans, parents) = batch.lists(item);
            trace.absorb(now, item.digest, places, spans, parents);
        }
    }

    /// A verdict entry settles all that stands before it in its log of that trace.
    pub fn settle(&mut self, trace: &TraceId) -> Option<Trace> {
        self.traces.remove(trace)
    }

    /// Spans of a trace were copied forward; `false`: they are not known from where they were.
    pub fn move_place(&mut self, trace: &TraceId, old: Place, new: Place) -> bool {
        let trace = self.traces.get_mut(trace);
        trace.is_some_and(|trace| trace.move_place(old, new))
    }

    /// In the order of the log, so that the same log is always resumed in the same way.
    pub fn into_traces(self) -> impl Iterator<Item = Trace> {
        let mut traces: Vec<Trace> = self.traces.into_values().collect();
        traces.sort_unstable_by_key(|trace| trace.places().next());
        traces.into_iter()
    }
}
