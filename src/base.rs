//! Small parts that every layer above shares: identifiers, time, and the algebra of folds.
//!
//! Nothing here names OTLP, a disk or a clock; only `std` is imported.

pub mod block;
pub mod codec;
pub mod ids;
pub mod monoid;
pub mod prefetch;
pub mod slab;
pub mod time;
pub mod wheel;
