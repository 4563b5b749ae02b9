//! The ports of the configuration: free, or who has them.

use std::fs;
use std::io::ErrorKind;
use std::net::SocketAddr;

use super::finding::{Finding, Findings};
use super::reason_of;
use crate::commands::run::resolve;
use crate::commands::show;
use crate::config::Config;
use crate::config::options::Endpoint;
use crate::io::ingress::listener;

pub fn check(config: &Config, findings: &mut Findings) {
    let receivers = &config.receivers;
    for (name, key, endpoint) in [
        (
            "port grpc",
            "receivers.otlp.protocols.grpc.endpoint",
            &receivers.grpc.endpoint,
        ),
        (
            "port http",
            "receivers.otlp.protocols.http.endpoint",
            &receivers.http.endpoint,
        ),
        ("port admin", "admin.endpoint", &config.admin.endpoint),
    ] {
        findings.add(port(name, key, endpoint));
    }
    if let Some(cluster) = &config.cluster {
        findings.add(port("port cluster", "cluster.listen", &cluster.listen));
    }
    let admin = &config.admin;
    let resolved = resolve("admin.endpoint", &admin.endpoint).unwrap_or_default();
    if admin.token_file.is_none() && resolved.iter().any(|address| !address.ip().is_loopback()) {
        findings.add(Finding::warning(
            "admin access",
            format!(
                "{} is not a loopback address and there is no token",
                admin.endpoint
            ),
            "set admin.token_file; without it only /metrics, /healthz and /readyz are served there",
        ));
    }
}

fn port(name: &str, key: &str, endpoint: &Endpoint) -> Finding {
    let addresses = match resolve(key, endpoint) {
        Ok(addresses) => addresses,
        Err(failure) => {
            let help = format!("name a host that resolves, or an address, in {key}");
            return Finding::error(name, reason_of(failure), help);
        }
    };
    let mut failed = None;
    for address in addresses {
        match listener::bind(address, 1) {
            // Bound and let go at once.
            Ok(_) if address.port() == 0 => return Finding::fine(name, "any: the kernel chooses"),
            Ok(_) => return Finding::fine(name, format!("{address} is free")),
            Err(error) => failed = Some((address, error)),
        }
    }
    let Some((address, error)) = failed else {
        return Finding::error(
            name,
            format!("{endpoint} has no address"),
            format!("change {key}"),
        );
    };
    match error.kind() {
        ErrorKind::AddrInUse => {
            let holder = holder(address).map_or(String::new(), |who| format!(" by {who}"));
            Finding::error(
                name,
                format!("{address} is taken{holder}"),
                format!("stop it (is it a tailkeep? ask `tailkeep status`), or set {key} to another port"),
            )
        }
        ErrorKind::PermissionDenied => Finding::error(
            name,
            format!("{address}: {error}"),
            "ports below 1024 need CAP_NET_BIND_SERVICE; systemd: AmbientCapabilities=CAP_NET_BIND_SERVICE",
        ),
        ErrorKind::AddrNotAvailable => Finding::error(
            name,
            format!("{address} is no address of this host"),
            format!("set {key} to one that `ip address` shows, or to 0.0.0.0"),
        ),
        _ => Finding::error(name, format!("{address}: {error}"), format!("change {key}")),
    }
}

/// `otelcol (process 4711)`, as far as /proc shows it to this user.
fn holder(address: SocketAddr) -> Option<String> {
    let inode = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .find_map(|table| listening_inode(&table, address.port()))?;
    let socket = format!("socket:[{inode}]");
    for process in fs::read_dir("/proc").ok()?.flatten() {
        // `self` is there too.
        let id = process.file_name().to_string_lossy().parse::<u32>();
        let Ok(id) = id else {
            continue;
        };
        let Ok(files) = fs::read_dir(process.path().join("fd")) else {
            continue;
        };
        let holds =
            |file: fs::DirEntry| fs::read_link(file.path()).is_ok_and(|link| link.as_os_str() == &*socket);
        if files.flatten().any(holds) {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!("{} (process {})", show::plain(name.trim()), id));
        }
    }
    None
}

/// From a table of proc_net(5): the socket that listens on `port`.
///
/// ```text
///   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
///    0: 0100007F:10DD 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 12345 …
/// ```
fn listening_inode(table: &str, port: u16) -> Option<u64> {
    const LISTEN: &str = "0A";
    table.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let (_, hex) = fields.get(1)?.rsplit_once(':')?;
        let is_it = u16::from_str_radix(hex, 16) == Ok(port) && fields.get(3) == Some(&LISTEN);
        is_it.then(|| fields.get(9)?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    #[test]
    fn a_port_that_somebody_has_is_an_error_and_names_them() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let number = taken.local_addr().expect("bound").port();
        let endpoint = Endpoint::new("127.0.0.1", number);
        let finding = port("port", "some.key", &endpoint);
        assert_eq!(finding.level, Level::Error);
        let own = format!("(process {})", std::process::id());
        assert!(finding.found.contains(&own), "{}", finding.found);
        drop(taken);
        assert_eq!(port("port", "some.key", &endpoint).level, Level::Fine);
    }

    #[test]
    fn only_listening_sockets_hold_a_port() {
        let row = |state| format!("sl\n 0: 0100007F:10DD 00000000:0000 {state} 0:0 00:0 0 0 0 77 1 0\n");
        assert_eq!(listening_inode(&row("0A"), 0x10dd), Some(77));
        assert_eq!(listening_inode(&row("01"), 0x10dd), None);
        assert_eq!(listening_inode(&row("0A"), 0x10de), None);
    }
}
