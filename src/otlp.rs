//! OTLP as bytes: cut a request into views, join views into a request, and the framing around both.
//!
//! ```text
//!  request body ──cut──► resource part ┐
//!                        scope part    ├─ copied to the log as they came ──join──► request body
//!                        span          ┘
//! ```
//!
//! A *part* is every field of a ResourceSpans but its scopes, or of a ScopeSpans but its spans, each field with
//! its tag, in the order it came. So fields that this version does not know survive, and protobuf's rules
//! (the last scalar wins, messages merge) hold for a part as they held for the message.
//!
//! Nothing here decodes into owned values: views borrow, and parts are slices of the request.

pub mod wire; // protobuf wire format: reader, fields, writer
pub mod value; // attributes and their values, in place
pub mod check; // whether known messages are framed as prost demands
pub mod view; // a span in place
pub mod cut; // request → parts and spans
pub mod tracestate; // the sampling threshold in W3C tracestate
pub mod join; // parts and spans → request
pub mod grpc; // gRPC messages, timeouts and status text
pub mod json; // OTLP/JSON in both directions, by schema
pub mod status; // the bodies of replies, in both encodings
pub mod reply; // those of others, read
pub mod payload; // the payload of a spans entry in the log
