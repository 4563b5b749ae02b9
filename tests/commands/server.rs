//! The executable as a server: started, fed over HTTP, asked and stopped.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tempfile::TempDir;

/// For things that take moments on an idle machine.
const PATIENCE: Duration = Duration::from_secs(120);

pub fn binary() -> &'static str {
    env!("CARGO_BIN_EXE_tailkeep")
}

/// On the disk of the build: `/tmp` may be a tmpfs, on which no log is written.
pub fn directory() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory")
}

#[allow(clippy::disallowed_methods, reason = "a test waits for other processes")]
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < PATIENCE, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// SIGTERM to a child that was not reaped yet.
pub fn terminate(child: &Child) {
    let pid = Pid::from_raw(child.id() as i32).expect("a process id");
    kill_process(pid, Signal::TERM).expect("it is ours");
}

pub struct Done {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

pub fn run(command: &mut Command) -> Done {
    let output = command.stdin(Stdio::null()).output().expect("it starts");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Done {
        code: output.status.code().expect("it was not killed"),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

/// `tailkeep run`, keeping everything.
pub struct Server {
    directory: TempDir,
    child: Child,
    pub http: String,
    pub admin: String,
}

impl Server {
    pub fn start() -> Server {
        Server::start_with(&[])
    }

    /// With `--set` for each of `settings`; `DIR` in one is the server's directory.
    pub fn start_with(settings: &[&str]) -> Server {
        let directory = directory();
        let path = |name: &str| directory.path().join(name);
        let config = format!(
            "node: {{ data_dir: {data_dir:?} }}
receivers:
  otlp:
    protocols:
      grpc: {{ endpoint: \"127.0.0.1:0\" }}
      http: {{ endpoint: \"127.0.0.1:0\" }}
admin: {{ endpoint: \"127.0.0.1:0\" }}
wal: {{ min_free: 0% }}
tail_sampling: {{ decision_wait: 1s, policies: [{{ name: all, type: always_sample }}] }}
completion: {{ quiet: 100ms }}
exporters: {{ file: {{ path: {output:?}, flush_interval: 50ms }} }}
",
            data_dir = path("data"),
            output = path("kept.jsonl"),
        );
        fs::write(path("config.yaml"), config).expect("written");
        let stderr = File::create(path("stderr")).expect("a file");
        let mut command = Command::new(binary());
        command.arg("run").arg("--config").arg(path("config.yaml"));
        let place = directory.path().to_str().expect("UTF-8");
        for setting in settings {
            command.arg("--set").arg(setting.replace("DIR", place));
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
        let child = command.spawn().expect("it starts");
        let mut server = Server {
            directory,
            child,
            http: String::new(),
            admin: String::new(),
        };
        wait_until("the server is ready", || {
            let said = fs::read_to_string(server.path("stderr")).expect("a file");
            let ready = said
                .split_inclusive('\n')
                .find(|line| line.starts_with("tailkeep ready ") && line.ends_with('\n'));
            let word = |key| ready.and_then(|line| line.split(' ').find_map(|word| word.strip_prefix(key)));
            let http = word("http=");
            server.http = http.unwrap_or_default().to_owned();
            server.admin = word("admin=").unwrap_or_default().to_owned();
            let ended = server.child.try_wait().expect("a child");
            assert!(ended.is_none() || http.is_some(), "it ended:\n{said}");
            http.is_some()
        });
        server
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn data_dir(&self) -> PathBuf {
        self.path("data")
    }

    /// Spans of one trace with these numbers as ids, the first being the parent of the others.
    pub fn send(&self, trace: &str, numbers: RangeInclusive<u64>) {
        let root = *numbers.start();
        let spans = numbers.map(|number| {
            let parent = if number == root { String::new() } else { format!("{root:016x}") };
            json!({ "traceId": trace, "spanId": format!("{number:016x}"), "parentSpanId": parent, "name": "work",
                    "startTimeUnixNano": "1000000", "endTimeUnixNano": "2000000" })
        });
        let scope_spans = json!([{ "spans": spans.collect::<Vec<_>>() }]);
        let body = json!({ "resourceSpans": [{ "scopeSpans": scope_spans }] }).to_string();
        let mut stream = TcpStream::connect(&self.http).expect("it listens");
        let head = format!(
            "POST /v1/traces HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n",
            self.http,
            body.len()
        );
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        stream.write_all((head + &body).as_bytes()).expect("it reads");
        let mut reply = String::new();
        stream.read_to_string(&mut reply).expect("it replies");
        assert!(reply.starts_with("HTTP/1.1 200 "), "{reply}");
    }

    pub fn exported_lines(&self) -> usize {
        fs::read_to_string(self.path("kept.jsonl")).map_or(0, |text| text.lines().count())
    }

    /// `tailkeep COMMAND …` about this server.
    pub fn ask(&self, command: &str, arguments: &[&str]) -> Done {
        run(Command::new(binary())
            .arg(command)
            .args(["--endpoint", &self.admin])
            .args(arguments))
    }

    /// A request to the admin port: status, headers in lower case, body.
    pub fn get(&self, path: &str, headers: &str) -> (u16, String, String) {
        let mut stream = TcpStream::connect(&self.admin).expect("it listens");
        let head = format!("GET {path} HTTP/1.1\r\nConnection: close\r\n{headers}\r\n");
        stream.write_all(head.as_bytes()).expect("it reads");
        let mut reply = String::new();
        stream.read_to_string(&mut reply).expect("it answers");
        let (head, body) = reply.split_once("\r\n\r\n").expect("a head");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        (status.expect("a status"), head.to_lowercase(), body.to_owned())
    }

    pub fn cat(&self, arguments: &[&str]) -> Done {
        run(Command::new(binary())
            .arg("cat")
            .arg("--data-dir")
            .arg(self.data_dir())
            .args(arguments))
    }

    pub fn stop(&mut self) {
        terminate(&self.child);
        assert!(self.child.wait().expect("a child").success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
