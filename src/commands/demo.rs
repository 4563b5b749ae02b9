//! Stand-in for `tailkeep demo`, replaced at integration.

use super::{DemoArguments, Failure, LogFlags};

pub fn demo(_arguments: &DemoArguments, _log: &LogFlags) -> Result<(), Failure> {
    Err(Failure::Environment(
        "demo: not built into this binary".to_owned(),
    ))
}
