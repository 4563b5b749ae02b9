// Sends traces of known shape with the OpenTelemetry SDK for Go and prints what it sent as JSON.
//
//	sender --protocol grpc|http --endpoint HOST:PORT [--compression gzip] [--traces 50]
//
// `http` is OTLP/HTTP with protobuf. What is printed is what the SDK handed to its exporter's client for each request
// that the server took, in protobuf's JSON with ids in hexadecimal. Shapes and judge are those of sdk_python.py: of
// every ten traces two have an error (one a panic that left the span, one recorded by hand), every seventh is slow
// (3 s). Exit code 1 unless the server took everything.
package main

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"os"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/encoding/protojson"
)

const schema = "https://opentelemetry.io/schemas/1.37.0"

// Every type of attribute value that the SDK takes, and values at the edges of their types.
var attributes = []attribute.KeyValue{
	attribute.String("text", "plain"),
	attribute.String("text.empty", ""),
	attribute.String("text.unicode", "Größe ✓ \U0001f980 \x00 \"quoted\" \\ </script>"),
	attribute.Bool("bool.true", true),
	attribute.Bool("bool.false", false),
	attribute.Int("int", 42),
	attribute.Int("int.zero", 0),
	attribute.Int64("int.min", math.MinInt64),
	attribute.Int64("int.max", math.MaxInt64),
	attribute.Int64("int.beyond_double", 1<<53+1),
	attribute.Float64("double", 3.25),
	attribute.Float64("double.zero", 0),
	attribute.Float64("double.negative", -1.5e-300),
	attribute.Float64("double.large", math.MaxFloat64),
	attribute.Float64("double.nan", math.NaN()),
	attribute.Float64("double.infinite", math.Inf(-1)),
	attribute.StringSlice("list.text", []string{"a", "", "c"}),
	attribute.BoolSlice("list.bool", []bool{true, false}),
	attribute.IntSlice("list.int", []int{1, -2, 3}),
	attribute.Float64Slice("list.double", []float64{0.5, 1e10}),
	attribute.StringSlice("list.empty", []string{}),
	attribute.Slice("list.mixed", attribute.IntValue(1), attribute.StringValue("two"), attribute.Value{}),
	attribute.ByteSlice("bytes", []byte{0, 255, 10}),
	attribute.ByteSlice("bytes.empty", []byte{}),
	attribute.Map("map", attribute.Int("inner", 0), attribute.Map("deeper", attribute.Bool("leaf", false))),
	{Key: "nothing"},
}

// recordingClient keeps what went out and how that ended. The SDK calls it from one goroutine at a time, but not always
// from the same.
type recordingClient struct {
	otlptrace.Client
	mutex    sync.Mutex
	requests int
	accepted []*tracepb.ResourceSpans
	failures []error
}

func (client *recordingClient) UploadTraces(ctx context.Context, spans []*tracepb.ResourceSpans) error {
	err := client.Client.UploadTraces(ctx, spans)
	client.mutex.Lock()
	defer client.mutex.Unlock()
	if err != nil {
		client.failures = append(client.failures, err)
		return err
	}
	client.requests++
	client.accepted = append(client.accepted, spans...)
	return nil
}

func newClient(protocol, endpoint, compression string) (otlptrace.Client, error) {
	switch protocol {
	case "grpc":
		options := []otlptracegrpc.Option{
			otlptracegrpc.WithEndpoint(endpoint), otlptracegrpc.WithInsecure(), otlptracegrpc.WithTimeout(10 * time.Second),
		}
		if compression == "gzip" {
			options = append(options, otlptracegrpc.WithCompressor("gzip"))
		}
		return otlptracegrpc.NewClient(options...), nil
	case "http":
		coding := otlptracehttp.NoCompression
		if compression == "gzip" {
			coding = otlptracehttp.GzipCompression
		}
		return otlptracehttp.NewClient(
			otlptracehttp.WithEndpoint(endpoint), otlptracehttp.WithInsecure(),
			otlptracehttp.WithTimeout(10*time.Second), otlptracehttp.WithCompression(coding),
		), nil
	}
	return nil, fmt.Errorf("no such protocol: %q", protocol)
}

// sentTrace is what the judge must know about a trace.
type sentTrace struct {
	TraceID   string `json:"traceId"`
	Errored   bool   `json:"errored"`
	Slow      bool   `json:"slow"`
	SpanCount int    `json:"spanCount"`
}

// sendTrace ends spans children first. It returns also the root's context, for links of later traces.
func sendTrace(tracers []trace.Tracer, number int, now time.Time, earlier []trace.SpanContext) (sentTrace, trace.SpanContext) {
	errored, slow := number%5 == 0, number%7 == 3
	begin := now.Add(-150 * time.Millisecond)
	if slow {
		begin = now.Add(-3 * time.Second)
	}

	links := linksTo(earlier, number)
	root, span := tracers[0].Start(
		context.Background(), fmt.Sprintf("GET /orders/%d", number), trace.WithNewRoot(), trace.WithTimestamp(begin),
		trace.WithSpanKind(trace.SpanKindServer), trace.WithLinks(links...),
		trace.WithAttributes(attribute.Int("check.trace", number)),
	)
	contexts, spans := []context.Context{root}, []trace.Span{span}
	for index := 1; index < 3+number%6; index++ {
		parent := contexts[(index*7+number)%len(contexts)]
		inner, span := tracers[index%len(tracers)].Start(
			parent, fmt.Sprintf("step %d", index),
			trace.WithTimestamp(begin.Add(time.Duration(index)*time.Millisecond)),
			trace.WithSpanKind(trace.SpanKind(1+index%5)),
			trace.WithAttributes(attribute.Int("check.trace", number), attribute.Int("check.index", index)),
		)
		contexts, spans = append(contexts, inner), append(spans, span)
	}

	last := spans[len(spans)-1]
	last.SetAttributes(attributes...)
	last.AddEvent("cache miss", trace.WithTimestamp(begin.Add(5*time.Millisecond)), trace.WithAttributes(
		attribute.String("key", "order"), attribute.Int("tries", 3), attribute.Float64Slice("ratios", []float64{0.5, 0.25}),
	))
	last.AddEvent("empty", trace.WithTimestamp(begin.Add(6*time.Millisecond)))
	switch {
	case errored && number%10 == 0:
		last.SetStatus(codes.Error, "panicked")
	case errored:
		failure := fmt.Errorf("order %d has no lines — größer als null", number)
		last.RecordError(failure, trace.WithTimestamp(begin.Add(7*time.Millisecond)), trace.WithStackTrace(true),
			trace.WithAttributes(attribute.Bool("exception.escaped", false), attribute.Int("retry", 2)))
		last.SetStatus(codes.Error, "no such article")
	case number%3 == 0:
		spans[0].SetStatus(codes.Ok, "")
	}

	for index := len(spans) - 1; index >= 0; index-- {
		end := trace.WithTimestamp(now.Add(-time.Duration(index) * time.Millisecond))
		if index == len(spans)-1 && errored && number%10 == 0 {
			endByPanic(spans[index], end)
			continue
		}
		spans[index].End(end)
	}
	first := spans[0].SpanContext()
	return sentTrace{first.TraceID().String(), errored, slow, len(spans)}, first
}

// linksTo gives links to the two traces before this one and to one of another service, which has a tracestate.
func linksTo(earlier []trace.SpanContext, number int) []trace.Link {
	var links []trace.Link
	for _, linked := range earlier[max(0, len(earlier)-2):] {
		links = append(links, trace.Link{
			SpanContext: linked,
			Attributes:  []attribute.KeyValue{attribute.Int("link.number", number), attribute.String("link.kind", "follows")},
		})
	}
	if len(links) == 0 {
		return nil
	}
	state, err := trace.ParseTraceState("vendor=value,other=1")
	if err != nil {
		fail("%v", err)
	}
	return append(links, trace.Link{SpanContext: trace.NewSpanContext(trace.SpanContextConfig{
		TraceID:    trace.TraceID{0, 17, 34, 51, 68, 85, 102, 119, 136, 153, 170, 187, 204, 221, 238, 255},
		SpanID:     trace.SpanID{0, 17, 34, 51, 68, 85, 102, 119},
		TraceFlags: trace.FlagsSampled,
		TraceState: state,
		Remote:     true,
	})})
}

// endByPanic ends the span while a panic passes it: the SDK adds the exception as an event.
func endByPanic(span trace.Span, end trace.SpanEndOption) {
	defer func() { _ = recover() }()
	defer span.End(end, trace.WithStackTrace(true))
	panic("order has no lines — größer als null")
}

// asJSON gives OTLP/JSON: protobuf's JSON but for enums as integers and ids in hexadecimal.
func asJSON(spans *tracepb.ResourceSpans) (any, error) {
	text, err := protojson.MarshalOptions{UseEnumNumbers: true}.Marshal(spans)
	if err != nil {
		return nil, err
	}
	var document any
	if err := json.Unmarshal(text, &document); err != nil {
		return nil, err
	}
	return document, idsToHex(document)
}

func idsToHex(value any) error {
	switch value := value.(type) {
	case []any:
		for _, inner := range value {
			if err := idsToHex(inner); err != nil {
				return err
			}
		}
	case map[string]any:
		for key, inner := range value {
			text, isText := inner.(string)
			if isText && (key == "traceId" || key == "spanId" || key == "parentSpanId") {
				id, err := base64.StdEncoding.DecodeString(text)
				if err != nil {
					return err
				}
				value[key] = hex.EncodeToString(id)
			} else if err := idsToHex(inner); err != nil {
				return err
			}
		}
	}
	return nil
}

func fail(format string, arguments ...any) {
	fmt.Fprintf(os.Stderr, "error: "+format+"\n", arguments...)
	os.Exit(1)
}

func main() {
	protocol := flag.String("protocol", "grpc", "grpc or http")
	endpoint := flag.String("endpoint", "", "HOST:PORT")
	compression := flag.String("compression", "none", "none or gzip")
	count := flag.Int("traces", 50, "how many")
	flag.Parse()

	ctx := context.Background()
	inner, err := newClient(*protocol, *endpoint, *compression)
	if err != nil {
		fail("%v", err)
	}
	client := &recordingClient{Client: inner}
	exporter, err := otlptrace.New(ctx, client)
	if err != nil {
		fail("%v", err)
	}
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithResource(resource.NewWithAttributes(
			schema,
			attribute.String("service.name", "check-go"),
			attribute.String("service.instance.id", *protocol+"-"+*compression),
			attribute.StringSlice("check.list", []string{"one", "two"}),
			attribute.Int("check.number", 7),
		)),
		// Small batches, so that traces lie across requests.
		sdktrace.WithBatcher(exporter, sdktrace.WithMaxExportBatchSize(32), sdktrace.WithBatchTimeout(100*time.Millisecond)),
	)
	tracers := []trace.Tracer{
		provider.Tracer("check.http", trace.WithInstrumentationVersion("1.2.3"), trace.WithSchemaURL(schema),
			trace.WithInstrumentationAttributes(attribute.String("scope.kind", "http"))),
		provider.Tracer("check.db"),
		provider.Tracer("check.work", trace.WithInstrumentationVersion("0.1")),
	}

	traces := []sentTrace{}
	var earlier []trace.SpanContext
	expected := 0
	for number := range *count {
		sent, root := sendTrace(tracers, number, time.Now(), earlier)
		traces, earlier = append(traces, sent), append(earlier, root)
		expected += sent.SpanCount
	}
	if err := provider.ForceFlush(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	if err := provider.Shutdown(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}

	resourceSpans := []any{}
	arrived := 0
	for _, spans := range client.accepted {
		for _, scope := range spans.ScopeSpans {
			arrived += len(scope.Spans)
		}
		document, err := asJSON(spans)
		if err != nil {
			fail("%v", err)
		}
		resourceSpans = append(resourceSpans, document)
	}
	err = json.NewEncoder(os.Stdout).Encode(map[string]any{
		"protocol":      *protocol,
		"compression":   *compression,
		"failures":      len(client.failures),
		"requests":      client.requests,
		"traces":        traces,
		"resourceSpans": resourceSpans,
	})
	if err != nil {
		fail("%v", err)
	}
	if len(client.failures) > 0 || arrived != expected {
		fail("the server took %d of %d spans; %v", arrived, expected, client.failures)
	}
}
