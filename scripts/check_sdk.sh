# Sourced by check_python_sdk.sh, check_node_sdk.sh and check_go_sdk.sh: what an SDK sends is what tailkeep exports.
#
# It needs: $language, $cores, $protocols, and a function `send PROTOCOL ENDPOINT COMPRESSION NUMBER` that prints what
# was sent as compare_exported.py reads it. Arguments are those of the script. Works below target/check-$language-sdk
# and leaves its files there.

check_sdk() {
    local binary=target/debug/tailkeep
    if [[ $# -gt 0 && $1 != --* ]]; then
        binary=$1
        shift
    fi
    [[ -x $binary ]] || { echo "error: no $binary; cargo build makes it" >&2; exit 1; }

    work=$PWD/target/check-$language-sdk
    rm -rf "$work"
    mkdir -p "$work"
    cat >"$work/config.yaml" <<YAML
node: { data_dir: $work/data, cores: $cores }
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
    for _ in $(seq 300); do
        [[ -n $(endpoint admin) ]] && break
        kill -0 "$server" 2>/dev/null || break
        sleep 0.1
    done
    [[ -n $(endpoint admin) ]] || fail "tailkeep did not become ready"

    local number=1 protocol compression receiver
    for protocol in $protocols; do
        receiver=http
        [[ $protocol == grpc ]] && receiver=grpc
        for compression in none gzip; do
            echo "sending by $protocol, $compression"
            send "$protocol" "$(endpoint $receiver)" "$compression" "$number" >"$work/sent-$protocol-$compression.json"
            number=$((number + 1))
        done
    done

    python3 scripts/tailkeep_process.py await-idle "$(endpoint admin)" 60
    kill -TERM $server
    local code=0
    wait $server || code=$?
    trap - EXIT
    [[ $code -eq 0 ]] || fail "tailkeep ended with $code after SIGTERM"
    python3 scripts/compare_exported.py "$work/kept.jsonl" "$work"/sent-*.json
}

endpoint() { sed -n "s/^tailkeep ready .*\b$1=\([^ ]*\).*/\1/p" "$work/server.log" | head -n 1; }

fail() {
    echo "error: $1:" >&2
    tail -n 20 "$work/server.log" >&2
    exit 1
}
