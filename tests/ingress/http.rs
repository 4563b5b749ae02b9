//! OTLP/HTTP: what the specification asks of a server.

use std::time::Duration;

use prost::Message;
use serde_json::{Value, json};
use tailkeep::io::ingress::Transport;

use crate::grpc_client::{BAD_REQUEST, RpcStatus};
use crate::http_client::{Client, JSON, PROTOBUF, TRACES, head};
use crate::server::{BAD_JSON, HOLD, INVALID, PARTIAL, REFUSE, Server, TOO_LARGE, bytes, options};

#[test]
fn h01_h02_traces_are_posted_in_either_encoding_to_one_port() {
    let server = Server::start();
    let mut client = Client::connect(server.http);
    assert_eq!(client.post(TRACES, &[PROTOBUF], b"spans").status, 200);
    assert_eq!(server.exported(), (Transport::Http, b"spans".to_vec()));
    let json = ("Content-Type", "application/json; charset=utf-8");
    assert_eq!(client.post(TRACES, &[json], b"{spans}").status, 200);
    assert_eq!(server.exported(), (Transport::Http, b"spans".to_vec()));
}

#[test]
fn h03_a_reply_has_the_content_type_of_its_request() {
    let server = Server::start();
    let mut client = Client::connect(server.http);
    let bodies = [&b"{spans}"[..], INVALID, REFUSE, PARTIAL, TOO_LARGE];
    for (header, expected) in [(PROTOBUF, "application/x-protobuf"), (JSON, "application/json")] {
        for body in bodies {
            assert_eq!(
                client.post(TRACES, &[header], body).header("content-type"),
                Some(expected)
            );
        }
        assert_eq!(
            client.post("/v1/logs", &[header], b"").header("content-type"),
            Some(expected)
        );
    }
}

#[test]
fn h04_too_large_is_413_and_the_client_sees_it() {
    let server = Server::start();
    let mut client = Client::connect(server.http);
    assert_eq!(
        client.post(TRACES, &[PROTOBUF], &bytes(1 << 20)).status,
        200,
        "the limit itself fits"
    );
    // Announced, and by chunks; the connection goes on, for the body was read to its end.
    assert_eq!(
        client.post(TRACES, &[PROTOBUF], &bytes((1 << 20) + 1)).status,
        413
    );
    client.send(head(
        "POST",
        TRACES,
        &[PROTOBUF, ("Transfer-Encoding", "chunked")],
        None,
    ));
    for _ in 0..11 {
        client.send("186a0\r\n").send(bytes(100_000)).send("\r\n");
    }
    assert_eq!(client.send("0\r\n\r\n").response().status, 413);
    assert_eq!(client.post(TRACES, &[PROTOBUF], TOO_LARGE).status, 413);
    // Beyond what would be read: answered at once, and closed.
    let endless = client
        .send(head("POST", TRACES, &[PROTOBUF], Some(4 << 30)))
        .response();
    assert_eq!(
        (endless.status, endless.header("connection")),
        (413, Some("close"))
    );
    assert!(client.try_send(bytes(100_000)).is_err() || client.is_closed());
}

#[test]
fn h05_partial_success_is_200() {
    let server = Server::start();
    let response = Client::connect(server.http).post(TRACES, &[JSON], PARTIAL);
    assert_eq!(response.status, 200);
    let expected = json!({ "partialSuccess": {
        "rejectedSpans": "2", "errorMessage": "partial: two spans have no id",
    } });
    assert_eq!(
        serde_json::from_slice::<Value>(&response.body).expect("JSON"),
        expected
    );
}

#[test]
fn h06_h07_bad_data_is_400_with_a_status_in_the_requests_encoding() {
    let server = Server::start();
    let mut client = Client::connect(server.http);
    let response = client.post(TRACES, &[PROTOBUF], INVALID);
    assert_eq!(response.status, 400);
    let status = RpcStatus::decode(&response.body[..]).expect("protobuf");
    assert_eq!(
        (status.code, status.message.as_str()),
        (3, "invalid: 100 % \"wärong\"")
    );
    assert_eq!(status.details[0].type_url, BAD_REQUEST);

    let response = client.post(TRACES, &[JSON], BAD_JSON);
    assert_eq!(response.status, 400);
    let status: Value = serde_json::from_slice(&response.body).expect("JSON");
    let message = "line 1 column 19: expected an array";
    let violation = json!({ "@type": BAD_REQUEST, "fieldViolations": [{ "description": message }] });
    assert_eq!(
        status,
        json!({ "code": 3, "message": message, "details": [violation] })
    );
}

#[test]
fn h08_overload_is_503_with_retry_after() {
    let server = Server::start();
    let response = Client::connect(server.http).post(TRACES, &[PROTOBUF], REFUSE);
    assert_eq!(response.status, 503);
    assert_eq!(
        response.header("retry-after"),
        Some("2"),
        "1.5 s in whole seconds"
    );
    assert_eq!(RpcStatus::decode(&response.body[..]).expect("protobuf").code, 14);
}

#[test]
fn h09_replies_are_never_compressed() {
    let server = Server::start();
    let response =
        Client::connect(server.http).post(TRACES, &[PROTOBUF, ("Accept-Encoding", "gzip")], PARTIAL);
    assert_eq!(response.header("content-encoding"), None);
}

#[test]
fn h11_wrong_paths_methods_and_types_have_their_statuses() {
    let server = Server::start();
    let mut client = Client::connect(server.http);
    assert_eq!(client.post("/v1/logs", &[PROTOBUF], b"logs").status, 404);
    assert_eq!(client.post("/v1/metrics", &[PROTOBUF], b"metrics").status, 404);
    let get = client.send(head("GET", TRACES, &[], None)).response();
    assert_eq!((get.status, get.header("allow")), (405, Some("POST")));
    assert_eq!(
        client
            .post(TRACES, &[("Content-Type", "text/plain")], b"spans")
            .status,
        415
    );
    assert_eq!(client.post(TRACES, &[], b"spans").status, 415);
    let brotli = client.post(TRACES, &[PROTOBUF, ("Content-Encoding", "br")], b"spans");
    assert_eq!(
        (brotli.status, brotli.header("accept-encoding")),
        (415, Some("gzip, zstd"))
    );
    assert_eq!(
        client.post(TRACES, &[PROTOBUF], b"spans").status,
        200,
        "the connection goes on"
    );
}

#[test]
fn an_error_reply_is_sent_after_the_body_was_heard_out() {
    let server = Server::start();
    let mut client = Client::connect(server.http);
    let response = client.post("/v1/nowhere", &[PROTOBUF], &bytes(7 << 20));
    assert_eq!(response.status, 404);
    assert_eq!(
        client.post(TRACES, &[PROTOBUF], b"spans").status,
        200,
        "the connection goes on"
    );
}

#[test]
fn an_error_reply_is_not_overtaken_by_a_reset() {
    let server = Server::start();
    let mut client = Client::connect(server.http);
    // Too much to be heard out, and most of it unread when the response goes out.
    client
        .send(head("POST", "/v1/nowhere", &[PROTOBUF], Some(1 << 30)))
        .send(bytes(300_000));
    assert_eq!(client.response().status, 404);
    assert!(client.is_closed_in_order());
}

#[test]
fn a_client_that_asks_first_is_told_to_go_on_or_not() {
    let server = Server::start();
    let expect = ("Expect", "100-continue");
    let mut client = Client::connect(server.http);
    client.send(head("POST", TRACES, &[PROTOBUF, expect], Some(5)));
    assert_eq!(client.response().status, 100);
    assert_eq!(client.send("spans").response().status, 200);

    client.send(head("POST", TRACES, &[expect], Some(5)));
    assert_eq!(client.response().status, 415, "without having sent the body");
    assert!(client.is_closed());
    assert_eq!(server.finish_bodies(), [b"spans"]);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let server = Server::start();
    let mut client = Client::connect(server.http);
    let mut requests = Vec::new();
    for body in [&b"one"[..], INVALID, b"three"] {
        requests.extend(head("POST", TRACES, &[PROTOBUF], Some(body.len())).into_bytes());
        requests.extend(body);
    }
    client.send(requests);
    let statuses: Vec<_> = (0..3).map(|_| client.response().status).collect();
    assert_eq!(statuses, [200, 400, 200]);
}

#[test]
fn a_client_that_closes_its_side_is_still_answered() {
    let server = Server::start();
    let mut client = Client::connect(server.http);
    client
        .send(head("POST", TRACES, &[PROTOBUF], Some(HOLD.len())))
        .send(HOLD)
        .close_write();
    server.exported();
    server.release(Ok(()));
    assert_eq!(client.response().status, 200);
    assert!(client.is_closed());
}

#[test]
fn a_log_that_is_too_slow_is_503() {
    let mut options = options();
    options.time.handler = Duration::from_millis(20);
    let server = Server::with(options);
    let mut client = Client::connect(server.http);
    let response = client.post(TRACES, &[JSON], HOLD);
    assert_eq!(
        (response.status, response.header("retry-after")),
        (503, Some("1"))
    );
    assert_eq!(
        client.post(TRACES, &[JSON], b"{spans}").status,
        200,
        "the connection goes on"
    );
}
