#!/usr/bin/env python3
"""Times Trireme's training step against PyTorch's on the CPU; `scripts/bench` runs it.

Every program is a long-lived worker that steps when told to (protocol: README.md in this folder). The workers of a
case take turns, A B C A B C …; whoever isn't at work is frozen (SIGSTOP), so that no waiting thread takes a core
from the one that is. What counts is the median step of a turn, and of those the median over the rounds.
"""

import argparse
import ctypes
import json
import math
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
LIBC = ctypes.CDLL(None)
CORES = len(os.sched_getaffinity(0))

# The least ratio (their seconds / Trireme's seconds) that Trireme must reach, (eager, compile).
FLOORS = {
    ("gpt2-124m", "fp32"): (1.1, 1.15),
    ("gpt2-124m", "bf16"): (2.0, 1.5),
    ("llama-9.6m", "fp32"): (1.3, 1.1),
    ("llama-9.6m", "bf16"): (2.0, 1.1),
}
PROCESS_FLOOR = 0.95  # case c

# weights that take part in a GEMM (head included), layers, H * D, T, tokens per step
MODELS = {
    "gpt2-124m": dict(gemm_weights=12 * 12 * 768**2 + 50257 * 768, layers=12, attention=768, sequence=256, tokens=1024),
    "llama-9.6m": dict(gemm_weights=6 * (384 * 640 + 384 * 384 + 3 * 384 * 1024) + 256 * 384, layers=6, attention=384,
                       sequence=256, tokens=4096),
}


def model_flops(model):
    """Model FLOPs of a step: 6 per GEMM weight and token, and causal attention counted half."""
    m = MODELS[model]
    return m["tokens"] * (6 * m["gemm_weights"] + 6 * m["layers"] * m["attention"] * m["sequence"])


class WorkerError(Exception):
    pass


def die_with_parent():
    """Run in a new worker: should this driver be killed, no frozen worker stays behind with its memory."""
    PR_SET_PDEATHSIG = 1
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def children_of(pid):
    """Direct children of a process, from /proc."""
    result = []
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            result.append(int(entry.name))
    return result


def signal_tree(pid, number):
    """Sends a signal to a process and everything that it started, parents first."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
    for child in children_of(pid):
        signal_tree(child, number)


def busy_seconds():
    """CPU seconds that all cores have worked (steal counts: it was taken from us)."""
    user, nice, system, _, _, irq, softirq, steal = map(int, open("/proc/stat").readline().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def tree_seconds(pid):
    """CPU seconds of a process and everything below it."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    own = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return own + sum(tree_seconds(child) for child in children_of(pid))


class Worker:
    """A program that speaks the protocol of README.md. Frozen whenever no command runs."""

    def __init__(self, label, command, variables=None):
        """`variables` are added to the environment."""
        self.label = label
        self.log = tempfile.NamedTemporaryFile("w+", prefix="trireme-bench-", suffix=".log", delete=False)
        environment = dict(os.environ) | (variables or {})
        if os.geteuid() == 0:
            environment |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log,
                                        text=True, cwd=ROOT, env=environment, start_new_session=True,
                                        preexec_fn=die_with_parent)
        self.turns = []  # median seconds per step of each turn
        self.answers = []
        self.others = []  # cores that the rest of the machine used during each turn
        try:
            self.ready = self.read()
        except WorkerError:
            self.close()
            raise
        self.freeze()

    def freeze(self):
        signal_tree(self.process.pid, signal.SIGSTOP)

    def thaw(self):
        signal_tree(self.process.pid, signal.SIGCONT)

    def read(self):
        """The next JSON line; other lines (a library that prints) are skipped."""
        for line in self.process.stdout:
            if line.startswith("{"):
                answer = json.loads(line)
                if "error" in answer:
                    raise WorkerError(f"{self.label}: {answer['error']}")
                return answer
        self.process.wait()
        with open(self.log.name, errors="replace") as log:
            tail = log.read().strip().splitlines()[-8:]
        raise WorkerError(f"{self.label} ended with code {self.process.returncode} (whole log: {self.log.name})\n    "
                          + "\n    ".join(tail))

    def ask(self, command):
        self.thaw()
        try:
            self.process.stdin.write(command + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # read() says why it ended
        answer = self.read()
        self.freeze()
        return answer

    def warm_up(self, steps, turn_seconds):
        """Untimed steps; then the number of steps of a turn is known."""
        self.ask(f"step {steps}")
        seconds = min(self.ask("step 1")["seconds"])
        self.steps_per_turn = max(1, math.ceil(turn_seconds / seconds))

    def turn(self):
        begin = time.perf_counter(), busy_seconds(), tree_seconds(self.process.pid)
        answer = self.ask(f"step {self.steps_per_turn}")
        wall, busy, own = (b - a for a, b in zip(begin, (time.perf_counter(), busy_seconds(),
                                                         tree_seconds(self.process.pid))))
        self.others.append(max(0.0, (busy - own) / wall))
        self.answers.append(answer)
        self.turns.append(statistics.median(answer["seconds"]))

    def seconds(self):
        return statistics.median(self.turns)

    def phases(self):
        """Median seconds of each phase, or nothing when the worker doesn't tell."""
        tables = [answer["phases"] for answer in self.answers if "phases" in answer]
        return {name: statistics.median(table[name] for table in tables) for name in (tables[0] if tables else ())}

    def close(self):
        if self.process.poll() is None:
            self.thaw()
            try:
                self.process.stdin.write("quit\n")
                self.process.stdin.close()
                self.process.wait(timeout=20)
            except (BrokenPipeError, subprocess.TimeoutExpired):
                signal_tree(self.process.pid, signal.SIGKILL)
                self.process.wait()
        self.log.close()


def torch_command(options, model, dtype, mode):
    return [options.python, str(HERE / "torch_reference.py"), "--model", model, "--dtype", dtype, "--mode", mode,
            "--threads", str(options.threads)]


def trireme_command(options, model, dtype, threads, processes=1):
    launcher = ["mpirun", "-np", str(processes)] if processes > 1 else []
    return launcher + options.trireme.split() + ["--model", model, "--dtype", dtype, "--threads", str(threads)]


def run_case(options, commands):
    """Starts a worker for each (label, command), lets them take turns; returns the workers that worked."""
    workers = []
    try:
        for label, command in commands:
            print(f"  starting {label} …", file=sys.stderr, flush=True)
            try:
                worker = Worker(label, command)
                workers.append(worker)
                worker.warm_up(options.warm_up, options.turn_seconds)
            except (WorkerError, OSError) as error:
                print(f"  left out: {error}", file=sys.stderr, flush=True)
                options.left_out.append(label)
                if workers and workers[-1].label == label:
                    workers.pop().close()
        for round_index in range(options.rounds if workers else 0):
            for worker in workers:
                worker.turn()
            print(f"  round {round_index + 1}/{options.rounds}: "
                  + ", ".join(f"{w.label} {w.turns[-1]:.3f} s" for w in workers)
                  + f" (others used {max(w.others[-1] for w in workers):.2f} cores)", file=sys.stderr, flush=True)
        for worker in workers:
            try:
                worker.gemm = worker.ask("gemm")
            except WorkerError:
                worker.gemm = {}  # optional in the protocol
    finally:
        for worker in workers:
            worker.close()
    return workers


def row(case, model, dtype, worker, baseline, floor):
    """What is known about one worker of a case; `baseline` is Trireme's worker, None where it didn't run."""
    result = dict(case=case, model=model, dtype=dtype, program=worker.label, version=worker.ready.get("program"),
                  seconds=worker.seconds(), turns=worker.turns, phases=worker.phases(),
                  loss=worker.answers[-1]["loss"], gemm=worker.gemm, others=statistics.mean(worker.others))
    if baseline is not None and worker is not baseline:
        ratios = [theirs / ours for theirs, ours in zip(worker.turns, baseline.turns)]
        result |= dict(ratio=worker.seconds() / baseline.seconds(), ratio_range=[min(ratios), max(ratios)], floor=floor)
    return result


def has_cpu_flag(flag):
    return f" {flag}" in pathlib.Path("/proc/cpuinfo").read_text()


def floors_for(model, dtype):
    if model == "gpt2-124m" and dtype == "bf16" and not has_cpu_flag("amx_bf16"):
        return (None, None)  # that floor is for CPUs with AMX
    return FLOORS[model, dtype]


def compare_with_torch(options, case, model, dtype):
    commands = []
    if not options.only_torch:
        commands.append(("trireme", trireme_command(options, model, dtype, options.threads)))
    commands += [(f"torch {mode}", torch_command(options, model, dtype, mode)) for mode in options.modes]
    workers = run_case(options, commands)
    baseline = next((w for w in workers if w.label == "trireme"), None)
    floors = dict(zip(("torch eager", "torch compile"), floors_for(model, dtype)))
    return [row(case, model, dtype, w, baseline, floors.get(w.label)) for w in workers]


def compare_processes(options, dtype):
    """Case c: the same global batch on N processes of one thread, and on one process of N threads."""
    n = options.threads
    many, one = f"{n} processes x 1 thread", f"1 process x {n} threads"
    workers = run_case(options, [
        (many, trireme_command(options, "llama-9.6m", dtype, 1, processes=n)),
        (one, trireme_command(options, "llama-9.6m", dtype, n))])
    baseline = next((w for w in workers if w.label == many), None)
    return [row("c", "llama-9.6m", dtype, w, baseline, PROCESS_FLOOR) for w in workers]


def print_table(rows):
    best = {dtype: max(r["gemm"].get(f"{dtype}_gflops", 0.0) for r in rows) for dtype in ("fp32", "bf16")}
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    print(f"\n{cpu}, {CORES} cores; best GEMM 2048^3: fp32 {best['fp32']:.0f}, "
          f"bf16 {best['bf16']:.0f} GFLOP/s")
    print("ratio = their seconds / Trireme's (case c: one process's / several processes'); in brackets its range over "
          "the rounds\n")
    head = f"{'case':4} {'model':10} {'dtype':5} {'program':24} {'s/step':>8} {'tokens/s':>9} {'GEMM %':>6}  ratio"
    print(head + "\n" + "-" * (len(head) + 28))
    passed = True
    for r in rows:
        flops = model_flops(r["model"])
        share = 100 * flops / r["seconds"] / 1e9 / best[r["dtype"]] if best[r["dtype"]] else float("nan")
        line = (f"{r['case']:4} {r['model']:10} {r['dtype']:5} {r['program']:24} {r['seconds']:8.3f} "
                f"{MODELS[r['model']]['tokens'] / r['seconds']:9.0f} {share:6.1f}")
        if "ratio" in r:
            low, high = r["ratio_range"]
            line += f"  {r['ratio']:.2f} [{low:.2f} … {high:.2f}]"
            if r["floor"]:
                good = r["ratio"] >= r["floor"]
                passed &= good
                line += f" floor {r['floor']}: {'reached' if good else 'NOT reached'}"
        print(line)
    others = statistics.mean(r["others"] for r in rows)
    if others > 0.1:
        print(f"\nThe machine was not idle: other programs used {others:.2f} cores on average; every figure is noisy.")
    print("\nWhere the step goes (median seconds of each phase)")
    for r in rows:
        if r["phases"]:
            print(f"{r['case']:4} {r['dtype']:5} {r['program']:24} "
                  + ", ".join(f"{name} {seconds:.3f}" for name, seconds in r["phases"].items()))
    return passed


def parse_options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default="a,b,c", help="a: GPT-2 124M, b: 9.6M Llama, c: processes against threads")
    parser.add_argument("--dtypes", default="fp32,bf16", help="bf16 is left out on a CPU without bf16 instructions")
    parser.add_argument("--modes", default="eager,compile", help="of torch")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each worker (default: 7)")
    parser.add_argument("--warm-up", type=int, default=2, help="untimed steps before the first turn (default: 2)")
    parser.add_argument("--turn-seconds", type=float, default=2.0, help="least length of a turn (default: 2)")
    parser.add_argument("--threads", type=int, default=CORES, help=f"of each program (default: {CORES})")
    parser.add_argument("--python", default=sys.executable, help="interpreter that has torch")
    parser.add_argument("--trireme", default=str(ROOT / "build" / "trireme_step_bench"), help="Trireme's worker")
    parser.add_argument("--only-torch", action="store_true", help="time torch alone")
    parser.add_argument("--json", type=pathlib.Path, help="write all figures here too")
    parser.add_argument("--check", action="store_true",
                        help="exit 1 when a floor is not reached or a program is left out")
    options = parser.parse_args()
    options.left_out = []  # workers that didn't start or broke
    options.cases = options.cases.split(",")
    options.dtypes = options.dtypes.split(",")
    options.modes = options.modes.split(",")
    for name, given, known in (("--cases", options.cases, "abc"), ("--dtypes", options.dtypes, ("fp32", "bf16")),
                               ("--modes", options.modes, ("eager", "compile"))):
        for word in given:
            if word not in known:
                parser.error(f"{name}: {word!r} is none of {', '.join(known)}")
    return options


def main():
    options = parse_options()
    for number in (signal.SIGINT, signal.SIGTERM):  # either ends the workers before it ends us
        signal.signal(number, lambda received, _: sys.exit(128 + received))
    if "bf16" in options.dtypes and not (has_cpu_flag("amx_bf16") or has_cpu_flag("avx512_bf16")):
        print("bf16 left out: this CPU has neither AMX nor AVX-512 bf16", file=sys.stderr)
        options.dtypes.remove("bf16")
    rows = []
    begin = time.time()
    for case, model in (("a", "gpt2-124m"), ("b", "llama-9.6m")):
        for dtype in options.dtypes if case in options.cases else ():
            print(f"case {case}: {model} {dtype}, {options.threads} threads", file=sys.stderr, flush=True)
            rows += compare_with_torch(options, case, model, dtype)
    if "c" in options.cases and not options.only_torch and options.threads > 1:
        for dtype in options.dtypes:
            print(f"case c: llama-9.6m {dtype}, {options.threads} processes against threads", file=sys.stderr,
                  flush=True)
            rows += compare_processes(options, dtype)
    if not rows:
        sys.exit("error: no worker ran (expected at least one, see above)")
    passed = print_table(rows)
    print(f"\n{time.time() - begin:.0f} s in all")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0 if not options.check or (passed and not options.left_out) else 1


if __name__ == "__main__":
    sys.exit(main())
