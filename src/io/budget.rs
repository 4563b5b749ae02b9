//! `memory.limit`, dealt out: what each part of a core may take.
//!
//! ```text
//!  limit ┌ process, executors ┬ blocks 45 % ───────────┬ trace state 40 % ─┬ in flight 15 % ┐
//!        └────────────────────┴ evicted above 70 % of it ┴───────────────────┴ unsynced, bodies ┘
//!                                └ the rest pays for what no account has: decisions remembered, spare buffers,
//!                                  kept entries that wait, messages between cores, the allocator's waste
//! ```
//!
//! Shares are those of cores. The log that takes a core's requests gets nearly all of them: one that a change of
//! `node.cores` left behind is read and settled, and takes nothing new.

use crate::shard::Credit;
use crate::table::DecidedCache;

/// What the process takes beside all accounts: code, rings, stacks (8 MiB with one core), and under load buffers of h2
/// and of exports and what the allocator rounds up and keeps (32 MiB); BENCHMARKS.md says how it was measured.
const PROCESS_BYTES: u64 = 40 << 20;
const CORE_BYTES: u64 = 4 << 20;
/// Decisions remembered by the whole node at least, for late spans, where memory allows it.
const DECIDED_COUNT_MAX: usize = 1_000_000;
const KEPT_COUNT_MAX: usize = 100_000;
/// Memory of an item or a settlement on its way to another core, amply.
const MESSAGE_BYTES: u64 = 256;
/// Memory of a kept entry that some destination has not got: its place in a queue that may have grown to double.
const KEPT_ENTRY_BYTES: u64 = 2 * size_of::<crate::landing::KeptEntry>() as u64;

/// The bounds of one core, in bytes unless said otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    pub blocks: u64,
    pub trace_state: u64,
    /// Of in flight: appended and not synced yet.
    pub unsynced: u64,
    /// Of in flight: bodies that are being received.
    pub bodies: u64,
    /// Decisions remembered, of all traces and of kept ones.
    pub decided_count: usize,
    pub kept_count: usize,
    /// Entries of the kept log that wait for a destination.
    pub queued_count: usize,
    /// Of buffers that wait for their next use, of each kind: blocks when all are lent, copies of ends of groups,
    /// vectors for bodies.
    pub spares: usize,
    pub credit: Credit,
}

impl Budget {
    pub fn new(limit_bytes: u64, core_count: u16) -> Budget {
        let cores = u64::from(core_count);
        let whole = limit_bytes / cores;
        // A quarter at least, where there are many cores for little memory.
        let accounts = whole
            .saturating_sub(PROCESS_BYTES / cores + CORE_BYTES)
            .max(whole / 4);
        let (decided, kept) = DecidedCache::counts_within(whole / 16);
        // To each of the others, both ways.
        let on_way = (whole / 50 / MESSAGE_BYTES / 2 / cores.max(2).saturating_sub(1)) as usize;
        let credit = Credit::default();
        Budget {
            blocks: accounts / 100 * 45,
            trace_state: accounts / 100 * 40,
            unsynced: accounts / 100 * 10,
            bodies: accounts / 100 * 5,
            decided_count: decided.min(DECIDED_COUNT_MAX / usize::from(core_count)),
            kept_count: kept.min(KEPT_COUNT_MAX / usize::from(core_count)),
            queued_count: (whole / 30 / KEPT_ENTRY_BYTES) as usize,
            spares: ((whole / 64) as usize).min(16 << 20),
            credit: Credit {
                items: credit.items.min(on_way),
                settlements: credit.settlements.min(on_way),
            },
        }
    }

    /// Above this the oldest blocks leave memory.
    pub fn blocks_resident(&self) -> u64 {
        self.blocks / 10 * 7
    }

    /// For a log that is only settled and delivered: a sixteenth.
    pub fn of_old_log(self) -> Budget {
        Budget {
            blocks: self.blocks / 16,
            unsynced: self.unsynced / 16,
            queued_count: self.queued_count / 16,
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_accounts_of_all_cores_stay_within_the_limit() {
        for limit in [64 << 20, 128 << 20, 512 << 20, 16 << 30u64] {
            for cores in [1u16, 2, 4, 16]
                .into_iter()
                .filter(|cores| limit / u64::from(*cores) >= 48 << 20)
            {
                let budget = Budget::new(limit, cores);
                let decided = 40 * budget.decided_count as u64;
                let one =
                    budget.blocks_resident() + budget.trace_state + budget.unsynced + budget.bodies + decided;
                let fixed = PROCESS_BYTES + CORE_BYTES * u64::from(cores);
                assert!(
                    one * u64::from(cores) + fixed.min(limit) <= limit / 10 * 11,
                    "{limit} by {cores}: {budget:?}"
                );
            }
        }
    }

    #[test]
    fn a_gibibyte_remembers_a_million_decisions() {
        assert_eq!(Budget::new(1 << 30, 1).decided_count, DECIDED_COUNT_MAX);
    }
}
