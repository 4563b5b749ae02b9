"""Those who send: the SDKs for Python, Node, Go and Rust, and what tailkeep exports of what they sent."""

import os
import subprocess

from faults.case import Skip, fault
from tailkeep_process import PROJECT


def script(case, name):
    """Runs a script of the project that judges by itself; its last line."""
    command = ["bash", os.path.join(PROJECT, "scripts", name), case.binary]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = (done.stdout + done.stderr).strip().splitlines() or ["no output"]
    if lines[-1].startswith("skipped"):
        raise Skip(lines[-1].removeprefix("skipped: "))
    case.expect(done.returncode == 0, f"{name} ended with {done.returncode}: {' / '.join(lines[-5:])}")
    return lines[-1]


@fault("E09-python", "the SDK for Python, gRPC and HTTP, plain and gzip", "what it sends is what comes out", long_only=True)
def python_sdk(case):
    return script(case, "check_python_sdk.sh")


@fault("E09-node", "the SDK for Node, gRPC, HTTP with JSON and protobuf, plain and gzip", "what it sends is what comes out", long_only=True)
def node_sdk(case):
    return script(case, "check_node_sdk.sh")


@fault("E09-go", "the SDK for Go, gRPC and HTTP with protobuf, plain and gzip", "what it sends is what comes out", long_only=True)
def go_sdk(case):
    return script(case, "check_go_sdk.sh")


@fault("E09-rust", "the SDK for Rust, gRPC and HTTP, plain and gzip", "what it sends is what comes out", long_only=True)
def rust_sdk(case):
    case.require("cargo")
    command = ["cargo", "test", "--test", "e2e", "sdk", "--", "--test-threads=1"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    results = [line for line in done.stdout.splitlines() if line.startswith("test result")]
    case.expect(done.returncode == 0, f"cargo test ended with {done.returncode}: {done.stdout[-800:]}")
    return results[-1] if results else "no result"
