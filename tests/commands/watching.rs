//! `tailkeep status`, `explain` and `manual`: what they print of a running server, and what when there is none.

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::server::{Done, Server, binary, directory, run, wait_until};

const TRACE: &str = "0123456789abcdef0123456789abcdef";
const UNKNOWN: &str = "00000000000000000000000000000001";

fn tailkeep(arguments: &[&str]) -> Done {
    run(Command::new(binary()).args(arguments))
}

#[test]
fn status_tells_what_a_server_has_done() {
    let server = Server::start();
    server.send(TRACE, 1..=3);
    // The line is in the file before its sync, and counts as sent after it.
    wait_until("the spans count as exported", || {
        let (_, _, status) = server.get("/api/v1/status", "");
        status.contains("\"sent\":3")
    });
    let text = server.ask("status", &[]);
    assert_eq!(text.code, 0, "{}", text.stderr);
    for expected in [
        "ready, up ",
        &format!("admin {}", server.admin),
        "spans          3        0     3",
        "1 opened, 0 pending, 1 kept",
        "all     always_sample          1        1        1     1           3",
        "durability fsync",
        "file      ok        3       0",
    ] {
        assert!(text.stdout.contains(expected), "{expected} in\n{}", text.stdout);
    }
    let json = server.ask("status", &["--json"]);
    let status: Value = serde_json::from_str(&json.stdout).expect("JSON");
    assert_eq!(
        (&status["state"], &status["traces"]["kept"]),
        (&"ready".into(), &1.into())
    );
    assert_eq!(status["endpoints"]["admin"], server.admin.as_str());
}

#[test]
fn explain_tells_who_kept_a_trace() {
    let server = Server::start();
    server.send(TRACE, 1..=3);
    wait_until("the trace is exported", || server.exported_lines() == 1);
    let text = server.ask("explain", &[TRACE]);
    assert_eq!(text.code, 0, "{}", text.stderr);
    for expected in [
        &format!("trace {TRACE}\n"),
        "kept by policy all, closed because complete",
        "3 spans",
        "all     match",
    ] {
        assert!(text.stdout.contains(expected), "{expected} in\n{}", text.stdout);
    }
    let json = server.ask("explain", &["--json", TRACE]);
    let explained: Value = serde_json::from_str(&json.stdout).expect("JSON");
    assert_eq!(
        (&explained["trace_id"], &explained["policy"]),
        (&TRACE.into(), &"all".into())
    );
    let (_, _, body) = server.get(&format!("/api/v1/traces/{TRACE}"), "");
    assert_eq!(json.stdout, body, "as the admin port gives it");

    let unknown = server.ask("explain", &[UNKNOWN]);
    assert_eq!((unknown.code, unknown.stdout.as_str()), (1, ""));
    assert!(
        unknown.stderr.contains("the log reaches back to"),
        "{}",
        unknown.stderr
    );
    let unknown = server.ask("explain", &["--json", UNKNOWN]);
    assert_eq!(unknown.code, 1);
    assert!(unknown.stdout.contains("\"not_found\""), "{}", unknown.stdout);
}

#[test]
fn a_token_is_asked_for_and_taken_from_its_file_or_the_configuration() {
    let token_file = directory();
    let path = token_file.path().join("token");
    fs::write(&path, "open-sesame\n").expect("written");
    let path = path.to_str().expect("UTF-8");
    let server = Server::start_with(&[&format!("admin.token_file={path}")]);
    let without = server.ask("status", &[]);
    assert_eq!((without.code, without.stdout.as_str()), (1, ""));
    assert!(without.stderr.contains("--token-file FILE"), "{}", without.stderr);
    assert_eq!(server.ask("status", &["--token-file", path]).code, 0);
    let set = format!("admin.token_file={path}");
    assert_eq!(server.ask("status", &["--set", &set]).code, 0);

    let wrong = token_file.path().join("wrong");
    fs::write(&wrong, "open-barley").expect("written");
    assert_eq!(
        server
            .ask("status", &["--token-file", wrong.to_str().expect("UTF-8")])
            .code,
        1
    );
    fs::write(&wrong, "two\r\nlines: x").expect("written");
    let refused = server.ask("status", &["--token-file", wrong.to_str().expect("UTF-8")]);
    assert!(
        refused.stderr.contains("one word of visible ASCII"),
        "{}",
        refused.stderr
    );
}

#[test]
fn where_nobody_answers_it_is_said_what_to_do() {
    let server = Server::start();
    let otlp = tailkeep(&["status", "--endpoint", &server.http]);
    assert_eq!(otlp.code, 1);
    assert!(
        otlp.stderr.contains("no admin port of a tailkeep"),
        "{}",
        otlp.stderr
    );
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = free.local_addr().expect("bound").to_string();
    drop(free);
    let cases: [(&[&str], i32, &str); 8] = [
        (
            &["status", "--endpoint", &address],
            1,
            "nobody listens there\n  help: is a tailkeep running?",
        ),
        (
            &["explain", TRACE, "--endpoint", &address],
            1,
            "nobody listens there",
        ),
        (
            &["status", "--endpoint", "http://here"],
            2,
            "--endpoint: write host:port",
        ),
        (
            &["status", "--set", "admin.endpoint=127.0.0.1:0"],
            2,
            "say --endpoint HOST:PORT",
        ),
        (
            &["status", "--token-file", "/nonexistent"],
            1,
            "/nonexistent: No such file",
        ),
        (
            &["explain", "12"],
            2,
            "expected a trace id of 32 hexadecimal digits",
        ),
        (&["explain"], 2, "ID"),
        (&["manual", "nonsense"], 2, "there are watching, architecture"),
    ];
    for (arguments, code, message) in cases {
        let done = tailkeep(arguments);
        assert_eq!(
            (done.code, done.stdout.as_str()),
            (code, ""),
            "{arguments:?}: {}",
            done.stderr
        );
        assert!(done.stderr.contains(message), "{arguments:?}: {}", done.stderr);
    }
}

#[test]
fn the_manual_lists_its_pages_and_prints_each() {
    let list = tailkeep(&["manual"]);
    assert_eq!(list.code, 0);
    let (pages, _) = list.stdout.split_once("\n\n").expect("a list");
    assert!(pages.lines().count() >= 6, "{pages}");
    for line in pages.lines() {
        let page = tailkeep(&["manual", line.split(' ').next().expect("a name")]);
        assert_eq!(page.code, 0);
        assert!(page.stdout.starts_with("# "), "{line}: {}", page.stdout);
        assert!(
            !page.stdout.contains("crate::"),
            "{line} has links that lead nowhere"
        );
    }
}
