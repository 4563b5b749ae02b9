//! Files that were never meant as a configuration, or meant to hurt: a message, and soon.

use std::fs;
use std::process::Output;

use proptest::prelude::*;
use tailkeep::config::{Source, Surroundings, load};

use super::tailkeep;

/// What `validate` says about a file with these bytes. Tests have no clock: a file that takes for
/// ever shows as a test that does.
fn validate(bytes: &[u8]) -> Output {
    let directory = tempfile::tempdir().expect("a directory");
    fs::write(directory.path().join("a.yaml"), bytes).expect("writable");
    tailkeep(directory.path(), &["validate", "--config", "a.yaml"], &[])
}

#[track_caller]
fn check(bytes: &[u8], expected: &str) {
    let output = validate(bytes);
    let stderr = String::from_utf8(output.stderr).expect("messages are UTF-8");
    let first = stderr.lines().next().unwrap_or_default();
    assert!(
        stderr.lines().any(|line| line.starts_with(expected)),
        "expected {expected}\nfound    {first}"
    );
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr.len() < 50_000, "{} bytes of messages", stderr.len());
    let control = |c: char| c.is_control() && c != '\n';
    assert!(
        !stderr.contains(control),
        "control characters reach the terminal: {stderr:?}"
    );
}

#[test]
fn binary_files_are_not_utf8() {
    check(b"\x7fELF\x02\x01\x01\x00\xff\xfe", "error: a.yaml:1:9: not UTF-8");
    check(b"node:\n  name: \xc3(\n", "error: a.yaml:2:9: not UTF-8");
    let utf16: Vec<u8> = "node: {}".encode_utf16().flat_map(u16::to_le_bytes).collect();
    check(
        &[b"\xff\xfe".as_slice(), &utf16].concat(),
        "error: a.yaml:1:1: not UTF-8",
    );
}

#[test]
fn control_characters_are_not_yaml() {
    check(
        b"node: { name: \"a\x1b[31m\" }\x00",
        "error: a.yaml:1:17: not YAML",
    );
    check(&[0; 4096], "error: a.yaml:1:1: not YAML");
}

#[test]
fn large_files_are_refused_by_size() {
    check(&vec![b'a'; 10 << 20], "error: a.yaml: longer than 1 MiB");
    check(
        "x: 1\n".repeat(2 << 20).as_bytes(),
        "error: a.yaml: longer than 1 MiB",
    );
}

#[test]
fn deep_nesting_is_refused_by_depth() {
    check(
        "[".repeat(100_000).as_bytes(),
        "error: a.yaml:1:65: nested more than 64 levels deep",
    );
    check(
        "{a: ".repeat(100_000).as_bytes(),
        "error: a.yaml:1:257: nested more than 64 levels deep",
    );
    check(
        "- ".repeat(100_000).as_bytes(),
        "error: a.yaml:1:129: nested more than 64 levels deep",
    );
    let block: String = (0..1_000)
        .map(|depth| format!("{}a:\n", " ".repeat(depth)))
        .collect();
    check(
        block.as_bytes(),
        "error: a.yaml:65:65: nested more than 64 levels deep",
    );
}

#[test]
fn alias_bombs_are_refused_by_count() {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..30 {
        let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
        bomb.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
    }
    check(
        bomb.as_bytes(),
        "error: a.yaml:5:9: more than 200000 values, aliases counted each time",
    );
    // Aliases may not dig deeper than plain nesting either.
    let mut chain = String::from("a0: &a0 [x]\n");
    for level in 1..100 {
        chain.push_str(&format!("a{level}: &a{level} [*a{}]\n", level - 1));
    }
    check(
        chain.as_bytes(),
        "error: a.yaml:64:12: nested more than 64 levels deep",
    );
    check(
        b"a: &a [*a]\n",
        "error: a.yaml:1:8: this alias stands inside what it names",
    );
}

#[test]
fn many_mistakes_are_cut_short() {
    let many: String = (0..400).map(|key| format!("key{key}: 1\n")).collect();
    check(many.as_bytes(), "error: a.yaml:1:1: key0: unknown key");
    // 400 keys, no policies and no exporter; 100 of them are shown.
    check(many.as_bytes(), "error: 302 more");
    let too_many: String = (0..1_000).map(|key| format!("key{key}: 1\n")).collect();
    check(
        too_many.as_bytes(),
        "error: a.yaml:513:1: more than 512 keys in one map",
    );
    check(
        "a: 1\n".repeat(100_000).as_bytes(),
        "error: a.yaml:2:1: a: duplicate key; first at a.yaml:1:1",
    );
    check(b"!x ", "error: a.yaml:1:1: tags (`!…`) are not supported");
    check(
        format!("{}: 1", "k".repeat(1_000)).as_bytes(),
        "error: a.yaml:1:1: kkkk",
    );
    check(
        format!("node: {{ name: [{}] }}", "[],".repeat(300_000)).as_bytes(),
        "error: a.yaml:1:600007: more than 200000 values",
    );
}

#[test]
fn terminal_escapes_do_not_reach_the_terminal() {
    check(
        br#"{ "a\u001b[2J\u0007": 1 }"#,
        r"error: a.yaml:1:3: a\u{1b}[2J\u{7}: unknown key",
    );
    check(
        br#"wal: { retain: "\u001b]0;t\u0007" }"#,
        "error: a.yaml:1:16: wal.retain: expected a duration",
    );
}

struct Nothing;

impl Surroundings for Nothing {
    fn env(&self, _: &str) -> Option<String> {
        None
    }

    fn file(&self, _: &str) -> Result<String, String> {
        Err("there is no file".to_owned())
    }
}

/// Loads in this process: a panic fails the test.
fn load_bytes(bytes: &[u8]) {
    let source = Source {
        name: "a.yaml".to_owned(),
        bytes: bytes.to_owned(),
    };
    if let Err(errors) = load(&[source], &[], &Nothing) {
        assert!(!errors.is_empty());
        for error in errors {
            let _ = error.to_string();
        }
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        load_bytes(&bytes);
    }

    #[test]
    fn no_text_makes_it_panic(text in r"([\[\]{}:,&*!|>'%@`#?$\-\n a-c0-9]|\PC){0,80}") {
        load_bytes(text.as_bytes());
    }

    /// Every scalar, key and bracket of a good configuration is in reach of one changed byte.
    #[test]
    fn no_changed_byte_makes_it_panic(place: prop::sample::Index, byte in 9_u8..127) {
        let mut bytes = tailkeep::config::DEFAULTS.as_bytes().to_owned();
        let place = place.index(bytes.len());
        bytes[place] = byte;
        load_bytes(&bytes);
    }
}
