//! HTTP/1.1 by hand: what is sent is what the test says, byte for byte.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::server::PATIENCE;

pub struct Client(TcpStream);

#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Client {
        let stream = TcpStream::connect(address).expect("the server listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        stream.set_write_timeout(Some(PATIENCE)).expect("a socket");
        stream.set_nodelay(true).expect("a socket");
        Client(stream)
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Client {
        self.0.write_all(bytes.as_ref()).expect("the server reads");
        self
    }

    /// As [`Client::send`], to a server that may have closed. It must read or close.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        let sent = self.0.write_all(bytes.as_ref());
        let is_stuck = sent.as_ref().is_err_and(is_timeout);
        assert!(!is_stuck, "the server neither reads nor closes");
        sent
    }

    pub fn post(&mut self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        self.send(head("POST", path, headers, Some(body.len())))
            .send(body);
        self.response()
    }

    pub fn response(&mut self) -> Response {
        self.try_response().expect("a response")
    }

    /// `None` when the server closes instead.
    pub fn try_response(&mut self) -> Option<Response> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            match self.0.read(&mut byte) {
                Ok(1) => head.push(byte[0]),
                Ok(_) => return None,
                Err(error) if is_timeout(&error) => {
                    panic!("no response: {:?}", String::from_utf8_lossy(&head))
                }
                Err(_) => return None,
            }
        }
        let head = String::from_utf8(head).expect("ASCII");
        let mut lines = head.lines();
        let status = lines
            .next()
            .and_then(|line| line.split(' ').nth(1))
            .expect("a status line");
        let headers: Vec<_> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        let mut response = Response {
            status: status.parse().expect("a number"),
            headers,
            body: Vec::new(),
        };
        let length = response
            .header("content-length")
            .map_or(0, |length| length.parse().expect("a number"));
        response.body.resize(length, 0);
        self.0.read_exact(&mut response.body).expect("the body");
        Some(response)
    }

    /// Whether the server closes the connection without sending anything more.
    pub fn is_closed(&mut self) -> bool {
        match self.0.read(&mut [0]) {
            Ok(0) => true,
            Ok(_) => false,
            Err(error) => !is_timeout(&error),
        }
    }

    /// As [`Client::is_closed`], and not by a reset, which may overtake what was sent before.
    pub fn is_closed_in_order(&mut self) -> bool {
        matches!(self.0.read(&mut [0]), Ok(0))
    }

    pub fn close_write(&mut self) {
        self.0.shutdown(std::net::Shutdown::Write).expect("open");
    }

    pub fn socket(&self) -> &TcpStream {
        &self.0
    }
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(have, _)| have == name)
            .map(|(_, value)| value.as_str())
    }
}

pub fn head(method: &str, path: &str, headers: &[(&str, &str)], length: Option<usize>) -> String {
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    if let Some(length) = length {
        head += &format!("Content-Length: {length}\r\n");
    }
    head + "\r\n"
}

pub const TRACES: &str = "/v1/traces";
pub const PROTOBUF: (&str, &str) = ("Content-Type", "application/x-protobuf");
pub const JSON: (&str, &str) = ("Content-Type", "application/json");
pub const GZIP: (&str, &str) = ("Content-Encoding", "gzip");

fn is_timeout(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{TimedOut, WouldBlock};
    matches!(error.kind(), TimedOut | WouldBlock)
}
