//! The commands from outside: the executable, its exit codes, what it prints and leaves.

#[path = "commands/doctor.rs"]
mod doctor;
#[path = "commands/page.rs"]
mod page;
#[path = "commands/server.rs"]
mod server;
#[path = "commands/watching.rs"]
mod watching;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use server::{Server, binary, directory, run, terminate, wait_until};

const ONE: &str = "0123456789abcdef0123456789abcdef";
const OTHER: &str = "fedcba9876543210fedcba9876543210";

/// Entries of a directory by name, and how many processes work in it.
fn left_in(directory: &Path) -> (Vec<String>, usize) {
    let name = |entry: std::io::Result<fs::DirEntry>| entry.expect("an entry").file_name().into_string();
    let entries = fs::read_dir(directory).expect("still there").map(name);
    let directory = directory.canonicalize().expect("still there");
    let processes = fs::read_dir("/proc").expect("Linux").flatten();
    let works_here = |process: &fs::DirEntry| {
        fs::read_link(process.path().join("cwd")).is_ok_and(|found| found == directory)
    };
    (
        entries.map(|name| name.expect("UTF-8")).collect(),
        processes.filter(works_here).count(),
    )
}

/// The first number of the line that begins with `name`.
fn number_of(text: &str, name: &str) -> u64 {
    let line = text.lines().find(|line| line.trim_start().starts_with(name));
    let words = line
        .unwrap_or_else(|| panic!("no {name} in\n{text}"))
        .trim_start()[name.len()..]
        .split_whitespace();
    let number = words
        .map(|word| word.replace(',', ""))
        .find_map(|word| word.parse().ok());
    number.unwrap_or_else(|| panic!("no number behind {name} in\n{text}"))
}

#[test]
fn a_demo_shows_counts_and_a_kept_trace_and_leaves_only_its_output() {
    let directory = directory();
    let done = run(Command::new(binary())
        .current_dir(&directory)
        .args(["demo", "--for", "2s"]));
    assert_eq!(done.code, 0, "{}\n{}", done.stdout, done.stderr);
    let sent = number_of(&done.stdout, "spans sent");
    assert!(sent > 0);
    assert_eq!(number_of(&done.stdout, "acknowledged"), sent);
    let traces = number_of(&done.stdout, "traces");
    assert_eq!(
        number_of(&done.stdout, "kept ") + number_of(&done.stdout, "rolled up"),
        traces
    );
    let (_, tree) = done
        .stdout
        .split_once("\ntrace ")
        .unwrap_or_else(|| panic!("no trace in\n{}", done.stdout));
    assert!(
        tree.contains("kept by policy ") && tree.contains("closed because complete"),
        "{tree}"
    );
    assert!(
        tree.contains("\n  frontend  ") && tree.contains("\n    frontend  "),
        "{tree}"
    );
    let exported = fs::read_to_string(directory.path().join("tailkeep-demo.jsonl")).expect("the output");
    let trace_id = tree.split(':').next().expect("an id");
    assert!(
        exported.lines().any(|line| line.contains(trace_id)),
        "{trace_id} is in the output"
    );
    assert_eq!(
        left_in(directory.path()),
        (vec!["tailkeep-demo.jsonl".to_owned()], 0)
    );
}

#[test]
fn a_demo_that_crashes_loses_nothing_and_says_so() {
    let directory = directory();
    let done = run(Command::new(binary())
        .current_dir(&directory)
        .args(["demo", "--crash", "--for", "4s"]));
    assert_eq!(done.code, 0, "{}\n{}", done.stdout, done.stderr);
    let (_, counted) = done.stdout.split_once("SIGKILL: ").expect("it tells of the kill");
    assert!(counted.contains("Ready again after "), "{counted}");
    let (_, balance) = counted.split_once("traces\nacknowledged").expect("a balance");
    let balance = format!("acknowledged{balance}");
    let due = number_of(&balance, "to be kept");
    assert!(due > 0 && due < number_of(&balance, "acknowledged"), "{balance}");
    assert_eq!(number_of(&balance, "in the output"), due);
    assert_eq!(number_of(&balance, "lost"), 0);
    assert_eq!(
        left_in(directory.path()),
        (vec!["tailkeep-demo.jsonl".to_owned()], 0)
    );
}

#[test]
fn off_a_terminal_a_demo_prints_plain_lines() {
    let directory = directory();
    let done = run(Command::new(binary())
        .current_dir(&directory)
        .env("TERM", "xterm")
        .args(["demo", "--for", "2s"]));
    assert_eq!(done.code, 0, "{}\n{}", done.stdout, done.stderr);
    assert!(!done.stdout.contains('\u{1b}'), "no escapes");
    for word in [
        "errors",
        "slow",
        "baseline",
        "log",
        "memory",
        "is deployed",
        "What to do next",
    ] {
        assert!(done.stdout.contains(word), "{word} in\n{}", done.stdout);
    }
}

#[test]
fn a_demo_that_is_interrupted_clears_away() {
    let directory = directory();
    let said = directory.path().join("said");
    let mut demo = Command::new(binary())
        .current_dir(&directory)
        .args(["demo", "--for", "1h"])
        .stdout(fs::File::create(&said).expect("a file"))
        .stderr(Stdio::null())
        .spawn()
        .expect("the demo starts");
    wait_until("the demo is ready", || {
        fs::read_to_string(&said).is_ok_and(|text| text.contains("rolled up"))
    });
    terminate(&demo);
    assert_eq!(demo.wait().expect("ended").code(), Some(1));
    let (mut files, processes) = left_in(directory.path());
    files.sort();
    assert_eq!(
        (files, processes),
        (vec!["said".to_owned(), "tailkeep-demo.jsonl".to_owned()], 0)
    );
}

/// Span ids of OTLP/JSON lines, and the verdict objects among them.
fn parse(stdout: &str) -> (Vec<String>, Vec<Value>) {
    let (mut spans, mut verdicts) = (Vec::new(), Vec::new());
    for line in stdout.lines() {
        let value: Value = serde_json::from_str(line).expect("an object a line");
        let before = spans.len();
        for resource_spans in value["resourceSpans"].as_array().into_iter().flatten() {
            for scope_spans in resource_spans["scopeSpans"].as_array().into_iter().flatten() {
                let found = scope_spans["spans"].as_array().into_iter().flatten();
                spans.extend(found.map(|span| span["spanId"].as_str().expect("an id").to_owned()));
            }
        }
        if spans.len() == before {
            verdicts.push(value);
        }
    }
    spans.sort();
    (spans, verdicts)
}

fn ids(numbers: std::ops::RangeInclusive<u64>) -> Vec<String> {
    numbers.map(|number| format!("{number:016x}")).collect()
}

/// What must be so beside a running engine and after it.
fn check_cat(server: &Server) {
    let all = server.cat(&["--json"]);
    assert_eq!(all.code, 0, "{}", all.stderr);
    let (spans, verdicts) = parse(&all.stdout);
    assert_eq!(spans, ids(1..=5), "every span once, whatever was exported");
    for trace in [ONE, OTHER] {
        let verdict = verdicts
            .iter()
            .find(|verdict| verdict["trace_id"] == trace)
            .expect("a verdict");
        assert_eq!(
            (&verdict["verdict"], &verdict["policy"]),
            (&"kept".into(), &"all".into())
        );
    }

    let one = server.cat(&["--json", "--trace", ONE]);
    assert_eq!(parse(&one.stdout), (ids(1..=3), vec![]));
    assert!(
        one.stderr.contains(ONE) && one.stderr.contains("\"kept\""),
        "{}",
        one.stderr
    );
    assert!(!one.stderr.contains(OTHER), "{}", one.stderr);

    let listing = server.cat(&[]);
    for expected in [
        "names",
        "1 trace, 3 spans",
        "1 trace, 2 spans",
        ONE,
        OTHER,
        "kept       complete  all",
    ] {
        assert!(
            listing.stdout.contains(expected),
            "{expected} in\n{}",
            listing.stdout
        );
    }
    let one = server.cat(&["--trace", ONE]);
    assert!(
        one.stdout.contains("span 0000000000000003 in 0000000000000001"),
        "{}",
        one.stdout
    );
    assert!(
        !one.stdout.contains(OTHER) && one.stderr.contains(ONE),
        "{}\n{}",
        one.stdout,
        one.stderr
    );

    let none = server.cat(&["--json", "--trace", "00000000000000000000000000000001"]);
    assert_eq!((none.code, none.stdout.as_str()), (0, ""));
    assert!(none.stderr.contains("holds nothing of trace"), "{}", none.stderr);
}

fn server_with_two_traces() -> Server {
    let server = Server::start();
    server.send(ONE, 1..=3);
    server.send(OTHER, 4..=5);
    wait_until("both traces are exported", || server.exported_lines() == 2);
    server
}

#[test]
fn cat_prints_what_a_live_directory_holds_and_what_a_left_one_does() {
    let mut server = server_with_two_traces();
    check_cat(&server);
    server.stop();
    check_cat(&server);
}

#[test]
fn cat_tells_of_damage_and_prints_the_rest() {
    let mut server = server_with_two_traces();
    server.stop();
    let id = u128::from_str_radix(ONE, 16).expect("hexadecimal").to_be_bytes();
    let logs = ["log-00", "log-01"].map(|log| server.data_dir().join(log));
    let segments = logs
        .iter()
        .filter_map(|log| fs::read_dir(log).ok())
        .flatten()
        .flatten();
    let damaged = segments.filter(|segment| {
        let mut bytes = fs::read(segment.path()).expect("a segment");
        let Some(at) = bytes.windows(16).position(|window| window == id) else {
            return false;
        };
        bytes[at] ^= 1;
        fs::write(segment.path(), bytes).is_ok()
    });
    assert_eq!(damaged.count(), 1);
    let cat = server.cat(&["--json"]);
    assert_eq!(cat.code, 0);
    assert!(
        cat.stderr.contains("log-0") && cat.stderr.contains("corrupt from"),
        "{}",
        cat.stderr
    );
    let (spans, _) = parse(&cat.stdout);
    // Of the damaged one there is still the copy that was made for its export.
    assert!(spans.ends_with(&ids(4..=5)), "{spans:?}");
}

#[test]
fn cat_does_not_mind_a_reader_that_goes_away() {
    let mut server = server_with_two_traces();
    server.stop();
    let mut command = Command::new(binary());
    command
        .arg("cat")
        .arg("--data-dir")
        .arg(server.data_dir())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut cat = command.spawn().expect("cat starts");
    drop(cat.stdout.take());
    let done = cat.wait_with_output().expect("it ends");
    assert_eq!((done.status.code(), &done.stderr[..]), (Some(0), &b""[..]));
}

#[test]
fn mistakes_are_told_with_their_exit_code() {
    let directory = directory();
    let empty = directory.path().join("empty");
    fs::create_dir(&empty).expect("made");
    let empty = empty.to_str().expect("UTF-8");
    let cases: [(&[&str], i32, &str); 9] = [
        (
            &["cat", "--data-dir", "/nonexistent/directory"],
            1,
            "/nonexistent/directory: No such file",
        ),
        (&["cat", "--data-dir", empty], 1, "is no data directory"),
        (
            &["cat", "--trace", "12"],
            2,
            "--trace: expected 32 hexadecimal digits",
        ),
        (
            &["cat", "--trace", "00000000000000000000000000000000"],
            2,
            "--trace: expected 32 hexadecimal digits",
        ),
        (
            &["cat", "--config", "/nonexistent/file.yaml"],
            2,
            "cannot be read",
        ),
        (&["demo", "--for", "soon"], 2, "--for: expected a duration"),
        (&["demo", "--for", "0s"], 2, "--for: expected a duration"),
        (&["demo", "--crash", "--for", "1h"], 2, "a duration up to 10m"),
        (&["demo", "--forever"], 2, "--forever"),
    ];
    for (arguments, code, message) in cases {
        let done = run(Command::new(binary()).current_dir(&directory).args(arguments));
        assert_eq!((done.code, done.stdout.as_str()), (code, ""), "{arguments:?}");
        assert!(done.stderr.contains(message), "{arguments:?}: {}", done.stderr);
    }
    assert_eq!(left_in(directory.path()), (vec!["empty".to_owned()], 0));
}
