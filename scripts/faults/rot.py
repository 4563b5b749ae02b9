"""The disk gives back something else than was written: flipped bits, blocks swapped, repeated, lost, and old ones."""

import os
import shutil

import ledger
from faults.case import fault
from faults.devices import copy
from faults.layout import PAGE, entries, segments
from faults.node import Node, Sender, wait_for, words


class Rest:
    """A log at rest, full of traces that wait. Each experiment begins with it as it was."""

    def __init__(self, case):
        self.case = case
        self.node = Node(case, with_={"tail_sampling": {"decision_wait": "300s"}, "completion": {"quiet": "120s"}})
        process = self.node.start()
        sender = Sender(self.node, process)
        for number in range(400):
            sender.post(spans=1 + number % 7, filler=case.draw.randrange(1500))
        sender.close()
        # An idle log covers its last group within 100 ms; a second verdict on that needs no clock of ours.
        process.terminate()
        self.sound = case.path("sound")
        os.rename(self.node.data, self.sound)
        self.log = os.path.join(self.node.data, "log-00")
        self.node.settings["tail_sampling"]["decision_wait"] = "5s"
        self.node.settings["completion"]["quiet"] = "200ms"
        self.experiments = 0

    def restore(self):
        copy(self.sound, self.node.data)
        if os.path.exists(self.node.output):
            os.remove(self.node.output)

    def entries(self):
        """All but those of the last groups, which alone know that the others were durable."""
        found = [entry for path in segments(self.log) for entry in entries(path)]
        groups = [number for number, entry in enumerate(found) if entry.kind == 1]
        return found[: groups[-3]]

    def start_and_judge(self, touched):
        """A start on the damage: entries that it `touched` may be lost, all others not, and it must be told."""
        self.experiments += 1
        process = self.node.start()
        status = self.node.settle(process)
        problems = [problem["code"] for problem in status["problems"]] if status else []
        corrupt = status["wal"]["corrupt_bytes"] if status else 0
        self.node.stop(process)
        arrived = ledger.exported_spans(self.node.output, self.case.violations)
        excusable = set().union(*(entry.spans for entry in touched)) if touched else set()
        counts = self.node.judge(arrived, excused=lambda key: key in excusable)
        counts["survived"] = len(excusable & set(arrived))
        if touched:
            told = corrupt > 0 and "log_corrupt" in problems
            self.case.expect(told, f"damage was not told: {corrupt} corrupt bytes, {problems}")
        return counts


def flip(path, at, mask):
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ mask]))


@fault("W06", "bits flip: in every byte of entry headers and anywhere in payloads", "each is noticed, told, and costs only its entry")
def flipped_bits(case):
    rest = Rest(case)
    flips = excused = 0
    for _ in range(case.count(3, 40)):
        rest.restore()
        found = rest.entries()
        chosen = case.draw.sample([entry for entry in found if entry.spans], 150)
        for number, entry in enumerate(chosen):
            # The first 48 take a byte of the header each, in turn.
            at = number if number < 48 else case.draw.randrange(entry.end - entry.start)
            flip(entry.path, entry.start + at, 1 << case.draw.randrange(8))
        counts = rest.start_and_judge(chosen)
        case.expect(counts["survived"] == 0, f"{counts['survived']} spans of damaged entries were believed")
        flips, excused = flips + len(chosen), excused + counts["excused"]
    return f"{flips:,} flips in {rest.experiments} starts, all noticed; {words({**counts, 'excused': excused})}"


@fault("W06-header", "the header page of a segment is damaged", "it costs nothing: base and size follow from the entries")
def damaged_header(case):
    rest = Rest(case)
    for _ in range(case.count(2, 20)):
        rest.restore()
        for path in segments(rest.log):
            flip(path, case.draw.randrange(56), 1 << case.draw.randrange(8))
        counts = rest.start_and_judge([])
    return f"{rest.experiments} starts; {words(counts)}"


@fault("W07", "blocks of 4 KiB swapped, repeated, or never written", "each is noticed, told, and costs only what lay there")
def misdirected_blocks(case):
    rest = Rest(case)
    excused = blocks = 0
    for number in range(case.count(3, 60)):
        rest.restore()
        found = rest.entries()
        end = {entry.path: entry.end for entry in found}
        hit = set()
        for _ in range(4):
            path = case.draw.choice(sorted(end))
            pages = range(1, end[path] // PAGE)
            one, other = case.draw.sample(pages, 2)
            with open(path, "r+b") as file:
                first, second = (read_page(file, page) for page in (one, other))
                match number % 3:
                    case 0:
                        write_page(file, one, second)
                        write_page(file, other, first)
                        hit |= {(path, one), (path, other)}
                    case 1:
                        write_page(file, one, second)
                        hit.add((path, one))
                    case _:
                        write_page(file, one, bytes(PAGE))
                        hit.add((path, one))
            blocks += 1
        touched = [entry for entry in found if any((entry.path, page) in hit for page in pages_of(entry))]
        counts = rest.start_and_judge(touched)
        excused += counts["excused"]
    return f"{blocks} blocks in {rest.experiments} starts, all noticed; {words({**counts, 'excused': excused})}"


def pages_of(entry):
    return range(entry.start // PAGE, (entry.end - 1) // PAGE + 1)


def read_page(file, page):
    file.seek(page * PAGE)
    return file.read(PAGE)


def write_page(file, page, content):
    file.seek(page * PAGE)
    file.write(content)


@fault("W05", "a file that is used again still holds sound entries of its earlier life, or of another file", "none of them is replayed")
def stale_segments(case):
    node = Node(case, with_={"wal": {"retain": "0s", "max_size": "8MiB"}})
    process = node.start()
    sender = Sender(node, process)
    for _ in range(1500):
        sender.post(spans=3, filler=2000)
    node.settle(process)
    log = os.path.join(node.data, "log-00")
    old = case.path("old")
    # Whole segments, as they were before they went.
    shutil.copytree(log, old)
    for _ in range(1500):
        sender.post(spans=3, filler=2000)
    wait_for("other files", lambda: not set(os.listdir(old)) & set(os.listdir(log)))
    node.settle(process)
    decided = set(ledger.exported_spans(node.output, case.violations))
    process.kill()
    process = node.start(completion={"quiet": "60s"}, tail_sampling={"decision_wait": "120s"})
    waiting = Sender(node, process)
    for _ in range(20):
        waiting.post(spans=3)
    node.stop(process)
    newest = segments(log)[-1]
    end = max(entry.end for entry in entries(newest))
    page = (end + PAGE - 1) // PAGE
    planted = 0
    for path in segments(old):
        with open(path, "rb") as file:
            content = file.read()
        with open(newest, "r+b") as file:
            # As a recycled file has it: behind the tail, each where it was.
            if page * PAGE < len(content):
                file.seek(page * PAGE)
                file.write(content[page * PAGE :])
                planted += 1
        # And as a file that came from elsewhere, under the name of a newer one.
        number = int(os.path.basename(newest).removesuffix(".seg"), 16) + planted
        shutil.copyfile(path, os.path.join(log, f"{number:016x}.seg"))
    os.rename(node.output, node.output + ".before")
    counts = finish_beside(node, decided)
    again = counts.pop("again")
    case.expect(again == 0, f"{again} spans of earlier lives were replayed")
    return f"{planted} old files planted twice, {again} of their spans replayed; {words(counts)}"


def finish_beside(node, decided):
    """A last start whose output is a new file; what is `decided` lies in the one before."""
    process = node.start(completion={"quiet": "200ms"}, tail_sampling={"decision_wait": "5s"})
    node.settle(process)
    node.stop(process)
    arrived = ledger.exported_spans(node.output, node.case.violations)
    again = len(decided & set(arrived))
    for key in decided:
        arrived.setdefault(key, 1)
    return {**node.judge(arrived), "again": again}
