//! CPUs: which ones this process may run on, and how much of them its cgroup grants.

use std::fs;
use std::path::{Path, PathBuf};

use super::finding::{Finding, Findings};
use crate::config::Config;
use crate::config::options::Cores;

pub fn check(config: &Config, findings: &mut Findings) {
    let allowed: Vec<usize> = core_affinity::get_core_ids()
        .unwrap_or_default()
        .iter()
        .map(|core| core.id)
        .collect();
    findings.add(cores(&config.node.cores, &allowed));
    findings.add(quota(cgroup_quota(), allowed.len()));
}

fn cores(wanted: &Cores, allowed: &[usize]) -> Finding {
    let check = "cpus";
    let found = format!("{} allowed ({})", allowed.len(), ranges(allowed));
    match wanted {
        _ if allowed.is_empty() => Finding::warning(
            check,
            "the allowed ones cannot be read",
            "name them with node.cores: [0, 1]",
        ),
        Cores::Count(count) if *count as usize > allowed.len() => Finding::warning(
            check,
            format!("{found}, node.cores wants {count}"),
            format!(
                "lower node.cores to {}, or widen the affinity (taskset, cpuset)",
                allowed.len()
            ),
        ),
        Cores::List(list) => {
            let foreign: Vec<usize> = list
                .iter()
                .map(|cpu| *cpu as usize)
                .filter(|cpu| !allowed.contains(cpu))
                .collect();
            match foreign.is_empty() {
                true => Finding::fine(check, found),
                false => Finding::error(
                    check,
                    format!("{found}, node.cores names {}", ranges(&foreign)),
                    "name allowed ones in node.cores, or widen the affinity (taskset, cpuset)",
                ),
            }
        }
        Cores::Auto | Cores::Count(_) => Finding::fine(check, found),
    }
}

/// `quota`: CPUs' worth of time; `None`: no limit.
fn quota(quota: Option<f64>, allowed: usize) -> Finding {
    let check = "cgroup cpu";
    match quota {
        None => Finding::fine(check, "no quota"),
        Some(cpus) if cpus < 1.0 || cpus < allowed as f64 / 2.0 => Finding::warning(
            check,
            format!(
                "a quota of {cpus:.1} CPUs over {allowed}: cores stop when it is used up, and replies wait"
            ),
            "raise cpu.max, or pin tailkeep to as many CPUs as the quota grants (cpuset, node.cores)",
        ),
        Some(cpus) => Finding::fine(check, format!("a quota of {cpus:.1} CPUs")),
    }
}

/// The smallest quota of this process's cgroup and those above it (version 2, then 1).
fn cgroup_quota() -> Option<f64> {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let path = own
        .lines()
        .find_map(|line| line.strip_prefix("0::"))
        .unwrap_or("/");
    let directory = PathBuf::from(format!("/sys/fs/cgroup{path}"));
    let quotas = directory
        .ancestors()
        .filter(|above| above.starts_with("/sys/fs/cgroup"));
    let unified = quotas.filter_map(|above| fs::read_to_string(above.join("cpu.max")).ok());
    let unified = unified.filter_map(|text| parse_quota(&text)).reduce(f64::min);
    unified.or_else(|| {
        let read = |name: &str| fs::read_to_string(Path::new("/sys/fs/cgroup/cpu").join(name)).ok();
        let (quota, period) = (read("cpu.cfs_quota_us")?, read("cpu.cfs_period_us")?);
        parse_quota(&format!("{} {}", quota.trim(), period.trim()))
    })
}

/// `50000 100000` is half a CPU, `max 100000` no limit.
fn parse_quota(text: &str) -> Option<f64> {
    let (quota, period) = text.trim().split_once(' ')?;
    let (quota, period) = (quota.parse::<f64>().ok()?, period.parse::<f64>().ok()?);
    (quota > 0.0 && period > 0.0).then(|| quota / period)
}

/// `0-3, 8`.
fn ranges(cpus: &[usize]) -> String {
    let mut sorted = cpus.to_vec();
    sorted.sort_unstable();
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for cpu in sorted {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == cpu => *last = cpu,
            _ => runs.push((cpu, cpu)),
        }
    }
    let shown = runs.iter().map(|(first, last)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    });
    shown.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    #[test]
    fn cores_that_are_not_allowed_are_an_error() {
        let level = |wanted| cores(&wanted, &[0, 1, 2, 5]).level;
        assert_eq!(level(Cores::Auto), Level::Fine);
        assert_eq!(level(Cores::Count(4)), Level::Fine);
        assert_eq!(level(Cores::Count(5)), Level::Warning);
        assert_eq!(level(Cores::List(vec![0, 5])), Level::Fine);
        assert_eq!(level(Cores::List(vec![0, 3])), Level::Error);
        assert_eq!(ranges(&[5, 0, 2, 1]), "0-2, 5");
    }

    #[test]
    fn quotas_are_read_in_cpus() {
        assert_eq!(parse_quota("50000 100000\n"), Some(0.5));
        assert_eq!(parse_quota("max 100000\n"), None);
        assert_eq!(parse_quota("-1 100000"), None);
        assert_eq!(quota(Some(0.5), 1).level, Level::Warning);
        assert_eq!(quota(Some(2.0), 2).level, Level::Fine);
    }
}
