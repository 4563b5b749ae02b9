"""The wall clock steps: hours forth and back, under load and over restarts."""

import os
import struct
import time

from faults.case import fault, run
from faults.node import Node, words

HOUR = 3600


class WallClock:
    """What one process takes for the time of day, by clock_shim.c before the C library. The monotonic clock is left."""

    def __init__(self, case):
        compiler = case.require("cc")
        self.library = case.path("clock_shim.so")
        source = os.path.join(os.path.dirname(__file__), "clock_shim.c")
        run(compiler, "-O2", "-shared", "-fPIC", "-o", self.library, source)
        self.file = case.path("offset")
        self.set(0)
        self.environment = {"LD_PRELOAD": self.library, "CLOCK_OFFSET_FILE": self.file}

    def set(self, seconds):
        content = struct.pack("=q", int(seconds * 1_000_000_000))
        with open(self.file, "r+b" if os.path.exists(self.file) else "wb") as file:
            file.write(content)


@fault("W15", "the wall clock steps by hours, forth and back, under load and over restarts", "no trace is closed early, no sequence comes twice, nothing is lost")
def clock_steps(case):
    clock = WallClock(case)
    node = Node(case, with_={"tail_sampling": {"decision_wait": "20s"}, "completion": {"quiet": "2s"}})
    steps = [HOUR, -HOUR, 0] if not case.long else [HOUR, -HOUR, 24 * HOUR, 0, -24 * HOUR, 1, -1, 0]
    for offset in steps:
        process = node.start(environment=clock.environment)
        load = node.load(process, rate=5_000, duration="30s")
        time.sleep(0.7)
        clock.set(offset)
        time.sleep(0.7)
        closed = process.status()["traces"]["closed"]
        for reason in ("expired", "memory_pressure", "shutdown"):
            case.expect(closed[reason] == 0, f"{closed[reason]} traces closed as {reason} after a step to {offset} s")
        process.kill()
        load.end()
    # That the clock is shifted at all is seen at a start.
    clock.set(100 * 24 * HOUR)
    process = node.start(environment=clock.environment, completion={"quiet": "300ms"})
    month = time.strftime("%Y-%m", time.gmtime(time.time() + 100 * 24 * HOUR))
    started = process.status()["started_at"]
    case.expect(started.startswith(month), f"it started at {started}, not in {month}: its clock is not shifted")
    node.settle(process)
    node.stop(process)
    return f"{len(steps) + 1} steps and restarts; {words(node.judge())}"
