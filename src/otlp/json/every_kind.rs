//! The kinds and labels that traces do not have, through a table made for the test.

use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message as _;

use super::schema::{Message, field};
use super::{decode, encode};

/// What the table below says, in prost's words.
#[derive(Clone, PartialEq, prost::Message)]
struct Every {
    #[prost(sint32, tag = "1")]
    scale: i32,
    #[prost(sfixed64, tag = "2")]
    as_int: i64,
    #[prost(double, optional, tag = "3")]
    sum: Option<f64>,
    #[prost(fixed64, repeated, tag = "4")]
    bucket_counts: Vec<u64>,
    #[prost(double, repeated, tag = "5")]
    explicit_bounds: Vec<f64>,
    #[prost(uint64, repeated, tag = "6")]
    counts: Vec<u64>,
    #[prost(bool, tag = "7")]
    is_monotonic: bool,
    #[prost(int32, tag = "8")]
    code: i32,
    #[prost(uint64, tag = "9")]
    total: u64,
    #[prost(int64, optional, tag = "10")]
    offset: Option<i64>,
    #[prost(bytes = "vec", repeated, tag = "11")]
    ids: Vec<Vec<u8>>,
    #[prost(sint32, repeated, tag = "12")]
    offsets: Vec<i32>,
    #[prost(fixed32, repeated, tag = "13")]
    flags: Vec<u32>,
}

static EVERY: Message = Message::new(&[
    field!(1, "scale", Singular, Sint32),
    field!(2, "asInt", Singular, Sfixed64),
    field!(3, "sum", Optional, Double),
    field!(4, "bucketCounts", Repeated, Fixed64),
    field!(5, "explicitBounds", Repeated, Double),
    field!(6, "counts", Repeated, Uint64),
    field!(7, "isMonotonic", Singular, Bool),
    field!(8, "code", Singular, Int32),
    field!(9, "total", Singular, Uint64),
    field!(10, "offset", Optional, Int64),
    field!(11, "ids", Repeated, Id),
    field!(12, "offsets", Repeated, Sint32),
    field!(13, "flags", Repeated, Fixed32),
]);

fn every() -> impl Strategy<Value = Every> {
    let double = || prop_oneof![any::<f64>(), Just(0.0)].prop_filter("one NaN", |double| !double.is_nan());
    let singles = (
        any::<i32>(),
        any::<i64>(),
        proptest::option::of(double()),
        any::<bool>(),
        any::<i32>(),
        any::<u64>(),
        proptest::option::of(-1i64..2),
    );
    let lists = (
        vec(any::<u64>(), 0..30),
        vec(double(), 0..5),
        vec(any::<u64>(), 0..20),
        vec(vec(any::<u8>(), 0..9), 0..4),
        vec(any::<i32>(), 0..4),
        vec(any::<u32>(), 0..40),
    );
    (singles, lists).prop_map(|(singles, lists)| Every {
        scale: singles.0,
        as_int: singles.1,
        sum: singles.2,
        is_monotonic: singles.3,
        code: singles.4,
        total: singles.5,
        offset: singles.6,
        bucket_counts: lists.0,
        explicit_bounds: lists.1,
        counts: lists.2,
        ids: lists.3,
        offsets: lists.4,
        flags: lists.5,
    })
}

fn json(bytes: &[u8]) -> String {
    let mut text = Vec::new();
    encode(&EVERY, bytes, &mut text).expect("valid framing");
    String::from_utf8(text).expect("JSON is UTF-8")
}

fn bytes(json: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    decode(&EVERY, json.as_bytes(), &mut bytes).expect("valid JSON");
    bytes
}

proptest! {
    #[test]
    fn every_kind_survives_json(every in every()) {
        let encoded = every.encode_to_vec();
        prop_assert_eq!(bytes(&json(&encoded)), encoded);
    }
}

#[test]
fn each_kind_has_its_form() {
    assert_eq!(
        bytes(r#"{"scale":-1,"asInt":"-2","sum":0,"bucketCounts":["1",2],"isMonotonic":true,"offset":0}"#),
        Every {
            scale: -1,
            as_int: -2,
            sum: Some(0.0),
            bucket_counts: vec![1, 2],
            is_monotonic: true,
            offset: Some(0),
            ..Default::default()
        }
        .encode_to_vec()
    );
    assert_eq!(
        json(
            &Every {
                scale: -1,
                as_int: -2,
                sum: Some(0.0),
                bucket_counts: vec![1],
                offset: Some(0),
                ..Default::default()
            }
            .encode_to_vec()
        ),
        r#"{"scale":-1,"asInt":"-2","sum":0.0,"bucketCounts":["1"],"offset":"0"}"#
    );
}

#[test]
fn packed_and_single_elements_make_one_array() {
    // counts: packed 1 2, single 3, an empty pack, scale in between, packed 4.
    let encoded = b"\x32\x02\x01\x02\x30\x03\x32\x00\x08\x02\x32\x01\x04";
    assert_eq!(json(encoded), r#"{"scale":1,"counts":["1","2","3","4"]}"#);
    assert_eq!(
        Every::decode(&encoded[..]).expect("protobuf").counts,
        [1, 2, 3, 4]
    );
    encode(&EVERY, b"\x32\x01\x80", &mut Vec::new()).expect_err("half a varint");
    encode(&EVERY, b"\x22\x07\0\0\0\0\0\0\0", &mut Vec::new()).expect_err("half a fixed64");
}

#[test]
fn elements_of_a_list_have_their_path() {
    let error = decode(&EVERY, b"{\"counts\":[1,2,\"x\"]}", &mut Vec::new()).expect_err("no number");
    assert_eq!(error.path, "counts[2]");
    for list in ["[1,]", "[,1]", "[1 2]", "1", "[null]", "{}", "[[1]]", "[1"] {
        let text = format!("{{\"counts\":{list}}}");
        decode(&EVERY, text.as_bytes(), &mut Vec::new()).expect_err(list);
    }
    assert!(bytes("{\"counts\":[],\"ids\":[ ],\"sum\":null}").is_empty());
}
