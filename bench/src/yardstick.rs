//! What this machine does with bytes that any server of OTLP must handle: the unit in which figures of different
//! machines, or of one machine on different days, can be compared.
//!
//! | figure | work |
//! |---|---|
//! | decode | prost decodes the requests that `load` sends, and drops what it made |
//! | copy | 256 KiB from one place to the next of 256 MiB: cold bytes to cold bytes |
//! | load | one dependent load of a random cache line of 128 MiB |
//! | touch | the first write to a page of 4 KiB that the process has just been given |
//! | receive | bytes over a loopback connection, 64 KiB a read, in processor time of the reader |
//!
//! Each but the last, which goes on for a second, is the best of several rounds: a machine can be disturbed, not hurried.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use clap::Args;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;
use quanta::Instant;
use serde_json::json;

use crate::load::batch::{Builder, PREFIX_LEN, Shape};
use crate::{BenchError, pin};

const ROUNDS: usize = 5;
const MIB: usize = 1 << 20;

#[derive(Args)]
pub struct YardstickArguments {
    /// Core to run on
    #[arg(long)]
    cpu: Option<usize>,
    /// Core of the sender that `receive` needs
    #[arg(long)]
    sender_cpu: Option<usize>,
    /// Mean bytes of a span message
    #[arg(long, default_value_t = 380)]
    span_bytes: usize,
}

/// Prints one JSON object.
pub fn run(arguments: &YardstickArguments) -> Result<(), BenchError> {
    pin("--cpu", arguments.cpu)?;
    let shape = Shape {
        span_bytes: arguments.span_bytes,
        spans_per_trace: 8,
        spans_per_request: 512,
        requests_per_trace: 1,
        error_ratio: 0.03,
        slow_ratio: 0.01,
        services: 1,
        interleave: 1,
        trace_ids: Default::default(),
    };
    shape.check().map_err(BenchError::Usage)?;
    let decode = best(|| decode_seconds_per_span(&shape));
    let copy = best(copy_seconds_per_byte);
    let load = best(load_seconds);
    let touch = best(touch_seconds);
    let receive = receive_seconds_per_byte(arguments.sender_cpu)?;
    let report = json!({
        "decode_ns_per_span": round(decode * 1e9),
        "copy_gb_per_second": round(1e-9 / copy),
        "load_ns": round(load * 1e9),
        "touch_ns": round(touch * 1e9),
        "receive_gb_per_cpu_second": round(1e-9 / receive),
    });
    println!("{report:#}");
    Ok(())
}

fn best(mut measure: impl FnMut() -> f64) -> f64 {
    (0..ROUNDS).map(|_| measure()).fold(f64::INFINITY, f64::min)
}

fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

fn decode_seconds_per_span(shape: &Shape) -> f64 {
    let mut builder = Builder::new(shape, 1);
    let batches: Vec<_> = (0..32).flat_map(|_| builder.group()).collect();
    let spans: usize = batches.iter().map(|batch| batch.span_count()).sum();
    let begun = Instant::now();
    for batch in &batches {
        let request = ExportTraceServiceRequest::decode(&batch.bytes[PREFIX_LEN..]);
        std::hint::black_box(request.expect("what the generator encodes is OTLP"));
    }
    begun.elapsed().as_secs_f64() / spans as f64
}

fn copy_seconds_per_byte() -> f64 {
    const PIECE: usize = 256 << 10;
    let from = vec![1u8; 256 * MIB];
    let mut to = vec![2u8; 256 * MIB];
    let begun = Instant::now();
    for (to, from) in to.chunks_exact_mut(PIECE).zip(from.chunks_exact(PIECE)) {
        to.copy_from_slice(from);
    }
    std::hint::black_box(&to);
    begun.elapsed().as_secs_f64() / to.len() as f64
}

/// Lines in one cycle of random order, so that each load waits for the one before.
fn load_seconds() -> f64 {
    const LINE: usize = 8;
    const LINES: usize = 128 * MIB / 64;
    const LOADS: usize = 1 << 20;
    let mut order: Vec<usize> = (0..LINES).collect();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for at in (1..LINES).rev() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        order.swap(at, (state % at as u64) as usize);
    }
    let mut lines = vec![0usize; LINES * LINE];
    for at in 0..LINES {
        lines[order[at] * LINE] = order[(at + 1) % LINES] * LINE;
    }
    let begun = Instant::now();
    let mut at = 0;
    for _ in 0..LOADS {
        at = lines[at];
    }
    std::hint::black_box(at);
    begun.elapsed().as_secs_f64() / LOADS as f64
}

fn touch_seconds() -> f64 {
    const PAGE: usize = 4 << 10;
    // Larger than any allocator keeps for itself, so the pages come from the kernel.
    let mut fresh: Vec<u8> = Vec::with_capacity(64 * MIB);
    let begun = Instant::now();
    for page in fresh.spare_capacity_mut().iter_mut().step_by(PAGE) {
        page.write(1);
    }
    begun.elapsed().as_secs_f64() / (fresh.capacity() / PAGE) as f64
}

/// Until a second has passed; the sender goes as fast as it can.
fn receive_seconds_per_byte(sender_cpu: Option<usize>) -> Result<f64, BenchError> {
    let listener =
        TcpListener::bind(("127.0.0.1", 0)).map_err(BenchError::environment("listen on 127.0.0.1"))?;
    let address = listener
        .local_addr()
        .map_err(BenchError::environment("own address"))?;
    let send = move || {
        pin("--sender-cpu", sender_cpu)?;
        let mut to = TcpStream::connect(address).map_err(BenchError::environment("connect"))?;
        let bytes = vec![1; 256 << 10];
        // Ends when the reader hangs up.
        while to.write_all(&bytes).is_ok() {}
        Ok::<(), BenchError>(())
    };
    std::thread::scope(|scope| {
        let sender = scope.spawn(send);
        let received = receive(&listener);
        sender.join().expect("the sender does not panic")?;
        received
    })
}

fn receive(listener: &TcpListener) -> Result<f64, BenchError> {
    let (mut from, _) = listener
        .accept()
        .map_err(BenchError::environment("accept a connection"))?;
    let mut buffer = vec![0; 64 << 10];
    let mut received = 0u64;
    let (begun, before) = (Instant::now(), cpu_time());
    while begun.elapsed() < Duration::from_secs(1) {
        received += from.read(&mut buffer).map_err(BenchError::environment("read"))? as u64;
    }
    Ok((cpu_time() - before).as_secs_f64() / received as f64)
}

/// Of this thread.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
