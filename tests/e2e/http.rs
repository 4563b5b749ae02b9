//! HTTP/1.1 by hand.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;

use crate::process::PATIENCE;

/// A connection for exports.
pub struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    pub fn new(address: SocketAddr) -> Client {
        Client::try_new(address).expect("it listens")
    }

    pub fn try_new(address: SocketAddr) -> std::io::Result<Client> {
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Client {
            stream: BufReader::new(stream),
        })
    }

    /// Sends one body. `Ok` is the status; an error means that nobody knows what became of it.
    pub fn try_export(&mut self, body: &[u8]) -> std::io::Result<u16> {
        let head = format!(
            "POST /v1/traces HTTP/1.1\r\nhost: test\r\ncontent-type: application/x-protobuf\r\n\
             content-length: {}\r\n\r\n",
            body.len()
        );
        let mut request = head.into_bytes();
        request.extend_from_slice(body);
        self.stream.get_mut().write_all(&request)?;
        Ok(self.read_reply()?.0)
    }

    /// Sends one body that must be acknowledged.
    pub fn export_bytes(&mut self, body: &[u8]) {
        assert_eq!(self.try_export(body).expect("a reply"), 200);
    }

    pub fn export(&mut self, request: &ExportTraceServiceRequest) {
        self.export_bytes(&request.encode_to_vec());
    }

    fn read_reply(&mut self) -> std::io::Result<(u16, Vec<u8>)> {
        let invalid = || std::io::Error::from(std::io::ErrorKind::InvalidData);
        let (mut status, mut length) = (None, 0);
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            let line = line.trim_end().to_ascii_lowercase();
            if status.is_none() {
                status = Some(
                    line.split(' ')
                        .nth(1)
                        .and_then(|code| code.parse().ok())
                        .ok_or_else(invalid)?,
                );
            } else if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().map_err(|_| invalid())?;
            } else if line.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        Ok((status.ok_or_else(invalid)?, body))
    }
}

/// One GET on a connection of its own.
pub fn get(address: SocketAddr, path: &str) -> (u16, Vec<u8>) {
    try_get(address, path).expect("a reply")
}

pub fn try_get(address: SocketAddr, path: &str) -> std::io::Result<(u16, Vec<u8>)> {
    ask(address, "GET", path, "")
}

/// One POST without a body.
pub fn post(address: SocketAddr, path: &str) -> (u16, Vec<u8>) {
    ask(address, "POST", path, "content-length: 0\r\n").expect("a reply")
}

/// As a page would send it.
pub fn post_from(address: SocketAddr, path: &str, origin: &str) -> (u16, Vec<u8>) {
    let headers = format!("content-length: 0\r\norigin: {origin}\r\n");
    ask(address, "POST", path, &headers).expect("a reply")
}

fn ask(address: SocketAddr, method: &str, path: &str, headers: &str) -> std::io::Result<(u16, Vec<u8>)> {
    let mut client = Client::try_new(address)?;
    let request = format!("{method} {path} HTTP/1.1\r\nhost: test\r\n{headers}connection: close\r\n\r\n");
    client.stream.get_mut().write_all(request.as_bytes())?;
    client.read_reply()
}
