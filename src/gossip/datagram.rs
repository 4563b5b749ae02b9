//! Datagrams and frames as they go over the wire: sealed with a key of the cluster, or, without one, with a checksum.
//!
//! ```text
//!  0      2       3      4        5         13            21       29        37
//! ┌──────┬───────┬──────┬────────┬─────────┬─────────────┬────────┬─────────┬─────────────┬─────────────┐
//! │ "tk" │ 1     │ lane │ key id │ sender  │ incarnation │ salt   │ counter │ content     │ tag         │
//! │      │version│      │        │ (8)     │ (8)         │ (8)    │ (8)     │ (encrypted) │ (16, or 4)  │
//! └──────┴───────┴──────┴────────┴─────────┴─────────────┴────────┴─────────┴─────────────┴─────────────┘
//! ```
//!
//! Integers are little-endian. With a key the content is encrypted by ChaCha20-Poly1305 under the sender's key
//! ([`key`]), the counter is the nonce, and the header and the cluster's name are authenticated. Without a key (key id
//! 0) the content is plain and the tag is a CRC32C over header, content and cluster name: it keeps strangers and bit
//! errors away, not an attacker.
//!
//! Whatever is wrong with a datagram: it changes nothing, nobody is answered, and it is counted. A sender is remembered
//! only after one of its datagrams was found genuine, so that a flood of forged ones takes no memory.

pub mod key; // keys of the cluster and of senders
mod replay; // each counter once

pub use key::{ClusterKey, KeyFileError};

use super::NodeId;
use crate::base::codec::Reader;
use bytes::Bytes;
use chacha20poly1305::ChaCha20Poly1305;
use chacha20poly1305::aead::{Aead, Payload};
use replay::ReplayWindow;
use std::collections::BTreeMap;
use thiserror::Error;

/// Nothing larger is sent or taken over UDP: it goes unfragmented through the least MTU of IPv6 (1,280).
pub const DATAGRAM_BYTES_MAX: usize = 1232;
pub const HEADER_BYTES: usize = 37;
pub const TAG_BYTES: usize = 16;
/// What a datagram may carry.
pub const CONTENT_BYTES_MAX: usize = DATAGRAM_BYTES_MAX - HEADER_BYTES - TAG_BYTES;

const MAGIC: &[u8; 2] = b"tk";
const VERSION: u8 = 1;
const WITHOUT_KEY: u8 = 0;
const CHECKSUM_BYTES: usize = 4;
/// More than a cluster has nodes; beyond it the one heard longest ago is forgotten.
const SENDER_COUNT_MAX: usize = 1024;

/// The two roads between nodes. Each has keys, counters and windows of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Lane {
    Datagram = 0,
    /// Frames over TCP.
    Sync = 1,
}

/// One start of one node, as a sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    pub node: NodeId,
    pub incarnation: u64,
    /// Drawn at each start: should an incarnation come twice, the keys differ.
    pub salt: u64,
}

/// Why a datagram was not taken. Nothing changed, and nothing is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Rejected {
    #[error("larger than any datagram of ours")]
    Oversized,
    #[error("not a datagram of this protocol and version")]
    Garbage,
    #[error("sealed with a key that this node does not have, or not sealed where it must be")]
    UnknownKey,
    #[error("not sealed by a member of this cluster, or damaged")]
    Forged,
    #[error("seen before, or too late to tell")]
    Replayed,
    #[error("of an earlier life of its sender")]
    Stale,
}

/// A genuine datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    pub sender: NodeId,
    pub incarnation: u64,
    pub content: Bytes,
}

/// Seals what this node sends.
#[derive(Debug)]
pub struct Sealer {
    cluster: Vec<u8>,
    origin: Origin,
    key_id: u8,
    /// By lane.
    ciphers: Option<[ChaCha20Poly1305Debug; 2]>,
    counters: [u64; 2],
    /// Header and cluster name, reused.
    associated: Vec<u8>,
}

/// Opens what comes from others.
#[derive(Debug)]
pub struct Opener {
    cluster: Vec<u8>,
    /// Empty: plain datagrams with checksums.
    keys: Vec<ClusterKey>,
    senders: BTreeMap<NodeId, Sender>,
    /// Counts what was opened, to know who was heard longest ago.
    clock: u64,
    associated: Vec<u8>,
}

#[derive(Debug)]
struct Sender {
    origin: Origin,
    /// Under which keys it has been heard, by id, lane and place among the keys with that id.
    ciphers: Vec<(u8, Lane, ChaCha20Poly1305Debug)>,
    windows: [ReplayWindow; 2],
    heard: u64,
}

/// A cipher that prints nothing of its key.
#[derive(Clone)]
struct ChaCha20Poly1305Debug(ChaCha20Poly1305);

impl std::fmt::Debug for ChaCha20Poly1305Debug {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ChaCha20Poly1305")
    }
}

struct Header {
    lane: u8,
    key_id: u8,
    origin: Origin,
    counter: u64,
}

impl Sealer {
    /// `keys`: the first seals; none: checksums only.
    pub fn new(cluster: &str, keys: &[ClusterKey], origin: Origin) -> Sealer {
        let mut sealer = Sealer {
            cluster: cluster.as_bytes().to_vec(),
            origin,
            key_id: WITHOUT_KEY,
            ciphers: None,
            counters: [0; 2],
            associated: Vec::new(),
        };
        sealer.set_keys(keys);
        sealer
    }

    /// Counters go on: a key that comes back meets no nonce twice.
    pub fn set_keys(&mut self, keys: &[ClusterKey]) {
        self.key_id = keys.first().map_or(WITHOUT_KEY, ClusterKey::id);
        let derive = |key: &ClusterKey, lane| ChaCha20Poly1305Debug(key.derive(&self.origin, lane));
        self.ciphers = keys
            .first()
            .map(|key| [derive(key, Lane::Datagram), derive(key, Lane::Sync)]);
    }

    pub fn seal(&mut self, lane: Lane, content: &[u8]) -> Vec<u8> {
        let counter = &mut self.counters[lane as usize];
        let header = Header {
            lane: lane as u8,
            key_id: self.key_id,
            origin: self.origin,
            counter: *counter,
        };
        *counter += 1;
        let header_bytes = header.encode();
        let mut out = Vec::with_capacity(HEADER_BYTES + content.len() + TAG_BYTES);
        out.extend_from_slice(&header_bytes);
        match &self.ciphers {
            Some(ciphers) => {
                associate(&mut self.associated, &header_bytes, &self.cluster);
                let payload = Payload {
                    msg: content,
                    aad: &self.associated,
                };
                let sealed = ciphers[lane as usize].0.encrypt(&nonce(header.counter), payload);
                out.extend(sealed.expect("a frame is shorter than the cipher's limit of 256 GiB"));
            }
            None => {
                out.extend_from_slice(content);
                let checksum = checksum(&out, &self.cluster);
                out.extend_from_slice(&checksum.to_le_bytes());
            }
        }
        out
    }
}

impl Opener {
    pub fn new(cluster: &str, keys: &[ClusterKey]) -> Opener {
        Opener {
            cluster: cluster.as_bytes().to_vec(),
            keys: keys.to_vec(),
            senders: BTreeMap::new(),
            clock: 0,
            associated: Vec::new(),
        }
    }

    /// Windows stay: what was seen under an old key is not taken again.
    pub fn set_keys(&mut self, keys: &[ClusterKey]) {
        self.keys = keys.to_vec();
        self.senders
            .values_mut()
            .for_each(|sender| sender.ciphers.clear());
    }

    /// A genuine datagram that was not seen before.
    pub fn open(&mut self, lane: Lane, bytes: &[u8]) -> Result<Opened, Rejected> {
        let (header, header_bytes, body) = Header::parse(bytes).ok_or(Rejected::Garbage)?;
        if header.lane != lane as u8 {
            return Err(Rejected::Garbage);
        }
        let node = header.origin.node;
        let known = self.senders.get(&node);
        if let Some(sender) = known {
            match header.origin.incarnation.cmp(&sender.origin.incarnation) {
                std::cmp::Ordering::Less => return Err(Rejected::Stale),
                std::cmp::Ordering::Equal if header.origin.salt != sender.origin.salt => {
                    return Err(Rejected::Stale);
                }
                std::cmp::Ordering::Equal if !sender.windows[lane as usize].is_fresh(header.counter) => {
                    return Err(Rejected::Replayed);
                }
                std::cmp::Ordering::Equal | std::cmp::Ordering::Greater => {}
            }
        }
        let known = known.filter(|sender| sender.origin == header.origin);
        let (content, cipher) = match (self.keys.is_empty(), header.key_id) {
            (true, WITHOUT_KEY) => (open_plain(bytes, body, &self.cluster)?, None),
            (true, _) | (false, WITHOUT_KEY) => return Err(Rejected::UnknownKey),
            (false, key_id) => {
                associate(&mut self.associated, header_bytes, &self.cluster);
                let payload = Payload {
                    msg: body,
                    aad: &self.associated,
                };
                let cached = known.and_then(|sender| sender.cipher(key_id, lane));
                open_sealed(&self.keys, cached, &header, lane, payload)?
            }
        };
        let sender = self.remember(header.origin);
        if let Some(cipher) = cipher {
            sender
                .ciphers
                .push((header.key_id, lane, ChaCha20Poly1305Debug(cipher)));
        }
        match sender.windows[lane as usize].take(header.counter) {
            true => Ok(Opened {
                sender: node,
                incarnation: header.origin.incarnation,
                content,
            }),
            false => Err(Rejected::Replayed),
        }
    }

    fn remember(&mut self, origin: Origin) -> &mut Sender {
        self.clock += 1;
        if self.senders.len() >= SENDER_COUNT_MAX && !self.senders.contains_key(&origin.node) {
            let oldest = self.senders.iter().min_by_key(|(_, sender)| sender.heard);
            let oldest = oldest.map(|(node, _)| *node);
            oldest.and_then(|node| self.senders.remove(&node));
        }
        let sender = self
            .senders
            .entry(origin.node)
            .or_insert_with(|| Sender::new(origin));
        if sender.origin != origin {
            *sender = Sender::new(origin);
        }
        sender.heard = self.clock;
        sender
    }

    #[cfg(test)]
    fn sender_count(&self) -> usize {
        self.senders.len()
    }
}

impl Sender {
    fn new(origin: Origin) -> Sender {
        Sender {
            origin,
            ciphers: Vec::new(),
            windows: [ReplayWindow::NEW; 2],
            heard: 0,
        }
    }

    fn cipher(&self, key_id: u8, lane: Lane) -> Option<&ChaCha20Poly1305> {
        let known = self
            .ciphers
            .iter()
            .find(|known| (known.0, known.1) == (key_id, lane));
        known.map(|known| &known.2.0)
    }
}

impl Header {
    fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..2].copy_from_slice(MAGIC);
        bytes[2] = VERSION;
        bytes[3] = self.lane;
        bytes[4] = self.key_id;
        bytes[5..13].copy_from_slice(&self.origin.node.0.to_le_bytes());
        bytes[13..21].copy_from_slice(&self.origin.incarnation.to_le_bytes());
        bytes[21..29].copy_from_slice(&self.origin.salt.to_le_bytes());
        bytes[29..].copy_from_slice(&self.counter.to_le_bytes());
        bytes
    }

    /// With the header's bytes and what follows them.
    fn parse(bytes: &[u8]) -> Option<(Header, &[u8; HEADER_BYTES], &[u8])> {
        let (header_bytes, body) = bytes.split_first_chunk::<HEADER_BYTES>()?;
        let mut reader = Reader::new(header_bytes);
        if reader.array()? != *MAGIC || reader.u8()? != VERSION {
            return None;
        }
        let header = Header {
            lane: reader.u8()?,
            key_id: reader.u8()?,
            origin: Origin {
                node: NodeId(reader.u64()?),
                incarnation: reader.u64()?,
                salt: reader.u64()?,
            },
            counter: reader.u64()?,
        };
        Some((header, header_bytes, body))
    }
}

fn open_plain(bytes: &[u8], body: &[u8], cluster: &[u8]) -> Result<Bytes, Rejected> {
    let (content, tag) = body
        .split_last_chunk::<CHECKSUM_BYTES>()
        .ok_or(Rejected::Garbage)?;
    let covered = &bytes[..HEADER_BYTES + content.len()];
    match checksum(covered, cluster) == u32::from_le_bytes(*tag) {
        true => Ok(Bytes::copy_from_slice(content)),
        false => Err(Rejected::Forged),
    }
}

/// With the cipher, if it had to be derived.
fn open_sealed(
    keys: &[ClusterKey],
    cached: Option<&ChaCha20Poly1305>,
    header: &Header,
    lane: Lane,
    payload: Payload<'_, '_>,
) -> Result<(Bytes, Option<ChaCha20Poly1305>), Rejected> {
    let nonce = nonce(header.counter);
    let again = || Payload {
        msg: payload.msg,
        aad: payload.aad,
    };
    if let Some(cipher) = cached
        && let Ok(content) = cipher.decrypt(&nonce, again())
    {
        return Ok((content.into(), None));
    }
    let mut rejected = Rejected::UnknownKey;
    // A cached cipher that failed is tried again only where two keys share an id, once in 255 rotations.
    let named: Vec<_> = keys.iter().filter(|key| key.id() == header.key_id).collect();
    for key in &named {
        rejected = Rejected::Forged;
        if cached.is_some() && named.len() == 1 {
            break;
        }
        let cipher = key.derive(&header.origin, lane);
        if let Ok(content) = cipher.decrypt(&nonce, again()) {
            let keep = cached.is_none();
            return Ok((content.into(), keep.then_some(cipher)));
        }
    }
    Err(rejected)
}

fn associate(out: &mut Vec<u8>, header: &[u8; HEADER_BYTES], cluster: &[u8]) {
    out.clear();
    out.extend_from_slice(header);
    out.extend_from_slice(cluster);
}

fn checksum(covered: &[u8], cluster: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(covered), cluster)
}

fn nonce(counter: u64) -> chacha20poly1305::Nonce {
    let mut nonce = chacha20poly1305::Nonce::default();
    nonce[4..].copy_from_slice(&counter.to_le_bytes());
    nonce
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ORIGIN: Origin = Origin {
        node: NodeId(7),
        incarnation: 3,
        salt: 99,
    };

    fn key(byte: u8) -> ClusterKey {
        ClusterKey::new(&[byte; 32])
    }

    fn opener(keys: &[ClusterKey]) -> Opener {
        Opener::new("c", keys)
    }

    #[test]
    fn what_a_member_seals_is_opened_once() {
        for keys in [vec![], vec![key(1)]] {
            let (mut sealer, mut opener) = (Sealer::new("c", &keys, ORIGIN), opener(&keys));
            for lane in [Lane::Datagram, Lane::Sync] {
                let sealed = sealer.seal(lane, b"content");
                let opened = opener.open(lane, &sealed).expect("genuine");
                assert_eq!((opened.sender, opened.incarnation), (NodeId(7), 3));
                assert_eq!(&opened.content[..], b"content");
                assert_eq!(opener.open(lane, &sealed), Err(Rejected::Replayed));
                let other = [Lane::Sync, Lane::Datagram][lane as usize];
                assert_eq!(opener.open(other, &sealed), Err(Rejected::Garbage));
            }
        }
    }

    #[test]
    fn other_keys_names_and_lives_are_rejected_and_change_nothing() {
        let mut opener = opener(&[key(1)]);
        let mut reject = |mut sealer: Sealer, why| {
            let sealed = sealer.seal(Lane::Datagram, b"x");
            assert_eq!(opener.open(Lane::Datagram, &sealed), Err(why));
            assert_eq!(opener.sender_count(), 0);
        };
        reject(Sealer::new("c", &[], ORIGIN), Rejected::UnknownKey);
        reject(Sealer::new("c", &[key(2)], ORIGIN), Rejected::UnknownKey);
        reject(Sealer::new("other", &[key(1)], ORIGIN), Rejected::Forged);

        let mut newer = Sealer::new(
            "c",
            &[key(1)],
            Origin {
                incarnation: 4,
                ..ORIGIN
            },
        );
        let mut older = Sealer::new("c", &[key(1)], ORIGIN);
        assert!(
            opener
                .open(Lane::Datagram, &newer.seal(Lane::Datagram, b"x"))
                .is_ok()
        );
        let stale = older.seal(Lane::Datagram, b"x");
        assert_eq!(opener.open(Lane::Datagram, &stale), Err(Rejected::Stale));
        // A claim to be of a later life counts only when it is genuine.
        let mut forger = Sealer::new(
            "c",
            &[key(2)],
            Origin {
                incarnation: u64::MAX,
                ..ORIGIN
            },
        );
        assert!(
            opener
                .open(Lane::Datagram, &forger.seal(Lane::Datagram, b"x"))
                .is_err()
        );
        assert!(
            opener
                .open(Lane::Datagram, &newer.seal(Lane::Datagram, b"x"))
                .is_ok()
        );
    }

    #[test]
    fn a_key_is_exchanged_without_a_gap() {
        let (old, new) = (key(1), key(2));
        let mut sealer = Sealer::new("c", std::slice::from_ref(&old), ORIGIN);
        let mut opener = opener(&[old.clone(), new.clone()]);
        let mut passes = |sealer: &mut Sealer| {
            let sealed = sealer.seal(Lane::Datagram, b"x");
            opener.open(Lane::Datagram, &sealed).is_ok()
        };
        assert!(passes(&mut sealer));
        sealer.set_keys(&[new.clone(), old]);
        assert!(passes(&mut sealer));
        opener.set_keys(&[new]);
        assert!(
            opener
                .open(Lane::Datagram, &sealer.seal(Lane::Datagram, b"x"))
                .is_ok()
        );
    }

    #[test]
    fn floods_of_senders_take_bounded_memory() {
        let mut opener = opener(&[]);
        for node in 0..3 * SENDER_COUNT_MAX as u64 {
            let origin = Origin {
                node: NodeId(node + 10),
                ..ORIGIN
            };
            let sealed = Sealer::new("c", &[], origin).seal(Lane::Datagram, b"x");
            assert!(opener.open(Lane::Datagram, &sealed).is_ok());
        }
        assert_eq!(opener.sender_count(), SENDER_COUNT_MAX);
    }

    proptest! {
        #[test]
        fn no_changed_bit_passes(content in prop::collection::vec(any::<u8>(), 0..200), at in any::<prop::sample::Index>(), bit in 0u8..8, keyed in any::<bool>()) {
            let keys = if keyed { vec![key(1)] } else { vec![] };
            let mut sealed = Sealer::new("c", &keys, ORIGIN).seal(Lane::Datagram, &content);
            let mut opener = opener(&keys);
            let at = at.index(sealed.len());
            sealed[at] ^= 1 << bit;
            prop_assert!(opener.open(Lane::Datagram, &sealed).is_err());
            prop_assert_eq!(opener.sender_count(), 0);
        }

        #[test]
        fn any_bytes_are_rejected_quietly(bytes in prop::collection::vec(any::<u8>(), 0..300), keyed in any::<bool>()) {
            let keys = if keyed { vec![key(1)] } else { vec![] };
            let mut framed = b"tk\x01\x00".to_vec();
            framed.extend_from_slice(&bytes);
            prop_assert!(opener(&keys).open(Lane::Datagram, &bytes).is_err());
            prop_assert!(opener(&keys).open(Lane::Datagram, &framed).is_err());
        }
    }
}
