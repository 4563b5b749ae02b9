//! `node`, `memory`, `admin`, and the sections that this version has at their defaults only.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::options::{AdminOptions, Cores, MemoryOptions, NodeOptions, SamplingOptions};
use crate::config::reader::{NOT_YET, Section, Value};
use crate::shard::OnOverload;

/// Below this the fixed parts alone (pools, read-back, table) leave no room for a trace.
const MEMORY_LIMIT_MIN: u64 = 64 << 20;

pub fn node(mut section: Section<'_>) -> NodeOptions {
    let default = NodeOptions::default();
    let options = NodeOptions {
        name: section.read("name", |value| value.auto(node_name), default.name),
        cores: section.read("cores", cores, default.cores),
        data_dir: section.read("data_dir", path, default.data_dir),
    };
    section.finish();
    options
}

/// It is written into exported data, metrics and peers' member lists.
fn node_name(value: &Value<'_>) -> Option<String> {
    let name = value.name()?;
    if name.len() > 255 || name.chars().any(char::is_control) {
        return value.error("must be at most 255 bytes and without control characters", "");
    }
    Some(name)
}

/// A data directory has at most 256 logs, and tailkeep has no more cores than half of that.
const CORES_MAX: i64 = 128;

fn cores(value: &Value<'_>) -> Option<Cores> {
    if value.is_word("auto") {
        return Some(Cores::Auto);
    }
    if !value.is_list() {
        return value.whole(1, CORES_MAX).map(|count| Cores::Count(count as u32));
    }
    let cpus: Option<Vec<u32>> = value
        .list()?
        .iter()
        .map(|cpu| cpu.whole(0, 1 << 16).map(|cpu| cpu as u32))
        .collect();
    match cpus? {
        cpus if cpus.is_empty() => value.error("names no CPU", ""),
        cpus if cpus.len() as i64 > CORES_MAX => value.error("names more than 128 CPUs", ""),
        cpus => Some(Cores::List(cpus)),
    }
}

pub fn memory(mut section: Section<'_>) -> MemoryOptions {
    let limit = |value: &Value<'_>| {
        value.auto(|value| match value.size()? {
            bytes if bytes < MEMORY_LIMIT_MIN => value.error("must be 64MiB or more", ""),
            bytes => Some(bytes),
        })
    };
    let options = MemoryOptions {
        limit_bytes: section.read("limit", limit, MemoryOptions::default().limit_bytes),
    };
    section.finish();
    options
}

pub fn admin(mut section: Section<'_>) -> AdminOptions {
    let default = AdminOptions::default();
    let token_file = |value: &Value<'_>| Some(Some(value.text()?).filter(|path| !path.is_empty()));
    let options = AdminOptions {
        endpoint: section.read("endpoint", Value::endpoint, default.endpoint),
        token_file: section.read("token_file", token_file, None).map(PathBuf::from),
    };
    section.finish();
    options
}

pub fn sampling(mut section: Section<'_>) -> SamplingOptions {
    section.default_only(
        "compat",
        |value| value.word(&["default", "strict"]),
        "default",
        "default",
    );
    section.default_only("dry_run", Value::boolean, false, "false");
    section.default_only("shadow", Value::text, String::new(), "\"\"");
    let annotate = section.read("annotate", Value::boolean, SamplingOptions::default().annotate);
    section.finish();
    SamplingOptions { annotate }
}

pub fn overload(root: &mut Section<'_>) -> OnOverload {
    let read = |value: &Value<'_>| match value.word(&["refuse", "sample"])? {
        "sample" => Some(OnOverload::Sample),
        _ => Some(OnOverload::Refuse),
    };
    root.read("overload", read, OnOverload::default())
}

pub fn logs(mut section: Section<'_>) {
    section.default_only("pass", |value| Some(value.list()?.len()), 0, "[]");
    section.finish();
}

pub fn rollup(mut section: Section<'_>) {
    section.default_only("enabled", Value::boolean, true, "true");
    section.default_only("interval", Value::period, Duration::from_secs(60), "60s");
    section.default_only(
        "temporality",
        |value| value.word(&["cumulative", "delta"]),
        "cumulative",
        "cumulative",
    );
    section.finish();
}

pub fn cluster(root: &mut Section<'_>) {
    if let Some(value) = root.value("cluster").filter(|value| !value.is_null()) {
        value.refuse(NOT_YET, "one node so far: leave the section out");
    }
}

/// A path: text that is not empty and has no NUL, which no file name may have.
pub fn path(value: &Value<'_>) -> Option<PathBuf> {
    let path = value.name()?;
    if path.contains('\0') {
        return value.error("a path has no NUL", "");
    }
    Some(path.into())
}
