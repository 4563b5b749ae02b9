#!/usr/bin/env python3
"""tailkeep exports to a real OpenTelemetry Collector, which is away for a while under load.

    collector_outage.py --collector PATH [--binary PATH] [--protocol grpc|http] [--compression gzip|zstd|none]
                        [--outage SECONDS] [--rate TRACES_PER_SECOND] [--cores N] [--work DIRECTORY]

Judged: every request is acknowledged, during the outage too; every acknowledged span is in the Collector's
output; tailkeep counts as many as sent, none as failed, and exits with 0. Spans that come twice are counted, not
judged. Exit code 1 on a violation. Standard library only; ends only processes that it started.
"""

import argparse
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time

import otlp_encode
from tailkeep_process import PROJECT, Tailkeep

SPANS_PER_TRACE = 3
# A line of the debug exporter.
SPAN_ID = re.compile(r"^    ID +: ([0-9a-f]{16})$")
# Before, and after, the outage.
CALM_SECONDS = 3

TAILKEEP = """\
node: {{ data_dir: {work}/data, cores: {cores} }}
receivers:
  otlp:
    protocols:
      grpc: {{ endpoint: "127.0.0.1:0" }}
      http: {{ endpoint: "127.0.0.1:0" }}
tail_sampling:
  decision_wait: 5s
  policies: [ {{ name: all, type: always_sample }} ]
completion: {{ quiet: 200ms }}
exporters:
  {kind}:
    endpoint: {endpoint}
    tls: {{ insecure: true }}
    compression: {compression}
    retry_on_failure: {{ initial_interval: 1s, max_interval: 5s }}
admin: {{ endpoint: "127.0.0.1:0" }}
"""
COLLECTOR = """\
receivers: {{ otlp: {{ protocols: {{ {protocol}: {{ endpoint: "127.0.0.1:{port}" }} }} }} }}
exporters: {{ debug: {{ verbosity: detailed, sampling_thereafter: 1, use_internal_logger: false, output_paths: [stdout] }} }}
service:
  telemetry: {{ metrics: {{ level: none }} }}
  pipelines: {{ traces: {{ receivers: [otlp], exporters: [debug] }} }}
"""


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Collector:
    """One run of it. Waits until the port answers."""

    def __init__(self, binary, config, port, log_path, output_path, prefix=(), environment=None):
        with open(log_path, "ab") as log, open(output_path, "ab") as output:
            self.process = subprocess.Popen([*prefix, binary, "--config", config], stdout=output, stderr=log, env=environment)
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            if self.process.poll() is not None:
                break
            time.sleep(0.1)
        self.stop()
        sys.exit(f"error: the Collector does not listen; see {log_path}")

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Sender(threading.Thread):
    """One trace after the other; remembers the spans that were acknowledged."""

    def __init__(self, endpoint, rate):
        super().__init__(daemon=True)
        self.client = otlp_encode.Client(endpoint)
        self.rate = rate
        self.acknowledged = set()
        self.refused = []
        self.longest_wait = 0.0
        self.ends = threading.Event()

    def run(self):
        number = 0
        begin = time.monotonic()
        while not self.ends.is_set():
            number += 1
            due = begin + number / self.rate
            time.sleep(max(0.0, due - time.monotonic()))
            self.send(number)

    def send(self, number):
        trace_id = os.urandom(15) + b"\x01"
        ids = [os.urandom(7) + b"\x01" for _ in range(SPANS_PER_TRACE)]
        start = time.time_ns()
        spans = [
            otlp_encode.span(trace_id, span_id, b"" if at == 0 else ids[0], f"operation {at}", 2, start, start + 1000)
            for at, span_id in enumerate(ids)
        ]
        asked = time.monotonic()
        try:
            status, _ = self.client.post(otlp_encode.request([("service.name", "outage")], "script", spans))
        except OSError as error:
            status = error
        self.longest_wait = max(self.longest_wait, time.monotonic() - asked)
        if status == 200:
            self.acknowledged.update(span_id.hex() for span_id in ids)
        else:
            self.refused.append(f"trace {number}: {status}")


def arrived(path):
    """Span ids in the Collector's output, and how many came more than once."""
    seen, twice = set(), 0
    with open(path, encoding="utf-8", errors="replace") as lines:
        for span_id in filter(None, map(SPAN_ID.match, lines)):
            twice += span_id[1] in seen
            seen.add(span_id[1])
    return seen, twice


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=f"{PROJECT}/target/debug/tailkeep")
    parser.add_argument("--collector", required=True)
    parser.add_argument("--work", default=f"{PROJECT}/target/check-collector/run")
    parser.add_argument("--protocol", choices=["grpc", "http"], default="grpc")
    parser.add_argument("--compression", choices=["gzip", "zstd", "none"], default="gzip")
    parser.add_argument("--outage", type=float, default=10)
    parser.add_argument("--rate", type=float, default=50)
    parser.add_argument("--cores", type=int, default=2, metavar="N", help="node.cores")
    options = parser.parse_args()

    work = os.path.abspath(options.work)
    shutil.rmtree(work, ignore_errors=True)
    os.makedirs(work)
    port = free_port()
    kind = f"otlp_{options.protocol}"
    endpoint = f"127.0.0.1:{port}" if options.protocol == "grpc" else f"http://127.0.0.1:{port}"
    with open(f"{work}/tailkeep.yaml", "w", encoding="utf-8") as config:
        more = {"compression": options.compression, "cores": options.cores}
        config.write(TAILKEEP.format(work=work, kind=kind, endpoint=endpoint, **more))
    with open(f"{work}/collector.yaml", "w", encoding="utf-8") as config:
        config.write(COLLECTOR.format(work=work, protocol=options.protocol, port=port))

    def start_collector():
        log, output = f"{work}/collector.log", f"{work}/collector.out"
        return Collector(options.collector, f"{work}/collector.yaml", port, log, output)

    collector = start_collector()
    tailkeep = Tailkeep(options.binary, f"{work}/tailkeep.yaml", f"{work}/tailkeep.log")
    try:
        tailkeep.wait_ready()
        sender = Sender(tailkeep.endpoints["http"], options.rate)
        sender.start()
        time.sleep(CALM_SECONDS)
        collector.stop()
        before = len(sender.acknowledged)
        time.sleep(options.outage)
        during = len(sender.acknowledged) - before
        queued = tailkeep.status()["exporters"][0]["queued_items"]
        collector = start_collector()
        time.sleep(CALM_SECONDS)
        sender.ends.set()
        sender.join()
        deadline = time.monotonic() + 60
        exporter = tailkeep.status()["exporters"][0]
        while exporter["sent"] + exporter["failed"] < len(sender.acknowledged) and time.monotonic() < deadline:
            time.sleep(0.1)
            exporter = tailkeep.status()["exporters"][0]
        code = tailkeep.terminate()
    finally:
        tailkeep.kill()
        collector.stop()

    seen, twice = arrived(f"{work}/collector.out")
    missing = sender.acknowledged - seen
    violations = []
    if missing:
        violations.append(f"{len(missing)} acknowledged spans did not arrive")
    if seen - sender.acknowledged:
        violations.append(f"{len(seen - sender.acknowledged)} spans arrived that nobody sent")
    if sender.refused:
        violations.append(f"{len(sender.refused)} requests were not acknowledged, first {sender.refused[0]}")
    if during == 0 or queued == 0:
        violations.append(f"nothing went on during the outage: {during} acknowledged, {queued} queued")
    if exporter["failed"] or exporter["sent"] != len(sender.acknowledged):
        violations.append(f"tailkeep counts {exporter['sent']} sent and {exporter['failed']} failed")
    if code != 0:
        violations.append(f"tailkeep ended with {code}")
    print(
        f"{options.protocol} {options.compression}: {len(sender.acknowledged)} spans acknowledged, {during} of them"
        f" in the outage of {options.outage:g} s, {len(seen)} arrived, {twice} twice, {queued} waited, slowest"
        f" acknowledgement {sender.longest_wait * 1000:.0f} ms"
    )
    for violation in violations:
        print(f"VIOLATION: {violation}")
    sys.exit(1 if violations else 0)


if __name__ == "__main__":
    main()
