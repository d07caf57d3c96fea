"""Steps of part `training`: short runs of the program on the GPU beside the CPU's, stopped ones, repeated ones."""

import hashlib
import json
import random
import shutil

from correctness_steps import doctor, mpi_command
from runner import FAILED, Outcome, Step, tail

STEPS = 40
SAVE_EVERY = 20
# Of a step's loss, relative to the CPU's in fp32. fp32 on the GPU differs in the order of sums, and training lets that
# grow; bf16 is off by its own rounding.
FP32_BOUND = 2e-3
BF16_BOUND = 3e-2
# With experts a difference of rounding sends some tokens to other experts, and their losses jump.
EXPERTS_BOUND = 2e-2

CONFIG = """run: {{dir: "{folder}/runs/none", steps: {steps}}}
model: {{{model}, vocab_size: 256, max_position_embeddings: 256}}
data: {{train: [{{path: "{folder}/text"}}], tokenizer: bytes, sequence_length: {sequence}, valid_fraction: 0.02}}
batch: {{global: 16, micro: 8}}
optimizer: {{lr: 2.0e-3, schedule: {{type: cosine, warmup_steps: 5}}}}
checkpoint: {{every: {every}, keep_last: 0}}
"""


def shape(family, hidden, layers, heads, kv_heads, ffn, sequence, **more):
    """What CONFIG leaves open; `more` are further keys of the model."""
    keys = dict(model_type=family, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
                num_key_value_heads=kv_heads, intermediate_size=ffn, **more)
    if family == "gpt2":  # it has no such key
        del keys["num_key_value_heads"]
    return dict(model=", ".join(f"{key}: {value}" for key, value in keys.items()), sequence=sequence)


SMALL = shape("llama", hidden=192, layers=4, heads=3, kv_heads=3, ffn=512, sequence=256)
TINY = shape("llama", hidden=48, layers=2, heads=3, kv_heads=1, ffn=96, sequence=64)
EXPERTS = dict(num_local_experts=8, num_experts_per_tok=2)
SMALL_EXPERTS = shape("mixtral", hidden=192, layers=4, heads=3, kv_heads=3, ffn=256, sequence=256, **EXPERTS)
TINY_EXPERTS = shape("mixtral", hidden=48, layers=2, heads=3, kv_heads=1, ffn=48, sequence=64, **EXPERTS)


def write_text(path, count):
    """Sentences that a small model learns in some steps."""
    draw = random.Random(7)
    nouns = "ship sea captain wind island harbour sail oar rock star".split()
    verbs = "sees follows leaves fears reaches forgets loves".split()
    lines = []
    for _ in range(count):
        a, b, c = (draw.choice(nouns) for _ in range(3))
        lines.append(f"The {a} {draw.choice(verbs)} the {b}, and the {c} {draw.choice(verbs)} the {a}.")
    path.write_text("\n".join(lines) + "\n")


class Runs:
    """The corpus, the configuration, and runs of it."""

    def __init__(self, runner, folder, device, sizes):
        self.runner, self.folder, self.device = runner, folder, device
        self.config = folder / "config.yaml"
        folder.mkdir(parents=True, exist_ok=True)
        self.config.write_text(CONFIG.format(folder=folder, steps=STEPS, every=SAVE_EVERY, **sizes))

    def make_text(self, timeout):
        if (self.folder / "text.bin").exists():
            return
        write_text(self.folder / "text.txt", 40000)
        self.trireme(["data", "tokenize", self.folder / "text.txt", "--tokenizer", "bytes", "--out",
                      self.folder / "text"], timeout)

    def trireme(self, arguments, timeout, ranks=1):
        command, variables = [self.runner.programs.path("trireme"), *arguments], None
        if ranks > 1:
            command, variables = mpi_command(self.runner, ranks, command)
        status, text = self.runner.command(command, timeout, variables)
        if status != 0:
            raise Outcome(FAILED, f"trireme {arguments[0]} ended with {status}: {tail(text, 2)}")
        return text

    def train(self, name, sets, timeout, ranks=1):
        """Trains in runs/NAME; returns the losses."""
        self.make_text(timeout)
        run = self.folder / "runs" / name
        all_sets = [f"run.dir={run}", *sets]
        self.trireme(["train", self.config, *(word for one in all_sets for word in ("--set", one))], timeout, ranks)
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        return [row["loss"] for row in rows]

    def on_gpu(self, name, sets, timeout, **more):
        return self.train(name, [f"run.device={self.device}", *sets], timeout, **more)

    def state(self, name):
        """A hash of the last checkpoint's weights and optimizer states."""
        last = sorted((self.folder / "runs" / name / "checkpoints").glob("step-*"))[-1]
        digest = hashlib.sha256()
        for file in sorted(last.glob("*.safetensors")):
            digest.update(file.name.encode() + file.read_bytes())
        return last.name, digest.hexdigest()

    def forget(self, name, after):
        """Removes the checkpoints behind step `after`; choices that a resume takes up again stay."""
        for checkpoint in (self.folder / "runs" / name / "checkpoints").glob("step-*"):
            if int(checkpoint.name.split("-")[1]) > after:
                shutil.rmtree(checkpoint)


def largest_difference(losses, reference):
    if len(losses) != len(reference):
        raise Outcome(FAILED, f"{len(losses)} steps, and the CPU made {len(reference)}")
    return max(abs(a - b) / b for a, b in zip(losses, reference))


def compare_losses(runs, fp32_bound=FP32_BOUND, bf16_bound=BF16_BOUND):
    def body(runner, timeout):
        reference = runs.train("cpu", ["run.device=cpu", "precision.compute=fp32"], timeout)
        fp32 = runs.on_gpu("gpu-fp32", ["precision.compute=fp32"], timeout)
        bf16 = runs.on_gpu("gpu-bf16", ["precision.compute=bf16"], timeout)
        errors = largest_difference(fp32, reference), largest_difference(bf16, reference)
        data = dict(cpu=reference, fp32=fp32, bf16=bf16)
        text = (f"loss {reference[0]:.3f} → {reference[-1]:.3f}; largest difference from the CPU's fp32: "
                f"{errors[0]:.1e} in fp32, {errors[1]:.1e} in bf16")
        if errors[0] > fp32_bound or errors[1] > bf16_bound:
            raise Outcome(FAILED, f"{text} (bounds {fp32_bound:g}, {bf16_bound:g})", **data)
        if reference[-1] > 0.8 * reference[0]:
            raise Outcome(FAILED, f"nothing was learnt: {text}", **data)
        return text, data
    return body


def resume_and_repeat(runs, name, sets):
    """A run, the same again from its middle, the same again from the start: equal bits."""
    def body(runner, timeout):
        runs.on_gpu(name, sets, timeout)
        whole = runs.state(name)
        runs.forget(name, SAVE_EVERY)
        runs.on_gpu(name, sets, timeout)
        if runs.state(name) != whole:
            raise Outcome(FAILED, f"resumed at step {SAVE_EVERY}, {whole[0]} has other bits")
        runs.forget(name, 0)
        runs.on_gpu(name, sets, timeout)
        if runs.state(name) != whole:
            raise Outcome(FAILED, f"run again, {whole[0]} has other bits")
        return f"{whole[0]}: the same bits after a stop at {SAVE_EVERY}, and run after run", {}
    return body


def several_ranks(runs):
    """Two or more ranks have the losses of one: NCCL with a GPU for each, or MPI on a GPU that they share."""
    def body(runner, timeout):
        gpus = doctor(runner, timeout)[1]["gpus"]
        ranks, backend = (min(gpus, 4), "nccl") if gpus > 1 else (2, "mpi")
        sets = ["precision.compute=fp32", "batch.micro=4"]
        one = runs.on_gpu("one-rank", sets, timeout)
        many = runs.on_gpu("ranks", [*sets, f"parallel.backend={backend}", "run.threads=2"], timeout, ranks=ranks)
        error = largest_difference(many, one)
        text = f"{ranks} ranks through {backend}: largest difference of the loss from one rank's {error:.1e}"
        if error > FP32_BOUND:
            raise Outcome(FAILED, text)
        return text, {}
    return body


def steps(runner, folder, device, tiny):
    runs = Runs(runner, folder, device, TINY if tiny else SMALL)
    experts = Runs(runner, folder / "experts", device, TINY_EXPERTS if tiny else SMALL_EXPERTS)
    return [
        Step("losses beside the CPU's", "training", 300, 30, compare_losses(runs)),
        Step("resumed and repeated in fp32", "training", 180, 30,
             resume_and_repeat(runs, "repeat-fp32", ["precision.compute=fp32"])),
        Step("resumed and repeated in bf16", "training", 180, 30,
             resume_and_repeat(runs, "repeat-bf16", ["precision.compute=bf16"])),
        Step("resumed and repeated, everything in bf16", "training", 180, 30,
             resume_and_repeat(runs, "repeat-all-bf16", ["precision.compute=bf16", "precision.master=none",
                                                         "precision.gradients=bf16", "precision.optimizer_states=bf16"])),
        Step("several ranks have the losses of one", "training", 180, 30, several_ranks(runs)),
        Step("with experts: losses beside the CPU's", "training", 300, 30,
             compare_losses(experts, EXPERTS_BOUND, 2 * EXPERTS_BOUND)),
        Step("with experts: resumed and repeated in bf16", "training", 180, 30,
             resume_and_repeat(experts, "repeat-bf16", ["precision.compute=bf16"])),
    ]
