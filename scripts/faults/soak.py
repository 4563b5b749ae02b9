"""Everything in turn, for long: kills, power cuts, failing and stalling disks, ends in good order."""

import errno
import os
import time

from faults.case import fault, plural
from faults.devices import MIB, VolatileDisk
from faults.errors import ENTRY
from faults.node import Node, words

RSS_GROWTH_MAX = 1.5
RSS_SLACK_BYTES = 64 << 20


@fault("W18", "half an hour of W01, W03, W04, W08 and W11 in any order", "nothing acknowledged is lost; descriptors, memory and disk stay flat", root=True, long_only=True)
def soak(case):
    # Half of the disk: what the log does not give back would show.
    node = Node(case, policy="errors", with_={"wal": {"retain": "5s", "max_size": "128MiB"}})
    disk = VolatileDisk(case, size=256 * MIB)
    ends = {"kill": 0, "power": 0, "error": 0, "stall": 0, "term": 0}
    figures = []
    deadline = time.monotonic() + case.soak * 60
    number, before = 0, None
    while time.monotonic() < deadline:
        number += 1
        node.settings["node"]["data_dir"] = node.data = os.path.join(disk.path, "data")
        process = node.start(node={"cores": 1 + number % 3})
        figures.append((process.rss_bytes(), len(os.listdir(f"/proc/{process.pid}/fd")), used(disk.path)))
        load = node.load(process, rate=2_000)
        time.sleep(case.draw.uniform(0.5, 4))
        end = case.draw.choice(sorted(ends))
        ends[end] += 1
        if end == "error":
            disk.faults(write_error=errno.EIO, pattern=ENTRY, every=case.draw.randrange(2, 40))
            time.sleep(1)
            disk.faults(sync_error=errno.EIO, every=case.draw.randrange(2, 40))
            time.sleep(1)
            disk.faults()
        if end == "stall":
            disk.faults(sync_delay=case.draw.uniform(0.2, 3))
            time.sleep(3)
            disk.faults()
        if end == "term":
            # 1: a disk too slow for the time it has; all is in the log.
            code = process.terminate()
            case.expect(code in (0, 1), f"tailkeep ended with {code} after SIGTERM")
        else:
            case.expect(process.process.poll() is None, f"it ended by itself with {process.process.returncode}")
        image = case.path(f"soak-{number}.image")
        if end == "power":
            os.kill(process.pid, 19)
            disk.cut(image, case.draw.choice(["none", "sectors", "pages", "prefix"]))
        process.kill()
        load.end()
        if end == "power":
            disk.close()
            if before:
                os.remove(before)
            before, disk = image, VolatileDisk(case, image=image)
        else:
            # A journal that failed leaves the file system read-only until it is mounted again.
            disk.filesystem.unmount()
            disk.filesystem.mount()
    counts = node.finish()
    fifth = max(1, len(figures) // 5)
    for what, index, slack in (("memory", 0, RSS_SLACK_BYTES), ("descriptors", 1, 64), ("disk", 2, 128 * MIB)):
        first, last = (sum(figure[index] for figure in part) / len(part) for part in (figures[:fifth], figures[-fifth:]))
        case.expect(last <= first * RSS_GROWTH_MAX + slack, f"{what} at ready grew from {first:,.0f} to {last:,.0f}")
    return f"{case.soak:g} minutes, {plural(number, 'round')} {ends}; {words(counts)}"


def used(path):
    disk = os.statvfs(path)
    return (disk.f_blocks - disk.f_bfree) * disk.f_frsize
