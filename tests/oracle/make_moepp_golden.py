#!/usr/bin/env python3
"""Writes golden/moe_plusplus*: a tiny Qwen3-MoE whose feed-forward halves are those of MoE++, trained in fp64 by PyTorch.

    python tests/oracle/make_moepp_golden.py            # writes the cases of CASES below
    python tests/oracle/make_moepp_golden.py --check    # recomputes from the committed files and compares

No published code is behind it: the layer below is written down from the formulas of Jin et al. 2024, "MoE++: Accelerating
Mixture-of-Experts Methods with Zero-Computation Experts" (equations 1 to 7), one expert at a time; the rest of the model is
transformers'. Two things are ours: the weights of the chosen are divided by their sum, as Qwen3-MoE does; and the balance
loss is coef · E · Σ_e η_e · f_e · P_e of each sequence, f_e the share of slots, summed over layers. The files have the format
of the other cases (README.md), and their losses are cross-entropy alone, while gradients are of the sum.
"""

import argparse
import dataclasses
import json
import pathlib
import sys

import numpy as np
import torch
import transformers
from safetensors.numpy import load_file, save_file
from torch import nn

import measure
from cases import OPTIMIZER, STEPS, decoder
from make_golden import BF16_MARGIN, GOLDEN, MARGIN, Fp64Only

COEF = 0.05  # of the balance loss: large, so that it shows in the gradients


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    config: dict
    batch: int
    sequence: int
    zero: int
    copy: int
    constant: int
    share: float  # τ
    residual: bool
    clip: float
    seed: int


BASE = decoder(vocab_size=59, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=4, head_dim=6,
               intermediate_size=21, moe_intermediate_size=7, num_experts=4, num_experts_per_tok=3, norm_topk_prob=True)
CASES = [
    Case("moe_plusplus", BASE, batch=4, sequence=7, zero=1, copy=1, constant=2, share=0.3, residual=False, clip=0.5,
         seed=23),
    # Four layers, of which the second is dense and hands on the logits of the first.
    Case("moe_plusplus_residual", BASE | dict(num_hidden_layers=4, mlp_only_layers=[1], vocab_size=47), batch=4,
         sequence=5, zero=1, copy=1, constant=1, share=0.75, residual=True, clip=0.5, seed=1),
]


class Feed(nn.Module):
    """One real expert."""

    def __init__(self, hidden, width):
        super().__init__()
        self.gate_proj = nn.Linear(hidden, width, bias=False)
        self.up_proj = nn.Linear(hidden, width, bias=False)
        self.down_proj = nn.Linear(width, hidden, bias=False)

    def forward(self, x):
        return self.down_proj(nn.functional.silu(self.gate_proj(x)) * self.up_proj(x))


class Constant(nn.Module):
    """E(x) = α1·x + α2·v, [α1, α2] = softmax(W·x)  (eq. 5)"""

    def __init__(self, hidden):
        super().__init__()
        self.vector = nn.Parameter(torch.empty(hidden))
        self.mix = nn.Linear(hidden, 2, bias=False)

    def forward(self, x):
        alpha = self.mix(x).softmax(-1)
        return alpha[..., :1] * x + alpha[..., 1:] * self.vector


class PlusPlus(nn.Module):
    def __init__(self, case, first):
        super().__init__()
        hidden = case.config["hidden_size"]
        real = case.config["num_experts"]
        self.case = case
        self.num = real + case.zero + case.copy + case.constant
        self.gate = nn.Linear(hidden, self.num, bias=False)
        self.experts = nn.ModuleList(Feed(hidden, case.config["moe_intermediate_size"]) for _ in range(real))
        self.constant_experts = nn.ModuleList(Constant(hidden) for _ in range(case.constant))
        if case.residual and not first:
            self.gate_residual = nn.Linear(self.num, self.num, bias=False)

    def forward(self, x):
        case = self.case
        logits = self.gate(x)  # [B, T, E]
        if hasattr(self, "gate_residual"):
            logits = logits + self.gate_residual(self.before.logits)  # eq. 6
        self.logits = logits
        p = logits.softmax(-1)
        top, chosen = p.topk(case.config["num_experts_per_tok"], dim=-1)
        weights = top / top.sum(-1, keepdim=True)
        y = torch.zeros_like(x)
        for e in range(self.num):
            weight = (weights * (chosen == e)).sum(-1, keepdim=True)  # 0 where it isn't chosen
            number = e - len(self.experts)
            if number < 0:
                y = y + weight * self.experts[e](x)
            elif number < case.zero:
                y = y + weight * torch.zeros_like(x)  # eq. 3
            elif number < case.zero + case.copy:
                y = y + weight * x  # eq. 4
            else:
                y = y + weight * self.constant_experts[number - case.zero - case.copy](x)
        self.loss = self.balance(p, chosen)
        sorted_logits = logits.detach().sort(-1, descending=True)[0]
        k = case.config["num_experts_per_tok"]
        self.margin = (sorted_logits[..., k - 1] - sorted_logits[..., k]).min().item()
        self.counts = torch.bincount(chosen.flatten(), minlength=self.num)
        return y

    def balance(self, p, chosen):
        """coef · E · Σ η·f·P of each sequence; their mean (eq. 7 but for the factor E and its units of f)."""
        eta = torch.ones(self.num, dtype=p.dtype)
        eta[len(self.experts):] = self.case.share
        total = 0
        for b in range(p.shape[0]):
            f = torch.bincount(chosen[b].flatten(), minlength=self.num).to(p.dtype) / chosen[b].numel()
            total = total + COEF * self.num * (eta * f * p[b].mean(0)).sum()
        return total / p.shape[0]


def make_model(case, dtype):
    config = transformers.Qwen3MoeConfig(**case.config, use_cache=False, attn_implementation="eager")
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        model = transformers.Qwen3MoeForCausalLM(config)
        layers = model.model.layers
        dense = case.config.get("mlp_only_layers", [])
        halves = []
        for i, layer in enumerate(layers):
            if i in dense:
                continue
            layer.mlp = PlusPlus(case, first=not halves)
            # The layer with experts in front: not a submodule, so that it has no second name.
            object.__setattr__(layer.mlp, "before", halves[-1] if halves else None)
            halves.append(layer.mlp)
    finally:
        torch.set_default_dtype(default)
    return model


def make_weights(case, directory):
    torch.manual_seed(case.seed)
    model = make_model(case, torch.float32)
    spread = case.config["initializer_range"]
    with torch.no_grad():
        for name, p in model.named_parameters():
            if ".mlp." in name:
                p.normal_(0, spread)
            if name.endswith("mlp.gate.weight"):
                p.mul_(3)
            if name.endswith((".mix.weight", ".vector", ".gate_residual.weight")):
                p.mul_(4)
            if p.dim() == 1 and not name.endswith(".vector"):
                p.add_(0.03 * torch.randn(p.shape))
    save_file({name: p.detach().numpy().copy() for name, p in model.named_parameters()},
              directory / "model.safetensors", metadata={"format": "pt"})
    config = model.config.to_dict()
    config["architectures"] = ["Qwen3MoeForCausalLM"]
    (directory / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def make_tokens(case):
    generator = np.random.default_rng(case.seed)
    vocab = case.config["vocab_size"]
    stream = generator.integers(0, vocab, (STEPS, case.batch, case.sequence + 1), dtype=np.int64)
    return {"input_ids": stream[:, :, :-1].copy(), "labels": stream[:, :, 1:].copy()}


def train(case, directory, tokens, dtype):
    model = make_model(case, dtype)
    weights = {n: torch.from_numpy(v).to(dtype) for n, v in load_file(directory / "model.safetensors").items()}
    model.load_state_dict(weights, strict=True)
    model = model.to(dtype).train()
    named = dict(model.named_parameters())
    decayed = [p for p in named.values() if p.dim() >= 2]
    rest = [p for p in named.values() if p.dim() < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": OPTIMIZER["weight_decay"]}, {"params": rest, "weight_decay": 0.0}],
        lr=OPTIMIZER["lr"], betas=tuple(OPTIMIZER["betas"]), eps=OPTIMIZER["eps"])
    halves = [layer.mlp for layer in model.model.layers if isinstance(layer.mlp, PlusPlus)]
    result = {"loss": np.zeros(STEPS), "grad_norm": np.zeros(STEPS)}
    margins = []
    for step in range(STEPS):
        optimizer.zero_grad()
        logits = model(input_ids=torch.from_numpy(tokens["input_ids"][step]), use_cache=False).logits
        labels = torch.from_numpy(tokens["labels"][step])
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        (loss + sum(half.loss for half in halves)).backward()
        margins.append(min(half.margin for half in halves))
        if step == 0:
            assert all((half.counts > 0).all() for half in halves), (case.name, [h.counts for h in halves])
        norm = torch.sqrt(sum(p.grad.double().square().sum() for p in named.values()))
        result["loss"][step] = loss.item()
        result["grad_norm"][step] = norm.item()
        if step == 0:
            result["logits"] = logits.detach().double().numpy().copy()
            result |= {f"grad.{name}": p.grad.double().numpy().copy() for name, p in named.items()}
        factor = min(1.0, case.clip / (norm.item() + 1e-6))
        with torch.no_grad():
            for p in named.values():
                p.grad.mul_(factor)
        optimizer.step()
    result |= {f"weight.{name}": p.detach().double().numpy().copy() for name, p in named.items()}
    return result, margins


def train64(case, directory, tokens):
    with Fp64Only():
        return train(case, directory, tokens, torch.float64)


def stored(result):
    return {name: value if name in ("loss", "grad_norm") else value.astype(np.float32)
            for name, value in result.items()}


def sets_of(case):
    return [f"moe.zero_experts={case.zero}", f"moe.copy_experts={case.copy}", f"moe.constant_experts={case.constant}",
            f"moe.constant_share={case.share}", f"moe.gating_residual={str(case.residual).lower()}",
            f"moe.aux_loss_coef={COEF}", "moe.aux_scope=sequence"]


def make_case(case):
    """Tries seeds, the case's first, until no choice hangs on rounding."""
    directory = GOLDEN / case.name
    directory.mkdir(exist_ok=True)
    for seed in range(case.seed, case.seed + 3000):
        case = dataclasses.replace(case, seed=seed)
        make_weights(case, directory)
        tokens = make_tokens(case)
        try:
            result, margins = train64(case, directory, tokens)
        except AssertionError as e:
            if "tensor(" not in str(e):
                raise
            continue
        if margins[0] >= BF16_MARGIN and min(margins[1:]) >= MARGIN:
            break
    else:
        sys.exit(f"{case.name}: no seed has choices wide enough apart")
    assert (result["grad_norm"] > case.clip).all(), result["grad_norm"]
    save_file(tokens, directory / "tokens.safetensors")
    save_file(stored(result), directory / "expected.safetensors")
    optimizer = OPTIMIZER | {"clip_grad_norm": case.clip, "schedule": {"type": "constant", "warmup_steps": 0}}
    info = {"name": case.name, "family": "qwen3_moe", "steps": STEPS, "batch": case.batch, "sequence": case.sequence,
            "documents": False, "clip_active": True, "sets": sets_of(case), "optimizer": optimizer}
    (directory / "case.json").write_text(json.dumps(info, indent=2) + "\n")
    in_fp32, _ = train(case, directory, tokens, torch.float32)
    print(f"{case.name}: seed {case.seed}, margins {margins}, fp32 errors {measure.worst(measure.errors(in_fp32, result))}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", help="only this case (may be repeated)")
    parser.add_argument("--check", action="store_true", help="recompute and compare instead of writing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    for case in CASES:
        if options.case and case.name not in options.case:
            continue
        if not options.check:
            make_case(case)
            continue
        directory = GOLDEN / case.name
        result, _ = train64(case, directory, load_file(directory / "tokens.safetensors"))
        errors = measure.worst(measure.errors(stored(result), load_file(directory / "expected.safetensors")))
        print(case.name, errors)
        if max(error for error, _ in errors.values()) > 1e-7:
            sys.exit(1)


if __name__ == "__main__":
    main()
