//! The status document of the contract.

use super::{Admin, cpu_seconds, time_text};
use crate::landing::fetch::WhichLog;
use crate::stats::Ledger;
use crate::verdict::{Reason, Verdict};
use serde_json::{Map, Value, json};

impl Admin {
    pub(super) fn status(&self) -> Value {
        let facts = &self.facts;
        let core = self.core.borrow();
        let problems = self.problems();
        let state = match (&*core, self.stopping.get()) {
            (_, true) => "draining",
            (None, _) => "starting",
            (Some(_), _) if problems.is_empty() => "ready",
            (Some(_), _) => "degraded",
        };
        let mut status = json!({
            "version": facts.version, "commit": facts.commit, "node": facts.node, "node_id": facts.node_id,
            "incarnation": facts.incarnation, "state": state, "started_at": time_text(facts.started_at),
            "problems": problems,
            "config": {
                "files": facts.config_files, "hash": facts.config_hash,
                "loaded_at": time_text(facts.started_at), "compat": "default", "dry_run": false,
            },
            "endpoints": {
                "grpc": facts.grpc.to_string(), "http": facts.http.to_string(),
                "admin": facts.admin.to_string(), "cluster": null,
            },
            "cluster": null,
        });
        if let Some(core) = &*core {
            let status = status.as_object_mut().expect("made above");
            self.add_core(core, status);
        }
        status
    }

    fn problems(&self) -> Vec<Value> {
        let Some(core) = &*self.core.borrow() else {
            return Vec::new();
        };
        let since = time_text(core.now().wall);
        let problem = |severity: &str, code: &str, message: String| json!({ "severity": severity, "code": code, "message": message, "since": since });
        let shard = core.shard();
        let mut problems = Vec::new();
        if let Err(refused) = shard.landing().admits() {
            problems.push(problem("error", "log_refuses", refused.to_string()));
        }
        for destination in shard.landing().destinations() {
            if let Some(error) = destination.last_error {
                problems.push(problem(
                    "warning",
                    "exporter_fails",
                    format!("{}: {error}", destination.id),
                ));
            }
        }
        let corrupt = self.last_replay.get().skipped_bytes;
        if corrupt > 0 {
            let message = format!("{corrupt} bytes of the log were corrupt at the last start");
            problems.push(problem("error", "log_corrupt", message));
        }
        problems
    }

    fn add_core(&self, core: &crate::io::core::Core, status: &mut Map<String, Value>) {
        let facts = &self.facts;
        let now = core.now();
        let shard = core.shard();
        let (stats, table, landing) = (shard.stats(), shard.table(), shard.landing());
        let pending = table.len();
        let busy = self.busy_ratio();
        status.insert(
            "cores".into(),
            json!([{ "core": 0, "cpu": facts.cpu, "up": true, "busy_ratio": busy, "pending_traces": pending }]),
        );
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
                "upgraded": 0, "incomplete": stats.traces.incomplete,
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
                })
            });
        status.insert("policies".into(), policies.collect());
        let (log, kept) = (landing.usage(WhichLog::Main), landing.usage(WhichLog::Kept));
        let age = |usage: &crate::wal::Usage| {
            usage
                .oldest
                .map_or(0, |oldest| now.wall.0.saturating_sub(oldest.0) / 1_000_000_000)
        };
        let replay = self.last_replay.get();
        status.insert(
            "wal".into(),
            json!({
                "dir": facts.data_dir, "durability": facts.durability, "segments": log.segments + kept.segments,
                "used_bytes": log.used_bytes + kept.used_bytes,
                "retained_bytes": log.retained_bytes + kept.retained_bytes,
                "max_bytes": facts.wal_bytes_max, "free_disk_bytes": free_disk_bytes(&facts.data_dir),
                "oldest_age_seconds": age(&log),
                "poisoned_segments": log.poisoned_segments + kept.poisoned_segments,
                "corrupt_bytes": replay.skipped_bytes,
                "last_replay": {
                    "seconds": replay.seconds, "segments": replay.segments, "entries": replay.entries,
                    "traces_resumed": replay.traces_resumed, "skipped_bytes": replay.skipped_bytes,
                },
            }),
        );
        let used = log.resident_bytes + kept.resident_bytes + table.state_bytes() + landing.in_flight_bytes();
        status.insert(
            "memory".into(),
            json!({
                "limit_bytes": facts.memory_limit_bytes, "used_bytes": used,
                "evicted_bytes": landing.evicted_bytes(), "tier": table.pressure_tier(),
            }),
        );
        let exporters = landing.destinations().map(|destination| {
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

    /// CPU time of this process per second since its start.
    pub(super) fn busy_ratio(&self) -> f64 {
        let used = cpu_seconds();
        let elapsed = self.clock.now().instant.since(self.facts.started).as_secs_f64();
        let ratio = if elapsed > 0.0 { used / elapsed } else { 0.0 };
        (ratio.min(1.0) * 1000.0).round() / 1000.0
    }
}

fn ledger(ledger: &Ledger, refused: u64) -> Value {
    json!({
        "accepted": ledger.accepted_total(), "resumed": ledger.resumed, "upgraded": ledger.upgraded,
        "kept": ledger.decided[Verdict::Keep as usize],
        "rolled_up": ledger.decided[Verdict::Rollup as usize],
        "denied": ledger.decided[Verdict::Deny as usize],
        "lost": ledger.lost, "pending": ledger.pending(), "refused": refused,
    })
}

pub(super) fn free_disk_bytes(path: &str) -> u64 {
    rustix::fs::statvfs(path).map_or(0, |disk| disk.f_bavail * disk.f_frsize)
}
