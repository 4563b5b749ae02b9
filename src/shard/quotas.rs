//! What judges and ledgers of quotas tell each other, from core to core and from node to node.

use super::Shard;
use crate::base::block::BlockPool;
use crate::base::time::Now;
use crate::gossip::{NodeId, Outbound};
use crate::policy::Quotas;
use crate::policy::quota::{Company, Judge, To};

impl<P: BlockPool, W> Shard<P, W> {
    /// Quotas limit what this core keeps from now on.
    pub(super) fn limit(&mut self, start_full: bool, now: Now) {
        let (node, company) = self.table.quota_company();
        let start_full = start_full && company == Company::None;
        let judge = Judge {
            node,
            core: self.core,
        };
        let core_count = self.peers.len() as u16;
        let quotas = Quotas::new(
            self.policies.quotas(),
            judge,
            core_count,
            company,
            start_full,
            now,
        );
        self.table.set_quotas(quotas);
    }

    /// Sends what judges of this core ask, and what its ledgers answer.
    pub(super) fn exchange_leases(&mut self, now: Now) {
        if self.stopping {
            return;
        }
        while let Some((to, leasing)) = self.table.quotas_mut().poll(now.instant) {
            match to {
                To::Core(core) => self.peers[usize::from(core.0)].leasings.push(leasing),
                To::Node(node) => self.table.send(Outbound::Leasing(NodeId(node), leasing)),
            }
        }
    }
}
