#!/usr/bin/env python3
"""Checks and times Trireme on this machine's GPU; scripts/gpu_check runs it.

Parts, in this order: `tests` (op tests, golden cases, whole runs, communicators on the GPU), `training` (losses beside the
CPU's, resumes, repeated runs), `sanitizer` (compute-sanitizer over a tiny run), `bench` (tokens/s and MFU beside
PyTorch's, and where the time goes). A table comes last. Everything is kept in the output folder after each step, so that a
call with the same folder goes on where the last one ended; what passed is not done again.
"""

import argparse
import contextlib
import os
import pathlib
import sys
import tempfile
import time

import bench_steps
import correctness_steps
import machine
import programs
import report
import sanitizer_steps
import training_steps
from runner import FAILED, LEFT, TIMED_OUT, Runner

from gpu_models import CONTRACTS


def parse_options():
    parser = argparse.ArgumentParser(prog="scripts/gpu_check", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(report.PARTS), help="of tests, training, sanitizer, bench")
    parser.add_argument("--minutes", type=float, default=9.5, help="the whole call ends within (default: 9.5)")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("gpu-check"),
                        help="folder for results.json, table.md and log.txt (default: gpu-check)")
    parser.add_argument("--redo", action="store_true", help="forget what was done before")
    parser.add_argument("--list", action="store_true", help="say the steps and stop")
    parser.add_argument("--only", default="", help="steps whose name contains this")
    parser.add_argument("--commit", default="", help="of the programs, where git doesn't know")
    parser.add_argument("--programs", type=pathlib.Path, help="a build tree (default: the package's, else build-cuda)")
    parser.add_argument("--build", action="store_true", help="build for this GPU first, with nvcc")
    parser.add_argument("--work", type=pathlib.Path, help="folder for runs (default: one that is removed at the end)")
    bench = parser.add_argument_group("benchmarks")
    bench.add_argument("--models", default=",".join(bench_steps.all_models()), help="default: all")
    bench.add_argument("--contracts", default=",".join(CONTRACTS), help="default: all")
    bench.add_argument("--bench-seconds", type=float, default=0, help="timed, of a case (default: by the time left)")
    bench.add_argument("--micro", type=int, default=0, help="sequences of a microbatch (default: by GPU memory)")
    bench.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of Trireme's configuration")
    bench.add_argument("--python", default=None, help="interpreter that has torch; '' leaves PyTorch out")
    bench.add_argument("--compile", choices=["auto", "model", "block", "none"], default="auto", help="of torch")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help=argparse.SUPPRESS)
    parser.add_argument("--tiny", action="store_true", help="tiny models, to try this program without a GPU")
    options = parser.parse_args()
    options.parts = options.parts.split(",")
    options.models, options.contracts = options.models.split(","), options.contracts.split(",")
    for given, known in ((options.parts, report.PARTS), (options.models, bench_steps.all_models()),
                         (options.contracts, CONTRACTS)):
        for word in given:
            if word not in known:
                parser.error(f"{word!r} is none of {', '.join(known)}")
    return options


def make_steps(options, runner, work):
    by_part = dict(tests=correctness_steps.steps(),
                   training=training_steps.steps(runner, work, options.device, options.tiny),
                   sanitizer=sanitizer_steps.steps(runner, work, options.device), bench=bench_steps.steps(options))
    return [step for part in report.PARTS if part in options.parts for step in by_part[part]
            if options.only in step.name]


def main():
    options = parse_options()
    begin = time.time()
    options.out.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        work = options.work or pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="trireme-gpu-")))
        work.mkdir(parents=True, exist_ok=True)
        return check(options, work.resolve(), begin)


def check(options, work, begin):
    if options.list:
        steps = make_steps(options, None, work)
        print("\n".join(f"{step.part:10} {step.name}" for step in steps))
        return 0
    options.torch_python = options.python or ""
    if options.python is None and "bench" in options.parts:
        options.torch_python = machine.find_python_with_torch()
    if options.python is None and not options.torch_python and "bench" in options.parts:
        print("no python3 here has a torch that sees the GPU: PyTorch is left out", file=sys.stderr)
    environment = dict(os.environ)
    path = machine.library_path([options.torch_python, sys.executable, "python3"])
    if path:
        environment["LD_LIBRARY_PATH"] = path
    environment["TRIREME_SOURCE_DIR"] = str(programs.ROOT)
    try:
        found = programs.find(options)
        found.check_start(environment)
        if options.device == "cuda":  # whole runs would take the CPU
            found.check_gpu(environment)
    except programs.Unusable as error:
        print(f"error: {error}", file=sys.stderr)
        return 4

    seconds = options.minutes * 60 - (time.time() - begin)
    runner = Runner(options.out, found, environment, seconds, found.commit, options.redo)
    steps = make_steps(options, runner, work)
    runner.run(steps)
    text = report.markdown(machine.describe(environment), found.commit, time.strftime("%Y-%m-%d"), runner.results)
    (options.out / "table.md").write_text(text)
    print("\n" + text)
    chosen = [runner.results[step.name]["status"] for step in steps]
    left = chosen.count(LEFT)
    if left:
        print(f"{left} steps are left: the same command goes on with them", file=sys.stderr)
    return 1 if FAILED in chosen or TIMED_OUT in chosen else 0


if __name__ == "__main__":
    sys.exit(main())
