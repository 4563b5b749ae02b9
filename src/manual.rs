//! The manual: how tailkeep is built, for those who change it.

#[doc = include_str!("manual/architecture.md")]
pub mod architecture {}

#[doc = include_str!("manual/invariants.md")]
pub mod invariants {}

#[doc = include_str!("manual/wal_format.md")]
pub mod wal_format {}

#[doc = include_str!("manual/gossip_format.md")]
pub mod gossip_format {}

#[doc = include_str!("manual/faults.md")]
pub mod faults {}

#[doc = include_str!("manual/gossip_faults.md")]
pub mod gossip_faults {}

#[doc = include_str!("manual/decisions.md")]
pub mod decisions {}

#[doc = include_str!("manual/glossary.md")]
pub mod glossary {}
