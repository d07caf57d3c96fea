#!/usr/bin/env python3
"""The PyTorch training step that Trireme's speed is measured against, as a long-lived worker.

Two models, written as people write them in plain PyTorch: fused attention (scaled_dot_product_attention), fused
AdamW, bf16 through autocast with fp32 master weights. One step is forward, backward, clipping of the global norm
and the optimizer. The protocol on stdin and stdout is described in README.md in this folder; by hand:

    printf 'step 3\nquit\n' | python tests/bench/torch_reference.py --model llama-9.6m --dtype bf16 --mode compile
"""

import argparse
import contextlib
import json
import os
import statistics
import sys
import time


def parse_options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["gpt2-124m", "llama-9.6m"], required=True)
    parser.add_argument("--dtype", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--mode", choices=["eager", "compile"], default="eager")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    return parser.parse_args()


if __name__ == "__main__":
    OPTIONS = parse_options()  # before the import: --help must not wait for torch

import torch
import torch.nn as nn
import torch.nn.functional as F

GPT2 = dict(vocab=50257, hidden=768, layers=12, heads=12, positions=1024)
LLAMA = dict(vocab=256, hidden=384, layers=6, heads=6, kv_heads=2, feed_forward=1024, rope_theta=10000.0)
BATCH = {"gpt2-124m": (4, 256), "llama-9.6m": (16, 256)}  # B, T


class Gpt2Block(nn.Module):
    def __init__(self, hidden, heads):
        super().__init__()
        self.heads = heads
        self.ln_1 = nn.LayerNorm(hidden)
        self.c_attn = nn.Linear(hidden, 3 * hidden)
        self.attn_proj = nn.Linear(hidden, hidden)
        self.ln_2 = nn.LayerNorm(hidden)
        self.c_fc = nn.Linear(hidden, 4 * hidden)
        self.mlp_proj = nn.Linear(4 * hidden, hidden)

    def forward(self, x):  # x: [B, T, C]
        B, T, C = x.shape
        q, k, v = self.c_attn(self.ln_1(x)).view(B, T, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attn_proj(y.transpose(1, 2).reshape(B, T, C))
        return x + self.mlp_proj(F.gelu(self.c_fc(self.ln_2(x)), approximate="tanh"))


class Gpt2(nn.Module):
    """GPT-2 124M with a tied head."""

    def __init__(self, vocab, hidden, layers, heads, positions):
        super().__init__()
        self.wte = nn.Embedding(vocab, hidden)
        self.wpe = nn.Embedding(positions, hidden)
        self.blocks = nn.ModuleList(Gpt2Block(hidden, heads) for _ in range(layers))
        self.ln_f = nn.LayerNorm(hidden)

    def forward(self, tokens, labels):  # both [B, T]
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.ln_f(x), self.wte.weight)
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), labels.view(-1))


class RmsNorm(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden))

    def forward(self, x):
        return F.rms_norm(x, self.weight.shape, self.weight, 1e-5)


def rotate(x, cos, sin):
    """Rotary embedding in rotate-half order; x: [B, heads, T, D], cos and sin: [T, D/2]."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


class LlamaBlock(nn.Module):
    def __init__(self, hidden, heads, kv_heads, feed_forward):
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads, hidden // heads
        self.norm_1 = RmsNorm(hidden)
        self.qkv = nn.Linear(hidden, (heads + 2 * kv_heads) * self.head_dim, bias=False)
        self.o = nn.Linear(hidden, hidden, bias=False)
        self.norm_2 = RmsNorm(hidden)
        self.gate_up = nn.Linear(hidden, 2 * feed_forward, bias=False)
        self.down = nn.Linear(feed_forward, hidden, bias=False)

    def forward(self, x, cos, sin):  # x: [B, T, C]
        B, T, C = x.shape
        qkv = self.qkv(self.norm_1(x)).view(B, T, -1, self.head_dim).transpose(1, 2)
        q, k, v = qkv.split([self.heads, self.kv_heads, self.kv_heads], dim=1)
        cos, sin = cos.to(q.dtype), sin.to(q.dtype)
        y = F.scaled_dot_product_attention(rotate(q, cos, sin), rotate(k, cos, sin), v, is_causal=True,
                                           enable_gqa=True)
        x = x + self.o(y.transpose(1, 2).reshape(B, T, C))
        gate, up = self.gate_up(self.norm_2(x)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up)


class Llama(nn.Module):
    """A small Llama with grouped queries and an untied head."""

    def __init__(self, vocab, hidden, layers, heads, kv_heads, feed_forward, rope_theta):
        super().__init__()
        self.embed = nn.Embedding(vocab, hidden)
        self.blocks = nn.ModuleList(LlamaBlock(hidden, heads, kv_heads, feed_forward) for _ in range(layers))
        self.norm = RmsNorm(hidden)
        self.head = nn.Linear(hidden, vocab, bias=False)
        head_dim = hidden // heads
        frequencies = rope_theta ** (-torch.arange(0, head_dim, 2) / head_dim)
        angles = torch.outer(torch.arange(1024), frequencies)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, tokens, labels):  # both [B, T]
        x = self.embed(tokens)
        cos, sin = self.cos[:tokens.shape[1]], self.sin[:tokens.shape[1]]
        for block in self.blocks:
            x = block(x, cos, sin)
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), labels.view(-1))


def init_weights(module):
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=0.02)
    if getattr(module, "bias", None) is not None:
        nn.init.zeros_(module.bias)


class Trainer:
    def __init__(self, model_name, dtype, mode):
        torch.manual_seed(1234)
        self.model = Gpt2(**GPT2) if model_name == "gpt2-124m" else Llama(**LLAMA)
        self.model.apply(init_weights)
        self.vocab = (GPT2 if model_name == "gpt2-124m" else LLAMA)["vocab"]
        self.batch, self.sequence = BATCH[model_name]
        self.parameters = list(self.model.parameters())
        self.optimizer = torch.optim.AdamW(
            [{"params": [p for p in self.parameters if p.dim() >= 2], "weight_decay": 0.1},
             {"params": [p for p in self.parameters if p.dim() < 2], "weight_decay": 0.0}],
            lr=3e-4, betas=(0.9, 0.95), fused=True)
        self.dtype = dtype
        self.run = torch.compile(self.model) if mode == "compile" else self.model
        self.generator = torch.Generator().manual_seed(1)

    def autocast(self):
        return torch.autocast("cpu", torch.bfloat16) if self.dtype == "bf16" else contextlib.nullcontext()

    def step(self):
        """One step on fresh random tokens; returns (the five times between its four phases, loss).

        Drawing the tokens is not timed.
        """
        stream = torch.randint(self.vocab, (self.batch, self.sequence + 1), generator=self.generator)
        tokens, labels = stream[:, :-1].contiguous(), stream[:, 1:].contiguous()
        times = [time.perf_counter()]
        self.optimizer.zero_grad(set_to_none=True)
        with self.autocast():
            loss = self.run(tokens, labels)
        times.append(time.perf_counter())
        loss.backward()
        times.append(time.perf_counter())
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        times.append(time.perf_counter())
        self.optimizer.step()
        times.append(time.perf_counter())
        return times, loss.item()

    def steps(self, count):
        """Runs `count` steps; returns the answer to the command `step`."""
        results = [self.step() for _ in range(count)]
        phases = {name: statistics.median(times[i + 1] - times[i] for times, _ in results)
                  for i, name in enumerate(["forward", "backward", "clip", "optimizer"])}
        return dict(seconds=[times[-1] - times[0] for times, _ in results], loss=results[-1][1], phases=phases)


def gemm_gflops(dtype, size=2048, seconds=1.5):
    """The best rate of a size x size x size product, in GFLOP/s."""
    a, b = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
    out = torch.empty(size, size, dtype=dtype)
    torch.mm(a, b, out=out)
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        begin = time.perf_counter()
        torch.mm(a, b, out=out)
        best = min(best, time.perf_counter() - begin)
    return 2 * size**3 / best / 1e9


def answer(**fields):
    print(json.dumps(fields), flush=True)


def main(options):
    torch.set_num_threads(options.threads)
    torch.set_num_interop_threads(1)
    torch.set_flush_denormal(True)
    trainer = Trainer(options.model, options.dtype, options.mode)
    answer(ready=True, program=f"torch {torch.__version__} {options.mode}", model=options.model, dtype=options.dtype,
           threads=options.threads, parameters=sum(p.numel() for p in trainer.parameters),
           tokens_per_step=trainer.batch * trainer.sequence)
    for line in sys.stdin:
        words = line.split()
        if not words:
            continue
        if words[0] == "quit":
            break
        if words[0] == "step" and len(words) == 2 and words[1].isdigit() and int(words[1]) > 0:
            answer(**trainer.steps(int(words[1])))
        elif words[0] == "gemm":
            answer(fp32_gflops=gemm_gflops(torch.float32), bf16_gflops=gemm_gflops(torch.bfloat16))
        else:
            answer(error=f"unknown command {line.strip()!r} (expected 'step N', 'gemm' or 'quit')")


if __name__ == "__main__":
    main(OPTIONS)
