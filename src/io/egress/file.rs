//! The file exporter.
//!
//! Lines are appended and synced before the log is told that they arrived. A file that ends in the middle of a
//! line was cut off by a crash: that line is removed at start, since its traces come again.

use glommio::io::{BufferedFile, OpenOptions};
use std::cell::{Cell, RefCell};
use std::fs;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::num::NonZeroU64;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// What stays of a file in the page cache, for whoever follows it.
const CACHED_BYTES: u64 = 32 << 20;

/// Bytes looked at together while the last line's begin is searched.
const TAIL_CHUNK: u64 = 64 << 10;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileOptions {
    pub path: PathBuf,
    pub rotation: Option<Rotation>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    pub file_bytes_max: u64,
    pub backup_count_max: u32,
}

/// One output file. One core writes it.
pub struct FileSink {
    options: FileOptions,
    /// Lines of several cores may come at the same time, and are written one after another.
    writing: futures_util::lock::Mutex<()>,
    open: RefCell<Option<Rc<Open>>>,
    reopen: Cell<bool>,
}

struct Open {
    file: BufferedFile,
    end: Cell<u64>,
    /// Up to here pages have left the cache.
    forgotten: Cell<u64>,
}

impl Open {
    /// Lets what was written a while ago leave the page cache: a reader that follows the file has had it, and the
    /// pages are there for what comes next, instead of ever new ones.
    fn forget_old_pages(&self) {
        let until = self.end.get().saturating_sub(CACHED_BYTES);
        if let Some(len) = NonZeroU64::new(until.saturating_sub(self.forgotten.get())) {
            let advice = rustix::fs::Advice::DontNeed;
            // SAFETY: the descriptor is open as long as `self.file` lives.
            let file = unsafe { BorrowedFd::borrow_raw(self.file.as_raw_fd()) };
            // Advice: nothing depends on its being taken.
            let _ = rustix::fs::fadvise(file, self.forgotten.get(), Some(len), advice);
            self.forgotten.set(until);
        }
    }
}

impl FileSink {
    /// Creates the file if need be and cuts a torn last line; errors say what to do.
    pub fn new(options: FileOptions) -> io::Result<FileSink> {
        if let Some(directory) = options
            .path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
        {
            fs::create_dir_all(directory)?;
        }
        let cut = cut_torn_line(&options.path)?;
        if cut > 0 {
            tracing::info!(path = %options.path.display(), bytes = cut, "removed an unfinished last line");
        }
        Ok(FileSink {
            options,
            writing: futures_util::lock::Mutex::new(()),
            open: RefCell::new(None),
            reopen: Cell::new(false),
        })
    }

    pub fn path(&self) -> &Path {
        &self.options.path
    }

    /// The file is opened by its name again before the next line: somebody moved it (SIGHUP).
    pub fn reopen(&self) {
        self.reopen.set(true);
    }

    /// Appends pieces of whole lines and syncs them. After an error nothing of them counts: what was written is cut
    /// off.
    pub async fn append(&self, lines: Vec<Vec<u8>>) -> Result<(), String> {
        let described = |error: io::Error| format!("{}: {error}", self.options.path.display());
        let writing = self.writing.lock().await;
        let result = self.try_append(lines).await;
        if result.is_err()
            && let Some(open) = self.open.take()
        {
            // If this fails too, whole lines may come twice, and the rest of a line is cut off at the next opening.
            let _ = open.file.truncate(open.end.get()).await;
        }
        drop(writing);
        result.map_err(described)
    }

    async fn try_append(&self, lines: Vec<Vec<u8>>) -> io::Result<()> {
        if self.reopen.take() {
            self.open.take();
        }
        let open = self.opened().await?;
        let len: usize = lines.iter().map(Vec::len).sum();
        let open = match self.options.rotation {
            Some(rotation) if open.end.get() > 0 && open.end.get() + len as u64 > rotation.file_bytes_max => {
                drop(open);
                self.open.take();
                rotate(&self.options.path, rotation.backup_count_max)?;
                self.opened().await?
            }
            _ => open,
        };
        let mut at = open.end.get();
        for piece in lines {
            let wanted = piece.len();
            // glommio keeps the bytes, so what is left of them cannot be tried again here.
            let written = open.file.write_at(piece, at).await.map_err(io::Error::from)?;
            if written < wanted {
                return Err(io::Error::new(
                    io::ErrorKind::WriteZero,
                    format!("took {written} of {wanted} bytes; is the file system full, or a quota reached?"),
                ));
            }
            at += written as u64;
        }
        open.file.fdatasync().await.map_err(io::Error::from)?;
        open.end.set(open.end.get() + len as u64);
        open.forget_old_pages();
        Ok(())
    }

    async fn opened(&self) -> io::Result<Rc<Open>> {
        if let Some(open) = self.open.borrow().as_ref() {
            return Ok(open.clone());
        }
        cut_torn_line(&self.options.path)?;
        let mut options = OpenOptions::new();
        options.write(true).create(true).mode(0o600);
        let file = options
            .buffered_open(&self.options.path)
            .await
            .map_err(io::Error::from)?;
        let end = file.file_size().await.map_err(io::Error::from)?;
        let open = Rc::new(Open {
            file,
            end: Cell::new(end),
            forgotten: Cell::new(end),
        });
        *self.open.borrow_mut() = Some(open.clone());
        Ok(open)
    }
}

/// `kept.jsonl` becomes `kept.jsonl.1`, that `.2`, and so on; what is beyond the count goes.
fn rotate(path: &Path, backup_count_max: u32) -> io::Result<()> {
    let backup = |number: u32| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{number}"));
        PathBuf::from(name)
    };
    for number in (1..=backup_count_max).rev() {
        let from = if number == 1 {
            path.to_path_buf()
        } else {
            backup(number - 1)
        };
        match fs::rename(&from, backup(number)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Cuts what stands after the last end of line. Returns how much that was.
fn cut_torn_line(path: &Path) -> io::Result<u64> {
    let mut file = fs::OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .open(path)?;
    let len = file.metadata()?.len();
    if !file.metadata()?.is_file() {
        return Ok(0);
    }
    let mut keep = len;
    while keep > 0 {
        let start = keep.saturating_sub(TAIL_CHUNK);
        let mut chunk = vec![0; (keep - start) as usize];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut chunk)?;
        if let Some(at) = chunk.iter().rposition(|byte| *byte == b'\n') {
            keep = start + at as u64 + 1;
            break;
        }
        keep = start;
    }
    if keep < len {
        file.set_len(keep)?;
        file.flush()?;
        file.sync_data()?;
    }
    Ok(len - keep)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run<T: Send + 'static>(work: impl AsyncFnOnce() -> T + Send + 'static) -> T {
        let builder = glommio::LocalExecutorBuilder::default();
        builder
            .spawn(move || async move { work().await })
            .expect("an executor")
            .join()
            .expect("no panic")
    }

    #[test]
    fn a_torn_last_line_is_cut_and_whole_ones_stay() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("kept.jsonl");
        for (before, after) in [("", ""), ("a\nb\n", "a\nb\n"), ("a\nb", "a\n"), ("torn", "")] {
            fs::write(&path, before).expect("written");
            cut_torn_line(&path).expect("cut");
            assert_eq!(fs::read_to_string(&path).expect("read"), after);
        }
        let long = format!("whole\n{}", "x".repeat(3 * TAIL_CHUNK as usize));
        fs::write(&path, long).expect("written");
        cut_torn_line(&path).expect("cut");
        assert_eq!(fs::read_to_string(&path).expect("read"), "whole\n");
    }

    #[test]
    fn files_rotate_by_size_and_the_oldest_goes() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("kept.jsonl");
        let rotation = Some(Rotation {
            file_bytes_max: 10,
            backup_count_max: 2,
        });
        let sink_path = path.clone();
        run(async move || {
            let sink = FileSink::new(FileOptions {
                path: sink_path,
                rotation,
            })
            .expect("a sink");
            for line in ["first-\n", "second\n", "third-\n", "fourth\n"] {
                sink.append(vec![line.into()]).await.expect("appended");
            }
        });
        let read = |suffix: &str| fs::read_to_string(format!("{}{suffix}", path.display())).ok();
        assert_eq!(read("").as_deref(), Some("fourth\n"));
        assert_eq!(read(".1").as_deref(), Some("third-\n"));
        assert_eq!(read(".2").as_deref(), Some("second\n"));
        assert_eq!(read(".3"), None);
    }

    #[test]
    fn a_moved_file_is_made_anew_after_reopen() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("kept.jsonl");
        let sink_path = path.clone();
        run(async move || {
            let options = FileOptions {
                path: sink_path.clone(),
                rotation: None,
            };
            let sink = FileSink::new(options).expect("a sink");
            sink.append(vec![b"one\n".to_vec()]).await.expect("appended");
            fs::rename(&sink_path, sink_path.with_extension("moved")).expect("moved");
            sink.reopen();
            sink.append(vec![b"two\n".to_vec()]).await.expect("appended");
        });
        assert_eq!(fs::read_to_string(&path).expect("read"), "two\n");
        assert_eq!(
            fs::read_to_string(path.with_extension("moved")).expect("read"),
            "one\n"
        );
    }
}
