//! The laws of the OTLP path, with prost as the oracle: cut takes and refuses what prost does, its views show what
//! prost decodes, and join gives back what cut took apart.

#[path = "otlp_laws/generate.rs"]
mod generate;
#[path = "otlp_laws/mirror.rs"]
mod mirror;
#[path = "otlp_laws/seen.rs"]
mod seen;

use mirror::{AnyValue, KeyValue, OneValue};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use proptest::prelude::*;
use prost::Message;
use seen::{Seen, owned, seen, seen_is_what_prost_decodes};
use tailkeep::otlp::cut::cut;
use tailkeep::otlp::join::{Annotation, AttributeValue, Joiner, ThresholdMark};
use tailkeep::otlp::tracestate::{self, Applied};
use tailkeep::otlp::view::{AnyValueView, resource_attributes};
use tailkeep::otlp::wire::{Fields, FramingError, Value};
use tailkeep::verdict::Threshold;

fn joined(body: &[u8], annotation: Annotation) -> Vec<u8> {
    let mut joiner = Joiner::new(annotation);
    cut(body, &mut joiner).expect("generated to be taken");
    let length = joiner.encoded_len();
    let mut out = Vec::new();
    joiner.finish(&mut out);
    assert_eq!(out.len(), length, "encoded_len");
    out
}

/// The fields of a message but one, as they came.
fn fields_but(message: &[u8], number: u32) -> Vec<Vec<u8>> {
    let fields = Fields::new(message).map(|field| field.expect("was cut before"));
    fields
        .filter(|field| field.number != number)
        .map(|field| field.raw.to_vec())
        .collect()
}

fn cases(times: u32) -> ProptestConfig {
    let config = ProptestConfig::default();
    ProptestConfig {
        cases: config.cases * times,
        ..config
    }
}

proptest! {
    #![proptest_config(cases(4))]

    #[test]
    fn the_mirror_decodes_as_opentelemetry_proto_does(body in generate::request()) {
        let request = ExportTraceServiceRequest::decode(&body[..]).expect("generated to be taken");
        let mirrored = mirror::Request::decode(&body[..]).expect("generated to be taken");
        let again = mirror::Request::decode(&request.encode_to_vec()[..]).expect("just encoded");
        prop_assert_eq!(again.encode_to_vec(), mirrored.encode_to_vec());
    }

    #[test]
    fn cut_sees_what_prost_decodes(body in generate::request()) {
        let seen = seen(&body).expect("generated to be taken");
        seen_is_what_prost_decodes(&seen, &body);
    }

    #[test]
    fn cut_takes_and_refuses_what_prost_does(
        body in generate::request(),
        mutations in prop::collection::vec(generate::mutation(), 1..4),
    ) {
        let mut body = body;
        mutations.iter().for_each(|mutation| mutation.apply(&mut body));
        let prost = mirror::Request::decode(&body[..]);
        let ours = seen(&body);
        prop_assert_eq!(ours.is_ok(), prost.is_ok(), "{:?} and {:?}", ours.err(), prost.err());
        if let Ok(seen) = ours {
            seen_is_what_prost_decodes(&seen, &body);
        }
    }

    #[test]
    fn join_gives_back_what_cut_took_apart(body in generate::request()) {
        let again = joined(&body, Annotation::NONE);
        prop_assert_eq!(seen(&again), seen(&body));
    }

    #[test]
    fn annotated_scopes_have_our_attributes_once_and_all_else_as_it_came(body in generate::request()) {
        let ours = [("tailkeep.reason", AttributeValue::String("quiet")), ("key", AttributeValue::Bool(true))];
        let annotation = Annotation { scope_attributes: &ours, threshold: ThresholdMark::AsCame };
        let again = mirror::Request::decode(&joined(&body, annotation)[..]).expect("a join is a request");
        let mut expect = mirror::Request::decode(&body[..]).expect("generated to be taken");
        for scope_spans in expect.resource_spans.iter_mut().flat_map(|resource| &mut resource.scope_spans) {
            let scope = scope_spans.scope.get_or_insert_default();
            scope.attributes.retain(|attribute| !ours.iter().any(|(key, _)| key.as_bytes() == attribute.key));
            scope.attributes.extend(ours.map(|(key, value)| {
                let value = match value {
                    AttributeValue::String(text) => OneValue::String(text.into()),
                    AttributeValue::Bool(truth) => OneValue::Bool(truth),
                };
                let value = Some(AnyValue { value: Some(value) });
                KeyValue { key: key.into(), value, key_strindex: 0 }
            }));
        }
        prop_assert_eq!(again.encode_to_vec(), expect.encode_to_vec());
    }

    #[test]
    fn unknown_fields_of_annotated_scopes_survive(body in generate::request()) {
        let ours = [("tailkeep.reason", AttributeValue::String("quiet"))];
        let annotation = Annotation { scope_attributes: &ours, threshold: ThresholdMark::AsCame };
        let again = joined(&body, annotation);
        let (before, after) = (seen(&body).expect("taken"), seen(&again).expect("a join is a request"));
        for (before, after) in before.resources.iter().zip(&after.resources) {
            for (before, after) in before.scopes.iter().zip(&after.scopes) {
                prop_assert_eq!(fields_but(&before.part, 1), fields_but(&after.part, 1));
                prop_assert_eq!(fields_but(&scope_of(&before.part), 3), fields_but(&scope_of(&after.part), 3));
            }
        }
    }

    #[test]
    fn a_changed_threshold_changes_nothing_but_trace_state(
        body in generate::request(),
        threshold in prop_oneof![Just(None), (0..Threshold::LIMIT).prop_map(Threshold::new)],
    ) {
        let mark = threshold.map_or(ThresholdMark::Erase, ThresholdMark::Raise);
        let annotation = Annotation { scope_attributes: &[], threshold: mark };
        let again = joined(&body, annotation);
        let (before, after) = (seen(&body).expect("taken"), seen(&again).expect("a join is a request"));
        for (before, after) in spans(&before).zip(spans(&after)) {
            let came = mirror::Span::decode(&before[..]).expect("taken").trace_state;
            let leaves = mirror::Span::decode(&after[..]).expect("a join is a request").trace_state;
            let mut expect = Vec::new();
            if tracestate::apply(&came, mark, &mut expect) == Applied::Changed {
                prop_assert_eq!(leaves, expect);
                prop_assert_eq!(fields_but(before, 3), fields_but(after, 3));
            } else {
                prop_assert_eq!(before, after);
            }
        }
        prop_assert_eq!(spans(&before).count(), spans(&after).count());
    }

    #[test]
    fn views_end_before_damage(bytes in prop::collection::vec(any::<u8>(), 0..200), plain in any::<bool>()) {
        // Bytes that nobody checked, with beginnings that lead into a value now and then.
        let bytes = if plain { bytes } else { [&[0x0a, 100, 0x0a, 98, 0x0a, 1, 0x61, 0x12, 93, 0x2a, 91], &bytes[..]].concat() };
        owned(resource_attributes(&bytes));
        Fields::new(&bytes).for_each(drop);
        let _ = tracestate::sampling(&bytes);
        let _ = tracestate::apply(&bytes, ThresholdMark::Erase, &mut Vec::new());
        let mut joiner = Joiner::new(Annotation {
            scope_attributes: &[("key", AttributeValue::Bool(true))],
            threshold: ThresholdMark::Erase,
        });
        joiner.span(&bytes);
        joiner.scope(&[&bytes]);
        joiner.span(&bytes);
        joiner.finish(&mut Vec::new());
    }
}

/// All occurrences of field 1 of a scope part, one behind the other: protobuf merges them.
fn scope_of(part: &[u8]) -> Vec<u8> {
    let bodies = Fields::checked(part).filter_map(|field| match field.value {
        Value::Bytes(body) if field.number == 1 => Some(body),
        _ => None,
    });
    bodies.collect::<Vec<_>>().concat()
}

fn spans(seen: &Seen) -> impl Iterator<Item = &Vec<u8>> {
    seen.resources
        .iter()
        .flat_map(|resource| &resource.scopes)
        .flat_map(|scope| &scope.spans)
}

/// `innermost` within length-delimited fields of `numbers`, repeated; the last number is the nearest to it.
fn nested(numbers: &[u32], times: usize, innermost: &[u8]) -> Vec<u8> {
    let mut reversed: Vec<u8> = innermost.iter().rev().copied().collect();
    for number in numbers.iter().rev().cycle().take(numbers.len() * times) {
        let mut head = Vec::new();
        tailkeep::otlp::wire::put_bytes_head(&mut head, *number, reversed.len());
        reversed.extend(head.iter().rev());
    }
    reversed.reverse();
    reversed
}

/// `inner` as an attribute of a span in a request.
fn in_attribute(inner: &[u8]) -> Vec<u8> {
    [9, 2, 2, 1].iter().fold(inner.to_vec(), |body, number| {
        let mut out = Vec::new();
        tailkeep::otlp::wire::put_bytes_field(&mut out, *number, &body);
        out
    })
}

#[test]
fn every_field_is_held_to_its_wire_type_in_every_message() {
    let messages: [&[u32]; 16] = [
        &[],
        &[1],
        &[1, 1],
        &[1, 1, 1],
        &[1, 1, 3],
        &[1, 2],
        &[1, 2, 1],
        &[1, 2, 1, 3],
        &[1, 2, 2],
        &[1, 2, 2, 9],
        &[1, 2, 2, 9, 2],
        &[1, 2, 2, 9, 2, 5],
        &[1, 2, 2, 9, 2, 6],
        &[1, 2, 2, 11],
        &[1, 2, 2, 13],
        &[1, 2, 2, 15],
    ];
    let mut taken = 0;
    for message in messages {
        for key in 0..=20u8 << 3 {
            // Payloads that suit one wire type each, the keys of one byte and of two, and the field twice.
            for payload in [
                &[][..],
                &[0],
                &[0; 4],
                &[0; 8],
                &[2, 0x80, 0x01],
                &[0x80, 0x80, 0x00],
            ] {
                let mut field = Vec::new();
                tailkeep::otlp::wire::put_varint(&mut field, key as u64);
                field.extend(payload);
                for field in [field.clone(), [&field[..], &field].concat()] {
                    let body = message
                        .iter()
                        .rev()
                        .fold(field, |body, number| nested(&[*number], 1, &body));
                    let prost = mirror::Request::decode(&body[..]);
                    assert_eq!(
                        seen(&body).is_ok(),
                        prost.is_ok(),
                        "{message:?} {key:#x} {payload:?}"
                    );
                    taken += prost.is_ok() as u32;
                }
            }
        }
    }
    assert!(taken > 1_000, "{taken}");
}

#[test]
fn a_value_in_pieces_is_one_value() {
    let value = |bytes: &[u8]| nested(&[2], 1, bytes);
    // ["a"] follows a string; then come "b" in the same value and "c" in the next one, a foreign field between.
    let array = [
        &b"\x0a\x01x"[..],
        b"\x2a\x05\x0a\x03\x0a\x01a",
        b"\x48\x01",
        b"\x2a\x05\x0a\x03\x0a\x01b",
    ]
    .concat();
    let attribute = [
        value(&array),
        b"\x20\x05".to_vec(),
        value(b"\x2a\x05\x0a\x03\x0a\x01c"),
    ]
    .concat();
    let (_, view) = tailkeep::otlp::value::key_value(&attribute);
    let AnyValueView::Array(array) = view else {
        panic!("{view:?}")
    };
    let texts: Vec<_> = array
        .values()
        .map(|value| match value {
            AnyValueView::String(text) => text,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(texts, [b"a", b"b", b"c"]);
}

#[test]
fn values_nest_as_deep_as_prost_allows_and_no_deeper() {
    let mut taken = 0;
    for times in 25..40 {
        for tail in [
            &[][..],
            b"\x1a\x00",
            b"\x18\x01",
            b"\x12\x00",
            b"\x12\x02\x4a\x00",
            b"\x53\x54",
        ] {
            // value(2) → kvlist(6) → values(1), and so on.
            let body = in_attribute(&nested(&[2, 6, 1], times, tail));
            let prost = mirror::Request::decode(&body[..]);
            assert_eq!(seen(&body).is_ok(), prost.is_ok(), "{times} {tail:x?}");
            taken += prost.is_ok() as u32;
        }
    }
    assert!(
        (1..89).contains(&taken),
        "the limit lies outside the depths tried"
    );
}

#[test]
fn unknown_groups_nest_as_deep_as_prost_allows_and_no_deeper() {
    let group = |depth: usize| [[0x9b, 0x01].repeat(depth), [0x9c, 0x01].repeat(depth)].concat();
    let mut taken = 0;
    for depth in 90..105 {
        let anywhere = [
            group(depth),
            in_attribute(&group(depth)),
            in_attribute(&nested(&[2, 6, 1], 20, &group(depth - 60))),
        ];
        for body in anywhere {
            let prost = mirror::Request::decode(&body[..]);
            assert_eq!(seen(&body).is_ok(), prost.is_ok(), "{depth}");
            taken += prost.is_ok() as u32;
        }
    }
    assert!(
        (1..45).contains(&taken),
        "the limit lies outside the depths tried"
    );
}

#[test]
fn bottomless_nesting_is_refused_on_a_small_stack() {
    let check = || {
        let values = in_attribute(&nested(&[2, 6, 1], 1_000_000, &[]));
        assert!(matches!(seen(&values), Err(FramingError::Depth { .. })));
        let groups = [0x9b, 0x01].repeat(1_000_000);
        assert!(matches!(seen(&groups), Err(FramingError::Depth { .. })));
        assert!(matches!(
            seen(&in_attribute(&groups)),
            Err(FramingError::Depth { .. })
        ));
        assert!(Fields::new(&groups).any(|field| matches!(field, Err(FramingError::Depth { .. }))));
    };
    let small = std::thread::Builder::new().stack_size(256 << 10);
    small
        .spawn(check)
        .expect("a thread starts")
        .join()
        .expect("the stack suffices");
}

#[test]
fn each_kind_of_damage_has_its_error() {
    let refused = |body: &[u8]| seen(body).expect_err("damaged");
    assert_eq!(refused(b"\x0a\x05\x12"), FramingError::Truncated { offset: 1 });
    assert_eq!(refused(b"\x0a\x80"), FramingError::Truncated { offset: 1 });
    assert_eq!(
        refused(b"\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02"),
        FramingError::Varint { offset: 1 }
    );
    assert_eq!(refused(b"\x0a\x02\x02\x00"), FramingError::Key { offset: 2 });
    assert_eq!(refused(b"\x0a\x02\x26\x00"), FramingError::Key { offset: 2 });
    assert_eq!(refused(b"\x0a\x02\x18\x00"), FramingError::WireType { offset: 2 });
    assert_eq!(
        refused(b"\x0a\x03\x23\x2c\x24"),
        FramingError::Group { offset: 3 }
    );
    assert_eq!(refused(b"\x0c"), FramingError::WireType { offset: 0 });
    assert_eq!(refused(b"\x14"), FramingError::Group { offset: 0 });
    assert_eq!(
        refused(b"\x80\x80\x80\x80\x80\x01"),
        FramingError::Key { offset: 0 }
    );
}

#[test]
fn text_that_is_not_utf_8_is_carried() {
    let span = b"\x2a\x02\xff\xfe\x4a\x06\x0a\x00\x12\x02\x0a\x00";
    let mut body = Vec::new();
    tailkeep::otlp::wire::put_bytes_field(&mut body, 2, span);
    let body = [&[0x0a, body.len() as u8 + 2, 0x12, body.len() as u8], &body[..]].concat();
    assert!(ExportTraceServiceRequest::decode(&body[..]).is_err());
    assert_eq!(joined(&body, Annotation::NONE), body);
}

#[test]
fn a_group_is_given_without_its_keys() {
    // The end key of group 19 has two bytes, the payload before it ends in bytes above 0x7f.
    let fields: Vec<_> = Fields::new(b"\x9b\x01\x15\xff\xff\xff\xff\x9c\x01\x08\x07").collect();
    let [Ok(group), Ok(number)] = fields[..] else {
        panic!("{fields:?}")
    };
    assert_eq!(
        (group.number, group.value),
        (19, Value::Group(b"\x15\xff\xff\xff\xff"))
    );
    assert_eq!(
        (number.number, number.value, number.raw),
        (1, Value::Varint(7), &b"\x08\x07"[..])
    );
}

#[test]
fn thresholds_that_cannot_be_written_are_counted() {
    let span = |trace_state: &str| mirror::Span {
        trace_state: trace_state.into(),
        ..Default::default()
    };
    let long = format!("ot=x:{}", "y".repeat(254));
    let bodies = ["", "?", long.as_str(), "ot=th:ff"].map(|text| span(text).encode_to_vec());
    let raise = ThresholdMark::Raise(Threshold::new(1 << 55).expect("below 2^56"));
    let mut joiner = Joiner::new(Annotation {
        scope_attributes: &[],
        threshold: raise,
    });
    bodies.iter().for_each(|body| joiner.span(body));
    let mut out = Vec::new();
    let not_written = joiner.finish(&mut out);
    assert_eq!((not_written.unparsable_count, not_written.too_long_count), (1, 1));
    let spans = &mirror::Request::decode(&out[..])
        .expect("a join is a request")
        .resource_spans[0]
        .scope_spans[0]
        .spans;
    let trace_states: Vec<_> = spans
        .iter()
        .map(|span| String::from_utf8_lossy(&span.trace_state))
        .collect();
    assert_eq!(trace_states, ["ot=th:8", "?", &long, "ot=th:ff"]);
}

#[test]
fn requests_of_real_clients_are_cut_and_joined() {
    let beside_us = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/data");
    let folder = std::env::var("TAILKEEP_TEST_DATA").unwrap_or(beside_us.into());
    let Ok(file) = std::fs::read(format!("{folder}/tempo_v2_block_621traces.otlp.lp32le")) else {
        println!("skipped: no test data in {folder}");
        return;
    };
    let (mut rest, mut bodies, mut spans_seen) = (&file[..], 0, 0);
    while let Some((length, after)) = rest.split_first_chunk() {
        let (body, after) = after.split_at(u32::from_le_bytes(*length) as usize);
        let seen = seen(body).expect("a real request");
        seen_is_what_prost_decodes(&seen, body);
        assert_eq!(joined(body, Annotation::NONE), body);
        (rest, bodies, spans_seen) = (after, bodies + 1, spans_seen + spans(&seen).count());
    }
    assert_eq!((bodies, spans_seen), (2_409, 2_586));
}
