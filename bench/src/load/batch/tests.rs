use std::collections::{HashMap, HashSet};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;

use super::*;

const NOW_NS: u64 = 1_760_000_000_000_000_000;

fn shape() -> Shape {
    Shape {
        span_bytes: 380,
        spans_per_trace: 8,
        spans_per_request: 512,
        requests_per_trace: 1,
        error_ratio: 0.03,
        slow_ratio: 0.01,
        services: 1,
        interleave: 1,
        trace_ids: TraceIds::Random,
    }
}

/// Shapes whose divisions leave remainders, too.
fn shapes() -> Vec<Shape> {
    vec![
        shape(),
        Shape {
            span_bytes: 800,
            ..shape()
        },
        Shape {
            spans_per_request: 8,
            error_ratio: 1.0,
            slow_ratio: 1.0,
            ..shape()
        },
        Shape {
            spans_per_request: 1,
            spans_per_trace: 1,
            ..shape()
        },
        Shape {
            requests_per_trace: 3,
            ..shape()
        },
        Shape {
            requests_per_trace: 8,
            spans_per_request: 1,
            ..shape()
        },
        Shape {
            spans_per_request: 37,
            spans_per_trace: 10,
            requests_per_trace: 4,
            services: 5,
            ..shape()
        },
        Shape {
            spans_per_request: 500,
            spans_per_trace: 300,
            interleave: 4,
            services: 3,
            ..shape()
        },
    ]
}

fn decode(batch: &Batch) -> Vec<Span> {
    assert_eq!(batch.bytes[0], 0, "no compression");
    let length = u32::from_be_bytes(batch.bytes[1..5].try_into().expect("four bytes"));
    assert_eq!(length as usize, batch.body_len());
    let request = ExportTraceServiceRequest::decode(&batch.bytes[PREFIX_LEN..]).expect("valid protobuf");
    let scopes = request
        .resource_spans
        .into_iter()
        .flat_map(|resource| resource.scope_spans);
    scopes.flat_map(|scope| scope.spans).collect()
}

/// The patched spans of the first `count` groups.
fn groups(shape: &Shape, count: u64) -> Vec<Vec<Span>> {
    shape.check().expect("a shape that can be built");
    let identity = Identity::new(7, TraceIds::Random);
    let mut builder = Builder::new(shape, 7);
    let mut group = |number| {
        let mut batches = builder.group();
        batches
            .iter_mut()
            .for_each(|batch| batch.patch(&identity, number, NOW_NS));
        batches.iter().flat_map(decode).collect()
    };
    (0..count).map(&mut group).collect()
}

#[test]
fn patched_spans_decode_to_the_ids_that_the_ledger_is_told() {
    for shape in shapes() {
        let identity = Identity::new(7, TraceIds::Random);
        for (member, batch) in Builder::new(&shape, 7).group().iter_mut().enumerate() {
            assert_eq!(batch.member, member);
            for group in [0, 9, 1 << 40] {
                batch.patch(&identity, group, NOW_NS);
                let told: Vec<_> = batch
                    .spans(&identity, group)
                    .map(|sent| {
                        (
                            sent.trace.trace_id().to_vec(),
                            sent.span_id.to_vec(),
                            sent.marks & MARK_ERROR != 0,
                        )
                    })
                    .collect();
                let is_error = |span: &Span| span.status.as_ref().is_some_and(|status| status.code == 2);
                let decoded: Vec<_> = decode(batch)
                    .into_iter()
                    .map(|span| (span.trace_id.clone(), span.span_id.clone(), is_error(&span)))
                    .collect();
                assert_eq!(decoded, told, "{shape:?}");
            }
        }
    }
}

#[test]
fn every_trace_is_one_tree_with_one_root() {
    for shape in shapes() {
        let mut traces: HashMap<Vec<u8>, Vec<Span>> = HashMap::new();
        for span in groups(&shape, 2).into_iter().flatten() {
            traces.entry(span.trace_id.clone()).or_default().push(span);
        }
        assert_eq!(traces.len(), 2 * shape.traces_per_group(), "{shape:?}");
        let last = (shape.spans_per_request * shape.requests_per_trace) % shape.spans_per_trace;
        for spans in traces.values() {
            assert!(
                spans.len() == shape.spans_per_trace || spans.len() == last,
                "{shape:?}: {}",
                spans.len()
            );
            let by_id: HashMap<_, _> = spans.iter().map(|span| (&span.span_id, span)).collect();
            assert_eq!(by_id.len(), spans.len(), "span ids are distinct");
            assert_eq!(
                spans.iter().filter(|span| span.parent_span_id.is_empty()).count(),
                1
            );
            for span in spans.iter().filter(|span| !span.parent_span_id.is_empty()) {
                let parent = by_id[&span.parent_span_id];
                assert!(parent.start_time_unix_nano <= span.start_time_unix_nano);
                assert!(span.end_time_unix_nano <= parent.end_time_unix_nano);
            }
        }
    }
}

#[test]
fn sizes_are_within_five_percent_of_what_was_asked() {
    for span_bytes in [200, 380, 800, 5000] {
        for spans_per_request in [8, 512] {
            let shape = Shape {
                span_bytes,
                spans_per_request,
                error_ratio: 0.0,
                ..shape()
            };
            let mut spans: Vec<_> = groups(&shape, 8).into_iter().flatten().collect();
            let total: usize = spans
                .drain(..)
                .map(|span| encode::framed_len(span.encoded_len()))
                .sum();
            let mean = total as f64 / (8 * spans_per_request) as f64;
            assert!(
                (mean / span_bytes as f64 - 1.0).abs() < 0.05,
                "asked {span_bytes}, got {mean}"
            );
        }
    }
}

#[test]
fn shares_are_what_was_asked() {
    let shape = Shape {
        error_ratio: 0.05,
        slow_ratio: 0.02,
        ..shape()
    };
    let spans: Vec<_> = groups(&shape, 25).into_iter().flatten().collect();
    let traces = 25 * 64;
    let errors = spans
        .iter()
        .filter(|span| span.status.as_ref().is_some_and(|status| status.code == 2));
    assert_eq!(errors.count(), traces * 5 / 100);
    let duration = |span: &Span| span.end_time_unix_nano - span.start_time_unix_nano;
    let slow = spans
        .iter()
        .filter(|span| duration(span) > 2_000_000_000 && span.parent_span_id.is_empty());
    assert_eq!(slow.count(), traces * 2 / 100);
}

#[test]
fn times_end_now_and_error_events_end_with_their_span() {
    let shape = Shape {
        error_ratio: 1.0,
        ..shape()
    };
    for spans in groups(&shape, 2) {
        assert_eq!(
            spans.iter().map(|span| span.end_time_unix_nano).max(),
            Some(NOW_NS)
        );
        for span in spans {
            assert!(span.start_time_unix_nano < span.end_time_unix_nano);
            for event in span.events {
                assert_eq!(event.name, "exception");
                assert_eq!(event.time_unix_nano, span.end_time_unix_nano);
            }
        }
    }
}

#[test]
fn patching_touches_ids_and_times_only() {
    for shape in shapes() {
        let identity = Identity::new(7, TraceIds::Random);
        let mut batch = Builder::new(&shape, 7).group().remove(0);
        batch.patch(&identity, 3, NOW_NS);
        let first = (batch.bytes.clone(), decode(&batch));
        batch.patch(&identity, 4, NOW_NS + 1);
        let ids: HashSet<_> = first.1.iter().map(|span| &span.span_id).collect();
        for (span, before) in decode(&batch).into_iter().zip(&first.1) {
            assert!(!ids.contains(&span.span_id), "ids are fresh");
            assert_eq!(
                (&span.attributes, &span.name, &span.status),
                (&before.attributes, &before.name, &before.status)
            );
        }
        batch.patch(&identity, 3, NOW_NS);
        assert_eq!(batch.bytes, first.0);
    }
}

#[test]
fn each_service_has_one_resource() {
    let shape = Shape {
        services: 6,
        ..shape()
    };
    let batch = Builder::new(&shape, 7).group().remove(0);
    let request = ExportTraceServiceRequest::decode(&batch.bytes[PREFIX_LEN..]).expect("valid protobuf");
    let names: HashSet<_> = request
        .resource_spans
        .iter()
        .map(|resource| {
            format!(
                "{:?}",
                resource.resource.as_ref().expect("a resource").attributes[0]
            )
        })
        .collect();
    assert_eq!((request.resource_spans.len(), names.len()), (6, 6));
}

#[test]
fn shapes_that_cannot_be_built_are_refused() {
    for wrong in [
        Shape {
            span_bytes: 100,
            ..shape()
        },
        Shape {
            spans_per_request: 0,
            ..shape()
        },
        Shape {
            spans_per_trace: 9,
            spans_per_request: 8,
            ..shape()
        },
        Shape {
            requests_per_trace: 9,
            ..shape()
        },
        Shape {
            services: 513,
            ..shape()
        },
        Shape {
            interleave: 0,
            ..shape()
        },
        Shape {
            error_ratio: 1.5,
            ..shape()
        },
        Shape {
            slow_ratio: f64::NAN,
            ..shape()
        },
    ] {
        assert!(wrong.check().is_err(), "{wrong:?}");
    }
}
