//! The admin port as commands ask it: where it is, with which token, and what is said when it does not answer.

use std::io;
use std::path::PathBuf;

use clap::Args;
use serde_json::Value;

use super::configuration::{self, ConfigurationFlags};
use super::http::Client;
use super::show::plain;
use super::{Failure, path_text};
use crate::config::options::Endpoint;
use crate::config::units::parse_endpoint;

/// The contract's `admin.endpoint`.
const ENDPOINT: &str = "127.0.0.1:8245";

/// Which tailkeep is asked: one that a flag names, or the one of a configuration.
#[derive(Clone, Debug, Default, Args)]
pub struct AdminFlags {
    /// The admin port of the tailkeep that is asked [default: 127.0.0.1:8245, or that of --config]
    #[arg(long, value_name = "HOST:PORT")]
    pub endpoint: Option<String>,
    /// The file that its admin.token_file names
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// The configuration it runs with, for its endpoint and token; may be given several times
    #[arg(long, value_name = "FILE")]
    pub config: Vec<PathBuf>,
    /// One value, laid over the files
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

/// A tailkeep to be asked.
pub struct AdminPort {
    address: String,
    client: Client,
}

/// What it said.
pub struct Answer {
    pub status: u16,
    /// As it came.
    pub text: String,
    pub value: Value,
}

impl AdminFlags {
    pub fn open(&self) -> Result<AdminPort, Failure> {
        let configured = match self.config.is_empty() && self.set.is_empty() {
            true => None,
            false => {
                let flags = ConfigurationFlags {
                    config: self.config.clone(),
                    set: self.set.clone(),
                    data_dir: None,
                };
                Some(configuration::load(&flags)?.config.admin)
            }
        };
        let endpoint = match (&self.endpoint, &configured) {
            (Some(text), _) => parse_endpoint(text).map_err(|expected| {
                let found = text.escape_debug();
                Failure::Usage(format!("error: --endpoint: {expected}, found \"{found}\""))
            })?,
            (None, Some(admin)) => admin.endpoint.clone(),
            (None, None) => parse_endpoint(ENDPOINT).expect("the contract's own"),
        };
        if endpoint.port == 0 {
            return Err(Failure::Usage(format!(
                "error: admin.endpoint: {endpoint}: a port that the kernel chose is not in the configuration\n  \
                 help: say --endpoint HOST:PORT; the line `tailkeep ready … admin=HOST:PORT` of its log has it"
            )));
        }
        let token_file = self
            .token_file
            .clone()
            .or_else(|| configured.and_then(|admin| admin.token_file));
        let address = reachable(endpoint).to_string();
        let mut client = Client::new(&address);
        if let Some(path) = token_file {
            let failure = |why: String| Failure::Environment(format!("token file {}: {why}", path.display()));
            let text = std::fs::read_to_string(&path).map_err(|error| failure(error.to_string()))?;
            let token = text.trim();
            path_text("--token-file", &path)?;
            if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(failure("expected one word of visible ASCII".to_owned()));
            }
            client = client.with_token(token);
        }
        Ok(AdminPort { address, client })
    }
}

/// A server that listens everywhere is asked where it surely is.
fn reachable(endpoint: Endpoint) -> Endpoint {
    match endpoint.host.as_str() {
        "0.0.0.0" => Endpoint::new("127.0.0.1", endpoint.port),
        "::" => Endpoint::new("::1", endpoint.port),
        _ => endpoint,
    }
}

impl AdminPort {
    /// Any answer that is JSON and not about the token.
    pub fn ask(&mut self, path: &str) -> Result<Answer, Failure> {
        let address = &self.address;
        let reply = self
            .client
            .get(path)
            .map_err(|error| Failure::Environment(no_answer(address, &error)))?;
        let text = String::from_utf8_lossy(&reply.body).into_owned();
        let value = serde_json::from_slice::<Value>(&reply.body).unwrap_or_default();
        // Ours are documents, or complaints of the contract's form.
        let is_ours = match reply.status {
            200 => value.is_object(),
            _ => value["error"]["message"].is_string(),
        };
        if !is_ours {
            return Err(Failure::Environment(format!(
                "{address}: answered {}, and not as tailkeep does\n  help: this is no admin port of a tailkeep; \
                 its admin.endpoint is another one",
                reply.status
            )));
        }
        let answer = Answer {
            status: reply.status,
            text,
            value,
        };
        let help = match answer.status {
            401 => "give the file of its admin.token_file with --token-file FILE or --config FILE",
            403 => "without admin.token_file it tells this on a loopback address only; ask there, or set one",
            _ => return Ok(answer),
        };
        Err(Failure::Environment(format!(
            "{address}: {}\n  help: {help}",
            answer.complaint()
        )))
    }

    /// As [`AdminPort::ask`]; anything but 200 is a failure.
    pub fn ask_ok(&mut self, path: &str) -> Result<Answer, Failure> {
        let answer = self.ask(path)?;
        match answer.status {
            200 => Ok(answer),
            _ => Err(Failure::Environment(format!(
                "{}: {}",
                self.address,
                answer.complaint()
            ))),
        }
    }
}

impl Answer {
    /// Its `error.message`.
    fn complaint(&self) -> String {
        plain(self.value["error"]["message"].as_str().unwrap_or_default())
    }
}

fn no_answer(address: &str, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => format!(
            "{address}: nobody listens there\n  help: is a tailkeep running? Start one with `tailkeep run`. If its \
             admin.endpoint is another one, say --endpoint HOST:PORT or --config FILE"
        ),
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => format!(
            "{address}: no answer in time\n  help: the host may be unreachable, or the process stopped; \
             look at its log"
        ),
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof | io::ErrorKind::Unsupported => format!(
            "{address}: did not answer as an HTTP server does\n  help: is this the port of admin.endpoint? \
             OTLP ports are others"
        ),
        _ => format!("{address}: {error}"),
    }
}
