#!/usr/bin/env python3
"""Sends traces of known shape with the OpenTelemetry Python SDK and prints what it sent as JSON.

    sdk_python.py --protocol grpc --endpoint 127.0.0.1:4317 [--compression gzip] [--traces 50] [--seed 1]

The SDK comes from PyPI into a virtual environment below target/, made at the first run. What is printed is
the SDK's own encoding of each span beside its resource and scope, so it is what went over the wire.
Of every ten traces two have an error (one an exception that left the span, one recorded by hand); every
seventh is slow (3 s). Exit code 1 unless the server took everything.
"""

import argparse
import base64
import json
import os
import random
import subprocess
import sys

PROJECT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
ENVIRONMENT = os.path.join(PROJECT, "target", "venv-sdk-python")
VERSION = "1.45.2"
PACKAGES = [
    f"opentelemetry-sdk=={VERSION}",
    f"opentelemetry-exporter-otlp-proto-grpc=={VERSION}",
    f"opentelemetry-exporter-otlp-proto-http=={VERSION}",
]


def enter_environment():
    """Runs this script again with the environment's Python, which has the SDK."""
    python = os.path.join(ENVIRONMENT, "bin", "python")
    complete = os.path.join(ENVIRONMENT, f"complete-{VERSION}")
    if os.path.realpath(sys.prefix) == os.path.realpath(ENVIRONMENT):
        return
    if not os.path.exists(complete):
        print("installing the OpenTelemetry SDK into target/", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", ENVIRONMENT], check=True, stdout=sys.stderr)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True, stdout=sys.stderr)
        with open(complete, "w", encoding="ascii"):
            pass
    os.execv(python, [python, *sys.argv])


def exporter_for(arguments):
    if arguments.protocol == "grpc":
        import grpc
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

        compression = grpc.Compression.Gzip if arguments.compression == "gzip" else grpc.Compression.NoCompression
        return OTLPSpanExporter(endpoint=arguments.endpoint, insecure=True, compression=compression, timeout=10)
    from opentelemetry.exporter.otlp.proto.http import Compression
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    compression = Compression.Gzip if arguments.compression == "gzip" else Compression.NoCompression
    url = f"http://{arguments.endpoint}/v1/traces"
    return OTLPSpanExporter(endpoint=url, compression=compression, timeout=10)


def recording(exporter):
    """Wraps an exporter: keeps what it was given and how that ended."""
    from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

    class Recording(SpanExporter):
        requests = []
        failures = 0

        def export(self, spans):
            result = exporter.export(spans)
            if result is SpanExportResult.SUCCESS:
                self.requests.append(encode_spans(spans))
            else:
                self.failures += 1
            return result

        def shutdown(self):
            exporter.shutdown()

    return Recording()


# Every type of attribute value that the SDK takes, and values at the edges of their types.
ATTRIBUTES = {
    "text": "plain",
    "text.empty": "",
    "text.unicode": "Größe ✓ \U0001f980 \u0000 \"quoted\" \\ </script>",
    "bool.true": True,
    "bool.false": False,
    "int": 42,
    "int.zero": 0,
    "int.min": -(2**63),
    "int.max": 2**63 - 1,
    "int.beyond_double": 2**53 + 1,
    "double": 3.25,
    "double.zero": 0.0,
    "double.negative": -1.5e-300,
    "double.large": 1.7976931348623157e308,
    "double.nan": float("nan"),
    "double.infinite": float("-inf"),
    "list.text": ["a", "", "c"],
    "list.bool": [True, False],
    "list.int": [1, -2, 3],
    "list.double": [0.5, 1e10],
    "list.empty": [],
}


def send_trace(tracers, number, draw, now_ns, earlier):
    """Ends spans children first. Returns what a judge must know about the trace."""
    from opentelemetry import trace
    from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

    errored = number % 5 == 0
    slow = number % 7 == 3
    duration_ns = 3_000_000_000 if slow else 150_000_000
    begin_ns = now_ns - duration_ns
    kinds = list(SpanKind)
    links = [Link(context, {"link.number": number, "link.kind": "follows"}) for context in earlier[-2:]]
    if links:
        remote = SpanContext(
            draw.getrandbits(128) | 1,
            draw.getrandbits(64) | 1,
            is_remote=True,
            trace_flags=TraceFlags(1),
            trace_state=TraceState([("vendor", "value"), ("other", "1")]),
        )
        links.append(Link(remote))

    root = tracers[0].start_span(
        f"GET /orders/{number}", kind=SpanKind.SERVER, start_time=begin_ns, links=links, attributes={"check.trace": number}
    )
    open_spans = [root]
    for index in range(1, 3 + number % 6):
        parent = trace.set_span_in_context(open_spans[draw.randrange(len(open_spans))])
        span = tracers[index % len(tracers)].start_span(
            f"step {index}",
            context=parent,
            kind=kinds[index % len(kinds)],
            start_time=begin_ns + index * 1_000_000,
            attributes={"check.trace": number, "check.index": index},
        )
        open_spans.append(span)
    last = open_spans[-1]
    last.set_attributes(ATTRIBUTES)
    last.add_event("cache miss", {"key": "order", "tries": 3, "ratios": [0.5, 0.25]}, timestamp=begin_ns + 5_000_000)
    last.add_event("empty", timestamp=begin_ns + 6_000_000)
    if errored and number % 10 == 0:
        # An exception that leaves the block: the SDK records the event and sets the status.
        try:
            with trace.use_span(last, end_on_exit=False, record_exception=True, set_status_on_exception=True):
                raise ValueError(f"order {number} has no lines — größer als null")
        except ValueError:
            pass
    elif errored:
        last.record_exception(KeyError("sku"), {"exception.escaped": False, "retry": 2})
        last.set_status(Status(StatusCode.ERROR, "no such article"))
    elif number % 3 == 0:
        root.set_status(Status(StatusCode.OK))
    context = root.get_span_context()
    for depth, span in enumerate(reversed(open_spans)):
        span.end(end_time=now_ns - (len(open_spans) - 1 - depth) * 1_000_000)
    earlier.append(context)
    return {
        "traceId": f"{context.trace_id:032x}",
        "errored": errored,
        "slow": slow,
        "spanCount": len(open_spans),
    }


def to_json(message):
    """OTLP/JSON: protobuf's JSON but for enums as integers and ids in hexadecimal."""
    from google.protobuf.json_format import MessageToDict

    document = MessageToDict(message, use_integers_for_enums=True)

    def ids_to_hex(value):
        if isinstance(value, dict):
            for key in ("traceId", "spanId", "parentSpanId"):
                if key in value:
                    value[key] = base64.b64decode(value[key]).hex()
            for inner in value.values():
                ids_to_hex(inner)
        elif isinstance(value, list):
            for inner in value:
                ids_to_hex(inner)

    ids_to_hex(document)
    return document


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--protocol", choices=["grpc", "http"], required=True)
    parser.add_argument("--endpoint", required=True, metavar="HOST:PORT")
    parser.add_argument("--compression", choices=["none", "gzip"], default="none")
    parser.add_argument("--traces", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    enter_environment()

    import time

    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    exporter = recording(exporter_for(arguments))
    resource = Resource.create(
        {
            "service.name": "check-python",
            "service.instance.id": f"{arguments.protocol}-{arguments.compression}",
            "check.list": ["one", "two"],
            "check.number": 7,
        },
        schema_url="https://opentelemetry.io/schemas/1.37.0",
    )
    provider = TracerProvider(resource=resource)
    # Small batches, so that traces lie across requests.
    provider.add_span_processor(BatchSpanProcessor(exporter, max_export_batch_size=32, schedule_delay_millis=100))
    tracers = [
        provider.get_tracer("check.http", "1.2.3", "https://opentelemetry.io/schemas/1.37.0", {"scope.kind": "http"}),
        provider.get_tracer("check.db"),
        provider.get_tracer("check.work", "0.1"),
    ]
    draw = random.Random(arguments.seed)
    earlier = []
    traces = [send_trace(tracers, number, draw, time.time_ns(), earlier) for number in range(arguments.traces)]
    flushed = provider.force_flush(30_000)
    provider.shutdown()

    sent = {
        "protocol": arguments.protocol,
        "compression": arguments.compression,
        "failures": exporter.failures,
        "requests": len(exporter.requests),
        "traces": traces,
        "resourceSpans": [spans for request in exporter.requests for spans in to_json(request).get("resourceSpans", [])],
    }
    json.dump(sent, sys.stdout)
    print()
    span_count = sum(
        len(scope["spans"]) for resource in sent["resourceSpans"] for scope in resource["scopeSpans"]
    )
    complete = span_count == sum(trace["spanCount"] for trace in traces)
    if not flushed or exporter.failures or not complete:
        sys.exit(f"error: the server did not take everything: flushed {flushed}, {exporter.failures} failures")


if __name__ == "__main__":
    main()
