//! Does somebody listen where kept traces are to go?

use super::finding::Finding;
use crate::config::options::{OtlpExporterOptions, OtlpProtocol};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

/// A destination that answers later than this is slow, which `run` does not mind.
const PATIENCE: Duration = Duration::from_secs(1);

/// Connects and hangs up. Nobody there is a warning: `run` starts all the same, and traces wait in the log.
pub fn check(id: &str, otlp: &OtlpExporterOptions) -> Finding {
    let (OtlpProtocol::Grpc { endpoint, .. } | OtlpProtocol::Http { endpoint, .. }) = &otlp.protocol;
    let check = format!("destination {id}");
    let resolved = (endpoint.host.as_str(), endpoint.port).to_socket_addrs();
    let addresses: Vec<_> = match resolved {
        Ok(addresses) => addresses.collect(),
        Err(error) => {
            let found = format!("{endpoint}: {error}");
            let help = format!(
                "correct exporters.{id}.endpoint, or the name service; until then traces wait in the log"
            );
            return Finding::warning(check, found, help);
        }
    };
    let mut last_error = "the name has no address".to_string();
    for address in addresses {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(_) => return Finding::fine(check, format!("{endpoint} answers")),
            Err(error) => last_error = error.to_string(),
        }
    }
    Finding::warning(
        check,
        format!("{endpoint}: {last_error}"),
        "start it, or correct the endpoint; until then traces wait in the log",
    )
}
