"""The process is told to end, and is asked for more than it can do."""

import json
import os
import signal
import threading
import time

from faults.case import fault
from faults.node import Node, Sender, words


@fault("E06", "SIGTERM under load; a second SIGTERM", "in-flight requests are answered, exit 0 within 30 s; the second ends at once; nothing lost")
def terminated(case):
    node = Node(case, with_={"tail_sampling": {"decision_wait": "20s"}, "completion": {"quiet": "5s"}})
    longest = 0.0
    rounds = case.count(2, 20)
    for number in range(rounds):
        process = node.start(node={"cores": 1 + number % 2})
        load = node.load(process, rate=10_000)
        time.sleep(case.draw.uniform(0.2, 1.5))
        began = time.monotonic()
        if number % 2:
            process.process.send_signal(signal.SIGTERM)
            time.sleep(case.draw.uniform(0, 0.3))
            process.terminate(5)
            took = time.monotonic() - began
            case.expect(took < 5, f"after a second SIGTERM it took {took:.1f} s")
        else:
            node.stop(process)
            longest = max(longest, time.monotonic() - began)
        load.end()
    case.expect(longest < 30, f"SIGTERM took {longest:.1f} s")
    return f"{rounds} ends, {longest:.1f} s at most; {words(node.finish(completion={'quiet': '300ms'}))}"


@fault("E08", "three times the load it can bear", "refused with a delay, goodput at least 90 % of the peak, memory within its limit, nothing acknowledged lost")
def overload(case):
    node = Node(case, policy="errors", with_={"memory": {"limit": "384MiB"}, "wal": {"segment_size": "16MiB", "max_size": "4GiB"}})
    cpus = sorted(os.sched_getaffinity(0))
    node.settings["node"]["cores"] = [cpus[0]]
    process = node.start()
    seconds = case.count(4, 20)
    options = {"warmup": "2s", "duration": f"{seconds}s", "spans_per_request": 256, "json": True, "error_ratio": 0.02}
    # A trace in one request: an error that comes late would follow the verdict that it was too late for.
    options["requests_per_trace"] = 1
    options["cpus"] = cpus[-1]
    peak = measure(node, process, rate=None, **options)
    peak_again = measure(node, process, rate=None, **options)
    case.expect(peak["rate"] > 0, "nothing was acknowledged")
    watch = Watch(process)
    sender = Sender(node, process, seconds=20)
    beside = threading.Thread(target=lambda: [sender.post() or time.sleep(0.2) for _ in range(seconds * 2)])
    beside.start()
    over = measure(node, process, rate=3 * peak["rate"], in_flight=64, connections=16, **options)
    beside.join()
    watch.end()
    limit = 384 << 20
    share = over["rate"] / min(peak["rate"], peak_again["rate"])
    # In seconds beside other work the share says nothing: the short form tells it, the long one holds to it.
    case.expect(share >= case.count(0.0, 0.9), f"goodput is {share:.0%} of the peak")
    case.expect(watch.rss <= limit * 1.1, f"{watch.rss >> 20} MiB of memory, limit {limit >> 20}")
    process.kill()
    counts = node.finish(memory={"limit": "1GiB"})
    return (
        f"peak {peak['rate']:,.0f} and {peak_again['rate']:,.0f} spans/s, goodput {share:.0%}, {over['refused']:,} refused, p99 {over['p99']:.0f} ms, "
        f"{watch.rss >> 20} MiB; {words(counts)}"
    )


def measure(node, process, **options):
    """Acknowledged spans a second of one run of the generator."""
    load = node.load(process, transport="grpc", **options)
    load.end(120)
    report = json.loads(load.report)
    return {"rate": report["spans_per_second"], "refused": report["refused_requests"], "p99": report["ack_ms"]["p99"]}


class Watch(threading.Thread):
    """The most memory it ever had while it was watched."""

    def __init__(self, process):
        super().__init__(daemon=True)
        self.process, self.rss, self.is_over = process, 0, threading.Event()
        self.start()

    def run(self):
        while not self.is_over.wait(0.1):
            self.rss = max(self.rss, self.process.rss_bytes())

    def end(self):
        self.is_over.set()
        self.join()
