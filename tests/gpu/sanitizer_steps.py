"""Steps of part `sanitizer`: compute-sanitizer over a tiny run. Hazards inside NVIDIA's own kernels are told apart from
ours by the kernel's name."""

import re

import machine
from runner import FAILED, NOT_POSSIBLE, Outcome, Step, tail
from training_steps import Runs, shape

# Two steps of models that between them have every kernel of the families: grouped heads, positions, norms of queries,
# experts; latent attention, groups of experts and prediction modules.
MODELS = {
    "llama": shape("llama", hidden=64, layers=1, heads=4, kv_heads=2, ffn=96, sequence=48),
    "gpt2": shape("gpt2", hidden=64, layers=1, heads=4, kv_heads=4, ffn=96, sequence=48),
    "qwen3": shape("qwen3", hidden=64, layers=1, heads=4, kv_heads=2, ffn=96, sequence=48),
    "mixtral": shape("mixtral", hidden=64, layers=1, heads=4, kv_heads=2, ffn=48, sequence=48, num_local_experts=4,
                     num_experts_per_tok=2),
    "deepseek_v3": shape("deepseek_v3", hidden=64, layers=2, heads=4, kv_heads=4, ffn=96, sequence=48, q_lora_rank=24,
                         kv_lora_rank=16, qk_nope_head_dim=16, qk_rope_head_dim=8, v_head_dim=16, n_routed_experts=8,
                         num_experts_per_tok=2, n_group=4, topk_group=2, moe_intermediate_size=32, n_shared_experts=1,
                         first_k_dense_replace=1, num_nextn_predict_layers=1),
}
ERROR_EXIT = 86
REFUSALS = ("Device not supported", "is not supported", "Unable to find injection library", "not permitted")


def judge(tool, status, text):
    """What a run of compute-sanitizer found: (number of errors, reports of our kernels, all reports)."""
    refusal = next((line for line in text.splitlines() if any(word in line for word in REFUSALS)), "")
    summary = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: (\d+)", text)
    if not summary:
        if refusal:
            raise Outcome(NOT_POSSIBLE, f"compute-sanitizer: {refusal.strip('= ')}")
        raise Outcome(FAILED, f"compute-sanitizer --tool {tool} ended with {status} and no summary: {tail(text, 2)}")
    # Reports are set apart by empty lines; one names its kernels as "at trireme::cuda::norm_kernel(...)+0x1a0".
    reports = [report for report in re.split(r"\n=========[ \t]*\n", text)
               if re.search(r"Invalid|Race reported|hazard|Misaligned|Program hit|Error:", report)
               and "SUMMARY" not in report]
    named = [re.findall(r"\bat (.+?)\+0x", report) for report in reports]
    ours = [report for report, kernels in zip(reports, named)
            if not kernels or any("trireme" in kernel for kernel in kernels)]
    return int(summary[-1]), ours, reports


def check(runs_of, tool):
    def body(runner, timeout):
        sanitizer = machine.find_tool("compute-sanitizer")
        if not sanitizer:
            raise Outcome(NOT_POSSIBLE, "compute-sanitizer was not found (package cuda-sanitizer)")
        others = 0
        for name in MODELS:
            runs = runs_of(name)
            runs.make_text(timeout)
            sets = [f"run.dir={runs.folder}/runs/{tool}-{name}", f"run.device={runs.device}", "run.steps=2",
                    "batch.global=4", "batch.micro=2", "checkpoint.every=0", "checkpoint.resume=never",
                    "precision.compute=bf16", "run.threads=2"]
            # Errors of calls are checked by the program itself.
            options = ["--report-api-errors", "no"] if tool == "memcheck" else []
            command = [sanitizer, "--tool", tool, "--error-exitcode", ERROR_EXIT, "--show-backtrace", "no", *options,
                       runner.programs.path("trireme"), "train", runs.config]
            status, text = runner.command([*command, *(word for one in sets for word in ("--set", one))], timeout)
            errors, ours, reports = judge(tool, status, text)
            if ours or (errors and not reports):
                first = " ".join((ours or [tail(text, 3)])[0].replace("=========", " ").split())
                raise Outcome(FAILED, f"{name}: {errors} errors, {len(ours)} reports of our kernels: {first[:300]}")
            if status not in (0, ERROR_EXIT):
                raise Outcome(FAILED, f"{name}: exit status {status}: {tail(text, 2)}")
            others += errors
        text = f"two steps of {', '.join(MODELS)}: clean"
        return text + (f" but for {others} reports inside NVIDIA's kernels (log.txt)" if others else ""), {}
    return body


def steps(runner, folder, device):
    def runs_of(name):
        return Runs(runner, folder / "sanitizer" / name, device, MODELS[name])
    return [Step("compute-sanitizer memcheck", "sanitizer", 300, 40, check(runs_of, "memcheck")),
            Step("compute-sanitizer racecheck", "sanitizer", 300, 40, check(runs_of, "racecheck"))]
