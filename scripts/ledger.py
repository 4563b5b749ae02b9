"""The ledger of `tailkeep-bench load --ledger` (layout: bench/src/load/ledger.rs), and the judge who reads it.

Judged: every acknowledged span that is due has come; nothing has come that was never sent. What came twice is
counted, not judged.
"""

import json
import os
import struct

MAGIC = b"TKLEDG01"
MARK_ERROR, MARK_SLOW = 1, 2
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


def marked_spans(path, marks):
    """Span ids of the traces with one of these marks: (due, possible); and how many spans were acknowledged.

    Due are acknowledged spans of traces whose mark was acknowledged; possible are all that were sent of marked traces.
    For millions of spans: ids are taken apart of those traces only. A torn last record is left out.
    """
    with open(path, "rb") as file:
        content = file.read()
    requests, acknowledged, at = {}, set(), len(MAGIC)
    while at + 5 <= len(content):
        kind, length = struct.unpack_from("<cI", content, at)
        at += 5
        if at + length > len(content):
            break
        request = content[at : at + 8]
        if kind == b"S":
            requests[request] = (at + 8, at + length)
        elif content[at + 8] == ACKED:
            acknowledged.add(request)
        at += length

    def runs():
        for request, (at, end) in requests.items():
            is_acknowledged = request in acknowledged
            while at < end:
                run_marks, count = struct.unpack_from("<BH", content, at + 16)
                yield is_acknowledged, content[at : at + 16], run_marks, (at + 19, count)
                at += 19 + 8 * count

    due_traces, marked_traces, acknowledged_count = set(), set(), 0
    for is_acknowledged, trace, run_marks, (_, count) in runs():
        acknowledged_count += count * is_acknowledged
        if run_marks & marks:
            marked_traces.add(trace)
            if is_acknowledged:
                due_traces.add(trace)
    due, possible = set(), set()
    for is_acknowledged, trace, _, (at, count) in runs():
        if trace in marked_traces:
            ids = [content[at + 8 * n : at + 8 * n + 8] for n in range(count)]
            possible.update(ids)
            if is_acknowledged and trace in due_traces:
                due.update(ids)
    return due, possible, acknowledged_count


class Writer:
    """Keeps a ledger for a client of its own. Traces are marked with an error when asked for."""

    def __init__(self, path):
        self.file = open(path, "wb", buffering=0)
        self.file.write(MAGIC)

    def sent(self, request, runs):
        """`runs`: [(trace id, marks, [span id])]"""
        record = request.to_bytes(8, "little")
        for trace_id, marks, span_ids in runs:
            record += trace_id + struct.pack("<BH", marks, len(span_ids)) + b"".join(span_ids)
        self.file.write(struct.pack("<cI", b"S", len(record)) + record)

    def answered(self, request, outcome):
        self.file.write(struct.pack("<cI", b"A", 9) + request.to_bytes(8, "little") + bytes([outcome]))

    def close(self):
        self.file.close()


def exported_spans(path, violations):
    """{trace id + span id: times exported} of a file of OTLP/JSON lines"""
    found = {}
    with open(path, "rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                document = json.loads(line)
            except ValueError as error:
                violations.append(f"{path}:{number}: torn or not JSON: {error}")
                continue
            for resource_spans in document.get("resourceSpans", []):
                for scope_spans in resource_spans.get("scopeSpans", []):
                    for span in scope_spans.get("spans", []):
                        key = bytes.fromhex(span["traceId"] + span["spanId"])
                        found[key] = found.get(key, 0) + 1
    return found


def judge(work, policy, exported, violations, excused=lambda key: False):
    """Compares every `*.ledger` in `work` with `exported`; returns counts.

    Due are acknowledged spans: with the policy `always` all, with `errors` those of traces whose error span was
    acknowledged. `excused` names those that may be missing; they are counted.
    """
    counts = {"sent": 0, "acknowledged": 0, "due": 0, "missing": 0, "excused": 0, "unacknowledged_exported": 0}
    rest = set(exported)
    names = sorted(name for name in os.listdir(work) if name.endswith(".ledger"))
    for name in names:
        requests = read(os.path.join(work, name))
        due_traces = set()
        for runs, outcome in requests.values():
            if outcome == ACKED_IN_PART:
                violations.append(f"{name}: valid spans were rejected by partial_success")
            if outcome == ACKED:
                due_traces.update(t for t, marks, _ in runs if policy == "always" or marks & MARK_ERROR)
        for request, (runs, outcome) in requests.items():
            for trace_id, _, span_ids in runs:
                counts["sent"] += len(span_ids)
                acked = outcome == ACKED
                counts["acknowledged"] += len(span_ids) * acked
                is_due = acked and trace_id in due_traces
                for span_id in span_ids:
                    key = trace_id + span_id
                    rest.discard(key)
                    if is_due:
                        counts["due"] += 1
                        if key not in exported and excused(key):
                            counts["excused"] += 1
                        elif key not in exported:
                            counts["missing"] += 1
                            if counts["missing"] <= 20:
                                violations.append(
                                    f"{name}, request {request}: acknowledged span {span_id.hex()} of trace "
                                    f"{trace_id.hex()} is missing"
                                )
                    elif key in exported and not acked:
                        counts["unacknowledged_exported"] += 1
    if counts["missing"] > 20:
        violations.append(f"… {counts['missing']} spans are missing in all")
    for key in sorted(rest)[:20]:
        violations.append(f"span {key[16:].hex()} of trace {key[:16].hex()} was never sent")
    if len(rest) > 20:
        violations.append(f"… {len(rest)} spans were never sent in all")
    if not counts["due"]:
        violations.append("nothing was compared: no acknowledged span was due")
    return counts
