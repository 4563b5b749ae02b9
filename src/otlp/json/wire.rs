//! Protobuf's framing, as far as the transcoder needs it. Accepts and refuses what prost does.

use super::DEPTH_MAX;

/// The bytes are no protobuf message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FramingError;

/// A field's value, not yet interpreted.
#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    Varint(u64),
    Fixed64(u64),
    Length(&'a [u8]),
    Fixed32(u32),
    /// Skipped: OTLP has no groups.
    Group,
}

/// Goes through the fields of one message.
pub struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    /// `at` is where a field of `bytes` begins.
    #[inline]
    pub fn new(bytes: &'a [u8], at: usize) -> Fields<'a> {
        Fields { bytes, at }
    }

    /// Where the next field begins.
    #[inline]
    pub fn at(&self) -> usize {
        self.at
    }

    /// The next field's number and value; `None` at the end.
    #[inline]
    pub fn next(&mut self) -> Result<Option<(u32, Value<'a>)>, FramingError> {
        if self.at == self.bytes.len() {
            return Ok(None);
        }
        let (number, wire_type) = self.tag()?;
        let value = match wire_type {
            3 => {
                self.skip_group(number, DEPTH_MAX)?;
                Value::Group
            }
            4 => return Err(FramingError),
            _ => self.value(wire_type)?,
        };
        Ok(Some((number, value)))
    }

    /// A value of any wire type that is not a group.
    #[inline]
    fn value(&mut self, wire_type: u8) -> Result<Value<'a>, FramingError> {
        Ok(match wire_type {
            0 => Value::Varint(self.varint()?),
            1 => Value::Fixed64(self.fixed64()?),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| FramingError)?;
                Value::Length(self.take(length)?)
            }
            5 => Value::Fixed32(self.fixed32()?),
            _ => return Err(FramingError),
        })
    }

    /// Skips up to and including the end tag of the group `number`.
    fn skip_group(&mut self, number: u32, depth_left: usize) -> Result<(), FramingError> {
        let depth_left = depth_left.checked_sub(1).ok_or(FramingError)?;
        loop {
            match self.tag()? {
                (inner, 3) => self.skip_group(inner, depth_left)?,
                (inner, 4) => {
                    return if inner == number {
                        Ok(())
                    } else {
                        Err(FramingError)
                    };
                }
                (_, wire_type) => drop(self.value(wire_type)?),
            }
        }
    }

    #[inline]
    fn tag(&mut self) -> Result<(u32, u8), FramingError> {
        let key = u32::try_from(self.varint()?).map_err(|_| FramingError)?;
        let number = key >> 3;
        if number == 0 {
            Err(FramingError)
        } else {
            Ok((number, (key & 7) as u8))
        }
    }

    /// Also reads the elements of a packed field.
    #[inline]
    pub fn varint(&mut self) -> Result<u64, FramingError> {
        let mut value = 0;
        for (index, byte) in self.bytes[self.at..].iter().take(VARINT_BYTES_MAX).enumerate() {
            value |= u64::from(byte & 0x7f) << (7 * index);
            if *byte < 0x80 {
                self.at += index + 1;
                // The tenth byte has room for the last of the 64 bits only.
                return if index == VARINT_BYTES_MAX - 1 && *byte > 1 {
                    Err(FramingError)
                } else {
                    Ok(value)
                };
            }
        }
        Err(FramingError)
    }

    #[inline]
    pub fn fixed64(&mut self) -> Result<u64, FramingError> {
        let bytes = self.take(8)?.try_into().map_err(|_| FramingError)?;
        Ok(u64::from_le_bytes(bytes))
    }

    #[inline]
    pub fn fixed32(&mut self) -> Result<u32, FramingError> {
        let bytes = self.take(4)?.try_into().map_err(|_| FramingError)?;
        Ok(u32::from_le_bytes(bytes))
    }

    #[inline]
    fn take(&mut self, length: usize) -> Result<&'a [u8], FramingError> {
        let rest = &self.bytes[self.at..];
        let taken = rest.get(..length).ok_or(FramingError)?;
        self.at += length;
        Ok(taken)
    }
}

const VARINT_BYTES_MAX: usize = 10;

/// Bytes of a varint in its shortest form.
#[inline]
pub fn varint_length(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

#[inline]
pub fn push_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
