"""The disk is full: of bytes, and of inodes."""

import os
import time

from faults.case import fault
from faults.devices import MIB, Filesystem
from faults.node import Node, Sender, wait_for, words

RECOVERY_SECONDS_MAX = 5


def play(case, node, fill, free):
    """Loads while the disk is full; whether it refused, and the seconds until it takes requests again."""
    process = node.start(wal={"min_free": "0%", "retain": "0s"})
    sender = Sender(node, process)
    sender.post()
    fill()
    # Room that is already allocated may be used up first.
    for _ in range(3000):
        if not sender.post(spans=1, filler=20_000):
            break
    refusal = sender.status == 503 and "retry-after" in sender.headers
    # A log whose segments are settled as quickly as they fill lives on the files it has.
    case.expect(refusal or sender.status == 200, f"a full disk was answered {sender.status} with {sender.headers}")
    time.sleep(2)
    still = process.process.poll() is None
    case.expect(still, f"tailkeep ended with {process.process.returncode} on a full disk")
    # What was acknowledged before goes out meanwhile.
    wait_for("it goes on exporting", lambda: process.status()["exporters"][0]["sent"] > 0, 20)
    free()
    began = time.monotonic()
    wait_for("it takes requests again", sender.post, 2 * RECOVERY_SECONDS_MAX)
    took = time.monotonic() - began
    case.expect(took <= RECOVERY_SECONDS_MAX, f"it took {took:.1f} s to take requests again")
    process.kill()
    return refusal, took


@fault("W10", "no space left on the device", "503 with Retry-After; export goes on; it recovers within 5 s of room; no crash loop", root=True)
def no_space(case):
    filesystem = Filesystem.new(case, size=96 * MIB)
    node = Node(case, data=os.path.join(filesystem.path, "data"), with_={"completion": {"quiet": "3s"}})
    filler = os.path.join(filesystem.path, "filler")

    def fill():
        with open(filler, "wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(256 << 10))
            except OSError:
                pass

    played = [play(case, node, fill, lambda: os.remove(filler)) for _ in range(case.count(1, 5))]
    start_on_full(case, node, fill, lambda: os.remove(filler))
    return verdict(case, played, node)


def start_on_full(case, node, fill, free):
    """It runs, whether or not it takes requests, and takes them when there is room."""
    fill()
    for _ in range(2):
        process = node.start(ready=False)
        time.sleep(2)
        ended = process.process.poll()
        case.expect(ended is None, f"a start on a full disk ended with {ended}")
        process.kill()
    process = node.start(ready=False)
    free()
    process.wait_ready()
    wait_for("it takes requests again", Sender(node, process).post, 2 * RECOVERY_SECONDS_MAX)
    process.kill()


def verdict(case, played, node):
    refused = sum(refusal for refusal, _ in played)
    case.expect(refused > 0, "the disk was never full enough to refuse")
    slowest = max(took for _, took in played)
    counts = node.finish(completion={"quiet": "300ms"})
    return f"{len(played)} times full, {refused} times until it refused, back after {slowest:.1f} s; {words(counts)}"


@fault("W10-inodes", "no inodes left", "as without space", root=True)
def no_inodes(case):
    filesystem = Filesystem.new(case, size=96 * MIB, inodes=64)
    node = Node(case, data=os.path.join(filesystem.path, "data"), with_={"completion": {"quiet": "3s"}})
    made = []

    def fill():
        try:
            while True:
                path = os.path.join(filesystem.path, f"file-{len(made)}")
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
                made.append(path)
        except OSError:
            pass

    def free():
        while made:
            os.remove(made.pop())

    played = [play(case, node, fill, free) for _ in range(case.count(1, 5))]
    start_on_full(case, node, fill, free)
    return verdict(case, played, node)
