//! Messages between nodes, generated from `proto/`. What they mean: [`crate::manual::gossip_format`].

#![allow(clippy::all, clippy::pedantic)]

include!(concat!(env!("OUT_DIR"), "/tailkeep.gossip.rs"));
