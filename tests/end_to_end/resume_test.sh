#!/usr/bin/env bash
# A run that is started again, through the binary as a user starts it: it goes on to the bit on the
# same layout, within rounding on another; other experiments and second jobs are refused; a full
# disk does not stop it.
# Usage: resume_test.sh MUSTER (from the root of the repository)
set -euo pipefail
muster=$1
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fail() { echo "FAILED: $*" >&2; exit 1; }
train() {  # RANKS RUN OPTIONS...: a small MoE job that saves every second step
  local ranks=$1 run=$2
  shift 2
  local start=(mpirun --oversubscribe --bind-to none --mca mpi_yield_when_idle 1 -np "$ranks")
  ((ranks > 1)) || start=()
  "${start[@]}" "$muster" train configs/jobs/tiny-moe.textproto --run "$scratch/$run" \
    --set optimizer.decay_steps=20 --set checkpoint.every_steps=2 --set log.progress=false \
    --set train.steps=8 "$@" >"$scratch/$run.log" 2>&1
}
expect() {  # CODE PATTERN RANKS RUN OPTIONS...
  local code=$1 pattern=$2 status=0
  shift 2
  train "$@" || status=$?
  ((status == code)) || fail "exit code $status, wanted $code: $(cat "$scratch/$2.log")"
  grep -qE -- "$pattern" "$scratch/$2.log" || fail "no '$pattern' in $(cat "$scratch/$2.log")"
}
compare() {  # RUN RUN TOLERANCE: of loss, relative; 0: all bits, and the weights
  python3 - "$scratch/$1" "$scratch/$2" "$3" <<'PY'
import filecmp, json, os, sys
one, two, tolerance = sys.argv[1], sys.argv[2], float(sys.argv[3])
truth = {s["step"]: s for s in map(json.loads, open(one + "/metrics.jsonl"))}
seen = [json.loads(line) for line in open(two + "/metrics.jsonl")]
assert {s["step"] for s in seen} == set(truth), sorted(s["step"] for s in seen)
assert max(s["attempt"] for s in seen) > 0
for s in seen:
    t = truth[s["step"]]
    assert s["tokens"] == t["tokens"] and s["lr"] == t["lr"], s
    if tolerance:
        assert abs(s["loss"] - t["loss"]) <= tolerance * t["loss"], (s, t)
    else:
        assert s["loss_bits"] == t["loss_bits"], (s, t)
        assert s["grad_norm_bits"] == t["grad_norm_bits"], (s, t)
if not tolerance:
    names = sorted(os.listdir(one + "/weights"))
    assert names == sorted(os.listdir(two + "/weights"))
    for name in names:
        assert filecmp.cmp(f"{one}/weights/{name}", f"{two}/weights/{name}", False), name
PY
}

echo "dp4 with ep2, stopped after 5 of 8 steps: the same bits"
train 4 calm --set mesh.ep=2
train 4 resumed --set mesh.ep=2 --set train.steps=5
printf '{"step": 6, "torn' >>"$scratch/resumed/metrics.jsonl"
expect 0 "goes on at step 6 from step-5" 4 resumed --set mesh.ep=2
compare calm resumed 0
"$muster" report "$scratch/resumed" --json >"$scratch/report.json" || fail "no report"
grep -q '"attempt": 1' "$scratch/report.json" || fail "the report lacks attempt 1"
[[ -s $scratch/resumed/config.attempt-1.textproto ]] || fail "the second config is not kept"
expect 0 "nothing was left to do" 4 resumed --set mesh.ep=2

echo "another mesh and world size, in the same run and in a new one"
train 4 other --set mesh.ep=2 --set train.steps=4
expect 0 "goes on at step 5" 2 other --set mesh.ep=1 --set zero.level=0 --set train.steps=6
expect 0 "goes on at step 7" 1 other --set schedule.microbatches=4
compare calm other 1e-5
expect 0 "goes on at step 5 from step-4 of .*/other" 2 new \
  --resume "$scratch/other/checkpoints/step-4"
python3 - "$scratch" <<'PY'
import json, sys
read = lambda run: [json.loads(line) for line in open(f"{sys.argv[1]}/{run}/metrics.jsonl")]
truth = {s["step"]: s["loss"] for s in read("calm")}
new = read("new")
assert [s["step"] for s in new] == [5, 6, 7, 8], new
assert all(abs(s["loss"] - truth[s["step"]]) <= 1e-5 * s["loss"] for s in new), new
PY

echo "what is refused"
expect 2 "optimizer.beta1: 0.9 -> 0.5" 1 other --set optimizer.beta1=0.5
expect 2 "holds a run already" 1 other --resume never
expect 2 "holds a run already" 1 other --resume "$scratch/calm"
expect 2 "found neither" 1 nothing --resume "$scratch/no-such-run"
[[ ! -e $scratch/nothing ]] || fail "a refused start left a run directory"

echo "a second job on a live run is refused, and told who holds it; SIGTERM saves, the next goes on"
"$muster" train configs/jobs/tiny-dense.textproto --set train.steps=100000 --run "$scratch/live" \
  >"$scratch/live.log" 2>&1 &
holder=$!
for _ in $(seq 200); do
  [[ -s $scratch/live/metrics.jsonl ]] && break
  sleep 0.1
done
status=0
"$muster" train configs/jobs/tiny-dense.textproto --set train.steps=100000 --run "$scratch/live" \
  >"$scratch/second.log" 2>&1 || status=$?
((status == 93)) || fail "exit code $status of a second job, wanted 93: $(cat "$scratch/second.log")"
grep -q "process $holder" "$scratch/second.log" || fail "$(cat "$scratch/second.log")"
status=0
kill -TERM "$holder"
wait "$holder" || status=$?
((status == 75)) || fail "exit code $status after SIGTERM: $(tail -3 "$scratch/live.log")"
last=$(tail -1 "$scratch/live/metrics.jsonl" | grep -oE '"step":[0-9]+' | grep -oE '[0-9]+')
"$muster" ckpt list "$scratch/live" | grep -q "step-$last " || fail "step $last was not saved"
"$muster" train configs/jobs/tiny-dense.textproto --set train.steps=$((last + 3)) \
  --run "$scratch/live" >"$scratch/live.log" 2>&1 || fail "$(tail -3 "$scratch/live.log")"
grep -q "goes on at step $((last + 1))" "$scratch/live.log" || fail "$(cat "$scratch/live.log")"

echo "a disk that takes no more: training goes on, the old checkpoints stay good, the end tells"
train 1 full --set train.steps=4
before=$(ls "$scratch/full/checkpoints")
code=0
(
  trap '' XFSZ
  ulimit -f 3000  # KiB; a shard has 8 MB, the weights are 2.7 MB
  train 1 full --set log.tensorboard=false
) || code=$?
((code == 74)) || fail "exit code $code, wanted 74: $(tail -5 "$scratch/full.log")"
grep -q "trained    8 steps" "$scratch/full.log" || fail "a full disk ended the job"
grep -qE "step-6 failed; training goes on.*File too large" "$scratch/full.log" ||
  fail "$(cat "$scratch/full.log")"
[[ $(ls "$scratch/full/checkpoints") == "$before" ]] || fail "$(ls "$scratch/full/checkpoints")"
"$muster" ckpt verify "$scratch/full" >"$scratch/log" || fail "$(cat "$scratch/log")"
expect 0 "goes on at step 5" 1 full
"$muster" ckpt verify "$scratch/full" --step 8 >"$scratch/log" || fail "$(cat "$scratch/log")"
echo "1 passed, 0 failed"
