"""The models and numerics that the GPU benchmarks time, for the driver and for PyTorch's worker.

Trireme's worker reads configs/NAME.yaml; that both sides have the same model is seen by the numbers of parameters and
of FLOPs that each tells.
"""

import dataclasses

TOKENS_PER_STEP = 524288
SEQUENCE = 1024


@dataclasses.dataclass(frozen=True)
class Shape:
    family: str  # gpt2 or qwen2
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    feed_forward: int
    vocab: int
    tied: bool
    positions: int = 0  # GPT-2's table
    sequence: int = SEQUENCE

    @property
    def head_dim(self):
        return self.hidden // self.heads

    @property
    def qkv_rows(self):
        return (self.heads + 2 * self.kv_heads) * self.head_dim

    def block_matrices(self):
        """Elements of the matrices of a block."""
        up = 2 if self.family == "qwen2" else 1
        return self.hidden * (self.qkv_rows + self.hidden) + (up + 1) * self.hidden * self.feed_forward

    def parameters(self):
        norm = self.hidden * (2 if self.family == "gpt2" else 1)
        block = self.block_matrices() + 2 * norm + self.qkv_rows
        if self.family == "gpt2":
            block += 2 * self.hidden + self.feed_forward
        tables = self.vocab * self.hidden * (1 if self.tied else 2) + self.positions * self.hidden
        return self.layers * block + norm + tables

    def flops_per_token(self):
        """6 for each element of a matrix that a token meets; causal attention counted half."""
        attention = self.layers * self.hidden * self.sequence
        return 6 * (self.layers * self.block_matrices() + self.vocab * self.hidden + attention)

    def tiny(self):
        """A model of the same build that a CPU steps in milliseconds, to try the programs."""
        return dataclasses.replace(self, hidden=64, layers=2, heads=4, kv_heads=min(self.kv_heads, 4) // 2 * 2,
                                   feed_forward=128, vocab=512, sequence=64, positions=64 if self.positions else 0)

    def sets(self):
        """The same shape as options of Trireme's workers."""
        keys = dict(hidden_size=self.hidden, num_hidden_layers=self.layers, num_attention_heads=self.heads,
                    intermediate_size=self.feed_forward, vocab_size=self.vocab)
        if self.family == "gpt2":
            keys |= dict(max_position_embeddings=self.positions)
        else:
            keys |= dict(num_key_value_heads=self.kv_heads)
        return [f"model.{key}={value}" for key, value in keys.items()] + [f"data.sequence_length={self.sequence}"]


MODELS = {
    "gpt2-124m": Shape("gpt2", 768, 12, 12, 12, 3072, 50257, True, positions=1024),
    "qwen2.5-0.5b": Shape("qwen2", 896, 24, 14, 2, 4864, 151936, True),
    "qwen2.5-1.5b": Shape("qwen2", 1536, 28, 12, 2, 8960, 151936, True),
    "qwen2.5-3b": Shape("qwen2", 2048, 36, 16, 2, 11008, 151936, True),
    "qwen2.5-7b": Shape("qwen2", 3584, 28, 28, 4, 18944, 152064, False),
}

# What each contract keeps in which precision, as keys of the configuration.
CONTRACTS = {
    # bf16 arithmetic over fp32 master weights, gradients and moments
    "default": ["precision.compute=bf16", "precision.master=fp32", "precision.gradients=fp32",
                "precision.optimizer_states=fp32"],
    # everything in bf16, as LLM.Q's published figures have it
    "llmq": ["precision.compute=bf16", "precision.master=none", "precision.gradients=bf16",
             "precision.optimizer_states=bf16"],
}

# LLM.Q's published tokens/s on one H100 in bf16 (benchmarks/H100x1.md); only the contract llmq may be held against them.
LLMQ_H100 = {"qwen2.5-0.5b": 149600, "qwen2.5-1.5b": 58900, "qwen2.5-3b": 30900, "qwen2.5-7b": 13800}

# Sequences of a microbatch to begin with, on GPUs of (80, 141) GB; out of memory, half of it is tried, and so on.
# None: weights, gradients and moments alone don't fit.
MICRO = {
    ("gpt2-124m", "default"): (64, 64),
    ("gpt2-124m", "llmq"): (64, 64),
    ("qwen2.5-0.5b", "default"): (32, 32),
    ("qwen2.5-0.5b", "llmq"): (32, 32),
    ("qwen2.5-1.5b", "default"): (16, 32),
    ("qwen2.5-1.5b", "llmq"): (16, 32),
    ("qwen2.5-3b", "default"): (4, 16),
    ("qwen2.5-3b", "llmq"): (8, 16),
    ("qwen2.5-7b", "default"): (None, None),
    ("qwen2.5-7b", "llmq"): (4, 8),
}


def first_micro(model, contract, memory_bytes):
    """The microbatch to begin with on a GPU of that much memory; None where the model can't fit."""
    small, large = MICRO[model, contract]
    return large if memory_bytes >= 130e9 else small


PUBLISHED_PARAMETERS = {"gpt2-124m": 124439808, "qwen2.5-0.5b": 494032768, "qwen2.5-1.5b": 1543714304,
                        "qwen2.5-3b": 3085938688, "qwen2.5-7b": 7615616512}
for _name, _shape in MODELS.items():
    assert _shape.parameters() == PUBLISHED_PARAMETERS[_name], (_name, _shape.parameters())
