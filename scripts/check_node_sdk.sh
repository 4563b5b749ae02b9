#!/usr/bin/env bash
# What the OpenTelemetry SDK for Node sends is what tailkeep exports: gRPC, HTTP with JSON, HTTP with protobuf, each
# plain and gzip, on two cores.
#
#   scripts/check_node_sdk.sh [BINARY] [--set key=value]...      default target/debug/tailkeep
#
# The SDK comes from npm into target/sdk-node at the first run. Works below target/check-node-sdk and leaves its files
# there. Says so and ends with 0 where npm is missing. Exit code 1 on a violation.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/check_sdk.sh

command -v npm >/dev/null && command -v node >/dev/null || { echo "skipped: there is no npm to get the SDK with"; exit 0; }
sdk=2.12.0
exporters=0.223.1
modules=$PWD/target/sdk-node
complete=$modules/complete-$sdk-$exporters
if [[ ! -e $complete ]]; then
    echo "installing the OpenTelemetry SDK into target/"
    rm -rf "$modules"
    mkdir -p "$modules"
    echo '{ "private": true }' >"$modules/package.json"
    # Nothing that it brings may run at the installation.
    npm install --prefix "$modules" --silent --no-audit --no-fund --ignore-scripts \
        @opentelemetry/sdk-trace-node@$sdk \
        @opentelemetry/exporter-trace-otlp-{grpc,http,proto}@$exporters
    touch "$complete"
fi

language=node
cores=2
protocols="grpc http proto"

send() {
    node scripts/sdk_node.mjs --modules "$modules" --protocol "$1" --endpoint "$2" --compression "$3"
}

check_sdk "$@"
