//! gRPC over HTTP/2: one task per connection, which runs h2 and all calls of the connection.
//!
//! The loop that accepts calls never waits for anything but the socket: h2's bounds on resets (rapid
//! reset, CVE-2023-44487) hold only then. Calls are futures of the same task, so that a call costs no
//! task and ends with its connection.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};
use h2::server::{Builder, Connection};
use h2::{Ping, PingPong, Reason};

use super::{Ingress, Options};
use crate::base::time::Instant;
use crate::io::connections::{Deadline, Ending};
use crate::io::stream::{Meter, Stream};

mod call; // one call
mod head; // what it asks for

use call::Call;

/// Streams that a peer may make us reset by errors of its own before we close (CVE-2025-8671).
const LOCAL_RESETS_MAX: usize = 100;

/// A gRPC connection after its preface.
struct Http2 {
    ingress: Rc<Ingress>,
    meter: Rc<Meter>,
    connection: Connection<Stream, Bytes>,
    calls: FuturesUnordered<Pin<Box<dyn Future<Output = ()>>>>,
    /// Without a call: until we part. While leaving: until we close.
    idle: Deadline,
    /// Once we have said GOAWAY: when we close at the latest.
    leave_by: Option<Instant>,
    /// We are leaving and no call is left.
    parting: bool,
    /// Until the peer must have taken some of what we write.
    write: Deadline,
    written_bytes: u64,
    age: Deadline,
    keepalive: Keepalive,
}

struct Keepalive {
    deadline: Deadline,
    ping_pong: Option<PingPong>,
    read_bytes: u64,
    waits_for_pong: bool,
}

/// Serves one accepted connection until its end.
pub async fn serve(ingress: Rc<Ingress>, stream: Stream, number: u64) {
    let meter = stream.meter();
    let first = ingress.connections.deadline();
    first.set(ingress.options.time.first);
    let mut handshake = std::pin::pin!(builder(&ingress.options).handshake::<_, Bytes>(stream));
    let handshake = poll_fn(|cx| {
        meter.begin_turn();
        if first.poll(cx).is_ready() || ingress.connections.ending() == Ending::Now {
            return Poll::Ready(None);
        }
        handshake.as_mut().poll(cx).map(Result::ok)
    });
    let Some(mut connection) = handshake.await else {
        return;
    };
    drop(first);

    let time = &ingress.options.time;
    let keepalive = Keepalive {
        deadline: ingress.connections.deadline(),
        ping_pong: connection.ping_pong(),
        read_bytes: 0,
        waits_for_pong: false,
    };
    keepalive.deadline.set(time.keepalive);
    let age = ingress.connections.deadline();
    if let Some(age_max) = time.age_max {
        age.set(spread(age_max, number));
    }
    let idle = ingress.connections.deadline();
    idle.set_idle(time.idle);
    let mut http2 = Http2 {
        meter,
        connection,
        calls: FuturesUnordered::new(),
        idle,
        leave_by: None,
        parting: false,
        write: ingress.connections.deadline(),
        written_bytes: 0,
        age,
        keepalive,
        ingress,
    };
    poll_fn(|cx| http2.poll(cx)).await;
}

fn builder(options: &Options) -> Builder {
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(options.stream_window)
        .initial_connection_window_size(options.connection_window)
        .max_frame_size(options.frame_max)
        .max_header_list_size(options.header_list_max)
        .max_concurrent_streams(options.streams_max)
        .max_local_error_reset_streams(Some(LOCAL_RESETS_MAX));
    builder
}

impl Http2 {
    /// Ready when the connection is over.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.meter.begin_turn();
        if self.is_overdue(cx) {
            return self.close(cx);
        }
        loop {
            if self.poll_accept(cx).is_ready() {
                return Poll::Ready(());
            }
            // A call that ended left a reply to be written: once more through h2.
            if !matches!(self.calls.poll_next_unpin(cx), Poll::Ready(Some(()))) {
                break;
            }
            while let Poll::Ready(Some(())) = self.calls.poll_next_unpin(cx) {}
        }
        self.set_deadlines();
        Poll::Pending
    }

    /// Drives h2 and takes what calls there are; ready when the connection is closed.
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match self.connection.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    let call = Call::serve(self.ingress.clone(), self.meter.clone(), request, respond);
                    self.calls.push(Box::pin(call));
                }
                Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Whether the connection must be closed now. Also where it begins to leave.
    fn is_overdue(&mut self, cx: &mut Context<'_>) -> bool {
        let ending = self.ingress.connections.ending();
        let idle = self.idle.poll(cx).is_ready();
        let leaving = self.leave_by.is_some();
        if ending == Ending::Now || leaving && idle || self.write.poll(cx).is_ready() {
            return true;
        }
        if !leaving && (idle || ending == Ending::Leave || self.age.poll(cx).is_ready()) {
            self.connection.graceful_shutdown();
            self.age.clear();
            let leave_by = self.ingress.clock.instant().plus(self.ingress.options.time.grace);
            self.leave_by = Some(leave_by);
            self.idle.set_at(leave_by);
            // The first poll says ready no more: register for the new deadline.
            let _ = self.idle.poll(cx);
        }
        self.keepalive.is_dead(cx, &self.meter, &self.ingress.options)
    }

    /// Says GOAWAY, as far as the socket takes it at once (OTLP G14), and is over.
    fn close(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.calls.clear();
        self.connection.abrupt_shutdown(Reason::NO_ERROR);
        let _ = self.connection.poll_closed(cx);
        Poll::Ready(())
    }

    fn set_deadlines(&mut self) {
        let time = &self.ingress.options.time;
        match self.leave_by {
            // The peer has yet to say that it read GOAWAY: not worth the whole grace.
            Some(leave_by) if self.calls.is_empty() && !self.parting => {
                self.parting = true;
                self.idle
                    .set_at(leave_by.min(self.ingress.clock.instant().plus(time.drain)));
            }
            Some(leave_by) if !self.calls.is_empty() && self.parting => {
                self.parting = false;
                self.idle.set_at(leave_by);
            }
            Some(_) => {}
            None if !self.calls.is_empty() => self.idle.clear(),
            None if !self.idle.is_set() => self.idle.set_idle(time.idle),
            None => {}
        }
        if !self.meter.is_write_blocked() {
            self.write.clear();
        } else if !self.write.is_set() || self.written_bytes != self.meter.written_bytes() {
            self.written_bytes = self.meter.written_bytes();
            self.write.set(time.reply);
        }
    }
}

impl Keepalive {
    /// Pings a peer that has been silent; whether it has not answered in time.
    fn is_dead(&mut self, cx: &mut Context<'_>, meter: &Meter, options: &Options) -> bool {
        let Some(ping_pong) = &mut self.ping_pong else {
            return false;
        };
        if self.waits_for_pong && ping_pong.poll_pong(cx).is_ready() {
            self.waits_for_pong = false;
            self.deadline.set(options.time.keepalive);
        }
        if self.deadline.poll(cx).is_pending() {
            return false;
        }
        let silent = self.read_bytes == meter.read_bytes();
        self.read_bytes = meter.read_bytes();
        if !silent {
            self.waits_for_pong = false;
            self.deadline.set(options.time.keepalive);
        } else if self.waits_for_pong {
            return true;
        } else {
            // Fails only while an earlier ping is under way, whose answer is as good.
            let _ = ping_pong.send_ping(Ping::opaque());
            self.waits_for_pong = true;
            self.deadline.set(options.time.keepalive_timeout);
        }
        let _ = self.deadline.poll(cx);
        let _ = ping_pong.poll_pong(cx);
        false
    }
}

/// `age` ± 10 %, different from connection to connection, so that they do not all leave at once.
fn spread(age: Duration, number: u64) -> Duration {
    // Weyl's sequence of the golden ratio: evenly spread without randomness.
    let fraction = (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as f64 / f64::from(u32::MAX);
    age.mul_f64(0.9 + 0.2 * fraction)
}
