//! `receivers`: the Collector's OTLP receiver, as far as it is built.

use crate::config::options::{GrpcReceiverOptions, HttpReceiverOptions, ReceiverOptions, ServerKeepalive};
use crate::config::reader::{Section, Value};
use std::time::Duration;

/// Of the Collector's gRPC server settings (configgrpc) those we lack.
const GRPC_UNBUILT: [&str; 8] = [
    "transport",
    "tls",
    "max_concurrent_streams",
    "read_buffer_size",
    "write_buffer_size",
    "auth",
    "include_metadata",
    "middlewares",
];

/// Of the Collector's HTTP server settings (confighttp) and the receiver's own those we lack.
const HTTP_UNBUILT: [&str; 17] = [
    "transport",
    "tls",
    "cors",
    "auth",
    "include_metadata",
    "response_headers",
    "compression_algorithms",
    "read_timeout",
    "read_header_timeout",
    "write_timeout",
    "idle_timeout",
    "keep_alives_enabled",
    "middlewares",
    "traces_url_path",
    "metrics_url_path",
    "logs_url_path",
    "profiles_url_path",
];

pub fn receivers(mut section: Section<'_>) -> ReceiverOptions {
    let mut otlp = section.section("otlp");
    let mut protocols = otlp.section("protocols");
    let default = ReceiverOptions::default();
    let options = ReceiverOptions {
        grpc: grpc(protocols.section("grpc"), default.grpc),
        http: http(protocols.section("http"), default.http),
    };
    protocols.finish();
    otlp.finish();
    section.finish();
    options
}

fn grpc(mut section: Section<'_>, default: GrpcReceiverOptions) -> GrpcReceiverOptions {
    // gRPC frames a message with a 32-bit length, so 4 GiB is no message any more.
    let size = |value: &Value<'_>| value.whole(1, 4095).map(|mebibytes| (mebibytes as u64) << 20);
    let options = GrpcReceiverOptions {
        endpoint: section.read("endpoint", Value::endpoint, default.endpoint),
        message_bytes_max: section.read("max_recv_msg_size_mib", size, default.message_bytes_max),
        keepalive: keepalive(section.section("keepalive"), default.keepalive),
    };
    section.refuse_unbuilt(&GRPC_UNBUILT);
    section.finish();
    options
}

/// In gRPC's words; 0s is no limit, as there.
fn keepalive(mut section: Section<'_>, default: ServerKeepalive) -> ServerKeepalive {
    let positive = |value: &Value<'_>| match value.duration()? {
        Duration::ZERO => value.error("must be longer than 0s", ""),
        duration => Some(duration),
    };
    let age = |value: &Value<'_>| value.duration().map(|age| Some(age).filter(|age| !age.is_zero()));
    let mut server = section.section("server_parameters");
    let options = ServerKeepalive {
        age_max: server.read("max_connection_age", age, default.age_max),
        time: server.read("time", positive, default.time),
        timeout: server.read("timeout", positive, default.timeout),
    };
    server.refuse_unbuilt(&["max_connection_idle", "max_connection_age_grace"]);
    server.finish();
    section.refuse_unbuilt(&["enforcement_policy"]);
    section.finish();
    options
}

fn http(mut section: Section<'_>, default: HttpReceiverOptions) -> HttpReceiverOptions {
    let size = |value: &Value<'_>| match value.size()? {
        0 => value.error("must be more than 0", ""),
        bytes => Some(bytes),
    };
    let options = HttpReceiverOptions {
        endpoint: section.read("endpoint", Value::endpoint, default.endpoint),
        body_bytes_max: section.read("max_request_body_size", size, default.body_bytes_max),
    };
    section.refuse_unbuilt(&HTTP_UNBUILT);
    section.finish();
    options
}
