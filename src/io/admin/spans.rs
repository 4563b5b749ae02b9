//! What the spans of one trace tell that a digest does not: the root, the services, which span a policy matched.
//!
//! They are read back from the log, at most [`PLACES_MAX`] places and [`BYTES_MAX`] bytes of them.

use crate::base::ids::{Place, TraceId, write_hex};
use crate::base::monoid::Monoid;
use crate::digest::Digest;
use crate::io::core::Core;
use crate::otlp::payload::SpansPayload;
use crate::otlp::view::{self, AnyValueView, SpanView};
use crate::policy::{Outcome, PolicySet, ResourceMatch};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Places read of one trace.
const PLACES_MAX: usize = 64;
/// Bytes of entries read for one answer.
const BYTES_MAX: usize = 8 << 20;
/// Services named.
const SERVICES_MAX: usize = 64;
/// Policies that one span can match by itself; the others look at the trace as a whole.
const SPAN_TYPES: [&str; 4] = [
    "status_code",
    "string_attribute",
    "numeric_attribute",
    "boolean_attribute",
];

/// What was read of one trace, and where its spans are.
#[derive(Debug)]
pub struct Seen {
    /// Spans that were read.
    pub spans: u64,
    pub in_memory: u64,
    pub on_disk: u64,
    pub services: BTreeSet<String>,
    pub root: Option<Value>,
    /// By number of the policy: the first span that matches it alone.
    pub matched_by: Vec<Option<String>>,
    /// By destination: kept spans that it has not got.
    pub queued: Vec<(String, u64)>,
    digest: Digest,
}

/// Reads what is there of `places`, all in logs that this core keeps.
pub async fn read(core: &Core, trace: TraceId, places: &[Place]) -> Seen {
    let policies = core.shard().policies().clone();
    let mut seen = Seen {
        spans: 0,
        in_memory: 0,
        on_disk: 0,
        services: BTreeSet::new(),
        root: None,
        matched_by: vec![None; policies.policies().len()],
        queued: Vec::new(),
        digest: Digest::EMPTY,
    };
    let mut bytes = 0;
    for place in places.iter().take(PLACES_MAX) {
        let is_resident = core
            .shard()
            .landing(place.log())
            .is_some_and(|landing| landing.resident(place.entry()).is_some());
        let Some(payload) = core.read_entry(*place).await else {
            continue;
        };
        let before = seen.spans;
        seen.absorb(&policies, trace, *place, &payload);
        let count = seen.spans - before;
        match is_resident {
            true => seen.in_memory += count,
            false => seen.on_disk += count,
        }
        bytes += payload.len();
        if bytes >= BYTES_MAX {
            break;
        }
    }
    for landing in core.shard().landings() {
        for (id, queued) in landing.queued_spans_of(trace) {
            match seen.queued.iter_mut().find(|(known, _)| known == id) {
                Some((_, count)) => *count += queued,
                None => seen.queued.push((id.to_string(), queued)),
            }
        }
    }
    seen
}

impl Seen {
    fn absorb(&mut self, policies: &PolicySet, trace: TraceId, place: Place, payload: &[u8]) -> Option<()> {
        let payload = SpansPayload::parse(payload).ok()?;
        let (run, spans) = payload.run(place.run())?;
        if run.trace != trace {
            return None;
        }
        for span in spans {
            let (resource, _) = payload.context(span.scope)?;
            let Ok(view) = SpanView::parse(span.bytes) else {
                continue;
            };
            self.spans += 1;
            let service = service_of(resource);
            if let Some(service) = &service
                && self.services.len() < SERVICES_MAX
            {
                self.services.insert(service.clone());
            }
            if view.parent_span_id.iter().all(|byte| *byte == 0) && self.root.is_none() {
                self.root = Some(json!({
                    "service": service, "name": String::from_utf8_lossy(view.name()), "span_id": hex(view.span_id),
                    "duration_ms": view.end_ns.saturating_sub(view.start_ns) / 1_000_000,
                }));
            }
            let matched = policies.match_resource(view::resource_attributes(resource));
            self.match_alone(policies, trace, &view, matched);
        }
        Some(())
    }

    fn match_alone(
        &mut self,
        policies: &PolicySet,
        trace: TraceId,
        view: &SpanView<'_>,
        resource: ResourceMatch,
    ) {
        let digest = policies.fold(view, resource);
        // A span that adds nothing new to what was seen matches nothing new.
        let merged = self.digest.merge(digest);
        if merged.predicates == self.digest.predicates && self.spans > 1 {
            return;
        }
        self.digest = merged;
        let alone = policies.explain(trace, &digest, true);
        for ((slot, result), info) in self.matched_by.iter_mut().zip(alone).zip(policies.policies()) {
            if slot.is_none() && result.result == Outcome::Match && SPAN_TYPES.contains(&info.type_name) {
                *slot = Some(hex(view.span_id));
            }
        }
    }
}

fn service_of(resource: &[u8]) -> Option<String> {
    let mut attributes = view::resource_attributes(resource);
    let (_, name) = attributes.find(|(key, _)| *key == b"service.name")?;
    match name {
        AnyValueView::String(name) => Some(String::from_utf8_lossy(name).into_owned()),
        _ => None,
    }
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    write_hex(&mut text, bytes).expect("a string takes everything");
    text
}
