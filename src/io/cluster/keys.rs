//! The key file: readable by its owner only, read at the start and at SIGHUP.

use crate::gossip::datagram::{ClusterKey, KeyFileError};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use thiserror::Error;

/// Why there are no keys. Those that are in use stay in use.
#[derive(Debug, Error)]
pub enum KeysError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("its mode is {mode:04o}: others on this host may read or change it\n  help: chmod 600 it")]
    Open { mode: u32 },
    #[error("{0}")]
    Content(#[from] KeyFileError),
}

/// More is no key file.
const BYTES_MAX: u64 = 64 << 10;

pub fn read(path: &Path) -> Result<Vec<ClusterKey>, KeysError> {
    let file = File::open(path)?;
    // Of the file that is open, not of what lies there a moment later.
    let mode = file.metadata()?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(KeysError::Open { mode });
    }
    let mut text = String::new();
    file.take(BYTES_MAX).read_to_string(&mut text)?;
    Ok(ClusterKey::parse_file(&text)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_key_that_others_may_read_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("key");
        fs::write(&path, "ab".repeat(32)).expect("written");
        for (mode, taken) in [
            (0o600, true),
            (0o400, true),
            (0o640, false),
            (0o604, false),
            (0o620, false),
        ] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("ours");
            assert_eq!(read(&path).is_ok(), taken, "{mode:o}");
        }
        assert!(matches!(
            read(&directory.path().join("none")),
            Err(KeysError::Io(_))
        ));
    }
}
