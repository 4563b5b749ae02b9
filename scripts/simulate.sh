#!/usr/bin/env bash
# Runs many seeds of a simulation on all cores, and prints each finding with its command.
#
#   scripts/simulate.sh [node|cluster] SEEDS [FROM]        FROM: the first seed, by default the time
#
# `node` is one node with its disks (tests/sim.rs), `cluster` several and what is between them (tests/sim_cluster.rs).
# PROFILE=dev takes the quicker build, BINARY=… one that is there. JOBS: processes at a time, by default one for each
# core. Exit code 1 on a finding.
set -euo pipefail
cd "$(dirname "$0")/.."

case ${1:-} in
cluster) test=sim_cluster fact=a_cluster_agrees_on_every_trace ;;
*) test=sim fact=a_node_keeps_its_promises ;;
esac
[[ ${1:-} == node || ${1:-} == cluster ]] && shift
seeds=${1:?how many seeds}
from=${2:-$(date +%s)000000}
profile=${PROFILE:-release}
jobs=${JOBS:-$(nproc)}
chunk=$(((seeds + 4 * jobs - 1) / (4 * jobs)))
chunk=$((chunk > 100 ? 100 : chunk))
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

binary=${BINARY:-$(cargo test --quiet --profile "$profile" --test "$test" --no-run --message-format=json |
    sed -n '/"name":"'"$test"'"/s/.*"executable":"\([^"]*\)".*/\1/p' | tail -n 1)}
cp "$binary" "$work/sim"

run() {
    # A run that fails says where; the test goes on with the next seed.
    TAILKEEP_TEST_SEED=$2 TAILKEEP_TEST_ROUNDS=$3 RUST_BACKTRACE=0 "$1/sim" --exact "$fact" \
        --nocapture >"$1/$2.log" 2>&1 || true
}
export -f run
export fact

for ((at = 0; at < seeds; at += chunk)); do
    echo "$((from + at)) $((seeds - at < chunk ? seeds - at : chunk))"
done | xargs -P "$jobs" -L 1 bash -c 'run "$0" "$1" "$2"' "$work"

commit=$(git rev-parse --short HEAD)
runs=$(cat "$work"/*.log | grep -c '^SOUND ' || true)
findings=$(cat "$work"/*.log | sed -n 's/^FINDING //p' | sort -n)
for seed in $findings; do
    echo "finding: seed $seed, commit $commit; repeat with: TAILKEEP_TEST_SEED=$seed cargo test --test $test $fact"
    cat "$work"/*.log | grep -A 12 "^TAILKEEP_TEST_SEED=$seed$" | grep -v '^TAILKEEP' | head -n 6 | sed 's/^/    /'
done
count=$(wc -w <<<"$findings")
if [[ $test == sim_cluster ]]; then
    echo "$seeds seeds of clusters from $from at $commit: $runs sound, $count findings"
    [[ $runs -eq $seeds && $count -eq 0 ]]
    exit
fi
sum() { cat "$work"/*.log | sed -n "$1" | paste -sd+ | bc; }
seconds=$(sum 's/.* events in \([0-9]*\) s,.*/\1/p')
restarts=$(sum 's/.* s, \([0-9]*\) restarts.*/\1/p')
damaged=$(cat "$work"/*.log | grep -c ' restarts, damaged' || true)
echo "$seeds seeds from $from at $commit: $runs sound, $count findings; ${seconds:-0} s of virtual time," \
    "${restarts:-0} restarts, $damaged runs with damaged disks"
[[ $runs -eq $seeds && $count -eq 0 ]]
