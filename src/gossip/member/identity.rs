//! Whom the membership protocol talks about, and how it is written.
//!
//! ```text
//!  identity   node (8) · incarnation (8) · renewal (4) · 4 or 6 (1) · address (4 or 16) · port (2)
//!  header     source · its refutations (2) · destination · message (1) · what it needs
//!  member     identity · refutations (2) · state (1)
//! ```
//!
//! Integers are little-endian but for the port. Our own codec, because every byte comes from the network: it reads
//! nothing but these fields and has nothing to allocate.

use crate::gossip::NodeId;
use bytes::{Buf, BufMut, TryGetError};
use foca::{Codec, Header, Member, Message, State};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use thiserror::Error;

/// A node, one of its lives, and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    pub node: NodeId,
    /// Of its streams too.
    pub incarnation: u64,
    /// How often it came back after others had given it up.
    pub renewal: u32,
    pub address: SocketAddr,
}

impl foca::Identity for Identity {
    type Addr = NodeId;

    fn renew(&self) -> Option<Identity> {
        let renewal = self.renewal.checked_add(1)?;
        Some(Identity { renewal, ..*self })
    }

    fn addr(&self) -> NodeId {
        self.node
    }

    fn win_addr_conflict(&self, adversary: &Identity) -> bool {
        (self.incarnation, self.renewal) > (adversary.incarnation, adversary.renewal)
    }
}

/// What is wrong with bytes of the membership protocol. Nothing of them was used.
#[derive(Debug, PartialEq, Eq, Error)]
pub enum CodecError {
    #[error("ends too early")]
    Short(#[from] TryGetError),
    #[error("a byte that no version writes")]
    Unknown,
    #[error("names more nodes than a cluster may have")]
    TooMany,
    #[error("no room left")]
    Full,
}

/// Nodes that may be known, those included that died within a day. More is an attack or a mistake.
pub const NODE_COUNT_MAX: usize = 1024;

/// Nodes that have been named, shared with whoever knows which of them are forgotten.
pub type Named = Rc<RefCell<BTreeSet<NodeId>>>;

/// Reads and writes, and bounds how many nodes there may be.
#[derive(Debug, Default)]
pub struct MemberCodec {
    pub named: Named,
}

const IDENTITY_BYTES_MAX: usize = 8 + 8 + 4 + 1 + 16 + 2;

impl MemberCodec {
    fn admit(&mut self, identity: Identity) -> Result<Identity, CodecError> {
        let mut named = self.named.borrow_mut();
        if !named.contains(&identity.node) {
            if named.len() >= NODE_COUNT_MAX {
                return Err(CodecError::TooMany);
            }
            named.insert(identity.node);
        }
        Ok(identity)
    }
}

impl Codec<Identity> for MemberCodec {
    type Error = CodecError;

    fn encode_header(&mut self, header: &Header<Identity>, mut out: impl BufMut) -> Result<(), CodecError> {
        if out.remaining_mut() < 3 * IDENTITY_BYTES_MAX + 4 {
            return Err(CodecError::Full);
        }
        encode_identity(&header.src, &mut out);
        out.put_u16_le(header.src_incarnation);
        encode_identity(&header.dst, &mut out);
        let mut about = |tag: u8, identity: &Identity, probe: u8| {
            out.put_u8(tag);
            encode_identity(identity, &mut out);
            out.put_u8(probe);
        };
        match &header.message {
            Message::PingReq { target, probe_number } => about(3, target, *probe_number),
            Message::IndirectPing { origin, probe_number } => about(4, origin, *probe_number),
            Message::IndirectAck { target, probe_number } => about(5, target, *probe_number),
            Message::ForwardedAck { origin, probe_number } => about(6, origin, *probe_number),
            Message::Ping(probe) => out.put_slice(&[1, *probe]),
            Message::Ack(probe) => out.put_slice(&[2, *probe]),
            Message::Announce => out.put_u8(7),
            Message::Feed => out.put_u8(8),
            Message::Gossip => out.put_u8(9),
            Message::Broadcast => out.put_u8(10),
            Message::TurnUndead => out.put_u8(11),
        }
        Ok(())
    }

    fn decode_header(&mut self, mut bytes: impl Buf) -> Result<Header<Identity>, CodecError> {
        let src = self.admit(decode_identity(&mut bytes)?)?;
        let src_incarnation = bytes.try_get_u16_le()?;
        let dst = decode_identity(&mut bytes)?;
        let message = match bytes.try_get_u8()? {
            1 => Message::Ping(bytes.try_get_u8()?),
            2 => Message::Ack(bytes.try_get_u8()?),
            3 => Message::PingReq {
                target: decode_identity(&mut bytes)?,
                probe_number: bytes.try_get_u8()?,
            },
            4 => Message::IndirectPing {
                origin: decode_identity(&mut bytes)?,
                probe_number: bytes.try_get_u8()?,
            },
            5 => Message::IndirectAck {
                target: decode_identity(&mut bytes)?,
                probe_number: bytes.try_get_u8()?,
            },
            6 => Message::ForwardedAck {
                origin: decode_identity(&mut bytes)?,
                probe_number: bytes.try_get_u8()?,
            },
            7 => Message::Announce,
            8 => Message::Feed,
            9 => Message::Gossip,
            10 => Message::Broadcast,
            11 => Message::TurnUndead,
            _ => return Err(CodecError::Unknown),
        };
        Ok(Header {
            src,
            src_incarnation,
            dst,
            message,
        })
    }

    fn encode_member(&mut self, member: &Member<Identity>, mut out: impl BufMut) -> Result<(), CodecError> {
        if out.remaining_mut() < IDENTITY_BYTES_MAX + 3 {
            return Err(CodecError::Full);
        }
        encode_identity(member.id(), &mut out);
        out.put_u16_le(member.incarnation());
        out.put_u8(match member.state() {
            State::Alive => 0,
            State::Suspect => 1,
            State::Down => 2,
        });
        Ok(())
    }

    fn decode_member(&mut self, mut bytes: impl Buf) -> Result<Member<Identity>, CodecError> {
        let identity = self.admit(decode_identity(&mut bytes)?)?;
        let refutations = bytes.try_get_u16_le()?;
        let state = match bytes.try_get_u8()? {
            0 => State::Alive,
            1 => State::Suspect,
            2 => State::Down,
            _ => return Err(CodecError::Unknown),
        };
        Ok(Member::new(identity, refutations, state))
    }
}

fn encode_identity(identity: &Identity, out: &mut impl BufMut) {
    out.put_u64_le(identity.node.0);
    out.put_u64_le(identity.incarnation);
    out.put_u32_le(identity.renewal);
    match identity.address.ip() {
        IpAddr::V4(ip) => {
            out.put_u8(4);
            out.put_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            out.put_u8(6);
            out.put_slice(&ip.octets());
        }
    }
    out.put_u16(identity.address.port());
}

fn decode_identity(bytes: &mut impl Buf) -> Result<Identity, CodecError> {
    let node = NodeId(bytes.try_get_u64_le()?);
    let incarnation = bytes.try_get_u64_le()?;
    let renewal = bytes.try_get_u32_le()?;
    let ip = match bytes.try_get_u8()? {
        4 => IpAddr::V4(Ipv4Addr::from_bits(bytes.try_get_u32()?)),
        6 => IpAddr::V6(Ipv6Addr::from_bits(bytes.try_get_u128()?)),
        _ => return Err(CodecError::Unknown),
    };
    Ok(Identity {
        node,
        incarnation,
        renewal,
        address: SocketAddr::new(ip, bytes.try_get_u16()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn identity(node: u64, v6: bool) -> Identity {
        let ip = if v6 { "::1" } else { "10.0.0.1" };
        Identity {
            node: NodeId(node),
            incarnation: node * 3,
            renewal: 2,
            address: SocketAddr::new(ip.parse().expect("an address"), 5337),
        }
    }

    proptest! {
        #[test]
        fn headers_and_members_come_back(node in 0u64..100, v6 in any::<bool>(), tag in 0usize..11, probe in any::<u8>(), state in 0usize..3) {
            let (target, origin, probe_number) = (identity(5, !v6), identity(6, v6), probe);
            let messages = [
                Message::Ping(probe), Message::Ack(probe), Message::PingReq { target, probe_number },
                Message::IndirectPing { origin, probe_number }, Message::IndirectAck { target, probe_number },
                Message::ForwardedAck { origin, probe_number }, Message::Announce, Message::Feed, Message::Gossip,
                Message::Broadcast, Message::TurnUndead,
            ];
            let mut codec = MemberCodec::default();
            let header = Header { src: identity(node, v6), src_incarnation: 7, dst: origin, message: messages[tag].clone() };
            let member = Member::new(target, 9, [State::Alive, State::Suspect, State::Down][state]);
            let mut out = Vec::new();
            codec.encode_header(&header, &mut out).expect("room");
            codec.encode_member(&member, &mut out).expect("room");
            let mut rest = &out[..];
            prop_assert_eq!(codec.decode_header(&mut rest).expect("ours"), header);
            prop_assert_eq!(codec.decode_member(&mut rest).expect("ours"), member);
            prop_assert!(rest.is_empty());
            for cut in 0..out.len() {
                let mut rest = &out[..cut];
                let both = codec.decode_header(&mut rest).and_then(|_| codec.decode_member(&mut rest));
                prop_assert!(both.is_err());
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut codec = MemberCodec::default();
            let _ = codec.decode_header(&bytes[..]);
            let _ = codec.decode_member(&bytes[..]);
        }
    }

    #[test]
    fn nodes_beyond_the_bound_are_refused() {
        let mut codec = MemberCodec::default();
        let mut read = |node| {
            let mut out = Vec::new();
            MemberCodec::default()
                .encode_member(&Member::alive(identity(node, false)), &mut out)
                .expect("room");
            codec.decode_member(&out[..])
        };
        assert!((0..NODE_COUNT_MAX as u64).all(|node| read(node).is_ok()));
        assert_eq!(read(5000), Err(CodecError::TooMany));
        assert!(read(5).is_ok());
    }
}
