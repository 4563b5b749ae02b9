//! `tailkeep run`: a configuration made into a node.

use super::{Failure, LogFlags, start_log};
use crate::completion::CompletionOptions;
use crate::config::options::{self as config, Cores, Endpoint, FreeSpace};
use crate::config::{Config, Loaded, render};
use crate::export::batch::Format;
use crate::export::retry::RetryOptions;
use crate::export::{DestinationOptions, Wants};
use crate::io::budget::Budget;
use crate::io::egress::compress::Compression;
use crate::io::egress::file::{FileOptions, Rotation};
use crate::io::egress::otlp::{Keepalive, OtlpOptions, Protocol};
use crate::io::egress::{ExporterOptions, SinkOptions};
use crate::io::ingress;
use crate::io::node::{self, NodeOptions};
use crate::io::reload::Reloaded;
use crate::otlp::json;
use http::{HeaderName, HeaderValue};
use std::fs::DirBuilder;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Cores that `auto` takes at most.
const CORES_MAX: usize = 128;
/// `wal.max_size: auto`.
const WAL_BYTES_AUTO_MAX: u64 = 20 << 30;
const WAL_SEGMENTS_MIN: u64 = 8;
/// Of one hand-out to a file.
const FILE_BATCH_BYTES: usize = 1 << 20;

/// `again` loads the configuration anew.
pub fn run(
    loaded: Loaded,
    log: &LogFlags,
    files: Vec<String>,
    drain: bool,
    again: impl Fn() -> Result<Loaded, String> + Send + Sync + 'static,
) -> Result<(), Failure> {
    start_log(log);
    if loaded.config.built_in {
        eprintln!("keeping every trace; `tailkeep print-config --example` shows sampling");
    }
    let options = NodeOptions {
        drain,
        load: Arc::new(move || again().map(reloaded)),
        ..node_options(loaded, files)?
    };
    node::run(options).map_err(|error| Failure::Environment(error.to_string()))
}

/// Everything the host decides is decided here: names, CPUs, memory, disk.
pub fn node_options(loaded: Loaded, files: Vec<String>) -> Result<NodeOptions, Failure> {
    let Loaded { config, policies, .. } = loaded;
    let policies_hash = policies_hash(&config);
    let environment = |message: String| Failure::Environment(message);
    // Made before its disk is measured, and for its owner only, like everything in it.
    let made = DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&config.node.data_dir);
    made.map_err(|error| {
        environment(format!(
            "node.data_dir: {}: {error}",
            config.node.data_dir.display()
        ))
    })?;
    let (disk_bytes, free_bytes) = disk_of(&config.node.data_dir)
        .map_err(|error| environment(format!("{}: {error}", config.node.data_dir.display())))?;
    let cpus = choose_cpus(&config)?;
    let wal_bytes = config
        .wal
        .max_bytes
        .clone()
        .or_else(|| (free_bytes / 5).min(WAL_BYTES_AUTO_MAX))
        .max(WAL_SEGMENTS_MIN * config.wal.segment_bytes * cpus.len() as u64);
    let free_bytes_min = min_free_bytes(&config, disk_bytes);
    let admin_token = match &config.admin.token_file {
        None => None,
        Some(path) => {
            let token = std::fs::read_to_string(path)
                .map_err(|error| environment(format!("admin.token_file: {}: {error}", path.display())))?;
            Some(token.trim().to_string()).filter(|token| !token.is_empty())
        }
    };
    let memory_limit_bytes = config.memory_limit_bytes(available_memory());
    let mut ingress = ingress::Options::new(transcode);
    ingress.grpc_message_max = config.receivers.grpc.message_bytes_max as usize;
    ingress.http_body_max = config.receivers.http.body_bytes_max as usize;
    let keepalive = &config.receivers.grpc.keepalive;
    ingress.time.age_max = keepalive.age_max;
    ingress.time.keepalive = keepalive.time;
    ingress.time.keepalive_timeout = keepalive.timeout;
    // After SIGTERM clients have less than the 30 seconds of the contract.
    ingress.time.grace = Duration::from_secs(8);
    let budget = Budget::new(memory_limit_bytes, cpus.len() as u16);
    ingress.in_flight_max = budget.bodies as usize;
    ingress.spare_max = budget.spares;
    Ok(NodeOptions {
        name: config.node.name.clone().or_else(hostname),
        cpus,
        data_dir: config.node.data_dir.clone(),
        durability: config.wal.durability,
        segment_bytes: config.wal.segment_bytes,
        wal_bytes_max: wal_bytes,
        free_bytes_min,
        retain: config.wal.retain,
        completion: completion(&config),
        annotate: config.sampling.annotate,
        memory_limit_bytes,
        on_overload: config.overload,
        exporters: config
            .exporters
            .iter()
            .map(|options| exporter(options, wal_bytes))
            .collect(),
        grpc: resolve(
            "receivers.otlp.protocols.grpc.endpoint",
            &config.receivers.grpc.endpoint,
        )?,
        http: resolve(
            "receivers.otlp.protocols.http.endpoint",
            &config.receivers.http.endpoint,
        )?,
        admin: resolve("admin.endpoint", &config.admin.endpoint)?,
        admin_token,
        ingress,
        drain: false,
        config_files: files,
        config_hash: config_hash(&config),
        policies_hash,
        load: Arc::new(|| Err("there is nothing to reload from".to_string())),
        version: env!("CARGO_PKG_VERSION"),
        commit: option_env!("TAILKEEP_COMMIT").unwrap_or("unknown"),
        policies,
    })
}

fn completion(config: &Config) -> CompletionOptions {
    let options = &config.completion;
    CompletionOptions {
        decision_wait: options.decision_wait,
        after_root: options.wait_after_root,
        structural: options.structural,
        quiet: options.quiet(),
        spans_max: options.spans_max.min(u32::MAX.into()) as u32,
        bytes_max: options.bytes_max,
        use_expected_count: !options.expected_count_attribute.is_empty(),
    }
}

/// `wal_bytes`: what both logs may take.
fn exporter(exporter: &config::ExporterOptions, wal_bytes: u64) -> ExporterOptions {
    let filter = &exporter.filter;
    let wants = match filter.traces && filter.kept {
        false => Wants::Nothing,
        true if filter.policies.is_empty() => Wants::Everything,
        true => Wants::KeptBy(filter.policies.clone()),
    };
    let queue = &exporter.queue;
    let (format, flush_interval, batch_bytes, retry, sink) = match &exporter.kind {
        config::ExporterKind::File(file) => {
            let sink = SinkOptions::File(FileOptions {
                path: file.path.clone(),
                rotation: file.rotation.as_ref().map(|rotation| Rotation {
                    file_bytes_max: rotation.file_bytes_max,
                    backup_count_max: rotation.backup_count_max,
                }),
            });
            (
                Format::Lines,
                file.flush_interval,
                FILE_BATCH_BYTES,
                RetryOptions::FILE,
                sink,
            )
        }
        config::ExporterKind::Otlp(otlp) => (
            Format::Request,
            otlp.flush_interval,
            otlp.request_bytes_max as usize,
            otlp.retry,
            SinkOptions::Otlp(otlp_options(otlp)),
        ),
    };
    let destination = DestinationOptions {
        id: exporter.id.clone(),
        format,
        wants,
        flush_interval,
        batch_bytes,
        retry,
        queue_bytes_max: queue.bytes_max.clone().or_else(|| wal_bytes / 2),
        queue_age_max: Some(queue.age_max).filter(|age| !age.is_zero()),
        on_full: queue.on_full,
    };
    ExporterOptions { destination, sink }
}

fn otlp_options(otlp: &config::OtlpExporterOptions) -> OtlpOptions {
    let (protocol, endpoint) = match &otlp.protocol {
        config::OtlpProtocol::Grpc { endpoint, keepalive } => {
            let keepalive = keepalive.map(|keepalive| Keepalive {
                time: keepalive.time,
                timeout: keepalive.timeout,
                permit_without_stream: keepalive.permit_without_stream,
            });
            (Protocol::Grpc { keepalive }, endpoint)
        }
        config::OtlpProtocol::Http {
            endpoint,
            traces_path,
        } => {
            let path = traces_path.clone();
            (Protocol::Http { path }, endpoint)
        }
    };
    let headers = otlp.headers.iter().map(|(name, value)| {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("config has parsed it");
        let mut value = HeaderValue::from_str(value).expect("config has parsed it");
        // Tokens do not belong into anybody's log.
        value.set_sensitive(true);
        (name, value)
    });
    OtlpOptions {
        protocol,
        host: endpoint.host.clone(),
        port: endpoint.port,
        headers: headers.collect(),
        compression: match otlp.compression {
            config::Compression::None => Compression::None,
            config::Compression::Gzip => Compression::Gzip,
            config::Compression::Zstd => Compression::Zstd,
        },
        timeout: otlp.timeout,
    }
}

fn transcode(body: &[u8], protobuf: &mut Vec<u8>) -> Result<(), String> {
    json::decode(&json::EXPORT_TRACE_REQUEST, body, protobuf).map_err(|error| error.to_string())
}

/// The addresses of an endpoint; `key` is for the message.
pub fn resolve(key: &str, endpoint: &Endpoint) -> Result<Vec<SocketAddr>, Failure> {
    let resolved = (endpoint.host.as_str(), endpoint.port).to_socket_addrs();
    let addresses = resolved.map_err(|error| Failure::Environment(format!("{key}: {endpoint}: {error}")))?;
    Ok(addresses.collect())
}

/// The CPU of each core.
pub fn choose_cpus(config: &Config) -> Result<Vec<usize>, Failure> {
    /// Without a configuration nobody has said that the whole host is ours.
    const BUILT_IN_COUNT_MAX: usize = 2;
    let allowed: Vec<usize> = core_affinity::get_core_ids()
        .unwrap_or_default()
        .iter()
        .map(|core| core.id)
        .collect();
    let allowed = if allowed.is_empty() { vec![0] } else { allowed };
    match &config.node.cores {
        Cores::Auto => {
            let count = allowed
                .len()
                .min(cgroup_cpus().unwrap_or(usize::MAX))
                .clamp(1, CORES_MAX);
            let count = if config.built_in {
                count.min(BUILT_IN_COUNT_MAX)
            } else {
                count
            };
            Ok(least_used(&allowed, count))
        }
        Cores::Count(count) => {
            let count = *count as usize;
            if count > allowed.len() {
                tracing::warn!(
                    cores = count,
                    cpus = allowed.len(),
                    "node.cores: more cores than CPUs: they share them and wait for each other"
                );
            }
            Ok(least_used(&allowed, count))
        }
        Cores::List(list) => {
            let list: Vec<usize> = list.iter().map(|cpu| *cpu as usize).collect();
            match list.iter().find(|cpu| !allowed.contains(cpu)) {
                None => Ok(list),
                Some(cpu) => Err(Failure::Environment(format!(
                    "node.cores: CPU {cpu} is not one that this process may run on ({allowed:?})"
                ))),
            }
        }
    }
}

/// The CPUs that have worked least since the host started; over again if there are fewer than `count`.
fn least_used(allowed: &[usize], count: usize) -> Vec<usize> {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let mut by_use: Vec<(u64, usize)> = allowed
        .iter()
        .map(|cpu| (busy_ticks(&stat, *cpu), *cpu))
        .collect();
    by_use.sort();
    let mut chosen: Vec<usize> = by_use.iter().map(|(_, cpu)| *cpu).cycle().take(count).collect();
    chosen.sort();
    chosen
}

/// Time that a CPU was not idle, from `/proc/stat`: `cpu0 user nice system idle iowait irq softirq …`.
fn busy_ticks(stat: &str, cpu: usize) -> u64 {
    let name = format!("cpu{cpu} ");
    let line = stat
        .lines()
        .find_map(|line| line.strip_prefix(&name))
        .unwrap_or("");
    let ticks = line.split_whitespace().map(|ticks| ticks.parse().unwrap_or(0));
    ticks
        .enumerate()
        .filter(|(column, _)| !matches!(column, 3 | 4))
        .map(|(_, ticks): (usize, u64)| ticks)
        .sum()
}

/// Whole CPUs that the cgroup's quota allows, at least one; `None`: no quota.
fn cgroup_cpus() -> Option<usize> {
    let max = std::fs::read_to_string("/sys/fs/cgroup/cpu.max").ok()?;
    let (quota, period) = max.trim().split_once(' ')?;
    let (quota, period): (u64, u64) = (quota.parse().ok()?, period.parse().ok()?);
    Some((quota / period.max(1)).max(1) as usize)
}

/// `wal.min_free` on a disk of this size.
pub fn min_free_bytes(config: &Config, disk_bytes: u64) -> u64 {
    match config.wal.min_free {
        FreeSpace::Percent(percent) => (disk_bytes as f64 * percent / 100.0) as u64,
        FreeSpace::Bytes(bytes) => bytes,
    }
}

fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn disk_of(path: &Path) -> std::io::Result<(u64, u64)> {
    let disk = rustix::fs::statvfs(path)?;
    Ok((disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize))
}

/// The lower of RAM and the cgroup's limit.
pub fn available_memory() -> u64 {
    let memory = rustix::system::sysinfo();
    let ram = memory.totalram as u64 * u64::from(memory.mem_unit);
    let limits = [
        "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    ];
    let cgroup = limits
        .iter()
        .filter_map(|path| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok());
    cgroup.fold(ram, u64::min)
}

fn reloaded(loaded: Loaded) -> Reloaded {
    Reloaded {
        policies_hash: policies_hash(&loaded.config),
        config_hash: config_hash(&loaded.config),
        policies: loaded.policies,
    }
}

fn policies_hash(config: &Config) -> u64 {
    use siphasher::sip::SipHasher13;
    use std::hash::Hasher;
    let mut hasher = SipHasher13::new_with_keys(0, 0);
    hasher.write(format!("{:?}", config.policies).as_bytes());
    hasher.finish()
}

/// Names the configuration in effect, so that two nodes can be compared.
fn config_hash(config: &Config) -> String {
    use siphasher::sip::SipHasher13;
    use std::hash::Hasher;
    let mut hasher = SipHasher13::new_with_keys(0, 0);
    hasher.write(render::render(config).as_bytes());
    format!("{:016x}", hasher.finish())
}
