#!/usr/bin/env python3
"""Plays the faults that a host can show on the real tailkeep; a ledger of acknowledged ids is the judge.

    faults.py [--short | --long] [--only W07,E02] [--seed N] [--binary …] [--bench …] [--results FILE]
    faults.py --list
    faults.py --table FILE      the rows of src/manual/faults.md from such results

--short (default) takes a few minutes, --long an hour with 30 minutes of W18. Faults that need root, a tool or a kernel
feature that is not there are skipped with a word. What each fault is and promises: --list, and src/manual/faults.md.
Exit code 1 when anything acknowledged was lost, anything came that was never sent, or a promise was broken. Ends
only processes that it started; what it mounts it unmounts.
"""

from faults import clients, clock, destinations, directory, errors, kills, power, rot, soak, space, stops  # noqa: F401
from faults import runner

if __name__ == "__main__":
    runner.main(__doc__, "faults")
