#!/usr/bin/env python3
"""Sends captured traces to an OTLP/HTTP receiver.

    replay_capture.py 127.0.0.1:4318 --otlp FILE [--otlp FILE]   request bodies, each behind a u32 LE length
    replay_capture.py 127.0.0.1:4318 --nezha CSV [--speed 20]    a minute of the Nezha data set, in its own time

Nezha's spans are sent when they ended, batched per pod as an SDK does (0.2 s of the capture's time or 512 spans).
All times are moved by the same amount, so that the first span ends now; durations stay, whatever the speed.
Ids are those of the capture. Prints one JSON object; exit code 1 unless every request was accepted whole.
"""

import argparse
import csv
import http.client
import json
import os
import re
import struct
import sys
import threading
import time

import otlp_encode

BATCH_NS = 200_000_000
BATCH_SPANS_MAX = 512


class Tally:
    """What was sent and how it was answered; shared by the pods' threads."""

    def __init__(self):
        self.lock = threading.Lock()
        self.counts = {"requests": 0, "bytes": 0, "accepted": 0, "partial": 0, "refused": 0, "failed": 0}

    def post(self, client, body):
        try:
            status, reply = client.post(body)
        except (OSError, http.client.HTTPException) as error:
            print(f"failed: {error!r}", file=sys.stderr)
            status, reply = None, b""
        # An ExportTraceServiceResponse without a partial_success is empty.
        rejected = status == 200 and reply[:1] == b"\x0a" and reply[1:2] != b"\x00"
        outcome = "partial" if rejected else {200: "accepted", 429: "refused", 503: "refused"}.get(status, "failed")
        with self.lock:
            self.counts["requests"] += 1
            self.counts["bytes"] += len(body)
            self.counts[outcome] += 1


def replay_bodies(path, client, tally):
    with open(path, "rb") as file:
        while head := file.read(4):
            if len(head) != 4:
                sys.exit(f"error: {path} ends within a length")
            (length,) = struct.unpack("<I", head)
            body = file.read(length)
            if len(body) != length:
                sys.exit(f"error: {path} ends within a body")
            tally.post(client, body)


def read_nezha(path):
    """(end, pod, span fields), in the order in which the spans ended."""
    spans = []
    with open(path, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            parent = row["ParentID"]
            start, end = int(row["StartTimeUnixNano"]), int(row["EndTimeUnixNano"])
            ids = bytes.fromhex(row["TraceID"]), bytes.fromhex(row["SpanID"])
            parent_id = b"" if parent == "root" else bytes.fromhex(parent)
            spans.append((end, row["PodName"], ids, parent_id, row["OperationName"], start))
    spans.sort(key=lambda span: span[0])
    return spans


def batches(spans):
    """(moment to send, pod, spans): a pod's batch leaves 0.2 s after its first span, or when it is full."""
    open_batches, ready = {}, []
    for span in spans:
        end, pod = span[0], span[1]
        batch = open_batches.get(pod)
        if batch and end - batch[0][0] >= BATCH_NS:
            ready.append((batch[0][0] + BATCH_NS, pod, batch))
            batch = None
        if batch is None:
            batch = open_batches[pod] = []
        batch.append(span)
        if len(batch) == BATCH_SPANS_MAX:
            ready.append((end, pod, batch))
            del open_batches[pod]
    ready += [(batch[0][0] + BATCH_NS, pod, batch) for pod, batch in open_batches.items()]
    ready.sort(key=lambda item: item[0])
    return ready


def encode(pod, spans, shift_ns):
    """The service is the pod's name without the deployment's and the pod's hash."""
    service = re.sub(r"-[0-9a-f]{8,10}-[0-9a-z]{5}$", "", pod)
    messages = []
    for end, _, (trace_id, span_id), parent_id, operation, start in spans:
        kind = 2 if not parent_id or "/Recv" in operation else 1
        messages.append(
            otlp_encode.span(
                trace_id, span_id, parent_id, operation, kind, start + shift_ns, end + shift_ns,
                [("rpc.method", operation.rpartition("/")[2])],
            )  # fmt: skip
        )
    resource = [("service.name", service), ("service.instance.id", pod)]
    return otlp_encode.request(resource, "nezha", messages)


def replay_nezha(path, endpoint, speed, tally):
    """Each pod has a thread and a connection, so that a slow reply to one does not hold back the others."""
    spans = read_nezha(path)
    if not spans:
        sys.exit(f"error: {path} holds no spans")
    first_end = spans[0][0]
    shift_ns = time.time_ns() - first_end
    by_pod = {}
    for moment, pod, batch in batches(spans):
        by_pod.setdefault(pod, []).append(((moment - first_end) / 1e9 / speed, batch))
    begin = time.monotonic()
    late = []

    def run(pod, schedule):
        client = otlp_encode.Client(endpoint)
        for moment, batch in schedule:
            body = encode(pod, batch, shift_ns)
            wait = moment - (time.monotonic() - begin)
            if wait > 0:
                time.sleep(wait)
            late.append(-wait)
            tally.post(client, body)
        client.close()

    threads = [threading.Thread(target=run, args=item) for item in by_pod.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {
        "spans": len(spans),
        "traces": len({span[2][0] for span in spans}),
        "pods": len(by_pod),
        "latest_send_seconds": round(max(late), 3),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("endpoint", metavar="HOST:PORT")
    parser.add_argument("--otlp", action="append", default=[], metavar="FILE")
    parser.add_argument("--nezha", metavar="CSV")
    parser.add_argument("--speed", type=float, default=1.0)
    arguments = parser.parse_args()
    if not arguments.otlp and not arguments.nezha:
        parser.error("nothing to send: --otlp or --nezha")
    if arguments.speed <= 0:
        parser.error("--speed must be positive")
    for path in [*arguments.otlp, *filter(None, [arguments.nezha])]:
        if not os.path.exists(path):
            print(f"skipped: {path} is not here")
            return

    tally = Tally()
    begin = time.monotonic()
    summary = {}
    client = otlp_encode.Client(arguments.endpoint)
    for path in arguments.otlp:
        replay_bodies(path, client, tally)
    client.close()
    if arguments.nezha:
        summary = replay_nezha(arguments.nezha, arguments.endpoint, arguments.speed, tally)
    summary |= tally.counts
    summary["seconds"] = round(time.monotonic() - begin, 3)
    print(json.dumps(summary))
    sys.exit(0 if summary["accepted"] == summary["requests"] > 0 else 1)


if __name__ == "__main__":
    main()
