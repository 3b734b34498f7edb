"""A run under muster launch, for drills: started, waited for, judged by what it said and left."""
import json
import os
import shutil
import subprocess
import tempfile
import time

from runs import lines_of

CONFIG = "configs/jobs/tiny-moe.textproto"
EVERY = 10  # steps between checkpoints


def steps(run):
    """(step, attempt) of each line of metrics.jsonl."""
    return [(line["step"], line["attempt"]) for line in lines_of(run)]


def longest_step(run):
    """Seconds, of the steps in metrics.jsonl."""
    with open(os.path.join(run, "metrics.jsonl")) as file:
        whole = [line for line in file if line.endswith("\n")]
    return max(json.loads(line)["step_seconds"] for line in whole)


def attempts_saved(run):
    """{step: attempt} of the committed checkpoints."""
    saved = {}
    for name in os.listdir(run + "/checkpoints"):
        if name.startswith("step-") and name[5:].isdigit():
            with open(f"{run}/checkpoints/{name}/manifest.json") as file:
                saved[int(name[5:])] = json.load(file)["facts"]["attempt"]
    return saved


class Drill:
    def __init__(self, options, name):
        self.muster, self.ranks, self.name = options.muster, options.ranks, name
        self.steps = options.steps  # of the whole run
        self.run = os.path.join(tempfile.mkdtemp(prefix="muster_drill_"), name)
        self.process = None

    def start(self, *more):
        self.spawn([self.muster, "launch", CONFIG, "--ranks", str(self.ranks), "--set", "mesh.ep=2",
                    "--set", f"train.steps={self.steps}", "--set", f"checkpoint.every_steps={EVERY}",
                    "--set", "log.progress=false", "--run", self.run, *more])

    def start_alone(self, *more):
        """muster train under mpirun, without a supervisor."""
        self.spawn(["mpirun", "--oversubscribe", "--bind-to", "none", "--mca", "mpi_yield_when_idle",
                    "1", "-np", str(self.ranks), self.muster, "train", CONFIG, "--set", "mesh.ep=2",
                    "--set", f"train.steps={100 * self.steps}", "--set", "log.progress=false",
                    "--run", self.run, *more],
                   dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1"))

    def spawn(self, command, environment=None):
        self.log = open(self.run + ".log", "a")
        self.process = subprocess.Popen(command, stdout=self.log, stderr=subprocess.STDOUT,
                                        env=environment)

    def said(self):
        with open(self.run + ".log") as file:
            return file.read()

    def until(self, condition, seconds=300, runs=True):
        """`runs`: there is nothing to wait for once the job has ended."""
        end = time.monotonic() + seconds
        while not condition():
            if runs and self.process.poll() is not None and not condition():
                raise SystemExit(f"{self.name}: ended with {self.process.returncode} before it "
                                 f"was time\n{self.said()}")
            if time.monotonic() > end:
                raise SystemExit(f"{self.name}: waited {seconds} s in vain\n{self.said()}")
            time.sleep(0.01)

    def until_step(self, step, attempt=0):
        self.until(lambda: any(s >= step and a >= attempt for s, a in steps(self.run)))

    def end(self, code):
        found = self.process.wait(timeout=600)
        if found != code:
            raise SystemExit(f"{self.name}: exit code {found}, wanted {code}\n{self.said()}")

    def report(self):
        text = subprocess.run([self.muster, "report", self.run, "--json"], check=True,
                              capture_output=True, text=True).stdout
        return json.loads(text)

    def expect(self, fact, text):
        if not fact:
            raise SystemExit(f"{self.name}: {text}\n{self.said()}")

    def close(self):
        shutil.rmtree(os.path.dirname(self.run))
