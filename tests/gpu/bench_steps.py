"""Steps of part `bench`: one for each model and contract, run by tests/bench/gpu_compare.py; layers with experts, and
what a save adds to the steps beside it, by programs of tests/bench that print their own tables."""

import json
import pathlib
import sys
import tempfile

from runner import FAILED, NOT_POSSIBLE, Outcome, Step, tail

BENCH = pathlib.Path(__file__).resolve().parent.parent / "bench"
sys.path.insert(0, str(BENCH))

from gpu_models import CONTRACTS, MODELS, MICRO  # noqa: E402

# A step of the largest models takes half a minute.
LEAST_SECONDS = {"qwen2.5-3b": 150, "qwen2.5-7b": 240}
ORDER = ("qwen2.5-0.5b", "gpt2-124m", "qwen2.5-1.5b", "qwen2.5-3b", "qwen2.5-7b")


def one_case(options, model, contract):
    def body(runner, timeout):
        if all(micro is None for micro in MICRO[model, contract]):
            raise Outcome(NOT_POSSIBLE, "weights, gradients and moments alone don't fit into one GPU")
        torch = options.torch_python
        seconds = options.bench_seconds or max(20.0, min(240.0, timeout / 3))
        with tempfile.NamedTemporaryFile(suffix=".json") as out:
            command = [sys.executable, BENCH / "gpu_compare.py", "--models", model, "--contracts", contract,
                       "--trireme", runner.programs.path("trireme_step_bench"),
                       "--op-bench", runner.programs.path("trireme_op_bench"), "--python", torch,
                       "--library-path", runner.environment.get("LD_LIBRARY_PATH", ""), "--seconds", seconds,
                       "--minutes", max(0.2, (timeout - 5) / 60), "--device", options.device,
                       "--compile", options.compile, "--json", out.name, *(["--tiny"] if options.tiny else [])]
            if options.micro:
                command += ["--micro", options.micro]
            for one in options.set:
                command += ["--set", one]
            # PyTorch finds its own libraries; Trireme's are named by --library-path.
            late = None
            try:
                status, text = runner.command(command, timeout, with_libraries=False)
            except Outcome as outcome:  # what was timed before is there
                late, status, text = outcome, "", outcome.detail
            text_of_cases = out.read()
        if not text_of_cases:
            raise late or Outcome(FAILED, f"gpu_compare.py ended with {status}: {tail(text, 2)}")
        return judge(json.loads(text_of_cases)[0], late)
    return body


def judge(case, late):
    """One line for the table of checks; the figures go along for the tables of the benchmarks."""
    if late:
        case["errors"]["time"] = late.detail
    parts = [f"{lane['label']} {lane['tokens_per_second']:,.0f} tokens/s" for lane in case["lanes"]]
    attention = (case.get("ops") or [{}])[0].get("attention", "cuDNN")
    if "cuDNN" != attention:
        parts.append(f"attention on {attention}")
    parts += [f"{label}: {text.splitlines()[-1].strip()}" for label, text in case["errors"].items()]
    if not any(lane["label"] == "trireme" for lane in case["lanes"]):
        raise Outcome(FAILED, "; ".join(parts), case=case)
    return "; ".join(parts), dict(case=case)


def own_table(program, arguments):
    """A program that times by itself; what it prints stands in the report as it is."""
    def body(runner, timeout):
        status, text = runner.command([runner.programs.path(program), *arguments], timeout)
        if status != 0:
            raise Outcome(FAILED, f"exit status {status}: {tail(text, 2)}")
        return "its table stands below", dict(text=text)
    return body


def expert_arguments(options):
    small = ["--seconds", 0.02, "--rounds", 1, "--experts", 4, "--rows", 256] if options.tiny else []
    return ["--device", "cuda:0" if options.device == "cuda" else "cpu", *small]


def checkpoint_arguments(options):
    """One rank, and a model large enough that a step takes some tens of milliseconds."""
    sets = [f"run.device={options.device}", "precision.compute=bf16", "run.threads=2"]
    if not options.tiny:
        sets += ["data.sequence_length=1024", "batch.micro=16", "batch.global=16"]
    pairs = ["--pairs", 2, "--disks", 500] if options.tiny else ["--disks", "500,0"]
    return ["--dir", tempfile.gettempdir(), "--ranks", 1, "--only", "added", *pairs,
            *(word for one in sets for word in ("--set", one))]


def steps(options):
    tables = [Step("layers with experts", "bench", 400, 60, own_table("expert_speed", expert_arguments(options))),
              Step("saves beside steps", "bench", 400, 90,
                   own_table("checkpoint_speed", checkpoint_arguments(options)))]
    return tables + [Step(f"{model}, contract {contract}", "bench", 600, LEAST_SECONDS.get(model, 90),
                 one_case(options, model, contract))
            for model in ORDER for contract in reversed(CONTRACTS)
            if model in options.models and contract in options.contracts]


def all_models():
    return list(MODELS)
