#!/usr/bin/env python3
"""A destination is away for minutes at a high rate of kept spans, and the node is restarted twice meanwhile.

    long_outage.py [--minutes 10] [--rate 20000] [--protocol grpc|http] [--binary …] [--bench …] [--work …]

The first restart is a SIGTERM, the second a kill -9; each load has a ledger, which `tailkeep-bench sink` checks at
its end. Judged: no request is refused while the node runs; everything acknowledged arrives once the destination is
back; nothing arrives that was never sent. What came twice is counted. Needs room for rate × time × 0.8 KB beside
`wal.min_free`. Exit code 1 on a violation.
"""

import argparse
import json
import os
import sys
import threading
import time

from faults.case import Case, Fault
from faults.destinations import Sink, exporter
from faults.node import Node, wait_for
from faults.relay import Relay
from tailkeep_process import PROJECT

BACK_SECONDS_MAX = 3600


class Ingest(threading.Thread):
    """Looks every second how many spans were accepted, and remembers the longest time without any."""

    def __init__(self, process):
        super().__init__(daemon=True)
        self.process, self.is_over, self.longest = process, threading.Event(), 0.0
        self.start()

    def run(self):
        accepted, at = 0, time.monotonic()
        while not self.is_over.wait(0.5):
            try:
                found = self.process.status()["signals"]["spans"]["accepted"]
            except OSError:
                continue
            if found != accepted:
                accepted, at = found, time.monotonic()
            self.longest = max(self.longest, time.monotonic() - at)

    def end(self):
        self.is_over.set()
        self.join()
        return self.longest


def play(case, options):
    paths = [case.path(f"load-{number:04}.ledger") for number in (1, 2, 3)]
    sink = Sink(case, paths)
    relay = Relay(case, sink.endpoints[options.protocol])
    node = Node(case, with_={"wal": {"segment_size": "64MiB", "max_size": "18GiB", "retain": "10s"}})
    endpoint = f"http://{relay.endpoint}" if options.protocol == "http" else relay.endpoint
    node.settings["exporters"] = {
        f"otlp_{options.protocol}": {
            "endpoint": endpoint,
            "tls": {"insecure": True},
            "retry_on_failure": {"initial_interval": "1s", "max_interval": "5s"},
            "queue": {"max_size": "9GiB"},
        }
    }
    relay.become("away")
    part = options.minutes * 60 / 3
    refused, quiet, queued, acknowledged = 0, 0.0, 0, 0
    for turn in range(3):
        process = node.start()
        watch = Ingest(process)
        load = node.load(
            process, transport="grpc", rate=options.rate, duration=f"{part + 60:.0f}s" if turn < 2 else f"{part:.0f}s",
            spans_per_request=256, requests_per_trace=1, connections=2, json=True,
        )  # fmt: skip
        time.sleep(part)
        status = process.status()
        queued = exporter(process)["queued_items"]
        acknowledged += status["signals"]["spans"]["accepted"]
        quiet = max(quiet, watch.end())
        refused += status["signals"]["spans"]["refused"]
        print(f"part {turn + 1}: {status['signals']['spans']}, {queued:,} queued", flush=True)
        if turn == 0:
            node.stop(process)
        if turn == 1:
            process.kill()
        load.end(60)
        if turn == 2:
            print(json.dumps(json.loads(load.report)["ack_ms"]), flush=True)
    began = time.monotonic()
    relay.become("pass")
    wait_for("the queue is empty", lambda: exporter(process)["queued_items"] == 0, BACK_SECONDS_MAX)
    took = time.monotonic() - began
    node.settle(process, 60)
    node.stop(process)
    report = sink.report()
    case.expect(refused == 0, f"{refused} requests were refused")
    case.expect(quiet < 5, f"nothing was accepted for {quiet:.1f} s")
    case.expect(report["missing"] == 0, f"{report['missing']:,} acknowledged spans did not arrive")
    case.expect(report["foreign"] == 0, f"{report['foreign']} spans arrived that nobody sent")
    print(
        f"{options.protocol}, away for {options.minutes:g} minutes at {options.rate:,} kept spans/s, a SIGTERM and a kill: "
        f"{report['due']:,} due, {report['missing']:,} lost, {report['twice']:,} twice; {queued:,} waited at the end, "
        f"gone in {took:.0f} s; {refused} refused, ingest paused {quiet:.1f} s at most while it ran"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--rate", type=int, default=20_000)
    parser.add_argument("--protocol", choices=["grpc", "http"], default="grpc")
    parser.add_argument("--binary", default=os.path.join(PROJECT, "target", "release", "tailkeep"))
    parser.add_argument("--bench", default=os.path.join(PROJECT, "target", "release", "tailkeep-bench"))
    parser.add_argument("--work", default=os.path.join(PROJECT, "target"))
    options = parser.parse_args()
    options.long = True
    fault = Fault("long-outage", "", "", None, False, True)
    case = Case(fault, options, 0)
    try:
        play(case, options)
    finally:
        case.undo.close()
    for violation in case.violations:
        print(f"violation: {violation}")
    sys.exit(1 if case.violations else 0)


if __name__ == "__main__":
    main()
