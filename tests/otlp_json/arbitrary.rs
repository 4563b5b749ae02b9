//! Random requests: well-formed ones from opentelemetry-proto's types, and encodings in any order that
//! the schema's tables allow.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{
    AnyValue, ArrayValue, EntityRef, InstrumentationScope, KeyValue, KeyValueList,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use proptest::collection::vec;
use proptest::prelude::*;
use prost::encoding::{WireType, encode_key, encode_varint};
use tailkeep::otlp::json::Message;
use tailkeep::otlp::json::schema::Kind;

pub fn request() -> impl Strategy<Value = ExportTraceServiceRequest> {
    vec(resource_spans(), 0..3).prop_map(|resource_spans| ExportTraceServiceRequest { resource_spans })
}

fn resource_spans() -> impl Strategy<Value = ResourceSpans> {
    let scope_spans =
        (proptest::option::of(scope()), vec(span(), 0..3), text()).prop_map(|(scope, spans, schema_url)| {
            ScopeSpans {
                scope,
                spans,
                schema_url,
            }
        });
    (proptest::option::of(resource()), vec(scope_spans, 0..3), text()).prop_map(
        |(resource, scope_spans, schema_url)| ResourceSpans {
            resource,
            scope_spans,
            schema_url,
        },
    )
}

fn resource() -> impl Strategy<Value = Resource> {
    let entity_ref = (text(), text(), vec(text(), 0..3), vec(text(), 0..3)).prop_map(
        |(schema_url, r#type, id_keys, description_keys)| EntityRef {
            schema_url,
            r#type,
            id_keys,
            description_keys,
        },
    );
    (attributes(), count(), vec(entity_ref, 0..2)).prop_map(
        |(attributes, dropped_attributes_count, entity_refs)| Resource {
            attributes,
            dropped_attributes_count,
            entity_refs,
        },
    )
}

fn scope() -> impl Strategy<Value = InstrumentationScope> {
    (text(), text(), attributes(), count()).prop_map(
        |(name, version, attributes, dropped_attributes_count)| InstrumentationScope {
            name,
            version,
            attributes,
            dropped_attributes_count,
        },
    )
}

fn span() -> impl Strategy<Value = Span> {
    let ids = (id(), id(), id(), text(), count());
    let times = (
        text(),
        prop_oneof![0..6, any::<i32>()],
        any::<u64>(),
        any::<u64>(),
    );
    let lists = (
        attributes(),
        vec(event(), 0..3),
        vec(link(), 0..3),
        count(),
        count(),
        count(),
    );
    let status = proptest::option::of(
        (text(), prop_oneof![0..3, any::<i32>()]).prop_map(|(message, code)| Status { message, code }),
    );
    (ids, times, lists, status).prop_map(|(ids, times, lists, status)| Span {
        trace_id: ids.0,
        span_id: ids.1,
        parent_span_id: ids.2,
        trace_state: ids.3,
        flags: ids.4,
        name: times.0,
        kind: times.1,
        start_time_unix_nano: times.2,
        end_time_unix_nano: times.3,
        attributes: lists.0,
        events: lists.1,
        links: lists.2,
        dropped_attributes_count: lists.3,
        dropped_events_count: lists.4,
        dropped_links_count: lists.5,
        status,
    })
}

fn event() -> impl Strategy<Value = Event> {
    (any::<u64>(), text(), attributes(), count()).prop_map(
        |(time_unix_nano, name, attributes, dropped_attributes_count)| Event {
            time_unix_nano,
            name,
            attributes,
            dropped_attributes_count,
        },
    )
}

fn link() -> impl Strategy<Value = Link> {
    (id(), id(), text(), attributes(), count(), count()).prop_map(
        |(trace_id, span_id, trace_state, attributes, dropped_attributes_count, flags)| Link {
            trace_id,
            span_id,
            trace_state,
            attributes,
            dropped_attributes_count,
            flags,
        },
    )
}

fn attributes() -> impl Strategy<Value = Vec<KeyValue>> {
    vec(key_value(any_value()), 0..4)
}

fn key_value(value: impl Strategy<Value = AnyValue>) -> impl Strategy<Value = KeyValue> {
    (text(), proptest::option::of(value), small_int()).prop_map(|(key, value, key_strindex)| KeyValue {
        key,
        value,
        key_strindex,
    })
}

fn any_value() -> impl Strategy<Value = AnyValue> {
    let leaf = prop_oneof![
        Just(None),
        text().prop_map(|text| Some(Value::StringValue(text))),
        any::<bool>().prop_map(|bool| Some(Value::BoolValue(bool))),
        any::<i64>().prop_map(|int| Some(Value::IntValue(int))),
        double().prop_map(|double| Some(Value::DoubleValue(double))),
        vec(any::<u8>(), 0..9).prop_map(|bytes| Some(Value::BytesValue(bytes))),
        small_int().prop_map(|index| Some(Value::StringValueStrindex(index))),
    ];
    leaf.prop_map(|value| AnyValue { value })
        .prop_recursive(3, 12, 4, |inner| {
            let array = vec(inner.clone(), 0..4).prop_map(|values| Value::ArrayValue(ArrayValue { values }));
            let list =
                vec(key_value(inner), 0..4).prop_map(|values| Value::KvlistValue(KeyValueList { values }));
            prop_oneof![array, list].prop_map(|value| AnyValue { value: Some(value) })
        })
}

/// Every class of doubles; one NaN, because JSON has one.
fn double() -> impl Strategy<Value = f64> {
    let bits = any::<u64>().prop_map(f64::from_bits);
    let double = prop_oneof![
        bits,
        Just(0.0),
        Just(-0.0),
        Just(f64::NAN),
        Just(1e21),
        Just(f64::INFINITY)
    ];
    double.prop_map(|double| if double.is_nan() { f64::NAN } else { double })
}

fn text() -> BoxedStrategy<String> {
    prop_oneof![
        20 => Just(String::new()),
        20 => "[a-z.]{1,20}",
        20 => any::<String>(),
        20 => "[\\\\\"\u{0}-\u{20}\u{2028}😀é]{1,9}",
        // Lengths about the border between one and two bytes, and between two and three.
        5 => (120usize..140).prop_map(|length| "x".repeat(length)),
        1 => (16_380usize..16_390).prop_map(|length| "x".repeat(length)),
    ]
    .boxed()
}

fn id() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![vec(any::<u8>(), 16), vec(any::<u8>(), 8), vec(any::<u8>(), 0..20)]
}

fn count() -> impl Strategy<Value = u32> {
    prop_oneof![Just(0), any::<u32>()]
}

fn small_int() -> impl Strategy<Value = i32> {
    prop_oneof![4 => Just(0), 1 => any::<i32>()]
}

/// An encoding of `message` with fields in any order and number, and with unknown ones.
pub fn message(message: &'static Message) -> BoxedStrategy<Vec<u8>> {
    message_of_depth(message, 8)
}

fn message_of_depth(message: &'static Message, depth_left: u32) -> BoxedStrategy<Vec<u8>> {
    if depth_left == 0 {
        return Just(Vec::new()).boxed();
    }
    let mut choices = vec![(1, unknown().boxed())];
    for field in message.fields {
        let number = u32::from(field.number);
        let value = match field.kind {
            Kind::Message(inner) => {
                // Built when it is drawn: the tables refer to each other in circles.
                let bytes = (0..1u8).prop_flat_map(move |_| message_of_depth(inner, depth_left - 1));
                bytes
                    .prop_map(move |bytes| length_delimited(number, &bytes))
                    .boxed()
            }
            Kind::String => "[a-c\"é]{0,3}"
                .prop_map(move |text| length_delimited(number, text.as_bytes()))
                .boxed(),
            Kind::Bytes | Kind::Id => vec(any::<u8>(), 0..3)
                .prop_map(move |bytes| length_delimited(number, &bytes))
                .boxed(),
            kind => scalar(number, kind).boxed(),
        };
        choices.push((
            if matches!(field.kind, Kind::Message(_)) {
                4
            } else {
                2
            },
            value,
        ));
    }
    vec(proptest::strategy::Union::new_weighted(choices), 0..7)
        .prop_map(|fields| fields.concat())
        .boxed()
}

fn scalar(number: u32, kind: Kind) -> impl Strategy<Value = Vec<u8>> {
    // Small bits are likely zero after zero, large ones do not fit 32 bits.
    prop_oneof![0u64..3, any::<u64>()].prop_map(move |bits| {
        let mut out = Vec::new();
        match kind {
            Kind::Fixed32 => {
                encode_key(number, WireType::ThirtyTwoBit, &mut out);
                out.extend((bits as u32).to_le_bytes());
            }
            Kind::Fixed64 | Kind::Sfixed64 => {
                encode_key(number, WireType::SixtyFourBit, &mut out);
                out.extend(bits.to_le_bytes());
            }
            Kind::Double => {
                encode_key(number, WireType::SixtyFourBit, &mut out);
                out.extend((bits as f64).to_le_bytes());
            }
            _ => {
                encode_key(number, WireType::Varint, &mut out);
                encode_varint(bits, &mut out);
            }
        }
        out
    })
}

/// Fields of later versions, and a group.
fn unknown() -> impl Strategy<Value = Vec<u8>> {
    let group = b"\xa3\x06\xa8\x06\x07\xb3\x06\xb4\x06\xa4\x06".to_vec();
    prop_oneof![
        (17u32..600_000, any::<u64>()).prop_map(|(number, value)| {
            let mut out = Vec::new();
            encode_key(number, WireType::Varint, &mut out);
            encode_varint(value, &mut out);
            out
        }),
        (17u32..600_000).prop_map(|number| length_delimited(number, b"\xff\xff")),
        Just(group),
    ]
}

fn length_delimited(number: u32, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    encode_key(number, WireType::LengthDelimited, &mut out);
    encode_varint(bytes.len() as u64, &mut out);
    out.extend_from_slice(bytes);
    out
}
