//! A server that acknowledges everything at once and keeps nothing. What remains when `load` runs against
//! it is the price of the generator, of the kernel and of HTTP itself. With a log, it is what any server costs that
//! loses nothing, before it looks at a single byte.

pub mod grpc;
pub mod http;
mod log;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use tokio::net::TcpListener;

use crate::{BenchError, pinned_runtime};
use log::Log;

/// What a server tells of a request, in this order. `Piece` as often as bytes come.
pub enum Event<'a> {
    Head(Head<'a>),
    Piece(&'a [u8]),
    /// Whole, and about to be acknowledged.
    End,
}

#[derive(Clone, Copy)]
pub struct Head<'a> {
    pub path: &'a str,
    pub is_gzip: bool,
}

#[derive(Args)]
pub struct DrainArguments {
    /// Port 0 is resolved and printed
    #[arg(long, default_value = "127.0.0.1:4317")]
    grpc: SocketAddr,
    #[arg(long, default_value = "127.0.0.1:4318")]
    http: SocketAddr,
    /// Core to run on
    #[arg(long)]
    cpu: Option<usize>,
    /// A new file of 1 GiB for bodies, where O_DIRECT works: they are copied into blocks, written and synced before
    /// the reply, those of one sync together. It is gone when the drain ends
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
}

/// Serves until it is killed.
pub fn run(arguments: &DrainArguments) -> Result<(), BenchError> {
    let runtime = pinned_runtime(arguments.cpu)?;
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let log = arguments
            .log
            .as_deref()
            .map(|path| Log::create(path, arguments.cpu));
        let log = log.transpose()?;
        let grpc = listen(arguments.grpc).await?;
        let http = listen(arguments.http).await?;
        let address = |listener: &TcpListener| listener.local_addr().map(|address| address.to_string());
        let named = |error| BenchError::environment("own address")(error);
        eprintln!(
            "tailkeep-bench drain ready grpc={} http={} pid={}",
            address(&grpc).map_err(named)?,
            address(&http).map_err(named)?,
            std::process::id()
        );
        match log {
            Some(log) => {
                let appending = log.clone();
                let append = move |_: u64, event: Event<'_>| {
                    if let Event::Piece(bytes) = event {
                        appending.append(bytes);
                    }
                };
                let synced = async move || log.synced().await;
                tokio::join!(
                    grpc::serve(grpc, append.clone(), synced.clone()),
                    http::serve(http, append, synced)
                );
            }
            None => {
                let ignore = |_: u64, _: Event<'_>| {};
                tokio::join!(
                    grpc::serve(grpc, ignore, at_once),
                    http::serve(http, ignore, at_once)
                );
            }
        }
        Ok(())
    })
}

/// Nothing has to happen before a reply.
pub async fn at_once() {}

pub async fn listen(address: SocketAddr) -> Result<TcpListener, BenchError> {
    TcpListener::bind(address)
        .await
        .map_err(BenchError::environment(format!("listen on {address}")))
}
