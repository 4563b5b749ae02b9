//! OTLP in: gRPC over HTTP/2 and OTLP/HTTP over HTTP/1.1, on the executor of the core that owns both
//! listeners.
//!
//! ```text
//!  listener ──► connection ──► call: headers ► body (contiguous, pooled) ► export ► ticket ► reply
//!                   │               │                 │
//!             Connections        Deadline           Budget
//!          (count, deadlines)  (every wait)    (bytes in flight)
//! ```
//!
//! Ingress knows transports, not telemetry: it hands [`TraceService::export`] the bytes of one
//! `ExportTraceServiceRequest` and turns what comes back into the reply that OTLP asks for. It is the
//! outermost wall: no length that a peer declares is allocated, every wait has a deadline, every buffer
//! a bound, and whoever exceeds them learns it in his protocol's own words.

use std::time::Duration;

pub mod ticket; // the local promise between an appended request and its reply

pub use ticket::{Durable, Ticket, Unavailable};

/// How a request came in: the label `transport`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    Grpc,
    Http,
}

impl Transport {
    pub fn name(self) -> &'static str {
        match self {
            Transport::Grpc => "grpc",
            Transport::Http => "http",
        }
    }
}

/// What ingress asks of the core.
///
/// Every method is called on the executor's thread and must not block.
pub trait TraceService: 'static {
    /// Takes one `ExportTraceServiceRequest` in protobuf. `body` is contiguous, already inflated and
    /// transcoded, borrowed for the call only, and may be empty or without a span (OTLP S02: accept it).
    ///
    /// A client that goes away while its body arrives never gets here; one that goes away afterwards
    /// changes nothing: what is appended stays accepted.
    fn export(&self, transport: Transport, body: &[u8]) -> Submitted;

    /// Whether this core takes requests: what `grpc.health.v1` says.
    fn ready(&self) -> bool;

    /// Each trace request is counted once, when its reply is handed to the transport.
    fn replied(&self, reply: &Replied);
}

/// What became of a request.
pub enum Submitted {
    /// Appended. The reply waits for `durable`; `partial` is what was not taken, or a warning.
    Accepted {
        durable: Durable,
        partial: Option<Partial>,
    },
    /// Can never be taken (INVALID_ARGUMENT, 400): the peer's fault, and nothing of it was appended.
    Invalid { message: String },
    /// Could be taken later (UNAVAILABLE with RetryInfo, 503 with Retry-After). Nothing was appended.
    Refused { retry_after: Duration, message: String },
    /// Larger than this node can ever take (RESOURCE_EXHAUSTED, 413). Nothing was appended.
    TooLarge { message: String },
}

/// The `partial_success` of a reply.
///
/// Invariant: `rejected_spans > 0` or `message` is not empty (OTLP S05).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partial {
    pub rejected_spans: u64,
    pub message: String,
}

/// One request, answered: for `requests_total`, `received_bytes_total` and `ack_seconds`.
#[derive(Clone, Copy, Debug)]
pub struct Replied {
    pub transport: Transport,
    pub code: Code,
    /// Bytes of the body as they came, framing not counted.
    pub wire_bytes: u64,
    /// Bytes handed to [`TraceService::export`], or inflated before it was refused.
    pub body_bytes: u64,
    /// From the end of the request to its reply.
    pub elapsed: Duration,
}

/// `google.rpc.Code`, as far as we send it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Code {
    Ok = 0,
    Cancelled = 1,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    ResourceExhausted = 8,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
}

impl Code {
    /// The word of gRPC's specification.
    pub fn name(self) -> &'static str {
        match self {
            Code::Ok => "OK",
            Code::Cancelled => "CANCELLED",
            Code::InvalidArgument => "INVALID_ARGUMENT",
            Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Code::NotFound => "NOT_FOUND",
            Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
            Code::Unimplemented => "UNIMPLEMENTED",
            Code::Internal => "INTERNAL",
            Code::Unavailable => "UNAVAILABLE",
        }
    }
}

/// Turns one OTLP/JSON request into protobuf, appended to the vector; the error is for the client.
pub type Transcode = fn(json: &[u8], protobuf: &mut Vec<u8>) -> Result<(), String>;

/// Bounds of one core's ingress. Sizes in bytes.
#[derive(Clone, Debug)]
pub struct Options {
    /// A gRPC message, before and after inflating (`max_recv_msg_size_mib`).
    pub grpc_message_max: usize,
    /// An HTTP body, before and after inflating (`max_request_body_size`).
    pub http_body_max: usize,
    /// All bodies of this core that are being received, inflated or transcoded.
    pub in_flight_max: usize,
    /// Connections of this core, both transports together.
    pub connections_max: usize,
    /// Concurrent calls of one HTTP/2 connection.
    pub streams_max: u32,
    pub header_list_max: u32,
    pub stream_window: u32,
    pub connection_window: u32,
    /// The largest DATA frame that we ask for: larger ones cost less, but h2 gathers a frame whole.
    pub frame_max: u32,
    /// Bytes that a connection may read before others get their turn.
    pub turn_max: usize,
    /// Bytes of a refused body that are read and thrown away before the error is sent.
    pub drain_max: usize,
    /// What a refusal for lack of room tells the client to wait.
    pub retry_after: Duration,
    pub time: TimeLimits,
    pub transcode: Transcode,
}

impl Options {
    /// The defaults of the contract around the decoder of OTLP/JSON.
    pub fn new(transcode: Transcode) -> Options {
        const MIB: usize = 1 << 20;
        Options {
            grpc_message_max: 64 * MIB,
            http_body_max: 64 * MIB,
            in_flight_max: 128 * MIB,
            connections_max: 8192,
            streams_max: 128,
            header_list_max: 16 << 10,
            stream_window: 1 << 20,
            connection_window: 4 << 20,
            frame_max: 64 << 10,
            turn_max: 256 << 10,
            drain_max: 64 * MIB,
            retry_after: Duration::from_secs(1),
            time: TimeLimits::default(),
            transcode,
        }
    }
}

/// How long each stage of a connection may last. Deadlines are looked at every `sweep`, so each may be
/// late by that much.
#[derive(Clone, Debug)]
pub struct TimeLimits {
    pub sweep: Duration,
    /// From accept to the end of the HTTP/2 preface and settings, or of the first HTTP/1.1 head.
    pub first: Duration,
    /// From the first to the last byte of a later HTTP/1.1 head.
    pub head: Duration,
    /// A body must bring `body_bytes_min` in each `body`.
    pub body: Duration,
    pub body_bytes_min: usize,
    /// From submission to the reply; afterwards UNAVAILABLE, although the request may become durable.
    pub handler: Duration,
    /// A reply that the peer does not take.
    pub reply: Duration,
    /// Reading on after a refusal.
    pub drain: Duration,
    /// A connection without a call.
    pub idle: Duration,
    /// Silence after which a gRPC peer is pinged, and how long it has to answer.
    pub keepalive: Duration,
    pub keepalive_timeout: Duration,
    /// The age at which a connection is asked to leave (GOAWAY, `Connection: close`); spread by ±10 %.
    pub age_max: Option<Duration>,
    /// What calls in flight have left after GOAWAY or stop.
    pub grace: Duration,
}

impl Default for TimeLimits {
    fn default() -> TimeLimits {
        const fn seconds(count: u64) -> Duration {
            Duration::from_secs(count)
        }
        TimeLimits {
            sweep: Duration::from_millis(250),
            first: seconds(10),
            head: seconds(10),
            body: seconds(30),
            body_bytes_min: 30 << 10,
            handler: seconds(30),
            reply: seconds(30),
            drain: seconds(5),
            idle: seconds(600),
            keepalive: seconds(60),
            keepalive_timeout: seconds(20),
            age_max: None,
            grace: seconds(20),
        }
    }
}
