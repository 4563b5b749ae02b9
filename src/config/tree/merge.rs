//! Several documents into one: maps merge, everything else replaces.

use std::sync::Arc;

use super::parse::{DocumentName, parse};
use super::{Entry, Node, NodeKind, Scalar};
use crate::config::diagnostic::Diagnostic;
use crate::config::{Setting, SettingValue};

/// Keys in the dotted key of a flag at most.
const KEY_DEPTH_MAX: usize = 16;

/// Lays `upper` over `lower`.
pub fn overlay(lower: &mut Node, upper: Node) {
    match (&mut lower.kind, upper) {
        (
            NodeKind::Map(entries),
            Node {
                kind: NodeKind::Map(upper),
                ..
            },
        ) => {
            for Entry {
                key,
                key_origin,
                value,
            } in upper
            {
                match entries.iter_mut().find(|entry| entry.key == key) {
                    None => entries.push(Entry {
                        key,
                        key_origin,
                        value,
                    }),
                    Some(entry) => {
                        entry.key_origin = key_origin;
                        overlay(&mut entry.value, value);
                    }
                }
            }
        }
        (_, upper) => *lower = upper,
    }
}

/// The document that a flag such as `--set a.b=c` stands for: `a: { b: c }`.
pub fn document_of(setting: &Setting) -> Result<Node, Vec<Diagnostic>> {
    let flag: Arc<str> = setting.flag.as_str().into();
    let name = DocumentName::Flag(flag);
    let keys: Vec<&str> = setting.key.split('.').collect();
    if keys.iter().any(|key| key.is_empty()) || keys.len() > KEY_DEPTH_MAX {
        let error = Diagnostic::error(name.at(0, 0), "", "expected a key such as `wal.retain`");
        return Err(vec![error]);
    }
    let mut node = match &setting.value {
        SettingValue::Yaml(text) => parse(&name, text.as_bytes())?,
        // `$` stands for itself here: `tree/fill.rs` makes one of two.
        SettingValue::Text(text) => Node {
            origin: name.at(0, 0),
            kind: NodeKind::Scalar(Scalar {
                text: text.replace('$', "$$"),
                plain: false,
                untyped: true,
            }),
        },
    };
    // The shell has eaten the quotes: whether `5` is a number or a name, its key decides.
    if let NodeKind::Scalar(scalar) = &mut node.kind {
        scalar.untyped |= scalar.plain && !scalar.is_null();
    }
    for key in keys.into_iter().rev() {
        let entry = Entry {
            key: key.to_owned(),
            key_origin: name.at(0, 0),
            value: node,
        };
        node = Node {
            origin: name.at(0, 0),
            kind: NodeKind::Map(vec![entry]),
        };
    }
    Ok(node)
}
