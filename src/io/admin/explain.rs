//! What became of one trace, and of the last ones.

use super::spans::{self, Seen};
use super::{Admin, Reply, time_text};
use crate::base::ids::{Place, TraceId};
use crate::base::time::WallTime;
use crate::digest::Digest;
use crate::io::core::Core;
use crate::landing::fetch::WhichLog;
use crate::policy::Outcome;
use crate::route::Decision;
use crate::table::{DecidedTrace, Trace};
use crate::verdict::Verdict;
use http::StatusCode;
use serde_json::{Value, json};

/// Places of a pending trace that are looked at.
const PLACES_MAX: usize = 64;

/// What memory knows of one trace.
struct Known {
    trace: TraceId,
    digest: Digest,
    decision: Option<Decision>,
    first_seen: WallTime,
    last_seen: WallTime,
    decided_at: Option<WallTime>,
    late_spans: u32,
    places: Vec<Place>,
}

impl Admin {
    /// `GET /api/v1/traces/{id}`. With one node `?local=true` says the same.
    pub(super) async fn explain(&self, id: &str, query: &str) -> Reply {
        let Some(trace) = TraceId::from_hex(id) else {
            return Reply::error(
                StatusCode::BAD_REQUEST,
                "a trace id is 32 hexadecimal digits, not all zero",
            );
        };
        if !matches!(query, "" | "local=true" | "local=false") {
            return Reply::error(StatusCode::BAD_REQUEST, "known is local=true");
        }
        let Some(core) = self.core.borrow().clone() else {
            return Reply::error(
                StatusCode::SERVICE_UNAVAILABLE,
                "replaying the log; ask again in a moment",
            );
        };
        let known = {
            let shard = core.shard();
            let open = shard.table().open_trace(&trace).map(|open| pending(&core, open));
            open.or_else(|| shard.table().recent().get(&trace).map(decided))
        };
        if let Some(known) = known {
            let seen = spans::read(&core, trace, &known.places).await;
            return Reply::json(StatusCode::OK, &self.describe(&core, &known, Some(&seen)));
        }
        let decision = core.shard().table().decided(&trace);
        match decision {
            Some(decision) => Reply::json(StatusCode::OK, &self.remembered(&core, trace, decision)),
            None => Reply::error(StatusCode::NOT_FOUND, &unknown(&core)),
        }
    }

    /// `GET /api/v1/traces`.
    pub(super) fn recent(&self, query: &str) -> Reply {
        let Some(core) = self.core.borrow().clone() else {
            return Reply::error(
                StatusCode::SERVICE_UNAVAILABLE,
                "replaying the log; ask again in a moment",
            );
        };
        let (mut verdict, mut policy, mut limit) = (None, None, 50usize);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("verdict", name)) => {
                    let found = Verdict::ALL.into_iter().find(|verdict| verdict.name() == name);
                    let Some(found) = found else {
                        let words = "verdict is one of pending, kept, rolled_up, denied";
                        return Reply::error(StatusCode::BAD_REQUEST, words);
                    };
                    verdict = Some(found);
                }
                Some(("policy", name)) => policy = Some(name.to_string()),
                Some(("limit", count)) => match count.parse() {
                    Ok(count) => limit = count,
                    Err(_) => return Reply::error(StatusCode::BAD_REQUEST, "limit is a whole number"),
                },
                _ => return Reply::error(StatusCode::BAD_REQUEST, "known are verdict, policy and limit"),
            }
        }
        let shard = core.shard();
        let name = |decision: &Decision| policy_name(&core, decision);
        let traces = shard
            .table()
            .recent()
            .iter()
            .filter(|decided| verdict.is_none_or(|verdict| decided.decision.verdict == verdict))
            .filter(|decided| policy.is_none() || name(&decided.decision) == policy)
            .take(limit)
            .map(|found| self.describe(&core, &decided(found), None));
        Reply::json(StatusCode::OK, &json!({ "traces": traces.collect::<Vec<_>>() }))
    }

    /// Of an old decision only the verdict is known, and what goes with it.
    fn remembered(&self, core: &Core, trace: TraceId, decision: Decision) -> Value {
        json!({
            "trace_id": trace.to_string(), "verdict": decision.verdict.name(),
            // A dropped trace is known by a fingerprint only; false hits are rarer than 1 in 10^9.
            "certain": decision.verdict == Verdict::Keep, "source": "cache",
            "policy": policy_name(core, &decision), "reason": decision.reason.name(),
            "incomplete": decision.incomplete, "upgraded": false, "dry_run": null,
            "randomness": null, "threshold": threshold_text(&decision),
            "spans": null, "log_records": null, "bytes": null, "late_spans": null, "services": [], "root": null,
            "first_seen": null, "last_seen": null, "decided_at": null, "decided_by": self.facts.node,
            "policies": [], "nodes": [],
        })
    }

    /// `seen` is what was read back of the spans, if anyone looked.
    fn describe(&self, core: &Core, known: &Known, seen: Option<&Seen>) -> Value {
        let shard = core.shard();
        let (digest, decision) = (&known.digest, known.decision.as_ref());
        let results = shard.policies().explain(known.trace, digest, decision.is_some());
        let policies = results.into_iter().enumerate().map(|(number, policy)| {
            let result = match policy.result {
                Outcome::Match => "match",
                Outcome::NoMatch => "no_match",
                Outcome::Unknown => "unknown",
            };
            let matched_by = seen
                .and_then(|seen| seen.matched_by.get(number)?.clone())
                .filter(|_| policy.result == Outcome::Match);
            json!({ "name": policy.name, "result": result, "span_id": matched_by, "detail": policy.detail })
        });
        let policies: Vec<Value> = policies.collect();
        let randomness = digest
            .randomness
            .value()
            .unwrap_or_else(|| known.trace.randomness());
        let was_read = seen.is_some_and(|seen| seen.spans > 0);
        let source = if was_read && decision.is_some() {
            "log"
        } else {
            "table"
        };
        let root = match seen.and_then(|seen| seen.root.clone()) {
            Some(root) => root,
            None if digest.has_root => {
                json!({ "service": null, "name": null, "span_id": null, "duration_ms": digest.duration_ms() })
            }
            None => Value::Null,
        };
        let services: Vec<&String> = seen.iter().flat_map(|seen| &seen.services).collect();
        json!({
            "trace_id": known.trace.to_string(),
            "verdict": decision.map_or(Verdict::Pending, |decision| decision.verdict).name(),
            "certain": true, "source": source,
            "policy": decision.and_then(|decision| policy_name(core, decision)),
            "reason": decision.map(|decision| decision.reason.name()),
            "incomplete": decision.is_some_and(|decision| decision.incomplete),
            "upgraded": false, "dry_run": null, "randomness": format!("{randomness:014x}"),
            "threshold": decision.and_then(threshold_text),
            "spans": digest.span_count, "log_records": 0, "bytes": digest.bytes,
            "late_spans": known.late_spans, "services": services, "root": root,
            "first_seen": time_text(known.first_seen), "last_seen": time_text(known.last_seen),
            "decided_at": known.decided_at.map(time_text),
            "decided_by": known.decided_at.map(|_| self.facts.node.clone()),
            "policies": policies,
            "nodes": [self.fragment(core, known, seen)],
        })
    }

    /// What this node holds of the trace. In a list of traces nobody has looked where its spans are.
    fn fragment(&self, core: &Core, known: &Known, seen: Option<&Seen>) -> Value {
        let spans = u64::from(known.digest.span_count) + u64::from(known.late_spans);
        let shard = core.shard();
        let is_kept = known
            .decision
            .is_some_and(|decision| decision.verdict == Verdict::Keep);
        let exporters = seen.filter(|_| is_kept).map(|_| {
            let queued = shard.landing().queued_spans_of(known.trace);
            queued.map(|(id, queued)| {
                let accepted = spans.saturating_sub(queued);
                (id.to_string(), json!({ "accepted": accepted, "queued": queued }))
            })
        });
        let exporters: serde_json::Map<String, Value> = exporters.into_iter().flatten().collect();
        json!({
            "node": self.facts.node, "core": 0, "spans": spans,
            "in_memory": seen.map(|seen| seen.in_memory), "on_disk": seen.map(|seen| seen.on_disk),
            "exporters": exporters,
        })
    }
}

fn pending(core: &Core, trace: &Trace) -> Known {
    let now = core.now();
    let wall = |instant| {
        let ago = now.instant.since(instant).as_nanos() as u64;
        WallTime(now.wall.0.saturating_sub(ago))
    };
    Known {
        trace: trace.id(),
        digest: *trace.digest(),
        decision: None,
        first_seen: wall(trace.opened_at()),
        last_seen: wall(trace.progress().last_span_at),
        decided_at: None,
        late_spans: 0,
        places: trace.places().take(PLACES_MAX).collect(),
    }
}

fn decided(decided: &DecidedTrace) -> Known {
    Known {
        trace: decided.trace,
        digest: decided.digest,
        decision: Some(decided.decision),
        first_seen: decided.first_seen,
        last_seen: decided.last_seen,
        decided_at: Some(decided.decided_at),
        late_spans: decided.late_spans,
        places: decided.places.to_vec(),
    }
}

fn unknown(core: &Core) -> String {
    let shard = core.shard();
    let memory = match shard.table().recent().reaches_back_to() {
        Some(oldest) => format!("decisions in memory reach back to {}", time_text(oldest)),
        None => "no decision is in memory".to_string(),
    };
    let log = match shard.landing().usage(WhichLog::Main).oldest {
        Some(oldest) => format!("the log reaches back to {}", time_text(oldest)),
        None => "the log is empty".to_string(),
    };
    format!("nothing is known of this trace; {memory}, {log}")
}

fn policy_name(core: &Core, decision: &Decision) -> Option<String> {
    let number = decision.policy?;
    core.shard().landing().policy_name(number).map(str::to_string)
}

/// `th` as tracestate has it: up to 14 digits, trailing zeros left out.
fn threshold_text(decision: &Decision) -> Option<String> {
    let digits = format!("{:014x}", decision.threshold?.value());
    let trimmed = digits.trim_end_matches('0');
    Some(if trimmed.is_empty() {
        "0".to_string()
    } else {
        trimmed.to_string()
    })
}
