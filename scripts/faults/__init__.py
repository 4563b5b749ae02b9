"""Faults that a host, a disk, a clock or a peer can show, one family a file. `scripts/faults.py` runs them.

A fault is a function that plays it on the real binary and returns what happened in a few words. The judge is a ledger
of acknowledged ids: `case.py` has what a fault is played with, `node.py` the process under test, `devices.py` disks
that fail.
"""
