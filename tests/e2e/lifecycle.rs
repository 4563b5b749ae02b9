//! Starting, stopping, and what a start refuses.

use std::fs;
use std::net::TcpListener;
use std::path::Path;

use crate::http::Client;
use crate::process::{Place, wait_for};
use crate::traffic::{self, ERROR, request, span};

#[test]
fn pending_traces_resume_after_sigterm() {
    let mut place = Place::new("resume").errors_only().with("completion.quiet", "20s");
    let tailkeep = place.start();
    let mut client = Client::new(tailkeep.http);
    for number in 0..10 {
        let status = if number < 5 { ERROR } else { 0 };
        client.export(&request("a", vec![span(traffic::trace_id(number), 0, status)]));
    }
    tailkeep.stop_well();
    assert!(
        place.output().spans.is_empty(),
        "nothing is decided early because of a stop"
    );

    place.set("completion.quiet", "200ms");
    let tailkeep = place.start();
    let status = tailkeep.wait_settled();
    assert_eq!(status["wal"]["last_replay"]["traces_resumed"], 10);
    assert_eq!(status["incarnation"], 2);
    tailkeep.stop_well();
    assert_eq!(
        place.output().traces(),
        (0..5).map(|number| traffic::trace_id(number).to_vec()).collect()
    );

    // What has been exported does not come again.
    let tailkeep = place.start();
    let status = tailkeep.wait_settled();
    assert_eq!(status["wal"]["last_replay"]["traces_resumed"], 0);
    assert_eq!(status["exporters"][0]["sent"], 0);
    tailkeep.stop_well();
    assert_eq!(place.output().spans.len(), 5);
}

#[test]
fn kept_traces_are_exported_before_the_process_ends() {
    let place = Place::new("flush");
    let tailkeep = place.start();
    Client::new(tailkeep.http).export(&request("a", vec![span(traffic::trace_id(1), 0, 0)]));
    wait_for("the decision", || {
        (tailkeep.status()["traces"]["pending"] == 0).then_some(())
    });
    tailkeep.stop_well();
    assert_eq!(place.output().spans.len(), 1);
}

#[test]
fn a_second_process_is_refused() {
    let place = Place::new("locked");
    let first = place.start();
    let (code, log) = place.run_to_exit();
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("another tailkeep uses this data directory"), "{log}");
    assert_eq!(first.ask("/readyz").0, 200);
    first.stop_well();
}

#[test]
fn a_port_in_use_is_refused_by_name() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound").to_string();
    let place = Place::new("port").with("receivers.otlp.protocols.http.endpoint", &address);
    let (code, log) = place.run_to_exit();
    assert_eq!(code, Some(1), "{log}");
    assert!(
        log.contains("receivers.otlp.protocols.http.endpoint") && log.contains(&address),
        "{log}"
    );
}

#[test]
fn two_of_our_own_do_not_share_a_port() {
    let first_place = Place::new("port-first");
    let first = first_place.start();
    let place = Place::new("port-second").with("admin.endpoint", &first.admin.to_string());
    let (code, log) = place.run_to_exit();
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("admin.endpoint"), "{log}");
}

#[test]
fn a_newer_format_is_refused_and_nothing_is_touched() {
    let place = Place::new("newer");
    place.start().stop_well();
    let node = place.data().join("node");
    let text = fs::read_to_string(&node).expect("the identity");
    fs::write(&node, text.replace("\"format\":1", "\"format\":99")).expect("written");
    let before = contents(&place.data());
    let (code, log) = place.run_to_exit();
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("newer"), "{log}");
    assert_eq!(contents(&place.data()), before);
}

/// Every file below a directory, and what is in it.
fn contents(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("readable").path();
        match path.is_dir() {
            true => files.extend(contents(&path)),
            false => files.push((path.display().to_string(), fs::read(&path).expect("readable"))),
        }
    }
    files.sort();
    files
}

#[test]
fn tmpfs_is_refused_unless_nothing_is_promised() {
    let magic = rustix::fs::statfs("/dev/shm").map_or(0, |found| found.f_type as u64);
    if magic != 0x0102_1994 {
        println!("skipped: /dev/shm is no tmpfs here");
        return;
    }
    let directory = tempfile::tempdir_in("/dev/shm").expect("a directory in memory");
    let mut place = Place::new("tmpfs");
    place.set("node.data_dir", directory.path().to_str().expect("UTF-8"));
    let (code, log) = place.run_to_exit();
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("tmpfs"), "{log}");
    place.set("wal.durability", "none");
    let tailkeep = place.start();
    Client::new(tailkeep.http).export(&request("a", vec![span(traffic::trace_id(1), 0, 0)]));
    tailkeep.wait_settled();
    tailkeep.stop_well();
    assert_eq!(place.output().spans.len(), 1);
}

#[test]
fn a_wrong_configuration_ends_with_2() {
    let place = Place::new("wrong").policies("[{ name: x, type: nonsense }]");
    let (code, log) = place.run_to_exit();
    assert_eq!(code, Some(2), "{log}");
}

#[test]
fn the_data_directory_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new("private");
    let tailkeep = place.start();
    Client::new(tailkeep.http).export(&request("a", vec![span(traffic::trace_id(1), 0, 0)]));
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(&place.data()), 0o700);
    assert!(!place.segments().is_empty());
    place
        .segments()
        .iter()
        .for_each(|segment| assert_eq!(mode(segment), 0o600));
    tailkeep.stop_well();
}

/// Fewer cores than logs: a log without a core is delivered to its end, and goes when nothing in it is young enough to
/// be kept.
#[test]
fn a_log_without_a_core_goes_once_nothing_waits_in_it() {
    let mut place = Place::new("fewer-cores")
        .with("node.cores", "3")
        .with("completion.quiet", "20s");
    let tailkeep = place.start();
    // Connections are handed to the core with the fewest, so every log gets some.
    let mut clients: Vec<Client> = (0..6).map(|_| Client::new(tailkeep.http)).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.export(&request("a", vec![span(traffic::trace_id(number as u64), 0, 0)]));
    }
    tailkeep.stop_well();
    let directories = |place: &Place| {
        let names = fs::read_dir(place.data()).expect("the directory").flatten();
        let mut names: Vec<String> = names
            .map(|it| it.file_name().to_string_lossy().into_owned())
            .collect();
        names.retain(|name| name.starts_with("log-") || name.starts_with("kept-"));
        names.sort();
        names
    };
    assert_eq!(directories(&place).len(), 6);

    // Spans wait in them: they stay and are delivered.
    place.set("node.cores", "1");
    place.set("completion.quiet", "100ms");
    let tailkeep = place.start();
    assert_eq!(directories(&place).len(), 6);
    tailkeep.wait_settled();
    tailkeep.stop_well();
    assert_eq!(place.output().traces().len(), 6);

    // Settled, and younger than `retain`.
    place.start().stop_well();
    assert_eq!(directories(&place).len(), 6);

    place.set("wal.retain", "1ms");
    place.start().stop_well();
    assert_eq!(directories(&place), ["kept-00", "log-00"]);
    place.start().stop_well();
    assert_eq!(place.output().spans.len(), 6);
}
