//! `wal`: the log.

use crate::config::options::{Durability, FreeSpace, WalOptions};
use crate::config::reader::{Section, Value};
use crate::config::units::parse_percent;

/// The unit of residency: a segment is a whole number of blocks.
const BLOCK_BYTES: u64 = 256 << 10;
const SEGMENT_BYTES_MIN: u64 = 1 << 20;
const SEGMENT_BYTES_MAX: u64 = crate::wal::SEGMENT_SIZE_MAX;

pub fn wal(mut section: Section<'_>) -> WalOptions {
    let default = WalOptions::default();
    let options = WalOptions {
        durability: section.read("durability", durability, default.durability),
        segment_bytes: section.read("segment_size", segment_size, default.segment_bytes),
        max_bytes: section.read("max_size", |value| value.auto(Value::size), default.max_bytes),
        min_free: section.read("min_free", min_free, default.min_free),
        retain: section.read("retain", Value::duration, default.retain),
    };
    section.default_only(
        "compression",
        |value| value.word(&["none", "lz4", "zstd"]),
        "none",
        "none",
    );
    section.finish();
    options
}

fn durability(value: &Value<'_>) -> Option<Durability> {
    let word = value.word(&Durability::ALL.map(Durability::name))?;
    Durability::ALL
        .into_iter()
        .find(|durability| durability.name() == word)
}

fn segment_size(value: &Value<'_>) -> Option<u64> {
    let bytes = value.size()?;
    if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&bytes) {
        return value.error("must be from 1MiB to 1GiB", "");
    }
    if !bytes.is_multiple_of(BLOCK_BYTES) {
        return value.error("must be a multiple of 256KiB", "");
    }
    Some(bytes)
}

fn min_free(value: &Value<'_>) -> Option<FreeSpace> {
    if !value.ends_with('%') {
        return value.size().map(FreeSpace::Bytes);
    }
    match parse_percent(&value.text()?) {
        Some(percent) => Some(FreeSpace::Percent(percent)),
        None => value.error("expected a share of the disk from 0% to 100%", ""),
    }
}
