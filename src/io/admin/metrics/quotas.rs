//! What quotas said, and what their ledgers have left. Nothing of policies that limit nothing.

use super::super::Admin;
use super::super::report::ServingReport;
use super::Text;
use crate::stats::QuotaCounts;

impl Admin {
    pub(super) fn add_quotas(&self, text: &mut Text, report: &ServingReport) {
        let named = self.facts.policy_types.iter().zip(&report.stats.policies);
        let limited = named.enumerate().filter_map(|(number, ((policy, _), counts))| {
            let level = report.quota_levels.get(&number)?;
            Some((policy.as_str(), counts.quota, *level))
        });
        let limited: Vec<(&str, QuotaCounts, Option<u64>)> = limited.collect();
        if limited.is_empty() {
            return;
        }
        let help = "Closed traces for which a quota of the policy was asked, by what it said.";
        text.head("policy_quota_traces_total", "counter", help);
        for (policy, counts, _) in &limited {
            for (outcome, count) in [
                ("granted", counts.granted),
                ("refused", counts.refused),
                ("unanswered", counts.unanswered),
            ] {
                let labels = [("policy", *policy), ("outcome", outcome)];
                text.sample("policy_quota_traces_total", &labels, count);
            }
        }
        let help = "Spans or bytes that quotas of the policy granted.";
        text.head("policy_quota_spent_tokens_total", "counter", help);
        for (policy, counts, _) in &limited {
            text.sample(
                "policy_quota_spent_tokens_total",
                &[("policy", *policy)],
                counts.tokens,
            );
        }
        let help = "Spans or bytes that the ledger has left, on the node that keeps it.";
        text.head("policy_quota_tokens", "gauge", help);
        for (policy, _, level) in &limited {
            if let Some(level) = level {
                text.sample("policy_quota_tokens", &[("policy", *policy)], *level);
            }
        }
    }
}
