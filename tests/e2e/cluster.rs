//! Two real nodes and strangers, over real sockets.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use crate::http::Client;
use crate::process::{Place, Tailkeep, wait_for};
use crate::traffic::{self, ERROR, request, span};

fn write_key(place: &Place, key: &str, mode: u32) -> String {
    let path = place.data().with_extension("key");
    fs::write(&path, key).expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("ours");
    path.display().to_string()
}

/// A node that asks `others`; they may be started after it.
pub fn member(name: &str, key: &str, others: &[SocketAddr]) -> Place {
    let place = Place::new(name).errors_only();
    let key_file = write_key(&place, key, 0o600);
    let join: Vec<String> = others.iter().map(|address| format!("\"{address}\"")).collect();
    place
        .with("node.name", name)
        .with("completion.quiet", "2s")
        .with("cluster.listen", "127.0.0.1:0")
        .with("cluster.key_file", &key_file)
        .with("cluster.join", &format!("[{}]", join.join(", ")))
}

pub fn address(tailkeep: &Tailkeep) -> SocketAddr {
    let address = tailkeep.status()["endpoints"]["cluster"].clone();
    address.as_str().expect("resolved").parse().expect("an address")
}

/// Names and states of members, by name.
fn members(tailkeep: &Tailkeep) -> Vec<(String, String)> {
    let status = tailkeep.status();
    let members = status["cluster"]["members"].as_array().expect("a list").iter();
    let text = |value: &serde_json::Value| value.as_str().expect("text").to_string();
    let mut members: Vec<_> = members
        .map(|member| (text(&member["name"]), text(&member["state"])))
        .collect();
    members.sort();
    members
}

pub fn wait_members(tailkeep: &Tailkeep, expected: &[(&str, &str)]) {
    let expected: Vec<_> = expected
        .iter()
        .map(|(name, state)| (name.to_string(), state.to_string()))
        .collect();
    wait_for("the members", || (members(tailkeep) == expected).then_some(()));
}

#[test]
fn nodes_find_each_other_decide_for_all_and_leave() {
    let key = "0a".repeat(32);
    let one = member("one", &key, &[]);
    let first = one.start();
    let two = member("two", &key, &[address(&first)]);
    let second = two.start();
    for tailkeep in [&first, &second] {
        wait_members(tailkeep, &[("one", "alive"), ("two", "alive")]);
        assert_eq!(tailkeep.status()["cluster"]["encrypted"], true);
    }
    // The failed span lands on one node, the other span of its trace on the other.
    for number in 0..10 {
        let status = if number < 5 { ERROR } else { 0 };
        Client::new(first.http).export(&request("a", vec![span(traffic::trace_id(number), 0, 0)]));
        Client::new(second.http).export(&request("b", vec![span(traffic::trace_id(number), 1, status)]));
    }
    for tailkeep in [&first, &second] {
        tailkeep.wait_settled();
    }
    second.stop_well();
    wait_members(&first, &[("one", "alive"), ("two", "left")]);
    first.stop_well();
    let due = (0..5).map(|number| traffic::trace_id(number).to_vec()).collect();
    assert_eq!(one.output().traces(), due);
    assert_eq!(two.output().traces(), due);
}

#[test]
fn strangers_are_not_let_in_nor_answered() {
    let one = member("host", &"0a".repeat(32), &[]);
    let first = one.start();
    let stranger = member("stranger", &"0b".repeat(32), &[address(&first)]);
    let second = stranger.start();
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    for bytes in [
        &b"tk"[..],
        &[0; 2000],
        b"tk\x01\x00\x01 and a long header that nobody sealed",
    ] {
        socket.send_to(bytes, address(&first)).expect("sent");
    }
    wait_for("the datagrams of both", || {
        let (_, metrics) = crate::http::get(first.admin, "/metrics");
        let metrics = String::from_utf8(metrics).expect("text");
        let counted = |outcome: &str| {
            let name = format!("tailkeep_gossip_datagrams_total{{direction=\"in\",outcome=\"{outcome}\"}} ");
            let line = metrics
                .lines()
                .find_map(|line| line.strip_prefix(&name))
                .expect("a counter");
            line.parse::<u64>().expect("a number")
        };
        let rejected = counted("garbage") >= 1 && counted("oversized") >= 1 && counted("unknown_key") >= 2;
        (rejected && counted("accepted") == 0).then_some(())
    });
    assert_eq!(members(&first), [("host".to_string(), "alive".to_string())]);
    assert_eq!(members(&second), [("stranger".to_string(), "alive".to_string())]);
    socket
        .set_read_timeout(Some(Duration::from_millis(100)))
        .expect("set");
    assert!(socket.recv(&mut [0; 2000]).is_err(), "nobody is answered");
    first.stop_well();
    second.stop_well();
}

#[test]
fn a_key_that_others_may_read_and_a_port_that_is_taken_are_refused() {
    let place = member("open", &"0a".repeat(32), &[]);
    let path = write_key(&place, &"0a".repeat(32), 0o644);
    let (code, log) = place.run_to_exit();
    assert_eq!(code, Some(1), "{log}");
    assert!(
        log.contains(&format!("cluster.key_file: {path}: its mode is 0644")),
        "{log}"
    );
    fs::set_permissions(Path::new(&path), fs::Permissions::from_mode(0o600)).expect("ours");
    let taken = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let address = taken.local_addr().expect("bound");
    let place = place.with("cluster.listen", &address.to_string());
    let (code, log) = place.run_to_exit();
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("cluster.listen: 127.0.0.1:"), "{log}");
}
