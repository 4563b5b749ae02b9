//! A server in a thread of its own. Its core does what the body of a request says.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use glommio::{ExecutorJoinHandle, Latency, LocalExecutorBuilder, Placement, Shares, executor, timer};
use tailkeep::io::clock::Clock;
use tailkeep::io::epoll::Epoll;
use tailkeep::io::ingress::{
    Durable, Ingress, Options, Partial, Replied, Submitted, Ticket, TimeLimits, TraceService, Transport,
    Unavailable, listener, ticket::ticket,
};

/// What a body makes the stub do. Any other body is accepted and durable.
pub const HOLD: &[u8] = b"hold: the ticket waits for Server::release";
pub const INVALID: &[u8] = b"invalid: 100 % \"w\xc3\xa4rong\"";
pub const REFUSE: &[u8] = b"refuse: full";
pub const TOO_LARGE: &[u8] = b"too large: for ever";
pub const PARTIAL: &[u8] = b"partial: two spans have no id";
pub const WARNING: &[u8] = b"warning: nothing was rejected";
/// JSON that the stub's decoder does not understand. Other JSON is «transcoded» by dropping its braces.
pub const BAD_JSON: &[u8] = b"{\"resourceSpans\": nonsense}";

/// As long as something may take that should happen at once on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct Server {
    pub grpc: SocketAddr,
    pub http: SocketAddr,
    events: Receiver<Event>,
    control: Arc<Control>,
    thread: Option<ExecutorJoinHandle<()>>,
}

#[derive(Debug)]
pub enum Event {
    Exported(Transport, Vec<u8>),
    Replied(Replied),
}

#[derive(Default)]
struct Control {
    release: AtomicU8,
    not_ready: AtomicBool,
    stop: AtomicBool,
    connections: AtomicUsize,
    turned_away: AtomicUsize,
    in_flight: AtomicUsize,
}

const RELEASE_OK: u8 = 1;
const RELEASE_FAILED: u8 = 2;
const DROP_TICKETS: u8 = 3;

struct Stub {
    control: Arc<Control>,
    events: Sender<Event>,
    held: RefCell<Vec<Ticket>>,
}

/// Limits for tests: small sizes, a quick sweep, and times that are long unless a test is about them.
pub fn options() -> Options {
    let mut options = Options::new(|json, protobuf| {
        if json == BAD_JSON {
            return Err("line 1 column 19: expected an array".to_owned());
        }
        protobuf.extend(json.iter().filter(|byte| !b"{}".contains(byte)));
        Ok(())
    });
    options.grpc_message_max = 1 << 20;
    options.http_body_max = 1 << 20;
    options.drain_max = 8 << 20;
    options.time = TimeLimits {
        sweep: Duration::from_millis(2),
        grace: PATIENCE,
        drain: Duration::from_millis(500),
        ..TimeLimits::default()
    };
    options
}

impl Server {
    pub fn start() -> Server {
        Server::with(options())
    }

    pub fn with(options: Options) -> Server {
        let bind = || listener::bind("127.0.0.1:0".parse().expect("an address"), 1).expect("a free port");
        let (grpc, http) = (bind().remove(0), bind().remove(0));
        let addresses = (
            grpc.local_addr().expect("bound"),
            http.local_addr().expect("bound"),
        );
        let control = Arc::new(Control::default());
        let (sender, events) = channel();
        let stub_control = control.clone();
        let thread = LocalExecutorBuilder::new(Placement::Unbound)
            .spawn(move || async move {
                let stub = Rc::new(Stub {
                    control: stub_control,
                    events: sender,
                    held: RefCell::default(),
                });
                let queue = executor().create_task_queue(
                    Shares::default(),
                    Latency::Matters(Duration::from_millis(1)),
                    "ingest",
                );
                let epoll = Epoll::start(queue).expect("a descriptor for it");
                let ingress = Ingress::start(options, stub.clone(), Rc::new(Clock::new()), epoll, queue);
                ingress.serve(Transport::Grpc, grpc).expect("a listener");
                ingress.serve(Transport::Http, http).expect("a listener");
                let run = stub.clone().run(ingress.clone(), false);
                let control_task = glommio::spawn_local(run);
                control_task.await;
                let still_release = glommio::spawn_local(stub.run(ingress.clone(), true));
                ingress.stop().await;
                assert_eq!(ingress.connection_count(), 0);
                assert_eq!(ingress.in_flight_bytes(), 0, "M1: every body gave its bytes back");
                drop(still_release);
            })
            .expect("an executor");
        Server {
            grpc: addresses.0,
            http: addresses.1,
            events,
            control,
            thread: Some(thread),
        }
    }

    /// The next body that reached the core.
    pub fn exported(&self) -> (Transport, Vec<u8>) {
        loop {
            if let Event::Exported(transport, body) = self.next() {
                return (transport, body);
            }
        }
    }

    /// The next reply that was counted.
    pub fn replied(&self) -> Replied {
        loop {
            if let Event::Replied(reply) = self.next() {
                return reply;
            }
        }
    }

    /// Forgets one event; false when there was none.
    pub fn try_event(&self) -> bool {
        self.events.try_recv().is_ok()
    }

    fn next(&self) -> Event {
        match self.events.recv_timeout(PATIENCE) {
            Ok(event) => event,
            Err(error @ (RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected)) => {
                panic!("the core saw nothing: {error}")
            }
        }
    }

    /// Stops the server and gives back all that its core saw and nobody asked for.
    pub fn finish(mut self) -> Vec<Event> {
        self.join();
        self.events.try_iter().collect()
    }

    /// Stops the server; the bodies that reached the core and nobody asked for.
    pub fn finish_bodies(self) -> Vec<Vec<u8>> {
        let body = |event| match event {
            Event::Exported(_, body) => Some(body),
            Event::Replied(_) => None,
        };
        self.finish().into_iter().filter_map(body).collect()
    }

    pub fn release(&self, answer: Result<(), Unavailable>) {
        let how = if answer.is_ok() {
            RELEASE_OK
        } else {
            RELEASE_FAILED
        };
        self.control.release.store(how, Ordering::SeqCst);
    }

    pub fn drop_tickets(&self) {
        self.control.release.store(DROP_TICKETS, Ordering::SeqCst);
    }

    pub fn set_ready(&self, ready: bool) {
        self.control.not_ready.store(!ready, Ordering::SeqCst);
    }

    /// Begins to stop, without waiting for it.
    pub fn begin_stop(&self) {
        self.control.stop.store(true, Ordering::SeqCst);
    }

    /// Waits until so many connections are open.
    pub fn wait_for_connections(&self, count: usize) {
        self.wait_for("connections", &self.control.connections, |seen| seen == count);
    }

    pub fn wait_for_in_flight(&self, bytes: usize) {
        self.wait_for("bytes in flight", &self.control.in_flight, |seen| seen >= bytes);
    }

    pub fn wait_for_turned_away(&self, count: usize) {
        self.wait_for("connections turned away", &self.control.turned_away, |seen| {
            seen >= count
        });
    }

    fn wait_for(&self, what: &str, value: &AtomicUsize, is_there: impl Fn(usize) -> bool) {
        let clock = Clock::new();
        let begin = clock.instant();
        while !is_there(value.load(Ordering::SeqCst)) {
            let waited = clock.instant().since(begin);
            assert!(waited < PATIENCE, "{} {what}", value.load(Ordering::SeqCst));
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }

    fn join(&mut self) {
        self.begin_stop();
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the executor ends in peace");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.join();
        }
    }
}

impl Stub {
    /// Does what the test's thread asks for.
    async fn run(self: Rc<Stub>, ingress: Rc<Ingress>, stopping: bool) {
        while stopping || !self.control.stop.load(Ordering::SeqCst) {
            self.control
                .connections
                .store(ingress.connection_count(), Ordering::SeqCst);
            self.control
                .in_flight
                .store(ingress.in_flight_bytes(), Ordering::SeqCst);
            let turned_away = usize::try_from(ingress.turned_away_count()).expect("few");
            self.control.turned_away.store(turned_away, Ordering::SeqCst);
            match self.control.release.swap(0, Ordering::SeqCst) {
                RELEASE_OK => self
                    .held
                    .take()
                    .into_iter()
                    .for_each(|ticket| ticket.answer(Ok(()))),
                RELEASE_FAILED => {
                    self.held
                        .take()
                        .into_iter()
                        .for_each(|ticket| ticket.answer(Err(Unavailable)));
                }
                DROP_TICKETS => drop(self.held.take()),
                _ => {}
            }
            timer::sleep(Duration::from_millis(1)).await;
        }
    }
}

impl TraceService for Stub {
    fn export(&self, transport: Transport, body: &[u8]) -> Submitted {
        // The test may be over already.
        let _ = self.events.send(Event::Exported(transport, body.to_vec()));
        let partial = |rejected_spans| {
            let message = String::from_utf8_lossy(body).into_owned();
            Submitted::Accepted {
                durable: Durable::already(),
                partial: Some(Partial {
                    rejected_spans,
                    message,
                }),
            }
        };
        let message = String::from_utf8_lossy(body).into_owned();
        match body {
            _ if body.starts_with(HOLD) => {
                let (ticket, durable) = ticket();
                self.held.borrow_mut().push(ticket);
                Submitted::Accepted {
                    durable,
                    partial: None,
                }
            }
            INVALID => Submitted::Invalid { message },
            REFUSE => Submitted::Refused {
                retry_after: Duration::from_millis(1500),
                message,
            },
            TOO_LARGE => Submitted::TooLarge { message },
            PARTIAL => partial(2),
            WARNING => partial(0),
            _ => Submitted::Accepted {
                durable: Durable::already(),
                partial: None,
            },
        }
    }

    fn ready(&self) -> bool {
        !self.control.not_ready.load(Ordering::SeqCst)
    }

    fn replied(&self, reply: &Replied) {
        let _ = self.events.send(Event::Replied(*reply));
    }
}

/// One gzip member.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).expect("to a vector");
    encoder.finish().expect("to a vector")
}

/// One zstd frame.
pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    ::zstd::encode_all(bytes, 19).expect("to a vector")
}

/// A body of so many bytes that are not all the same.
pub fn bytes(count: usize) -> Vec<u8> {
    (0..count).map(|at| (at % 251) as u8).collect()
}
