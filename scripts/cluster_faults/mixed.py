"""Nodes that do not have the same policies, as while a change of them is rolled out."""

import time

from cluster import BASELINE, ERRORS, MANY, SLOW
from cluster_faults.fleet import Fleet, words
from faults.case import fault


@fault("mixed", "one of 3 nodes lacks two policies and has one that the others lack; then all get the same, one after another", "what the common policies keep comes out whole, what none keeps does not; afterwards exact", root=True)
def policies(case):
    fleet = Fleet(case, 3)
    kinds = {"name": "theirs", "type": "span_count", "span_count": {"min_spans": 12}}
    fleet.nodes[2].config["tail_sampling"]["policies"] = [ERRORS, kinds, BASELINE]
    fleet.start()
    fleet.load_for(case.count(8, 30))
    fleet.settle()
    for number in (0, 1):
        with open(case.path(f"data-{number}", "policies"), encoding="utf-8") as file:
            case.expect("theirs" in file.read(), f"the next start of node {number} would not know what decided there")
    until = time.monotonic()

    def is_due(trace):
        """Who judges may have the common policies only: an error, or one of a hundred."""
        if trace.began > until:
            return trace.keeps(trace.acknowledged())
        is_sampled = int.from_bytes(trace.id[9:], "big") >= 0xFD70A4 << 32
        return is_sampled or any(fails for fails, _, _ in trace.spans)

    load = fleet.load(2000)
    time.sleep(2)
    fleet.nodes[2].stop()
    fleet.nodes[2].config["tail_sampling"]["policies"] = [ERRORS, SLOW, MANY, BASELINE]
    fleet.nodes[2].start()
    fleet.await_whole(15)
    time.sleep(3)
    until = time.monotonic()
    time.sleep(case.count(5, 30))
    fleet.end(load)
    return words(fleet.finish(due=is_due))
