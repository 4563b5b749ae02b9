//! What `main` runs: one function a command, and the flags they share.
//!
//! Results go to stdout, everything else to stderr. Exit codes are a contract: 0 fine, 1 the
//! environment (port, disk, lock), 2 usage or configuration.

pub mod admin;
pub mod cat;
pub mod configuration;
pub mod demo;
pub mod doctor;
pub mod explain;
pub mod http;
pub mod manual;
pub mod print_config;
pub mod run;
pub mod show;
pub mod status;
pub mod validate;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use self::admin::AdminFlags;
use self::configuration::ConfigurationFlags;

/// Tail sampler for OpenTelemetry: what it acknowledges it does not lose.
#[derive(Debug, Parser)]
#[command(name = "tailkeep", version, max_term_width = 100, subcommand_required = true)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub log: LogFlags,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Receive, keep and export; without --config on localhost, keeping every trace
    Run(RunArguments),
    /// Show tailkeep at work on traffic it makes itself
    Demo(DemoArguments),
    /// Check a configuration and tell every mistake with its line
    Validate(ValidateArguments),
    /// Print the configuration in effect, the defaults, or an example
    PrintConfig(PrintConfigArguments),
    /// List what a data directory holds, or with --json print its spans as OTLP/JSON lines
    Cat(CatArguments),
    /// Translate a Collector's or Refinery's configuration (not yet)
    Convert(UnbuiltArguments),
    /// Check whether this host is fit, and say how to mend what is not
    Doctor(DoctorArguments),
    /// Fit this host (not yet)
    Tune(UnbuiltArguments),
    /// Decide again what a data directory holds, by other policies (not yet)
    Replay(UnbuiltArguments),
    /// Show what a running tailkeep does
    Status(StatusArguments),
    /// Explain what a running tailkeep decided about a trace, and why
    Explain(ExplainArguments),
    /// Read the manual: without a topic, the list of topics
    Manual(ManualArguments),
}

#[derive(Debug, Args)]
pub struct LogFlags {
    /// How tailkeep's own log is written to stderr
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// The least important messages that are logged
    #[arg(long, global = true, value_enum, default_value_t = LogLevel::Info)]
    pub log_level: LogLevel,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

#[derive(Debug, Args)]
pub struct RunArguments {
    #[command(flatten)]
    pub configuration: ConfigurationFlags,
    /// Accept nothing, decide everything, empty the queues, exit
    #[arg(long)]
    pub drain: bool,
}

#[derive(Debug, Args)]
pub struct DemoArguments {
    /// How long, such as 30s
    #[arg(long = "for", value_name = "DURATION")]
    pub duration: Option<String>,
    /// Kill the engine in mid-load, start it again, and count what was lost
    #[arg(long)]
    pub crash: bool,
}

#[derive(Debug, Args)]
pub struct ValidateArguments {
    #[command(flatten)]
    pub configuration: ConfigurationFlags,
    /// Report as one JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct PrintConfigArguments {
    #[command(flatten)]
    pub configuration: ConfigurationFlags,
    /// Every key with its default and what it means
    #[arg(long, conflicts_with_all = ["example", "config", "set", "data_dir"])]
    pub defaults: bool,
    /// A configuration to begin with
    #[arg(long, conflicts_with_all = ["config", "set", "data_dir"])]
    pub example: bool,
}

#[derive(Debug, Args)]
pub struct CatArguments {
    #[command(flatten)]
    pub configuration: ConfigurationFlags,
    /// Only this trace: 32 hexadecimal digits
    #[arg(long, value_name = "ID")]
    pub trace: Option<String>,
    /// One JSON object a line
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct DoctorArguments {
    #[command(flatten)]
    pub configuration: ConfigurationFlags,
    /// Report as one JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct StatusArguments {
    #[command(flatten)]
    pub admin: AdminFlags,
    /// The status document as it is
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct ExplainArguments {
    /// The trace: 32 hexadecimal digits
    #[arg(value_name = "ID")]
    pub trace: String,
    #[command(flatten)]
    pub admin: AdminFlags,
    /// The explanation as the admin port gives it
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct ManualArguments {
    /// A page's name
    pub topic: Option<String>,
}

/// A command that is named by the contract and not built takes whatever is said to it.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub struct UnbuiltArguments {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    pub rest: Vec<String>,
}

/// Why a command ended without doing what it was asked.
#[derive(Debug)]
pub enum Failure {
    /// The host's: port, disk, lock, kernel. Exit code 1.
    Environment(String),
    /// The operator's: flags or configuration. Exit code 2. The lines are complete.
    Usage(String),
}

/// Runs one command to its end.
pub fn execute(arguments: Arguments) -> ExitCode {
    let Arguments { command, log } = arguments;
    let outcome = match command {
        Command::Run(arguments) => run_command(&arguments, &log),
        Command::Demo(arguments) => demo::demo(&arguments, &log),
        Command::Validate(arguments) => return validate::validate(&arguments),
        Command::PrintConfig(arguments) => print_config::print_config(&arguments),
        Command::Cat(arguments) => cat::cat(&arguments),
        Command::Convert(_) => not_yet("convert"),
        Command::Doctor(arguments) => return doctor::doctor(&arguments),
        Command::Tune(_) => not_yet("tune"),
        Command::Replay(_) => not_yet("replay"),
        Command::Status(arguments) => status::status(&arguments),
        Command::Explain(arguments) => explain::explain(&arguments),
        Command::Manual(arguments) => manual::manual(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run_command(arguments: &RunArguments, log: &LogFlags) -> Result<(), Failure> {
    let loaded = configuration::load(&arguments.configuration)?;
    configuration::print_diagnostics(&loaded.remarks);
    let files = arguments
        .configuration
        .config
        .iter()
        .map(|path| path.display().to_string());
    let flags = arguments.configuration.clone();
    let again = move || match configuration::load(&flags) {
        Ok(loaded) => Ok(loaded),
        Err(Failure::Environment(message)) => Err(message),
        Err(Failure::Usage(lines)) => Err(lines),
    };
    run::run(loaded, log, files.collect(), arguments.drain, again)
}

fn not_yet(what: &str) -> Result<(), Failure> {
    Err(Failure::Usage(format!(
        "error: {what}: not yet in this version of tailkeep"
    )))
}

impl Failure {
    /// Tells stderr and gives the exit code.
    pub fn report(self) -> ExitCode {
        let (text, code) = match self {
            Failure::Environment(message) => (format!("error: {message}"), 1),
            Failure::Usage(lines) => (lines, 2),
        };
        // A closed stderr leaves nobody to tell.
        let _ = writeln!(io::stderr().lock(), "{}", text.trim_end());
        ExitCode::from(code)
    }
}

/// Writes a result to stdout. A reader that has seen enough (`| head`) is no failure.
pub fn print_result(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Failure::Environment(format!("stdout: {error}"))),
    }
}

/// Begins logging to stderr. Once a process.
pub fn start_log(flags: &LogFlags) {
    use tracing_subscriber::filter::LevelFilter;
    let level = match flags.log_level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let builder = tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_max_level(level)
        .with_target(false);
    // A second call keeps the first log; tests start several in one process.
    let _ = match flags.log_format {
        LogFormat::Text => builder.with_ansi(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
}

/// `--data-dir` and `--config` are paths; messages and YAML need text.
fn path_text(flag: &str, path: &PathBuf) -> Result<String, Failure> {
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| Failure::Usage(format!("error: {flag}: {path:?} is not UTF-8")))
}
