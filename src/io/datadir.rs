//! The data directory: whose it is, what it is called, and which files of logs are in it.
//!
//! ```text
//!  data_dir/            0700
//!    lock               held by the one process that may write here
//!    node               identity of this directory, JSON, replaced by rename
//!    policies           names of policies that verdicts in the logs may have, JSON, likewise
//!    *.new              the version before of either, or the next one half written: space for a start on a full disk
//!    log-00/            segments of log 0: {segment id:016x}.seg, 0600
//!    kept-00/           segments of its kept log
//! ```

use crate::base::ids::LogId;
use crate::gossip::NodeId;
use crate::landing::fetch::WhichLog;
use crate::route::HashKey;
use crate::wal::SegmentId;
use rustix::fs::{CWD, FlockOperation, Mode, OFlags, RenameFlags};
use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher13;
use std::fs::{self, File, OpenOptions};
use std::hash::Hasher;
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use thiserror::Error;

/// Format of the directory as a whole. A newer one is refused and left alone.
const FORMAT: u32 = 1;

/// Why a directory cannot be used. Nothing in it was changed.
#[derive(Debug, Error)]
pub enum DataDirError {
    #[error("{path}: {error}")]
    Io { path: PathBuf, error: io::Error },
    #[error("{path}: another tailkeep uses this data directory; stop it or set node.data_dir")]
    Locked { path: PathBuf },
    #[error(
        "{path}: is on a tmpfs, which does not survive power loss; choose a disk with node.data_dir, or set \
         wal.durability: none"
    )]
    Tmpfs { path: PathBuf },
    #[error(
        "{path}: was written by a newer tailkeep (format {format}, this one reads {FORMAT}); nothing was touched"
    )]
    Newer { path: PathBuf, format: u32 },
    #[error("{path}: is damaged: {why}; if the logs beside it must be kept, restore it from a backup")]
    Damaged { path: PathBuf, why: String },
}

/// Who this directory is, from its first use on.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Identity {
    format: u32,
    /// 16 hexadecimal digits, drawn once.
    pub node_id: String,
    /// Counts starts; never goes back. In a cluster the clock may raise it.
    pub incarnation: u64,
    /// Keys the hash of trace ids and the fingerprints in the log: two times 16 hexadecimal digits.
    hash_key: [String; 2],
}

impl Identity {
    fn draw() -> Identity {
        let hex = || format!("{:016x}", random_u64());
        Identity {
            format: FORMAT,
            node_id: hex(),
            incarnation: 0,
            hash_key: [hex(), hex()],
        }
    }

    pub fn hash_key(&self) -> Option<HashKey> {
        let parse = |text: &String| u64::from_str_radix(text, 16).ok();
        Some(HashKey([parse(&self.hash_key[0])?, parse(&self.hash_key[1])?]))
    }
}

/// Eight bytes of the kernel's randomness.
pub fn random_u64() -> u64 {
    let mut bytes = [0; 8];
    let drawn = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    assert_eq!(
        drawn,
        Ok(bytes.len()),
        "the kernel gives eight random bytes at once after boot"
    );
    u64::from_ne_bytes(bytes)
}

/// A directory that this process alone may write to, until it is dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    identity: Identity,
    incarnation: AtomicU64,
    logs: Vec<LogId>,
    _lock: File,
}

impl DataDir {
    /// Creates the directory if there is none, takes its lock, and counts a start.
    pub fn open(path: &Path, tmpfs_allowed: bool) -> Result<DataDir, DataDirError> {
        let io = |error| DataDirError::Io {
            path: path.to_path_buf(),
            error,
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(io)?;
        let path = &path.canonicalize().map_err(io)?;
        const TMPFS_MAGIC: u64 = 0x0102_1994;
        const RAMFS_MAGIC: u64 = 0x8584_58f6;
        let kind = rustix::fs::statfs(path).map_err(|error| io(error.into()))?.f_type as u64;
        if !tmpfs_allowed && matches!(kind & 0xffff_ffff, TMPFS_MAGIC | RAMFS_MAGIC) {
            return Err(DataDirError::Tmpfs { path: path.clone() });
        }
        let lock = lock(path)?;
        let mut identity = read_identity(path)?.unwrap_or_else(Identity::draw);
        identity.incarnation += 1;
        write_json(path, "node", &identity).map_err(io)?;
        let logs = find_logs(path);
        sync_directory(path).map_err(io)?;
        Ok(DataDir {
            path: path.clone(),
            incarnation: AtomicU64::new(identity.incarnation),
            identity,
            logs,
            _lock: lock,
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// For other nodes this start is `least` at least: a directory that came back from a backup counts from there,
    /// and must not be taken for an earlier life.
    pub fn raise_incarnation(&self, least: u64) -> Result<(), DataDirError> {
        if self.incarnation() >= least {
            return Ok(());
        }
        let identity = Identity {
            incarnation: least,
            ..self.identity.clone()
        };
        write_json(&self.path, "node", &identity).map_err(|error| DataDirError::Io {
            path: self.path.join("node"),
            error,
        })?;
        self.incarnation.store(least, Ordering::Relaxed);
        Ok(())
    }

    /// Counts starts, and tells one life of the node from another.
    pub fn incarnation(&self) -> u64 {
        self.incarnation.load(Ordering::Relaxed)
    }

    /// What other nodes know this directory by.
    pub fn node_id(&self) -> NodeId {
        NodeId(u64::from_str_radix(&self.identity.node_id, 16).unwrap_or(0))
    }

    pub fn hash_key(&self) -> HashKey {
        self.identity
            .hash_key()
            .expect("checked when the directory was opened")
    }

    /// The logs of the directory, in order.
    pub fn logs(&self) -> &[LogId] {
        &self.logs
    }

    /// Sees to it that there are logs 0 to `count`, each with its kept log, beside those of earlier starts.
    pub fn add_logs(&mut self, count: u8) -> Result<(), DataDirError> {
        let mut wanted = self.logs.clone();
        wanted.extend((0..count).map(LogId));
        wanted.sort();
        wanted.dedup();
        for log in &wanted {
            for which in [WhichLog::Main, WhichLog::Kept] {
                make_directory(&self.log_path(which, *log))?;
            }
        }
        self.logs = wanted;
        sync_directory(&self.path).map_err(|error| DataDirError::Io {
            path: self.path.clone(),
            error,
        })
    }

    /// What policy numbers mean in this process: first the configuration's names, then others that verdicts in
    /// the logs may have. Names of the configuration are known to later starts from now on.
    pub fn policy_names(&self, configured: &[String]) -> Result<Vec<String>, DataDirError> {
        self.replace_policy_names(|known| with_names(configured.to_vec(), known))
    }

    /// Names that the decisions of peers brought: later starts know them too.
    pub fn add_policy_names(&self, learned: &[String]) -> Result<(), DataDirError> {
        self.replace_policy_names(|known| with_names(known.to_vec(), learned))
            .map(drop)
    }

    fn replace_policy_names(
        &self,
        replace: impl FnOnce(&[String]) -> Vec<String>,
    ) -> Result<Vec<String>, DataDirError> {
        const FILE: &str = "policies";
        let known: Vec<String> = read_json(&self.path, FILE)?.unwrap_or_default();
        let names = replace(&known);
        if names != known {
            write_json(&self.path, FILE, &names).map_err(|error| DataDirError::Io {
                path: self.path.join(FILE),
                error,
            })?;
        }
        Ok(names)
    }

    /// Bytes of the files of a log.
    pub fn log_bytes(&self, which: WhichLog, log: LogId) -> u64 {
        let files = fs::read_dir(self.log_path(which, log))
            .into_iter()
            .flatten()
            .flatten();
        files.filter_map(|file| Some(file.metadata().ok()?.len())).sum()
    }

    /// Removes a log in which nothing waits. What is not ours stays, and the directory with it; what cannot be
    /// removed now will be at a later start.
    pub fn remove_log(&self, log: LogId) {
        for which in [WhichLog::Kept, WhichLog::Main] {
            let path = self.log_path(which, log);
            let removed = segments(&path).and_then(|(segments, _)| {
                // Oldest first: what is left by a crash is the newer part of a log, as always.
                for segment in segments {
                    fs::remove_file(path.join(segment.file_name()))?;
                }
                fs::remove_dir(&path)?;
                sync_directory(&self.path)
            });
            match removed {
                Ok(()) => {
                    tracing::info!(directory = %path.display(), "removed: no core writes it, nothing waits in it");
                }
                Err(error) => tracing::warn!(directory = %path.display(), %error, "an old log stays"),
            }
        }
    }

    pub fn log_path(&self, which: WhichLog, log: LogId) -> PathBuf {
        log_path(&self.path, which, log)
    }

    pub fn log_seed(&self, which: WhichLog, log: LogId) -> u64 {
        log_seed(self.hash_key(), which, log)
    }
}

/// What the checks of a log's entries are seeded with. It follows from the key of the directory, so that a log can be
/// read of which no segment has a sound header.
fn log_seed(key: HashKey, which: WhichLog, log: LogId) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(key.0[0], key.0[1]);
    hasher.write(&[which as u8, log.0]);
    hasher.finish()
}

/// The same for whoever does not hold the lock; `None`: the directory does not say who it is.
pub fn log_seed_of(data_dir: &Path, which: WhichLog, log: LogId) -> Option<u64> {
    let key = read_identity(data_dir).ok()??.hash_key()?;
    Some(log_seed(key, which, log))
}

/// `names`, and behind them those of `more` that are not among them.
fn with_names(mut names: Vec<String>, more: &[String]) -> Vec<String> {
    /// More than anybody has; older names are forgotten, and with them who decided.
    const COUNT_MAX: usize = 4096;
    for name in more {
        if names.len() < COUNT_MAX && !names.contains(name) {
            names.push(name.clone());
        }
    }
    names
}

fn find_logs(data_dir: &Path) -> Vec<LogId> {
    let there = |log, which| fs::symlink_metadata(log_path(data_dir, which, log)).is_ok();
    (0..=u8::MAX)
        .map(LogId)
        .filter(|log| there(*log, WhichLog::Main) || there(*log, WhichLog::Kept))
        .collect()
}

fn make_directory(path: &Path) -> Result<(), DataDirError> {
    let io = |error| DataDirError::Io {
        path: path.to_path_buf(),
        error,
    };
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(io(error)),
        _ => {}
    }
    match fs::symlink_metadata(path).map_err(io)?.is_dir() {
        true => Ok(()),
        false => Err(DataDirError::Damaged {
            path: path.to_path_buf(),
            why: "it is not a directory".to_string(),
        }),
    }
}

/// Whether [`DataDir::open`] would take this directory as far as its lock and its format go. Nothing is changed.
pub fn examine(directory: &Path) -> Result<(), DataDirError> {
    let path = directory.join("lock");
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::open(&path, flags, Mode::empty()) {
        Err(rustix::io::Errno::NOENT) => {}
        Err(error) => {
            let error = error.into();
            return Err(DataDirError::Io { path, error });
        }
        Ok(file) => match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let path = directory.to_path_buf();
                return Err(DataDirError::Locked { path });
            }
            // Let go again with the file.
            _ => drop(file),
        },
    }
    read_identity(directory).map(drop)
}

/// Where the segments of a log are; also for readers that do not hold the lock.
pub fn log_path(data_dir: &Path, which: WhichLog, log: LogId) -> PathBuf {
    let prefix = match which {
        WhichLog::Main => "log",
        WhichLog::Kept => "kept",
    };
    data_dir.join(format!("{prefix}-{:02}", log.0))
}

/// The segment files of a log, by id. Anything else that lies there is named in the second list and left
/// alone: links and pipes are never followed.
pub fn segments(directory: &Path) -> io::Result<(Vec<SegmentId>, Vec<PathBuf>)> {
    let (mut segments, mut foreign) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let segment = entry.file_name().to_str().and_then(SegmentId::from_file_name);
        match segment {
            Some(segment) if entry.file_type()?.is_file() => segments.push(segment),
            _ => foreign.push(entry.path()),
        }
    }
    segments.sort();
    Ok((segments, foreign))
}

/// Opens a segment for reading, never through a link.
pub fn open_segment(directory: &Path, segment: SegmentId) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::NOFOLLOW.bits() as i32)
        .open(directory.join(segment.file_name()))
}

fn lock(directory: &Path) -> Result<File, DataDirError> {
    let path = directory.join("lock");
    let io = |error: rustix::io::Errno| DataDirError::Io {
        path: path.clone(),
        error: error.into(),
    };
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::open(&path, flags, Mode::from_raw_mode(0o600)).map_err(io)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file.into()),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(DataDirError::Locked {
            path: directory.to_path_buf(),
        }),
        Err(error) => Err(io(error)),
    }
}

fn read_identity(directory: &Path) -> Result<Option<Identity>, DataDirError> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    const FILE: &str = "node";
    let Some(Format { format }) = read_json(directory, FILE)? else {
        return Ok(None);
    };
    let path = directory.join(FILE);
    if format > FORMAT {
        return Err(DataDirError::Newer { path, format });
    }
    let identity: Option<Identity> = read_json(directory, FILE)?;
    if identity
        .as_ref()
        .is_some_and(|identity| identity.hash_key().is_none() || !is_hex(&identity.node_id))
    {
        return Err(DataDirError::Damaged {
            path,
            why: "hash_key or node_id is not hexadecimal".to_string(),
        });
    }
    Ok(identity)
}

fn is_hex(text: &str) -> bool {
    u64::from_str_radix(text, 16).is_ok()
}

/// A small file of the directory, never through a link; `None`: there is none.
fn read_json<T: serde::de::DeserializeOwned>(
    directory: &Path,
    name: &str,
) -> Result<Option<T>, DataDirError> {
    const BYTES_MAX: u64 = 4 << 20;
    let path = directory.join(name);
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::NOFOLLOW.bits() as i32)
        .open(&path);
    let mut text = String::new();
    let read = file.and_then(|file| file.take(BYTES_MAX).read_to_string(&mut text));
    match read {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(DataDirError::Io { path, error }),
        Ok(_) => {}
    }
    let damaged = |why: serde_json::Error| DataDirError::Damaged {
        path,
        why: why.to_string(),
    };
    serde_json::from_str(&text).map(Some).map_err(damaged)
}

/// Replaces a small file of the directory, durably, and without new space where that is possible: the version
/// before stays beside it, and the next one is written over it. A start works on a full disk too.
fn write_json(directory: &Path, name: &str, value: &impl Serialize) -> io::Result<()> {
    let text = serde_json::to_string(value)?;
    let (path, spare) = (directory.join(name), directory.join(format!("{name}.new")));
    let write = || -> io::Result<()> {
        let mut file = open_spare(&spare)?;
        file.write_all(text.as_bytes())?;
        file.set_len(text.len() as u64)?;
        file.sync_all()
    };
    write()?;
    let exchanged = rustix::fs::renameat_with(CWD, &spare, CWD, &path, RenameFlags::EXCHANGE);
    if exchanged.is_err() {
        // There is none yet, or the file system cannot.
        fs::rename(&spare, &path)?;
        if let Err(error) = write() {
            tracing::debug!(path = %spare.display(), %error, "no space is set aside for the next version");
        }
    }
    sync_directory(directory)
}

/// The file that a version is written to: what is there if it is ours alone, or a new one.
fn open_spare(path: &Path) -> io::Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
    let there = OpenOptions::new().write(true).custom_flags(flags).open(path);
    if let Ok(file) = there {
        let is_ours = file.metadata().map(|data| data.is_file() && data.nlink() == 1)?;
        if is_ours {
            return Ok(file);
        }
    }
    let _ = fs::remove_file(path);
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory() -> tempfile::TempDir {
        tempfile::tempdir().expect("a directory")
    }

    #[test]
    fn a_directory_keeps_its_identity_and_counts_starts() {
        let directory = directory();
        let path = directory.path().join("data");
        let first = DataDir::open(&path, true).expect("new").identity().clone();
        let second = DataDir::open(&path, true).expect("again").identity().clone();
        assert_eq!(first.incarnation + 1, second.incarnation);
        assert_eq!((first.node_id, first.hash_key), (second.node_id, second.hash_key));
    }

    #[test]
    fn the_version_before_stays_and_a_link_in_its_place_is_not_followed() {
        let directory = directory();
        let open = || {
            DataDir::open(directory.path(), true)
                .expect("it opens")
                .incarnation()
        };
        let stands = |name: &str| {
            let text = fs::read_to_string(directory.path().join(name)).expect("it is there");
            serde_json::from_str::<Identity>(&text)
                .expect("an identity")
                .incarnation
        };
        assert_eq!((open(), open()), (1, 2));
        assert_eq!((stands("node"), stands("node.new")), (2, 1));

        let (spare, other) = (directory.path().join("node.new"), directory.path().join("other"));
        fs::write(&other, "other").expect("written");
        fs::remove_file(&spare).expect("removed");
        std::os::unix::fs::symlink(&other, &spare).expect("linked");
        assert_eq!((open(), stands("node")), (3, 3));
        fs::remove_file(&spare).expect("removed");
        fs::hard_link(&other, &spare).expect("linked");
        assert_eq!((open(), stands("node")), (4, 4));
        assert_eq!(fs::read_to_string(&other).expect("read"), "other");
    }

    #[test]
    fn an_incarnation_that_was_raised_stays_so() {
        let directory = directory();
        let first = DataDir::open(directory.path(), true).expect("new");
        first.raise_incarnation(1_000).expect("written");
        first.raise_incarnation(5).expect("nothing to write");
        drop(first);
        let second = DataDir::open(directory.path(), true).expect("again");
        assert_eq!(second.identity().incarnation, 1_001);
    }

    #[test]
    fn a_second_process_is_refused() {
        let directory = directory();
        let _first = DataDir::open(directory.path(), true).expect("new");
        assert!(matches!(
            DataDir::open(directory.path(), true),
            Err(DataDirError::Locked { .. })
        ));
    }

    #[test]
    fn logs_of_earlier_starts_stay_and_names_are_remembered() {
        let directory = directory();
        let names = |all: &[&str]| all.iter().map(|name| name.to_string()).collect::<Vec<_>>();
        let mut data = DataDir::open(directory.path(), true).expect("new");
        data.add_logs(3).expect("made");
        data.policy_names(&names(&["errors", "slow"])).expect("written");
        drop(data);
        let mut data = DataDir::open(directory.path(), true).expect("again");
        data.add_logs(1).expect("made");
        assert_eq!(data.logs(), [LogId(0), LogId(1), LogId(2)]);
        let known = data.policy_names(&names(&["slow", "new"])).expect("read");
        assert_eq!(known, names(&["slow", "new", "errors"]));
    }

    #[test]
    fn names_of_peers_are_remembered_behind_our_own() {
        let directory = directory();
        let names = |all: &[&str]| all.iter().map(|name| name.to_string()).collect::<Vec<_>>();
        let data = DataDir::open(directory.path(), true).expect("new");
        data.policy_names(&names(&["errors"])).expect("written");
        data.add_policy_names(&names(&["theirs", "theirs too"]))
            .expect("written");
        drop(data);
        let data = DataDir::open(directory.path(), true).expect("again");
        let known = data.policy_names(&names(&["new", "errors"])).expect("read");
        assert_eq!(known, names(&["new", "errors", "theirs", "theirs too"]));
    }

    #[test]
    fn a_newer_format_is_refused_and_untouched() {
        let directory = directory();
        drop(DataDir::open(directory.path(), true).expect("new"));
        let newer = r#"{"format":99,"later":true}"#;
        fs::write(directory.path().join("node"), newer).expect("written");
        assert!(matches!(
            DataDir::open(directory.path(), true),
            Err(DataDirError::Newer { format: 99, .. })
        ));
        assert_eq!(
            fs::read_to_string(directory.path().join("node")).expect("still there"),
            newer
        );
    }

    #[test]
    fn links_and_foreign_files_are_no_segments() {
        let directory = directory();
        let mut data = DataDir::open(directory.path(), true).expect("new");
        data.add_logs(1).expect("made");
        let log = data.log_path(WhichLog::Main, LogId(0));
        fs::write(log.join(SegmentId(7).file_name()), b"x").expect("written");
        fs::write(log.join("notes.txt"), b"x").expect("written");
        std::os::unix::fs::symlink("/etc/passwd", log.join(SegmentId(8).file_name())).expect("linked");
        let (segments, foreign) = segments(&log).expect("listed");
        assert_eq!(segments, [SegmentId(7)]);
        assert_eq!(foreign.len(), 2);
        assert!(open_segment(&log, SegmentId(8)).is_err());
    }
}
