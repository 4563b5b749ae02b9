"""A cluster in namespaces: its nodes, its load, what its members say of each other, and the judge."""

import os
import re
import time

import cluster
from cluster_faults.network import PORT, Namespace
from faults.node import merge

TOKEN = "judge"
BUCKET = re.compile(r'^tailkeep_(\w+)_bucket\{le="([^"]+)"\} (\d+)', re.MULTILINE)


class Fleet:
    """`with_` merges into each node's configuration; `advertise(number)` is where others are told to reach it."""

    def __init__(self, case, count, with_=None, advertise=None):
        self.case = case
        self.network = [Namespace(case, f"n{number}", number + 1) for number in range(count)]
        listens = [f"{namespace.address}:{PORT}" for namespace in self.network]
        reached = [advertise(number) for number in range(count)] if advertise else listens
        token = case.path("token")
        with open(token, "w", encoding="ascii") as file:
            file.write(TOKEN)
        os.chmod(token, 0o600)
        self.nodes = []
        for number, namespace in enumerate(self.network):
            # One core each, dealt evenly.
            cores = [number % os.cpu_count()]
            join = [address for address in reached if address != reached[number]]
            config = cluster.configuration(case.work, number, listens[number], join, namespace.address, cores)
            config["cluster"].update(insecure=True, advertise=reached[number])
            config["admin"]["token_file"] = token
            config["memory"] = {"limit": "256MiB"}
            config["wal"] = {"segment_size": "8MiB", "max_size": "1GiB"}
            protocols = config["receivers"]["otlp"]["protocols"]
            protocols["grpc"]["max_recv_msg_size_mib"] = 1
            protocols["http"]["max_request_body_size"] = "1MiB"
            merge(config, with_ or {})
            node = cluster.Node(number, case.work, case.binary, config, prefix=namespace.prefix, token=TOKEN)
            self.nodes.append(node)
            case.undo.callback(lambda node=node: node.process and node.process.kill())
        self.loads = []
        self.traces = []

    def start(self, numbers=None):
        for node in self.nodes if numbers is None else [self.nodes[number] for number in numbers]:
            node.start()
        return cluster.await_members(self.nodes)

    def running(self):
        return [node for node in self.nodes if node.process]

    # ---- load

    def load(self, rate=3000, patience=10):
        load = cluster.Load(self.nodes, self.case.draw, rate, patience=patience)
        load.start()
        self.loads.append(load)
        # However the case ends, nothing is sent to the next one.
        self.case.undo.callback(load.over.set)
        return load

    def load_for(self, seconds, rate=3000, patience=10):
        load = self.load(rate, patience)
        time.sleep(seconds)
        self.traces += load.end()
        return load

    def end(self, load):
        self.traces += load.end()

    # ---- what members say

    def states(self, node):
        """The state of each life of each node, by name and incarnation, as one node sees it."""
        members = node.process.status()["cluster"]["members"]
        return {(member["name"], member["incarnation"]): member["state"] for member in members}

    def watch(self, seconds, pause=0.5, nodes=None):
        """Whoever is not alive in somebody's eyes meanwhile: how often, by state."""
        seen = {}
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for node in nodes or self.running():
                try:
                    states = self.states(node)
                except OSError:
                    # Too busy to answer; asked again.
                    continue
                for state in states.values():
                    if state != "alive":
                        seen[state] = seen.get(state, 0) + 1
            time.sleep(pause)
        return seen

    def await_whole(self, seconds):
        """Every node that runs sees all of them alive; the seconds it took."""
        try:
            return cluster.await_members(self.nodes, seconds)
        except TimeoutError as error:
            self.case.violations.append(f"after {seconds} s {error}")
            return float("inf")

    # ---- decisions

    def metrics(self):
        return {node.number: node.process.metrics() for node in self.running()}

    def await_decisions(self, seconds):
        """Nothing decided is missing anywhere, which holds for nodes that were there from the first decision on; the
        seconds until then."""
        began = time.monotonic()
        while True:
            lacking = missing(self.metrics())
            took = time.monotonic() - began
            if not lacking:
                return took
            if took > seconds:
                self.case.violations.append(f"after {seconds} s decisions are missing, by node: {lacking}")
                return float("inf")
            time.sleep(0.05)

    # ---- the judge

    def settle(self, seconds=120):
        return cluster.settle(self.nodes, self.case.violations, seconds)

    def finish(self, must_agree=False, **judgement):
        """Comes to rest, ends well, and is judged; counts."""
        self.settle()
        cluster.stop(self.nodes, self.case.violations)
        return self.judge(must_agree=must_agree, **judgement)

    def judge(self, **judgement):
        violations = self.case.violations
        spans, said = cluster.exported(self.case.work, len(self.nodes), violations)
        return cluster.judge(self.traces, spans, said, violations, **judgement)


def total(metrics, name):
    return int(sum(cluster.counter(text, f"tailkeep_{name}") for text in metrics.values()))


def missing(metrics):
    """Decisions that a node lacks of those of the others."""
    def count(text, direction):
        return int(cluster.counter(text, f'tailkeep_gossip_decisions_total{{direction="{direction}"}}'))

    announced = sum(count(text, "out") for text in metrics.values())
    lacking = {number: announced - count(text, "out") - count(text, "in") for number, text in metrics.items()}
    return {number: count for number, count in lacking.items() if count}


def histogram(text, name):
    return [(bound, count) for which, bound, count in BUCKET.findall(text) if which == name]


def delays(before, after, name="gossip_decision_delay_seconds"):
    """What was counted between the two by a histogram of all nodes together: counts by upper bound in seconds. By
    default how long decisions took from node to node."""
    counts = {}
    for number, text in after.items():
        old = dict(histogram(before.get(number, ""), name))
        below = 0
        for bound, count in histogram(text, name):
            grown = int(count) - int(old.get(bound, 0))
            counts[float(bound)] = counts.get(float(bound), 0) + grown - below
            below = grown
    return counts


def quantile(counts, share):
    """Milliseconds, by interpolation within a bucket, whose bounds are powers of two."""
    wanted = share * sum(counts.values())
    below, lower = 0, 0.0
    for bound, count in sorted(counts.items()):
        if count and below + count >= wanted:
            return 1000 * (lower + (min(bound, 1e6) - lower) * (wanted - below) / count)
        below, lower = below + count, bound
    return 0.0


def slowest(counts):
    """Milliseconds: the bound of the last bucket that has any."""
    return 1000 * max((bound for bound, count in counts.items() if count), default=0.0)


def words(counts):
    """A judgement in words."""
    lost = counts["missing_traces"] + counts["missing_spans"]
    text = f"{counts['kept']:,} traces kept, missing {lost}, extra {counts['extra']}"
    text += f", {counts['twice']:,} spans twice" if counts["twice"] else ""
    return text + (f", {counts['disagreeing']:,} disagreeing" if counts["disagreeing"] else "")
