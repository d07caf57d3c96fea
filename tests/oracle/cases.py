"""The cases of the golden oracle: which models, how large, with which tokens and optimizer settings.

Every size is small and odd on purpose: nothing divides a vector register or a tile. `make_golden.py` builds
what stands here; one more case is one more entry in CASES.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    family: str  # gpt2 | llama | qwen2 | qwen3
    config: dict  # keyword arguments of the family's configuration class in transformers
    batch: int  # B
    sequence: int  # T
    clip_active: bool  # True: the clip threshold lies under the gradient norm of every step
    documents: bool = False  # position_ids with restarts, and some labels of -100
    old_config: bool = False  # rewrite config.json with `rope_theta` + `rope_scaling`, as transformers 4 did
    max_shard_size: str = "50MB"  # small: several safetensors files and an index
    seed: int = 0


STEPS = 3
OPTIMIZER = {"type": "adamw", "lr": 1e-3, "betas": [0.9, 0.95], "eps": 1e-5, "weight_decay": 0.1}


def gpt2(**overrides):
    config = dict(
        vocab_size=83, n_positions=29, n_embd=24, n_layer=2, n_head=3, activation_function="gelu_new",
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, initializer_range=0.1, bos_token_id=0, eos_token_id=0,
    )
    return config | overrides


def decoder(**overrides):
    """What Llama, Qwen2 and Qwen3 have in common."""
    config = dict(
        vocab_size=97, hidden_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=36, max_position_embeddings=64, tie_word_embeddings=False, initializer_range=0.12,
        rms_norm_eps=1e-5, rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        bos_token_id=0, eos_token_id=0,
    )
    return config | overrides


CASES = [
    Case("gpt2", "gpt2", gpt2(), batch=4, sequence=17, clip_active=True, seed=1),
    Case("gpt2_erf", "gpt2", gpt2(vocab_size=61, n_embd=22, n_head=2, n_inner=53, activation_function="gelu"),
         batch=3, sequence=13, clip_active=False, seed=2),
    Case("gpt2_documents", "gpt2", gpt2(vocab_size=71, n_embd=20, n_head=5), batch=4, sequence=19,
         clip_active=False, documents=True, seed=3),
    Case("llama", "llama", decoder(), batch=4, sequence=17, clip_active=True, seed=4),
    # Wavelengths 6.3, 13.5, 29, 63, … against the thresholds 8 and 32: kept, blended and divided frequencies.
    Case("llama_rope_llama3", "llama",
         decoder(num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=True,
                 rope_parameters={"rope_type": "llama3", "rope_theta": 100.0, "factor": 8.0, "low_freq_factor": 1.0,
                                  "high_freq_factor": 4.0, "original_max_position_embeddings": 32}),
         batch=2, sequence=19, clip_active=False, seed=5),
    Case("llama_rope_linear", "llama",
         decoder(vocab_size=89, rope_parameters={"rope_type": "linear", "rope_theta": 500.0, "factor": 3.0}),
         batch=3, sequence=15, clip_active=True, old_config=True, seed=6),
    Case("llama_head_dim", "llama",
         decoder(vocab_size=67, hidden_size=30, num_attention_heads=6, num_key_value_heads=3, head_dim=10,
                 intermediate_size=41),
         batch=2, sequence=13, clip_active=False, seed=7),
    Case("llama_documents", "llama", decoder(vocab_size=73, tie_word_embeddings=True), batch=4, sequence=19,
         clip_active=True, documents=True, seed=8),
    Case("qwen2", "qwen2", decoder(vocab_size=101, intermediate_size=35), batch=4, sequence=15, clip_active=False,
         max_shard_size="30KB", seed=9),
    Case("qwen2_tied", "qwen2", decoder(vocab_size=131, tie_word_embeddings=True, num_key_value_heads=1), batch=2,
         sequence=17, clip_active=True, seed=10),
    Case("qwen3", "qwen3", decoder(vocab_size=79, head_dim=8), batch=4, sequence=17, clip_active=True, seed=11),
    Case("qwen3_documents", "qwen3",
         decoder(vocab_size=61, hidden_size=28, head_dim=6, tie_word_embeddings=True), batch=3, sequence=19,
         clip_active=False, documents=True, seed=12),
    # For many ranks: layers for eight pipeline chunks (the outer two have none), four heads, a batch of eight.
    Case("gpt2_deep", "gpt2", gpt2(vocab_size=43, n_positions=16, n_embd=16, n_layer=6, n_head=4, n_inner=44), batch=8,
         sequence=11, clip_active=True, seed=13),
    Case("qwen3_deep", "qwen3",
         decoder(vocab_size=37, hidden_size=16, num_hidden_layers=6, num_key_value_heads=4, head_dim=6,
                 intermediate_size=21),
         batch=8, sequence=11, clip_active=False, seed=14),
]
