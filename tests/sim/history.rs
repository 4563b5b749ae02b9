//! All that happened, in order: two runs of a seed must agree in every event. `TAILKEEP_TEST_HISTORY` names a file
//! that a failing run writes its events to.

use std::fmt::Debug;
use std::hash::{DefaultHasher, Hash, Hasher};

#[derive(Default)]
pub struct History {
    events: Vec<String>,
}

impl Drop for History {
    fn drop(&mut self) {
        if let Some(path) = std::env::var_os("TAILKEEP_TEST_HISTORY").filter(|_| std::thread::panicking()) {
            std::fs::write(path, self.events.join("\n")).expect("written");
        }
    }
}

impl History {
    pub fn note(&mut self, event: &impl Debug) {
        self.events.push(format!("{event:?}"));
    }

    /// One number for all of it.
    pub fn hash(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.events.hash(&mut hasher);
        hasher.finish()
    }

    pub fn len(&self) -> usize {
        self.events.len()
    }

    pub fn assert_same(&self, other: &History) {
        if self.hash() == other.hash() {
            return;
        }
        for (number, (one, other)) in self.events.iter().zip(&other.events).enumerate() {
            assert_eq!(one, other, "event {number}: two runs of a seed part here");
        }
        assert_eq!(self.len(), other.len(), "one run of a seed goes on longer");
    }
}
