//! The Collector's regular expressions (Go's RE2 dialect) as ours.

use regex::bytes::{RegexSet, RegexSetBuilder};

/// Bytes a compiled list of patterns may take, and each pattern alone.
const COMPILED_BYTES_MAX: usize = 1 << 20;

/// What is wrong with one pattern.
pub(super) fn check(pattern: &str) -> Result<(), String> {
    compile(std::slice::from_ref(&pattern)).map(|_| ())
}

/// Matches where one of `patterns` matches anywhere.
pub(super) fn compile(patterns: &[impl AsRef<str>]) -> Result<RegexSet, String> {
    RegexSetBuilder::new(patterns)
        .size_limit(COMPILED_BYTES_MAX)
        .build()
        .map_err(|error| match error {
            regex::Error::CompiledTooBig(limit) => format!("needs more than {limit} bytes when compiled"),
            error => error.to_string(),
        })
}
