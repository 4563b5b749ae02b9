//! The protobuf wire format: a reader that borrows, and what it takes to write fields.
//!
//! ```text
//!  field:  ┌ key: varint ──────────┐ ┌ payload ───────────────────────────────────────┐
//!          │ number << 3 │ type    │ │ 0 varint │ 1: 8 bytes │ 2: varint length, bytes │
//!          └───────────────────────┘ │ 3 fields up to a key of type 4 │ 5: 4 bytes     │
//!                                    └────────────────────────────────────────────────┘
//! ```
//!
//! The reader takes and refuses exactly what prost does, so that a peer sees one behaviour whichever of the
//! two reads its bytes: varints may be longer than need be but not longer than 10 bytes or 64 bits, and
//! messages and groups nest [`DEPTH_MAX`] deep.

use crate::base::prefetch::prefetch_bytes;
use thiserror::Error;

/// Messages and groups that may lie in each other; prost's `RECURSION_LIMIT`.
pub const DEPTH_MAX: u32 = 100;

/// Bytes are not the protobuf message they should be. Always the sender's fault; nothing was changed by
/// reading them. `offset` counts from the beginning of the bytes that were handed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FramingError {
    #[error("a field goes on beyond the end of its message at byte {offset}")]
    Truncated { offset: usize },
    #[error("a number has more than 64 bits at byte {offset}")]
    Varint { offset: usize },
    #[error("a key has no valid field number or wire type at byte {offset}")]
    Key { offset: usize },
    #[error("a field has the wire type of another kind of field at byte {offset}")]
    WireType { offset: usize },
    #[error("a group ends that was not begun at byte {offset}")]
    Group { offset: usize },
    #[error("messages lie more than {DEPTH_MAX} deep in each other at byte {offset}")]
    Depth { offset: usize },
}

/// The payload of a field, by wire type.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    /// The fields between the group's begin and end keys.
    Group(&'a [u8]),
    Fixed32(u32),
}

/// One field of a message.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Field<'a> {
    pub number: u32,
    pub value: Value<'a>,
    /// The field as it came, key included.
    pub raw: &'a [u8],
}

/// The fields of one message in the order they came; ends after the first error.
#[derive(Clone)]
pub struct Fields<'a> {
    reader: Reader<'a>,
}

impl<'a> Fields<'a> {
    pub fn new(message: &'a [u8]) -> Fields<'a> {
        Fields {
            reader: Reader::new(message),
        }
    }

    /// The fields of a message that was checked before; should it be broken all the same, those before the
    /// damage.
    pub fn checked(message: &'a [u8]) -> impl Iterator<Item = Field<'a>> + Clone {
        Fields::new(message).map_while(Result::ok)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, FramingError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.reader.is_empty() {
            return None;
        }
        let field = self.reader.field();
        if field.is_err() {
            self.reader = Reader::new(&[]);
        }
        Some(field)
    }
}

/// What is left of one message.
///
/// `end` is where the message ends, counted from the beginning of the bytes that were handed in; so offsets in
/// errors have one origin at every depth. What is rare lies in functions that are handed `rest` and `end`: one
/// that takes the reader itself, be it by value, keeps it out of registers everywhere else.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    end: usize,
}

impl<'a> Reader<'a> {
    /// The message `bytes` that ends at offset `end`.
    #[inline(always)]
    pub fn ending_at(bytes: &'a [u8], end: usize) -> Reader<'a> {
        Reader { rest: bytes, end }
    }

    #[inline]
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader {
            rest: bytes,
            end: bytes.len(),
        }
    }

    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The offset of the next byte.
    #[inline(always)]
    pub fn at(&self) -> usize {
        self.end - self.rest.len()
    }

    #[inline(always)]
    pub fn left(&self) -> usize {
        self.rest.len()
    }

    #[inline(always)]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// What lies between `self` and `later`, a reader further on in the same message.
    #[inline(always)]
    pub fn until(&self, later: &Reader<'a>) -> &'a [u8] {
        &self.rest[..self.rest.len() - later.rest.len()]
    }

    /// Asks for the `len` bytes that lie `ahead` of the next one, as far as the message goes.
    #[inline(always)]
    pub fn prefetch(&self, ahead: usize, len: usize) {
        if let Some(rest) = self.rest.get(ahead..) {
            prefetch_bytes(&rest[..len.min(rest.len())]);
        }
    }

    /// A reader that ends where `later` stands.
    pub fn narrow(&self, later: &Reader<'a>) -> Reader<'a> {
        Reader {
            rest: self.until(later),
            end: later.at(),
        }
    }

    /// Takes the next byte if it is `byte`.
    #[inline(always)]
    pub fn take(&mut self, byte: u8) -> bool {
        match self.rest {
            [first, rest @ ..] if *first == byte => {
                self.rest = rest;
                true
            }
            _ => false,
        }
    }

    /// A key as it stands: number and wire type are yet unchecked, so that the reader of a known message can
    /// match on it at once and leave every other key to [`Reader::skip_unknown`].
    #[inline(always)]
    pub fn key(&mut self) -> Result<u32, FramingError> {
        match self.rest {
            [byte @ ..0x80, rest @ ..] => {
                self.rest = rest;
                Ok(*byte as u32)
            }
            [low, high @ ..0x80, rest @ ..] => {
                self.rest = rest;
                Ok((*low & 0x7f) as u32 | (*high as u32) << 7)
            }
            _ => {
                let offset = self.at();
                let (key, rest) = long_varint(self.rest, self.end)?;
                self.rest = rest;
                u32::try_from(key).map_err(|_| FramingError::Key { offset })
            }
        }
    }

    /// No key: [`Reader::next_key`] gives it at the end of the message. (Read from bytes it would be refused, for
    /// its wire type.)
    pub const END: u32 = u32::MAX;

    #[inline(always)]
    pub fn next_key(&mut self) -> Result<u32, FramingError> {
        if self.is_empty() {
            return Ok(Reader::END);
        }
        match self.key()? {
            Reader::END => Err(FramingError::Key {
                offset: self.at() - 5,
            }),
            key => Ok(key),
        }
    }

    #[inline(always)]
    pub fn varint(&mut self) -> Result<u64, FramingError> {
        match self.rest {
            [byte @ ..0x80, rest @ ..] => {
                self.rest = rest;
                Ok(*byte as u64)
            }
            _ => {
                let (value, rest) = long_varint(self.rest, self.end)?;
                self.rest = rest;
                Ok(value)
            }
        }
    }

    #[inline(always)]
    pub fn fixed32(&mut self) -> Result<u32, FramingError> {
        Ok(u32::from_le_bytes(self.fixed()?))
    }

    #[inline(always)]
    pub fn fixed64(&mut self) -> Result<u64, FramingError> {
        Ok(u64::from_le_bytes(self.fixed()?))
    }

    #[inline(always)]
    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], FramingError> {
        let Some((bytes, rest)) = self.rest.split_first_chunk() else {
            return Err(FramingError::Truncated { offset: self.at() });
        };
        self.rest = rest;
        Ok(*bytes)
    }

    /// A length and the bytes it covers.
    #[inline(always)]
    pub fn bytes(&mut self) -> Result<&'a [u8], FramingError> {
        let before = *self;
        // Two bytes of length are as common as one (most spans): both stay on the straight path.
        let length = match self.rest {
            [low @ ..0x80, rest @ ..] => {
                self.rest = rest;
                *low as usize
            }
            [low, high @ ..0x80, rest @ ..] => {
                self.rest = rest;
                (*low & 0x7f) as usize | (*high as usize) << 7
            }
            _ => {
                let (length, rest) = long_varint(self.rest, self.end)?;
                self.rest = rest;
                // No slice is as long as this, whatever a usize holds.
                usize::try_from(length).unwrap_or(usize::MAX)
            }
        };
        let Some((bytes, rest)) = self.rest.split_at_checked(length) else {
            return Err(FramingError::Truncated { offset: before.at() });
        };
        self.rest = rest;
        Ok(bytes)
    }

    /// A reader of the message that begins here, with `self` moved behind it. `depth` is how many messages may
    /// still begin within the one that `self` reads; the new one has one less.
    #[inline(always)]
    pub fn message(&mut self, depth: u32) -> Result<(Reader<'a>, u32), FramingError> {
        if depth == 0 {
            return Err(FramingError::Depth { offset: self.at() });
        }
        let message = self.bytes()?;
        Ok((
            Reader {
                rest: message,
                end: self.at(),
            },
            depth - 1,
        ))
    }

    /// Moves behind the payload of a field whose key, begun at `offset`, no arm of a known message matched: its
    /// number is above `known_max`, or it is broken.
    #[inline(always)]
    pub fn skip_unknown(
        &mut self,
        key: u32,
        offset: usize,
        known_max: u32,
        depth: u32,
    ) -> Result<(), FramingError> {
        self.rest = behind_unknown(self.rest, self.end, key, offset, known_max, depth)?;
        Ok(())
    }

    /// Moves behind the payload of a field that was checked before.
    #[inline(always)]
    pub fn step_over(&mut self, key: u32) -> Result<(), FramingError> {
        self.rest = behind_unknown(self.rest, self.end, key, self.at(), 0, DEPTH_MAX)?;
        Ok(())
    }

    /// Moves behind the payload of any field whose key began at `offset`; gives where the last key began that
    /// it read, which for a group is the one that ends it. Groups are counted, not recursed into.
    fn skip(&mut self, key: u32, offset: usize, depth: u32) -> Result<Reader<'a>, FramingError> {
        let mut open = [0u32; DEPTH_MAX as usize];
        let (mut open_count, mut key, mut offset) = (0usize, key, offset);
        let mut last_key = *self;
        loop {
            let number = key >> 3;
            if number == 0 || key & 7 > 5 {
                return Err(FramingError::Key { offset });
            }
            if key & 7 != 4 && open_count >= depth as usize {
                return Err(FramingError::Depth { offset });
            }
            match key & 7 {
                0 => drop(self.varint()?),
                1 => drop(self.fixed64()?),
                2 => drop(self.bytes()?),
                3 => {
                    open[open_count] = number;
                    open_count += 1;
                }
                4 => match open_count.checked_sub(1) {
                    Some(last) if open[last] == number => open_count = last,
                    _ => return Err(FramingError::Group { offset }),
                },
                _ => drop(self.fixed32()?),
            }
            if open_count == 0 {
                return Ok(last_key);
            }
            last_key = *self;
            offset = self.at();
            key = self.key()?;
        }
    }

    pub fn field(&mut self) -> Result<Field<'a>, FramingError> {
        let before = *self;
        let (key, value) = self.key_and_value()?;
        Ok(Field {
            number: key >> 3,
            value,
            raw: before.until(self),
        })
    }

    /// The next field of any message.
    #[inline(always)]
    pub fn key_and_value(&mut self) -> Result<(u32, Value<'a>), FramingError> {
        let offset = self.at();
        let key = self.key()?;
        if key >> 3 == 0 {
            return Err(FramingError::Key { offset });
        }
        let value = match key & 7 {
            0 => Value::Varint(self.varint()?),
            1 => Value::Fixed64(self.fixed64()?),
            2 => Value::Bytes(self.bytes()?),
            3 => {
                let (fields, rest) = group(self.rest, self.end, key, offset)?;
                self.rest = rest;
                Value::Group(fields)
            }
            4 => return Err(FramingError::Group { offset }),
            5 => Value::Fixed32(self.fixed32()?),
            _ => return Err(FramingError::Key { offset }),
        };
        Ok((key, value))
    }
}

/// The fields of a group in `rest`, which ends at offset `end` and begins behind the group's `key`; and what
/// follows it.
#[cold]
#[inline(never)]
fn group(rest: &[u8], end: usize, key: u32, offset: usize) -> Result<(&[u8], &[u8]), FramingError> {
    let begin = Reader { rest, end };
    let mut reader = begin;
    let last_key = reader.skip(key, offset, DEPTH_MAX)?;
    Ok((begin.until(&last_key), reader.rest))
}

/// Any varint at the beginning of `rest`, which ends at offset `end`, and what follows it.
#[inline(never)]
fn long_varint(rest: &[u8], end: usize) -> Result<(u64, &[u8]), FramingError> {
    let offset = end - rest.len();
    let mut value = 0;
    for (index, &byte) in rest.iter().take(10).enumerate() {
        value |= ((byte & 0x7f) as u64) << (7 * index);
        if byte < 0x80 {
            if index == 9 && byte > 1 {
                return Err(FramingError::Varint { offset });
            }
            return Ok((value, &rest[index + 1..]));
        }
    }
    Err(match rest.len() {
        ..10 => FramingError::Truncated { offset },
        _ => FramingError::Varint { offset },
    })
}

/// What follows a field in `rest`, which ends at offset `end` and begins behind the field's `key`.
#[cold]
#[inline(never)]
fn behind_unknown(
    rest: &[u8],
    end: usize,
    key: u32,
    offset: usize,
    known_max: u32,
    depth: u32,
) -> Result<&[u8], FramingError> {
    let number = key >> 3;
    if number == 0 || key & 7 > 5 {
        return Err(FramingError::Key { offset });
    }
    if number <= known_max {
        return Err(FramingError::WireType { offset });
    }
    let mut reader = Reader { rest, end };
    reader.skip(key, offset, depth)?;
    Ok(reader.rest)
}

/// Bytes of `value` as a varint, 1 to 10.
#[inline]
pub const fn varint_len(value: u64) -> usize {
    (70 - (value | 1).leading_zeros() as usize) / 7
}

/// Bytes of a length-delimited field, key and length included.
#[inline]
pub const fn bytes_field_len(number: u32, bytes: usize) -> usize {
    varint_len((number as u64) << 3) + varint_len(bytes as u64) + bytes
}

#[inline]
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// The last three bits of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum WireType {
    Varint = 0,
    Fixed64 = 1,
    Bytes = 2,
    Fixed32 = 5,
}

#[inline]
pub fn put_key(out: &mut Vec<u8>, number: u32, wire_type: WireType) {
    put_varint(out, (number as u64) << 3 | wire_type as u64);
}

/// Key and length of a field whose `bytes` bytes the caller appends.
#[inline]
pub fn put_bytes_head(out: &mut Vec<u8>, number: u32, bytes: usize) {
    put_key(out, number, WireType::Bytes);
    put_varint(out, bytes as u64);
}

#[inline]
pub fn put_bytes_field(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    put_bytes_head(out, number, bytes.len());
    out.extend_from_slice(bytes);
}

#[inline]
pub fn put_varint_field(out: &mut Vec<u8>, number: u32, value: u64) {
    put_key(out, number, WireType::Varint);
    put_varint(out, value);
}

#[inline]
pub fn put_fixed64_field(out: &mut Vec<u8>, number: u32, value: u64) {
    put_key(out, number, WireType::Fixed64);
    out.extend_from_slice(&value.to_le_bytes());
}

#[inline]
pub fn put_fixed32_field(out: &mut Vec<u8>, number: u32, value: u32) {
    put_key(out, number, WireType::Fixed32);
    out.extend_from_slice(&value.to_le_bytes());
}
