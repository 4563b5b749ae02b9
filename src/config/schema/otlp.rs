//! `otlp_grpc` and `otlp_http` exporters: the Collector's client settings, as far as they are built.

use std::net::IpAddr;
use std::time::Duration;

use http::{HeaderName, HeaderValue};

use crate::config::options::{
    Compression, Endpoint, Keepalive, OtlpExporterOptions, OtlpProtocol, RetryOptions,
};
use crate::config::reader::{NOT_YET, Section, Value};
use crate::config::units::parse_endpoint;

/// Of the Collector's gRPC client settings (configgrpc) those we lack.
const GRPC_UNBUILT: [&str; 8] = [
    "auth",
    "authority",
    "read_buffer_size",
    "write_buffer_size",
    "wait_for_ready",
    "middlewares",
    "batcher",
    "compression_params",
];

/// Of the Collector's HTTP client settings (confighttp) and the exporter's own those we lack.
const HTTP_UNBUILT: [&str; 18] = [
    "auth",
    "cookies",
    "compression_params",
    "disable_keep_alives",
    "encoding",
    "force_attempt_http2",
    "http2_read_idle_timeout",
    "http2_ping_timeout",
    "idle_conn_timeout",
    "max_conns_per_host",
    "max_idle_conns",
    "max_idle_conns_per_host",
    "middlewares",
    "proxy_url",
    "read_buffer_size",
    "write_buffer_size",
    "batcher",
    "profiles_endpoint",
];

const INSECURE_HELP: &str = "TLS to destinations is not built: write tls: { insecure: true } on a trusted network, or \
                             send through a Collector on this host";

/// The Collector's.
const GRPC_TIMEOUT: Duration = Duration::from_secs(5);
const HTTP_TIMEOUT: Duration = Duration::from_secs(30);
const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 3600);
/// Well below the 4 MiB that gRPC servers take unless told otherwise.
const REQUEST_BYTES_MAX: u64 = 1 << 20;
const FLUSH_INTERVAL: Duration = Duration::from_millis(200);

/// Where an endpoint points: what stands before the path, and the path.
struct Target {
    endpoint: Endpoint,
    path: String,
    /// `http://` says that it is meant to be plain.
    has_scheme: bool,
}

pub fn grpc(mut section: Section<'_>) -> Option<OtlpExporterOptions> {
    let endpoint = section.require("endpoint", |value| target(value, false));
    let keepalive = section.value("keepalive").filter(|value| !value.is_null());
    let keepalive = keepalive.map(|value| keepalive_of(value.section()));
    let balancers = ["round_robin", "pick_first"];
    section.notice(
        "balancer_name",
        |value| value.word(&balancers).is_some(),
        "one address at a time, the next one on failure",
    );
    let common = common(&mut section, GRPC_TIMEOUT);
    // As in the Collector a bare host:port means TLS, unless it is this host.
    if let Some(target) = &endpoint
        && !target.has_scheme
        && !is_loopback(&target.endpoint.host)
        && section.value("tls").is_none()
    {
        section.error(
            "tls",
            &format!("missing, which means TLS, and that is {NOT_YET}"),
            INSECURE_HELP,
        );
    }
    section.refuse_unbuilt(&GRPC_UNBUILT);
    section.finish();
    let protocol = OtlpProtocol::Grpc {
        endpoint: endpoint?.endpoint,
        keepalive,
    };
    Some(OtlpExporterOptions { protocol, ..common })
}

pub fn http(mut section: Section<'_>) -> Option<OtlpExporterOptions> {
    let traces = section
        .value("traces_endpoint")
        .filter(|value| !value.is_null())
        .map(|value| target(&value, true));
    let base = match traces {
        Some(_) => section.value("endpoint").map(|value| target(&value, true)),
        None => Some(section.require("endpoint", |value| target(value, true))),
    };
    for key in ["logs_endpoint", "metrics_endpoint"] {
        if let Some(value) = section.value(key) {
            target(&value, true);
            value.refuse(NOT_YET, "only traces are exported so far: leave it out");
        }
    }
    let common = common(&mut section, HTTP_TIMEOUT);
    section.refuse_unbuilt(&HTTP_UNBUILT);
    section.finish();
    let (endpoint, traces_path) = match (traces, base) {
        (Some(traces), _) => {
            let Target { endpoint, path, .. } = traces?;
            let path = if path.is_empty() { "/".to_owned() } else { path };
            (endpoint, path)
        }
        (None, base) => {
            let Target { endpoint, path, .. } = base??;
            let path = format!("{}/v1/traces", path.trim_end_matches('/'));
            (endpoint, path)
        }
    };
    let protocol = OtlpProtocol::Http {
        endpoint,
        traces_path,
    };
    Some(OtlpExporterOptions { protocol, ..common })
}

/// Everything but where it goes.
fn common(section: &mut Section<'_>, timeout: Duration) -> OtlpExporterOptions {
    if let Some(value) = section.value("tls").filter(|value| !value.is_null()) {
        tls(&value);
    }
    if let Some(value) = section.foreign("sending_queue") {
        let help =
            "queue: { max_size, on_full } bounds what waits; it is on disk, and one request is out at a time";
        value.refuse("tailkeep has a queue of its own", help);
    }
    let timeout_of = |value: &Value<'_>| match value.period()? {
        timeout if timeout > TIMEOUT_MAX => value.error("must be 24h or less", ""),
        timeout => Some(timeout),
    };
    let request_bytes_max = |value: &Value<'_>| match value.size()? {
        bytes @ 0x1_0000..=0x400_0000 => Some(bytes),
        _ => value.error("must be from 64KiB to 64MiB", ""),
    };
    OtlpExporterOptions {
        protocol: OtlpProtocol::Grpc {
            endpoint: Endpoint::new("localhost", 4317),
            keepalive: None,
        },
        headers: section.read("headers", headers, Vec::new()),
        compression: section.read("compression", compression, Compression::Gzip),
        timeout: section.read("timeout", timeout_of, timeout),
        retry: retry(section.section("retry_on_failure")),
        flush_interval: section.read("flush_interval", Value::period, FLUSH_INTERVAL),
        request_bytes_max: section.read("max_request_size", request_bytes_max, REQUEST_BYTES_MAX),
    }
}

/// `host:port`, or `http://host[:port][/path]`; a path is for HTTP only.
fn target(value: &Value<'_>, is_http: bool) -> Option<Target> {
    let text = value.text()?;
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (Some(scheme), rest),
        None => (None, text.as_str()),
    };
    match scheme.map(str::to_ascii_lowercase).as_deref() {
        None | Some("http") => {}
        Some("https") => {
            let help = "TLS to destinations is not built: use http:// on a trusted network, or send through a \
                        Collector on this host";
            return value.error(&format!("https:// is {NOT_YET}"), help);
        }
        Some("dns" | "unix" | "passthrough") => {
            return value.error(
                "names of gRPC resolvers are not known here",
                "write host:port; every address of the name is tried",
            );
        }
        Some(_) => return value.expected("an endpoint", "write host:port or http://host:port"),
    }
    let path_at = rest.find('/').unwrap_or(rest.len());
    let (authority, path) = rest.split_at(path_at);
    if !is_http && !path.trim_end_matches('/').is_empty() {
        return value.error("a gRPC endpoint has no path", "did you mean otlp_http?");
    }
    if path.parse::<http::uri::PathAndQuery>().is_err() && !path.is_empty() || path.contains('#') {
        return value.error("its path is no path of a URL", "");
    }
    let bracket = authority.rfind(']').map_or(0, |at| at + 1);
    let with_port = match (authority[bracket..].contains(':'), scheme) {
        (false, Some(_)) => format!("{authority}:80"),
        _ => authority.to_owned(),
    };
    match parse_endpoint(&with_port) {
        // `:4317` is an address to listen on.
        Ok(_) if authority.starts_with(':') => {
            value.error("names no host", "write host:port, such as localhost:4317")
        }
        Ok(endpoint) if endpoint.port == 0 => value.error("port 0 cannot be connected to", ""),
        Ok(endpoint) => Some(Target {
            endpoint,
            path: path.to_owned(),
            has_scheme: scheme.is_some(),
        }),
        Err(_) => value.expected(
            "an endpoint",
            "write host:port or http://host:port, such as localhost:4317",
        ),
    }
}

/// `insecure: true` is what there is.
fn tls(value: &Value<'_>) {
    let mut section = value.section();
    let insecure = section.value("insecure");
    let keys = section.named_values();
    if keys.is_empty()
        || insecure
            .as_ref()
            .is_some_and(|insecure| insecure.boolean() == Some(false))
    {
        value.refuse(NOT_YET, INSECURE_HELP);
        return;
    }
    for (key, value) in keys {
        if key != "insecure" {
            value.refuse(NOT_YET, INSECURE_HELP);
        }
    }
}

fn is_loopback(host: &str) -> bool {
    let address = host.parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// A map of names and values.
fn headers(value: &Value<'_>) -> Option<Vec<(String, String)>> {
    const OURS: [&str; 9] = [
        "content-type",
        "content-length",
        "content-encoding",
        "transfer-encoding",
        "connection",
        "te",
        "host",
        "grpc-encoding",
        "grpc-timeout",
    ];
    let header = |name: &str, value: &Value<'_>| {
        let text = value.text()?;
        let Ok(known) = HeaderName::from_bytes(name.as_bytes()) else {
            return value.error("its name is no name of a header", "");
        };
        if OURS.contains(&known.as_str()) {
            return value.error("is set by tailkeep itself", "leave it out");
        }
        if HeaderValue::from_str(&text).is_err() {
            return value.error("holds characters that no header may have", "");
        }
        Some((known.as_str().to_owned(), text))
    };
    let named = value.section().named_values();
    Some(
        named
            .iter()
            .filter_map(|(name, value)| header(name, value))
            .collect(),
    )
}

fn compression(value: &Value<'_>) -> Option<Compression> {
    if value.is_word("snappy") || value.is_word("zlib") || value.is_word("deflate") || value.is_word("lz4") {
        return value.not_yet("none, gzip and zstd are built");
    }
    // The Collector takes an empty text for none.
    let word = value.word(&["none", "gzip", "zstd", ""])?;
    let named = Compression::ALL
        .into_iter()
        .find(|compression| compression.name() == word);
    Some(named.unwrap_or(Compression::None))
}

fn retry(mut section: Section<'_>) -> RetryOptions {
    let default = RetryOptions::OTLP;
    let multiplier = |value: &Value<'_>| match value.number()? {
        number if (1.0..=1000.0).contains(&number) => Some(number),
        _ => value.error("must be from 1 to 1000", ""),
    };
    let factor = |value: &Value<'_>| match value.number()? {
        number if (0.0..=1.0).contains(&number) => Some(number),
        _ => value.error("must be from 0 to 1", ""),
    };
    let elapsed = |value: &Value<'_>| {
        let elapsed = value.duration()?;
        Some((!elapsed.is_zero()).then_some(elapsed))
    };
    let initial_interval = section.read("initial_interval", Value::period, default.initial_interval);
    let options = RetryOptions {
        enabled: section.read("enabled", Value::boolean, default.enabled),
        initial_interval,
        interval_max: section
            .read("max_interval", Value::period, default.interval_max)
            .max(initial_interval),
        multiplier: section.read("multiplier", multiplier, default.multiplier),
        randomization_factor: section.read("randomization_factor", factor, default.randomization_factor),
        elapsed_max: section.read("max_elapsed_time", elapsed, default.elapsed_max),
    };
    section.finish();
    options
}

fn keepalive_of(mut section: Section<'_>) -> Keepalive {
    // Oftener than every 10 s gRPC's own clients do not ping either.
    let time = |value: &Value<'_>| value.period().map(|time| time.max(Duration::from_secs(10)));
    let options = Keepalive {
        time: section.read("time", time, Duration::from_secs(10)),
        timeout: section.read("timeout", Value::period, Duration::from_secs(10)),
        permit_without_stream: section.read("permit_without_stream", Value::boolean, false),
    };
    section.finish();
    options
}
