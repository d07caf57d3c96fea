#!/usr/bin/env python3
"""Writes golden/moe_layer: layers with experts, in fp64 by PyTorch, from the papers' formulas.

    python tests/oracle/make_moe_golden.py              # writes tests/oracle/golden/moe_layer/*
    python tests/oracle/make_moe_golden.py --check      # recomputes from the committed inputs and compares

For what transformers has no model of: routers that couple tokens, capacity, MoE++, and losses over several microbatches.
No line here follows the C++ code; every decision is made in the plainest way. See README.md, "Layers with experts".
"""

import argparse
import dataclasses
import json
import math
import pathlib
import sys

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import measure

GOLDEN = pathlib.Path(__file__).parent / "golden" / "moe_layer"

MICROBATCHES, BATCH, SEQUENCE, HIDDEN, WIDTH = 2, 2, 16, 16, 8  # M, B, T, C, F
EXPERTS, NUM_ZERO, NUM_COPY, NUM_CONSTANT = 8, 1, 1, 2
CHOICES = EXPERTS + NUM_ZERO + NUM_COPY + NUM_CONSTANT
LAYERS = 2
BIAS_STEPS = 5
TOKENS = BATCH * SEQUENCE  # N of a microbatch
MARGIN = 1e-4              # every decision is at least so clear that fp32 makes the same


@dataclasses.dataclass(frozen=True)
class Case:
    """Keys as in ExpertsConfig and MoeConfig."""
    name: str
    router: str = "topk"
    top_k: int = 2
    scoring: str = "softmax"
    normalize: bool = True
    scaling: float = 1.0
    score_bias: bool = False
    num_groups: int = 1
    groups_per_token: int = 1
    group_score: str = "best"
    aux_scope: str = "microbatch"
    aux_loss_coef: float = 0.0
    z_loss_coef: float = 0.0
    bias_update_rate: float = 0.0
    capacity_factor: float = 0.0  # 0: none
    drop: str = "probability"
    constant_share: float = 1.0
    plus_plus: bool = False       # zero, copy and constant experts, and gating residuals over two layers

    @property
    def num_choices(self):
        return CHOICES if self.plus_plus else EXPERTS

    @property
    def num_layers(self):
        return LAYERS if self.plus_plus else 1


CASES = [
    Case("plain"),
    Case("aux_sequence", aux_scope="sequence", aux_loss_coef=2.0),
    Case("aux_microbatch", aux_scope="microbatch", aux_loss_coef=2.0),
    Case("aux_global", aux_scope="global", aux_loss_coef=2.0),
    Case("z_loss", z_loss_coef=0.5, normalize=False),
    Case("sigmoid_groups", scoring="sigmoid", score_bias=True, scaling=2.5, num_groups=4, groups_per_token=2,
         group_score="sum_of_best_two", aux_scope="sequence", aux_loss_coef=2.0),
    Case("softmax_groups", normalize=False, scaling=1.5, num_groups=2, groups_per_token=1, aux_loss_coef=2.0),
    Case("drop_probability", normalize=False, capacity_factor=1.0, aux_loss_coef=2.0),
    Case("drop_position", capacity_factor=1.0, drop="position", aux_loss_coef=2.0),
    Case("switch", router="switch_top1", top_k=1, normalize=False, capacity_factor=1.0, drop="position",
         aux_loss_coef=2.0),
    Case("expert_choice", router="expert_choice", normalize=False, capacity_factor=1.0),
    Case("base", router="base", top_k=1, scoring="sigmoid", normalize=False),
    Case("hash", router="hash"),
    Case("plus_plus", plus_plus=True, constant_share=0.75, aux_loss_coef=2.0, z_loss_coef=0.5),
    Case("plus_plus_capacity", plus_plus=True, constant_share=0.75, capacity_factor=1.0, normalize=False,
         aux_loss_coef=2.0),
    Case("bias_update", scoring="sigmoid", score_bias=True, bias_update_rate=0.02),
]


def make_inputs():
    """Everything in fp32, as it is stored; fp64 runs start from these values."""
    generator = np.random.default_rng(20265)

    def normal(*shape, scale=1.0):
        return (scale * generator.standard_normal(shape)).astype(np.float32)

    inputs = {}
    for layer in range(LAYERS):
        # Tokens share a direction, so that some experts are liked by most and capacities matter.
        x = normal(MICROBATCHES, BATCH, SEQUENCE, HIDDEN) + 0.6 * normal(HIDDEN)
        inputs |= {f"{layer}.{name}": value for name, value in {
            "x": x.astype(np.float32),
            "dy": normal(MICROBATCHES, BATCH, SEQUENCE, HIDDEN),
            "router": normal(CHOICES, HIDDEN, scale=0.25),
            "bias": normal(EXPERTS, scale=0.05),
            "residual": normal(CHOICES, CHOICES, scale=0.3),
            "gate": normal(EXPERTS, WIDTH, HIDDEN, scale=0.4),
            "up": normal(EXPERTS, WIDTH, HIDDEN, scale=0.4),
            "down": normal(EXPERTS, HIDDEN, WIDTH, scale=0.4),
            "constant_router": normal(NUM_CONSTANT, 2, HIDDEN, scale=0.4),
            "constant_value": normal(NUM_CONSTANT, HIDDEN),
        }.items()}
    # The bias update sees other tokens in each step.
    inputs["steps.x"] = (normal(BIAS_STEPS, MICROBATCHES, BATCH, SEQUENCE, HIDDEN) + 0.6 * normal(HIDDEN)).astype(
        np.float32)
    hashed = [generator.permutation(EXPERTS)[:2] for _ in range(MICROBATCHES * TOKENS)]
    inputs["hash.experts"] = np.array(hashed, dtype=np.int32).reshape(MICROBATCHES, TOKENS, 2)
    return inputs


class Decisions:
    """The smallest distance by which anything was decided."""

    def __init__(self):
        self.margin = math.inf

    def best(self, values, count):
        """Positions of the `count` greatest of a list, the greatest first."""
        order = sorted(range(len(values)), key=lambda i: (-values[i], i))
        ranked = [values[i] for i in order]
        for a, b in zip(ranked[:count], ranked[1:count + 1]):
            self.margin = min(self.margin, a - b)
        return order[:count]

    def top_k(self, case, row, bias):
        """Experts of one token, the best first (DeepSeek-V2 and -V3 for groups)."""
        values = [s + b for s, b in zip(row, bias)]
        allowed = range(len(values))
        if case.num_groups > 1:
            size = len(values) // case.num_groups
            groups = [sorted(values[g * size:(g + 1) * size], reverse=True) for g in range(case.num_groups)]
            rating = [g[0] if case.group_score == "best" else g[0] + g[1] for g in groups]
            good = set(self.best(rating, case.groups_per_token))
            allowed = [e for e in range(len(values)) if e // size in good]
        return [allowed[i] for i in self.best([values[e] for e in allowed], case.top_k)]

    def drop(self, case, chosen, scores):
        """chosen [N][K] with -1 for what is over capacity."""
        capacity = capacities(case)
        kept = [list(row) for row in chosen]
        for e in range(case.num_choices):
            pairs = [(k, t) for t, row in enumerate(chosen) for k, choice in enumerate(row) if choice == e]
            if case.drop == "position":
                stay = sorted(pairs)[:capacity[e]]
            elif len(pairs) > capacity[e]:
                stay = [pairs[i] for i in self.best([scores[t][e] for _, t in pairs], capacity[e])]
            else:
                stay = pairs
            for k, t in set(pairs) - set(stay):
                kept[t][k] = -1
        return kept

    def base(self, logits):
        """The assignment with the greatest sum; its margin is to the best one that differs in some token."""
        places = [e for e in range(EXPERTS) for _ in range(TOKENS // EXPERTS)]
        cost = np.array([[-row[e] for e in places] for row in logits])
        total, column_of = assignment(cost)
        chosen = [places[c] for c in column_of]
        for t, e in enumerate(chosen):
            other = cost.copy()
            other[t, [c for c, place in enumerate(places) if place == e]] = 1e6
            self.margin = min(self.margin, assignment(other)[0] - total)
        return [[e] for e in chosen]

    def expert_choice(self, case, scores):
        capacity = math.ceil(case.capacity_factor * case.top_k * TOKENS / EXPERTS)
        chosen = [[] for _ in range(TOKENS)]
        for e in range(EXPERTS):
            for t in self.best([row[e] for row in scores], capacity):
                chosen[t].append(e)
        return [row + [-1] * (EXPERTS - len(row)) for row in chosen]


def assignment(cost):
    """(least sum, column of each row) of a square matrix: the Hungarian method with potentials, one row at a time."""
    n = len(cost)
    u, v, row_of, way = np.zeros(n + 1), np.zeros(n + 1), np.zeros(n + 1, int), np.zeros(n + 1, int)
    for row in range(1, n + 1):
        row_of[0], column = row, 0
        slack, used = np.full(n + 1, np.inf), np.zeros(n + 1, bool)
        while row_of[column] != 0:
            used[column] = True
            reduced = cost[row_of[column] - 1] - u[row_of[column]] - v[1:]
            better = ~used[1:] & (reduced < slack[1:])
            slack[1:][better] = reduced[better]
            way[1:][better] = column
            free = np.where(used, np.inf, slack)
            free[0] = np.inf
            following = int(free.argmin())
            delta = free[following]
            u[row_of[used]] += delta
            v[used] -= delta
            slack[~used] -= delta
            column = following
        while column:
            row_of[column] = row_of[way[column]]
            column = way[column]
    columns = np.empty(n, int)
    columns[row_of[1:] - 1] = np.arange(n)
    return cost[np.arange(n), columns].sum(), columns


def capacities(case):
    """GShard, Switch; Jin et al. 2024, eq. 8, for MoE++. K·N pairs instead of one for each token."""
    pairs = case.capacity_factor * case.top_k * TOKENS
    if not case.plus_plus:
        return [math.ceil(pairs / EXPERTS)] * EXPERTS
    unit = pairs / (case.constant_share * EXPERTS + (CHOICES - EXPERTS))
    return [math.ceil(case.constant_share * unit)] * EXPERTS + [math.ceil(unit)] * (CHOICES - EXPERTS)


def decide(case, decisions, logits, scores, bias, hashed):
    """(chosen before dropping, chosen after it), i32 [N, K], from detached values."""
    logits, scores = logits.tolist(), scores.tolist()
    if case.router == "base":
        chosen = decisions.base(logits)
    elif case.router == "expert_choice":
        chosen = decisions.expert_choice(case, scores)
    elif case.router == "hash":
        chosen = hashed.tolist()
    else:
        bias = bias.tolist() if case.score_bias else [0.0] * case.num_choices
        chosen = [decisions.top_k(case, row, bias) for row in scores]
    kept = chosen
    if case.capacity_factor and case.router != "expert_choice":
        kept = decisions.drop(case, chosen, scores)
    return torch.tensor(chosen), torch.tensor(kept)


def scores_of(case, logits):
    return torch.softmax(logits, -1) if case.scoring == "softmax" else torch.sigmoid(logits)


def weights_of(case, scores, chosen, kept):
    """[N, K]: what each choice's output is multiplied with; normalized over the choices before any is dropped."""
    if case.router == "hash":
        return torch.full(chosen.shape, 1 / chosen.shape[1], dtype=scores.dtype)
    weights = scores.gather(1, chosen.clamp(min=0)) * (chosen >= 0)
    if case.normalize:
        weights = weights / (weights.sum(1, keepdim=True) + 1e-20)
    return case.scaling * weights * (kept >= 0)


def expert_output(case, weights, e, x):
    """Expert e of the rows x; MoE++ numbers zero, copy and constant experts behind the real ones."""
    if e < EXPERTS:
        gate, up, down = (weights[name][e] for name in ("gate", "up", "down"))
        return (torch.nn.functional.silu(x @ gate.T) * (x @ up.T)) @ down.T
    e -= EXPERTS
    if e < NUM_ZERO:
        return torch.zeros_like(x)
    e -= NUM_ZERO
    if e < NUM_COPY:
        return x
    e -= NUM_COPY
    mix = torch.softmax(x @ weights["constant_router"][e].T, -1)
    return mix[:, :1] * x + mix[:, 1:] * weights["constant_value"][e]


def counts_of(case, chosen):
    return torch.bincount(chosen[chosen >= 0], minlength=case.num_choices)


def balance_loss(case, scores, chosen, counts_so_far, num_so_far):
    """coef · E · Σ η_e f_e P_e: f_e the share of slots before dropping, P_e the mean of the scores over their row's sum;
    f over the sequence, the microbatch, or all microbatches so far. η = τ for experts that compute nothing."""
    p = scores / scores.sum(1, keepdim=True)
    emphasis = torch.ones(case.num_choices, dtype=p.dtype)
    emphasis[EXPERTS:] = case.constant_share
    length = SEQUENCE if case.aux_scope == "sequence" else TOKENS
    losses = []
    for begin in range(0, TOKENS, length):
        part = slice(begin, begin + length)
        counts, tokens = counts_of(case, chosen[part]), length
        if case.aux_scope == "global":
            counts, tokens = counts_so_far, TOKENS * num_so_far
        f = counts.to(p.dtype) / (chosen.shape[1] * tokens)
        losses.append(case.num_choices * (emphasis * f * p[part].mean(0)).sum())
    return case.aux_loss_coef * sum(losses) / len(losses)


def layer_weights(case, inputs, layer, dtype):
    weights = {}
    for name in ("router", "residual", "gate", "up", "down", "constant_router", "constant_value", "bias"):
        if name in ("residual", "constant_router", "constant_value") and not case.plus_plus:
            continue
        if name == "residual" and layer == 0:
            continue
        value = inputs[f"{layer}.{name}"]
        if name == "router":
            value = value[:case.num_choices]
        weights[name] = torch.tensor(value, dtype=dtype, requires_grad=name != "bias")
    return weights


def run(case, inputs, dtype, decisions, made=None):
    """What the case's file holds. `made`: decisions of another run, instead of its own."""
    layers = [layer_weights(case, inputs, layer, dtype) for layer in range(case.num_layers)]
    result = {}
    counts_so_far = [torch.zeros(case.num_choices, dtype=torch.int64) for _ in layers]
    for m in range(MICROBATCHES):
        previous = None
        objective = 0
        leaves = []
        for layer, weights in enumerate(layers):
            x = torch.tensor(inputs[f"{layer}.x"][m].reshape(TOKENS, HIDDEN), dtype=dtype, requires_grad=True)
            dy = torch.tensor(inputs[f"{layer}.dy"][m].reshape(TOKENS, HIDDEN), dtype=dtype)
            logits = x @ weights["router"].T
            if case.plus_plus and layer > 0:
                logits = logits + previous @ weights["residual"].T
            previous = logits
            scores = scores_of(case, logits)
            if made is None:
                chosen, kept = decide(case, decisions, logits.detach(), scores.detach(), weights["bias"],
                                      inputs["hash.experts"][m])
            else:
                chosen, kept = (torch.from_numpy(made[f"{layer}.{name}"][m]).long() for name in ("chosen", "experts"))
            routing = weights_of(case, scores, chosen, kept)
            y = torch.zeros_like(x)
            for e in range(case.num_choices):
                of_expert = (routing * (kept == e)).sum(1, keepdim=True)
                y = y + of_expert * expert_output(case, weights, e, x)
            counts_so_far[layer] += counts_of(case, chosen)
            balance = balance_loss(case, scores, chosen, counts_so_far[layer], m + 1)
            z_loss = case.z_loss_coef * torch.logsumexp(logits, -1).square().mean()
            objective = objective + (y * dy).sum() + (balance + z_loss) / MICROBATCHES
            leaves.append(x)
            p = (scores / scores.sum(1, keepdim=True)).detach()
            found = {"y": y.detach(), "logits": logits.detach(), "weights": routing.detach(),
                     "chosen": chosen, "experts": kept,
                     "balance_loss": balance.detach() / MICROBATCHES, "z_loss": z_loss.detach() / MICROBATCHES,
                     "entropy": -(p * p.log()).sum(), "counts": counts_of(case, chosen),
                     "dropped": ((chosen >= 0) & (kept < 0)).sum()}
            for name, value in found.items():
                result.setdefault(f"{layer}.{name}", []).append(value.numpy())
        objective.backward()
        for layer, x in enumerate(leaves):
            result.setdefault(f"{layer}.dx", []).append(x.grad.numpy())
    result = {name: np.stack(values) for name, values in result.items()}
    for layer, weights in enumerate(layers):
        for name, weight in weights.items():
            if weight.requires_grad:
                gradient = weight.grad if weight.grad is not None else torch.zeros_like(weight)
                result[f"{layer}.grad.{name}"] = gradient.numpy()
    return result


def run_bias_update(case, inputs, decisions):
    """b_e += rate · sign(mean count - count_e) behind each step of several microbatches (Wang et al. 2024)."""
    router = torch.tensor(inputs["0.router"][:EXPERTS], dtype=torch.float64)
    bias = torch.zeros(EXPERTS, dtype=torch.float64)
    rate = float(np.float32(case.bias_update_rate))
    result = {"counts": [], "bias": []}
    for step in range(BIAS_STEPS):
        x = torch.tensor(inputs["steps.x"][step].reshape(-1, HIDDEN), dtype=torch.float64)
        scores = scores_of(case, x @ router.T)
        chosen = torch.tensor([decisions.top_k(case, row, bias.tolist()) for row in scores.tolist()])
        counts = counts_of(case, chosen)
        bias = bias + rate * torch.sign(counts.double().mean() - counts)
        result["counts"].append(counts.numpy())
        result["bias"].append(bias.numpy())
    return {name: np.stack(values) for name, values in result.items()}


def stored(result):
    """Losses and sums in F64, other floats in F32, choices in I32, counts in I64."""
    types = {"balance_loss": np.float64, "z_loss": np.float64, "entropy": np.float64, "chosen": np.int32,
             "experts": np.int32, "counts": np.int64, "dropped": np.int64}
    return {name: np.ascontiguousarray(value.astype(types.get(name.split(".")[-1], np.float32)))
            for name, value in result.items()}


def compute(case, inputs):
    decisions = Decisions()
    if case.name == "bias_update":
        result = run_bias_update(case, inputs, decisions)
    else:
        result = run(case, inputs, torch.float64, decisions)
    assert decisions.margin > MARGIN, (case.name, decisions.margin)
    return result, decisions.margin


def check_sense(case, result):
    """What would make a case worthless."""
    if case.name == "bias_update":
        assert len({tuple(row) for row in result["counts"].tolist()}) == BIAS_STEPS
        assert (np.diff(result["bias"], axis=0) > 0).any() and (np.diff(result["bias"], axis=0) < 0).any()
        return
    for layer in range(case.num_layers):
        counts, dropped = result[f"{layer}.counts"], result[f"{layer}.dropped"]
        if case.capacity_factor and case.router != "expert_choice":
            assert (dropped > 0).all(), case.name
        else:
            assert (dropped == 0).all(), case.name
        if case.router in ("base", "expert_choice"):
            assert (counts == counts[0, 0]).all(), case.name
        assert (counts.sum(0) == 0).sum() <= 1, (case.name, counts)  # an expert without tokens is a good test
        for name in [name for name in result if name.startswith(f"{layer}.grad.")]:
            if case.router == "hash" and name.endswith("router"):
                assert not result[name].any()
            else:
                assert measure.norm(result[name]) > 0.1, (case.name, name)


def errors_of(case, inputs, result):
    """(y, dx, grad): PyTorch's own fp32 run with the decisions of the fp64 one."""
    if case.name == "bias_update":
        return []
    found = run(case, inputs, torch.float32, Decisions(), stored(result))
    return [max(measure.norm(found[name] - want) / max(measure.norm(want), 1e-30) for name, want in result.items()
                if kind in name and want.any()) for kind in (".y", ".dx", ".grad.")]


def metadata(case):
    def text(value):
        return str(value).lower() if isinstance(value, bool) else str(value)

    return {field.name: text(getattr(case, field.name)) for field in dataclasses.fields(case)}


def save_sorted(tensors, path, settings):
    """save_file, which writes metadata in an order that changes from run to run, with sorted ones."""
    save_file(tensors, path, settings)
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8:8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size:])
    path.chmod(0o644)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=GOLDEN, help="folder of the files")
    parser.add_argument("--check", action="store_true", help="recompute and compare instead of writing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.check:
        inputs = load_file(options.out / "inputs.safetensors")
        worst = 0.0
        for case in CASES:
            path = options.out / f"{case.name}.safetensors"
            found, want = stored(compute(case, inputs)[0]), load_file(path)
            with safe_open(path, "numpy") as file:
                same = file.metadata() == metadata(case)
            assert set(found) == set(want) and same, case.name
            error = max(measure.norm(found[name] - want[name]) / max(1.0, measure.norm(want[name])) for name in want)
            print(f"{case.name:20} {error:.1e}")
            worst = max(worst, error)
        sys.exit(0 if worst < 1e-7 else 1)
    options.out.mkdir(parents=True, exist_ok=True)
    inputs = make_inputs()
    save_file(inputs, options.out / "inputs.safetensors")
    print("| case | clearest by | y | dx | grad | KiB |\n|---|---|---|---|---|---|")
    for case in CASES:
        result, margin = compute(case, inputs)
        check_sense(case, result)
        path = options.out / f"{case.name}.safetensors"
        save_sorted(stored(result), path, metadata(case))
        cells = [f"{error:.1e}" for error in errors_of(case, inputs, result)] or ["", "", ""]
        print(f"| {case.name} | {margin:.1e} | " + " | ".join(cells) + f" | {path.stat().st_size / 1024:.0f} |")
    (options.out / "inputs.safetensors").chmod(0o644)


if __name__ == "__main__":
    main()
