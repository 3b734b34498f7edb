#!/usr/bin/env bash
# Planned faults through the binary under mpirun: what each one leads to, and what is said of it.
# The same, mixed and for hours: tests/drills/soak.
# Usage: faults_test.sh MUSTER (from the root of the repository)
set -euo pipefail
muster=$1
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fail() { echo "FAILED: $*" >&2; exit 1; }
job=(configs/jobs/tiny-moe.textproto --set mesh.ep=2 --set train.steps=5
     --set evaluate.sequences=4 --set communication.deadline_seconds=2 --set log.tensorboard=false)
# A killed supervisor ends before its ranks: their log is whole when they, too, are gone.
await_ranks() {  # NAME
  local try
  for try in $(seq 100); do
    grep -qs "$scratch/[${1:0:1}]${1:1}" /proc/[0-9]*/cmdline || return 0
    sleep 0.1
  done
  fail "$1: ranks outlive what started them: $(tail -30 "$scratch/$1.log")"
}
check() {  # NAME CODE PATTERN COMMAND...
  local name=$1 code=$2 pattern=$3 status=0
  shift 3
  "$@" --run "$scratch/$name" >"$scratch/$name.log" 2>&1 || status=$?
  await_ranks "$name"
  [ "$status" = "$code" ] || fail "$name: exit code $status, wanted $code: $(tail -30 "$scratch/$name.log")"
  grep -qE "$pattern" "$scratch/$name.log" || fail "$name: no '$pattern': $(tail -30 "$scratch/$name.log")"
  echo "$name: $(grep -oE "$pattern" "$scratch/$name.log" | head -1)"
}
train() {  # NAME CODE PATTERN OPTIONS...: 4 ranks, dp4 with ep2
  local name=$1 code=$2 pattern=$3
  shift 3
  check "$name" "$code" "$pattern" mpirun --oversubscribe --bind-to none \
    --mca mpi_yield_when_idle 1 -np 4 "$muster" train "${job[@]}" "$@"
}

train skip 1 "rank 2 left it out|waits for rank 2 in reduce_scatter" \
  --set "faults.plan=skip rank=2 step=3 at=backward group=dp_cp"
train stop 1 'rank 1 has not come to it' --set checkpoint.every_steps=2 \
  --set "faults.plan=stop rank=1 step=3"  # behind a save, which gives no longer deadline
train stop_evaluation 1 'rank 1 has not come to it' --set evaluate.every_steps=1 \
  --set "faults.plan=stop rank=1 step=3 at=evaluate"

# With a plan that is done, the same command is a run without faults.
train crash 137 'planned fault, step 2: crash rank=3' --set "faults.plan=crash rank=3 step=2"
train crash 0 'trained    5 steps' --set "faults.plan=crash rank=3 step=2"
train nan 0 'step 2 is skipped: .*rank 3 computed it: embedding.weight, element 0' \
  --set "faults.plan=nan rank=3 step=2"
train flip 76 'embedding.weight, replicas dp_cp@0: rank 2 against the others' --set zero.level=0 \
  --set safety.replica_check_every=2 --set "faults.plan=flip rank=2 step=3"
train preempt 75 'planned fault, step 3: preempt' --set "faults.plan=preempt rank=1 step=3"
train disk 0 'Input/output error \(planned fault\)' --set checkpoint.every_steps=2 \
  --set "faults.plan=disk_error rank=1 call=2"
train last_save 0 'step-5 committed' --set checkpoint.every_steps=5 \
  --set "faults.plan=disk_error rank=1 step=5,disk_error rank=1 step=5 call=2"  # twice, at the end
train slow_disk 0 'is due, but step-[0-9]+ is still being written' --set train.steps=20 \
  --set checkpoint.every_steps=1 --set "faults.plan=disk_slow rank=1 seconds=0.2 steps=18"
"$muster" report "$scratch/slow_disk" --json >"$scratch/report.json"
python3 - "$scratch/report.json" <<'PY'
import json, sys
report = json.load(open(sys.argv[1]))
assert report["steps_kept"] == 20 and report["checkpoints"]["put_off"] >= 2, report["checkpoints"]
# A save takes 1.6 s. To wait for each of 18 would cost 28 s a rank; only the end waits for one.
assert report["device_seconds"]["checkpoint_stall"] / 4 < 14, report["device_seconds"]
PY
train full 0 'No space left on device \(planned fault\)' --set checkpoint.every_steps=2 \
  --set "faults.plan=disk_full step=2 on=write steps=2"
train memory 0 'is not in memory; training goes on.*Input/output error \(planned fault\)' \
  --set checkpoint.memory_every_steps=2 --set "checkpoint.memory_directory=$scratch" \
  --set "faults.plan=disk_error rank=1 on=write tier=memory"
train device 1 'the device fails \(planned fault\)' \
  --set "faults.plan=device_error rank=2 step=3 at=reduced"
train replay 76 'rank 1: layers.2.moe.router.weight$' --set safety.replay_every=2 \
  --set "faults.plan=flip_gradient rank=1 step=4 tensor=layers.2.moe.router.weight"
train state 76 'changed where no update changed them|rank 2: [a-z]+' --set safety.state_check_every=1 \
  --set "faults.plan=flip of=moment2 rank=2 step=3 at=backward"
train build 2 '\(build\):.*\(planned fault\) on rank 3' --set "faults.plan=build rank=3"
train config 2 'train.seed: 1234 on rank 0, 2, 3; 7 on rank 1' \
  --set "faults.plan=config rank=1 set=train.seed=7"

# The supervisor dies, and the newest checkpoint is damaged: the same command goes on from the one
# before. Ranks look for their supervisor in every 200 ms: the save that follows takes longer.
outside=("$muster" launch "${job[@]}" --ranks 4 --set checkpoint.every_steps=1 --set log.progress=false
         --set checkpoint.asynchronous=false
         --set "faults.plan=damage rank=2 step=4,supervisor rank=1 step=4 at=updated,disk_slow rank=0 step=4 seconds=1 on=rename")
check outside 137 'the supervisor is gone' "${outside[@]}"
check outside 0 'passed by: step-3: rank 2: .*is damaged' "${outside[@]}"

# A supervisor goes back to the checkpoint before the damage, whatever it is.
check roll_back 0 'numerics: ' "$muster" launch "${job[@]}" --ranks 4 --set checkpoint.every_steps=1 \
  --set checkpoint.asynchronous=false --set safety.max_consecutive_skips=1 \
  --set "faults.plan=nan rank=3 step=3,disk_exit rank=0 step=4 on=rename call=2 code=7"
"$muster" report "$scratch/roll_back" --json >"$scratch/report.json"
python3 - "$scratch/report.json" <<'PY'
import json, sys
report = json.load(open(sys.argv[1]))
ended = [a["failure"]["kind"] for a in report["attempts"] if a["failure"]]
assert ended == ["numerics", "crash"], ended
assert report["attempts"][1]["first_step"] in (2, 3), report["attempts"][1]
assert report["steps_kept"] == 5 and report["attempts"][2]["first_step"] in (3, 4, 5), report["attempts"]
PY
echo "all as planned"
