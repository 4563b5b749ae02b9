//! Everything that touches the kernel: the only glommio, the only sockets, the only clock (S1).

pub mod clock; // the only place that reads a clock
pub mod ingress; // OTLP in: gRPC and HTTP/1.1
