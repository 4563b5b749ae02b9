//! Keys of a cluster, and those of its senders, which are derived from them.
//!
//! ```text
//!  key file ─ line ─→ cluster key ─ HKDF-SHA256 (sender, incarnation, salt, lane) ─→ key of one lane of one sender
//! ```
//!
//! A cluster key seals nothing itself: each sender seals by a key of its own and counts its nonces, so that no two
//! nodes, lives or lanes ever use a nonce twice, however many datagrams there are (random nonces under one key would
//! meet after days: NIST SP 800-38D allows 2³²).

use super::{Lane, Origin};
use chacha20poly1305::{ChaCha20Poly1305, KeyInit};
use hkdf::Hkdf;
use sha2::Sha256;
use std::fmt;
use thiserror::Error;

/// One line of a key file: 32 secret bytes.
#[derive(Clone)]
pub struct ClusterKey {
    id: u8,
    secret: Hkdf<Sha256>,
}

/// The operator's mistake in a key file.
#[derive(Debug, PartialEq, Eq, Error)]
pub enum KeyFileError {
    #[error("line {line}: a key is 64 hexadecimal digits, as `openssl rand -hex 32` prints them")]
    Malformed { line: usize },
    #[error("line {line}: the same key stands in another line")]
    Twice { line: usize },
    #[error("no key in it: write one line of 64 hexadecimal digits, as `openssl rand -hex 32` prints them")]
    Empty,
    #[error("more than {KEY_COUNT_MAX} keys: remove those that no node uses any more")]
    TooMany,
}

/// While keys are exchanged there are two, rarely three.
pub const KEY_COUNT_MAX: usize = 8;

impl ClusterKey {
    pub fn new(secret: &[u8; 32]) -> ClusterKey {
        let secret = Hkdf::<Sha256>::new(Some(b"tailkeep gossip 1"), secret);
        let mut id = [0];
        secret
            .expand(b"id", &mut id)
            .expect("one byte is not too long for HKDF");
        ClusterKey {
            // Zero means: without a key.
            id: id[0].max(1),
            secret,
        }
    }

    /// The keys of a file, in its order: the first seals, all open. Empty lines and lines with `#` are skipped.
    pub fn parse_file(text: &str) -> Result<Vec<ClusterKey>, KeyFileError> {
        let mut secrets: Vec<[u8; 32]> = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let digits = line.trim();
            if digits.is_empty() || digits.starts_with('#') {
                continue;
            }
            let line = number + 1;
            let secret = parse_hex(digits).ok_or(KeyFileError::Malformed { line })?;
            if secrets.contains(&secret) {
                return Err(KeyFileError::Twice { line });
            }
            secrets.push(secret);
        }
        match secrets.len() {
            0 => Err(KeyFileError::Empty),
            count if count > KEY_COUNT_MAX => Err(KeyFileError::TooMany),
            _ => Ok(secrets.iter().map(ClusterKey::new).collect()),
        }
    }

    /// Names the key on the wire without telling anything of it. Two keys may share an id.
    pub fn id(&self) -> u8 {
        self.id
    }

    /// What seals one lane of one sender.
    pub(super) fn derive(&self, origin: &Origin, lane: Lane) -> ChaCha20Poly1305 {
        let mut info = [0; 25];
        info[0] = lane as u8;
        info[1..9].copy_from_slice(&origin.node.0.to_le_bytes());
        info[9..17].copy_from_slice(&origin.incarnation.to_le_bytes());
        info[17..25].copy_from_slice(&origin.salt.to_le_bytes());
        let mut key = chacha20poly1305::Key::default();
        self.secret
            .expand(&info, &mut key)
            .expect("32 bytes are not too long for HKDF");
        ChaCha20Poly1305::new(&key)
    }
}

impl fmt::Debug for ClusterKey {
    /// Without the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClusterKey({})", self.id)
    }
}

fn parse_hex(digits: &str) -> Option<[u8; 32]> {
    let digits: &[u8; 64] = digits.as_bytes().try_into().ok()?;
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |digit: u8| char::from(digit).to_digit(16);
        *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_file_has_a_key_a_line() {
        let (one, two) = ("0f".repeat(32), "A0".repeat(32));
        let keys = ClusterKey::parse_file(&format!("# ours\n{one}\n\n  {two}  \n")).expect("two keys");
        assert_eq!(keys.len(), 2);
        let refused = |text: &str| ClusterKey::parse_file(text).expect_err("refused");
        assert_eq!(refused("\n# none\n"), KeyFileError::Empty);
        assert_eq!(
            refused(&format!("{one}\n{}", &one[2..])),
            KeyFileError::Malformed { line: 2 }
        );
        assert_eq!(refused(&"zz".repeat(32)), KeyFileError::Malformed { line: 1 });
        assert_eq!(refused(&format!("{one}\n{one}")), KeyFileError::Twice { line: 2 });
        let many: Vec<String> = (0..9).map(|n| format!("{n}{}", &one[1..])).collect();
        assert_eq!(refused(&many.join("\n")), KeyFileError::TooMany);
    }

    #[test]
    fn a_key_is_not_printed() {
        let key = ClusterKey::new(&[7; 32]);
        assert!(format!("{key:?}").len() < 20);
    }
}
