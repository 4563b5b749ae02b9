//! The socket of a cluster: UDP and TCP on one port, datagrams many at a time.

use super::Cluster;
use crate::gossip::datagram::DATAGRAM_BYTES_MAX;
use crate::gossip::machine::Transmit;
use rustix::net::{RecvFlags, SendFlags};
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{FromRawFd, IntoRawFd};
use std::rc::Rc;

/// For what comes while the executor does something else: two milliseconds of a fast link.
const BUFFER_BYTES: usize = 4 << 20;
/// Datagrams read before others have their turn.
const BATCH_COUNT: usize = 64;
/// Room for one byte more than the longest, to see that it is longer.
const READ_BYTES: usize = DATAGRAM_BYTES_MAX + 1;
/// Ports tried for one that is free over both protocols, if any will do.
const ANY_TRIES: usize = 16;

/// Bound before executors start, so that errors are the operator's to read.
pub struct Sockets {
    pub udp: UdpSocket,
    pub tcp: TcpListener,
    pub address: SocketAddr,
}

/// Both protocols on one port.
pub fn bind(address: SocketAddr) -> io::Result<Sockets> {
    let mut tries = if address.port() == 0 { ANY_TRIES } else { 1 };
    loop {
        tries -= 1;
        let tcp = super::super::ingress::listener::bind(address, 1)?.remove(0);
        let address = tcp.local_addr()?;
        match bind_udp(address) {
            Ok(udp) => return Ok(Sockets { udp, tcp, address }),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries > 0 => {}
            Err(error) => return Err(error),
        }
    }
}

fn bind_udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    // The kernel gives what net.core.rmem_max allows.
    socket.set_recv_buffer_size(BUFFER_BYTES)?;
    socket.set_send_buffer_size(BUFFER_BYTES)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// The address under which this host is seen on the way to `peer`. Nothing is sent.
pub fn address_towards(peer: SocketAddr) -> io::Result<SocketAddr> {
    let any: SocketAddr = match peer {
        SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        SocketAddr::V6(_) => ([0u16; 8], 0).into(),
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(peer)?;
    socket.local_addr()
}

/// One end sends and looks, the other one waits.
pub(super) struct Udp {
    socket: UdpSocket,
    waiting: Option<glommio::net::UdpSocket>,
}

impl Udp {
    pub fn new(socket: UdpSocket) -> Udp {
        let waiting = socket.try_clone().ok().map(|socket| {
            // SAFETY: the descriptor is open, a UDP socket, and owned by nobody else.
            unsafe { glommio::net::UdpSocket::from_raw_fd(socket.into_raw_fd()) }
        });
        Udp { socket, waiting }
    }

    /// What the socket has no room for, or what has no way, is lost as datagrams are: it is repaired.
    pub fn send(&self, transmit: &Transmit) {
        let _ = rustix::net::sendto(&self.socket, &transmit.bytes, SendFlags::DONTWAIT, &transmit.to);
    }
}

/// Reads as long as the node lives.
pub(super) async fn receive(cluster: Rc<Cluster>) {
    let Some(waiting) = &cluster.udp.waiting else {
        tracing::error!("no descriptor left for the cluster's socket");
        return;
    };
    let mut buffer = [0; READ_BYTES];
    loop {
        match waiting.recv_from(&mut buffer).await {
            Ok((len, _)) => {
                let now = cluster.clock.now();
                cluster.gossip.borrow_mut().handle_datagram(now, &buffer[..len]);
                receive_waiting(&cluster);
                cluster.work();
                glommio::yield_if_needed().await;
            }
            // Of an earlier send (nobody listens there), or of a moment.
            Err(_) => glommio::timer::sleep(std::time::Duration::from_millis(1)).await,
        }
    }
}

/// Reads what is there already.
pub(super) fn receive_waiting(cluster: &Cluster) {
    let mut buffer = [0; READ_BYTES];
    for _ in 0..BATCH_COUNT {
        let received = rustix::net::recvfrom(&cluster.udp.socket, &mut buffer[..], RecvFlags::DONTWAIT);
        let Ok((len, ..)) = received else {
            return;
        };
        let now = cluster.clock.now();
        cluster.gossip.borrow_mut().handle_datagram(now, &buffer[..len]);
    }
}
