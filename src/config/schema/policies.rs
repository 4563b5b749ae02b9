//! `tail_sampling.policies`: every policy type of the Collector by name, those that are built in full.
//!
//! ```text
//! - name: slow                        required; unique among the policies at the top
//!   type: latency                     required
//!   latency: { threshold_ms: 2000 }   the options stand below the type's name; absent: all defaults
//! ```
//!
//! The Collector takes an unknown key with a map below it for an extension's and goes on. Here it is
//! an error like every unknown key, because it always was a misspelt type.

use crate::config::diagnostic::Severity;
use crate::config::reader::{Section, Value};
use crate::policy::options::{PolicyEntry, PolicyKind, StatusCode, TYPES_NOT_YET};

const BUILT: [&str; 13] = [
    "always_sample",
    "status_code",
    "latency",
    "string_attribute",
    "numeric_attribute",
    "boolean_attribute",
    "probabilistic",
    "span_count",
    "rate_limiting",
    "bytes_limiting",
    "and",
    "not",
    "drop",
];

/// Where an entry stands decides which types it may have, as in the Collector.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Top,
    /// In `and` or `drop`: leaves and `not`.
    Conjunct,
    /// In `not`: leaves.
    Negated,
}

pub fn policies(section: &mut Section<'_>) -> Vec<PolicyEntry> {
    const HELP: &str = "`policies: []` keeps nothing; `tailkeep print-config --example` shows some";
    match section.value("policies") {
        Some(value) => entries(&value, Level::Top),
        None => {
            section.error(
                "policies",
                "missing: a configuration brings its own policies",
                HELP,
            );
            Vec::new()
        }
    }
}

/// One entry for each item, so that the compiler's paths count as the file does.
fn entries(value: &Value<'_>, level: Level) -> Vec<PolicyEntry> {
    let items = value.list().unwrap_or_default();
    items.iter().map(|item| entry(item, level)).collect()
}

/// An entry that cannot be read is reported and becomes one that the compiler has nothing to say about.
fn entry(value: &Value<'_>, level: Level) -> PolicyEntry {
    let mut section = value.section();
    let name = match level {
        Level::Top => section
            .require("name", Value::text)
            .unwrap_or_else(|| format!("at {}", value.path())),
        Level::Conjunct | Level::Negated => section.read("name", Value::text, String::new()),
    };
    let type_name = section.require("type", |value| type_at(value, level));
    let kind = type_name.and_then(|type_name| {
        let mut options = section.section(type_name);
        let kind = kind_of(type_name, &mut options, value);
        options.finish();
        kind
    });
    for other in BUILT.into_iter().chain(TYPES_NOT_YET) {
        if let Some(block) = section.unread(other).filter(|_| type_name.is_some()) {
            block.remark(
                Severity::Warning,
                "has no effect: `type` names another policy type",
                "",
            );
        }
    }
    section.finish();
    PolicyEntry {
        name,
        kind: kind.unwrap_or(PolicyKind::AlwaysSample),
    }
}

fn type_at(value: &Value<'_>, level: Level) -> Option<&'static str> {
    if TYPES_NOT_YET.iter().any(|unbuilt| value.is_word(unbuilt)) {
        return value.not_yet(&format!("policy types so far: {}", BUILT.join(", ")));
    }
    let kind = value.word(&BUILT)?;
    match (level, kind) {
        (Level::Conjunct, "and" | "drop") | (Level::Negated, "and" | "drop" | "not") => {
            value.error(&format!("`{kind}` cannot stand inside another policy here"), "")
        }
        _ => Some(kind),
    }
}

fn kind_of(kind: &str, options: &mut Section<'_>, entry: &Value<'_>) -> Option<PolicyKind> {
    match kind {
        "always_sample" => Some(PolicyKind::AlwaysSample),
        "status_code" => status_code(options),
        "latency" => Some(latency(options)),
        "string_attribute" => string_attribute(options, entry),
        "numeric_attribute" => numeric_attribute(options),
        "boolean_attribute" => boolean_attribute(options),
        "probabilistic" => Some(probabilistic(options, entry)),
        "span_count" => Some(span_count(options)),
        "rate_limiting" => rate_limiting(options),
        "bytes_limiting" => bytes_limiting(options),
        "and" => Some(PolicyKind::And(sub_policies(options, "and_sub_policy", entry))),
        "drop" => Some(PolicyKind::Drop(sub_policies(options, "drop_sub_policy", entry))),
        "not" => {
            let negated = |value: &Value<'_>| Some(Box::new(self::entry(value, Level::Negated)));
            options.require("not_sub_policy", negated).map(PolicyKind::Not)
        }
        _ => None,
    }
}

fn status_code(options: &mut Section<'_>) -> Option<PolicyKind> {
    let code = |value: &Value<'_>| match value.word(&["OK", "ERROR", "UNSET"])? {
        "OK" => Some(StatusCode::Ok),
        "ERROR" => Some(StatusCode::Error),
        _ => Some(StatusCode::Unset),
    };
    let codes = options.require("status_codes", |value| all(&value.list()?, code));
    Some(PolicyKind::StatusCode { codes: codes? })
}

fn latency(options: &mut Section<'_>) -> PolicyKind {
    PolicyKind::Latency {
        threshold_ms: options.read("threshold_ms", milliseconds, 0),
        upper_threshold_ms: options.read("upper_threshold_ms", milliseconds, 0),
    }
}

fn milliseconds(value: &Value<'_>) -> Option<i64> {
    match value.as_duration() {
        Some(duration) if !duration.is_zero() => {
            let help = format!("milliseconds without a unit: {}", duration.as_millis());
            value.expected("a whole number", &help)
        }
        _ => value.whole(0, i64::MAX),
    }
}

fn string_attribute(options: &mut Section<'_>, entry: &Value<'_>) -> Option<PolicyKind> {
    let key = options.require("key", Value::text);
    let values = options.read("values", |value| all(&value.list()?, Value::text), Vec::new());
    let regex = options.read("enabled_regex_matching", Value::boolean, false);
    let invert = options.read("invert_match", Value::boolean, false);
    options.notice(
        "cache_max_size",
        |value| value.integer().is_some(),
        "patterns are compiled into one automaton",
    );
    if values.is_empty() {
        let matches = if invert { "every trace" } else { "no trace" };
        entry.remark(Severity::Warning, &format!("no values: matches {matches}"), "");
    }
    Some(PolicyKind::StringAttribute {
        key: key?,
        values,
        regex,
        invert,
    })
}

fn numeric_attribute(options: &mut Section<'_>) -> Option<PolicyKind> {
    let key = options.require("key", Value::text);
    let bound = |value: &Value<'_>| value.integer().map(Some);
    let min = options.read("min_value", bound, None);
    let max = options.read("max_value", bound, None);
    let invert = options.read("invert_match", Value::boolean, false);
    Some(PolicyKind::NumericAttribute {
        key: key?,
        min,
        max,
        invert,
    })
}

fn boolean_attribute(options: &mut Section<'_>) -> Option<PolicyKind> {
    let key = options.require("key", Value::text);
    let value = options.read("value", Value::boolean, false);
    let invert = options.read("invert_match", Value::boolean, false);
    Some(PolicyKind::BooleanAttribute {
        key: key?,
        value,
        invert,
    })
}

fn probabilistic(options: &mut Section<'_>, entry: &Value<'_>) -> PolicyKind {
    let percentage = options.read("sampling_percentage", Value::number, 0.0);
    let hash_salt = options.read("hash_salt", |value| value.text().map(Some), None);
    if percentage <= 0.0 {
        entry.remark(
            Severity::Warning,
            "sampling_percentage is not above 0: matches no trace",
            "",
        );
    }
    if percentage > 100.0 {
        entry.remark(
            Severity::Warning,
            "sampling_percentage is above 100: matches every trace",
            "",
        );
    }
    PolicyKind::Probabilistic {
        percentage,
        hash_salt: hash_salt.filter(|salt| !salt.is_empty()),
    }
}

fn span_count(options: &mut Section<'_>) -> PolicyKind {
    let count = |value: &Value<'_>| value.whole(0, i32::MAX.into()).map(|count| count as i32);
    PolicyKind::SpanCount {
        min: options.read("min_spans", count, 0),
        max: options.read("max_spans", count, 0),
    }
}

fn rate_limiting(options: &mut Section<'_>) -> Option<PolicyKind> {
    let spans_per_second = options.require("spans_per_second", |value| value.whole(1, i64::MAX));
    let burst = options.read("burst_capacity", Value::count, 0);
    Some(PolicyKind::RateLimiting {
        spans_per_second: spans_per_second?.unsigned_abs(),
        burst,
    })
}

fn bytes_limiting(options: &mut Section<'_>) -> Option<PolicyKind> {
    let rate = |value: &Value<'_>| match value.size()? {
        0 => value.error("must be 1 or more, is 0", ""),
        bytes => Some(bytes),
    };
    let bytes_per_second = options.require("bytes_per_second", rate);
    let burst = options.read("burst_capacity", Value::size, 0);
    Some(PolicyKind::BytesLimiting {
        bytes_per_second: bytes_per_second?,
        burst,
    })
}

fn sub_policies(options: &mut Section<'_>, key: &'static str, entry: &Value<'_>) -> Vec<PolicyEntry> {
    let subs = options.read(key, |value| Some(entries(value, Level::Conjunct)), Vec::new());
    if subs.is_empty() {
        entry.remark(
            Severity::Warning,
            &format!("{key} is empty: matches every trace"),
            "",
        );
    }
    subs
}

/// Every item read, so that every mistake is told; `None` if there was one.
fn all<'t, T>(items: &[Value<'t>], read: impl Fn(&Value<'t>) -> Option<T>) -> Option<Vec<T>> {
    let read: Vec<Option<T>> = items.iter().map(read).collect();
    read.into_iter().collect()
}
