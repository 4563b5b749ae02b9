//! One gRPC call, from its header list to its trailers.
//!
//! ```text
//!  head ─► body ─► (inflate) ─► submit ─► wait for the ticket ─► reply     one Deadline, set anew by
//!    └───────┴── refused: drain what the client still sends ──────► reply  each stage, never beyond
//!    reset by the peer, at any stage: gone                                 the client's grpc-timeout
//! ```

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};

use super::head::{ACCEPTED_CODINGS, Head, Procedure, Refusal, TRACE_SERVICE};
use crate::base::time::Instant;
use crate::io::connections::Deadline;
use crate::io::inflate::Coding;
use crate::io::ingress::bodies::Body;
use crate::io::ingress::exchange::{Pace, too_large};
use crate::io::ingress::reply::{Failure, response_protobuf};
use crate::io::ingress::ticket::Durable;
use crate::io::ingress::{Code, Ingress, Replied, Transport};
use crate::io::stream::Meter;
use crate::otlp::grpc::{Deframe, DeframeError, PREFIX_BYTES, encode_binary, encode_message, prefix};

pub struct Call {
    ingress: Rc<Ingress>,
    meter: Rc<Meter>,
    deadline: Deadline,
    /// When the client gives up.
    until: Option<Instant>,
    request: RecvStream,
    respond: SendResponse<Bytes>,
    wire_bytes: u64,
    body_bytes: u64,
    /// When the request was whole.
    ended: Option<Instant>,
}

/// Why a call has no reply message.
enum Stop {
    Failed(Failure),
    /// The peer reset the stream or the connection is closed: nobody to answer.
    Gone,
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Stop {
        Stop::Failed(failure)
    }
}

impl Call {
    pub async fn serve(
        ingress: Rc<Ingress>,
        meter: Rc<Meter>,
        request: Request<RecvStream>,
        respond: SendResponse<Bytes>,
    ) {
        let (head, request) = request.into_parts();
        let deadline = ingress.connections.deadline();
        let mut call = Call {
            ingress,
            meter,
            deadline,
            until: None,
            request,
            respond,
            wire_bytes: 0,
            body_bytes: 0,
            ended: None,
        };
        match Head::new(&head) {
            Ok(head) => call.run(head).await,
            Err(Refusal::Http(status)) => {
                if call.drain(None).await.is_ok() {
                    call.send_status(status);
                }
            }
            Err(Refusal::Grpc { failure, counted }) => {
                let end = call.drain(None).await.and(Err(Stop::Failed(failure)));
                call.finish(counted.is_some(), end).await;
            }
        }
    }

    async fn run(&mut self, head: Head) {
        let now = self.ingress.clock.instant();
        self.until = head.timeout.map(|timeout| now.plus(timeout));
        let end = match head.procedure {
            Procedure::ExportTraces => self.export(head.coding).await,
            Procedure::CheckHealth => self.check_health(head.coding).await,
        };
        self.finish(head.procedure == Procedure::ExportTraces, end).await;
    }

    async fn export(&mut self, coding: Option<Coding>) -> Result<Vec<u8>, Stop> {
        let body = self.message(coding).await?;
        self.body_bytes = body.len() as u64;
        let ingress = self.ingress.clone();
        let (durable, partial) = ingress.submit(&self.meter, Transport::Grpc, &body).await?;
        // Its room is for the next body: what waits from here on is in the log's account.
        drop(body);
        self.wait_for(durable).await?;
        Ok(response_protobuf(partial.as_ref()))
    }

    /// `HealthCheckRequest { service = 1 }` → `HealthCheckResponse { status = 1 }`.
    async fn check_health(&mut self, coding: Option<Coding>) -> Result<Vec<u8>, Stop> {
        const SERVING: u8 = 1;
        const NOT_SERVING: u8 = 2;
        let body = self.message(coding).await?;
        let service = match &body[..] {
            [] => &[][..],
            [0x0a, length, name @ ..] if usize::from(*length) == name.len() => name,
            _ => return Err(Failure::new(Code::InvalidArgument, "malformed HealthCheckRequest").into()),
        };
        if !service.is_empty() && service != TRACE_SERVICE.as_bytes() {
            return Err(Failure::new(Code::NotFound, "unknown service").into());
        }
        Ok(vec![
            0x08,
            if self.ingress.service.ready() {
                SERVING
            } else {
                NOT_SERVING
            },
        ])
    }

    /// The one message of a unary request, inflated.
    async fn message(&mut self, coding: Option<Coding>) -> Result<Body, Stop> {
        let length_max = self.ingress.options.grpc_message_max;
        let mut deframe = Deframe::default();
        let end = self.receive(&mut deframe, length_max).await;
        let (wire, compressed) = match end {
            Ok(received) => received,
            Err(Stop::Failed(failure)) => {
                self.drain(deframe.announced()).await?;
                return Err(failure.into());
            }
            Err(Stop::Gone) => return Err(Stop::Gone),
        };
        self.ended = Some(self.ingress.clock.instant());
        match (compressed, coding.and_then(Coding::inflate)) {
            (false, _) => Ok(wire),
            (true, Some(inflate)) => {
                let ingress = self.ingress.clone();
                Ok(ingress.inflate(&self.meter, inflate, &wire, length_max).await?)
            }
            (true, None) => {
                let message = "the message is compressed but the call names no grpc-encoding";
                Err(Failure::new(Code::Internal, message).into())
            }
        }
    }

    async fn receive(&mut self, deframe: &mut Deframe, length_max: usize) -> Result<(Body, bool), Stop> {
        let mut body = self.ingress.bodies.body();
        let mut pace = Pace::default();
        self.set_deadline(self.ingress.options.time.body);
        while let Some(chunk) = self.next_chunk().await? {
            if pace.add(chunk.len(), &self.ingress) {
                self.set_deadline(self.ingress.options.time.body);
            }
            let part = deframe
                .take(&chunk, length_max)
                .map_err(|error| unframed(error, length_max))?;
            self.wire_bytes += part.len() as u64;
            body.push(&chunk.slice_ref(part), deframe.announced())
                .map_err(|_| self.ingress.no_room())?;
        }
        let compressed = deframe.finish().map_err(|error| unframed(error, length_max))?;
        Ok((body, compressed))
    }

    /// The next DATA frame's bytes, given back to flow control at once: they are copied or accounted.
    async fn next_chunk(&mut self) -> Result<Option<Bytes>, Stop> {
        let chunk = poll_fn(|cx| match self.request.poll_data(cx) {
            Poll::Ready(Some(Ok(chunk))) => Poll::Ready(Ok(Some(chunk))),
            Poll::Ready(Some(Err(_))) => Poll::Ready(Err(Stop::Gone)),
            Poll::Ready(None) => Poll::Ready(Ok(None)),
            Poll::Pending => self
                .deadline
                .poll(cx)
                .map(|()| Err(self.late(self.ingress.body_stalled()))),
        })
        .await?;
        if let Some(chunk) = &chunk {
            // Fails only when the stream is gone, which the next poll says.
            let _ = self.request.flow_control().release_capacity(chunk.len());
        }
        Ok(chunk)
    }

    /// Reads what the client still sends, so that it gets to reading the reply; not if it announced more
    /// than we would read.
    async fn drain(&mut self, announced: Option<usize>) -> Result<(), Stop> {
        let options = &self.ingress.options;
        let mut left = options.drain_max;
        if announced.is_some_and(|announced| announced > left) {
            return Ok(());
        }
        self.deadline.set(options.time.drain);
        loop {
            match self.next_chunk().await {
                Ok(Some(chunk)) if chunk.len() <= left => left -= chunk.len(),
                Ok(_) | Err(Stop::Failed(_)) => return Ok(()),
                Err(Stop::Gone) => return Err(Stop::Gone),
            }
        }
    }

    async fn wait_for(&mut self, mut durable: Durable) -> Result<(), Stop> {
        self.set_deadline(self.ingress.options.time.handler);
        poll_fn(|cx| {
            if let Poll::Ready(answer) = Pin::new(&mut durable).poll(cx) {
                return Poll::Ready(answer.map_err(|_| self.ingress.not_durable().into()));
            }
            if self.deadline.poll(cx).is_ready() {
                return Poll::Ready(Err(self.late(self.ingress.handler_timed_out())));
            }
            // A reset ends the wait, or else a peer could pile up waits beyond the stream limit.
            self.respond.poll_reset(cx).map(|_| Err(Stop::Gone))
        })
        .await
    }

    async fn finish(&mut self, counted: bool, end: Result<Vec<u8>, Stop>) {
        let code = match &end {
            Ok(_) => Code::Ok,
            Err(Stop::Failed(failure)) => failure.code,
            Err(Stop::Gone) => Code::Cancelled,
        };
        if counted {
            let now = self.ingress.clock.instant();
            self.ingress.service.replied(&Replied {
                transport: Transport::Grpc,
                code,
                http_status: StatusCode::OK.as_u16(),
                wire_bytes: self.wire_bytes,
                body_bytes: self.body_bytes,
                elapsed: self.ended.map_or(Duration::ZERO, |ended| now.since(ended)),
            });
        }
        match end {
            Ok(message) => self.send_message(&message).await,
            Err(Stop::Failed(failure)) => self.send_failure(&failure),
            Err(Stop::Gone) => {}
        }
    }

    /// Headers, the message, trailers. A peer that gives no window for it for too long is reset.
    async fn send_message(&mut self, message: &[u8]) {
        let mut frame = Vec::with_capacity(PREFIX_BYTES + message.len());
        frame.extend(prefix(false, message.len() as u32));
        frame.extend(message);

        let Ok(mut stream) = self.respond.send_response(response(StatusCode::OK), false) else {
            return;
        };
        stream.reserve_capacity(frame.len());
        self.deadline.set(self.ingress.options.time.reply);
        match poll_fn(|cx| self.poll_capacity(cx, &mut stream, frame.len())).await {
            Some(true) => {}
            Some(false) => return stream.send_reset(h2::Reason::ENHANCE_YOUR_CALM),
            None => return,
        }
        let mut trailers = HeaderMap::with_capacity(1);
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        // Errors mean that the stream is gone; there is nobody to tell.
        let _ = stream
            .send_data(Bytes::from(frame), false)
            .and_then(|()| stream.send_trailers(trailers));
    }

    /// Whether there is room before the deadline; `None` when the stream is gone.
    fn poll_capacity(
        &self,
        cx: &mut Context<'_>,
        stream: &mut SendStream<Bytes>,
        needed: usize,
    ) -> Poll<Option<bool>> {
        while stream.capacity() < needed {
            match stream.poll_capacity(cx) {
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(None),
                Poll::Pending => return self.deadline.poll(cx).map(|()| Some(false)),
            }
        }
        Poll::Ready(Some(true))
    }

    /// Trailers-Only (OTLP G09). If the client still sends, h2 adds RST_STREAM(NO_ERROR) (G13).
    fn send_failure(&mut self, failure: &Failure) {
        let mut response = response(StatusCode::OK);
        let headers = response.headers_mut();
        headers.insert("grpc-status", HeaderValue::from(failure.code as u16));
        insert_text(headers, "grpc-message", &encode_message(&failure.message));
        insert_text(
            headers,
            "grpc-status-details-bin",
            &encode_binary(&failure.to_protobuf()),
        );
        if failure.code == Code::Unimplemented {
            headers.insert("grpc-accept-encoding", HeaderValue::from_static(ACCEPTED_CODINGS));
        }
        let _ = self.respond.send_response(response, true);
    }

    fn send_status(&mut self, status: StatusCode) {
        let mut response = Response::new(());
        *response.status_mut() = status;
        let _ = self.respond.send_response(response, true);
    }

    fn set_deadline(&self, after: Duration) {
        let at = self.ingress.clock.instant().plus(after);
        self.deadline.set_at(self.until.map_or(at, |until| until.min(at)));
    }

    /// The client's own deadline, if that is over, or else `failure`.
    fn late(&self, failure: Failure) -> Stop {
        let now = self.ingress.clock.instant();
        match self.until {
            Some(until) if until <= now => {
                Stop::Failed(Failure::new(Code::DeadlineExceeded, "grpc-timeout is over"))
            }
            _ => Stop::Failed(failure),
        }
    }
}

fn unframed(error: DeframeError, length_max: usize) -> Failure {
    match error {
        DeframeError::TooLarge { .. } => too_large(length_max),
        DeframeError::Flag(_) | DeframeError::Trailing | DeframeError::Truncated | DeframeError::Missing => {
            Failure::new(Code::Internal, error.to_string())
        }
    }
}

fn response(status: StatusCode) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

fn insert_text(headers: &mut HeaderMap, name: &'static str, text: &str) {
    let value = HeaderValue::from_str(text).expect("percent-encoding and base64 leave printable ASCII");
    headers.insert(name, value);
}
