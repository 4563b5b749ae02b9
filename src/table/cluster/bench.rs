//! Quotas of a cluster's node: what its home judges by, and among which nodes ledgers are dealt.

use super::super::Table;
use super::Context;
use crate::base::ids::TraceId;
use crate::gossip::Members;
use crate::gossip::home::{Bench, Home, Word};
use crate::policy::QuotaAnswers;
use crate::policy::quota::Company;

impl Table {
    /// As which node this core judges, and among whom, at a start.
    pub fn quota_company(&self) -> (u64, Company) {
        match &self.cluster {
            None => (0, Company::None),
            Some(cluster) => {
                let members = cluster.members.as_ref();
                (
                    cluster.options.own.0,
                    members.map_or(Company::Unknown, company_of),
                )
            }
        }
    }

    /// Has this core's home do something, with all that it judges by.
    pub(in crate::table) fn at_home(
        &mut self,
        context: &mut Context<'_>,
        work: impl FnOnce(&mut Home, &mut Bench<'_>, &mut Vec<Word>),
    ) {
        let Table { cluster, quotas, .. } = self;
        let Some(cluster) = cluster else { return };
        let Context {
            now, policies, stats, ..
        } = context;
        let mut bench = Bench {
            policies,
            ask: &mut |quota, amount, ticket, urgency| {
                let answer = quotas.ask(now.instant, quota, amount, ticket, urgency);
                stats.count_quota(policies.quotas()[quota.number()].policy, answer, amount);
                answer
            },
        };
        work(&mut cluster.home, &mut bench, &mut cluster.words);
    }

    /// What quotas said of a trace, if its home is here.
    pub(in crate::table) fn quotas_at_home(&self, id: &TraceId) -> QuotaAnswers {
        let cluster = self.cluster.as_ref();
        cluster.map_or(QuotaAnswers::NONE, |cluster| cluster.home.quotas_of(id))
    }

    /// Whether traces of this core's home wait for a quota.
    pub(in crate::table) fn home_waits(&self) -> bool {
        self.cluster.as_ref().is_some_and(|cluster| cluster.home.waits())
    }
}

/// Among whom ledgers are dealt.
pub(super) fn company_of(members: &Members) -> Company {
    Company::Nodes {
        live: members.live.iter().map(|node| node.0).collect(),
        key: members.home_key,
    }
}
