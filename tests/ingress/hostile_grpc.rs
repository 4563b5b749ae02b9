//! HTTP/2 peers that mean harm. Each test ends with a good client being served.

use std::time::Duration;

use crate::grpc_client::{
    ACK, CONTINUATION, Client, DATA, END_HEADERS, END_STREAM, EXPORT, Frames, GOAWAY, HEADERS, PING, PREFACE,
    RST_STREAM, SETTINGS, WINDOW_UPDATE, export_headers, frame, open, raw_frame,
};
use crate::server::{Server, bytes, options};

/// RFC 9113 section 7.
const ENHANCE_YOUR_CALM: u32 = 11;

/// The server still serves, and nothing but the good client's request reached its core.
fn serves_others(server: Server) {
    assert_eq!(Client::connect(server.grpc).export(b"good spans").status(), 0);
    assert_eq!(server.finish_bodies(), [b"good spans"]);
}

#[test]
fn rapid_reset_ends_the_connection() {
    let server = Server::start();
    let mut frames = Frames::connect(server.grpc);
    let mut flood = Vec::new();
    for stream in (1..20_001).step_by(2) {
        flood.extend(open(stream, 0));
        flood.extend(raw_frame(RST_STREAM, 0, stream, &8u32.to_be_bytes()));
    }
    frames.try_send(&flood);
    // Reset by the kernel if the flood was still coming when the server closed.
    let error = frames.goaway();
    assert!(error.is_none_or(|error| error == ENHANCE_YOUR_CALM), "{error:?}");
    serves_others(server);
}

#[test]
fn resets_that_the_peer_makes_us_send_end_the_connection() {
    let server = Server::start();
    let mut frames = Frames::connect(server.grpc);
    let mut resets = 0;
    for stream in (1..).step_by(2) {
        // MadeYouReset (CVE-2025-8671): a window beyond 2^31 - 1 is a stream error of the server's.
        let overflow = raw_frame(WINDOW_UPDATE, 0, stream, &0x7fff_ffffu32.to_be_bytes());
        if !frames.try_send([open(stream, 0), overflow].concat()) {
            break;
        }
        match frames.next_that_matters() {
            Some(RST_STREAM) => resets += 1,
            Some(GOAWAY) | None => break,
            Some(other) => panic!("frame of kind {other}"),
        }
        assert!(resets <= 200, "the server resets for ever");
    }
    assert!(resets >= 50, "a few errors are forgiven: {resets}");
    serves_others(server);
}

impl Frames {
    /// The kind of the next frame about a stream or the end of the connection.
    fn next_that_matters(&mut self) -> Option<u8> {
        loop {
            let kind = self.next()?.kind;
            if ![SETTINGS, WINDOW_UPDATE, PING].contains(&kind) {
                return Some(kind);
            }
        }
    }
}

#[test]
fn endless_continuation_frames_end_the_connection() {
    let server = Server::start();
    let mut frames = Frames::connect(server.grpc);
    frames.send(raw_frame(HEADERS, 0, 1, &export_headers(&[])));
    // A literal header field without value, again and again, and never END_HEADERS.
    let more = raw_frame(CONTINUATION, 0, 1, &[0, 1, b'x', 0].repeat(100));
    let mut taken = 0;
    while frames.try_send(&more) {
        taken += 1;
        assert!(taken < 100_000, "CONTINUATION frames are taken for ever");
    }
    serves_others(server);
}

#[test]
fn a_header_bomb_is_refused() {
    let server = Server::start();
    let mut frames = Frames::connect(server.grpc);
    let mut block = export_headers(&[]);
    // Enters the dynamic table: «bomb», 3,000 bytes. Then 8,000 references to it.
    block.extend([0x40, 4]);
    block.extend(b"bomb");
    block.extend([0x7f, 0xb9, 0x16]);
    block.extend([b'x'; 3000]);
    block.extend([0x80 | 62; 8000]);
    frames.send(raw_frame(HEADERS, END_HEADERS, 1, &block));
    // Answered with 431, the call was never begun.
    let reply = frames.next_that_matters();
    assert!(
        matches!(reply, Some(HEADERS | RST_STREAM | GOAWAY) | None),
        "{reply:?}"
    );
    serves_others(server);
}

#[test]
fn empty_and_tiny_data_frames_do_no_harm() {
    let server = Server::start();
    for payload in [&[][..], &[0]] {
        let mut frames = Frames::connect(server.grpc);
        frames.send(open(1, 0));
        let flood = raw_frame(DATA, 0, 1, payload).repeat(1000);
        for _ in 0..20 {
            if !frames.try_send(&flood) {
                break;
            }
        }
    }
    serves_others(server);
}

#[test]
fn a_hundred_calls_may_dribble_at_once() {
    let server = Server::start();
    let mut client = Client::connect(server.grpc);
    let mut calls: Vec<_> = (0..100).map(|_| client.open(EXPORT, &[])).collect();
    let message = frame(b"a slow body");
    calls
        .iter_mut()
        .for_each(|call| call.send(message[..5].to_vec(), false));
    for byte in &message[5..] {
        calls.iter_mut().for_each(|call| call.send(vec![*byte], false));
    }
    calls.iter_mut().for_each(|call| call.send("", true));
    assert!(calls.into_iter().all(|call| call.reply().status() == 0));
    assert_eq!(server.finish_bodies().len(), 100);
}

#[test]
fn who_floods_and_never_reads_is_closed() {
    for (kind, payload) in [(PING, vec![0; 8]), (SETTINGS, vec![0, 3, 0, 0, 0, 100])] {
        let mut options = options();
        options.time.reply = Duration::from_millis(50);
        let server = Server::with(options);
        let mut frames = Frames::connect(server.grpc);
        let flood = raw_frame(kind, 0, 0, &payload).repeat(1000);
        let mut taken = 0;
        while frames.try_send(&flood) {
            taken += 1;
            assert!(taken < 20_000, "frames of kind {kind} are taken for ever");
        }
        serves_others(server);
    }
}

#[test]
fn who_gives_no_window_for_the_reply_is_reset() {
    let mut options = options();
    options.time.reply = Duration::from_millis(50);
    let server = Server::with(options);
    let mut frames = Frames::silent(server.grpc);
    // INITIAL_WINDOW_SIZE = 0
    frames
        .send(PREFACE)
        .send(raw_frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]));
    frames.until(SETTINGS);
    frames
        .send(open(1, 0))
        .send(raw_frame(DATA, END_STREAM, 1, &frame(b"spans")));
    assert_eq!(server.exported().1, b"spans");
    let reset = frames.until(RST_STREAM).expect("a reset");
    assert_eq!(reset.payload, ENHANCE_YOUR_CALM.to_be_bytes());
    serves_others(server);
}

#[test]
fn slow_openings_are_closed() {
    let mut options = options();
    options.time.first = Duration::from_millis(500);
    let server = Server::with(options);
    let mut slow = [&b""[..], &PREFACE[..7], b"GET / HTTP/1.1\r\n"].map(|opening| {
        let mut frames = Frames::silent(server.grpc);
        frames.send(opening);
        frames
    });
    for frames in &mut slow {
        while frames.next().is_some() {}
    }
    serves_others(server);
}

#[test]
fn a_stalled_body_is_answered_and_the_connection_lives() {
    let mut options = options();
    options.time.body = Duration::from_millis(300);
    options.time.drain = Duration::from_millis(10);
    let server = Server::with(options);
    let mut client = Client::connect(server.grpc);
    let mut call = client.open(EXPORT, &[]);
    call.send(frame(b"spans")[..8].to_vec(), false);
    assert_eq!(call.reply().status(), 4);
    assert_eq!(client.export(b"more spans").status(), 0);
    server.exported();
    serves_others(server);
}

#[test]
fn pings_are_answered() {
    let server = Server::start();
    let mut frames = Frames::connect(server.grpc);
    frames.send(raw_frame(PING, 0, 0, b"12345678"));
    let pong = frames.until(PING).expect("a pong");
    assert_eq!((pong.flags, &pong.payload[..]), (ACK, &b"12345678"[..]));
    drop(frames);
    serves_others(server);
}

#[test]
fn windows_are_given_back_to_an_endless_stream_of_requests() {
    let server = Server::start();
    let mut client = Client::connect(server.grpc);
    // More than the connection's and a stream's window in all.
    for _ in 0..20 {
        assert_eq!(client.export(&bytes(1 << 20)).status(), 0);
    }
    drop(server.finish());
}
