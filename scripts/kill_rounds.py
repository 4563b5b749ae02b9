#!/usr/bin/env python3
"""Kills tailkeep under load again and again and compares what was acknowledged with what was exported.

    kill_rounds.py [--rounds 200] [--seed N] [--policy errors|always] [--cores 1,2,4,3]
                   [--binary …] [--bench …] [--set key=value]

Each round starts tailkeep on the same data directory with the next number of cores of the list, lets `tailkeep-bench load --ledger` send to it, and
kills it (SIGKILL) 0.1 to 2 s after load began; one start in ten is killed before it is ready, in the middle
of its replay. A last start is left alone until nothing is pending, then gets SIGTERM. Judged:

- every acknowledged span of a trace that is due is in the output file (due: with `always` every trace, with
  `errors` those whose error span was acknowledged);
- nothing is there that was never sent; no line is torn; the last run's ledger balances; it exits with 0;
- memory right after ready does not grow over the rounds.

Spans that come twice are counted, not judged. Prints its seed and a summary line; exit code 1 on a violation.
Standard library only; ends only processes that it started.
"""

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import threading
import time

import ledger
import tailkeep_process
from tailkeep_process import PROJECT, NotReady, Tailkeep

POLICIES = {
    "errors": "{ name: errors, type: status_code, status_code: { status_codes: [ERROR] } }",
    "always": "{ name: all, type: always_sample }",
}
CONFIG = """\
node: {{ data_dir: {work}/data }}
receivers:
  otlp:
    protocols:
      grpc: {{ endpoint: "127.0.0.1:0" }}
      http: {{ endpoint: "127.0.0.1:0" }}
tail_sampling:
  decision_wait: {decision_wait}
  policies:
    - {policy}
exporters:
  file: {{ path: {work}/kept.jsonl }}
admin: {{ endpoint: "127.0.0.1:0" }}
"""
# Allocators and page caches wobble; a leak of one round's load would exceed this within the rounds.
RSS_GROWTH_MAX = 1.25
RSS_GROWTH_SLACK_BYTES = 32 << 20


class Load:
    """One run of the generator."""

    def __init__(self, arguments, endpoints, transport, seed, ledger_path):
        command = [
            arguments.bench, "load", "--transport", transport, "--endpoint", endpoints[transport],
            "--seed", str(seed), "--ledger", ledger_path, "--rate", str(arguments.rate),
            "--warmup", "0s", "--duration", "30s", "--connections", "4", "--in-flight", "4",
            "--spans-per-request", "64", "--spans-per-trace", "8", "--requests-per-trace", "2",
            "--error-ratio", str(arguments.error_ratio), "--slow-ratio", "0",
        ]  # fmt: skip
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self.begun = threading.Event()
        self.lines = []
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.process.stderr:
            self.lines.append(line.rstrip())
            if "load begins" in line:
                self.begun.set()

    def wait_begun(self, seconds=10):
        if not self.begun.wait(seconds):
            self.end(0)
            raise RuntimeError("the load generator did not begin:\n  " + "\n  ".join(self.lines))

    def end(self, seconds=20):
        """It ends by itself when its connections are gone."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.reader.join(5)
        self.process.stderr.close()


def play(arguments, work, draw, violations):
    """All rounds. Returns figures: memory at each ready, seconds to each ready, rounds played."""
    config = os.path.join(work, "config.yaml")
    log = os.path.join(work, "server.log")

    def start(turn):
        cores = arguments.cores[turn % len(arguments.cores)]
        return Tailkeep(arguments.binary, config, log, [f"node.cores={cores}", *arguments.set])

    rss, ready_seconds = [], []
    deadline = time.monotonic() + arguments.time_max
    played = 0
    for number in range(arguments.rounds):
        if time.monotonic() > deadline:
            print(f"stopped after {played} rounds: --time-max {arguments.time_max} s is over", file=sys.stderr)
            break
        if draw.random() < 0.1:
            early = start(number + 1)
            time.sleep(draw.uniform(0, 0.3))
            early.kill()
        server = start(number)
        load = None
        try:
            ready_seconds.append(server.wait_ready(arguments.ready_max))
            rss.append(server.rss_bytes())
            transport = draw.choice(["grpc", "http"])
            ledger_path = os.path.join(work, f"round-{number:04}.ledger")
            load = Load(arguments, server.endpoints, transport, draw.getrandbits(63), ledger_path)
            load.wait_begun()
            time.sleep(draw.uniform(0.1, 2.0))
            if server.process.poll() is not None:
                violations.append(f"round {number}: tailkeep ended by itself with {server.process.returncode}")
        finally:
            server.kill()
            if load:
                load.end()
        played += 1
        if arguments.verbose:
            cores = arguments.cores[number % len(arguments.cores)]
            figures = f"{cores} cores, ready in {ready_seconds[-1]:.2f} s, {rss[-1] >> 20} MiB"
            print(f"round {number}: {transport}, {figures}", file=sys.stderr)

    last = start(played)
    try:
        ready_seconds.append(last.wait_ready(arguments.ready_max))
        rss.append(last.rss_bytes())
        try:
            status = tailkeep_process.await_idle(last.endpoints["admin"], arguments.settle)
            violations += tailkeep_process.ledger_violations(status)
        except TimeoutError as error:
            violations.append(str(error))
        code = last.terminate()
        if code != 0:
            violations.append(f"the last run ended with {code} after SIGTERM")
    finally:
        last.kill()
    return rss, ready_seconds, played


def exported_spans(path, violations):
    """{trace id + span id: times exported}"""
    found = {}
    with open(path, "rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                document = json.loads(line)
            except ValueError as error:
                violations.append(f"{path}:{number}: torn or not JSON: {error}")
                continue
            for resource_spans in document.get("resourceSpans", []):
                for scope_spans in resource_spans.get("scopeSpans", []):
                    for span in scope_spans.get("spans", []):
                        key = bytes.fromhex(span["traceId"] + span["spanId"])
                        found[key] = found.get(key, 0) + 1
    return found


def judge(work, policy, exported, violations):
    """Compares every ledger with `exported`; returns counts."""
    counts = {"sent": 0, "acknowledged": 0, "due": 0, "missing": 0, "unacknowledged_exported": 0}
    rest = set(exported)
    names = sorted(name for name in os.listdir(work) if name.endswith(".ledger"))
    for name in names:
        path = os.path.join(work, name)
        requests = ledger.read(path)
        due_traces = set()
        for runs, outcome in requests.values():
            if outcome == ledger.ACKED_IN_PART:
                violations.append(f"{name}: valid spans were rejected by partial_success")
            if outcome == ledger.ACKED:
                due_traces.update(t for t, marks, _ in runs if policy == "always" or marks & ledger.MARK_ERROR)
        for request, (runs, outcome) in requests.items():
            for trace_id, _, span_ids in runs:
                counts["sent"] += len(span_ids)
                acked = outcome == ledger.ACKED
                counts["acknowledged"] += len(span_ids) * acked
                is_due = acked and trace_id in due_traces
                for span_id in span_ids:
                    key = trace_id + span_id
                    rest.discard(key)
                    if is_due:
                        counts["due"] += 1
                        if key not in exported:
                            counts["missing"] += 1
                            if counts["missing"] <= 20:
                                violations.append(
                                    f"{name}, request {request}: acknowledged span {span_id.hex()} of trace "
                                    f"{trace_id.hex()} is missing"
                                )
                    elif key in exported and not acked:
                        counts["unacknowledged_exported"] += 1
    if counts["missing"] > 20:
        violations.append(f"… {counts['missing']} spans are missing in all")
    for key in sorted(rest)[:20]:
        violations.append(f"span {key[16:].hex()} of trace {key[:16].hex()} was never sent")
    if len(rest) > 20:
        violations.append(f"… {len(rest)} spans were never sent in all")
    if not counts["due"]:
        violations.append("nothing was compared: no acknowledged span was due")
    return counts


def rss_violation(rss):
    """Compares the first fifth of the starts with the last; the very first has nothing to replay."""
    fifth = len(rss) // 5
    if fifth < 4:
        return None
    first, last = statistics.median(rss[1 : 1 + fifth]), statistics.median(rss[-fifth:])
    if last > first * RSS_GROWTH_MAX + RSS_GROWTH_SLACK_BYTES:
        return f"memory at ready grew from {first / 2**20:.0f} to {last / 2**20:.0f} MiB over {len(rss)} starts"
    return None


def core_counts(text):
    counts = [int(count) for count in text.split(",")]
    if min(counts) < 1:
        raise ValueError(text)
    return counts


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--policy", choices=sorted(POLICIES), default="errors")
    parser.add_argument(
        "--cores", type=core_counts, default="1,2,4,3", metavar="LIST", help="node.cores of one start after the other"
    )
    parser.add_argument("--rate", type=int, default=10_000, help="spans a second")
    parser.add_argument("--error-ratio", type=float, default=0.1)
    parser.add_argument("--decision-wait", default="5s")
    parser.add_argument("--binary", default=os.path.join(PROJECT, "target", "release", "tailkeep"))
    parser.add_argument("--bench", default=os.path.join(PROJECT, "target", "release", "tailkeep-bench"))
    parser.add_argument("--work", default=os.path.join(PROJECT, "target", "kill-rounds"), help="emptied at the start")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="handed to tailkeep run")
    parser.add_argument("--ready-max", type=float, default=60, help="seconds")
    parser.add_argument("--settle", type=float, default=120, help="seconds for the last run to become idle")
    parser.add_argument("--time-max", type=float, default=1800, help="seconds for all rounds")
    parser.add_argument("--verbose", action="store_true")
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().getrandbits(32)
    draw = random.Random(seed)
    work = os.path.abspath(arguments.work)
    marker = os.path.join(work, "kill-rounds")
    if os.path.exists(work) and os.listdir(work) and not os.path.exists(marker):
        sys.exit(f"error: {work} holds something else; it would be emptied")
    shutil.rmtree(work, ignore_errors=True)
    os.makedirs(work)
    with open(marker, "w", encoding="ascii") as file:
        file.write(f"seed {seed}\n")
    with open(os.path.join(work, "config.yaml"), "w", encoding="utf-8") as file:
        policy = POLICIES[arguments.policy]
        file.write(CONFIG.format(work=work, policy=policy, decision_wait=arguments.decision_wait))
    cores = ",".join(map(str, arguments.cores))
    options = f"--seed {seed} --rounds {arguments.rounds} --policy {arguments.policy} --cores {cores}"
    print(f"seed {seed}; repeat with: scripts/kill_rounds.py {options}")
    sys.stdout.flush()

    violations = []
    try:
        rss, ready_seconds, played = play(arguments, work, draw, violations)
    except (NotReady, RuntimeError) as error:
        sys.exit(f"violation (seed {seed}): {error}")
    exported = exported_spans(os.path.join(work, "kept.jsonl"), violations)
    counts = judge(work, arguments.policy, exported, violations)
    growth = rss_violation(rss)
    if growth:
        violations.append(growth)
    for violation in violations[:60]:
        print(f"violation: {violation}")
    duplicates = sum(exported.values()) - len(exported)
    print(
        f"seed {seed}: {played} kills, {counts['sent']} spans sent, {counts['acknowledged']} acknowledged, "
        f"{counts['due']} due, {counts['missing']} missing, {len(exported)} exported, {duplicates} duplicates, "
        f"{counts['unacknowledged_exported']} exported without acknowledgement; "
        f"RSS at ready {min(rss) >> 20} to {max(rss) >> 20} MiB, last {rss[-1] >> 20}; "
        f"ready in at most {max(ready_seconds):.2f} s; {len(violations)} violations"
    )
    sys.exit(1 if violations else 0)


if __name__ == "__main__":
    main()
