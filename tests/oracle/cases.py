"""The cases of the golden oracle: which models, how large, with which tokens and optimizer settings.

Every size is small and odd on purpose: nothing divides a vector register or a tile. `make_golden.py` builds
what stands here; one more case is one more entry in CASES.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    family: str  # gpt2 | llama | qwen2 | qwen3 | mixtral | qwen2_moe | qwen3_moe | deepseek_v2 | deepseek_v3
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


def deepseek(**overrides):
    """What DeepSeek-V2 and -V3 have in common. The norms of their latents have an epsilon of their own, 1e-6."""
    config = decoder(
        num_key_value_heads=4, rms_norm_eps=1e-3, intermediate_size=21, moe_intermediate_size=9, n_routed_experts=8,
        n_shared_experts=1, first_k_dense_replace=1, kv_lora_rank=10, qk_nope_head_dim=6, qk_rope_head_dim=4,
        v_head_dim=5,
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
    # Turns in the original context 5.1, 2.4, 1.1, 0.5, 0.2, 0.1; the range from 4 to 1 turns lies between pairs 0.3 and 2.1:
    # kept, blended twice and divided frequencies.
    Case("qwen3_rope_yarn", "qwen3",
         decoder(vocab_size=59, head_dim=12, num_attention_heads=2, num_key_value_heads=1,
                 rope_parameters={"rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0, "beta_fast": 4.0,
                                  "beta_slow": 1.0, "original_max_position_embeddings": 32, "truncate": False}),
         batch=2, sequence=19, clip_active=True, old_config=True, seed=15),
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
    # With experts. Seeds are those with the widest margins of the choice, see check_margins in make_golden.py.
    Case("mixtral", "mixtral",
         decoder(vocab_size=59, intermediate_size=14, num_local_experts=6, num_experts_per_tok=2), batch=4, sequence=11,
         clip_active=True, seed=108),
    Case("qwen2_moe", "qwen2_moe",
         decoder(vocab_size=71, moe_intermediate_size=11, shared_expert_intermediate_size=13, num_experts=7,
                 num_experts_per_tok=3, norm_topk_prob=False, decoder_sparse_step=2),
         batch=4, sequence=13, clip_active=False, seed=102),
    Case("qwen3_moe", "qwen3_moe",
         decoder(vocab_size=67, num_hidden_layers=3, head_dim=8, intermediate_size=17, moe_intermediate_size=10,
                 num_experts=5, num_experts_per_tok=2, norm_topk_prob=True, mlp_only_layers=[1]),
         batch=4, sequence=9, clip_active=True, seed=102),
    Case("deepseek_v2", "deepseek_v2",
         deepseek(vocab_size=61, q_lora_rank=None, num_experts_per_tok=3, topk_method="group_limited_greedy",
                  n_group=4, topk_group=2, routed_scaling_factor=1.5),
         batch=4, sequence=13, clip_active=False, seed=108),
    Case("deepseek_v3", "deepseek_v3",
         deepseek(vocab_size=53, num_hidden_layers=3, q_lora_rank=7, num_experts_per_tok=2, n_group=2, topk_group=1,
                  routed_scaling_factor=2.5, num_mtp_layers=0),
         batch=4, sequence=7, clip_active=True, seed=311),
    # Turns 3.8, 1.4, 0.5, 0.2 against 3 and 0.5, whole pairs 0 and 3: kept, blended twice, divided. Of mscale and
    # mscale_all_dim follow the size of rotated queries and keys, and that of all scores.
    Case("deepseek_v3_yarn", "deepseek_v3",
         deepseek(vocab_size=51, q_lora_rank=7, num_experts_per_tok=2, n_routed_experts=6, n_group=1, topk_group=1,
                  routed_scaling_factor=1.5, num_mtp_layers=0, qk_rope_head_dim=8,
                  rope_parameters={"rope_type": "yarn", "rope_theta": 50.0, "factor": 5.0, "beta_fast": 3.0,
                                   "beta_slow": 0.5, "mscale": 1.5, "mscale_all_dim": 0.7,
                                   "original_max_position_embeddings": 24}),
         batch=4, sequence=11, clip_active=False, seed=609),
    Case("deepseek_v3_documents", "deepseek_v3",
         deepseek(vocab_size=47, q_lora_rank=None, num_experts_per_tok=3, n_group=1, topk_group=1,
                  routed_scaling_factor=1.25, num_mtp_layers=0, tie_word_embeddings=True),
         batch=3, sequence=17, clip_active=False, documents=True, seed=128),
    # Multi-token prediction: one module; two that share the tied table, in documents; two with experts.
    Case("deepseek_v3_predict", "deepseek_v3",
         deepseek(vocab_size=59, q_lora_rank=7, num_experts_per_tok=2, n_routed_experts=4, n_group=1, topk_group=1,
                  first_k_dense_replace=2, num_mtp_layers=1),
         batch=4, sequence=11, clip_active=True, seed=410),
    Case("deepseek_v3_predict_documents", "deepseek_v3",
         deepseek(vocab_size=43, q_lora_rank=None, num_experts_per_tok=2, n_routed_experts=4, n_group=1, topk_group=1,
                  first_k_dense_replace=2, num_mtp_layers=2, tie_word_embeddings=True),
         batch=4, sequence=15, clip_active=False, documents=True, seed=500),
    Case("deepseek_v3_predict_experts", "deepseek_v3",
         deepseek(vocab_size=41, q_lora_rank=7, n_routed_experts=4, num_experts_per_tok=2, n_group=1, topk_group=1,
                  routed_scaling_factor=1.5, num_mtp_layers=2),
         batch=4, sequence=7, clip_active=False, seed=404),
    Case("qwen3_moe_deep", "qwen3_moe",
         decoder(vocab_size=37, hidden_size=16, num_hidden_layers=4, num_key_value_heads=4, head_dim=6,
                 intermediate_size=21, moe_intermediate_size=7, num_experts=8, num_experts_per_tok=2,
                 norm_topk_prob=False),
         batch=8, sequence=5, clip_active=False, seed=110),
]
