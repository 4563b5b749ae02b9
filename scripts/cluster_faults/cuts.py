"""Nodes do not hear each other: partitions, one direction, one pair, for short and for long."""

import time

from cluster import Tailkeep, exported
from cluster_faults.fleet import Fleet, total, words
from cluster_faults.network import apart
from faults.case import fault

# To find out that somebody is gone, and for what was under way to be decided.
NOTICE_SECONDS = 15
HEAL_SECONDS_MAX = 10
# To find out that a node is dead, to hear of what it said, and to do without its word.
AGREE_SECONDS_MAX = 20


def split(case, seconds, count=5, rate=2500, **settings):
    """Two of the nodes and the others, both with load; what is said of it, and how traces are judged."""
    fleet = Fleet(case, count, **settings)
    fleet.start()
    sides = [{0, 1}, set(range(2, count))]
    load = fleet.load(rate)
    time.sleep(5)
    began = time.monotonic()
    apart(fleet.network[:2], fleet.network[2:])
    time.sleep(seconds)
    alive = [sum(state == "alive" for state in fleet.states(node).values()) for node in fleet.nodes]
    case.expect(max(alive) < count, f"nobody noticed: {alive} of {count} alive in the eyes of each")
    for namespace in fleet.network:
        namespace.heal()
    healed = fleet.await_whole(HEAL_SECONDS_MAX)
    ended = time.monotonic()
    time.sleep(8)
    fleet.end(load)

    def is_undisturbed(trace):
        return trace.ended < began - NOTICE_SECONDS / 3 or trace.began > ended + 1

    def is_due(trace):
        """Apart, each side judges what it has."""
        if is_undisturbed(trace):
            return trace.keeps(trace.acknowledged())
        return any(trace.keeps(trace.landed_at(side)) for side in sides)

    return fleet, healed, is_undisturbed, is_due


@fault("G03", "2 and 3 nodes are apart for 30 s, both sides take load and decide", "whole within 10 s of healing; decisions missing 0; what one side kept the other exports too", root=True)
def partition(case):
    seconds = 30
    fleet, healed, _, is_due = split(case, seconds)
    took = fleet.await_decisions(10)
    unrepairable = total(fleet.metrics(), 'gossip_gaps_total{outcome="unrepairable"}')
    case.expect(unrepairable == 0, f"{unrepairable} gaps stayed open")
    counts = fleet.finish(due=is_due)
    return f"apart for {seconds} s, whole {healed:.1f} s after it healed, none missing {took:.1f} s after the load; {words(counts)}"


@fault("G03-300", "the same for 300 s, less than what is kept for those who are away", "as G03", root=True, long_only=True)
def long_partition(case):
    fleet, healed, _, is_due = split(case, 300, with_={"tail_sampling": {"decision_wait": "180s"}})
    took = fleet.await_decisions(10)
    counts = fleet.finish(due=is_due)
    return f"apart for 300 s, whole {healed:.1f} s after it healed, none missing {took:.1f} s after the load; {words(counts)}"


@fault("G04", "3 nodes: one does not hear another, then two do not hear each other", "decisions missing 0 meanwhile, by way of the third; nobody is given up", root=True)
def pair(case):
    fleet = Fleet(case, 3, with_={"tail_sampling": {"decision_wait": "5s"}})
    fleet.start()
    first, second, _ = fleet.network
    seconds = case.count(20, 60)
    said = []
    for what, cut in [("one way", lambda: second.cut(first)), ("both ways", lambda: first.cut(second))]:
        cut()
        load = fleet.load(2000)
        seen = fleet.watch(seconds)
        fleet.end(load)
        took = fleet.await_decisions(10)
        case.expect(not seen.get("down"), f"{what}: somebody was given up: {seen}")
        said.append(f"{what} for {seconds} s: none missing after {took:.1f} s, {seen.get('suspect', 0)} times somebody suspect, {seen.get('down', 0)} down")
    for namespace in fleet.network:
        namespace.heal()
    alone = total(fleet.metrics(), "traces_judged_alone_total")
    counts = fleet.finish(due=lambda trace: any(trace.keeps(trace.landed_at({node})) for node in range(3)))
    return f"{'; '.join(said)}; {alone:,} fragments judged alone; {words(counts)}"


@fault("G05", "apart for 100 s, longer than decisions are kept for those who are away (60 s)", "what is gone is counted; nothing hangs; what comes afterwards is exact", root=True, long_only=True)
def longer_than_kept(case):
    wait = {"tail_sampling": {"decision_wait": "10s"}}
    fleet, healed, is_undisturbed, is_due = split(case, 100, count=3, rate=1500, with_=wait)
    time.sleep(10)
    gone = total(fleet.metrics(), 'gossip_gaps_total{outcome="unrepairable"}')
    case.expect(gone > 0, "nothing was counted as gone")
    counts = fleet.finish(due=is_due, exact=is_undisturbed)
    return f"whole {healed:.1f} s after it healed, {gone:,} batches gone and counted; {words(counts)}"


def in_part(fleet, living):
    """Traces of which one of these nodes has exported its part and another one has not."""
    spans, _ = exported(fleet.case.work, len(fleet.nodes), fleet.case.violations)
    count = 0
    for trace in fleet.traces:
        out = set(spans.get(trace.id.hex(), {}))
        here = {number for number, node in enumerate(trace.landed) if node in living}
        count += bool(here & out) and not here <= out
    return count


@fault("G06", "a node is killed when only one of its four peers has its last decisions; it comes back later", "all who live have them without it within 20 s; its own part comes when it is back", root=True)
def dying_words(case):
    fleet = Fleet(case, 5)
    fleet.start()
    rounds = case.count(2, 6)
    times, agreed = [], []
    for _ in range(rounds):
        dying = fleet.network[0]
        load = fleet.load(2500)
        time.sleep(4)
        for namespace in fleet.network[2:]:
            namespace.cut(dying)
        time.sleep(0.5)
        fleet.nodes[0].stop(Tailkeep.kill)
        fleet.end(load)
        for namespace in fleet.network:
            namespace.heal()
        # It stays away for longer than it takes to be given up.
        time.sleep(8)
        died = time.monotonic() - 8
        while count := in_part(fleet, {1, 2, 3, 4}):
            if time.monotonic() > died + AGREE_SECONDS_MAX:
                case.violations.append(f"of {count} traces some who live exported their part and others did not")
                break
            time.sleep(1)
        agreed.append(time.monotonic() - died)
        began = time.monotonic()
        fleet.nodes[0].start()
        fleet.await_whole(HEAL_SECONDS_MAX)
        times.append(time.monotonic() - began)
    counts = fleet.finish()
    return f"{rounds} deaths, who live agree on every trace {max(agreed):.0f} s later at most; back in {max(times):.1f} s at most; {words(counts)}"
