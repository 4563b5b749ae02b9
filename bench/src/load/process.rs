//! What a process has used, from `/proc`.

use std::io;
use std::time::Duration;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// User and system time of all threads, in steps of one clock tick (10 ms).
    pub cpu: Duration,
    pub rss_bytes: u64,
    /// Since the process began.
    pub rss_peak_bytes: u64,
}

impl Usage {
    pub fn of(pid: u32) -> io::Result<Usage> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let ticks = cpu_ticks(&stat).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Usage {
            cpu: Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64),
            rss_bytes: status_bytes(&status, "VmRSS:").unwrap_or(0),
            rss_peak_bytes: status_bytes(&status, "VmHWM:").unwrap_or(0),
        })
    }

    /// Of the generator's own thread, to the nanosecond.
    pub fn of_self() -> Usage {
        let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        Usage {
            cpu: Duration::new(cpu.tv_sec as u64, cpu.tv_nsec as u32),
            ..Usage::default()
        }
    }
}

/// Fields 14 and 15 of proc_pid_stat(5). The second field, the command's name, may hold spaces and
/// parentheses, so counting begins after the last one.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let after_name = &stat[stat.rfind(')')? + 1..];
    let mut fields = after_name.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

fn status_bytes(status: &str, key: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_read_behind_a_hostile_name() {
        let stat = "42 (a) b (c)) R 1 42 42 0 -1 4194304 900 0 0 0 1234 66 0 0 20 0 3 0 100 1 2";
        assert_eq!(cpu_ticks(stat), Some(1300));
        assert_eq!(cpu_ticks("42 (a"), None);
    }

    #[test]
    fn memory_is_read_in_bytes() {
        let status = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t     100 kB\n";
        assert_eq!(status_bytes(status, "VmRSS:"), Some(102_400));
        assert_eq!(status_bytes(status, "VmHWM:"), Some(2_097_152));
        assert_eq!(status_bytes(status, "VmSwap:"), None);
    }

    #[test]
    fn this_process_has_a_size() {
        let usage = Usage::of(std::process::id()).expect("/proc");
        assert!(usage.rss_peak_bytes >= usage.rss_bytes && usage.rss_bytes > 0);
    }
}
