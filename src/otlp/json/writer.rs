//! Writes protobuf front to back although a message's length stands before its bytes.
//!
//! A nested message begins with one byte of room for its length. That is enough for most (key-values,
//! values, events). A message of 128 bytes and more leaves a mark instead, and when everything is written
//! the marked lengths are put in, going from the back so that every byte moves at most once:
//!
//! ```text
//!  written   tag ▢ ······· tag ▢ ······· tag ▢ ·······        ▢: one byte of room
//!                          ╰─ marked     ╰─ marked
//!  settled   tag ▢ ······· tag ▣▣ ······· tag ▣▣▣ ·······     ← moved, from the back
//! ```
//!
//! Lengths are in their shortest form, so the bytes are those that a protobuf library would write. A
//! message that is closed small has no marked message inside, so its mark is the newest and is taken back:
//! marks stay in the order of their places, and there are few of them.

use crate::otlp::wire::{WireType, put_bytes_field, put_key, put_varint, varint_len};

/// Appends fields to a buffer.
///
/// Invariant: `room_missing` is the sum, over marks of closed messages, of the bytes that their lengths
/// need beyond the one that was left.
pub struct Writer<'a> {
    out: &'a mut Vec<u8>,
    /// Bytes that were there before us.
    begin: usize,
    marks: Vec<Mark>,
    room_missing: usize,
}

/// A message that is open, or closed with a length of two bytes and more.
struct Mark {
    /// Where its first byte lies, just after the byte of room.
    begin: usize,
    length: usize,
}

/// A message begun by [`Writer::open`], to be given back to [`Writer::close`].
#[derive(Clone, Copy)]
pub struct Open {
    mark: usize,
    room_missing_before: usize,
}

impl<'a> Writer<'a> {
    pub fn new(out: &'a mut Vec<u8>) -> Writer<'a> {
        Writer {
            begin: out.len(),
            out,
            marks: Vec::new(),
            room_missing: 0,
        }
    }

    /// Begins a length-delimited field: a message, or a packed list.
    #[inline]
    pub fn open(&mut self, number: u8) -> Open {
        put_key(self.out, u32::from(number), WireType::Bytes);
        self.out.push(0);
        self.marks.push(Mark {
            begin: self.out.len(),
            length: 0,
        });
        Open {
            mark: self.marks.len() - 1,
            room_missing_before: self.room_missing,
        }
    }

    /// Ends the newest field that is open.
    #[inline]
    pub fn close(&mut self, open: Open) {
        let mark = &mut self.marks[open.mark];
        let length = self.out.len() - mark.begin + (self.room_missing - open.room_missing_before);
        if length < 0x80 {
            self.out[mark.begin - 1] = length as u8;
            self.marks.truncate(open.mark);
        } else {
            mark.length = length;
            self.room_missing += varint_len(length as u64) - 1;
        }
    }

    /// Puts the marked lengths in. Everything that was opened has been closed.
    pub fn settle(self) {
        let Writer {
            out,
            marks,
            room_missing,
            ..
        } = self;
        let mut end = out.len();
        let mut shift = room_missing;
        out.resize(end + shift, 0);
        for mark in marks.iter().rev() {
            out.copy_within(mark.begin..end, mark.begin + shift);
            end = mark.begin - 1;
            shift -= varint_len(mark.length as u64) - 1;
            overwrite_varint(&mut out[end + shift..], mark.length as u64);
        }
        debug_assert_eq!(shift, 0, "every byte of room missing belongs to a mark");
    }

    /// Removes what was written.
    pub fn take_back(self) {
        self.out.truncate(self.begin);
    }

    #[inline]
    pub fn bytes(&mut self, number: u8, bytes: &[u8]) {
        put_bytes_field(self.out, u32::from(number), bytes);
    }

    /// A scalar with its tag; `raw` holds its bits.
    #[inline]
    pub fn scalar(&mut self, number: u8, wire_type: WireType, raw: u64) {
        put_key(self.out, u32::from(number), wire_type);
        self.element(wire_type, raw);
    }

    /// A scalar of a packed list.
    #[inline]
    pub fn element(&mut self, wire_type: WireType, raw: u64) {
        match wire_type {
            WireType::Varint => put_varint(self.out, raw),
            WireType::Fixed64 => self.out.extend_from_slice(&raw.to_le_bytes()),
            WireType::Fixed32 => self.out.extend_from_slice(&(raw as u32).to_le_bytes()),
            WireType::Bytes => unreachable!("no scalar is length-delimited"),
        }
    }
}

/// Overwrites the front of `target`.
fn overwrite_varint(target: &mut [u8], mut value: u64) {
    for byte in target {
        *byte = value as u8 | 0x80;
        value >>= 7;
        if value == 0 {
            *byte &= 0x7f;
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A message as a tree: leaves are strings, all under field 1.
    #[derive(Debug, Clone)]
    enum Node {
        Leaf(usize),
        Inner(Vec<Node>),
    }

    fn write(node: &Node, writer: &mut Writer) {
        match node {
            Node::Leaf(length) => writer.bytes(1, &vec![b'x'; *length]),
            Node::Inner(children) => {
                let open = writer.open(1);
                children.iter().for_each(|child| write(child, writer));
                writer.close(open);
            }
        }
    }

    /// The same by the plain way: children first, then their length.
    fn expected(node: &Node) -> Vec<u8> {
        let body = match node {
            Node::Leaf(length) => vec![b'x'; *length],
            Node::Inner(children) => children.iter().flat_map(expected).collect(),
        };
        let mut out = vec![0x0a];
        put_varint(&mut out, body.len() as u64);
        out.extend(body);
        out
    }

    fn node() -> impl Strategy<Value = Node> {
        let length = prop_oneof![0usize..20, 120usize..136, 16_375usize..16_390];
        length.prop_map(Node::Leaf).prop_recursive(6, 40, 5, |inner| {
            proptest::collection::vec(inner, 0..5).prop_map(Node::Inner)
        })
    }

    proptest! {
        #[test]
        fn lengths_are_those_of_writing_children_first(nodes in proptest::collection::vec(node(), 0..4)) {
            let mut out = b"before".to_vec();
            let mut writer = Writer::new(&mut out);
            nodes.iter().for_each(|node| write(node, &mut writer));
            writer.settle();
            let mut bytes = b"before".to_vec();
            bytes.extend(nodes.iter().flat_map(expected));
            prop_assert_eq!(out, bytes);
        }
    }

    #[test]
    fn small_messages_leave_no_marks() {
        let mut out = Vec::new();
        let mut writer = Writer::new(&mut out);
        let outer = writer.open(1);
        for _ in 0..1000 {
            let inner = writer.open(2);
            writer.bytes(1, b"small");
            writer.close(inner);
        }
        writer.close(outer);
        assert_eq!(writer.marks.len(), 1);
    }
}
