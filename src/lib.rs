//! tailkeep: a tail sampler for OpenTelemetry on bare Linux hosts.
//!
//! The log is the only state. Everything else is a fold of it, and folds merge.
//!
//! [`manual::architecture`] has the picture. The way of a span:
//!
//! | step | where |
//! |---|---|
//! | a request comes in | [`io::ingress`] |
//! | is cut, folded, and written to the log | [`landing`], [`otlp::cut`], [`policy`], [`wal`] |
//! | its traces' digests merge at their owner | [`route`], [`table`] |
//! | a trace is closed and judged | [`completion`], [`policy`] |
//! | the verdict is logged; kept spans are copied | [`landing`], [`verdict`] |
//! | and exported | [`export`], [`io::egress`] |
//!
//! The modules below stand in layer order, lowest first; a module imports only from those above it
//! (`tests/layers.rs` holds every `use` line to this list).

// The documents are for those who change tailkeep, and are built with private items.
#![allow(rustdoc::private_intra_doc_links)]

#[cfg(not(target_os = "linux"))]
compile_error!("tailkeep runs on Linux 5.19 or newer only, because its log and sockets need io_uring");

pub mod base; // ids, time, the algebra of folds, pools
pub mod proto; // messages between nodes, generated
pub mod verdict; // what was decided, and why the trace was closed
pub mod digest; // what a trace has shown so far
pub mod route; // which core owns a trace, and what travels there
pub mod otlp; // borrowed views over OTLP bytes: cut, join, JSON, gRPC framing
pub mod wal; // the log: entries, groups, segments, replay
pub mod policy; // rules over digests, in three-valued logic
pub mod completion; // when a trace is closed
pub mod gossip; // what nodes tell each other
pub mod stats; // plain counters of a core
pub mod export; // what leaves: the kept log's readers
pub mod table; // the traces a core owns
pub mod landing; // from a request to log entries and items
pub mod shard; // one core, whole
pub mod config; // YAML to each module's plain options
pub mod io; // the only glommio, the only clock
pub mod commands; // what `main` runs

pub mod manual; // documents: architecture, invariants, formats, decisions, glossary
