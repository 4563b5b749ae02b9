//! The gRPC side of the drain.

use std::cell::Cell;
use std::rc::Rc;

use ::http::{HeaderMap, HeaderValue, Response};
use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use h2::server::SendResponse;
use tokio::net::{TcpListener, TcpStream};

use super::{Event, Head};

/// Windows that never make a client wait.
const WINDOW_BYTES: u32 = 16 << 20;

/// `seen` gets each request's number and what there is of it: the message with its gRPC prefix, in pieces as
/// frames bring them. `before_reply` comes between the last of them and the reply.
pub async fn serve(
    listener: TcpListener,
    seen: impl Fn(u64, Event<'_>) + Clone + 'static,
    before_reply: impl AsyncFn() + Clone + 'static,
) {
    let requests = Rc::new(Cell::new(0));
    while let Ok((stream, _)) = listener.accept().await {
        tokio::task::spawn_local(connection(
            stream,
            requests.clone(),
            seen.clone(),
            before_reply.clone(),
        ));
    }
}

async fn connection(
    stream: TcpStream,
    requests: Rc<Cell<u64>>,
    seen: impl Fn(u64, Event<'_>) + Clone + 'static,
    before_reply: impl AsyncFn() + Clone + 'static,
) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut connection = h2::server::Builder::new()
        .initial_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .handshake::<_, Bytes>(stream)
        .await
        .ok()?;
    while let Some(request) = connection.accept().await {
        let (request, respond) = request.ok()?;
        let number = requests.replace(requests.get() + 1);
        let seen = seen.clone();
        let encoding = request.headers().get("grpc-encoding");
        seen(
            number,
            Event::Head(Head {
                path: request.uri().path(),
                is_gzip: encoding.is_some_and(|encoding| encoding == "gzip"),
            }),
        );
        let seen = move |event: Event<'_>| seen(number, event);
        tokio::task::spawn_local(call(request.into_body(), respond, seen, before_reply.clone()));
    }
    Some(())
}

async fn call(
    mut body: RecvStream,
    mut respond: SendResponse<Bytes>,
    seen: impl Fn(Event<'_>),
    before_reply: impl AsyncFn(),
) -> Option<()> {
    while let Some(chunk) = body.data().await {
        let chunk = chunk.ok()?;
        seen(Event::Piece(&chunk));
        body.flow_control().release_capacity(chunk.len()).ok()?;
    }
    seen(Event::End);
    before_reply().await;
    let mut head = Response::new(());
    head.headers_mut()
        .insert("content-type", HeaderValue::from_static("application/grpc"));
    let mut stream = respond.send_response(head, false).ok()?;
    // An empty message behind its prefix.
    stream.send_data(BytesMut::zeroed(5).freeze(), false).ok()?;
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    stream.send_trailers(trailers).ok()
}
