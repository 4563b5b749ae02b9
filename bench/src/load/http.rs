//! OTLP over HTTP/1.1: one request at a time on each connection, written straight to the socket.

use std::io::{self, ErrorKind, IoSlice};
use std::rc::Rc;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::schedule::Pacer;
use super::{Outcome, Run};

/// Requests until the run is over, or why the connection was lost.
pub async fn drive(run: Rc<Run>, mut stream: TcpStream, authority: String) -> Result<(), String> {
    let pacer = Pacer::new().map_err(|error| error.to_string())?;
    let mut reply = Vec::new();
    while let Some(turn) = run.turn(&pacer).await {
        let parcel = run.checkout();
        let head = format!(
            "POST /v1/traces HTTP/1.1\r\nHost: {authority}\r\nContent-Type: application/x-protobuf\r\n\
             User-Agent: tailkeep-bench\r\nContent-Length: {}\r\n\r\n",
            parcel.body_len()
        );
        let answered = match write_all(&mut stream, head.as_bytes(), parcel.body()).await {
            Ok(()) => read_reply(&mut stream, &mut reply).await,
            Err(error) => Err(error),
        };
        let outcome = answered.as_ref().map_or(Outcome::Failed, |answer| answer.outcome);
        run.settle(parcel, turn, outcome).await;
        let answer = answered.map_err(|error| error.to_string())?;
        if answer.closes {
            return Err("the server closed the connection after its reply".into());
        }
    }
    Ok(())
}

async fn write_all(stream: &mut TcpStream, head: &[u8], body: &[u8]) -> io::Result<()> {
    let mut slices = [IoSlice::new(head), IoSlice::new(body)];
    let mut rest = &mut slices[..];
    while !rest.is_empty() {
        match stream.write_vectored(rest).await? {
            0 => return Err(ErrorKind::WriteZero.into()),
            count => IoSlice::advance_slices(&mut rest, count),
        }
    }
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
struct Answer {
    outcome: Outcome,
    closes: bool,
}

/// `buffer` is scratch. One request is in flight, so what follows the reply is an error.
async fn read_reply(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<Answer> {
    buffer.clear();
    loop {
        if let Some(answer) = parse_reply(buffer)? {
            return Ok(answer);
        }
        if stream.read_buf(buffer).await? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
    }
}

/// `None` while the reply is incomplete.
fn parse_reply(bytes: &[u8]) -> io::Result<Option<Answer>> {
    let invalid = |text: &str| io::Error::new(ErrorKind::InvalidData, text.to_owned());
    let Some(head_len) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = std::str::from_utf8(&bytes[..head_len]).map_err(|_| invalid("a reply's head is no text"))?;
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.strip_prefix("HTTP/1.1 "))
        .and_then(|line| line.get(..3));
    let status = status.ok_or_else(|| invalid("a reply does not begin as HTTP/1.1"))?;
    let mut body_len = None;
    let mut closes = false;
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        if name.eq_ignore_ascii_case("content-length") {
            body_len = value.trim().parse().ok();
        }
        closes |= name.eq_ignore_ascii_case("connection") && value.trim().eq_ignore_ascii_case("close");
    }
    let body_len: usize = body_len.ok_or_else(|| invalid("a reply has no Content-Length"))?;
    let body = &bytes[head_len + 4..];
    if body.len() > body_len {
        return Err(invalid("more bytes than the reply should have"));
    }
    let outcome = match status {
        "200" => acked(body),
        "429" | "502" | "503" | "504" => Outcome::Refused,
        _ => Outcome::Failed,
    };
    Ok((body.len() == body_len).then_some(Answer { outcome, closes }))
}

/// What an `ExportTraceServiceResponse` acknowledges.
pub fn acked(message: &[u8]) -> Outcome {
    match ExportTraceServiceResponse::decode(message) {
        Err(_) => Outcome::Failed,
        Ok(response) => match response
            .partial_success
            .map_or(0, |partial| partial.rejected_spans)
        {
            0 => Outcome::Acked,
            rejected => Outcome::AckedInPart(rejected.max(0) as u64),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(reply: &[u8], expect: Option<(Outcome, bool)>) {
        let expect = expect.map(|(outcome, closes)| Answer { outcome, closes });
        assert_eq!(parse_reply(reply).expect("valid"), expect);
    }

    #[test]
    fn a_reply_ends_where_its_length_says() {
        check(
            b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            Some((Outcome::Acked, false)),
        );
        check(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n", None);
        check(b"HTTP/1.1 200 OK\r\ncontent-len", None);
        check(
            b"HTTP/1.1 503 No\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno",
            Some((Outcome::Refused, true)),
        );
        check(
            b"HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\nno",
            Some((Outcome::Failed, false)),
        );
    }

    #[test]
    fn partial_success_names_the_rejected() {
        let reply = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n\x0a\x02\x08\x05";
        check(reply, Some((Outcome::AckedInPart(5), false)));
    }

    #[test]
    fn a_reply_without_a_length_is_refused() {
        assert!(parse_reply(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").is_err());
        assert!(parse_reply(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\nx").is_err());
    }
}
