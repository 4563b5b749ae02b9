//! OTLP destinations from outside: the real process against scripted servers for gRPC and HTTP.
//!
//! Times are asserted only where the protocol says «not before», by the destination's own clock.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "outside of the process under test there are threads and the host's clock"
)]

#[path = "e2e/http.rs"]
#[allow(dead_code, reason = "the end-to-end tests use more of it")]
mod http; // HTTP/1.1 by hand, for exports and for the admin port
#[path = "e2e/output.rs"]
#[allow(dead_code, reason = "the end-to-end tests use more of it")]
mod output; // what the file exporter wrote, decoded
#[path = "e2e/process.rs"]
#[allow(dead_code, reason = "the end-to-end tests use more of it")]
mod process; // a running tailkeep and its directory
#[path = "e2e/traffic.rs"]
#[allow(dead_code, reason = "the end-to-end tests use more of it")]
mod traffic; // requests made by hand

#[path = "egress/bytes.rs"]
mod bytes; // what arrives is what came in
#[path = "egress/codes.rs"]
mod codes; // what each answer leads to
#[path = "egress/destination.rs"]
mod destination; // a scripted OTLP server
#[path = "egress/faults.rs"]
mod faults; // dead, slow, killed
#[path = "egress/queue.rs"]
mod queue; // filters, and queues that are full
