//! A typed reader over a tree that goes on after a mistake, so that all of them are told at once.
//!
//! A [`Section`] is a map being read: each key is asked for by name and type, and [`Section::finish`]
//! complains about the keys nobody asked for. A [`Value`] is one value and where it stands. Each
//! `Value` method that gives `None` has said why in the [`Report`]; the caller goes on with a default,
//! which nobody will see, because a report with an error gives no configuration.

pub mod nearest;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::time::Duration;

use self::nearest::nearest;
use super::diagnostic::{Diagnostic, Origin, Severity};
use super::options::{Auto, Endpoint};
use super::tree::{Entry, Node, NodeKind, Scalar, join_path};
use super::units::{parse_duration, parse_endpoint, parse_size};

/// What the contract has and this version lacks.
pub const NOT_YET: &str = "not yet in this version of tailkeep";

/// Everything said so far.
#[derive(Debug, Default)]
pub struct Report {
    diagnostics: RefCell<Vec<Diagnostic>>,
}

impl Report {
    pub fn push(&self, diagnostic: Diagnostic) {
        self.diagnostics.borrow_mut().push(diagnostic);
    }

    /// About the value at `path` of the tree, or what is nearest to it.
    pub fn say_at(&self, tree: &Node, severity: Severity, path: &str, message: &str, help: &str) {
        self.say(severity, tree.locate(path), path, message.to_owned(), help);
    }

    /// The keys that errors are about.
    pub fn refused_paths(&self) -> BTreeSet<String> {
        let diagnostics = self.diagnostics.borrow();
        let errors = diagnostics.iter().filter(|said| said.severity == Severity::Error);
        errors.map(|error| error.path.clone()).collect()
    }

    pub fn into_diagnostics(self) -> Vec<Diagnostic> {
        self.diagnostics.into_inner()
    }

    fn say(&self, severity: Severity, origin: &Origin, path: &str, message: String, help: &str) {
        let help = (!help.is_empty()).then(|| help.to_owned());
        self.push(Diagnostic {
            severity,
            origin: origin.clone(),
            path: path.to_owned(),
            message,
            help,
        });
    }
}

/// A map being read.
pub struct Section<'t> {
    report: &'t Report,
    origin: &'t Origin,
    path: String,
    entries: &'t [Entry],
    /// Keys asked for so far: they are the known ones.
    known: Vec<&'static str>,
    /// Keys that are known only to be refused: no help names them.
    foreign: Vec<&'static str>,
    /// Cannot be read at all, and that was said: absent keys are no news.
    broken: bool,
}

impl<'t> Section<'t> {
    pub fn root(report: &'t Report, node: &'t Node) -> Section<'t> {
        Value {
            report,
            key_origin: &node.origin,
            origin: &node.origin,
            path: String::new(),
            node,
        }
        .section()
    }

    /// The value of `key`, and `key` known from now on.
    pub fn value(&mut self, key: &'static str) -> Option<Value<'t>> {
        self.known.push(key);
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        Some(self.value_of(entry))
    }

    /// The value of `key` read by `read`, or `default` if there is no such key (or it was no good).
    pub fn read<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&Value<'t>) -> Option<T>,
        default: T,
    ) -> T {
        self.value(key).and_then(|value| read(&value)).unwrap_or(default)
    }

    /// As [`Section::read`], for a key that must be there.
    pub fn require<T>(&mut self, key: &'static str, read: impl FnOnce(&Value<'t>) -> Option<T>) -> Option<T> {
        match self.value(key) {
            Some(value) => read(&value),
            None => {
                self.error(key, "missing", "");
                None
            }
        }
    }

    /// The map below `key`; an absent one is an empty one.
    pub fn section(&mut self, key: &'static str) -> Section<'t> {
        match self.value(key) {
            Some(value) => value.section(),
            None => Section {
                report: self.report,
                origin: self.origin,
                path: join_path(&self.path, key),
                entries: &[],
                known: Vec::new(),
                foreign: Vec::new(),
                broken: self.broken,
            },
        }
    }

    /// Every key with its value, for maps whose keys are names. All keys are known.
    pub fn named_values(self) -> Vec<(&'t str, Value<'t>)> {
        self.entries
            .iter()
            .map(|entry| (entry.key.as_str(), self.value_of(entry)))
            .collect()
    }

    /// Keys of the Collector that this version lacks whatever their value.
    pub fn refuse_unbuilt(&mut self, keys: &[&'static str]) {
        for key in keys {
            if let Some(value) = self.foreign(key) {
                value.refuse(NOT_YET, "");
            }
        }
    }

    /// The value of a key that no help should name.
    pub fn foreign(&mut self, key: &'static str) -> Option<Value<'t>> {
        self.foreign.push(key);
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        Some(self.value_of(entry))
    }

    /// A key of the contract that is built for its default value only, which `shown` writes out.
    pub fn default_only<T: PartialEq>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&Value<'t>) -> Option<T>,
        default: T,
        shown: &str,
    ) {
        let Some(value) = self.value(key) else { return };
        if read(&value).is_some_and(|given| given != default) {
            value.not_yet::<()>(&format!("only the default exists so far: {key}: {shown}"));
        }
    }

    /// A key that does nothing here, with the reason; `check` still holds it to its type.
    pub fn notice(&mut self, key: &'static str, check: impl FnOnce(&Value<'t>) -> bool, why: &str) {
        if let Some(value) = self.value(key)
            && check(&value)
        {
            value.remark(Severity::Notice, &format!("has no effect: {why}"), "");
        }
    }

    /// The value of `key`, unless it was asked for before.
    pub fn unread(&mut self, key: &'static str) -> Option<Value<'t>> {
        if self.known.contains(&key) {
            None
        } else {
            self.foreign(key)
        }
    }

    /// An error at the map itself, about the key `key` in it.
    pub fn error(&self, key: &str, message: &str, help: &str) {
        if !self.broken {
            self.report.say(
                Severity::Error,
                self.origin,
                &join_path(&self.path, key),
                message.into(),
                help,
            );
        }
    }

    /// Complains about the keys that nobody asked for.
    pub fn finish(self) {
        let asked = |key: &str| self.known.contains(&key) || self.foreign.contains(&key);
        for entry in self.entries.iter().filter(|entry| !asked(&entry.key)) {
            let help = if entry.key == "<<" {
                "merge keys are not YAML 1.2; write the keys out".to_owned()
            } else if let Some(near) = nearest(&entry.key, &self.known) {
                format!("did you mean `{near}`?")
            } else {
                format!("known here: {}", self.known.join(", "))
            };
            self.value_of(entry).refuse("unknown key", &help);
        }
    }

    fn value_of(&self, entry: &'t Entry) -> Value<'t> {
        // An absent value has no place of its own that helps anyone.
        let origin = if entry.value.is_null() {
            &entry.key_origin
        } else {
            &entry.value.origin
        };
        Value {
            report: self.report,
            key_origin: &entry.key_origin,
            origin,
            path: join_path(&self.path, &entry.key),
            node: &entry.value,
        }
    }
}

/// One value and where it stands.
pub struct Value<'t> {
    report: &'t Report,
    /// Where its key stands; of a list's item, where the item does.
    key_origin: &'t Origin,
    origin: &'t Origin,
    path: String,
    node: &'t Node,
}

impl<'t> Value<'t> {
    /// A map; anything else is reported and read as an empty one.
    pub fn section(&self) -> Section<'t> {
        let entries = self.node.entries();
        if entries.is_none() {
            self.expected::<()>("a map", "");
        }
        Section {
            report: self.report,
            origin: self.origin,
            path: self.path.clone(),
            entries: entries.unwrap_or(&[]),
            known: Vec::new(),
            foreign: Vec::new(),
            broken: entries.is_none(),
        }
    }

    pub fn list(&self) -> Option<Vec<Value<'t>>> {
        let NodeKind::List(items) = &self.node.kind else {
            return self.expected("a list", "`[]` is the empty one");
        };
        let value = |(index, node): (usize, &'t Node)| Value {
            report: self.report,
            key_origin: &node.origin,
            origin: &node.origin,
            path: format!("{}[{index}]", self.path),
            node,
        };
        Some(items.iter().enumerate().map(value).collect())
    }

    /// Text: quoted, or plain and not a number, boolean or null.
    pub fn text(&self) -> Option<String> {
        match self.scalar() {
            Some(scalar) if scalar.untyped || !scalar.plain || kind_of(&scalar.text) == Kind::Text => {
                Some(scalar.text.clone())
            }
            Some(scalar) if !scalar.is_null() => {
                self.expected("text", &format!("put it in quotes: \"{}\"", scalar.text))
            }
            _ => self.expected("text", ""),
        }
    }

    /// Text of at least one character.
    pub fn name(&self) -> Option<String> {
        let text = self.text()?;
        if text.is_empty() {
            return self.error("must not be empty", "");
        }
        Some(text)
    }

    pub fn boolean(&self) -> Option<bool> {
        match self.untyped_text() {
            Some("true" | "True" | "TRUE") => Some(true),
            Some("false" | "False" | "FALSE") => Some(false),
            _ => self.expected("true or false", ""),
        }
    }

    pub fn integer(&self) -> Option<i64> {
        match self.untyped_text().filter(|text| kind_of(text) == Kind::Integer) {
            None => self.expected("a whole number", ""),
            Some(text) => match integer_of(text) {
                Some(integer) => Some(integer),
                None => self.error("beyond 64 bits", ""),
            },
        }
    }

    /// A whole number from `min` to `max`.
    pub fn whole(&self, min: i64, max: i64) -> Option<i64> {
        let integer = self.integer()?;
        match (integer < min, integer > max) {
            (true, _) => self.error(&format!("must be {min} or more, is {integer}"), ""),
            (_, true) => self.error(&format!("must be {max} or less, is {integer}"), ""),
            _ => Some(integer),
        }
    }

    /// A count, size or limit: a whole number that is not negative.
    pub fn count(&self) -> Option<u64> {
        self.whole(0, i64::MAX).map(i64::unsigned_abs)
    }

    pub fn number(&self) -> Option<f64> {
        let text = self.untyped_text().filter(|text| kind_of(text) != Kind::Text);
        match text
            .and_then(|text| text.parse::<f64>().ok())
            .filter(|number| number.is_finite())
        {
            Some(number) => Some(number),
            None => self.expected("a number", ""),
        }
    }

    pub fn duration(&self) -> Option<Duration> {
        const HELP: &str = "a duration has a unit: 500ms, 5s, 1m30s";
        match self.scalar().and_then(|scalar| parse_duration(&scalar.text)) {
            Some(duration) => Some(duration),
            None => self.expected("a duration", HELP),
        }
    }

    /// A duration longer than zero.
    pub fn period(&self) -> Option<Duration> {
        let duration = self.duration()?;
        if duration.is_zero() {
            return self.error("must be longer than 0s", "");
        }
        Some(duration)
    }

    /// Bytes.
    pub fn size(&self) -> Option<u64> {
        match self.scalar().and_then(|scalar| parse_size(&scalar.text)) {
            Some(bytes) => Some(bytes),
            None => self.expected("a size", "whole bytes, or with a unit: 512KiB, 64MiB, 1GiB"),
        }
    }

    pub fn endpoint(&self) -> Option<Endpoint> {
        let text = self.text()?;
        match parse_endpoint(&text) {
            Ok(endpoint) => Some(endpoint),
            Err(help) => self.expected("an endpoint", help),
        }
    }

    /// `auto`, or what `read` makes of the value.
    pub fn auto<T>(&self, read: impl FnOnce(&Value<'t>) -> Option<T>) -> Option<Auto<T>> {
        match self.is_word("auto") {
            true => Some(Auto::Auto),
            false => read(self).map(Auto::Given),
        }
    }

    /// One word of a closed list.
    pub fn word(&self, words: &[&'static str]) -> Option<&'static str> {
        let text = self.scalar().map(|scalar| scalar.text.as_str());
        match words.iter().find(|word| Some(**word) == text) {
            Some(word) => Some(word),
            None => {
                let help = text.and_then(|text| nearest(text, words));
                let help = help
                    .map(|near| format!("did you mean `{near}`?"))
                    .unwrap_or_default();
                self.expected(&alternatives(words), &help)
            }
        }
    }

    pub fn is_word(&self, word: &str) -> bool {
        self.scalar().is_some_and(|scalar| scalar.text == word)
    }

    pub fn ends_with(&self, end: char) -> bool {
        self.scalar().is_some_and(|scalar| scalar.text.ends_with(end))
    }

    /// What the text says if it is a duration with a unit.
    pub fn as_duration(&self) -> Option<Duration> {
        let text = self.scalar().map(|scalar| scalar.text.as_str());
        text.filter(|text| kind_of(text) == Kind::Text)
            .and_then(parse_duration)
    }

    /// A map, or a null in its place, without a key.
    pub fn is_empty(&self) -> bool {
        self.node.entries().is_some_and(<[Entry]>::is_empty)
    }

    pub fn path(&self) -> &str {
        &self.path
    }

    pub fn is_list(&self) -> bool {
        matches!(self.node.kind, NodeKind::List(_))
    }

    pub fn is_null(&self) -> bool {
        self.node.is_null()
    }

    /// A value of the contract or the Collector that this version lacks; `built` says what it has.
    pub fn not_yet<T>(&self, built: &str) -> Option<T> {
        self.error(NOT_YET, built)
    }

    /// An error about the key, whatever its value.
    pub fn refuse(&self, message: &str, help: &str) {
        self.report.say(
            Severity::Error,
            self.key_origin,
            &self.path,
            message.to_owned(),
            help,
        );
    }

    /// An error here. Always `None`.
    pub fn error<T>(&self, message: &str, help: &str) -> Option<T> {
        self.remark(Severity::Error, message, help);
        None
    }

    pub fn remark(&self, severity: Severity, message: &str, help: &str) {
        if !matches!(self.node.kind, NodeKind::Broken) {
            self.report
                .say(severity, self.origin, &self.path, message.to_owned(), help);
        }
    }

    /// An error that says what was found instead. Always `None`.
    pub fn expected<T>(&self, what: &str, help: &str) -> Option<T> {
        self.error(&format!("expected {what}, found {}", self.found()), help)
    }

    fn scalar(&self) -> Option<&'t Scalar> {
        match &self.node.kind {
            NodeKind::Scalar(scalar) => Some(scalar),
            NodeKind::List(_) | NodeKind::Map(_) | NodeKind::Broken => None,
        }
    }

    /// The text of a scalar that may be something else than text.
    fn untyped_text(&self) -> Option<&'t str> {
        self.scalar()
            .filter(|scalar| scalar.plain || scalar.untyped)
            .map(|scalar| scalar.text.as_str())
    }

    fn found(&self) -> String {
        match &self.node.kind {
            NodeKind::Scalar(scalar) if scalar.is_null() => "nothing".to_owned(),
            NodeKind::Scalar(scalar) => {
                let typed = scalar.plain && kind_of(&scalar.text) != Kind::Text && !scalar.text.is_empty();
                if typed {
                    scalar.text.clone()
                } else {
                    quoted(&scalar.text)
                }
            }
            NodeKind::List(_) => "a list".to_owned(),
            NodeKind::Map(_) => "a map".to_owned(),
            NodeKind::Broken => "nothing readable".to_owned(),
        }
    }
}

/// `a, b or c`.
fn alternatives(words: &[&str]) -> String {
    match words {
        [first @ .., _, _] if !first.is_empty() => {
            format!("{}, {}", first.join(", "), words[first.len()..].join(" or "))
        }
        _ => words.join(" or "),
    }
}

/// Text in a message: what is long is cut.
fn quoted(text: &str) -> String {
    const SHOWN_MAX: usize = 60;
    match text.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => format!("\"{}…\"", &text[..end]),
        None => format!("\"{text}\""),
    }
}

/// What a plain scalar is by YAML's core schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Null,
    Boolean,
    Integer,
    Float,
    Text,
}

pub fn kind_of(text: &str) -> Kind {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let all =
        |digits: &str, base: u32| !digits.is_empty() && digits.chars().all(|digit| digit.is_digit(base));
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Kind::Null,
        "true" | "True" | "TRUE" | "false" | "False" | "FALSE" => return Kind::Boolean,
        ".nan" | ".NaN" | ".NAN" => return Kind::Float,
        _ => {}
    }
    // `100_000`, as in the Collector's own examples.
    if (unsigned.starts_with(|first: char| first.is_ascii_digit()) && all(&unsigned.replace('_', ""), 10))
        || text.strip_prefix("0x").is_some_and(|digits| all(digits, 16))
        || text.strip_prefix("0o").is_some_and(|digits| all(digits, 8))
    {
        return Kind::Integer;
    }
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") {
        return Kind::Float;
    }
    // Rust's floats are the core schema's, but for the words it also takes.
    let begins_as_number = unsigned.starts_with(|first: char| first.is_ascii_digit() || first == '.');
    match begins_as_number && text.parse::<f64>().is_ok() {
        true => Kind::Float,
        false => Kind::Text,
    }
}

fn integer_of(text: &str) -> Option<i64> {
    match (text.strip_prefix("0x"), text.strip_prefix("0o")) {
        (Some(digits), _) => i64::from_str_radix(digits, 16).ok(),
        (_, Some(digits)) => i64::from_str_radix(digits, 8).ok(),
        _ => text.replace('_', "").parse().ok(),
    }
}
