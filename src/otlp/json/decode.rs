//! JSON → protobuf: a stack of open messages, one step per member or element.
//!
//! The stack is our own and not the thread's: it bounds the depth, it says where an error lies, and the
//! walk can stop between any two steps, because no turn of a core may wait for a whole body.
//!
//! A default value is left out as protobuf libraries do, unless an earlier duplicate of its key must be
//! overruled. Duplicates of a scalar's key: the last wins; of a message's or a list's: they merge, as two
//! occurrences in protobuf would.

use std::fmt::Write as _;

use super::DEPTH_MAX;
use super::number;
use super::reader::{Fault, Read, Reader};
use super::schema::{Field, Kind, Label, Message};
use super::text::{decode_base64, decode_hex};
use super::writer::{Open, Writer};

/// The body is not the message it should be: the sender's fault. The output is as it was before.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: expected {expected}, found {found} (line {line}, column {column})")]
pub struct JsonError {
    /// As `resourceSpans[0].scopeSpans[1].spans[3].traceId`; `body` outside of any known field.
    pub path: String,
    pub expected: &'static str,
    pub found: &'static str,
    /// From 1.
    pub line: usize,
    /// From 1, in bytes.
    pub column: usize,
}

/// Appends the protobuf bytes of `message` that the body `json` stands for.
///
/// `{}` is an empty message; an empty body is an error.
pub fn decode(message: &'static Message, json: &[u8], out: &mut Vec<u8>) -> Result<(), JsonError> {
    let mut unfinished = Some(Decoder::new(message, json, out));
    while let Some(decoder) = unfinished {
        unfinished = decoder.advance(usize::MAX)?;
    }
    Ok(())
}

/// A body on its way, for callers that must yield: [`Decoder::advance`] until it gives nothing back. The
/// output is whole only then.
pub struct Decoder<'a> {
    json: &'a [u8],
    reader: Reader<'a>,
    writer: Writer<'a>,
    stack: Vec<Frame>,
    /// An id or a bytes value, decoded.
    bytes: Vec<u8>,
}

/// A message that has begun and not ended.
struct Frame {
    message: &'static Message,
    /// `None` for the outermost message, which has no length.
    open: Option<Open>,
    has_members: bool,
    /// The field being read, or read last.
    field: usize,
    /// Whether `field` is being read, and not a key or an unknown value.
    is_in_field: bool,
    list: Option<List>,
    /// One bit for each field that has been written.
    written: u32,
}

/// The list that is being read.
struct List {
    elements: usize,
    /// Of a packed list, from its first element on.
    open: Option<Open>,
}

impl<'a> Decoder<'a> {
    pub fn new(message: &'static Message, json: &'a [u8], out: &'a mut Vec<u8>) -> Decoder<'a> {
        Decoder {
            json,
            reader: Reader::new(json),
            writer: Writer::new(out),
            stack: vec![Frame::new(message, None)],
            bytes: Vec::new(),
        }
    }

    /// Reads about `bytes` bytes more (at least one token; a string or a skipped value is never cut), and gives the rest of the
    /// work back; `None` when there is none.
    pub fn advance(mut self, bytes: usize) -> Result<Option<Decoder<'a>>, JsonError> {
        match self.advance_or_fault(bytes) {
            Ok(true) => {
                self.writer.settle();
                Ok(None)
            }
            Ok(false) => Ok(Some(self)),
            Err(fault) => {
                let error = self.locate(&fault);
                self.writer.take_back();
                Err(error)
            }
        }
    }

    fn advance_or_fault(&mut self, bytes: usize) -> Read<bool> {
        let end = self.reader.at().saturating_add(bytes);
        if self.reader.at() == 0 {
            self.reader.punctuation(b'{', "an object")?;
        }
        loop {
            self.step()?;
            if self.stack.is_empty() {
                break;
            }
            if self.reader.at() >= end {
                return Ok(false);
            }
        }
        self.reader.end()?;
        Ok(true)
    }

    /// Reads one member or one element of the innermost message.
    fn step(&mut self) -> Read<()> {
        let Decoder {
            reader,
            writer,
            stack,
            bytes,
            ..
        } = self;
        let frame = stack.last_mut().expect("the loop ends with the stack");
        if let Some(list) = &mut frame.list {
            if !reader.has_item(list.elements == 0, b']')? {
                if let Some(open) = list.open {
                    writer.close(open);
                }
                frame.list = None;
                return Ok(());
            }
            list.elements += 1;
        } else {
            frame.is_in_field = false;
            if !reader.has_item(!frame.has_members, b'}')? {
                if let Some(open) = frame.open {
                    writer.close(open);
                }
                stack.pop();
                return Ok(());
            }
            frame.has_members = true;
            let name = reader.string("a key")?;
            let known = frame.message.index_of_name(name, frame.field);
            reader.punctuation(b':', "':'")?;
            let Some(index) = known else {
                return reader.skip_value();
            };
            frame.field = index;
            frame.is_in_field = true;
            if reader.null()? {
                return Ok(());
            }
            if frame.message.fields[index].label == Label::Repeated {
                reader.punctuation(b'[', "an array")?;
                frame.list = Some(List {
                    elements: 0,
                    open: None,
                });
                return Ok(());
            }
        }
        let field = &frame.message.fields[frame.field];
        if let Kind::Message(message) = field.kind {
            reader.punctuation(b'{', "an object")?;
            let open = writer.open(field.number);
            if stack.len() > DEPTH_MAX {
                return Err(reader.fault("at most 100 messages inside each other", "more"));
            }
            stack.push(Frame::new(message, Some(open)));
            return Ok(());
        }
        frame.value(field, reader, writer, bytes)
    }

    /// Says where in the message and in the text a fault lies.
    #[cold]
    fn locate(&self, fault: &Fault) -> JsonError {
        let mut path = String::new();
        for frame in self.stack.iter().filter(|frame| frame.is_in_field) {
            let separator = if path.is_empty() { "" } else { "." };
            path = path + separator + frame.message.fields[frame.field].name;
            if let Some(index) = frame.list.as_ref().and_then(|list| list.elements.checked_sub(1)) {
                write!(path, "[{index}]").expect("a String takes all text");
            }
        }
        if path.is_empty() {
            path.push_str("body");
        }
        let before = &self.json[..fault.at];
        let line_begin = before
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |at| at + 1);
        let line = 1 + before[..line_begin].iter().filter(|byte| **byte == b'\n').count();
        let column = 1 + fault.at - line_begin;
        JsonError {
            path,
            expected: fault.expected,
            found: fault.found,
            line,
            column,
        }
    }
}

impl Frame {
    fn new(message: &'static Message, open: Option<Open>) -> Frame {
        Frame {
            message,
            open,
            has_members: false,
            field: 0,
            is_in_field: false,
            list: None,
            written: 0,
        }
    }

    /// Reads and writes a value that is no message.
    fn value(
        &mut self,
        field: &Field,
        reader: &mut Reader,
        writer: &mut Writer,
        bytes: &mut Vec<u8>,
    ) -> Read<()> {
        let bit = 1 << self.field;
        let may_omit = field.label == Label::Singular && self.written & bit == 0;
        if let Kind::String | Kind::Bytes | Kind::Id = field.kind {
            let text = text(field.kind, reader, bytes)?;
            if !(may_omit && text.is_empty()) {
                writer.bytes(field.number, text);
                self.written |= bit;
            }
            return Ok(());
        }
        let wire_type = field.kind.wire_type();
        let raw = scalar(field.kind, reader)?;
        if let Some(list) = &mut self.list {
            list.open.get_or_insert_with(|| writer.open(field.number));
            writer.element(wire_type, raw);
        } else if !(may_omit && raw == 0) {
            writer.scalar(field.number, wire_type, raw);
            self.written |= bit;
        }
        Ok(())
    }
}

/// The bytes of a string, an id or a bytes value.
fn text<'r>(kind: Kind, reader: &'r mut Reader, bytes: &'r mut Vec<u8>) -> Read<&'r [u8]> {
    reader.peek();
    let at = reader.at();
    let (decoded, expected) = match kind {
        Kind::Id => {
            let expected = "a string of pairs of hexadecimal digits";
            (decode_hex(reader.string(expected)?, bytes), expected)
        }
        Kind::Bytes => {
            let expected = "a string in base64";
            (decode_base64(reader.string(expected)?, bytes), expected)
        }
        _ => return reader.string("a string"),
    };
    decoded.ok_or_else(|| {
        Box::new(Fault {
            at,
            expected,
            found: "other text",
        })
    })?;
    Ok(bytes)
}

/// The bits of a scalar as its wire type holds them.
fn scalar(kind: Kind, reader: &mut Reader) -> Read<u64> {
    match kind {
        Kind::Bool => reader.boolean().map(u64::from),
        Kind::Enum => {
            reader.peek();
            let at = reader.at();
            let expected = "an enum's number (names are not valid in OTLP)";
            let value = number::integer(reader.number(expected)?).and_then(|value| i32::try_from(value).ok());
            let value = value.ok_or_else(|| {
                Box::new(Fault {
                    at,
                    expected,
                    found: "another number",
                })
            })?;
            Ok(i64::from(value) as u64)
        }
        Kind::Double => double(reader),
        Kind::Int32 => {
            integer::<i32>(reader, "a whole number of 32 bits").map(|value| i64::from(value) as u64)
        }
        Kind::Sint32 => integer::<i32>(reader, "a whole number of 32 bits")
            .map(|value| u64::from((value << 1 ^ value >> 31) as u32)),
        Kind::Uint32 | Kind::Fixed32 => {
            integer::<u32>(reader, "a whole number of 32 bits, not negative").map(u64::from)
        }
        Kind::Int64 | Kind::Sfixed64 => {
            integer::<i64>(reader, "a whole number of 64 bits").map(|value| value as u64)
        }
        Kind::Uint64 | Kind::Fixed64 => integer::<u64>(reader, "a whole number of 64 bits, not negative"),
        Kind::String | Kind::Bytes | Kind::Id | Kind::Message(_) => unreachable!("no scalar"),
    }
}

/// A number, or a string of one.
fn integer<T: TryFrom<i128>>(reader: &mut Reader, expected: &'static str) -> Read<T> {
    let is_string = reader.peek() == Some(b'"');
    let at = reader.at();
    let digits = if is_string {
        reader.string(expected)?
    } else {
        reader.number(expected)?
    };
    let value = number::integer(digits).and_then(|value| T::try_from(value).ok());
    value.ok_or_else(|| other_number(at, expected, is_string))
}

fn double(reader: &mut Reader) -> Read<u64> {
    let expected = "a finite number, or \"NaN\", \"Infinity\" or \"-Infinity\"";
    let is_string = reader.peek() == Some(b'"');
    let at = reader.at();
    let text = if is_string {
        reader.string(expected)?
    } else {
        reader.number(expected)?
    };
    let value = match text {
        b"NaN" => Some(f64::NAN),
        b"Infinity" => Some(f64::INFINITY),
        b"-Infinity" => Some(f64::NEG_INFINITY),
        _ if number::token_length(text) == Some(text.len()) => {
            let parsed = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
            parsed.filter(|value: &f64| value.is_finite())
        }
        _ => None,
    };
    value
        .map(f64::to_bits)
        .ok_or_else(|| other_number(at, expected, is_string))
}

#[cold]
fn other_number(at: usize, expected: &'static str, is_string: bool) -> Box<Fault> {
    Box::new(Fault {
        at,
        expected,
        found: if is_string { "other text" } else { "another number" },
    })
}
