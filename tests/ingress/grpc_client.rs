//! gRPC clients: one on the h2 crate that can do right, one by hand that can do wrong.

use std::future::Future;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request};
use prost::Message;
use tokio::runtime::Runtime;
use tokio::time::timeout;

use crate::server::PATIENCE;

pub const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
pub const CHECK: &str = "/grpc.health.v1.Health/Check";

/// A connection.
pub struct Client {
    runtime: Arc<Runtime>,
    send: SendRequest<Bytes>,
    /// How the connection ended.
    end: tokio::task::JoinHandle<Result<(), h2::Error>>,
}

/// A call whose request is not complete yet, or not answered.
pub struct Call {
    runtime: Arc<Runtime>,
    pub body: SendStream<Bytes>,
    response: h2::client::ResponseFuture,
}

/// How a call ended.
#[derive(Debug)]
pub struct Reply {
    pub http_status: u16,
    pub headers: HeaderMap,
    pub message: Option<Vec<u8>>,
    pub trailers: Option<HeaderMap>,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Client {
        Client::with(address, h2::client::Builder::new())
    }

    pub fn with(address: SocketAddr, builder: h2::client::Builder) -> Client {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let runtime = Arc::new(runtime);
        let (send, end) = patiently(&runtime, async {
            let tcp = tokio::net::TcpStream::connect(address)
                .await
                .expect("the server listens");
            tcp.set_nodelay(true).expect("a socket");
            let (send, connection) = builder.handshake::<_, Bytes>(tcp).await.expect("HTTP/2");
            (send, tokio::spawn(connection))
        });
        Client { runtime, send, end }
    }

    pub fn open(&mut self, path: &str, headers: &[(&str, &str)]) -> Call {
        let mut request = Request::post(format!("http://localhost{path}"));
        if !headers.iter().any(|(name, _)| *name == "content-type") {
            request = request.header("content-type", "application/grpc");
        }
        for (name, value) in headers.iter().filter(|(_, value)| !value.is_empty()) {
            request = request.header(*name, *value);
        }
        self.open_request(request.header("te", "trailers").body(()).expect("a request"))
    }

    pub fn open_request(&mut self, request: Request<()>) -> Call {
        let runtime = self.runtime.clone();
        let (response, body) = patiently(&runtime, async {
            let mut send = self.send.clone().ready().await.expect("an open connection");
            send.send_request(request, false).expect("a stream")
        });
        Call {
            runtime,
            body,
            response,
        }
    }

    /// One call whose request is these bytes, framing included.
    pub fn call_raw(&mut self, path: &str, headers: &[(&str, &str)], framed: Vec<u8>) -> Reply {
        let mut call = self.open(path, headers);
        call.send(framed, true);
        call.reply()
    }

    pub fn export(&mut self, body: &[u8]) -> Reply {
        self.call_raw(EXPORT, &[], frame(body))
    }

    pub fn export_with(&mut self, headers: &[(&str, &str)], framed: Vec<u8>) -> Reply {
        self.call_raw(EXPORT, headers, framed)
    }

    /// Waits until the connection is closed; whether in order.
    pub fn closed_in_order(self) -> bool {
        drop(self.send);
        matches!(patiently(&self.runtime, self.end), Ok(Ok(())))
    }

    /// Waits until no new call can be opened.
    pub fn wait_until_refusing(&mut self) {
        let runtime = self.runtime.clone();
        patiently(&runtime, async {
            while self.send.clone().ready().await.is_ok() {
                tokio::task::yield_now().await;
            }
        });
    }
}

impl Call {
    pub fn send(&mut self, bytes: impl Into<Bytes>, end: bool) {
        self.body.send_data(bytes.into(), end).expect("an open stream");
    }

    pub fn reply(self) -> Reply {
        self.try_reply().expect("a reply")
    }

    pub fn try_reply(self) -> Result<Reply, h2::Error> {
        let Call {
            runtime,
            response,
            body: _body,
        } = self;
        patiently(&runtime, async {
            let (head, mut body) = response.await?.into_parts();
            let message = if body.is_end_stream() {
                None
            } else {
                read(&mut body).await?
            };
            let trailers = body.trailers().await?;
            Ok(Reply {
                http_status: head.status.as_u16(),
                headers: head.headers,
                message,
                trailers,
            })
        })
    }
}

async fn read(body: &mut RecvStream) -> Result<Option<Vec<u8>>, h2::Error> {
    let mut bytes = Vec::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        bytes.extend(chunk);
    }
    Ok((!bytes.is_empty()).then_some(bytes))
}

impl Reply {
    /// `grpc-status`, wherever it is.
    pub fn status(&self) -> i32 {
        self.field("grpc-status")
            .expect("a grpc-status")
            .parse()
            .expect("a number")
    }

    pub fn field(&self, name: &str) -> Option<&str> {
        let value = self
            .trailers
            .as_ref()
            .and_then(|trailers| trailers.get(name))
            .or(self.headers.get(name));
        value.map(|value| value.to_str().expect("ASCII"))
    }

    /// Headers and status in one frame.
    pub fn is_trailers_only(&self) -> bool {
        self.headers.contains_key("grpc-status") && self.message.is_none() && self.trailers.is_none()
    }

    /// `ExportTraceServiceResponse`.
    pub fn response(&self) -> opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse {
        let message = self.message.as_ref().expect("a message");
        assert_eq!(message[0], 0, "not compressed");
        assert_eq!(
            message[1..5],
            u32::try_from(message.len() - 5).expect("short").to_be_bytes()
        );
        Message::decode(&message[5..]).expect("protobuf")
    }

    pub fn details(&self) -> RpcStatus {
        let text = self.field("grpc-status-details-bin").expect("details");
        RpcStatus::decode(&unbase64(text)[..]).expect("protobuf")
    }
}

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, Message)]
pub struct RpcStatus {
    #[prost(int32, tag = "1")]
    pub code: i32,
    #[prost(string, tag = "2")]
    pub message: String,
    #[prost(message, repeated, tag = "3")]
    pub details: Vec<Detail>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
pub struct Detail {
    #[prost(string, tag = "1")]
    pub type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
}

pub const RETRY_INFO: &str = "type.googleapis.com/google.rpc.RetryInfo";
pub const BAD_REQUEST: &str = "type.googleapis.com/google.rpc.BadRequest";

pub fn frame(message: &[u8]) -> Vec<u8> {
    framed(0, message)
}

pub fn framed(flag: u8, message: &[u8]) -> Vec<u8> {
    let mut framed = vec![flag];
    framed.extend(u32::try_from(message.len()).expect("short").to_be_bytes());
    framed.extend(message);
    framed
}

fn patiently<T>(runtime: &Runtime, future: impl Future<Output = T>) -> T {
    runtime.block_on(async { timeout(PATIENCE, future).await.expect("in time") })
}

fn unbase64(text: &str) -> Vec<u8> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut bits, mut count, mut bytes) = (0u32, 0, Vec::new());
    for digit in text.bytes() {
        let value = DIGITS.iter().position(|have| *have == digit).expect("base64");
        bits = bits << 6 | value as u32;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    bytes
}

/// An HTTP/2 connection of frames written by hand.
pub struct Frames(TcpStream);

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const ACK: u8 = 1;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[derive(Debug, PartialEq, Eq)]
pub struct RawFrame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frames {
    /// Connected, with preface and empty settings sent.
    pub fn connect(address: SocketAddr) -> Frames {
        let mut frames = Frames::silent(address);
        frames.send(PREFACE);
        frames.send(raw_frame(SETTINGS, 0, 0, &[]));
        frames
    }

    /// Connected, with nothing sent.
    pub fn silent(address: SocketAddr) -> Frames {
        let stream = TcpStream::connect(address).expect("the server listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        stream.set_write_timeout(Some(PATIENCE)).expect("a socket");
        stream.set_nodelay(true).expect("a socket");
        Frames(stream)
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Frames {
        self.0.write_all(bytes.as_ref()).expect("the server reads");
        self
    }

    /// Whether the server still takes it, or has closed. It must do one or the other.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        match self.0.write_all(bytes.as_ref()) {
            Ok(()) => true,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                panic!("the server neither reads nor closes")
            }
            Err(_) => false,
        }
    }

    /// The same connection, for another thread.
    pub fn try_clone(&self) -> Frames {
        Frames(self.0.try_clone().expect("a socket"))
    }

    /// Reads whatever there is, in bulk; 0 at the end.
    pub fn discard(&mut self) -> usize {
        self.0.read(&mut [0; 64 << 10]).unwrap_or(0)
    }

    pub fn close(&self) {
        let _ = self.0.shutdown(std::net::Shutdown::Both);
    }

    /// The next frame, `None` at the end of the connection. Settings are acknowledged.
    pub fn next(&mut self) -> Option<RawFrame> {
        let mut head = [0; 9];
        self.read(&mut head)?;
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let mut payload = vec![0; length];
        self.read(&mut payload)?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let frame = RawFrame {
            kind: head[3],
            flags: head[4],
            stream,
            payload,
        };
        if frame.kind == SETTINGS && frame.flags & ACK == 0 {
            let _ = self.0.write_all(&raw_frame(SETTINGS, ACK, 0, &[]));
        }
        Some(frame)
    }

    /// Reads up to a frame of this kind.
    pub fn until(&mut self, kind: u8) -> Option<RawFrame> {
        loop {
            let frame = self.next()?;
            if frame.kind == kind {
                return Some(frame);
            }
        }
    }

    /// Reads to the end; whether there was a GOAWAY, and with which error.
    pub fn goaway(&mut self) -> Option<u32> {
        let mut error = None;
        while let Some(frame) = self.next() {
            if frame.kind == GOAWAY {
                error = Some(u32::from_be_bytes(
                    frame.payload[4..8].try_into().expect("4 bytes"),
                ));
            }
        }
        error
    }

    fn read(&mut self, bytes: &mut [u8]) -> Option<()> {
        match self.0.read_exact(bytes) {
            Ok(()) => Some(()),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("the server is silent"),
            Err(_) => None,
        }
    }
}

pub fn raw_frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The HPACK block of an Export call, in literals that enter no table.
pub fn export_headers(more: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", EXPORT),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    for (name, value) in fields.iter().chain(more) {
        block.push(0);
        for text in [name, value] {
            assert!(text.len() < 127, "one-byte length");
            block.push(text.len() as u8);
            block.extend(text.as_bytes());
        }
    }
    block
}

/// The HEADERS frame of an Export call.
pub fn open(stream: u32, flags: u8) -> Vec<u8> {
    raw_frame(HEADERS, END_HEADERS | flags, stream, &export_headers(&[]))
}
