//! The OpenTelemetry SDK for Rust as a client: tonic and reqwest, plain and gzip.

use opentelemetry::trace::{Tracer as _, TracerProvider as _};
use opentelemetry_otlp::{Compression, SpanExporter, WithExportConfig, WithHttpConfig, WithTonicConfig};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_sdk::trace::SdkTracerProvider;
use prost::Message;

use crate::server::Server;

/// Exports one span; its request must reach the core as the SDK made it.
fn exports_a_span(server: &Server, exporter: SpanExporter) {
    let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).build();
    provider.tracer("test").in_span("a real span", |_| {});
    provider.force_flush().expect("exported");
    provider.shutdown().expect("no error");
    let request = ExportTraceServiceRequest::decode(&server.exported().1[..]).expect("protobuf");
    assert_eq!(
        request.resource_spans[0].scope_spans[0].spans[0].name,
        "a real span"
    );
}

#[test]
fn the_sdk_exports_by_grpc() {
    let server = Server::start();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let _inside = runtime.enter();
    for compression in [None, Some(Compression::Gzip)] {
        let mut builder = SpanExporter::builder()
            .with_tonic()
            .with_endpoint(format!("http://{}", server.grpc));
        if let Some(compression) = compression {
            builder = builder.with_compression(compression);
        }
        exports_a_span(&server, builder.build().expect("an exporter"));
    }
}

#[test]
fn the_sdk_exports_by_http() {
    let server = Server::start();
    for compression in [None, Some(Compression::Gzip)] {
        let mut builder = SpanExporter::builder()
            .with_http()
            .with_endpoint(format!("http://{}/v1/traces", server.http));
        if let Some(compression) = compression {
            builder = builder.with_compression(compression);
        }
        exports_a_span(&server, builder.build().expect("an exporter"));
    }
}
