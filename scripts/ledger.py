"""Reads the ledger of `tailkeep-bench load --ledger` (layout: bench/src/load/ledger.rs)."""

import struct

MAGIC = b"TKLEDG01"
MARK_ERROR = 1
ACKED, ACKED_IN_PART, REFUSED, FAILED = 1, 2, 3, 4


def read(path):
    """{request: ([(trace id, marks, [span id])], outcome)}; the outcome is None while there was no reply.

    A torn last record is left out: its request was never sent, or its reply never counted.
    """
    with open(path, "rb") as file:
        content = file.read()
    if content[:8] != MAGIC:
        raise ValueError(f"{path} is no ledger")
    runs, outcomes = {}, {}
    at = 8
    while at + 5 <= len(content):
        kind, length = struct.unpack_from("<cI", content, at)
        at += 5
        if at + length > len(content):
            break
        record = content[at : at + length]
        at += length
        request = int.from_bytes(record[:8], "little")
        if kind == b"S":
            runs[request] = list(_runs(record))
        elif kind == b"A":
            outcomes[request] = record[8]
    return {request: (sent, outcomes.get(request)) for request, sent in runs.items()}


def _runs(record):
    at = 8
    while at < len(record):
        trace_id = record[at : at + 16]
        marks, count = struct.unpack_from("<BH", record, at + 16)
        at += 19
        yield trace_id, marks, [record[at + 8 * n : at + 8 * n + 8] for n in range(count)]
        at += 8 * count
