//! What the head of an HTTP request asks for, and what of it we refuse.

use http::request::Parts;
use http::{HeaderMap, Method, StatusCode, header};

use super::super::Code;
use super::super::reply::Failure;
use crate::io::inflate::Coding;

/// How requests and replies are written: a reply is in its request's encoding (OTLP H03).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    Protobuf,
    Json,
}

/// A request for traces that may go on.
#[derive(Debug, PartialEq, Eq)]
pub struct Head {
    pub encoding: Encoding,
    pub coding: Coding,
}

/// A request that may not.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    pub status: StatusCode,
    pub failure: Failure,
    /// Whether it was meant to be a trace request.
    pub counted: bool,
}

const TRACES: &str = "/v1/traces";

impl Head {
    pub fn new(parts: &Parts) -> Result<Head, Refusal> {
        let refuse = |status, code, message: String, counted| {
            Err(Refusal {
                status,
                failure: Failure::new(code, message),
                counted,
            })
        };
        let path = parts.uri.path();
        if path != TRACES {
            return refuse(
                StatusCode::NOT_FOUND,
                Code::NotFound,
                format!("there is no {path}"),
                false,
            );
        }
        if parts.method != Method::POST {
            let message = format!("{TRACES} takes POST only");
            return refuse(
                StatusCode::METHOD_NOT_ALLOWED,
                Code::Unimplemented,
                message,
                false,
            );
        }
        let Some(encoding) = Encoding::of(&parts.headers) else {
            let message = "Content-Type must be application/x-protobuf or application/json".to_owned();
            return refuse(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                Code::Unimplemented,
                message,
                true,
            );
        };
        let mut codings = parts.headers.get_all(header::CONTENT_ENCODING).iter();
        let coding = match (codings.next(), codings.next()) {
            (None, _) => Some(Coding::Identity),
            (Some(name), None) => name.to_str().ok().map(str::trim).and_then(Coding::from_name),
            (Some(_), Some(_)) => None,
        };
        let Some(coding) = coding else {
            let message = "Content-Encoding must be gzip, zstd or identity".to_owned();
            return refuse(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                Code::Unimplemented,
                message,
                true,
            );
        };
        Ok(Head { encoding, coding })
    }
}

impl Encoding {
    pub fn of(headers: &HeaderMap) -> Option<Encoding> {
        let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
        let essence = value.split(';').next().unwrap_or_default().trim();
        if essence.eq_ignore_ascii_case("application/x-protobuf") {
            Some(Encoding::Protobuf)
        } else if essence.eq_ignore_ascii_case("application/json") {
            Some(Encoding::Json)
        } else {
            None
        }
    }

    pub fn content_type(self) -> &'static str {
        match self {
            Encoding::Protobuf => "application/x-protobuf",
            Encoding::Json => "application/json",
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn status(method: &str, path: &str, headers: &[(&str, &str)]) -> Result<Head, StatusCode> {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Head::new(&request.body(()).expect("a request").into_parts().0).map_err(|refusal| refusal.status)
    }

    const JSON: (&str, &str) = ("content-type", "application/json");

    #[test]
    fn h11_what_is_not_there_or_not_taken_is_named_by_its_status() {
        assert_eq!(status("POST", "/v1/logs", &[JSON]), Err(StatusCode::NOT_FOUND));
        assert_eq!(status("POST", "/v1/metrics", &[JSON]), Err(StatusCode::NOT_FOUND));
        assert_eq!(
            status("GET", "/v1/traces", &[]),
            Err(StatusCode::METHOD_NOT_ALLOWED)
        );
        assert_eq!(
            status("POST", "/v1/traces", &[]),
            Err(StatusCode::UNSUPPORTED_MEDIA_TYPE)
        );
        let text = ("content-type", "text/plain");
        assert_eq!(
            status("POST", "/v1/traces", &[text]),
            Err(StatusCode::UNSUPPORTED_MEDIA_TYPE)
        );
    }

    #[test]
    fn h02_the_content_type_tells_the_encoding() {
        let encoding =
            |value| status("POST", "/v1/traces", &[("content-type", value)]).map(|head| head.encoding);
        assert_eq!(encoding("application/x-protobuf"), Ok(Encoding::Protobuf));
        assert_eq!(encoding("Application/JSON; charset=utf-8"), Ok(Encoding::Json));
    }

    #[test]
    fn s01_none_gzip_and_zstd_are_taken_and_nothing_else() {
        let coding = |value| {
            status("POST", "/v1/traces", &[JSON, ("content-encoding", value)]).map(|head| head.coding)
        };
        assert_eq!(coding("gzip"), Ok(Coding::Gzip));
        assert_eq!(coding("identity"), Ok(Coding::Identity));
        assert_eq!(coding("zstd"), Ok(Coding::Zstd));
        assert_eq!(coding("br"), Err(StatusCode::UNSUPPORTED_MEDIA_TYPE));
        assert_eq!(coding("gzip, gzip"), Err(StatusCode::UNSUPPORTED_MEDIA_TYPE));
        let twice = [JSON, ("content-encoding", "gzip"), ("content-encoding", "gzip")];
        assert_eq!(
            status("POST", "/v1/traces", &twice),
            Err(StatusCode::UNSUPPORTED_MEDIA_TYPE)
        );
    }
}
