#!/usr/bin/env bash
# A disk that fills up under a job of two ranks and is freed again: training goes on, each file that
# cannot be written has one clear line, the checkpoints before stay good, later saves succeed, no
# line of metrics.jsonl is torn or missing, and the run ends well.
# The disk is a small tmpfs; where this host lets nobody mount one, a limit on the size of files.
# Usage: full_disk_test.sh MUSTER (from the root of the repository)
set -euo pipefail
muster=$1
if [[ ${2:-} != mounted ]]; then
  for how in -m -Urm; do
    unshare $how true 2>/dev/null && exec unshare $how "$0" "$muster" mounted
  done
fi
scratch=$(mktemp -d)
disk=$scratch/disk
run=$disk/run
mkdir "$disk"
mounted=false
mount -t tmpfs -o size=20m small "$disk" 2>/dev/null && mounted=true
trap '{ $mounted && umount -l "$disk"; rm -rf "$scratch"; } 2>/dev/null' EXIT
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
echo "the full disk is $($mounted && echo "a tmpfs of 20 MB" || echo "a limit on the size of files")"
fail() { echo "FAILED: $*" >&2; tail -40 "$scratch/log" >&2; exit 1; }
ranks() { pgrep -f -- "^$muster train .*--run $run" || true; }
limit() { for rank in $(ranks); do prlimit --pid "$rank" --fsize="$1:" || true; done; }
fill() {
  if $mounted; then
    dd if=/dev/zero of="$disk/filler" bs=64k status=none 2>/dev/null || true
    dd if=/dev/zero bs=1 count=65536 status=none >>"$disk/filler" 2>/dev/null || true
  else
    limit 0
  fi
}
free() { if $mounted; then rm "$disk/filler"; else limit unlimited; fi; }
at_step() { grep -oE '^step +[0-9]+' "$scratch/log" | tail -1 | grep -oE '[0-9]+' || echo 0; }
until_step() {
  for _ in $(seq 6000); do
    (($(at_step) >= $1)) && return
    kill -0 "$job" 2>/dev/null || fail "the job ended before step $1"
    sleep 0.02
  done
  fail "no step $1 within two minutes"
}
until_said() {
  for _ in $(seq 3000); do
    (($(count "$1") >= 1)) && return
    sleep 0.02
  done
  fail "'$1' was not said within a minute"
}
count() { grep -cE "$1" "$scratch/log" || true; }

steps=220
mpirun --oversubscribe --bind-to none --mca mpi_yield_when_idle 1 -np 2 "$muster" train \
  configs/jobs/tiny-dense.textproto --set train.steps=$steps --set checkpoint.every_steps=20 \
  --set checkpoint.keep=2 --set evaluate.sequences=4 --set evaluate.every_steps=4 \
  --set log.trace_step=75 --set "faults.plan=slow_data rank=0 step=1 seconds=0.01 steps=0" \
  --run "$run" >"$scratch/log" 2>&1 &
job=$!
until_step 22
until_said 'step-20 committed'
fill
until_step 100
newest=$("$muster" ckpt list "$run" | grep -oE 'step-[0-9]+' | sort -t- -k2n | tail -1)
((${newest#step-} < 100)) || fail "$newest was committed on a full disk"
"$muster" ckpt verify "$run" >"$scratch/verified" || fail "$(cat "$scratch/verified")"
free
freed=$(at_step)
wait "$job" || fail "exit code $?"

for file in metrics.jsonl tensorboard/events ledger/attempt-0/rank-0.ledger \
  ledger/attempt-0/rank-1.ledger; do
  (($(count "ERROR.*cannot write $run/$file.*training goes on") == 1)) || fail "$file: not one line"
  (($(count "$run/$file.* is written again; .* 0 are lost") == 1)) || fail "$file: no word of its end"
done
(($(count "without the trace $run/trace.step-75.json") == 1)) || fail "nothing of the trace"
(($(count 'step-[0-9]+ failed; training goes on') >= 1)) || fail "no save has failed"
python3 - "$run" $steps "$(grep -oE 'step-[0-9]+ committed' "$scratch/log" |
  grep -oE '[0-9]+' | tr '\n' ' ')" "$freed" <<'PY'
import json, sys
run, steps, freed = sys.argv[1], int(sys.argv[2]), int(sys.argv[4])
lines = [json.loads(line) for line in open(run + "/metrics.jsonl")]
assert [line["step"] for line in lines] == list(range(1, steps + 1)), "a step is missing"
evaluations = [json.loads(line)["step"] for line in open(run + "/evaluations.jsonl")]
assert evaluations == list(range(4, steps + 1, 4)), evaluations
after = [int(step) for step in sys.argv[3].split() if int(step) > freed]
assert len(after) >= 2 and after[-1] == steps, f"freed at {freed}, committed then: {after}"
PY
"$muster" ckpt verify "$run" >"$scratch/verified" || fail "$(cat "$scratch/verified")"
"$muster" report "$run" --json >"$scratch/report.json" || fail "the report does not hold"
python3 -c 'import json, sys
report = json.load(open(sys.argv[1]))
assert report["steps_kept"] == int(sys.argv[2]), report["steps_kept"]' "$scratch/report.json" $steps
echo "full from step 22 on, freed at step $freed"

# A run that is stopped, or ends, without its state saved says so; what is on the disk stays good.
mpirun --oversubscribe --bind-to none --mca mpi_yield_when_idle 1 -np 2 "$muster" train \
  configs/jobs/tiny-dense.textproto --set train.steps=100000 \
  --set log.tensorboard=false --run "$run" >"$scratch/log" 2>&1 &
job=$!
until_step $((steps + 3))
fill
kill -USR1 "$job"
code=0
wait "$job" || code=$?
((code == 74)) || fail "exit code $code of a run that was stopped on a full disk, wanted 74"
(($(count "ERROR.*the state after step [0-9]+ is not saved; started again, the run goes on from step-$steps") == 1)) ||
  fail "it does not say that its state is lost"
(($(count 'ERROR.*the final weights are not saved') == 1)) || fail "nothing of the weights"
"$muster" ckpt verify "$run" >"$scratch/verified" || fail "$(cat "$scratch/verified")"
$mounted && free
echo "and a stop without a save ends with 74"

# A start that finds no room is no wrong config: it may be tried again.
$mounted || exit 0
more=(configs/jobs/tiny-dense.textproto --set train.steps=$((steps + 5)) --set log.tensorboard=false)
fill
code=0
"$muster" train "${more[@]}" --run "$run" >"$scratch/log" 2>&1 || code=$?
((code == 1)) || fail "exit code $code of a start on a full disk"
(($(count "cannot write $run/.*: No space left on device") >= 1)) || fail "it does not say why"
umask 022
"$muster" launch "${more[@]}" --ranks 2 --run "$run" --step-times "$run/times.csv" >"$scratch/log" 2>&1 &
job=$!
until_said "left with exit code 1|ended with exit code 1"
rm "$disk/filler"
wait "$job" || fail "exit code $? under a supervisor"
(($(count "trained    $((steps + 5)) steps") == 1)) || fail "it did not go on"
(($(wc -l <"$run/times.csv") > 1)) || fail "no times of steps"
[[ -z $(find "$run" -not -type l -perm /077 | tee "$scratch/log") ]] || fail "others may read these"
echo "and a start on a full disk is tried again"
