"""Nodes end and begin: killed, restarted one after another, more of them and fewer again."""

import time

from cluster import Tailkeep
from cluster_faults.fleet import Fleet, total, words
from faults.case import fault

# All see all again after a start or an end.
WHOLE_SECONDS_MAX = 15


@fault("G07", "nodes are killed and started at once, again and again; 4 nodes under load", "each life has its own stream and a higher incarnation, and nothing of an old one is taken for new", root=True)
def again_and_again(case):
    fleet = Fleet(case, 4)
    fleet.start()
    load = fleet.load(2500)
    rounds = case.count(6, 24)
    last = {}
    for number in range(rounds):
        time.sleep(2)
        node = fleet.nodes[number % 4]
        node.stop(Tailkeep.kill)
        node.start()
        fleet.await_whole(WHOLE_SECONDS_MAX)
        for other in fleet.nodes:
            alive = [name for (name, _), state in fleet.states(other).items() if state == "alive"]
            case.expect(len(set(alive)) == len(alive) == 4, f"alive in the eyes of node {other.number}: {alive}")
        ((_, incarnation),) = [life for life, state in fleet.states(node).items()
                               if life[0] == f"node-{node.number}" and state == "alive"]  # fmt: skip
        case.expect(incarnation > last.get(node.number, 0), f"incarnation {incarnation} after {last}")
        last[node.number] = incarnation
    fleet.end(load)
    counts = fleet.finish()
    return f"{rounds} kills; {load.resent()} requests sent elsewhere; {words(counts)}"


@fault("G09", "each of 3 nodes is restarted in turn (SIGTERM), under load", "nothing acknowledged is lost, decisions missing 0: exactly the model's traces", root=True)
def rolling_restart(case):
    fleet = Fleet(case, 3)
    fleet.start()
    load = fleet.load(3000)
    times = []
    for turn in range(case.count(2, 5)):
        for node in fleet.nodes:
            time.sleep(2)
            code = node.stop()
            case.expect(code == 0, f"node {node.number} ended with {code}")
            node.start()
            times.append(fleet.await_whole(WHOLE_SECONDS_MAX))
    time.sleep(2)
    fleet.end(load)
    counts = fleet.finish()
    return f"{len(times)} restarts, whole again {max(times):.1f} s after the start at most; {load.resent()} requests sent elsewhere; {words(counts)}"


@fault("G09-scale", "3 nodes become 10 and 3 again under load; who goes is drained", "exactly the model's traces; who is drained ends with 0 and leaves nothing behind", root=True)
def scale(case):
    fleet = Fleet(case, 10)
    first, more = fleet.nodes[:3], fleet.nodes[3:]
    for node in first:
        node.start()
    fleet.await_whole(WHOLE_SECONDS_MAX)
    load = fleet.load(2000)
    time.sleep(3)
    for node in more:
        node.start()
        time.sleep(1)
    joined = fleet.await_whole(WHOLE_SECONDS_MAX)
    time.sleep(case.count(5, 30))
    times = []
    for node in reversed(more):
        began = time.monotonic()
        code = node.stop(Tailkeep.drain)
        times.append(time.monotonic() - began)
        case.expect(code == 0, f"node {node.number} ended with {code} when it was drained")
    left = fleet.await_whole(WHOLE_SECONDS_MAX)
    time.sleep(3)
    fleet.end(load)
    alone = total(fleet.metrics(), "traces_judged_alone_total")
    # Nobody starts those again that went: what they had is out, or missing.
    counts = fleet.finish()
    return f"10 whole {joined:.1f} s after the last start, 3 whole {left:.1f} s after the last one went; a drain took {max(times):.1f} s at most, {alone:,} fragments judged alone by who stayed; {words(counts)}"
