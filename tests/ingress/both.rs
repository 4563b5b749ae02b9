//! What the OTLP specification asks of a server on either transport.

use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceResponse,
};
use prost::Message;
use tailkeep::io::ingress::{Code, Transport, Unavailable};

use crate::grpc_client::{self, EXPORT, frame, framed};
use crate::http_client::{self, GZIP, JSON, PROTOBUF, TRACES};
use crate::server::{HOLD, PARTIAL, Server, WARNING, bytes, gzip};

fn http(server: &Server) -> http_client::Client {
    http_client::Client::connect(server.http)
}

fn grpc(server: &Server) -> grpc_client::Client {
    grpc_client::Client::connect(server.grpc)
}

#[test]
fn s01_none_and_gzip_are_supported_everywhere() {
    let server = Server::start();
    for body in [&b"spans"[..], &bytes(300_000)] {
        for reply in [
            grpc(&server).export(body),
            grpc(&server).export_with(&[("grpc-encoding", "gzip")], framed(1, &gzip(body))),
            grpc(&server).export_with(&[("grpc-encoding", "identity")], frame(body)),
        ] {
            assert_eq!(reply.status(), 0);
            assert_eq!(server.exported(), (Transport::Grpc, body.to_vec()));
        }
        for response in [
            http(&server).post(TRACES, &[PROTOBUF], body),
            http(&server).post(TRACES, &[PROTOBUF, GZIP], &gzip(body)),
            http(&server).post(TRACES, &[PROTOBUF, ("Content-Encoding", "identity")], body),
        ] {
            assert_eq!(response.status, 200);
            assert_eq!(server.exported(), (Transport::Http, body.to_vec()));
        }
    }
    let response = http(&server).post(TRACES, &[JSON, GZIP], &gzip(b"{spans}"));
    assert_eq!(response.status, 200);
    assert_eq!(server.exported().1, b"spans");
}

#[test]
fn s02_an_empty_request_succeeds() {
    let server = Server::start();
    assert_eq!(grpc(&server).export(b"").status(), 0);
    assert_eq!(
        grpc(&server)
            .export_with(&[("grpc-encoding", "gzip")], framed(1, &gzip(b"")))
            .status(),
        0
    );
    assert_eq!(http(&server).post(TRACES, &[PROTOBUF], b"").status, 200);
    assert_eq!(
        http(&server).post(TRACES, &[PROTOBUF, GZIP], &gzip(b"")).status,
        200
    );
    assert_eq!(http(&server).post(TRACES, &[JSON], b"{}").status, 200);
    assert_eq!(server.finish_bodies(), vec![b""; 5]);
}

#[test]
fn s03_success_leaves_partial_success_unset() {
    let server = Server::start();
    let empty = ExportTraceServiceResponse {
        partial_success: None,
    };
    assert_eq!(grpc(&server).export(b"spans").response(), empty);
    assert_eq!(
        http(&server).post(TRACES, &[PROTOBUF], b"spans").body,
        empty.encode_to_vec()
    );
    assert_eq!(http(&server).post(TRACES, &[JSON], b"{spans}").body, b"{}");
}

#[test]
fn s04_partial_success_counts_rejected_spans() {
    let server = Server::start();
    let error_message = String::from_utf8_lossy(PARTIAL).into_owned();
    let expected = Some(ExportTracePartialSuccess {
        rejected_spans: 2,
        error_message,
    });
    let reply = grpc(&server).export(PARTIAL);
    assert_eq!(
        (reply.status(), reply.response().partial_success),
        (0, expected.clone())
    );
    let response = http(&server).post(TRACES, &[PROTOBUF], PARTIAL);
    assert_eq!(response.status, 200);
    let decoded = ExportTraceServiceResponse::decode(&response.body[..]).expect("protobuf");
    assert_eq!(decoded.partial_success, expected);
}

#[test]
fn s05_a_warning_has_a_message_and_rejects_nothing() {
    let server = Server::start();
    let error_message = String::from_utf8_lossy(WARNING).into_owned();
    let expected = Some(ExportTracePartialSuccess {
        rejected_spans: 0,
        error_message,
    });
    assert_eq!(grpc(&server).export(WARNING).response().partial_success, expected);
}

#[test]
fn s06_unary_calls_of_one_connection_run_concurrently() {
    let server = Server::start();
    let mut client = grpc(&server);
    let calls: Vec<_> = (0..100)
        .map(|_| {
            let mut call = client.open(EXPORT, &[]);
            call.send(frame(HOLD), true);
            call
        })
        .collect();
    for _ in 0..100 {
        assert_eq!(server.exported().1, HOLD, "no call waits for another one's reply");
    }
    server.release(Ok(()));
    assert!(calls.into_iter().all(|call| call.reply().status() == 0));
}

#[test]
fn a_reply_waits_for_its_ticket_and_a_failed_log_is_said() {
    let server = Server::start();
    for (how, status) in [(Some(Ok(())), 200), (Some(Err(Unavailable)), 503), (None, 503)] {
        let mut client = http(&server);
        client
            .send(http_client::head("POST", TRACES, &[PROTOBUF], Some(HOLD.len())))
            .send(HOLD);
        let mut rpc_client = grpc(&server);
        let mut call = rpc_client.open(EXPORT, &[]);
        call.send(frame(HOLD), true);
        server.exported();
        server.exported();
        match how {
            Some(answer) => server.release(answer),
            None => server.drop_tickets(),
        }
        let response = client.response();
        assert_eq!(response.status, status);
        assert_eq!(response.header("retry-after").is_some(), status == 503);
        assert_eq!(call.reply().status(), if status == 200 { 0 } else { 14 });
    }
}

#[test]
fn each_trace_request_is_counted_once() {
    let server = Server::start();
    grpc(&server).export_with(&[("grpc-encoding", "gzip")], framed(1, &gzip(b"spans")));
    let replied = server.replied();
    assert_eq!((replied.transport, replied.code), (Transport::Grpc, Code::Ok));
    assert_eq!(
        (replied.wire_bytes, replied.body_bytes),
        (gzip(b"spans").len() as u64, 5)
    );

    http(&server).post(TRACES, &[PROTOBUF, ("Content-Encoding", "zstd")], b"spans");
    let replied = server.replied();
    assert_eq!(
        (replied.transport, replied.http_status, replied.body_bytes),
        (Transport::Http, 415, 0)
    );

    http(&server).post("/v1/logs", &[PROTOBUF], b"logs");
    grpc(&server).call_raw("/grpc.health.v1.Health/Check", &[], frame(b""));
    assert_eq!(server.finish().len(), 0, "neither is a trace request");
}

#[test]
fn a_gzip_bomb_is_refused_while_it_inflates() {
    let server = Server::start();
    let bomb = gzip(&vec![0; (1 << 20) + 1]);
    assert!(bomb.len() < 10_000);
    let reply = grpc(&server).export_with(&[("grpc-encoding", "gzip")], framed(1, &bomb));
    assert_eq!(reply.status(), 8);
    assert_eq!(http(&server).post(TRACES, &[PROTOBUF, GZIP], &bomb).status, 413);
    let fits = gzip(&vec![0; 1 << 20]);
    assert_eq!(http(&server).post(TRACES, &[PROTOBUF, GZIP], &fits).status, 200);
    assert_eq!(server.finish_bodies().len(), 1);
}

#[test]
fn every_gzip_member_is_decoded_and_trailing_junk_refused() {
    let server = Server::start();
    let members = [gzip(b"one "), gzip(b"two")].concat();
    assert_eq!(
        grpc(&server)
            .export_with(&[("grpc-encoding", "gzip")], framed(1, &members))
            .status(),
        0
    );
    assert_eq!(server.exported().1, b"one two");
    assert_eq!(
        http(&server).post(TRACES, &[PROTOBUF, GZIP], &members).status,
        200
    );
    assert_eq!(server.exported().1, b"one two");

    let junk = [&gzip(b"one ")[..], b"junk"].concat();
    assert_eq!(
        grpc(&server)
            .export_with(&[("grpc-encoding", "gzip")], framed(1, &junk))
            .status(),
        3
    );
    assert_eq!(http(&server).post(TRACES, &[PROTOBUF, GZIP], &junk).status, 400);
    assert_eq!(
        http(&server).post(TRACES, &[PROTOBUF, GZIP], b"no gzip").status,
        400
    );
    assert_eq!(
        server.finish_bodies().len(),
        0,
        "nothing of a bad body reaches the core"
    );
}

#[test]
fn beyond_the_bytes_in_flight_requests_are_refused_for_now() {
    let mut options = crate::server::options();
    options.in_flight_max = 300_000;
    let server = Server::with(options);
    // A body of 200,000 bytes that does not end.
    let mut slow = http(&server);
    slow.send(http_client::head("POST", TRACES, &[PROTOBUF], Some(250_000)))
        .send(bytes(200_000));
    server.wait_for_in_flight(200_000);

    let reply = grpc(&server).export(&bytes(150_000));
    assert_eq!(reply.status(), 14);
    assert_eq!(reply.details().details[0].type_url, grpc_client::RETRY_INFO);
    let response = http(&server).post(TRACES, &[PROTOBUF], &bytes(150_000));
    assert_eq!(response.status, 503);
    assert_eq!(response.header("retry-after"), Some("1"));
    assert_eq!(
        grpc(&server).export(&bytes(50_000)).status(),
        0,
        "what fits is taken"
    );

    slow.send(bytes(50_000));
    assert_eq!(slow.response().status, 200);
    assert_eq!(
        grpc(&server).export(&bytes(250_000)).status(),
        0,
        "the room is free again"
    );
}
