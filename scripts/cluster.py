#!/usr/bin/env python3
"""Three nodes on this host, the spans of each trace scattered over them: exactly the traces of a model that knows all
spans must come out, whole.

    cluster.py [--traces 100000] [--nodes 3] [--by-trace-id] [--faults none|restart|kill] [--rate SPANS_PER_SECOND]
               [--seed N] [--binary target/debug/tailkeep] [--set key=value]

The policies are errors, slow (over 2 s between the first start and the last end of any two spans, wherever they
landed), many (10 spans or more, summed over the nodes), and 1 % of the rest. `--by-trace-id` sends all spans of a
trace to one node, as a balancer that looks at trace ids would, and wants no digest on the wire. `--faults restart`
restarts the nodes one after another under load (SIGTERM), `kill` ends one after another with SIGKILL and starts it
again; clients send what was not acknowledged to another node. Judged:

- a trace comes out if and only if the model keeps it (spans that were sent twice count twice);
- of a trace that comes out every acknowledged span is there, from whichever node;
- the spans of a trace say one policy, one reason and one threshold (without faults);
- the ledgers balance, and the nodes end with 0.

Prints its seed and a summary; exit code 1 on a violation. Standard library only; ends only processes that it started.
"""

import argparse
import http.client
import json
import os
import queue
import random
import shutil
import socket
import sys
import threading
import time
import urllib.request

import otlp_encode as otlp
import tailkeep_process
from tailkeep_process import PROJECT, Tailkeep

CONFIG = """\
node: {{ name: node-{number}, data_dir: {work}/data-{number}, cores: {cores} }}
receivers:
  otlp:
    protocols:
      grpc: {{ endpoint: "127.0.0.1:0" }}
      http: {{ endpoint: "127.0.0.1:0" }}
tail_sampling:
  decision_wait: 30s
  policies:
    - {{ name: errors, type: status_code, status_code: {{ status_codes: [ERROR] }} }}
    - {{ name: slow, type: latency, latency: {{ threshold_ms: 2000 }} }}
    - {{ name: many, type: span_count, span_count: {{ min_spans: 10 }} }}
    - {{ name: baseline, type: probabilistic, probabilistic: {{ sampling_percentage: 1 }} }}
completion: {{ quiet: {quiet} }}
exporters:
  file: {{ path: {work}/kept-{number}.jsonl }}
cluster:
  name: check
  listen: "127.0.0.1:{port}"
  join: [{join}]
  spans_arrive: {spans_arrive}
admin: {{ endpoint: "127.0.0.1:0" }}
"""
THRESHOLD_OF_ONE_PERCENT = 0xFD70A4 << 32
BASE_NS = 1_700_000_000_000_000_000
# Traces that are under way at once.
CHUNK = 400
SPANS_PER_REQUEST = 250


class Node:
    def __init__(self, arguments, work, number, ports):
        self.number = number
        self.arguments = arguments
        self.work = work
        join = ", ".join(f'"127.0.0.1:{port}"' for port in ports if port != ports[number])
        self.config = os.path.join(work, f"node-{number}.yaml")
        with open(self.config, "w", encoding="ascii") as out:
            out.write(CONFIG.format(
                number=number, work=work, port=ports[number], join=join, quiet=arguments.quiet,
                cores=arguments.cores, spans_arrive="by_trace_id" if arguments.by_trace_id else "anywhere"))
        self.process = None

    def start(self):
        log = os.path.join(self.work, f"node-{self.number}.log")
        process = Tailkeep(self.arguments.binary, self.config, log, self.arguments.set)
        process.wait_ready()
        self.process = process

    def endpoint(self):
        process = self.process
        return process.endpoints["http"] if process else None

    def metrics(self):
        with urllib.request.urlopen(f"http://{self.process.endpoints['admin']}/metrics", timeout=5) as reply:
            return reply.read().decode()


def free_ports(count):
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Trace:
    """What the model knows: per span whether it fails, when it starts and ends, how often it may have been written."""

    __slots__ = ("id", "spans", "acknowledged", "written")

    def __init__(self, draw):
        self.id = draw.randbytes(16)
        count = draw.choice([1, 2, 3, 5, 6, 8, 9, 12])
        slow = draw.random() < 0.1
        fails = draw.randrange(count) if draw.random() < 0.1 else None
        self.spans = []
        for number in range(count):
            start = draw.randrange(2600 if slow else 900)
            self.spans.append((number == fails, start, start + draw.randrange(300)))
        self.acknowledged = [False] * count
        self.written = [0] * count

    def encode(self, number):
        fails, start, end = self.spans[number]
        identity = (number + 1).to_bytes(8, "big")
        parent = b"" if number == 0 else (1).to_bytes(8, "big")
        message = otlp.span(self.id, identity, parent, "work", 1,
                            BASE_NS + start * 1_000_000, BASE_NS + end * 1_000_000)
        return message + (otlp.field_bytes(15, otlp.integer(3, 2)) if fails else b"")

    def keeps(self, counts):
        there = [span for span, count in zip(self.spans, counts) if count]
        if not there:
            return False
        randomness = int.from_bytes(self.id[9:], "big")
        duration = max(end for _, _, end in there) - min(start for _, start, _ in there)
        return (any(fails for fails, _, _ in there) or duration > 2000 or sum(counts) >= 10
                or randomness >= THRESHOLD_OF_ONE_PERCENT)


class Sender(threading.Thread):
    """Posts what is for one node; what is not acknowledged goes to another."""

    def __init__(self, nodes, number, stopping):
        super().__init__(daemon=True)
        self.nodes, self.number, self.stopping = nodes, number, stopping
        self.work = queue.Queue(maxsize=64)
        self.clients = {}
        self.resent = 0

    def run(self):
        while True:
            spans = self.work.get()
            if spans is None:
                return
            body = otlp.request([("service.name", f"service-{self.number}")], "check",
                                [trace.encode(number) for trace, number in spans])
            target = self.number
            while not self.post(target, body, spans):
                self.resent += 1
                target = (target + 1) % len(self.nodes)
                time.sleep(0.05)
            self.work.task_done()

    def post(self, target, body, spans):
        endpoint = self.nodes[target].endpoint()
        if endpoint is None:
            return False
        for trace, number in spans:
            trace.written[number] += 1
        try:
            client = self.clients.get(endpoint)
            if client is None:
                client = self.clients[endpoint] = otlp.Client(endpoint)
            status, _ = client.post(body)
        except (OSError, http.client.HTTPException):
            self.clients.pop(endpoint, None)
            return False
        if status != 200:
            # Refused: nothing was written.
            for trace, number in spans:
                trace.written[number] -= 1
            return False
        for trace, number in spans:
            trace.acknowledged[number] = True
        return True


def disturb(arguments, nodes, over, done):
    """Restarts or kills one node after another until the load is over."""
    number = 0
    while not over.wait(2.0):
        node = nodes[number % len(nodes)]
        process, node.process = node.process, None
        if arguments.faults == "kill":
            process.kill()
        else:
            code = process.terminate()
            if code != 0:
                done.append(f"node {node.number} ended with {code} when it was asked to stop")
        over.wait(0.5)
        node.start()
        number += 1
    done.append(number)


def exported(work, count, violations):
    """Of each trace: the numbers of its spans, and what they say."""
    spans, said = {}, {}
    for number in range(count):
        path = os.path.join(work, f"kept-{number}.jsonl")
        if not os.path.exists(path):
            continue
        with open(path, "rb") as lines:
            for line in lines:
                try:
                    document = json.loads(line)
                except ValueError:
                    violations.append(f"torn line in {path}")
                    continue
                for resource in document["resourceSpans"]:
                    for scope in resource["scopeSpans"]:
                        attributes = {one["key"]: next(iter(one["value"].values()))
                                      for one in scope["scope"].get("attributes", [])}
                        for span in scope["spans"]:
                            trace = span["traceId"]
                            spans.setdefault(trace, set()).add(int(span["spanId"], 16) - 1)
                            if "tailsampling.cached_decision" not in attributes:
                                said.setdefault(trace, set()).add((
                                    attributes.get("tailsampling.policy"), attributes.get("tailkeep.reason"),
                                    span.get("traceState", "")))
    return spans, said


def judge(arguments, traces, spans, said, violations):
    missing_traces = missing_spans = extra = disagreeing = kept = 0
    known = set()
    for trace in traces:
        name = trace.id.hex()
        known.add(name)
        out = spans.get(name, set())
        if out:
            kept += 1
            missing = {number for number, yes in enumerate(trace.acknowledged) if yes} - out
            missing_spans += len(missing)
            if missing:
                violations.append(f"trace {name} lacks {len(missing)} of {len(trace.spans)} spans")
            if not trace.keeps(trace.written):
                extra += 1
                violations.append(f"trace {name} came out, the model drops it")
            if arguments.faults == "none" and len(said.get(name, ())) > 1:
                disagreeing += 1
                violations.append(f"trace {name} says different things: {said[name]}")
        elif trace.keeps([int(yes) for yes in trace.acknowledged]):
            missing_traces += 1
            violations.append(f"trace {name} did not come out: {len(trace.spans)} spans, the model keeps it")
    if set(spans) - known:
        violations.append("spans came out that were never sent")
    return {"kept": kept, "missing_traces": missing_traces, "missing_spans": missing_spans, "extra": extra,
            "disagreeing": disagreeing}


def counter(text, name):
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines()
               if line.startswith(name) and not line.startswith("#"))


def play(arguments, work, draw, violations):
    nodes = [Node(arguments, work, number, ports)
             for ports in [free_ports(arguments.nodes)] for number in range(arguments.nodes)]
    try:
        for node in nodes:
            node.start()
        await_members(nodes)
        over, done = threading.Event(), []
        senders = [Sender(nodes, number, over) for number in range(len(nodes))]
        for sender in senders:
            sender.start()
        disturber = threading.Thread(target=disturb, args=(arguments, nodes, over, done), daemon=True)
        if arguments.faults != "none":
            disturber.start()
        began = time.monotonic()
        traces, sent = [], 0
        while len(traces) < arguments.traces:
            chunk = [Trace(draw) for _ in range(min(CHUNK, arguments.traces - len(traces)))]
            traces += chunk
            parts = [[] for _ in nodes]
            for trace in chunk:
                for number in range(len(trace.spans)):
                    by_id = int.from_bytes(trace.id[:4], "big") % len(nodes)
                    parts[by_id if arguments.by_trace_id else draw.randrange(len(nodes))].append((trace, number))
            for sender, part in zip(senders, parts):
                draw.shuffle(part)
                for begin in range(0, len(part), SPANS_PER_REQUEST):
                    sender.work.put(part[begin:begin + SPANS_PER_REQUEST])
                sent += len(part)
            # Spans of one trace arrive at about the same time.
            for sender in senders:
                sender.work.join()
            ahead = sent / arguments.rate - (time.monotonic() - began)
            if ahead > 0:
                time.sleep(ahead)
        seconds = time.monotonic() - began
        over.set()
        if arguments.faults != "none":
            disturber.join(60)
        violations += [one for one in done if isinstance(one, str)]
        for sender in senders:
            sender.work.put(None)
        statuses = [tailkeep_process.await_idle(node.process.endpoints["admin"], 120) for node in nodes]
        # What a peer keeps late is exported late.
        time.sleep(3)
        statuses = [tailkeep_process.await_idle(node.process.endpoints["admin"], 60) for node in nodes]
        metrics = [node.metrics() for node in nodes]
        for status in statuses:
            violations += tailkeep_process.ledger_violations(status)
        for node in nodes:
            code = node.process.terminate()
            if code != 0:
                violations.append(f"node {node.number} ended with {code}")
        summary = {
            "seconds": round(seconds, 1), "traces": len(traces), "spans": sent,
            "resent_requests": sum(sender.resent for sender in senders),
            "disturbances": sum(one for one in done if isinstance(one, int)),
            "digests": int(sum(counter(text, "tailkeep_gossip_digests_total") for text in metrics)),
            "judged_alone": int(sum(counter(text, "tailkeep_traces_judged_alone_total") for text in metrics)),
        }
        return traces, summary
    finally:
        for node in nodes:
            if node.process:
                node.process.kill()


def await_members(nodes, seconds=30):
    deadline = time.monotonic() + seconds
    while True:
        seen = [(node.process.status().get("cluster") or {}).get("members", []) for node in nodes]
        if all(sum(member["state"] == "alive" for member in members) == len(nodes) for members in seen):
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"the nodes do not find each other: {seen}")
        time.sleep(0.1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--traces", type=int, default=100_000)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--cores", default="1")
    parser.add_argument("--quiet", default="1s")
    parser.add_argument("--by-trace-id", action="store_true")
    parser.add_argument("--faults", choices=["none", "restart", "kill"], default="none")
    parser.add_argument("--rate", type=float, default=8000, help="spans per second at most")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--binary", default=os.path.join(PROJECT, "target/debug/tailkeep"))
    parser.add_argument("--work", default=os.path.join(PROJECT, "target/cluster"))
    parser.add_argument("--set", action="append", default=[])
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}", flush=True)
    shutil.rmtree(arguments.work, ignore_errors=True)
    os.makedirs(arguments.work)
    violations = []
    traces, summary = play(arguments, arguments.work, random.Random(seed), violations)
    spans, said = exported(arguments.work, arguments.nodes, violations)
    summary.update(judge(arguments, traces, spans, said, violations))
    if arguments.by_trace_id and summary["digests"]:
        violations.append(f"{summary['digests']} digests were sent although each trace was at one node")
    print(json.dumps(summary))
    for violation in violations[:20]:
        print("violation:", violation)
    if violations:
        sys.exit(f"{len(violations)} violations; files are in {arguments.work}")


if __name__ == "__main__":
    main()
