"""Hosts that stand still or have no time."""

import re
import signal
import subprocess
import sys
import time

from cluster_faults.fleet import Fleet, delays, quantile, total, words
from faults.case import fault

CHANGED = re.compile(r"members of the cluster changed.*live=(\d+)")


@fault("G08", "a member stands still (SIGSTOP) for 1 and 10 s, and 60 s in the long form; 3 nodes under load", "it costs the others its bound of memory and no time; it has caught up within 10 s", root=True)
def stopped(case):
    fleet = Fleet(case, 3)
    fleet.start()
    still, others = fleet.nodes[2], fleet.nodes[:2]
    said = []

    def of_others():
        return {node.number: node.process.metrics() for node in others}

    before = of_others()
    fleet.load_for(8)
    usual = quantile(delays(before, of_others()), 0.99)
    for seconds in [1, 10] if not case.long else [1, 10, 60]:
        load = fleet.load()
        time.sleep(2)
        # A balancer notices that it does not answer.
        still.takes_load = False
        time.sleep(0.5)
        memory = max(node.process.rss_bytes() for node in others)
        before = of_others()
        still.process.process.send_signal(signal.SIGSTOP)
        try:
            time.sleep(seconds)
            p99 = quantile(delays(before, of_others()), 0.99)
            grown = max(node.process.rss_bytes() for node in others) - memory
        finally:
            still.process.process.send_signal(signal.SIGCONT)
        fleet.end(load)
        began = time.monotonic()
        fleet.await_whole(10)
        fleet.await_decisions(10)
        took = time.monotonic() - began
        still.takes_load = True
        case.expect(grown < 128 << 20, f"{grown >> 20} MiB more memory in {seconds} s")
        said.append(f"{seconds} s: p99 of the others {p99:.1f} ms, {grown / (1 << 20):.0f} MiB more, caught up after {took:.1f} s")
    counts = fleet.finish()
    return f"usual p99 {usual:.1f} ms; {'; '.join(said)}; {words(counts)}"


def deaths(fleet):
    """Times somebody was no longer among the live, as the nodes' logs have it, once all were."""
    count = 0
    for node in fleet.nodes:
        with open(node.log, encoding="utf-8", errors="replace") as log:
            lives = [int(live) for live in CHANGED.findall(log.read())]
        whole = lives.index(len(fleet.nodes)) if len(fleet.nodes) in lives else 0
        count += sum(live < len(fleet.nodes) for live in lives[whole:])
    return count


@fault("G11", "every processor of the host is taken by other work for 60 s, 300 s in the long form; 3 nodes under load", "nobody is given up for dead", root=True)
def no_time(case):
    fleet = Fleet(case, 3)
    fleet.start()
    seconds = case.count(60, 300)
    count = 4
    busy = []
    for _ in range(count):
        # Ends with this script, however that ends.
        command = ["setpriv", "--pdeathsig", "KILL", sys.executable, "-c", "while True: pass"]
        process = subprocess.Popen(command)
        busy.append(process)
        case.undo.callback(process.wait)
        case.undo.callback(process.kill)
    load = fleet.load(1000)
    before = fleet.metrics()
    seen = fleet.watch(seconds)
    p99 = quantile(delays(before, fleet.metrics()), 0.99)
    for process in busy:
        process.kill()
    fleet.end(load)
    gone = deaths(fleet)
    case.expect(gone == 0 and not seen.get("down"), f"given up {gone} times; seen: {seen}")
    took = fleet.await_decisions(5)
    alone = total(fleet.metrics(), "traces_judged_alone_total")
    counts = fleet.finish()
    return f"{count} busy processes for {seconds} s: given up {gone} times, suspect in {seen.get('suspect', 0)} looks, p99 of decision delay {p99:.0f} ms, {alone:,} fragments judged alone, none missing after {took:.1f} s; {words(counts)}"
