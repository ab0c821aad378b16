#!/usr/bin/env bash
# Three services follow the same orders: bash examples/decouple/run.sh, against `barrage start` on
# this machine or BARRAGE_SERVER. One is down during the sale; nobody waits for it, and it catches up.
set -euo pipefail
cd "$(dirname "$0")/../.."
barrage=${BARRAGE:-./target/release/barrage}
[ -x "$barrage" ] || cargo build --release
orders=${ORDERS:-100000}
topic=orders-$$
dir=$(mktemp -d)
services=()
trap 'kill "${services[@]}" 2>/dev/null || true; wait; rm -rf "$dir"' EXIT

"$barrage" topic create "$topic" --partitions 2 2>/dev/null
for service in billing shipping mail; do
  "$barrage" group create "$topic" "$service" 2>/dev/null
done

# serve NAME: takes orders, one after the other, acked when they are written down.
serve() {
  "$barrage" consume "$topic" --group "$1" >>"$dir/$1" 2>/dev/null &
  services+=($!)
}
# has NAME: how many orders it has.
has() { wc -l <"$dir/$1"; }
# waits NAME: how many it has still before it.
waits() {
  "$barrage" group describe "$topic" "$1" -o json | jq '.visible + .leased + .delayed'
}

: >"$dir/mail"
serve billing
serve shipping
echo "billing and shipping are up, mail is down; $orders orders come in"
seq 1 "$orders" | "$barrage" produce "$topic" 2>/dev/null
until [ "$(waits billing)" = 0 ] && [ "$(waits shipping)" = 0 ]; do sleep 0.2; done
echo "  billing has $(has billing), shipping has $(has shipping), $(waits mail) wait for mail"
serve mail
echo "mail is up again"
until [ "$(waits mail)" = 0 ]; do sleep 0.2; done
sleep 0.2
for service in billing shipping mail; do
  distinct=$(sort -u "$dir/$service" | wc -l)
  echo "  $service has $distinct of $orders orders"
  [ "$distinct" = "$orders" ] || { echo "that is wrong"; exit 1; }
done
