#!/usr/bin/env python3
"""Writes the golden files: tiny Hugging Face models, trained for three steps in fp64 by PyTorch and transformers.

    python tests/oracle/make_golden.py                  # writes tests/oracle/golden/*
    python tests/oracle/make_golden.py --check          # recomputes from the committed files and compares
    python tests/oracle/make_golden.py --case llama     # one case only

See README.md in this folder for what each file holds.
"""

import argparse
import json
import pathlib
import re
import shutil
import sys

import numpy as np
import torch
import transformers
from safetensors.numpy import load_file, save_file
from torch.overrides import TorchFunctionMode

import measure
from cases import CASES, OPTIMIZER, STEPS
from prediction import PREDICTION_COEF, PredictingDeepseekV3

GOLDEN = pathlib.Path(__file__).parent / "golden"
IGNORED = -100

FAMILIES = {
    "gpt2": (transformers.GPT2Config, transformers.GPT2LMHeadModel),
    "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
    "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
    "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM),
    "mixtral": (transformers.MixtralConfig, transformers.MixtralForCausalLM),
    "qwen2_moe": (transformers.Qwen2MoeConfig, transformers.Qwen2MoeForCausalLM),
    "qwen3_moe": (transformers.Qwen3MoeConfig, transformers.Qwen3MoeForCausalLM),
    "deepseek_v2": (transformers.DeepseekV2Config, transformers.DeepseekV2ForCausalLM),
    "deepseek_v3": (transformers.DeepseekV3Config, PredictingDeepseekV3),
}
MOE_FAMILIES = ["mixtral", "qwen2_moe", "qwen3_moe", "deepseek_v2", "deepseek_v3"]
ROUTER_SCALE = 3.0  # of initial router weights, so that experts are chosen clearly
MARGIN = 1e-3  # of every choice of experts; at least BF16_MARGIN in the first step
BF16_MARGIN = 0.02


class Fp64Only(TorchFunctionMode):
    """Turns every request for fp32 into fp64 and refuses any fp32 result.

    transformers casts to fp32 inside norms, softmax and rotary angles whatever the dtype of the model, so a model
    in fp64 alone would still be rounded to fp32 in the middle.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.Tensor.float:
            func = torch.Tensor.double
        args = tuple(torch.float64 if a is torch.float32 else a for a in args)
        kwargs = {k: torch.float64 if v is torch.float32 else v for k, v in (kwargs or {}).items()}
        result = func(*args, **kwargs)
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor) and tensor.dtype in (torch.float32, torch.bfloat16, torch.float16):
                raise AssertionError(f"{func} gave a {tensor.dtype} tensor in a fp64 computation")
        return result


def implementation(case):
    experts = {"experts_implementation": "eager"} if case.family in MOE_FAMILIES else {}
    return {"attn_implementation": "eager"} | experts


def make_config(case):
    config_class, _ = FAMILIES[case.family]
    return config_class(**case.config, use_cache=False, **implementation(case))


# In memory transformers 5 joins the experts of a layer: gate_up_proj [E, 2F, C] and down_proj [E, C, F]. In files, and
# here in what is compared, they stand apart.

def block_of(case):
    return "block_sparse_moe" if case.family == "mixtral" else "mlp"


def expert_matrices(case):
    return ("w1", "w3", "w2") if case.family == "mixtral" else ("gate_proj", "up_proj", "down_proj")


def apart(case, name, value):
    """The tensors of the file, {name: array}, of one in memory."""
    joined = re.fullmatch(r"(.*)\.mlp\.experts\.(gate_up_proj|down_proj)", name)
    if not joined:
        if case.family == "mixtral":
            name = name.replace(".mlp.", ".block_sparse_moe.")
        return {name: value}
    gate, up, down = expert_matrices(case)
    result = {}
    for e, matrix in enumerate(value):
        prefix = f"{joined[1]}.{block_of(case)}.experts.{e}"
        if joined[2] == "down_proj":
            result[f"{prefix}.{down}.weight"] = matrix.copy()
        else:
            half = matrix.shape[0] // 2
            result |= {f"{prefix}.{gate}.weight": matrix[:half].copy(), f"{prefix}.{up}.weight": matrix[half:].copy()}
    return result


def joined(case, weights):
    """The tensors in memory of those of the file."""
    result = {}
    experts = {}
    for name, value in weights.items():
        found = re.fullmatch(rf"(.*)\.{block_of(case)}\.experts\.(\d+)\.(\w+)\.weight", name)
        if found:
            experts.setdefault(found[1], {})[int(found[2]), found[3]] = value
        else:
            result[name.replace(".block_sparse_moe.", ".mlp.")] = value
    gate, up, down = expert_matrices(case)
    for prefix, matrices in experts.items():
        count = 1 + max(e for e, _ in matrices)
        both = [np.concatenate([matrices[e, gate], matrices[e, up]]) for e in range(count)]
        result[f"{prefix}.mlp.experts.gate_up_proj"] = np.stack(both)
        result[f"{prefix}.mlp.experts.down_proj"] = np.stack([matrices[e, down] for e in range(count)])
    return result


def routers(model):
    kinds = ("TopKRouter", "TopkRouter")
    return {name: module for name, module in model.named_modules() if type(module).__name__.endswith(kinds)}


def make_weights(case, directory):
    """Writes config.json and the weights: Hugging Face's own initial values, biases and norms perturbed."""
    torch.manual_seed(case.seed)
    _, model_class = FAMILIES[case.family]
    model = model_class(make_config(case)).float()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.03 * torch.randn(parameter.shape))
        for router in routers(model).values():
            router.weight.mul_(ROUTER_SCALE)
            if hasattr(router, "e_score_correction_bias"):
                router.e_score_correction_bias.copy_(0.3 * torch.randn(router.e_score_correction_bias.shape))
    model.save_pretrained(directory, max_shard_size=case.max_shard_size)
    (directory / "generation_config.json").unlink(missing_ok=True)
    path = directory / "config.json"
    config = json.loads(path.read_text())
    if model_class is PredictingDeepseekV3:  # a name of ours
        config["architectures"] = ["DeepseekV3ForCausalLM"]
    if case.old_config:
        rope = config.pop("rope_parameters")
        config["rope_theta"] = rope.pop("rope_theta")
        config["rope_scaling"] = {"type": rope.pop("rope_type"), **rope}
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def document_positions(generator, batch, sequence):
    """Positions that restart at 0 where a document begins; row 0 is one document, row 1 has documents of one token."""
    positions = np.zeros((batch, sequence), dtype=np.int64)
    for b in range(batch):
        t = 0
        while t < sequence:
            length = int(generator.integers(1, 9)) if b else sequence
            if b == 1 and t < 2:
                length = 1
            length = min(length, sequence - t)
            positions[b, t:t + length] = np.arange(length)
            t += length
    return positions


def make_tokens(case):
    """Tokens of all steps; labels are the next token, and -100 at a document's end and a few other places."""
    generator = np.random.default_rng(case.seed)
    vocab = case.config["vocab_size"]
    shape = (STEPS, case.batch, case.sequence)
    # A skewed draw: some tokens come often, so embedding rows sum over positions, others never.
    stream = np.minimum(generator.exponential(vocab / 4, (*shape[:2], case.sequence + 1)), vocab - 1).astype(np.int64)
    stream[0, 0, 0] = vocab - 1
    tokens = {"input_ids": stream[:, :, :-1].copy(), "labels": stream[:, :, 1:].copy()}
    if case.documents:
        positions = np.stack([document_positions(generator, case.batch, case.sequence) for _ in range(STEPS)])
        ends = np.ones(shape, dtype=bool)
        ends[:, :, :-1] = positions[:, :, 1:] == 0
        ends[:, :, -1] = False  # the last token of the window has a label: its document may go on
        tokens["labels"][ends | (generator.random(shape) < 0.1)] = IGNORED
        tokens["position_ids"] = positions
    return tokens


def attention_mask(positions, dtype):
    """[B, 1, T, T] additive: query t sees key u if u <= t and both lie in the same document."""
    document = (positions == 0).cumsum(-1)
    same = document[:, None, :, None] == document[:, None, None, :]
    causal = torch.ones(positions.shape[-1], positions.shape[-1], dtype=torch.bool).tril()
    return torch.zeros(same.shape, dtype=dtype).masked_fill(~(same & causal), torch.finfo(dtype).min)


def read_weights(directory):
    weights = {}
    for path in sorted(directory.glob("model*.safetensors")):
        weights |= load_file(path)
    return weights


def load_model(case, directory, dtype):
    """The model of `directory` in `dtype`; call it inside Fp64Only for fp64."""
    config_class, model_class = FAMILIES[case.family]
    config = config_class.from_pretrained(directory, **implementation(case))
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        model = model_class(config)
    finally:
        torch.set_default_dtype(default)
    weights = joined(case, read_weights(directory))
    weights = {name: torch.from_numpy(value).to(dtype) for name, value in weights.items()}
    assert set(weights) == set(all_weights(model)), sorted(weights)
    missing = model.load_state_dict(weights, strict=False).missing_keys
    assert set(missing) <= {"lm_head.weight"}, missing
    assert bool(missing) == bool(config.tie_word_embeddings), missing
    model.tie_weights()
    return model.to(dtype).train()


def all_weights(model):
    """{name: tensor} of parameters, and of buffers that stand in a file: those are never trained."""
    buffers = {name: value for name, value in model.named_buffers() if name.endswith("e_score_correction_bias")}
    return dict(model.named_parameters()) | buffers


def choice_margins(router, logits):
    """How far each choice of a router was from another one: the least difference of two logits of which one was chosen
    and the other was not; for each token. Where a bias is added to sigmoids, four times the difference of these sums:
    the slope of a sigmoid is at most a quarter."""
    logits = logits.detach().double()
    biased = hasattr(router, "e_score_correction_bias")
    scores = 4 * (logits.sigmoid() + router.e_score_correction_bias) if biased else logits
    margins = torch.full(scores.shape[:1], torch.inf, dtype=torch.float64)
    groups = getattr(router, "num_group", None) or 1
    if groups > 1:
        best = scores.view(len(scores), groups, -1).topk(2 if biased else 1, dim=-1)[0].sum(-1)
        top, chosen = best.topk(router.topk_group + 1, dim=-1)
        margins = top[:, -2] - top[:, -1]
        allowed = torch.zeros_like(best).scatter_(1, chosen[:, :-1], 1.0).bool()
        allowed = allowed.repeat_interleave(scores.shape[1] // groups, dim=1)
        scores = scores.masked_fill(~allowed, -torch.inf)
    top = scores.topk(router.top_k + 1, dim=-1)[0]
    return torch.minimum(margins, top[:, -2] - top[:, -1])


def check_margins(case, directory, tokens, clip):
    """No choice of experts may hang on rounding: in no step within fp32's, in the first one not within bf16's."""
    least = []
    loads = {}

    def note(router, _, output):
        least[-1].append(choice_margins(router, output[0]).min().item())
        if len(least) == 1:
            loads[router] = torch.bincount(output[2].flatten(), minlength=router.weight.shape[0])

    def watch(model):
        for router in routers(model).values():
            router.register_forward_hook(note)

    train(case, directory, tokens, torch.float64, clip, watch=watch, on_step=lambda: least.append([]))
    assert all((counts > 0).all() for counts in loads.values()), (case.name, "an expert without tokens")
    return [min(step, default=np.inf) for step in least]


def forward(model, tokens, step, dtype):
    """Logits [B, T, V] of one step."""
    extra = {}
    if "position_ids" in tokens:
        positions = torch.from_numpy(tokens["position_ids"][step])
        extra = {"position_ids": positions, "attention_mask": attention_mask(positions, dtype)}
    return model(input_ids=torch.from_numpy(tokens["input_ids"][step]), use_cache=False, **extra).logits


def prediction_loss(model, tokens, step, dtype):
    """The mean of the losses of all modules of multi-token prediction, behind `forward`; None without modules."""
    if not getattr(model.config, "num_mtp_layers", 0):
        return None
    ids = torch.from_numpy(tokens["input_ids"][step])
    labels = torch.from_numpy(tokens["labels"][step])
    if "position_ids" in tokens:
        positions = torch.from_numpy(tokens["position_ids"][step])
    else:
        positions = torch.arange(ids.shape[1]).expand(ids.shape)
    losses = model.prediction_losses(ids, labels, positions, attention_mask(positions, dtype))
    return sum(losses) / len(losses)


def train(case, directory, tokens, dtype, clip, watch=lambda model: None, on_step=lambda: None):
    """Runs the steps; returns what `expected.safetensors` holds, as fp64 arrays."""
    model = load_model(case, directory, dtype)
    watch(model)
    predicts = getattr(model.config, "num_mtp_layers", 0) > 0
    if predicts:
        model.watch_hidden()
    named = dict(model.named_parameters())
    decayed = [p for p in named.values() if p.dim() >= 2]
    rest = [p for p in named.values() if p.dim() < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": OPTIMIZER["weight_decay"]}, {"params": rest, "weight_decay": 0.0}],
        lr=OPTIMIZER["lr"], betas=tuple(OPTIMIZER["betas"]), eps=OPTIMIZER["eps"])
    result = {"loss": np.zeros(STEPS), "grad_norm": np.zeros(STEPS)}
    if predicts:
        result["prediction_loss"] = np.zeros(STEPS)
    for step in range(STEPS):
        optimizer.zero_grad()
        on_step()
        logits = forward(model, tokens, step, dtype)
        labels = torch.from_numpy(tokens["labels"][step])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
        total = loss
        if predicts:
            further = prediction_loss(model, tokens, step, dtype)
            result["prediction_loss"][step] = further.item()
            total = loss + PREDICTION_COEF * further
        total.backward()
        grad_norm = torch.sqrt(sum(p.grad.double().square().sum() for p in named.values()))
        result["loss"][step] = loss.item()
        result["grad_norm"][step] = grad_norm.item()
        if step == 0:
            result["logits"] = logits.detach().double().numpy().copy()
            for name, p in named.items():
                for part, value in apart(case, name, p.grad.double().numpy()).items():
                    result[f"grad.{part}"] = value.copy()
        factor = min(1.0, clip / (grad_norm.item() + 1e-6))
        with torch.no_grad():
            for p in named.values():
                p.grad.mul_(factor)
        optimizer.step()
    for name, p in all_weights(model).items():
        for part, value in apart(case, name, p.detach().double().numpy()).items():
            result[f"weight.{part}"] = value.copy()
    return result


def check_documents(case, directory, tokens):
    """Each document alone, without any mask of ours, must give the logits that it has inside the window."""
    model = load_model(case, directory, torch.float64)
    with torch.no_grad():
        whole = forward(model, tokens, 0, torch.float64)
        for b, positions in enumerate(tokens["position_ids"][0]):
            starts = [*np.flatnonzero(positions == 0), case.sequence]
            for begin, end in zip(starts, starts[1:]):
                alone = model(input_ids=torch.from_numpy(tokens["input_ids"][0, b:b + 1, begin:end])).logits[0]
                assert torch.allclose(alone, whole[b, begin:end], rtol=1e-11, atol=1e-11), (case.name, b, begin, end)


def check_moved(case, result, before):
    """Every tensor with a gradient above the floor moved; else a wrong optimizer could hide."""
    floor = measure.FLOOR * measure.largest_norms(result)["grad"]
    for name, old in before.items():
        if f"grad.{name}" not in result:
            assert np.array_equal(result[f"weight.{name}"], old), (case.name, name, "a buffer changed")
            continue
        if measure.norm(result[f"grad.{name}"]) <= floor:
            print(f"  {case.name}: the gradient of {name} lies under the floor")
            continue
        moved = np.sqrt(np.mean((result[f"weight.{name}"] - old.astype(np.float64)) ** 2))
        assert moved >= OPTIMIZER["lr"] / 10, (case.name, name, moved)


def choose_clip(case, directory, tokens):
    """Half of the smallest gradient norm, to two digits, or a threshold that no norm reaches."""
    if not case.clip_active:
        return 1000.0
    norms = train(case, directory, tokens, torch.float64, clip=float("inf"))["grad_norm"]
    return float(f"{0.5 * norms.min():.2g}")


def stored(result):
    """As in the file: numbers per step in F64, tensors in F32."""
    return {name: value if name in ("loss", "prediction_loss", "grad_norm") else value.astype(np.float32)
            for name, value in result.items()}


def make_case(case, root):
    directory = root / case.name
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    make_weights(case, directory)
    tokens = make_tokens(case)
    save_file(tokens, directory / "tokens.safetensors")
    with Fp64Only():
        clip = choose_clip(case, directory, tokens)
        result = train(case, directory, tokens, torch.float64, clip)
        if case.family in MOE_FAMILIES:
            margins = check_margins(case, directory, tokens, clip)
            assert margins[0] >= BF16_MARGIN and min(margins) >= MARGIN, (case.name, margins)
        if case.documents:
            check_documents(case, directory, tokens)
    assert all((norm > clip) == case.clip_active for norm in result["grad_norm"]), (clip, result["grad_norm"])
    check_moved(case, result, read_weights(directory))
    save_file(stored(result), directory / "expected.safetensors")
    description = {
        "name": case.name, "family": case.family, "steps": STEPS, "batch": case.batch, "sequence": case.sequence,
        "documents": case.documents, "clip_active": case.clip_active,
        "optimizer": OPTIMIZER | {"clip_grad_norm": clip, "schedule": {"type": "constant", "warmup_steps": 0}},
    }
    (directory / "case.json").write_text(json.dumps(description, indent=2) + "\n")
    for path in directory.iterdir():
        path.chmod(0o644)
    return directory


def fp32_errors(case, directory):
    """torch's own fp32 run, measured against the fp64 one."""
    tokens = load_file(directory / "tokens.safetensors")
    clip = json.loads((directory / "case.json").read_text())["optimizer"]["clip_grad_norm"]
    return measure.worst(measure.errors(train(case, directory, tokens, torch.float32, clip),
                                        load_file(directory / "expected.safetensors")))


def check_case(case, root):
    """Recomputes the committed case from its own files; returns the worst error."""
    directory = root / case.name
    tokens = load_file(directory / "tokens.safetensors")
    clip = json.loads((directory / "case.json").read_text())["optimizer"]["clip_grad_norm"]
    with Fp64Only():
        result = train(case, directory, tokens, torch.float64, clip)
    found = measure.errors(stored(result), load_file(directory / "expected.safetensors"))
    return max(found.values())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=GOLDEN, help="folder of the cases")
    parser.add_argument("--case", action="append", help="only this case (may be repeated)")
    parser.add_argument("--check", action="store_true", help="recompute and compare instead of writing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    names = [case.name for case in CASES]
    for name in options.case or []:
        if name not in names:
            parser.error(f"no case {name!r}; there are {', '.join(names)}")
    cases = [case for case in CASES if not options.case or case.name in options.case]
    if options.check:
        worst = {case.name: check_case(case, options.out) for case in cases}
        for name, error in worst.items():
            print(f"{name:20} {error:.1e}")
        sys.exit(0 if max(worst.values()) < 1e-7 else 1)
    kinds = ["loss", "grad_norm", "logits", "grad", "weight"]
    print("| case | " + " | ".join(kinds) + " | KiB |\n|---|" + "---|" * (len(kinds) + 1))
    for case in cases:
        directory = make_case(case, options.out)
        errors = fp32_errors(case, directory)
        size = sum(path.stat().st_size for path in directory.iterdir())
        print(f"| {case.name} | " + " | ".join(f"{errors[kind][0]:.1e}" for kind in kinds) + f" | {size / 1024:.0f} |",
              flush=True)


if __name__ == "__main__":
    main()
