//! The HTTP/1.1 side of the drain: knows bodies with a `Content-Length`, and no others.

use std::cell::Cell;
use std::rc::Rc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{Event, Head};

const READ_BYTES: usize = 256 << 10;
const REPLY: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n";

/// `seen` gets each request's number and what there is of it, the body in pieces. `before_reply` comes between the
/// last of them and the reply.
pub async fn serve(
    listener: TcpListener,
    seen: impl Fn(u64, Event<'_>) + Clone + 'static,
    before_reply: impl AsyncFn() + Clone + 'static,
) {
    let requests = Rc::new(Cell::new(0));
    while let Ok((stream, _)) = listener.accept().await {
        tokio::task::spawn_local(connection(
            stream,
            requests.clone(),
            seen.clone(),
            before_reply.clone(),
        ));
    }
}

async fn connection(
    mut stream: TcpStream,
    requests: Rc<Cell<u64>>,
    seen: impl Fn(u64, Event<'_>),
    before_reply: impl AsyncFn(),
) -> Option<()> {
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
        let text = std::str::from_utf8(&buffer[..head_len]).ok()?;
        let mut rest: usize = header(text, "content-length")?.parse().ok()?;
        let number = requests.replace(requests.get() + 1);
        let head = Head {
            path: text.split(' ').nth(1)?,
            is_gzip: header(text, "content-encoding").is_some_and(|encoding| encoding == "gzip"),
        };
        seen(number, Event::Head(head));
        buffer.drain(..head_len);
        while rest > 0 {
            let count = rest.min(buffer.len());
            seen(number, Event::Piece(&buffer[..count]));
            buffer.drain(..count);
            rest -= count;
            if rest > 0 && stream.read_buf(&mut buffer).await.ok()? == 0 {
                return None;
            }
        }
        seen(number, Event::End);
        before_reply().await;
        stream.write_all(REPLY).await.ok()?;
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let lines = head.lines().filter_map(|line| line.split_once(':'));
    let mut found = lines.filter(|(found, _)| found.eq_ignore_ascii_case(name));
    found.next().map(|(_, value)| value.trim())
}
