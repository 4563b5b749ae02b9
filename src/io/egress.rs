//! Where shipments go: one sink per destination and core, with a connection of its own.
//!
//! ```text
//!  Effect::Ship ─→ Sink::ship ─┬─ file        append, sync                  one writer
//!                              └─ otlp ─ compress ─ connect ─ request ─ reply
//!                                                  (addresses)  (grpc | http)
//!      handle_shipped ←─ Arrival or Failure
//! ```
//!
//! A sink does one thing at a time, because a destination has one shipment out. What an answer means, and when
//! to try again, is decided in [`crate::export::retry`].

pub mod addresses; // names to addresses, tried in turn
pub mod compress; // bodies, a little at a time
pub mod file; // lines, appended and synced
pub mod otlp; // requests over gRPC or HTTP

use crate::export::retry::{Arrival, Cause, Failure};
use crate::export::{DestinationOptions, Shipment};
use crate::io::clock::Clock;
use crate::io::core::FILE_WRITER;
use crate::io::epoll::Epoll;
use crate::io::mesh::Mesh;
use file::{FileOptions, FileSink};
use otlp::{OtlpOptions, OtlpSink};
use std::io;
use std::rc::Rc;

/// A destination as the configuration has it: what the landing core must know, and what io must.
#[derive(Clone, Debug)]
pub struct ExporterOptions {
    pub destination: DestinationOptions,
    pub sink: SinkOptions,
}

#[derive(Clone, Debug)]
pub enum SinkOptions {
    File(FileOptions),
    Otlp(OtlpOptions),
}

/// The io side of one destination on one core.
pub enum Sink {
    File(FileSink),
    /// A file that another core writes.
    Elsewhere(Rc<Mesh>, usize),
    Otlp(Box<OtlpSink>),
}

impl Sink {
    /// Creates the file, or nothing: a destination that cannot be reached now may be later. `number` counts
    /// exporters, `seed` is any number, another one on each core.
    pub fn new(
        options: &SinkOptions,
        number: usize,
        clock: Rc<Clock>,
        mesh: &Rc<Mesh>,
        epoll: &Rc<Epoll>,
        seed: u64,
    ) -> io::Result<Sink> {
        Ok(match options {
            SinkOptions::File(_) if mesh.core() != FILE_WRITER => Sink::Elsewhere(mesh.clone(), number),
            SinkOptions::File(options) => Sink::File(FileSink::new(options.clone())?),
            SinkOptions::Otlp(options) => {
                let sink = OtlpSink::new(options.clone(), clock, epoll.clone(), seed);
                Sink::Otlp(Box::new(sink))
            }
        })
    }

    /// Sends a shipment and waits for what the destination says, for no longer than its timeout.
    pub async fn ship(&self, Shipment { mut pieces, .. }: Shipment) -> Result<Arrival, Failure> {
        let bytes = pieces.iter().map(|piece| piece.len() as u64).sum();
        match self {
            Sink::File(file) => appended(bytes, file.append(pieces).await),
            Sink::Elsewhere(mesh, number) => appended(bytes, mesh.append(FILE_WRITER, *number, pieces).await),
            Sink::Otlp(otlp) => {
                let request = pieces.pop().expect("an empty shipment is none");
                assert!(pieces.is_empty(), "a request is one piece");
                otlp.ship(request).await
            }
        }
    }

    /// SIGHUP.
    pub fn reopen(&self) {
        match self {
            Sink::File(file) => file.reopen(),
            Sink::Otlp(_) | Sink::Elsewhere(..) => {}
        }
    }
}

fn appended(wire_bytes: u64, result: Result<(), String>) -> Result<Arrival, Failure> {
    let arrival = Arrival {
        wire_bytes,
        ..Arrival::default()
    };
    result
        .map(|()| arrival)
        .map_err(|error| Failure::new(Cause::Io, error))
}
