//! The page for people: what it asks for is there, and it can do no more than it must.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::server::{Server, wait_until};

const TRACE: &str = "0123456789abcdef0123456789abcdef";

/// Words of the document that begin like this.
fn words(document: &str, begin: &str) -> BTreeSet<String> {
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let words = document.match_indices(begin).map(|(at, _)| {
        let word: String = document[at..]
            .chars()
            .take_while(|letter| is_part(*letter))
            .collect();
        word
    });
    words.collect()
}

#[test]
fn the_page_comes_whole_under_a_policy_that_allows_itself_only() {
    let server = Server::start();
    let (status, head, document) = server.get("/", "Host: localhost\r\n");
    assert_eq!(status, 200);
    assert!(head.contains("content-type: text/html; charset=utf-8"), "{head}");
    assert!(head.contains("x-content-type-options: nosniff"), "{head}");
    let policy = head
        .lines()
        .find(|line| line.starts_with("content-security-policy:"));
    let policy = policy.expect("a policy");
    assert!(
        policy.contains("default-src 'none'") && !policy.contains("unsafe"),
        "{policy}"
    );
    let (_, nonce) = policy.split_once("script-src 'nonce-").expect("a nonce");
    let (nonce, _) = nonce.split_once('\'').expect("it ends");
    assert_eq!(
        document.matches(&format!("nonce=\"{nonce}\"")).count(),
        2,
        "style and script"
    );
    assert!(document.starts_with("<!doctype html>") && document.trim_end().ends_with("</html>"));
}

#[test]
fn what_the_page_asks_for_is_there() {
    let server = Server::start();
    server.send(TRACE, 1..=3);
    wait_until("the trace is exported", || server.exported_lines() == 1);
    let (_, _, document) = server.get("/", "");
    let (_, _, metrics) = server.get("/metrics", "");
    let names = words(&document, "tailkeep_");
    assert!(names.len() >= 4, "{names:?}");
    for name in names.iter().chain(&words(&document, "process_")) {
        assert!(
            metrics.contains(&format!("\n# TYPE {name} ")),
            "{name} is no metric"
        );
    }
    for query in [
        "?limit=25",
        "?limit=25&verdict=kept",
        "?limit=25&verdict=kept&policy=all",
    ] {
        let (status, _, body) = server.get(&format!("/api/v1/traces{query}"), "");
        assert_eq!(status, 200, "{query}: {body}");
        let recent: Value = serde_json::from_str(&body).expect("JSON");
        let trace = &recent["traces"][0];
        for key in ["trace_id", "verdict", "policy", "reason", "spans", "decided_at"] {
            assert!(!trace[key].is_null(), "{query}: {key} in {trace}");
        }
        assert!(trace["root"]["duration_ms"].is_number(), "{trace}");
    }
    let (_, _, body) = server.get("/api/v1/status", "");
    let status: Value = serde_json::from_str(&body).expect("JSON");
    for pointer in [
        "/state",
        "/started_at",
        "/node",
        "/endpoints/grpc",
        "/config/hash",
        "/problems",
        "/signals/spans/accepted",
        "/traces/pending",
        "/policies/0/decided",
        "/policies/0/kept_bytes",
        "/memory/limit_bytes",
        "/wal/max_bytes",
        "/wal/oldest_age_seconds",
        "/cores/0/busy_ratio",
        "/exporters/0/state",
        "/exporters/0/oldest_age_seconds",
    ] {
        assert!(
            status.pointer(pointer).is_some_and(|value| !value.is_null()),
            "{pointer}"
        );
    }
}

#[test]
fn with_a_token_the_page_opens_and_its_numbers_do_not() {
    let server = Server::start_with(&["admin.token_file=DIR/config.yaml"]);
    // Any text will do for a token; this one is several words, which no client can send.
    assert_eq!(server.get("/", "").0, 200);
    assert_eq!(server.get("/api/v1/status", "").0, 401);
    assert_eq!(server.get("/api/v1/traces", "Authorization: Bearer x\r\n").0, 401);
    assert_eq!(server.get("/metrics", "").0, 200);
}

#[test]
fn a_foreign_name_for_this_host_is_refused_without_a_token() {
    let server = Server::start();
    let status = |host: &str| server.get("/api/v1/status", &format!("Host: {host}\r\n")).0;
    assert_eq!(
        (status("localhost:8245"), status("127.0.0.1"), status("[::1]:1")),
        (200, 200, 200)
    );
    assert_eq!(
        (
            status("rebound.example"),
            status("localhost.rebound.example:8245")
        ),
        (403, 403)
    );
    assert_eq!(server.get("/healthz", "Host: probe.example\r\n").0, 200);
}
