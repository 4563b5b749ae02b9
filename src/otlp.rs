//! (being written)

pub mod json;
pub mod status;
