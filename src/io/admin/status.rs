//! The status document of the contract.

use super::report::{NodeReport, ServingReport};
use super::{Admin, time_text};
use crate::shard::overload::SHARE_MAX;
use crate::stats::{Ledger, QuotaCounts};
use crate::verdict::{Reason, Verdict};
use serde_json::{Map, Value, json};
use std::sync::atomic::Ordering;

impl Admin {
    pub(super) fn status(&self, node: &NodeReport) -> Value {
        let facts = &self.facts;
        let mut problems = problems(node);
        problems.extend(self.cluster_problem());
        let serves = node.cores.iter().all(|core| core.serving.is_some());
        let is_draining = self.stopping.get() || self.flags.drain.load(Ordering::Relaxed);
        let state = match (serves, is_draining) {
            (_, true) => "draining",
            (false, _) => "starting",
            (true, _) if problems.is_empty() => "ready",
            (true, _) => "degraded",
        };
        let mut status = json!({
            "version": facts.version, "commit": facts.commit, "node": facts.node, "node_id": facts.node_id,
            "incarnation": facts.incarnation, "state": state, "started_at": time_text(facts.started_at),
            "problems": problems,
            "config": {
                "files": facts.config_files, "hash": facts.config_hash,
                "loaded_at": time_text(facts.loaded_at), "compat": "default", "dry_run": false,
            },
            "endpoints": {
                "grpc": facts.grpc.to_string(), "http": facts.http.to_string(),
                "admin": facts.admin.to_string(),
                "cluster": facts.cluster.as_ref().map(|cluster| cluster.address.to_string()),
            },
            "cluster": self.cluster_status(),
        });
        let elapsed = self.clock.now().instant.since(facts.started).as_secs_f64();
        let cores = node.cores.iter().map(|core| {
            let pending = core.serving.as_ref().map_or(0, |serving| serving.traces_pending);
            json!({
                "core": core.core.0, "cpu": core.cpu, "up": core.serving.is_some(),
                "busy_ratio": ratio(core.busy_seconds, elapsed), "pending_traces": pending,
            })
        });
        status["cores"] = cores.collect();
        if let Some(report) = &node.all {
            let status = status.as_object_mut().expect("made above");
            self.add_serving(report, status);
        }
        status
    }

    fn cluster_status(&self) -> Value {
        let Some(facts) = &self.facts.cluster else {
            return Value::Null;
        };
        let report = self.cluster_report();
        let members = report.map(|report| report.members).unwrap_or_default();
        let members = members.into_iter().map(|member| {
            json!({
                "name": member.name, "address": member.address.to_string(), "state": member.state,
                "incarnation": member.incarnation,
            })
        });
        json!({ "name": facts.name, "encrypted": facts.encrypted, "members": members.collect::<Vec<_>>() })
    }

    /// Two nodes must not be one.
    fn cluster_problem(&self) -> Option<Value> {
        let twins = self.cluster_report()?.counts.twins;
        let since = time_text(self.clock.now().wall);
        let message =
            "another node of the cluster has this node's id: its data directory is a copy of this one";
        (twins > 0).then(
            || json!({ "severity": "error", "code": "node_id_twice", "message": message, "since": since }),
        )
    }

    fn add_serving(&self, report: &ServingReport, status: &mut Map<String, Value>) {
        let facts = &self.facts;
        let (now, stats, pending) = (report.now, &report.stats, report.traces_pending);
        let refused: u64 = stats.refused.iter().flatten().sum();
        status.insert(
            "signals".into(),
            json!({
                "spans": ledger(&stats.spans, refused),
                "log_records": ledger(&Ledger::default(), 0),
                "metric_points": ledger(&Ledger::default(), 0),
            }),
        );
        let closed: Map<String, Value> = Reason::ALL
            .iter()
            .map(|reason| {
                (
                    reason.name().into(),
                    stats.traces.closed[*reason as usize].iter().sum::<u64>().into(),
                )
            })
            .collect();
        status.insert(
            "traces".into(),
            json!({
                "opened": stats.traces.opened, "resumed": stats.traces.resumed, "pending": pending,
                "kept": stats.traces.decided[Verdict::Keep as usize],
                "rolled_up": stats.traces.decided[Verdict::Rollup as usize],
                "denied": stats.traces.decided[Verdict::Deny as usize],
                "upgraded": stats.traces.upgraded, "upgrades_skipped": stats.traces.upgrades_skipped,
                "incomplete": stats.traces.incomplete,
                "forced": stats.traces.forced.iter().sum::<u64>(), "closed": closed,
            }),
        );
        let policies = facts
            .policy_types
            .iter()
            .zip(&stats.policies)
            .map(|((name, type_name), counts)| {
                json!({
                    "name": name, "type": type_name, "dry_run": false, "evaluated": counts.evaluated,
                    "matched": counts.matched, "decided": counts.decided, "sole": counts.sole,
                    "kept_spans": counts.kept_spans, "kept_bytes": counts.kept_bytes,
                    "quota": quota(&counts.quota),
                })
            });
        status.insert("policies".into(), policies.collect());
        let (log, kept) = (&report.log, &report.kept);
        let age = |usage: &crate::wal::Usage| {
            usage
                .oldest
                .map_or(0, |oldest| now.wall.0.saturating_sub(oldest.0) / 1_000_000_000)
        };
        let replay = report.last_replay;
        status.insert(
            "wal".into(),
            json!({
                "dir": facts.data_dir, "durability": facts.durability, "segments": log.segments + kept.segments,
                "used_bytes": log.used_bytes + kept.used_bytes,
                "retained_bytes": log.retained_bytes + kept.retained_bytes,
                "max_bytes": facts.wal_bytes_max, "free_disk_bytes": free_disk_bytes(&facts.data_dir),
                "oldest_age_seconds": age(log),
                "poisoned_segments": log.poisoned_segments + kept.poisoned_segments,
                "corrupt_bytes": replay.skipped_bytes,
                "last_replay": {
                    "seconds": replay.seconds, "segments": replay.segments, "entries": replay.entries,
                    "traces_resumed": replay.traces_resumed, "skipped_bytes": replay.skipped_bytes,
                },
            }),
        );
        let kinds = report
            .memory
            .kinds()
            .map(|(kind, bytes)| (kind.to_owned(), Value::from(bytes)));
        status.insert(
            "memory".into(),
            json!({
                "limit_bytes": facts.memory_limit_bytes, "used_bytes": report.memory.used_bytes(),
                "evicted_bytes": report.evicted_bytes, "tier": report.tier,
                "kinds": kinds.into_iter().collect::<Map<String, Value>>(),
            }),
        );
        let exporters = report.destinations.iter().map(|destination| {
            let oldest = destination
                .oldest
                .map_or(0, |oldest| now.instant.since(oldest).as_secs());
            json!({
                "id": destination.id, "state": destination.state, "sent": destination.stats.sent_spans,
                "failed": destination.failed_spans(), "queued_items": destination.queued_spans,
                "queued_bytes": destination.queued_bytes, "oldest_age_seconds": oldest,
                "last_error": destination.last_error,
            })
        });
        status.insert("exporters".into(), exporters.collect());
    }
}

/// What has to be looked at, worst first.
fn problems(node: &NodeReport) -> Vec<Value> {
    let Some(report) = &node.all else {
        return Vec::new();
    };
    let since = time_text(report.now.wall);
    let problem = |severity: &str, code: &str, message: String| json!({ "severity": severity, "code": code, "message": message, "since": since });
    let mut problems = Vec::new();
    if let Some(refused) = &report.refuses {
        problems.push(problem("error", "log_refuses", refused.clone()));
    }
    if report.overload_share > 0 {
        let message = format!(
            "more comes than can be taken: {} of {SHARE_MAX} traces are not taken (overload: sample)",
            report.overload_share
        );
        problems.push(problem("warning", "overload_sampled", message));
    }
    let corrupt = report.last_replay.skipped_bytes;
    if corrupt > 0 {
        let message = format!("{corrupt} bytes of the log were corrupt at the last start");
        problems.push(problem("error", "log_corrupt", message));
    }
    for destination in &report.destinations {
        if let Some(error) = &destination.last_error {
            let message = format!("{}: {error}", destination.id);
            problems.push(problem("warning", "exporter_fails", message));
        }
    }
    problems
}

/// Busy time of one core per time since the start.
fn ratio(busy_seconds: f64, elapsed: f64) -> f64 {
    let ratio = if elapsed > 0.0 {
        busy_seconds / elapsed
    } else {
        0.0
    };
    (ratio.min(1.0) * 1000.0).round() / 1000.0
}

fn ledger(ledger: &Ledger, refused: u64) -> Value {
    json!({
        "accepted": ledger.accepted_total(), "resumed": ledger.resumed, "upgraded": ledger.upgraded,
        "kept": ledger.decided[Verdict::Keep as usize],
        "rolled_up": ledger.decided[Verdict::Rollup as usize],
        "denied": ledger.decided[Verdict::Deny as usize],
        "lost": ledger.lost_total(), "pending": ledger.pending(), "refused": refused,
    })
}

pub(super) fn free_disk_bytes(path: &str) -> u64 {
    rustix::fs::statvfs(path).map_or(0, |disk| disk.f_bavail * disk.f_frsize)
}

/// `null` of a policy that asks none, or none yet.
fn quota(counts: &QuotaCounts) -> Value {
    let QuotaCounts {
        granted,
        refused,
        unanswered,
        tokens,
    } = *counts;
    match granted + refused + unanswered {
        0 => Value::Null,
        _ => json!({ "granted": granted, "refused": refused, "unanswered": unanswered, "tokens": tokens }),
    }
}
