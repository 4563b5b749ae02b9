//! The HTTP/1.1 side of the drain: reads `Content-Length` and nothing else.

use std::cell::Cell;
use std::rc::Rc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const READ_BYTES: usize = 256 << 10;
const REPLY: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n";

/// `seen` gets each request's number and body, the body in pieces.
pub async fn serve(listener: TcpListener, seen: impl Fn(u64, &[u8]) + Clone + 'static) {
    let requests = Rc::new(Cell::new(0));
    while let Ok((stream, _)) = listener.accept().await {
        tokio::task::spawn_local(connection(stream, requests.clone(), seen.clone()));
    }
}

async fn connection(mut stream: TcpStream, requests: Rc<Cell<u64>>, seen: impl Fn(u64, &[u8])) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut buffer = Vec::with_capacity(READ_BYTES);
    loop {
        let head_len = loop {
            if let Some(at) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            if stream.read_buf(&mut buffer).await.ok()? == 0 {
                return None;
            }
        };
        let mut rest = content_length(&buffer[..head_len])?;
        buffer.drain(..head_len);
        let number = requests.replace(requests.get() + 1);
        while rest > 0 {
            let count = rest.min(buffer.len());
            seen(number, &buffer[..count]);
            buffer.drain(..count);
            rest -= count;
            if rest > 0 && stream.read_buf(&mut buffer).await.ok()? == 0 {
                return None;
            }
        }
        stream.write_all(REPLY).await.ok()?;
    }
}

fn content_length(head: &[u8]) -> Option<usize> {
    let head = std::str::from_utf8(head).ok()?;
    let line = head
        .lines()
        .find(|line| line.to_ascii_lowercase().starts_with("content-length:"))?;
    line.split_once(':')?.1.trim().parse().ok()
}
