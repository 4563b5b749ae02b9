//! Requests as no encoder writes them but as protobuf allows them: fields in any order, singular ones given
//! twice, messages in pieces, unknown fields and groups at every depth, varints longer than need be.
//!
//! A generator reads its choices from a tape of random bytes and stops when the tape is over, so that a shorter
//! tape is a smaller request and proptest can shrink.

use proptest::prelude::*;

pub struct Tape<'a>(std::slice::Iter<'a, u8>);

impl Tape<'_> {
    fn byte(&mut self) -> u8 {
        self.0.next().copied().unwrap_or(0)
    }

    fn below(&mut self, limit: u8) -> u8 {
        self.byte() % limit
    }

    fn number(&mut self) -> u64 {
        let bytes = self.below(9);
        (0..bytes).fold(0, |number, _| number << 8 | self.byte() as u64)
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Varint,
    Fixed64,
    Text,
    Bytes(u8),
    Fixed32,
    TraceState,
    /// A KeyValue as encoders write it: key, then one scalar.
    PlainAttribute,
    Message(&'static [(u32, Kind)]),
}

use Kind::*;

static REQUEST: [(u32, Kind); 1] = [(1, Message(&RESOURCE_SPANS))];
static RESOURCE_SPANS: [(u32, Kind); 4] = [
    (2, Message(&SCOPE_SPANS)),
    (1, Message(&RESOURCE)),
    (3, Text),
    (2, Message(&SCOPE_SPANS)),
];
static RESOURCE: [(u32, Kind); 3] = [(1, Message(&KEY_VALUE)), (2, Varint), (3, Message(&ENTITY_REF))];
static ENTITY_REF: [(u32, Kind); 4] = [(1, Text), (2, Text), (3, Text), (4, Text)];
static SCOPE_SPANS: [(u32, Kind); 4] = [
    (2, Message(&SPAN)),
    (1, Message(&SCOPE)),
    (3, Text),
    (2, Message(&SPAN)),
];
static SCOPE: [(u32, Kind); 4] = [(3, Message(&KEY_VALUE)), (1, Text), (2, Text), (4, Varint)];
static SPAN: [(u32, Kind); 17] = [
    (9, PlainAttribute),
    (1, Bytes(16)),
    (2, Bytes(8)),
    (3, TraceState),
    (4, Bytes(8)),
    (5, Text),
    (6, Varint),
    (7, Fixed64),
    (8, Fixed64),
    (9, Message(&KEY_VALUE)),
    (10, Varint),
    (11, Message(&EVENT)),
    (12, Varint),
    (13, Message(&LINK)),
    (14, Varint),
    (15, Message(&STATUS)),
    (16, Fixed32),
];
static EVENT: [(u32, Kind); 4] = [(1, Fixed64), (2, Text), (3, Message(&KEY_VALUE)), (4, Varint)];
static LINK: [(u32, Kind); 6] = [
    (1, Bytes(16)),
    (2, Bytes(8)),
    (3, TraceState),
    (4, Message(&KEY_VALUE)),
    (5, Varint),
    (6, Fixed32),
];
static STATUS: [(u32, Kind); 2] = [(2, Text), (3, Varint)];
static KEY_VALUE: [(u32, Kind); 3] = [(2, Message(&ANY_VALUE)), (1, Text), (3, Varint)];
static ANY_VALUE: [(u32, Kind); 8] = [
    (1, Text),
    (2, Varint),
    (3, Varint),
    (4, Fixed64),
    (5, Message(&ARRAY_VALUE)),
    (6, Message(&KEY_VALUE_LIST)),
    (7, Bytes(3)),
    (8, Varint),
];
static ARRAY_VALUE: [(u32, Kind); 1] = [(1, Message(&ANY_VALUE))];
static KEY_VALUE_LIST: [(u32, Kind); 1] = [(1, Message(&KEY_VALUE))];

/// A request that every decoder of protobuf takes.
pub fn request() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..1500).prop_map(|tape| {
        let mut out = Vec::new();
        let mut tape = Tape(tape.iter());
        // A request of the common shape comes first; what follows it is as wild as the tape.
        for _ in 0..1 + tape.below(3) {
            let body = resource_spans(&mut tape);
            put_field(&mut tape, &mut out, 1, &body);
        }
        fields(&mut tape, &mut out, &REQUEST, 0);
        out
    })
}

/// A ResourceSpans that surely has scopes with spans, before, between and behind its other fields.
fn resource_spans(tape: &mut Tape) -> Vec<u8> {
    let mut out = Vec::new();
    fields(tape, &mut out, &RESOURCE_SPANS, 1);
    for _ in 0..tape.below(3) {
        let mut scope = Vec::new();
        fields(tape, &mut scope, &SCOPE_SPANS, 2);
        for _ in 0..tape.below(4) {
            let mut span = Vec::new();
            (0..tape.below(4)).for_each(|_| fields(tape, &mut span, &SPAN, 3));
            put_field(tape, &mut scope, 2, &span);
        }
        fields(tape, &mut scope, &SCOPE_SPANS, 2);
        put_field(tape, &mut out, 2, &scope);
    }
    fields(tape, &mut out, &RESOURCE_SPANS, 1);
    out
}

fn fields(tape: &mut Tape, out: &mut Vec<u8>, known: &[(u32, Kind)], depth: u32) {
    for _ in 0..tape.below(6) {
        if tape.below(12) == 11 {
            unknown_field(tape, out, 0);
            continue;
        }
        let (number, kind) = known[tape.below(known.len() as u8) as usize];
        field(tape, out, number, kind, depth);
    }
}

fn field(tape: &mut Tape, out: &mut Vec<u8>, number: u32, kind: Kind, depth: u32) {
    match kind {
        Varint => put_varint_field(tape, out, number),
        Fixed64 => {
            put_key(tape, out, number, 1);
            (0..8).for_each(|_| out.push(tape.byte()));
        }
        Fixed32 => {
            put_key(tape, out, number, 5);
            (0..4).for_each(|_| out.push(tape.byte()));
        }
        Text => {
            let word = [
                "",
                "key",
                "http.method",
                "tailkeep.reason",
                "größe",
                "a rather longer piece of text",
            ][tape.below(6) as usize];
            let text = word.repeat(1 + (tape.below(20) == 19) as usize * 20);
            put_field(tape, out, number, text.as_bytes());
        }
        TraceState => {
            let text = [
                "",
                "ot=th:c",
                "a=b,ot=rv:0123456789abcd;th:fd70a4,c=d",
                "?",
                "ot=x:y",
            ];
            let text = text[tape.below(5) as usize];
            put_field(tape, out, number, text.as_bytes());
        }
        PlainAttribute => {
            let mut value = Vec::new();
            let (kind, scalar) = [(1, Text), (2, Varint), (3, Varint), (4, Fixed64)][tape.below(4) as usize];
            field(tape, &mut value, kind, scalar, depth);
            let mut body = Vec::new();
            field(tape, &mut body, 1, Text, depth);
            put_field(tape, &mut body, 2, &value);
            put_field(tape, out, number, &body);
        }
        Bytes(length) => {
            let bytes: Vec<u8> = (0..length).map(|_| tape.byte()).collect();
            put_field(tape, out, number, &bytes);
        }
        Message(inner) => {
            let mut body = Vec::new();
            if depth < 14 {
                fields(tape, &mut body, inner, depth + 1);
            }
            put_field(tape, out, number, &body);
        }
    }
}

fn unknown_field(tape: &mut Tape, out: &mut Vec<u8>, depth: u32) {
    let number = [17, 1000, 70_000, (1 << 29) - 1][tape.below(4) as usize];
    match tape.below(5) {
        0 => put_varint_field(tape, out, number),
        1 => {
            put_key(tape, out, number, 1);
            out.extend([0xff; 8]);
        }
        2 => put_field(tape, out, number, b"\xff\x0a\x12 not a message"),
        3 => {
            put_key(tape, out, number, 3);
            if depth < 8 {
                (0..tape.below(3)).for_each(|_| unknown_field(tape, out, depth + 1));
            }
            put_key(tape, out, number, 4);
        }
        _ => {
            put_key(tape, out, number, 5);
            out.extend([0xff; 4]);
        }
    }
}

fn put_key(tape: &mut Tape, out: &mut Vec<u8>, number: u32, wire_type: u32) {
    put_varint(tape, out, (number << 3 | wire_type) as u64);
}

fn put_field(tape: &mut Tape, out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    put_key(tape, out, number, 2);
    put_varint(tape, out, bytes.len() as u64);
    out.extend(bytes);
}

fn put_varint_field(tape: &mut Tape, out: &mut Vec<u8>, number: u32) {
    put_key(tape, out, number, 0);
    let value = tape.number();
    put_varint(tape, out, value);
}

/// Now and then with more bytes than it needs.
fn put_varint(tape: &mut Tape, out: &mut Vec<u8>, mut value: u64) {
    let begin = out.len();
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    if tape.below(40) == 39 {
        let longer = tape.below(11) as usize;
        while out.len() - begin < longer {
            *out.last_mut().expect("just pushed") |= 0x80;
            out.push(0);
        }
    }
}

/// Damage at one place.
#[derive(Clone, Debug)]
pub enum Mutation {
    Set(prop::sample::Index, u8),
    Flip(prop::sample::Index, u8),
    Insert(prop::sample::Index, u8),
    Remove(prop::sample::Index),
    Truncate(prop::sample::Index),
}

pub fn mutation() -> impl Strategy<Value = Mutation> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        4 => (index(), any::<u8>()).prop_map(|(at, byte)| Mutation::Set(at, byte)),
        4 => (index(), 0..8u8).prop_map(|(at, bit)| Mutation::Flip(at, bit)),
        1 => (index(), any::<u8>()).prop_map(|(at, byte)| Mutation::Insert(at, byte)),
        1 => index().prop_map(Mutation::Remove),
        1 => index().prop_map(Mutation::Truncate),
    ]
}

impl Mutation {
    pub fn apply(&self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        let length = bytes.len();
        match self {
            Mutation::Set(at, byte) => bytes[at.index(length)] = *byte,
            Mutation::Flip(at, bit) => bytes[at.index(length)] ^= 1 << bit,
            Mutation::Insert(at, byte) => bytes.insert(at.index(length), *byte),
            Mutation::Remove(at) => drop(bytes.remove(at.index(length))),
            Mutation::Truncate(at) => bytes.truncate(at.index(length)),
        }
    }
}
