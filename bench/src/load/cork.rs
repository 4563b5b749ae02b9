//! A socket for h2 that lets small writes grow into full segments.
//!
//! h2 writes each 16 KiB DATA frame by itself. Frames of that size are wanted, because Go clients send
//! them; one TCP push each is not, since the generator would pay for it and Go writes several at a time.
//! So every write says that more follows (`MSG_MORE`), and the connection's driver pushes what is left
//! when h2 has nothing more to write.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use rustix::net::{SendAncillaryBuffer, SendFlags};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

/// What h2 reads and writes.
pub struct Corked {
    shared: Rc<Shared>,
}

/// The driver's end.
pub struct Pusher {
    shared: Rc<Shared>,
}

struct Shared {
    stream: TcpStream,
    /// The kernel may hold a part of a segment back.
    held: Cell<bool>,
}

pub fn cork(stream: TcpStream) -> (Corked, Pusher) {
    let shared = Rc::new(Shared {
        stream,
        held: Cell::new(false),
    });
    (
        Corked {
            shared: shared.clone(),
        },
        Pusher { shared },
    )
}

impl Pusher {
    /// Sends what the kernel holds back. Setting TCP_NODELAY does so even where it is already set
    /// (tcp(7)); a socket that refuses it is broken, which the next write tells.
    pub fn push(&self) {
        if self.shared.held.replace(false) {
            let _ = self.shared.stream.set_nodelay(true);
        }
    }
}

impl AsyncRead for Corked {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.shared.stream.poll_read_ready(cx))?;
            match self.shared.stream.try_read(buffer.initialize_unfilled()) {
                Ok(count) => {
                    buffer.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Corked {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let shared = &self.shared;
        loop {
            ready!(shared.stream.poll_write_ready(cx))?;
            let written = shared.stream.try_io(Interest::WRITABLE, || {
                let flags = SendFlags::MORE | SendFlags::NOSIGNAL;
                let mut control = SendAncillaryBuffer::default();
                Ok(rustix::net::sendmsg(&shared.stream, slices, &mut control, flags)?)
            });
            match written {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => {
                    shared.held.set(true);
                    return Poll::Ready(written);
                }
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Nothing: h2 flushes after each frame. [`Pusher::push`] is the flush.
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(rustix::net::shutdown(
            &self.shared.stream,
            rustix::net::Shutdown::Write,
        )?))
    }
}
