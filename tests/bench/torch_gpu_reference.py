#!/usr/bin/env python3
"""PyTorch's training step on a GPU, as a long-lived worker: what Trireme's speed there is measured against.

GPT-2 and Qwen2.5 as people write them for speed in plain PyTorch: torch.compile, flash attention through
scaled_dot_product_attention, fused QKV and gate/up products, fused AdamW, gradients accumulated over microbatches and
clipped by their global norm. Contract `default` is bf16 autocast over fp32 weights, gradients and moments, with a
bf16 residual stream; `llmq` has everything in bf16. The protocol is that of README.md in this folder. By hand:

    printf 'step 3\\nquit\\n' | python tests/bench/torch_gpu_reference.py --model qwen2.5-0.5b --micro 32
"""

import argparse
import contextlib
import json
import statistics
import sys
import time

from gpu_models import CONTRACTS, MODELS, TOKENS_PER_STEP


def parse_options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, required=True)
    parser.add_argument("--contract", choices=CONTRACTS, default="default")
    parser.add_argument("--micro", type=int, required=True, help="sequences of a microbatch")
    parser.add_argument("--tokens-per-step", type=int, default=TOKENS_PER_STEP)
    parser.add_argument("--compile", choices=["model", "block", "none"], default="model",
                        help="compile the whole model, each block by itself (compiles faster), or nothing")
    parser.add_argument("--attention", choices=["flash", "cudnn", "any"], default="flash")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a model of the same build for a CPU, to try this program")
    return parser.parse_args()


if __name__ == "__main__":
    OPTIONS = parse_options()  # before the import: --help must not wait for torch

import torch
import torch.nn as nn
import torch.nn.functional as F


class RmsNorm(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden))

    def forward(self, x):
        wide = x.float()
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6) * self.weight.float()).to(x.dtype)


def rotate(x, cos, sin):
    """Rotary embedding in rotate-half order; x: [B, heads, T, D], cos and sin: [T, D/2]."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


class Block(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.shape, self.gpt2 = shape, shape.family == "gpt2"
        norm = nn.LayerNorm if self.gpt2 else RmsNorm
        self.norm_1 = norm(shape.hidden)
        self.qkv = nn.Linear(shape.hidden, shape.qkv_rows)
        self.out = nn.Linear(shape.hidden, shape.hidden, bias=self.gpt2)
        self.norm_2 = norm(shape.hidden)
        self.up = nn.Linear(shape.hidden, shape.feed_forward * (1 if self.gpt2 else 2), bias=self.gpt2)
        self.down = nn.Linear(shape.feed_forward, shape.hidden, bias=self.gpt2)

    def attend(self, x, cos, sin):  # x: [B, T, C]
        B, T, C = x.shape
        s = self.shape
        heads = self.qkv(x).view(B, T, -1, s.head_dim).transpose(1, 2)
        q, k, v = heads.split([s.heads, s.kv_heads, s.kv_heads], dim=1)
        if not self.gpt2:
            q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=s.kv_heads < s.heads)
        return self.out(y.transpose(1, 2).reshape(B, T, C))

    def feed(self, x):
        if self.gpt2:
            return self.down(F.gelu(self.up(x), approximate="tanh"))
        gate, up = self.up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)

    def forward(self, x, cos, sin):
        x = x + self.attend(self.norm_1(x), cos, sin)
        return x + self.feed(self.norm_2(x))


class Head(nn.Module):
    """Final norm, logits, mean loss."""

    def __init__(self, shape, table):
        super().__init__()
        self.norm = (nn.LayerNorm if shape.family == "gpt2" else RmsNorm)(shape.hidden)
        self.weight = table if shape.tied else nn.Parameter(torch.empty(shape.vocab, shape.hidden))

    def forward(self, x, labels):
        logits = F.linear(self.norm(x), self.weight)
        return F.cross_entropy(logits.view(-1, logits.shape[-1]).float(), labels.view(-1))


class Decoder(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.shape = shape
        self.embed = nn.Embedding(shape.vocab, shape.hidden)
        self.positions = nn.Embedding(shape.positions, shape.hidden) if shape.positions else None
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.head = Head(shape, self.embed.weight)
        frequencies = 1e6 ** (-torch.arange(0, shape.head_dim, 2) / shape.head_dim)
        angles = torch.outer(torch.arange(shape.sequence), frequencies)
        self.register_buffer("cos", angles.cos().bfloat16(), persistent=False)
        self.register_buffer("sin", angles.sin().bfloat16(), persistent=False)

    def forward(self, tokens, labels):  # both [B, T]
        x = self.embed(tokens)
        if self.positions is not None:
            x = x + self.positions(torch.arange(tokens.shape[1], device=tokens.device))
        x = x.bfloat16()
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        return self.head(x, labels)


def init_weights(module):
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, Head):
        nn.init.normal_(module.weight, std=0.02)
    if getattr(module, "bias", None) is not None:
        nn.init.zeros_(module.bias)


class WallMark:
    """A torch.cuda.Event for the CPU."""

    def __init__(self):
        self.time = time.perf_counter()

    def elapsed_time(self, later):
        return (later.time - self.time) * 1e3


class Trainer:
    def __init__(self, options):
        shape = MODELS[options.model]
        self.shape = shape.tiny() if options.tiny else shape
        self.options = options
        self.device = options.device
        self.micro = options.micro
        self.microbatches = options.tokens_per_step // (options.micro * self.shape.sequence)
        torch.manual_seed(1234)
        with torch.device(self.device):
            self.model = Decoder(self.shape)
            self.model.apply(init_weights)
        if options.contract == "llmq":
            self.model.to(torch.bfloat16)
        self.parameters = list(self.model.parameters())
        self.optimizer = torch.optim.AdamW(
            [{"params": [p for p in self.parameters if p.dim() >= 2], "weight_decay": 0.1},
             {"params": [p for p in self.parameters if p.dim() < 2], "weight_decay": 0.0}],
            lr=3e-4, betas=(0.9, 0.95), fused=True)
        self.run = self.model
        if options.compile == "model":
            self.run = torch.compile(self.model, dynamic=False)
        elif options.compile == "block":
            for part in (*self.model.blocks, self.model.head):
                part.compile(dynamic=False)
        self.generator = torch.Generator(self.device).manual_seed(1)

    def numerics(self):
        """Everything that a forward pass runs in."""
        stack = contextlib.ExitStack()
        if self.options.contract == "default":
            stack.enter_context(torch.autocast(self.device, torch.bfloat16))
        if self.device == "cuda" and self.options.attention != "any":
            from torch.nn.attention import SDPBackend, sdpa_kernel
            backends = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}
            stack.enter_context(sdpa_kernel(backends[self.options.attention]))
        return stack

    def mark(self):
        if self.device == "cpu":
            return WallMark()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def step(self):
        """One optimizer step; returns its marks and the loss, still on the device. Drawing tokens isn't timed."""
        size = (self.microbatches, self.micro, self.shape.sequence + 1)
        stream = torch.randint(self.shape.vocab, size, generator=self.generator, device=self.device)
        tokens, labels = stream[:, :, :-1].contiguous(), stream[:, :, 1:].contiguous()
        marks = [self.mark()]
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        for i in range(self.microbatches):
            with self.numerics():
                loss = self.run(tokens[i], labels[i]) / self.microbatches
            marks.append(self.mark())
            loss.backward()
            marks.append(self.mark())
            total += loss.detach()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        marks.append(self.mark())
        self.optimizer.step()
        marks.append(self.mark())
        return marks, total

    def steps(self, count):
        """Runs `count` steps; returns the answer to the command `step`."""
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        results = [self.step() for _ in range(count)]
        if self.device == "cuda":
            torch.cuda.synchronize()
        seconds, phases = [], {"forward": [], "backward": [], "clip": [], "optimizer": []}
        for marks, _ in results:
            spans = [marks[i].elapsed_time(marks[i + 1]) * 1e-3 for i in range(len(marks) - 1)]
            seconds.append(marks[0].elapsed_time(marks[-1]) * 1e-3)
            phases["forward"].append(sum(spans[0:2 * self.microbatches:2]))
            phases["backward"].append(sum(spans[1:2 * self.microbatches:2]))
            phases["clip"].append(spans[-2])
            phases["optimizer"].append(spans[-1])
        result = dict(seconds=seconds, loss=results[-1][1].item(),
                      phases={name: statistics.median(values) for name, values in phases.items()})
        if self.device == "cuda":
            result |= dict(peak_memory_bytes=torch.cuda.max_memory_allocated(),
                           reserved_bytes=torch.cuda.max_memory_reserved())
        return result


def answer(**fields):
    print(json.dumps(fields), flush=True)


def main(options):
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("error: torch sees no GPU")
    try:
        trainer = Trainer(options)
        answer(ready=True, program=f"torch {torch.__version__} compile={options.compile}", model=options.model,
               contract=options.contract, micro=options.micro, microbatches=trainer.microbatches,
               parameters=sum(p.numel() for p in trainer.parameters),
               flops_per_token=trainer.shape.flops_per_token(), tokens_per_step=options.tokens_per_step)
        for line in sys.stdin:
            words = line.split()
            if not words:
                continue
            if words[0] == "quit":
                break
            if words[0] == "step" and len(words) == 2 and words[1].isdigit() and int(words[1]) > 0:
                answer(**trainer.steps(int(words[1])))
            else:
                answer(error=f"unknown command {line.strip()!r} (expected 'step N' or 'quit')")
    except torch.cuda.OutOfMemoryError as error:
        answer(error=f"out of memory: {str(error).splitlines()[0]}")
        sys.exit(4)


if __name__ == "__main__":
    main(OPTIONS)
