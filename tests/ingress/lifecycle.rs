//! Connections in time and number: stop, age, idleness, too many, and a client that never pauses.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::grpc_client::{self, ACK, DATA, END_STREAM, EXPORT, Frames, GOAWAY, PING, frame, open, raw_frame};
use crate::http_client::{self, GZIP, PROTOBUF, TRACES, head};
use crate::server::{HOLD, Server, bytes, gzip, options};

#[test]
fn stop_finishes_what_is_in_flight() {
    let server = Server::start();
    let mut rpc_client = grpc_client::Client::connect(server.grpc);
    let mut call = rpc_client.open(EXPORT, &[]);
    call.send(frame(HOLD), true);
    let mut client = http_client::Client::connect(server.http);
    client
        .send(head("POST", TRACES, &[PROTOBUF], Some(HOLD.len())))
        .send(HOLD);
    let mut idle = http_client::Client::connect(server.http);
    assert_eq!(idle.post(TRACES, &[PROTOBUF], b"spans").status, 200);
    (0..3).for_each(|_| drop(server.exported()));

    server.begin_stop();
    assert!(idle.is_closed());
    rpc_client.wait_until_refusing();
    assert!(
        std::net::TcpStream::connect(server.grpc).is_err(),
        "nothing new is accepted"
    );

    server.release(Ok(()));
    assert_eq!(call.reply().status(), 0);
    let response = client.response();
    assert_eq!(
        (response.status, response.header("connection")),
        (200, Some("close"))
    );
    assert!(client.is_closed());
    assert!(rpc_client.closed_in_order());
}

#[test]
fn stop_waits_no_longer_than_its_grace() {
    let mut options = options();
    options.time.grace = Duration::from_millis(30);
    let server = Server::with(options);
    let mut frames = Frames::connect(server.grpc);
    frames
        .send(open(1, 0))
        .send(raw_frame(DATA, END_STREAM, 1, &frame(HOLD)));
    let mut client = http_client::Client::connect(server.http);
    client
        .send(head("POST", TRACES, &[PROTOBUF], Some(HOLD.len())))
        .send(HOLD);
    (0..2).for_each(|_| drop(server.exported()));
    server.begin_stop();
    assert!(client.is_closed());
    assert_eq!(frames.goaway(), Some(0));
}

#[test]
fn an_old_connection_is_asked_to_leave() {
    let mut options = options();
    options.time.age_max = Some(Duration::from_millis(300));
    let server = Server::with(options);
    let mut client = grpc_client::Client::connect(server.grpc);
    let mut call = client.open(EXPORT, &[]);
    call.send(frame(HOLD), true);
    server.exported();
    client.wait_until_refusing();
    server.release(Ok(()));
    assert_eq!(call.reply().status(), 0, "calls in flight are finished");
    assert!(client.closed_in_order());
    assert_eq!(
        grpc_client::Client::connect(server.grpc)
            .export(b"spans")
            .status(),
        0
    );
}

#[test]
fn an_idle_connection_is_closed_in_order() {
    let mut options = options();
    options.time.idle = Duration::from_millis(300);
    let server = Server::with(options);
    let mut client = grpc_client::Client::connect(server.grpc);
    assert_eq!(client.export(b"spans").status(), 0);
    assert!(client.closed_in_order());

    let mut client = http_client::Client::connect(server.http);
    assert_eq!(client.post(TRACES, &[PROTOBUF], b"spans").status, 200);
    assert!(client.is_closed());
}

#[test]
fn a_silent_peer_is_pinged_and_a_dead_one_closed() {
    let mut options = options();
    options.time.keepalive = Duration::from_millis(10);
    options.time.keepalive_timeout = Duration::from_millis(500);
    let server = Server::with(options);
    let mut frames = Frames::connect(server.grpc);
    for _ in 0..3 {
        let ping = frames.until(PING).expect("a ping");
        frames.send(raw_frame(PING, ACK, 0, &ping.payload));
    }
    // From here on it does not answer.
    assert_eq!(frames.until(PING).map(|ping| ping.flags), Some(0));
    assert!(frames.until(GOAWAY).is_some());
    server.wait_for_connections(0);
}

#[test]
fn the_idle_make_room_and_the_busy_do_not() {
    let mut options = options();
    options.connections_max = 3;
    let server = Server::with(options);
    let mut busy: Vec<_> = (0..2)
        .map(|_| http_client::Client::connect(server.http))
        .collect();
    for client in &mut busy {
        client
            .send(head("POST", TRACES, &[PROTOBUF], Some(HOLD.len())))
            .send(HOLD);
        server.exported();
    }
    let mut idle = http_client::Client::connect(server.http);
    assert_eq!(idle.post(TRACES, &[PROTOBUF], b"spans").status, 200);
    server.exported();

    let mut third = http_client::Client::connect(server.http);
    third
        .send(head("POST", TRACES, &[PROTOBUF], Some(HOLD.len())))
        .send(HOLD);
    assert!(idle.is_closed(), "the idle one made room");
    server.exported();

    let mut fourth = http_client::Client::connect(server.http);
    assert!(fourth.is_closed(), "all are busy");
    server.wait_for_turned_away(1);
    server.release(Ok(()));
    for client in busy.iter_mut().chain([&mut third]) {
        assert_eq!(client.response().status, 200);
    }
}

#[test]
fn a_client_that_never_pauses_starves_nobody() {
    let server = Server::start();
    let (grpc, http) = (server.grpc, server.http);
    let done = &AtomicBool::new(false);
    std::thread::scope(|threads| {
        // Pings cost the server more than their sender, so there is always another one to be read, and
        // every pong is taken at once: nothing but the end of its turn stops the connection.
        let mut pinger = Frames::connect(grpc);
        let mut reader = pinger.try_clone();
        threads.spawn(move || {
            let flood = raw_frame(PING, 0, 0, &[0; 8]).repeat(4000);
            while !done.load(Ordering::SeqCst) && pinger.try_send(&flood) {}
            pinger.close();
        });
        threads.spawn(move || while reader.discard() > 0 {});
        threads.spawn(|| {
            let mut client = http_client::Client::connect(http);
            let body = bytes(1 << 20);
            while !done.load(Ordering::SeqCst) {
                assert_eq!(client.post(TRACES, &[PROTOBUF], &body).status, 200);
            }
        });
        let mut client = grpc_client::Client::connect(grpc);
        (0..50).for_each(|_| assert_eq!(client.export(b"spans").status(), 0));
        (0..20).for_each(|_| assert_eq!(grpc_client::Client::connect(grpc).export(b"spans").status(), 0));
        done.store(true, Ordering::SeqCst);
    });
}

#[test]
fn turns_of_one_byte_lose_nothing() {
    let mut options = options();
    options.turn_max = 1;
    let server = Server::with(options);
    let body = bytes(1 << 20);
    let mut client = grpc_client::Client::connect(server.grpc);
    let mut http_client = http_client::Client::connect(server.http);
    for _ in 0..3 {
        assert_eq!(client.export(&body).status(), 0);
        assert_eq!(
            http_client.post(TRACES, &[PROTOBUF, GZIP], &gzip(&body)).status,
            200
        );
    }
    assert!(server.finish_bodies().iter().all(|exported| *exported == body));
}

/// Runs one test of this file in a process of its own, where limits and memory are its own too.
fn alone(name: &str, test: impl FnOnce()) {
    const ALONE: &str = "TAILKEEP_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return test();
    }
    let this = std::env::current_exe().expect("a test binary");
    let name = format!("lifecycle::{name}");
    let child = std::process::Command::new(this)
        .args(["--exact", &name])
        .env(ALONE, "1")
        .output();
    let child = child.expect("the test binary runs");
    let output = String::from_utf8_lossy(&child.stdout);
    assert!(
        child.status.success() && output.contains("1 passed"),
        "{output}{}",
        String::from_utf8_lossy(&child.stderr)
    );
}

#[test]
fn accepting_goes_on_after_running_out_of_descriptors() {
    alone("accepting_goes_on_after_running_out_of_descriptors", || {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let server = Server::start();
        let before = getrlimit(Resource::Nofile);
        let mut open: Vec<_> = (0..20)
            .map(|_| http_client::Client::connect(server.http))
            .collect();
        server.wait_for_connections(20);
        let lowest_free = std::fs::read_dir("/proc/self/fd").expect("/proc").count() as u64;
        // Two more sockets: our side of the next two connections takes them, theirs finds none.
        setrlimit(
            Resource::Nofile,
            Rlimit {
                current: Some(lowest_free + 1),
                ..before
            },
        )
        .expect("a lower limit");
        let mut waiting: Vec<_> = std::iter::from_fn(|| std::net::TcpStream::connect(server.http).ok())
            .take(5)
            .collect();
        assert!(!waiting.is_empty());
        // A good while without descriptors, as the server sees it: it serves what it has.
        for client in &mut open {
            assert_eq!(client.post(TRACES, &[PROTOBUF], b"spans").status, 200);
        }
        setrlimit(Resource::Nofile, before).expect("the limit of before");
        waiting.clear();
        open.clear();
        assert_eq!(
            http_client::Client::connect(server.http)
                .post(TRACES, &[PROTOBUF], b"spans")
                .status,
            200
        );
    });
}

#[test]
fn connections_that_came_and_went_leave_no_memory_behind() {
    alone("connections_that_came_and_went_leave_no_memory_behind", || {
        let server = Server::start();
        let visit = |count: usize| {
            for _ in 0..count {
                let mut frames = Frames::connect(server.grpc);
                frames
                    .send(open(1, 0))
                    .send(raw_frame(DATA, END_STREAM, 1, &frame(b"")));
                assert!(frames.until(1).is_some());
                let mut client = http_client::Client::connect(server.http);
                assert_eq!(client.post(TRACES, &[PROTOBUF], b"").status, 200);
            }
            server.wait_for_connections(0);
            while server.try_event() {}
            resident_bytes()
        };
        let before = visit(1_000);
        let after = visit(9_000);
        let grown = after.saturating_sub(before);
        assert!(
            grown < 6 << 20,
            "{grown} bytes more after 18,000 connections more"
        );
    });
}

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("/proc");
    let pages: usize = statm
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse().ok())
        .expect("a number");
    pages * rustix::param::page_size()
}
