//! Addresses behind the names of `cluster.join`, looked up again and again: nodes come and go behind a name.

use super::Cluster;
use crate::config::options::Endpoint;
use crate::io::egress::addresses::Addresses;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

const LOOK_UP_PAUSE: Duration = Duration::from_secs(10);

pub(super) async fn look_up(cluster: Rc<Cluster>, join: Vec<Endpoint>) {
    let names: Vec<(&Endpoint, Addresses)> = join
        .iter()
        .map(|endpoint| (endpoint, Addresses::new(&endpoint.host, endpoint.port, 0)))
        .collect();
    // What a name meant last is asked until it means something else.
    let mut known: Vec<Vec<SocketAddr>> = vec![Vec::new(); names.len()];
    let mut failing = vec![false; names.len()];
    loop {
        for (index, (endpoint, addresses)) in names.iter().enumerate() {
            let resolved = addresses.resolve().await;
            let fails = resolved.is_err();
            match resolved {
                Ok(resolved) => known[index] = resolved,
                Err(error) if !failing[index] => {
                    tracing::warn!(%endpoint, %error, "cluster.join: no address behind this name; asking again");
                }
                Err(_) => {}
            }
            failing[index] = fails;
        }
        let mut seeds: Vec<SocketAddr> = known.iter().flatten().copied().collect();
        seeds.sort();
        seeds.dedup();
        // While no name has an address the node is not known to be alone.
        if !seeds.is_empty() || names.is_empty() {
            let now = cluster.clock.now();
            cluster.gossip.borrow_mut().handle_seeds(now, seeds);
            cluster.work();
        }
        glommio::timer::sleep(LOOK_UP_PAUSE).await;
    }
}
