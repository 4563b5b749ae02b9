#!/usr/bin/env bash
# What the OpenTelemetry Python SDK sends is what tailkeep exports: gRPC and HTTP, plain and gzip, on two cores.
#
#   scripts/check_python_sdk.sh [BINARY] [--set key=value]...      default target/debug/tailkeep
#
# Works below target/check-python-sdk and leaves its files there. Exit code 1 on a violation.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/check_sdk.sh

language=python
cores=2
protocols="grpc http"

send() {
    python3 scripts/sdk_python.py --protocol "$1" --endpoint "$2" --compression "$3" --seed "$4"
}

check_sdk "$@"
