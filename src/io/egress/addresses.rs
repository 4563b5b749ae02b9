//! The addresses behind a destination's name, tried in turn.
//!
//! A name is resolved whenever a connection is to be made, so that a change is seen with the next one. The
//! system's resolver blocks, for half a minute if it must: it runs on a thread of its own, of which a sink has
//! one at most. An answer that came too late for one attempt serves the next.

use crate::base::time::Instant;
use futures_channel::oneshot;
use std::cell::{Cell, RefCell};
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

type Resolved = io::Result<Vec<SocketAddr>>;

/// A name and where among its addresses we are.
pub struct Addresses {
    host: String,
    port: u16,
    /// Which of the addresses is tried first: at random to begin with, so that cores and nodes spread over them.
    turn: Cell<usize>,
    asked: RefCell<Option<oneshot::Receiver<Resolved>>>,
}

impl Addresses {
    pub fn new(host: &str, port: u16, seed: u64) -> Addresses {
        Addresses {
            host: host.to_owned(),
            port,
            turn: Cell::new((seed >> 32) as usize),
            asked: RefCell::new(None),
        }
    }

    /// All addresses, the one whose turn it is first.
    pub async fn resolve(&self) -> Resolved {
        let mut addresses = match self.host.parse::<IpAddr>() {
            Ok(address) => vec![SocketAddr::new(address, self.port)],
            Err(_) => self.ask().await?,
        };
        if addresses.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
        }
        // Resolvers shuffle; a turn means something only in an order of ours.
        addresses.sort_unstable();
        addresses.dedup();
        let first = self.turn.get() % addresses.len();
        addresses.rotate_left(first);
        Ok(addresses)
    }

    /// The next connection begins with another address.
    pub fn move_on(&self) {
        self.turn.set(self.turn.get().wrapping_add(1));
    }

    async fn ask(&self) -> Resolved {
        let asked = self.asked.take();
        let receiver = match asked {
            Some(receiver) => receiver,
            None => self.start()?,
        };
        // Put back if this attempt runs out of time.
        let mut waiting = Waiting {
            home: &self.asked,
            receiver: Some(receiver),
        };
        let receiver = waiting.receiver.as_mut().expect("just put there");
        let resolved = receiver.await;
        waiting.receiver = None;
        resolved.unwrap_or_else(|_| Err(io::Error::other("the resolver gave up")))
    }

    #[allow(
        clippy::disallowed_methods,
        reason = "getaddrinfo blocks, and an executor must not"
    )]
    fn start(&self) -> io::Result<oneshot::Receiver<Resolved>> {
        let (sender, receiver) = oneshot::channel();
        let (host, port) = (self.host.clone(), self.port);
        let resolve = move || {
            let resolved = (host.as_str(), port).to_socket_addrs();
            // Fails if the process is about to end.
            let _ = sender.send(resolved.map(Iterator::collect));
        };
        std::thread::Builder::new()
            .name("tailkeep-resolve".to_owned())
            .spawn(resolve)?;
        Ok(receiver)
    }
}

struct Waiting<'a> {
    home: &'a RefCell<Option<oneshot::Receiver<Resolved>>>,
    receiver: Option<oneshot::Receiver<Resolved>>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        *self.home.borrow_mut() = self.receiver.take();
    }
}

/// How long a connection may lie unused before a new one is made: shorter than what balancers between us and the
/// destination usually allow, who close without a word.
pub fn is_stale(last_used: Instant, now: Instant) -> bool {
    const IDLE_MAX: std::time::Duration = std::time::Duration::from_secs(90);
    now.since(last_used) > IDLE_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_gets_its_turn() {
        let addresses = Addresses::new("127.0.0.1", 4317, 7 << 32);
        assert_eq!(addresses.turn.get(), 7);
        addresses.move_on();
        assert_eq!(addresses.turn.get(), 8);
        glommio::LocalExecutor::default().run(async move {
            let one = addresses.resolve().await.expect("an address needs no resolver");
            assert_eq!(one, [SocketAddr::from(([127, 0, 0, 1], 4317))]);
            let local = Addresses::new("localhost", 1, 0).resolve().await.expect("known");
            assert!(
                local.iter().all(|address| address.ip().is_loopback()),
                "{local:?}"
            );
            let nowhere = Addresses::new("name.invalid", 1, 0).resolve().await;
            assert!(nowhere.is_err());
        });
    }
}
