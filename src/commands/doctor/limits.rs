//! Limits of this process: locked memory, open files, memory.

use rustix::process::{Resource, getrlimit};

use super::finding::{Finding, Findings};
use crate::commands::run::{available_memory, choose_cpus};
use crate::commands::show;
use crate::config::Config;
use crate::io::ingress::CONNECTIONS_MAX;
use crate::io::node::io_memory_bytes;

/// glommio refuses to start below this.
const LOCKED_BYTES_MIN: u64 = 512 << 10;
/// Beside connections: segments, outputs, rings, the admin port.
const FILES_BESIDE_CONNECTIONS: u64 = 1024;
/// Below this `run` soon refuses connections of ordinary fleets.
const FILES_MIN: u64 = 256;
/// Less holds too few blocks to be worth a log.
const MEMORY_BYTES_WISE: u64 = 128 << 20;

pub fn check(config: &Config, findings: &mut Findings) {
    let available = available_memory();
    let limit = config.memory_limit_bytes(available);
    findings.add(locked(
        getrlimit(Resource::Memlock).current,
        registered_bytes(config, limit),
        may_lock_memory(),
    ));
    let connections = CONNECTIONS_MAX as u64;
    findings.add(files(
        getrlimit(Resource::Nofile).current,
        connections + FILES_BESIDE_CONNECTIONS,
    ));
    findings.add(memory(limit, available));
}

/// Of all executors together.
fn registered_bytes(config: &Config, memory_limit_bytes: u64) -> u64 {
    let count = choose_cpus(config).map_or(1, |cpus| cpus.len());
    count as u64 * io_memory_bytes(memory_limit_bytes, count as u16)
}

/// CAP_IPC_LOCK: the kernel does not count what this process registers.
fn may_lock_memory() -> bool {
    use rustix::thread::{CapabilitySet, capabilities};
    capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::IPC_LOCK))
}

/// `limit`: `None` is unlimited.
fn locked(limit: Option<u64>, registered_bytes: u64, is_exempt: bool) -> Finding {
    let check = "locked memory";
    let help = format!(
        "ulimit -l unlimited; systemd: LimitMEMLOCK=infinity; Docker: --ulimit memlock=-1. At least {} is needed, \
         {} registers all buffers",
        show::bytes(LOCKED_BYTES_MIN),
        show::bytes(registered_bytes + LOCKED_BYTES_MIN)
    );
    match limit {
        None => Finding::fine(check, "unlimited"),
        Some(limit) if limit < LOCKED_BYTES_MIN => Finding::error(check, show::bytes(limit), help),
        Some(limit) if is_exempt => Finding::fine(
            check,
            format!("{}, and CAP_IPC_LOCK lifts it", show::bytes(limit)),
        ),
        Some(limit) if limit < registered_bytes + LOCKED_BYTES_MIN => Finding::warning(
            check,
            format!(
                "{}: buffers are not registered, writes cost more",
                show::bytes(limit)
            ),
            help,
        ),
        Some(limit) => Finding::fine(check, show::bytes(limit)),
    }
}

fn files(limit: Option<u64>, wanted: u64) -> Finding {
    let check = "open files";
    let help = format!("ulimit -n {wanted}; systemd: LimitNOFILE={wanted}");
    match limit {
        None => Finding::fine(check, "unlimited"),
        Some(limit) if limit < FILES_MIN => Finding::error(check, limit, help),
        Some(limit) if limit < wanted => Finding::warning(
            check,
            format!("{limit}: fewer clients can connect than tailkeep would serve"),
            help,
        ),
        Some(limit) => Finding::fine(check, limit),
    }
}

fn memory(limit: u64, available: u64) -> Finding {
    let check = "memory";
    let found = format!(
        "memory.limit is {} of {} (RAM or cgroup)",
        show::bytes(limit),
        show::bytes(available)
    );
    if limit > available {
        let help = format!(
            "set memory.limit to {} or less, or the kernel ends the process",
            show::bytes(available / 2)
        );
        Finding::error(check, found, help)
    } else if limit > available / 10 * 9 {
        Finding::warning(
            check,
            found,
            format!(
                "leave the kernel and its page cache a tenth: memory.limit at most {}",
                show::bytes(available / 10 * 9)
            ),
        )
    } else if limit < MEMORY_BYTES_WISE {
        let help = format!("give it {} or more", show::bytes(MEMORY_BYTES_WISE));
        Finding::warning(check, found, help)
    } else {
        Finding::fine(check, found)
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    #[test]
    fn limits_that_prevent_a_run_are_errors_and_others_warnings() {
        let level = |limit| locked(limit, 64 << 20, false).level;
        assert_eq!(level(None), Level::Fine);
        assert_eq!(level(Some(64 << 10)), Level::Error);
        assert_eq!(level(Some(8 << 20)), Level::Warning);
        assert_eq!(level(Some(128 << 20)), Level::Fine);
        assert_eq!(locked(Some(8 << 20), 64 << 20, true).level, Level::Fine);
        assert_eq!(files(Some(64), 9_000).level, Level::Error);
        assert_eq!(files(Some(1_024), 9_000).level, Level::Warning);
        assert_eq!(files(Some(65_536), 9_000).level, Level::Fine);
        assert_eq!(memory(2 << 30, 1 << 30).level, Level::Error);
        assert_eq!(memory(1 << 30, 1 << 30).level, Level::Warning);
        assert_eq!(memory(1 << 29, 1 << 30).level, Level::Fine);
    }
}
