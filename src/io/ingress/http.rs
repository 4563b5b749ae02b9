//! OTLP/HTTP over HTTP/1.1: one task per connection around hyper, whose timer is not used.
//!
//! ```text
//!        ┌────────────────────────── kept alive ───────────────────────┐
//!        ▼                                                             │
//!  Head ───► Body ───► Handler ───► Reply ───► Idle ── first byte ──► Head
//!
//!  each stage has its end; whoever is late there is answered (Body, Handler) or closed (the others)
//! ```

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;

use super::Ingress;
use crate::io::connections::{Deadline, Ending};
use crate::io::stream::{Meter, Stream};
use crate::io::whole::Whole;

mod call; // one request
mod head; // what it asks for

use call::{Call, Gone};

/// Header fields of one request.
const HEADERS_MAX: usize = 64;

/// hyper's read buffer grows up to this; a body comes in pieces of at most as much.
const READ_BUFFER_MAX: usize = 128 << 10;

/// What the connection's task and its one call share.
struct Connection {
    ingress: Rc<Ingress>,
    meter: Rc<Meter>,
    stage: Cell<Stage>,
    /// The end of the stage.
    life: Deadline,
    /// False once a call could not read its request to the end.
    keep_alive: Cell<bool>,
    /// The meter when the reply was handed to hyper.
    mark: Cell<Mark>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// A head has begun, or the connection is new.
    Head,
    Body,
    Handler,
    Reply,
    Idle,
}

#[derive(Clone, Copy, Default)]
struct Mark {
    flushes: u64,
    read_bytes: u64,
    written_bytes: u64,
}

type Http1 = http1::Connection<Stream, Service>;

struct Service(Rc<Connection>);

impl hyper::service::Service<Request<Incoming>> for Service {
    type Response = Response<Whole>;
    type Error = Gone;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Whole>, Gone>>>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        self.0.enter(Stage::Body, self.0.ingress.options.time.body);
        Box::pin(Call::serve(self.0.clone(), request))
    }
}

/// Serves one accepted connection until its end.
pub async fn serve(ingress: Rc<Ingress>, stream: Stream) {
    let connection = Rc::new(Connection {
        meter: stream.meter(),
        stage: Cell::new(Stage::Head),
        life: ingress.connections.deadline(),
        keep_alive: Cell::new(true),
        mark: Cell::default(),
        ingress,
    });
    connection.life.set(connection.ingress.options.time.first);
    let mut http1 = builder(&connection.ingress).serve_connection(stream, Service(connection.clone()));
    let age = connection.ingress.connections.deadline();
    let mut leaving = false;
    let alive = poll_fn(|cx| connection.poll(cx, &mut http1, &age, &mut leaving)).await;
    if alive {
        let stream = http1.into_parts().io;
        connection.linger(stream).await;
    }
}

fn builder(ingress: &Ingress) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .half_close(true)
        .header_read_timeout(None)
        .max_headers(HEADERS_MAX)
        .max_header_size(ingress.options.header_list_max as usize)
        .max_buf_size(READ_BUFFER_MAX.max(ingress.options.header_list_max as usize));
    builder
}

impl Connection {
    fn enter(&self, stage: Stage, limit: Duration) {
        self.stage.set(stage);
        match stage {
            Stage::Idle => self.life.set_idle(limit),
            Stage::Head | Stage::Body | Stage::Handler => self.life.set(limit),
            Stage::Reply => {
                self.life.set(limit);
                self.mark.set(Mark::of(&self.meter));
            }
        }
    }

    /// Ready when hyper is done, with whether the peer may still be there to read what was written.
    fn poll(
        &self,
        cx: &mut Context<'_>,
        http1: &mut Http1,
        age: &Deadline,
        leaving: &mut bool,
    ) -> Poll<bool> {
        self.meter.begin_turn();
        let ending = self.ingress.connections.ending();
        if ending == Ending::Now || self.is_late(cx) {
            return Poll::Ready(false);
        }
        if !*leaving && (ending == Ending::Leave || age.poll(cx).is_ready()) {
            *leaving = true;
            Pin::new(&mut *http1).graceful_shutdown();
        }
        if http1.poll_without_shutdown(cx).is_ready() {
            return Poll::Ready(true);
        }
        self.note_progress();
        Poll::Pending
    }

    /// Late in a stage that nobody can be answered in.
    fn is_late(&self, cx: &mut Context<'_>) -> bool {
        let passed = self.life.poll(cx).is_ready();
        match self.stage.get() {
            Stage::Head | Stage::Idle | Stage::Reply => passed,
            Stage::Body | Stage::Handler => false,
        }
    }

    /// Finds out from the meter what hyper does not tell: that a reply went out, that a head begins.
    fn note_progress(&self) {
        let (mark, now) = (self.mark.get(), Mark::of(&self.meter));
        let time = &self.ingress.options.time;
        match self.stage.get() {
            Stage::Reply if now.flushes > mark.flushes && now.written_bytes > mark.written_bytes => {
                self.enter(Stage::Idle, time.idle);
            }
            Stage::Idle if now.read_bytes > mark.read_bytes => self.enter(Stage::Head, time.head),
            Stage::Head | Stage::Body | Stage::Handler | Stage::Reply | Stage::Idle => {}
        }
    }

    /// Closes so that the peer sees the last response: nothing more is written, and what it still sends
    /// is read and thrown away, or else the kernel would answer it by a reset that overtakes the response.
    async fn linger(&self, mut stream: Stream) {
        let options = &self.ingress.options;
        self.enter(Stage::Reply, options.time.drain);
        let (mut left, mut closed) = (options.drain_max, false);
        poll_fn(|cx| {
            self.meter.begin_turn();
            if self.ingress.connections.ending() == Ending::Now || self.life.poll(cx).is_ready() {
                return Poll::Ready(());
            }
            if !closed {
                closed = true;
                if stream.close_write().is_err() {
                    return Poll::Ready(());
                }
            }
            while let Poll::Ready(read) = stream.poll_discard(cx) {
                match read {
                    Ok(count @ 1..) if count <= left => left -= count,
                    Ok(_) | Err(_) => return Poll::Ready(()),
                }
            }
            Poll::Pending
        })
        .await;
    }
}

impl Mark {
    fn of(meter: &Meter) -> Mark {
        Mark {
            flushes: meter.flushes(),
            read_bytes: meter.read_bytes(),
            written_bytes: meter.written_bytes(),
        }
    }
}
