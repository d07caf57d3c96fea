// The activations of the plan against the allocator's tally of a step. What it leaves out (launcher/activation_plan.h) is a
// few parts in a hundred of models so small.
#include "launcher/memory_plan.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "core/config/load.h"
#include "launcher/layout_run.h"

namespace trireme {
namespace {

struct Case {
  const char* name;
  const char* model;
  std::vector<std::string> sets = {};
};

const char* const kLlama =
    "{model_type: llama, hidden_size: 64, num_hidden_layers: 4, num_attention_heads: 4, num_key_value_heads: 2, "
    "intermediate_size: 160, vocab_size: 96, max_position_embeddings: 64}";
const char* const kGpt2 =
    "{model_type: gpt2, n_embd: 64, n_layer: 4, n_head: 4, n_inner: 256, vocab_size: 96, n_positions: 64}";
const char* const kMixtral =
    "{model_type: mixtral, hidden_size: 64, num_hidden_layers: 4, num_attention_heads: 4, num_key_value_heads: 2, "
    "intermediate_size: 96, num_local_experts: 4, num_experts_per_tok: 2, vocab_size: 96, "
    "max_position_embeddings: 64}";
const char* const kQwen =
    "{model_type: qwen2_moe, hidden_size: 64, num_hidden_layers: 4, num_attention_heads: 4, num_key_value_heads: 4, "
    "intermediate_size: 128, moe_intermediate_size: 64, shared_expert_intermediate_size: 96, num_experts: 8, "
    "num_experts_per_tok: 4, mlp_only_layers: [0], vocab_size: 96, max_position_embeddings: 64}";
const char* const kDeepSeek =
    "{model_type: deepseek_v3, hidden_size: 64, num_hidden_layers: 4, num_attention_heads: 4, intermediate_size: 256, "
    "q_lora_rank: 48, kv_lora_rank: 32, qk_nope_head_dim: 16, qk_rope_head_dim: 8, v_head_dim: 16, "
    "n_routed_experts: 8, num_experts_per_tok: 4, moe_intermediate_size: 64, n_shared_experts: 1, "
    "first_k_dense_replace: 2, n_group: 2, topk_group: 1, num_nextn_predict_layers: 1, vocab_size: 96, "
    "max_position_embeddings: 64}";

Config config_of(const Case& c) {
  const std::string text = "run: {dir: unused, steps: 1, device: cpu}\nmodel: " + std::string(c.model) +
                           "\ndata: {train: [{path: unused}], sequence_length: 64}\n"
                           "batch: {global: 8, micro: 4}\nprecision: {compute: fp32}\n"
                           "parallel: {data: 1, zero: 0}\n";
  return parse_config(text, "test", c.sets);
}

void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

class MemoryPlan : public ::testing::TestWithParam<Case> {};

TEST_P(MemoryPlan, ActivationsAreThoseOfAStep) {
  const Config config = config_of(GetParam());
  const LayoutResult result = run_layout(config, make_layout_input(config, 1, 1));
  for (const RankRecord& rank : result.ranks) {
    const auto live = [&](MemoryTag tag) { return rank.memory.live_bytes[static_cast<size_t>(tag)]; };
    const int64_t kept = live(MemoryTag::parameters) + live(MemoryTag::gradients) + live(MemoryTag::optimizer);
    const auto measured = static_cast<double>(rank.memory.peak_live_bytes - kept);
    const auto stage = static_cast<size_t>(rank.mesh.coordinate(Axis::pipeline));
    const auto planned = static_cast<double>(plan_memory(config, rank.mesh, Device{}).at(stage).activations);
    EXPECT_NEAR(planned / measured, 1, 0.06)
        << "stage " << stage << ": planned " << planned << ", measured " << measured;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Models, MemoryPlan,
    ::testing::Values(
        Case{"llama", kLlama}, Case{"llama_selective", kLlama, {"recompute.mode=selective"}},
        Case{"llama_full", kLlama, {"recompute.mode=full"}},
        Case{"llama_full_two", kLlama, {"recompute.mode=full", "recompute.layers=2"}}, Case{"gpt2", kGpt2},
        Case{"llama_pipeline", kLlama, {"parallel.pipeline=2"}},
        Case{"llama_zero_bubble", kLlama, {"parallel.pipeline=2", "parallel.schedule=zb_h1", "recompute.mode=full"}},
        Case{"llama_zero_bubble_v", kLlama, {"parallel.pipeline=2", "parallel.schedule=zb_v"}},
        Case{"llama_zero_bubble_v_full",
             kLlama,
             {"parallel.pipeline=2", "parallel.schedule=zb_v", "recompute.mode=full", "batch.global=32"}},
        Case{"llama_uneven",
             kLlama,
             {"parallel={data: 1, pipeline: 2, schedule: interleaved, virtual_stages: 2, stages: [2, 1, 1, 0]}"}},
        Case{"llama_tensor", kLlama, {"parallel.tensor=2", "parallel.sequence=true"}}, Case{"mixtral", kMixtral},
        Case{"mixtral_selective", kMixtral, {"recompute.mode=selective"}},
        Case{"mixtral_full", kMixtral, {"recompute.mode=full"}},
        Case{"mixtral_expert", kMixtral, {"parallel.data=2", "parallel.expert=2", "batch.global=16"}},
        Case{"mixtral_expert_tensor", kMixtral, {"parallel.data=2", "parallel.expert_tensor=2", "batch.global=16"}},
        Case{"mixtral_plus",
             kMixtral,
             {"moe.zero_experts=1", "moe.copy_experts=1", "moe.constant_experts=2", "moe.gating_residual=true"}},
        Case{"mixtral_plus_selective",
             kMixtral,
             {"moe.zero_experts=1", "moe.copy_experts=1", "moe.constant_experts=2", "moe.gating_residual=true",
              "recompute.mode=selective"}},
        Case{"mixtral_plus_full",
             kMixtral,
             {"model.num_hidden_layers=12", "model.num_local_experts=32", "moe.copy_experts=8",
              "moe.gating_residual=true", "recompute.mode=full"}},
        Case{"mixtral_plus_pipeline",
             kMixtral,
             {"moe.copy_experts=4", "moe.gating_residual=true", "parallel.pipeline=2"}},
        Case{"mixtral_capacity", kMixtral, {"moe.capacity_factor=2"}},
        Case{"mixtral_expert_choice", kMixtral, {"moe.router=expert_choice"}}, Case{"qwen", kQwen},
        Case{"deepseek", kDeepSeek}, Case{"deepseek_selective", kDeepSeek, {"recompute.mode=selective"}},
        Case{"deepseek_pipeline", kDeepSeek, {"parallel.pipeline=2"}}),
    [](const auto& param) { return std::string(param.param.name); });

}  // namespace
}  // namespace trireme
