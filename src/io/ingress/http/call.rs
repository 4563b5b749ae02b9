//! One HTTP request, from its head to its response.
//!
//! The stages are those of a gRPC call. What differs: the connection has one request at a time, so its
//! deadline and stage are the connection's, and a body that is not read to its end costs the connection.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body::Body as _;
use hyper::body::Incoming;

use super::head::{Encoding, Head};
use super::{Connection, Stage};
use crate::base::time::Instant;
use crate::io::ingress::bodies::Body;
use crate::io::ingress::exchange::{Pace, too_large};
use crate::io::ingress::reply::{Failure, response_json, response_protobuf};
use crate::io::ingress::ticket::Durable;
use crate::io::ingress::{Code, Partial, Replied, Transport};
use crate::io::whole::Whole;

/// The connection broke while the request arrived: nobody to answer.
#[derive(Debug, thiserror::Error)]
#[error("the request broke off")]
pub struct Gone;

pub struct Call {
    connection: Rc<Connection>,
    wire_bytes: u64,
    body_bytes: u64,
    /// When the request was whole.
    ended: Option<Instant>,
}

/// Why there is no success.
enum Stop {
    /// With a status of its own if the code's would not do.
    Failed(Failure, Option<StatusCode>),
    Gone,
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Stop {
        Stop::Failed(failure, None)
    }
}

impl Call {
    pub async fn serve(
        connection: Rc<Connection>,
        request: Request<Incoming>,
    ) -> Result<Response<Whole>, Gone> {
        let (parts, mut incoming) = request.into_parts();
        let encoding = Encoding::of(&parts.headers);
        let mut call = Call {
            connection,
            wire_bytes: 0,
            body_bytes: 0,
            ended: None,
        };
        let (counted, end) = match Head::new(&parts) {
            Ok(head) => (true, call.export(&head, &mut incoming).await),
            Err(refusal) => (
                refusal.counted,
                Err(Stop::Failed(refusal.failure, Some(refusal.status))),
            ),
        };
        if let Err(Stop::Failed(..)) = end {
            // A client that asked first (Expect) sends nothing unless told to, and reading would tell it.
            let asked = parts.headers.contains_key(header::EXPECT) && call.wire_bytes == 0;
            if !incoming.is_end_stream() && (asked || !call.drain(&mut incoming).await?) {
                call.connection.keep_alive.set(false);
            }
        }
        call.respond(counted, encoding, end)
    }

    async fn export(&mut self, head: &Head, incoming: &mut Incoming) -> Result<Option<Partial>, Stop> {
        let (ingress, meter) = (self.connection.ingress.clone(), self.connection.meter.clone());
        let length_max = ingress.options.http_body_max;
        let mut body = self.receive(incoming, length_max).await?;
        self.ended = Some(ingress.clock.instant());
        // An empty body is an empty request, whatever its coding (OTLP S02).
        if let Some(inflate) = head.coding.inflate().filter(|_| !body.is_empty()) {
            body = ingress.inflate(&meter, inflate, &body, length_max).await?;
        }
        self.body_bytes = body.len() as u64;
        if head.encoding == Encoding::Json {
            body = ingress.transcode(&meter, &body)?;
        }
        let (durable, partial) = ingress.submit(&meter, Transport::Http, &body).await?;
        // Its room is for the next body: what waits from here on is in the log's account.
        drop(body);
        self.wait_for(durable).await?;
        Ok(partial)
    }

    async fn receive(&mut self, incoming: &mut Incoming, length_max: usize) -> Result<Body, Stop> {
        let time = &self.connection.ingress.options.time;
        let announced = incoming
            .size_hint()
            .exact()
            .map(|length| usize::try_from(length).unwrap_or(usize::MAX));
        if announced.is_some_and(|announced| announced > length_max) {
            return Err(too_large(length_max).into());
        }
        let mut body = self.connection.ingress.bodies.body();
        let mut pace = Pace::default();
        self.connection.enter(Stage::Body, time.body);
        while let Some(chunk) = self.next_chunk(incoming).await? {
            if pace.add(chunk.len(), &self.connection.ingress) {
                self.connection.enter(Stage::Body, time.body);
            }
            self.wire_bytes += chunk.len() as u64;
            if body.len() + chunk.len() > length_max {
                return Err(too_large(length_max).into());
            }
            body.push(&chunk, announced)
                .map_err(|_| self.connection.ingress.no_room())?;
        }
        Ok(body)
    }

    async fn next_chunk(&self, incoming: &mut Incoming) -> Result<Option<Bytes>, Stop> {
        poll_fn(|cx| {
            loop {
                match Pin::new(&mut *incoming).poll_frame(cx) {
                    Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                        Ok(chunk) => return Poll::Ready(Ok(Some(chunk))),
                        Err(_trailers) => {}
                    },
                    Poll::Ready(Some(Err(_))) => return Poll::Ready(Err(Stop::Gone)),
                    Poll::Ready(None) => return Poll::Ready(Ok(None)),
                    Poll::Pending => {
                        let stalled = || self.connection.ingress.body_stalled().into();
                        return self.connection.life.poll(cx).map(|()| Err(stalled()));
                    }
                }
            }
        })
        .await
    }

    /// Reads what the client still sends, so that it gets to reading the response; whether it is at its
    /// end.
    async fn drain(&mut self, incoming: &mut Incoming) -> Result<bool, Gone> {
        let options = &self.connection.ingress.options;
        let mut left = options.drain_max;
        if incoming.size_hint().lower() > left as u64 {
            return Ok(false);
        }
        self.connection.enter(Stage::Body, options.time.drain);
        loop {
            match self.next_chunk(incoming).await {
                Ok(Some(chunk)) if chunk.len() <= left => left -= chunk.len(),
                Ok(None) => return Ok(true),
                Ok(Some(_)) | Err(Stop::Failed(..)) => return Ok(false),
                Err(Stop::Gone) => return Err(Gone),
            }
        }
    }

    async fn wait_for(&self, mut durable: Durable) -> Result<(), Stop> {
        let ingress = &self.connection.ingress;
        self.connection
            .enter(Stage::Handler, ingress.options.time.handler);
        poll_fn(|cx| {
            if let Poll::Ready(answer) = Pin::new(&mut durable).poll(cx) {
                return Poll::Ready(answer.map_err(|_| ingress.not_durable().into()));
            }
            self.connection
                .life
                .poll(cx)
                .map(|()| Err(ingress.handler_timed_out().into()))
        })
        .await
    }

    fn respond(
        &self,
        counted: bool,
        encoding: Option<Encoding>,
        end: Result<Option<Partial>, Stop>,
    ) -> Result<Response<Whole>, Gone> {
        // Whoever sent neither of our encodings can at least read text.
        let encoding = encoding.unwrap_or(Encoding::Json);
        let (status, code, retry_after, body) = match end {
            Ok(partial) => {
                let body = match encoding {
                    Encoding::Protobuf => response_protobuf(partial.as_ref()),
                    Encoding::Json => response_json(partial.as_ref()),
                };
                (StatusCode::OK, Code::Ok, None, body)
            }
            Err(Stop::Failed(failure, status)) => {
                let body = match encoding {
                    Encoding::Protobuf => failure.to_protobuf(),
                    Encoding::Json => failure.to_json(),
                };
                (
                    status.unwrap_or(status_of(failure.code)),
                    failure.code,
                    failure.retry_after,
                    body,
                )
            }
            Err(Stop::Gone) => {
                self.count(counted, Code::Cancelled, StatusCode::BAD_REQUEST);
                return Err(Gone);
            }
        };
        self.count(counted, code, status);

        let mut response = Response::new(Whole::new(Bytes::from(body)));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        let mut set = |name: HeaderName, value: &'static str| {
            headers.insert(name, HeaderValue::from_static(value));
        };
        set(header::CONTENT_TYPE, encoding.content_type());
        if status == StatusCode::METHOD_NOT_ALLOWED {
            set(header::ALLOW, "POST");
        }
        if status == StatusCode::UNSUPPORTED_MEDIA_TYPE {
            set(header::ACCEPT_ENCODING, "gzip, zstd");
        }
        if !self.connection.keep_alive.get() {
            set(header::CONNECTION, "close");
        }
        if let Some(retry_after) = retry_after {
            // Whole seconds, and never «at once».
            let seconds = retry_after.as_millis().div_ceil(1000).max(1);
            headers.insert(
                header::RETRY_AFTER,
                HeaderValue::from(u64::try_from(seconds).unwrap_or(u64::MAX)),
            );
        }
        self.connection
            .enter(Stage::Reply, self.connection.ingress.options.time.reply);
        Ok(response)
    }

    fn count(&self, counted: bool, code: Code, status: StatusCode) {
        if counted {
            let ingress = &self.connection.ingress;
            let now = ingress.clock.instant();
            ingress.service.replied(&Replied {
                transport: Transport::Http,
                code,
                http_status: status.as_u16(),
                wire_bytes: self.wire_bytes,
                body_bytes: self.body_bytes,
                elapsed: self.ended.map_or(Duration::ZERO, |ended| now.since(ended)),
            });
        }
    }
}

/// OTLP's failures on HTTP: H04, H07, H08.
fn status_of(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        Code::InvalidArgument => StatusCode::BAD_REQUEST,
        Code::DeadlineExceeded => StatusCode::REQUEST_TIMEOUT,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::ResourceExhausted => StatusCode::PAYLOAD_TOO_LARGE,
        Code::Unimplemented => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Cancelled | Code::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        // What we never say; by google.rpc's own mapping.
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::FailedPrecondition | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::Unknown | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
