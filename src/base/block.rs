//! Memory of the log as a trait: io lends DMA buffers, the simulator vectors.
//!
//! ```text
//!  take            fill in place         seal                      give
//! ──────▶  Block  ───────────────▶ Block ──────▶ Shared (clones) ──────▶ back in the pool
//!          one owner, writable                   read by many, written to disk, never changed
//! ```
//!
//! A block is filled by one owner and from then on only read, so nothing between the request and the disk
//! copies it or locks it.

use std::rc::Rc;

/// Bytes of a page: the unit of padding and of direct I/O.
pub const PAGE_BYTES: usize = 4 << 10;

/// Bytes of a block: the unit in which the log stays in memory or leaves it.
pub const BLOCK_BYTES: usize = 256 << 10;

/// Lends blocks of whole pages to a log and takes them back.
pub trait BlockPool {
    /// Exclusively owned and being filled. Its length never changes.
    type Block: AsRef<[u8]> + AsMut<[u8]>;
    /// Sealed: readable, and can be written to disk. `as_ref` gives the whole block.
    type Shared: AsRef<[u8]> + Clone;

    /// A block of exactly `bytes`, a multiple of [`PAGE_BYTES`]. What it contains is unspecified: it may
    /// be what its last user left.
    fn take(&mut self, bytes: usize) -> Self::Block;

    /// Ends the filling of a block. Its first `written` bytes (whole pages) are on their way to disk
    /// already, so that a write of this `Shared` covers `written..` and nothing else.
    fn seal(&mut self, block: Self::Block, written: usize) -> Self::Shared;

    /// The log lets go of a block. No write of it is under way, but readers may still hold clones: the
    /// memory is free when the last one is gone.
    fn give(&mut self, shared: Self::Shared);
}

/// A pool of plain vectors, for the simulator, tests and tools. It keeps what it is given for reuse.
#[derive(Debug, Default)]
pub struct VecPool {
    spare: Vec<Vec<u8>>,
    lent: usize,
}

impl VecPool {
    /// Vectors kept for reuse at most; more are freed.
    const SPARE_COUNT_MAX: usize = 64;

    /// Blocks taken and not yet given back.
    pub fn lent(&self) -> usize {
        self.lent
    }
}

impl BlockPool for VecPool {
    type Block = Vec<u8>;
    type Shared = VecShared;

    fn take(&mut self, bytes: usize) -> Vec<u8> {
        assert!(
            bytes > 0 && bytes.is_multiple_of(PAGE_BYTES),
            "a block of {bytes} bytes"
        );
        self.lent += 1;
        match self.spare.iter().position(|spare| spare.len() == bytes) {
            Some(index) => self.spare.swap_remove(index),
            // Not zero, so that a reader of bytes that were never filled shows itself.
            None => vec![0xa5; bytes],
        }
    }

    fn seal(&mut self, block: Vec<u8>, written: usize) -> VecShared {
        assert!(written.is_multiple_of(PAGE_BYTES) && written <= block.len());
        VecShared(Rc::new(block))
    }

    fn give(&mut self, shared: VecShared) {
        self.lent -= 1;
        if let Ok(block) = Rc::try_unwrap(shared.0)
            && self.spare.len() < Self::SPARE_COUNT_MAX
        {
            self.spare.push(block);
        }
    }
}

/// A sealed block of [`VecPool`].
#[derive(Clone, Debug)]
pub struct VecShared(Rc<Vec<u8>>);

impl AsRef<[u8]> for VecShared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_comes_back_when_its_last_reader_is_gone() {
        let mut pool = VecPool::default();
        let block = pool.take(PAGE_BYTES);
        let shared = pool.seal(block, 0);
        let reader = shared.clone();
        pool.give(shared);
        assert_eq!((pool.spare.len(), pool.lent()), (0, 0), "a reader still has it");
        assert_eq!(reader.as_ref().len(), PAGE_BYTES);
        let shared = pool.seal(vec![7; PAGE_BYTES], 0);
        pool.lent += 1;
        pool.give(shared);
        assert_eq!(pool.take(PAGE_BYTES)[0], 7, "reused as it was left");
    }
}
