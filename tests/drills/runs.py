"""What the drills know of runs: their processes, their steps, and whether two are equal."""
import filecmp
import json
import os


def ranks_of(run):
    """{rank: process id} of the muster train processes that write `run`."""
    found = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                words = file.read().split(b"\0")
            if b"train" not in words[:2] or run.encode() not in words:
                continue
            with open(f"/proc/{pid}/environ", "rb") as file:
                environ = dict(v.split(b"=", 1) for v in file.read().split(b"\0") if b"=" in v)
            with open(f"/proc/{pid}/stat") as file:  # not the copier of a rank's log, its child
                parent = int(file.read().rsplit(")", 1)[1].split()[1])
        except (OSError, ValueError):
            continue
        rank = environ.get(b"OMPI_COMM_WORLD_RANK")
        if rank is not None:
            found.setdefault(int(rank), []).append((int(pid), parent))
    result = {}
    for rank, pairs in found.items():
        pids = {pid for pid, _ in pairs}
        result[rank] = next(pid for pid, parent in pairs if parent not in pids)
    return result


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def lines_of(run):
    """What metrics.jsonl says of each execution of a step, in order; [] before the first."""
    try:
        with open(os.path.join(run, "metrics.jsonl")) as file:
            return [json.loads(line) for line in file if line.endswith("\n")]
    except OSError:
        return []


def first_difference(truth, lines, steps, excused=lambda line: False):
    """Between an undisturbed run and one that was drilled, by their lines_of: "" if each execution
    of a step is equal to the bit but for excused ones, and each step has one; else what is wrong."""
    true = {line["step"]: line for line in truth}
    if not set(true) >= set(range(1, steps + 1)):
        return f"the undisturbed run has {len(true)} steps, wanted {steps}"
    last_attempt = -1
    for line in lines:
        if line["attempt"] < last_attempt:
            return "attempts in metrics.jsonl are not in order"
        last_attempt = line["attempt"]
        if excused(line):
            continue
        for key in ("loss_bits", "grad_norm_bits", "tokens", "lr"):
            if line[key] != true[line["step"]][key]:
                return (f"step {line['step']} of attempt {line['attempt']}: {key} is {line[key]}, "
                        f"undisturbed {true[line['step']][key]}")
    missing = set(range(1, steps + 1)) - {line["step"] for line in lines if not excused(line)}
    return f"steps {sorted(missing)[:5]} are missing" if missing else ""


def differing_file(first, second, suffix=""):
    """The name of a file that is not byte for byte the same in two directories; "": none."""
    names = sorted(name for name in os.listdir(first) if name.endswith(suffix))
    if names != sorted(name for name in os.listdir(second) if name.endswith(suffix)):
        return "the list of files"
    return next((name for name in names
                 if not filecmp.cmp(f"{first}/{name}", f"{second}/{name}", shallow=False)), "")
