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
import os
import random
import shutil
import statistics
import sys
import time

import ledger
import tailkeep_process
from bench_load import Load
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
            options = {"seed": draw.getrandbits(63), "rate": arguments.rate, "error-ratio": arguments.error_ratio}
            load = Load(arguments.bench, transport, server.endpoints[transport], ledger_path, options)
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
    exported = ledger.exported_spans(os.path.join(work, "kept.jsonl"), violations)
    counts = ledger.judge(work, arguments.policy, exported, violations)
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
