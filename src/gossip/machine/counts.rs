//! What happened, in numbers that only grow.

use crate::gossip::datagram::Rejected;

/// What became of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Outcome {
    Accepted,
    Oversized,
    Garbage,
    UnknownKey,
    Forged,
    Replayed,
    /// Of an earlier life of its sender, or for one of ours.
    Stale,
}

impl Outcome {
    pub const ALL: [Outcome; 7] = [
        Outcome::Accepted,
        Outcome::Oversized,
        Outcome::Garbage,
        Outcome::UnknownKey,
        Outcome::Forged,
        Outcome::Replayed,
        Outcome::Stale,
    ];

    /// The word in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Accepted => "accepted",
            Outcome::Oversized => "oversized",
            Outcome::Garbage => "garbage",
            Outcome::UnknownKey => "unknown_key",
            Outcome::Forged => "forged",
            Outcome::Replayed => "replayed",
            Outcome::Stale => "stale",
        }
    }
}

impl From<Rejected> for Outcome {
    fn from(rejected: Rejected) -> Outcome {
        match rejected {
            Rejected::Oversized => Outcome::Oversized,
            Rejected::Garbage => Outcome::Garbage,
            Rejected::UnknownKey => Outcome::UnknownKey,
            Rejected::Forged => Outcome::Forged,
            Rejected::Replayed => Outcome::Replayed,
            Rejected::Stale => Outcome::Stale,
        }
    }
}

/// Counts since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// By [`Outcome`].
    pub datagrams_in: [u64; 7],
    pub datagrams_out: u64,
    /// Not sent, because too many waited: what was in them is repaired.
    pub datagrams_dropped: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub decisions_in: u64,
    pub decisions_out: u64,
    pub digests_in: u64,
    pub digests_out: u64,
    /// Batches that came after they had been asked for.
    pub gaps_repaired: u64,
    /// Batches of decisions that nobody has any more.
    pub gaps_unrepairable: u64,
    /// Batches of digests and answers that their sender had let go of, because this node was gone or stuck: what they
    /// said is sent anew.
    pub gaps_renewed: u64,
    /// Digests and answers that were not taken, because their receiver was stuck or gone.
    pub directed_dropped: u64,
    /// Batches sent again on request.
    pub resent: u64,
    /// Requests over TCP, and those of them that failed.
    pub syncs: u64,
    pub syncs_failed: u64,
    /// Batches of members that could not be read.
    pub unreadable: u64,
    /// Datagrams of a node that has this node's id and started later.
    pub twins: u64,
}
