"""One fault being played: its directory, its randomness, what must be undone, and what was found wrong."""

import contextlib
import os
import random
import shutil
import subprocess

FAULTS = []


class Skip(Exception):
    """It cannot be played here; says why."""


class Fault:
    def __init__(self, name, what, promise, play, root, long_only):
        self.name, self.what, self.promise, self.play = name, what, promise, play
        self.root, self.long_only = root, long_only


def fault(name, what, promise, root=False, long_only=False):
    """Registers `play(case)`, which returns counts in words and raises Skip where it cannot be played."""

    def register(play):
        FAULTS.append(Fault(name, what, promise, play, root, long_only))
        return play

    return register


class Case:
    def __init__(self, fault, options, seed):
        self.name = fault.name
        self.binary, self.bench = options.binary, options.bench
        self.long = options.long
        self.soak = getattr(options, "soak", 30)
        self.draw = random.Random(f"{seed} {fault.name}")
        self.work = os.path.join(options.work, fault.name)
        self.violations = []
        self.undo = contextlib.ExitStack()
        shutil.rmtree(self.work, ignore_errors=True)
        os.makedirs(self.work)

    def count(self, short, long):
        return long if self.long else short

    def path(self, *names):
        return os.path.join(self.work, *names)

    def expect(self, holds, what):
        """A sentence that says what is wrong unless it holds."""
        if not holds:
            self.violations.append(what)
        return holds

    def require(self, program):
        path = shutil.which(program)
        if not path:
            raise Skip(f"no {program}")
        return path


def run(*command, seconds=120):
    """Its output; what it said is in the error."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    if done.returncode != 0:
        raise OSError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def plural(count, word):
    return f"{count:,} {word}" if count == 1 else f"{count:,} {word}s"
