#!/usr/bin/env python3
"""Compares an exported file (OTLP/JSON lines) with what sdk_python.py says it sent.

    compare_exported.py KEPT.jsonl SENT.json...

For a configuration of three policies: errors, slow (above 2 s) and a baseline of 10 %. Every errored or slow
trace must be there whole; every other trace exactly when its randomness says so; every span equal to
what was sent, field by field, but for tracestate and the scope attributes tailsampling.* and tailkeep.*.
Prints each violation; exit code 1 if there is one.
"""

import json
import math
import sys

POLICIES = {"errors", "slow", "baseline"}
REASONS = {
    "complete", "quiet", "expired", "expected_count", "span_limit", "byte_limit", "memory_pressure", "shutdown", "peer"
}
BASELINE_RATIO = 0.1
RANDOMNESS_LIMIT = 2**56
# A threshold is written with few digits; traces this close to it may fall either way.
THRESHOLD_SLACK = 2**56 // 2**14
ANNOTATIONS = ("tailsampling.", "tailkeep.")
INTEGER_FIELDS = {"startTimeUnixNano", "endTimeUnixNano", "timeUnixNano", "intValue"}


def canonical(value, inside_value=False):
    """One form for all ways to write the same message: defaults dropped, 64-bit integers as integers.

    Inside an AnyValue an explicit zero differs from nothing, so there nothing is dropped.
    """
    if isinstance(value, list):
        return [canonical(item, inside_value) for item in value]
    if not isinstance(value, dict):
        return value
    out = {}
    for key, item in value.items():
        if key == "traceState":
            continue
        if key in INTEGER_FIELDS:
            item = int(item)
        elif key == "doubleValue":
            item = canonical_double(item)
        elif key == "value" and isinstance(item, dict):
            item = canonical(item, True)
        else:
            item = canonical(item, inside_value and key not in ("arrayValue", "kvlistValue"))
        if key == "attributes":
            item = sorted(item, key=lambda pair: pair["key"])
        is_default = item in ("", 0, [], {}, None) and not isinstance(item, bool)
        keeps_default = key.endswith("Value") or key == "value"
        if keeps_default or not is_default:
            out[key] = item
    return out


def canonical_double(item):
    """JSON has no NaN; 1 and 1.0 are the same number, 0.0 and -0.0 are not the same bytes."""
    number = float({"Infinity": "inf", "-Infinity": "-inf"}.get(item, item))
    return "NaN" if math.isnan(number) else number.hex()


def spans_of(documents, annotations=None):
    """(trace id, span id) → [span with its resource and scope]. `annotations` collects what tailkeep added."""
    found = {}
    for document in documents:
        for resource_spans in document.get("resourceSpans", []):
            for scope_spans in resource_spans.get("scopeSpans", []):
                scope = dict(scope_spans.get("scope", {}))
                attributes = scope.get("attributes", [])
                added = {a["key"]: a["value"] for a in attributes if a["key"].startswith(ANNOTATIONS)}
                scope["attributes"] = [a for a in attributes if not a["key"].startswith(ANNOTATIONS)]
                for span in scope_spans.get("spans", []):
                    whole = {
                        "resource": resource_spans.get("resource", {}),
                        "resourceSchemaUrl": resource_spans.get("schemaUrl", ""),
                        "scope": scope,
                        "scopeSchemaUrl": scope_spans.get("schemaUrl", ""),
                        "span": span,
                    }
                    key = (span["traceId"], span["spanId"])
                    found.setdefault(key, []).append(canonical(whole))
                    if annotations is not None:
                        annotations.setdefault(span["traceId"], []).append(added)
    return found


def difference(sent, got, path=""):
    """The first place where two documents differ, in words."""
    if isinstance(sent, dict) and isinstance(got, dict):
        for key in sorted(sent.keys() | got.keys()):
            if sent.get(key) != got.get(key):
                return difference(sent.get(key), got.get(key), f"{path}.{key}")
    if isinstance(sent, list) and isinstance(got, list) and len(sent) == len(got):
        for index, (one, other) in enumerate(zip(sent, got)):
            if one != other:
                return difference(one, other, f"{path}[{index}]")
    return f"{path}: sent {json.dumps(sent)}, exported {json.dumps(got)}"


def baseline_keeps(trace_id):
    """True or False, None too close to the threshold."""
    distance = int(trace_id[-14:], 16) - round(RANDOMNESS_LIMIT * (1 - BASELINE_RATIO))
    return None if abs(distance) < THRESHOLD_SLACK else distance >= 0


def read_lines(path, violations):
    documents = []
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                document = json.loads(line)
            except ValueError as error:
                violations.append(f"{path}:{number}: not JSON: {error}")
                continue
            documents.append(document)
            traces = {trace_id for trace_id, _ in spans_of([document])}
            if len(traces) > 1:
                violations.append(f"{path}:{number}: one line holds {len(traces)} traces")
            for trace_id in traces:
                if len(trace_id) != 32 or trace_id != trace_id.lower():
                    violations.append(f"{path}:{number}: {trace_id!r} is no lower-case hexadecimal id")
    return documents


def judge(exported, annotations, sent_runs, violations):
    sent_spans = {}
    for run in sent_runs:
        for key, copies in spans_of([run]).items():
            sent_spans.setdefault(key, []).extend(copies)
    exported_traces = {trace_id for trace_id, _ in exported}
    counts = {"errored": 0, "slow": 0, "baseline": 0, "dropped": 0, "duplicates": 0}

    for key, copies in exported.items():
        counts["duplicates"] += len(copies) - 1
        if key not in sent_spans:
            violations.append(f"span {key} was never sent")
            continue
        for copy in copies:
            if copy != sent_spans[key][0]:
                violations.append(f"span {key} differs at " + difference(sent_spans[key][0], copy))

    missing_by_trace = {}
    for trace_id, span_id in sent_spans:
        if (trace_id, span_id) not in exported:
            missing_by_trace[trace_id] = missing_by_trace.get(trace_id, 0) + 1
    for trace in (trace for run in sent_runs for trace in run["traces"]):
        trace_id = trace["traceId"]
        kept = trace_id in exported_traces
        due = trace["errored"] or trace["slow"] or baseline_keeps(trace_id)
        why = "errored" if trace["errored"] else "slow" if trace["slow"] else "baseline"
        counts[why if kept else "dropped"] += 1
        if due and not kept:
            violations.append(f"trace {trace_id} ({why}) was not exported")
        if due is False and kept:
            violations.append(f"trace {trace_id} was exported although no policy keeps it")
        if kept and missing_by_trace.get(trace_id):
            violations.append(f"trace {trace_id} ({why}) lacks {missing_by_trace[trace_id]} of {trace['spanCount']} spans")
        for added in annotations.get(trace_id, []):
            policy = added.get("tailsampling.policy", {}).get("stringValue")
            reason = added.get("tailkeep.reason", {}).get("stringValue")
            if policy not in POLICIES or reason not in REASONS:
                violations.append(f"trace {trace_id} carries policy {policy!r} and reason {reason!r}")
                break
    return counts


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    violations = []
    annotations = {}
    documents = read_lines(sys.argv[1], violations)
    exported = spans_of(documents, annotations)
    sent_runs = []
    for path in sys.argv[2:]:
        with open(path, encoding="utf-8") as file:
            sent_runs.append(json.load(file))
    counts = judge(exported, annotations, sent_runs, violations)
    if counts["errored"] == 0 or counts["slow"] == 0:
        violations.append("nothing was compared: no errored or no slow trace was exported")
    for violation in violations[:40]:
        print(f"violation: {violation}")
    if len(violations) > 40:
        print(f"… and {len(violations) - 40} more")
    summary = ", ".join(f"{count} {name}" for name, count in counts.items())
    print(f"{len(sent_runs)} runs, {len(exported)} spans exported; traces: {summary}; {len(violations)} violations")
    sys.exit(1 if violations else 0)


if __name__ == "__main__":
    main()
