"""A run of `tailkeep-bench load` that keeps a ledger. Ends only what it started; standard library only."""

import subprocess
import threading

# Traces of eight spans in two requests: what is pending at any moment is of every kind.
DEFAULTS = {
    "rate": 10_000,
    "duration": "30s",
    "warmup": "0s",
    "connections": 4,
    "in-flight": 4,
    "spans-per-request": 64,
    "spans-per-trace": 8,
    "requests-per-trace": 2,
    "error-ratio": 0.1,
    "slow-ratio": 0,
}


class Load:
    """One run of the generator; `options` are its flags: None leaves one out, True gives it without a value."""

    def __init__(self, bench, transport, endpoint, ledger_path, options):
        command = [bench, "load", "--transport", transport, "--endpoint", endpoint, "--ledger", ledger_path]
        for name, value in {**DEFAULTS, **options}.items():
            if value is not None:
                command += [f"--{name}"] if value is True else [f"--{name}", str(value)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.begun = threading.Event()
        self.lines = []
        self.report = ""
        self.readers = [threading.Thread(target=self._read, daemon=True), threading.Thread(target=self._read_report)]
        for reader in self.readers:
            reader.start()

    def _read(self):
        for line in self.process.stderr:
            self.lines.append(line.rstrip())
            if "load begins" in line:
                self.begun.set()

    def _read_report(self):
        self.report = self.process.stdout.read()

    def wait_begun(self, seconds=10):
        if not self.begun.wait(seconds):
            self.end(0)
            raise RuntimeError("the load generator did not begin:\n  " + "\n  ".join(self.lines))

    def end(self, seconds=20):
        """It ends by itself when its time is over or its connections are gone."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for reader in self.readers:
            reader.join(5)
        self.process.stderr.close()
        self.process.stdout.close()
