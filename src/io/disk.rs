//! The disk under the logs: DMA blocks and the execution of disk operations on io_uring.
//!
//! A log is a directory of segment files. Every operation of [`crate::wal::DiskOp`] is carried out here, once,
//! and its result reported as it is: deciding what a failure means is the log's.

use super::datadir;
use crate::base::block::{BLOCK_BYTES, PAGE_BYTES};
use crate::base::ids::LogId;
use crate::landing::fetch::{ReadOp, WhichLog};
use crate::wal::{DiskError, DiskOp, SegmentId};
use glommio::GlommioError;
use glommio::io::{DmaFile, OpenOptions};
use hashbrown::HashMap;
use std::cell::RefCell;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

mod pool;

pub use pool::{DmaBlock, DmaPool, DmaShared};

use pool::Spares;

/// The files of the logs that one core keeps.
pub struct Disk {
    data_dir: PathBuf,
    files: RefCell<HashMap<(Directory, SegmentId), Rc<DmaFile>>>,
    /// Flushes of this process that failed, whoever asked for them. A device may let go of everybody's writes with a
    /// flush that fails, and say so only once.
    failed_flushes: Arc<AtomicU64>,
    /// How many had failed when the first write of a segment began.
    failed_before: RefCell<HashMap<(Directory, SegmentId), u64>>,
    /// For what is written of a block whose beginning went to disk before.
    rests: RefCell<Spares>,
}

/// One of the two directories of segments that a log has.
type Directory = (LogId, WhichLog);

impl Disk {
    /// `data_dir` is absolute. At most so many bytes of buffers are kept for their next use.
    /// `failed_flushes` is shared by all cores.
    pub fn new(data_dir: PathBuf, spare_bytes_max: usize, failed_flushes: Arc<AtomicU64>) -> Disk {
        Disk {
            data_dir,
            files: RefCell::default(),
            failed_flushes,
            failed_before: RefCell::default(),
            rests: RefCell::new(Spares::new(spare_bytes_max)),
        }
    }

    /// Of buffers that wait for their next use.
    pub fn spare_bytes(&self) -> usize {
        self.rests.borrow().bytes()
    }

    fn directory(&self, (log, which): Directory) -> PathBuf {
        datadir::log_path(&self.data_dir, which, log)
    }

    fn path(&self, log: Directory, segment: SegmentId) -> PathBuf {
        self.directory(log).join(segment.file_name())
    }

    /// Carries out one operation.
    pub async fn execute(&self, log: LogId, which: WhichLog, op: DiskOp<DmaPool>) -> Result<(), DiskError> {
        let log = (log, which);
        match op {
            DiskOp::OpenSegment {
                segment,
                size,
                reuse,
                header,
                ..
            } => {
                let opened = self.open_segment(log, segment, size, reuse, &header[..]).await;
                if opened.is_err() {
                    self.files.borrow_mut().remove(&(log, segment));
                    for leftover in [Some(segment), reuse].into_iter().flatten() {
                        let _ = std::fs::remove_file(self.path(log, leftover));
                    }
                }
                opened
            }
            DiskOp::Write {
                segment,
                offset,
                data,
                from,
            } => {
                let file = self.file(log, segment).await?;
                let failed = self.failed_flushes.load(Ordering::Relaxed);
                self.failed_before
                    .borrow_mut()
                    .entry((log, segment))
                    .or_insert(failed);
                self.write(&file, data, from, offset).await
            }
            DiskOp::Sync { segment } => {
                let file = self.file(log, segment).await?;
                let synced = file.fdatasync().await.map_err(disk_error);
                self.check_flush(synced)?;
                let failed = self.failed_flushes.load(Ordering::Relaxed);
                match self.failed_before.borrow_mut().get(&(log, segment)) {
                    Some(before) if *before != failed => Err(DiskError::FlushFailedElsewhere),
                    _ => Ok(()),
                }
            }
            DiskOp::Remove { segment } => {
                self.close(log, segment).await;
                match std::fs::remove_file(self.path(log, segment)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error(&error)),
                    _ => self.sync_directory(log).await,
                }
            }
        }
    }

    /// Counts a flush that failed.
    fn check_flush(&self, flushed: Result<(), DiskError>) -> Result<(), DiskError> {
        if flushed.is_err() {
            self.failed_flushes.fetch_add(1, Ordering::Relaxed);
        }
        flushed
    }

    async fn open_segment(
        &self,
        log: Directory,
        segment: SegmentId,
        size: u64,
        reuse: Option<SegmentId>,
        header: &[u8],
    ) -> Result<(), DiskError> {
        let failed_before = self.failed_flushes.load(Ordering::Relaxed);
        let path = self.path(log, segment);
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .mode(0o600)
            .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32);
        let file = match reuse {
            Some(old) => {
                self.close(log, old).await;
                std::fs::rename(self.path(log, old), &path).map_err(|error| io_error(&error))?;
                options.dma_open(&path).await.map_err(disk_error)?
            }
            None => {
                match std::fs::remove_file(&path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_error(&error)),
                    _ => {}
                }
                options.create_new(true);
                let file = options.dma_open(&path).await.map_err(disk_error)?;
                file.pre_allocate(PAGE_BYTES as u64 + size, false)
                    .await
                    .map_err(disk_error)?;
                self.write_zeros(&file, size).await?;
                file
            }
        };
        let mut page = glommio::allocate_dma_buffer(PAGE_BYTES);
        page.as_bytes_mut().copy_from_slice(header);
        let written = file.write_at(page, 0).await.map_err(disk_error)?;
        if written != PAGE_BYTES {
            return Err(DiskError::ShortWrite {
                written: written as u64,
            });
        }
        self.check_flush(file.fdatasync().await.map_err(disk_error))?;
        let synced = self.sync_directory(log).await;
        self.check_flush(synced)?;
        // Both may have said yes because the journal failed just before they asked. Changes nothing, but needs the
        // journal: if that is gone, what they should have made durable may be, too.
        file.pre_allocate(PAGE_BYTES as u64 + size, false)
            .await
            .map_err(disk_error)?;
        if self.failed_flushes.load(Ordering::Relaxed) != failed_before {
            return Err(DiskError::FlushFailedElsewhere);
        }
        self.files.borrow_mut().insert((log, segment), Rc::new(file));
        Ok(())
    }

    /// Gives the data bytes of a new file their extents.
    ///
    /// Written into space that is only preallocated, data is there once the file system's journal says so. When the
    /// journal fails for anybody's sake, ext4 tells whoever waits for it, and says yes to the next fdatasync of a
    /// file whose extents went with it. Over written extents an fdatasync flushes the device and nothing else.
    async fn write_zeros(&self, file: &DmaFile, size: u64) -> Result<(), DiskError> {
        let mut zeros = glommio::allocate_dma_buffer(BLOCK_BYTES);
        zeros.as_bytes_mut().fill(0);
        let zeros = Rc::new(zeros);
        for offset in (PAGE_BYTES as u64..)
            .step_by(BLOCK_BYTES)
            .take((size / BLOCK_BYTES as u64) as usize)
        {
            let written = file
                .write_rc_at(zeros.clone(), offset)
                .await
                .map_err(disk_error)?;
            if written != BLOCK_BYTES {
                return Err(DiskError::ShortWrite {
                    written: written as u64,
                });
            }
        }
        Ok(())
    }

    async fn sync_directory(&self, log: Directory) -> Result<(), DiskError> {
        let directory = glommio::io::Directory::open(self.directory(log))
            .await
            .map_err(disk_error)?;
        let synced = directory.sync().await.map_err(disk_error);
        let _ = directory.close().await;
        synced
    }

    /// The open file of a segment; one that was there before this process is opened when first needed.
    async fn file(&self, log: Directory, segment: SegmentId) -> Result<Rc<DmaFile>, DiskError> {
        if let Some(file) = self.files.borrow().get(&(log, segment)) {
            return Ok(file.clone());
        }
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32);
        let file = Rc::new(
            options
                .dma_open(self.path(log, segment))
                .await
                .map_err(disk_error)?,
        );
        self.files.borrow_mut().insert((log, segment), file.clone());
        Ok(file)
    }

    async fn close(&self, log: Directory, segment: SegmentId) {
        let file = self.files.borrow_mut().remove(&(log, segment));
        self.failed_before.borrow_mut().remove(&(log, segment));
        if let Some(file) = file {
            let _ = file.close_rc().await;
        }
    }

    /// A block whose beginning went to disk before is written from a copy of the rest: a registered buffer can
    /// only be written whole, and this happens once per group.
    async fn write(
        &self,
        file: &DmaFile,
        data: DmaShared,
        from: usize,
        offset: u64,
    ) -> Result<(), DiskError> {
        let len = data.as_ref().len() - from;
        let written = if from == 0 {
            file.write_rc_at(data.0, offset).await
        } else {
            let mut rest = self.rests.borrow_mut().take(len);
            rest.as_bytes_mut().copy_from_slice(&data.as_ref()[from..]);
            drop(data);
            let rest = Rc::new(rest);
            let written = file.write_rc_at(rest.clone(), offset).await;
            if let Ok(rest) = Rc::try_unwrap(rest) {
                self.rests.borrow_mut().give(rest);
            }
            written
        };
        match written.map_err(disk_error)? {
            written if written == len => Ok(()),
            written => Err(DiskError::ShortWrite {
                written: written as u64,
            }),
        }
    }

    /// The bytes at an entry's place, fewer at the end of the file; `None` if the disk refuses.
    pub async fn read(&self, log: LogId, op: ReadOp) -> Option<Vec<u8>> {
        let file = self.file((log, op.log), op.segment).await.ok()?;
        match file.read_at(op.offset, op.len).await {
            Ok(read) => Some(read.to_vec()),
            Err(error) => {
                tracing::error!(%error, segment = %op.segment.file_name(), offset = op.offset, "cannot read the log");
                None
            }
        }
    }
}

fn disk_error(error: GlommioError<()>) -> DiskError {
    tracing::error!(%error, "disk operation failed");
    // Asked of glommio's error: as one of `std::io` it has lost its number.
    from_number(error.raw_os_error())
}

fn io_error(error: &io::Error) -> DiskError {
    tracing::error!(%error, "disk operation failed");
    from_number(error.raw_os_error())
}

fn from_number(number: Option<i32>) -> DiskError {
    match number {
        Some(code) if code == rustix::io::Errno::NOSPC.raw_os_error() => DiskError::NoSpace,
        Some(code) if code == rustix::io::Errno::DQUOT.raw_os_error() => DiskError::NoSpace,
        Some(code) if code == rustix::io::Errno::CANCELED.raw_os_error() => DiskError::Cancelled,
        Some(code) => DiskError::Io(code),
        None => DiskError::Io(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_from_a_failing_one_whatever_glommio_adds() {
        let full = || io::Error::from(rustix::io::Errno::NOSPC);
        let enhanced = GlommioError::EnhancedIoError {
            source: full(),
            op: "Pre-allocate space",
            path: None,
            fd: None,
        };
        assert_eq!(disk_error(enhanced), DiskError::NoSpace);
        assert_eq!(disk_error(GlommioError::IoError(full())), DiskError::NoSpace);
        let failing = io::Error::from(rustix::io::Errno::IO);
        assert_eq!(io_error(&failing), DiskError::Io(5));
    }
}
