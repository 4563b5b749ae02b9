//! `tailkeep doctor`: what it finds, and that it changes nothing.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::server::{Done, Server, binary, directory, run};

/// A host on which the other tests run is fit but for what `settings` say.
fn doctor(place: &Path, json: bool, settings: &[&str]) -> Done {
    let mut command = Command::new(binary());
    command.arg("doctor").current_dir(place);
    let fixed = [
        "receivers.otlp.protocols.grpc.endpoint=127.0.0.1:0",
        "receivers.otlp.protocols.http.endpoint=127.0.0.1:0",
        "admin.endpoint=127.0.0.1:0",
        "wal.min_free=0%",
        "memory.limit=256MiB",
    ];
    for setting in fixed.iter().chain(settings) {
        command.arg("--set").arg(setting);
    }
    if json {
        command.arg("--json");
    }
    run(&mut command)
}

/// The level and the help of a check.
fn finding(report: &Value, check: &str) -> (String, String) {
    let findings = report["findings"].as_array().expect("findings");
    let found = findings.iter().find(|finding| finding["check"] == check);
    let found = found.unwrap_or_else(|| panic!("no {check} in {report:#}"));
    let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
    (text("level"), text("help"))
}

fn report(done: &Done) -> Value {
    serde_json::from_str(&done.stdout).unwrap_or_else(|error| panic!("{error}: {}", done.stdout))
}

#[test]
fn a_fit_host_is_called_fit_and_left_as_it_is() {
    let place = directory();
    let done = doctor(place.path(), true, &[]);
    assert_eq!(done.code, 0, "{}\n{}", done.stdout, done.stderr);
    let report = report(&done);
    assert_eq!((&report["fit"], &report["errors"]), (&true.into(), &0.into()));
    for check in [
        "kernel",
        "io_uring",
        "locked memory",
        "open files",
        "memory",
        "data directory",
        "file system",
        "free space",
        "direct writes",
        "port grpc",
        "port http",
        "port admin",
        "cpus",
        "cgroup cpu",
        "exporter file",
        "clock source",
    ] {
        let (level, help) = finding(&report, check);
        assert_eq!(
            level == "ok",
            help.is_empty(),
            "{check}: what is not fine comes with its fix"
        );
    }
    assert_eq!(fs::read_dir(place.path()).expect("there").count(), 0);

    let text = doctor(place.path(), false, &[]);
    assert!(text.stdout.contains("ok       io_uring"), "{}", text.stdout);
    assert!(text.stdout.contains("This host is fit"), "{}", text.stdout);
}

#[test]
fn a_taken_port_is_an_error_that_names_who_has_it() {
    let place = directory();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound");
    let done = doctor(place.path(), false, &[&format!("admin.endpoint={address}")]);
    assert_eq!(done.code, 1, "{}", done.stdout);
    let line = done.stdout.lines().find(|line| line.starts_with("error"));
    let line = line.expect("an error");
    assert!(
        line.contains("port admin") && line.contains(&address.to_string()),
        "{line}"
    );
    assert!(
        line.contains(&format!("(process {})", std::process::id())),
        "{line}"
    );
    assert!(
        done.stdout.contains("set admin.endpoint to another port"),
        "{}",
        done.stdout
    );
    assert!(
        done.stdout.contains("would not work here: 1 error"),
        "{}",
        done.stdout
    );
}

#[test]
fn a_directory_in_use_and_one_of_a_newer_format_are_errors() {
    let place = directory();
    let server = Server::start();
    let check = |settings: &str, check: &str| {
        let done = doctor(place.path(), true, &[settings]);
        assert_eq!(done.code, 1, "{}", done.stdout);
        assert_eq!(finding(&report(&done), check).0, "error");
    };
    check(&format!("node.data_dir={}", server.data_dir().display()), "lock");
    drop(server);
    let newer = place.path().join("newer");
    fs::create_dir(&newer).expect("made");
    fs::write(newer.join("node"), r#"{"format":99}"#).expect("written");
    check(&format!("node.data_dir={}", newer.display()), "data format");
    fs::write(place.path().join("file"), "").expect("written");
    check("node.data_dir=file", "data directory");
}

#[test]
fn a_full_disk_and_cpus_that_are_not_there_are_errors() {
    let place = directory();
    for (setting, check) in [
        ("wal.min_free=99.9%", "free space"),
        ("node.cores=[4000]", "cpus"),
        ("admin.token_file=/nonexistent", "admin token"),
        ("memory.limit=1000TiB", "memory"),
        (
            "receivers.otlp.protocols.grpc.endpoint=203.0.113.1:4317",
            "port grpc",
        ),
    ] {
        let done = doctor(place.path(), true, &[setting]);
        assert_eq!(done.code, 1, "{setting}: {}", done.stdout);
        let report = report(&done);
        assert_eq!(
            (finding(&report, check).0.as_str(), &report["errors"]),
            ("error", &1.into())
        );
    }
}

#[test]
fn a_tmpfs_is_an_error_unless_nothing_is_promised() {
    let place = directory();
    // Only where there is one.
    let mounts = fs::read_to_string("/proc/mounts").expect("Linux");
    if !mounts.contains(" /dev/shm tmpfs") {
        return;
    }
    let tmpfs = "node.data_dir=/dev/shm/tailkeep-doctor-test";
    let done = doctor(place.path(), true, &[tmpfs]);
    assert_eq!(
        (done.code, finding(&report(&done), "file system").0.as_str()),
        (1, "error")
    );
    let done = doctor(place.path(), true, &[tmpfs, "wal.durability=none"]);
    assert_eq!(finding(&report(&done), "file system").0, "ok");
    assert!(!Path::new("/dev/shm/tailkeep-doctor-test").exists());
}

#[test]
fn a_wrong_configuration_is_told_as_everywhere() {
    let place = directory();
    let done = doctor(place.path(), true, &["wal.retain=soon"]);
    assert_eq!((done.code, done.stdout.as_str()), (2, ""));
    assert!(done.stderr.contains("error: --set wal.retain"), "{}", done.stderr);
}
