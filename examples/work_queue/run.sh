#!/usr/bin/env bash
# Workers share jobs: bash examples/work_queue/run.sh, against `barrage start` on this machine or
# BARRAGE_SERVER. One works slowly, one is killed, one job fails each time; every other job is done.
set -euo pipefail
cd "$(dirname "$0")/../.."
barrage=${BARRAGE:-./target/release/barrage}
[ -x "$barrage" ] || cargo build --release
jobs=${JOBS:-600}
topic=work-$$
dir=$(mktemp -d)
workers=()
trap 'kill "${workers[@]}" 2>/dev/null || true; wait; rm -rf "$dir"' EXIT

"$barrage" topic create "$topic" --partitions 2 2>/dev/null
# Whoever has a job for 5 s without finishing it loses it; after three attempts it is set aside.
"$barrage" group create "$topic" workers --visibility 5s --max-deliveries 3 --dead-letter "$topic.dead" 2>/dev/null
seq 1 "$jobs" | "$barrage" produce "$topic" 2>/dev/null
echo "$jobs jobs wait in $topic"

# work NAME SECONDS: receives 20 jobs, does each in so many seconds, says which are done.
work() {
  local received receipt job
  while true; do
    received=$("$barrage" queue receive "$topic" workers -n 20 --wait 2s)
    [ -n "$received" ] || continue
    local done=() failed=()
    while IFS=$'\t' read -r receipt job; do
      if [ "$job" = 13 ]; then failed+=("$receipt"); continue; fi
      [ "$2" = 0 ] || sleep "$2"
      echo "$job" >>"$dir/$1"
      done+=("$receipt")
    done <<<"$received"
    # A job counts as done when its ack is durable, and comes again if there is none.
    [ ${#done[@]} = 0 ] || "$barrage" queue ack "$topic" workers "${done[@]}" 2>/dev/null || true
    [ ${#failed[@]} = 0 ] || "$barrage" queue nack "$topic" workers --delay 0s "${failed[@]}" 2>/dev/null || true
  done
}

for worker in quick other slow killed; do
  : >"$dir/$worker"
  pause=0
  if [ "$worker" = slow ]; then pause=0.05; fi
  if [ "$worker" = killed ]; then pause=0.2; fi
  work "$worker" "$pause" &
  workers+=($!)
done
sleep 1
kill -9 "${workers[3]}"
wait "${workers[3]}" 2>/dev/null || true
echo "one worker is killed with jobs in its hands"

left() {
  "$barrage" group describe "$topic" workers -o json | jq '.visible + .leased + .delayed + .dying'
}
until [ "$(left)" = 0 ]; do sleep 0.5; done
for worker in quick other slow killed; do
  echo "  $worker did $(wc -l <"$dir/$worker")"
done
cat "$dir"/* | sort -n | uniq -c >"$dir.jobs"
once=$(wc -l <"$dir.jobs")
twice=$(awk '$1 > 1' "$dir.jobs" | wc -l)
dead=$("$barrage" dlq ls "$topic" workers -o json | jq .letters)
rm -f "$dir.jobs"
echo "$once of $jobs jobs are done, $twice of them twice (what the killed worker held), $dead set aside as a dead letter"
[ "$once" = $((jobs - 1)) ] && [ "$dead" = 1 ] || { echo "that is wrong"; exit 1; }
