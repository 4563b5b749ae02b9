//! Memory for O_DIRECT, kept for reuse: a fresh page costs as much as writing it.

use crate::base::block::{BLOCK_BYTES, BlockPool, PAGE_BYTES};
use glommio::io::DmaBuffer;
use std::cell::RefCell;
use std::rc::Rc;

/// Buffers that were used and will be, by their pages: whole blocks, and of each size below, which the ends of groups
/// need, one.
///
/// Invariant (M1): they have `bytes_max` at most; more go back to the system.
#[derive(Debug)]
pub struct Spares {
    /// At `pages - 1`.
    by_pages: Vec<Vec<DmaBuffer>>,
    bytes: usize,
    bytes_max: usize,
}

impl Spares {
    pub fn new(bytes_max: usize) -> Spares {
        Spares {
            by_pages: Vec::new(),
            bytes: 0,
            bytes_max,
        }
    }

    /// A buffer of exactly `bytes`, from the executor's registered area while that lasts. What it contains is
    /// unspecified.
    pub fn take(&mut self, bytes: usize) -> DmaBuffer {
        let spare = self.by_pages.get_mut(bytes / PAGE_BYTES - 1).and_then(Vec::pop);
        if let Some(spare) = spare {
            self.bytes -= bytes;
            return spare;
        }
        let mut buffer = glommio::allocate_dma_buffer(bytes);
        // Memory from the system is not initialized yet; it is now, once in its life.
        buffer.as_bytes_mut().fill(0);
        buffer
    }

    pub fn give(&mut self, buffer: DmaBuffer) {
        let bytes = buffer.len();
        if bytes > BLOCK_BYTES || self.bytes + bytes > self.bytes_max {
            return;
        }
        self.by_pages.resize_with(BLOCK_BYTES / PAGE_BYTES, Vec::default);
        let spares = &mut self.by_pages[bytes / PAGE_BYTES - 1];
        if bytes == BLOCK_BYTES || spares.is_empty() {
            self.bytes += bytes;
            spares.push(buffer);
        }
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

/// The blocks of a core's logs: what one lets go of the other takes.
#[derive(Clone, Debug)]
pub struct DmaPool(Rc<RefCell<Spares>>);

impl DmaPool {
    /// Keeps at most so many bytes for the next use.
    pub fn new(spare_bytes_max: usize) -> DmaPool {
        DmaPool(Rc::new(RefCell::new(Spares::new(spare_bytes_max))))
    }

    pub fn spare_bytes(&self) -> usize {
        self.0.borrow().bytes()
    }
}

/// A block being filled.
#[derive(Debug)]
pub struct DmaBlock(DmaBuffer);

/// A sealed block: read by many, written by the kernel.
#[derive(Clone, Debug)]
pub struct DmaShared(pub(super) Rc<DmaBuffer>);

impl AsRef<[u8]> for DmaBlock {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl AsMut<[u8]> for DmaBlock {
    fn as_mut(&mut self) -> &mut [u8] {
        self.0.as_bytes_mut()
    }
}

impl AsRef<[u8]> for DmaShared {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl BlockPool for DmaPool {
    type Block = DmaBlock;
    type Shared = DmaShared;

    fn take(&mut self, bytes: usize) -> DmaBlock {
        DmaBlock(self.0.borrow_mut().take(bytes))
    }

    fn seal(&mut self, block: DmaBlock, _written: usize) -> DmaShared {
        DmaShared(Rc::new(block.0))
    }

    fn give(&mut self, shared: DmaShared) {
        if let Ok(buffer) = Rc::try_unwrap(shared.0) {
            self.0.borrow_mut().give(buffer);
        }
    }
}
