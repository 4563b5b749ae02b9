//! What the file exporter wrote, decoded and taken apart.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message;
use tailkeep::otlp::json;

/// One span with its surroundings, without what tailkeep wrote on it.
#[derive(Clone, Debug)]
pub struct Exported {
    /// One resource, one scope, one span.
    pub alone: ResourceSpans,
    /// Scope attributes of the contract.
    pub annotations: BTreeMap<String, String>,
}

impl Exported {
    pub fn span(&self) -> &Span {
        &self.alone.scope_spans[0].spans[0]
    }

    pub fn id(&self) -> SpanKey {
        key(self.span())
    }

    /// Equal for spans that are equal in every field and in their surroundings.
    pub fn fingerprint(&self) -> Vec<u8> {
        self.alone.encode_to_vec()
    }
}

pub type SpanKey = (Vec<u8>, Vec<u8>);

pub fn key(span: &Span) -> SpanKey {
    (span.trace_id.clone(), span.span_id.clone())
}

pub struct Output {
    pub spans: Vec<Exported>,
}

impl Output {
    /// Whole lines only: a reader of a file that is being written stops at the last end of line.
    pub fn read(path: &Path) -> Output {
        let text = std::fs::read(path).unwrap_or_default();
        let whole = text
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |at| at + 1);
        let mut spans = Vec::new();
        for line in text[..whole]
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
        {
            let mut protobuf = Vec::new();
            json::decode(&json::TRACES_DATA, line, &mut protobuf)
                .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(line)));
            let request = ExportTraceServiceRequest::decode(&protobuf[..]).expect("protobuf");
            let of_line = take_apart(&request);
            let traces: BTreeSet<_> = of_line.iter().map(|span| span.span().trace_id.clone()).collect();
            assert_eq!(
                traces.len(),
                1,
                "one trace a line: {}",
                String::from_utf8_lossy(line)
            );
            spans.extend(of_line);
        }
        Output { spans }
    }

    pub fn traces(&self) -> BTreeSet<Vec<u8>> {
        self.spans
            .iter()
            .map(|span| span.span().trace_id.clone())
            .collect()
    }

    pub fn keys(&self) -> BTreeSet<SpanKey> {
        self.spans.iter().map(Exported::id).collect()
    }

    pub fn of_trace(&self, trace: &[u8]) -> Vec<&Exported> {
        self.spans
            .iter()
            .filter(|span| span.span().trace_id == trace)
            .collect()
    }
}

/// Each span alone, our attributes taken off.
pub fn take_apart(request: &ExportTraceServiceRequest) -> Vec<Exported> {
    let mut spans = Vec::new();
    for resource in &request.resource_spans {
        for scope in &resource.scope_spans {
            let mut annotations = BTreeMap::new();
            let mut bare = scope.scope.clone().unwrap_or_default();
            bare.attributes.retain(|attribute| {
                let ours = ["tailkeep.", "tailsampling."]
                    .iter()
                    .any(|prefix| attribute.key.starts_with(prefix));
                if ours {
                    let value = attribute.value.as_ref().and_then(|value| value.value.as_ref());
                    let text = match value {
                        Some(Value::StringValue(text)) => text.clone(),
                        Some(Value::BoolValue(bit)) => bit.to_string(),
                        other => format!("{other:?}"),
                    };
                    annotations.insert(attribute.key.clone(), text);
                }
                !ours
            });
            for span in &scope.spans {
                let alone = ResourceSpans {
                    resource: Some(resource.resource.clone().unwrap_or_default()),
                    schema_url: resource.schema_url.clone(),
                    scope_spans: vec![ScopeSpans {
                        // Absent and empty are the same to a reader.
                        scope: Some(bare.clone()),
                        schema_url: scope.schema_url.clone(),
                        spans: vec![span.clone()],
                    }],
                };
                spans.push(Exported {
                    alone,
                    annotations: annotations.clone(),
                });
            }
        }
    }
    spans
}

/// The same spans, as often.
pub fn assert_same(came: &[Exported], went: &[Exported]) {
    let sorted = |spans: &[Exported]| {
        let mut prints: Vec<Vec<u8>> = spans.iter().map(Exported::fingerprint).collect();
        prints.sort();
        prints
    };
    let (came_sorted, went_sorted) = (sorted(came), sorted(went));
    if came_sorted == went_sorted {
        return;
    }
    let differ = |prints: &[Vec<u8>], of: &[Vec<u8>]| -> Vec<Vec<u8>> {
        let mut rest = of.to_vec();
        for print in prints {
            if let Ok(at) = rest.binary_search(print) {
                rest.remove(at);
            }
        }
        rest
    };
    let show = |prints: Vec<Vec<u8>>| -> Vec<String> {
        let decode =
            |print: &Vec<u8>| format!("{:?}", ResourceSpans::decode(&print[..]).expect("just encoded"));
        prints.iter().take(2).map(decode).collect()
    };
    panic!(
        "{} came and {} went\nonly came: {:#?}\nonly went: {:#?}",
        came.len(),
        went.len(),
        show(differ(&went_sorted, &came_sorted)),
        show(differ(&came_sorted, &went_sorted)),
    );
}
