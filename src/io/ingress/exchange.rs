//! What both transports do with a request once its bytes are there: inflate, hand over, wait.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use super::bodies::Body;
use super::reply::Failure;
use super::{Code, Ingress, Partial, Submitted, Transport, ticket::Durable};
use crate::io::inflate::Inflate;
use crate::io::stream::Meter;

/// Bytes inflated between two looks at the account and the turn.
const INFLATE_STEP_BYTES: usize = 64 << 10;

impl Ingress {
    /// Inflates a body to at most `length_max` bytes, others getting their turn in between. What the decoder
    /// holds counts as bytes in flight while it works.
    pub(super) async fn inflate(
        &self,
        meter: &Meter,
        mut inflate: Inflate,
        wire: &Body,
        length_max: usize,
    ) -> Result<Body, Failure> {
        let mut body = wire.heir();
        loop {
            poll_fn(|cx| meter.poll_turn(cx)).await;
            let before = body.len() + inflate.read_bytes();
            let step = body
                // One more than the limit, to tell a full body from an overlong one.
                .fill(length_max + 1, |bytes| {
                    inflate.step(wire, bytes, INFLATE_STEP_BYTES)
                })
                .map_err(|_| self.no_room())?;
            meter.spend(body.len() + inflate.read_bytes() - before);
            if body.len() > length_max {
                return Err(too_large(length_max));
            }
            body.charge_beside(inflate.memory_bytes())
                .map_err(|_| self.no_room())?;
            match step {
                Poll::Ready(Ok(())) => {
                    body.charge_beside(0).map_err(|_| self.no_room())?;
                    return Ok(body);
                }
                Poll::Ready(Err(error)) => {
                    return Err(Failure::new(Code::InvalidArgument, error.to_string()));
                }
                Poll::Pending => {}
            }
        }
    }

    /// Decodes OTLP/JSON into protobuf.
    pub(super) fn transcode(&self, meter: &Meter, json: &Body) -> Result<Body, Failure> {
        meter.spend(json.len());
        let mut body = json.heir();
        body.write(|protobuf| (self.options.transcode)(json, protobuf))
            .map_err(|_| self.no_room())?
            .map_err(|message| Failure::new(Code::InvalidArgument, message))?;
        Ok(body)
    }

    /// Hands one request to the core, in a turn that has room for it.
    pub(super) async fn submit(
        &self,
        meter: &Meter,
        transport: Transport,
        body: &[u8],
    ) -> Result<(Durable, Option<Partial>), Failure> {
        poll_fn(|cx| meter.poll_turn(cx)).await;
        meter.spend(body.len());
        match self.service.export(transport, body) {
            Submitted::Accepted { durable, partial } => Ok((durable, partial)),
            Submitted::Invalid { message } => Err(Failure::new(Code::InvalidArgument, message)),
            Submitted::Refused { retry_after, message } => Err(Failure::retry(retry_after, message)),
            Submitted::TooLarge { message } => Err(Failure::new(Code::ResourceExhausted, message)),
        }
    }

    pub(super) fn not_durable(&self) -> Failure {
        Failure::retry(
            self.options.retry_after,
            "the log could not make the request durable",
        )
    }

    /// After the handler's time limit: the request may still become durable, so the client may send it
    /// twice, which OTLP allows.
    pub(super) fn handler_timed_out(&self) -> Failure {
        Failure::retry(self.options.retry_after, "the request is not durable yet")
    }

    pub(super) fn no_room(&self) -> Failure {
        Failure::retry(
            self.options.retry_after,
            "too many bytes of requests are in flight",
        )
    }

    pub(super) fn body_stalled(&self) -> Failure {
        Failure::new(Code::DeadlineExceeded, "the request arrived too slowly")
    }
}

pub fn too_large(length_max: usize) -> Failure {
    let message = format!("the request is larger than the limit of {length_max} bytes");
    Failure::new(Code::ResourceExhausted, message)
}

/// Bytes of a body that came lately: it must bring `body_bytes_min` in each window.
#[derive(Default)]
pub struct Pace {
    bytes: usize,
}

impl Pace {
    /// Whether a window's worth is there, so that the deadline may be set anew.
    pub fn add(&mut self, bytes: usize, ingress: &Rc<Ingress>) -> bool {
        self.bytes += bytes;
        let enough = self.bytes >= ingress.options.time.body_bytes_min;
        if enough {
            self.bytes = 0;
        }
        enough
    }
}
