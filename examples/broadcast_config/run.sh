#!/usr/bin/env bash
# Every instance hears every change: bash examples/broadcast_config/run.sh, against `barrage start`
# on this machine or BARRAGE_SERVER. One is down for a while and gets just what it has missed.
set -euo pipefail
cd "$(dirname "$0")/../.."
barrage=${BARRAGE:-./target/release/barrage}
[ -x "$barrage" ] || cargo build --release
topic=config-$$
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
instances=(web-1 web-2 web-3)

"$barrage" topic create "$topic" --partitions 1 2>/dev/null
# A group per reader: each has an offset of its own.
for instance in "${instances[@]}"; do
  "$barrage" group create "$topic" "$instance" --kind stream 2>/dev/null
done
# publish TEXT...: one change each.
publish() { printf '%s\n' "$@" | "$barrage" produce "$topic" 2>/dev/null; }
# hear NAME: what is new to it, as it comes up.
hear() { "$barrage" consume "$topic" --group "$1" --exit 2>/dev/null | tee -a "$dir/$1" | wc -l; }

publish price=10 stock=500
for instance in "${instances[@]}"; do
  echo "  $instance hears $(hear "$instance") changes"
done
echo "web-3 is down; three changes are published"
publish price=9 stock=200 sale=on
for instance in web-1 web-2; do
  echo "  $instance hears $(hear "$instance") changes"
done
missed=$(hear web-3)
echo "web-3 is back and hears $missed changes, none of them twice"
[ "$missed" = 3 ] || { echo "that is wrong"; exit 1; }
for instance in "${instances[@]}"; do
  cmp -s "$dir/web-1" "$dir/$instance" || { echo "$instance knows something else"; exit 1; }
done
echo "all know: $(sed 's/=.*//' "$dir/web-1" | sort -u | while read -r name; do grep "^$name=" "$dir/web-1" | tail -n 1; done | paste -sd' ')"
