//! Attributes and their values in place.
//!
//! Protobuf lets one message come in pieces: a value may be given twice, and an array twice within a value.
//! prost merges the pieces, so these views do: of scalars the last wins, pieces of one array or list follow each
//! other, another kind of value replaces what was there. The bytes were checked before; should they be broken
//! all the same, a view ends before the damage.

use super::wire::{Fields, Reader, Value};

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
    plain_key_value(message).unwrap_or_else(|| any_key_value(message))
}

/// The `KeyValue` that nearly every attribute is: a key, then a value with one short scalar, and nothing else.
/// `None` when `message` is framed in any other way, right or wrong.
///
/// ```text
///  0a len key…  12 len ┌ 0a len text… ┐
///                      │ 10 bool      │   every len below 128,
///                      │ 18 int…      │   an int of at most 3 bytes
///                      └ 21 double ×8 ┘
/// ```
///
/// Recognising it in whole costs a third of reading it field by field, and attributes are most of a span.
#[inline(always)]
pub(super) fn plain_key_value(message: &[u8]) -> Option<(&[u8], AnyValueView<'_>)> {
    let [0x0a, key_len @ ..0x80, rest @ ..] = message else {
        return None;
    };
    let (key, rest) = rest.split_at_checked(*key_len as usize)?;
    let [0x12, value_len @ ..0x80, kind, value @ ..] = rest else {
        return None;
    };
    if *value_len as usize != value.len() + 1 {
        return None;
    }
    let value = match (*kind, value) {
        (0x0a, [len @ ..0x80, text @ ..]) if *len as usize == text.len() => AnyValueView::String(text),
        (0x10, [truth @ ..0x80]) => AnyValueView::Bool(*truth != 0),
        (0x18, &[low @ ..0x80]) => AnyValueView::Int(low as i64),
        (0x18, &[low @ 0x80..=0xff, high @ ..0x80]) => {
            AnyValueView::Int((low & 0x7f) as i64 | (high as i64) << 7)
        }
        (0x18, &[low @ 0x80..=0xff, middle @ 0x80..=0xff, high @ ..0x80]) => {
            AnyValueView::Int((low & 0x7f) as i64 | ((middle & 0x7f) as i64) << 7 | (high as i64) << 14)
        }
        (0x21, bits) => AnyValueView::Double(f64::from_le_bytes(bits.try_into().ok()?)),
        _ => return None,
    };
    Some((key, value))
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
    key: u8,
}

impl<'a> Attributes<'a> {
    /// The attributes among the fields of `message`, where `number` is the field that holds one: 9 in a span, 1 in
    /// a resource, 3 in a scope and an event, 4 in a link.
    #[inline]
    pub fn new(message: &'a [u8], number: u8) -> Attributes<'a> {
        debug_assert!((1..16).contains(&number), "keys of attributes have one byte");
        Attributes {
            reader: Reader::new(message),
            key: number << 3 | 2,
        }
    }

    /// Hands out those whose key `wants` accepts; the values of the others are not looked at.
    #[inline]
    pub fn wanted(mut self, wants: impl Fn(&[u8]) -> bool, mut each: impl FnMut(&'a [u8], AnyValueView<'a>)) {
        loop {
            if !self.reader.take(self.key) {
                match behind_others(self.reader, self.key) {
                    Some(reader) => self.reader = reader,
                    None => return,
                }
            }
            let Ok(message) = self.reader.bytes() else { return };
            if only_key(message).is_none_or(&wants) {
                let (key, value) = key_value(message);
                each(key, value);
            }
        }
    }
}

/// The key of a `KeyValue` that is certain to have one only: key, then value, nothing behind it.
#[inline(always)]
pub(super) fn only_key(message: &[u8]) -> Option<&[u8]> {
    let [0x0a, key_len @ ..0x80, rest @ ..] = message else {
        return None;
    };
    let (key, rest) = rest.split_at_checked(*key_len as usize)?;
    match rest {
        [0x12, value_len @ ..0x80, value @ ..] if *value_len as usize == value.len() => Some(key),
        _ => None,
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (&'a [u8], AnyValueView<'a>);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if !self.reader.take(self.key) {
            self.reader = behind_others(self.reader, self.key)?;
        }
        Some(key_value(self.reader.bytes().ok()?))
    }
}

/// A reader behind the next key that is `key`, if there is one.
#[inline(never)]
fn behind_others(mut reader: Reader<'_>, key: u8) -> Option<Reader<'_>> {
    while !reader.is_empty() {
        let before = reader;
        if reader.key().ok()? == key as u32 {
            return Some(reader);
        }
        reader = before;
        reader.field().ok()?;
    }
    None
}

/// The attributes of a resource part: of all occurrences of its resource, in order.
pub fn resource_attributes(resource_part: &[u8]) -> impl Iterator<Item = (&[u8], AnyValueView<'_>)> + Clone {
    bodies(resource_part, 1).flat_map(|resource| Attributes::new(resource, 1))
}
