//! The connected sockets of a core, and one descriptor that says which of them can go on.
//!
//! ```text
//!  socket ─┐ edges
//!  socket ─┼──▶ epoll ──▶ glommio's poll of it ──▶ watch: takes the edges, wakes ──▶ tasks of connections
//!  socket ─┘                                         └── looks again after all tasks, until there is none
//! ```
//!
//! glommio's own streams submit a poll for each wait of each socket, and the completion of each interrupts the core
//! at its work: for a request of a few spans that costs more than the request. Here one poll stands for all sockets,
//! and while edges keep coming there is none.
//!
//! A socket is tried first and waited for only when it had nothing, or less than there was room for. An edge that
//! comes before its task waits is remembered ([`Way::open`]), so none is missed.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use glommio::io::PollableFd;
use glommio::net::TcpStream;
use glommio::{Task, TaskQueueHandle};
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown};

use crate::base::slab::{Key, Slab};

/// Edges taken at a time.
const EDGES_MAX: usize = 256;

/// After an error of the watch.
const REST: Duration = Duration::from_millis(10);

/// All sockets that wait together.
pub struct Epoll {
    set: Rc<Set>,
    _watch: Task<()>,
}

struct Set {
    instance: PollableFd<OwnedFd>,
    states: RefCell<Slab<State>>,
}

/// What is known of a socket since it was last tried.
struct State {
    reads: Way,
    writes: Way,
    /// A read that got less than it had room for says nothing: the peer sends no more or the connection broke, and no
    /// edge need come any more, or there was urgent data, at which reads stop.
    reads_stop_short: bool,
}

/// One of the two ways that bytes go.
struct Way {
    /// A try may move something.
    open: bool,
    waiter: Option<Waker>,
}

impl Way {
    const NEW: Way = Way {
        open: true,
        waiter: None,
    };

    fn open(&mut self) {
        self.open = true;
        self.waiter.take().inspect(Waker::wake_by_ref);
    }

    /// A try moved nothing, or would move nothing.
    fn wait<T>(&mut self, cx: &Context<'_>) -> Poll<T> {
        self.open = false;
        self.waiter = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl State {
    const NEW: State = State {
        reads: Way::NEW,
        writes: Way::NEW,
        reads_stop_short: false,
    };

    fn take_edge(&mut self, edge: EventFlags) {
        let broken = edge.intersects(EventFlags::HUP | EventFlags::ERR);
        self.reads_stop_short |= broken || edge.intersects(EventFlags::RDHUP | EventFlags::PRI);
        if self.reads_stop_short || edge.contains(EventFlags::IN) {
            self.reads.open();
        }
        if broken || edge.contains(EventFlags::OUT) {
            self.writes.open();
        }
    }
}

impl Set {
    fn take(&self, edges: impl Iterator<Item = Event>) {
        let mut states = self.states.borrow_mut();
        for edge in edges {
            // Without a state, its socket was closed behind the edge.
            if let Some(state) = Key::from_bits(edge.data.u64()).and_then(|key| states.get_mut(key)) {
                state.take_edge(edge.flags);
            }
        }
    }
}

impl Epoll {
    /// On the executor that owns the sockets; the watch runs in `queue`, as their tasks should.
    pub fn start(queue: TaskQueueHandle) -> io::Result<Rc<Epoll>> {
        let instance = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let set = Rc::new(Set {
            instance: PollableFd::new(instance)?,
            states: RefCell::default(),
        });
        let watch = glommio::spawn_local_into(watch(set.clone()), queue);
        Ok(Rc::new(Epoll {
            set,
            _watch: watch.expect("the queue exists"),
        }))
    }
}

/// Takes edges as long as there are some, each time behind the tasks that the last ones woke; then waits for more.
async fn watch(set: Rc<Set>) {
    let mut edges = Vec::with_capacity(EDGES_MAX);
    let now = rustix::event::Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    loop {
        let waited = epoll::wait(set.instance.get_ref(), spare_capacity(&mut edges), Some(&now));
        let result = match waited {
            Ok(_) if edges.is_empty() => set.instance.readable().await.map_err(io::Error::from),
            Ok(_) | Err(Errno::INTR) => {
                set.take(edges.drain(..));
                behind_others().await;
                Ok(())
            }
            Err(error) => Err(error.into()),
        };
        if let Err(error) = result {
            // The kernel lacks memory: nothing else is wrong with an instance of our own.
            tracing::warn!(%error, "cannot watch sockets, trying again");
            glommio::timer::sleep(REST).await;
        }
    }
}

/// Goes on after the tasks that are ready now.
async fn behind_others() {
    let mut yielded = false;
    std::future::poll_fn(|cx| match std::mem::replace(&mut yielded, true) {
        true => Poll::Ready(()),
        false => {
            cx.waker().wake_by_ref();
            Poll::Pending
        }
    })
    .await;
}

/// One connected socket.
pub struct Socket {
    fd: OwnedFd,
    key: Key,
    epoll: Rc<Epoll>,
}

impl Socket {
    /// # Errors
    /// The system's limits on epoll (`fs.epoll.max_user_watches`) and on memory.
    pub fn new(tcp: TcpStream, epoll: Rc<Epoll>) -> io::Result<Socket> {
        // SAFETY: glommio gives the descriptor away, open, and owned by nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(tcp.into_raw_fd()) };
        let key = epoll.set.states.borrow_mut().insert(State::NEW);
        let socket = Socket { fd, key, epoll };
        let edges = EventFlags::IN | EventFlags::OUT | EventFlags::PRI | EventFlags::RDHUP | EventFlags::ET;
        let instance = socket.epoll.set.instance.get_ref();
        epoll::add(instance, &socket.fd, EventData::new_u64(key.to_bits()), edges)?;
        Ok(socket)
    }

    fn with_state<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        let mut states = self.epoll.set.states.borrow_mut();
        act(states
            .get_mut(self.key)
            .expect("a socket has its state until it is dropped"))
    }

    /// One read; 0 bytes at the end of the stream.
    pub fn poll_read(&self, cx: &mut Context<'_>, out: &mut [MaybeUninit<u8>]) -> Poll<io::Result<usize>> {
        let wait = || self.with_state(|state| state.reads.wait(cx));
        if !self.with_state(|state| state.reads.open) {
            return wait();
        }
        let room = out.len();
        loop {
            match rustix::net::recv(&self.fd, &mut *out, RecvFlags::DONTWAIT) {
                Ok((_, count)) => {
                    if (1..room).contains(&count) {
                        // All that there was; more, or the end, makes an edge. An end that has made its edge does not.
                        self.with_state(|state| state.reads.open = state.reads_stop_short);
                    }
                    return Poll::Ready(Ok(count));
                }
                Err(Errno::AGAIN) => return wait(),
                Err(Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    /// One write of as much as the peer takes.
    pub fn poll_write(&self, cx: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let wait = || self.with_state(|state| state.writes.wait(cx));
        if !self.with_state(|state| state.writes.open) {
            return wait();
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        loop {
            let sent = match parts {
                [one] => rustix::net::send(&self.fd, one, flags),
                many => rustix::net::sendmsg(&self.fd, many, &mut Default::default(), flags),
            };
            match sent {
                Ok(count) => return Poll::Ready(Ok(count)),
                Err(Errno::AGAIN) => return wait(),
                Err(Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    /// Says to the peer that nothing more will be sent.
    pub fn close_write(&self) -> io::Result<()> {
        Ok(rustix::net::shutdown(&self.fd, Shutdown::Write)?)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Not in it, if adding it failed. Closing alone would leave it there while the descriptor has a double.
        let _ = epoll::delete(self.epoll.set.instance.get_ref(), &self.fd);
        self.epoll.set.states.borrow_mut().remove(self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream as StdTcpStream};

    use futures_util::future::{Either, select};
    use glommio::LocalExecutor;

    use super::*;

    /// A socket, and its peer.
    fn connected(epoll: &Rc<Epoll>) -> (Socket, StdTcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let peer = StdTcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
        let (accepted, _) = listener.accept().expect("connected");
        // SAFETY: the descriptor is open, a connected socket, and owned by nobody else.
        let tcp = unsafe { TcpStream::from_raw_fd(accepted.into_raw_fd()) };
        (Socket::new(tcp, epoll.clone()).expect("watched"), peer)
    }

    async fn read(socket: &Socket, room: usize) -> usize {
        let mut room = vec![MaybeUninit::uninit(); room];
        let read = poll_fn(|cx| socket.poll_read(cx, &mut room)).await;
        read.expect("an open socket")
    }

    /// Fails instead of waiting for ever.
    fn run(work: impl Future<Output = ()>) {
        LocalExecutor::default().run(async {
            let limit = glommio::timer::sleep(Duration::from_secs(20));
            match select(std::pin::pin!(work), std::pin::pin!(limit)).await {
                Either::Left(_) => {}
                Either::Right(_) => panic!("an edge was missed"),
            }
        });
    }

    #[test]
    fn what_comes_later_wakes_and_so_does_the_end() {
        run(async {
            let epoll = Epoll::start(TaskQueueHandle::default()).expect("a descriptor");
            for room in [1, 7, 1000] {
                let (socket, mut peer) = connected(&epoll);
                let late = Duration::from_millis(5);
                let writer = glommio::spawn_local(async move {
                    for piece in [10, 1, 300] {
                        glommio::timer::sleep(late).await;
                        peer.write_all(&vec![7; piece]).expect("room in the socket");
                    }
                    glommio::timer::sleep(late).await;
                });
                let mut total = 0;
                loop {
                    match read(&socket, room).await {
                        0 => break,
                        count => total += count,
                    }
                }
                writer.await;
                assert_eq!(total, 311, "{room} bytes at a time");
            }
        });
    }

    /// The edge of an end that came together with the last bytes may be taken before these are read, or after.
    #[test]
    fn the_end_is_seen_behind_a_short_read() {
        run(async {
            let epoll = Epoll::start(TaskQueueHandle::default()).expect("a descriptor");
            for taken_first in [false, true] {
                let (socket, mut peer) = connected(&epoll);
                peer.write_all(b"the end").expect("room in the socket");
                drop(peer);
                if taken_first {
                    glommio::timer::sleep(Duration::from_millis(20)).await;
                }
                assert_eq!(read(&socket, 100).await, 7);
                assert_eq!(read(&socket, 100).await, 0);
                assert_eq!(read(&socket, 100).await, 0);
            }
        });
    }

    /// A read stops before an urgent byte, though there are more behind it.
    #[test]
    fn what_lies_behind_urgent_data_is_read() {
        run(async {
            let epoll = Epoll::start(TaskQueueHandle::default()).expect("a descriptor");
            for taken_first in [false, true] {
                let (socket, mut peer) = connected(&epoll);
                peer.write_all(&[7; 60]).expect("room in the socket");
                let urgent = rustix::net::send(&peer, b"!", SendFlags::OOB);
                assert_eq!(urgent.expect("room in the socket"), 1);
                peer.write_all(&[7; 40]).expect("room in the socket");
                if taken_first {
                    glommio::timer::sleep(Duration::from_millis(20)).await;
                }
                let mut total = 0;
                while total < 100 {
                    total += read(&socket, 1000).await;
                }
                assert_eq!(total, 100);
            }
        });
    }

    #[test]
    fn a_full_socket_is_written_on_when_the_peer_reads() {
        run(async {
            let epoll = Epoll::start(TaskQueueHandle::default()).expect("a descriptor");
            let (socket, mut peer) = connected(&epoll);
            let bytes = vec![7; 64 << 20];
            #[allow(clippy::disallowed_methods, reason = "a peer that blocks")]
            let reader = std::thread::spawn(move || {
                let mut total = 0;
                let mut room = vec![0; 1 << 20];
                loop {
                    match peer.read(&mut room).expect("an open socket") {
                        0 => return total,
                        count => total += count,
                    }
                }
            });
            let mut rest = &bytes[..];
            let mut waits = 0;
            while !rest.is_empty() {
                let parts = [
                    IoSlice::new(&rest[..rest.len() / 2]),
                    IoSlice::new(&rest[rest.len() / 2..]),
                ];
                let written = poll_fn(|cx| {
                    let written = socket.poll_write(cx, &parts);
                    waits += usize::from(written.is_pending());
                    written
                });
                rest = &rest[written.await.expect("an open socket")..];
            }
            assert!(waits > 0, "the socket was never full");
            socket.close_write().expect("an open socket");
            drop(socket);
            assert_eq!(reader.join().expect("no panic"), bytes.len());
        });
    }

    #[test]
    fn a_socket_leaves_nothing_behind() {
        run(async {
            let epoll = Epoll::start(TaskQueueHandle::default()).expect("a descriptor");
            let (socket, mut peer) = connected(&epoll);
            peer.write_all(b"an edge").expect("room in the socket");
            drop(socket);
            let (other, _peer) = connected(&epoll);
            glommio::timer::sleep(Duration::from_millis(5)).await;
            assert_eq!(epoll.set.states.borrow().len(), 1);
            drop(other);
            assert!(epoll.set.states.borrow().is_empty());
        });
    }
}
