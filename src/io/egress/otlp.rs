//! OTLP to a destination: one request after the other over one connection, which is made when it is needed.
//!
//! ```text
//!  body ─ compress ─→ connection there? ── no ──→ resolve, try each address ─→ connected
//!                          │ yes                                                   │
//!                          └──────────────→ request ─→ reply ─→ Arrival, Failure ←─┘
//!            timeout over all but compressing; what it cuts off closes the connection
//! ```
//!
//! A failure that another address might not have moves on to the next one.

use super::addresses::{Addresses, is_stale};
use super::compress::{Compression, compress};
use crate::base::time::Instant;
use crate::export::retry::{Arrival, Cause, Failure};
use crate::io::clock::Clock;
use crate::io::epoll::Epoll;
use crate::io::inflate::Coding;
use crate::io::stream::{ReadBuffers, Stream};
use crate::otlp::grpc::{PREFIX_BYTES, prefix};
use bytes::Bytes;
use futures_util::future::{Either, select};
use glommio::net::TcpStream;
use http::HeaderMap;
use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

mod grpc; // a gRPC connection
mod http1; // an HTTP/1.1 connection

/// Replies above this are not read (OTLP, "Response size").
pub const REPLY_BYTES_MAX: usize = 4 << 20;
/// Bytes that a connection reads before others have their turn.
const TURN_BYTES_MAX: usize = 64 << 10;
const USER_AGENT: &str = concat!("tailkeep/", env!("CARGO_PKG_VERSION"));

#[derive(Clone, Debug)]
pub struct OtlpOptions {
    pub protocol: Protocol,
    /// A name or an address without brackets.
    pub host: String,
    pub port: u16,
    /// Added to every request.
    pub headers: HeaderMap,
    pub compression: Compression,
    /// Of one request from connecting to its reply.
    pub timeout: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Protocol {
    Grpc {
        keepalive: Option<Keepalive>,
    },
    Http {
        /// Begins with a slash; where traces are posted.
        path: String,
    },
}

/// `keepalive`: pings that find a dead connection before a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    pub time: Duration,
    pub timeout: Duration,
    pub permit_without_stream: bool,
}

/// One destination on one core.
pub struct OtlpSink {
    options: OtlpOptions,
    addresses: Addresses,
    address_count: Cell<usize>,
    /// Not while it is used: a request that is cut off takes its connection with it.
    connection: RefCell<Option<Connection>>,
    last_used: Cell<Instant>,
    epoll: Rc<Epoll>,
    buffers: Rc<ReadBuffers>,
    clock: Rc<Clock>,
}

enum Connection {
    Grpc(grpc::Client),
    Http(http1::Client),
}

impl Connection {
    fn is_open(&self) -> bool {
        match self {
            Connection::Grpc(client) => client.is_open(),
            Connection::Http(client) => client.is_open(),
        }
    }
}

/// Why a request has no reply.
enum Broken {
    /// Nothing of it was sent: a connection that was closed while it lay idle.
    Unsent(Failure),
    Failed(Failure),
}

impl OtlpSink {
    pub fn new(options: OtlpOptions, clock: Rc<Clock>, epoll: Rc<Epoll>, seed: u64) -> OtlpSink {
        OtlpSink {
            addresses: Addresses::new(&options.host, options.port, seed),
            address_count: Cell::new(1),
            connection: RefCell::new(None),
            last_used: Cell::new(Instant::default()),
            epoll,
            buffers: Rc::default(),
            clock,
            options,
        }
    }

    /// Sends one ExportTraceServiceRequest.
    pub async fn ship(&self, body: Vec<u8>) -> Result<Arrival, Failure> {
        let head = match self.options.protocol {
            Protocol::Grpc { .. } => PREFIX_BYTES,
            Protocol::Http { .. } => 0,
        };
        let compression = self.options.compression;
        let mut message = compress(compression, &body, head)
            .await
            .map_err(|error| Failure::new(Cause::Io, format!("cannot compress: {error}")))?;
        drop(body);
        if head > 0 {
            let length = u32::try_from(message.len() - head)
                .map_err(|_| Failure::new(Cause::Io, "gRPC has no messages above 4 GiB"))?;
            message[..head].copy_from_slice(&prefix(compression != Compression::None, length));
        }
        let message = Bytes::from(message);
        let wire_bytes = message.len() as u64;
        let timeout = self.options.timeout;
        let result = within(timeout, self.request(message)).await.unwrap_or_else(|| {
            let message = format!("no reply within {timeout:?}");
            Err(Failure::new(Cause::Timeout, message))
        });
        self.last_used.set(self.clock.instant());
        match result {
            Ok(arrival) => Ok(Arrival {
                wire_bytes,
                ..arrival
            }),
            Err(failure) => {
                if failure.is_retryable() {
                    self.addresses.move_on();
                    if self.address_count.get() > 1 {
                        self.connection.take();
                    }
                }
                Err(failure)
            }
        }
    }

    async fn request(&self, message: Bytes) -> Result<Arrival, Failure> {
        let stale = is_stale(self.last_used.get(), self.clock.instant());
        let kept = self
            .connection
            .take()
            .filter(|connection| !stale && connection.is_open());
        if let Some(connection) = kept {
            match self.request_over(connection, message.clone()).await {
                Ok(arrival) => return Ok(arrival),
                Err(Broken::Failed(failure)) => return Err(failure),
                Err(Broken::Unsent(_)) => {}
            }
        }
        let connection = self.connect().await?;
        match self.request_over(connection, message).await {
            Ok(arrival) => Ok(arrival),
            Err(Broken::Failed(failure) | Broken::Unsent(failure)) => Err(failure),
        }
    }

    async fn request_over(&self, mut connection: Connection, message: Bytes) -> Result<Arrival, Broken> {
        let result = match &mut connection {
            Connection::Grpc(client) => client.export(&self.options, message).await,
            Connection::Http(client) => client.export(&self.options, message, &self.clock).await,
        };
        if connection.is_open() {
            *self.connection.borrow_mut() = Some(connection);
        }
        result
    }

    async fn connect(&self) -> Result<Connection, Failure> {
        let (host, port) = (&self.options.host, self.options.port);
        let addresses = self
            .addresses
            .resolve()
            .await
            .map_err(|error| Failure::new(Cause::Resolve, format!("{host}: {error}")))?;
        self.address_count.set(addresses.len());
        // So that a silent address leaves time for the others.
        let patience = self.options.timeout / addresses.len() as u32;
        let mut errors = Vec::new();
        for address in addresses {
            match TcpStream::connect_timeout(address, patience.max(Duration::from_millis(1))).await {
                Ok(tcp) => return self.open(tcp).await,
                Err(error) => errors.push(format!("{address}: {error}")),
            }
        }
        let message = format!("cannot connect to {host}:{port}: {}", errors.join(", "));
        Err(Failure::new(Cause::Connect, message))
    }

    async fn open(&self, tcp: TcpStream) -> Result<Connection, Failure> {
        // Fails if the peer is gone already, which the first write will say.
        let _ = tcp.set_nodelay(true);
        let stream = Stream::new(tcp, self.epoll.clone(), self.buffers.clone(), TURN_BYTES_MAX)
            .map_err(|error| Failure::new(Cause::Connect, format!("cannot wait for a reply: {error}")))?;
        match &self.options.protocol {
            Protocol::Grpc { keepalive } => {
                Ok(Connection::Grpc(grpc::Client::open(stream, *keepalive).await?))
            }
            Protocol::Http { .. } => Ok(Connection::Http(http1::Client::open(stream).await?)),
        }
    }
}

/// What `work` gives, if it does so in time. The timer is a task of its own, because a glommio timer that is
/// polled twice is registered twice.
async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    let timer = glommio::spawn_local(glommio::timer::sleep(limit));
    match select(pin!(work), timer).await {
        Either::Left((done, _)) => Some(done),
        Either::Right(_) => None,
    }
}

/// A reply's body as it was before it was compressed. What cannot be read says nothing.
fn inflate_reply(coding: Coding, wire: Vec<u8>) -> Result<Vec<u8>, Failure> {
    let Some(mut inflate) = coding.inflate() else {
        return Ok(wire);
    };
    let mut plain = Vec::new();
    loop {
        plain.reserve(STEP_BYTES);
        match inflate.step(&wire, &mut plain, STEP_BYTES) {
            _ if plain.len() > REPLY_BYTES_MAX => return Err(reply_too_large()),
            Poll::Ready(Ok(())) => return Ok(plain),
            Poll::Ready(Err(_)) => return Ok(Vec::new()),
            Poll::Pending => {}
        }
    }
}

const STEP_BYTES: usize = 64 << 10;

fn reply_too_large() -> Failure {
    let message = format!("the reply is larger than {} MiB", REPLY_BYTES_MAX >> 20);
    Failure::new(Cause::ReplyTooLarge, message)
}
