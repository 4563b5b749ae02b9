//! `exporters`: `<type>[/name]` to options.

use std::time::Duration;

use super::host::path;
use super::otlp;
use crate::config::options::{
    ExporterKind, ExporterOptions, FileExporterOptions, FilterOptions, OnFull, QueueOptions, RotationOptions,
};
use crate::config::reader::nearest::nearest;
use crate::config::reader::{Section, Value};
use crate::landing::DESTINATION_COUNT_MAX;

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

/// A kept entry has up to as much.
const QUEUE_BYTES_MIN: u64 = 64 << 10;

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
    if let Some((_, value)) = named.get(DESTINATION_COUNT_MAX) {
        value.refuse(
            &format!("there are more than {DESTINATION_COUNT_MAX} exporters"),
            "",
        );
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
    let mut section = value.section();
    let filter = filter(&mut section);
    let queue = queue(section.section("queue"));
    let kind = match kind {
        "file" => ExporterKind::File(file(section)?),
        "otlp_grpc" | "otlp" => ExporterKind::Otlp(otlp::grpc(section)?),
        "otlp_http" | "otlphttp" => ExporterKind::Otlp(otlp::http(section)?),
        _ => {
            let help = match nearest(kind, &TYPES) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known are {}", TYPES.join(", ")),
            };
            value.refuse("unknown exporter type", &help);
            return None;
        }
    };
    Some(ExporterOptions {
        id: id.to_owned(),
        kind,
        filter,
        queue,
    })
}

fn file(mut section: Section<'_>) -> Option<FileExporterOptions> {
    let path = section.require("path", path);
    let flush_interval = section.read("flush_interval", Value::period, Duration::from_secs(1));
    let rotation = section.value("rotation").filter(|value| !value.is_null());
    let rotation = rotation.map(|value| rotation_of(value.section()));
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

fn filter(section: &mut Section<'_>) -> FilterOptions {
    let default = FilterOptions::default();
    let all = |words: &[&'static str]| words.to_vec();
    let send = section.read("send", |value| words_of(value, &SIGNALS), all(&SIGNALS));
    let include = section.read("include", |value| words_of(value, &CONTENTS), all(&CONTENTS));
    let names = |value: &Value<'_>| value.list()?.iter().map(Value::name).collect();
    FilterOptions {
        traces: send.contains(&"traces"),
        logs: send.contains(&"logs"),
        metrics: send.contains(&"metrics"),
        kept: include.contains(&"kept"),
        rollup: include.contains(&"rollup"),
        policies: section.read("policies", names, default.policies),
    }
}

/// The different ones of the `words` that a list names, at least one.
fn words_of(value: &Value<'_>, words: &[&'static str]) -> Option<Vec<&'static str>> {
    let named: Option<Vec<&str>> = value.list()?.iter().map(|item| item.word(words)).collect();
    let named = named?;
    if named.is_empty() {
        return value.error("names nothing", &format!("known are {}", words.join(", ")));
    }
    Some(named)
}

fn queue(mut section: Section<'_>) -> QueueOptions {
    let default = QueueOptions::default();
    let size = |value: &Value<'_>| {
        value.auto(|value| match value.size()? {
            bytes if bytes < QUEUE_BYTES_MIN => value.error("must be 64KiB or more", ""),
            bytes => Some(bytes),
        })
    };
    let on_full = |value: &Value<'_>| match value.word(&["lose_new", "push_back"])? {
        "push_back" => Some(OnFull::PushBack),
        _ => Some(OnFull::LoseNew),
    };
    let options = QueueOptions {
        bytes_max: section.read("max_size", size, default.bytes_max),
        age_max: section.read("max_age", Value::duration, default.age_max),
        on_full: section.read("on_full", on_full, default.on_full),
    };
    section.finish();
    options
}
