//! `exporters`: `<type>[/name]` to options.

use std::time::Duration;

use super::host::path;
use crate::config::options::{ExporterKind, ExporterOptions, FileExporterOptions, RotationOptions};
use crate::config::reader::nearest::nearest;
use crate::config::reader::{NOT_YET, Section, Value};

/// `otlp` and `otlphttp` are the Collector's older names.
const TYPES: [&str; 5] = ["file", "otlp_grpc", "otlp_http", "otlp", "otlphttp"];

/// Of the Collector's file exporter those we lack.
const FILE_UNBUILT: [&str; 6] = [
    "encoding",
    "compression",
    "create_directory",
    "directory_permissions",
    "group_by",
    "exceptions",
];

const SIGNALS: [&str; 3] = ["traces", "logs", "metrics"];
const CONTENTS: [&str; 2] = ["kept", "rollup"];

pub fn exporters(root: &mut Section<'_>) -> Vec<ExporterOptions> {
    const HELP: &str = "kept traces must go somewhere: exporters: { file: { path: kept.jsonl } }";
    let Some(value) = root.value("exporters") else {
        root.error("exporters", "missing: there is no exporter", HELP);
        return Vec::new();
    };
    let named = value.section().named_values();
    if named.is_empty() && value.is_empty() {
        value.error::<()>("there is no exporter", HELP);
    }
    named
        .iter()
        .filter_map(|(id, value)| exporter(id, value))
        .collect()
}

fn exporter(id: &str, value: &Value<'_>) -> Option<ExporterOptions> {
    let (kind, name) = id
        .split_once('/')
        .map_or((id, None), |(kind, name)| (kind, Some(name)));
    if name.is_some_and(|name| name.trim().is_empty()) {
        return value.error(
            "the name after `/` is empty",
            "an exporter is <type> or <type>/<name>",
        );
    }
    match kind {
        "file" => {
            let kind = ExporterKind::File(file(value.section())?);
            Some(ExporterOptions {
                id: id.to_owned(),
                kind,
            })
        }
        "otlp_grpc" | "otlp" | "otlp_http" | "otlphttp" => {
            value.refuse(NOT_YET, "the `file` exporter is what exists so far");
            None
        }
        _ => {
            let help = match nearest(kind, &TYPES) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known are {}", TYPES.join(", ")),
            };
            value.refuse("unknown exporter type", &help);
            None
        }
    }
}

fn file(mut section: Section<'_>) -> Option<FileExporterOptions> {
    let path = section.require("path", path);
    let flush_interval = section.read("flush_interval", Value::period, Duration::from_secs(1));
    let rotation = section.value("rotation").filter(|value| !value.is_null());
    let rotation = rotation.map(|value| rotation_of(value.section()));
    every_signal(&mut section);
    section.default_only("format", |value| value.word(&["json", "proto"]), "json", "json");
    if let Some(value) = section.foreign("append")
        && value.boolean() == Some(false)
    {
        value.error::<()>("tailkeep always appends", "leave the key out");
    }
    section.refuse_unbuilt(&FILE_UNBUILT);
    section.finish();
    Some(FileExporterOptions {
        path: path?,
        flush_interval,
        rotation,
    })
}

fn rotation_of(mut section: Section<'_>) -> RotationOptions {
    let default = RotationOptions::default();
    let mebibytes = |value: &Value<'_>| value.whole(1, 1 << 30).map(|mebibytes| (mebibytes as u64) << 20);
    let backups = |value: &Value<'_>| value.whole(1, 1 << 20).map(|count| count as u32);
    let options = RotationOptions {
        file_bytes_max: section.read("max_megabytes", mebibytes, default.file_bytes_max),
        backup_count_max: section.read("max_backups", backups, default.backup_count_max),
    };
    section.refuse_unbuilt(&["max_days", "localtime"]);
    section.finish();
    options
}

/// `send`, `include` and `policies`: this version sends everything that it keeps to every exporter.
fn every_signal(section: &mut Section<'_>) {
    section.default_only(
        "send",
        |value| words_of(value, &SIGNALS),
        SIGNALS.len(),
        "[traces, logs, metrics]",
    );
    section.default_only(
        "include",
        |value| words_of(value, &CONTENTS),
        CONTENTS.len(),
        "[kept, rollup]",
    );
    section.default_only("policies", |value| Some(value.list()?.len()), 0, "[]");
}

/// How many different of the `words` a list names.
fn words_of(value: &Value<'_>, words: &[&'static str]) -> Option<usize> {
    let named: Option<Vec<&str>> = value.list()?.iter().map(|item| item.word(words)).collect();
    let mut named = named?;
    named.sort_unstable();
    named.dedup();
    Some(named.len())
}
