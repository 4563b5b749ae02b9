//! Stand-in for the OTLP views, until their branch is merged.

pub mod tracestate;
pub mod view;
