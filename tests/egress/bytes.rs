//! What arrives is what came in, and its request is as OTLP wants it.

use prost::Message;
use tailkeep::otlp::cut::{CutSink, cut};
use tailkeep::otlp::view::SpanView;

use crate::destination::{BOTH, Destination, Wire, place};
use crate::http::Client;
use crate::traffic::{request, span, trace_id};

#[derive(Default)]
struct Spans(Vec<Vec<u8>>);

impl<'a> CutSink<'a> for Spans {
    fn resource(&mut self, _: &[&'a [u8]]) {}
    fn scope(&mut self, _: &[&'a [u8]]) {}
    fn span(&mut self, span: &SpanView<'a>) {
        self.0.push(span.bytes.to_vec());
    }
}

fn spans_of(body: &[u8]) -> Vec<Vec<u8>> {
    let mut spans = Spans::default();
    cut(body, &mut spans).expect("well framed");
    spans.0.sort();
    spans.0
}

/// A request whose spans have a field that no version of OTLP knows.
fn with_unknown_fields(trace: u64) -> Vec<u8> {
    let mut body = Vec::new();
    for number in 0..3 {
        let mut bytes = request("shop", vec![span(trace_id(trace), number, 0)]).encode_to_vec();
        // Field 1000, a varint, appended to the innermost message: all lengths grow by 3.
        let unknown = [0xc0, 0x3e, 0x2a];
        let one = span(trace_id(trace), number, 0).encode_to_vec();
        let at = bytes
            .windows(one.len())
            .position(|window| window == one)
            .expect("it is there");
        bytes.splice(at + one.len()..at + one.len(), unknown);
        body.extend(with_grown_lengths(&bytes, at, unknown.len()));
    }
    body
}

/// Rewrites the three length prefixes before `at`, each of a length-delimited field that ends with the bytes.
fn with_grown_lengths(bytes: &[u8], at: usize, more: usize) -> Vec<u8> {
    let rebuild = |inner: &[u8], key: u8| {
        let mut out = vec![key];
        prost::encoding::encode_varint(inner.len() as u64, &mut out);
        out.extend_from_slice(inner);
        out
    };
    let decoded = opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest::decode(
        &request("shop", Vec::new()).encode_to_vec()[..],
    )
    .expect("protobuf");
    let part = &decoded.resource_spans[0];
    let span = rebuild(&bytes[at..], 0x12);
    assert!(more == 3 && span.len() > more);
    let scope = part.scope_spans[0].encode_to_vec();
    let scope_spans = rebuild(&[&scope[..], &span].concat(), 0x12);
    let resource = part.resource.as_ref().expect("given").encode_to_vec();
    rebuild(&[&rebuild(&resource, 0x0a)[..], &scope_spans].concat(), 0x0a)
}

#[test]
fn spans_are_byte_equal_by_every_transport_and_compression() {
    for wire in BOTH {
        for (compression, coding) in [("none", None), ("gzip", Some("gzip")), ("zstd", Some("zstd"))] {
            let destination = Destination::start(wire);
            let more = format!(", compression: {compression}, headers: {{ x-Tenant: \"a b\" }}");
            let place = place("bytes", &destination.exporter("a", &more));
            let tailkeep = place.start();
            let body = with_unknown_fields(7);
            let came = spans_of(&body);
            assert!(came.len() == 3 && came.iter().all(|span| span.ends_with(&[0xc0, 0x3e, 0x2a])));
            Client::new(tailkeep.http).export_bytes(&body);
            destination.wait_accepted([7]);
            let received = destination.received();
            assert_eq!(spans_of(&received[0].body), came, "{wire:?} {compression}");
            let head = |name: &str| received[0].header(name);
            assert_eq!(head("x-tenant"), Some("a b"));
            assert!(head("user-agent").is_some_and(|agent| agent.starts_with("tailkeep/")));
            match wire {
                Wire::Grpc => {
                    assert_eq!(head("grpc-encoding"), coding);
                    assert_eq!(
                        (head("te"), head("content-type")),
                        (Some("trailers"), Some("application/grpc"))
                    );
                    assert_eq!(head("grpc-timeout"), Some("5000m"));
                }
                Wire::Http => {
                    assert_eq!(head("content-encoding"), coding);
                    assert_eq!(head("content-type"), Some("application/x-protobuf"));
                    assert_eq!(head(":request"), Some("POST /v1/traces HTTP/1.1"));
                    assert_eq!(head("host"), Some(destination.address.to_string().as_str()));
                }
            }
            // The scope says why.
            let scopes = received[0].request();
            let scope = &scopes.resource_spans[0].scope_spans[0];
            let attributes = &scope.scope.as_ref().expect("annotated").attributes;
            assert!(
                attributes
                    .iter()
                    .any(|attribute| attribute.key == "tailkeep.reason")
            );
        }
    }
}

#[test]
fn one_connection_carries_many_requests() {
    for wire in BOTH {
        let destination = Destination::start(wire);
        let place = place("reuse", &destination.exporter("a", ""));
        let tailkeep = place.start();
        for trace in 0..5 {
            crate::codes::export(&tailkeep, trace, 1);
            destination.wait_accepted([trace]);
        }
        assert!(destination.received().len() >= 5);
        assert_eq!(destination.connection_count(), 1);
    }
}

#[test]
fn a_traces_endpoint_is_used_as_it_is() {
    let destination = Destination::start(Wire::Http);
    let exporter = format!(
        ", otlphttp: {{ endpoint: \"http://127.0.0.1:1/unused\", traces_endpoint: \"http://{}/custom?a=1\", flush_interval: 10ms }}",
        destination.address
    );
    let place = place("traces-endpoint", &exporter);
    let tailkeep = place.start();
    crate::codes::export(&tailkeep, 1, 1);
    destination.wait_accepted([1]);
    let received = destination.received();
    assert_eq!(received[0].header(":request"), Some("POST /custom?a=1 HTTP/1.1"));
}
