//! Flags in, exit code out. Everything else is in the library.

use std::process::ExitCode;

use clap::Parser;
use tailkeep::commands::{Arguments, execute};

fn main() -> ExitCode {
    // clap answers a wrong flag with exit code 2, `--help` and `--version` with 0.
    execute(Arguments::parse())
}
