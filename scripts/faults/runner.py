"""Plays faults by name, prints what came of them, and makes the rows of the manual."""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback

from faults import case as cases
from tailkeep_process import PROJECT, NotReady


def play(fault, options, seed):
    """(outcome, what happened): ok, skipped or FAILED"""
    if fault.root and os.geteuid() != 0:
        return "skipped", "needs root", []
    case = cases.Case(fault, options, seed)
    try:
        try:
            result = fault.play(case)
        finally:
            case.undo.close()
    except cases.Skip as why:
        return "skipped", str(why), []
    except (NotReady, OSError, RuntimeError, TimeoutError) as error:
        case.violations.append(f"{type(error).__name__}: {error}")
        result = "no result"
    except Exception as error:
        case.violations.append("".join(traceback.format_exception(error)))
        result = "no result"
    if not case.violations:
        # What a failed one leaves is to be looked at.
        shutil.rmtree(case.work, ignore_errors=True)
    return ("FAILED" if case.violations else "ok"), result, case.violations


def order(fault):
    """Faults of the log first."""
    return fault.name[0] != "W", fault.name


def parse_arguments(document, name):
    parser = argparse.ArgumentParser(description=document, formatter_class=argparse.RawDescriptionHelpFormatter)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--short", dest="long", action="store_false", default=False, help="the default")
    length.add_argument("--long", action="store_true")
    parser.add_argument("--only", type=lambda text: text.split(","), default=[], metavar="NAMES")
    parser.add_argument("--except", dest="without", type=lambda text: text.split(","), default=[], metavar="NAMES")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--binary", default=os.path.join(PROJECT, "target", "release", "tailkeep"))
    parser.add_argument("--bench", default=os.path.join(PROJECT, "target", "release", "tailkeep-bench"))
    parser.add_argument("--work", default=os.path.join(PROJECT, "target", name))
    parser.add_argument("--soak", type=float, default=30, metavar="MINUTES", help="of W18")
    parser.add_argument("--results", metavar="FILE", help="one JSON object a line is appended")
    parser.add_argument("--table", metavar="FILE")
    parser.add_argument("--list", action="store_true")
    return parser.parse_args()


def wanted(fault, options):
    def named(names):
        return any(fault.name == name or fault.name.startswith(f"{name}-") for name in names)

    if options.only:
        return named(options.only)
    return not named(options.without) and (options.long or not fault.long_only)


def print_table(path):
    with open(path, encoding="utf-8") as file:
        results = {line["fault"]: line for line in map(json.loads, file)}
    print("| fault | what | promise | last run |\n|---|---|---|---|")
    for fault in sorted(cases.FAULTS, key=order):
        last = results.get(fault.name)
        words = f"{last['date']} {last['length']}: {last['outcome']}, {last['result']}" if last else "not yet"
        print(f"| {fault.name} | {fault.what} | {fault.promise} | {words} |")


def main(document, name, prepare=lambda: None):
    """The command `name`, whose cases are registered; `prepare` says why nothing can be played here, if so."""
    options = parse_arguments(document, name)
    if options.table:
        return print_table(options.table)
    faults = [fault for fault in cases.FAULTS if wanted(fault, options)]
    faults.sort(key=order)
    if options.list:
        for fault in faults:
            print(f"{fault.name:12} {fault.what}\n{'':12} → {fault.promise}{' (root)' if fault.root else ''}")
        return
    if not faults:
        sys.exit(f"error: no fault is named {', '.join(options.only)}; --list names them")
    for path in (options.binary, options.bench):
        if not os.access(path, os.X_OK):
            sys.exit(f"error: no {path}; cargo build --release --workspace makes it")
    why_not = prepare()
    if why_not:
        return print(f"skipped: {why_not}")
    os.makedirs(options.work, exist_ok=True)
    room = shutil.disk_usage(options.work)
    if room.free < room.total * 0.06:
        sys.exit(f"error: {room.free >> 30} GiB are free beside {options.work}: tailkeep would refuse requests (wal.min_free)")
    seed = options.seed if options.seed is not None else random.SystemRandom().getrandbits(32)
    length = "--long" if options.long else "--short"
    print(f"seed {seed}; repeat with: scripts/{name}.py {length} --seed {seed}", flush=True)
    # An interrupt must not leave mounts behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    outcomes = []
    for fault in faults:
        began = time.monotonic()
        outcome, result, violations = play(fault, options, seed)
        outcomes.append(outcome)
        took = time.monotonic() - began
        print(f"{outcome:7} {fault.name:12} {took:4.0f} s  {result}", flush=True)
        for violation in violations[:20]:
            print(f"        violation: {violation}", flush=True)
        if options.results:
            with open(options.results, "a", encoding="utf-8") as file:
                line = {"fault": fault.name, "outcome": outcome, "result": result, "seconds": round(took), "length": length}
                file.write(json.dumps({**line, "seed": seed, "date": time.strftime("%Y-%m-%d", time.gmtime())}) + "\n")
    failed = outcomes.count("FAILED")
    print(f"{outcomes.count('ok')} faults played, {outcomes.count('skipped')} skipped, {failed} FAILED (seed {seed})")
    sys.exit(1 if failed else 0)
