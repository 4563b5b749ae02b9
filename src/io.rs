//! Everything that touches the kernel: the only glommio, the only sockets, the only clock (S1).

pub mod clock; // the only place that reads a clock
pub mod metronome; // keeps an executor from sleeping over work that is ready
pub mod connections; // how many connections there are, and when each wait of theirs ends
pub mod inflate; // gzip and zstd, limited while they inflate
pub mod seats; // which core serves a connection
pub mod whole; // a body in one piece, as hyper wants it
pub mod epoll; // connected sockets, and what says which of them can go on
pub mod stream; // a socket as h2 and hyper want it
pub mod ingress; // OTLP in: gRPC and HTTP/1.1
pub mod budget; // what each part of a core may take of `memory.limit`
pub mod datadir; // whose directory it is, and what lies in it
pub mod disk; // DMA blocks, and disk operations on io_uring
pub mod recovery; // from files to what was pending
pub mod egress; // where kept traces go
pub mod mesh; // what goes from core to core
pub mod cluster; // the cluster's end on the first core
pub mod core; // one core at work
pub mod admin; // health, metrics, status, explain
pub mod checkpoint; // what is open at a clean stop
pub mod drain; // everything given away
pub mod resume; // from a core's logs to what it serves from
pub mod executor; // one core from start to stop
pub mod reload; // new policies for a running node
pub mod node; // all cores from start to stop
