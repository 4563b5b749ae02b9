//! What one core tells of itself when somebody asks, and all of them together.

use super::{Admin, LastReplay};
use crate::base::ids::CoreId;
use crate::base::time::Now;
use crate::landing::fetch::WhichLog;
use crate::landing::{DestinationReport, Landing};
use crate::policy::{PolicySet, Quotas};
use crate::stats::Stats;
use crate::wal::Usage;
use std::collections::BTreeMap;

/// One core's figures at one moment.
#[derive(Clone, Debug)]
pub struct CoreReport {
    pub core: CoreId,
    pub cpu: u32,
    pub busy_seconds: f64,
    /// `None` while it replays its logs.
    pub serving: Option<ServingReport>,
    /// Why it is not ready; empty if it is.
    pub obstacles: Vec<String>,
}

/// The part that a core has once it serves. Those of several cores merge.
#[derive(Clone, Debug)]
pub struct ServingReport {
    pub now: Now,
    pub stats: Stats,
    pub traces_pending: usize,
    pub memory: MemoryReport,
    pub tier: u8,
    pub log: Usage,
    pub kept: Usage,
    pub evicted_bytes: u64,
    pub forwarded_bytes: u64,
    /// Of [`crate::shard::overload::SHARE_MAX`].
    pub overload_share: u8,
    pub destinations: Vec<DestinationReport>,
    /// Why the log takes no writes.
    pub refuses: Option<String>,
    pub connection_count: usize,
    pub turned_away_count: u64,
    pub last_replay: LastReplay,
    /// By policy, of those that ask quotas: what its ledgers have left, where they are here.
    pub quota_levels: BTreeMap<usize, Option<u64>>,
}

/// Bytes of memory by what they are for.
#[derive(Clone, Copy, Debug, Default)]
pub struct MemoryReport {
    /// Durable, and in memory as long as there is room.
    pub blocks: u64,
    pub trace_state: u64,
    /// Bodies, what waits for its sync, what is read back, shipments.
    pub in_flight: u64,
    /// Decisions remembered, when full.
    pub decided: u64,
    /// Kept entries that wait for destinations.
    pub queued: u64,
    /// Buffers and slots that wait for their next use.
    pub spare: u64,
}

impl MemoryReport {
    pub fn kinds(&self) -> [(&'static str, u64); 6] {
        [
            ("blocks", self.blocks),
            ("trace_state", self.trace_state),
            ("in_flight", self.in_flight),
            ("decided", self.decided),
            ("queued", self.queued),
            ("spare", self.spare),
        ]
    }

    pub fn used_bytes(&self) -> u64 {
        self.kinds().iter().map(|(_, bytes)| bytes).sum()
    }

    fn merge(self, other: MemoryReport) -> MemoryReport {
        MemoryReport {
            blocks: self.blocks + other.blocks,
            trace_state: self.trace_state + other.trace_state,
            in_flight: self.in_flight + other.in_flight,
            decided: self.decided + other.decided,
            queued: self.queued + other.queued,
            spare: self.spare + other.spare,
        }
    }
}

/// The whole node.
#[derive(Clone, Debug)]
pub struct NodeReport {
    pub cores: Vec<CoreReport>,
    /// Of all cores that serve; `None` while none does.
    pub all: Option<ServingReport>,
    pub obstacles: Vec<String>,
}

impl Admin {
    /// This core's own figures.
    pub fn report(&self) -> CoreReport {
        let core = self.core.borrow();
        let obstacles = match &*core {
            None => vec!["replaying the log".to_string()],
            Some(core) => core.obstacles(),
        };
        CoreReport {
            core: self.mesh.core(),
            cpu: self.cpu,
            busy_seconds: thread_cpu_seconds(),
            serving: core.as_ref().map(|core| self.serving_report(core)),
            obstacles,
        }
    }

    fn serving_report(&self, core: &crate::io::core::Core) -> ServingReport {
        let shard = core.shard();
        let (table, landings) = (shard.table(), shard.landings());
        let usage = |which| {
            let usages = landings.iter().map(|landing| landing.usage(which));
            usages.reduce(Usage::merge).expect("a core keeps a log")
        };
        let ingress = self.ingress.borrow();
        let ingress = ingress.as_ref();
        let bodies = ingress.map_or(0, |ingress| ingress.in_flight_bytes() as u64);
        let spare = core.spare_bytes() + ingress.map_or(0, |ingress| ingress.spare_bytes());
        let of_logs = |bytes: fn(&Landing<_, _>) -> u64| landings.iter().map(bytes).sum::<u64>();
        let memory = MemoryReport {
            blocks: of_logs(Landing::durable_block_bytes),
            trace_state: table.state_bytes(),
            in_flight: of_logs(Landing::in_flight_bytes) + bodies,
            decided: table.decided_bytes(),
            queued: of_logs(Landing::queued_memory_bytes),
            spare: table.spare_bytes() + spare as u64,
        };
        let mut destinations = Vec::new();
        for landing in landings {
            merge_destinations(&mut destinations, landing.destinations());
        }
        ServingReport {
            now: core.now(),
            stats: shard.stats().clone(),
            traces_pending: table.len(),
            memory,
            tier: table.pressure_tier(),
            log: usage(WhichLog::Main),
            kept: usage(WhichLog::Kept),
            forwarded_bytes: of_logs(Landing::forwarded_bytes),
            overload_share: shard.overload().share(),
            evicted_bytes: landings.iter().map(|landing| landing.evicted_bytes()).sum(),
            destinations,
            refuses: core.log_obstacle(),
            connection_count: ingress.map_or(0, |ingress| ingress.connection_count()),
            turned_away_count: ingress.map_or(0, |ingress| ingress.turned_away_count()),
            last_replay: self.last_replay.get(),
            quota_levels: quota_levels(&core.now(), shard.policies(), shard.table().quotas()),
        }
    }

    /// What [`crate::shard::Shard::drained`] says of every core; `None` unless it says so of all.
    pub async fn drained(&self) -> Option<Vec<u64>> {
        let asked = self.mesh.cores().map(|core| {
            self.mesh.ask(core, |admin| {
                let core = admin.core.borrow();
                core.as_ref().and_then(|core| core.shard().drained())
            })
        });
        let answers = futures_util::future::join_all(asked).await;
        answers.into_iter().map(Option::flatten).collect()
    }

    /// Asks every core. One that is going is left out.
    pub async fn node_report(&self) -> NodeReport {
        let asked = self
            .mesh
            .cores()
            .map(|core| self.mesh.ask(core, |admin| admin.report()));
        let answers = futures_util::future::join_all(asked).await;
        NodeReport::new(answers.into_iter().flatten().collect())
    }
}

impl NodeReport {
    fn new(cores: Vec<CoreReport>) -> NodeReport {
        let mut obstacles = Vec::new();
        for core in &cores {
            for obstacle in &core.obstacles {
                if !obstacles.contains(obstacle) {
                    obstacles.push(obstacle.clone());
                }
            }
        }
        let serving = cores.iter().filter_map(|core| core.serving.clone());
        NodeReport {
            all: serving.reduce(ServingReport::merge),
            cores,
            obstacles,
        }
    }
}

impl ServingReport {
    fn merge(mut self, other: ServingReport) -> ServingReport {
        self.stats.merge(&other.stats);
        merge_destinations(&mut self.destinations, other.destinations);
        for (policy, level) in other.quota_levels {
            add_level(&mut self.quota_levels, policy, level);
        }
        ServingReport {
            now: self.now,
            traces_pending: self.traces_pending + other.traces_pending,
            memory: self.memory.merge(other.memory),
            tier: self.tier.max(other.tier),
            log: self.log.merge(other.log),
            kept: self.kept.merge(other.kept),
            evicted_bytes: self.evicted_bytes + other.evicted_bytes,
            forwarded_bytes: self.forwarded_bytes + other.forwarded_bytes,
            overload_share: self.overload_share.max(other.overload_share),
            refuses: self.refuses.or(other.refuses),
            connection_count: self.connection_count + other.connection_count,
            turned_away_count: self.turned_away_count + other.turned_away_count,
            last_replay: self.last_replay.merge(other.last_replay),
            stats: self.stats,
            destinations: self.destinations,
            quota_levels: self.quota_levels,
        }
    }
}

fn merge_destinations(
    into: &mut Vec<DestinationReport>,
    others: impl IntoIterator<Item = DestinationReport>,
) {
    for other in others {
        match into.iter_mut().find(|known| known.id == other.id) {
            Some(known) => known.merge(other),
            None => into.push(other),
        }
    }
}

fn quota_levels(now: &Now, policies: &PolicySet, quotas: &Quotas) -> BTreeMap<usize, Option<u64>> {
    let mut levels = BTreeMap::new();
    for (quota, level) in policies.quotas().iter().zip(quotas.levels(now.instant)) {
        add_level(&mut levels, usize::from(quota.policy.0), level);
    }
    levels
}

fn add_level(levels: &mut BTreeMap<usize, Option<u64>>, policy: usize, more: Option<u64>) {
    let level = levels.entry(policy).or_default();
    *level = match (*level, more) {
        (Some(level), Some(more)) => Some(level.saturating_add(more)),
        (level, more) => level.or(more),
    };
}

/// CPU time of the calling thread so far: an executor is a thread.
fn thread_cpu_seconds() -> f64 {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    used.tv_sec as f64 + used.tv_nsec as f64 / 1e9
}
