//! What is wrong with a configuration, and where: one line an operator can act on.
//!
//! ```text
//! error: tailkeep.yaml:7:31: tail_sampling.policies[1].latency.threshold_ms: expected a whole number, found "2s"
//!   help: milliseconds without a unit: 2000
//! ```

use std::fmt;
use std::sync::Arc;

/// One finding. `Display` gives the lines of the contract, without a final newline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    pub severity: Severity,
    pub origin: Origin,
    /// The key in question, such as `tail_sampling.policies[1].name`; empty for a file as a whole.
    pub path: String,
    pub message: String,
    pub help: Option<String>,
}

/// Only errors keep a configuration from loading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    Error,
    /// Loads, and hardly does what was meant.
    Warning,
    /// A key that is accepted and has no effect here.
    Notice,
}

impl Severity {
    pub fn name(self) -> &'static str {
        match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Notice => "notice",
        }
    }
}

/// Where a key or value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Lines and columns count from 1, columns in characters. Line 0: the file as a whole.
    File { file: Arc<str>, line: u32, column: u32 },
    /// A flag as it was typed, such as `--set wal.retain`.
    Flag(Arc<str>),
}

impl Diagnostic {
    pub fn error(origin: Origin, path: impl Into<String>, message: impl Into<String>) -> Diagnostic {
        Diagnostic {
            severity: Severity::Error,
            origin,
            path: path.into(),
            message: message.into(),
            help: None,
        }
    }

    pub fn with_help(mut self, help: impl Into<String>) -> Diagnostic {
        self.help = Some(help.into());
        self
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::File { file, line: 0, .. } => write!(f, "{file}"),
            Origin::File { file, line, column } => write!(f, "{file}:{line}:{column}"),
            Origin::Flag(flag) => write!(f, "{flag}"),
        }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {}: ",
            self.severity.name(),
            Harmless(&self.origin.to_string())
        )?;
        // `--set KEY` names the key already.
        let named = matches!(&self.origin, Origin::Flag(flag) if flag.ends_with(&format!(" {}", self.path)));
        if !self.path.is_empty() && !named {
            write!(f, "{}: ", Harmless(&self.path))?;
        }
        write!(f, "{}", Harmless(&self.message))?;
        match &self.help {
            Some(help) => write!(f, "\n  help: {}", Harmless(help)),
            None => Ok(()),
        }
    }
}

/// Text of a configuration in a message: nothing in it commands the terminal or begins a line.
struct Harmless<'t>(&'t str);

impl fmt::Display for Harmless<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .chars()
            .try_for_each(|character| match character.is_control() {
                true => write!(f, "{}", character.escape_default()),
                false => write!(f, "{character}"),
            })
    }
}
