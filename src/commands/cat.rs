//! `tailkeep cat`: what the logs of a data directory hold.
//!
//! ```text
//!  log-00/   spans, verdicts …  ┐              ┌ a line an entry, for people
//!  kept-00/  copies to export   ┘──► content ──┤
//!                                              └ --json: OTLP/JSON lines and verdicts
//! ```
//!
//! The directory may be one that a running process writes to: nothing is locked and nothing is written. What is
//! damaged is told on stderr, and the rest is read.

mod content;
mod json;
mod listing;
mod output;

use std::path::{Path, PathBuf};

use super::{CatArguments, Failure, configuration};
use crate::base::ids::{LogId, TraceId};
use crate::io::datadir;
use crate::io::recovery::LogFiles;
use crate::landing::fetch::WhichLog;
use crate::wal::recover::{Recovered, ReplayedEntry};
use output::Output;

/// One log of the directory.
struct Log {
    which: WhichLog,
    id: LogId,
    path: PathBuf,
    /// `log-00`
    name: String,
}

pub fn cat(arguments: &CatArguments) -> Result<(), Failure> {
    let trace = match &arguments.trace {
        None => None,
        Some(text) => Some(TraceId::from_hex(text).ok_or_else(|| {
            let found = text.escape_debug();
            Failure::Usage(format!(
                "error: --trace: expected 32 hexadecimal digits, not all zero, found \"{found}\""
            ))
        })?),
    };
    let loaded = configuration::load(&arguments.configuration)?;
    let data_dir = loaded.config.node.data_dir;
    let logs = logs_of(&data_dir)?;
    let mut output = Output::new();
    if arguments.json {
        json::print(&logs, trace, &mut output)?;
    } else {
        listing::print(&logs, trace, &mut output)?;
    }
    if let Some(trace) = trace
        && output.is_empty()
    {
        output.note(&format!("{}: holds nothing of trace {trace}", data_dir.display()));
    }
    output.finish()
}

/// Every log in the directory, each before its kept log.
fn logs_of(data_dir: &Path) -> Result<Vec<Log>, Failure> {
    let listed = std::fs::read_dir(data_dir);
    listed.map_err(|error| Failure::Environment(format!("{}: {error}", data_dir.display())))?;
    let named = |id, which| {
        let path = datadir::log_path(data_dir, which, LogId(id));
        let name = path.file_name()?.to_str()?.to_owned();
        let is_directory = std::fs::symlink_metadata(&path).is_ok_and(|found| found.is_dir());
        is_directory.then_some(Log {
            which,
            id: LogId(id),
            path,
            name,
        })
    };
    let ids = 0..=u8::MAX;
    let logs: Vec<Log> = ids
        .flat_map(|id| [WhichLog::Main, WhichLog::Kept].map(|which| named(id, which)))
        .flatten()
        .collect();
    if logs.is_empty() {
        return Err(Failure::Environment(format!(
            "{}: is no data directory: there is no log in it",
            data_dir.display()
        )));
    }
    Ok(logs)
}

impl Log {
    /// Hands on every entry that counts until nobody reads any more. `tells`: reports damage on stderr.
    fn read(
        &self,
        output: &mut Output,
        tells: bool,
        mut each: impl FnMut(&ReplayedEntry<'_>, &mut Output),
    ) -> Result<(), Failure> {
        let failure = |error: crate::io::recovery::RecoveryError| Failure::Environment(error.to_string());
        let data_dir = self.path.parent();
        let log_seed = data_dir.and_then(|path| datadir::log_seed_of(path, self.which, self.id));
        let mut files = LogFiles::open_live(&self.path, self.id, log_seed).map_err(failure)?;
        let mut more = true;
        while more && !output.is_closed() {
            more = files.step(&mut |entry| each(entry, output)).map_err(failure)?;
        }
        if !more && tells {
            self.tell_damage(&files.finish(), output);
        }
        Ok(())
    }

    fn tell_damage(&self, recovered: &Recovered, output: &mut Output) {
        for range in &recovered.corrupt {
            let file = range
                .segment
                .map_or("a file is missing".to_owned(), |segment| segment.file_name());
            output.note(&format!(
                "{}: {file}: corrupt from {} to {}",
                self.name, range.start, range.end
            ));
        }
        for segment in &recovered.unreadable {
            output.note(&format!(
                "{}: {}: no page of it is readable",
                self.name,
                segment.file_name()
            ));
        }
    }
}
