"""The destination misbehaves: away, refusing, losing replies, taking a part, mute; beside others that do not."""

import json
import subprocess
import threading
import time

from faults.case import fault
from faults.destination import Answer, Destination
from faults.node import Node, wait_for, words
from faults.relay import Relay

SETTLE_SECONDS = 60
# A Status with UNAVAILABLE and no more.
UNAVAILABLE = b"\x08\x0e"


def node_to(case, destination, with_=None, **settings):
    node = Node(case, with_=with_)
    node.settings["exporters"] = {"otlp_http": destination.exporter(**settings)}
    return node


def exporter(process, name=None):
    found = process.status()["exporters"]
    return next(one for one in found if name in (None, one["id"]))


@fault("E01", "a destination answers 503 with Retry-After, then is away, while the node restarts; it comes back", "ingest never stops; all arrive; Retry-After is obeyed")
def away(case):
    destination = Destination(case)
    relay = Relay(case, destination.endpoint.removeprefix("http://"))
    destination.endpoint = f"http://{relay.endpoint}"
    node = node_to(case, destination)
    seconds = case.count(4, 60)
    process = node.start()
    load = node.load(process, rate=2_000, duration=f"{seconds * 2 + 2}s", json=True)
    time.sleep(1)
    destination.answer = Answer(503, UNAVAILABLE, {"Retry-After": "2"}, takes=False)
    time.sleep(0.5)
    asked = len(destination.requests)
    time.sleep(seconds)
    rate = (len(destination.requests) - asked) / seconds
    case.expect(rate <= 0.8, f"it was asked {rate:.1f} times a second although Retry-After says 2 s")
    relay.become("away")
    time.sleep(seconds)
    queued = exporter(process)["queued_items"]
    case.expect(queued > 0, "nothing waits for a destination that is away")
    load.end()
    process.kill()
    process = node.start(node={"cores": 2})
    more = node.load(process, rate=2_000, duration="1s")
    more.end()
    destination.answer = Answer()
    relay.become("pass")
    node.settle(process)
    node.stop(process)
    report = json.loads(load.report)
    unanswered = report["refused_requests"] + report["failed_requests"]
    case.expect(unanswered == 0, f"{unanswered} requests were not acknowledged meanwhile")
    return f"{queued:,} waited; {words(node.judge(destination.arrived))}"


@fault("E02", "connections end before the reply, after the destination took the request", "sent again: nothing lost, duplicates counted")
def replies_lost(case):
    results = []
    for protocol in ("http", "grpc"):
        # A ledger and an output for each.
        node = Node(case)
        node.ledgers = case.path(protocol)
        subprocess.run(["mkdir", "-p", node.ledgers], check=True)
        node.data = node.settings["node"]["data_dir"] = case.path(f"data-{protocol}")
        sink = Sink(case, [f"{node.ledgers}/load-0001.ledger"])
        relay = Relay(case, sink.endpoints[protocol])
        retry = {"initial_interval": "100ms", "max_interval": "300ms"}
        url = f"http://{relay.endpoint}" if protocol == "http" else relay.endpoint
        node.settings["exporters"] = {
            f"otlp_{protocol}": {"endpoint": url, "tls": {"insecure": True}, "retry_on_failure": retry, "timeout": "2s"}
        }
        process = node.start()
        load = node.load(process, rate=3_000, duration=f"{case.count(3, 30)}s")
        for _ in range(case.count(3, 30)):
            relay.become("swallow")
            time.sleep(0.5)
            relay.become("pass")
            time.sleep(0.5)
        load.end()
        node.settle(process)
        node.stop(process)
        report = sink.report()
        case.expect(relay.swallowed > 0, "no reply was lost")
        case.expect(report["missing"] == 0, f"{protocol}: {report['missing']} acknowledged spans did not come")
        case.expect(report["foreign"] == 0, f"{protocol}: {report['foreign']} spans came that nobody sent")
        results.append(f"{protocol} {relay.swallowed} replies lost, {report['due']:,} due, {report['missing']} lost, {report['twice']:,} twice")
    return "; ".join(results)


class Sink:
    """`tailkeep-bench sink`: a destination that remembers ids and checks ledgers at its end."""

    def __init__(self, case, ledgers=()):
        command = [case.bench, "sink", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--json"]
        for path in ledgers:
            command += ["--ledger", path]
        self.case = case
        self.command = command
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        case.undo.callback(self.kill)
        for line in self.process.stderr:
            if "sink ready" in line:
                self.endpoints = dict(word.split("=") for word in line.split() if "=" in word)
                break
        # Read to the end, or a full pipe would stop it.
        threading.Thread(target=self.process.stderr.read, daemon=True).start()

    def report(self):
        self.process.terminate()
        output = self.process.stdout.read()
        self.process.wait(60)
        found = json.loads(output)
        check = found["ledger"] or {"expected_spans": 0, "missing_spans": 0, "foreign_spans": 0}
        return {
            "due": check["expected_spans"],
            "missing": check["missing_spans"],
            "foreign": check["foreign_spans"],
            "twice": found["duplicate_spans"],
        }

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


@fault("E03", "a destination takes a part of a request (partial_success)", "not sent again; what it rejected is counted")
def partial_success(case):
    destination = Destination(case)
    node = node_to(case, destination)
    # partial_success { rejected_spans: 3 }
    part = Answer(200, b"\x0a\x02\x08\x03")
    destination.script = [part] * 5
    process = node.start()
    load = node.load(process, rate=2_000, duration="2s")
    load.end()
    status = node.settle(process)
    node.stop(process)
    failed = status["exporters"][0]["failed"] if status else None
    case.expect(failed == 15, f"{failed} counted as failed, 15 were rejected")
    counts = node.judge(destination.arrived)
    case.expect(counts["twice"] == 0, f"{counts['twice']} spans were sent again")
    return f"5 replies reject 3 each, {failed} counted; {words(counts)}"


@fault("E04", "a destination answers with a code that must not be retried (400)", "dropped once and counted; the others arrive")
def not_retryable(case):
    destination = Destination(case)
    node = node_to(case, destination)
    destination.script = [Answer(400, b"\x08\x03", takes=False)] * 3
    process = node.start()
    load = node.load(process, rate=2_000, duration="2s")
    load.end()
    status = node.settle(process)
    node.stop(process)
    dropped = destination.turned_away - set(destination.arrived)
    failed = status["exporters"][0]["failed"] if status else None
    case.expect(failed == len(dropped) > 0, f"{failed} counted as failed, {len(dropped)} were turned away")
    counts = node.judge(destination.arrived, excused=lambda key: key in dropped)
    return f"{len(dropped)} turned away, {failed} counted; {words(counts)}"


@fault("E05", "one destination is slow, then mute, beside a fast one", "the fast one and ingest notice nothing; the slow one gets all in the end")
def slow_beside_fast(case):
    slow, fast = Destination(case), Destination(case)
    relay = Relay(case, slow.endpoint.removeprefix("http://"))
    slow.endpoint = f"http://{relay.endpoint}"
    node = Node(case)
    node.settings["exporters"] = {
        "otlp_http/slow": slow.exporter(timeout="2s"),
        "otlp_http/fast": fast.exporter(),
    }
    process = node.start()
    seconds = case.count(3, 20)
    relay.become("pass", rate=50_000)
    load = node.load(process, rate=3_000, duration=f"{seconds * 2}s")
    time.sleep(seconds)
    relay.become("mute")
    load.end(seconds * 2 + 10)

    def fast_has_all():
        # What is kept and not yet copied is in no queue: a moment of calm tells that it is.
        status = process.status()
        return status["traces"]["pending"] == 0 and exporter(process, "otlp_http/fast")["sent"] == status["signals"]["spans"]["kept"]

    wait_for("the fast one has all", fast_has_all, 10)
    behind = exporter(process, "otlp_http/slow")["queued_items"]
    case.expect(behind > 0, "the slow destination is not behind: nothing was tested")
    counts = node.judge(fast.arrived)
    relay.become("pass")
    node.settle(process)
    node.stop(process)
    case.expect(counts["twice"] == 0, f"{counts['twice']} spans came twice to the fast one")
    both = node.judge(slow.arrived)
    return f"fast: {words(counts)}; slow was {behind:,} behind: {words(both)}"
