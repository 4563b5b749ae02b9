//! What the header list of a call asks for, and what of it we refuse.

use std::time::Duration;

use http::request::Parts;
use http::{HeaderMap, Method, StatusCode, header};

use super::super::reply::Failure;
use super::super::{Code, Transport};
use crate::io::inflate::Coding;
use crate::otlp::grpc::parse_timeout;

/// What a path names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Procedure {
    ExportTraces,
    CheckHealth,
}

/// A call that may go on.
#[derive(Debug, PartialEq, Eq)]
pub struct Head {
    pub procedure: Procedure,
    /// Of a message whose compressed flag is set; `None` when the call names no coding.
    pub coding: Option<Coding>,
    pub timeout: Option<Duration>,
}

/// A call that may not.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Not gRPC at all: answered with an HTTP status alone.
    Http(StatusCode),
    /// `counted`: it was meant to be a trace request.
    Grpc {
        failure: Failure,
        counted: Option<Transport>,
    },
}

/// The service that `grpc.health.v1` knows by name, beside the server as a whole.
pub const TRACE_SERVICE: &str = "opentelemetry.proto.collector.trace.v1.TraceService";

const EXPORT_TRACES: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
const CHECK_HEALTH: &str = "/grpc.health.v1.Health/Check";

/// The codings that we take, as `grpc-accept-encoding` lists them.
pub const ACCEPTED_CODINGS: &str = "identity,gzip,zstd";

impl Head {
    pub fn new(parts: &Parts) -> Result<Head, Refusal> {
        if parts.method != Method::POST {
            return Err(Refusal::Http(StatusCode::METHOD_NOT_ALLOWED));
        }
        if !is_grpc(&parts.headers) {
            return Err(Refusal::Http(StatusCode::UNSUPPORTED_MEDIA_TYPE));
        }
        let procedure = match parts.uri.path() {
            EXPORT_TRACES => Procedure::ExportTraces,
            CHECK_HEALTH => Procedure::CheckHealth,
            other => {
                let failure = Failure::new(Code::Unimplemented, format!("unknown method {other}"));
                return Err(Refusal::Grpc {
                    failure,
                    counted: None,
                });
            }
        };
        let refuse = |code, message: String| {
            let counted = (procedure == Procedure::ExportTraces).then_some(Transport::Grpc);
            Err(Refusal::Grpc {
                failure: Failure::new(code, message),
                counted,
            })
        };
        let coding = match parts.headers.get("grpc-encoding") {
            None => None,
            Some(name) => match name.to_str().ok().and_then(Coding::from_name) {
                Some(coding) => Some(coding),
                None => {
                    return refuse(
                        Code::Unimplemented,
                        format!("grpc-encoding {name:?} is not {ACCEPTED_CODINGS}"),
                    );
                }
            },
        };
        let timeout = match parts.headers.get("grpc-timeout") {
            None => None,
            Some(text) => match parse_timeout(text.as_bytes()) {
                Some(timeout) => Some(timeout),
                None => return refuse(Code::Internal, format!("malformed grpc-timeout {text:?}")),
            },
        };
        Ok(Head {
            procedure,
            coding,
            timeout,
        })
    }
}

/// `application/grpc`, alone or with `+proto` or parameters.
fn is_grpc(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        return false;
    };
    let Some(rest) = value.as_bytes().strip_prefix(b"application/grpc") else {
        return false;
    };
    match rest {
        [] | [b';', ..] => true,
        [b'+', subtype @ ..] => subtype.starts_with(b"proto"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn head(path: &str, headers: &[(&str, &str)]) -> Result<Head, Refusal> {
        let mut request = Request::post(path).header("content-type", "application/grpc");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Head::new(&request.body(()).expect("a request").into_parts().0)
    }

    fn refused_with(end: Result<Head, Refusal>) -> Option<Code> {
        match end {
            Err(Refusal::Grpc { failure, .. }) => Some(failure.code),
            Err(Refusal::Http(_)) | Ok(_) => None,
        }
    }

    #[test]
    fn g12_a_timeout_is_kept_and_a_malformed_one_refused() {
        let timeout = |text| head(EXPORT_TRACES, &[("grpc-timeout", text)]).map(|head| head.timeout);
        assert_eq!(timeout("5m"), Ok(Some(Duration::from_millis(5))));
        assert_eq!(
            refused_with(head(EXPORT_TRACES, &[("grpc-timeout", "soon")])),
            Some(Code::Internal)
        );
    }

    #[test]
    fn g16_other_signals_are_unimplemented_for_now() {
        for path in [
            "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
            "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
            "/grpc.health.v1.Health/Watch",
            "/",
        ] {
            assert_eq!(refused_with(head(path, &[])), Some(Code::Unimplemented), "{path}");
        }
    }

    #[test]
    fn g07_codings_are_known_by_name() {
        let coding = |name| head(EXPORT_TRACES, &[("grpc-encoding", name)]).map(|head| head.coding);
        assert_eq!(coding("gzip"), Ok(Some(Coding::Gzip)));
        assert_eq!(coding("zstd"), Ok(Some(Coding::Zstd)));
        assert_eq!(coding("identity"), Ok(Some(Coding::Identity)));
        assert_eq!(
            refused_with(head(EXPORT_TRACES, &[("grpc-encoding", "br")])),
            Some(Code::Unimplemented)
        );
    }

    #[test]
    fn g06_only_grpc_is_grpc() {
        let check = |content_type: Option<&str>, expected| {
            let mut request = Request::post(EXPORT_TRACES);
            if let Some(content_type) = content_type {
                request = request.header("content-type", content_type);
            }
            assert_eq!(
                is_grpc(request.body(()).expect("a request").headers()),
                expected,
                "{content_type:?}"
            );
        };
        check(Some("application/grpc"), true);
        check(Some("application/grpc+proto"), true);
        check(Some("application/grpc;charset=x"), true);
        check(Some("application/grpc+json"), false);
        check(Some("application/grpc-web"), false);
        check(Some("application/x-protobuf"), false);
        check(None, false);
    }
}
