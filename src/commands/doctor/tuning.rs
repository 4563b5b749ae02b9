//! Settings of the host that cost speed or steadiness. Never an error: it runs without them.

use std::fs;
use std::path::{Path, PathBuf};

use super::finding::{Finding, Findings};
use crate::config::Config;

/// Connections that may wait to be accepted; the listeners ask for as many.
const BACKLOG_WISE: u64 = 4096;
const SWAPPINESS_WISE: u64 = 10;

pub fn check(config: &Config, findings: &mut Findings) {
    findings.add(clock(&read(
        "/sys/devices/system/clocksource/clocksource0/current_clocksource",
    )));
    findings.add(backlog(read("/proc/sys/net/core/somaxconn").parse().ok()));
    findings.add(swap(
        &read("/proc/swaps"),
        read("/proc/sys/vm/swappiness").parse().ok(),
    ));
    let governor = read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
    if !governor.is_empty() {
        findings.add(frequency(&governor));
    }
    if let Some((device, schedulers)) = scheduler_of(&config.node.data_dir) {
        findings.add(scheduler(&device, &schedulers));
    }
}

/// Trimmed; nothing where there is nothing to read.
fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn clock(source: &str) -> Finding {
    let check = "clock source";
    match source {
        "tsc" | "kvm-clock" | "hyperv_clocksource_tsc_page" | "arch_sys_counter" => {
            Finding::fine(check, source)
        }
        "" => Finding::warning(check, "not known", "look at /sys/devices/system/clocksource"),
        slow => Finding::warning(
            check,
            format!("{slow}: each look at the clock is a call into the kernel"),
            "echo tsc > /sys/devices/system/clocksource/clocksource0/current_clocksource, if the hardware's is steady",
        ),
    }
}

fn backlog(limit: Option<u64>) -> Finding {
    let check = "net.core.somaxconn";
    match limit {
        Some(limit) if limit >= BACKLOG_WISE => Finding::fine(check, limit),
        limit => Finding::warning(
            check,
            limit.map_or("not known".to_owned(), |limit| {
                format!("{limit}: when many clients connect at once, some wait a second or more")
            }),
            format!("sysctl -w net.core.somaxconn={BACKLOG_WISE}"),
        ),
    }
}

fn swap(swaps: &str, swappiness: Option<u64>) -> Finding {
    let check = "swap";
    let is_on = swaps.lines().count() > 1;
    match swappiness {
        _ if !is_on => Finding::fine(check, "off"),
        Some(value) if value <= SWAPPINESS_WISE => Finding::fine(check, format!("on, vm.swappiness {value}")),
        value => Finding::warning(
            check,
            format!(
                "on, vm.swappiness {}: blocks that wait for their verdict may be swapped out",
                value.map_or("not known".to_owned(), |value| value.to_string())
            ),
            "sysctl -w vm.swappiness=1, or swapoff -a",
        ),
    }
}

fn frequency(governor: &str) -> Finding {
    let check = "cpu governor";
    match governor {
        "performance" => Finding::fine(check, governor),
        slow => Finding::warning(
            check,
            format!("{slow}: a core that idles between groups clocks down"),
            "cpupower frequency-set -g performance",
        ),
    }
}

/// The block device below the nearest directory that exists, and its `queue/scheduler`.
fn scheduler_of(data_dir: &Path) -> Option<(String, String)> {
    let absolute = std::path::absolute(data_dir).ok()?;
    let existing = absolute.ancestors().find(|path| path.is_dir())?;
    let device = rustix::fs::stat(existing).ok()?.st_dev;
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let link = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
    let device = fs::canonicalize(link).ok()?;
    // A partition has no queue of its own, its disk has.
    let disk = device
        .ancestors()
        .take(2)
        .find(|path| path.join("queue/scheduler").is_file())?;
    let name = disk.file_name()?.to_string_lossy().into_owned();
    Some((name, read(disk.join("queue/scheduler"))))
}

/// `schedulers` as the kernel lists them: `[mq-deadline] kyber none`.
fn scheduler(device: &str, schedulers: &str) -> Finding {
    let check = "disk scheduler";
    let chosen = schedulers
        .split_once('[')
        .and_then(|(_, rest)| rest.split_once(']'))
        .map_or(schedulers, |(chosen, _)| chosen);
    match chosen {
        "none" | "noop" => Finding::fine(check, format!("{chosen} on {device}")),
        other => Finding::warning(
            check,
            format!("{other} on {device}: large direct writes in order gain nothing from it"),
            format!("echo none > /sys/block/{device}/queue/scheduler (on a disk without moving parts)"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    #[test]
    fn each_setting_is_fine_or_a_warning() {
        assert_eq!(clock("tsc").level, Level::Fine);
        assert_eq!(clock("hpet").level, Level::Warning);
        assert_eq!(backlog(Some(4096)).level, Level::Fine);
        assert_eq!(backlog(Some(128)).level, Level::Warning);
        let swaps = "Filename Type Size Used Priority\n/dev/sda2 partition 1 0 -2";
        assert_eq!(swap(swaps, Some(60)).level, Level::Warning);
        assert_eq!(swap(swaps, Some(1)).level, Level::Fine);
        assert_eq!(swap("Filename", Some(60)).level, Level::Fine);
        assert_eq!(scheduler("sda", "[mq-deadline] none").level, Level::Warning);
        assert_eq!(scheduler("vda", "mq-deadline [none]").level, Level::Fine);
        assert_eq!(scheduler("vda", "none").level, Level::Fine);
        assert_eq!(frequency("powersave").level, Level::Warning);
    }
}
