//! What nodes tell each other: who is there, what was decided, and what a trace has shown elsewhere.
//!
//! ```text
//!            node A                                        node B, the trace's home
//!  shards ──Outbound──→ gossip ══ numbered streams ══→ gossip ──Inbound──→ shard of the owner
//!         ←──Inbound──         ══  over one UDP    ══        ←─Outbound──      │ judges the
//!                                  socket, TCP for                             │ merged digests
//!                                  long gaps                                   └─ answers A
//! ```
//!
//! Spans stay where they land; digests travel. A Keep is announced to every live peer; a fragment that cannot be
//! decided alone goes as a digest to the trace's home node, which answers every sender.
//!
//! The words of this module, which shards and the wire share, are here; its parts are sans-IO.

pub mod datagram; // sealed, opened, each once
pub mod home; // one trace as its home node sees it: digests of all fragments
pub mod machine; // one node of a cluster, whole
pub mod member; // who is there
pub mod stream; // numbered, repaired, kept

pub use machine::{Gossip, Options};

use crate::base::ids::TraceId;
use crate::digest::{Digest, PredicateSet};
use crate::policy::quota::Leasing;
use crate::route::{self, Decision, HashKey};

/// One life of one node: address-independent, drawn at its first start and kept in its data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u64);

/// The nodes among which the home of a trace is chosen, this one included. Sorted, without duplicates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Members {
    pub own: NodeId,
    pub live: Vec<NodeId>,
    /// Shared by the cluster, so that all choose alike.
    pub home_key: HashKey,
}

impl Members {
    /// The node that judges the trace for all, as long as these are the live ones.
    pub fn home(&self, trace: &TraceId) -> NodeId {
        let live = self.live.iter().map(|node| node.0);
        NodeId(route::home(self.home_key, live, trace).unwrap_or(self.own.0))
    }

    /// There is somebody else.
    pub fn has_peers(&self) -> bool {
        self.live.iter().any(|node| *node != self.own)
    }
}

/// Where the spans of one trace arrive: `cluster.spans_arrive`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum SpansArrive {
    /// At any node: digests go to the trace's home, which judges.
    #[default]
    Anywhere,
    /// At one node, by a balancer that looks at the trace id: each node is home to all it holds.
    ByTraceId,
}

/// What one node's fragment of a trace has shown so far. A newer one of the same node replaces the older (D3).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NodeDigest {
    pub trace: TraceId,
    /// In the predicate numbers of the reader.
    pub digest: Digest,
    /// Predicates of the reader of which the sender knows nothing: they may hold or not.
    pub unknown: PredicateSet,
    /// Rises with each version of this fragment's digest, over restarts too; compared as a serial number, which may
    /// wrap ([`is_newer`]).
    pub version: u32,
}

/// A decision that a node has made for the cluster, durable in its log.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PeerDecision {
    pub trace: TraceId,
    /// The policy by its number among the reader's names.
    pub decision: Decision,
    /// By the trace's home: its policy, reason and threshold go onto the data. Otherwise by a node that saw a Keep
    /// which nothing can change, and could not know what else there is.
    pub by_home: bool,
}

/// Whether version `one` of a digest replaces version `other`.
pub fn is_newer(one: u32, other: u32) -> bool {
    (one.wrapping_sub(other) as i32) > 0
}

/// From a shard to the cluster.
#[derive(Clone, Debug, PartialEq)]
pub enum Outbound {
    /// A durable Keep, for every live peer.
    Announce(PeerDecision),
    /// For the trace's home.
    Digest(NodeId, NodeDigest),
    /// From the home to a node that sent a digest, of this version.
    Answer(NodeId, u32, PeerDecision),
    /// Between a judge of quotas and a ledger.
    Leasing(NodeId, Leasing),
}

/// From the cluster to a shard: the owner of the trace, or, of members and names, every shard.
#[derive(Clone, Debug, PartialEq)]
pub enum Inbound {
    /// Decided and announced elsewhere.
    Announced(PeerDecision),
    Digest(NodeId, NodeDigest),
    /// Of this node's own digest of this version.
    Answer(u32, PeerDecision),
    /// For the core that keeps the ledger, or the judge that asked.
    Leasing(Leasing),
    Members(Members),
    /// What was sent to this node and not answered is lost to it: it lives anew, was cut off, or fell too far behind.
    /// Digests for which it is home are to be sent again.
    Renewed(NodeId),
    /// Policy names that decisions of peers may name from now on, after those known already.
    PolicyNames(Vec<String>),
}
