//! A protobuf writer that tells where it put what: offsets are what patching in place needs, and no
//! message library gives them.

/// Bytes of one message under construction.
#[derive(Default)]
pub struct Message(pub Vec<u8>);

const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const LENGTH_DELIMITED: u32 = 2;
const FIXED32: u32 = 5;

impl Message {
    fn tag(&mut self, field: u32, wire_type: u32) {
        self.varint(u64::from(field << 3 | wire_type));
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    pub fn integer(&mut self, field: u32, value: u64) -> &mut Self {
        self.tag(field, VARINT);
        self.varint(value);
        self
    }

    /// Returns where the eight bytes lie.
    pub fn fixed64(&mut self, field: u32, value: u64) -> usize {
        self.tag(field, FIXED64);
        self.0.extend_from_slice(&value.to_le_bytes());
        self.0.len() - 8
    }

    pub fn fixed32(&mut self, field: u32, value: u32) -> &mut Self {
        self.tag(field, FIXED32);
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// Strings, bytes and messages. Returns where the value begins.
    pub fn bytes(&mut self, field: u32, value: &[u8]) -> usize {
        self.tag(field, LENGTH_DELIMITED);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
        self.0.len() - value.len()
    }

    pub fn text(&mut self, field: u32, value: &str) -> &mut Self {
        self.bytes(field, value.as_bytes());
        self
    }

    /// A `KeyValue` as field `field`.
    pub fn attribute(&mut self, field: u32, key: &str, value: &Value) -> &mut Self {
        let mut any = Message::default();
        match value {
            Value::Text(text) => any.text(1, text),
            Value::Bool(flag) => any.integer(2, u64::from(*flag)),
            Value::Integer(number) => any.integer(3, *number as u64),
            Value::Double(number) => {
                any.fixed64(4, number.to_bits());
                &mut any
            }
        };
        let mut pair = Message::default();
        pair.text(1, key);
        pair.bytes(2, &any.0);
        self.bytes(field, &pair.0);
        self
    }
}

/// The attribute values that the generated spans carry.
pub enum Value {
    Text(String),
    Bool(bool),
    Integer(i64),
    Double(f64),
}

/// Bytes that a length-delimited field of `length` bytes takes with a one-byte tag.
pub fn framed_len(length: usize) -> usize {
    1 + varint_len(length) + length
}

fn varint_len(value: usize) -> usize {
    (usize::BITS - (value | 1).leading_zeros()).div_ceil(7) as usize
}
