//! Stand-in for `otlp/view`: enough of it to fold a span. It is dropped at integration.

#[derive(Clone, Copy, Debug, Default)]
pub struct SpanView<'a> {
    pub bytes: &'a [u8],
    pub trace_id: &'a [u8],
    pub span_id: &'a [u8],
    pub parent_span_id: &'a [u8],
    pub trace_state: &'a [u8],
    pub start_ns: u64,
    pub end_ns: u64,
    pub status_code: i32,
    pub flags: u32,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum AnyValueView<'a> {
    Empty,
    String(&'a [u8]),
    Bool(bool),
    Int(i64),
    Double(f64),
    Bytes(&'a [u8]),
    Array(&'a [u8]),
    KeyValueList(&'a [u8]),
}

enum Field<'a> {
    Varint(u64),
    Fixed(u64),
    Bytes(&'a [u8]),
}

struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = (u64, Field<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let tag = self.varint()?;
        let field = match tag & 7 {
            0 => Field::Varint(self.varint()?),
            1 => Field::Fixed(u64::from_le_bytes(self.take(8)?.try_into().ok()?)),
            2 => {
                let length = self.varint()? as usize;
                Field::Bytes(self.take(length)?)
            }
            5 => Field::Fixed(u32::from_le_bytes(self.take(4)?.try_into().ok()?).into()),
            _ => return None,
        };
        Some((tag >> 3, field))
    }
}

impl<'a> SpanView<'a> {
    pub fn parse(bytes: &'a [u8]) -> Result<SpanView<'a>, std::convert::Infallible> {
        let mut view = SpanView {
            bytes,
            ..SpanView::default()
        };
        for (number, field) in Fields(bytes) {
            match (number, field) {
                (1, Field::Bytes(id)) => view.trace_id = id,
                (2, Field::Bytes(id)) => view.span_id = id,
                (3, Field::Bytes(state)) => view.trace_state = state,
                (4, Field::Bytes(id)) => view.parent_span_id = id,
                (7, Field::Fixed(ns)) => view.start_ns = ns,
                (8, Field::Fixed(ns)) => view.end_ns = ns,
                (15, Field::Bytes(status)) => {
                    for (number, field) in Fields(status) {
                        if let (3, Field::Varint(code)) = (number, field) {
                            view.status_code = code as i32;
                        }
                    }
                }
                (16, Field::Fixed(flags)) => view.flags = flags as u32,
                _ => {}
            }
        }
        Ok(view)
    }

    pub fn attributes(&self) -> impl Iterator<Item = (&'a [u8], AnyValueView<'a>)> {
        attributes(self.bytes, 9)
    }
}

/// The attributes of a resource part: `resource` fields of a ResourceSpans.
pub fn resource_attributes(part: &[u8]) -> impl Iterator<Item = (&[u8], AnyValueView<'_>)> {
    let resources = Fields(part).filter_map(|(number, field)| match field {
        Field::Bytes(resource) if number == 1 => Some(resource),
        _ => None,
    });
    resources.flat_map(|resource| attributes(resource, 1))
}

/// The key-values under field `number` of a message.
fn attributes(message: &[u8], number: u64) -> impl Iterator<Item = (&[u8], AnyValueView<'_>)> {
    Fields(message).filter_map(move |(found, field)| match field {
        Field::Bytes(pair) if found == number => Some(key_value(pair)),
        _ => None,
    })
}

fn key_value(pair: &[u8]) -> (&[u8], AnyValueView<'_>) {
    let (mut key, mut value): (&[u8], _) = (&[], AnyValueView::Empty);
    for (number, field) in Fields(pair) {
        match (number, field) {
            (1, Field::Bytes(bytes)) => key = bytes,
            (2, Field::Bytes(bytes)) => value = any_value(bytes),
            _ => {}
        }
    }
    (key, value)
}

fn any_value(bytes: &[u8]) -> AnyValueView<'_> {
    let mut value = AnyValueView::Empty;
    for (number, field) in Fields(bytes) {
        value = match (number, field) {
            (1, Field::Bytes(text)) => AnyValueView::String(text),
            (2, Field::Varint(bit)) => AnyValueView::Bool(bit != 0),
            (3, Field::Varint(int)) => AnyValueView::Int(int as i64),
            (4, Field::Fixed(bits)) => AnyValueView::Double(f64::from_bits(bits)),
            (5, Field::Bytes(array)) => AnyValueView::Array(array),
            (6, Field::Bytes(list)) => AnyValueView::KeyValueList(list),
            (7, Field::Bytes(bytes)) => AnyValueView::Bytes(bytes),
            _ => value,
        };
    }
    value
}
