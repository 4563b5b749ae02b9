//! Flags in, exit code out. Everything else is in the library.

use std::process::ExitCode;

use clap::Parser;
use tailkeep::commands::{Arguments, execute};

/// Requests bring many short-lived vectors of a few KiB to a MiB. glibc gives large ones back to the system and
/// fetches fresh pages for the next.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // clap answers a wrong flag with exit code 2, `--help` and `--version` with 0.
    execute(Arguments::parse())
}
