//! Where lines go: results to stdout, remarks to stderr. A reader may leave at any time.

use std::io::{self, BufWriter, ErrorKind, StdoutLock, Write};

use crate::commands::Failure;

pub struct Output {
    stdout: BufWriter<StdoutLock<'static>>,
    line_count: u64,
    failed: Option<io::Error>,
}

impl Output {
    pub fn new() -> Output {
        Output {
            stdout: BufWriter::with_capacity(64 << 10, io::stdout().lock()),
            line_count: 0,
            failed: None,
        }
    }

    /// A result, without its end of line.
    pub fn line(&mut self, line: &[u8]) {
        self.line_count += 1;
        if self.failed.is_none() {
            let written = self
                .stdout
                .write_all(line)
                .and_then(|()| self.stdout.write_all(b"\n"));
            self.failed = written.err();
        }
    }

    /// A remark.
    pub fn note(&mut self, line: &str) {
        // A closed stderr leaves nobody to tell.
        let _ = writeln!(io::stderr().lock(), "{line}");
    }

    /// Nothing that is written from now on arrives.
    pub fn is_closed(&self) -> bool {
        self.failed.is_some()
    }

    pub fn is_empty(&self) -> bool {
        self.line_count == 0
    }

    /// A reader that has seen enough (`| head`) is no failure.
    pub fn finish(mut self) -> Result<(), Failure> {
        let failed = self.failed.take().or_else(|| self.stdout.flush().err());
        match failed {
            Some(error) if error.kind() != ErrorKind::BrokenPipe => {
                Err(Failure::Environment(format!("stdout: {error}")))
            }
            _ => Ok(()),
        }
    }
}
