//! tailkeep-bench: measures tailkeep from outside, as clients and destinations see it.
//!
//! ```text
//!  load   sends OTLP traces and reports rates, latencies and what they cost the server
//!  drain  answers every request and throws it away: what `load` itself costs
//!  sink   answers every request and keeps its ids: duplicates, torn traces, what a ledger expects
//!  yardstick   what the machine does with the same bytes: the unit for figures of different machines
//! ```

mod drain;
mod load;
mod sink;
mod yardstick;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "tailkeep-bench",
    version,
    about = "Load generator and destination for tailkeep"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Sends generated traces and reports rates, latencies and the server's cost
    Load(load::LoadArguments),
    /// Acknowledges everything at once and keeps nothing: shows what the generator itself costs
    Drain(drain::DrainArguments),
    /// An OTLP destination that counts and checks ids, and reports when it is ended
    Sink(sink::SinkArguments),
    /// Measures the machine itself, so that figures of different machines can be compared
    Yardstick(yardstick::YardstickArguments),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Load(arguments) => load::run(&arguments),
        Command::Drain(arguments) => drain::run(&arguments),
        Command::Sink(arguments) => sink::run(&arguments),
        Command::Yardstick(arguments) => yardstick::run(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

/// Why a run gave no (or no clean) result.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The operator's: nothing was started.
    #[error("{0}")]
    Usage(String),
    /// The environment's: nothing was sent.
    #[error("{what}: {source}")]
    Environment { what: String, source: std::io::Error },
    /// The server's: the report was printed and covers the time until then.
    #[error("every connection was lost before the end of the run; the last: {0}")]
    ConnectionsLost(String),
    /// The server's: what it acknowledged did not arrive. The report was printed.
    #[error("{0}")]
    Missing(String),
}

impl BenchError {
    pub fn environment(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> BenchError {
        let what = what.into();
        move |source| BenchError::Environment { what, source }
    }

    fn exit_code(&self) -> u8 {
        match self {
            BenchError::Usage(_) => 2,
            BenchError::Environment { .. } | BenchError::ConnectionsLost(_) | BenchError::Missing(_) => 1,
        }
    }
}

/// A current-thread runtime on this thread, pinned to `cpu` if one is named: the server has the others.
fn pinned_runtime(cpu: Option<usize>) -> Result<tokio::runtime::Runtime, BenchError> {
    pin("--cpu", cpu)?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(BenchError::environment("event loop"))
}

/// This thread runs on `cpu` from now on, if `flag` named one.
fn pin(flag: &str, cpu: Option<usize>) -> Result<(), BenchError> {
    match cpu {
        Some(id) if !core_affinity::set_for_current(core_affinity::CoreId { id }) => Err(BenchError::Usage(
            format!("{flag} {id}: this process may not run there"),
        )),
        _ => Ok(()),
    }
}
