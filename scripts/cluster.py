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
What networks and hosts do to a cluster: cluster_faults.py.
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

import otlp_encode as otlp
import tailkeep_process
from tailkeep_process import PROJECT, Tailkeep

ERRORS = {"name": "errors", "type": "status_code", "status_code": {"status_codes": ["ERROR"]}}
SLOW = {"name": "slow", "type": "latency", "latency": {"threshold_ms": 2000}}
MANY = {"name": "many", "type": "span_count", "span_count": {"min_spans": 10}}
BASELINE = {"name": "baseline", "type": "probabilistic", "probabilistic": {"sampling_percentage": 1}}
THRESHOLD_OF_ONE_PERCENT = 0xFD70A4 << 32
BASE_NS = 1_700_000_000_000_000_000
# Traces that are under way at once.
CHUNK = 400
SPANS_PER_REQUEST = 250


def configuration(work, number, listen, join, host="127.0.0.1", cores=1, quiet="1s", by_trace_id=False):
    """Of one node; `listen` and `join` are addresses of the cluster, everything else has any port of `host`."""
    return {
        "node": {"name": f"node-{number}", "data_dir": os.path.join(work, f"data-{number}"), "cores": cores},
        "receivers": {
            "otlp": {"protocols": {"grpc": {"endpoint": f"{host}:0"}, "http": {"endpoint": f"{host}:0"}}}
        },
        "tail_sampling": {"decision_wait": "30s", "policies": [ERRORS, SLOW, MANY, BASELINE]},
        "completion": {"quiet": quiet},
        "exporters": {"file": {"path": output_path(work, number)}},
        "cluster": {
            "name": "check",
            "listen": listen,
            "join": [address for address in join if address != listen],
            "spans_arrive": "by_trace_id" if by_trace_id else "anywhere",
        },
        "admin": {"endpoint": f"{host}:0"},
    }


def output_path(work, number):
    return os.path.join(work, f"kept-{number}.jsonl")


class Node:
    """One node, over all its lives."""

    def __init__(self, number, work, binary, config, settings=(), prefix=(), token=None):
        self.number, self.binary, self.settings, self.prefix, self.token = number, binary, settings, prefix, token
        self.config = config
        self.path = os.path.join(work, f"node-{number}.yaml")
        self.log = os.path.join(work, f"node-{number}.log")
        self.process = None
        # Whether clients know of it.
        self.takes_load = True

    def start(self):
        with open(self.path, "w", encoding="utf-8") as out:
            # Every JSON document is one of YAML.
            json.dump(self.config, out, indent=1)
        process = Tailkeep(self.binary, self.path, self.log, self.settings, prefix=self.prefix, token=self.token)
        process.wait_ready()
        self.process = process

    def stop(self, ask=Tailkeep.terminate):
        """Clients go elsewhere, then it ends; its exit code."""
        process, self.process = self.process, None
        return ask(process)

    def endpoint(self):
        process = self.process
        return process.endpoints["http"] if process and self.takes_load else None


def free_ports(count):
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Trace:
    """What the model knows: per span whether it fails, when it starts and ends, how often it may have been written,
    and which node acknowledged it."""

    __slots__ = ("id", "spans", "landed", "written", "began", "ended")

    def __init__(self, draw):
        self.id = draw.randbytes(16)
        count = draw.choice([1, 2, 3, 5, 6, 8, 9, 12])
        slow = draw.random() < 0.1
        fails = draw.randrange(count) if draw.random() < 0.1 else None
        self.spans = []
        for number in range(count):
            start = draw.randrange(2600 if slow else 900)
            self.spans.append((number == fails, start, start + draw.randrange(300)))
        self.landed = [None] * count
        self.written = [0] * count
        # Between these its spans were sent and acknowledged, as time.monotonic says.
        self.began = self.ended = None

    def encode(self, number):
        fails, start, end = self.spans[number]
        identity = (number + 1).to_bytes(8, "big")
        parent = b"" if number == 0 else (1).to_bytes(8, "big")
        return otlp.span(self.id, identity, parent, "work", 1, BASE_NS + start * 1_000_000,
                         BASE_NS + end * 1_000_000, is_error=fails)

    def landed_at(self, nodes):
        """Counts of its spans that are at one of `nodes`."""
        return [int(node in nodes) for node in self.landed]

    def acknowledged(self):
        return [int(node is not None) for node in self.landed]

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

    def __init__(self, nodes, number, patience):
        super().__init__(daemon=True)
        self.nodes, self.number, self.patience = nodes, number, patience
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
                client = self.clients[endpoint] = otlp.Client(endpoint, self.patience)
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
            trace.landed[number] = target
        return True


class Load(threading.Thread):
    """Traces whose spans are scattered over the nodes that take load: so many, or until it is ended."""

    def __init__(self, nodes, draw, rate, count=None, by_trace_id=False, patience=30):
        super().__init__(daemon=True)
        self.nodes, self.draw, self.rate, self.count, self.by_trace_id = nodes, draw, rate, count, by_trace_id
        self.over = threading.Event()
        self.senders = [Sender(nodes, number, patience) for number in range(len(nodes))]
        self.traces, self.sent, self.seconds = [], 0, 0.0

    def run(self):
        for sender in self.senders:
            sender.start()
        began = time.monotonic()
        while not self.over.is_set() and (self.count is None or len(self.traces) < self.count):
            self.send_chunk()
            ahead = self.sent / self.rate - (time.monotonic() - began)
            if ahead > 0:
                self.over.wait(ahead)
        self.seconds = time.monotonic() - began
        for sender in self.senders:
            sender.work.put(None)

    def send_chunk(self):
        room = CHUNK if self.count is None else min(CHUNK, self.count - len(self.traces))
        # At a low rate a chunk is what a quarter of a second has.
        chunk = [Trace(self.draw) for _ in range(max(1, min(room, int(self.rate / 24))))]
        began = time.monotonic()
        there = [number for number, node in enumerate(self.nodes) if node.endpoint()]
        if not there:
            time.sleep(0.1)
            return
        parts = {number: [] for number in there}
        for trace in chunk:
            by_id = there[int.from_bytes(trace.id[:4], "big") % len(there)]
            for number in range(len(trace.spans)):
                parts[by_id if self.by_trace_id else self.draw.choice(there)].append((trace, number))
        for number, part in parts.items():
            self.draw.shuffle(part)
            for begin in range(0, len(part), SPANS_PER_REQUEST):
                self.senders[number].work.put(part[begin:begin + SPANS_PER_REQUEST])
            self.sent += len(part)
        # Spans of one trace arrive at about the same time.
        for sender in self.senders:
            sender.work.join()
        for trace in chunk:
            trace.began, trace.ended = began, time.monotonic()
        self.traces += chunk

    def end(self):
        """The traces, every span of which is acknowledged."""
        self.over.set()
        self.join()
        return self.traces

    def resent(self):
        return sum(sender.resent for sender in self.senders)


def disturb(faults, nodes, over, done):
    """Restarts or kills one node after another until the load is over."""
    number = 0
    while not over.wait(2.0):
        node = nodes[number % len(nodes)]
        if faults == "kill":
            node.stop(Tailkeep.kill)
        else:
            code = node.stop()
            if code != 0:
                done.append(f"node {node.number} ended with {code} when it was asked to stop")
        over.wait(0.5)
        node.start()
        number += 1
    done.append(number)


def exported(work, count, violations):
    """Of each trace: how often each of its spans came out, and what they say."""
    spans, said = {}, {}
    for number in range(count):
        path = output_path(work, number)
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
                            trace = spans.setdefault(span["traceId"], {})
                            which = int(span["spanId"], 16) - 1
                            trace[which] = trace.get(which, 0) + 1
                            if "tailsampling.cached_decision" not in attributes:
                                said.setdefault(span["traceId"], set()).add((
                                    attributes.get("tailsampling.policy"), attributes.get("tailkeep.reason"),
                                    span.get("traceState", "")))
    return spans, said


def is_due(trace):
    return trace.keeps(trace.acknowledged())


def judge(traces, spans, said, violations, must_agree=True, due=is_due, exact=lambda trace: True):
    """`due` says what the model keeps; of traces that are not `exact` only that nothing came which it drops."""
    missing_traces = missing_spans = extra = disagreeing = kept = twice = 0
    known = set()
    for trace in traces:
        name = trace.id.hex()
        known.add(name)
        out = spans.get(name, {})
        twice += sum(out.values()) - len(out)
        if out:
            kept += 1
            missing = {number for number, node in enumerate(trace.landed) if node is not None} - set(out)
            if missing and exact(trace):
                missing_spans += len(missing)
                violations.append(f"trace {name} lacks {len(missing)} of {len(trace.spans)} spans")
            if not trace.keeps(trace.written):
                extra += 1
                violations.append(f"trace {name} came out, the model drops it")
            if len(said.get(name, ())) > 1:
                disagreeing += 1
                if must_agree:
                    violations.append(f"trace {name} says different things: {said[name]}")
        elif exact(trace) and due(trace):
            missing_traces += 1
            violations.append(f"trace {name} did not come out: {len(trace.spans)} spans, the model keeps it")
    if set(spans) - known:
        violations.append("spans came out that were never sent")
    return {"kept": kept, "missing_traces": missing_traces, "missing_spans": missing_spans, "extra": extra,
            "disagreeing": disagreeing, "twice": twice}


def counter(text, name):
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines()
               if line.startswith(name) and not line.startswith("#"))


def settle(nodes, violations, seconds=120):
    """Waits until nothing pends anywhere; their metrics then."""
    running = [node for node in nodes if node.process]
    for turn in range(2):
        statuses = [tailkeep_process.await_idle(node.process.endpoints["admin"], seconds, node.token)
                    for node in running]
        if turn == 0:
            # What a peer keeps late is exported late.
            time.sleep(3)
    for status in statuses:
        violations += tailkeep_process.ledger_violations(status)
    return [node.process.metrics() for node in running]


def stop(nodes, violations):
    for node in nodes:
        if node.process:
            code = node.stop()
            if code != 0:
                violations.append(f"node {node.number} ended with {code}")


def play(arguments, work, draw, violations):
    addresses = [f"127.0.0.1:{port}" for port in free_ports(arguments.nodes)]
    nodes = []
    for number, listen in enumerate(addresses):
        config = configuration(work, number, listen, addresses, cores=arguments.cores, quiet=arguments.quiet,
                               by_trace_id=arguments.by_trace_id)
        nodes.append(Node(number, work, arguments.binary, config, arguments.set))
    try:
        for node in nodes:
            node.start()
        await_members(nodes)
        load = Load(nodes, draw, arguments.rate, arguments.traces, arguments.by_trace_id)
        load.start()
        done = []
        disturber = threading.Thread(target=disturb, args=(arguments.faults, nodes, load.over, done), daemon=True)
        if arguments.faults != "none":
            disturber.start()
        load.join()
        traces = load.end()
        if arguments.faults != "none":
            disturber.join(60)
        violations += [one for one in done if isinstance(one, str)]
        metrics = settle(nodes, violations)
        stop(nodes, violations)
        summary = {
            "seconds": round(load.seconds, 1), "traces": len(traces), "spans": load.sent,
            "resent_requests": load.resent(),
            "disturbances": sum(one for one in done if isinstance(one, int)),
            "fragments": sum(len(set(trace.landed)) for trace in traces),
            "gossip_bytes": int(sum(counter(text, 'tailkeep_gossip_bytes_total{direction="out"}') for text in metrics)),
            "digests": int(sum(counter(text, "tailkeep_gossip_digests_total") for text in metrics)),
            "judged_alone": int(sum(counter(text, "tailkeep_traces_judged_alone_total") for text in metrics)),
        }
        return traces, summary
    finally:
        for node in nodes:
            if node.process:
                node.process.kill()


def await_members(nodes, seconds=30):
    """Every one that runs sees all of them; the seconds it took."""
    began = time.monotonic()
    while True:
        running = [node for node in nodes if node.process]
        seen = [(node.process.status().get("cluster") or {}).get("members", []) for node in running]
        if all(sum(member["state"] == "alive" for member in members) == len(running) for members in seen):
            return time.monotonic() - began
        if time.monotonic() - began > seconds:
            raise TimeoutError(f"the nodes do not find each other: {seen}")
        time.sleep(0.1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--traces", type=int, default=100_000)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--cores", type=int, default=1)
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
    summary.update(judge(traces, spans, said, violations, must_agree=arguments.faults == "none"))
    if arguments.by_trace_id and summary["digests"]:
        violations.append(f"{summary['digests']} digests were sent although each trace was at one node")
    print(json.dumps(summary))
    for violation in violations[:20]:
        print("violation:", violation)
    if violations:
        sys.exit(f"{len(violations)} violations; files are in {arguments.work}")


if __name__ == "__main__":
    main()
