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
//! column, also those of the policy compiler, which knows only paths. The typed reading is by hand and not by
//! serde, because serde stops at the first mistake and an operator wants to see all of them.

pub mod diagnostic;
pub mod options;
pub mod reader;
pub mod render;
mod schema;
pub mod tree;
pub mod units;

use std::sync::Arc;

use self::diagnostic::{Diagnostic, Origin, Severity};
use self::options::{
    AdminOptions, CompletionOptions, ExporterOptions, MemoryOptions, NodeOptions, ReceiverOptions,
    SamplingOptions, WalOptions,
};
use self::reader::Report;
use self::tree::fill::fill;
use self::tree::merge::{document_of, overlay};
use self::tree::parse::{DocumentName, parse};
use self::tree::{Node, NodeKind};
use crate::policy::PolicySet;
use crate::policy::options::PolicyOptions;

/// What `run` does without `--config`.
pub const BUILT_IN: &str = include_str!("config/built_in.yaml");
/// Every key of the contract with its default.
pub const DEFAULTS: &str = include_str!("config/defaults.yaml");
/// A configuration to begin with.
pub const EXAMPLE: &str = include_str!("config/example.yaml");

/// A whole configuration, checked.
///
/// Invariant: every value is within the range its field states, exporters are at least one, the
/// policies compile.
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
    pub overload: crate::shard::OnOverload,
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
    pub value: SettingValue,
}

#[derive(Clone, Debug)]
pub enum SettingValue {
    /// A scalar or a flow collection, with `${…}`.
    Yaml(String),
    /// Text as it is.
    Text(String),
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
    /// `config.policies`, compiled.
    pub policies: PolicySet,
    /// Warnings and notices, in the order of the files.
    pub remarks: Vec<Diagnostic>,
}

/// Reads `sources` in their order, then `settings`; without a source the built-in configuration.
/// The error holds every mistake, in the order of the files.
pub fn load(
    sources: &[Source],
    settings: &[Setting],
    surroundings: &dyn Surroundings,
) -> Result<Loaded, Vec<Diagnostic>> {
    let built_in = sources.is_empty();
    let built_in_source = Source {
        name: "built-in".to_owned(),
        bytes: BUILT_IN.into(),
    };
    let sources = if built_in {
        std::slice::from_ref(&built_in_source)
    } else {
        sources
    };
    let mut errors = Vec::new();
    let mut documents = Vec::new();
    for source in sources {
        let name: Arc<str> = source.name.as_str().into();
        documents.push(parse(&DocumentName::File(name), &source.bytes));
    }
    documents.extend(settings.iter().map(document_of));

    let file: Arc<str> = sources[0].name.as_str().into();
    let mut tree = Node::empty_map(Origin::File {
        file,
        line: 1,
        column: 1,
    });
    for document in documents {
        match document {
            Ok(document) if document.is_null() => {}
            Ok(mut document) => {
                lift_tail_sampling(&mut document, &mut errors);
                overlay(&mut tree, document);
            }
            Err(more) => errors.extend(more),
        }
    }
    // Half a configuration would give messages about what the other half says.
    if !errors.is_empty() {
        return Err(errors);
    }

    fill(&mut tree, surroundings, &mut errors);
    let report = Report::default();
    let config = schema::read(&report, &tree, built_in);
    // Even when something else is wrong: the compiler's messages belong to «all at once».
    let policies = PolicySet::compile(&config.policies);
    for error in policies.as_ref().err().into_iter().flatten() {
        let path = format!("tail_sampling.{}", error.path);
        report.say_at(&tree, Severity::Error, &path, &error.message, &error.help);
    }
    let mut diagnostics = report.into_diagnostics();
    diagnostics.extend(errors);
    diagnostics.sort_by_key(|diagnostic| position(&diagnostic.origin, sources));
    match policies {
        Ok(policies)
            if diagnostics
                .iter()
                .all(|diagnostic| diagnostic.severity != Severity::Error) =>
        {
            Ok(Loaded {
                config,
                policies,
                remarks: diagnostics,
            })
        }
        _ => {
            diagnostics.retain(|diagnostic| diagnostic.severity == Severity::Error);
            Err(diagnostics)
        }
    }
}

/// Moves `processors.tail_sampling` (or the one `processors.tail_sampling/<name>`) to the top, so
/// that both ways of writing it merge with each other.
fn lift_tail_sampling(document: &mut Node, errors: &mut Vec<Diagnostic>) {
    let NodeKind::Map(entries) = &mut document.kind else {
        let message = "expected a map with keys such as `tail_sampling`";
        errors.push(Diagnostic::error(document.origin.clone(), "", message));
        return;
    };
    let processors = entries.iter_mut().find(|entry| entry.key == "processors");
    let Some(NodeKind::Map(processors)) = processors.map(|entry| &mut entry.value.kind) else {
        return;
    };
    let (lifted, others) = std::mem::take(processors)
        .into_iter()
        .partition(|entry| entry.key == "tail_sampling" || entry.key.starts_with("tail_sampling/"));
    *processors = others;
    for mut entry in Vec::<tree::Entry>::into_iter(lifted) {
        if let Some(first) = entries.iter().find(|entry| entry.key == "tail_sampling") {
            let message = format!("there is one tail_sampling already, at {}", first.key_origin);
            errors.push(Diagnostic::error(
                entry.key_origin,
                format!("processors.{}", entry.key),
                message,
            ));
            continue;
        }
        entry.key = "tail_sampling".to_owned();
        entries.push(entry);
    }
}

/// Sorts as one reads: file by file, line by line, then the flags.
fn position(origin: &Origin, sources: &[Source]) -> (usize, u32, u32) {
    match origin {
        Origin::File { file, line, column } => {
            let index = sources.iter().position(|source| source.name == **file);
            (index.unwrap_or(0), *line, *column)
        }
        Origin::Flag(_) => (sources.len(), 0, 0),
    }
}
