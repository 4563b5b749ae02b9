//! What became of one trace, and of the last ones.

use super::spans::{self, Seen};
use super::{Admin, Reply, keep, time_text};
use crate::base::ids::{CoreId, Place, TraceId};
use crate::base::time::WallTime;
use crate::digest::Digest;
use crate::io::core::Core;
use crate::landing::fetch::WhichLog;
use crate::policy::{Outcome, QuotaAnswers};
use crate::route::{self, Decision, PolicyNumber};
use crate::table::{DecidedTrace, Trace};
use crate::verdict::{Reason, Verdict};
use http::StatusCode;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// Places of a pending trace that are looked at.
const PLACES_MAX: usize = 64;

/// Recent decisions told unless somebody wants more or fewer.
pub(super) const RECENT_COUNT: usize = 50;

/// What its owner knows of one trace.
struct Known {
    trace: TraceId,
    digest: Digest,
    decision: Option<Decision>,
    /// False: nobody remembers the decision, it is what the policies would say today.
    certain: bool,
    first_seen: Option<WallTime>,
    last_seen: Option<WallTime>,
    decided_at: Option<WallTime>,
    late_spans: u32,
    quotas: QuotaAnswers,
    places: Vec<Place>,
}

/// Too many traces are looked for in the logs.
struct Busy;

/// What the owner of a trace answers.
enum Owned {
    Known(Box<Known>),
    /// An old decision, of which only the verdict is left.
    Remembered(Decision),
    Unknown,
    Starting,
}

impl Admin {
    /// What this node knows of a trace.
    ///
    /// The owner is asked first, then every core in whose logs spans of the trace lie.
    pub(super) async fn explain_here(&self, id: &str) -> Reply {
        let Some(trace) = TraceId::from_hex(id) else {
            return Reply::error(
                StatusCode::BAD_REQUEST,
                "a trace id is 32 hexadecimal digits, not all zero",
            );
        };
        let core_count = self.mesh.cores().count() as u16;
        let owner = route::owner(self.facts.hash_key.trace(&trace), core_count);
        let answer = self.mesh.ask(owner, move |admin| admin.owned(trace)).await;
        let (Some(answer), Some(core)) = (answer, self.core.borrow().clone()) else {
            return Reply::error(
                StatusCode::SERVICE_UNAVAILABLE,
                "starting or stopping; ask again in a moment",
            );
        };
        match answer {
            Owned::Known(known) => {
                let seen = self.look(&known, core_count).await;
                Reply::json(StatusCode::OK, &self.describe(&core, owner, &known, &seen))
            }
            Owned::Remembered(decision) => match self.find_in_logs(&core, trace, Some(decision)).await {
                Ok(Some(known)) => {
                    let seen = self.look(&known, core_count).await;
                    Reply::json(StatusCode::OK, &self.describe(&core, owner, &known, &seen))
                }
                Ok(None) | Err(Busy) => Reply::json(StatusCode::OK, &self.remembered(&core, trace, decision)),
            },
            Owned::Unknown => match self.find_in_logs(&core, trace, None).await {
                Ok(Some(known)) => {
                    let seen = self.look(&known, core_count).await;
                    Reply::json(StatusCode::OK, &self.describe(&core, owner, &known, &seen))
                }
                Err(Busy) => Reply::error(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "too many traces are looked for; ask again in a moment",
                ),
                Ok(None) => Reply::error(
                    StatusCode::NOT_FOUND,
                    &format!("nothing is known of this trace; {}", self.reach().await),
                ),
            },
            Owned::Starting => Reply::error(
                StatusCode::SERVICE_UNAVAILABLE,
                "replaying the log; ask again in a moment",
            ),
        }
    }

    /// A trace that this core owns.
    fn owned(&self, trace: TraceId) -> Owned {
        let Some(core) = self.core.borrow().clone() else {
            return Owned::Starting;
        };
        let shard = core.shard();
        if let Some(open) = shard.table().open_trace(&trace) {
            return Owned::Known(Box::new(pending(&core, open)));
        }
        if let Some(found) = shard.table().recent().get(&trace) {
            return Owned::Known(Box::new(decided(found)));
        }
        match shard.table().decided(&trace) {
            Some(decision) => Owned::Remembered(decision),
            None => Owned::Unknown,
        }
    }

    /// What the logs have of a trace whose owner remembers no more than a decision.
    async fn find_in_logs(
        &self,
        core: &Rc<Core>,
        trace: TraceId,
        decision: Option<Decision>,
    ) -> Result<Option<Known>, Busy> {
        let found = keep::find(core, trace).await.ok_or(Busy)?;
        if found.span_count == 0 {
            return Ok(None);
        }
        // That the log has it makes a fingerprint another's beyond belief.
        let certain = decision.is_some();
        let decision = decision.unwrap_or_else(|| {
            let ruling = core.shard().policies().judge_closed(trace, &found.digest);
            Decision {
                verdict: ruling.verdict,
                reason: Reason::Expired,
                policy: ruling.policy.map(|policy| PolicyNumber(policy.0)),
                threshold: ruling.threshold,
                incomplete: false,
                upgraded: false,
            }
        });
        Ok(Some(Known {
            trace,
            digest: found.digest,
            decision: Some(decision),
            certain,
            first_seen: None,
            last_seen: None,
            decided_at: None,
            late_spans: 0,
            quotas: QuotaAnswers::NONE,
            places: found.places.into_iter().take(PLACES_MAX).collect(),
        }))
    }

    /// How far the memory and the logs of all cores reach back.
    pub(super) async fn reach(&self) -> String {
        let asked = self.mesh.cores().map(|core| {
            self.mesh.ask(core, |admin| {
                let core = admin.core.borrow().clone()?;
                let shard = core.shard();
                let logs = shard.landings().iter();
                let oldest = logs
                    .filter_map(|landing| landing.usage(WhichLog::Main).oldest)
                    .min();
                Some((shard.table().recent().reaches_back_to(), oldest))
            })
        });
        let answers = futures_util::future::join_all(asked).await;
        let answers: Vec<_> = answers.into_iter().flatten().flatten().collect();
        let memory = match answers.iter().filter_map(|(memory, _)| *memory).min() {
            Some(oldest) => format!("decisions in memory reach back to {}", time_text(oldest)),
            None => "no decision is in memory".to_string(),
        };
        let log = match answers.iter().filter_map(|(_, log)| *log).min() {
            Some(oldest) => format!("the log reaches back to {}", time_text(oldest)),
            None => "the log is empty".to_string(),
        };
        format!("{memory}, {log}")
    }

    /// Has every core read what it has of the trace.
    async fn look(&self, known: &Known, core_count: u16) -> Vec<(CoreId, Seen)> {
        let mut by_keeper: BTreeMap<CoreId, Vec<Place>> = BTreeMap::new();
        for place in &known.places {
            let keeper = route::keeper(place.log(), core_count);
            by_keeper.entry(keeper).or_default().push(*place);
        }
        let trace = known.trace;
        let asked = by_keeper.into_iter().map(|(keeper, places)| async move {
            let look = self.mesh.ask_for(keeper, move |admin| async move {
                let core = admin.core.borrow().clone()?;
                Some(spans::read(&core, trace, &places).await)
            });
            look.await.flatten().map(|seen| (keeper, seen))
        });
        let answers = futures_util::future::join_all(asked).await;
        answers.into_iter().flatten().collect()
    }

    /// `GET /api/v1/traces`: of all cores, newest first.
    pub(super) async fn recent_here(&self, query: &str) -> Reply {
        let (mut verdict, mut policy, mut limit) = (None, None, RECENT_COUNT);
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
                _ => {
                    return Reply::error(
                        StatusCode::BAD_REQUEST,
                        "known are verdict, policy, limit and local",
                    );
                }
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
            .map(|found| {
                let value = self.describe(&core, self.mesh.core(), &decided(found), &[]);
                (found.decided_at, value)
            });
        traces.collect()
    }

    /// Of an old decision only the verdict is known, and what goes with it.
    fn remembered(&self, core: &Core, trace: TraceId, decision: Decision) -> Value {
        json!({
            "trace_id": trace.to_string(), "verdict": decision.verdict.name(),
            // A dropped trace is known by a fingerprint only; false hits are rarer than 1 in 10^9.
            "certain": decision.verdict == Verdict::Keep, "source": "cache",
            "policy": policy_name(core, &decision), "reason": decision.reason.name(),
            "incomplete": decision.incomplete, "upgraded": decision.upgraded, "dry_run": null,
            "randomness": null, "threshold": threshold_text(&decision),
            "spans": null, "log_records": null, "bytes": null, "late_spans": null, "services": [], "root": null,
            "first_seen": null, "last_seen": null, "decided_at": null, "decided_by": self.facts.node,
            "policies": [], "nodes": [],
        })
    }

    /// `seen` is what was read back of the spans, by core; empty if nobody looked.
    fn describe(&self, core: &Core, owner: CoreId, known: &Known, seen: &[(CoreId, Seen)]) -> Value {
        let shard = core.shard();
        let (digest, decision) = (&known.digest, known.decision.as_ref());
        let is_closed = decision.is_some();
        let results = shard
            .policies()
            .explain_asked(known.trace, digest, is_closed, known.quotas);
        let policies = results.into_iter().enumerate().map(|(number, policy)| {
            let result = match policy.result {
                Outcome::Match => "match",
                Outcome::NoMatch => "no_match",
                Outcome::Unknown => "unknown",
            };
            let matched_by = seen
                .iter()
                .find_map(|(_, seen)| seen.matched_by.get(number)?.clone())
                .filter(|_| policy.result == Outcome::Match);
            json!({ "name": policy.name, "result": result, "span_id": matched_by, "detail": policy.detail })
        });
        let policies: Vec<Value> = policies.collect();
        let randomness = digest
            .randomness
            .value()
            .unwrap_or_else(|| known.trace.randomness());
        let was_read = seen.iter().any(|(_, seen)| seen.spans > 0);
        let source = if was_read && decision.is_some() {
            "log"
        } else {
            "table"
        };
        let root = match seen.iter().find_map(|(_, seen)| seen.root.clone()) {
            Some(root) => root,
            None if digest.has_root => {
                json!({ "service": null, "name": null, "span_id": null, "duration_ms": digest.duration_ms() })
            }
            None => Value::Null,
        };
        let services: BTreeSet<&String> = seen.iter().flat_map(|(_, seen)| &seen.services).collect();
        json!({
            "trace_id": known.trace.to_string(),
            "verdict": decision.map_or(Verdict::Pending, |decision| decision.verdict).name(),
            "certain": known.certain, "source": source,
            "policy": decision.and_then(|decision| policy_name(core, decision)),
            "reason": decision.map(|decision| decision.reason.name()),
            "incomplete": decision.is_some_and(|decision| decision.incomplete),
            "upgraded": decision.is_some_and(|decision| decision.upgraded),
            "dry_run": null, "randomness": format!("{randomness:014x}"),
            "threshold": decision.and_then(threshold_text),
            "spans": digest.span_count, "log_records": 0, "bytes": digest.bytes,
            "late_spans": known.late_spans, "services": services, "root": root,
            "first_seen": known.first_seen.map(time_text), "last_seen": known.last_seen.map(time_text),
            "decided_at": known.decided_at.map(time_text),
            "decided_by": known.decided_at.map(|_| self.facts.node.clone()),
            "policies": policies,
            "nodes": self.fragments(owner, known, seen),
        })
    }

    /// What each core holds of the trace. In a list of traces nobody has looked where its spans are.
    fn fragments(&self, owner: CoreId, known: &Known, seen: &[(CoreId, Seen)]) -> Vec<Value> {
        let all = u64::from(known.digest.span_count) + u64::from(known.late_spans);
        let node = &self.facts.node;
        if seen.is_empty() {
            let unseen = json!({
                "node": node, "core": owner.0, "spans": all, "in_memory": null, "on_disk": null, "exporters": {},
            });
            return vec![unseen];
        }
        let is_kept = known
            .decision
            .is_some_and(|decision| decision.verdict == Verdict::Keep);
        let fragments = seen.iter().map(|(core, part)| {
            // Not all places are looked at; with one core the rest is its own.
            let spans = if seen.len() == 1 { all } else { part.spans };
            let queued = part.queued.iter().filter(|_| is_kept).map(|(id, queued)| {
                let accepted = spans.saturating_sub(*queued);
                (id.clone(), json!({ "accepted": accepted, "queued": queued }))
            });
            let exporters: serde_json::Map<String, Value> = queued.collect();
            json!({
                "node": node, "core": core.0, "spans": spans, "in_memory": part.in_memory,
                "on_disk": part.on_disk, "exporters": exporters,
            })
        });
        fragments.collect()
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
        digest: trace.digest(),
        decision: None,
        certain: true,
        first_seen: Some(wall(trace.opened_at())),
        last_seen: Some(wall(trace.progress().last_span_at)),
        decided_at: None,
        late_spans: 0,
        quotas: QuotaAnswers::NONE,
        places: trace.places().take(PLACES_MAX).collect(),
    }
}

fn decided(decided: &DecidedTrace) -> Known {
    Known {
        trace: decided.trace,
        digest: decided.digest,
        decision: Some(decided.decision),
        certain: true,
        first_seen: Some(decided.first_seen),
        last_seen: Some(decided.last_seen),
        decided_at: Some(decided.decided_at),
        late_spans: decided.late_spans,
        quotas: decided.quotas,
        places: decided.places.to_vec(),
    }
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
