//! What a sink saw of a request, and whether that is what prost decodes.

use prost::Message;
use tailkeep::otlp::cut::{CutSink, cut};
use tailkeep::otlp::view::{AnyValueView, SpanView, resource_attributes};
use tailkeep::otlp::wire::FramingError;

use crate::mirror::{self, AnyValue, ArrayValue, KeyValue, KeyValueList, OneValue};

/// What a sink saw, each part put together from its pieces.
#[derive(Debug, Default, PartialEq)]
pub struct Seen {
    pub resources: Vec<SeenResource>,
}

#[derive(Debug, PartialEq)]
pub struct SeenResource {
    pub part: Vec<u8>,
    pub scopes: Vec<SeenScope>,
}

#[derive(Debug, PartialEq)]
pub struct SeenScope {
    pub part: Vec<u8>,
    pub spans: Vec<Vec<u8>>,
}

impl<'a> CutSink<'a> for Seen {
    fn resource(&mut self, part: &[&'a [u8]]) {
        self.resources.push(SeenResource {
            part: part.concat(),
            scopes: Vec::new(),
        });
    }

    fn scope(&mut self, part: &[&'a [u8]]) {
        let resource = self
            .resources
            .last_mut()
            .expect("a resource comes before its scopes");
        resource.scopes.push(SeenScope {
            part: part.concat(),
            spans: Vec::new(),
        });
    }

    fn span(&mut self, span: &SpanView<'a>) {
        view_shows_what_prost_decodes(span);
        let resource = self
            .resources
            .last_mut()
            .expect("a resource comes before its spans");
        let scope = resource
            .scopes
            .last_mut()
            .expect("a scope comes before its spans");
        scope.spans.push(span.bytes.to_vec());
    }
}

pub fn seen(body: &[u8]) -> Result<Seen, FramingError> {
    let mut seen = Seen::default();
    cut(body, &mut seen)?;
    Ok(seen)
}

fn view_shows_what_prost_decodes(view: &SpanView) {
    let span = mirror::Span::decode(view.bytes).expect("cut took it");
    assert_eq!(view.trace_id, span.trace_id);
    assert_eq!(view.span_id, span.span_id);
    assert_eq!(view.parent_span_id, span.parent_span_id);
    assert_eq!(view.trace_state, span.trace_state);
    assert_eq!(
        (view.start_ns, view.end_ns),
        (span.start_time_unix_nano, span.end_time_unix_nano)
    );
    assert_eq!(view.status_code, span.status.unwrap_or_default().code);
    assert_eq!(view.flags, span.flags);
    assert_eq!((view.name(), view.kind()), (&span.name[..], span.kind));
    assert_eq!(owned(view.attributes()), without_string_indices(span.attributes));
}

/// Attributes as prost would have decoded them, encoded so that NaN equals itself.
pub fn owned<'a>(attributes: impl Iterator<Item = (&'a [u8], AnyValueView<'a>)>) -> Vec<Vec<u8>> {
    attributes
        .map(|(key, value)| owned_key_value(key, value).encode_to_vec())
        .collect()
}

fn owned_key_value(key: &[u8], value: AnyValueView) -> KeyValue {
    KeyValue {
        key: key.to_vec(),
        value: Some(owned_value(value)),
        key_strindex: 0,
    }
}

fn owned_value(view: AnyValueView) -> AnyValue {
    let value = match view {
        AnyValueView::Empty => None,
        AnyValueView::String(text) => Some(OneValue::String(text.to_vec())),
        AnyValueView::Bool(truth) => Some(OneValue::Bool(truth)),
        AnyValueView::Int(number) => Some(OneValue::Int(number)),
        AnyValueView::Double(number) => Some(OneValue::Double(number)),
        AnyValueView::Bytes(bytes) => Some(OneValue::Bytes(bytes.to_vec())),
        AnyValueView::Array(array) => {
            let values = array.values().map(owned_value).collect();
            Some(OneValue::Array(ArrayValue { values }))
        }
        AnyValueView::KeyValueList(list) => {
            let values = list
                .entries()
                .map(|(key, value)| owned_key_value(key, value))
                .collect();
            Some(OneValue::KeyValueList(KeyValueList { values }))
        }
    };
    AnyValue { value }
}

/// String indices count as absent in traces, and no value is an empty value.
fn without_string_indices(attributes: Vec<KeyValue>) -> Vec<Vec<u8>> {
    fn of_value(value: AnyValue) -> AnyValue {
        let value = match value.value {
            Some(OneValue::StringIndex(_)) => None,
            Some(OneValue::Array(array)) => {
                let values = array.values.into_iter().map(of_value).collect();
                Some(OneValue::Array(ArrayValue { values }))
            }
            Some(OneValue::KeyValueList(list)) => {
                let values = list.values.into_iter().map(of_key_value).collect();
                Some(OneValue::KeyValueList(KeyValueList { values }))
            }
            other => other,
        };
        AnyValue { value }
    }
    fn of_key_value(attribute: KeyValue) -> KeyValue {
        let value = Some(of_value(attribute.value.unwrap_or_default()));
        KeyValue {
            key: attribute.key,
            value,
            key_strindex: 0,
        }
    }
    attributes
        .into_iter()
        .map(|attribute| of_key_value(attribute).encode_to_vec())
        .collect()
}

/// `seen` is `body` as prost decodes it, part by part.
pub fn seen_is_what_prost_decodes(seen: &Seen, body: &[u8]) {
    let request = mirror::Request::decode(body).expect("cut took it");
    assert_eq!(seen.resources.len(), request.resource_spans.len());
    for (seen, mut came) in seen.resources.iter().zip(request.resource_spans) {
        let scopes = std::mem::take(&mut came.scope_spans);
        let part = mirror::ResourceSpans::decode(&seen.part[..]).expect("a part is a message");
        assert_eq!(part.encode_to_vec(), came.encode_to_vec());
        let attributes = came.resource.unwrap_or_default().attributes;
        assert_eq!(
            owned(resource_attributes(&seen.part)),
            without_string_indices(attributes)
        );
        assert_eq!(seen.scopes.len(), scopes.len());
        for (seen, mut came) in seen.scopes.iter().zip(scopes) {
            let spans = std::mem::take(&mut came.spans);
            let part = mirror::ScopeSpans::decode(&seen.part[..]).expect("a part is a message");
            assert_eq!(part.encode_to_vec(), came.encode_to_vec());
            assert_eq!(seen.spans.len(), spans.len());
            for (seen, came) in seen.spans.iter().zip(spans) {
                let span = mirror::Span::decode(&seen[..]).expect("a span is a message");
                assert_eq!(span.encode_to_vec(), came.encode_to_vec());
            }
        }
    }
}
