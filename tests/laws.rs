//! The laws that the design rests on, for random traces under random policies.

#[path = "laws/digest.rs"]
mod digest;
#[path = "laws/early.rs"]
mod early;
#[path = "oracle/feed.rs"]
mod feed;
#[path = "oracle/generate.rs"]
mod generate;
#[path = "laws/monoid.rs"]
mod monoid;
#[allow(dead_code, reason = "the laws use its spans and none of its judgement")]
#[path = "oracle/sampler.rs"]
mod sampler;
