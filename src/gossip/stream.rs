//! Numbered streams: everything that is put in arrives, once, or is counted as gone.
//!
//! ```text
//!  origin                                             receiver
//!  ──────                                             ────────
//!  content ─→ Outgoing: numbered 1, 2, 3 …  ══ 3 ══→  Incoming: 1 2 _ _ 5
//!               kept until all have it      ←─ Missing 3–4 ─         └─ gap: asked for again, of the origin,
//!                                           ══ 3, 4 ══→                 then of others, then over TCP
//! ```
//!
//! One machinery serves two kinds of streams. The *broadcast* stream of a node's life carries its decisions to every
//! live peer; whoever has a batch gives it to whoever lacks it, and a receiver uses it in whatever order it comes. A
//! *directed* stream goes from one life of a node to one life of another, with digests and answers; it is used in
//! order and repaired by its origin alone.
//!
//! What is numbered is a batch, one datagram, not a decision: numbers, gaps and repairs cost as little as datagrams do.

pub mod content; // what is in a batch
pub mod incoming; // what has come of one stream, and what is missing
pub mod outgoing; // what this node has put into one stream

pub use incoming::{Incoming, Received, Repairs};
pub use outgoing::Outgoing;

use super::NodeId;
use std::time::Duration;

/// Whose stream: one life of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId {
    pub origin: NodeId,
    pub incarnation: u64,
}

/// Both ends belong to it.
pub type Range = (u64, u64);

/// Content of a batch at most: a datagram less seal, header and numbers.
pub const BATCH_BYTES_MAX: usize = 1080;
/// Batches that may be under way to one peer before it says that it has some of them. A peer further behind is left
/// to catch up by itself, over TCP.
pub const WINDOW: u64 = 4096;
/// Before a gap is taken for a loss: datagrams overtake each other.
pub const REORDER_GRACE: Duration = Duration::from_millis(2);
/// First and longest pause between two requests for the same batches.
pub const RETRY_FIRST: Duration = Duration::from_millis(10);
pub const RETRY_LONGEST: Duration = Duration::from_millis(250);
/// Requests over UDP to the origin, and in all, before a gap is repaired over TCP.
pub const TRIES_ORIGIN: u32 = 3;
pub const TRIES_DATAGRAM: u32 = 6;
/// Longest pause between two attempts over TCP.
pub const SYNC_LONGEST: Duration = Duration::from_secs(5);
/// A longer gap is repaired over TCP at once.
pub const GAP_DATAGRAM_MAX: u64 = 64;
/// Ranges of one request.
pub const RANGE_COUNT_MAX: usize = 64;
/// Gaps of one stream; what would make more is not taken and comes again later.
pub const GAP_COUNT_MAX: usize = 1024;
