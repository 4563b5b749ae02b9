//! gRPC: what OTLP and gRPC's own specification ask of a server.

use std::time::Duration;

use http::Request;
use tailkeep::io::ingress::Code;

use crate::grpc_client::{
    BAD_REQUEST, CHECK, Client, DATA, END_STREAM, EXPORT, Frames, GOAWAY, RETRY_INFO, RST_STREAM, frame,
    framed, open, raw_frame,
};
use crate::server::{HOLD, INVALID, REFUSE, Server, TOO_LARGE, bytes, gzip, options};

#[test]
fn g01_too_large_is_resource_exhausted_without_retry_info() {
    let server = Server::start();
    let mut client = Client::connect(server.grpc);
    assert_eq!(
        client.export(&bytes(1 << 20)).status(),
        0,
        "the limit itself fits"
    );
    for reply in [
        client.export(&bytes((1 << 20) + 1)),
        client.export_with(
            &[("grpc-encoding", "gzip")],
            framed(1, &gzip(&bytes((1 << 20) + 1))),
        ),
        client.export(TOO_LARGE),
    ] {
        assert_eq!(reply.status(), 8);
        assert_eq!(
            reply.details().details,
            [],
            "no RetryInfo: clients must not retry"
        );
    }
}

#[test]
fn g02_g04_overload_is_unavailable_with_retry_info() {
    let server = Server::start();
    let reply = Client::connect(server.grpc).export(REFUSE);
    assert_eq!(reply.status(), 14);
    let details = reply.details();
    assert_eq!((details.code, details.message.as_str()), (14, "refuse: full"));
    assert_eq!(details.details[0].type_url, RETRY_INFO);
    // retry_delay: 1.5 s
    assert_eq!(
        details.details[0].value,
        [10, 8, 8, 1, 16, 0x80, 0xca, 0xb5, 0xee, 1]
    );
}

#[test]
fn g03_bad_data_is_invalid_argument_with_a_bad_request() {
    let server = Server::start();
    let reply = Client::connect(server.grpc).export(INVALID);
    assert_eq!(reply.status(), 3);
    assert_eq!(reply.details().details[0].type_url, BAD_REQUEST);
}

#[test]
fn g06_another_content_type_is_415() {
    let server = Server::start();
    let mut client = Client::connect(server.grpc);
    for content_type in ["application/x-protobuf", "application/grpc-web", ""] {
        let reply = client.export_with(&[("content-type", content_type)], frame(b"spans"));
        assert_eq!(reply.http_status, 415, "{content_type:?}");
    }
    let mut get = client.open_request(
        Request::get(format!("http://localhost{EXPORT}"))
            .body(())
            .expect("a request"),
    );
    get.send("", true);
    assert_eq!(get.reply().http_status, 405);
    assert_eq!(server.finish_bodies().len(), 0);
}

#[test]
fn g07_unsupported_encoding_is_unimplemented_and_lists_ours() {
    let server = Server::start();
    let reply = Client::connect(server.grpc).export_with(&[("grpc-encoding", "snappy")], framed(1, b"spans"));
    assert_eq!(reply.status(), 12);
    assert_eq!(reply.field("grpc-accept-encoding"), Some("identity,gzip,zstd"));
    assert_eq!(server.finish_bodies().len(), 0);
}

#[test]
fn g08_a_compressed_flag_without_encoding_is_internal() {
    let server = Server::start();
    let mut client = Client::connect(server.grpc);
    let compressed = framed(1, &gzip(b"spans"));
    assert_eq!(client.export_with(&[], compressed.clone()).status(), 13);
    assert_eq!(
        client
            .export_with(&[("grpc-encoding", "identity")], compressed)
            .status(),
        13
    );
    let plain = client.export_with(&[("grpc-encoding", "gzip")], framed(0, b"spans"));
    assert_eq!(
        plain.status(),
        0,
        "a call with an encoding may send a message without"
    );
    assert_eq!(server.finish_bodies(), [b"spans"]);
}

#[test]
fn g09_the_status_is_in_trailers_and_an_immediate_error_is_trailers_only() {
    let server = Server::start();
    let mut client = Client::connect(server.grpc);
    let reply = client.export(b"spans");
    assert_eq!(reply.headers["content-type"], "application/grpc");
    assert!(!reply.headers.contains_key("grpc-status"));
    assert_eq!(reply.trailers.expect("trailers")["grpc-status"], "0");
    assert!(client.export(INVALID).is_trailers_only());
}

#[test]
fn g10_messages_are_percent_encoded() {
    let server = Server::start();
    let reply = Client::connect(server.grpc).export(INVALID);
    assert_eq!(
        reply.field("grpc-message"),
        Some("invalid: 100 %25 \"w%C3%A4rong\"")
    );
}

#[test]
fn g11_prefix_and_message_may_be_split_anywhere() {
    let server = Server::start();
    let mut client = Client::connect(server.grpc);
    let message = frame(b"spans, byte by byte");
    let mut dribble = client.open(EXPORT, &[]);
    for byte in &message {
        dribble.send(vec![*byte], false);
    }
    dribble.send("", true);
    assert_eq!(dribble.reply().status(), 0);
    assert_eq!(server.exported().1, b"spans, byte by byte");

    for cut in 0..=message.len() {
        let mut call = client.open(EXPORT, &[]);
        call.send(message[..cut].to_vec(), false);
        call.send(message[cut..].to_vec(), true);
        assert_eq!(call.reply().status(), 0, "cut at {cut}");
        assert_eq!(server.exported().1, b"spans, byte by byte");
    }
}

#[test]
fn g12_an_expired_timeout_cancels_the_wait_and_not_the_request() {
    let server = Server::start();
    let mut client = Client::connect(server.grpc);
    let reply = client.export_with(&[("grpc-timeout", "20m")], frame(HOLD));
    assert_eq!(reply.status(), 4);
    assert_eq!(server.exported().1, HOLD, "what is appended stays accepted");

    let mut unfinished = client.open(EXPORT, &[("grpc-timeout", "20000u")]);
    unfinished.send(frame(b"spans")[..7].to_vec(), false);
    assert_eq!(unfinished.reply().status(), 4);

    let in_time = client.export_with(&[("grpc-timeout", "99999999H")], frame(b"spans"));
    assert_eq!(in_time.status(), 0);
    assert_eq!(
        client
            .export_with(&[("grpc-timeout", "1 hour")], frame(b"spans"))
            .status(),
        13
    );
    assert_eq!(server.finish_bodies(), [b"spans"]);
}

#[test]
fn g13_early_trailers_are_followed_by_a_reset_without_error() {
    let mut options = options();
    options.drain_max = 100_000;
    let server = Server::with(options);
    let mut frames = Frames::connect(server.grpc);
    // Announces more than would ever be drained.
    frames
        .send(open(1, 0))
        .send(raw_frame(DATA, 0, 1, &[0, 0xff, 0xff, 0xff, 0xff, 1, 2, 3]));
    let trailers = frames.until(1).expect("a reply before the request is complete");
    assert_eq!((trailers.stream, trailers.flags & END_STREAM), (1, END_STREAM));
    let reset = frames.until(RST_STREAM).expect("a reset");
    assert_eq!((reset.stream, reset.payload), (1, vec![0; 4]));
    assert_eq!(server.replied().code, Code::ResourceExhausted);
}

#[test]
fn an_error_waits_for_the_rest_of_the_request() {
    let server = Server::start();
    let mut client = Client::connect(server.grpc);
    let mut call = client.open(EXPORT, &[("grpc-encoding", "br")]);
    for _ in 0..30 {
        call.send(bytes(100_000), false);
    }
    call.send("end", true);
    assert_eq!(call.reply().status(), 12);
    // The connection lives, its window is whole.
    assert_eq!(client.export(b"spans").status(), 0);
}

#[test]
fn g14_goaway_comes_before_the_end_of_a_connection() {
    let server = Server::start();
    let mut frames = Frames::connect(server.grpc);
    frames
        .send(open(1, 0))
        .send(raw_frame(DATA, END_STREAM, 1, &frame(HOLD)));
    server.exported();
    server.begin_stop();
    let goaway = frames.until(GOAWAY).expect("a GOAWAY");
    assert_eq!(goaway.payload[4..8], [0; 4], "NO_ERROR");
    server.release(Ok(()));
    let reply = frames.until(1).expect("the call in flight is answered");
    assert_eq!(reply.stream, 1);
}

#[test]
fn g15_the_header_list_is_bounded_and_said_to_be() {
    let server = Server::start();
    let mut frames = Frames::connect(server.grpc);
    let settings = frames.next().expect("settings");
    let limit = settings
        .payload
        .chunks(6)
        .find(|setting| setting[..2] == [0, 6])
        .expect("MAX_HEADER_LIST_SIZE");
    assert_eq!(limit[2..], (16u32 << 10).to_be_bytes());

    let mut client = Client::connect(server.grpc);
    let large = "x".repeat(8 << 10);
    assert_eq!(
        client
            .export_with(&[("x-large", &large)], frame(b"spans"))
            .status(),
        0
    );
    let too_large = "x".repeat(17 << 10);
    let mut call = client.open(EXPORT, &[("x-large", &too_large)]);
    let _ = call.body.send_data(frame(b"spans").into(), true);
    assert!(call.try_reply().map_or(true, |reply| reply.http_status == 431));
    assert_eq!(server.finish_bodies(), [b"spans"]);
}

#[test]
fn g16_unknown_methods_are_unimplemented() {
    let server = Server::start();
    let mut client = Client::connect(server.grpc);
    for path in [
        "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
        "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
        "/grpc.health.v1.Health/Watch",
        "/v1/traces",
    ] {
        let reply = client.call_raw(path, &[], frame(b"whatever"));
        assert_eq!(reply.status(), 12, "{path}");
        assert!(reply.is_trailers_only());
    }
}

#[test]
fn g17_binary_headers_come_padded_and_unpadded() {
    let server = Server::start();
    let mut client = Client::connect(server.grpc);
    let headers = [
        ("x-padded-bin", "AQ=="),
        ("x-unpadded-bin", "AQ"),
        ("grpc-trace-bin", "AAA="),
    ];
    assert_eq!(client.export_with(&headers, frame(b"spans")).status(), 0);
}

#[test]
fn health_is_what_the_core_says() {
    let server = Server::start();
    let mut client = Client::connect(server.grpc);
    let check = |client: &mut Client, request: &[u8]| client.call_raw(CHECK, &[], frame(request));
    assert_eq!(check(&mut client, b"").message, Some(frame(&[8, 1])));
    let mut named = vec![10, 52];
    named.extend(b"opentelemetry.proto.collector.trace.v1.TraceService\n");
    named[1] = 51;
    named.pop();
    assert_eq!(check(&mut client, &named).message, Some(frame(&[8, 1])));
    server.set_ready(false);
    assert_eq!(check(&mut client, b"").message, Some(frame(&[8, 2])));
    assert_eq!(check(&mut client, b"\x0a\x01x").status(), 5, "unknown service");
    assert_eq!(check(&mut client, b"\x0a\x09x").status(), 3);
}

#[test]
fn hostile_framing_is_answered() {
    let server = Server::start();
    let mut client = Client::connect(server.grpc);
    let mut two = frame(b"one");
    two.extend(frame(b"two"));
    for (framed, why) in [
        (Vec::new(), "no message"),
        (vec![0, 0, 0], "half a prefix"),
        (vec![0, 0, 0, 0, 9, 1], "half a message"),
        (two, "two messages"),
        (framed(2, b"spans"), "flag 2"),
    ] {
        assert_eq!(client.export_with(&[], framed).status(), 13, "{why}");
    }
    assert_eq!(server.finish_bodies().len(), 0);
}

#[test]
fn a_request_that_is_reset_before_its_end_never_reaches_the_core() {
    let server = Server::start();
    let mut client = Client::connect(server.grpc);
    let mut call = client.open(EXPORT, &[]);
    call.send(frame(b"spans"), false);
    call.body.send_reset(h2::Reason::CANCEL);
    assert_eq!(server.replied().code, Code::Cancelled);
    assert_eq!(server.finish_bodies().len(), 0);
}

#[test]
fn a_reset_ends_the_wait_and_what_is_appended_stays() {
    let server = Server::start();
    let mut client = Client::connect(server.grpc);
    let mut call = client.open(EXPORT, &[]);
    call.send(frame(HOLD), true);
    assert_eq!(server.exported().1, HOLD);
    call.body.send_reset(h2::Reason::CANCEL);
    assert_eq!(server.replied().code, Code::Cancelled);
}

#[test]
fn a_log_that_is_too_slow_is_said_to_be() {
    let mut options = options();
    options.time.handler = Duration::from_millis(20);
    let server = Server::with(options);
    let reply = Client::connect(server.grpc).export(HOLD);
    assert_eq!(reply.status(), 14);
    assert_eq!(reply.details().details[0].type_url, RETRY_INFO);
}
