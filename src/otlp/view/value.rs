//! Attributes and their values in place.
//!
//! Protobuf lets one message come in pieces: a value may be given twice, and an array twice within a value.
//! prost merges the pieces, so these views do: of scalars the last wins, pieces of one array or list follow each
//! other, another kind of value replaces what was there. The bytes were checked before; should they be broken
//! all the same, a view ends before the damage.

use crate::otlp::check::PlainKeyValue;
use crate::otlp::wire::{Fields, Reader, Value};

/// An attribute's value.
#[derive(Clone, Copy, Debug)]
pub enum AnyValueView<'a> {
    /// No value, or an index into a string table, which traces do not have (it counts as absent).
    Empty,
    String(&'a [u8]),
    Bool(bool),
    Int(i64),
    Double(f64),
    Bytes(&'a [u8]),
    Array(ArrayView<'a>),
    KeyValueList(KeyValueListView<'a>),
}

impl<'a> AnyValueView<'a> {
    /// The value in the body of an `AnyValue`.
    pub fn new(message: &'a [u8]) -> AnyValueView<'a> {
        let mut value = AnyValueView::Empty;
        value.merge(
            message,
            Pieces {
                bytes: message,
                first: message.len(),
            },
        );
        value
    }

    /// Takes over what `message`, one occurrence of the `AnyValue`, holds. `context` begins where `message` does.
    fn merge(&mut self, message: &'a [u8], context: Pieces<'a>) {
        let mut reader = Reader::new(message);
        while !reader.is_empty() {
            let begin = reader.at();
            let Ok(field) = reader.field() else { return };
            let pieces = Pieces {
                bytes: &context.bytes[begin..],
                first: context.first - begin,
            };
            *self = match (field.number, field.value) {
                (1, Value::Bytes(text)) => AnyValueView::String(text),
                (2, Value::Varint(number)) => AnyValueView::Bool(number != 0),
                (3, Value::Varint(number)) => AnyValueView::Int(number as i64),
                (4, Value::Fixed64(bits)) => AnyValueView::Double(f64::from_bits(bits)),
                // A further piece of what is there already: the view reaches it from its first piece.
                (5, Value::Bytes(_)) if matches!(self, AnyValueView::Array(_)) => continue,
                (6, Value::Bytes(_)) if matches!(self, AnyValueView::KeyValueList(_)) => continue,
                (5, Value::Bytes(_)) => AnyValueView::Array(ArrayView(pieces)),
                (6, Value::Bytes(_)) => AnyValueView::KeyValueList(KeyValueListView(pieces)),
                (7, Value::Bytes(bytes)) => AnyValueView::Bytes(bytes),
                (8, Value::Varint(_)) => AnyValueView::Empty,
                _ => continue,
            };
        }
    }
}

/// Where the pieces of an array or list may lie.
///
/// ```text
///  KeyValue:  … 12 len ┌ AnyValue ─────────────┐ … 12 len ┌ AnyValue ┐ …
///                      │ … ▼2a …  2a …         │          │ 2a …     │
///                      └───────────────────────┘          └──────────┘
///                          └─────── first ─────┘
///                          └──────────────────── bytes ────────────────┘
/// ```
#[derive(Clone, Copy, Debug)]
struct Pieces<'a> {
    /// From the field with the first piece to the end of the message that holds the `AnyValue`s.
    bytes: &'a [u8],
    /// How many of them lie in the same `AnyValue` as the first piece.
    first: usize,
}

impl<'a> Pieces<'a> {
    /// The bodies of all fields `number` of the value.
    fn bodies(self, number: u32) -> impl Iterator<Item = &'a [u8]> + Clone {
        let (first, rest) = self.bytes.split_at(self.first);
        let further = bodies(rest, 2).flat_map(move |value| bodies(value, number));
        bodies(first, number).chain(further)
    }
}

/// The bodies of all length-delimited fields `number` of `message`.
fn bodies(message: &[u8], number: u32) -> impl Iterator<Item = &[u8]> + Clone {
    Fields::checked(message).filter_map(move |field| match field.value {
        Value::Bytes(body) if field.number == number => Some(body),
        _ => None,
    })
}

/// An array of values.
#[derive(Clone, Copy, Debug)]
pub struct ArrayView<'a>(Pieces<'a>);

impl<'a> ArrayView<'a> {
    pub fn values(self) -> impl Iterator<Item = AnyValueView<'a>> + Clone {
        self.0
            .bodies(5)
            .flat_map(|array| bodies(array, 1))
            .map(AnyValueView::new)
    }
}

/// A list of keys with values; keys may repeat.
#[derive(Clone, Copy, Debug)]
pub struct KeyValueListView<'a>(Pieces<'a>);

impl<'a> KeyValueListView<'a> {
    pub fn entries(self) -> impl Iterator<Item = (&'a [u8], AnyValueView<'a>)> + Clone {
        self.0.bodies(6).flat_map(|list| bodies(list, 1)).map(key_value)
    }
}

/// Key and value in the body of a `KeyValue`.
#[inline]
pub fn key_value(message: &[u8]) -> (&[u8], AnyValueView<'_>) {
    match PlainKeyValue::of(message) {
        Some(plain) => (plain.key, plain_value(plain)),
        None => any_key_value(message),
    }
}

#[inline]
fn plain_value(plain: PlainKeyValue<'_>) -> AnyValueView<'_> {
    let varint = || {
        plain
            .value
            .iter()
            .rev()
            .fold(0, |value, byte| value << 7 | (byte & 0x7f) as u64)
    };
    match plain.value_key {
        0x0a => AnyValueView::String(plain.value),
        0x10 => AnyValueView::Bool(varint() != 0),
        0x18 => AnyValueView::Int(varint() as i64),
        _ => plain.value.try_into().map_or(AnyValueView::Empty, |bits| {
            AnyValueView::Double(f64::from_le_bytes(bits))
        }),
    }
}

#[inline(never)]
fn any_key_value(message: &[u8]) -> (&[u8], AnyValueView<'_>) {
    let (mut key, mut value) = (&[][..], AnyValueView::Empty);
    let mut reader = Reader::new(message);
    while !reader.is_empty() {
        let Ok(field) = reader.field() else { break };
        match (field.number, field.value) {
            (1, Value::Bytes(text)) => key = text,
            (2, Value::Bytes(body)) => {
                let bytes = &message[reader.at() - body.len()..];
                value.merge(
                    body,
                    Pieces {
                        bytes,
                        first: body.len(),
                    },
                );
            }
            _ => {}
        }
    }
    (key, value)
}

/// The attributes of one message, in order; keys may repeat.
#[derive(Clone)]
pub struct Attributes<'a> {
    reader: Reader<'a>,
    /// Key of the field that holds one attribute.
    key: u32,
}

impl<'a> Attributes<'a> {
    /// The attributes among the fields of `message`, where `number` is the field that holds one: 9 in a span, 1 in
    /// a resource, 3 in a scope and an event, 4 in a link.
    #[inline]
    pub fn new(message: &'a [u8], number: u32) -> Attributes<'a> {
        Attributes {
            reader: Reader::new(message),
            key: number << 3 | 2,
        }
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (&'a [u8], AnyValueView<'a>);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        while !self.reader.is_empty() {
            let before = self.reader;
            let key = self.reader.key().ok()?;
            if key == self.key {
                return Some(key_value(self.reader.bytes().ok()?));
            }
            self.reader = before;
            self.reader.field().ok()?;
        }
        None
    }
}

/// The attributes of a resource part: of all occurrences of its resource, in order.
pub fn resource_attributes(resource_part: &[u8]) -> impl Iterator<Item = (&[u8], AnyValueView<'_>)> + Clone {
    bodies(resource_part, 1).flat_map(|resource| Attributes::new(resource, 1))
}
