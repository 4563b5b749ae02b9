//! Stand-in for `tailkeep run`, replaced at integration.

use super::{Failure, LogFlags};
use crate::config::Loaded;

pub fn run(_loaded: Loaded, _log: &LogFlags) -> Result<(), Failure> {
    Err(Failure::Environment("run: not built into this binary".to_owned()))
}
