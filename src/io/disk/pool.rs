//! Memory for O_DIRECT, kept for reuse: a fresh page costs more than filling it.
//!
//! Blocks leave memory in waves, when the traces of a second are decided, and come back one at a time. So what has
//! left waits for its next use within the account of blocks, and what nobody has wanted for a while goes back to the
//! system, a little at a time.

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

    /// Lets go of whole blocks of `bytes` together, or of all there are; returns of how many bytes.
    fn drop_blocks(&mut self, bytes: usize) -> usize {
        let Some(blocks) = self.by_pages.get_mut(BLOCK_BYTES / PAGE_BYTES - 1) else {
            return 0;
        };
        let count = (bytes / BLOCK_BYTES).min(blocks.len());
        blocks.truncate(blocks.len() - count);
        self.bytes -= count * BLOCK_BYTES;
        count * BLOCK_BYTES
    }
}

/// The blocks of a core's logs: what one lets go of the other takes.
#[derive(Clone, Debug)]
pub struct DmaPool(Rc<RefCell<Blocks>>);

/// Invariant (M1): blocks lent and spare ones have `bytes_max` together at most, unless more are lent.
#[derive(Debug)]
struct Blocks {
    spares: Spares,
    lent_bytes: usize,
    bytes_max: usize,
    /// Least bytes of spares since `calls` was 0: nobody has wanted these.
    idle_bytes: usize,
    /// Of what was idle in the round before, still to be given back.
    surplus_bytes: usize,
    /// Of [`DmaPool::give_back`] in this round.
    calls: u32,
}

impl DmaPool {
    /// Spare blocks and lent ones have at most so many bytes.
    pub fn new(bytes_max: usize) -> DmaPool {
        DmaPool(Rc::new(RefCell::new(Blocks {
            spares: Spares::new(bytes_max),
            lent_bytes: 0,
            bytes_max,
            idle_bytes: 0,
            surplus_bytes: 0,
            calls: 0,
        })))
    }

    pub fn spare_bytes(&self) -> usize {
        self.0.borrow().spares.bytes()
    }

    /// Gives the system back some of what was not wanted in the last round of calls. To be called ten times a
    /// second.
    pub fn give_back(&self) {
        /// Five seconds: longer than the waves of decisions are apart.
        const CALLS_PER_ROUND: u32 = 50;
        /// Unmapping this much takes a fraction of a turn.
        const BYTES_PER_CALL: usize = 2 << 20;
        let mut blocks = self.0.borrow_mut();
        let bytes = blocks.surplus_bytes.min(BYTES_PER_CALL);
        let gone = blocks.spares.drop_blocks(bytes);
        blocks.surplus_bytes = if gone < bytes {
            0
        } else {
            blocks.surplus_bytes - gone
        };
        blocks.idle_bytes = blocks.idle_bytes.min(blocks.spares.bytes());
        blocks.calls += 1;
        if blocks.calls == CALLS_PER_ROUND {
            blocks.calls = 0;
            blocks.surplus_bytes = blocks.idle_bytes;
            blocks.idle_bytes = blocks.spares.bytes();
        }
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
        let mut blocks = self.0.borrow_mut();
        blocks.lent_bytes += bytes;
        let block = blocks.spares.take(bytes);
        blocks.idle_bytes = blocks.idle_bytes.min(blocks.spares.bytes());
        DmaBlock(block)
    }

    fn seal(&mut self, block: DmaBlock, _written: usize) -> DmaShared {
        DmaShared(Rc::new(block.0))
    }

    fn give(&mut self, shared: DmaShared) {
        let mut blocks = self.0.borrow_mut();
        let bytes = shared.0.len();
        blocks.lent_bytes -= bytes;
        if let Ok(buffer) = Rc::try_unwrap(shared.0)
            && blocks.lent_bytes + blocks.spares.bytes() + bytes <= blocks.bytes_max
        {
            blocks.spares.give(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on_an_executor(test: impl FnOnce() + Send + 'static) {
        glommio::LocalExecutor::default().run(async move { test() });
    }

    fn take(pool: &mut DmaPool, count: usize) -> Vec<DmaShared> {
        let blocks: Vec<_> = (0..count).map(|_| pool.take(BLOCK_BYTES)).collect();
        blocks.into_iter().map(|block| pool.seal(block, 0)).collect()
    }

    #[test]
    fn blocks_that_left_wait_within_the_account_of_those_that_stayed() {
        on_an_executor(|| {
            let mut pool = DmaPool::new(8 * BLOCK_BYTES);
            let mut blocks = take(&mut pool, 10);
            for lent in (0..10).rev() {
                pool.give(blocks.pop().expect("ten were taken"));
                let room = 8usize.saturating_sub(lent);
                assert_eq!(
                    pool.spare_bytes(),
                    room.min(10 - lent) * BLOCK_BYTES,
                    "{lent} lent"
                );
            }
        });
    }

    #[test]
    fn only_what_nobody_wanted_for_a_round_goes_back() {
        on_an_executor(|| {
            let mut pool = DmaPool::new(8 * BLOCK_BYTES);
            for block in take(&mut pool, 8) {
                pool.give(block);
            }
            for _ in 0..10 {
                for block in take(&mut pool, 3) {
                    pool.give(block);
                }
                (0..50).for_each(|_| pool.give_back());
            }
            assert_eq!(pool.spare_bytes(), 3 * BLOCK_BYTES);
            (0..150).for_each(|_| pool.give_back());
            assert_eq!(pool.spare_bytes(), 0);
        });
    }
}
