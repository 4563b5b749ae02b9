//! Memory for O_DIRECT, kept for reuse: a fresh page costs as much as writing it.

use crate::base::block::{BLOCK_BYTES, BlockPool, PAGE_BYTES};
use glommio::io::DmaBuffer;
use std::cell::RefCell;
use std::rc::Rc;

/// Whole blocks kept at most; more go back to the system.
const BLOCK_COUNT_MAX: usize = 32;

/// Buffers that were used and will be, by their pages. Of the sizes below a block, which the ends of groups need, one
/// each is kept: 8 MiB in all.
#[derive(Debug, Default)]
pub struct Spares {
    /// At `pages - 1`.
    by_pages: Vec<Vec<DmaBuffer>>,
}

impl Spares {
    /// A buffer of exactly `bytes`, from the executor's registered area while that lasts. What it contains is
    /// unspecified.
    pub fn take(&mut self, bytes: usize) -> DmaBuffer {
        let spare = self.by_pages.get_mut(bytes / PAGE_BYTES - 1).and_then(Vec::pop);
        spare.unwrap_or_else(|| {
            let mut buffer = glommio::allocate_dma_buffer(bytes);
            // Memory from the system is not initialized yet; it is now, once in its life.
            buffer.as_bytes_mut().fill(0);
            buffer
        })
    }

    pub fn give(&mut self, buffer: DmaBuffer) {
        let bytes = buffer.len();
        if bytes > BLOCK_BYTES {
            return;
        }
        self.by_pages.resize_with(BLOCK_BYTES / PAGE_BYTES, Vec::default);
        let spares = &mut self.by_pages[bytes / PAGE_BYTES - 1];
        if spares.len() < if bytes == BLOCK_BYTES { BLOCK_COUNT_MAX } else { 1 } {
            spares.push(buffer);
        }
    }
}

/// The blocks of a core's logs: what one lets go of the other takes.
#[derive(Clone, Debug, Default)]
pub struct DmaPool(Rc<RefCell<Spares>>);

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
