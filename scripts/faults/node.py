"""The node under test: a configuration, its starts, and the comparison of ledgers with what came out."""

import json
import os
import time
import urllib.error
import urllib.request

import ledger
import otlp_encode
import tailkeep_process
from bench_load import Load
from tailkeep_process import Tailkeep

ALWAYS = {"name": "all", "type": "always_sample"}
ERRORS = {"name": "errors", "type": "status_code", "status_code": {"status_codes": ["ERROR"]}}
READY_SECONDS_MAX = 60
SETTLE_SECONDS_MAX = 90


class Node:
    """`with_` merges into the configuration (nested maps); the output file and the ledgers are the judge's."""

    def __init__(self, case, data=None, output=None, with_=None, policy="always"):
        self.case, self.policy = case, policy
        self.data = data or case.path("data")
        self.output = output or case.path("kept.jsonl")
        self.settings = {
            "node": {"data_dir": self.data, "cores": 1},
            "receivers": {
                "otlp": {
                    "protocols": {
                        "grpc": {"endpoint": "127.0.0.1:0", "max_recv_msg_size_mib": 1},
                        "http": {"endpoint": "127.0.0.1:0", "max_request_body_size": "1MiB"},
                    }
                }
            },
            # Small, so that segments are many, rotate and are used again within seconds.
            "wal": {"segment_size": "2MiB", "max_size": "512MiB"},
            "tail_sampling": {"decision_wait": "5s", "policies": [ALWAYS if policy == "always" else ERRORS]},
            "completion": {"quiet": "300ms"},
            "exporters": {"file": {"path": self.output, "flush_interval": "100ms"}},
            "admin": {"endpoint": "127.0.0.1:0"},
        }
        merge(self.settings, with_ or {})
        self.ledgers = case.work
        self.loads = 0

    def start(self, ready=True, environment=None, prefix=(), **settings):
        """A run of tailkeep that ends with the case at the latest."""
        merge(self.settings, settings)
        path = self.case.path("config.yaml")
        with open(path, "w", encoding="utf-8") as config:
            # Every JSON document is one of YAML.
            json.dump(self.settings, config, indent=1)
        log = self.case.path("server.log")
        process = Tailkeep(self.case.binary, path, log, environment=environment, prefix=prefix)
        self.case.undo.callback(process.kill)
        if ready:
            process.wait_ready(READY_SECONDS_MAX)
        return process

    def load(self, process, transport=None, **options):
        """Load by a generator that keeps a ledger, begun when this returns."""
        self.loads += 1
        transport = transport or self.case.draw.choice(["grpc", "http"])
        options = {"seed": self.case.draw.getrandbits(63), **{k.replace("_", "-"): v for k, v in options.items()}}
        path = os.path.join(self.ledgers, f"load-{self.loads:04}.ledger")
        load = Load(self.case.bench, transport, process.endpoints[transport], path, options)
        self.case.undo.callback(load.end, 0)
        load.wait_begun()
        return load

    def settle(self, process, seconds=SETTLE_SECONDS_MAX, lost_allowed=False):
        """Waits until nothing pends or is queued; the last status. The ledger of the process must balance."""
        try:
            status = tailkeep_process.await_idle(process.endpoints["admin"], seconds)
        except (TimeoutError, OSError) as error:
            self.case.violations.append(f"it does not come to rest: {error}")
            return None
        wrong = tailkeep_process.ledger_violations(status)
        self.case.violations += [what for what in wrong if not (lost_allowed and what.endswith("lost"))]
        return status

    def stop(self, process):
        code = process.terminate()
        self.case.expect(code == 0, f"tailkeep ended with {code} after SIGTERM")

    def finish(self, **settings):
        """A last start that comes to rest and ends well; then the judge. Returns his counts."""
        process = self.start(**settings)
        self.settle(process)
        self.stop(process)
        return self.judge()

    def judge(self, arrived=None, excused=lambda key: False):
        violations = self.case.violations
        if arrived is None:
            arrived = ledger.exported_spans(self.output, violations)
        counts = ledger.judge(self.ledgers, self.policy, arrived, violations, excused)
        counts["twice"] = sum(arrived.values()) - len(arrived)
        return counts


def words(counts):
    text = f"{counts['due']:,} due, {counts['missing']} lost, {counts['twice']:,} twice"
    return text + (f", {counts['excused']:,} counted as lost" if counts.get("excused") else "")


def merge(into, settings):
    for key, value in settings.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            merge(into[key], value)
        else:
            into[key] = value


def ready(process, seconds=2):
    """(whether it is ready, why not) as /readyz says; None: no answer."""
    try:
        with urllib.request.urlopen(f"http://{process.endpoints['admin']}/readyz", timeout=seconds) as reply:
            return True, json.load(reply)["why"]
    except urllib.error.HTTPError as error:
        return False, json.load(error)["why"]
    except OSError:
        return None, []


def wait_for(what, holds, seconds=30):
    """Asks until `holds()` is true; TimeoutError names what was waited for."""
    deadline = time.monotonic() + seconds
    while True:
        found = holds()
        if found:
            return found
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds} s")
        time.sleep(0.05)


class Sender:
    """Posts traces one by one by HTTP and keeps a ledger; for what a generator cannot ask."""

    def __init__(self, node, process, seconds=30):
        node.loads += 1
        self.book = ledger.Writer(os.path.join(node.ledgers, f"sender-{node.loads:04}.ledger"))
        self.client = otlp_encode.Client(process.endpoints["http"], seconds)
        self.draw = node.case.draw
        self.number = 0
        self.acknowledged = 0
        # Status or error of the last request, its headers, and how long it took.
        self.status, self.headers, self.took = None, {}, 0.0
        node.case.undo.callback(self.close)

    def post(self, spans=3, error=True, filler=0, trace_id=None):
        """One trace, or more of one; whether it was acknowledged."""
        trace_id = trace_id or self.draw.randbytes(15) + b"\x01"
        ids = [self.draw.randbytes(7) + b"\x01" for _ in range(spans)]
        now = time.time_ns()
        filled = [("filler", "x" * filler)] if filler else []
        body = otlp_encode.request(
            [("service.name", "faults")],
            "sender",
            [
                otlp_encode.span(
                    trace_id, span_id, b"" if at == 0 else ids[0], "operation", 2, now - 1000, now, filled,
                    is_error=error and at == 0,
                )
                for at, span_id in enumerate(ids)
            ],
        )  # fmt: skip
        number, self.number = self.number, self.number + 1
        self.book.sent(number, [(trace_id, ledger.MARK_ERROR if error else 0, ids)])
        began = time.monotonic()
        try:
            self.status, reply = self.client.post(body)
            self.headers = self.client.headers
            outcome = ledger.REFUSED
            if self.status == 200:
                # An empty reply answers for every span.
                outcome = ledger.ACKED_IN_PART if reply else ledger.ACKED
        except OSError as failure:
            self.status, self.headers, outcome = repr(failure), {}, ledger.FAILED
        self.took = time.monotonic() - began
        self.book.answered(number, outcome)
        self.acknowledged += spans * (outcome == ledger.ACKED)
        return outcome == ledger.ACKED

    def close(self):
        self.client.close()
        self.book.close()
