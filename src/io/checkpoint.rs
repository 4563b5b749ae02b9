//! What was open at a clean stop, so that the next start need not fold it again from the logs.
//!
//! ```text
//!  checkpoint-{core:02}   magic u32 │ version u32 │ frame │ frame │ …          written beside, synced, renamed
//!  frame                  length u32 │ CRC32C of what follows u32 │ rkyv
//!  first frame            [`Header`]: whose it is, what it is worth, the logs that the core kept
//!  others                 open traces that the core owned, a thousand each
//! ```
//!
//! It is a shortcut, never a truth of its own: without it the logs are folded. It holds for the start that follows the stop
//! (incarnations count starts), for the same policies, and if there is one of every core of the stopped process. A start
//! takes it away before it writes anything. Whatever is wrong with it is said, and the logs are folded.

use super::datadir::DataDir;
use crate::base::ids::LogId;
use crate::base::time::Now;
use crate::landing::SavedLog;
use crate::table::{SavedTrace, Trace};
use hashbrown::HashMap;
use rkyv::rancor::Error as RkyvError;
use rkyv::{Archive, Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const MAGIC: u32 = u32::from_le_bytes(*b"tkC1");
const VERSION: u32 = 2;
const TRACES_PER_FRAME: usize = 1024;
/// No frame is larger; a length beyond it is damage.
const FRAME_BYTES_MAX: usize = 256 << 20;

/// What the frames hold, each checked by its CRC.
type Frames = Vec<Vec<u8>>;

/// What a checkpoint must agree in with who uses it.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Terms {
    pub node_id: String,
    /// Of the start whose end this is.
    pub incarnation: u64,
    /// Predicates are numbered by the policies.
    pub policies_hash: u64,
    /// Whether structure was looked at.
    pub structural: bool,
}

#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
struct Header {
    terms: Terms,
    core: u16,
    core_count: u16,
    logs: Vec<SavedLog>,
    trace_count: u64,
}

/// What all cores of the process before left behind.
pub struct Checkpoint {
    pub logs: HashMap<LogId, SavedLog>,
    frames: Frames,
}

fn path_of(directory: &Path, core: u16) -> PathBuf {
    directory.join(format!("checkpoint-{core:02}"))
}

/// Writes what one core leaves behind, durably.
pub fn write(
    directory: &Path,
    terms: &Terms,
    (core, core_count): (u16, u16),
    logs: Vec<SavedLog>,
    traces: impl Iterator<Item = SavedTrace>,
    trace_count: u64,
) -> io::Result<()> {
    let temporary = path_of(directory, core).with_extension("new");
    let _ = fs::remove_file(&temporary);
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    out.write_all(&MAGIC.to_le_bytes())?;
    out.write_all(&VERSION.to_le_bytes())?;
    let header = Header {
        terms: terms.clone(),
        core,
        core_count,
        logs,
        trace_count,
    };
    let encode = |error: RkyvError| io::Error::other(error.to_string());
    write_frame(&mut out, &rkyv::to_bytes::<RkyvError>(&header).map_err(encode)?)?;
    let mut traces = traces.peekable();
    while traces.peek().is_some() {
        let some: Vec<SavedTrace> = traces.by_ref().take(TRACES_PER_FRAME).collect();
        write_frame(&mut out, &rkyv::to_bytes::<RkyvError>(&some).map_err(encode)?)?;
    }
    let file = out.into_inner().map_err(|error| error.into_error())?;
    file.sync_all()?;
    fs::rename(&temporary, path_of(directory, core))?;
    File::open(directory)?.sync_all()
}

fn write_frame(out: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    let length = u32::try_from(bytes.len()).map_err(|_| io::Error::other("a frame of 4 GiB"))?;
    out.write_all(&length.to_le_bytes())?;
    out.write_all(&crc32c::crc32c(bytes).to_le_bytes())?;
    out.write_all(bytes)
}

/// Takes what the process before left behind, and takes it away. What cannot be used is said and left out.
pub fn take(data_dir: &DataDir, terms: &Terms) -> Option<Arc<Checkpoint>> {
    let directory = data_dir.path();
    let found = find(directory, terms);
    remove(directory);
    match found {
        Ok(None) => None,
        Ok(Some(checkpoint)) => Some(Arc::new(checkpoint)),
        Err(why) => {
            tracing::warn!("the checkpoint is not used, the logs are folded instead: {why}");
            None
        }
    }
}

fn remove(directory: &Path) {
    for core in 0..=u8::MAX {
        let path = path_of(directory, core.into());
        let _ = fs::remove_file(path.with_extension("new"));
        let _ = fs::remove_file(path);
    }
    let _ = File::open(directory).and_then(|directory| directory.sync_all());
}

fn find(directory: &Path, terms: &Terms) -> Result<Option<Checkpoint>, String> {
    let mut checkpoint = Checkpoint {
        logs: HashMap::new(),
        frames: Vec::new(),
    };
    let Some(first) = read(directory, 0)? else {
        return Ok(None);
    };
    let core_count = first.0.core_count;
    let mut all = vec![first];
    for core in 1..core_count {
        all.push(read(directory, core)?.ok_or_else(|| format!("that of core {core} is missing"))?);
    }
    for (core, (header, frames)) in all.into_iter().enumerate() {
        if header.terms != *terms {
            let (found, wanted) = (&header.terms, terms);
            return Err(match found.policies_hash == wanted.policies_hash {
                true => "it is of another start".to_string(),
                false => "the policies have changed".to_string(),
            });
        }
        if usize::from(header.core) != core || header.core_count != core_count {
            return Err("it is of another core".to_string());
        }
        checkpoint
            .logs
            .extend(header.logs.into_iter().map(|log| (LogId(log.log), log)));
        checkpoint.frames.extend(frames);
    }
    Ok(Some(checkpoint))
}

/// The file of one core, checked whole; `None`: there is none.
fn read(directory: &Path, core: u16) -> Result<Option<(Header, Frames)>, String> {
    let path = path_of(directory, core);
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32)
        .open(&path);
    let mut file = match opened {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("{}: {error}", path.display())),
        Ok(file) => io::BufReader::with_capacity(1 << 20, file),
    };
    let damaged = || format!("{}: is damaged", path.display());
    let mut word = || {
        let mut bytes = [0; 4];
        match file.read_exact(&mut bytes) {
            Ok(()) => Ok(Some(u32::from_le_bytes(bytes))),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    };
    if word()? != Some(MAGIC) {
        return Err(damaged());
    }
    if word()? != Some(VERSION) {
        return Err(format!("{}: was written by another version", path.display()));
    }
    let mut frames = Vec::new();
    loop {
        let mut bytes = [0; 8];
        match file.read_exact(&mut bytes) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
            Err(error) => return Err(error.to_string()),
        }
        let [a, b, c, d, e, f, g, h] = bytes;
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        if length > FRAME_BYTES_MAX {
            return Err(damaged());
        }
        let mut frame = vec![0; length];
        file.read_exact(&mut frame).map_err(|_| damaged())?;
        if crc32c::crc32c(&frame) != u32::from_le_bytes([e, f, g, h]) {
            return Err(damaged());
        }
        frames.push(frame);
    }
    if frames.is_empty() {
        return Err(damaged());
    }
    let header: Header = rkyv::from_bytes::<Header, RkyvError>(&frames.remove(0)).map_err(|_| damaged())?;
    let whole = header.trace_count.div_ceil(TRACES_PER_FRAME as u64) == frames.len() as u64;
    whole.then_some(Some((header, frames))).ok_or_else(damaged)
}

impl Checkpoint {
    /// The frames that one of so many cores hands on to the owners of the traces.
    pub fn share_of(&self, core: u16, core_count: u16) -> impl Iterator<Item = &[u8]> {
        self.frames
            .iter()
            .skip(usize::from(core))
            .step_by(usize::from(core_count))
            .map(Vec::as_slice)
    }
}

/// The traces of a frame; `None`: no version wrote it.
pub fn traces_of(frame: &[u8], now: Now) -> Option<Vec<Trace>> {
    let saved = rkyv::from_bytes::<Vec<SavedTrace>, RkyvError>(frame).ok()?;
    saved.iter().map(|saved| Trace::restore(now, saved)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms() -> Terms {
        Terms {
            node_id: "a".to_string(),
            incarnation: 7,
            policies_hash: 9,
            structural: true,
        }
    }

    fn trace(number: u8) -> SavedTrace {
        SavedTrace {
            id: [number; 16],
            predicates: u128::from(number) << 114,
            start_ns: 1,
            end_ns: 2,
            bytes: 3,
            randomness: Some(7),
            span_count: 4,
            expected_count: 0,
            has_root: true,
            has_error: false,
            opened_at: 5,
            root_at: Some(6),
            spans: vec![1, 2, 3],
            parents: vec![],
            given_up: None,
            places: vec![(0, 64, 1)],
            shares: vec![],
        }
    }

    fn write_two(directory: &Path) {
        for core in 0..2 {
            let traces = (1..=3).map(|number| trace(number + 10 * core as u8));
            write(directory, &terms(), (core, 2), Vec::new(), traces, 3).expect("written");
        }
    }

    #[test]
    fn what_was_written_is_read_back_by_any_number_of_cores() {
        let directory = tempfile::tempdir().expect("a directory");
        write_two(directory.path());
        let checkpoint = find(directory.path(), &terms()).expect("sound").expect("there");
        let now = Now {
            instant: crate::base::time::Instant(100),
            wall: crate::base::time::WallTime(100),
        };
        let shares = (0..3).flat_map(|core| checkpoint.share_of(core, 3));
        let traces = shares.flat_map(|frame| traces_of(frame, now).expect("sound"));
        assert_eq!(traces.count(), 6);
    }

    #[test]
    fn no_damaged_or_foreign_checkpoint_is_used() {
        let directory = tempfile::tempdir().expect("a directory");
        assert!(find(directory.path(), &terms()).expect("no harm").is_none());
        write_two(directory.path());
        let other = [
            Terms {
                incarnation: 8,
                ..terms()
            },
            Terms {
                policies_hash: 1,
                ..terms()
            },
        ];
        assert!(other.iter().all(|other| find(directory.path(), other).is_err()));
        let path = path_of(directory.path(), 1);
        let whole = fs::read(&path).expect("there");
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x40;
            fs::write(&path, &bytes).expect("written");
            assert!(find(directory.path(), &terms()).is_err(), "byte {at}");
            fs::write(&path, &whole[..at]).expect("written");
            assert!(find(directory.path(), &terms()).is_err(), "cut at {at}");
        }
        fs::remove_file(&path).expect("there");
        assert!(find(directory.path(), &terms()).is_err());
    }
}
