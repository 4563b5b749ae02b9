//! Prometheus text, version 0.0.4: the names of the contract, from the core's counters.

mod quotas; // limits

use super::report::{CoreReport, NodeReport, ServingReport};
use super::status::free_disk_bytes;
use super::{Admin, cpu_seconds};
use crate::export::retry::Loss;
use crate::gossip::machine::Outcome;
use crate::io::cluster::ClusterReport;
use crate::landing::DestinationReport;
use crate::shard::overload::SHARE_MAX;
use crate::stats::{Histogram, ItemLoss, Refusal, Transport};
use crate::verdict::{Reason, Verdict};
use std::fmt::{Display, Write};
use std::sync::atomic::Ordering;

/// Text under construction; every metric begins with its help and type.
#[derive(Default)]
struct Text(String);

impl Text {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(
            self.0,
            "# HELP tailkeep_{name} {help}\n# TYPE tailkeep_{name} {kind}"
        );
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let _ = write!(self.0, "tailkeep_{name}");
        for (index, (label, text)) in labels.iter().enumerate() {
            let escaped = text
                .replace('\\', "\\\\")
                .replace('"', "\\\"")
                .replace('\n', "\\n");
            let _ = write!(
                self.0,
                "{}{label}=\"{escaped}\"",
                if index == 0 { '{' } else { ',' }
            );
        }
        let _ = writeln!(self.0, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.head(name, "counter", help);
        self.sample(name, &[], value);
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.head(name, "gauge", help);
        self.sample(name, &[], value);
    }

    fn histogram(&mut self, name: &str, labels: &[(&str, &str)], histogram: &Histogram) {
        let bucket = format!("{name}_bucket");
        for (bound, count) in histogram.cumulative() {
            let bound = bound.to_string();
            let labels: Vec<_> = labels.iter().copied().chain([("le", bound.as_str())]).collect();
            self.sample(&bucket, &labels, count);
        }
        let labels_inf: Vec<_> = labels.iter().copied().chain([("le", "+Inf")]).collect();
        self.sample(&bucket, &labels_inf, histogram.count());
        self.sample(&format!("{name}_sum"), labels, histogram.sum_seconds());
        self.sample(&format!("{name}_count"), labels, histogram.count());
    }
}

impl Admin {
    pub(super) fn metrics(&self, node: &NodeReport) -> String {
        let mut text = Text::default();
        text.head("build_info", "gauge", "Version and commit of this process.");
        let labels = [("version", self.facts.version), ("commit", self.facts.commit)];
        text.sample("build_info", &labels, 1);
        let flags = &self.flags;
        text.head(
            "config_reloads_total",
            "counter",
            "Configurations read again, by outcome; after a failure the old one stays.",
        );
        for (outcome, count) in [
            ("succeeded", &flags.reloads_succeeded),
            ("failed", &flags.reloads_failed),
        ] {
            let count = count.load(Ordering::Relaxed);
            text.sample("config_reloads_total", &[("outcome", outcome)], count);
        }
        add_cores(&mut text, node);
        if let Some(report) = self.cluster_report() {
            add_cluster(&mut text, &report);
        }
        if let Some(report) = &node.all {
            self.add_ledger(&mut text, report);
            self.add_receiver(&mut text, report);
            self.add_traces(&mut text, report);
            self.add_policies(&mut text, report);
            self.add_quotas(&mut text, report);
            self.add_exporters(&mut text, report);
            self.add_latencies(&mut text, report);
            self.add_log_and_memory(&mut text, report);
        }
        add_process(&mut text.0);
        text.0
    }

    fn add_ledger(&self, text: &mut Text, report: &ServingReport) {
        let spans = &report.stats.spans;
        let signal = ("signal", "spans");
        text.head("accepted_items_total", "counter", "Items written to the log.");
        for transport in Transport::ALL {
            let labels = [signal, ("transport", transport.name())];
            text.sample(
                "accepted_items_total",
                &labels,
                spans.accepted[transport as usize],
            );
        }
        let counters = [
            (
                "resumed_items_total",
                "Items found undecided in the log at start.",
                spans.resumed,
            ),
            (
                "upgraded_items_total",
                "Items whose verdict rose to keep.",
                spans.upgraded,
            ),
            (
                "kept_items_total",
                "Items of kept traces.",
                spans.decided[Verdict::Keep as usize],
            ),
            (
                "rolled_up_items_total",
                "Items of traces that no policy keeps.",
                spans.decided[Verdict::Rollup as usize],
            ),
            (
                "denied_items_total",
                "Items of traces that a drop policy matched.",
                spans.decided[Verdict::Deny as usize],
            ),
        ];
        for (name, help, value) in counters {
            text.head(name, "counter", help);
            text.sample(name, &[signal], value);
        }
        text.head(
            "lost_items_total",
            "counter",
            "Items admitted and gone, by reason.",
        );
        for loss in ItemLoss::ALL {
            text.sample(
                "lost_items_total",
                &[signal, ("reason", loss.name())],
                spans.lost[loss as usize],
            );
        }
        text.head("pending_items", "gauge", "Items whose trace is not decided.");
        text.sample("pending_items", &[signal], spans.pending());
    }

    fn add_receiver(&self, text: &mut Text, report: &ServingReport) {
        let stats = &report.stats;
        text.head(
            "refused_items_total",
            "counter",
            "Items not admitted; a refused request counts as one.",
        );
        for transport in Transport::ALL {
            for refusal in Refusal::ALL {
                let value = stats.refused[transport as usize][refusal as usize];
                let labels = [
                    ("signal", "spans"),
                    ("transport", transport.name()),
                    ("reason", refusal.name()),
                ];
                text.sample("refused_items_total", &labels, value);
            }
        }
        text.head(
            "requests_total",
            "counter",
            "Answered requests by gRPC status code.",
        );
        for transport in Transport::ALL {
            for (code, count) in stats.requests[transport as usize].iter() {
                let code = code.to_string();
                let labels = [
                    ("signal", "spans"),
                    ("transport", transport.name()),
                    ("code", &code),
                ];
                text.sample("requests_total", &labels, count);
            }
        }
        text.head(
            "received_bytes_total",
            "counter",
            "Bytes of request bodies, on the wire and decoded.",
        );
        for transport in Transport::ALL {
            let (name, index) = (transport.name(), transport as usize);
            let (wire, decoded) = (
                stats.received_wire_bytes[index],
                stats.received_decoded_bytes[index],
            );
            text.sample(
                "received_bytes_total",
                &[("transport", name), ("kind", "wire")],
                wire,
            );
            text.sample(
                "received_bytes_total",
                &[("transport", name), ("kind", "decoded")],
                decoded,
            );
        }
        text.head(
            "ack_seconds",
            "histogram",
            "From the end of a request to its reply.",
        );
        for transport in Transport::ALL {
            let labels = [("transport", transport.name())];
            text.histogram("ack_seconds", &labels, &stats.ack_latency[transport as usize]);
        }
        text.gauge("connections", "Open OTLP connections.", report.connection_count);
        let help = "Connections closed unserved because all room was taken.";
        text.counter("connections_turned_away_total", help, report.turned_away_count);
    }

    fn add_traces(&self, text: &mut Text, report: &ServingReport) {
        let stats = &report.stats;
        let traces = &stats.traces;
        text.counter(
            "traces_opened_total",
            "Traces seen for the first time.",
            traces.opened,
        );
        text.gauge(
            "traces_pending",
            "Traces that are not decided.",
            report.traces_pending,
        );
        text.head(
            "traces_closed_total",
            "counter",
            "Closed traces by reason and whether they were whole.",
        );
        for reason in Reason::ALL {
            for (complete, count) in ["false", "true"].iter().zip(traces.closed[reason as usize]) {
                text.sample(
                    "traces_closed_total",
                    &[("reason", reason.name()), ("complete", complete)],
                    count,
                );
            }
        }
        text.head("traces_decided_total", "counter", "Decided traces.");
        for verdict in &Verdict::ALL[1..] {
            text.sample(
                "traces_decided_total",
                &[("verdict", verdict.name())],
                traces.decided[*verdict as usize],
            );
        }
        text.head(
            "traces_forced_total",
            "counter",
            "Traces decided early for want of memory, by tier.",
        );
        for (tier, count) in ["1", "2", "3"].iter().zip(traces.forced) {
            text.sample("traces_forced_total", &[("tier", tier)], count);
        }
        text.counter(
            "traces_upgraded_total",
            "Dropped traces that were kept later.",
            traces.upgraded,
        );
        text.counter(
            "upgrades_skipped_total",
            "Dropped traces that late spans or a peer may have made ones to keep, while too many were looked at.",
            traces.upgrades_skipped,
        );
        text.counter(
            "traces_judged_alone_total",
            "Traces judged by this node's part of them, since their home did not answer in time.",
            traces.judged_alone,
        );
        text.counter(
            "gossip_digests_total",
            "Digests sent to the homes of traces.",
            traces.digests_sent,
        );
        text.head(
            "traces_with_error_total",
            "counter",
            "Decided traces with an errored span.",
        );
        for verdict in &Verdict::ALL[1..] {
            let count = traces.with_error[*verdict as usize];
            text.sample("traces_with_error_total", &[("verdict", verdict.name())], count);
        }
        text.head(
            "late_spans_total",
            "counter",
            "Spans that came after their trace was decided.",
        );
        for verdict in &Verdict::ALL[1..] {
            text.sample(
                "late_spans_total",
                &[("verdict", verdict.name())],
                stats.late_spans[*verdict as usize],
            );
        }
        text.head(
            "late_span_age_seconds",
            "histogram",
            "From the decision to a late span.",
        );
        text.histogram("late_span_age_seconds", &[], &stats.late_span_age);
        text.head(
            "decision_seconds",
            "histogram",
            "From a trace's first span to its decision.",
        );
        text.histogram("decision_seconds", &[], &stats.decision_age);
    }

    fn add_policies(&self, text: &mut Text, report: &ServingReport) {
        type Value = fn(&crate::stats::PolicyCounts) -> u64;
        let metrics: [(&str, &str, Value); 6] = [
            ("policy_evaluated_traces_total", "Traces judged.", |counts| {
                counts.evaluated
            }),
            (
                "policy_matched_traces_total",
                "Traces that the policy matched.",
                |counts| counts.matched,
            ),
            (
                "policy_decided_traces_total",
                "Traces for which it is recorded.",
                |counts| counts.decided,
            ),
            (
                "policy_sole_traces_total",
                "Traces that no other policy matched.",
                |counts| counts.sole,
            ),
            (
                "policy_kept_spans_total",
                "Spans of traces that it kept.",
                |counts| counts.kept_spans,
            ),
            (
                "policy_kept_bytes_total",
                "Bytes of traces that it kept.",
                |counts| counts.kept_bytes,
            ),
        ];
        // No policy type that is built can fail; the series exists so that alerts on it do.
        text.head("policy_errors_total", "counter", "Evaluations that failed.");
        for (policy, _) in &self.facts.policy_types {
            text.sample("policy_errors_total", &[("policy", policy)], 0);
        }
        for (name, help, value) in metrics {
            text.head(name, "counter", help);
            for ((policy, _), counts) in self.facts.policy_types.iter().zip(&report.stats.policies) {
                text.sample(name, &[("policy", policy)], value(counts));
            }
        }
    }

    fn add_latencies(&self, text: &mut Text, report: &ServingReport) {
        let stats = &report.stats;
        text.head("wal_sync_seconds", "histogram", "What one fdatasync took.");
        text.histogram("wal_sync_seconds", &[], &stats.wal_sync);
    }

    fn add_exporters(&self, text: &mut Text, report: &ServingReport) {
        let now = report.now;
        let destinations = &report.destinations;
        text.head(
            "exporter_sent_items_total",
            "counter",
            "Items that the destination has.",
        );
        for to in destinations {
            text.sample(
                "exporter_sent_items_total",
                &[("exporter", to.id.as_str()), ("signal", "spans")],
                to.stats.sent_spans,
            );
        }
        text.head(
            "exporter_failed_items_total",
            "counter",
            "Items that the destination will never get.",
        );
        // What the log did not give back was not there for any destination.
        let not_copied = report.stats.spans_not_copied;
        for to in destinations {
            for (loss, count) in losses(to, not_copied) {
                let labels = [
                    ("exporter", to.id.as_str()),
                    ("signal", "spans"),
                    ("reason", &loss.name()),
                ];
                text.sample("exporter_failed_items_total", &labels, count);
            }
        }
        text.head(
            "exporter_sent_bytes_total",
            "counter",
            "Bytes written to the destination.",
        );
        for to in destinations {
            text.sample(
                "exporter_sent_bytes_total",
                &[("exporter", to.id.as_str())],
                to.stats.sent_bytes,
            );
        }
        text.head("exporter_retries_total", "counter", "Shipments tried again.");
        for to in destinations {
            for (cause, count) in to.stats.retries() {
                let labels = [("exporter", to.id.as_str()), ("code", &cause.name())];
                text.sample("exporter_retries_total", &labels, count);
            }
        }
        text.head(
            "exporter_request_seconds",
            "histogram",
            "From handing out to the destination's answer.",
        );
        for to in destinations {
            text.histogram(
                "exporter_request_seconds",
                &[("exporter", to.id.as_str())],
                &to.stats.request,
            );
        }
        text.head(
            "export_delay_seconds",
            "histogram",
            "From the verdict's copy to arrival.",
        );
        for to in destinations {
            text.histogram(
                "export_delay_seconds",
                &[("exporter", to.id.as_str())],
                &to.stats.delay,
            );
        }
        text.head("exporter_up", "gauge", "1 while shipments arrive.");
        for to in destinations {
            text.sample(
                "exporter_up",
                &[("exporter", to.id.as_str())],
                u8::from(to.last_error.is_none()),
            );
        }
        text.head(
            "exporter_queue_items",
            "gauge",
            "Kept items that the destination has not got.",
        );
        for to in destinations {
            text.sample(
                "exporter_queue_items",
                &[("exporter", to.id.as_str()), ("signal", "spans")],
                to.queued_spans,
            );
        }
        text.head("exporter_queue_bytes", "gauge", "Bytes of them.");
        for to in destinations {
            text.sample(
                "exporter_queue_bytes",
                &[("exporter", to.id.as_str())],
                to.queued_bytes,
            );
        }
        text.head(
            "exporter_queue_oldest_seconds",
            "gauge",
            "Age of the oldest of them.",
        );
        for to in destinations {
            let age = to
                .oldest
                .map_or(0.0, |oldest| now.instant.since(oldest).as_secs_f64());
            text.sample(
                "exporter_queue_oldest_seconds",
                &[("exporter", to.id.as_str())],
                age,
            );
        }
    }

    fn add_log_and_memory(&self, text: &mut Text, report: &ServingReport) {
        let now = report.now;
        let (log, kept) = (&report.log, &report.kept);
        text.head("wal_bytes", "gauge", "Disk bytes of the logs by state.");
        text.sample(
            "wal_bytes",
            &[("state", "used")],
            log.used_bytes + kept.used_bytes,
        );
        text.sample(
            "wal_bytes",
            &[("state", "retained")],
            log.retained_bytes + kept.retained_bytes,
        );
        text.sample(
            "wal_bytes",
            &[("state", "free")],
            free_disk_bytes(&self.facts.data_dir),
        );
        text.counter(
            "wal_written_bytes_total",
            "Bytes written to segments.",
            log.written_bytes + kept.written_bytes,
        );
        let poisoned = log.poisoned_segments + kept.poisoned_segments;
        text.counter(
            "wal_poisoned_segments_total",
            "Segments whose write or sync failed.",
            poisoned,
        );
        let replay = report.last_replay;
        text.counter(
            "wal_corrupt_bytes_total",
            "Bytes of the log that were corrupt at start.",
            replay.skipped_bytes,
        );
        let oldest = log
            .oldest
            .map_or(0.0, |oldest| now.wall.0.saturating_sub(oldest.0) as f64 / 1e9);
        text.gauge("wal_oldest_seconds", "How far the log reaches back.", oldest);
        text.gauge("wal_replay_seconds", "What the last replay took.", replay.seconds);
        text.head("memory_bytes", "gauge", "Bytes of the memory accounts.");
        for (kind, bytes) in report.memory.kinds() {
            text.sample("memory_bytes", &[("kind", kind)], bytes);
        }
        text.gauge(
            "memory_limit_bytes",
            "memory.limit.",
            self.facts.memory_limit_bytes,
        );
        text.gauge(
            "memory_tier",
            "0 to 3: how short trace state is of room.",
            report.tier,
        );
        text.gauge(
            "overload_sampled_ratio",
            "Share of all traces that is not taken (overload: sample).",
            f64::from(report.overload_share) / f64::from(SHARE_MAX),
        );
        text.counter(
            "wal_forwarded_bytes_total",
            "Bytes of open traces written again so that their old segments can go.",
            report.forwarded_bytes,
        );
        text.counter(
            "memory_evicted_bytes_total",
            "Bytes of blocks that left memory.",
            report.evicted_bytes,
        );
    }
}

fn add_cluster(text: &mut Text, report: &ClusterReport) {
    text.head("cluster_members", "gauge", "Nodes by state, this one included.");
    for state in ["alive", "suspect", "down", "left"] {
        let count = report
            .members
            .iter()
            .filter(|member| member.state == state)
            .count();
        text.sample("cluster_members", &[("state", state)], count);
    }
    let counts = &report.counts;
    text.head(
        "gossip_datagrams_total",
        "counter",
        "Datagrams between nodes, by what became of them.",
    );
    for outcome in Outcome::ALL {
        let labels = [("direction", "in"), ("outcome", outcome.name())];
        text.sample(
            "gossip_datagrams_total",
            &labels,
            counts.datagrams_in[outcome as usize],
        );
    }
    for (outcome, count) in [
        ("sent", counts.datagrams_out),
        ("dropped", counts.datagrams_dropped),
    ] {
        text.sample(
            "gossip_datagrams_total",
            &[("direction", "out"), ("outcome", outcome)],
            count,
        );
    }
    text.head(
        "gossip_bytes_total",
        "counter",
        "Bytes between nodes, over UDP and TCP.",
    );
    text.sample("gossip_bytes_total", &[("direction", "in")], counts.bytes_in);
    text.sample("gossip_bytes_total", &[("direction", "out")], counts.bytes_out);
    text.head(
        "gossip_gaps_total",
        "counter",
        "Batches that did not come at once, by what became of them.",
    );
    for (outcome, count) in [
        ("repaired", counts.gaps_repaired),
        ("renewed", counts.gaps_renewed),
        ("unrepairable", counts.gaps_unrepairable),
    ] {
        text.sample("gossip_gaps_total", &[("outcome", outcome)], count);
    }
    let help = "Decisions announced to peers (out) and heard of them, each once (in).";
    text.head("gossip_decisions_total", "counter", help);
    for (direction, count) in [("in", counts.decisions_in), ("out", counts.decisions_out)] {
        text.sample("gossip_decisions_total", &[("direction", direction)], count);
    }
    let help = "From a decision's announcement at another node to its arrival here, by the clocks of both.";
    text.head("gossip_decision_delay_seconds", "histogram", help);
    text.histogram("gossip_decision_delay_seconds", &[], &report.delay);
}

fn add_cores(text: &mut Text, node: &NodeReport) {
    let labelled = |text: &mut Text, name, value: fn(&CoreReport) -> f64| {
        for core in &node.cores {
            text.sample(name, &[("core", &core.core.0.to_string())], value(core));
        }
    };
    text.head("core_up", "gauge", "1 while the core serves.");
    labelled(text, "core_up", |core| {
        f64::from(u8::from(core.serving.is_some()))
    });
    text.head("core_busy_seconds_total", "counter", "CPU time of the core.");
    labelled(text, "core_busy_seconds_total", |core| core.busy_seconds);
}

fn add_process(text: &mut String) {
    let usage = cpu_seconds();
    let resident = std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|statm| statm.split(' ').nth(1)?.parse::<u64>().ok())
        .map_or(0, |pages| pages * rustix::param::page_size() as u64);
    let descriptors = std::fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count());
    let _ = write!(
        text,
        "# HELP process_cpu_seconds_total CPU time of this process.\n# TYPE process_cpu_seconds_total counter\n\
         process_cpu_seconds_total {usage}\n\
         # HELP process_resident_memory_bytes Resident memory.\n# TYPE process_resident_memory_bytes gauge\n\
         process_resident_memory_bytes {resident}\n\
         # HELP process_open_fds Open file descriptors.\n# TYPE process_open_fds gauge\n\
         process_open_fds {descriptors}\n"
    );
}

/// Reasons that are always shown, at zero too, and those that have come up.
fn losses(to: &DestinationReport, not_copied: u64) -> Vec<(Loss, u64)> {
    let mut losses = vec![
        (Loss::Unwritable, 0),
        (Loss::Unreadable, not_copied),
        (Loss::QueueFull, 0),
    ];
    for (loss, spans) in to.stats.failed_spans() {
        match losses.iter_mut().find(|(known, _)| *known == loss) {
            Some((_, count)) => *count += spans,
            None => losses.push((loss, spans)),
        }
    }
    losses
}
