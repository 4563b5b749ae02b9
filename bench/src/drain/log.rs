//! A log with nothing but its price: bodies side by side in blocks, blocks written past the page cache, one sync for
//! all who wait. No checks, nothing to find anything by, and one file from its begin again and again.
//!
//! ```text
//!  append ─▶ filling ─▶ full ──┐            thread on the same core
//!  synced ─▶ waiting ──────────┴── group ─▶ write, fdatasync ─▶ waiters go on, blocks are used again
//! ```

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::rc::Rc;
use std::sync::mpsc;

use tokio::sync::{mpsc as async_mpsc, oneshot};

use crate::{BenchError, pin};

const BLOCK_BYTES: usize = 256 << 10;
const PAGE_BYTES: usize = 4 << 10;
/// The file's length: more than any group.
const FILE_BYTES: u64 = 1 << 30;

/// Memory that begins with a page.
struct Block {
    memory: Vec<u8>,
    begin: usize,
    len: usize,
}

impl Block {
    fn new() -> Block {
        let memory = vec![0; BLOCK_BYTES + PAGE_BYTES];
        let begin = memory.as_ptr().align_offset(PAGE_BYTES);
        Block {
            memory,
            begin,
            len: 0,
        }
    }

    /// Takes what fits of `bytes`; returns the rest.
    fn fill<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let (taken, rest) = bytes.split_at(bytes.len().min(BLOCK_BYTES - self.len));
        let at = self.begin + self.len;
        self.memory[at..at + taken.len()].copy_from_slice(taken);
        self.len += taken.len();
        rest
    }

    /// What was filled, and the rest of its last page.
    fn pages(&self) -> &[u8] {
        &self.memory[self.begin..][..self.len.next_multiple_of(PAGE_BYTES)]
    }
}

type Group = Vec<Block>;

struct State {
    filling: Block,
    full: Group,
    spare: Group,
    /// For what is filling or full.
    waiting: Vec<oneshot::Sender<()>>,
    /// For what is being written.
    writing: Option<Vec<oneshot::Sender<()>>>,
    groups: mpsc::Sender<Group>,
}

#[derive(Clone)]
pub struct Log(Rc<RefCell<State>>);

impl Log {
    /// Writes the file once, so that every write finds its place on the disk; it is gone when the process is. On a
    /// local set.
    pub fn create(path: &Path, cpu: Option<usize>) -> Result<Log, BenchError> {
        let named = || format!("--log {}", path.display());
        let file = prepare(path).map_err(BenchError::environment(named()))?;
        let (groups, to_write) = mpsc::channel();
        let (written, mut done) = async_mpsc::unbounded_channel();
        #[allow(clippy::disallowed_methods, reason = "the writer, whose calls block")]
        std::thread::spawn(move || write_groups(&file, cpu, &to_write, &written));
        let log = Log(Rc::new(RefCell::new(State {
            filling: Block::new(),
            full: Vec::new(),
            spare: Vec::new(),
            waiting: Vec::new(),
            writing: None,
            groups,
        })));
        let state = log.0.clone();
        tokio::task::spawn_local(async move {
            while let Some(blocks) = done.recv().await {
                state.borrow_mut().end(blocks);
            }
        });
        Ok(log)
    }

    pub fn append(&self, mut bytes: &[u8]) {
        let mut state = self.0.borrow_mut();
        while !bytes.is_empty() {
            bytes = state.filling.fill(bytes);
            if state.filling.len == BLOCK_BYTES {
                state.turn_block();
            }
        }
    }

    /// Returns once all that was appended so far is on the disk.
    pub async fn synced(&self) {
        let (sender, receiver) = oneshot::channel();
        {
            let mut state = self.0.borrow_mut();
            state.waiting.push(sender);
            state.begin();
        }
        receiver.await.expect("the writer ends with the process only");
    }
}

impl State {
    fn turn_block(&mut self) {
        let next = self.spare.pop().unwrap_or_else(Block::new);
        let block = std::mem::replace(&mut self.filling, next);
        self.full.push(block);
    }

    /// One group at a time, of whatever has come during the one before.
    fn begin(&mut self) {
        if self.writing.is_some() || self.waiting.is_empty() {
            return;
        }
        if self.filling.len > 0 {
            self.turn_block();
        }
        self.writing = Some(std::mem::take(&mut self.waiting));
        let group = std::mem::take(&mut self.full);
        self.groups.send(group).expect("as above");
    }

    fn end(&mut self, blocks: Group) {
        for waiter in self.writing.take().expect("a group was being written") {
            // Its client may have gone.
            let _ = waiter.send(());
        }
        self.spare
            .extend(blocks.into_iter().map(|block| Block { len: 0, ..block }));
        self.begin();
    }
}

fn prepare(path: &Path) -> io::Result<File> {
    let direct = rustix::fs::OFlags::DIRECT.bits() as i32;
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).custom_flags(direct);
    let file = options.open(path)?;
    std::fs::remove_file(path)?;
    let mut block = Block::new();
    block.len = BLOCK_BYTES;
    for at in (0..FILE_BYTES).step_by(BLOCK_BYTES) {
        file.write_all_at(block.pages(), at)?;
    }
    file.sync_data()?;
    Ok(file)
}

fn write_groups(
    file: &File,
    cpu: Option<usize>,
    groups: &mpsc::Receiver<Group>,
    written: &async_mpsc::UnboundedSender<Group>,
) {
    let mut at = 0;
    let mut write = |group: &Group| -> io::Result<()> {
        for block in group {
            if at + BLOCK_BYTES as u64 > FILE_BYTES {
                at = 0;
            }
            file.write_all_at(block.pages(), at)?;
            at += block.pages().len() as u64;
        }
        file.sync_data()
    };
    // The runtime's thread could be pinned there, so this one can.
    let _ = pin("--cpu", cpu);
    while let Ok(group) = groups.recv() {
        if let Err(error) = write(&group) {
            eprintln!("error: --log: {error}");
            std::process::exit(1);
        }
        if written.send(group).is_err() {
            return;
        }
    }
}
