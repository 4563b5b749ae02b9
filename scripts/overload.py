#!/usr/bin/env python3
"""Three times more load than a node can take: what it goes on taking, and what it tells the rest.

    overload.py [--seconds 10] [--batch 512] [--overload refuse|sample] [--rounds 1]

A fresh one-core node (fsync, real sizes) gets a closed loop first: as fast as acknowledgements allow, which is the
peak. Then an open loop at three times that rate over four times the connections. Printed are goodput over peak, the
share refused, and latencies of acknowledgements. In the open loop they count from the moment at which a request was
meant to be sent, so they include the queue in the client, which cannot send what the server does not read.

Needs release builds and two CPUs; standard library only; ends only what it started.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys

import tailkeep_process
from tailkeep_process import PROJECT, Tailkeep

CONFIG = """
node: {{ data_dir: {work}/data, cores: [0] }}
receivers: {{ otlp: {{ protocols: {{ grpc: {{ endpoint: "127.0.0.1:0" }}, http: {{ endpoint: "127.0.0.1:0" }} }} }} }}
admin: {{ endpoint: "127.0.0.1:0" }}
memory: {{ limit: {memory} }}
overload: {overload}
wal: {{ min_free: 0, retain: 5s, max_size: 6GiB }}
completion: {{ quiet: 1s }}
tail_sampling:
  decision_wait: 10s
  policies:
    - {{ name: errors, type: status_code, status_code: {{ status_codes: [ERROR] }} }}
    - {{ name: slow, type: latency, latency: {{ threshold_ms: 2000 }} }}
exporters: {{ file: {{ path: {work}/kept.jsonl, rotation: {{ max_megabytes: 200, max_backups: 1 }} }} }}
"""


def load(arguments, server, seconds, rate=None, connections=4):
    command = [
        arguments.bench, "load", "--json", "--transport", "grpc", "--endpoint", server.endpoints["grpc"], "--cpu", "1",
        "--span-bytes", "380", "--spans-per-request", str(arguments.batch), "--spans-per-trace", "8",
        "--duration", f"{seconds}s", "--warmup", "3s", "--connections", str(connections), "--server-pid", str(server.pid),
    ]  # fmt: skip
    if rate:
        command += ["--rate", str(int(rate))]
    run = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 120)
    if run.returncode != 0:
        raise SystemExit(f"{' '.join(command)}\n{run.stderr}")
    return json.loads(run.stdout)


def play(arguments):
    work = arguments.work
    shutil.rmtree(work, ignore_errors=True)
    os.makedirs(work)
    config = os.path.join(work, "tailkeep.yaml")
    with open(config, "w", encoding="utf-8") as file:
        file.write(CONFIG.format(work=work, overload=arguments.overload, memory=arguments.memory))
    server = Tailkeep(arguments.binary, config, os.path.join(work, "server.log"))
    try:
        server.wait_ready()
        peak = load(arguments, server, arguments.seconds)
        three = load(arguments, server, arguments.seconds, 3 * peak["spans_per_second"], 16)
        status = tailkeep_process.await_idle(server.endpoints["admin"], 60)
        wrong = [line for line in tailkeep_process.ledger_violations(status) if "lost" not in line]
        code = server.terminate()
    finally:
        server.kill()
        shutil.rmtree(work, ignore_errors=True)
    if code != 0:
        wrong.append(f"exit code {code}")
    spans = status["signals"]["spans"]
    return {
        "peak": peak, "three": three, "wrong": wrong, "lost": spans["lost"],
        "goodput_of_peak": round(three["spans_per_second"] / peak["spans_per_second"], 3),
    }  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--overload", default="refuse", choices=["refuse", "sample"])
    parser.add_argument("--memory", default="512MiB")
    parser.add_argument("--binary", default=os.path.join(PROJECT, "target/release/tailkeep"))
    parser.add_argument("--bench", default=os.path.join(PROJECT, "target/release/tailkeep-bench"))
    parser.add_argument("--work", default=os.path.join(PROJECT, "target/overload"))
    arguments = parser.parse_args()
    wrong = []
    for _ in range(arguments.rounds):
        row = play(arguments)
        wrong += row["wrong"]
        print(json.dumps(row))
        print(f"goodput at three times the peak: {row['goodput_of_peak']:.0%} of it")
    if wrong:
        sys.exit("error: " + "; ".join(wrong))


if __name__ == "__main__":
    main()
