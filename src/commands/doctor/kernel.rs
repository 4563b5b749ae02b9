//! The kernel: new enough, and io_uring allowed with everything that the executor submits.

use io_uring::{IoUring, Probe, opcode};
use rustix::io::Errno;

use super::finding::{Finding, Findings};

const VERSION_MIN: (u32, u32) = (5, 19);
const SYSCTL: &str = "/proc/sys/kernel/io_uring_disabled";

/// What glommio submits.
const OPERATIONS: [(&str, u8); 24] = [
    ("NOP", opcode::Nop::CODE),
    ("READV", opcode::Readv::CODE),
    ("WRITEV", opcode::Writev::CODE),
    ("FSYNC", opcode::Fsync::CODE),
    ("READ_FIXED", opcode::ReadFixed::CODE),
    ("WRITE_FIXED", opcode::WriteFixed::CODE),
    ("POLL_ADD", opcode::PollAdd::CODE),
    ("POLL_REMOVE", opcode::PollRemove::CODE),
    ("SENDMSG", opcode::SendMsg::CODE),
    ("RECVMSG", opcode::RecvMsg::CODE),
    ("TIMEOUT", opcode::Timeout::CODE),
    ("TIMEOUT_REMOVE", opcode::TimeoutRemove::CODE),
    ("ACCEPT", opcode::Accept::CODE),
    ("LINK_TIMEOUT", opcode::LinkTimeout::CODE),
    ("CONNECT", opcode::Connect::CODE),
    ("FALLOCATE", opcode::Fallocate::CODE),
    ("OPENAT", opcode::OpenAt::CODE),
    ("CLOSE", opcode::Close::CODE),
    ("STATX", opcode::Statx::CODE),
    ("READ", opcode::Read::CODE),
    ("WRITE", opcode::Write::CODE),
    ("SEND", opcode::Send::CODE),
    ("RECV", opcode::Recv::CODE),
    ("ASYNC_CANCEL", opcode::AsyncCancel::CODE),
];

pub fn check(findings: &mut Findings) {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    findings.add(version(&release));
    findings.add(rings());
}

fn version(release: &str) -> Finding {
    let (major, minor) = VERSION_MIN;
    match parse(release) {
        Some(found) if found >= VERSION_MIN => Finding::fine("kernel", release),
        Some(_) => Finding::error(
            "kernel",
            format!("{release}; {major}.{minor} or newer is needed"),
            format!("boot Linux {major}.{minor} or newer"),
        ),
        None => Finding::warning(
            "kernel",
            format!("{release}: a version that cannot be read"),
            format!("make sure that it is Linux {major}.{minor} or newer"),
        ),
    }
}

/// The first two numbers of `6.1.0-13-amd64`.
fn parse(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit());
    let mut next = || numbers.next()?.parse().ok();
    Some((next()?, next()?))
}

fn rings() -> Finding {
    let ring = match IoUring::new(8) {
        Ok(ring) => ring,
        Err(error) => {
            let disabled = std::fs::read_to_string(SYSCTL).ok();
            return refused(&error, disabled.as_deref().map(str::trim));
        }
    };
    let mut probe = Probe::new();
    if let Err(error) = ring.submitter().register_probe(&mut probe) {
        return Finding::error(
            "io_uring",
            format!("its operations cannot be listed: {error}"),
            "allow io_uring_register in the seccomp profile",
        );
    }
    let missing = OPERATIONS.iter().filter(|(_, code)| !probe.is_supported(*code));
    let missing: Vec<&str> = missing.map(|(name, _)| *name).collect();
    match missing.is_empty() {
        true => Finding::fine(
            "io_uring",
            format!("allowed, with all {} operations", OPERATIONS.len()),
        ),
        false => Finding::error(
            "io_uring",
            format!("lacks {}", missing.join(", ")),
            "boot a newer kernel; a sandbox that imitates Linux (gVisor) cannot run tailkeep",
        ),
    }
}

/// `disabled`: the value of kernel.io_uring_disabled, absent before Linux 6.6.
fn refused(error: &std::io::Error, disabled: Option<&str>) -> Finding {
    let (found, help) = match (Errno::from_io_error(error), disabled) {
        (Some(Errno::PERM), Some("2")) => (
            "switched off for everyone: kernel.io_uring_disabled is 2".to_owned(),
            "sysctl -w kernel.io_uring_disabled=0, and the same line without -w in /etc/sysctl.d/",
        ),
        (Some(Errno::PERM), Some("1")) => (
            "switched off for this user: kernel.io_uring_disabled is 1".to_owned(),
            "add the user's group with sysctl -w kernel.io_uring_group=GID, or set kernel.io_uring_disabled=0",
        ),
        (Some(Errno::PERM | Errno::ACCESS), _) => (
            format!("forbidden: {error}"),
            "a seccomp profile or a security module forbids io_uring_setup; containers: allow io_uring_setup, \
             io_uring_enter and io_uring_register in the profile (Docker: --security-opt seccomp=FILE)",
        ),
        (Some(Errno::NOSYS), _) => (
            "this kernel has none".to_owned(),
            "boot a kernel built with CONFIG_IO_URING, or allow io_uring_setup in the seccomp profile",
        ),
        (Some(Errno::NOMEM), _) => (
            format!("no memory for a ring: {error}"),
            "raise the limit of locked memory (ulimit -l), or the memory of the cgroup",
        ),
        _ => (error.to_string(), "look for io_uring in the kernel's log (dmesg)"),
    };
    Finding::error("io_uring", found, help)
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    #[test]
    fn kernels_before_5_19_are_refused() {
        let level = |release| version(release).level;
        assert_eq!(level("5.15.0-91-generic"), Level::Error);
        assert_eq!(level("5.19.0"), Level::Fine);
        assert_eq!(level("6.1-rc3+"), Level::Fine);
        assert_eq!(level("custom"), Level::Warning);
    }

    #[test]
    fn each_refusal_of_io_uring_names_its_own_cause() {
        let told = |errno: Errno, disabled| {
            let finding = refused(&errno.into(), disabled);
            (finding.found, finding.help.unwrap_or_default())
        };
        assert!(told(Errno::PERM, Some("2")).1.contains("io_uring_disabled=0"));
        assert!(told(Errno::PERM, Some("1")).1.contains("io_uring_group"));
        assert!(told(Errno::PERM, Some("0")).1.contains("seccomp"));
        assert!(told(Errno::PERM, None).1.contains("seccomp"));
        assert!(told(Errno::NOSYS, None).0.contains("has none"));
        assert!(told(Errno::NOMEM, None).1.contains("ulimit -l"));
    }
}
