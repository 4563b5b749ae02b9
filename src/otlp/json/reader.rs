//! JSON tokens (RFC 8259), read in place.
//!
//! Every method leaves the reader behind what it read, or gives a [`Fault`] at the place of the trouble.

use super::number;
use super::text::plain_length;

/// What was wrong at a place of the text.
#[derive(Debug)]
pub struct Fault {
    pub at: usize,
    pub expected: &'static str,
    pub found: &'static str,
}

/// Boxed: faults are rare, results are many.
pub type Read<T> = Result<T, Box<Fault>>;

/// Containers inside a skipped value at most: one bit each, and far beyond what people nest.
const SKIP_DEPTH_MAX: u32 = 128;

pub struct Reader<'a> {
    json: &'a [u8],
    at: usize,
    /// Strings with escapes are put together here.
    unescaped: Vec<u8>,
}

impl<'a> Reader<'a> {
    pub fn new(json: &'a [u8]) -> Reader<'a> {
        Reader {
            json,
            at: 0,
            unescaped: Vec::new(),
        }
    }

    /// Bytes read so far.
    #[inline]
    pub fn at(&self) -> usize {
        self.at
    }

    /// The next byte that is not white space.
    #[inline]
    pub fn peek(&mut self) -> Option<u8> {
        loop {
            let byte = *self.json.get(self.at)?;
            if !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                return Some(byte);
            }
            self.at += 1;
        }
    }

    /// Reads `byte` after white space.
    #[inline]
    pub fn punctuation(&mut self, byte: u8, expected: &'static str) -> Read<()> {
        if self.peek() != Some(byte) {
            return Err(self.fault_here(expected));
        }
        self.at += 1;
        Ok(())
    }

    /// Whether a container has another item: reads the comma between two items, and `close`
    /// after the last. (After a comma `close` is not looked for: no item begins with it.)
    #[inline]
    pub fn has_item(&mut self, is_first: bool, close: u8) -> Read<bool> {
        match self.peek() {
            Some(byte) if byte == close => {
                self.at += 1;
                Ok(false)
            }
            Some(b',') if !is_first => {
                self.at += 1;
                Ok(true)
            }
            Some(_) if is_first => Ok(true),
            _ if close == b']' => Err(self.fault_here("',' or ']'")),
            _ => Err(self.fault_here("',' or '}'")),
        }
    }

    /// Reads `null` if it is there.
    #[inline]
    pub fn null(&mut self) -> Read<bool> {
        if self.peek() != Some(b'n') {
            return Ok(false);
        }
        self.literal(b"null")?;
        Ok(true)
    }

    pub fn boolean(&mut self) -> Read<bool> {
        match self.peek() {
            Some(b't') => self.literal(b"true").map(|()| true),
            Some(b'f') => self.literal(b"false").map(|()| false),
            _ => Err(self.fault_here("true or false")),
        }
    }

    /// A number as it is written.
    #[inline]
    pub fn number(&mut self, expected: &'static str) -> Read<&'a [u8]> {
        self.peek();
        let rest = &self.json[self.at..];
        let Some(length) = number::token_length(rest) else {
            return Err(self.fault_here(expected));
        };
        self.at += length;
        Ok(&rest[..length])
    }

    /// A string's text, in UTF-8.
    #[inline]
    pub fn string(&mut self, expected: &'static str) -> Read<&[u8]> {
        self.punctuation(b'"', expected)?;
        let rest = &self.json[self.at..];
        let length = plain_length::<false>(rest);
        if rest.get(length) != Some(&b'"') {
            return self.string_with_escapes();
        }
        check_utf8(&rest[..length], self.at)?;
        self.at += length + 1;
        Ok(&rest[..length])
    }

    #[cold]
    fn string_with_escapes(&mut self) -> Read<&[u8]> {
        self.unescaped.clear();
        loop {
            let rest = &self.json[self.at..];
            let plain = &rest[..plain_length::<false>(rest)];
            check_utf8(plain, self.at)?;
            self.unescaped.extend_from_slice(plain);
            self.at += plain.len();
            match self.json.get(self.at) {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(&self.unescaped);
                }
                Some(b'\\') => self.escape()?,
                Some(_) => return Err(self.fault("an escaped control character", "a raw one")),
                None => return Err(self.fault_here("the end of the string")),
            }
        }
    }

    fn escape(&mut self) -> Read<()> {
        let plain = match self.json.get(self.at + 1) {
            Some(byte @ (b'"' | b'\\' | b'/')) => *byte,
            Some(b'b') => 0x08,
            Some(b'f') => 0x0c,
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'u') => return self.unicode_escape(),
            _ => return Err(self.fault("an escape sequence", "an unknown one")),
        };
        self.at += 2;
        self.unescaped.push(plain);
        Ok(())
    }

    /// `\u` and four digits, or two that make a surrogate pair. Half a pair becomes U+FFFD: `otlp/json`.
    fn unicode_escape(&mut self) -> Read<()> {
        let Some(unit) = self.code_unit(self.at) else {
            return Err(self.fault("four hexadecimal digits after \\u", "other text"));
        };
        self.at += 6;
        let pair = match (unit, self.code_unit(self.at)) {
            (0xd800..0xdc00, Some(low @ 0xdc00..0xe000)) => {
                self.at += 6;
                0x1_0000 + ((unit - 0xd800) << 10) + (low - 0xdc00)
            }
            _ => unit,
        };
        let character = char::from_u32(pair).unwrap_or(char::REPLACEMENT_CHARACTER);
        self.unescaped
            .extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
        Ok(())
    }

    /// The UTF-16 code unit of the `\u` and four digits at `at`.
    fn code_unit(&self, at: usize) -> Option<u32> {
        let digits = self.json.get(at..at + 6)?.strip_prefix(b"\\u")?;
        digits
            .iter()
            .try_fold(0, |unit, digit| Some(unit << 4 | (*digit as char).to_digit(16)?))
    }

    /// Reads a value of any shape and forgets it. Bounded in depth, and no recursion.
    pub fn skip_value(&mut self) -> Read<()> {
        let mut is_array = 0u128;
        let mut depth = 0;
        loop {
            let mut is_first = false;
            match self.peek() {
                Some(byte @ (b'{' | b'[')) => {
                    if depth == SKIP_DEPTH_MAX {
                        return Err(self.fault("at most 128 levels in an unknown field", "more"));
                    }
                    self.at += 1;
                    depth += 1;
                    is_array = is_array << 1 | u128::from(byte == b'[');
                    is_first = true;
                }
                Some(b'"') => drop(self.string("a string")?),
                Some(b't' | b'f') => drop(self.boolean()?),
                Some(b'n') => self.literal(b"null")?,
                _ => drop(self.number("a value")?),
            }
            // A value has ended, or a container has begun: go up until one has another item.
            while depth > 0 && !self.has_item(is_first, if is_array & 1 == 1 { b']' } else { b'}' })? {
                depth -= 1;
                is_array >>= 1;
                is_first = false;
            }
            if depth == 0 {
                return Ok(());
            }
            if is_array & 1 == 0 {
                self.string("a key")?;
                self.punctuation(b':', "':'")?;
            }
        }
    }

    /// That nothing but white space is left.
    pub fn end(&mut self) -> Read<()> {
        if self.peek().is_some() {
            Err(self.fault_here("the end of the body"))
        } else {
            Ok(())
        }
    }

    fn literal(&mut self, word: &'static [u8]) -> Read<()> {
        if !self.json[self.at..].starts_with(word) {
            return Err(self.fault("a value", "an unknown word"));
        }
        self.at += word.len();
        Ok(())
    }

    /// A fault at the next token, named by its first byte.
    #[cold]
    pub fn fault_here(&mut self, expected: &'static str) -> Box<Fault> {
        let found = match self.peek() {
            None => "the end of the body",
            Some(b'{') => "an object",
            Some(b'[') => "an array",
            Some(b'"') => "a string",
            Some(b'-' | b'0'..=b'9') => "a number",
            Some(b't' | b'f') => "a boolean",
            Some(b'n') => "null",
            Some(b'}' | b']' | b',' | b':') => "punctuation",
            Some(0xef) if self.json.starts_with(b"\xef\xbb\xbf") && self.at == 0 => "a byte order mark",
            Some(_) => "an unknown character",
        };
        self.fault(expected, found)
    }

    #[cold]
    pub fn fault(&self, expected: &'static str, found: &'static str) -> Box<Fault> {
        Box::new(Fault {
            at: self.at,
            expected,
            found,
        })
    }
}

#[inline]
fn check_utf8(text: &[u8], at: usize) -> Read<()> {
    if text.is_ascii() {
        return Ok(());
    }
    match std::str::from_utf8(text) {
        Ok(_) => Ok(()),
        Err(error) => {
            let at = at + error.valid_up_to();
            Err(Box::new(Fault {
                at,
                expected: "UTF-8",
                found: "other bytes",
            }))
        }
    }
}
