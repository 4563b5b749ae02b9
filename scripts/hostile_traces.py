#!/usr/bin/env python3
"""Traces that a client makes up to do harm, beside ordinary traffic: limits hold, and the others do not notice.

    hostile_traces.py [--limit 384MiB] [--cores 2] [--only many_traces,same_low] [--scale 1] [--rate 50000]
                      [--binary …] [--bench …] [--work DIR] [--json FILE] [--keep]

Ordinary traffic is 10,000 spans/s, traces of 8 spans in two requests, a tenth with an error. Beside it comes:

- alone: nothing, for what acknowledgements take then;
- one_trace: a trace of 10⁶ spans, some with an error; it is decided at `max_spans`, and the rest comes late;
- one_open_trace: the same, with limits so high that it is decided as one;
- many_traces: 5·10⁶ traces of one span that wait for 30 s, which is more than memory has room for;
- same_high, same_low, sequential: 400,000 traces of one span whose ids have half their bytes in common or follow each
  other, which is how somebody aims at a core or a bucket who does not know the directory's secret.

Each has a fresh node. Judged, by the ledgers of both loads:

- the highest RSS (VmHWM of /proc) is at most the limit + 10 %;
- every acknowledged span of a trace with an error, ordinary or hostile, is in the output file, and no span of another;
- no request of the ordinary traffic was refused or failed, unless the host stopped the whole run for a second or
  more, as a suspended guest is; the node's ledger balances and nothing is lost;
- no core owns more than its share of the waiting traces and a tenth.

Told, not judged: how traces were closed, how many were forced, and the latency of the ordinary traffic's acknowledgements.
Needs release builds, 10 GiB of disk, and a host that has room for the hostile `--rate`; `--scale 0.1` plays a tenth of
each case. Standard library only; ends only processes that it started.
"""

import argparse
import json
import os
import shutil
import sys
import threading
import time

import ledger
import tailkeep_process
from bench_load import Load
from memory_bound import Watch, bytes_of, exported_spans, metrics, rss_max
from tailkeep_process import PROJECT, Tailkeep

CONFIG = """\
node: {{ data_dir: {work}/data, cores: {cores} }}
receivers: {{ otlp: {{ protocols: {{ grpc: {{ endpoint: "127.0.0.1:0" }}, http: {{ endpoint: "127.0.0.1:0" }} }} }} }}
admin: {{ endpoint: "127.0.0.1:0" }}
memory: {{ limit: {limit} }}
wal: {{ max_size: 12GiB, min_free: 0 }}
completion: {{ quiet: {quiet}s, {limits} }}
tail_sampling:
  decision_wait: 60s
  policies: [ {{ name: errors, type: status_code, status_code: {{ status_codes: [ERROR] }} }} ]
exporters: {{ file: {{ path: {work}/kept.jsonl }} }}
"""
ONE = {"trace-ids": "one", "spans": 1_000_000, "spans-per-request": 512, "requests-per-trace": 1,
       "error-ratio": 0.01}  # fmt: skip
LONE = {"spans": 400_000, "spans-per-trace": 1, "spans-per-request": 512, "requests-per-trace": 1,
        "error-ratio": 0.001, "span-bytes": 200}  # fmt: skip


class Case:
    """The hostile load's flags, and what the configuration of its node has of its own."""

    def __init__(self, hostile, quiet=2, limits="max_spans: 100000"):
        self.hostile, self.quiet, self.limits = hostile, quiet, limits


CASES = {
    "alone": Case(None),
    "one_trace": Case(ONE),
    "one_open_trace": Case(ONE, limits="max_spans: 10000000, max_bytes: 4GiB"),
    "many_traces": Case({**LONE, "spans": 5_000_000}, quiet=30),
    "same_high": Case({**LONE, "trace-ids": "same-high"}, quiet=20),
    "same_low": Case({**LONE, "trace-ids": "same-low"}, quiet=20),
    "sequential": Case({**LONE, "trace-ids": "sequential"}, quiet=20),
}


class Observer:
    """Open traces by core when they were most; and seconds for which the host let none of this run: requests that
    are late then are nobody's fault."""

    def __init__(self, server):
        self.server, self.pending_by_core, self.paused, self.over = server, [0], 0, threading.Event()
        self.threads = [threading.Thread(target=each, daemon=True) for each in (self._watch_host, self._watch_cores)]
        for thread in self.threads:
            thread.start()

    def _watch_host(self):
        before = time.monotonic()
        while not self.over.wait(0.1):
            now = time.monotonic()
            self.paused += now - before if now - before > 1 else 0
            before = now

    def _watch_cores(self):
        while not self.over.wait(0.5):
            try:
                seen = [core["pending_traces"] for core in self.server.status(60)["cores"]]
            except OSError:
                continue
            self.pending_by_core = max(self.pending_by_core, seen, key=sum)

    def end(self):
        self.over.set()
        for thread in self.threads:
            thread.join()


def play(arguments, name, case):
    work = os.path.join(arguments.work, name)
    shutil.rmtree(work, ignore_errors=True)
    os.makedirs(work)
    config = os.path.join(work, "tailkeep.yaml")
    with open(config, "w", encoding="utf-8") as file:
        file.write(CONFIG.format(work=work, cores=arguments.cores, limit=arguments.limit, quiet=case.quiet, limits=case.limits))
    hostile = case.hostile and {
        **case.hostile, "spans": int(case.hostile["spans"] * arguments.scale), "rate": arguments.rate,
    }  # fmt: skip
    seconds = hostile["spans"] / hostile["rate"] + 4 if hostile else 20
    paths = [os.path.join(work, f"{who}.ledger") for who in ("ordinary", "hostile")]
    loads = []

    def load(path, options):
        loads.append(Load(arguments.bench, "grpc", server.endpoints["grpc"], path, {"json": True, **options}))
        loads[-1].wait_begun(60)

    server = Tailkeep(arguments.binary, config, os.path.join(work, "server.log"))
    try:
        server.wait_ready()
        watch, observer = Watch(server), Observer(server)
        load(paths[0], {"duration": f"{seconds}s", "seed": 1})
        if hostile:
            # Three times its time, if the machine does not hold its rate.
            load(paths[1], {**hostile, "duration": f"{3 * seconds}s", "seed": 2, "in-flight": 16})
        for one in reversed(loads):
            one.end(4 * seconds + 600)
        observer.end()
        reports = [json.loads(one.report) for one in loads]
        began = time.monotonic()
        status = tailkeep_process.await_idle(server.endpoints["admin"], arguments.time_max)
        decided_seconds = time.monotonic() - began
        watch.end()
        seen, peak = metrics(server), rss_max(server)
        code = server.terminate()
    finally:
        for one in loads:
            one.end(0)
        server.kill()
    due, possible, acknowledged = [], set(), []
    for path in paths[: len(loads)]:
        due_here, possible_here, count = ledger.marked_spans(path, ledger.MARK_ERROR)
        due.append(due_here)
        possible |= possible_here
        acknowledged.append(count)
    out, twice = exported_spans(os.path.join(work, "kept.jsonl"))
    limit, cores = bytes_of(arguments.limit), observer.pending_by_core
    row = {
        "case": name, "rss_max_mib": peak >> 20, "of_limit": round(peak / limit, 3),
        "spans_acknowledged": acknowledged, "due": [len(ids) for ids in due], "missing": [len(ids - out) for ids in due],
        "not_due": len(out - possible), "twice": twice, "pending_max": int(watch.pending), "pending_by_core": cores,
        "forced": [int(seen.get(f'tailkeep_traces_forced_total{{tier="{tier}"}}', 0)) for tier in (1, 2, 3)],
        "closed": {reason: count for reason, count in status["traces"]["closed"].items() if count},
        "ordinary_ack_ms": {at: round(value, 1) for at, value in reports[0]["ack_ms"].items()},
        "refused": [report["refused_requests"] for report in reports],
        "failed": [report["failed_requests"] + report["given_up_requests"] for report in reports],
        "refused_by": {
            key.split('reason="')[1].split('"')[0]: int(count)
            for key, count in seen.items()
            if "refused_items_total" in key and 'transport="grpc"' in key and count
        },
        "paused_seconds": round(observer.paused, 1), "hostile_seconds": round(reports[1]["seconds"], 1) if hostile else 0,
        "decided_seconds": round(decided_seconds, 1),
        "accounts_mib_at_peak": watch.accounts,
    }  # fmt: skip
    wrong = tailkeep_process.ledger_violations(status)
    if peak > limit * 1.1:
        wrong.append(f"RSS {peak >> 20} MiB is more than {arguments.limit} + 10 %")
    if any(row["missing"]) or row["not_due"] or not all(row["due"]):
        wrong.append(f"of {row['due']} due spans {row['missing']} are missing, {row['not_due']} came that are not due")
    if (row["refused"][0] or row["failed"][0]) and not observer.paused:
        wrong.append(f"of the ordinary requests {row['refused'][0]} were refused, {row['failed'][0]} failed")
    if max(cores) > sum(cores) / len(cores) * 1.1 and sum(cores) > 10_000:
        wrong.append(f"the cores own {cores} traces")
    if code != 0:
        wrong.append(f"exit code {code} after SIGTERM")
    row["wrong"] = wrong
    row["samples"] = watch.samples
    if not arguments.keep:
        shutil.rmtree(work, ignore_errors=True)
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", default="384MiB")
    parser.add_argument("--cores", default="2")
    parser.add_argument("--only", default=",".join(CASES), help="cases, by comma")
    parser.add_argument("--scale", type=float, default=1, help="of the spans of the hostile traffic")
    parser.add_argument("--rate", type=int, default=50_000, help="hostile spans a second; what the host has room for")
    parser.add_argument("--binary", default=os.path.join(PROJECT, "target/release/tailkeep"))
    parser.add_argument("--bench", default=os.path.join(PROJECT, "target/release/tailkeep-bench"))
    parser.add_argument("--work", default=os.path.join(PROJECT, "target/hostile_traces"))
    parser.add_argument("--time-max", type=int, default=300, help="seconds until all is decided and exported")
    parser.add_argument("--json", help="write everything there, memory every half second too")
    parser.add_argument("--keep", action="store_true", help="leave directories and logs")
    arguments = parser.parse_args()
    rows = []
    for name in arguments.only.split(","):
        rows.append(play(arguments, name, CASES[name]))
        for key, value in rows[-1].items():
            if key != "samples":
                print(f"{key:>22}  {value}", flush=True)
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(rows, file, indent=1)
    wrong = [f"{row['case']}: {what}" for row in rows for what in row["wrong"]]
    if wrong:
        sys.exit("error: " + "; ".join(wrong))


if __name__ == "__main__":
    main()
