//! The options of every part, as plain data: what a configuration means once it is read.
//!
//! Nothing here knows YAML. `Default` gives the values of the contract; `config/schema.rs` fills
//! them in, `config/render.rs` writes them out again. What only the host can tell (its name, its memory,
//! its disk) stays [`Auto::Auto`] and is settled by the caller, because this layer does no I/O (S1).

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

pub use crate::export::OnFull;
pub use crate::export::retry::RetryOptions;

/// A value, or the word `auto`: then the caller works it out from the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Auto<T> {
    Auto,
    Given(T),
}

impl<T> Auto<T> {
    /// The value, or what `work_out` makes of the host.
    pub fn or_else(self, work_out: impl FnOnce() -> T) -> T {
        match self {
            Auto::Auto => work_out(),
            Auto::Given(value) => value,
        }
    }
}

/// Where to listen: `host:port`, the host a name or an address without brackets.
///
/// Invariant: `host` is not empty. Port 0 lets the kernel choose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub host: String,
    pub port: u16,
}

impl Endpoint {
    pub fn new(host: &str, port: u16) -> Endpoint {
        Endpoint {
            host: host.to_owned(),
            port,
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// `node`.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeOptions {
    /// `auto`: the hostname.
    pub name: Auto<String>,
    pub cores: Cores,
    pub data_dir: PathBuf,
}

/// `node.cores`: which CPUs run an executor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cores {
    /// As many as affinity and cgroup allow (this version runs one).
    Auto,
    /// The N least used.
    Count(u32),
    /// These CPUs, as the kernel numbers them.
    List(Vec<u32>),
}

/// `receivers.otlp.protocols`.
#[derive(Clone, Debug, PartialEq)]
pub struct ReceiverOptions {
    pub grpc: GrpcReceiverOptions,
    pub http: HttpReceiverOptions,
}

#[derive(Clone, Debug, PartialEq)]
pub struct GrpcReceiverOptions {
    pub endpoint: Endpoint,
    /// Of one message, decompressed.
    pub message_bytes_max: u64,
    pub keepalive: ServerKeepalive,
}

/// `keepalive.server_parameters` of the Collector's gRPC server settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerKeepalive {
    /// The age at which a connection is asked to leave; `None`: never.
    pub age_max: Option<Duration>,
    /// Silence after which the peer is pinged, and how long it has to answer.
    pub time: Duration,
    pub timeout: Duration,
}

impl Default for ServerKeepalive {
    fn default() -> Self {
        ServerKeepalive {
            age_max: None,
            time: Duration::from_secs(60),
            timeout: Duration::from_secs(20),
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct HttpReceiverOptions {
    pub endpoint: Endpoint,
    /// Of one body, decompressed.
    pub body_bytes_max: u64,
}

/// `wal`.
#[derive(Clone, Debug, PartialEq)]
pub struct WalOptions {
    pub durability: Durability,
    pub segment_bytes: u64,
    /// `auto`: the lower of 20 GiB and a fifth of the free disk.
    pub max_bytes: Auto<u64>,
    pub min_free: FreeSpace,
    pub retain: Duration,
}

/// `wal.durability`: what an acknowledgement survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Process kill and power loss.
    Fsync,
    /// Process kill.
    Write,
    /// Nothing.
    None,
}

impl Durability {
    pub const ALL: [Durability; 3] = [Durability::Fsync, Durability::Write, Durability::None];

    /// The word of the contract.
    pub fn name(self) -> &'static str {
        match self {
            Durability::Fsync => "fsync",
            Durability::Write => "write",
            Durability::None => "none",
        }
    }
}

/// `wal.min_free`: what stays free on the disk of the data directory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum FreeSpace {
    /// Of the disk's size; 0 to 100.
    Percent(f64),
    Bytes(u64),
}

/// `sampling`: how verdicts are reached and shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SamplingOptions {
    /// Whether kept traces carry the `tailsampling.*` and `tailkeep.*` scope attributes.
    pub annotate: bool,
}

/// `completion` and the timing keys of `tail_sampling`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompletionOptions {
    /// The greatest age of a trace: `tail_sampling.decision_wait`.
    pub decision_wait: Duration,
    /// `tail_sampling.decision_wait_after_root_received`; `None` where it is 0.
    pub wait_after_root: Option<Duration>,
    pub structural: bool,
    /// How long a trace must have been silent; see [`CompletionOptions::quiet`].
    pub quiet: Auto<Duration>,
    pub spans_max: u64,
    /// The lower of `completion.max_bytes` and `tail_sampling.maximum_trace_size_bytes`.
    pub bytes_max: u64,
    pub expected_count_attribute: String,
}

impl CompletionOptions {
    /// `quiet` with `auto` settled: a third of `decision_wait`, within 1 s and 10 s.
    pub fn quiet(&self) -> Duration {
        let auto = || (self.decision_wait / 3).clamp(Duration::from_secs(1), Duration::from_secs(10));
        self.quiet.clone().or_else(auto)
    }
}

/// `memory`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryOptions {
    /// See [`super::Config::memory_limit_bytes`].
    pub limit_bytes: Auto<u64>,
}

/// One entry of `exporters`.
#[derive(Clone, Debug, PartialEq)]
pub struct ExporterOptions {
    /// `<type>[/name]`, as in metrics, status and log. Unique.
    pub id: String,
    pub kind: ExporterKind,
    pub filter: FilterOptions,
    pub queue: QueueOptions,
}

#[derive(Clone, Debug, PartialEq)]
pub enum ExporterKind {
    File(FileExporterOptions),
    Otlp(OtlpExporterOptions),
}

/// `send`, `include` and `policies` of an exporter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterOptions {
    pub traces: bool,
    pub logs: bool,
    pub metrics: bool,
    pub kept: bool,
    pub rollup: bool,
    /// Only traces that these kept; none: all.
    pub policies: Vec<String>,
}

/// `queue` of an exporter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueOptions {
    /// `auto`: half of `wal.max_size`.
    pub bytes_max: Auto<u64>,
    /// Zero: as long as there is room.
    pub age_max: Duration,
    pub on_full: OnFull,
}

/// `otlp_grpc` and `otlp_http`.
#[derive(Clone, Debug, PartialEq)]
pub struct OtlpExporterOptions {
    pub protocol: OtlpProtocol,
    /// Names and values, as HTTP/2 has them: names in lower case.
    pub headers: Vec<(String, String)>,
    pub compression: Compression,
    pub timeout: Duration,
    pub retry: RetryOptions,
    pub flush_interval: Duration,
    pub request_bytes_max: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OtlpProtocol {
    Grpc {
        endpoint: Endpoint,
        keepalive: Option<Keepalive>,
    },
    Http {
        endpoint: Endpoint,
        /// Where traces go: the path of `traces_endpoint`, or that of `endpoint` and `/v1/traces`.
        traces_path: String,
    },
}

/// `keepalive` of the Collector's gRPC client settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    pub time: Duration,
    pub timeout: Duration,
    pub permit_without_stream: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    pub const ALL: [Compression; 3] = [Compression::None, Compression::Gzip, Compression::Zstd];

    /// The word of the contract.
    pub fn name(self) -> &'static str {
        match self {
            Compression::None => "none",
            Compression::Gzip => "gzip",
            Compression::Zstd => "zstd",
        }
    }
}

/// `exporters.file`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileExporterOptions {
    pub path: PathBuf,
    pub flush_interval: Duration,
    /// `None`: the file never rotates.
    pub rotation: Option<RotationOptions>,
}

/// `exporters.file.rotation`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RotationOptions {
    /// A file that would grow beyond this is rotated first. At least 1 MiB.
    pub file_bytes_max: u64,
    /// Rotated files kept beside the current one. At least 1.
    pub backup_count_max: u32,
}

/// `admin`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminOptions {
    pub endpoint: Endpoint,
    pub token_file: Option<PathBuf>,
}

impl Default for NodeOptions {
    fn default() -> Self {
        NodeOptions {
            name: Auto::Auto,
            cores: Cores::Auto,
            data_dir: "./tailkeep-data".into(),
        }
    }
}

impl Default for ReceiverOptions {
    fn default() -> Self {
        ReceiverOptions {
            grpc: GrpcReceiverOptions {
                endpoint: Endpoint::new("127.0.0.1", 4317),
                message_bytes_max: 64 << 20,
                keepalive: ServerKeepalive::default(),
            },
            http: HttpReceiverOptions {
                endpoint: Endpoint::new("127.0.0.1", 4318),
                body_bytes_max: 64 << 20,
            },
        }
    }
}

impl Default for WalOptions {
    fn default() -> Self {
        WalOptions {
            durability: Durability::Fsync,
            segment_bytes: 64 << 20,
            max_bytes: Auto::Auto,
            min_free: FreeSpace::Percent(5.0),
            retain: Duration::from_secs(15 * 60),
        }
    }
}

impl Default for SamplingOptions {
    fn default() -> Self {
        SamplingOptions { annotate: true }
    }
}

impl Default for CompletionOptions {
    fn default() -> Self {
        CompletionOptions {
            decision_wait: Duration::from_secs(30),
            wait_after_root: None,
            structural: true,
            quiet: Auto::Auto,
            spans_max: 100_000,
            bytes_max: 64 << 20,
            expected_count_attribute: "trace.expected_span_count".to_owned(),
        }
    }
}

impl Default for MemoryOptions {
    fn default() -> Self {
        MemoryOptions {
            limit_bytes: Auto::Auto,
        }
    }
}

impl Default for FilterOptions {
    fn default() -> Self {
        FilterOptions {
            traces: true,
            logs: true,
            metrics: true,
            kept: true,
            rollup: true,
            policies: Vec::new(),
        }
    }
}

impl Default for QueueOptions {
    fn default() -> Self {
        QueueOptions {
            age_max: Duration::ZERO,
            bytes_max: Auto::Auto,
            on_full: OnFull::LoseNew,
        }
    }
}

impl Default for RotationOptions {
    fn default() -> Self {
        RotationOptions {
            file_bytes_max: 100 << 20,
            backup_count_max: 10,
        }
    }
}

impl Default for AdminOptions {
    fn default() -> Self {
        AdminOptions {
            endpoint: Endpoint::new("127.0.0.1", 8245),
            token_file: None,
        }
    }
}
