//! The configuration: YAML in, plain options of every part out, all mistakes at once.
//!
//! ```text
//!  files ──► tree (positions) ──► substitute ──► merge ◄── --set
//!                                                  │
//!              Config  ◄── reader (types, help) ◄──┘
//!                │
//!                └──► render ──► YAML that loads to the same Config
//! ```
//!
//! A tree keeps the position of every key and value, so that each message can name file, line and
//! column, also those of a later layer ([`Loaded::locate`]). The typed reading is by hand and not by
//! serde, because serde stops at the first mistake and an operator wants to see all of them.

pub mod diagnostic;
pub mod options;

use self::diagnostic::Diagnostic;
use self::options::{
    AdminOptions, CompletionOptions, ExporterOptions, MemoryOptions, NodeOptions, ReceiverOptions,
    SamplingOptions, WalOptions,
};
use crate::policy::options::PolicyOptions;

/// A whole configuration, checked.
///
/// Invariant: every value is within the range its field states, exporters are at least one, and
/// policies have unique names. (That their expressions compile is `PolicySet::compile`'s to say.)
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// No `--config` was given: keeps every trace, and memory is held to 1 GiB.
    pub built_in: bool,
    pub node: NodeOptions,
    pub receivers: ReceiverOptions,
    pub wal: WalOptions,
    pub policies: PolicyOptions,
    pub sampling: SamplingOptions,
    pub completion: CompletionOptions,
    pub memory: MemoryOptions,
    pub exporters: Vec<ExporterOptions>,
    pub admin: AdminOptions,
}

impl Config {
    /// `memory.limit`, where `available_bytes` is the lower of RAM and cgroup limit: half of it
    /// unless given, and not above 1 GiB without a configuration.
    pub fn memory_limit_bytes(&self, available_bytes: u64) -> u64 {
        let half = || match self.built_in {
            true => (available_bytes / 2).min(1 << 30),
            false => available_bytes / 2,
        };
        self.memory.limit_bytes.clone().or_else(half)
    }
}

/// One configuration file, read.
#[derive(Clone, Debug)]
pub struct Source {
    /// As given on the command line; messages repeat it.
    pub name: String,
    pub bytes: Vec<u8>,
}

/// A value from the command line, laid over the files.
#[derive(Clone, Debug)]
pub struct Setting {
    /// For messages, such as `--set wal.retain` or `--data-dir`.
    pub flag: String,
    /// Dotted, such as `wal.retain`.
    pub key: String,
    /// YAML: a scalar or a flow collection.
    pub value: String,
}

/// What `${env:…}` and `${file:…}` refer to. A trait, because this layer does no I/O (S1).
pub trait Surroundings {
    fn env(&self, name: &str) -> Option<String>;
    /// The text of a file, or why it cannot be had.
    fn file(&self, path: &str) -> Result<String, String>;
}

/// A configuration that loaded, and what there is to say about it.
#[derive(Debug)]
pub struct Loaded {
    pub config: Config,
    /// Warnings and notices, in the order of the files.
    pub remarks: Vec<Diagnostic>,
}
