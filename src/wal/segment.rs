//! The segment: a file of one header page and a fixed number of data bytes.
//!
//! ```text
//! file    0        4 KiB                                         4 KiB + size
//!         ┌────────┬──────────────────────────────────────────────┐
//!         │ header │ groups, one after the other                  │
//!         └────────┴──────────────────────────────────────────────┘
//! position         base                                           next multiple of size after base
//!
//! header  0        4         8         12        16        24       32       40      48      56
//!         ┌────────┬─────────┬─────────┬─────────┬─────────┬────────┬────────┬───────┬───────┬─────────────┐
//!         │ magic  │ version │ check   │ log     │ seed    │ segment│ base   │ cut   │ size  │ zero … 4096 │
//!         │ u32    │ u32     │ u32     │ u32     │ u64     │ u64    │ u64    │ u64   │ u64   │             │
//!         └────────┴─────────┴─────────┴─────────┴─────────┴────────┴────────┴───────┴───────┴─────────────┘
//! ```
//!
//! All little endian. `check` is the CRC32C of the page without itself. A position lies at file offset
//! `4096 + position − base`. `cut` says where the log before this segment ends: what segments with lower
//! ids hold from there on does not count. It equals `base`, except for the first segment after a restart,
//! which begins at the next multiple of the size and cuts off the torn tail before it.

use thiserror::Error;

use crate::base::block::PAGE_BYTES;
use crate::base::ids::{LogId, Position};

/// The format written today, and the only one read.
pub const SEGMENT_VERSION: u32 = 1;

const MAGIC: u32 = u32::from_le_bytes(*b"tkS1");

/// Names a segment. Ids only rise and are never used again, whatever file carries them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct SegmentId(pub u64);

impl SegmentId {
    /// `0000000000000001.seg`
    pub fn file_name(self) -> String {
        format!("{:016x}.seg", self.0)
    }

    /// The id in a name as [`SegmentId::file_name`] writes it, and `None` for every other name.
    pub fn from_file_name(name: &str) -> Option<SegmentId> {
        let digits = name.strip_suffix(".seg")?;
        let lower = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if digits.len() != 16 || !digits.bytes().all(lower) {
            return None;
        }
        u64::from_str_radix(digits, 16).ok().map(SegmentId)
    }
}

/// What the first page of a segment says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    pub log: LogId,
    /// Drawn once per log; seeds every check of its entries.
    pub log_seed: u64,
    pub segment: SegmentId,
    pub base: Position,
    pub cut: Position,
    /// Data bytes of the file, and the unit of positions that segments begin on.
    pub size: u64,
}

/// Why a page is not the header of a segment that this program reads. Nothing was changed by looking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HeaderError {
    /// The disk's, or a crash while the segment was being opened.
    #[error("not a segment header, or a damaged one")]
    Damaged,
    /// The operator's: the directory was written by a newer tailkeep.
    #[error("segment of format version {0}, newer than this program reads ({SEGMENT_VERSION})")]
    Newer(u32),
}

impl SegmentHeader {
    pub fn page(&self) -> Box<[u8; PAGE_BYTES]> {
        let mut page = Box::new([0; PAGE_BYTES]);
        page[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        page[4..8].copy_from_slice(&SEGMENT_VERSION.to_le_bytes());
        page[12..16].copy_from_slice(&u32::from(self.log.0).to_le_bytes());
        page[16..24].copy_from_slice(&self.log_seed.to_le_bytes());
        page[24..32].copy_from_slice(&self.segment.0.to_le_bytes());
        page[32..40].copy_from_slice(&self.base.0.to_le_bytes());
        page[40..48].copy_from_slice(&self.cut.0.to_le_bytes());
        page[48..56].copy_from_slice(&self.size.to_le_bytes());
        let check = check(&page);
        page[8..12].copy_from_slice(&check.to_le_bytes());
        page
    }

    /// Where the segment's positions end.
    pub fn end(&self) -> Position {
        Position((self.base.0 / self.size + 1) * self.size)
    }
}

/// Reads the first page of a file (more bytes are ignored).
pub fn parse_header(file: &[u8]) -> Result<SegmentHeader, HeaderError> {
    let page: &[u8; PAGE_BYTES] = file.first_chunk().ok_or(HeaderError::Damaged)?;
    let u32_at = |at: usize| u32::from_le_bytes(page[at..at + 4].try_into().expect("four bytes"));
    let u64_at = |at: usize| u64::from_le_bytes(page[at..at + 8].try_into().expect("eight bytes"));
    if u32_at(0) != MAGIC || u32_at(8) != check(page) {
        return Err(HeaderError::Damaged);
    }
    if u32_at(4) > SEGMENT_VERSION {
        return Err(HeaderError::Newer(u32_at(4)));
    }
    let header = SegmentHeader {
        log: LogId(u8::try_from(u32_at(12)).map_err(|_| HeaderError::Damaged)?),
        log_seed: u64_at(16),
        segment: SegmentId(u64_at(24)),
        base: Position(u64_at(32)),
        cut: Position(u64_at(40)),
        size: u64_at(48),
    };
    // The check does not protect from a writer gone wrong: positions must have room to be counted in.
    let sound = (PAGE_BYTES as u64..=super::SEGMENT_SIZE_MAX).contains(&header.size)
        && header.base.0 < super::POSITION_MAX
        && header.cut <= header.base
        && header.base.0.is_multiple_of(PAGE_BYTES as u64);
    if sound {
        Ok(header)
    } else {
        Err(HeaderError::Damaged)
    }
}

fn check(page: &[u8; PAGE_BYTES]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&page[..8]), &page[12..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_are_read_back_and_nothing_else_is() {
        let id = SegmentId(0x1f);
        assert_eq!(id.file_name(), "000000000000001f.seg");
        assert_eq!(SegmentId::from_file_name(&id.file_name()), Some(id));
        for name in [
            "1f.seg",
            "000000000000001F.seg",
            "000000000000001f.tmp",
            "+00000000000001f.seg",
            "é.seg",
        ] {
            assert_eq!(SegmentId::from_file_name(name), None, "{name}");
        }
    }

    #[test]
    fn a_newer_version_is_named() {
        let header = SegmentHeader {
            log: LogId(1),
            log_seed: 2,
            segment: SegmentId(3),
            base: Position(0),
            cut: Position(0),
            size: 1 << 20,
        };
        let mut page = header.page();
        assert_eq!(parse_header(&page[..]), Ok(header));
        page[4] = 9;
        assert_eq!(
            parse_header(&page[..]),
            Err(HeaderError::Damaged),
            "the check covers the version"
        );
        let check = check(&page);
        page[8..12].copy_from_slice(&check.to_le_bytes());
        assert_eq!(parse_header(&page[..]), Err(HeaderError::Newer(9)));
    }
}
