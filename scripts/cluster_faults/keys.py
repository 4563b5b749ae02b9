"""Keys of a cluster that change while it works."""

import os
import secrets
import signal
import time

from cluster_faults.fleet import Fleet, total, words
from cluster_faults.hosts import deaths
from faults.case import fault


class KeyFile:
    """What each node reads at its start and at SIGHUP: the first key seals, all open."""

    def __init__(self, case, name="key"):
        self.path = case.path(name)
        self.settings = {"cluster": {"insecure": False, "key_file": self.path}}

    def write(self, *keys):
        with open(self.path + ".new", "w", encoding="ascii") as file:
            file.write("".join(key + "\n" for key in keys))
        os.chmod(self.path + ".new", 0o600)
        os.rename(self.path + ".new", self.path)


@fault("G13", "keys are added, used and removed under load (SIGHUP), one node after another; 3 nodes", "decisions missing 0, nobody is given up, nothing is refused", root=True)
def rotation(case):
    file = KeyFile(case)
    keys = [secrets.token_hex(32) for _ in range(case.count(3, 8))]
    file.write(keys[0])
    fleet = Fleet(case, 3, with_=file.settings)
    fleet.start()
    load = fleet.load(3000)
    steps = 0
    for old, new in zip(keys, keys[1:]):
        for step in [(old, new), (new, old), (new,)]:
            file.write(*step)
            for node in fleet.nodes:
                node.process.process.send_signal(signal.SIGHUP)
                time.sleep(0.3)
            # Everybody has read it.
            time.sleep(1)
            steps += 1
    fleet.end(load)
    took = fleet.await_decisions(2)
    metrics = fleet.metrics()
    refused = {word: total(metrics, f'gossip_datagrams_total{{direction="in",outcome="{word}"}}')
               for word in ("unknown_key", "forged", "replayed")}  # fmt: skip
    case.expect(not any(refused.values()), f"refused: {refused}")
    gone = deaths(fleet)
    case.expect(gone == 0, f"given up {gone} times")
    counts = fleet.finish(must_agree=True)
    return f"{len(keys)} keys, {steps} files: {sum(refused.values())} datagrams refused, given up {gone} times, none missing after {took:.1f} s; {words(counts)}"
