//! The library is layered as `src/lib.rs` lists it, and the outside world is touched in `io/` only.
//!
//! Sources are read as text: comments and literals are blanked first, so that what is left are the words the
//! compiler sees. Test modules are held to the same rules.

use std::fs;
use std::path::{Path, PathBuf};

/// Something that a source file must not say.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    file: String,
    line: usize,
    what: String,
}

/// Words that only some folders may say, and where.
const OUTSIDE_WORLD: [(&str, &[&str]); 12] = [
    ("glommio", &["io"]),
    ("io_uring", &["io", "commands"]),
    ("quanta", &["io"]),
    ("socket2", &["io"]),
    // Addresses are plain values; what opens or resolves one is not.
    ("std::net::TcpStream", &["io", "commands"]),
    ("std::net::TcpListener", &["io", "commands"]),
    ("std::net::UdpSocket", &["io", "commands"]),
    ("std::net::ToSocketAddrs", &["io", "commands"]),
    ("std::os::unix::net", &["io", "commands"]),
    ("std::thread", &["io", "commands"]),
    ("std::time::Instant", &["io"]),
    ("std::time::SystemTime", &["io"]),
];
const UNSAFE_IN: [&str; 2] = ["base", "io"];

#[test]
fn modules_import_only_from_those_above_them() {
    assert_none(check_all(layering));
}

#[test]
fn only_io_touches_the_outside_world() {
    assert_none(check_all(|file, source, _| outside_world(file, source)));
}

#[test]
fn unsafe_code_stays_in_base_and_io() {
    assert_none(check_all(|file, source, _| unsafe_words(file, source)));
}

#[test]
fn every_file_begins_with_what_it_is() {
    let heads = |file: &str, _: &str, _: &[String]| {
        let text = fs::read_to_string(root().join(file)).expect("read before");
        let missing = !text.starts_with("//! ");
        missing
            .then(|| finding(file, 1, "it has no `//!` head"))
            .into_iter()
            .collect()
    };
    assert_none(check_all(heads));
}

#[test]
fn no_module_is_called_mod_rs() {
    let named = |file: &str, _: &str, _: &[String]| {
        file.ends_with("/mod.rs")
            .then(|| finding(file, 1, "use noun.rs beside noun/"))
            .into_iter()
            .collect()
    };
    assert_none(check_all(named));
}

#[test]
fn every_listed_module_is_there_and_every_file_is_listed() {
    let layers = layers();
    assert!(layers.len() > 5, "{layers:?}");
    let missing: Vec<_> = layers
        .iter()
        .filter(|layer| !root().join(format!("src/{layer}.rs")).is_file())
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
    let unlisted: Vec<_> = sources()
        .into_iter()
        .filter(|file| !["src/lib.rs", "src/main.rs"].contains(&file.as_str()))
        .filter(|file| !layers.contains(&layer_of(file)))
        .collect();
    assert!(unlisted.is_empty(), "{unlisted:?}");
}

/// The rules find what they are for: without this, a reader that finds nothing would pass for good order.
#[test]
fn each_rule_finds_a_breach() {
    let layers: Vec<String> = ["base", "wal", "shard", "io"].map(String::from).into();
    let lines = |file: &str, source: &str| -> Vec<usize> {
        let source = blank(source);
        layering(file, &source, &layers)
            .into_iter()
            .map(|finding| finding.line)
            .collect()
    };
    assert_eq!(
        lines("src/wal/x.rs", "use crate::base::A;\nuse crate::shard::B;"),
        [2]
    );
    assert_eq!(
        lines("src/wal.rs", "use crate::{\n  base::{A, shard},\n  io::B,\n};"),
        [3]
    );
    assert_eq!(
        lines("src/wal.rs", "fn f() -> crate::io::X { super::shard::y() }"),
        [1, 1]
    );
    assert_eq!(lines("src/wal/x/y.rs", "use super::super::super::io::X;"), [1]);
    assert_eq!(
        lines(
            "src/wal/x.rs",
            "use super::io::X; // crate::io\n/* crate::io */ \"crate::io\""
        ),
        []
    );
    assert_eq!(
        lines(
            "src/io/x.rs",
            "use crate::wal::X; use crate::io::Y; pub(crate) fn f() {}"
        ),
        []
    );

    let words = |file: &str, source: &str| outside_world(file, &blank(source)).len();
    assert_eq!(words("src/wal.rs", "use std::time::{Duration, Instant};"), 1);
    assert_eq!(
        words(
            "src/wal.rs",
            "std::time::SystemTime::now(); glommio::spawn_local(x)"
        ),
        2
    );
    assert_eq!(words("src/wal.rs", "use std::{net::TcpStream, thread};"), 2);
    assert_eq!(
        words(
            "src/wal.rs",
            "use std::time::Duration; use crate::base::time::Instant;"
        ),
        0
    );
    assert_eq!(
        words("src/io/wal.rs", "use glommio::X; use std::time::Instant;"),
        0
    );
    assert_eq!(
        words(
            "src/commands/x.rs",
            "use std::net::ToSocketAddrs; use std::time::SystemTime;"
        ),
        1
    );
    assert_eq!(
        words("src/config/x.rs", "use std::net::{Ipv6Addr, TcpListener};"),
        1
    );

    let unsafes = |file: &str, source: &str| unsafe_words(file, &blank(source)).len();
    assert_eq!(unsafes("src/wal.rs", "let x = 'x'; unsafe { y() } // unsafe"), 1);
    assert_eq!(
        unsafes(
            "src/wal.rs",
            "#![deny(unsafe_code)] let unsafety = r#\"unsafe \" unsafe\"#;"
        ),
        0
    );
    assert_eq!(unsafes("src/base/x.rs", "unsafe { y() }"), 0);
}

fn layering(file: &str, source: &str, layers: &[String]) -> Vec<Finding> {
    let own = layer_of(file);
    let rank = |name: &str| layers.iter().position(|layer| layer == name);
    let Some(own_rank) = rank(&own) else {
        return Vec::new();
    };
    let mut findings = Vec::new();
    for (line, path) in paths(source) {
        let supers = path.iter().take_while(|part| *part == "super").count();
        let depth = file.matches('/').count();
        let target = match path.first().map(String::as_str) {
            Some("crate" | "tailkeep") => path.get(1),
            // As many as the file is deep lead to the root, one more from a module within it.
            Some("super") if supers >= depth => path.get(supers),
            _ => None,
        };
        if let Some(target) = target
            && rank(target).is_some_and(|target| target > own_rank)
        {
            findings.push(finding(
                file,
                line,
                &format!("`{own}` imports from `{target}`, which is below it"),
            ));
        }
    }
    findings
}

fn outside_world(file: &str, source: &str) -> Vec<Finding> {
    let own = layer_of(file);
    let mut findings = Vec::new();
    for (line, path) in paths(source) {
        for (word, folders) in OUTSIDE_WORLD {
            let says = word
                .split("::")
                .zip(&path)
                .filter(|(word, part)| word == part)
                .count();
            if says == word.split("::").count() && !folders.contains(&own.as_str()) {
                findings.push(finding(
                    file,
                    line,
                    &format!("`{word}` is for {} only", folders.join(" and ")),
                ));
            }
        }
    }
    findings
}

fn unsafe_words(file: &str, source: &str) -> Vec<Finding> {
    let allowed = UNSAFE_IN.contains(&layer_of(file).as_str());
    let words = words(source)
        .into_iter()
        .filter(|(_, word)| word == "unsafe" && !allowed);
    words
        .map(|(line, _)| finding(file, line, "`unsafe` is for base and io only"))
        .collect()
}

// ---- reading ------------------------------------------------------------------------------------------------

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Source files of the library, relative to the root.
fn sources() -> Vec<String> {
    fn walk(directory: &Path, out: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).expect("a source folder") {
            let path = entry.expect("readable").path();
            match path.is_dir() {
                true => walk(&path, out),
                false if path.extension().is_some_and(|extension| extension == "rs") => out.push(path),
                false => {}
            }
        }
    }
    let mut files = Vec::new();
    walk(&root().join("src"), &mut files);
    let relative = |path: &PathBuf| {
        path.strip_prefix(root())
            .expect("below")
            .to_string_lossy()
            .into_owned()
    };
    let mut files: Vec<String> = files.iter().map(relative).collect();
    files.sort();
    files
}

/// The `mod` lines of lib.rs.
fn layers() -> Vec<String> {
    let text = blank(&fs::read_to_string(root().join("src/lib.rs")).expect("there"));
    let of_line = |line: &str| {
        line.trim()
            .strip_prefix("pub mod ")?
            .strip_suffix(';')
            .map(str::to_owned)
    };
    text.lines().filter_map(|line| of_line(line.trim())).collect()
}

/// `src/wal/append.rs` and `src/wal.rs` are of `wal`.
fn layer_of(file: &str) -> String {
    let below = file.strip_prefix("src/").unwrap_or(file);
    below
        .split('/')
        .next()
        .unwrap_or(below)
        .trim_end_matches(".rs")
        .to_owned()
}

fn check_all(check: impl Fn(&str, &str, &[String]) -> Vec<Finding>) -> Vec<Finding> {
    let layers = layers();
    let files = sources();
    assert!(files.len() > 50, "the sources are there");
    let read = |file: &String| blank(&fs::read_to_string(root().join(file)).expect("a source file"));
    files
        .iter()
        .flat_map(|file| check(file, &read(file), &layers))
        .collect()
}

fn assert_none(findings: Vec<Finding>) {
    let lines: Vec<String> = findings
        .iter()
        .map(|found| format!("{}:{}: {}", found.file, found.line, found.what))
        .collect();
    assert!(lines.is_empty(), "\n{}", lines.join("\n"));
}

fn finding(file: &str, line: usize, what: &str) -> Finding {
    Finding {
        file: file.to_owned(),
        line,
        what: what.to_owned(),
    }
}

/// The source with comments and literals made blank; lines stay where they are.
fn blank(source: &str) -> String {
    let text: Vec<char> = source.chars().collect();
    let mut out = String::with_capacity(source.len());
    let mut at = 0;
    let begins = |at: usize, word: &str| {
        word.chars()
            .enumerate()
            .all(|(i, c)| text.get(at + i) == Some(&c))
    };
    while at < text.len() {
        let previous = at.checked_sub(1).map_or(' ', |at| text[at]);
        let in_word = previous.is_alphanumeric() || previous == '_';
        let end = if begins(at, "//") {
            (at..text.len())
                .find(|at| text[*at] == '\n')
                .unwrap_or(text.len())
        } else if begins(at, "/*") {
            end_of_block_comment(&text, at)
        } else if text[at] == '"' {
            end_of_string(&text, at + 1)
        } else if !in_word
            && (begins(at, "r\"") || begins(at, "r#") || begins(at, "br\"") || begins(at, "br#"))
        {
            end_of_raw_string(&text, at).unwrap_or(at)
        } else if text[at] == '\'' && text.get(at + 1) == Some(&'\\') {
            (at + 3..text.len())
                .find(|at| text[*at] == '\'')
                .map_or(text.len(), |at| at + 1)
        } else if text[at] == '\'' && text.get(at + 2) == Some(&'\'') {
            at + 3
        } else {
            at
        };
        if end == at {
            out.push(text[at]);
            at += 1;
        } else {
            text[at..end]
                .iter()
                .for_each(|c| out.push(if *c == '\n' { '\n' } else { ' ' }));
            at = end;
        }
    }
    out
}

fn end_of_block_comment(text: &[char], start: usize) -> usize {
    let (mut at, mut depth) = (start + 2, 1);
    while at < text.len() && depth > 0 {
        match (text[at], text.get(at + 1)) {
            ('/', Some('*')) => (at, depth) = (at + 2, depth + 1),
            ('*', Some('/')) => (at, depth) = (at + 2, depth - 1),
            _ => at += 1,
        }
    }
    at
}

fn end_of_string(text: &[char], mut at: usize) -> usize {
    while at < text.len() && text[at] != '"' {
        at += if text[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(text.len())
}

/// `None`: a raw identifier.
fn end_of_raw_string(text: &[char], start: usize) -> Option<usize> {
    let mut at = (start..).find(|at| text[*at] == 'r').expect("it begins so") + 1;
    let hashes = text[at..].iter().take_while(|c| **c == '#').count();
    at += hashes;
    if text.get(at) != Some(&'"') {
        return None;
    }
    let closes = |at: &usize| text[*at] == '"' && (1..=hashes).all(|hash| text.get(at + hash) == Some(&'#'));
    Some(
        (at + 1..text.len())
            .find(closes)
            .map_or(text.len(), |at| at + 1 + hashes),
    )
}

/// Words with their lines, `::`, `{`, `}` and `,` among them.
fn words(source: &str) -> Vec<(usize, String)> {
    let mut words = Vec::new();
    for (number, line) in source.lines().enumerate() {
        let mut rest = line;
        while let Some(first) = rest.chars().next() {
            let length = match first {
                _ if first.is_alphanumeric() || first == '_' => rest
                    .find(|c: char| !c.is_alphanumeric() && c != '_')
                    .unwrap_or(rest.len()),
                ':' if rest.starts_with("::") => 2,
                _ => first.len_utf8(),
            };
            if !first.is_whitespace() {
                words.push((number + 1, rest[..length].to_owned()));
            }
            rest = &rest[length..];
        }
    }
    words
}

/// Every path of the source, groups of `use` spread out.
fn paths(source: &str) -> Vec<(usize, Vec<String>)> {
    let words = words(source);
    let is_name = |word: &str| word.chars().all(|c| c.is_alphanumeric() || c == '_');
    let mut paths = Vec::new();
    let mut at = 0;
    while at < words.len() {
        let follows_path = at > 0 && words[at - 1].1 == "::";
        if is_name(&words[at].1) && !follows_path {
            at = spread(&words, at, &mut Vec::new(), &mut paths);
        } else {
            at += 1;
        }
    }
    paths
}

/// Reads one path, which may end in a group; returns the index behind it.
fn spread(
    words: &[(usize, String)],
    mut at: usize,
    prefix: &mut Vec<String>,
    paths: &mut Vec<(usize, Vec<String>)>,
) -> usize {
    let own = prefix.len();
    let word = |at: usize| words.get(at).map_or("", |(_, word)| word.as_str());
    let line = words[at].0;
    loop {
        prefix.push(word(at).to_owned());
        at += 1;
        if word(at) != "::" {
            paths.push((line, prefix.clone()));
            break;
        }
        at += 1;
        if word(at) == "{" {
            at += 1;
            while at < words.len() && word(at) != "}" {
                // A comma, or `as name`.
                at = if word(at) == "," {
                    at + 1
                } else {
                    spread(words, at, prefix, paths)
                };
            }
            at += 1;
            break;
        }
    }
    prefix.truncate(own);
    at
}
