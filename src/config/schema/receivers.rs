//! `receivers`: the Collector's OTLP receiver, as far as it is built.

use crate::config::options::{GrpcReceiverOptions, HttpReceiverOptions, ReceiverOptions};
use crate::config::reader::{Section, Value};

/// Of the Collector's gRPC server settings (configgrpc) those we lack.
const GRPC_UNBUILT: [&str; 9] = [
    "transport",
    "tls",
    "max_concurrent_streams",
    "read_buffer_size",
    "write_buffer_size",
    "keepalive",
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
    };
    section.refuse_unbuilt(&GRPC_UNBUILT);
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
