//! A server that acknowledges everything at once and keeps nothing. What remains when `load` runs against
//! it is the price of the generator, of the kernel and of HTTP itself.

pub mod grpc;
pub mod http;

use std::net::SocketAddr;

use clap::Args;
use tokio::net::TcpListener;

use crate::{BenchError, pinned_runtime};

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
}

/// Serves until it is killed.
pub fn run(arguments: &DrainArguments) -> Result<(), BenchError> {
    let runtime = pinned_runtime(arguments.cpu)?;
    tokio::task::LocalSet::new().block_on(&runtime, async {
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
        let ignore = |_: u64, _: Event<'_>| {};
        tokio::join!(grpc::serve(grpc, ignore), http::serve(http, ignore));
        Ok(())
    })
}

pub async fn listen(address: SocketAddr) -> Result<TcpListener, BenchError> {
    TcpListener::bind(address)
        .await
        .map_err(BenchError::environment(format!("listen on {address}")))
}
