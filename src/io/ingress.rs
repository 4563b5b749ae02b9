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

use std::cell::{Cell, RefCell};
use std::io;
use std::net::TcpListener;
use std::os::fd::{FromRawFd, IntoRawFd};
use std::rc::Rc;
use std::time::Duration;

use glommio::{GlommioError, Task, TaskQueueHandle, timer};

use crate::io::clock::Clock;
use crate::io::connections::{Connections, Ending};
use crate::io::epoll::Epoll;
use crate::io::metronome::Metronome;
use crate::io::seats::Seat;
use crate::io::stream::{ReadBuffers, Stream};
use bodies::Bodies;

pub mod listener; // sockets that our cores share and nobody else
pub mod options; // every bound of it
pub mod ticket; // the local promise between an appended request and its reply
mod bodies; // the bytes in flight of a core
mod reply; // what a response says, and why there is none
mod exchange; // what both transports do with a request
mod grpc; // gRPC over HTTP/2
mod http; // OTLP/HTTP over HTTP/1.1

pub use crate::otlp::status::Code;
pub use crate::stats::Transport;
pub use options::{CONNECTIONS_MAX, Options, TimeLimits, Transcode};
pub use ticket::{Durable, Ticket, Unavailable};

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

    /// Says who serves a connection that was just accepted: gives it back if this core does.
    fn place(&self, transport: Transport, connection: Connection) -> Option<Connection> {
        let _ = transport;
        Some(connection)
    }
}

/// An accepted connection, with its seat if connections are shared out among cores.
pub struct Connection {
    pub tcp: glommio::net::TcpStream,
    pub seat: Option<Seat>,
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
    /// 200 on gRPC.
    pub http_status: u16,
    /// Bytes of the body as they came, framing not counted.
    pub wire_bytes: u64,
    /// Bytes handed to [`TraceService::export`], or inflated before it was refused.
    pub body_bytes: u64,
    /// From the end of the request to its reply.
    pub elapsed: Duration,
}

/// One core's ingress.
///
/// Call order: [`Ingress::start`], [`Ingress::serve`] per listener, [`Ingress::stop`] once.
pub struct Ingress {
    options: Options,
    service: Rc<dyn TraceService>,
    clock: Rc<Clock>,
    queue: TaskQueueHandle,
    connections: Rc<Connections>,
    bodies: Rc<Bodies>,
    epoll: Rc<Epoll>,
    buffers: Rc<ReadBuffers>,
    accepted: Cell<u64>,
    turned_away: Cell<u64>,
    acceptors: RefCell<Vec<Acceptor>>,
    _sweeper: Task<()>,
    _metronome: Metronome,
}

/// One listener's task, and the socket once more, to end it by.
struct Acceptor {
    socket: TcpListener,
    task: Task<()>,
}

/// How long accepting rests after an error that is not the peer's (no file descriptors, no memory).
const ACCEPT_REST: Duration = Duration::from_millis(100);

impl Ingress {
    /// On the executor that will serve. All tasks run in `queue`, which should be
    /// `Latency::Matters(≤ 1 ms)`: glommio looks for readiness of other sockets only when a latency timer
    /// asks it to, or nothing is left to run.
    pub fn start(
        options: Options,
        service: Rc<dyn TraceService>,
        clock: Rc<Clock>,
        epoll: Rc<Epoll>,
        queue: TaskQueueHandle,
    ) -> Rc<Ingress> {
        let body_bytes_max = options.grpc_message_max.max(options.http_body_max);
        let connections = Connections::new(clock.clone(), options.connections_max);
        let bodies = Bodies::new(options.in_flight_max, body_bytes_max, options.spare_max);
        let sweeper = sweep(clock.clone(), connections.clone(), options.time.sweep);
        let sweeper = glommio::spawn_local_into(sweeper, queue).expect("the queue exists");
        Rc::new(Ingress {
            options,
            service,
            clock,
            queue,
            connections,
            bodies,
            epoll,
            buffers: Rc::default(),
            accepted: Cell::new(0),
            turned_away: Cell::new(0),
            acceptors: RefCell::default(),
            _sweeper: sweeper,
            _metronome: Metronome::start(queue),
        })
    }

    /// Accepts connections on a socket of [`listener::bind`].
    pub fn serve(self: &Rc<Ingress>, transport: Transport, socket: TcpListener) -> io::Result<()> {
        let descriptor = socket.try_clone()?.into_raw_fd();
        // SAFETY: the descriptor is open, a listening socket, and owned by nobody else.
        let listener = unsafe { glommio::net::TcpListener::from_raw_fd(descriptor) };
        let accept = accept(self.clone(), transport, listener);
        let task = glommio::spawn_local_into(accept, self.queue).expect("the queue exists");
        self.acceptors.borrow_mut().push(Acceptor { socket, task });
        Ok(())
    }

    /// Stops accepting, asks every connection to leave, gives calls in flight the grace of the options,
    /// closes the rest. The log must go on answering tickets meanwhile.
    pub async fn stop(&self) {
        self.connections.leave();
        for Acceptor { socket, task } in self.acceptors.take() {
            // Refuses from now on, and fails the accept that the kernel holds. Dropping that one instead
            // would leave the socket listening for a while, and lose what it accepts.
            match rustix::net::shutdown(&socket, rustix::net::Shutdown::Both) {
                Ok(()) => task.await,
                Err(error) => tracing::warn!(%error, "cannot shut a listening socket down"),
            }
        }
        self.connections.all_gone(self.options.time.grace).await;
    }

    pub fn connection_count(&self) -> usize {
        self.connections.count()
    }

    /// Connections closed unserved because all room was taken by busy ones.
    pub fn turned_away_count(&self) -> u64 {
        self.turned_away.get()
    }

    /// Bytes of bodies in flight: `memory_bytes{kind}`.
    pub fn in_flight_bytes(&self) -> usize {
        self.bodies.bytes()
    }

    /// Bytes of buffers that wait for their next use.
    pub fn spare_bytes(&self) -> usize {
        self.bodies.spare_bytes() + self.buffers.spare_bytes()
    }

    /// Serves a connection that was accepted here or on another core.
    pub fn take(self: &Rc<Ingress>, transport: Transport, connection: Connection) {
        let Connection { tcp, seat } = connection;
        let Some(admitted) = self.connections.admit() else {
            self.turned_away.set(self.turned_away.get() + 1);
            return;
        };
        // Fails if the peer is gone already, which the first read will say.
        let _ = tcp.set_nodelay(true);
        let number = self.accepted.get();
        self.accepted.set(number + 1);
        let turn_max = self.options.turn_max;
        let stream = match Stream::new(tcp, self.epoll.clone(), self.buffers.clone(), turn_max) {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, transport = transport.name(), "cannot serve a connection");
                return;
            }
        };
        let ingress = self.clone();
        let connection = async move {
            match transport {
                Transport::Grpc => grpc::serve(ingress, stream, number).await,
                Transport::Http => http::serve(ingress, stream).await,
            }
            drop((admitted, seat));
        };
        glommio::spawn_local_into(connection, self.queue)
            .expect("the queue exists")
            .detach();
    }
}

async fn accept(ingress: Rc<Ingress>, transport: Transport, listener: glommio::net::TcpListener) {
    loop {
        match listener.accept().await {
            Ok(tcp) => {
                let connection = Connection { tcp, seat: None };
                if let Some(ours) = ingress.service.place(transport, connection) {
                    ingress.take(transport, ours);
                }
            }
            Err(_) if ingress.connections.ending() != Ending::No => return,
            Err(GlommioError::IoError(error)) if is_peers_fault(&error) => {}
            Err(error) => {
                tracing::warn!(%error, transport = transport.name(), "cannot accept connections");
                timer::sleep(ACCEPT_REST).await;
            }
        }
        glommio::yield_if_needed().await;
    }
}

/// The connection was over before it was accepted; the listener is fine.
fn is_peers_fault(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

async fn sweep(clock: Rc<Clock>, connections: Rc<Connections>, period: Duration) {
    loop {
        timer::sleep(period).await;
        connections.sweep(clock.now().instant);
    }
}
