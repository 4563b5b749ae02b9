//! The admin port: health, metrics, status, and what became of one trace.
//!
//! Answers are made from the cores' own counters when somebody asks; nothing is collected in between. Every core
//! has an [`Admin`], which answers for that core; the first core's serves the port, and asks the others. It serves
//! from the first moment on, so that a long replay can be watched.

mod everywhere; // what all nodes of the cluster know
mod explain; // one trace, and recent decisions
mod keep; // a trace kept by hand
mod spans; // what the spans of one trace tell
mod metrics; // Prometheus text
mod report; // what a core tells of itself
mod page; // the page for people
mod status; // the status document

pub use keep::BY_HAND;

use super::clock::Clock;
use super::cluster::{Cluster, ClusterReport};
use super::connections::Connections;
use super::core::Core;
use super::epoll::Epoll;
use super::executor::Flags;
use super::ingress::Ingress;
use super::mesh::Mesh;
use super::reload::{Event, Events, Outcome};
use super::stream::{ReadBuffers, Stream};
use crate::base::time::{Instant, WallTime};
use crate::route::HashKey;
use futures_channel::oneshot;
use futures_util::FutureExt;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use serde_json::json;
use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::poll_fn;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{FromRawFd, IntoRawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

const CONNECTIONS_MAX: usize = 64;
/// A connection must have asked and been answered within this.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(30);
const ACCEPT_REST: Duration = Duration::from_millis(100);
/// Bytes one connection may read before others get their turn.
const TURN_BYTES: usize = 64 << 10;

/// What is known about this process before and beside its core.
#[derive(Clone, Debug)]
pub struct Facts {
    pub version: &'static str,
    pub commit: &'static str,
    pub node: String,
    pub node_id: String,
    pub incarnation: u64,
    pub started_at: WallTime,
    pub started: Instant,
    /// The policies.
    pub loaded_at: WallTime,
    /// Who owns which trace.
    pub hash_key: HashKey,
    pub data_dir: String,
    pub durability: &'static str,
    pub config_files: Vec<String>,
    pub config_hash: String,
    pub grpc: SocketAddr,
    pub http: SocketAddr,
    pub admin: SocketAddr,
    pub cluster: Option<ClusterFacts>,
    pub memory_limit_bytes: u64,
    pub wal_bytes_max: u64,
    /// Sent as `Authorization: Bearer …`; without one everything is open on loopback only.
    pub token: Option<String>,
    pub policy_types: Vec<(String, &'static str)>,
}

/// The cluster that this node is of.
#[derive(Clone, Debug)]
pub struct ClusterFacts {
    pub name: String,
    pub encrypted: bool,
    /// Where this node listens.
    pub address: SocketAddr,
}

/// What the last start found in the logs.
#[derive(Clone, Copy, Debug, Default)]
pub struct LastReplay {
    pub seconds: f64,
    pub segments: usize,
    pub entries: u64,
    pub traces_resumed: u64,
    pub skipped_bytes: u64,
}

impl LastReplay {
    /// Cores replay side by side.
    fn merge(self, other: LastReplay) -> LastReplay {
        LastReplay {
            seconds: self.seconds.max(other.seconds),
            segments: self.segments + other.segments,
            entries: self.entries + other.entries,
            traces_resumed: self.traces_resumed + other.traces_resumed,
            skipped_bytes: self.skipped_bytes + other.skipped_bytes,
        }
    }
}

/// The parts that answers are made of. The core is absent until its logs are replayed.
pub struct Admin {
    facts: Arc<Facts>,
    clock: Rc<Clock>,
    mesh: Rc<Mesh>,
    cpu: u32,
    connections: Rc<Connections>,
    core: RefCell<Option<Rc<Core>>>,
    ingress: RefCell<Option<Rc<Ingress>>>,
    /// On the core that speaks for the node.
    cluster: RefCell<Option<Rc<Cluster>>>,
    last_replay: Cell<LastReplay>,
    flags: Arc<Flags>,
    events: Events,
    stopping: Cell<bool>,
}

impl Admin {
    /// On the core that it answers for.
    pub fn new(
        facts: Arc<Facts>,
        clock: Rc<Clock>,
        mesh: Rc<Mesh>,
        flags: Arc<Flags>,
        events: Events,
        cpu: u32,
    ) -> Rc<Admin> {
        let connections = Connections::new(clock.clone(), CONNECTIONS_MAX);
        Rc::new(Admin {
            facts,
            clock,
            mesh,
            cpu,
            connections,
            core: RefCell::new(None),
            ingress: RefCell::new(None),
            cluster: RefCell::new(None),
            last_replay: Cell::default(),
            flags,
            events,
            stopping: Cell::new(false),
        })
    }

    /// Serves the port, on one core.
    pub fn serve(self: &Rc<Admin>, listener: TcpListener, epoll: Rc<Epoll>) {
        // SAFETY: the descriptor is open, a listening socket, and owned by nobody else.
        let listener = unsafe { glommio::net::TcpListener::from_raw_fd(listener.into_raw_fd()) };
        glommio::spawn_local(accept(self.clone(), listener, epoll)).detach();
        glommio::spawn_local(sweep(self.clone())).detach();
    }

    /// From now on there is something to tell.
    pub fn attach(&self, core: Rc<Core>, ingress: Rc<Ingress>, last_replay: LastReplay) {
        *self.core.borrow_mut() = Some(core);
        *self.ingress.borrow_mut() = Some(ingress);
        self.last_replay.set(last_replay);
    }

    fn cluster_report(&self) -> Option<ClusterReport> {
        self.cluster.borrow().as_ref().map(|cluster| cluster.report())
    }

    pub fn set_stopping(&self) {
        self.stopping.set(true);
    }

    async fn answer(&self, request: &Request<Incoming>) -> Reply {
        let path = request.uri().path();
        let query = request.uri().query().unwrap_or("");
        // The page holds nothing but itself; what it asks for needs the token.
        let open = matches!(path, "/healthz" | "/readyz" | "/metrics")
            || (path == "/" && self.facts.token.is_some());
        if !open && let Err(refusal) = self.authorize(request) {
            return refusal;
        }
        if request.method() == Method::POST {
            return match is_from_here(request) {
                true => self.act(path).await,
                // A page of anybody's could send it without being able to read the answer.
                false => Reply::error(StatusCode::FORBIDDEN, "a page from elsewhere may not ask this"),
            };
        }
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return Reply::error(
                StatusCode::METHOD_NOT_ALLOWED,
                "use GET, or POST where it is said",
            );
        }
        match path {
            "/" => page::page(),
            "/healthz" => Reply::json(StatusCode::OK, &json!({ "healthy": true })),
            "/readyz" => {
                let why = self.node_report().await.obstacles;
                let status = if why.is_empty() {
                    StatusCode::OK
                } else {
                    StatusCode::SERVICE_UNAVAILABLE
                };
                Reply::json(status, &json!({ "ready": why.is_empty(), "why": why }))
            }
            "/metrics" => Reply {
                status: StatusCode::OK,
                content_type: "text/plain; version=0.0.4; charset=utf-8",
                headers: Vec::new(),
                body: self.metrics(&self.node_report().await).into_bytes(),
            },
            "/api/v1/status" => Reply::json(StatusCode::OK, &self.status(&self.node_report().await)),
            "/api/v1/traces" => self.recent(query).await,
            _ => match path.strip_prefix("/api/v1/traces/") {
                Some(id) => self.explain(id, query).await,
                None => Reply::error(
                    StatusCode::NOT_FOUND,
                    "no such page; see /, /api/v1/status and /metrics",
                ),
            },
        }
    }

    /// What is asked for by POST.
    async fn act(&self, path: &str) -> Reply {
        let kept = path
            .strip_prefix("/api/v1/traces/")
            .and_then(|rest| rest.strip_suffix("/keep"));
        match (path, kept) {
            (_, Some(id)) => self.keep(id).await,
            ("/api/v1/drain", _) => {
                self.flags.drain.store(true, Ordering::Relaxed);
                let why = "everything is decided and exported, then this process ends";
                Reply::json(
                    StatusCode::ACCEPTED,
                    &json!({ "state": "draining", "message": why }),
                )
            }
            ("/api/v1/reload", _) => self.reload().await,
            _ => Reply::error(StatusCode::METHOD_NOT_ALLOWED, "use GET"),
        }
    }

    async fn reload(&self) -> Reply {
        let (answer, answered) = oneshot::channel();
        let asked = self.events.send(Event::Reload(answer)).is_ok();
        let outcome = match asked {
            true => answered.await.ok(),
            false => None,
        };
        match outcome {
            Some(Ok(outcome)) => {
                let changed = outcome == Outcome::Changed;
                Reply::json(
                    StatusCode::OK,
                    &json!({ "reloaded": true, "policies_changed": changed }),
                )
            }
            Some(Err(error)) => Reply::error(StatusCode::UNPROCESSABLE_ENTITY, &error),
            None => Reply::error(StatusCode::SERVICE_UNAVAILABLE, "starting or stopping"),
        }
    }

    fn authorize(&self, request: &Request<Incoming>) -> Result<(), Reply> {
        let Some(token) = &self.facts.token else {
            return match self.facts.admin.ip().is_loopback() {
                true if is_local_name(request) => Ok(()),
                // A foreign page whose name was made to resolve to us would read what is for this host only.
                true => Err(Reply::error(
                    StatusCode::FORBIDDEN,
                    "under a public name this needs admin.token_file; ask localhost or an address",
                )),
                false => Err(Reply::error(
                    StatusCode::FORBIDDEN,
                    "on an address that is not loopback this needs admin.token_file",
                )),
            };
        };
        let given = request
            .headers()
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok());
        let given = given
            .and_then(|value| value.strip_prefix("Bearer "))
            .unwrap_or("");
        match is_same_text(given, token) {
            true => Ok(()),
            false => Err(Reply::error(
                StatusCode::UNAUTHORIZED,
                "send Authorization: Bearer <token>",
            )),
        }
    }
}

/// Whether no page, or a page of our own, asks.
fn is_from_here(request: &Request<Incoming>) -> bool {
    let text = |name| request.headers().get(name).map(HeaderValue::as_bytes);
    let Some(origin) = text(header::ORIGIN) else {
        return true;
    };
    let host = text(header::HOST).unwrap_or_default();
    [&b"http://"[..], b"https://"]
        .iter()
        .any(|scheme| origin.strip_prefix(*scheme) == Some(host))
}

/// Whether the client says an address or a name that nobody outside can own, or does not say how it calls us.
fn is_local_name(request: &Request<Incoming>) -> bool {
    let named = request.headers().get(header::HOST);
    let Some(Ok(authority)) = named.map(|host| host.as_bytes().try_into()) else {
        return named.is_none();
    };
    is_local_authority(&authority)
}

fn is_local_authority(authority: &http::uri::Authority) -> bool {
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    host.parse::<std::net::IpAddr>().is_ok()
        // Whoever owns a public name owns one with a dot in it.
        || !host.contains('.')
        || host.to_ascii_lowercase().ends_with(".localhost")
}

/// Compares in a time that depends on the lengths only.
fn is_same_text(one: &str, other: &str) -> bool {
    let differing = one
        .bytes()
        .zip(other.bytes())
        .fold(0, |differing, (a, b)| differing | (a ^ b));
    one.len() == other.len() && differing == 0
}

struct Reply {
    status: StatusCode,
    content_type: &'static str,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Vec<u8>,
}

impl Reply {
    fn json(status: StatusCode, value: &serde_json::Value) -> Reply {
        let mut body = serde_json::to_vec(value).expect("a value of strings and numbers");
        body.push(b'\n');
        Reply {
            status,
            content_type: "application/json",
            headers: Vec::new(),
            body,
        }
    }

    fn error(status: StatusCode, message: &str) -> Reply {
        let code = status
            .canonical_reason()
            .unwrap_or("Error")
            .to_lowercase()
            .replace(' ', "_");
        Reply::json(status, &json!({ "error": { "code": code, "message": message } }))
    }
}

/// A body that is there as a whole.
struct Whole(Option<bytes::Bytes>);

impl Body for Whole {
    type Data = bytes::Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<bytes::Bytes>, Infallible>>> {
        Poll::Ready(self.0.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}

struct Service(Rc<Admin>);

impl hyper::service::Service<Request<Incoming>> for Service {
    type Response = Response<Whole>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Whole>, Infallible>>>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let admin = self.0.clone();
        Box::pin(async move {
            let reply = admin.answer(&request).await;
            let mut response = Response::new(Whole(Some(reply.body.into())));
            *response.status_mut() = reply.status;
            let fixed = [
                (header::CONTENT_TYPE, reply.content_type),
                (header::CACHE_CONTROL, "no-store"),
                (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            ];
            let fixed = fixed.map(|(name, value)| (name, HeaderValue::from_static(value)));
            response
                .headers_mut()
                .extend(fixed.into_iter().chain(reply.headers));
            Ok(response)
        })
    }
}

async fn accept(admin: Rc<Admin>, listener: glommio::net::TcpListener, epoll: Rc<Epoll>) {
    let buffers: Rc<ReadBuffers> = Rc::default();
    loop {
        let tcp = match listener.accept().await {
            Ok(tcp) => tcp,
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections of the admin port");
                glommio::timer::sleep(ACCEPT_REST).await;
                continue;
            }
        };
        let Some(admitted) = admin.connections.admit() else {
            continue;
        };
        let stream = match Stream::new(tcp, epoll.clone(), buffers.clone(), TURN_BYTES) {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot serve a connection of the admin port");
                continue;
            }
        };
        let admin = admin.clone();
        let connection = async move {
            let deadline = admin.connections.deadline();
            deadline.set(CONNECTION_TIME_MAX);
            let meter = stream.meter();
            let mut builder = http1::Builder::new();
            builder
                .half_close(true)
                .header_read_timeout(None)
                .max_headers(64)
                .max_buf_size(64 << 10);
            let mut served = builder.serve_connection(stream, Service(admin.clone()));
            let served = poll_fn(|cx| {
                meter.begin_turn();
                served.poll_unpin(cx)
            });
            // A client that goes away or misbehaves is no concern of ours.
            let _ = deadline.bound(served).await;
            drop(admitted);
        };
        glommio::spawn_local(connection).detach();
    }
}

async fn sweep(admin: Rc<Admin>) {
    loop {
        glommio::timer::sleep(Duration::from_millis(500)).await;
        admin.connections.sweep(admin.clock.now().instant);
    }
}

/// RFC 3339, to the millisecond.
fn time_text(time: WallTime) -> String {
    let moment = std::time::UNIX_EPOCH + Duration::from_nanos(time.0);
    humantime::format_rfc3339_millis(moment).to_string()
}

/// CPU time of this process so far.
fn cpu_seconds() -> f64 {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    used.tv_sec as f64 + used.tv_nsec as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_name_is_not_local() {
        let is_local = |host: &'static str| is_local_authority(&http::uri::Authority::from_static(host));
        for host in [
            "127.0.0.1:8245",
            "localhost:8245",
            "LOCALHOST",
            "[::1]:8245",
            "a.localhost:1",
        ] {
            assert!(is_local(host), "{host}");
        }
        for host in [
            "evil.example:8245",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
        ] {
            assert!(!is_local(host), "{host}");
        }
    }
}
