//! What all nodes of the cluster know of a trace, as one answer.
//!
//! ```text
//!  GET /api/v1/traces/{id} ─┬─ this node ────────────────────┐
//!                           └─ every live peer, over TCP, ───┴─ merged: the highest verdict, all fragments
//!                              with local=true
//! ```
//!
//! A node that does not answer in time is left out: its part is missing from `nodes`.

use super::{Admin, Reply};
use crate::io::cluster::Cluster;
use crate::verdict::Verdict;
use futures_util::future::join;
use http::StatusCode;
use serde_json::{Value, json};
use std::rc::Rc;

const TRACE: &str = "trace/";
const TRACES: &str = "traces?";

impl Admin {
    /// From now on other nodes are asked, and answered.
    pub fn attach_cluster(self: &Rc<Admin>, cluster: Rc<Cluster>) {
        let admin = self.clone();
        cluster.set_answerer(Rc::new(move |question| {
            let admin = admin.clone();
            Box::pin(async move { admin.answer_peer(&question).await })
        }));
        *self.cluster.borrow_mut() = Some(cluster);
    }

    /// Empty: nothing is known here, or the question is not understood.
    async fn answer_peer(&self, question: &[u8]) -> Vec<u8> {
        let question = String::from_utf8_lossy(question);
        let reply = if let Some(id) = question.strip_prefix(TRACE) {
            self.explain_here(id).await
        } else if let Some(query) = question.strip_prefix(TRACES) {
            self.recent_here(query).await
        } else {
            return Vec::new();
        };
        match reply.status {
            StatusCode::OK => reply.body,
            _ => Vec::new(),
        }
    }

    /// `GET /api/v1/traces/{id}`.
    pub(super) async fn explain(&self, id: &str, query: &str) -> Reply {
        let is_local = match query {
            "" | "local=false" => false,
            "local=true" => true,
            _ => return Reply::error(StatusCode::BAD_REQUEST, "known is local=true"),
        };
        let here = self.explain_here(id);
        let cluster = self.cluster.borrow().clone().filter(|_| !is_local);
        let Some(cluster) = cluster else {
            return here.await;
        };
        let question = format!("{TRACE}{id}");
        let (here, answers) = join(here, cluster.ask_all(question.as_bytes())).await;
        if here.status == StatusCode::BAD_REQUEST {
            return here;
        }
        let own = (here.status == StatusCode::OK).then_some(here.body.clone());
        let known = own.into_iter().chain(answers);
        let known = known.filter_map(|body| serde_json::from_slice::<Value>(&body).ok());
        match known.reduce(merge) {
            Some(merged) => Reply::json(StatusCode::OK, &merged),
            None => here,
        }
    }

    /// `GET /api/v1/traces`: the last decisions of all nodes, each trace once, newest first.
    pub(super) async fn recent(&self, query: &str) -> Reply {
        let mut pairs: Vec<&str> = query.split('&').filter(|pair| !pair.is_empty()).collect();
        let is_local = pairs.contains(&"local=true");
        pairs.retain(|pair| !matches!(*pair, "local=true" | "local=false"));
        let query = pairs.join("&");
        let here = self.recent_here(&query);
        let cluster = self.cluster.borrow().clone().filter(|_| !is_local);
        let Some(cluster) = cluster else {
            return here.await;
        };
        let question = format!("{TRACES}{query}");
        let (here, answers) = join(here, cluster.ask_all(question.as_bytes())).await;
        if here.status != StatusCode::OK {
            return here;
        }
        let lists = std::iter::once(here.body).chain(answers);
        let mut traces: Vec<Value> = lists
            .filter_map(|body| serde_json::from_slice::<Value>(&body).ok())
            .filter_map(|mut list| match list["traces"].take() {
                Value::Array(traces) => Some(traces),
                _ => None,
            })
            .flatten()
            .collect();
        let limit = pairs
            .iter()
            .find_map(|pair| pair.strip_prefix("limit=")?.parse().ok());
        traces.sort_by(|one, other| text(other, "decided_at").cmp(text(one, "decided_at")));
        let mut merged: Vec<Value> = Vec::new();
        for trace in traces {
            let id = text(&trace, "trace_id");
            match merged.iter().position(|known| text(known, "trace_id") == id) {
                Some(known) => {
                    let before = merged[known].take();
                    merged[known] = merge(before, trace);
                }
                None => merged.push(trace),
            }
        }
        merged.truncate(limit.unwrap_or(super::explain::RECENT_COUNT));
        Reply::json(StatusCode::OK, &json!({ "traces": merged }))
    }
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn rank(trace: &Value) -> Option<Verdict> {
    let name = text(trace, "verdict");
    Verdict::ALL.into_iter().find(|verdict| verdict.name() == name)
}

/// What two nodes know of one trace. The higher verdict says what became of it (V1).
fn merge(one: Value, other: Value) -> Value {
    let (mut base, mut more) = match rank(&other) > rank(&one) {
        true => (other, one),
        false => (one, other),
    };
    for key in ["spans", "log_records", "bytes", "late_spans"] {
        base[key] = match (base[key].as_u64(), more[key].as_u64()) {
            (Some(one), Some(other)) => json!(one + other),
            (None, Some(only)) | (Some(only), None) => json!(only),
            (None, None) => Value::Null,
        };
    }
    let earlier = |one: &str, other: &str| one < other;
    for (key, first) in [("first_seen", true), ("last_seen", false)] {
        let (known, found) = (text(&base, key), text(&more, key));
        if !found.is_empty() && (known.is_empty() || earlier(found, known) == first) {
            base[key] = more[key].take();
        }
    }
    if base["root"].is_null() || (base["root"]["name"].is_null() && !more["root"]["name"].is_null()) {
        base["root"] = more["root"].take();
    }
    for key in ["services", "nodes"] {
        let found = more[key].as_array_mut().map(std::mem::take).unwrap_or_default();
        if let Some(known) = base[key].as_array_mut() {
            let is_set = key == "services";
            for item in found {
                if !(is_set && known.contains(&item)) {
                    known.push(item);
                }
            }
        }
    }
    let found = more["policies"]
        .as_array_mut()
        .map(std::mem::take)
        .unwrap_or_default();
    if let Some(known) = base["policies"].as_array_mut() {
        for policy in found.into_iter().filter(|policy| policy["result"] != "unknown") {
            let same = known.iter_mut().find(|known| known["name"] == policy["name"]);
            let knows_more = |same: &&mut Value| policy["result"] == "match" || same["result"] == "unknown";
            if let Some(same) = same.filter(knows_more) {
                *same = policy;
            }
        }
    }
    base
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_nodes_the_higher_verdict_is_told_with_the_fragments_of_both() {
        let here = json!({
            "trace_id": "ab", "verdict": "rolled_up", "policy": null, "spans": 3, "log_records": 0, "bytes": 30,
            "late_spans": 0, "services": ["a", "b"], "root": { "name": "GET /" }, "first_seen": "2026-01-02",
            "last_seen": "2026-01-03", "nodes": [{ "node": "one" }],
            "policies": [{ "name": "errors", "result": "no_match" }, { "name": "slow", "result": "match" }],
        });
        let there = json!({
            "trace_id": "ab", "verdict": "kept", "policy": "errors", "spans": 4, "log_records": 0, "bytes": 40,
            "late_spans": null, "services": ["b", "c"], "root": null, "first_seen": "2026-01-01",
            "last_seen": "2026-01-02", "nodes": [{ "node": "two" }],
            "policies": [{ "name": "errors", "result": "match" }, { "name": "slow", "result": "unknown" }],
        });
        let merged = json!({
            "trace_id": "ab", "verdict": "kept", "policy": "errors", "spans": 7, "log_records": 0, "bytes": 70,
            "late_spans": 0, "services": ["b", "c", "a"], "root": { "name": "GET /" }, "first_seen": "2026-01-01",
            "last_seen": "2026-01-03", "nodes": [{ "node": "two" }, { "node": "one" }],
            "policies": [{ "name": "errors", "result": "match" }, { "name": "slow", "result": "match" }],
        });
        assert_eq!(merge(here.clone(), there.clone()), merged);
        assert_eq!(merge(there, here), merged);
    }
}
