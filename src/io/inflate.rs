//! gzip and zstd, limited while they inflate.
//!
//! One request is one or more gzip members, or zstd frames, to the very end of its bytes: a decoder that stops
//! after the first would acknowledge spans that it threw away, so the next one is decoded too and anything else
//! is refused. Nothing is allocated from a length that the input declares, but for zstd's window: that one is
//! bounded by [`WINDOW_LOG_MAX`], and its bytes are told so that they can be accounted.

use std::mem::MaybeUninit;
use std::task::Poll;

use flate2::{Decompress, FlushDecompress, Status};
use zstd::zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer, WriteBuf, get_error_name};

/// How a body is coded on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    Identity,
    Gzip,
    Zstd,
}

impl Coding {
    /// From `grpc-encoding` or `Content-Encoding`; `None` for what we do not take.
    pub fn from_name(name: &str) -> Option<Coding> {
        match name {
            name if name.is_empty() || name.eq_ignore_ascii_case("identity") => Some(Coding::Identity),
            name if name.eq_ignore_ascii_case("gzip") => Some(Coding::Gzip),
            name if name.eq_ignore_ascii_case("zstd") => Some(Coding::Zstd),
            _ => None,
        }
    }

    /// `None` where there is nothing to inflate.
    pub fn inflate(self) -> Option<Inflate> {
        match self {
            Coding::Identity => None,
            Coding::Gzip => Some(Inflate::new(Decoder::Gzip(gzip_member()))),
            Coding::Zstd => {
                let mut frames = DCtx::create();
                frames
                    .set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX))
                    .expect("within zstd's own bounds");
                Some(Inflate::new(Decoder::Zstd(frames)))
            }
        }
    }
}

/// 8 MiB: what every decoder should support (RFC 8878, 3.1.1.1.2), and more than senders of requests use.
const WINDOW_LOG_MAX: u32 = 23;
/// Bytes read in one step: input may inflate to nothing (empty members, skippable frames).
const INPUT_STEP_BYTES: usize = 64 << 10;

/// Inflates a whole body in steps, so that the caller can account, refuse and yield between them.
pub struct Inflate {
    decoder: Decoder,
    read: usize,
}

enum Decoder {
    Gzip(Decompress),
    Zstd(DCtx<'static>),
}

/// The peer's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InflateError {
    #[error("the compressed body is corrupt")]
    Corrupt,
    #[error("the compressed body ends too early")]
    Truncated,
    #[error("bytes follow the compressed body that are no part of it")]
    Trailing,
    #[error("the zstd window is larger than 8 MiB")]
    Window,
}

/// How far one call of a decoder came.
struct Progress {
    read: usize,
    written: usize,
    /// At the end of a member or frame, everything of it written.
    ended: bool,
}

impl Inflate {
    fn new(decoder: Decoder) -> Inflate {
        Inflate { decoder, read: 0 }
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
        let input_end = input.len().min(self.read + INPUT_STEP_BYTES);
        loop {
            let piece = &input[self.read..input_end];
            let room = end - out.len();
            let progress = match self.decoder.run(piece, &mut out.spare_capacity_mut()[..room]) {
                Ok(progress) => progress,
                Err(error) => return Poll::Ready(Err(error)),
            };
            assert!(progress.written <= room, "{} of {room} bytes", progress.written);
            self.read += progress.read;
            // SAFETY: the decoder initialised that many bytes from the start of the spare room.
            unsafe { out.set_len(out.len() + progress.written) };
            let rest = &input[self.read..];
            if progress.ended {
                if rest.is_empty() {
                    return Poll::Ready(Ok(()));
                }
                if !self.decoder.begins_anew(rest) {
                    return Poll::Ready(Err(InflateError::Trailing));
                }
            }
            if out.len() == end {
                return Poll::Pending;
            }
            if progress.read == 0 && progress.written == 0 && !progress.ended {
                return match rest.is_empty() {
                    true => Poll::Ready(Err(InflateError::Truncated)),
                    false => Poll::Pending,
                };
            }
        }
    }

    /// Bytes of the input that have been looked at.
    pub fn read_bytes(&self) -> usize {
        self.read
    }

    /// What the decoder itself holds, as far as the input decides about it.
    pub fn memory_bytes(&self) -> usize {
        match &self.decoder {
            Decoder::Gzip(_) => 0,
            Decoder::Zstd(frames) => frames.sizeof(),
        }
    }
}

impl Decoder {
    fn run(&mut self, input: &[u8], out: &mut [MaybeUninit<u8>]) -> Result<Progress, InflateError> {
        match self {
            Decoder::Gzip(member) => {
                let (read, written) = (member.total_in(), member.total_out());
                let status = member.decompress_uninit(input, out, FlushDecompress::None);
                let ended = match status {
                    Ok(Status::StreamEnd) => true,
                    Ok(Status::Ok | Status::BufError) => false,
                    Err(_) => return Err(InflateError::Corrupt),
                };
                Ok(Progress {
                    read: (member.total_in() - read) as usize,
                    written: (member.total_out() - written) as usize,
                    ended,
                })
            }
            Decoder::Zstd(frames) => {
                let mut spare = Spare(out);
                let (mut from, mut to) = (InBuffer::around(input), OutBuffer::around(&mut spare));
                let hint =
                    frames.decompress_stream(&mut to, &mut from).map_err(|code| {
                        match get_error_name(code) {
                            "Frame requires too much memory for decoding" => InflateError::Window,
                            _ => InflateError::Corrupt,
                        }
                    })?;
                let (read, written) = (from.pos, to.pos());
                // Without input there is no frame that could have ended.
                let ended = hint == 0 && read + written > 0;
                Ok(Progress { read, written, ended })
            }
        }
    }

    /// Whether `rest` may be one more member or frame; makes ready for it.
    fn begins_anew(&mut self, rest: &[u8]) -> bool {
        match self {
            Decoder::Gzip(member) => {
                *member = gzip_member();
                rest.starts_with(&GZIP_MAGIC[..rest.len().min(GZIP_MAGIC.len())])
            }
            Decoder::Zstd(_) => {
                let magic = &rest[..rest.len().min(4)];
                let skippable =
                    magic.len() < 4 || magic[0] & 0xf0 == 0x50 && magic[1..] == SKIPPABLE_MAGIC_END;
                ZSTD_MAGIC.starts_with(magic) || skippable && (0x50..0x60).contains(&magic[0])
            }
        }
    }
}

/// RFC 1952 2.3.1.
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
/// RFC 8878 3.1.1 and 3.1.2.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const SKIPPABLE_MAGIC_END: [u8; 3] = [0x2a, 0x4d, 0x18];

fn gzip_member() -> Decompress {
    Decompress::new_gzip(15)
}

/// Room whose bytes may be uninitialised, as zstd's bindings want it.
struct Spare<'a>(&'a mut [MaybeUninit<u8>]);

// SAFETY: pointer and capacity are those of one slice that lives as long as the value. `as_slice` is empty, since
// no byte is known to be initialised, and nothing is remembered of what was filled: the caller of `Decoder::run`
// learns it from the position.
unsafe impl WriteBuf for Spare<'_> {
    fn as_slice(&self) -> &[u8] {
        &[]
    }

    fn capacity(&self) -> usize {
        self.0.len()
    }

    fn as_mut_ptr(&mut self) -> *mut u8 {
        self.0.as_mut_ptr().cast()
    }

    unsafe fn filled_until(&mut self, _: usize) {}
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};
    use proptest::prelude::*;

    use super::*;

    const BOTH: [Coding; 2] = [Coding::Gzip, Coding::Zstd];

    fn compressed(coding: Coding, bytes: &[u8]) -> Vec<u8> {
        match coding {
            Coding::Identity => bytes.to_vec(),
            Coding::Gzip => {
                let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
                encoder.write_all(bytes).expect("to a vector");
                encoder.finish().expect("to a vector")
            }
            Coding::Zstd => {
                let mut encoder = zstd::Encoder::new(Vec::new(), 1).expect("level 1");
                encoder.include_checksum(true).expect("a parameter");
                encoder.write_all(bytes).expect("to a vector");
                encoder.finish().expect("to a vector")
            }
        }
    }

    fn inflate(coding: Coding, input: &[u8], step: usize) -> Result<Vec<u8>, InflateError> {
        let (mut inflate, mut out) = (coding.inflate().expect("a coding"), Vec::new());
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
        for coding in BOTH {
            let body = [&b"one "[..], b"", b"two"]
                .map(|part| compressed(coding, part))
                .concat();
            assert_eq!(inflate(coding, &body, 2), Ok(b"one two".to_vec()));
        }
    }

    #[test]
    fn trailing_junk_is_refused() {
        for (coding, magic) in [(Coding::Gzip, &GZIP_MAGIC[..]), (Coding::Zstd, &ZSTD_MAGIC)] {
            let body = compressed(coding, b"spans");
            for junk in [
                &b"x"[..],
                b"\0\0\0",
                b"{}",
                b"\x1fz",
                b"\x28z",
                b"\x51\x2a\x4d\x19",
            ] {
                let end = inflate(coding, &[&body, junk].concat(), 64);
                assert_eq!(end, Err(InflateError::Trailing), "{coding:?} {junk:?}");
            }
            let end = inflate(coding, &[&body, magic].concat(), 64);
            assert_eq!(end, Err(InflateError::Truncated), "{coding:?}");
        }
    }

    #[test]
    fn a_cut_body_is_refused_wherever_it_is_cut() {
        for coding in BOTH {
            let body = compressed(coding, b"some spans, some spans, some spans");
            for end in 0..body.len() {
                assert_eq!(
                    inflate(coding, &body[..end], 16),
                    Err(InflateError::Truncated),
                    "{coding:?} cut at {end}"
                );
            }
        }
    }

    #[test]
    fn a_flipped_checksum_is_refused() {
        for (coding, from_end) in [(Coding::Gzip, 8), (Coding::Zstd, 4)] {
            let mut body = compressed(coding, b"some spans");
            let at = body.len() - from_end;
            body[at] ^= 1;
            assert_eq!(
                inflate(coding, &body, 64),
                Err(InflateError::Corrupt),
                "{coding:?}"
            );
        }
    }

    #[test]
    fn a_skippable_frame_is_skipped() {
        let skippable = [&[0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"abc"].concat();
        let body = [
            compressed(Coding::Zstd, b"one "),
            skippable,
            compressed(Coding::Zstd, b"two"),
        ];
        assert_eq!(inflate(Coding::Zstd, &body.concat(), 2), Ok(b"one two".to_vec()));
    }

    #[test]
    fn a_window_above_8_mib_is_refused_before_it_is_allocated() {
        // Magic; a frame header without single segment or content size; the window's exponent above 10.
        let frame = |log: u8| {
            let mut frame = ZSTD_MAGIC.to_vec();
            frame.extend([0, (log - 10) << 3]);
            // A last block that says: 5 times the same byte.
            frame.extend([0b11 | 5 << 3, 0, 0, b'x']);
            frame
        };
        assert_eq!(inflate(Coding::Zstd, &frame(23), 64), Ok(b"xxxxx".to_vec()));
        assert_eq!(inflate(Coding::Zstd, &frame(24), 64), Err(InflateError::Window));
        assert_eq!(inflate(Coding::Zstd, &frame(31), 64), Err(InflateError::Window));
    }

    #[test]
    fn what_a_window_takes_is_told() {
        let body: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
        let wire = compressed(Coding::Zstd, &body);
        let mut inflate = Coding::Zstd.inflate().expect("a coding");
        let before = inflate.memory_bytes();
        let mut out = Vec::with_capacity(100);
        assert_eq!(inflate.step(&wire, &mut out, 100), Poll::Pending);
        assert!(
            inflate.memory_bytes() >= before + (256 << 10),
            "a window was allocated"
        );
    }

    #[test]
    fn input_that_inflates_to_nothing_does_not_make_a_long_turn() {
        for coding in BOTH {
            let nothing = compressed(coding, b"").repeat(20_000);
            let mut inflate = coding.inflate().expect("a coding");
            let mut out = Vec::with_capacity(100);
            assert_eq!(inflate.step(&nothing, &mut out, 100), Poll::Pending);
            assert!(inflate.read_bytes() <= INPUT_STEP_BYTES);
        }
    }

    proptest! {
        #[test]
        fn whatever_was_compressed_comes_back(
            zstd: bool,
            members in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..4),
            step in 1..200usize,
        ) {
            let coding = BOTH[usize::from(zstd)];
            let body: Vec<u8> = members.iter().flat_map(|member| compressed(coding, member)).collect();
            prop_assert_eq!(inflate(coding, &body, step), Ok(members.concat()));
        }

        #[test]
        fn hostile_bytes_end_in_an_error(
            zstd: bool,
            mut body in prop::collection::vec(any::<u8>(), 0..400),
            keep in 0..2usize,
        ) {
            if keep == 1 && body.len() >= 10 {
                match zstd {
                    true => body[..4].copy_from_slice(&ZSTD_MAGIC),
                    false => body[..10].copy_from_slice(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255]),
                }
            }
            let _ = inflate(BOTH[usize::from(zstd)], &body, 64);
        }
    }
}
