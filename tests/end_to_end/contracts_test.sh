#!/usr/bin/env bash
# What scripts rely on, through the binary as a user starts it: exit codes, the files of a run, the
# fields of metrics.jsonl and of the report, and clear errors that leave nothing half-made.
# Usage: contracts_test.sh MUSTER (from the root of the repository)
set -euo pipefail
muster=$1
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
umask 022
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
mpi=(mpirun --oversubscribe --bind-to none --mca mpi_yield_when_idle 1)
fail() { echo "FAILED: $*" >&2; exit 1; }
expect_exit() {  # CODE PATTERN COMMAND...: the exit code, and what is said
  local code=$1 pattern=$2 status=0
  shift 2
  "$@" >"$scratch/out" 2>"$scratch/err" || status=$?
  ((status == code)) || fail "exit code $status, wanted $code: $* $(cat "$scratch/err")"
  grep -qE "$pattern" "$scratch/out" "$scratch/err" ||
    fail "no '$pattern' in what '$*' said: $(cat "$scratch/out" "$scratch/err")"
}

echo "a MoE job on 8 ranks, dp8 with ep2"
"${mpi[@]}" -np 8 "$muster" train configs/jobs/tiny-moe.textproto --set mesh.dp=8 --set mesh.ep=2 \
  --set recompute.block=true --set train.steps=3 --run "$scratch/run" >"$scratch/log"
"$muster" report "$scratch/run" --json >"$scratch/report.json"
python3 - "$scratch" <<'PY'
import json, struct, sys
run = sys.argv[1] + "/run"
steps = [json.loads(line) for line in open(run + "/metrics.jsonl")]
assert [s["step"] for s in steps] == [1, 2, 3], steps
for s in steps:
    for key in "step loss grad_norm lr tokens tokens_per_second step_seconds mfu hfu goodput".split():
        assert isinstance(s[key], (int, float)), key
    categories = ("compute exposed_dp exposed_tp exposed_cp exposed_pp exposed_ep bubble imbalance "
                  "data optimizer checkpoint other").split()
    assert sorted(s["breakdown"]) == sorted(categories), s["breakdown"]
    assert abs(sum(s["breakdown"].values()) - s["step_seconds"]) < 1e-6 * s["step_seconds"]
    for key in ("loss", "grad_norm"):
        assert struct.unpack(">d", bytes.fromhex(s[key + "_bits"]))[0] == s[key]
report = json.load(open(sys.argv[1] + "/report.json"))
assert report["factors"].keys() >= {"availability", "non_stall", "non_rework", "mfu"}
product = 1.0
for name in ("availability", "non_stall", "non_rework", "mfu"):
    product *= report["factors"][name]
assert abs(product - report["goodput"]) <= 1e-6 * report["goodput"], (product, report["goodput"])
assert 0 < report["goodput"] <= 1
ns = {k: round(v * 1e9) for k, v in report["device_seconds"].items()}
assert sum(ns.values()) == round(report["allocated_device_seconds"] * 1e9), ns
assert len(report["attempts"]) == 1 and report["lost_by_cause"]
# Steps pay for all but what stands beside; their goodput is measured against a measured peak.
charged = sum(s["charge_device_ns"] for s in report["steps"])
assert charged == report["charges"]["charged_device_ns"]
uncharged = sum(report["charges"]["uncharged_device_ns"].values())
assert charged + uncharged == report["allocated_device_ns"]
assert all(s["goodput"] > 0 and not s["at_risk"] for s in report["steps"]) and not report["errors"]
assert report["hfu"] > report["factors"]["mfu"], "blocks are recomputed"
batch = report["steps"][0]["sequences"]
assert [s["first_sequence"] for s in report["steps"]] == [batch, 2 * batch, 3 * batch]
PY
for part in config.textproto metrics.jsonl evaluations.jsonl weights/model.safetensors.index.json \
  ledger/attempt-0/rank-7.ledger; do
  [[ -s $scratch/run/$part ]] || fail "no $part"
done
[[ -e $scratch/run/logs/rank-7.log ]] || fail "no log of rank 7"
ls "$scratch"/run/tensorboard/events.out.tfevents.* >/dev/null

echo "errors that say what is wrong, and leave nothing"
expect_exit 2 "holds a run already" "$muster" train configs/jobs/tiny-moe.textproto \
  --run "$scratch/run" --resume never
expect_exit 2 "cannot" "$muster" train configs/jobs/tiny-moe.textproto --run /proc/nowhere/run
touch "$scratch/file"
expect_exit 2 "cannot" "$muster" train configs/jobs/tiny-moe.textproto --run "$scratch/file/run"
expect_exit 2 "mesh.tpp" "$muster" train configs/jobs/tiny-moe.textproto \
  --set mesh.tpp=1 --run "$scratch/never"
[[ ! -e $scratch/never ]] || fail "a refused job left a run directory"
expect_exit 2 "no_such_file" "$muster" check "$scratch/no_such_file.textproto"
expect_exit 2 "train" "$muster" trian
expect_exit 2 "CONFIG" "$muster" train

echo "a config with eight mistakes names all eight"
cat >"$scratch/bad.textproto" <<TEXT
nmae: "x"
model_file: "$PWD/configs/models/tiny-moe.textproto"
data { synthetic { } }
train { steps: 0 global_batch_sequences: 7 seqence_length: 64 }
mesh { ep: 3 }
zero { level: 9 }
precision { compute: fp31 }
goodput { peak: "h2000" }
TEXT
expect_exit 2 "8 problems" "$muster" check "$scratch/bad.textproto" --ranks 4
for name in nmae train.steps seqence_length mesh.ep zero.level fp31 h2000 global_batch; do
  grep -q "$name" "$scratch/out" "$scratch/err" || fail "$name is not named"
done

private() { [[ -z $(find "$1" -not -type l -perm /077 | tee "$scratch/open") ]] ||
  fail "others may read $(cat "$scratch/open")"; }
private "$scratch/run"

echo "real text: prepare, train, sample; then a damaged token file"
seq 1 40000 | sed 's/$/ tokens of a little text that repeats itself/' >"$scratch/text.txt"
"$muster" data prepare "$scratch/text.txt" --out "$scratch/data" --vocab-size 300 \
  >"$scratch/log" 2>&1 || fail "$(cat "$scratch/log")"
cat >"$scratch/real.textproto" <<TEXT
model { vocab_size: 300 hidden: 32 layers: 1 heads: 2 ffn_hidden: 64 max_positions: 64 }
data {
  train_files: "$scratch/data/train.tokens"
  validation_files: "$scratch/data/validation.tokens"
  tokenizer: "$scratch/data/tokenizer.model"
}
train { steps: 2 global_batch_sequences: 4 }
TEXT
"$muster" train "$scratch/real.textproto" --run "$scratch/real" --set checkpoint.every_steps=1 \
  --set log.trace_step=2 >"$scratch/log"
for part in checkpoints/step-2 trace.step-2.json tokenizer.model; do
  [[ -e $scratch/real/$part ]] || fail "no $part"
done
private "$scratch/real"
private "$scratch/data"
"$muster" sample "$scratch/real" --prompt "12 tokens" --tokens 5 >"$scratch/log"
truncate -s -10 "$scratch/data/train.tokens"
expect_exit 1 "train.tokens" "$muster" train "$scratch/real.textproto" --run "$scratch/damaged"

echo "SIGTERM stops after the step, with everything written, and asks to be started again"
status=0
"$muster" train configs/jobs/tiny-dense.textproto --set train.steps=100000 \
  --run "$scratch/stopped" >"$scratch/log" 2>&1 &
trainer=$!
for _ in $(seq 200); do
  [[ -s $scratch/stopped/metrics.jsonl ]] && break
  sleep 0.1
done
kill -TERM "$trainer"
wait "$trainer" || status=$?
((status == 75)) || fail "exit code $status after SIGTERM, wanted 75: $(tail -3 "$scratch/log")"
[[ -s $scratch/stopped/weights/model.safetensors.index.json ]] || fail "no weights after SIGTERM"
echo "1 passed, 0 failed"
