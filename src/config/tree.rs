//! A YAML document as a tree that remembers where every key and value was written.
//!
//! ```text
//! wal:                 Map [ Entry "wal"  key 1:1
//!   retain: 15m                └─ Map [ Entry "retain"  key 2:3
//!                                         └─ Scalar "15m" plain  2:11 ] ]
//! ```
//!
//! Scalars keep their text and whether they were plain, because what a plain `5m` or `200` is depends
//! on the key it belongs to, and because `${…}` is filled in before a type is looked for. `tree/parse.rs`
//! builds the tree, `tree/fill.rs` fills in `${…}`, `tree/merge.rs` lays several trees over each other.

pub mod fill;
pub mod merge;
pub mod parse;

use super::diagnostic::Origin;

/// Nested lists and maps at most, aliases expanded. Recursion over a tree relies on it.
pub const DEPTH_MAX: usize = 64;
/// Keys of one map at most: looking one up is a walk along the map.
pub const ENTRY_COUNT_MAX: usize = 512;
/// Nodes of one document at most, aliases expanded.
pub const NODE_COUNT_MAX: usize = 200_000;
/// Bytes of one document at most.
pub const DOCUMENT_BYTES_MAX: usize = 1 << 20;

/// A value and where it was written.
///
/// Invariant: at most [`DEPTH_MAX`] levels (of a flag, as many more as its key has parts); the keys of
/// a map are distinct.
#[derive(Clone, Debug)]
pub struct Node {
    pub origin: Origin,
    pub kind: NodeKind,
}

#[derive(Clone, Debug)]
pub enum NodeKind {
    Scalar(Scalar),
    List(Vec<Node>),
    Map(Vec<Entry>),
    /// Something that a message was already given for; readers pass over it in silence.
    Broken,
}

#[derive(Clone, Debug)]
pub struct Entry {
    pub key: String,
    pub key_origin: Origin,
    pub value: Node,
}

/// Text with as much of its notation as its meaning depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scalar {
    pub text: String,
    /// Written without quotes and not as a block: may be a number, a boolean or null.
    pub plain: bool,
    /// Came from `${…}` or a flag: a key that wants a string takes the text as it is, any other key
    /// resolves it as if it were plain.
    pub untyped: bool,
}

impl Scalar {
    /// Whether this is YAML's null (core schema).
    pub fn is_null(&self) -> bool {
        self.plain && !self.untyped && matches!(self.text.as_str(), "" | "~" | "null" | "Null" | "NULL")
    }
}

impl Node {
    pub fn empty_map(origin: Origin) -> Node {
        Node {
            origin,
            kind: NodeKind::Map(Vec::new()),
        }
    }

    pub fn is_null(&self) -> bool {
        matches!(&self.kind, NodeKind::Scalar(scalar) if scalar.is_null())
    }

    /// The map's entries; a null is an empty map, as in the Collector.
    pub fn entries(&self) -> Option<&[Entry]> {
        match &self.kind {
            NodeKind::Map(entries) => Some(entries),
            NodeKind::Scalar(scalar) if scalar.is_null() => Some(&[]),
            NodeKind::Scalar(_) | NodeKind::List(_) | NodeKind::Broken => None,
        }
    }

    pub fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries()?.iter().find(|entry| entry.key == key)
    }

    /// Where the value at `path` (such as `tail_sampling.policies[1].name`) was written, or the
    /// nearest thing around it that was.
    pub fn locate(&self, path: &str) -> &Origin {
        &self.walk(path).0.origin
    }

    /// Whether there is a value at `path`.
    pub fn has(&self, path: &str) -> bool {
        self.walk(path).1
    }

    /// The node at `path` and `true`, or the last one before the path leaves the tree.
    fn walk(&self, path: &str) -> (&Node, bool) {
        let mut node = self;
        for step in path.split(['.', '[']).filter(|step| !step.is_empty()) {
            let next = match &node.kind {
                NodeKind::List(items) => step
                    .strip_suffix(']')
                    .and_then(|index| items.get(index.parse::<usize>().ok()?)),
                NodeKind::Map(_) => node.entry(step).map(|entry| &entry.value),
                NodeKind::Scalar(_) | NodeKind::Broken => None,
            };
            match next {
                Some(next) => node = next,
                None => return (node, false),
            }
        }
        (node, true)
    }
}

/// `path.key`, or `key` at the root.
pub fn join_path(path: &str, key: &str) -> String {
    match path {
        "" => key.to_owned(),
        _ => format!("{path}.{key}"),
    }
}
