//! The engine of the demo: this executable once more, as `run`, on ports and in a directory of its own.
//!
//! A process and not a thread, so that what the demo shows is what `run` does. It is ended with the demo, and
//! its directory goes too, however the demo ends.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::{Interrupts, pause};
use crate::commands::{Failure, LogFlags, LogLevel};
use crate::io::clock::Clock;
use crate::io::datadir::{DataDir, DataDirError, random_u64};

const READY_TIME: Duration = Duration::from_secs(30);
/// Between SIGTERM and SIGKILL.
const STOP_TIME: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);
const OUTPUT_NAME: &str = "tailkeep-demo.jsonl";

/// A temporary directory of the demo. Dropping it removes it.
pub struct Scratch {
    path: PathBuf,
    /// Where kept traces go: beside it, and it stays.
    pub output: PathBuf,
}

/// A running engine. Dropping it ends it.
pub struct Engine {
    child: Child,
    log: PathBuf,
    pub addresses: Addresses,
    pub ready: String,
}

/// Where it listens.
#[derive(Clone, Debug)]
pub struct Addresses {
    pub grpc: String,
    pub http: String,
    pub admin: String,
}

/// How an engine is to be started.
pub struct Start<'a> {
    pub scratch: &'a Scratch,
    pub flags: &'a LogFlags,
    /// `tail_sampling.decision_wait`.
    pub decision_wait: &'static str,
}

impl Scratch {
    /// In the first place that has a disk beneath it: here, or where temporary files go.
    pub fn new() -> Result<Scratch, Failure> {
        let mut refused = Vec::new();
        for base in [
            PathBuf::from("."),
            std::env::temp_dir(),
            PathBuf::from("/var/tmp"),
        ] {
            match Scratch::below(&base) {
                Ok(scratch) => return Ok(scratch),
                Err(error) => refused.push(format!("\n  {error}")),
            }
        }
        refused.dedup();
        Err(Failure::Environment(format!(
            "the demo found no place for its log; run it in a directory on a disk that you may write to:{}",
            refused.concat()
        )))
    }

    fn below(base: &Path) -> Result<Scratch, DataDirError> {
        let path = base.join(format!("tailkeep-demo-{:08x}", random_u64() as u32));
        let io = |error| DataDirError::Io {
            path: path.clone(),
            error,
        };
        DirBuilder::new().mode(0o700).create(&path).map_err(io)?;
        let scratch = Scratch {
            output: base.join(OUTPUT_NAME),
            path,
        };
        // Refuses what `run` would refuse, before there is anything to clear away.
        drop(DataDir::open(&scratch.data_dir(), false)?);
        let io = |error| DataDirError::Io {
            path: scratch.output.clone(),
            error,
        };
        begin_output(&scratch.output).map_err(io)?;
        Ok(scratch)
    }

    fn data_dir(&self) -> PathBuf {
        self.path.join("data")
    }
}

/// A new file in place of the last demo's; what a link points to is left alone.
fn begin_output(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map(drop)
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            eprintln!("warning: {}: {error}; remove it by hand", self.path.display());
        }
    }
}

impl Engine {
    /// Starts it and waits until it is ready: on any ports, or on those where clients look for it.
    pub fn start(
        start: &Start<'_>,
        addresses: Option<&Addresses>,
        interrupts: &Interrupts,
    ) -> Result<Engine, Failure> {
        let Start {
            scratch,
            flags,
            decision_wait,
        } = start;
        let any = Addresses::any();
        let addresses = addresses.unwrap_or(&any);
        let environment = |what: &Path, error: io::Error| {
            Failure::Environment(format!("the engine did not start: {}: {error}", what.display()))
        };
        let config = scratch.path.join("demo.yaml");
        fs::write(
            &config,
            configuration(&scratch.data_dir(), &scratch.output, addresses, decision_wait)?,
        )
        .map_err(|error| environment(&config, error))?;
        let log = scratch
            .path
            .join(format!("engine-{:08x}.log", random_u64() as u32));
        let stderr = File::create(&log).map_err(|error| environment(&log, error))?;
        // Its usual remarks on starting and stopping would stand between the demo's own.
        let level = match flags.log_level {
            LogLevel::Info => LogLevel::Warn,
            level => level,
        };
        let executable =
            std::env::current_exe().map_err(|error| environment(Path::new("/proc/self/exe"), error))?;
        let mut command = Command::new(&executable);
        command
            .arg("run")
            .arg("--config")
            .arg(&config)
            .arg("--log-level")
            .arg(level_name(level));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
        // Ctrl-C is for the demo, which then ends the engine.
        command.process_group(0);
        let child = command.spawn().map_err(|error| environment(&executable, error))?;
        let mut engine = Engine {
            child,
            log,
            addresses: any,
            ready: String::new(),
        };
        engine.wait_ready(interrupts)?;
        Ok(engine)
    }

    fn wait_ready(&mut self, interrupts: &Interrupts) -> Result<(), Failure> {
        let clock = Clock::new();
        let until = clock.instant().plus(READY_TIME);
        loop {
            let ended = self.child.try_wait().ok().flatten();
            let text = self.said();
            let complete = text.rsplit_once('\n').map_or("", |(lines, _)| lines);
            if let Some(ready) = complete.lines().find(|line| line.starts_with("tailkeep ready ")) {
                let word = |key: &str| {
                    ready
                        .split(' ')
                        .find_map(|word| word.strip_prefix(key))
                        .map(str::to_owned)
                };
                if let (Some(grpc), Some(http), Some(admin)) = (word("grpc="), word("http="), word("admin="))
                {
                    self.addresses = Addresses { grpc, http, admin };
                    self.ready = ready.to_owned();
                    return Ok(());
                }
            }
            let why = match ended {
                Some(status) => format!("it ended with {status}"),
                None if interrupts.stop() => "interrupted".to_owned(),
                None if clock.instant() >= until => {
                    format!("it was not ready within {} s", READY_TIME.as_secs())
                }
                None => {
                    pause(POLL);
                    continue;
                }
            };
            return Err(Failure::Environment(format!(
                "the engine did not start: {why}\n{}",
                text.trim_end()
            )));
        }
    }

    /// What it wrote to stderr.
    fn said(&self) -> String {
        fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// What it had to remark, without the ready line.
    pub fn remarks(&self) -> String {
        let text = self.said();
        let lines = text.lines().filter(|line| !line.starts_with("tailkeep ready "));
        lines.map(|line| format!("engine: {line}\n")).collect()
    }

    /// SIGKILL: it has no moment for farewell. Returns when it is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Ends it. `interrupts`: a second one does not wait.
    pub fn stop(&mut self, interrupts: &Interrupts) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        // Not reaped yet, so the id is still its own.
        let Some(pid) = Pid::from_raw(self.child.id() as i32) else {
            return;
        };
        let _ = kill_process(pid, Signal::TERM);
        let clock = Clock::new();
        let until = clock.instant().plus(STOP_TIME);
        while matches!(self.child.try_wait(), Ok(None)) {
            if clock.instant() >= until || interrupts.again() {
                return self.kill();
            }
            pause(POLL);
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.kill();
        }
    }
}

impl Addresses {
    fn any() -> Addresses {
        let any = || "127.0.0.1:0".to_owned();
        Addresses {
            grpc: any(),
            http: any(),
            admin: any(),
        }
    }
}

fn level_name(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    }
}

fn configuration(
    data_dir: &Path,
    output: &Path,
    addresses: &Addresses,
    decision_wait: &str,
) -> Result<String, Failure> {
    // A double-quoted YAML scalar is a JSON string; `$` begins a substitution.
    let quoted = |path: &Path| match path.to_str() {
        Some(text) => Ok(serde_json::Value::from(text.replace('$', "$$")).to_string()),
        None => Err(Failure::Environment(format!(
            "{path:?} is not UTF-8; run the demo in another directory"
        ))),
    };
    Ok(format!(
        "node: {{ data_dir: {data_dir} }}
receivers:
  otlp:
    protocols:
      grpc: {{ endpoint: \"{grpc}\", max_recv_msg_size_mib: 4 }}
      http: {{ endpoint: \"{http}\", max_request_body_size: 4MiB }}
wal: {{ segment_size: 8MiB, max_size: 512MiB, min_free: 64MiB }}
memory: {{ limit: 512MiB }}
admin: {{ endpoint: \"{admin}\" }}
tail_sampling:
  decision_wait: {decision_wait}
  policies:
    - {{ name: errors, type: status_code, status_code: {{ status_codes: [ERROR] }} }}
    - {{ name: slow, type: latency, latency: {{ threshold_ms: 1000 }} }}
    - {{ name: baseline, type: probabilistic, probabilistic: {{ sampling_percentage: 5 }} }}
exporters:
  file: {{ path: {output}, flush_interval: 200ms }}
",
        data_dir = quoted(data_dir)?,
        output = quoted(output)?,
        grpc = addresses.grpc,
        http = addresses.http,
        admin = addresses.admin,
    ))
}
