"""The network loses, repeats, delays, and takes short packets only."""

import os
import time
from collections import Counter

import cluster
import ledger
from bench_load import Load
from cluster_faults.fleet import Fleet, delays, quantile, slowest, total, words
from cluster_faults.network import HUB, PORT
from cluster_faults.relay import DatagramRelay
from faults.case import fault
from faults.relay import Relay

# Percent, and the seconds within which nothing may be missing any more.
LOSSES = [(0, 2), (1, 2), (5, 2), (20, 5)]
DELAY_MS_MAX = 20


def told(case, nodes, percent, counts, took):
    """Of one phase of loss, judged. Where many nodes share a processor its queue is what takes time: only told."""
    p99, last = quantile(counts, 0.99), slowest(counts)
    if percent <= 1 and nodes <= 3 * os.cpu_count():
        case.expect(p99 <= DELAY_MS_MAX, f"at {percent} % loss p99 of decision delay is {p99:.1f} ms")
    return f"{percent} %: {sum(counts.values()):,} decisions came, p99 {p99:.1f} ms, all below {last:.0f} ms, none missing after {took:.1f} s"


def losses(case, count, rate):
    fleet = Fleet(case, count)
    fleet.start()
    said = []
    for percent, seconds in LOSSES:
        for namespace in fleet.network:
            namespace.lose(percent)
        before = fleet.metrics()
        fleet.load_for(case.count(10, 60), rate)
        took = fleet.await_decisions(seconds)
        said.append(told(case, count, percent, delays(before, fleet.metrics()), took))
    dropped = sum(namespace.dropped() for namespace in fleet.network)
    case.expect(dropped > 0, "nothing was lost on the way")
    for namespace in fleet.network:
        namespace.lose(0)
    metrics = fleet.metrics()
    # Of the disk, which they share with each other and everything else.
    sync = slowest(delays({}, metrics, "wal_sync_seconds"))
    repair = total(metrics, 'gossip_gaps_total{outcome="repaired"}')
    case.expect(total(metrics, 'gossip_gaps_total{outcome="unrepairable"}') == 0, "gaps stayed open")
    return f"{'; '.join(said)}; {dropped:,} packets lost, {repair:,} gaps repaired; every flush of a log below {sync:.0f} ms; {words(fleet.finish())}"


MISSING = "decisions missing 0 within 2 s up to 5 % loss and 5 s at 20 %; exactly the model's traces"
PROMISE = f"{MISSING}; p99 of decision delay at most 20 ms up to 1 %"


@fault("G01", "0, 1, 5 and 20 % of what nodes send each other is lost; 3 nodes", PROMISE, root=True)
def three(case):
    return losses(case, 3, 4000)


@fault("G01-5", "the same with 5 nodes", PROMISE, root=True)
def five(case):
    return losses(case, 5, 3000)


@fault("G01-10", "the same with 10 nodes", MISSING, root=True)
def ten(case):
    return losses(case, 10, 2000)


@fault("G01-rate", "the same with 10,000 decisions a second: every trace has one span and is kept; 3 nodes", "decisions missing 0 within 2 s up to 5 % loss and 5 s at 20 %; p99 of decision delay at most 20 ms up to 1 %; every trace comes out", root=True)
def many_decisions(case):
    keep_all = {"tail_sampling": {"decision_wait": "5s", "policies": [{"name": "all", "type": "always_sample"}]}}
    fleet = Fleet(case, 3, with_=keep_all)
    fleet.start()
    said = []
    for percent, seconds in LOSSES:
        for namespace in fleet.network:
            namespace.lose(percent)
        before, began = fleet.metrics(), time.monotonic()
        loads = []
        for node in fleet.nodes:
            options = {"rate": 3400, "duration": f"{case.count(10, 60)}s", "spans-per-trace": 1, "requests-per-trace": 1}
            options["seed"] = case.draw.getrandbits(63)
            endpoint = node.process.endpoints["grpc"]
            book = case.path(f"load-{percent}-{node.number}.ledger")
            loads.append(Load(case.bench, "grpc", endpoint, book, options))
            case.undo.callback(loads[-1].end, 0)
        for load in loads:
            load.end(120)
        seconds_of_load = time.monotonic() - began
        # The last ones are decided when they are quiet.
        fleet.settle()
        took = fleet.await_decisions(seconds)
        counts = delays(before, fleet.metrics())
        rate = (total(fleet.metrics(), 'gossip_decisions_total{direction="out"}')
                - total(before, 'gossip_decisions_total{direction="out"}')) / seconds_of_load  # fmt: skip
        said.append(f"{rate:,.0f}/s, {told(case, 3, percent, counts, took)}")
    cluster.stop(fleet.nodes, case.violations)
    arrived = Counter()
    for node in fleet.nodes:
        arrived.update(ledger.exported_spans(cluster.output_path(case.work, node.number), case.violations))
    counts = ledger.judge(case.work, "always", arrived, case.violations)
    return f"{'; '.join(said)}; of {counts['due']:,} acknowledged traces {counts['missing']} did not come out"


@fault("G02", "5 % of the datagrams come twice, all 20 to 200 ms late and out of order; 3 nodes", "each decision takes effect once: exactly the model's traces, none of their spans twice", root=True)
def repeated_and_late(case):
    relays = []

    def advertise(number):
        upstream = (f"10.83.0.{number + 1}", PORT)
        relays.append(DatagramRelay(case, (HUB, 7000 + number), upstream, (0.02, 0.2)))
        Relay(case, f"{upstream[0]}:{upstream[1]}", (HUB, 7000 + number))
        return f"{HUB}:{7000 + number}"

    fleet = Fleet(case, 3, advertise=advertise)
    for namespace in fleet.network:
        namespace.repeat(5, 7000)
    fleet.start()
    fleet.load_for(case.count(15, 60))
    took = fleet.await_decisions(2)
    metrics = fleet.metrics()
    counts = fleet.finish(must_agree=True)
    case.expect(counts["twice"] == 0, f"{counts['twice']} spans came out twice")
    passed = sum(relay.passed for relay in relays)
    sent = total(metrics, 'gossip_datagrams_total{direction="out",outcome="sent"}')
    replayed = total(metrics, 'gossip_datagrams_total{direction="in",outcome="replayed"}')
    case.expect(replayed > 0, "no datagram came twice")
    return f"{passed:,} datagrams late of {sent:,}, {replayed:,} came again and were refused, none missing after {took:.1f} s; {words(counts)}"


@fault("G10", "packets of at most 1,280 bytes, and no fragments", "nothing depends on longer ones", root=True)
def short_packets(case):
    fleet = Fleet(case, 3)
    for namespace in fleet.network:
        namespace.ip("link", "set", "eth0", "mtu", "1280")
        namespace.nft("insert rule inet faults in ip frag-off & 0x3fff != 0 counter drop\n")
    fleet.start()
    fleet.load_for(case.count(10, 30))
    took = fleet.await_decisions(2)
    fragments = sum(namespace.dropped() for namespace in fleet.network)
    case.expect(fragments == 0, f"{fragments} fragments were sent")
    return f"no fragment sent, none missing after {took:.1f} s; {words(fleet.finish(must_agree=True))}"
