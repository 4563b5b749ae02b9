#!/usr/bin/env bash
# What tailkeep and the Collector's tail_sampling cost for the same traffic: CPU time, memory and their ratios.
#
#   scripts/compare_collector.sh [BINARY [BENCH]] [--rates 20000,50000] [--rounds 3] [--seconds 20] [--json FILE]
#
# Default: target/release/tailkeep and tailkeep-bench beside it. What is measured, and the bias, stand at the head of
# compare_collector.py. About a minute a run of either, so 16 minutes; nothing else should run then.
#
# Builds a Collector with its own builder (Go; OTLP receiver, tail_sampling, file exporter) below
# target/compare-collector, where it stays for the next time. Says so and ends with 0 where Go is missing.
set -euo pipefail
cd "$(dirname "$0")/.."

binary=target/release/tailkeep
if [[ $# -gt 0 && $1 != --* ]]; then
    binary=$1
    shift
fi
bench=$(dirname "$binary")/tailkeep-bench
if [[ $# -gt 0 && $1 != --* ]]; then
    bench=$1
    shift
fi
for needed in "$binary" "$bench"; do
    [[ -x $needed ]] || { echo "error: no $needed; cargo build --release --workspace makes it" >&2; exit 1; }
done
command -v go >/dev/null || { echo "skipped: there is no Go to build the Collector with"; exit 0; }

# Not the version of check_collector.sh: from v0.162.0 on the processor needs a module (pkg/ottl/contexts/xprofile) that
# the public module proxy does not serve.
version=v0.161.0
contrib=github.com/open-telemetry/opentelemetry-collector-contrib
work=$PWD/target/compare-collector
collector=$work/build-$version/otelcol
mkdir -p "$work"
if [[ ! -x $collector ]]; then
    echo "building the Collector $version with tail_sampling (minutes)"
    [[ -x $work/bin-$version/builder ]] ||
        GOBIN=$work/bin-$version go install go.opentelemetry.io/collector/cmd/builder@$version
    cat >"$work/builder.yaml" <<YAML
dist: { name: otelcol, output_path: $work/build-$version }
receivers:
  - gomod: go.opentelemetry.io/collector/receiver/otlpreceiver $version
processors:
  - gomod: $contrib/processor/tailsamplingprocessor $version
exporters:
  - gomod: $contrib/exporter/fileexporter $version
YAML
    "$work/bin-$version/builder" --config "$work/builder.yaml" >"$work/builder.log" 2>&1 ||
        { echo "error: the Collector cannot be built:" >&2; tail -n 20 "$work/builder.log" >&2; exit 1; }
fi

python3 scripts/compare_collector.py --collector "$collector" --binary "$binary" --bench "$bench" "$@"
