//! A TCP stream as h2 (tokio's I/O traits, no runtime) and hyper want it.
//!
//! Two things are added to the socket:
//!
//! - **Reads of 64 KiB.** h2 asks for as little as a frame; a shared pool lends a connection a buffer
//!   while it has unread bytes and takes it back when the socket runs dry, so that idle connections own
//!   none.
//! - **Turns.** Reads try a plain `recv` first, so a connection whose peer keeps up would
//!   never let go of the executor. A [`Meter`] counts the bytes of a turn; when they are spent the stream
//!   says `Pending` and wakes its own task, which runs again after the others.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use glommio::net::TcpStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::epoll::{Epoll, Socket};

/// Bytes of one read into a lent buffer. Larger ones gain nothing (design §13).
const READ_BYTES: usize = 64 << 10;

/// From this much room on, a read goes straight to the caller, who then holds it without a copy.
const DIRECT_BYTES: usize = 32 << 10;

/// Spare read buffers that a core keeps: connections in mid-read, not open connections, need them.
const SPARE_MAX: usize = 64;

/// The socket of one connection.
pub struct Stream {
    socket: Socket,
    lent: Option<Lent>,
    buffers: Rc<ReadBuffers>,
    meter: Rc<Meter>,
}

/// Unread bytes: `bytes[begin..end]`.
///
/// Invariant: `begin < end`.
struct Lent {
    bytes: Box<[MaybeUninit<u8>]>,
    begin: usize,
    end: usize,
}

/// Read buffers of one core, lent for as long as a connection has unread bytes in one.
#[derive(Default)]
pub struct ReadBuffers(RefCell<Vec<Box<[MaybeUninit<u8>]>>>);

/// What a connection's task sees of its stream, which h2 or hyper owns.
pub struct Meter {
    turn_max: usize,
    turn_spent: Cell<usize>,
    read_bytes: Cell<u64>,
    written_bytes: Cell<u64>,
    flushes: Cell<u64>,
    write_blocked: Cell<bool>,
}

impl ReadBuffers {
    pub fn spare_bytes(&self) -> usize {
        self.0.borrow().len() * READ_BYTES
    }

    fn lend(&self) -> Box<[MaybeUninit<u8>]> {
        let spare = self.0.borrow_mut().pop();
        spare.unwrap_or_else(|| Box::new_uninit_slice(READ_BYTES))
    }

    fn take_back(&self, buffer: Box<[MaybeUninit<u8>]>) {
        let mut spare = self.0.borrow_mut();
        if spare.len() < SPARE_MAX {
            spare.push(buffer);
        }
    }
}

impl Meter {
    fn new(turn_max: usize) -> Meter {
        Meter {
            turn_max,
            turn_spent: Cell::new(0),
            read_bytes: Cell::new(0),
            written_bytes: Cell::new(0),
            flushes: Cell::new(0),
            write_blocked: Cell::new(false),
        }
    }

    /// Called whenever the connection's task begins to run.
    pub fn begin_turn(&self) {
        self.turn_spent.set(0);
    }

    /// Counts work of `bytes` towards the turn, whether bytes were read, inflated or handed over.
    pub fn spend(&self, bytes: usize) {
        self.turn_spent.set(self.turn_spent.get().saturating_add(bytes));
    }

    pub fn turn_is_over(&self) -> bool {
        self.turn_spent.get() >= self.turn_max
    }

    /// Ready at once while the turn lasts; otherwise the task runs again after the others.
    pub fn poll_turn(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.turn_is_over() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    /// Bytes read from the socket since it was accepted.
    pub fn read_bytes(&self) -> u64 {
        self.read_bytes.get()
    }

    pub fn written_bytes(&self) -> u64 {
        self.written_bytes.get()
    }

    /// How often all that was to be written had been.
    pub fn flushes(&self) -> u64 {
        self.flushes.get()
    }

    /// Whether the peer takes no more at the moment.
    pub fn is_write_blocked(&self) -> bool {
        self.write_blocked.get()
    }
}

impl Stream {
    /// # Errors
    /// As [`Socket::new`].
    pub fn new(
        tcp: TcpStream,
        epoll: Rc<Epoll>,
        buffers: Rc<ReadBuffers>,
        turn_max: usize,
    ) -> io::Result<Stream> {
        Ok(Stream {
            socket: Socket::new(tcp, epoll)?,
            lent: None,
            buffers,
            meter: Rc::new(Meter::new(turn_max)),
        })
    }

    pub fn meter(&self) -> Rc<Meter> {
        self.meter.clone()
    }

    /// Says to the peer that nothing more will be sent, and goes on reading.
    pub fn close_write(&mut self) -> io::Result<()> {
        self.socket.close_write()
    }

    /// Reads on and throws away: the bytes read, 0 at the end of the stream.
    pub fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.lent.is_none() {
            ready!(self.poll_fill(cx))?;
        }
        let Some(lent) = self.lent.take() else {
            return Poll::Ready(Ok(0));
        };
        self.buffers.take_back(lent.bytes);
        Poll::Ready(Ok(lent.end - lent.begin))
    }

    /// One read into `out`, whose bytes may be uninitialised; how many were filled.
    fn poll_read_some(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut [MaybeUninit<u8>],
    ) -> Poll<io::Result<usize>> {
        if out.is_empty() {
            return Poll::Ready(Ok(0));
        }
        if self.lent.is_none() {
            if out.len() >= DIRECT_BYTES {
                ready!(self.meter.poll_turn(cx));
                let filled = ready!(self.socket.poll_read(cx, out))?;
                self.count_read(filled);
                return Poll::Ready(Ok(filled));
            }
            ready!(self.poll_fill(cx))?;
        }
        let Some(lent) = &mut self.lent else {
            return Poll::Ready(Ok(0));
        };
        let count = out.len().min(lent.end - lent.begin);
        out[..count].copy_from_slice(&lent.bytes[lent.begin..lent.begin + count]);
        lent.begin += count;
        if lent.begin == lent.end
            && let Some(lent) = self.lent.take()
        {
            self.buffers.take_back(lent.bytes);
        }
        Poll::Ready(Ok(count))
    }

    /// Borrows a buffer and fills it by one read; nothing is lent at the end of the stream.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.meter.poll_turn(cx));
        let mut bytes = self.buffers.lend();
        let read = self.socket.poll_read(cx, &mut bytes);
        match read {
            Poll::Ready(Ok(end @ 1..)) => {
                self.count_read(end);
                self.lent = Some(Lent { bytes, begin: 0, end });
                Poll::Ready(Ok(()))
            }
            other => {
                self.buffers.take_back(bytes);
                other.map_ok(|_| ())
            }
        }
    }

    fn count_read(&self, count: usize) {
        self.meter.spend(count);
        self.meter
            .read_bytes
            .set(self.meter.read_bytes.get() + count as u64);
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let sent = self.socket.poll_write(cx, parts);
        self.meter.write_blocked.set(sent.is_pending());
        if let Poll::Ready(Ok(count)) = sent {
            self.meter
                .written_bytes
                .set(self.meter.written_bytes.get() + count as u64);
        }
        sent
    }

    fn count_flush(&self) -> Poll<io::Result<()>> {
        self.meter.flushes.set(self.meter.flushes.get() + 1);
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        // SAFETY: nothing initialised is made uninitialised: the slice is only written to.
        let unfilled = unsafe { out.unfilled_mut() };
        let filled = ready!(self.get_mut().poll_read_some(cx, unfilled))?;
        // SAFETY: `poll_read_some` filled that many bytes from the start of the slice.
        unsafe { out.assume_init(filled) };
        out.advance(filled);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().poll_send(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll_send(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.count_flush()
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.get_mut().close_write())
    }
}

impl hyper::rt::Read for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut out: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        // SAFETY: nothing initialised is made uninitialised: the slice is only written to.
        let unfilled = unsafe { out.as_mut() };
        let filled = ready!(self.get_mut().poll_read_some(cx, unfilled))?;
        // SAFETY: `poll_read_some` filled that many bytes from the start of the slice.
        unsafe { out.advance(filled) };
        Poll::Ready(Ok(()))
    }
}

impl hyper::rt::Write for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().poll_send(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll_send(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.count_flush()
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.get_mut().close_write())
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io::Write;
    use std::os::fd::{FromRawFd, IntoRawFd};
    use std::task::Waker;

    use glommio::{LocalExecutor, TaskQueueHandle};

    use super::*;

    /// A stream whose socket had `count` unread bytes and is known to be readable (the first was read),
    /// and its peer.
    async fn filled(count: usize, turn_max: usize) -> (Stream, std::net::TcpStream) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let mut peer = std::net::TcpStream::connect(address).expect("it listens");
        let (accepted, _) = listener.accept().expect("connected");
        peer.write_all(&vec![7; count]).expect("room in the socket");
        // SAFETY: the descriptor is open, a connected socket, and owned by nobody else.
        let tcp = unsafe { TcpStream::from_raw_fd(accepted.into_raw_fd()) };
        let epoll = Epoll::start(TaskQueueHandle::default()).expect("a descriptor for it");
        let mut stream = Stream::new(tcp, epoll, Rc::default(), turn_max).expect("watched");
        let mut first = [MaybeUninit::uninit()];
        let read = poll_fn(|cx| stream.poll_read_some(cx, &mut first)).await;
        assert_eq!(read.expect("an open socket"), 1);
        (stream, peer)
    }

    /// Reads with this much room at a time until the stream says `Pending`; the bytes that came.
    fn read_until_pending(stream: &mut Stream, room: usize) -> usize {
        let mut room = vec![MaybeUninit::uninit(); room];
        let mut cx = Context::from_waker(Waker::noop());
        let mut count = 0;
        while let Poll::Ready(read) = stream.poll_read_some(&mut cx, &mut room) {
            count += read.expect("an open socket");
        }
        count
    }

    #[test]
    fn a_turn_ends_although_there_is_more_to_read() {
        LocalExecutor::default().run(async {
            for room in [100, 5_000, DIRECT_BYTES] {
                let (mut stream, _peer) = filled(200_000, 10_000).await;
                for _ in 0..2 {
                    let read = read_until_pending(&mut stream, room);
                    assert!((1..=READ_BYTES).contains(&read), "{read} bytes, {room} at a time");
                    assert_eq!(
                        read_until_pending(&mut stream, room),
                        0,
                        "not before its next turn"
                    );
                    stream.meter().begin_turn();
                }
            }
        });
    }

    #[test]
    fn a_buffer_is_lent_only_while_it_has_unread_bytes() {
        LocalExecutor::default().run(async {
            let (mut stream, _peer) = filled(1_000, 1 << 20).await;
            assert_eq!(
                (stream.lent.is_some(), stream.buffers.0.borrow().len()),
                (true, 0)
            );
            assert_eq!(read_until_pending(&mut stream, 100), 999);
            assert_eq!(
                (stream.lent.is_some(), stream.buffers.0.borrow().len()),
                (false, 1)
            );
        });
    }
}
