"""The power goes: data and output lie on a disk of which only what was flushed stays, or a part of the rest too."""

import os
import signal
import time

from faults.case import fault
from faults.devices import MIB, Filesystem, VolatileDisk
from faults.node import Node, words


def node_on(case, path, **options):
    return Node(case, data=os.path.join(path, "data"), output=os.path.join(path, "kept.jsonl"), **options)


@fault("W02", "the file system goes away as in a power cut (ext4 shutdown ioctl)", "nothing acknowledged is lost", root=True)
def filesystem_cut(case):
    filesystem = Filesystem.new(case, size=1024 * MIB)
    node = node_on(case, filesystem.path)
    cuts = case.count(3, 40)
    for number in range(cuts):
        process = node.start(node={"cores": 1 + number % 2})
        load = node.load(process, rate=5_000)
        time.sleep(case.draw.uniform(0.1, 1.5))
        filesystem.cut_power()
        # What is acknowledged from here on would be missing.
        time.sleep(0.2)
        process.kill()
        load.end()
        filesystem.unmount()
        filesystem.mount()
    return f"{cuts} cuts; {words(node.finish())}"


def cut_rounds(case, rounds, keeps, settings=None):
    """Loads, cuts, starts from each of what the cut may have left, and goes on with the last. Cuts, and spans lost."""
    disk = VolatileDisk(case)
    node = node_on(case, disk.path, with_=settings)
    cuts = lost = twice = due = 0
    for number in range(rounds):
        process = node.start(node={"cores": 1 + number % 2})
        load = node.load(process, rate=3_000, connections=2, in_flight=2)
        time.sleep(case.draw.uniform(0.2, 1.5))
        # It acknowledges nothing after the cut.
        os.kill(process.pid, signal.SIGSTOP)
        images = [case.path(f"cut-{number}-{nth}.image") for nth in range(len(keeps))]
        for image, keep in zip(images, keeps, strict=True):
            disk.cut(image, keep)
        process.kill()
        load.end()
        disk.close()
        for image in images:
            disk.close()
            disk = VolatileDisk(case, image=image)
            before = len(case.violations)
            counts = node.finish(node={"cores": 1})
            cuts, due = cuts + 1, counts["due"]
            lost, twice = lost + counts["missing"], twice + counts["twice"]
            if len(case.violations) > before:
                case.violations.append(f"… after {os.path.basename(image)}, {keeps[images.index(image)]} kept")
                return f"{cuts} cuts; {due:,} due, {lost} lost", lost
        for image in images[:-1]:
            os.remove(image)
    return f"{cuts} cuts; {due:,} due, {lost} lost, {twice:,} twice", lost


@fault("W03", "the device loses power: nothing unflushed survives", "nothing acknowledged is lost", root=True)
def device_cut(case):
    result, _ = cut_rounds(case, case.count(2, 25), ["none"])
    return result


@fault("W03-canary", "the same with durability: write, which syncs nothing", "the loss is noticed", root=True)
def device_cut_without_sync(case):
    for _ in range(10):
        _, lost = cut_rounds(case, 1, ["none"], {"wal": {"durability": "write"}})
        case.violations.clear()
        case.undo.close()
        if lost:
            return f"noticed: {lost:,} spans lost"
        for name in os.listdir(case.work):
            if name.endswith(".ledger"):
                os.remove(case.path(name))
    case.violations.append("ten power cuts without syncs lost nothing: this test would notice nothing")
    return "not noticed"


@fault("W04", "the device loses power: any sectors or pages of what was unflushed survive", "nothing acknowledged is lost, nothing is invented, it starts", root=True)
def torn_cut(case):
    keeps = ["sectors", "pages", "prefix", "sectors"]
    result, _ = cut_rounds(case, case.count(1, 25), keeps[: case.count(2, 4)])
    return result
