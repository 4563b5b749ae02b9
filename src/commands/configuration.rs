//! From flags to a configuration: the files, the environment and the order they apply in.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use clap::Args;

use super::{Failure, path_text};
use crate::config::diagnostic::{Diagnostic, Origin, Severity};
use crate::config::tree::DOCUMENT_BYTES_MAX;
use crate::config::{self, Loaded, Setting, SettingValue, Source, Surroundings};

/// Messages printed at most: a hostile file has no end of mistakes.
const DIAGNOSTICS_SHOWN_MAX: usize = 100;

/// The flags of every command that reads a configuration.
#[derive(Clone, Debug, Default, Args)]
pub struct ConfigurationFlags {
    /// A YAML file; may be given several times: maps merge, lists replace
    #[arg(long, value_name = "FILE")]
    pub config: Vec<PathBuf>,
    /// One value, laid over the files, such as wal.retain=1h; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Where the log lives: node.data_dir
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}

/// Loads and checks all of it. The failure holds the lines of every mistake.
pub fn load(flags: &ConfigurationFlags) -> Result<Loaded, Failure> {
    diagnose(flags)?.map_err(|errors| Failure::Usage(lines_of(&errors)))
}

/// As [`load`], with the mistakes one by one.
pub fn diagnose(flags: &ConfigurationFlags) -> Result<Result<Loaded, Vec<Diagnostic>>, Failure> {
    let mut errors = Vec::new();
    let mut sources = Vec::new();
    for path in &flags.config {
        let name = path_text("--config", path)?;
        match read_at_most(path, DOCUMENT_BYTES_MAX + 1) {
            Ok(bytes) => sources.push(Source { name, bytes }),
            Err(error) => {
                let origin = Origin::File {
                    file: name.into(),
                    line: 0,
                    column: 0,
                };
                errors.push(Diagnostic::error(origin, "", format!("cannot be read: {error}")));
            }
        }
    }
    let mut settings = Vec::new();
    for text in &flags.set {
        match text.split_once('=') {
            Some((key, value)) => settings.push(Setting {
                flag: format!("--set {key}"),
                key: key.to_owned(),
                value: SettingValue::Yaml(value.to_owned()),
            }),
            None => {
                let origin = Origin::Flag(format!("--set {text}").into());
                errors.push(Diagnostic::error(origin, "", "expected KEY=VALUE"));
            }
        }
    }
    if let Some(path) = &flags.data_dir {
        settings.push(Setting {
            flag: "--data-dir".to_owned(),
            key: "node.data_dir".to_owned(),
            value: SettingValue::Text(path_text("--data-dir", path)?),
        });
    }
    if !errors.is_empty() {
        return Ok(Err(errors));
    }
    Ok(config::load(&sources, &settings, &Host))
}

/// Warnings and notices, or errors, on stderr.
pub fn print_diagnostics(diagnostics: &[Diagnostic]) {
    if !diagnostics.is_empty() {
        // A closed stderr leaves nobody to tell.
        let _ = writeln!(io::stderr().lock(), "{}", lines_of(diagnostics));
    }
}

fn lines_of(diagnostics: &[Diagnostic]) -> String {
    let shown = diagnostics
        .iter()
        .take(DIAGNOSTICS_SHOWN_MAX)
        .map(Diagnostic::to_string);
    let mut lines: Vec<String> = shown.collect();
    let hidden = diagnostics.len() - lines.len();
    if hidden > 0 {
        lines.push(format!("{}: {hidden} more", Severity::Error.name()));
    }
    lines.join("\n")
}

/// This process's environment and files.
struct Host;

impl Surroundings for Host {
    fn env(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    fn file(&self, path: &str) -> Result<String, String> {
        let bytes =
            read_at_most(Path::new(path), DOCUMENT_BYTES_MAX + 1).map_err(|error| error.to_string())?;
        if bytes.len() > DOCUMENT_BYTES_MAX {
            return Err(format!("longer than {} MiB", DOCUMENT_BYTES_MAX >> 20));
        }
        String::from_utf8(bytes).map_err(|_| "not UTF-8".to_owned())
    }
}

/// The beginning of a file: one that never ends (`/dev/zero`) is cut off.
fn read_at_most(path: &Path, bytes_max: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(bytes_max as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}
