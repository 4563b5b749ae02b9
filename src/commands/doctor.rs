//! `tailkeep doctor`: whether `run` would run here, and how to mend what stands in its way.
//!
//! ```text
//!  configuration ─┐
//!  kernel, limits ├─► findings ─► a line each, with its fix │ --json
//!  disk, ports    │     ok · warning: slower or riskier · error: `run` would fail
//!  CPUs, settings ┘
//! ```
//!
//! Nothing is changed: what must be tried (a ring, a direct write, a port) is tried and taken back.

mod cpus; // which CPUs, how much of them
mod destinations; // does somebody listen there
mod directory; // where the log would lie
mod finding; // what a check says
mod kernel; // version, io_uring
mod limits; // of this process
mod ports; // who listens there
mod tuning; // settings that cost speed

use std::process::ExitCode;

use super::configuration::{load, print_diagnostics};
use super::{DoctorArguments, Failure, print_result};
use crate::config::Config;
use crate::config::options::ExporterKind;
use finding::{Finding, Findings};

pub fn doctor(arguments: &DoctorArguments) -> ExitCode {
    let loaded = match load(&arguments.configuration) {
        Ok(loaded) => loaded,
        Err(failure) => return failure.report(),
    };
    print_diagnostics(&loaded.remarks);
    let findings = examine(&loaded.config);
    let text = match arguments.json {
        true => format!("{:#}\n", findings.to_json()),
        false => findings.to_text(),
    };
    match (print_result(&text), findings.is_fit()) {
        (Err(failure), _) => failure.report(),
        (Ok(()), true) => ExitCode::SUCCESS,
        (Ok(()), false) => ExitCode::from(1),
    }
}

fn examine(config: &Config) -> Findings {
    let mut findings = Findings::default();
    kernel::check(&mut findings);
    limits::check(config, &mut findings);
    directory::check(config, &mut findings);
    ports::check(config, &mut findings);
    cpus::check(config, &mut findings);
    files(config, &mut findings);
    tuning::check(config, &mut findings);
    findings
}

/// Files that the configuration names beside the data directory.
fn files(config: &Config, findings: &mut Findings) {
    if let Some(path) = &config.admin.token_file {
        findings.add(match std::fs::read_to_string(path) {
            Ok(text) if text.trim().is_empty() => Finding::warning(
                "admin token",
                format!("{} is empty, so there is no token", path.display()),
                "write a long random word into it, or leave admin.token_file out",
            ),
            Ok(_) => Finding::fine("admin token", path.display()),
            Err(error) => Finding::error(
                "admin token",
                format!("{}: {error}", path.display()),
                "create the file, readable to the user that runs tailkeep, or leave admin.token_file out",
            ),
        });
    }
    for exporter in &config.exporters {
        match &exporter.kind {
            ExporterKind::File(file) => findings.add(directory::check_output(&exporter.id, &file.path)),
            ExporterKind::Otlp(otlp) => findings.add(destinations::check(&exporter.id, otlp)),
        }
    }
}

/// What `run` would say of the host instead of starting.
fn reason_of(failure: Failure) -> String {
    match failure {
        Failure::Environment(text) | Failure::Usage(text) => text,
    }
}
