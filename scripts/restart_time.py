#!/usr/bin/env python3
"""How long a start takes with a million traces pending: after a kill -9, and after a SIGTERM.

    restart_time.py [--traces 1000000] [--spans-per-trace 8] [--cores 1] [--rounds 3] [--cold]

A fresh node gets the traces (380-byte spans, 512 a request, as fast as acknowledgements allow); none closes by itself. Then, in rounds:
kill -9 and a start, which folds the log from its beginning, and SIGTERM and a start, which takes the open traces from
a checkpoint. `--cold` drops the page cache before each start (root); segments are read past the cache anyhow.

Judged: after each start every span is pending again and the ledger balances. Printed: seconds to the ready line, the
replay's own seconds and GiB, RSS at ready. Needs a release build and a GiB of disk for each 2.8 million spans;
standard library only; ends only what it started.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys

from tailkeep_process import PROJECT, Tailkeep

CONFIG = """
node: {{ data_dir: {work}/data, cores: {cores} }}
receivers: {{ otlp: {{ protocols: {{ grpc: {{ endpoint: "127.0.0.1:0" }}, http: {{ endpoint: "127.0.0.1:0" }} }} }} }}
admin: {{ endpoint: "127.0.0.1:0" }}
memory: {{ limit: 2GiB }}
wal: {{ min_free: 0, max_size: 16GiB }}
completion: {{ structural: false, quiet: 3000s }}
tail_sampling:
  decision_wait: 3600s
  policies: [{{ name: errors, type: status_code, status_code: {{ status_codes: [ERROR] }} }}]
exporters: {{ file: {{ path: {work}/kept.jsonl }} }}
"""


def fill(arguments, server):
    """Sends until so many traces are pending."""
    per_second = 100_000 // arguments.spans_per_trace
    while (pending := server.status()["traces"]["pending"]) < arguments.traces:
        seconds = max(1, (arguments.traces - pending) // per_second // 4)
        command = [
            arguments.bench, "load", "--json", "--endpoint", server.endpoints["grpc"], "--warmup", "0s",
            "--spans-per-trace", str(arguments.spans_per_trace), "--seed", str(pending + 1), "--error-ratio", "0.01",
            "--slow-ratio", "0", "--duration", f"{seconds}s",
        ]  # fmt: skip
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True, timeout=seconds + 60)
    return server.status()


def drop_page_cache():
    subprocess.run(["sync"], check=True)
    with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as file:
        file.write("1\n")


def play(arguments):
    work = arguments.work
    shutil.rmtree(work, ignore_errors=True)
    os.makedirs(work)
    config = os.path.join(work, "tailkeep.yaml")
    with open(config, "w", encoding="utf-8") as file:
        file.write(CONFIG.format(work=work, cores=arguments.cores))
    start = lambda: Tailkeep(arguments.binary, config, os.path.join(work, "server.log"))
    server = start()
    rows, wrong = {"kill": [], "term": []}, []
    try:
        server.wait_ready()
        status = fill(arguments, server)
        spans, traces = status["signals"]["spans"]["pending"], status["traces"]["pending"]
        gib = status["wal"]["used_bytes"] / (1 << 30)
        for _ in range(arguments.rounds):
            for how, seconds_by_name in rows.items():
                if how == "kill":
                    server.kill()
                elif server.terminate() != 0:
                    wrong.append("SIGTERM did not end with 0")
                if arguments.cold:
                    drop_page_cache()
                server = start()
                ready = server.wait_ready(300)
                status = server.status()
                found = status["signals"]["spans"]["pending"], status["traces"]["pending"]
                if found != (spans, traces):
                    wrong.append(f"after {how}: {found} spans and traces pending instead of {(spans, traces)}")
                replay = status["wal"]["last_replay"]
                row = {"ready_seconds": round(ready, 2), "replay": replay, "rss_mib": server.rss_bytes() >> 20}
                seconds_by_name.append(row)
                print(how, json.dumps(row), file=sys.stderr)
    finally:
        server.kill()
        shutil.rmtree(work, ignore_errors=True)
    median = {how: statistics.median(row["ready_seconds"] for row in found) for how, found in rows.items()}
    print(
        f"{traces:,} traces with {spans:,} spans pending in {gib:.2f} GiB of log, {arguments.cores} core(s): ready after "
        f"{median['kill']:.2f} s when killed ({median['kill'] / gib:.2f} s a GiB), {median['term']:.2f} s after a SIGTERM"
    )
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=int, default=1_000_000)
    parser.add_argument("--spans-per-trace", type=int, default=8)
    parser.add_argument("--cores", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cold", action="store_true")
    parser.add_argument("--binary", default=os.path.join(PROJECT, "target/release/tailkeep"))
    parser.add_argument("--bench", default=os.path.join(PROJECT, "target/release/tailkeep-bench"))
    parser.add_argument("--work", default=os.path.join(PROJECT, "target/restart-time"))
    wrong = play(parser.parse_args())
    if wrong:
        sys.exit("error: " + "; ".join(wrong))


if __name__ == "__main__":
    main()
