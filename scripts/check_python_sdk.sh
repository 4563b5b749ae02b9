#!/usr/bin/env bash
# What the OpenTelemetry Python SDK sends is what tailkeep exports: gRPC and HTTP, plain and gzip.
#
#   scripts/check_python_sdk.sh [BINARY] [--set key=value]...      default target/debug/tailkeep
#
# Works below target/check-python-sdk and leaves its files there. Exit code 1 on a violation.
set -euo pipefail
cd "$(dirname "$0")/.."

binary=target/debug/tailkeep
if [[ $# -gt 0 && $1 != --* ]]; then
    binary=$1
    shift
fi
[[ -x $binary ]] || { echo "error: no $binary; cargo build makes it" >&2; exit 1; }

work=$PWD/target/check-python-sdk
rm -rf "$work"
mkdir -p "$work"
cat >"$work/config.yaml" <<YAML
node: { data_dir: $work/data }
receivers:
  otlp:
    protocols:
      grpc: { endpoint: "127.0.0.1:0" }
      http: { endpoint: "127.0.0.1:0" }
tail_sampling:
  decision_wait: 8s
  policies:
    - { name: errors, type: status_code, status_code: { status_codes: [ERROR] } }
    - { name: slow, type: latency, latency: { threshold_ms: 2000 } }
    - { name: baseline, type: probabilistic, probabilistic: { sampling_percentage: 10 } }
exporters:
  file: { path: $work/kept.jsonl }
admin: { endpoint: "127.0.0.1:0" }
YAML

"$binary" run --config "$work/config.yaml" "$@" 2>"$work/server.log" &
server=$!
# Only the server that was started here is ended.
trap 'kill -KILL $server 2>/dev/null || true' EXIT

endpoint() { sed -n "s/^tailkeep ready .*\b$1=\([^ ]*\).*/\1/p" "$work/server.log" | head -n 1; }
for _ in $(seq 300); do
    [[ -n $(endpoint admin) ]] && break
    kill -0 "$server" 2>/dev/null || break
    sleep 0.1
done
if [[ -z $(endpoint admin) ]]; then
    echo "error: tailkeep did not become ready:" >&2
    tail -n 20 "$work/server.log" >&2
    exit 1
fi

seed=1
for protocol in grpc http; do
    for compression in none gzip; do
        echo "sending by $protocol, $compression"
        python3 scripts/sdk_python.py --protocol $protocol --endpoint "$(endpoint $protocol)" \
            --compression $compression --seed $seed >"$work/sent-$protocol-$compression.json"
        seed=$((seed + 1))
    done
done

python3 scripts/tailkeep_process.py await-idle "$(endpoint admin)" 60
kill -TERM $server
code=0
wait $server || code=$?
trap - EXIT
if [[ $code -ne 0 ]]; then
    echo "error: tailkeep ended with $code after SIGTERM:" >&2
    tail -n 20 "$work/server.log" >&2
    exit 1
fi
python3 scripts/compare_exported.py "$work/kept.jsonl" "$work"/sent-*.json
