//! The OpenTelemetry SDK for Rust: what it sends comes out equal.
//!
//! A second exporter sends the same spans to a listener of the test, so that "what went in" is the SDK's word and
//! not the test's.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use opentelemetry::trace::{
    Link, Span as _, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId, TraceState,
    Tracer as _, TracerProvider as _,
};
use opentelemetry::{Array, Context, KeyValue, StringValue, Value};
use opentelemetry_otlp::{Compression, SpanExporter, WithExportConfig, WithHttpConfig, WithTonicConfig};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use prost::Message;

use crate::output::{self, Exported};
use crate::process::{Place, Tailkeep};
use crate::traffic::ERROR;

/// Takes OTLP/HTTP requests and remembers them.
struct Listener {
    address: SocketAddr,
    bodies: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Listener {
    fn start() -> Listener {
        let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = socket.local_addr().expect("bound");
        let bodies: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
        let sink = bodies.clone();
        // Ends with the test's process; it holds nothing.
        std::thread::spawn(move || {
            for stream in socket.incoming().map_while(Result::ok) {
                let sink = sink.clone();
                std::thread::spawn(move || {
                    while let Some(body) = take_request(&stream) {
                        sink.lock().expect("unpoisoned").push(body);
                    }
                });
            }
        });
        Listener { address, bodies }
    }

    fn spans(&self) -> Vec<Exported> {
        let bodies = self.bodies.lock().expect("unpoisoned");
        let decode = |body: &Vec<u8>| ExportTraceServiceRequest::decode(&body[..]).expect("protobuf");
        bodies
            .iter()
            .flat_map(|body| output::take_apart(&decode(body)))
            .collect()
    }
}

fn take_request(mut stream: &TcpStream) -> Option<Vec<u8>> {
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    stream
        .write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n")
        .ok()?;
    Some(body)
}

fn exporter(tailkeep: &Tailkeep, is_grpc: bool, compression: Option<Compression>) -> SpanExporter {
    if is_grpc {
        let builder = SpanExporter::builder()
            .with_tonic()
            .with_endpoint(format!("http://{}", tailkeep.grpc));
        match compression {
            Some(compression) => builder.with_compression(compression).build(),
            None => builder.build(),
        }
    } else {
        let endpoint = format!("http://{}/v1/traces", tailkeep.http);
        let builder = SpanExporter::builder().with_http().with_endpoint(endpoint);
        match compression {
            Some(compression) => builder.with_compression(compression).build(),
            None => builder.build(),
        }
    }
    .expect("an exporter")
}

/// Attributes of every type that the SDK has.
fn attributes() -> Vec<KeyValue> {
    let strings = vec![StringValue::from("ä"), StringValue::from("")];
    vec![
        KeyValue::new("text", "GET /users/{id} \"q\" \\ \u{1f980} \u{7}"),
        KeyValue::new("empty", ""),
        KeyValue::new("yes", true),
        KeyValue::new("no", false),
        KeyValue::new("int", i64::MIN),
        KeyValue::new("zero", 0i64),
        KeyValue::new("double", 0.1),
        KeyValue::new("not a number", f64::NAN),
        KeyValue::new("endless", f64::NEG_INFINITY),
        KeyValue::new("texts", Value::Array(Array::String(strings))),
        KeyValue::new("ints", Value::Array(Array::I64(vec![1, -1, i64::MAX]))),
        KeyValue::new("doubles", Value::Array(Array::F64(vec![1.5, -0.0]))),
        KeyValue::new("bits", Value::Array(Array::Bool(vec![true, false]))),
        KeyValue::new("nothing", Value::Array(Array::I64(vec![]))),
    ]
}

/// A trace of three spans; one of them fails, or none.
fn make_trace(provider: &SdkTracerProvider, fails: bool) -> TraceId {
    let tracer = provider.tracer("shop");
    let root = tracer
        .span_builder("GET /cart")
        .with_kind(SpanKind::Server)
        .with_attributes(attributes())
        .start(&tracer);
    let trace = root.span_context().trace_id();
    let context = Context::current_with_span(root);
    let elsewhere = SpanContext::new(
        TraceId::from_bytes([7; 16]),
        SpanId::from_bytes([9; 8]),
        TraceFlags::SAMPLED,
        true,
        "vendor=1".parse::<TraceState>().unwrap_or_default(),
    );
    let mut child = tracer
        .span_builder("SELECT")
        .with_kind(SpanKind::Client)
        .with_links(vec![Link::new(elsewhere, attributes(), 0)])
        .start_with_context(&tracer, &context);
    child.add_event("retry", attributes());
    if fails {
        child.record_error(&std::io::Error::other("the database is away"));
        child.set_status(Status::error("the database is away"));
    }
    child.end();
    tracer
        .span_builder("render")
        .start_with_context(&tracer, &context)
        .end();
    context.span().set_status(Status::Ok);
    context.span().end();
    trace
}

#[test]
fn an_errored_trace_of_the_sdk_comes_out_whole_and_equal() {
    let place = Place::new("sdk").errors_only().with("completion.quiet", "1s");
    let tailkeep = place.start();
    let listener = Listener::start();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let _inside = runtime.enter();
    let mut errored = Vec::new();
    for (is_grpc, compression) in [
        (true, None),
        (true, Some(Compression::Gzip)),
        (false, None),
        (false, Some(Compression::Gzip)),
    ] {
        let beside = SpanExporter::builder()
            .with_http()
            .with_endpoint(format!("http://{}/v1/traces", listener.address));
        let provider = SdkTracerProvider::builder()
            .with_resource(
                Resource::builder()
                    .with_service_name("shop")
                    .with_attributes(attributes())
                    .build(),
            )
            .with_batch_exporter(exporter(&tailkeep, is_grpc, compression))
            .with_batch_exporter(beside.build().expect("an exporter"))
            .build();
        make_trace(&provider, false);
        errored.push(make_trace(&provider, true).to_bytes().to_vec());
        make_trace(&provider, false);
        provider.force_flush().expect("exported");
        provider.shutdown().expect("no error");
    }
    let status = tailkeep.wait_settled();
    assert_eq!(status["signals"]["spans"]["accepted"], 4 * 3 * 3);
    tailkeep.stop_well();

    let output = place.output();
    assert_eq!(output.traces(), errored.iter().cloned().collect());
    let mut came = listener.spans();
    came.retain(|span| errored.contains(&span.span().trace_id));
    assert_eq!(came.len(), 12);
    output::assert_same(&came, &output.spans);
    for span in &output.spans {
        let annotations = &span.annotations;
        assert_eq!(annotations["tailsampling.policy"], "errors");
        assert_eq!(annotations["tailkeep.reason"], "complete");
        assert_eq!(annotations["tailkeep.node"], "node-under-test");
        assert_eq!(annotations.len(), 3, "{annotations:?}");
    }
    // The comparison had something to compare.
    let failed: Vec<_> = output
        .spans
        .iter()
        .map(Exported::span)
        .filter(|span| span.name == "SELECT")
        .collect();
    assert_eq!(failed.len(), 4);
    for span in failed {
        assert_eq!(span.status.as_ref().map(|status| status.code), Some(ERROR));
        assert!(span.events.iter().any(|event| event.name == "exception"));
        assert_eq!(span.links.len(), 1);
    }
}
