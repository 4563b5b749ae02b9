"""The disk refuses: writes and flushes fail once, now and then, or until further notice; flushes stall."""

import errno
import os
import threading
import time

from faults.case import fault
from faults.devices import VolatileDisk
from faults.node import Node, Sender, ready, wait_for, words

# Begins every entry of a log: what fails is the log, not the journal of the file system.
ENTRY = "tkE1"
RECOVERY_SECONDS_MAX = 10


def node_on(case, disk, **options):
    """The log lies on the bad disk, the output does not."""
    return Node(case, data=os.path.join(disk.path, "data"), **options)


def refuses(sender):
    """Whether the last reply was a refusal that says when to come again."""
    return sender.status == 503 and "retry-after" in sender.headers


@fault("W08", "a write to the log fails (EIO), once and persistently", "no false acknowledgement; the group goes to a new segment, or 503; it recovers by itself", root=True)
def write_error(case):
    disk = VolatileDisk(case)
    node = node_on(case, disk)
    process = node.start()
    sender = Sender(node, process)
    once = case.count(3, 20)
    for _ in range(once):
        sender.post()
        disk.faults(write_error=errno.EIO, pattern=ENTRY, count=1)
        case.expect(sender.post(), f"one failed write was answered {sender.status}")
        failed = disk.faults()["failed"]
    case.expect(failed >= once, f"{failed} writes failed of {once} that should")
    poisoned = process.status()["wal"]["poisoned_segments"]
    case.expect(poisoned >= once, f"{poisoned} poisoned segments after {once} failed writes")
    disk.faults(write_error=errno.EIO, pattern=ENTRY)
    for _ in range(5):
        case.expect(not sender.post(), "a request was acknowledged although no write succeeds")
        case.expect(refuses(sender), f"answered {sender.status} with {sender.headers}, not 503 with Retry-After")
    is_ready, why = ready(process)
    case.expect(is_ready is False, f"/readyz says ready while no write succeeds: {why}")
    disk.faults()
    began = time.monotonic()
    wait_for("it takes requests again", sender.post, RECOVERY_SECONDS_MAX)
    took = time.monotonic() - began
    process.kill()
    return f"{once} single errors, then all; back after {took:.1f} s; {words(node.finish())}"


@fault("W09", "a flush fails once and says yes the next time (fsyncgate); then the power goes", "what the failed flush covered is not acknowledged before another file has it", root=True)
def sync_error(case):
    disk = VolatileDisk(case)
    node = node_on(case, disk)
    rounds = case.count(2, 15)
    failures = 0
    for number in range(rounds):
        process = node.start()
        sender = Sender(node, process)
        for _ in range(5):
            sender.post()
            disk.faults(sync_error=errno.EIO, count=1)
            sender.post()
            failures += disk.faults()["failed_now"]
        image = case.path(f"after-{number}.image")
        disk.cut(image, "none")
        process.kill()
        sender.close()
        disk.close()
        disk = VolatileDisk(case, image=image)
    case.expect(failures > 0, "no flush failed")
    return f"{failures} failed flushes, {rounds} power cuts; {words(node.finish())}"


@fault("W11", "a flush takes seconds", "no early acknowledgement; memory is bounded; it goes on when the disk does", root=True)
def stalled_sync(case):
    disk = VolatileDisk(case)
    node = node_on(case, disk)
    process = node.start(node={"cores": 2}, memory={"limit": "256MiB"})
    sender = Sender(node, process, seconds=100)
    told = []
    for seconds in [1, 5] if not case.long else [1, 10, 60]:
        sender.post()
        disk.faults(sync_delay=seconds)
        load = node.load(process, transport="grpc", rate=20_000, duration=f"{seconds}s", in_flight=16)
        case.expect(sender.post() or sender.status == 503, f"a stall of {seconds} s was answered {sender.status}")
        if sender.status == 200:
            case.expect(sender.took > seconds * 0.6, f"acknowledged after {sender.took:.1f} s in a stall of {seconds} s")
        is_ready, _ = ready(process)
        told.append(f"{seconds} s")
        rss = process.rss_bytes()
        case.expect(rss < 400 << 20, f"{rss >> 20} MiB of memory in a stall of {seconds} s")
        disk.faults()
        load.end()
        began = time.monotonic()
        wait_for("it takes requests again", sender.post, RECOVERY_SECONDS_MAX)
        case.expect(time.monotonic() - began < RECOVERY_SECONDS_MAX, "slow to come back")
    process.kill()
    return f"stalls of {', '.join(told)}; {words(node.finish(memory={'limit': '1GiB'}))}"


@fault("W11-early", "every flush takes a second", "no reply comes before the flush that covers it", root=True)
def no_early_reply(case):
    disk = VolatileDisk(case)
    node = node_on(case, disk)
    process = node.start()
    quick = Sender(node, process)
    for _ in range(5):
        case.expect(quick.post(), f"a quick disk was answered {quick.status}")
    disk.faults(sync_delay=1)
    senders = [Sender(node, process) for _ in range(8)]
    waits, refused = [], []

    def post(index):
        # Some of them meet a flush that is under way.
        time.sleep(index * 0.23)
        for _ in range(case.count(2, 6)):
            # Refused is what the node need not bear; acknowledged is what it must not be too early.
            if senders[index].post():
                waits.append(senders[index].took)
            else:
                refused.append(senders[index].status)
                case.expect(refuses(senders[index]), f"a slow disk was answered {senders[index].status}")

    threads = [threading.Thread(target=post, args=(index,)) for index in range(len(senders))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    case.expect(len(waits) >= 3, f"{len(waits)} requests were acknowledged, {len(refused)} refused")
    case.expect(min(waits, default=0) >= 0.9, f"a reply came after {min(waits, default=0):.3f} s")
    disk.faults()
    process.kill()
    took = f"{min(waits, default=0):.2f} to {max(waits, default=0):.2f} s"
    return f"{len(waits)} acknowledged after {took}, {len(refused)} refused; {words(node.finish())}"


@fault("W11-ready", "a flush takes longer than ten seconds", "/readyz says so until the disk is back", root=True, long_only=True)
def stall_is_told(case):
    disk = VolatileDisk(case)
    node = node_on(case, disk)
    process = node.start()
    sender = Sender(node, process, seconds=60)
    sender.post()
    disk.faults(sync_delay=40)
    load = node.load(process, rate=200, duration="3s")
    began = time.monotonic()
    wait_for("/readyz says no", lambda: ready(process)[0] is False, 30)
    flipped = time.monotonic() - began
    disk.faults()
    wait_for("/readyz says yes", lambda: ready(process)[0] is True, 15)
    load.end()
    process.kill()
    return f"not ready after {flipped:.0f} s; {words(node.finish())}"


@fault("W12", "every n-th write or flush of the log fails, under load", "no false acknowledgement; nothing acknowledged is lost", root=True)
def now_and_then(case):
    disk = VolatileDisk(case)
    node = node_on(case, disk)
    failed = 0
    for every in [20, 7] if not case.long else [200, 50, 20, 10, 7, 5, 3, 2]:
        process = node.start(node={"cores": 2})
        load = node.load(process, rate=2_000, duration="2s")
        disk.faults(write_error=errno.EIO, pattern=ENTRY, every=every)
        time.sleep(1)
        failed += disk.faults(sync_error=errno.EIO, every=every)["failed_now"]
        time.sleep(1)
        failed += disk.faults()["failed_now"]
        load.end()
        process.kill()
        # A journal that failed leaves the file system read-only until it is mounted again.
        disk.filesystem.unmount()
        disk.filesystem.mount()
    return f"{failed:,} failures; {words(node.finish())}"
