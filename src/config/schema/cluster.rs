//! `cluster`: whether there are other nodes, how they are found, and what keeps strangers out.

use crate::config::options::{ClusterOptions, Endpoint};
use crate::config::reader::{Section, Value};
use crate::gossip::SpansArrive;
use std::net::IpAddr;
use std::path::PathBuf;

/// Addresses asked at a join; a DNS name stands for all behind it.
const JOIN_COUNT_MAX: usize = 256;

/// `None`: the section is absent, one node.
pub fn cluster(root: &mut Section<'_>) -> Option<ClusterOptions> {
    let value = root.value("cluster").filter(|value| !value.is_null())?;
    let mut section = value.section();
    let default = ClusterOptions::default();
    let key_file = |value: &Value<'_>| Some(Some(value.text()?).filter(|path| !path.is_empty()));
    let spans_arrive = |value: &Value<'_>| match value.word(&["anywhere", "by_trace_id"])? {
        "by_trace_id" => Some(SpansArrive::ByTraceId),
        _ => Some(SpansArrive::Anywhere),
    };
    let insecure = section.read("insecure", Value::boolean, default.insecure);
    let key_file = section.read("key_file", key_file, None).map(PathBuf::from);
    let is_open = key_file.is_none() && !insecure;
    let listen = |value: &Value<'_>| {
        let endpoint = value.endpoint()?;
        match is_open && !is_loopback(&endpoint.host) {
            true => value.error(
                "is not a loopback address, and there is no key: anybody there could join",
                "set cluster.key_file (`openssl rand -hex 32 > FILE; chmod 600 FILE`), or cluster.insecure: true on a \
                 trusted network",
            ),
            false => Some(endpoint),
        }
    };
    let options = ClusterOptions {
        name: section.read("name", name, default.name),
        listen: section.read("listen", listen, default.listen),
        advertise: section.read("advertise", |value| value.auto(reachable), default.advertise),
        join: section.read("join", join, default.join),
        key_file,
        insecure,
        spans_arrive: section.read("spans_arrive", spans_arrive, default.spans_arrive),
    };
    section.finish();
    Some(options)
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// It is authenticated with every datagram.
fn name(value: &Value<'_>) -> Option<String> {
    let name = value.name()?;
    if name.len() > 255 || name.chars().any(char::is_control) {
        return value.error("must be at most 255 bytes and without control characters", "");
    }
    Some(name)
}

fn join(value: &Value<'_>) -> Option<Vec<Endpoint>> {
    let seeds = value.list()?;
    if seeds.len() > JOIN_COUNT_MAX {
        return value.error(
            "names more than 256 addresses",
            "a few members are enough to find all",
        );
    }
    let seeds: Vec<Option<Endpoint>> = seeds.iter().map(seed).collect();
    seeds.into_iter().collect()
}

fn seed(value: &Value<'_>) -> Option<Endpoint> {
    let endpoint = value.endpoint()?;
    match endpoint.port {
        0 => value.error(
            "port 0 is nobody's",
            "name the port of that node's cluster.listen",
        ),
        _ => Some(endpoint),
    }
}

/// Where others are to send to.
fn reachable(value: &Value<'_>) -> Option<Endpoint> {
    let endpoint = value.endpoint()?;
    match endpoint.host.parse::<IpAddr>() {
        Ok(ip) if ip.is_unspecified() => value.error(
            "is no address that others could send to",
            "`auto`, or this host's address",
        ),
        _ => Some(endpoint),
    }
}
