#!/usr/bin/env python3
"""What tailkeep and the Collector's tail_sampling cost for the same traffic, each on one core.

    compare_collector.py --collector PATH [--rates 20000,50000] [--rounds 3] [--seconds 20] [--warmup 15]
                         [--only NAME] [--json FILE]

`tailkeep-bench load` on CPU 1 sends the same ids and sizes to each at a fixed rate: gRPC, not compressed, 512 spans of
380 B a request, 8 a trace, 4 connections. Policies are those of measure.py; kept traces go to a file as OTLP/JSON. In
turn, on CPU 0, each fresh:

    collector        OTLP receiver, tail_sampling (decision_wait 10s), file exporter; GOMAXPROCS=1
    tailkeep         decision_wait 10s, quiet 9.9s, so it holds whole traces as long as that
    collector-early  the same with decision_wait_after_root_received: 1s
    tailkeep-early   quiet 1s: decides whole traces after a second

Prints medians with lowest–highest, and the ratios of like with like. The warm-up is longer than the wait, so that traces
are decided and written all through the measured time. Needs release builds and two CPUs; standard library only; ends
only what it started.

Bias. For tailkeep: GOMAXPROCS=1 is hard for a garbage collector, which has no other core to run on; GOGC and GOMEMLIMIT
are Go's defaults, and a smaller GOGC would trade memory for time. For the Collector: it keeps nothing on disk, and what
it acknowledged is gone when it ends; tailkeep writes every request to a log and syncs it before the reply, explains its
decisions and annotates what it exports. The Collector has no batch processor, no memory_limiter and no metrics; its file
exporter buffers, without rotation; num_traces has room for all, so none is dropped early. Work that the kernel's own
threads do for either (writing back pages) is not counted. The generator and the disk are the same machine's. At a rate
near what one of them bears its CPU time a span is not that at a lower one: see `core`, the share of CPU 0 that it used. At
a few requests a second idle work and, for tailkeep, a sync a request weigh most: 2,000 and 20,000 spans/s tell other things.
`kept` is of all spans that the rate gives, and says that both decided alike: 3 % of the traces have an error, 1 % are slow,
and of the rest 1 % are drawn, by another hash in each, so other ones. Less is kept where the rate was not borne.
"""

import argparse
import glob
import json
import os
import shutil
import statistics
import sys
import time

from collector_outage import Collector, free_port
from measure import POLICIES, load, start
from tailkeep_process import PROJECT

COLLECTOR = """
receivers: { otlp: { protocols: { grpc: { endpoint: "127.0.0.1:%(port)s" } } } }
processors:
  tail_sampling:
    decision_wait: 10s
    decision_wait_after_root_received: %(after_root)s
    num_traces: %(traces_max)s
    expected_new_traces_per_sec: %(traces_per_second)s
    policies:
%(policies)s
exporters: { file: { path: %(work)s/kept.jsonl, flush_interval: 1s } }
service:
  telemetry: { metrics: { level: none } }
  pipelines: { traces: { receivers: [otlp], processors: [tail_sampling], exporters: [file] } }
"""
SPAN_BYTES, SPANS_PER_REQUEST, SPANS_PER_TRACE = 380, 512, 8
DECISION_WAIT_SECONDS = 10
CELLS = ("collector", "tailkeep", "collector-early", "tailkeep-early")
# (name, dividend, divisor)
PAIRS = (("collector / tailkeep", CELLS[0], CELLS[1]), ("early: collector / tailkeep", CELLS[2], CELLS[3]))
ONE_CPU = ("taskset", "-c", "0")
# Below this share of the rate, but for two requests at the ends, a server did not bear it.
BORNE_SHARE = 0.99


class CollectorServer:
    """The Collector as measure.py's `load` wants a server."""

    def __init__(self, arguments, rate, early):
        work = arguments.work
        shutil.rmtree(work, ignore_errors=True)
        os.makedirs(work)
        port = free_port()
        traces_per_second = rate // SPANS_PER_TRACE
        settings = {
            "port": port,
            "work": work,
            "after_root": "1s" if early else "0s",
            "traces_per_second": traces_per_second,
            # Twice what can be pending.
            "traces_max": 2 * traces_per_second * DECISION_WAIT_SECONDS,
            "policies": "".join(f"  {line}\n" for line in POLICIES.splitlines()),
        }
        config = os.path.join(work, "collector.yaml")
        with open(config, "w", encoding="utf-8") as file:
            file.write(COLLECTOR % settings)
        log = os.path.join(work, "collector.log")
        environment = {name: value for name, value in os.environ.items() if name not in ("GOGC", "GOMEMLIMIT")}
        environment["GOMAXPROCS"] = "1"
        self.inner = Collector(arguments.collector, config, port, log, log, ONE_CPU, environment)
        self.endpoints = {"grpc": f"127.0.0.1:{port}"}
        self.pid = self.inner.process.pid

    def finish(self):
        """It decides what is pending and ends."""
        self.inner.stop()

    kill = finish


class TailkeepServer:
    def __init__(self, arguments, early):
        self.inner = start(arguments, arguments.work, quiet="1s" if early else "9900ms", prefix=ONE_CPU)
        self.endpoints = self.inner.endpoints
        self.pid = self.inner.pid

    def finish(self):
        """It decides what is pending, writes it and ends."""
        self.inner.drain()

    def kill(self):
        self.inner.kill()


def measure(arguments, cell, rate):
    early = cell.endswith("-early")
    server = CollectorServer(arguments, rate, early) if cell.startswith("collector") else TailkeepServer(arguments, early)
    try:
        report = load(
            arguments, server, "grpc", SPAN_BYTES, SPANS_PER_REQUEST, arguments.seconds, rate, warmup=arguments.warmup
        )
        server.finish()
        kept = sum(spans_in(path) for path in glob.glob(os.path.join(arguments.work, "kept.jsonl*")))
    finally:
        server.kill()
        shutil.rmtree(arguments.work, ignore_errors=True)
    cost = report["server"]
    return {
        "spans_per_second": report["spans_per_second"],
        "borne": report["spans"] + 2 * SPANS_PER_REQUEST >= BORNE_SHARE * rate * report["seconds"],
        "refused_requests": report["refused_requests"] + report["failed_requests"],
        "cpu_seconds_per_million_spans": cost["cpu_seconds_per_million_spans"],
        "cpu_seconds_per_gb": cost["cpu_seconds_per_gb"],
        "core": cost["cpu_seconds"] / report["seconds"],
        "rss_peak_mib": cost["rss_peak_bytes"] / 2**20,
        "ack_ms_p50": report["ack_ms"]["p50"],
        "ack_ms_p99": report["ack_ms"]["p99"],
        # Of what the rate gives, which is what was sent if it was borne.
        "kept_percent": 100 * kept / (rate * (arguments.warmup + arguments.seconds)),
    }


def spans_in(path):
    """Spans of a file of OTLP/JSON lines: each has one begin, which links and events have not."""
    with open(path, "rb") as lines:
        return sum(line.count(b'"startTimeUnixNano"') for line in lines)


def spread(results, key):
    values = [result[key] for result in results]
    return f"{short(statistics.median(values))} ({short(min(values))}–{short(max(values))})"


def short(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


COLUMNS = (
    ("core-s/M spans", "cpu_seconds_per_million_spans"),
    ("core-s/GB", "cpu_seconds_per_gb"),
    ("peak RSS MiB", "rss_peak_mib"),
    ("core", "core"),
    ("ack p50 ms", "ack_ms_p50"),
    ("ack p99 ms", "ack_ms_p99"),
    ("kept %", "kept_percent"),
)
RATIOS = ("cpu_seconds_per_million_spans", "cpu_seconds_per_gb", "rss_peak_mib")


def print_table(raw, rate):
    print(f"\n{rate:,} spans/s")
    print("| | " + " | ".join(title for title, _ in COLUMNS) + " | borne |")
    print("|---|" + "---|" * (len(COLUMNS) + 1))
    for cell, results in raw.items():
        borne = f"{sum(result['borne'] for result in results)} of {len(results)}"
        refused = sum(result["refused_requests"] for result in results)
        print(f"| {cell} | " + " | ".join(spread(results, key) for _, key in COLUMNS) + f" | {borne}, {refused} refused |")
    for name, dividend, divisor in PAIRS:
        if dividend not in raw or divisor not in raw:
            continue
        if not all(result["borne"] for cell in (dividend, divisor) for result in raw[cell]):
            print(f"{name}: none, since not every run bore the rate")
            continue
        ratios = []
        for key in RATIOS:
            above, below = (statistics.median(result[key] for result in raw[cell]) for cell in (dividend, divisor))
            ratios.append(f"{above / below:.2f} × {key}")
        print(f"{name}: " + ", ".join(ratios))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--collector", required=True)
    parser.add_argument("--rates", default="20000,50000", help="spans a second")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--warmup", type=int, default=15)
    parser.add_argument("--only", help="cells whose name contains this")
    parser.add_argument("--durability", default="fsync")
    parser.add_argument("--memory", default="1GiB")
    parser.add_argument("--json", help="write every result there")
    parser.add_argument("--binary", default=os.path.join(PROJECT, "target/release/tailkeep"))
    parser.add_argument("--bench", default=os.path.join(PROJECT, "target/release/tailkeep-bench"))
    parser.add_argument("--work", default=os.path.join(PROJECT, "target/compare-collector/run"))
    arguments = parser.parse_args()
    rates = [int(rate) for rate in arguments.rates.split(",")]
    cells = [cell for cell in CELLS if not arguments.only or arguments.only in cell]
    raw = {rate: {cell: [] for cell in cells} for rate in rates}
    for _ in range(arguments.rounds):
        for rate in rates:
            for cell in cells:
                raw[rate][cell].append(measure(arguments, cell, rate))
                print(rate, cell, json.dumps(raw[rate][cell][-1]), file=sys.stderr)
                time.sleep(1)
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(raw, file, indent=1)
    for rate in rates:
        print_table(raw[rate], rate)


if __name__ == "__main__":
    main()
