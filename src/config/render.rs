//! A configuration as YAML that loads to the same configuration.
//!
//! Everything is written out, defaults included, so that what runs can be compared with what was
//! meant. Free text is quoted and every `$` doubled: nothing in it is filled in a second time.

use std::fmt::{self, Write};
use std::path::Path;

use super::Config;
use super::options::{
    Auto, ClusterOptions, Cores, Endpoint, ExporterKind, ExporterOptions, FileExporterOptions, FreeSpace,
    OnFull, OtlpExporterOptions, OtlpProtocol, ServerKeepalive, SpansArrive,
};
use super::units::{show_duration, show_size};
use crate::policy::options::{PolicyEntry, PolicyKind, StatusCode};
use crate::shard::OnOverload;

/// The YAML text of `config`, with a newline at its end.
pub fn render(config: &Config) -> String {
    let mut out = String::new();
    write_config(&mut out, config).expect("a String takes all text");
    out
}

fn write_config(out: &mut String, config: &Config) -> fmt::Result {
    let Config {
        overload,
        built_in,
        node,
        receivers,
        wal,
        policies,
        sampling,
        completion,
        memory,
        exporters,
        cluster,
        admin,
    } = config;
    if *built_in {
        writeln!(
            out,
            "# Built-in, because there is no --config; then two cores and 1GiB of memory at most."
        )?;
    }
    writeln!(out, "node:")?;
    writeln!(out, "  name: {}", auto(&node.name, |name| quote(name)))?;
    match &node.cores {
        Cores::Auto => writeln!(out, "  cores: auto")?,
        Cores::Count(count) => writeln!(out, "  cores: {count}")?,
        Cores::List(cpus) => writeln!(out, "  cores: {cpus:?}")?,
    }
    writeln!(out, "  data_dir: {}", quote_path(&node.data_dir))?;

    let (grpc, http) = (&receivers.grpc, &receivers.http);
    writeln!(out, "receivers:\n  otlp:\n    protocols:\n      grpc:")?;
    writeln!(out, "        endpoint: {}", quote(&grpc.endpoint.to_string()))?;
    writeln!(
        out,
        "        max_recv_msg_size_mib: {}",
        grpc.message_bytes_max >> 20
    )?;
    let keepalive = &grpc.keepalive;
    if *keepalive != ServerKeepalive::default() {
        writeln!(
            out,
            "        keepalive: {{ server_parameters: {{ max_connection_age: {}, time: {}, timeout: {} }} }}",
            show_duration(keepalive.age_max.unwrap_or_default()),
            show_duration(keepalive.time),
            show_duration(keepalive.timeout)
        )?;
    }
    writeln!(out, "      http:")?;
    writeln!(out, "        endpoint: {}", quote(&http.endpoint.to_string()))?;
    writeln!(
        out,
        "        max_request_body_size: {}",
        show_size(http.body_bytes_max)
    )?;

    writeln!(out, "wal:")?;
    writeln!(out, "  durability: {}", wal.durability.name())?;
    writeln!(out, "  segment_size: {}", show_size(wal.segment_bytes))?;
    writeln!(
        out,
        "  max_size: {}",
        auto(&wal.max_bytes, |bytes| show_size(*bytes))
    )?;
    match wal.min_free {
        FreeSpace::Percent(percent) => writeln!(out, "  min_free: {percent}%")?,
        FreeSpace::Bytes(bytes) => writeln!(out, "  min_free: {}", show_size(bytes))?,
    }
    writeln!(out, "  retain: {}", show_duration(wal.retain))?;
    writeln!(out, "  compression: none")?;

    writeln!(out, "tail_sampling:")?;
    writeln!(
        out,
        "  decision_wait: {}",
        show_duration(completion.decision_wait)
    )?;
    let after_root = completion.wait_after_root.unwrap_or_default();
    writeln!(
        out,
        "  decision_wait_after_root_received: {}",
        show_duration(after_root)
    )?;
    writeln!(out, "  sample_on_first_match: {}", policies.sample_on_first_match)?;
    write!(out, "  policies:")?;
    if policies.policies.is_empty() {
        write!(out, " []")?;
    }
    writeln!(out)?;
    for policy in &policies.policies {
        writeln!(out, "    - {}", policy_entry(policy))?;
    }

    writeln!(out, "sampling:\n  compat: default\n  dry_run: false")?;
    writeln!(out, "  annotate: {}\n  shadow: \"\"", sampling.annotate)?;
    writeln!(out, "completion:")?;
    writeln!(out, "  structural: {}", completion.structural)?;
    writeln!(
        out,
        "  quiet: {}",
        auto(&completion.quiet, |quiet| show_duration(*quiet))
    )?;
    writeln!(out, "  max_spans: {}", completion.spans_max)?;
    writeln!(out, "  max_bytes: {}", show_size(completion.bytes_max))?;
    writeln!(
        out,
        "  expected_count_attribute: {}",
        quote(&completion.expected_count_attribute)
    )?;
    writeln!(out, "  overrides: []")?;
    writeln!(
        out,
        "memory:\n  limit: {}",
        auto(&memory.limit_bytes, |bytes| show_size(*bytes))
    )?;
    let overload = match overload {
        OnOverload::Refuse => "refuse",
        OnOverload::Sample => "sample",
    };
    writeln!(out, "overload: {overload}")?;
    writeln!(out, "logs:\n  pass: []")?;
    writeln!(
        out,
        "rollup:\n  enabled: true\n  interval: 1m\n  temporality: cumulative"
    )?;

    writeln!(out, "exporters:")?;
    for exporter in exporters {
        writeln!(out, "  {}:", quote_key(&exporter.id))?;
        match &exporter.kind {
            ExporterKind::File(file) => write_file_exporter(out, file)?,
            ExporterKind::Otlp(otlp) => write_otlp_exporter(out, otlp)?,
        }
        write_exporter(out, exporter)?;
    }

    if let Some(cluster) = cluster {
        write_cluster(out, cluster)?;
    }
    writeln!(out, "admin:")?;
    writeln!(out, "  endpoint: {}", quote(&admin.endpoint.to_string()))?;
    writeln!(
        out,
        "  token_file: {}",
        admin.token_file.as_deref().map_or("\"\"".to_owned(), quote_path)
    )
}

fn write_cluster(out: &mut String, cluster: &ClusterOptions) -> fmt::Result {
    let endpoint = |endpoint: &Endpoint| quote(&endpoint.to_string());
    writeln!(out, "cluster:")?;
    writeln!(out, "  name: {}", quote(&cluster.name))?;
    writeln!(out, "  listen: {}", endpoint(&cluster.listen))?;
    writeln!(out, "  advertise: {}", auto(&cluster.advertise, endpoint))?;
    let join: Vec<String> = cluster.join.iter().map(endpoint).collect();
    writeln!(out, "  join: [{}]", join.join(", "))?;
    let key_file = cluster.key_file.as_deref().map_or("\"\"".to_owned(), quote_path);
    writeln!(out, "  key_file: {key_file}")?;
    writeln!(out, "  insecure: {}", cluster.insecure)?;
    let spans_arrive = match cluster.spans_arrive {
        SpansArrive::Anywhere => "anywhere",
        SpansArrive::ByTraceId => "by_trace_id",
    };
    writeln!(out, "  spans_arrive: {spans_arrive}")
}

fn write_file_exporter(out: &mut String, file: &FileExporterOptions) -> fmt::Result {
    writeln!(out, "    path: {}", quote_path(&file.path))?;
    writeln!(out, "    flush_interval: {}", show_duration(file.flush_interval))?;
    if let Some(rotation) = &file.rotation {
        writeln!(out, "    rotation:")?;
        writeln!(out, "      max_megabytes: {}", rotation.file_bytes_max >> 20)?;
        writeln!(out, "      max_backups: {}", rotation.backup_count_max)?;
    }
    Ok(())
}

fn write_otlp_exporter(out: &mut String, otlp: &OtlpExporterOptions) -> fmt::Result {
    match &otlp.protocol {
        OtlpProtocol::Grpc { endpoint, keepalive } => {
            writeln!(out, "    endpoint: {}", quote(&endpoint.to_string()))?;
            if let Some(keepalive) = keepalive {
                writeln!(
                    out,
                    "    keepalive: {{ time: {}, timeout: {}, permit_without_stream: {} }}",
                    show_duration(keepalive.time),
                    show_duration(keepalive.timeout),
                    keepalive.permit_without_stream
                )?;
            }
        }
        OtlpProtocol::Http {
            endpoint,
            traces_path,
        } => writeln!(
            out,
            "    traces_endpoint: {}",
            quote(&format!("http://{endpoint}{traces_path}"))
        )?,
    }
    let headers: Vec<String> = otlp
        .headers
        .iter()
        .map(|(name, value)| format!("{}: {}", quote(name), quote(value)))
        .collect();
    writeln!(out, "    tls: {{ insecure: true }}")?;
    writeln!(out, "    headers: {{{}}}", headers.join(", "))?;
    writeln!(out, "    compression: {}", otlp.compression.name())?;
    writeln!(out, "    timeout: {}", show_duration(otlp.timeout))?;
    writeln!(out, "    flush_interval: {}", show_duration(otlp.flush_interval))?;
    writeln!(out, "    max_request_size: {}", show_size(otlp.request_bytes_max))?;
    let retry = &otlp.retry;
    writeln!(out, "    retry_on_failure:")?;
    writeln!(out, "      enabled: {}", retry.enabled)?;
    writeln!(
        out,
        "      initial_interval: {}",
        show_duration(retry.initial_interval)
    )?;
    writeln!(out, "      max_interval: {}", show_duration(retry.interval_max))?;
    writeln!(out, "      multiplier: {}", retry.multiplier)?;
    writeln!(out, "      randomization_factor: {}", retry.randomization_factor)?;
    writeln!(
        out,
        "      max_elapsed_time: {}",
        show_duration(retry.elapsed_max.unwrap_or_default())
    )
}

/// What every exporter has.
fn write_exporter(out: &mut String, exporter: &ExporterOptions) -> fmt::Result {
    let filter = &exporter.filter;
    let listed = |words: &[(&'static str, bool)]| {
        let named = words.iter().filter(|(_, named)| *named).map(|(word, _)| *word);
        named.collect::<Vec<_>>().join(", ")
    };
    let signals = [
        ("traces", filter.traces),
        ("logs", filter.logs),
        ("metrics", filter.metrics),
    ];
    let contents = [("kept", filter.kept), ("rollup", filter.rollup)];
    let policies: Vec<String> = filter.policies.iter().map(|name| quote(name)).collect();
    writeln!(out, "    send: [{}]", listed(&signals))?;
    writeln!(out, "    include: [{}]", listed(&contents))?;
    writeln!(out, "    policies: [{}]", policies.join(", "))?;
    let bytes_max = auto(&exporter.queue.bytes_max, |bytes| show_size(*bytes));
    let on_full = match exporter.queue.on_full {
        OnFull::LoseNew => "lose_new",
        OnFull::PushBack => "push_back",
    };
    let age_max = show_duration(exporter.queue.age_max);
    writeln!(
        out,
        "    queue: {{ max_size: {bytes_max}, max_age: {age_max}, on_full: {on_full} }}"
    )
}

/// `{ name: …, type: …, <type>: { … } }`: one line a policy, sub-policies within.
fn policy_entry(policy: &PolicyEntry) -> String {
    let (kind, options) = match &policy.kind {
        PolicyKind::AlwaysSample => ("always_sample", String::new()),
        PolicyKind::StatusCode { codes } => {
            let codes: Vec<&str> = codes.iter().copied().map(status_code).collect();
            ("status_code", format!("status_codes: [{}]", codes.join(", ")))
        }
        PolicyKind::Latency {
            threshold_ms,
            upper_threshold_ms,
        } => {
            let options = format!("threshold_ms: {threshold_ms}, upper_threshold_ms: {upper_threshold_ms}");
            ("latency", options)
        }
        PolicyKind::StringAttribute {
            key,
            values,
            regex,
            invert,
        } => {
            let values: Vec<String> = values.iter().map(|value| quote(value)).collect();
            let (key, values) = (quote(key), values.join(", "));
            let options = format!(
                "key: {key}, values: [{values}], enabled_regex_matching: {regex}, invert_match: {invert}"
            );
            ("string_attribute", options)
        }
        PolicyKind::NumericAttribute {
            key,
            min,
            max,
            invert,
        } => {
            let mut options = format!("key: {}", quote(key));
            for (name, bound) in [("min_value", min), ("max_value", max)] {
                if let Some(bound) = bound {
                    options.push_str(&format!(", {name}: {bound}"));
                }
            }
            ("numeric_attribute", format!("{options}, invert_match: {invert}"))
        }
        PolicyKind::BooleanAttribute { key, value, invert } => (
            "boolean_attribute",
            format!("key: {}, value: {value}, invert_match: {invert}", quote(key)),
        ),
        PolicyKind::Probabilistic {
            percentage,
            hash_salt,
        } => {
            let salt = hash_salt
                .as_ref()
                .map(|salt| format!(", hash_salt: {}", quote(salt)));
            (
                "probabilistic",
                format!("sampling_percentage: {percentage}{}", salt.unwrap_or_default()),
            )
        }
        PolicyKind::SpanCount { min, max } => ("span_count", format!("min_spans: {min}, max_spans: {max}")),
        PolicyKind::RateLimiting {
            spans_per_second,
            burst,
        } => (
            "rate_limiting",
            format!("spans_per_second: {spans_per_second}, burst_capacity: {burst}"),
        ),
        PolicyKind::BytesLimiting {
            bytes_per_second,
            burst,
        } => (
            "bytes_limiting",
            format!("bytes_per_second: {bytes_per_second}, burst_capacity: {burst}"),
        ),
        PolicyKind::And(subs) => ("and", format!("and_sub_policy: {}", policy_list(subs))),
        PolicyKind::Not(sub) => ("not", format!("not_sub_policy: {}", policy_entry(sub))),
        PolicyKind::Drop(subs) => ("drop", format!("drop_sub_policy: {}", policy_list(subs))),
    };
    let name = quote(&policy.name);
    match options.as_str() {
        "" => format!("{{ name: {name}, type: {kind} }}"),
        _ => format!("{{ name: {name}, type: {kind}, {kind}: {{ {options} }} }}"),
    }
}

fn policy_list(policies: &[PolicyEntry]) -> String {
    let entries: Vec<String> = policies.iter().map(policy_entry).collect();
    format!("[{}]", entries.join(", "))
}

fn status_code(code: StatusCode) -> &'static str {
    match code {
        StatusCode::Ok => "OK",
        StatusCode::Error => "ERROR",
        StatusCode::Unset => "UNSET",
    }
}

fn auto<T>(setting: &Auto<T>, show: impl FnOnce(&T) -> String) -> String {
    match setting {
        Auto::Auto => "auto".to_owned(),
        Auto::Given(value) => show(value),
    }
}

/// Paths come from YAML text, so they are UTF-8.
fn quote_path(path: &Path) -> String {
    quote(&path.to_string_lossy())
}

/// A double-quoted scalar that loads to `text`.
fn quote(text: &str) -> String {
    quote_key(&text.replace('$', "$$"))
}

/// Keys are not filled in: a `$` in one stands for itself.
fn quote_key(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            ' '..='~' | '\u{a1}'..='\u{d7ff}' if !matches!(character, '\u{2028}' | '\u{2029}') => {
                quoted.push(character);
            }
            _ => quoted.push_str(&format!("\\U{:08x}", u32::from(character))),
        }
    }
    quoted.push('"');
    quoted
}
