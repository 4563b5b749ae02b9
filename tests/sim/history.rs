//! All that happened, as one number after each event: two runs of a seed must agree in every one of them.

use std::fmt::Debug;
use std::hash::{DefaultHasher, Hash, Hasher};

#[derive(Default)]
pub struct History {
    hasher: DefaultHasher,
    pub hashes: Vec<u64>,
}

impl History {
    pub fn note(&mut self, event: &impl Debug) {
        format!("{event:?}").hash(&mut self.hasher);
        self.hashes.push(self.hasher.finish());
    }
}
