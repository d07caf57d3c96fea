#!/usr/bin/env python3
"""Times Trireme's training step on a GPU beside PyTorch's, the two taking turns; tests/gpu/gpu_check.py runs it.

A case is a model and a contract (gpu_models.py). Both programs are long-lived workers (README.md in this folder) that
take turns, A B A B …, of as many steps as the time allows; the figure of a program is the median of all its steps. Where
both don't fit into the GPU's memory together they come one after the other, Trireme before and after PyTorch. A
program that runs out of memory starts again with half the microbatch. By hand:

    python3 tests/bench/gpu_compare.py --models qwen2.5-0.5b --contracts llmq --trireme build-cuda/trireme_step_bench
"""

import argparse
import json
import os
import pathlib
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time

from compare import ROOT, Worker, WorkerError
from gpu_models import CONTRACTS, MODELS, TOKENS_PER_STEP, first_micro

HERE = pathlib.Path(__file__).resolve().parent
TINY_TOKENS = 512
MIN_STEPS = 20  # of each program, where time allows


class TimedWorker(Worker):
    """A worker that is ended when an answer takes longer than `timeout` seconds."""

    def __init__(self, label, command, variables, timeout):
        self.timeout = timeout
        super().__init__(label, command, variables)

    def read(self):
        expired = threading.Event()

        def expire():
            expired.set()
            self.kill()
        timer = threading.Timer(max(1.0, self.timeout), expire)
        timer.daemon = True
        timer.start()
        try:
            return super().read()
        except WorkerError:
            if expired.is_set():
                raise WorkerError(f"{self.label} took longer than {self.timeout:.0f} s and was ended") from None
            raise
        finally:
            timer.cancel()

    def kill(self):
        """The worker and all that it started."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def close(self):
        super().close()
        self.kill()


class Lane:
    """One program of a case: how it is started, and all that it has answered."""

    def __init__(self, label, command_of, variables=None):
        self.label, self.command_of, self.variables = label, command_of, variables
        self.worker = None
        self.ready = None
        self.answers = []
        self.phases = {}
        self.notes = []

    def start(self, micro, timeout):
        """Starts the worker and lets it make two steps, halving the microbatch while memory runs out. Raises
        WorkerError when it can't be started at all."""
        end = time.time() + timeout
        while True:
            try:
                self.spawn(micro, end - time.time())
                return
            except WorkerError as error:
                self.stop()
                if "out of memory" not in str(error) or micro == 1 or time.time() > end:
                    raise
                self.notes.append(f"a microbatch of {micro} ran out of memory")
                micro //= 2

    def spawn(self, micro, timeout):
        end = time.time() + timeout
        self.micro = micro
        self.worker = TimedWorker(self.label, self.command_of(micro), self.variables, timeout)
        self.ready = self.worker.ready
        self.worker.timeout = end - time.time()
        self.worker.ask("step 1")  # libraries choose, compilers compile
        self.worker.timeout = end - time.time()
        self.step_seconds = min(self.worker.ask("step 1")["seconds"])

    def turn(self, steps):
        self.worker.timeout = 60 + 4 * steps * self.step_seconds
        self.answers.append(self.worker.ask(f"step {steps}"))

    def ask_phases(self):
        """Trireme tells its phases in a step of its own, PyTorch with every turn."""
        self.worker.timeout = 60 + 4 * self.step_seconds
        self.phases = self.worker.ask("phases")["phases"]

    def stop(self):
        if self.worker is not None:
            self.worker.close()
        self.worker = None

    def result(self):
        last = self.answers[-1]
        seconds = [value for answer in self.answers for value in answer["seconds"]]
        median = statistics.median(seconds)
        return dict(label=self.label, version=self.ready.get("program"), micro=self.micro, steps=len(seconds),
                    seconds=median, turns=[statistics.median(answer["seconds"]) for answer in self.answers],
                    tokens_per_second=self.ready["tokens_per_step"] / median, loss=last["loss"],
                    phases=self.phases or last["phases"], step_phases=last["phases"],
                    parameters=self.ready["parameters"], flops_per_token=self.ready["flops_per_token"],
                    peak_flops=self.ready.get("peak_flops", 0), peak_memory_bytes=last.get("peak_memory_bytes"),
                    reserved_bytes=last.get("reserved_bytes"), notes=self.notes)


def gpu_memory_bytes(device):
    """Memory of the first GPU; 0 where none is seen."""
    if device != "cuda" or not shutil.which("nvidia-smi"):
        return 0
    query = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    text = subprocess.run(query, capture_output=True, text=True, timeout=60).stdout.split()
    return int(text[0]) * 2**20 if text and text[0].isdigit() else 0


def trireme_sets(options, model, contract, micro):
    shape = MODELS[model].tiny() if options.tiny else MODELS[model]
    sets = [f"run.device={options.device}", *CONTRACTS[contract], f"batch.micro={micro}",
            f"batch.global={options.tokens // shape.sequence}", *(shape.sets() if options.tiny else [])]
    return sets + options.set


def trireme_lane(options, model, contract):
    def command(micro):
        sets = trireme_sets(options, model, contract, micro)
        return [options.trireme, "--config", str(ROOT / "configs" / f"{model}.yaml"),
                *(word for one in sets for word in ("--set", one))]
    variables = {"LD_LIBRARY_PATH": options.library_path} if options.library_path else None
    return Lane("trireme", command, variables)


def torch_lane(options, model, contract):
    mode = options.compile
    if mode == "auto":  # compiling every layer of the large models takes minutes
        mode = "block" if model in ("qwen2.5-3b", "qwen2.5-7b") else "model"

    def command(micro):
        return [options.python, str(HERE / "torch_gpu_reference.py"), "--model", model, "--contract", contract,
                "--micro", str(micro), "--tokens-per-step", str(options.tokens), "--compile", mode,
                "--device", options.device] + (["--tiny"] if options.tiny else [])
    return Lane("torch", command)


def say(text):
    print(text, file=sys.stderr, flush=True)


def start_time(options):
    """Seconds that a program may take to start now: what the call has left, less what timing it then needs."""
    return max(1.0, min(options.start_seconds, options.end - time.time() - 15))


def steps_and_rounds(options, lanes, seconds):
    """Steps of a turn and number of rounds, so that all turns fit into `seconds` and into what the call has left."""
    seconds = min(seconds, 0.7 * (options.end - time.time()))
    once = sum(lane.step_seconds for lane in lanes)
    rounds = max(1, min(options.rounds, int(seconds / once)))
    steps = max(1, min(-(-MIN_STEPS // rounds), int(seconds / (rounds * once))))
    return steps, rounds


def take_turns(options, lanes, seconds):
    steps, rounds = steps_and_rounds(options, lanes, seconds)
    for index in range(rounds):
        for lane in lanes:
            lane.turn(steps)
        options.publish()
        say(f"  round {index + 1}/{rounds}: " + ", ".join(
            f"{lane.label} {statistics.median(lane.answers[-1]['seconds']):.3f} s" for lane in lanes))


def run_alone(options, lane, seconds):
    take_turns(options, [lane], seconds)
    if lane.label == "trireme":
        lane.ask_phases()


def run_in_sequence(options, first, second, micro):
    """Trireme, then PyTorch, then Trireme again."""
    run_alone(options, first, options.seconds / 4)
    first.stop()
    second.start(micro, start_time(options))
    run_alone(options, second, options.seconds / 2)
    second.stop()
    first.spawn(first.micro, start_time(options))
    take_turns(options, [first], options.seconds / 4)


def fits_beside(options, first, second):
    """Starts the second program beside the first; False when there is no memory for it."""
    try:
        second.spawn(first.micro, start_time(options))
        return True
    except WorkerError as error:
        second.stop()
        if "out of memory" not in str(error):
            raise
        say("  the two together don't fit into the GPU's memory: one after the other")
        return False


def run_lanes(options, case, lanes, micro):
    """Times the programs of a case as far as they work; what went wrong is in case["errors"]."""
    def attempt(label, body):
        try:
            return True, body()
        except (WorkerError, OSError) as error:
            say(f"  {error}")
            case["errors"][label] = str(error)
            return False, None

    def start_and_run(lane):
        lane.start(micro, start_time(options))
        run_alone(options, lane, options.seconds / 2)

    first = lanes[0]
    if len(lanes) == 1:
        attempt(first.label, lambda: start_and_run(first))
        return
    if not attempt(first.label, lambda: first.start(micro, start_time(options)))[0]:
        attempt(lanes[1].label, lambda: start_and_run(lanes[1]))
        return
    second = lanes[1]
    say(f"  starting {second.label} …")
    works, beside = attempt(second.label, lambda: fits_beside(options, first, second))
    if beside:
        attempt("turns", lambda: take_turns(options, lanes, options.seconds))
        attempt("phases", first.ask_phases)
    elif works:
        attempt("turns", lambda: run_in_sequence(options, first, second, first.micro))
    else:
        attempt("turns", lambda: run_alone(options, first, options.seconds / 2))


def run_case(options, model, contract):
    """All figures of a case."""
    shape = MODELS[model].tiny() if options.tiny else MODELS[model]
    case = dict(model=model, contract=contract, tokens_per_step=options.tokens, sequence=shape.sequence,
                memory_bytes=options.memory, errors={}, lanes=[])
    micro = 2 if options.tiny else options.micro or first_micro(model, contract, options.memory)
    if micro is None:
        case["errors"]["memory"] = "weights, gradients and moments alone don't fit into one GPU"
        return case
    lanes = [] if options.only_torch else [trireme_lane(options, model, contract)]
    if options.python:
        lanes.append(torch_lane(options, model, contract))
    options.publish = lambda: publish(options, case | dict(lanes=[lane.result() for lane in lanes if lane.answers]))
    say(f"{model}, contract {contract}: starting {lanes[0].label} …")
    try:
        run_lanes(options, case, lanes, micro)
    finally:
        for lane in lanes:
            lane.stop()
    case["lanes"] = [lane.result() for lane in lanes if lane.answers]
    return case


def publish(options, case):
    """Writes all that is known, so that a call that is ended has left something."""
    if options.json:
        options.json.write_text(json.dumps([*options.cases, case], indent=1) + "\n")


def run_ops(options, model, contract, micro):
    """Trireme's op times at the shapes of a case, and the device's ceilings: what trireme_op_bench prints."""
    command = [options.op_bench, "--config", str(ROOT / "configs" / f"{model}.yaml"), "--seconds",
               str(options.op_seconds)]
    command += [word for one in trireme_sets(options, model, contract, micro) for word in ("--set", one)]
    if options.tiny:
        command += ["--gemm-size", "256", "--copy-mib", "8"]
    environment = dict(os.environ)
    if options.library_path:
        environment["LD_LIBRARY_PATH"] = options.library_path
    with tempfile.TemporaryFile("w+") as log:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment,
                              timeout=max(5.0, options.end - time.time()))
        log.seek(0)
        if done.returncode != 0:
            raise WorkerError(f"trireme_op_bench ended with code {done.returncode}: {log.read().strip()[-400:]}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def parse_options(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS), help="default: all")
    parser.add_argument("--contracts", default=",".join(CONTRACTS), help="default: all")
    parser.add_argument("--seconds", type=float, default=90, help="timed, of a case, both programs (default: 90)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each program, at most (default: 3)")
    parser.add_argument("--start-seconds", type=float, default=300,
                        help="for a program to start, compile and warm up (default: 300)")
    parser.add_argument("--minutes", type=float, default=0, help="the whole call ends within (default: no limit)")
    parser.add_argument("--micro", type=int, default=0, help="sequences of a microbatch (default: by GPU memory)")
    parser.add_argument("--compile", choices=["auto", "model", "block", "none"], default="auto", help="of torch")
    parser.add_argument("--python", default=sys.executable, help="interpreter that has torch; '' leaves torch out")
    parser.add_argument("--trireme", default=str(ROOT / "build-cuda" / "trireme_step_bench"), help="Trireme's worker")
    parser.add_argument("--op-bench", default="", help="trireme_op_bench: times the ops of each case too")
    parser.add_argument("--op-seconds", type=float, default=0.1, help="for each op (default: 0.1)")
    parser.add_argument("--library-path", default="", help="LD_LIBRARY_PATH of Trireme's programs")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of Trireme's configuration")
    parser.add_argument("--only-torch", action="store_true")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny models, to try the programs on a CPU")
    parser.add_argument("--json", type=pathlib.Path, help="write all figures here")
    options = parser.parse_args(arguments)
    options.tokens = TINY_TOKENS if options.tiny else TOKENS_PER_STEP
    options.models, options.contracts = options.models.split(","), options.contracts.split(",")
    for given, known in ((options.models, MODELS), (options.contracts, CONTRACTS)):
        for word in given:
            if word not in known:
                parser.error(f"{word!r} is none of {', '.join(known)}")
    options.memory = gpu_memory_bytes(options.device)
    options.end = time.time() + (options.minutes * 60 if options.minutes else 1e9)
    options.cases = []
    return options


def main():
    options = parse_options()
    for number in (signal.SIGINT, signal.SIGTERM):  # either ends the workers before it ends us
        signal.signal(number, lambda received, _: sys.exit(128 + received))
    for model in options.models:
        for contract in options.contracts:
            case = run_case(options, model, contract)
            publish(options, case)
            if options.op_bench and any(lane["label"] == "trireme" for lane in case["lanes"]):
                say("  the ops one by one …")
                try:
                    case["ops"] = run_ops(options, model, contract, case["lanes"][0]["micro"])
                except (WorkerError, OSError, subprocess.TimeoutExpired) as error:
                    case["ops_error"] = str(error)
            publish(options, case)
            options.cases.append(case)
    from gpu_tables import case_tables
    print("\n".join(case_tables(options.cases)))
    return 0 if all(case["lanes"] and not case["errors"] for case in options.cases) else 1


if __name__ == "__main__":
    sys.exit(main())
