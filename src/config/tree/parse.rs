//! From bytes to a tree, by the events of a YAML 1.2 parser.
//!
//! Whatever the bytes are, the answer is a tree or messages with positions, in bounded time and
//! memory: size, depth, keys per map and nodes (aliases expanded) have limits. Mistakes that leave
//! the structure readable (duplicate keys, tags) are collected, all others end the document.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_saphyr::granit_parser::{self, ErrorKind, Event, Marker, Parser, ScalarStyle};

use super::{
    DEPTH_MAX, DOCUMENT_BYTES_MAX, ENTRY_COUNT_MAX, Entry, NODE_COUNT_MAX, Node, NodeKind, Scalar, join_path,
};
use crate::config::diagnostic::{Diagnostic, Origin};

/// Where a document comes from: what its nodes give as their origin.
#[derive(Clone, Debug)]
pub enum DocumentName {
    File(Arc<str>),
    /// The value of a flag: it has no lines.
    Flag(Arc<str>),
}

impl DocumentName {
    pub fn at(&self, line: u32, column: u32) -> Origin {
        match self {
            DocumentName::File(file) => Origin::File {
                file: file.clone(),
                line,
                column,
            },
            DocumentName::Flag(flag) => Origin::Flag(flag.clone()),
        }
    }

    fn at_mark(&self, mark: &Marker) -> Origin {
        let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        self.at(number(mark.line()), number(mark.col()).saturating_add(1))
    }
}

/// The one document in `bytes`; nothing at all is a null at 1:1.
pub fn parse(name: &DocumentName, bytes: &[u8]) -> Result<Node, Vec<Diagnostic>> {
    let text = text_of(name, bytes).map_err(|error| vec![error])?;
    let options = granit_parser::options! {
        emit_comments: false,
        flow_nesting_limit: DEPTH_MAX,
        block_nesting_limit: DEPTH_MAX,
    };
    let mut builder = Builder::new(name);
    for step in Parser::new_from_str_with_options(text, options) {
        let outcome = match step {
            Ok((event, span)) => builder.handle_event(event, &span),
            Err(error) if matches!(error.kind(), ErrorKind::RecursionLimitExceeded) => {
                Err(too_deep(name.at_mark(error.marker())))
            }
            Err(error) => {
                let message = format!("not YAML: {}", error.info());
                Err(Diagnostic::error(name.at_mark(error.marker()), "", message))
            }
        };
        if let Err(error) = outcome {
            builder.errors.push(error);
            break;
        }
    }
    builder.finish()
}

fn text_of<'b>(name: &DocumentName, bytes: &'b [u8]) -> Result<&'b str, Diagnostic> {
    if bytes.len() > DOCUMENT_BYTES_MAX {
        let message = format!("longer than {} MiB", DOCUMENT_BYTES_MAX >> 20);
        return Err(Diagnostic::error(name.at(0, 0), "", message).with_help("is this the right file?"));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let valid = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
        let line = valid.matches('\n').count() as u32 + 1;
        let column = valid.rsplit('\n').next().map_or(0, |last| last.chars().count()) as u32 + 1;
        Diagnostic::error(name.at(line, column), "", "not UTF-8")
            .with_help("a configuration is YAML text in UTF-8")
    })?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}

/// Collections that are still open, outermost first, and what anchors name.
struct Builder<'n> {
    name: &'n DocumentName,
    open: Vec<Open>,
    root: Option<Node>,
    document_count: usize,
    node_count: usize,
    anchors: BTreeMap<usize, Anchored>,
    errors: Vec<Diagnostic>,
}

struct Open {
    anchor: usize,
    origin: Origin,
    /// Levels below this one, for the depth of what aliases repeat.
    height: usize,
    content: Content,
}

enum Content {
    List(Vec<Node>),
    Map {
        entries: Vec<Entry>,
        key: Option<(String, Origin)>,
    },
}

struct Anchored {
    node: Node,
    height: usize,
    node_count: usize,
}

impl<'n> Builder<'n> {
    fn new(name: &'n DocumentName) -> Builder<'n> {
        Builder {
            name,
            open: Vec::new(),
            root: None,
            document_count: 0,
            node_count: 0,
            anchors: BTreeMap::new(),
            errors: Vec::new(),
        }
    }

    fn handle_event(&mut self, event: Event<'_>, span: &granit_parser::Span) -> Result<(), Diagnostic> {
        let origin = self.name.at_mark(&span.start);
        match event {
            Event::DocumentStart(..) => {
                self.document_count += 1;
                if self.document_count > 1 {
                    return Err(Diagnostic::error(origin, "", "a second document begins here")
                        .with_help("one document a file; `--config` may be given several times"));
                }
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.refuse_tag(tag.is_some(), span);
                if self.wants_key() {
                    return self.open_key(text.into_owned(), origin);
                }
                let plain = style == ScalarStyle::Plain;
                let scalar = Scalar {
                    text: text.into_owned(),
                    plain,
                    untyped: false,
                };
                self.count_nodes(1, &origin)?;
                self.close(
                    Node {
                        origin,
                        kind: NodeKind::Scalar(scalar),
                    },
                    0,
                    anchor,
                    1,
                )?;
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.refuse_tag(tag.is_some(), span);
                self.open_collection(Content::List(Vec::new()), anchor, origin)?;
            }
            Event::MappingStart(_, anchor, tag) => {
                self.refuse_tag(tag.is_some(), span);
                let content = Content::Map {
                    entries: Vec::new(),
                    key: None,
                };
                self.open_collection(content, anchor, origin)?;
            }
            Event::SequenceEnd | Event::MappingEnd => self.close_collection()?,
            Event::Alias(anchor) => self.repeat(anchor, origin)?,
            Event::UnresolvedAlias(_) => {
                return Err(Diagnostic::error(
                    origin,
                    "",
                    "this alias has no anchor before it",
                ));
            }
            Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentEnd
            | Event::Anchor(..)
            | Event::Comment(..) => {}
            // The parser's list is open; an event we do not know could be data.
            _ => {
                return Err(Diagnostic::error(
                    origin,
                    "",
                    "YAML of a kind that tailkeep does not read",
                ));
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<Node, Vec<Diagnostic>> {
        if !self.errors.is_empty() {
            return Err(self.errors);
        }
        let null = Scalar {
            text: String::new(),
            plain: true,
            untyped: false,
        };
        Ok(self.root.unwrap_or(Node {
            origin: self.name.at(1, 1),
            kind: NodeKind::Scalar(null),
        }))
    }

    fn wants_key(&self) -> bool {
        matches!(
            self.open.last(),
            Some(Open {
                content: Content::Map { key: None, .. },
                ..
            })
        )
    }

    fn open_key(&mut self, text: String, origin: Origin) -> Result<(), Diagnostic> {
        let Some(Open {
            content: Content::Map { entries, key },
            ..
        }) = self.open.last_mut()
        else {
            return Ok(());
        };
        if entries.len() == ENTRY_COUNT_MAX {
            let message = format!("more than {ENTRY_COUNT_MAX} keys in one map");
            return Err(Diagnostic::error(origin, "", message));
        }
        *key = Some((text, origin));
        Ok(())
    }

    fn open_collection(&mut self, content: Content, anchor: usize, origin: Origin) -> Result<(), Diagnostic> {
        if self.wants_key() {
            return Err(Diagnostic::error(origin, "", "a key must be plain text"));
        }
        if self.open.len() == DEPTH_MAX {
            return Err(too_deep(origin));
        }
        self.count_nodes(1, &origin)?;
        self.open.push(Open {
            anchor,
            origin,
            height: 1,
            content,
        });
        Ok(())
    }

    fn close_collection(&mut self) -> Result<(), Diagnostic> {
        let Some(Open {
            anchor,
            origin,
            height,
            content,
        }) = self.open.pop()
        else {
            return Ok(());
        };
        let kind = match content {
            Content::List(items) => NodeKind::List(items),
            Content::Map { entries, .. } => NodeKind::Map(entries),
        };
        let node = Node { origin, kind };
        let node_count = if anchor == 0 { 0 } else { count(&node) };
        self.close(node, height, anchor, node_count)
    }

    /// Hands a finished node to the collection around it.
    fn close(
        &mut self,
        node: Node,
        height: usize,
        anchor: usize,
        node_count: usize,
    ) -> Result<(), Diagnostic> {
        if anchor != 0 {
            // An anchored copy costs memory as an alias does.
            self.count_nodes(node_count, &node.origin)?;
            self.anchors.insert(
                anchor,
                Anchored {
                    node: node.clone(),
                    height,
                    node_count,
                },
            );
        }
        let duplicate = self.duplicate();
        let Some(around) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        around.height = around.height.max(height + 1);
        match &mut around.content {
            Content::List(items) => items.push(node),
            Content::Map { entries, key } => {
                let Some((key, key_origin)) = key.take() else {
                    return Ok(());
                };
                match duplicate {
                    None => entries.push(Entry {
                        key,
                        key_origin,
                        value: node,
                    }),
                    Some(error) => self.errors.push(error),
                }
            }
        }
        Ok(())
    }

    /// What to say if the key whose value is being read is in its map already.
    fn duplicate(&self) -> Option<Diagnostic> {
        let Content::Map {
            entries,
            key: Some((key, origin)),
        } = &self.open.last()?.content
        else {
            return None;
        };
        let first = entries.iter().find(|entry| entry.key == *key)?;
        let message = format!("duplicate key; first at {}", first.key_origin);
        Some(Diagnostic::error(origin.clone(), self.path(), message))
    }

    /// The key whose value is being read.
    fn path(&self) -> String {
        let mut path = String::new();
        for open in &self.open {
            match &open.content {
                Content::List(items) => path.push_str(&format!("[{}]", items.len())),
                Content::Map {
                    key: Some((key, _)), ..
                } => path = join_path(&path, key),
                Content::Map { key: None, .. } => {}
            }
        }
        path
    }

    /// An alias: the anchored node once more, as often as the limits allow.
    fn repeat(&mut self, anchor: usize, origin: Origin) -> Result<(), Diagnostic> {
        if self.wants_key() {
            return Err(Diagnostic::error(origin, "", "a key must be plain text"));
        }
        let Some(&Anchored {
            height, node_count, ..
        }) = self.anchors.get(&anchor)
        else {
            return Err(Diagnostic::error(
                origin,
                "",
                "this alias stands inside what it names",
            ));
        };
        if self.open.len() + height > DEPTH_MAX {
            return Err(too_deep(origin));
        }
        self.count_nodes(node_count, &origin)?;
        let node = self.anchors[&anchor].node.clone();
        self.close(node, height, 0, node_count)
    }

    fn count_nodes(&mut self, count: usize, origin: &Origin) -> Result<(), Diagnostic> {
        self.node_count += count;
        if self.node_count > NODE_COUNT_MAX {
            let message = format!("more than {NODE_COUNT_MAX} values, aliases counted each time");
            return Err(Diagnostic::error(origin.clone(), "", message));
        }
        Ok(())
    }

    fn refuse_tag(&mut self, tagged: bool, span: &granit_parser::Span) {
        if tagged {
            let origin = self.name.at_mark(span.tag_start.as_ref().unwrap_or(&span.start));
            let error = Diagnostic::error(origin, "", "tags (`!…`) are not supported")
                .with_help("put text that looks like a number or a boolean in quotes");
            self.errors.push(error);
        }
    }
}

fn too_deep(origin: Origin) -> Diagnostic {
    Diagnostic::error(origin, "", format!("nested more than {DEPTH_MAX} levels deep"))
}

/// Nodes in a tree of bounded depth.
fn count(node: &Node) -> usize {
    1 + match &node.kind {
        NodeKind::List(items) => items.iter().map(count).sum::<usize>(),
        NodeKind::Map(entries) => entries.iter().map(|entry| count(&entry.value)).sum(),
        NodeKind::Scalar(_) | NodeKind::Broken => 0,
    }
}
