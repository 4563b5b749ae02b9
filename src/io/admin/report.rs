//! What one core tells of itself when somebody asks, and all of them together.

use super::{Admin, LastReplay};
use crate::base::ids::CoreId;
use crate::base::time::Now;
use crate::landing::DestinationReport;
use crate::landing::fetch::WhichLog;
use crate::stats::Stats;
use crate::wal::Usage;

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
    pub state_bytes: u64,
    pub tier: u8,
    pub log: Usage,
    pub kept: Usage,
    pub evicted_bytes: u64,
    /// Of logs, requests and connections.
    pub in_flight_bytes: u64,
    pub destinations: Vec<DestinationReport>,
    /// Why the log takes no writes.
    pub refuses: Option<String>,
    pub connection_count: usize,
    pub turned_away_count: u64,
    pub last_replay: LastReplay,
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
        let in_flight = landings.iter().map(|landing| landing.in_flight_bytes());
        let bodies = ingress.map_or(0, |ingress| ingress.in_flight_bytes() as u64);
        let mut destinations = Vec::new();
        for landing in landings {
            merge_destinations(&mut destinations, landing.destinations());
        }
        ServingReport {
            now: core.now(),
            stats: shard.stats().clone(),
            traces_pending: table.len(),
            state_bytes: table.state_bytes(),
            tier: table.pressure_tier(),
            log: usage(WhichLog::Main),
            kept: usage(WhichLog::Kept),
            evicted_bytes: landings.iter().map(|landing| landing.evicted_bytes()).sum(),
            in_flight_bytes: in_flight.sum::<u64>() + bodies,
            destinations,
            refuses: core.log_obstacle(),
            connection_count: ingress.map_or(0, |ingress| ingress.connection_count()),
            turned_away_count: ingress.map_or(0, |ingress| ingress.turned_away_count()),
            last_replay: self.last_replay.get(),
        }
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
        ServingReport {
            now: self.now,
            traces_pending: self.traces_pending + other.traces_pending,
            state_bytes: self.state_bytes + other.state_bytes,
            tier: self.tier.max(other.tier),
            log: self.log.merge(other.log),
            kept: self.kept.merge(other.kept),
            evicted_bytes: self.evicted_bytes + other.evicted_bytes,
            in_flight_bytes: self.in_flight_bytes + other.in_flight_bytes,
            refuses: self.refuses.or(other.refuses),
            connection_count: self.connection_count + other.connection_count,
            turned_away_count: self.turned_away_count + other.turned_away_count,
            last_replay: self.last_replay.merge(other.last_replay),
            stats: self.stats,
            destinations: self.destinations,
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

/// CPU time of the calling thread so far: an executor is a thread.
fn thread_cpu_seconds() -> f64 {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    used.tv_sec as f64 + used.tv_nsec as f64 / 1e9
}
