//! What the transcoder knows of OTLP: one static table per message, one line per field.
//!
//! A table is data for both directions. Fields stand in the order of their numbers, which is also the
//! order in which they are written; [`Message::new`] checks that at compile time.

use crate::otlp::wire::WireType;

pub mod common;
pub mod replies;
pub mod traces;

/// Fields of one message at most: Span has them all.
pub const FIELD_COUNT_MAX: usize = 16;
/// Field numbers stay below this: OTLP's highest is 16 (`Span.flags`).
const NUMBER_LIMIT: usize = 32;

/// A protobuf message and its JSON mapping.
///
/// Invariant: `fields` is ordered by number, and `position` is its inverse.
pub struct Message {
    pub fields: &'static [Field],
    /// By field number: 1 + the index in `fields`, or 0.
    position: [u8; NUMBER_LIMIT],
}

/// One field of a message.
pub struct Field {
    pub number: u8,
    /// The only key that JSON may use.
    pub name: &'static str,
    /// `,"name":`, as it is written.
    pub key: &'static str,
    pub label: Label,
    pub kind: Kind,
    /// A bit for each wire type that it may have: a list of scalars comes packed or not.
    pub wire_types: u8,
}

/// How often a field may occur, and whether its default value counts as present.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Label {
    /// A scalar's default is the same as its absence.
    Singular,
    /// A default is written like any other value.
    Optional,
    /// As `Optional`, and each member replaces the others. No OTLP message has two oneofs.
    Oneof,
    Repeated,
}

/// The type of a field. OTLP has no sint64, sfixed32 or float.
#[derive(Clone, Copy)]
pub enum Kind {
    String,
    /// Base64 in JSON.
    Bytes,
    /// The bytes of a trace or span id: hexadecimal in JSON.
    Id,
    Bool,
    Enum,
    Int32,
    Int64,
    Uint32,
    Uint64,
    Sint32,
    Fixed32,
    Fixed64,
    Sfixed64,
    Double,
    Message(&'static Message),
}

impl Message {
    /// Fails to compile when the fields are out of order or too many.
    pub const fn new(fields: &'static [Field]) -> Message {
        assert!(
            fields.len() <= FIELD_COUNT_MAX,
            "more fields than FIELD_COUNT_MAX"
        );
        let mut position = [0; NUMBER_LIMIT];
        let mut index = 0;
        while index < fields.len() {
            let number = fields[index].number;
            assert!(
                number > 0 && (number as usize) < NUMBER_LIMIT,
                "field number out of range"
            );
            assert!(
                index == 0 || fields[index - 1].number < number,
                "fields out of order"
            );
            position[number as usize] = index as u8 + 1;
            index += 1;
        }
        Message { fields, position }
    }

    /// The index in `fields` of a field number, if it is known.
    #[inline]
    pub fn index_of_number(&self, number: u32) -> Option<usize> {
        let position = *self.position.get(number as usize)?;
        (position as usize).checked_sub(1)
    }

    /// The index in `fields` of a JSON key, if it is known. `expected` is where to look first: senders
    /// write fields in a constant order.
    #[inline]
    pub fn index_of_name(&self, name: &[u8], expected: usize) -> Option<usize> {
        let is_named = |index: &usize| self.fields[*index].name.as_bytes() == name;
        (expected..self.fields.len())
            .find(is_named)
            .or_else(|| (0..expected).find(is_named))
    }
}

impl Kind {
    #[inline]
    pub const fn wire_type(self) -> WireType {
        match self {
            Kind::String | Kind::Bytes | Kind::Id | Kind::Message(_) => WireType::Bytes,
            Kind::Bool | Kind::Enum | Kind::Int32 | Kind::Int64 => WireType::Varint,
            Kind::Uint32 | Kind::Uint64 | Kind::Sint32 => WireType::Varint,
            Kind::Fixed32 => WireType::Fixed32,
            Kind::Fixed64 | Kind::Sfixed64 | Kind::Double => WireType::Fixed64,
        }
    }
}

impl Field {
    pub const fn new(number: u8, name: &'static str, key: &'static str, label: Label, kind: Kind) -> Field {
        let packed = match label {
            Label::Repeated => 1 << WireType::Bytes as u8,
            Label::Singular | Label::Optional | Label::Oneof => 0,
        };
        Field {
            number,
            name,
            key,
            label,
            kind,
            wire_types: packed | 1 << kind.wire_type() as u8,
        }
    }
}

/// `field!(1, "traceId", Singular, Id)`
macro_rules! field {
    ($number:literal, $name:literal, $label:ident, $kind:expr) => {
        $crate::otlp::json::schema::Field::new(
            $number,
            $name,
            concat!(",\"", $name, "\":"),
            $crate::otlp::json::schema::Label::$label,
            {
                #[allow(unused_imports, reason = "most tables need some of the kinds, none needs all")]
                use $crate::otlp::json::schema::Kind::*;
                $kind
            },
        )
    };
}
pub(in crate::otlp) use field;
