//! The keys of the contract: what each section may hold, and what must fit together.
//!
//! One function a section, named as the section, from a [`Section`] to its options. A key of the
//! contract that is not built is read with its type and accepted at its default value.

mod exporters;
mod host;
mod log;
mod otlp;
mod policies;
mod receivers;
mod tail_sampling;

use super::Config;
use super::diagnostic::Severity;
use super::options::{Auto, ExporterKind};
use super::reader::nearest::nearest;
use super::reader::{Report, Section};
use super::tree::Node;
use super::units::{show_duration, show_size};
use crate::policy::options::PolicyOptions;

/// Reads the whole tree. What is wrong is in `report`; the result counts only if nothing is.
pub fn read(report: &Report, tree: &Node, built_in: bool) -> Config {
    let mut root = Section::root(report, tree);
    let node = host::node(root.section("node"));
    let receivers = receivers::receivers(root.section("receivers"));
    let wal = log::wal(root.section("wal"));
    let sampled = tail_sampling::tail_sampling(root.section("tail_sampling"));
    let sampling = host::sampling(root.section("sampling"));
    let completion = tail_sampling::completion(root.section("completion"), &sampled);
    let memory = host::memory(root.section("memory"));
    let overload = host::overload(&mut root);
    host::logs(root.section("logs"));
    host::rollup(root.section("rollup"));
    let exporters = exporters::exporters(&mut root);
    host::cluster(&mut root);
    let admin = host::admin(root.section("admin"));
    other_processors(&mut root);
    collector_sections(&mut root);
    root.finish();

    let policies = PolicyOptions {
        policies: sampled.policies,
        sample_on_first_match: sampled.sample_on_first_match,
        expected_count_attribute: completion.expected_count_attribute.clone(),
    };
    let config = Config {
        built_in,
        node,
        receivers,
        wal,
        policies,
        sampling,
        completion,
        memory,
        overload,
        exporters,
        admin,
    };
    check_together(report, tree, &config);
    config
}

/// What only several keys together can get wrong.
fn check_together(report: &Report, tree: &Node, config: &Config) {
    let refused = report.refused_paths();
    let refuse = |path: &str, because_of: &str, message: &str, help: &str| {
        // A value that was refused already stands here as its default: nothing to hold it against.
        if !refused.contains(path) && !refused.contains(because_of) {
            report.say_at(tree, Severity::Error, path, message, help);
        }
    };
    let segment_bytes = config.wal.segment_bytes;
    for (path, bytes) in [
        (
            "receivers.otlp.protocols.grpc.max_recv_msg_size_mib",
            config.receivers.grpc.message_bytes_max,
        ),
        (
            "receivers.otlp.protocols.http.max_request_body_size",
            config.receivers.http.body_bytes_max,
        ),
    ] {
        if bytes <= segment_bytes {
            continue;
        }
        let (bytes, segment) = (show_size(bytes), show_size(segment_bytes));
        if tree.has(path) {
            let message =
                format!("{bytes} does not fit into one segment of the log, wal.segment_size is {segment}");
            refuse(
                path,
                "wal.segment_size",
                &message,
                "lower this, or raise wal.segment_size",
            );
        } else {
            let message = format!("{segment} has no room for one request, {path} is {bytes}");
            refuse(
                "wal.segment_size",
                path,
                &message,
                &format!("raise this, or set {path}"),
            );
        }
    }
    if let Auto::Given(max_bytes) = config.wal.max_bytes
        && max_bytes / 2 < segment_bytes
    {
        let message = format!(
            "must be two segments at least, wal.segment_size is {}",
            show_size(segment_bytes)
        );
        refuse(
            "wal.max_size",
            "wal.segment_size",
            &message,
            "raise this, or lower wal.segment_size",
        );
    }
    let decision_wait = config.completion.decision_wait;
    if let Auto::Given(quiet) = config.completion.quiet
        && quiet >= decision_wait
    {
        let message = format!(
            "must be shorter than tail_sampling.decision_wait, which is {}",
            show_duration(decision_wait)
        );
        let help = "`auto` is a third of decision_wait, within 1s and 10s";
        refuse("completion.quiet", "tail_sampling.decision_wait", &message, help);
    }
    let endpoints = [
        (
            "receivers.otlp.protocols.grpc.endpoint",
            &config.receivers.grpc.endpoint,
        ),
        (
            "receivers.otlp.protocols.http.endpoint",
            &config.receivers.http.endpoint,
        ),
        ("admin.endpoint", &config.admin.endpoint),
    ];
    for (index, (path, endpoint)) in endpoints.iter().enumerate() {
        let same = endpoints[..index]
            .iter()
            .find(|(_, other)| endpoint.port != 0 && other == endpoint);
        if let Some((other, _)) = same {
            refuse(path, other, &format!("{endpoint} is taken by {other}"), "");
        }
    }
    for (index, exporter) in config.exporters.iter().enumerate() {
        for (at, name) in exporter.filter.policies.iter().enumerate() {
            let policies = &config.policies.policies;
            if !policies.iter().any(|policy| policy.name == *name) {
                let names: Vec<&str> = policies.iter().map(|policy| policy.name.as_str()).collect();
                let help = match nearest(name, &names) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("known are {}", names.join(", ")),
                };
                let path = format!("exporters.{}.policies[{at}]", exporter.id);
                let message = "there is no policy of this name in tail_sampling.policies";
                refuse(&path, "tail_sampling.policies", message, &help);
            }
        }
        let ExporterKind::File(file) = &exporter.kind else {
            continue;
        };
        let same = config.exporters[..index]
            .iter()
            .find(|other| matches!(&other.kind, ExporterKind::File(other) if other.path == file.path));
        if let Some(other) = same {
            let path = format!("exporters.{}.path", exporter.id);
            refuse(
                &path,
                "",
                &format!("exporters.{} writes to this file already", other.id),
                "",
            );
        }
    }
    if config.policies.policies.is_empty() {
        let help = "`tailkeep print-config --example` shows some";
        report.say_at(
            tree,
            Severity::Warning,
            "tail_sampling.policies",
            "no policies: no trace is kept",
            help,
        );
    }
}

/// What `processors` held beside `tail_sampling`, which was lifted out of it.
fn other_processors(root: &mut Section<'_>) {
    let Some(value) = root.foreign("processors") else {
        return;
    };
    for (name, value) in value.section().named_values() {
        let kind = name.split('/').next().unwrap_or(name);
        let help = match kind {
            "batch" => "delete it: tailkeep forms batches by itself",
            "memory_limiter" => "delete it: memory.limit bounds memory",
            "groupbytrace" => "delete it: tailkeep gathers traces by itself",
            _ => "run it in a Collector before or behind tailkeep",
        };
        value.refuse("tailkeep has no processor but tail_sampling", help);
    }
}

/// Sections of a Collector file that have no meaning here.
fn collector_sections(root: &mut Section<'_>) {
    for key in ["service", "extensions", "connectors"] {
        if let Some(value) = root.foreign(key) {
            let help = "delete it: everything received goes through tail_sampling to every exporter";
            value.refuse("a section of the Collector's that tailkeep does not have", help);
        }
    }
}
