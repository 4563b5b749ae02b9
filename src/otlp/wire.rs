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

/// A position in the bytes of one message.
///
/// A message within a message is read by a second reader over the same bytes, cut off at the inner message's
/// end: so positions, and with them offsets in errors, count from one origin at every depth.
///
/// Invariant: `at` never lies beyond the end of `bytes`.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    #[inline]
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { bytes, at: 0 }
    }

    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.at >= self.bytes.len()
    }

    #[inline(always)]
    pub fn at(&self) -> usize {
        self.at
    }

    /// What is left of the message.
    #[inline(always)]
    pub fn rest(&self) -> &'a [u8] {
        &self.bytes[self.at..]
    }

    /// From `begin`, an earlier [`Reader::at`], to here.
    #[inline(always)]
    pub fn since(&self, begin: usize) -> &'a [u8] {
        &self.bytes[begin..self.at]
    }

    #[inline(always)]
    pub fn between(&self, begin: usize, end: usize) -> &'a [u8] {
        &self.bytes[begin..end]
    }

    /// A reader of the bytes from `begin` to `end` only; empty when they are the wrong way round.
    #[inline]
    pub fn narrow(&self, begin: usize, end: usize) -> Reader<'a> {
        Reader {
            bytes: &self.bytes[..end],
            at: begin.min(end),
        }
    }

    /// A key as it stands: number and wire type are yet unchecked, so that the reader of a known message can
    /// match on it at once and leave every other key to [`Reader::skip_unknown`].
    #[inline(always)]
    pub fn key(&mut self) -> Result<u32, FramingError> {
        match self.bytes.get(self.at) {
            Some(&byte) if byte < 0x80 => {
                self.at += 1;
                Ok(byte as u32)
            }
            _ => self.long_key(),
        }
    }

    #[inline(never)]
    fn long_key(&mut self) -> Result<u32, FramingError> {
        let offset = self.at;
        u32::try_from(self.varint()?).map_err(|_| FramingError::Key { offset })
    }

    #[inline(always)]
    pub fn varint(&mut self) -> Result<u64, FramingError> {
        match self.bytes.get(self.at) {
            Some(&byte) if byte < 0x80 => {
                self.at += 1;
                Ok(byte as u64)
            }
            _ => self.long_varint(),
        }
    }

    #[inline(never)]
    fn long_varint(&mut self) -> Result<u64, FramingError> {
        let offset = self.at;
        let mut value = 0;
        for (index, &byte) in self.bytes[offset..].iter().take(10).enumerate() {
            value |= ((byte & 0x7f) as u64) << (7 * index);
            if byte < 0x80 {
                if index == 9 && byte > 1 {
                    return Err(FramingError::Varint { offset });
                }
                self.at = offset + index + 1;
                return Ok(value);
            }
        }
        Err(match self.bytes.len() - offset {
            ..10 => FramingError::Truncated { offset },
            _ => FramingError::Varint { offset },
        })
    }

    #[inline(always)]
    pub fn fixed32(&mut self) -> Result<u32, FramingError> {
        let (bytes, _) = self
            .rest()
            .split_first_chunk()
            .ok_or(FramingError::Truncated { offset: self.at })?;
        self.at += 4;
        Ok(u32::from_le_bytes(*bytes))
    }

    #[inline(always)]
    pub fn fixed64(&mut self) -> Result<u64, FramingError> {
        let (bytes, _) = self
            .rest()
            .split_first_chunk()
            .ok_or(FramingError::Truncated { offset: self.at })?;
        self.at += 8;
        Ok(u64::from_le_bytes(*bytes))
    }

    /// A length and the bytes it covers.
    #[inline(always)]
    pub fn bytes(&mut self) -> Result<&'a [u8], FramingError> {
        let offset = self.at;
        // Two bytes of length are as common as one (most spans): both stay on the straight path.
        let length = match *self.rest() {
            [low, ..] if low < 0x80 => {
                self.at += 1;
                low as u64
            }
            [low, high, ..] if high < 0x80 => {
                self.at += 2;
                (low & 0x7f) as u64 | (high as u64) << 7
            }
            _ => self.long_varint()?,
        };
        let rest = self.rest();
        if length > rest.len() as u64 {
            return Err(FramingError::Truncated { offset });
        }
        self.at += length as usize;
        Ok(&rest[..length as usize])
    }

    /// A reader of the message that begins here, with `self` moved behind it. `depth` is how many messages may
    /// still begin within the one that `self` reads; the new one has one less.
    #[inline(always)]
    pub fn message(&mut self, depth: u32) -> Result<(Reader<'a>, u32), FramingError> {
        if depth == 0 {
            return Err(FramingError::Depth { offset: self.at });
        }
        let length = self.bytes()?.len();
        Ok((
            Reader {
                bytes: &self.bytes[..self.at],
                at: self.at - length,
            },
            depth - 1,
        ))
    }

    /// Moves behind the payload of a field whose key, begun at `offset`, no arm of a known message matched: its
    /// number is above `known_max`, or it is broken.
    #[inline(never)]
    pub fn skip_unknown(
        &mut self,
        key: u32,
        offset: usize,
        known_max: u32,
        depth: u32,
    ) -> Result<(), FramingError> {
        let number = key >> 3;
        if number == 0 || key & 7 > 5 {
            Err(FramingError::Key { offset })
        } else if number <= known_max {
            Err(FramingError::WireType { offset })
        } else {
            self.skip(key, offset, depth).map(drop)
        }
    }

    /// Moves behind the payload of a field that was checked before.
    #[inline(never)]
    pub fn step_over(&mut self, key: u32) -> Result<(), FramingError> {
        self.skip(key, self.at, DEPTH_MAX).map(drop)
    }

    /// Moves behind the payload of any field whose key began at `offset`; gives the offset of the last key
    /// read, which for a group is the one that ends it. Groups are counted, not recursed into.
    fn skip(&mut self, key: u32, offset: usize, depth: u32) -> Result<usize, FramingError> {
        let mut open = [0u32; DEPTH_MAX as usize];
        let (mut open_count, mut key, mut offset) = (0usize, key, offset);
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
                return Ok(offset);
            }
            offset = self.at;
            key = self.key()?;
        }
    }

    pub fn field(&mut self) -> Result<Field<'a>, FramingError> {
        let begin = self.at;
        let key = self.key()?;
        let value = match (key >> 3, key & 7) {
            (0, _) => return Err(FramingError::Key { offset: begin }),
            (_, 0) => Value::Varint(self.varint()?),
            (_, 1) => Value::Fixed64(self.fixed64()?),
            (_, 2) => Value::Bytes(self.bytes()?),
            (_, 3) => {
                let fields = self.at;
                let end = self.skip(key, begin, DEPTH_MAX)?;
                Value::Group(&self.bytes[fields..end])
            }
            (_, 5) => Value::Fixed32(self.fixed32()?),
            (_, 4) => return Err(FramingError::Group { offset: begin }),
            _ => return Err(FramingError::Key { offset: begin }),
        };
        Ok(Field {
            number: key >> 3,
            value,
            raw: self.since(begin),
        })
    }
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
