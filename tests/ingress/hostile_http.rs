//! HTTP/1.1 peers that mean harm. Each test ends with a good client being served.

use std::time::Duration;

use crate::http_client::{Client, PROTOBUF, TRACES, head};
use crate::server::{Server, bytes, options};

/// The server still serves, and nothing but the good client's request reached its core.
fn serves_others(server: Server) {
    assert_eq!(
        Client::connect(server.http)
            .post(TRACES, &[PROTOBUF], b"good spans")
            .status,
        200
    );
    assert_eq!(server.finish_bodies(), [b"good spans"]);
}

#[test]
fn slow_heads_are_closed() {
    let mut options = options();
    options.time.first = Duration::from_millis(30);
    let server = Server::with(options);
    for opening in [
        "",
        "POST /v1/tra",
        "POST /v1/traces HTTP/1.1\r\nHost: localhost\r\nX-Slow: ",
    ] {
        let mut client = Client::connect(server.http);
        client.send(opening);
        assert!(client.is_closed(), "{opening:?}");
    }
    // However long the peer keeps it going.
    let mut client = Client::connect(server.http);
    client.send("POST /v1/traces HTTP/1.1\r\nX-Slow: ");
    while client.try_send("x").is_ok() {
        std::thread::yield_now();
    }
    serves_others(server);
}

#[test]
fn a_slow_head_after_a_request_is_closed() {
    let mut options = options();
    options.time.head = Duration::from_millis(300);
    let server = Server::with(options);
    let mut client = Client::connect(server.http);
    assert_eq!(client.post(TRACES, &[PROTOBUF], b"spans").status, 200);
    client.send("POST /v1/traces HT");
    assert!(client.is_closed());
    server.exported();
    serves_others(server);
}

#[test]
fn a_stalled_or_dribbled_body_is_408() {
    let mut options = options();
    options.time.body = Duration::from_millis(300);
    options.time.drain = Duration::from_millis(10);
    let server = Server::with(options);
    let mut client = Client::connect(server.http);
    client
        .send(head("POST", TRACES, &[PROTOBUF], Some(100)))
        .send("half");
    let response = client.response();
    assert_eq!(
        (response.status, response.header("connection")),
        (408, Some("close"))
    );
    assert!(client.is_closed());

    let mut client = Client::connect(server.http);
    client.send(head("POST", TRACES, &[PROTOBUF], Some(1 << 20)));
    // 30 KiB in 300 ms would do; this is far less.
    for _ in 0..1000 {
        if client.try_send("x").is_err() {
            break;
        }
        client
            .socket()
            .set_read_timeout(Some(Duration::from_millis(1)))
            .expect("a socket");
        if client.socket().peek(&mut [0]).is_ok() {
            break;
        }
    }
    client
        .socket()
        .set_read_timeout(Some(crate::server::PATIENCE))
        .expect("a socket");
    assert_eq!(client.response().status, 408);
    serves_others(server);
}

#[test]
fn ambiguous_requests_are_one_request_or_none() {
    let server = Server::start();
    let smuggled = "POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-protobuf\r\n\
                    Content-Length: 8\r\n\r\nsmuggled";
    let refused = [
        (
            "two lengths",
            "Content-Length: 5\r\nContent-Length: 6\r\n\r\nspans!",
        ),
        ("a signed length", "Content-Length: +5\r\n\r\nspans"),
        ("a hexadecimal length", "Content-Length: 0x5\r\n\r\nspans"),
        ("a negative length", "Content-Length: -5\r\n\r\nspans"),
        (
            "an overlong length",
            "Content-Length: 99999999999999999999\r\n\r\nspans",
        ),
        (
            "an unknown transfer coding",
            "Transfer-Encoding: xchunked\r\n\r\n5\r\nspans\r\n0\r\n\r\n",
        ),
        (
            "chunked not last",
            "Transfer-Encoding: chunked, identity\r\n\r\n5\r\nspans\r\n0\r\n\r\n",
        ),
        ("a space before the colon", "Content-Length : 5\r\n\r\nspans"),
        (
            "a folded field",
            "X-Folded: a\r\n b\r\nContent-Length: 5\r\n\r\nspans",
        ),
        ("a NUL", "X-Nul: a\0b\r\nContent-Length: 5\r\n\r\nspans"),
        (
            "a bad chunk size",
            "Transfer-Encoding: chunked\r\n\r\nxyz\r\nspans\r\n0\r\n\r\n",
        ),
        (
            "an overlong chunk size",
            "Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nspans\r\n0\r\n\r\n",
        ),
        (
            "a chunk longer than said",
            "Transfer-Encoding: chunked\r\n\r\n3\r\nspans\r\n0\r\n\r\n",
        ),
    ];
    for (why, rest) in refused {
        let mut client = Client::connect(server.http);
        client.send(format!(
            "POST /v1/traces HTTP/1.1\r\nContent-Type: application/x-protobuf\r\n{rest}{smuggled}"
        ));
        let status = client.try_response().map(|response| response.status);
        assert!(matches!(status, Some(400) | None), "{why}: {status:?}");
        assert!(client.is_closed(), "{why}");
    }
    // Both lengths: RFC 9112 6.3 lets us go by the chunks, if the connection ends there.
    let mut client = Client::connect(server.http);
    let both = "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nspan\r\n0\r\n\r\n";
    client.send(format!(
        "POST /v1/traces HTTP/1.1\r\nContent-Type: application/x-protobuf\r\n{both}{smuggled}"
    ));
    assert_eq!(client.response().status, 200);
    assert_eq!(server.exported().1, b"span");
    assert!(client.is_closed());
    serves_others(server);
}

#[test]
fn huge_heads_are_431() {
    let server = Server::start();
    let fields = |count: usize| {
        (0..count)
            .map(|at| format!("X-{at}: {}\r\n", "x".repeat(200)))
            .collect::<String>()
    };
    for more in [
        format!("X-Huge: {}\r\n", "x".repeat(40_000)),
        fields(65),
        fields(100_000),
    ] {
        let mut client = Client::connect(server.http);
        let _ = client.try_send(format!(
            "POST /v1/traces HTTP/1.1\r\n{more}Content-Length: 0\r\n\r\n"
        ));
        let status = client.try_response().map(|response| response.status);
        assert!(matches!(status, Some(431) | None), "{status:?}");
    }
    serves_others(server);
}

#[test]
fn something_else_is_closed() {
    let server = Server::start();
    for opening in [
        &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..],
        b"\x16\x03\x01\x02\x00\x01\x00",
        &[0; 100],
    ] {
        let mut client = Client::connect(server.http);
        client.send(opening);
        let status = client.try_response().map(|response| response.status);
        assert!(matches!(status, Some(400 | 505) | None), "{status:?}");
    }
    serves_others(server);
}

#[test]
fn who_asks_and_never_reads_is_closed() {
    let mut options = options();
    options.time.reply = Duration::from_millis(50);
    let server = Server::with(options);
    let mut client = Client::connect(server.http);
    let asked = head("POST", "/v1/nowhere", &[PROTOBUF], Some(0)).repeat(1000);
    let mut taken = 0;
    while client.try_send(&asked).is_ok() {
        taken += 1;
        assert!(taken < 10_000, "requests are taken for ever");
    }
    serves_others(server);
}

#[test]
fn a_client_that_leaves_in_mid_body_is_forgotten() {
    let server = Server::start();
    let mut client = Client::connect(server.http);
    client
        .send(head("POST", TRACES, &[PROTOBUF], Some(100_000)))
        .send(bytes(50_000));
    server.wait_for_in_flight(50_000);
    drop(client);
    server.wait_for_connections(0);
    serves_others(server);
}
