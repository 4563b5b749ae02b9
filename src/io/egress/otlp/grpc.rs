//! A gRPC connection as a client: h2 on a glommio stream, one call at a time.

use super::{
    Broken, Keepalive, OtlpOptions, REPLY_BYTES_MAX, USER_AGENT, inflate_reply, reply_too_large, within,
};
use crate::export::retry::{Arrival, Cause, Failure};
use crate::io::inflate::Coding;
use crate::io::stream::Stream;
use crate::otlp::grpc::{Deframe, DeframeError, decode_binary, decode_message};
use crate::otlp::reply::{Explanation, read_response, read_status, shown};
use crate::otlp::status::Code;
use bytes::Bytes;
use futures_util::future::FutureExt;
use glommio::Task;
use h2::client::SendRequest;
use h2::{Ping, PingPong, RecvStream};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, header, uri};
use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;

const EXPORT_TRACES: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
/// Of a reply's headers and trailers.
const HEADER_LIST_BYTES_MAX: u32 = 64 << 10;

/// One connection. Closed when dropped.
pub struct Client {
    send: SendRequest<Bytes>,
    state: Rc<State>,
    _driver: Task<()>,
    _pinger: Option<Task<()>>,
}

#[derive(Default)]
struct State {
    closed: Cell<bool>,
    calling: Cell<bool>,
}

impl Client {
    pub async fn open(stream: Stream, keepalive: Option<Keepalive>) -> Result<Client, Failure> {
        let meter = stream.meter();
        let mut builder = h2::client::Builder::new();
        builder
            .enable_push(false)
            .max_header_list_size(HEADER_LIST_BYTES_MAX)
            .initial_max_send_streams(1);
        let (send, mut connection) = builder
            .handshake::<_, Bytes>(stream)
            .await
            .map_err(|error| disconnected(&error))?;
        let state = Rc::<State>::default();
        let pinger = keepalive
            .zip(connection.ping_pong())
            .map(|(keepalive, ping_pong)| glommio::spawn_local(ping(keepalive, ping_pong, state.clone())));
        let closes = state.clone();
        let driver = glommio::spawn_local(async move {
            let end = poll_fn(|cx| {
                // A peer that does not answer pings: the end of this future closes the socket.
                if closes.closed.get() {
                    return std::task::Poll::Ready(Ok(()));
                }
                meter.begin_turn();
                connection.poll_unpin(cx)
            });
            // Whoever has a call on it is told by the call.
            let _ = end.await;
            closes.closed.set(true);
        });
        Ok(Client {
            send,
            state,
            _driver: driver,
            _pinger: pinger,
        })
    }

    pub fn is_open(&self) -> bool {
        !self.state.closed.get()
    }

    /// Sends `message`, which has its prefix.
    pub(super) async fn export(&mut self, options: &OtlpOptions, message: Bytes) -> Result<Arrival, Broken> {
        let ready = self.send.clone().ready().await;
        let mut send = ready.map_err(|error| {
            self.state.closed.set(true);
            Broken::Unsent(disconnected(&error))
        })?;
        self.state.calling.set(true);
        let result = self.call(options, message, &mut send).await;
        self.state.calling.set(false);
        result.map_err(Broken::Failed)
    }

    async fn call(
        &self,
        options: &OtlpOptions,
        message: Bytes,
        send: &mut SendRequest<Bytes>,
    ) -> Result<Arrival, Failure> {
        let failed = |error: h2::Error| {
            if error.is_go_away() || error.is_io() {
                self.state.closed.set(true);
            }
            disconnected(&error)
        };
        let (response, mut stream) = send.send_request(request(options), false).map_err(failed)?;
        stream.send_data(message, true).map_err(failed)?;
        let (head, mut body) = response.await.map_err(failed)?.into_parts();
        let head = Response::from_parts(head, ());
        if head.headers().contains_key("grpc-status") {
            return outcome(head.headers(), &[]);
        }
        if head.status() != StatusCode::OK {
            let code = code_of(head.status());
            let message = format!("HTTP status {} instead of a gRPC reply", head.status());
            return Err(Failure::new(Cause::Grpc(code), message));
        }
        let message = reply_message(&head, &mut body, failed).await?;
        match body.trailers().await.map_err(failed)? {
            Some(trailers) => outcome(&trailers, &message),
            None => Err(Failure::new(
                Cause::Grpc(Code::Internal),
                "the reply has no grpc-status",
            )),
        }
    }
}

fn request(options: &OtlpOptions) -> Request<()> {
    let mut authority = options.host.clone();
    if authority.contains(':') {
        authority = format!("[{authority}]");
    }
    let uri = Uri::builder()
        .scheme(uri::Scheme::HTTP)
        .authority(format!("{authority}:{}", options.port))
        .path_and_query(EXPORT_TRACES)
        .build()
        .expect("config lets only names and addresses through");
    let mut request = Request::new(());
    *request.method_mut() = http::Method::POST;
    *request.uri_mut() = uri;
    let headers = request.headers_mut();
    headers.extend(options.headers.clone());
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
    if let Some(coding) = options.compression.coding() {
        headers.insert("grpc-encoding", HeaderValue::from_static(coding));
    }
    headers.insert(
        "grpc-accept-encoding",
        HeaderValue::from_static("identity,gzip,zstd"),
    );
    // At most 8 digits; config allows no timeout beyond a day.
    let timeout = format!("{}m", options.timeout.as_millis().clamp(1, 99_999_999));
    headers.insert(
        "grpc-timeout",
        HeaderValue::from_str(&timeout).expect("digits and a letter"),
    );
    request
}

/// The reply's message, inflated.
async fn reply_message(
    head: &Response<()>,
    body: &mut RecvStream,
    failed: impl Fn(h2::Error) -> Failure,
) -> Result<Vec<u8>, Failure> {
    let (mut deframe, mut wire) = (Deframe::default(), Vec::new());
    let mut readable = true;
    while let Some(chunk) = body.data().await {
        let chunk = chunk.map_err(&failed)?;
        // Fails only when the stream is gone, which the next poll says.
        let _ = body.flow_control().release_capacity(chunk.len());
        match deframe.take(&chunk, REPLY_BYTES_MAX) {
            Ok(part) if readable => wire.extend_from_slice(part),
            Err(DeframeError::TooLarge { .. }) => return Err(reply_too_large()),
            // The status in the trailers counts, not what cannot be read before it.
            Ok(_) | Err(_) => readable = false,
        }
    }
    let coding = head.headers().get("grpc-encoding").map(HeaderValue::as_bytes);
    let coding = coding
        .and_then(|name| std::str::from_utf8(name).ok())
        .map_or(Some(Coding::Identity), Coding::from_name);
    match (deframe.finish(), coding) {
        (Ok(false), _) if readable => Ok(wire),
        (Ok(true), Some(coding)) if readable => inflate_reply(coding, wire),
        _ => Ok(Vec::new()),
    }
}

/// What status and message say together.
fn outcome(trailers: &HeaderMap, message: &[u8]) -> Result<Arrival, Failure> {
    let number = trailers
        .get("grpc-status")
        .and_then(|value| value.to_str().ok()?.parse().ok());
    let code = number.and_then(Code::from_number).unwrap_or(Code::Unknown);
    if code == Code::Ok {
        let partial = read_response(message);
        return Ok(Arrival {
            wire_bytes: 0,
            rejected: partial.rejected,
            message: partial.message,
        });
    }
    let mut explanation = Explanation::default();
    let details = trailers.get("grpc-status-details-bin");
    if let Some(details) = details.and_then(|header| decode_binary(header.as_bytes())) {
        explanation = read_status(&details);
    }
    if let Some(header) = trailers.get("grpc-message") {
        explanation.message = shown(decode_message(header.as_bytes()).as_bytes());
    }
    Err(Failure {
        cause: Cause::Grpc(code),
        message: explanation.message,
        asked_wait: explanation.retry_delay,
    })
}

/// gRPC's mapping of HTTP statuses ("HTTP to gRPC Status Code Mapping").
fn code_of(status: StatusCode) -> Code {
    match status.as_u16() {
        400 => Code::Internal,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::Unimplemented,
        429 | 502 | 503 | 504 => Code::Unavailable,
        _ => Code::Unknown,
    }
}

/// A stream that was reset has no reply either: the request is sent again (OTLP/gRPC leaves resets open, and a
/// proxy resets when the server behind it goes).
fn disconnected(error: &h2::Error) -> Failure {
    Failure::new(Cause::Disconnect, error.to_string())
}

/// Pings until the peer does not answer in time, which ends the connection.
async fn ping(keepalive: Keepalive, mut ping_pong: PingPong, state: Rc<State>) {
    loop {
        glommio::timer::sleep(keepalive.time).await;
        if !keepalive.permit_without_stream && !state.calling.get() {
            continue;
        }
        let answered = within(keepalive.timeout, ping_pong.ping(Ping::opaque())).await;
        if !matches!(answered, Some(Ok(_))) {
            state.closed.set(true);
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::otlp::grpc::encode_binary;
    use crate::otlp::status::Status;
    use std::time::Duration;

    fn trailers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pairs = pairs.iter().map(|(name, value)| {
            let name = http::HeaderName::from_static(name);
            (name, HeaderValue::from_str(value).expect("a value"))
        });
        pairs.collect()
    }

    #[test]
    fn retry_info_is_found_among_the_details() {
        let mut details = Vec::new();
        Status {
            code: Code::ResourceExhausted,
            message: "slow down",
            retry_delay: Some(Duration::from_millis(1500)),
        }
        .push_protobuf(&mut details);
        let trailers = trailers(&[
            ("grpc-status", "8"),
            ("grpc-message", "slow%20down"),
            ("grpc-status-details-bin", &encode_binary(&details)),
        ]);
        let failure = outcome(&trailers, &[]).expect_err("a failure");
        assert_eq!(failure.asked_wait, Some(Duration::from_millis(1500)));
        assert_eq!(
            (failure.message.as_str(), failure.is_retryable()),
            ("slow down", true)
        );
    }

    #[test]
    fn a_status_that_is_none_is_not_retried() {
        for status in ["17", "-1", "", "ok"] {
            let failure = outcome(&trailers(&[("grpc-status", status)]), &[]).expect_err("a failure");
            assert_eq!(failure.cause, Cause::Grpc(Code::Unknown), "{status}");
        }
    }
}
