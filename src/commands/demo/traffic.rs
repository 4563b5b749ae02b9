//! The services of the shop as clients: each sends its own spans on its own connection, as exporters do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message;

use super::pause;
use super::shop::{Batches, Service, text};
use crate::commands::http::Client;
use crate::io::clock::Clock;

/// Requests that wait for their turn on a connection. What does not fit goes with the next tick.
const WAITING_MAX: usize = 2;
/// For one request that is refused or breaks off, as an exporter's `max_elapsed_time`.
const RETRY_TIME: Duration = Duration::from_secs(60);
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// What the clients and the demo tell each other while they run.
#[derive(Default)]
pub struct Shared {
    pub sent: AtomicU64,
    /// Nobody answers any more: retrying is of no use.
    gives_up: AtomicBool,
}

/// A request that was acknowledged whole.
pub struct Acknowledged {
    pub spans: Vec<Fact>,
    /// From the first byte sent to the reply, of the try that was answered.
    pub took: Duration,
}

/// What decides whether a span has to be kept, and its ids.
#[derive(Clone, Copy, Debug)]
pub struct Fact {
    pub trace_id: [u8; 16],
    pub span_id: [u8; 8],
    pub start_ns: u64,
    pub end_ns: u64,
    pub has_error: bool,
}

pub struct Clients {
    pub shared: Arc<Shared>,
    senders: Vec<SyncSender<Batch>>,
    acknowledged: Receiver<Acknowledged>,
    threads: Vec<JoinHandle<Outcome>>,
}

struct Batch {
    spans: Vec<Span>,
    /// Of the service that sends it.
    version: &'static str,
}

/// What the clients saw.
#[derive(Debug, Default)]
pub struct Outcome {
    pub request_count: u64,
    /// Spans of requests that were acknowledged in part, or never.
    pub unacknowledged: u64,
    /// The last reason why a request was not acknowledged at once.
    pub last_error: Option<String>,
}

impl Clients {
    #[allow(clippy::disallowed_methods, reason = "the clients are no part of the engine")]
    pub fn start(address: &str) -> Clients {
        let shared = Arc::new(Shared::default());
        let (answers, acknowledged) = mpsc::channel();
        let mut clients = Clients {
            shared: shared.clone(),
            senders: Vec::new(),
            acknowledged,
            threads: Vec::new(),
        };
        for service in Service::ALL {
            let (sender, batches) = sync_channel(WAITING_MAX);
            let (address, shared, answers) = (address.to_owned(), shared.clone(), answers.clone());
            clients.senders.push(sender);
            clients.threads.push(std::thread::spawn(move || {
                run(service, &address, &batches, &shared, &answers)
            }));
        }
        clients
    }

    /// Hands each service its spans; a service that is still busy keeps them in `batches`.
    pub fn offer(&self, batches: &mut Batches, version: &'static str) {
        for (sender, waiting) in self.senders.iter().zip(batches) {
            let spans = std::mem::take(waiting);
            if !spans.is_empty()
                && let Err(TrySendError::Full(batch)) = sender.try_send(Batch { spans, version })
            {
                *waiting = batch.spans;
            }
        }
    }

    /// What was acknowledged since the last look.
    pub fn acknowledged(&self) -> impl Iterator<Item = Acknowledged> + '_ {
        self.acknowledged.try_iter()
    }

    pub fn give_up(&self) {
        self.shared.gives_up.store(true, Ordering::Relaxed);
    }

    /// Waits until everything handed over was answered or given up, and hands on the last answers.
    pub fn finish(self, mut each: impl FnMut(Acknowledged)) -> Outcome {
        let Clients {
            senders,
            threads,
            acknowledged,
            ..
        } = self;
        drop(senders);
        // Ends when the last client has let go of its end.
        acknowledged.iter().for_each(&mut each);
        let mut all = Outcome::default();
        for outcome in threads.into_iter().filter_map(|thread| thread.join().ok()) {
            all.request_count += outcome.request_count;
            all.unacknowledged += outcome.unacknowledged;
            all.last_error = all.last_error.or(outcome.last_error);
        }
        all
    }
}

impl Fact {
    fn of(span: &Span) -> Option<Fact> {
        Some(Fact {
            trace_id: span.trace_id.as_slice().try_into().ok()?,
            span_id: span.span_id.as_slice().try_into().ok()?,
            start_ns: span.start_time_unix_nano,
            end_ns: span.end_time_unix_nano,
            has_error: span.status.is_some(),
        })
    }
}

fn run(
    service: Service,
    address: &str,
    batches: &Receiver<Batch>,
    shared: &Shared,
    answers: &Sender<Acknowledged>,
) -> Outcome {
    let clock = Clock::new();
    let mut client = Client::new(address);
    let mut outcome = Outcome::default();
    for Batch { spans, version } in batches {
        let facts: Vec<Fact> = spans.iter().filter_map(Fact::of).collect();
        let span_count = spans.len() as u64;
        let body = request(service, version, spans).encode_to_vec();
        shared.sent.fetch_add(span_count, Ordering::Relaxed);
        let until = clock.instant().plus(RETRY_TIME);
        let acknowledged = loop {
            outcome.request_count += 1;
            let began = clock.instant();
            match client.post("/v1/traces", "application/x-protobuf", &body) {
                Ok(reply) if reply.status == 200 => {
                    let reply = ExportTraceServiceResponse::decode(&reply.body[..]).unwrap_or_default();
                    match reply.partial_success {
                        Some(part) if part.rejected_spans > 0 => {
                            outcome.last_error = Some(format!("spans were rejected: {}", part.error_message));
                            break None;
                        }
                        _ => break Some(clock.instant().since(began)),
                    }
                }
                Ok(reply) => {
                    outcome.last_error = Some(format!("a request was answered with {}", reply.status))
                }
                Err(error) => outcome.last_error = Some(format!("a request broke off: {error}")),
            }
            if shared.gives_up.load(Ordering::Relaxed) || clock.instant() >= until {
                break None;
            }
            pause(RETRY_PAUSE);
        };
        match acknowledged {
            // The demo that no longer listens has no use for it.
            Some(took) => drop(answers.send(Acknowledged { spans: facts, took })),
            None => outcome.unacknowledged += span_count,
        }
    }
    outcome
}

fn request(service: Service, version: &str, spans: Vec<Span>) -> ExportTraceServiceRequest {
    let resource = Resource {
        attributes: vec![
            text("service.name", service.name()),
            text("service.namespace", "shop"),
            text("service.version", version),
            text("deployment.environment.name", "demo"),
            text("host.name", "shop-host-1"),
            text("telemetry.sdk.language", "rust"),
            text("telemetry.sdk.name", "opentelemetry"),
        ],
        ..Resource::default()
    };
    let scope = InstrumentationScope {
        name: "tailkeep.demo".to_owned(),
        ..InstrumentationScope::default()
    };
    let scope_spans = ScopeSpans {
        scope: Some(scope),
        spans,
        ..ScopeSpans::default()
    };
    let resource_spans = ResourceSpans {
        resource: Some(resource),
        scope_spans: vec![scope_spans],
        ..ResourceSpans::default()
    };
    ExportTraceServiceRequest {
        resource_spans: vec![resource_spans],
    }
}
