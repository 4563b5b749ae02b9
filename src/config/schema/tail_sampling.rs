//! `tail_sampling`: the Collector processor's block, unchanged; and `completion`, which refines it.
//!
//! Every key of the Collector's is known. What steers its bookkeeping and not the outcome gets a
//! notice; what would change the outcome and is not there is refused.

use std::time::Duration;

use super::policies::policies;
use crate::config::diagnostic::Severity;
use crate::config::options::CompletionOptions;
use crate::config::reader::{Section, Value};
use crate::policy::options::PolicyEntry;

/// What the block says.
pub struct TailSampling {
    pub decision_wait: Duration,
    pub wait_after_root: Option<Duration>,
    pub trace_bytes_max: Option<u64>,
    pub sample_on_first_match: bool,
    pub policies: Vec<PolicyEntry>,
}

pub fn tail_sampling(mut section: Section<'_>) -> TailSampling {
    let default = CompletionOptions::default();
    let optional = |value: &Value<'_>| value.duration().map(|wait| (!wait.is_zero()).then_some(wait));
    let bytes = |value: &Value<'_>| value.count().map(|bytes| (bytes != 0).then_some(bytes));
    let read = TailSampling {
        decision_wait: section.read("decision_wait", Value::period, default.decision_wait),
        wait_after_root: section.read(
            "decision_wait_after_root_received",
            optional,
            default.wait_after_root,
        ),
        trace_bytes_max: section.read("maximum_trace_size_bytes", bytes, None),
        sample_on_first_match: section.read("sample_on_first_match", Value::boolean, false),
        policies: policies(&mut section),
    };
    if let (Some(_), Some(value)) = (read.trace_bytes_max, section.value("maximum_trace_size_bytes")) {
        let message = "a trace beyond this is decided on what it has shown so far; the Collector drops it";
        value.remark(Severity::Notice, message, "");
    }
    refuse_other_ways(&mut section);
    note_bookkeeping(&mut section);
    section.finish();
    read
}

/// Keys that would change which traces are kept.
fn refuse_other_ways(section: &mut Section<'_>) {
    if let Some(value) = section.value("sampling_strategy")
        && value.word(&["trace-complete", "span-ingest"]) == Some("span-ingest")
    {
        let help = "tailkeep decides as early as the rules allow anyway; leave the key out";
        value.error::<()>("span-ingest is not supported", help);
    }
    if let Some(value) = section.foreign("tail_storage").filter(|value| !value.is_null()) {
        value.refuse(
            "storage extensions are not supported",
            "tailkeep has its own log: see `wal`",
        );
    }
}

/// Keys that size the Collector's tables and queues. Values are still held to their type, so that a
/// file that loads here loads there.
fn note_bookkeeping(section: &mut Section<'_>) {
    let count = |value: &Value<'_>| value.count().is_some();
    let flag = |value: &Value<'_>| value.boolean().is_some();
    section.notice(
        "num_traces",
        count,
        "memory.limit bounds memory, and traces wait on disk",
    );
    section.notice(
        "expected_new_traces_per_sec",
        count,
        "nothing needs to be preallocated",
    );
    section.notice(
        "num_shards",
        count,
        "every core is a shard of its own (node.cores)",
    );
    section.notice(
        "block_on_overflow",
        flag,
        "full is refused with a retry delay, and clients send again",
    );
    section.notice(
        "drop_pending_traces_on_shutdown",
        flag,
        "what is pending at a stop is resumed at the next start",
    );
    let mut cache = section.section("decision_cache");
    let why = "decisions are always remembered, as many as memory.limit allows";
    cache.notice("sampled_cache_size", count, why);
    cache.notice("non_sampled_cache_size", count, why);
    cache.finish();
}

pub fn completion(mut section: Section<'_>, sampled: &TailSampling) -> CompletionOptions {
    let default = CompletionOptions::default();
    let at_least_one = |value: &Value<'_>| value.whole(1, i64::MAX).map(i64::unsigned_abs);
    let size = |value: &Value<'_>| match value.size()? {
        0 => value.error("must be more than 0", ""),
        bytes => Some(bytes),
    };
    let bytes_max = section.read("max_bytes", size, default.bytes_max);
    let attribute = section.read(
        "expected_count_attribute",
        Value::text,
        default.expected_count_attribute,
    );
    let options = CompletionOptions {
        decision_wait: sampled.decision_wait,
        wait_after_root: sampled.wait_after_root,
        structural: section.read("structural", Value::boolean, default.structural),
        quiet: section.read("quiet", |value| value.auto(Value::period), default.quiet),
        spans_max: section.read("max_spans", at_least_one, default.spans_max),
        bytes_max: sampled
            .trace_bytes_max
            .map_or(bytes_max, |given| given.min(bytes_max)),
        expected_count_attribute: attribute,
    };
    section.default_only("overrides", |value| Some(value.list()?.len()), 0, "[]");
    section.finish();
    options
}
