//! A scripted OTLP server: gRPC on h2, or HTTP/1.1 by hand. What it answers is told request by request.

use std::collections::{BTreeSet, VecDeque};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ::bytes::Bytes;
use ::http::{HeaderMap, Response};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;
use serde_json::Value;
use tailkeep::otlp::grpc::{encode_binary, prefix};
use tailkeep::otlp::status::{Code, PartialSuccess, Status};

use crate::output::{self, SpanKey};
use crate::process::{PATIENCE, Place, Tailkeep, wait_for};
use crate::traffic::trace_id;

/// The two transports that everything is tried on.
pub const BOTH: [Wire; 2] = [Wire::Grpc, Wire::Http];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    Grpc,
    Http,
}

/// What to do with a request.
#[derive(Clone, Debug)]
pub enum Answer {
    Accept,
    /// So many spans were thrown away.
    Partial(u64),
    /// A gRPC status, perhaps with RetryInfo.
    Code(Code, Option<Duration>),
    /// An HTTP status, perhaps with Retry-After.
    Status(u16, Option<String>),
    /// A reply of 5 MiB.
    Oversized,
    /// The connection is closed without a reply.
    Close,
    /// The connection is closed in the middle of the request. (HTTP only.)
    CloseMidway,
    /// No reply ever.
    Hang,
}

impl Answer {
    /// «Come again», in the words of the transport.
    pub fn unavailable(wire: Wire) -> Answer {
        match wire {
            Wire::Grpc => Answer::Code(Code::Unavailable, None),
            Wire::Http => Answer::Status(503, None),
        }
    }
}

/// A request and when it was whole.
#[derive(Clone)]
pub struct Received {
    pub at: Instant,
    pub headers: Vec<(String, String)>,
    /// Inflated.
    pub body: Vec<u8>,
    pub accepted: bool,
}

impl Received {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    pub fn request(&self) -> ExportTraceServiceRequest {
        ExportTraceServiceRequest::decode(&self.body[..]).expect("protobuf")
    }

    pub fn spans(&self) -> BTreeSet<SpanKey> {
        let request = self.request();
        let scopes = request.resource_spans.iter().flat_map(|part| &part.scope_spans);
        scopes
            .flat_map(|scope| scope.spans.iter().map(output::key))
            .collect()
    }

    /// Numbers of [`trace_id`].
    pub fn traces(&self) -> BTreeSet<u64> {
        let spans = self.spans();
        let numbers = spans.iter().map(|(trace, _)| {
            assert_eq!(trace[..8], trace_id(0)[..8]);
            u64::from_be_bytes(trace[8..].try_into().expect("16 bytes"))
        });
        numbers.collect()
    }
}

#[derive(Default)]
struct Script {
    next: VecDeque<Answer>,
    then: Option<Answer>,
    received: Vec<Received>,
    /// Sockets of this server, to be closed with it.
    sockets: Vec<TcpStream>,
}

/// A server that runs until it is dropped.
pub struct Destination {
    pub wire: Wire,
    pub address: SocketAddr,
    script: Arc<Mutex<Script>>,
    stopped: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

impl Destination {
    pub fn start(wire: Wire) -> Destination {
        Destination::start_at(wire, SocketAddr::new(next_loopback(), 0))
    }

    /// A free port where nobody listens.
    pub fn nowhere() -> SocketAddr {
        let listener = TcpListener::bind((next_loopback(), 0)).expect("a port");
        listener.local_addr().expect("bound")
    }

    pub fn start_at(wire: Wire, address: SocketAddr) -> Destination {
        let listener = wait_for("the port", || TcpListener::bind(address).ok());
        let address = listener.local_addr().expect("bound");
        let script: Arc<Mutex<Script>> = Arc::default();
        let stopped: Arc<AtomicBool> = Arc::default();
        let (shared, ends) = (script.clone(), stopped.clone());
        let acceptor = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if ends.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let again = stream.try_clone().expect("a descriptor");
                shared.lock().expect("unpoisoned").sockets.push(again);
                let script = shared.clone();
                std::thread::spawn(move || match wire {
                    Wire::Grpc => serve_grpc(stream, &script),
                    Wire::Http => serve_http(stream, &script),
                });
            }
        });
        Destination {
            wire,
            address,
            script,
            stopped,
            acceptor: Some(acceptor),
        }
    }

    /// The answers to the next requests, one each; then as before.
    pub fn next(&self, answers: impl IntoIterator<Item = Answer>) {
        self.script.lock().expect("unpoisoned").next.extend(answers);
    }

    /// From now on.
    pub fn always(&self, answer: Answer) {
        self.script.lock().expect("unpoisoned").then = Some(answer);
    }

    pub fn received(&self) -> Vec<Received> {
        self.script.lock().expect("unpoisoned").received.clone()
    }

    /// How often the trace came.
    pub fn count_of(&self, trace: u64) -> usize {
        let received = self.received();
        received
            .iter()
            .filter(|request| request.traces().contains(&trace))
            .count()
    }

    /// Traces of requests that it accepted.
    pub fn accepted(&self) -> BTreeSet<u64> {
        let received = self.received();
        let accepted = received.iter().filter(|request| request.accepted);
        accepted.flat_map(Received::traces).collect()
    }

    /// Spans of requests that it accepted.
    pub fn accepted_spans(&self) -> BTreeSet<SpanKey> {
        let received = self.received();
        let accepted = received.iter().filter(|request| request.accepted);
        accepted.flat_map(Received::spans).collect()
    }

    pub fn wait_accepted(&self, traces: impl IntoIterator<Item = u64>) {
        let traces: BTreeSet<u64> = traces.into_iter().collect();
        wait_for("traces at the destination", || {
            self.accepted().is_superset(&traces).then_some(())
        });
    }

    pub fn connection_count(&self) -> usize {
        self.script.lock().expect("unpoisoned").sockets.len()
    }

    /// The exporter that sends here: flow YAML, with `more` keys.
    pub fn exporter(&self, name: &str, more: &str) -> String {
        exporter(self.wire, &self.address.to_string(), name, more)
    }
}

/// A loopback address that no other test has: what still retries a dead destination of one test must never reach
/// a live one of another that got the same port.
fn next_loopback() -> IpAddr {
    static TAKEN: AtomicU16 = AtomicU16::new(1);
    let [high, low] = TAKEN.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    IpAddr::from([127, 1, high, low])
}

pub fn exporter(wire: Wire, address: &str, name: &str, more: &str) -> String {
    let (kind, endpoint) = match wire {
        Wire::Grpc => ("otlp_grpc", address.to_owned()),
        Wire::Http => ("otlp_http", format!("http://{address}")),
    };
    format!(
        ", {kind}/{name}: {{ endpoint: \"{endpoint}\", tls: {{ insecure: true }}, flush_interval: 10ms, \
         retry_on_failure: {{ initial_interval: 50ms, max_interval: 100ms, randomization_factor: 0 }}{more} }}"
    )
}

impl Drop for Destination {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
        for socket in &self.script.lock().expect("unpoisoned").sockets {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

/// A place with this exporter beside the file.
pub fn place(name: &str, exporters: &str) -> Place {
    // One core, so that a destination sees one connection and one queue.
    let mut place = Place::new(name).with("node.cores", "1");
    place.exporters = exporters.to_owned();
    place
}

/// The status of one exporter.
pub fn status_of(tailkeep: &Tailkeep, id: &str) -> Value {
    let status = tailkeep.status();
    let exporters = status["exporters"].as_array().expect("a list").clone();
    let found = exporters.into_iter().find(|exporter| exporter["id"] == id);
    found.unwrap_or_else(|| panic!("no {id} in {status}"))
}

/// Waits until `sent` and `failed` of an exporter are so many spans.
pub fn wait_counts(tailkeep: &Tailkeep, id: &str, sent: u64, failed: u64) {
    wait_for("sent and failed spans", || {
        let status = status_of(tailkeep, id);
        assert!(
            status["sent"].as_u64() <= Some(sent) && status["failed"].as_u64() <= Some(failed),
            "more than {sent} sent and {failed} failed: {status}"
        );
        (status["sent"] == sent && status["failed"] == failed).then_some(())
    });
}

/// A sample of the metrics, 0 if there is none.
pub fn metric(tailkeep: &Tailkeep, name_and_labels: &str) -> u64 {
    let (_, body) = crate::http::get(tailkeep.admin, "/metrics");
    let text = String::from_utf8(body).expect("text");
    let line = text.lines().find_map(|line| {
        let value = line.strip_prefix("tailkeep_")?.strip_prefix(name_and_labels)?;
        value.trim().parse::<f64>().ok()
    });
    line.unwrap_or(0.0) as u64
}

/// Decides about a whole request and remembers it. `None`: say nothing, ever.
fn decide(script: &Mutex<Script>, wire_headers: Vec<(String, String)>, body: Vec<u8>) -> Answer {
    let mut script = script.lock().expect("unpoisoned");
    let answer = script.next.pop_front().or_else(|| script.then.clone());
    let answer = answer.unwrap_or(Answer::Accept);
    script.received.push(Received {
        at: Instant::now(),
        headers: wire_headers,
        body,
        accepted: matches!(answer, Answer::Accept | Answer::Partial(_)),
    });
    answer
}

fn inflate(coding: Option<&str>, wire: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    match coding {
        None => plain.extend_from_slice(wire),
        Some("gzip") => {
            let mut decoder = flate2::read::GzDecoder::new(wire);
            decoder.read_to_end(&mut plain).expect("gzip");
        }
        Some("zstd") => plain = zstd::decode_all(wire).expect("zstd"),
        Some(other) => panic!("{other}"),
    }
    plain
}

fn response_of(answer: &Answer) -> Vec<u8> {
    let mut body = Vec::new();
    match answer {
        Answer::Partial(rejected) => PartialSuccess {
            rejected: *rejected,
            message: "too old",
        }
        .push_protobuf(&mut body),
        Answer::Oversized => body = vec![0; 5 << 20],
        _ => {}
    }
    body
}

// ---- HTTP/1.1 -------------------------------------------------------------------------------------------

fn serve_http(stream: TcpStream, script: &Mutex<Script>) {
    let _ = stream.set_read_timeout(Some(PATIENCE));
    let mut stream = BufReader::new(stream);
    while serve_one(&mut stream, script).is_some() {}
    let _ = stream.get_ref().shutdown(Shutdown::Both);
}

fn serve_one(stream: &mut BufReader<TcpStream>, script: &Mutex<Script>) -> Option<()> {
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        match line.split_once(": ") {
            Some((name, value)) => headers.push((name.to_ascii_lowercase(), value.to_owned())),
            None => headers.push((":request".to_owned(), line.to_owned())),
        }
    }
    let header = |name: &str| {
        let found = headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    };
    let length: usize = header("content-length")?.parse().expect("a length");
    {
        let mut script = script.lock().expect("unpoisoned");
        if matches!(script.next.front(), Some(Answer::CloseMidway)) {
            script.next.pop_front();
            drop(script);
            stream.read_exact(&mut vec![0; length / 2]).ok()?;
            return None;
        }
    }
    let mut wire = vec![0; length];
    stream.read_exact(&mut wire).ok()?;
    let body = inflate(header("content-encoding"), &wire);
    let answer = decide(script, headers, body);
    let (status, more, body) = match &answer {
        Answer::Accept | Answer::Partial(_) | Answer::Oversized => (200, String::new(), response_of(&answer)),
        Answer::Status(status, retry_after) => {
            let more = retry_after
                .as_ref()
                .map(|value| format!("retry-after: {value}\r\n"));
            let mut body = Vec::new();
            Status {
                code: Code::Unavailable,
                message: "as the script says",
                retry_delay: None,
            }
            .push_protobuf(&mut body);
            (*status, more.unwrap_or_default(), body)
        }
        Answer::Hang => {
            let _ = stream.read(&mut [0]);
            return None;
        }
        Answer::Close | Answer::CloseMidway => return None,
        Answer::Code(..) => panic!("a code is for gRPC"),
    };
    let head = format!(
        "HTTP/1.1 {status} Status\r\ncontent-type: application/x-protobuf\r\n{more}content-length: {}\r\n\r\n",
        body.len()
    );
    let reply = [head.as_bytes(), &body].concat();
    stream.get_mut().write_all(&reply).ok()
}

// ---- gRPC -----------------------------------------------------------------------------------------------

fn serve_grpc(stream: TcpStream, script: &Arc<Mutex<Script>>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let socket = stream.try_clone().expect("a descriptor");
    stream.set_nonblocking(true).expect("a socket");
    let local = tokio::task::LocalSet::new();
    let script = script.clone();
    runtime.block_on(local.run_until(async move {
        let stream = tokio::net::TcpStream::from_std(stream).expect("a socket");
        let Ok(mut connection) = h2::server::handshake(stream).await else {
            return;
        };
        while let Some(Ok((request, respond))) = connection.accept().await {
            let socket = socket.try_clone().expect("a descriptor");
            tokio::task::spawn_local(answer_call(request, respond, script.clone(), socket));
        }
    }));
}

async fn answer_call(
    request: ::http::Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    script: Arc<Mutex<Script>>,
    socket: TcpStream,
) {
    let (head, mut body) = request.into_parts();
    let mut wire = Vec::new();
    while let Some(Ok(chunk)) = body.data().await {
        let _ = body.flow_control().release_capacity(chunk.len());
        wire.extend_from_slice(&chunk);
    }
    let text = |value: &::http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let mut headers: Vec<(String, String)> = head
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), text(value)))
        .collect();
    headers.push((":request".to_owned(), format!("{} {}", head.method, head.uri)));
    let coding = headers.iter().find(|(name, _)| name == "grpc-encoding");
    let coding = coding.map(|(_, value)| value.as_str()).filter(|_| wire[0] == 1);
    let body = inflate(coding, &wire[5..]);
    let answer = decide(&script, headers, body);
    let response = |status: &str| {
        let mut response = Response::new(());
        let headers = response.headers_mut();
        headers.insert("content-type", "application/grpc".parse().expect("a value"));
        if !status.is_empty() {
            headers.insert("grpc-status", status.parse().expect("a value"));
        }
        response
    };
    match answer {
        Answer::Accept | Answer::Partial(_) | Answer::Oversized => {
            let message = response_of(&answer);
            let frame = [&prefix(false, message.len() as u32)[..], &message].concat();
            let Ok(mut stream) = respond.send_response(response(""), false) else {
                return;
            };
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().expect("a value"));
            let _ = stream.send_data(Bytes::from(frame), false);
            let _ = stream.send_trailers(trailers);
        }
        Answer::Code(code, retry_delay) => {
            let mut details = Vec::new();
            Status {
                code,
                message: "as the script says",
                retry_delay,
            }
            .push_protobuf(&mut details);
            let mut response = response(&(code as u8).to_string());
            let details = encode_binary(&details).parse().expect("base64");
            response.headers_mut().insert("grpc-status-details-bin", details);
            let _ = respond.send_response(response, true);
        }
        Answer::Status(status, _) => {
            let mut response = response("");
            *response.status_mut() = ::http::StatusCode::from_u16(status).expect("a status");
            let _ = respond.send_response(response, true);
        }
        Answer::Close => {
            let _ = socket.shutdown(Shutdown::Both);
        }
        Answer::Hang => std::future::pending().await,
        Answer::CloseMidway => panic!("only on HTTP"),
    }
}
