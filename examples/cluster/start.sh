#!/usr/bin/env bash
# Three nodes on this machine, until Ctrl-C: bash examples/cluster/start.sh [DIR]
# Clients reach them at 127.0.0.1:7400, 7401 and 7402; their data is in DIR (./barrage-cluster).
set -euo pipefail
cd "$(dirname "$0")/../.."
dir=${1:-./barrage-cluster}
barrage=${BARRAGE:-./target/release/barrage}
[ -x "$barrage" ] || cargo build --release
mkdir -p "$dir"

nodes=()
# Every node ends with this script, whatever ends it.
trap 'kill "${nodes[@]}" 2>/dev/null; wait' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

for number in 0 1 2; do
  flags=(--listen "127.0.0.1:740$number" --peer-listen "127.0.0.1:750$number")
  flags+=(--data "$dir/node-$number" --ready-file "$dir/node-$number.json")
  # The first one founds the cluster; the others join it, and know it when they come again.
  if [ "$number" = 0 ]; then flags+=(--shards 3); else flags+=(--join 127.0.0.1:7400); fi
  # One core each, in turn, so that they share the machine.
  core=$((number % $(nproc)))
  flags+=(--cores "$core-$core")
  rm -f "$dir/node-$number.json"
  "$barrage" start "${flags[@]}" >"$dir/node-$number.log" 2>&1 &
  nodes+=($!)
  # A node that is there again finds the others by itself and may wait for them: start them all.
  if [ ! -e "$dir/node-$number/shards" ]; then
    until [ -e "$dir/node-$number.json" ]; do
      kill -0 "${nodes[-1]}" 2>/dev/null || { tail -n 3 "$dir/node-$number.log" >&2; exit 1; }
      sleep 0.1
    done
  fi
done

"$barrage" cluster status --wait 60s
echo "serving at 127.0.0.1:7400,127.0.0.1:7401,127.0.0.1:7402; logs in $dir; Ctrl-C ends it"
# One that ends, or is killed to see what happens, does not end the others.
for node in "${nodes[@]}"; do
  wait "$node" || echo "a node has ended, see $dir/node-*.log" >&2
done
