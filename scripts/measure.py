#!/usr/bin/env python3
"""What tailkeep costs: the table of BENCHMARKS.md.

    measure.py [--seconds 10] [--warmup 20] [--only NAME] [--rounds 3] [--json FILE]
    measure.py --cores-compared 100000      what the mesh costs: one core, and two at twice the rate

Each cell starts a fresh `tailkeep run` on CPU 0 (fsync, real rules, about 5 % kept and exported to a file) and
`tailkeep-bench load` on CPU 1, first as fast as acknowledgements allow, then at half and nine tenths of that rate. Cells are run
in rounds, one after the other, and medians are printed, because machines are noisy. Each round begins with what the
machine itself does (`tailkeep-bench yardstick`). The log may have 2 GiB and keeps nothing longer than 5 s, so that
after the warm-up segments are used again, as in a node that has run for an hour. Needs release builds and two CPUs;
standard library only; ends only what it started.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time

from tailkeep_process import PROJECT, Tailkeep

# As the Collector's tail_sampling has them too; compare_collector.py gives it these.
POLICIES = """\
    - { name: errors, type: status_code, status_code: { status_codes: [ERROR] } }
    - { name: slow, type: latency, latency: { threshold_ms: 2000 } }
    - name: vip
      type: string_attribute
      string_attribute: { key: customer.tier, values: [platinum], enabled_regex_matching: false }
    - name: busy
      type: and
      and:
        and_sub_policy:
          - { name: many, type: span_count, span_count: { min_spans: 500 } }
          - { name: retries, type: numeric_attribute, numeric_attribute: { key: http.resend_count, min_value: 3, max_value: 100 } }
    - { name: baseline, type: probabilistic, probabilistic: { sampling_percentage: 1 } }
"""
CONFIG = """
node: { data_dir: %(work)s/data, cores: %(cores)s }
receivers: { otlp: { protocols: { grpc: { endpoint: "127.0.0.1:0" }, http: { endpoint: "127.0.0.1:0" } } } }
admin: { endpoint: "127.0.0.1:0" }
memory: { limit: %(memory)s }
wal: { durability: %(durability)s, max_size: 2GiB, retain: 5s }
completion: { quiet: %(quiet)s }
tail_sampling:
  decision_wait: 10s
  policies:
%(policies)sexporters: { file: { path: %(work)s/kept.jsonl, flush_interval: 1s, rotation: { max_megabytes: 200, max_backups: 1 } } }
"""

CELLS = [
    (f"{transport}-{size}-{batch}", transport, size, batch)
    for size in (380, 800)
    for batch in (512, 64, 8)
    for transport in ("grpc", "http")
]


def load(arguments, server, transport, size, batch, seconds, rate=None, warmup=4):
    command = [
        arguments.bench, "load", "--json", "--transport", transport, "--endpoint", server.endpoints[transport],
        "--cpu", "1", "--span-bytes", str(size), "--spans-per-request", str(batch), "--spans-per-trace", "8",
        "--duration", f"{seconds}s", "--warmup", f"{warmup}s", "--server-pid", str(server.pid),
    ]
    if rate:
        command += ["--rate", str(int(rate))]
    run = subprocess.run(command, capture_output=True, text=True, timeout=seconds + warmup + 120)
    if run.returncode != 0:
        raise SystemExit(f"{' '.join(command)}\n{run.stderr}")
    return json.loads(run.stdout)


def start(arguments, work, cores="[0]", quiet="1s", prefix=()):
    shutil.rmtree(work, ignore_errors=True)
    os.makedirs(work)
    config = os.path.join(work, "tailkeep.yaml")
    with open(config, "w", encoding="utf-8") as file:
        settings = {"durability": arguments.durability, "memory": arguments.memory, "cores": cores, "quiet": quiet}
        file.write(CONFIG % {"work": work, "policies": POLICIES, **settings})
    server = Tailkeep(arguments.binary, config, os.path.join(work, "server.log"), prefix=prefix)
    server.wait_ready()
    return server


def measure(arguments, work, transport, size, batch):
    server = start(arguments, work)
    try:
        full = load(arguments, server, transport, size, batch, arguments.seconds, warmup=arguments.warmup)
        parts = {}
        if not arguments.full_only:
            for name, share in (("half", 0.5), ("nine_tenths", 0.9)):
                parts[name] = load(arguments, server, transport, size, batch, arguments.seconds, share * full["spans_per_second"])
        status = server.status()
    finally:
        server.kill()
        shutil.rmtree(work, ignore_errors=True)
    return {"full": full, **parts, "status": status}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=20, help="seconds before the first load counts")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", help="cells whose name contains this")
    parser.add_argument("--full-only", action="store_true", help="leave out what is less than all")
    parser.add_argument("--durability", default="fsync")
    parser.add_argument("--memory", default="1GiB")
    parser.add_argument("--json", help="write every raw report there")
    parser.add_argument("--binary", default=os.path.join(PROJECT, "target/release/tailkeep"))
    parser.add_argument("--bench", default=os.path.join(PROJECT, "target/release/tailkeep-bench"))
    parser.add_argument("--work", default=os.path.join(PROJECT, "target/measure"))
    parser.add_argument("--cores-compared", type=int, metavar="SPANS_PER_SECOND_AND_CORE")
    arguments = parser.parse_args()
    if arguments.cores_compared:
        return compare_cores(arguments)
    cells = [cell for cell in CELLS if not arguments.only or arguments.only in cell[0]]
    raw = {name: [] for name, *_ in cells}
    for _ in range(arguments.rounds):
        print("yardstick", yardstick(arguments), file=sys.stderr)
        for name, transport, size, batch in cells:
            raw[name].append(measure(arguments, arguments.work, transport, size, batch))
            print(name, json.dumps(raw[name][-1]["full"]), file=sys.stderr)
            time.sleep(1)
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(raw, file, indent=1)
    print(json.dumps(summary(raw), indent=1))


def yardstick(arguments):
    command = [arguments.bench, "yardstick", "--cpu", "0", "--sender-cpu", "1"]
    return json.dumps(json.loads(subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout))


def compare_cores(arguments):
    """One core at a rate, two cores at twice the rate, in turn; spans of a trace come over both connections."""
    cells = {"one core": ("[0]", arguments.cores_compared), "two cores": ("[0, 1]", 2 * arguments.cores_compared)}
    costs = {name: [] for name in cells}
    for _ in range(arguments.rounds):
        for name, (cores, rate) in cells.items():
            server = start(arguments, arguments.work, cores)
            try:
                report = load(arguments, server, "grpc", 380, 512, arguments.seconds, rate)
            finally:
                server.kill()
                shutil.rmtree(arguments.work, ignore_errors=True)
            costs[name].append(report["server"]["cpu_seconds_per_million_spans"])
            print(name, json.dumps(report), file=sys.stderr)
            time.sleep(1)
    medians = {name: round(statistics.median(values), 3) for name, values in costs.items()}
    ratio = round(medians["two cores"] / medians["one core"], 3)
    print(json.dumps({"cpu_seconds_per_million_spans": medians, "raw": costs, "ratio": ratio}, indent=1))


def summary(raw):
    def median(reports, *path):
        values = []
        for report in reports:
            for key in path:
                report = report.get(key) if isinstance(report, dict) else None
            if isinstance(report, (int, float)):
                values.append(report)
        return round(statistics.median(values), 4) if values else None

    table = {}
    for name, reports in raw.items():
        kept = [r["status"]["signals"]["spans"] for r in reports]
        parts = {}
        for part in ("half", "nine_tenths"):
            if part in reports[0]:
                parts[f"{part}_server"] = {k: median(reports, part, "server", k) for k in reports[0][part]["server"]}
                parts[f"ack_{part}"] = {k: median(reports, part, "ack_ms", k) for k in reports[0][part]["ack_ms"]}
        table[name] = {
            **parts,
            "spans_per_second": median(reports, "full", "spans_per_second"),
            "server": {k: median(reports, "full", "server", k) for k in reports[0]["full"].get("server", {})},
            "ack_full": {k: median(reports, "full", "ack_ms", k) for k in reports[0]["full"].get("ack_ms", {})},
            "kept_share": round(statistics.median(k["kept"] / max(1, k["kept"] + k["rolled_up"]) for k in kept), 4),
        }
    return table


if __name__ == "__main__":
    main()
