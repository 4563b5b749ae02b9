//! Stand-in for `tailkeep cat`, replaced at integration.

use super::{CatArguments, Failure};

pub fn cat(_arguments: &CatArguments) -> Result<(), Failure> {
    Err(Failure::Environment("cat: not built into this binary".to_owned()))
}
