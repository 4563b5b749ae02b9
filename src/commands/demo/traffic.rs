//! The services of the shop as clients: each sends its own spans on its own connection, as exporters do.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
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
/// Of one request that is refused or breaks off.
const TRIES_MAX: u32 = 5;
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// Counts that all clients add to.
#[derive(Default)]
pub struct Counts {
    pub sent: AtomicU64,
    pub acknowledged: AtomicU64,
}

pub struct Clients {
    pub counts: Arc<Counts>,
    senders: Vec<SyncSender<Vec<Span>>>,
    threads: Vec<JoinHandle<Outcome>>,
}

/// What the clients saw.
#[derive(Debug, Default)]
pub struct Outcome {
    pub request_count: u64,
    /// From the first byte sent to the reply, of each request that was acknowledged, in microseconds.
    pub ack_us: Vec<u64>,
    /// The last reason why a request was not acknowledged at once.
    pub last_error: Option<String>,
}

impl Clients {
    #[allow(clippy::disallowed_methods, reason = "the clients are no part of the engine")]
    pub fn start(address: &str) -> Clients {
        let counts = Arc::new(Counts::default());
        let mut clients = Clients {
            counts: counts.clone(),
            senders: Vec::new(),
            threads: Vec::new(),
        };
        for service in Service::ALL {
            let (sender, batches) = sync_channel(WAITING_MAX);
            let (address, counts) = (address.to_owned(), counts.clone());
            clients.senders.push(sender);
            clients.threads.push(std::thread::spawn(move || {
                run(service, &address, &batches, &counts)
            }));
        }
        clients
    }

    /// Hands each service its spans; a service that is still busy keeps them in `batches`.
    pub fn offer(&self, batches: &mut Batches) {
        for (sender, batch) in self.senders.iter().zip(batches) {
            if !batch.is_empty()
                && let Err(TrySendError::Full(spans)) = sender.try_send(std::mem::take(batch))
            {
                *batch = spans;
            }
        }
    }

    /// Waits until everything handed over was answered or given up.
    pub fn finish(self) -> Outcome {
        let Clients { senders, threads, .. } = self;
        drop(senders);
        let mut all = Outcome::default();
        for outcome in threads.into_iter().filter_map(|thread| thread.join().ok()) {
            all.request_count += outcome.request_count;
            all.ack_us.extend(outcome.ack_us);
            all.last_error = all.last_error.or(outcome.last_error);
        }
        all.ack_us.sort_unstable();
        all
    }
}

impl Outcome {
    /// In milliseconds.
    pub fn ack_ms(&self, percent: usize) -> f64 {
        let last = self.ack_us.len().saturating_sub(1);
        self.ack_us
            .get(last * percent / 100)
            .map_or(0.0, |us| *us as f64 / 1e3)
    }
}

fn run(service: Service, address: &str, batches: &Receiver<Vec<Span>>, counts: &Counts) -> Outcome {
    let clock = Clock::new();
    let mut client = Client::new(address);
    let mut outcome = Outcome::default();
    for spans in batches {
        let span_count = spans.len() as u64;
        let body = request(service, spans).encode_to_vec();
        counts.sent.fetch_add(span_count, Ordering::Relaxed);
        for _ in 0..TRIES_MAX {
            outcome.request_count += 1;
            let began = clock.instant();
            match client.post("/v1/traces", "application/x-protobuf", &body) {
                Ok(reply) if reply.status == 200 => {
                    let reply = ExportTraceServiceResponse::decode(&reply.body[..]).unwrap_or_default();
                    let rejected = reply
                        .partial_success
                        .map_or(0, |part| part.rejected_spans.max(0) as u64);
                    counts
                        .acknowledged
                        .fetch_add(span_count.saturating_sub(rejected), Ordering::Relaxed);
                    outcome
                        .ack_us
                        .push(clock.instant().since(began).as_micros() as u64);
                    break;
                }
                Ok(reply) => {
                    outcome.last_error = Some(format!("a request was answered with {}", reply.status))
                }
                Err(error) => outcome.last_error = Some(format!("a request broke off: {error}")),
            }
            pause(RETRY_PAUSE);
        }
    }
    outcome
}

fn request(service: Service, spans: Vec<Span>) -> ExportTraceServiceRequest {
    let resource = Resource {
        attributes: vec![
            text("service.name", service.name()),
            text("deployment.environment.name", "demo"),
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
