#!/usr/bin/env python3
"""Must-see: spans that weigh many times `memory.limit` wait for their verdicts, and memory holds.

    memory_bound.py [--limits 512MiB,128MiB] [--gib 4] [--window 60] [--rate 180000] [--cores 1]
                    [--structural] [--binary …] [--bench …] [--json FILE] [--time-max 600]

For each limit a fresh node takes `--gib` of 800-byte spans, 8 a trace (4 GiB are about 5.4 million spans), that
close by age only, after `--window` seconds: longer than the load lasts, so nearly all of it is pending at once. Then it waits until all is
decided and exported. Judged:

- the highest RSS (VmHWM of /proc) is at most the limit + 10 %;
- exactly the traces due (an error, or longer than two seconds) are in the output file, every span of them;
- the ledger balances and nothing is lost or left unread;
- with 256 MiB or more: no decision was forced. With less: some were, counted by tier.

Prints a table; exit code 1 if something does not hold. Needs a release build, about 2 × `--gib` of disk, and two
CPUs to keep up. Standard library only; ends only processes that it started.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.request

import ledger
import tailkeep_process
from tailkeep_process import PROJECT, Tailkeep

CONFIG = """\
node: {{ data_dir: {work}/data, cores: {cores} }}
receivers: {{ otlp: {{ protocols: {{ grpc: {{ endpoint: "127.0.0.1:0" }}, http: {{ endpoint: "127.0.0.1:0" }} }} }} }}
admin: {{ endpoint: "127.0.0.1:0" }}
memory: {{ limit: {limit} }}
wal: {{ max_size: {wal}GiB, min_free: 0 }}
completion: {{ structural: {structural}, quiet: {quiet}s }}
tail_sampling:
  decision_wait: {window}s
  policies:
    - {{ name: errors, type: status_code, status_code: {{ status_codes: [ERROR] }} }}
    - {{ name: slow, type: latency, latency: {{ threshold_ms: 2000 }} }}
exporters: {{ file: {{ path: {work}/kept.jsonl }} }}
"""
SPAN_ID = re.compile(rb'"spanId":"([0-9a-f]{16})"')
FORCED_FREE_FROM = 256 << 20
SPAN_BYTES = 800


def bytes_of(size):
    number, unit = re.fullmatch(r"(\d+)(MiB|GiB)", size).groups()
    return int(number) << {"MiB": 20, "GiB": 30}[unit]


def metrics(server):
    """{name and labels: value} of /metrics."""
    with urllib.request.urlopen(f"http://{server.endpoints['admin']}/metrics", timeout=20) as reply:
        lines = reply.read().decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


def rss_max(server):
    with open(f"/proc/{server.pid}/status", encoding="ascii") as status:
        found = re.search(r"VmHWM:\s+(\d+)", status.read())
    return int(found.group(1)) << 10


class Watch:
    """The memory accounts when RSS was highest, and the table's highest count."""

    def __init__(self, server):
        self.server, self.peak, self.accounts, self.pending, self.over = server, 0, {}, 0, threading.Event()
        self.samples = []
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    def _watch(self):
        while not self.over.wait(0.5):
            try:
                seen = metrics(self.server)
            except OSError:
                continue
            rss = seen["process_resident_memory_bytes"] if "process_resident_memory_bytes" in seen else 0
            accounts = {key: value for key, value in seen.items() if "tailkeep_memory_bytes{" in key}
            traces = seen.get("tailkeep_traces_pending", 0)
            self.pending = max(self.pending, traces)
            kinds = {key.split('"')[1]: round(value / (1 << 20), 1) for key, value in accounts.items()}
            self.samples.append((round(time.monotonic() - self.server.started_at, 1), rss, int(traces), kinds))
            if rss > self.peak:
                self.peak, self.accounts = rss, kinds

    def end(self):
        self.over.set()
        self.thread.join(30)


def load(arguments, server, work, number, seconds, spans):
    path = os.path.join(work, f"{number}.ledger")
    command = [
        arguments.bench, "load", "--json", "--endpoint", server.endpoints["grpc"], "--cpu", arguments.load_cpu,
        "--span-bytes", str(SPAN_BYTES), "--spans-per-request", "512", "--spans-per-trace", "8", "--seed", str(1000 + number),
        "--rate", str(arguments.rate), "--duration", f"{seconds}s", "--warmup", "0s", "--spans", str(spans),
        "--ledger", path,
    ]  # fmt: skip
    run = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 600)
    if run.returncode != 0:
        raise SystemExit(f"{' '.join(command)}\n{run.stderr}")
    return path, json.loads(run.stdout)


def exported_spans(path):
    seen, twice = set(), 0
    with open(path, "rb") as file:
        for line in file:
            for match in SPAN_ID.finditer(line):
                span = bytes.fromhex(match.group(1).decode())
                twice += span in seen
                seen.add(span)
    return seen, twice


def play(arguments, limit):
    work = os.path.join(arguments.work, limit)
    shutil.rmtree(work, ignore_errors=True)
    os.makedirs(work)
    config = os.path.join(work, "tailkeep.yaml")
    structural = "true" if arguments.structural else "false"
    with open(config, "w", encoding="utf-8") as file:
        file.write(CONFIG.format(work=work, cores=arguments.cores, limit=limit, window=arguments.window, quiet=arguments.window - 1,
                                 structural=structural, wal=int(arguments.gib * 4 + 2)))  # fmt: skip
    deadline = time.monotonic() + arguments.time_max
    server = Tailkeep(arguments.binary, config, os.path.join(work, "server.log"))
    try:
        server.wait_ready()
        rss_ready = server.rss_bytes()
        watch = Watch(server)
        began, paths, reports = time.monotonic(), [], []
        wanted = int(arguments.gib * (1 << 30)) // SPAN_BYTES
        sent = 0
        while sent < wanted and time.monotonic() < deadline:
            path, report = load(arguments, server, work, len(paths), min(10, arguments.window), wanted - sent)
            paths.append(path)
            reports.append(report)
            sent = server.status(60)["signals"]["spans"]["accepted"]
        load_seconds = time.monotonic() - began
        status = server.status(60)
        pending = status["signals"]["spans"]["pending"] / max(1, status["signals"]["spans"]["accepted"])
        side = status["memory"]
        status = tailkeep_process.await_idle(server.endpoints["admin"], max(1, deadline - time.monotonic()))
        decided_seconds = time.monotonic() - began
        watch.end()
        seen = metrics(server)
        peak = rss_max(server)
        code = server.terminate()
    finally:
        server.kill()
    due, possible, acknowledged = set(), set(), 0
    for path in paths:
        due_here, possible_here, count = ledger.marked_spans(path, ledger.MARK_ERROR | ledger.MARK_SLOW)
        due |= due_here
        possible |= possible_here
        acknowledged += count
    out, twice = exported_spans(os.path.join(work, "kept.jsonl"))
    missing = len(due - out)
    # A request whose reply did not come in time may be there all the same.
    foreign = len(out - possible)
    forced = [int(seen.get(f'tailkeep_traces_forced_total{{tier="{tier}"}}', 0)) for tier in (1, 2, 3)]
    limit_bytes = bytes_of(limit)
    row = {
        "limit": limit, "rss_ready_mib": rss_ready >> 20, "rss_max_mib": peak >> 20,
        "of_limit": round(peak / limit_bytes, 3), "spans": acknowledged, "pending_share": round(pending, 3),
        "traces_pending_max": int(watch.pending), "forced": forced, "due": len(due), "exported": len(out),
        "missing": missing, "not_due": foreign, "twice": twice, "load_s": round(load_seconds, 1), "all_s": round(decided_seconds, 1),
        "evicted_mib": status["memory"]["evicted_bytes"] >> 20, "accounts_mib_at_peak": watch.accounts, "memory_after_load": side,
        "refused": sum(report.get("refused_requests", 0) or 0 for report in reports),
    }  # fmt: skip
    wrong = tailkeep_process.ledger_violations(status)
    if peak > limit_bytes * 1.1:
        wrong.append(f"RSS {peak >> 20} MiB is more than {limit} + 10 %")
    if missing or foreign:
        wrong.append(f"{missing} due spans are missing, {foreign} came that are not due")
    if bytes_of(limit) >= FORCED_FREE_FROM and sum(forced):
        wrong.append(f"{forced} decisions were forced")
    if bytes_of(limit) < FORCED_FREE_FROM and not sum(forced):
        wrong.append("no decision was forced, so the smaller limit shows nothing")
    if pending < 0.95 and not sum(forced):
        wrong.append(f"only {pending:.0%} were pending at the end of the load: raise --window")
    if sent < wanted:
        wrong.append(f"only {sent:,} of {wanted:,} spans were taken in --time-max")
    unread = sum(value for name, value in seen.items() if "failed_items_total" in name)
    if unread:
        wrong.append(f"{unread:.0f} kept spans were not exported")
    if code != 0:
        wrong.append(f"exit code {code} after SIGTERM")
    row["wrong"] = wrong
    row["samples"] = watch.samples
    if not arguments.keep:
        shutil.rmtree(work, ignore_errors=True)
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limits", default="512MiB,128MiB")
    parser.add_argument("--gib", type=float, default=4)
    parser.add_argument("--window", type=int, default=60, help="seconds; more than the load takes")
    parser.add_argument("--rate", type=int, default=180_000)
    parser.add_argument("--cores", default="1")
    parser.add_argument("--load-cpu", default="1")
    parser.add_argument("--structural", action="store_true", help="look at parents too: more state per trace")
    parser.add_argument("--binary", default=os.path.join(PROJECT, "target/release/tailkeep"))
    parser.add_argument("--bench", default=os.path.join(PROJECT, "target/release/tailkeep-bench"))
    parser.add_argument("--work", default=os.path.join(PROJECT, "target/memory_bound"))
    parser.add_argument("--time-max", type=int, default=600, help="seconds for one limit")
    parser.add_argument("--json", help="write everything there")
    parser.add_argument("--keep", action="store_true", help="leave directories and logs")
    arguments = parser.parse_args()
    rows = [play(arguments, limit) for limit in arguments.limits.split(",")]
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(rows, file, indent=1)
    shown = ["limit", "rss_ready_mib", "rss_max_mib", "of_limit", "spans", "pending_share", "traces_pending_max",
             "forced", "due", "exported", "missing", "not_due", "twice", "load_s", "all_s", "evicted_mib"]  # fmt: skip
    print(" | ".join(shown))
    for row in rows:
        print(" | ".join(str(row[key]) for key in shown))
        print("  accounts when RSS was highest, MiB:", row["accounts_mib_at_peak"])
    wrong = [f"{row['limit']}: {what}" for row in rows for what in row["wrong"]]
    if wrong:
        sys.exit("error: " + "; ".join(wrong))


if __name__ == "__main__":
    main()
