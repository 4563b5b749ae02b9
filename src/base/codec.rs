//! Fixed-width little-endian fields of our own formats, read and written in order.

use super::prefetch::prefetch_bytes;

/// Reads fields from the front of `rest`; every method is `None` once too few bytes are left.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes }
    }

    #[inline]
    pub fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(taken)
    }

    #[inline]
    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*taken)
    }

    #[inline]
    pub fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    #[inline]
    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    #[inline]
    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    #[inline]
    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }
}

/// Writes fields to the front of a slice whose length was computed beforehand.
///
/// Writing past the end is our own mistake in that computation and panics.
#[derive(Debug)]
pub struct Writer<'a> {
    rest: &'a mut [u8],
}

impl<'a> Writer<'a> {
    pub fn new(out: &'a mut [u8]) -> Writer<'a> {
        Writer { rest: out }
    }

    #[inline]
    pub fn bytes(&mut self, bytes: &[u8]) {
        let (head, tail) = std::mem::take(&mut self.rest).split_at_mut(bytes.len());
        head.copy_from_slice(bytes);
        self.rest = tail;
    }

    #[inline]
    pub fn u8(&mut self, value: u8) {
        self.bytes(&[value]);
    }

    #[inline]
    pub fn u16(&mut self, value: u16) {
        self.bytes(&value.to_le_bytes());
    }

    #[inline]
    pub fn u32(&mut self, value: u32) {
        self.bytes(&value.to_le_bytes());
    }

    #[inline]
    pub fn u64(&mut self, value: u64) {
        self.bytes(&value.to_le_bytes());
    }

    /// Asks for the memory of `len` bytes that will be written after the next `ahead` ones.
    #[inline]
    pub fn prefetch(&self, ahead: usize, len: usize) {
        if let Some(rest) = self.rest.get(ahead..) {
            prefetch_bytes(&rest[..len.min(rest.len())]);
        }
    }

    /// Asserts that the computed length was the written one.
    pub fn finish(self) {
        assert!(
            self.rest.is_empty(),
            "{} bytes of a computed length were not written",
            self.rest.len()
        );
    }
}
