//! A running tailkeep and the directory it works in.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::http;
use crate::output::Output;

/// As long as something may take that should happen soon on a machine that is busy with other things.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks.
const POLL: Duration = Duration::from_millis(10);

/// Polls until `look` gives something.
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited too long for: {what}");
        std::thread::sleep(POLL);
    }
}

/// A directory of one test and the configuration in it. It goes away when the test has passed.
pub struct Place {
    pub path: PathBuf,
    /// The output file.
    pub kept: PathBuf,
    /// Flow YAML of the list.
    pub policies: String,
    pub settings: Vec<(&'static str, String)>,
    /// Flow YAML: exporters beside the file.
    pub exporters: String,
    /// `run --drain`
    pub drains: bool,
}

impl Place {
    /// Keeps everything, closes traces soon, flushes at once.
    pub fn new(name: &str) -> Place {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("e2e-{}-{number}-{name}", std::process::id()));
        fs::create_dir_all(&path).expect("a directory");
        let settings = [
            ("node.name", "node-under-test"),
            ("receivers.otlp.protocols.grpc.endpoint", "127.0.0.1:0"),
            ("receivers.otlp.protocols.http.endpoint", "127.0.0.1:0"),
            ("admin.endpoint", "127.0.0.1:0"),
            ("wal.segment_size", "4MiB"),
            ("receivers.otlp.protocols.grpc.max_recv_msg_size_mib", "2"),
            ("receivers.otlp.protocols.http.max_request_body_size", "2MiB"),
            ("wal.max_size", "256MiB"),
            // Tests do not fail because somebody filled the disk to 95 %.
            ("wal.min_free", "1MiB"),
            ("memory.limit", "256MiB"),
            ("tail_sampling.decision_wait", "60s"),
            ("completion.quiet", "200ms"),
        ];
        Place {
            kept: path.join("kept.jsonl"),
            path,
            policies: "[{ name: everything, type: always_sample }]".to_owned(),
            settings: settings.map(|(key, value)| (key, value.to_owned())).into(),
            exporters: String::new(),
            drains: false,
        }
    }

    pub fn with(mut self, key: &'static str, value: &str) -> Place {
        self.set(key, value);
        self
    }

    pub fn set(&mut self, key: &'static str, value: &str) {
        self.settings.retain(|(known, _)| *known != key);
        self.settings.push((key, value.to_owned()));
    }

    pub fn policies(mut self, flow_yaml: &str) -> Place {
        self.policies = flow_yaml.to_owned();
        self
    }

    pub fn errors_only(self) -> Place {
        self.policies("[{ name: errors, type: status_code, status_code: { status_codes: [ERROR] } }]")
    }

    pub fn data(&self) -> PathBuf {
        self.path.join("data")
    }

    pub fn kept(&self) -> PathBuf {
        self.kept.clone()
    }

    pub fn output(&self) -> Output {
        Output::read(&self.kept())
    }

    /// Segment files of the log, oldest first.
    pub fn segments(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.data().join("log-00")).expect("the log is there");
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("readable").path()).collect();
        paths.sort();
        paths
    }

    /// As it is now; a running process reads it when it is asked to.
    pub fn write_configuration(&self) {
        let config = format!(
            "node: {{ data_dir: {data:?} }}\ntail_sampling: {{ policies: {policies} }}\n\
             exporters: {{ file: {{ path: {kept:?}, flush_interval: 20ms }}{exporters} }}\n",
            data = self.data(),
            policies = self.policies,
            kept = self.kept(),
            exporters = self.exporters,
        );
        fs::write(self.configuration(), config).expect("written");
    }

    fn configuration(&self) -> PathBuf {
        self.path.join("tailkeep.yaml")
    }

    fn command(&self) -> Command {
        self.write_configuration();
        let path = self.configuration();
        let mut command = Command::new(env!("CARGO_BIN_EXE_tailkeep"));
        command.arg("run").arg("--config").arg(&path);
        if self.drains {
            command.arg("--drain");
        }
        for (key, value) in &self.settings {
            command.arg("--set").arg(format!("{key}={value}"));
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command
    }

    /// Starts it and waits until it is ready.
    pub fn start(&self) -> Tailkeep {
        let tailkeep = self.spawn();
        match tailkeep.wait_ready() {
            Ok(ready) => ready,
            Err(mut failed) => panic!("not ready: {}", failed.log()),
        }
    }

    /// Starts it and does not wait.
    pub fn spawn(&self) -> Starting {
        let mut child = self.command().spawn().expect("the binary starts");
        let stderr = BufReader::new(child.stderr.take().expect("piped"));
        let lines: Arc<Mutex<Vec<String>>> = Arc::default();
        let sink = lines.clone();
        let reader = std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                sink.lock().expect("unpoisoned").push(line);
            }
        });
        Starting {
            child,
            lines,
            reader: Some(reader),
        }
    }

    /// Runs it where it is expected to end by itself; exit code and its own log.
    pub fn run_to_exit(&self) -> (Option<i32>, String) {
        let mut starting = self.spawn();
        let status = starting.wait_exit();
        (status.code(), starting.log())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// A process that is not known to be ready. Killed when dropped.
pub struct Starting {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
}

impl Starting {
    fn wait_ready(mut self) -> Result<Tailkeep, Starting> {
        let ended = wait_for("the ready line", || {
            let line = self
                .lines
                .lock()
                .expect("unpoisoned")
                .iter()
                .find(|line| is_ready_line(line))
                .cloned();
            match line {
                Some(line) => Some(Ok(line)),
                None => self.child.try_wait().expect("waited").map(Err),
            }
        });
        let Ok(line) = ended else { return Err(self) };
        let address = |key: &str| -> SocketAddr {
            let word = line
                .split(' ')
                .find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
            word.unwrap_or_else(|| panic!("no {key} in {line:?}"))
                .parse()
                .expect("an address")
        };
        Ok(Tailkeep {
            grpc: address("grpc"),
            http: address("http"),
            admin: address("admin"),
            process: self,
        })
    }

    /// Its standard error so far; all of it once it has ended.
    pub fn log(&mut self) -> String {
        if self.child.try_wait().expect("waited").is_some()
            && let Some(reader) = self.reader.take()
        {
            reader.join().expect("the reader ends with the pipe");
        }
        self.lines.lock().expect("unpoisoned").join("\n")
    }

    pub fn wait_exit(&mut self) -> ExitStatus {
        wait_for("the process to end", || self.child.try_wait().expect("waited"))
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- log of process {} ---\n{}", self.child.id(), self.log());
        }
    }
}

fn is_ready_line(line: &str) -> bool {
    line.starts_with("tailkeep ready ")
}

/// A process that serves. Killed when dropped.
pub struct Tailkeep {
    pub grpc: SocketAddr,
    pub http: SocketAddr,
    pub admin: SocketAddr,
    pub process: Starting,
}

impl Tailkeep {
    /// SIGTERM, and its exit code.
    pub fn stop(mut self) -> (Option<i32>, String) {
        self.signal(rustix::process::Signal::TERM);
        let status = self.process.wait_exit();
        (status.code(), self.process.log())
    }

    /// SIGTERM; it must end well.
    pub fn stop_well(self) -> String {
        let (code, log) = self.stop();
        assert_eq!(code, Some(0), "{log}");
        assert!(!log.contains("panicked"), "{log}");
        log
    }

    pub fn kill(mut self) {
        self.process.child.kill().expect("it runs");
        self.process.child.wait().expect("it ends");
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.process.child);
        rustix::process::kill_process(pid, signal).expect("it runs");
    }

    /// A document of the admin port.
    pub fn ask(&self, path: &str) -> (u16, Value) {
        let (status, body) = http::get(self.admin, path);
        let value = serde_json::from_slice(&body);
        (
            status,
            value.unwrap_or_else(|_| panic!("{path}: {}", String::from_utf8_lossy(&body))),
        )
    }

    /// `None` while nobody answers: cores start again.
    pub fn try_status(&self) -> Option<Value> {
        let (code, body) = http::try_get(self.admin, "/api/v1/status").ok()?;
        (code == 200).then(|| serde_json::from_slice(&body).ok())?
    }

    pub fn status(&self) -> Value {
        let (code, status) = self.ask("/api/v1/status");
        assert_eq!(code, 200, "{status}");
        status
    }

    /// Waits until every trace is decided and every kept span is with the exporter.
    pub fn wait_settled(&self) -> Value {
        wait_for("all decided and exported", || {
            let status = self.status();
            let idle = status["traces"]["pending"] == 0 && status["exporters"][0]["queued_items"] == 0;
            // What was just decided is queued when its verdict is durable.
            let exported =
                status["exporters"][0]["sent"].as_u64() >= status["signals"]["spans"]["kept"].as_u64();
            (idle && exported).then_some(status)
        })
    }
}
