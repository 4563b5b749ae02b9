//! gzip, limited while it inflates.
//!
//! One request is one or more gzip members to the very end of its bytes: a decoder that stops after the
//! first member would acknowledge spans that it threw away, so the next member is decoded too and
//! anything else is refused. Nothing is allocated from a length that the input declares.

use std::task::Poll;

use flate2::{Decompress, FlushDecompress, Status};

/// Inflates a whole body in steps, so that the caller can account, refuse and yield between them.
pub struct Inflate {
    member: Decompress,
    read: usize,
}

/// The peer's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InflateError {
    #[error("the gzip body is corrupt")]
    Corrupt,
    #[error("the gzip body ends too early")]
    Truncated,
    #[error("bytes follow the gzip body that are no gzip member")]
    Trailing,
}

impl Inflate {
    pub fn new() -> Inflate {
        Inflate {
            member: member(),
            read: 0,
        }
    }

    /// Appends at most `bytes_max`, and no more than the spare room of `out`, which the caller reserves.
    /// Ready when all of `input`, the same slice each time, is inflated.
    ///
    /// An error leaves what was inflated so far in `out`.
    pub fn step(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
        bytes_max: usize,
    ) -> Poll<Result<(), InflateError>> {
        let room = bytes_max.min(out.capacity() - out.len());
        let end = out.len() + room;
        loop {
            let (read, written) = (self.member.total_in(), self.member.total_out());
            let rest = &input[self.read..];
            let room = end - out.len();
            let spare = &mut out.spare_capacity_mut()[..room];
            let status = self.member.decompress_uninit(rest, spare, FlushDecompress::None);
            let (read, written) = (self.member.total_in() - read, self.member.total_out() - written);
            self.read += read as usize;
            assert!(written as usize <= room, "zlib wrote {written} of {room} bytes");
            // SAFETY: zlib initialised that many bytes from the start of the spare room.
            unsafe { out.set_len(out.len() + written as usize) };
            match status {
                Ok(Status::StreamEnd) => {
                    let rest = &input[self.read..];
                    if rest.is_empty() {
                        return Poll::Ready(Ok(()));
                    }
                    if !rest.starts_with(&MAGIC[..rest.len().min(MAGIC.len())]) {
                        return Poll::Ready(Err(InflateError::Trailing));
                    }
                    self.member = member();
                }
                Ok(Status::Ok | Status::BufError) => {
                    if out.len() == end {
                        return Poll::Pending;
                    }
                    if read == 0 && written == 0 {
                        return Poll::Ready(Err(InflateError::Truncated));
                    }
                }
                Err(_) => return Poll::Ready(Err(InflateError::Corrupt)),
            }
        }
    }
}

impl Default for Inflate {
    fn default() -> Inflate {
        Inflate::new()
    }
}

/// RFC 1952 2.3.1.
const MAGIC: [u8; 2] = [0x1f, 0x8b];

fn member() -> Decompress {
    Decompress::new_gzip(15)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};
    use proptest::prelude::*;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).expect("to a vector");
        encoder.finish().expect("to a vector")
    }

    fn inflate(input: &[u8], step: usize) -> Result<Vec<u8>, InflateError> {
        let (mut inflate, mut out) = (Inflate::new(), Vec::new());
        loop {
            out.reserve_exact(step);
            match inflate.step(input, &mut out, step) {
                Poll::Ready(end) => return end.map(|()| out),
                Poll::Pending => {}
            }
        }
    }

    #[test]
    fn every_member_is_inflated() {
        let body = [gzip(b"one "), gzip(b""), gzip(b"two")].concat();
        assert_eq!(inflate(&body, 2), Ok(b"one two".to_vec()));
    }

    #[test]
    fn trailing_junk_is_refused() {
        for junk in [&b"x"[..], b"\0\0\0", b"{}", b"\x1fz"] {
            assert_eq!(
                inflate(&[&gzip(b"spans"), junk].concat(), 64),
                Err(InflateError::Trailing)
            );
        }
        assert_eq!(
            inflate(&[&gzip(b"spans"), &MAGIC[..]].concat(), 64),
            Err(InflateError::Truncated)
        );
    }

    #[test]
    fn a_cut_body_is_refused_wherever_it_is_cut() {
        let body = gzip(b"some spans, some spans, some spans");
        for end in 0..body.len() {
            assert_eq!(
                inflate(&body[..end], 16),
                Err(InflateError::Truncated),
                "cut at {end}"
            );
        }
    }

    #[test]
    fn a_flipped_checksum_is_refused() {
        let mut body = gzip(b"some spans");
        let crc = body.len() - 8;
        body[crc] ^= 1;
        assert_eq!(inflate(&body, 64), Err(InflateError::Corrupt));
    }

    proptest! {
        #[test]
        fn whatever_was_compressed_comes_back(
            members in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..4),
            step in 1..200usize,
        ) {
            let body: Vec<u8> = members.iter().flat_map(|member| gzip(member)).collect();
            prop_assert_eq!(inflate(&body, step), Ok(members.concat()));
        }

        #[test]
        fn hostile_bytes_end_in_an_error(mut body in prop::collection::vec(any::<u8>(), 0..400), keep in 0..2usize) {
            if keep == 1 && body.len() >= 10 {
                body[..10].copy_from_slice(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255]);
            }
            let _ = inflate(&body, 64);
        }
    }
}
