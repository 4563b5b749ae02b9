//! Frames over TCP: one request, one response, each behind its length.
//!
//! ```text
//!  length (4, little-endian) · sealed frame
//! ```
//!
//! Who sends something else is not answered.

use super::Cluster;
use crate::gossip::machine::{FRAME_BYTES_MAX, Served, SyncCall};
use futures_util::future::{Either, select};
use futures_util::io::{AsyncReadExt, AsyncWriteExt};
use glommio::net::{TcpListener, TcpStream};
use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{FromRawFd, IntoRawFd};
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

/// Connections that others may have open here.
const CONNECTION_COUNT_MAX: usize = 64;
/// Of one request, from connecting to its response.
const CALL_TIME_MAX: Duration = Duration::from_secs(5);
/// Of one connection.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(10);
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// Answers others as long as the node lives.
pub(super) async fn serve(cluster: Rc<Cluster>, listener: std::net::TcpListener) {
    // SAFETY: the descriptor is open, a listening socket, and owned by nobody else.
    let listener = unsafe { TcpListener::from_raw_fd(listener.into_raw_fd()) };
    let open = Rc::new(Cell::new(0));
    loop {
        match listener.accept().await {
            Ok(stream) if open.get() < CONNECTION_COUNT_MAX => {
                open.set(open.get() + 1);
                let (serving, open) = (cluster.clone(), open.clone());
                cluster.spawn(async move {
                    let _ = within(CONNECTION_TIME_MAX, answer(serving, stream)).await;
                    open.set(open.get() - 1);
                });
            }
            // Closed: whoever it is comes again.
            Ok(_) => {}
            Err(_) => glommio::timer::sleep(ACCEPT_REST).await,
        }
    }
}

async fn answer(cluster: Rc<Cluster>, mut stream: TcpStream) -> io::Result<()> {
    loop {
        let frame = read_frame(&mut stream).await?;
        let served = cluster.gossip.borrow_mut().serve(&frame);
        let response = match served {
            Some(Served::Response(response)) => response,
            Some(Served::Question(question)) => {
                let Some(answer) = cluster.answer(question.content.clone()).await else {
                    return Ok(());
                };
                cluster.gossip.borrow_mut().answer(&question, answer)
            }
            None => return Ok(()),
        };
        write_frame(&mut stream, &response).await?;
    }
}

/// Asks another node, and hands over what it says.
pub(super) async fn call(cluster: Rc<Cluster>, call: SyncCall) {
    let response = within(CALL_TIME_MAX, ask(call.to, &call.frame)).await;
    let response = response.and_then(Result::ok);
    let now = cluster.clock.now();
    cluster
        .gossip
        .borrow_mut()
        .handle_sync_reply(now, call.id, response.as_deref());
    cluster.work();
}

pub(super) async fn ask(to: SocketAddr, frame: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(to).await?;
    write_frame(&mut stream, frame).await?;
    read_frame(&mut stream).await
}

async fn read_frame(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).await?;
    let length = u32::from_le_bytes(length) as usize;
    if length > FRAME_BYTES_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    // Grows as bytes come, so that a length alone takes no memory.
    let mut frame = Vec::new();
    let mut taken = stream.take(length as u64);
    taken.read_to_end(&mut frame).await?;
    match frame.len() == length {
        true => Ok(frame),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

async fn write_frame(stream: &mut TcpStream, frame: &[u8]) -> io::Result<()> {
    let length = (frame.len() as u32).to_le_bytes();
    stream.write_all(&[&length[..], frame].concat()).await?;
    stream.flush().await
}

/// The timer is a task of its own, because a glommio timer that is polled twice is registered twice.
pub(super) async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    let timer = glommio::spawn_local(glommio::timer::sleep(limit));
    match select(pin!(work), timer).await {
        Either::Left((done, _)) => Some(done),
        Either::Right(_) => None,
    }
}
