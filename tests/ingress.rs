//! OTLP ingress, from outside: a real executor with a stub core behind it, real sockets before it.
//!
//! Tests are named for the rule they hold us to: `s*`, `g*`, `h*` are the server rules of the OTLP
//! specification and of gRPC's (G06 on); the others are facts about hostile and unlucky clients.

#[path = "ingress/server.rs"]
mod server; // the executor, the stub core, and what it saw
#[path = "ingress/http_client.rs"]
mod http_client; // HTTP/1.1 by hand
#[path = "ingress/grpc_client.rs"]
mod grpc_client; // gRPC on the h2 crate, and frames by hand

#[path = "ingress/both.rs"]
mod both; // what holds for either transport
#[path = "ingress/grpc.rs"]
mod grpc;
#[path = "ingress/http.rs"]
mod http;
#[path = "ingress/hostile_grpc.rs"]
mod hostile_grpc;
#[path = "ingress/hostile_http.rs"]
mod hostile_http;
#[path = "ingress/lifecycle.rs"]
mod lifecycle; // stop, age, idleness, many connections
#[path = "ingress/real_clients.rs"]
mod real_clients; // the OpenTelemetry SDK
