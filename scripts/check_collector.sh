#!/usr/bin/env bash
# What tailkeep exports arrives at a real OpenTelemetry Collector: gRPC and HTTP, gzip and zstd, through an outage.
#
#   scripts/check_collector.sh [BINARY] [--outage SECONDS] [--rate TRACES_PER_SECOND] [--cores N]
#
# Default: target/debug/tailkeep, 10, 50, 2.
#
# Builds a Collector with its own builder (Go; OTLP receiver, debug exporter) below target/check-collector, where it
# stays for the next time. Says so and ends with 0 where Go is missing. Exit code 1 on a violation.
set -euo pipefail
cd "$(dirname "$0")/.."

binary=target/debug/tailkeep
if [[ $# -gt 0 && $1 != --* ]]; then
    binary=$1
    shift
fi
[[ -x $binary ]] || { echo "error: no $binary; cargo build makes it" >&2; exit 1; }
command -v go >/dev/null || { echo "skipped: there is no Go to build the Collector with"; exit 0; }

version=v0.162.0
work=$PWD/target/check-collector
collector=$work/build/otelcol
mkdir -p "$work"
if [[ ! -x $collector ]]; then
    echo "building the Collector $version (minutes)"
    [[ -x $work/bin/builder ]] || GOBIN=$work/bin go install go.opentelemetry.io/collector/cmd/builder@$version
    cat >"$work/builder.yaml" <<YAML
dist: { name: otelcol, output_path: $work/build }
receivers:
  - gomod: go.opentelemetry.io/collector/receiver/otlpreceiver $version
exporters:
  - gomod: go.opentelemetry.io/collector/exporter/debugexporter $version
YAML
    "$work/bin/builder" --config "$work/builder.yaml" >"$work/builder.log" 2>&1 ||
        { echo "error: the Collector cannot be built:" >&2; tail -n 20 "$work/builder.log" >&2; exit 1; }
fi

for protocol in grpc http; do
    for compression in gzip zstd; do
        python3 scripts/collector_outage.py --binary "$binary" --collector "$collector" --work "$work/run" \
            --protocol $protocol --compression $compression "$@"
    done
done
