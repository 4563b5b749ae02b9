// Sends traces of known shape with the OpenTelemetry SDK for Node and prints what it sent as JSON.
//
//     node sdk_node.mjs --modules DIRECTORY --protocol grpc|http|proto --endpoint HOST:PORT
//                       [--compression gzip] [--traces 50]
//
// `http` is OTLP/HTTP with JSON, `proto` with protobuf; DIRECTORY has the SDK in its node_modules. What is printed is
// the SDK's own JSON of each request, also where protobuf went over the wire. Shapes and judge are those of
// sdk_python.py: of every ten traces two have an error, every seventh is slow (3 s). Exit code 1 unless the server took
// everything.

import { createRequire } from "node:module";
import { parseArgs } from "node:util";

const { values: options } = parseArgs({
  options: {
    modules: { type: "string" },
    protocol: { type: "string" },
    endpoint: { type: "string" },
    compression: { type: "string", default: "none" },
    traces: { type: "string", default: "50" },
  },
});
const require = createRequire(`${options.modules}/package.json`);
const { context, trace, SpanKind, SpanStatusCode, TraceFlags, createTraceState } = require("@opentelemetry/api");
const { resourceFromAttributes } = require("@opentelemetry/resources");
const { BatchSpanProcessor, NodeTracerProvider } = require("@opentelemetry/sdk-trace-node");
const { JsonTraceSerializer } = require("@opentelemetry/otlp-transformer");

const EXPORTERS = {
  grpc: ["@opentelemetry/exporter-trace-otlp-grpc", `http://${options.endpoint}`],
  http: ["@opentelemetry/exporter-trace-otlp-http", `http://${options.endpoint}/v1/traces`],
  proto: ["@opentelemetry/exporter-trace-otlp-proto", `http://${options.endpoint}/v1/traces`],
};
const SCHEMA = "https://opentelemetry.io/schemas/1.37.0";
// Every type of attribute value that the SDK takes. No NaN and no integer that is not safe: its JSON has no form for NaN
// and rounds such integers to 17 digits.
const ATTRIBUTES = {
  text: "plain",
  "text.empty": "",
  "text.unicode": "Größe ✓ \u{1f980} \u0000 \"quoted\" \\ </script>",
  "bool.true": true,
  "bool.false": false,
  int: 42,
  "int.zero": 0,
  "int.negative": -7,
  "int.safe": Number.MAX_SAFE_INTEGER,
  double: 3.25,
  "double.tiny": -1.5e-300,
  "list.text": ["a", "", "c"],
  "list.bool": [true, false],
  "list.int": [1, -2, 3],
  "list.double": [0.5, 1.25],
  "list.empty": [],
};

// An exporter that keeps what it was given and how that ended.
class Recording {
  requests = [];
  failures = [];

  constructor(exporter) {
    this.exporter = exporter;
  }

  export(spans, done) {
    this.exporter.export(spans, (result) => {
      if (result.code === 0) {
        this.requests.push(JSON.parse(new TextDecoder().decode(JsonTraceSerializer.serializeRequest(spans))));
      } else {
        this.failures.push(String(result.error));
      }
      done(result);
    });
  }

  forceFlush() {
    return this.exporter.forceFlush();
  }

  shutdown() {
    return this.exporter.shutdown();
  }
}

// Ends spans children first. Returns what the judge must know about the trace.
function sendTrace(tracers, number, nowMs, earlier) {
  const errored = number % 5 === 0;
  const slow = number % 7 === 3;
  const beginMs = nowMs - (slow ? 3000 : 150);
  const links = earlier.slice(-2).map((linked) => ({ context: linked, attributes: { "link.number": number } }));
  if (links.length > 0) {
    const remote = {
      traceId: "00112233445566778899aabbccddeeff",
      spanId: "0011223344556677",
      traceFlags: TraceFlags.SAMPLED,
      isRemote: true,
      traceState: createTraceState("vendor=value,other=1"),
    };
    links.push({ context: remote });
  }
  const root = tracers[0].startSpan(`GET /orders/${number}`, {
    kind: SpanKind.SERVER,
    startTime: beginMs,
    root: true,
    links,
    attributes: { "check.trace": number },
  });
  const spans = [root];
  for (let index = 1; index < 3 + (number % 6); index++) {
    const parent = trace.setSpan(context.active(), spans[(index * 7 + number) % spans.length]);
    const attributes = { "check.trace": number, "check.index": index };
    const kind = index % 5;
    spans.push(
      tracers[index % tracers.length].startSpan(`step ${index}`, { kind, startTime: beginMs + index, attributes }, parent),
    );
  }
  const last = spans.at(-1);
  last.setAttributes(ATTRIBUTES);
  last.addEvent("cache miss", { key: "order", tries: 3, ratios: [0.5, 0.25] }, beginMs + 5);
  last.addEvent("empty", beginMs + 6);
  if (errored) {
    last.recordException(new RangeError(`order ${number} has no lines — größer als null`), beginMs + 7);
    last.setStatus({ code: SpanStatusCode.ERROR, message: "no such article" });
  } else if (number % 3 === 0) {
    root.setStatus({ code: SpanStatusCode.OK });
  }
  spans.toReversed().forEach((span, depth) => span.end(nowMs - (spans.length - 1 - depth)));
  earlier.push(root.spanContext());
  return { traceId: root.spanContext().traceId, errored, slow, spanCount: spans.length };
}

const [module, url] = EXPORTERS[options.protocol];
const { OTLPTraceExporter } = require(module);
const exporter = new Recording(
  new OTLPTraceExporter({ url, compression: options.compression, timeoutMillis: 10_000 }),
);
const provider = new NodeTracerProvider({
  resource: resourceFromAttributes(
    {
      "service.name": "check-node",
      "service.instance.id": `${options.protocol}-${options.compression}`,
      "check.list": ["one", "two"],
      "check.number": 7,
    },
    { schemaUrl: SCHEMA },
  ),
  // Small batches, so that traces lie across requests.
  spanProcessors: [new BatchSpanProcessor(exporter, { maxExportBatchSize: 32, scheduledDelayMillis: 100 })],
});
const tracers = [
  provider.getTracer("check.http", "1.2.3", { schemaUrl: SCHEMA }),
  provider.getTracer("check.db"),
  provider.getTracer("check.work", "0.1"),
];
const earlier = [];
const traces = Array.from({ length: Number(options.traces) }, (_, number) =>
  sendTrace(tracers, number, Date.now(), earlier),
);
await provider.forceFlush();
await provider.shutdown();

const resourceSpans = exporter.requests.flatMap((request) => request.resourceSpans);
// The SDK's JSON repeats the schema inside the resource, where OTLP has no such field.
resourceSpans.forEach(({ resource }) => delete resource.schemaUrl);
const sent = {
  protocol: options.protocol,
  compression: options.compression,
  failures: exporter.failures.length,
  requests: exporter.requests.length,
  traces,
  resourceSpans,
};
process.stdout.write(`${JSON.stringify(sent)}\n`);
const arrived = resourceSpans.flatMap(({ scopeSpans }) => scopeSpans).reduce((sum, { spans }) => sum + spans.length, 0);
const expected = traces.reduce((sum, { spanCount }) => sum + spanCount, 0);
if (exporter.failures.length > 0 || arrived !== expected) {
  console.error(`error: the server took ${arrived} of ${expected} spans; ${exporter.failures}`);
  process.exitCode = 1;
}
