"""The process dies: killed under load, while it starts, by the memory of its cgroup, with other cores after each."""

import os
import re
import subprocess
import sys
import time

from faults.case import Skip, fault
from faults.node import Node, wait_for, words

ROUNDS = re.compile(r"seed \d+: (\d+) kills, .* (\d+) due, (\d+) missing, .* (\d+) duplicates")


def kill_rounds(case, rounds, *options):
    """scripts/kill_rounds.py, which judges by itself."""
    script = os.path.join(os.path.dirname(os.path.dirname(__file__)), "kill_rounds.py")
    command = [
        sys.executable, script, "--binary", case.binary, "--bench", case.bench, "--rounds", str(rounds),
        "--seed", str(case.draw.getrandbits(32)), "--work", case.path(f"rounds-{len(os.listdir(case.work))}"), *options,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    for line in (done.stdout + done.stderr).splitlines():
        if "violation: " in line or "violation (" in line:
            case.violations.append(line)
    found = ROUNDS.search(done.stdout)
    if not case.expect(found, f"kill_rounds.py ended with {done.returncode}: {done.stderr[-500:]}"):
        return "no result"
    kills, due, missing, twice = map(int, found.groups())
    return f"{kills} kills, {due:,} due, {missing} lost, {twice:,} twice"


@fault("W01", "kill -9 under load, each start with other cores (1, 2, 4, 3)", "nothing acknowledged is lost")
def killed(case):
    return kill_rounds(case, case.count(4, 60))


@fault("W01-write", "kill -9 with durability: write", "nothing acknowledged is lost; power loss is not promised")
def killed_without_sync(case):
    return kill_rounds(case, case.count(2, 20), "--set", "wal.durability=write")


@fault("W01-small", "kill -9 while segments are recycled all the time", "nothing acknowledged is lost")
def killed_while_recycling(case):
    small = [
        "wal.segment_size=2MiB", "wal.retain=0s", "completion.quiet=200ms",
        "receivers.otlp.protocols.grpc.max_recv_msg_size_mib=1",
        "receivers.otlp.protocols.http.max_request_body_size=1MiB",
    ]  # fmt: skip
    return kill_rounds(case, case.count(2, 30), *(word for setting in small for word in ("--set", setting)))


@fault("W13", "kill -9 during recovery, again and again", "recovery changes nothing that a second one needs")
def killed_while_recovering(case):
    node = Node(case, with_={"tail_sampling": {"decision_wait": "120s"}, "completion": {"quiet": "60s"}})
    first = node.start()
    load = node.load(first, rate=20_000, duration="3s")
    load.end()
    first.kill()
    began = time.monotonic()
    measured = node.start(node={"cores": 2})
    takes = time.monotonic() - began
    measured.kill()
    rounds = case.count(8, 60)
    for number in range(rounds):
        started = node.start(ready=False, node={"cores": 1 + number % 3})
        time.sleep(case.draw.uniform(0, takes * 1.2))
        started.kill()
    counts = node.finish(tail_sampling={"decision_wait": "5s"}, completion={"quiet": "300ms"})
    return f"{rounds} kills, recovery takes {takes:.2f} s; {words(counts)}"


@fault("W16", "the kernel ends it for want of memory in its cgroup", "nothing acknowledged is lost", root=True)
def out_of_memory(case):
    parent = "/sys/fs/cgroup/memory"
    if not os.path.exists(f"{parent}/memory.limit_in_bytes"):
        raise Skip("no cgroup v1 with memory")
    group = f"{parent}/tailkeep-faults-{os.getpid()}"
    os.mkdir(group)
    case.undo.callback(lambda: os.rmdir(group))
    node = Node(case, with_={"tail_sampling": {"decision_wait": "60s"}, "completion": {"quiet": "30s"}})
    # More than it may have: the limit is told wrongly, so that the kernel comes first.
    node.settings["memory"] = {"limit": "2GiB"}
    rounds = case.count(1, 5)
    ended = 0
    for _ in range(rounds):
        with open(f"{group}/memory.limit_in_bytes", "w", encoding="ascii") as limit:
            limit.write(str(400 << 20))
        process = node.start(prefix=["sh", "-c", 'echo $$ >"$0" && exec "$@"', f"{group}/cgroup.procs"])
        with open(f"{group}/memory.limit_in_bytes", "w", encoding="ascii") as limit:
            limit.write(str(process.rss_bytes() + (16 << 20)))
        load = node.load(process, rate=None, duration="20s", spans_per_request=512)
        try:
            wait_for("the kernel ends it", lambda p=process: p.process.poll() is not None, 25)
            ended += process.process.returncode == -9
        except TimeoutError:
            # It made do with what it has; it is killed all the same.
            pass
        load.end()
        process.kill()
    case.expect(ended > 0, f"the kernel ended none of {rounds} runs")
    node.settings["memory"] = {"limit": "1GiB"}
    return f"ended {ended} times in {rounds}; {words(node.finish(completion={'quiet': '300ms'}))}"


@fault("W17", "another number of cores at each start: 4, 1, 3", "all logs are replayed, settled and delivered")
def other_cores(case):
    node = Node(case)
    for _ in range(case.count(1, 5)):
        for cores in (4, 1, 3):
            process = node.start(node={"cores": cores})
            load = node.load(process, rate=10_000, duration="30s")
            time.sleep(case.draw.uniform(0.3, 1.5))
            process.kill()
            load.end()
    return words(node.finish(node={"cores": 1}))
