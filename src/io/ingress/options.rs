//! The bounds of one core's ingress: sizes, counts and times.

use std::time::Duration;

/// Turns one OTLP/JSON request into protobuf, appended to the vector; the error is for the client.
pub type Transcode = fn(json: &[u8], protobuf: &mut Vec<u8>) -> Result<(), String>;

/// Connections of a core unless said otherwise; each is an open file.
pub const CONNECTIONS_MAX: usize = 8192;

/// Bounds of one core's ingress. Sizes in bytes.
#[derive(Clone, Debug)]
pub struct Options {
    /// A gRPC message, before and after inflating (`max_recv_msg_size_mib`).
    pub grpc_message_max: usize,
    /// An HTTP body, before and after inflating (`max_request_body_size`).
    pub http_body_max: usize,
    /// All bodies of this core that are being received, inflated or transcoded; one request that is larger may go
    /// beyond.
    pub in_flight_max: usize,
    /// Memory of bodies kept for the next ones.
    pub spare_max: usize,
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
            spare_max: 16 * MIB,
            connections_max: CONNECTIONS_MAX,
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
