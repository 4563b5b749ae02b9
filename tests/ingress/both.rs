//! What the OTLP specification asks of a server on either transport.

use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceResponse,
};
use prost::Message;
use tailkeep::io::ingress::{Code, Transport, Unavailable};

use crate::grpc_client::{self, EXPORT, frame, framed};
use crate::http_client::{self, GZIP, JSON, PROTOBUF, TRACES};
use crate::server::{HOLD, PARTIAL, Server, WARNING, bytes, gzip, zstd};

/// The codings that we take, and how they compress.
type Coding = (&'static str, fn(&[u8]) -> Vec<u8>);
const CODINGS: [Coding; 2] = [("gzip", gzip), ("zstd", zstd)];

fn http(server: &Server) -> http_client::Client {
    http_client::Client::connect(server.http)
}

fn grpc(server: &Server) -> grpc_client::Client {
    grpc_client::Client::connect(server.grpc)
}

#[test]
fn s01_none_gzip_and_zstd_are_supported_everywhere() {
    let server = Server::start();
    for body in [&b"spans"[..], &bytes(300_000)] {
        for reply in [
            grpc(&server).export(body),
            grpc(&server).export_with(&[("grpc-encoding", "gzip")], framed(1, &gzip(body))),
            grpc(&server).export_with(&[("grpc-encoding", "zstd")], framed(1, &zstd(body))),
            grpc(&server).export_with(&[("grpc-encoding", "identity")], frame(body)),
        ] {
            assert_eq!(reply.status(), 0);
            assert_eq!(server.exported(), (Transport::Grpc, body.to_vec()));
        }
        for response in [
            http(&server).post(TRACES, &[PROTOBUF], body),
            http(&server).post(TRACES, &[PROTOBUF, GZIP], &gzip(body)),
            http(&server).post(TRACES, &[PROTOBUF, ("Content-Encoding", "zstd")], &zstd(body)),
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

    http(&server).post(TRACES, &[PROTOBUF, ("Content-Encoding", "br")], b"spans");
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
fn a_bomb_is_refused_while_it_inflates() {
    for (name, compress) in CODINGS {
        let server = Server::start();
        let coding = ("Content-Encoding", name);
        let bomb = compress(&vec![0; (1 << 20) + 1]);
        assert!(bomb.len() < 10_000);
        let reply = grpc(&server).export_with(&[("grpc-encoding", name)], framed(1, &bomb));
        assert_eq!(reply.status(), 8);
        assert_eq!(http(&server).post(TRACES, &[PROTOBUF, coding], &bomb).status, 413);
        let fits = compress(&vec![0; 1 << 20]);
        assert_eq!(http(&server).post(TRACES, &[PROTOBUF, coding], &fits).status, 200);
        assert_eq!(server.finish_bodies().len(), 1);
    }
}

#[test]
fn a_zstd_window_above_8_mib_is_refused() {
    // Magic; a frame header with a window of 16 MiB and no content size; one run of five bytes.
    let bomb = [
        0x28,
        0xb5,
        0x2f,
        0xfd,
        0,
        (24 - 10) << 3,
        0b11 | 5 << 3,
        0,
        0,
        b'x',
    ];
    let server = Server::start();
    let reply = grpc(&server).export_with(&[("grpc-encoding", "zstd")], framed(1, &bomb));
    assert_eq!(reply.status(), 3);
    let coding = ("Content-Encoding", "zstd");
    assert_eq!(http(&server).post(TRACES, &[PROTOBUF, coding], &bomb).status, 400);
    assert_eq!(server.finish_bodies().len(), 0);
}

#[test]
fn every_member_is_decoded_and_trailing_junk_refused() {
    for (name, compress) in CODINGS {
        let server = Server::start();
        let coding = ("Content-Encoding", name);
        let members = [compress(b"one "), compress(b"two")].concat();
        let call = |body: &[u8]| {
            grpc(&server)
                .export_with(&[("grpc-encoding", name)], framed(1, body))
                .status()
        };
        let post = |body: &[u8]| http(&server).post(TRACES, &[PROTOBUF, coding], body).status;
        assert_eq!(call(&members), 0);
        assert_eq!(server.exported().1, b"one two");
        assert_eq!(post(&members), 200);
        assert_eq!(server.exported().1, b"one two");

        let junk = [&compress(b"one ")[..], b"junk"].concat();
        let cut = &members[..members.len() - 1];
        for bad in [&junk[..], cut, b"nothing compressed"] {
            assert_eq!((call(bad), post(bad)), (3, 400), "{name} {bad:?}");
        }
        assert_eq!(
            server.finish_bodies().len(),
            0,
            "nothing of a bad body reaches the core"
        );
    }
}
