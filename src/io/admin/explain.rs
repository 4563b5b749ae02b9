//! What became of one trace, and of the last ones.

use super::{Admin, Reply, time_text};
use crate::base::ids::TraceId;
use crate::base::time::WallTime;
use crate::digest::Digest;
use crate::io::core::Core;
use crate::policy::Outcome;
use crate::route::{self, Decision};
use crate::table::{DecidedTrace, Trace};
use crate::verdict::Verdict;
use http::StatusCode;
use serde_json::{Value, json};

impl Admin {
    /// `GET /api/v1/traces/{id}`: the owner knows.
    pub(super) async fn explain(&self, id: &str) -> Reply {
        let id = id.split('?').next().unwrap_or(id);
        let Some(trace) = TraceId::from_hex(id) else {
            return Reply::error(
                StatusCode::BAD_REQUEST,
                "a trace id is 32 hexadecimal digits, not all zero",
            );
        };
        let core_count = self.mesh.cores().count() as u16;
        let owner = route::owner(self.facts.hash_key.fingerprint(&trace), core_count);
        let answer = self
            .mesh
            .ask(owner, move |admin| admin.explain_owned(trace))
            .await;
        answer.unwrap_or_else(Reply::stopping)
    }

    /// A trace that this core owns.
    fn explain_owned(&self, trace: TraceId) -> Reply {
        let Some(core) = self.core.borrow().clone() else {
            return Reply::error(
                StatusCode::SERVICE_UNAVAILABLE,
                "replaying the log; ask again in a moment",
            );
        };
        let shard = core.shard();
        if let Some(open) = shard.table().open_trace(&trace) {
            return Reply::json(StatusCode::OK, &self.pending(&core, open));
        }
        if let Some(decided) = shard.table().recent().get(&trace) {
            return Reply::json(StatusCode::OK, &self.decided(&core, decided));
        }
        match shard.table().decided(&trace) {
            Some(decision) => Reply::json(StatusCode::OK, &self.remembered(&core, trace, decision)),
            None => {
                let usage = shard.landings()[0].usage(crate::landing::fetch::WhichLog::Main);
                let reach = match usage.oldest {
                    Some(oldest) => format!("the log reaches back to {}", time_text(oldest)),
                    None => "the log is empty".to_string(),
                };
                Reply::error(
                    StatusCode::NOT_FOUND,
                    &format!("nothing is known of this trace; {reach}"),
                )
            }
        }
    }

    /// `GET /api/v1/traces`: of all cores, newest first.
    pub(super) async fn recent(&self, query: &str) -> Reply {
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
        let asked = self.mesh.cores().map(|core| {
            let policy = policy.clone();
            self.mesh.ask(core, move |admin| {
                admin.recent_owned(verdict, policy.as_deref(), limit)
            })
        });
        let answers = futures_util::future::join_all(asked).await;
        let mut traces: Vec<(WallTime, Value)> = answers.into_iter().flatten().flatten().collect();
        traces.sort_by_key(|(decided_at, _)| std::cmp::Reverse(*decided_at));
        let traces: Vec<Value> = traces.into_iter().take(limit).map(|(_, trace)| trace).collect();
        Reply::json(StatusCode::OK, &json!({ "traces": traces }))
    }

    /// The last decisions of this core.
    fn recent_owned(
        &self,
        verdict: Option<Verdict>,
        policy: Option<&str>,
        limit: usize,
    ) -> Vec<(WallTime, Value)> {
        let Some(core) = self.core.borrow().clone() else {
            return Vec::new();
        };
        let shard = core.shard();
        let name = |decision: &Decision| policy_name(&core, decision);
        let traces = shard
            .table()
            .recent()
            .iter()
            .filter(|decided| verdict.is_none_or(|verdict| decided.decision.verdict == verdict))
            .filter(|decided| policy.is_none() || name(&decided.decision).as_deref() == policy)
            .take(limit)
            .map(|decided| (decided.decided_at, self.decided(&core, decided)));
        traces.collect()
    }

    fn pending(&self, core: &Core, trace: &Trace) -> Value {
        let now = core.now();
        let wall = |instant| {
            WallTime(
                now.wall
                    .0
                    .saturating_sub(now.instant.since(instant).as_nanos() as u64),
            )
        };
        let seen = Seen {
            first: wall(trace.opened_at()),
            last: wall(trace.progress().last_span_at),
            decided: None,
            late_spans: 0,
        };
        let place_count = trace.places().count();
        let resident = trace
            .places()
            .filter(|place| {
                core.shard()
                    .landings()
                    .iter()
                    .any(|landing| landing.log() == place.log() && landing.is_resident(*place))
            })
            .count();
        let spans = u64::from(trace.digest().span_count);
        let in_memory = if place_count == 0 {
            0
        } else {
            spans * resident as u64 / place_count as u64
        };
        let mut value = self.describe(core, trace.id(), trace.digest(), None, seen, "table");
        value["nodes"] = json!([{
            "node": self.facts.node, "core": 0, "spans": spans, "in_memory": in_memory,
            "on_disk": spans - in_memory, "exporters": {},
        }]);
        value
    }

    fn decided(&self, core: &Core, decided: &DecidedTrace) -> Value {
        let seen = Seen {
            first: decided.first_seen,
            last: decided.last_seen,
            decided: Some(decided.decided_at),
            late_spans: decided.late_spans,
        };
        self.describe(
            core,
            decided.trace,
            &decided.digest,
            Some(decided.decision),
            seen,
            "table",
        )
    }

    /// Of an old decision only the verdict is known, and what goes with it.
    fn remembered(&self, core: &Core, trace: TraceId, decision: Decision) -> Value {
        json!({
            "trace_id": trace.to_string(), "verdict": decision.verdict.name(),
            // A dropped trace is known by a fingerprint only; false hits are rarer than 1 in 10^9.
            "certain": decision.verdict == Verdict::Keep, "source": "cache",
            "policy": policy_name(core, &decision), "reason": decision.reason.name(),
            "incomplete": decision.incomplete, "upgraded": false, "dry_run": null,
            "threshold": threshold_text(&decision), "decided_by": self.facts.node,
        })
    }

    fn describe(
        &self,
        core: &Core,
        trace: TraceId,
        digest: &Digest,
        decision: Option<Decision>,
        seen: Seen,
        source: &str,
    ) -> Value {
        let shard = core.shard();
        let results = shard.policies().explain(trace, digest, decision.is_some());
        let policies = results.into_iter().map(|policy| {
            let result = match policy.result {
                Outcome::Match => "match",
                Outcome::NoMatch => "no_match",
                Outcome::Unknown => "unknown",
            };
            json!({ "name": policy.name, "result": result, "span_id": null, "detail": policy.detail })
        });
        let randomness = digest.randomness.value().unwrap_or_else(|| trace.randomness());
        let root = match digest.has_root {
            true => json!({ "duration_ms": digest.duration_ms() }),
            false => Value::Null,
        };
        json!({
            "trace_id": trace.to_string(),
            "verdict": decision.map_or(Verdict::Pending, |decision| decision.verdict).name(),
            "certain": true, "source": source,
            "policy": decision.as_ref().and_then(|decision| policy_name(core, decision)),
            "reason": decision.map(|decision| decision.reason.name()),
            "incomplete": decision.is_some_and(|decision| decision.incomplete),
            "upgraded": false, "dry_run": null, "randomness": format!("{randomness:014x}"),
            "threshold": decision.as_ref().and_then(threshold_text),
            "spans": digest.span_count, "log_records": 0, "bytes": digest.bytes,
            "late_spans": seen.late_spans, "services": [], "root": root,
            "first_seen": time_text(seen.first), "last_seen": time_text(seen.last),
            "decided_at": seen.decided.map(time_text),
            "decided_by": seen.decided.map(|_| self.facts.node.clone()),
            "policies": policies.collect::<Vec<_>>(),
            "nodes": [{ "node": self.facts.node, "core": 0, "spans": digest.span_count }],
        })
    }
}

struct Seen {
    first: WallTime,
    last: WallTime,
    decided: Option<WallTime>,
    late_spans: u32,
}

fn policy_name(core: &Core, decision: &Decision) -> Option<String> {
    let number = decision.policy?;
    core.shard().landings()[0].policy_name(number).map(str::to_string)
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
