//! A node gives everything away and ends.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;

use crate::http::{self, Client};
use crate::process::{Place, wait_for};
use crate::traffic::{orphan, request, span, trace_id};

/// A destination that takes every request from the moment it is there.
fn begin_sink(address: SocketAddr) -> Arc<AtomicU64> {
    let spans = Arc::new(AtomicU64::new(0));
    let listener = TcpListener::bind(address).expect("its port is free again");
    let count = spans.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let count = count.clone();
            std::thread::spawn(move || serve(stream, &count));
        }
    });
    spans
}

fn serve(stream: TcpStream, spans: &AtomicU64) -> Option<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).ok()? == 0 {
                return None;
            }
            let line = line.trim_end().to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().ok()?;
            } else if line.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).ok()?;
        let request = ExportTraceServiceRequest::decode(&body[..]).expect("OTLP");
        let scopes = request
            .resource_spans
            .iter()
            .flat_map(|resource| &resource.scope_spans);
        let count: usize = scopes.map(|scope| scope.spans.len()).sum();
        spans.fetch_add(count as u64, Ordering::Relaxed);
        let reply = "HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n";
        stream.get_mut().write_all(reply.as_bytes()).ok()?;
    }
}

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("bound")
}

#[test]
fn a_drained_node_decides_everything_waits_for_its_destination_and_ends() {
    let address = free_address();
    let mut place = Place::new("drain")
        .with("completion.quiet", "10s")
        .with("node.cores", "2");
    place.exporters = format!(
        ", otlp_http/away: {{ endpoint: \"http://{address}\", compression: none, retry_on_failure: {{ initial_interval: 50ms, max_interval: 200ms }} }}"
    );
    let mut tailkeep = place.start();
    let mut client = Client::new(tailkeep.http);
    for number in 1..=50 {
        client.export(&request(
            "a",
            vec![span(trace_id(number), 0, 0), orphan(trace_id(number), 1, 0)],
        ));
    }
    let (code, _) = http::post(tailkeep.admin, "/api/v1/drain");
    assert_eq!(code, 202);
    let status = wait_for("everything to be decided", || {
        let status = tailkeep.status();
        (status["traces"]["pending"] == 0).then_some(status)
    });
    assert_eq!(status["state"], "draining");
    assert_eq!(status["traces"]["closed"]["shutdown"], 50);
    assert_eq!(tailkeep.ask("/readyz").0, 503);
    let refused = client.try_export(&request("a", vec![span(trace_id(99), 0, 0)]).encode_to_vec());
    assert_eq!(refused.expect("a reply"), 503);
    let sent = begin_sink(address);
    let code = tailkeep.process.wait_exit().code();
    assert_eq!(code, Some(0), "{}", tailkeep.process.log());
    assert_eq!(sent.load(Ordering::Relaxed), 100);
    assert_eq!(place.output().spans.len(), 100);
}

/// What a host left behind is given away by another one: other name, other number of cores.
#[test]
fn run_drain_empties_a_directory_from_another_host() {
    let mut place = Place::new("run-drain")
        .with("completion.quiet", "20s")
        .with("node.cores", "3")
        .with("node.name", "the-host-before");
    let tailkeep = place.start();
    let mut clients: Vec<Client> = (0..6).map(|_| Client::new(tailkeep.http)).collect();
    for number in 1..=60u64 {
        let client = &mut clients[number as usize % 6];
        client.export(&request("a", vec![span(trace_id(number), 0, 0)]));
    }
    tailkeep.kill();
    place.set("node.cores", "1");
    place.set("node.name", "another-host");
    place.drains = true;
    let (code, log) = place.run_to_exit();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("tailkeep draining node=another-host"), "{log}");
    assert_eq!(place.output().keys().len(), 60);
    // There is nothing left to give away.
    let (code, log) = place.run_to_exit();
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(place.output().spans.len(), 60);
}
