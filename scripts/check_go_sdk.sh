#!/usr/bin/env bash
# What the OpenTelemetry SDK for Go sends is what tailkeep exports: gRPC and HTTP with protobuf, each plain and gzip, on
# two cores.
#
#   scripts/check_go_sdk.sh [BINARY] [--set key=value]...      default target/debug/tailkeep
#
# The sender is the module scripts/sdk_go, whose go.mod and go.sum pin the SDK; it is built into target/sdk-go. Works
# below target/check-go-sdk and leaves its files there. Says so and ends with 0 where Go is missing. Exit code 1 on a
# violation.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/check_sdk.sh

command -v go >/dev/null || { echo "skipped: there is no Go to build the sender with"; exit 0; }
sender=$PWD/target/sdk-go/sender
echo "building the sender with the OpenTelemetry SDK into target/"
# Without the workspace or flags of whoever runs this; what go.sum does not know is not taken.
GOWORK=off GOFLAGS=-mod=readonly go build -C scripts/sdk_go -buildvcs=false -o "$sender" .

language=go
cores=2
protocols="grpc http"

send() {
    "$sender" --protocol "$1" --endpoint "$2" --compression "$3"
}

check_sdk "$@"
