//! From pieces of bodies to spans.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::Read;
use std::rc::Rc;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;

use super::arrivals::Arrivals;
use crate::drain::Event;

/// An inflated body beyond this is no export of ours.
const BODY_BYTES_MAX: u64 = 1 << 30;

/// One transport's requests on their way in.
pub struct Intake {
    is_grpc: bool,
    open: HashMap<u64, Body>,
    arrivals: Rc<RefCell<Arrivals>>,
    clock: quanta::Clock,
}

struct Body {
    is_traces: bool,
    is_gzip: bool,
    bytes: Vec<u8>,
}

impl Intake {
    pub fn new(is_grpc: bool, arrivals: Rc<RefCell<Arrivals>>) -> Intake {
        Intake {
            is_grpc,
            open: HashMap::new(),
            arrivals,
            clock: quanta::Clock::new(),
        }
    }

    pub fn take(&mut self, request: u64, event: Event<'_>) {
        match event {
            Event::Head(head) => {
                let body = Body {
                    is_traces: head.path.ends_with("/v1/traces") || head.path.contains(".trace.v1."),
                    is_gzip: head.is_gzip,
                    bytes: Vec::new(),
                };
                self.open.insert(request, body);
            }
            Event::Piece(piece) => {
                if let Some(body) = self.open.get_mut(&request) {
                    body.bytes.extend_from_slice(piece);
                }
            }
            Event::End => {
                if let Some(body) = self.open.remove(&request) {
                    self.finish(&body);
                }
            }
        }
    }

    fn finish(&self, body: &Body) {
        let mut arrivals = self.arrivals.borrow_mut();
        arrivals.begin_request(self.clock.now(), body.bytes.len());
        if !body.is_traces {
            return arrivals.add_other();
        }
        let request = self
            .message(body)
            .and_then(|message| ExportTraceServiceRequest::decode(&message[..]).ok());
        match request {
            Some(request) => arrivals.add(&request),
            None => arrivals.add_undecodable(),
        }
    }

    /// The protobuf message, without prefix and compression.
    fn message(&self, body: &Body) -> Option<Vec<u8>> {
        let (is_compressed, bytes) = match self.is_grpc {
            false => (body.is_gzip, &body.bytes[..]),
            true => {
                let (prefix, message) = body.bytes.split_first_chunk::<5>()?;
                let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]);
                if length as usize != message.len() || (prefix[0] == 1 && !body.is_gzip) {
                    return None;
                }
                (prefix[0] == 1, message)
            }
        };
        if !is_compressed {
            return Some(bytes.to_vec());
        }
        let mut inflated = Vec::new();
        let decoder = flate2::read::GzDecoder::new(bytes);
        decoder.take(BODY_BYTES_MAX).read_to_end(&mut inflated).ok()?;
        Some(inflated)
    }
}
