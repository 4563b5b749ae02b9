//! Where the log would lie: the directory, its disk, and what that disk can do.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, OFlags, StatVfs};

use super::finding::{Finding, Findings};
use crate::commands::run::min_free_bytes;
use crate::commands::show;
use crate::config::Config;
use crate::config::options::Durability;
use crate::io::clock::Clock;
use crate::io::datadir::{self, random_u64};

/// What `O_DIRECT` wants on every disk there is.
const PAGE_BYTES: usize = 4096;
const SYNC_TRIES: usize = 9;
/// Replies wait for syncs: a disk that is slower makes every client slow.
const SYNC_MS_WISE: f64 = 20.0;

/// File systems by the number that statfs tells.
const KINDS: [(u64, &str); 15] = [
    (0xef53, "ext4"),
    (0x5846_5342, "xfs"),
    (0x9123_683e, "btrfs"),
    (0x2fc1_2fc1, "zfs"),
    (0xf2f5_2010, "f2fs"),
    (0xca45_1a4e, "bcachefs"),
    (TMPFS, "tmpfs"),
    (0x8584_58f6, "ramfs"),
    (0x794c_7630, "overlay"),
    (0x6969, "nfs"),
    (0xff53_4d42, "cifs"),
    (0xfe53_4d42, "smb2"),
    (0x0102_1997, "9p"),
    (0x6573_5546, "fuse"),
    (0x00c3_6400, "ceph"),
];
const TMPFS: u64 = 0x0102_1994;

pub fn check(config: &Config, findings: &mut Findings) {
    let path = &config.node.data_dir;
    // What is not there yet will be created in the nearest directory that is.
    let Some(existing) = nearest(path) else {
        findings.add(Finding::error(
            "data directory",
            format!("{}: no directory above it can be read", path.display()),
            "choose another one with node.data_dir",
        ));
        return;
    };
    let place = place(path, &existing);
    let is_writable = place.help.is_none();
    findings.add(place);
    findings.add(system(&existing, config.wal.durability));
    if path.is_dir() {
        findings.add(holder(path));
    }
    match rustix::fs::statvfs(&existing) {
        Ok(disk) => findings.add(space(config, &disk)),
        Err(error) => findings.add(Finding::warning(
            "free space",
            format!("{}: {error}", existing.display()),
            "look at it with df",
        )),
    }
    if is_writable {
        findings.add(direct_writes(&existing));
    }
}

/// An output file of an exporter.
pub fn check_output(id: &str, path: &Path) -> Finding {
    let check = format!("exporter {id}");
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let target = if path.exists() { path } else { directory };
    match is_writable(target) {
        _ if path.is_dir() => Finding::error(
            check,
            format!("{} is a directory", path.display()),
            "name a file in it",
        ),
        Ok(()) => Finding::fine(check, path.display()),
        Err(error) => Finding::error(
            check,
            format!("{}: {error}", target.display()),
            "create the directory, or give the user that runs tailkeep the right to write there",
        ),
    }
}

fn nearest(path: &Path) -> Option<PathBuf> {
    let absolute = std::path::absolute(path).ok()?;
    absolute
        .ancestors()
        .find(|path| path.is_dir())
        .map(Path::to_path_buf)
}

fn place(path: &Path, existing: &Path) -> Finding {
    let check = "data directory";
    if path.exists() && !path.is_dir() {
        return Finding::error(
            check,
            format!("{} is no directory", path.display()),
            "choose another one with node.data_dir",
        );
    }
    let shown = match path.is_dir() {
        true => path.display().to_string(),
        false => format!("{} will be created", path.display()),
    };
    match is_writable(existing) {
        Ok(()) => Finding::fine(check, shown),
        Err(error) => Finding::error(
            check,
            format!("{}: {error}", existing.display()),
            "give the user that runs tailkeep the right to write there, or choose another one with node.data_dir",
        ),
    }
}

fn is_writable(path: &Path) -> io::Result<()> {
    // The effective user's rights: what `run` would be allowed.
    let access = match path.is_dir() {
        true => Access::WRITE_OK | Access::EXEC_OK,
        false => Access::WRITE_OK,
    };
    Ok(rustix::fs::accessat(CWD, path, access, AtFlags::EACCESS)?)
}

fn system(existing: &Path, durability: Durability) -> Finding {
    let check = "file system";
    let number = match rustix::fs::statfs(existing) {
        Ok(found) => found.f_type as u64 & 0xffff_ffff,
        Err(error) => return Finding::warning(check, error, "look at it with df -T"),
    };
    let name = KINDS
        .iter()
        .find(|(kind, _)| *kind == number)
        .map(|(_, name)| *name);
    let local = "use a local disk with xfs or ext4";
    match name {
        Some("tmpfs" | "ramfs") if durability != Durability::None => Finding::error(
            check,
            "tmpfs, which does not survive power loss",
            "choose a directory on a disk with node.data_dir, or set wal.durability: none",
        ),
        Some(name @ ("tmpfs" | "ramfs")) => {
            Finding::fine(check, format!("{name}, with wal.durability: none"))
        }
        Some(name @ ("nfs" | "cifs" | "smb2" | "9p" | "fuse" | "ceph")) => Finding::warning(
            check,
            format!("{name}: a sync goes over the network, and locks may not hold"),
            local,
        ),
        Some("overlay") => Finding::warning(
            check,
            "overlay: a container's own layer goes with the container",
            "mount a volume there",
        ),
        Some(name @ ("btrfs" | "zfs" | "bcachefs")) => Finding::warning(
            check,
            format!("{name}: copies on write, so that recycled segments are no faster than new ones"),
            local,
        ),
        Some(name) => Finding::fine(check, name),
        None => Finding::warning(check, format!("kind {number:#x}, which is not known here"), local),
    }
}

fn holder(path: &Path) -> Finding {
    match datadir::examine(path) {
        Ok(()) => Finding::fine("lock", "free"),
        Err(error @ datadir::DataDirError::Locked { .. }) => Finding::error(
            "lock",
            error,
            "`tailkeep status` shows the one that runs; a stopping one lets go within 30 s",
        ),
        Err(error) => Finding::error(
            "data format",
            error,
            "run the version that wrote it, or choose another directory with node.data_dir",
        ),
    }
}

fn space(config: &Config, disk: &StatVfs) -> Finding {
    let (size, free) = (disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize);
    let reserve = min_free_bytes(config, size);
    let found = format!(
        "{} of {}; wal.min_free keeps {}",
        show::bytes(free),
        show::bytes(size),
        show::bytes(reserve)
    );
    let log_bytes = config.wal.max_bytes.clone().or_else(|| 0);
    if free < reserve {
        Finding::error(
            "free space",
            format!("{found}: every request would be refused"),
            "free some disk, lower wal.min_free, or choose another disk with node.data_dir",
        )
    } else if free - reserve < log_bytes {
        Finding::warning(
            "free space",
            format!("{found}: less than wal.max_size of {}", show::bytes(log_bytes)),
            "lower wal.max_size, or free some disk",
        )
    } else {
        Finding::fine("free space", found)
    }
}

/// Writes a page past the cache and syncs it, a few times, to a file without a name.
fn direct_writes(directory: &Path) -> Finding {
    let check = "direct writes";
    match time_syncs(directory) {
        Ok(milliseconds) if milliseconds <= SYNC_MS_WISE => Finding::fine(
            check,
            format!("O_DIRECT works, 4 KiB and fdatasync take {milliseconds:.2} ms"),
        ),
        Ok(milliseconds) => Finding::warning(
            check,
            format!("4 KiB and fdatasync take {milliseconds:.0} ms, and every reply waits for one"),
            "use a faster disk, or set wal.durability: write (survives a process kill only)",
        ),
        Err(error) => Finding::error(
            check,
            format!("O_DIRECT does not work in {}: {error}", directory.display()),
            "use a local disk with xfs or ext4; mount a volume there if this is a container",
        ),
    }
}

/// The median of some.
fn time_syncs(directory: &Path) -> io::Result<f64> {
    let file = nameless(directory)?;
    let memory = vec![0u8; 2 * PAGE_BYTES];
    let page = &memory[memory.as_ptr().align_offset(PAGE_BYTES)..][..PAGE_BYTES];
    let clock = Clock::new();
    let mut times = Vec::new();
    for number in 0..SYNC_TRIES {
        let began = clock.instant();
        rustix::io::pwrite(&file, page, (number * PAGE_BYTES) as u64)?;
        file.sync_data()?;
        times.push(clock.instant().since(began).as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    Ok(times[SYNC_TRIES / 2])
}

fn nameless(directory: &Path) -> io::Result<File> {
    let open = |path: &Path, flags: OFlags, creates: bool| {
        std::fs::OpenOptions::new()
            .write(true)
            .create_new(creates)
            .mode(0o600)
            .custom_flags((OFlags::DIRECT | flags).bits() as i32)
            .open(path)
    };
    match open(directory, OFlags::TMPFILE, false) {
        Ok(file) => Ok(file),
        // Not every file system has nameless files.
        Err(_) => {
            let path = directory.join(format!(".tailkeep-doctor-{:016x}", random_u64()));
            let opened = open(&path, OFlags::NOFOLLOW, true);
            // Created even where O_DIRECT is then refused.
            let _ = std::fs::remove_file(&path);
            opened
        }
    }
}
