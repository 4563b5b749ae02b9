//! As much of an HTTP/1.1 client as commands need: one request at a time on a connection that stays.

use std::io::{self, BufRead, BufReader, Error, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(10);
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);
/// Replies of ours are shorter.
const BODY_BYTES_MAX: u64 = 16 << 20;
const LINE_BYTES_MAX: u64 = 8 << 10;

pub struct Client {
    address: String,
    /// `Authorization: Bearer …` as a line of its own, or nothing.
    authorization: String,
    /// `None` before the first request and after an error.
    connection: Option<BufReader<TcpStream>>,
}

pub struct Reply {
    pub status: u16,
    pub body: Vec<u8>,
}

impl Client {
    pub fn new(address: &str) -> Client {
        Client {
            address: address.to_owned(),
            authorization: String::new(),
            connection: None,
        }
    }

    /// `token`: visible ASCII, which is what fits into a header.
    pub fn with_token(mut self, token: &str) -> Client {
        self.authorization = format!("Authorization: Bearer {token}\r\n");
        self
    }

    pub fn get(&mut self, path: &str) -> io::Result<Reply> {
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\n{}\r\n",
            self.address, self.authorization
        );
        self.exchange(head.as_bytes())
    }

    pub fn post(&mut self, path: &str, content_type: &str, body: &[u8]) -> io::Result<Reply> {
        let mut request = format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n",
            self.address,
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(body);
        self.exchange(&request)
    }

    /// After an error the next request begins a new connection.
    fn exchange(&mut self, request: &[u8]) -> io::Result<Reply> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => connect(&self.address)?,
        };
        connection.get_mut().write_all(request)?;
        let (reply, stays) = read_reply(&mut connection)?;
        self.connection = stays.then_some(connection);
        Ok(reply)
    }
}

fn connect(address: &str) -> io::Result<BufReader<TcpStream>> {
    let mut failed = ErrorKind::AddrNotAvailable.into();
    let reached = address.to_socket_addrs()?.find_map(|address| {
        let connected = TcpStream::connect_timeout(&address, CONNECT_PATIENCE);
        connected.map_err(|error| failed = error).ok()
    });
    let stream = reached.ok_or(failed)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(BufReader::new(stream))
}

/// The reply, and whether the connection can be used again.
fn read_reply(from: &mut impl BufRead) -> io::Result<(Reply, bool)> {
    let status_line = read_line(from)?;
    let status = status_line
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .ok_or_else(not_http)?;
    let (mut length, mut stays) = (None, true);
    loop {
        let line = read_line(from)?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').ok_or_else(not_http)?;
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = Some(value.trim().parse::<u64>().map_err(|_| not_http())?),
            "connection" => stays = !value.trim().eq_ignore_ascii_case("close"),
            "transfer-encoding" => return Err(Error::new(ErrorKind::Unsupported, "a chunked reply")),
            _ => {}
        }
    }
    let length = length
        .filter(|length| *length <= BODY_BYTES_MAX)
        .ok_or_else(not_http)?;
    let mut body = Vec::new();
    if from.take(length).read_to_end(&mut body)? as u64 != length {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    Ok((Reply { status, body }, stays))
}

fn read_line(from: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    from.take(LINE_BYTES_MAX).read_line(&mut line)?;
    match line.strip_suffix("\r\n") {
        Some(line) => Ok(line.to_owned()),
        None => Err(ErrorKind::UnexpectedEof.into()),
    }
}

fn not_http() -> Error {
    Error::new(ErrorKind::InvalidData, "not an HTTP reply with a length")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_ends_where_its_length_says() {
        let mut bytes =
            &b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 503 No\r\nconnection: close\r\n\
                           content-length:0\r\n\r\n"[..];
        let (reply, stays) = read_reply(&mut bytes).expect("the first");
        assert_eq!((reply.status, &reply.body[..], stays), (200, &b"ok"[..], true));
        let (reply, stays) = read_reply(&mut bytes).expect("the second");
        assert_eq!((reply.status, &reply.body[..], stays), (503, &b""[..], false));
        assert!(read_reply(&mut bytes).is_err());
    }

    #[test]
    fn what_is_no_reply_is_an_error() {
        for bytes in [
            "",
            "\r\n\r\n",
            "SSH-2.0-x\r\n",
            "HTTP/1.1 200 OK\r\n",
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok",
            "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        ] {
            assert!(read_reply(&mut bytes.as_bytes()).is_err(), "{bytes:?}");
        }
    }
}
