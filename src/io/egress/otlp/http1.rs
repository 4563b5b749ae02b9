//! An HTTP/1.1 connection as a client: hyper on a glommio stream.

use super::{Broken, OtlpOptions, Protocol, REPLY_BYTES_MAX, USER_AGENT, inflate_reply, reply_too_large};
use crate::base::time::WallTime;
use crate::export::retry::{Arrival, Cause, Failure};
use crate::io::clock::Clock;
use crate::io::inflate::Coding;
use crate::io::stream::Stream;
use crate::io::whole::Whole;
use crate::otlp::reply::{read_response, read_status, shown};
use bytes::Bytes;
use futures_util::future::FutureExt;
use glommio::Task;
use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use std::future::poll_fn;
use std::pin::Pin;
use std::time::{Duration, UNIX_EPOCH};

const PROTOBUF: &str = "application/x-protobuf";

/// One connection. Closed when dropped.
pub struct Client {
    send: SendRequest<Whole>,
    _driver: Task<()>,
}

impl Client {
    pub async fn open(stream: Stream) -> Result<Client, Failure> {
        let meter = stream.meter();
        let opened = hyper::client::conn::http1::handshake(stream).await;
        let (send, mut connection) = opened.map_err(|error| disconnected(&error))?;
        let driver = glommio::spawn_local(async move {
            // Whoever has a request on it is told by the request.
            let _ = poll_fn(|cx| {
                meter.begin_turn();
                connection.poll_unpin(cx)
            })
            .await;
        });
        Ok(Client {
            send,
            _driver: driver,
        })
    }

    pub fn is_open(&self) -> bool {
        !self.send.is_closed()
    }

    pub(super) async fn export(
        &mut self,
        options: &OtlpOptions,
        body: Bytes,
        clock: &Clock,
    ) -> Result<Arrival, Broken> {
        let ready = self.send.ready().await;
        ready.map_err(|error| Broken::Unsent(disconnected(&error)))?;
        let sent = self.send.send_request(request(options, body)).await;
        let response = sent.map_err(|error| match error.is_canceled() {
            true => Broken::Unsent(disconnected(&error)),
            false => Broken::Failed(disconnected(&error)),
        })?;
        outcome(response, clock).await.map_err(Broken::Failed)
    }
}

fn request(options: &OtlpOptions, body: Bytes) -> Request<Whole> {
    let path = match &options.protocol {
        Protocol::Http { path } => path.as_str(),
        Protocol::Grpc { .. } => "/",
    };
    let mut request = Request::new(Whole::new(body));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = path.parse().expect("config has parsed it");
    let host = match options.host.contains(':') {
        true => format!("[{}]:{}", options.host, options.port),
        false => format!("{}:{}", options.host, options.port),
    };
    let headers = request.headers_mut();
    headers.insert(
        header::HOST,
        HeaderValue::from_str(&host).expect("config lets only names and addresses through"),
    );
    headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
    headers.extend(options.headers.clone());
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROTOBUF));
    if let Some(coding) = options.compression.coding() {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(coding));
    }
    request
}

async fn outcome(response: Response<Incoming>, clock: &Clock) -> Result<Arrival, Failure> {
    let (head, body) = response.into_parts();
    let wire = read(body).await?;
    let coding =
        text(&head.headers, header::CONTENT_ENCODING).map_or(Some(Coding::Identity), Coding::from_name);
    let body = match coding {
        Some(coding) => inflate_reply(coding, wire)?,
        None => Vec::new(),
    };
    let is_protobuf =
        text(&head.headers, header::CONTENT_TYPE).is_some_and(|name| name.starts_with(PROTOBUF));
    if head.status.is_success() {
        // Whatever else a destination answers, it has taken the request.
        let partial = if is_protobuf {
            read_response(&body)
        } else {
            Default::default()
        };
        return Ok(Arrival {
            wire_bytes: 0,
            rejected: partial.rejected,
            message: partial.message,
        });
    }
    let message = match is_protobuf {
        true => read_status(&body).message,
        false => shown(&body),
    };
    let message = match message.trim() {
        "" => head
            .status
            .canonical_reason()
            .unwrap_or("no reason given")
            .to_owned(),
        message => message.to_owned(),
    };
    Err(Failure {
        cause: Cause::Http(head.status.as_u16()),
        message,
        asked_wait: text(&head.headers, header::RETRY_AFTER)
            .and_then(|value| retry_after(value, clock.now().wall)),
    })
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

/// Seconds, or a date (RFC 9110 10.2.3).
fn retry_after(value: &str, now: WallTime) -> Option<Duration> {
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    let now = UNIX_EPOCH + Duration::from_nanos(now.0);
    Some(date.duration_since(now).unwrap_or_default())
}

async fn read(mut body: Incoming) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    loop {
        let frame = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
        let Some(frame) = frame else { return Ok(bytes) };
        let frame = frame.map_err(|error| disconnected(&error))?;
        let Some(chunk) = frame.data_ref() else { continue };
        if bytes.len() + chunk.len() > REPLY_BYTES_MAX {
            return Err(reply_too_large());
        }
        bytes.extend_from_slice(chunk);
    }
}

fn disconnected(error: &hyper::Error) -> Failure {
    let reason = std::error::Error::source(error).map(|source| format!(": {source}"));
    Failure::new(
        Cause::Disconnect,
        format!("{error}{}", reason.unwrap_or_default()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        // Sun, 06 Nov 1994 08:49:37 GMT.
        let now = WallTime(784_111_777 * 1_000_000_000);
        let check = |value, expected: Option<u64>| {
            assert_eq!(
                retry_after(value, now),
                expected.map(Duration::from_secs),
                "{value}"
            );
        };
        check("120", Some(120));
        check("0", Some(0));
        check("Sun, 06 Nov 1994 08:50:37 GMT", Some(60));
        check("Sun, 06 Nov 1994 08:00:00 GMT", Some(0));
        check("99999999999999999999999", Some(u64::MAX));
        for nonsense in ["", "-1", "1.5", "soon"] {
            check(nonsense, None);
        }
    }
}
