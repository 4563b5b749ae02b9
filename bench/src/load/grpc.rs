//! OTLP over gRPC: one HTTP/2 connection with several calls at once.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;

use ::http::{HeaderMap, Method, Request, Version};
use bytes::{Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::batch::PREFIX_LEN;
use super::cork::cork;
use super::schedule::Pacer;
use super::{Outcome, Run};

/// What Go's client sends, whatever larger frames the server allows.
const DATA_FRAME_BYTES: usize = 16 << 10;

/// Requests of `in_flight` lanes until the run is over, or why the connection was lost.
pub async fn drive(
    run: Rc<Run>,
    stream: TcpStream,
    authority: String,
    in_flight: usize,
) -> Result<(), String> {
    let (socket, pusher) = cork(stream);
    let handshake = h2::client::Builder::new()
        .max_send_buffer_size(u32::MAX as usize)
        .enable_push(false)
        .handshake::<_, Bytes>(socket);
    let (sender, mut connection) = handshake.await.map_err(|error| error.to_string())?;
    let driver = tokio::task::spawn_local(poll_fn(move |cx| {
        let done = Pin::new(&mut connection).poll(cx);
        pusher.push();
        done
    }));
    let head = Request::builder()
        .method(Method::POST)
        .version(Version::HTTP_2)
        .uri(format!(
            "http://{authority}/opentelemetry.proto.collector.trace.v1.TraceService/Export"
        ))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "tailkeep-bench")
        .body(())
        .map_err(|error| error.to_string())?;

    let mut lanes = JoinSet::new();
    for _ in 0..in_flight {
        lanes.spawn_local(lane(run.clone(), sender.clone(), head.clone()));
    }
    drop(sender);
    let mut result = Ok(());
    while let Some(lane) = lanes.join_next().await {
        result = result.and(lane.map_err(|error| error.to_string()).and_then(|lane| lane));
    }
    driver.abort();
    result
}

async fn lane(run: Rc<Run>, sender: SendRequest<Bytes>, head: Request<()>) -> Result<(), String> {
    let pacer = Pacer::new().map_err(|error| error.to_string())?;
    while let Some(turn) = run.turn(&pacer).await {
        // Waits while the server allows no further stream; a late request's latency holds that wait.
        let mut sender = sender.clone().ready().await.map_err(|error| error.to_string())?;
        let parcel = run.checkout();
        let call = begin(&mut sender, &head, parcel.framed());
        let reply = match call {
            Ok(response) => read_reply(response).await,
            Err(error) => Err(error),
        };
        let outcome = *reply.as_ref().unwrap_or(&Outcome::Failed);
        run.settle(parcel, turn, outcome).await;
        if let Err(error) = reply
            && !error.is_reset()
        {
            return Err(error.to_string());
        }
    }
    Ok(())
}

/// Hands head and body to h2, which sends them as flow control allows.
fn begin(
    sender: &mut SendRequest<Bytes>,
    head: &Request<()>,
    body: &Bytes,
) -> Result<ResponseFuture, h2::Error> {
    let (response, mut stream) = sender.send_request(head.clone(), false)?;
    let mut rest = body.clone();
    while rest.len() > DATA_FRAME_BYTES {
        stream.send_data(rest.split_to(DATA_FRAME_BYTES), false)?;
    }
    stream.send_data(rest, true)?;
    Ok(response)
}

async fn read_reply(response: ResponseFuture) -> Result<Outcome, h2::Error> {
    let (head, mut body) = response.await?.into_parts();
    let mut message = BytesMut::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        message.extend_from_slice(&chunk);
    }
    // Without a message the status comes with the head ("trailers-only").
    let trailers = body.trailers().await?.unwrap_or(head.headers);
    Ok(outcome(&trailers, message.get(PREFIX_LEN..).unwrap_or_default()))
}

fn outcome(trailers: &HeaderMap, message: &[u8]) -> Outcome {
    const OK: &[u8] = b"0";
    const RESOURCE_EXHAUSTED: &[u8] = b"8";
    const UNAVAILABLE: &[u8] = b"14";
    match trailers.get("grpc-status").map(|status| status.as_bytes()) {
        Some(OK) => super::http::acked(message),
        Some(RESOURCE_EXHAUSTED | UNAVAILABLE) => Outcome::Refused,
        _ => Outcome::Failed,
    }
}
