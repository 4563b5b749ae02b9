//! `tailkeep validate`: every mistake of a configuration at once, or a line that says what it does.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::configuration::{diagnose, print_diagnostics};
use super::{Failure, ValidateArguments, print_result};
use crate::config::Loaded;
use crate::config::diagnostic::{Diagnostic, Origin};

pub fn validate(arguments: &ValidateArguments) -> ExitCode {
    let outcome = match diagnose(&arguments.configuration) {
        Ok(outcome) => outcome,
        Err(failure) => return failure.report(),
    };
    let valid = outcome.is_ok();
    let printed = if arguments.json {
        print_result(&format!("{:#}\n", report_of(&outcome)))
    } else {
        print_text(&outcome)
    };
    match printed {
        Ok(()) if valid => ExitCode::SUCCESS,
        Ok(()) => ExitCode::from(2),
        Err(failure) => failure.report(),
    }
}

fn print_text(outcome: &Result<Loaded, Vec<Diagnostic>>) -> Result<(), Failure> {
    match outcome {
        Ok(loaded) => {
            print_diagnostics(&loaded.remarks);
            let (policies, exporters) = (
                loaded.config.policies.policies.len(),
                loaded.config.exporters.len(),
            );
            print_result(&format!(
                "valid: {}, {}\n",
                count(policies, "policy", "policies"),
                count(exporters, "exporter", "exporters")
            ))
        }
        Err(errors) => {
            print_diagnostics(errors);
            Ok(())
        }
    }
}

fn count(count: usize, one: &str, several: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { several })
}

/// `{"valid":…,"diagnostics":[{"severity","file","line","column","flag","key","message","help"}]}`;
/// what does not apply is null.
fn report_of(outcome: &Result<Loaded, Vec<Diagnostic>>) -> Value {
    let diagnostics = match outcome {
        Ok(loaded) => &loaded.remarks,
        Err(errors) => errors,
    };
    let entries: Vec<Value> = diagnostics.iter().map(entry_of).collect();
    json!({ "valid": outcome.is_ok(), "diagnostics": entries })
}

fn entry_of(diagnostic: &Diagnostic) -> Value {
    let (file, line, column, flag) = match &diagnostic.origin {
        Origin::File { file, line: 0, .. } => (Some(file), None, None, None),
        Origin::File { file, line, column } => (Some(file), Some(line), Some(column), None),
        Origin::Flag(flag) => (None, None, None, Some(flag)),
    };
    let key = (!diagnostic.path.is_empty()).then_some(&diagnostic.path);
    json!({
        "severity": diagnostic.severity.name(),
        "file": file.map(|file| &**file),
        "line": line,
        "column": column,
        "flag": flag.map(|flag| &**flag),
        "key": key,
        "message": diagnostic.message,
        "help": diagnostic.help,
    })
}
