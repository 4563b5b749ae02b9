//! Listening sockets that the cores of one process share, and no other process.
//!
//! Every core has a socket of its own on the same address (SO_REUSEPORT): the kernel spreads connections
//! over them. But SO_REUSEPORT alone would also let a second tailkeep of the same user take half of our
//! connections. So the address is first bound without it, which fails if anyone listens there.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

/// Connections that wait to be accepted; the kernel lowers it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// One socket per core, all on the same address, resolved if the port was 0.
///
/// Fails with `AddrInUse` when another process holds the port, even if it shares it too.
pub fn bind(address: SocketAddr, cores: usize) -> io::Result<Vec<TcpListener>> {
    let exclusive = socket(address)?;
    exclusive.bind(&address.into())?;
    exclusive.listen(1)?;
    let address = exclusive.local_addr()?.as_socket().unwrap_or(address);
    drop(exclusive);

    (0..cores)
        .map(|_| {
            let shared = socket(address)?;
            shared.set_reuse_port(true)?;
            shared.bind(&address.into())?;
            shared.listen(BACKLOG)?;
            Ok(shared.into())
        })
        .collect()
}

/// Listens anew on sockets of [`bind`] that were shut down: their address is theirs all the while.
pub fn listen_again(listener: &TcpListener) -> io::Result<()> {
    Ok(rustix::net::listen(listener, BACKLOG)?)
}

/// SO_REUSEADDR lets us bind while connections of an earlier process are in TIME_WAIT.
fn socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

    #[test]
    fn cores_share_one_port() {
        let listeners = bind(ANY, 3).expect("a free port");
        let addresses: Vec<_> = listeners
            .iter()
            .map(|one| one.local_addr().expect("bound"))
            .collect();
        assert_ne!(addresses[0].port(), 0);
        assert!(addresses.iter().all(|address| *address == addresses[0]));
    }

    #[test]
    fn a_socket_that_was_shut_down_listens_again() {
        let listeners = bind(ANY, 1).expect("a free port");
        let address = listeners[0].local_addr().expect("bound");
        rustix::net::shutdown(&listeners[0], rustix::net::Shutdown::Both).expect("it listened");
        assert!(std::net::TcpStream::connect(address).is_err());
        listen_again(&listeners[0]).expect("its address is its own");
        std::net::TcpStream::connect(address).expect("it listens");
    }

    #[test]
    fn a_port_that_someone_shares_is_still_taken() {
        let theirs = bind(ANY, 1).expect("a free port");
        let address = theirs[0].local_addr().expect("bound");
        assert_eq!(
            bind(address, 1).expect_err("taken").kind(),
            io::ErrorKind::AddrInUse
        );
        drop(theirs);
        bind(address, 1).expect("free again");
    }
}
