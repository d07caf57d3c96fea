#include "tests/oracle/golden_layouts.h"

#include <algorithm>

namespace trireme::golden {

namespace {

std::string p(const std::string& settings) { return "parallel={" + settings + "}"; }

}  // namespace

const std::vector<Layout>& layouts() {
  const std::string one = "batch.micro=1";
  const std::string two = "batch.micro=2";
  static const std::vector<Layout> list = {
      // Tensor and sequence
      {"tensor2", 2, {p("tensor: 2")}, {"llama", "gpt2_erf", "qwen2", "qwen3", "llama_documents"}},
      {"tensor2_sequence",
       2,
       {p("tensor: 2, sequence: true")},
       {"llama", "gpt2_erf", "llama_rope_linear", "qwen2", "qwen3", "llama_documents", "qwen3_documents"}},
      {"tensor3_sequence", 3, {p("tensor: 3, sequence: true"), two}, {"gpt2", "llama_head_dim"}},
      {"tensor4", 4, {p("tensor: 4")}, {"gpt2_deep", "qwen3_deep"}},
      {"tensor4_sequence_chunks",
       4,
       {p("tensor: 4, sequence: true, overlap_tensor: 5"), "recompute.mode=selective"},
       {"gpt2_deep", "qwen3_deep"}},
      // Pipelines
      {"gpipe2",
       2,
       {p("pipeline: 2, schedule: gpipe"), one},
       {"gpt2", "llama", "llama_rope_llama3", "qwen2_tied", "qwen3"}},
      {"1f1b4_without_layers_at_the_ends",
       4,
       {p("pipeline: 4, schedule: 1f1b, stages: [0, 1, 1, 0]"), one},
       {"gpt2_documents", "llama_documents", "qwen2"}},
      {"interleaved2",
       2,
       {p("pipeline: 2, virtual_stages: 2, schedule: interleaved, stages: [0, 1, 1, 0]"), one},
       {"qwen3_documents", "llama_rope_linear"}},
      {"interleaved4",
       4,
       {p("pipeline: 4, virtual_stages: 2, schedule: interleaved, stages: [0, 1, 1, 1, 1, 1, 1, 0]"), one},
       {"gpt2_deep", "qwen3_deep"}},
      {"zb_h1_4", 4, {p("pipeline: 4, schedule: zb_h1"), one}, {"gpt2_deep", "qwen3_deep"}},
      {"zb_v2", 2, {p("pipeline: 2, schedule: zb_v, stages: [0, 1, 1, 0]"), one}, {"llama_head_dim", "qwen2_tied"}},
      {"zb_v4",
       4,
       {p("pipeline: 4, schedule: zb_v, stages: [0, 1, 1, 1, 1, 1, 1, 0]"), one, "recompute.mode=full"},
       {"gpt2_deep", "qwen3_deep"}},
      // ZeRO
      {"zero1", 4, {p("zero: 1")}, {"gpt2", "llama", "qwen2", "qwen3", "llama_documents"}},
      {"zero2", 2, {p("zero: 2"), one}, {"gpt2_documents", "llama", "llama_rope_llama3", "qwen2_tied"}},
      {"zero3", 4, {p("zero: 3, prefetch: 2")}, {"gpt2_documents", "llama", "qwen2", "qwen3", "llama_documents"}},
      {"zero1_groups", 4, {p("zero: 1, zero_group: 2"), one}, {"gpt2_deep", "qwen3"}},
      {"zero2_groups", 4, {p("zero: 2, zero_group: 2"), one}, {"gpt2_deep", "qwen3_deep"}},
      {"zero3_groups", 8, {p("zero: 3, zero_group: 4")}, {"gpt2_deep", "qwen3_deep"}},
      // Several axes
      {"tensor2_zero3",
       4,
       {p("data: 2, tensor: 2, sequence: true, zero: 3"), one},
       {"llama", "qwen2", "qwen3", "llama_documents"}},
      {"pipeline2_zero2", 4, {p("data: 2, pipeline: 2, zero: 2"), one}, {"gpt2", "llama_documents", "qwen3"}},
      {"pipeline2_zero3_unit",
       4,
       {p("data: 2, pipeline: 2, schedule: zb_h1, zero: 3, keep_gathered: unit"), one},
       {"gpt2", "llama_documents", "qwen2"}},
      {"tensor2_interleaved2",
       4,
       {p("tensor: 2, sequence: true, pipeline: 2, schedule: interleaved, virtual_stages: 2, stages: [0, 1, 1, 0]"),
        one},
       {"llama_documents", "qwen3_documents", "gpt2_erf"}},
      {"tensor2_zb_v2_zero3",
       8,
       {p("data: 2, tensor: 2, sequence: true, pipeline: 2, schedule: zb_v, zero: 3"), two, "recompute.mode=selective"},
       {"gpt2_deep", "qwen3_deep"}},
      {"tensor4_1f1b2", 8, {p("tensor: 4, pipeline: 2, schedule: 1f1b"), two}, {"gpt2_deep", "qwen3_deep"}},
      {"tensor2_groups_zero3",
       8,
       {p("data: 4, tensor: 2, zero: 3, zero_group: 2, keep_gathered: step"), one, "recompute.mode=full"},
       {"gpt2_deep", "qwen3", "llama_documents"}},
      // Multi-token prediction: the embedding's table is used again at the model's end.
      {"tensor2_predict", 2, {p("tensor: 2")}, {"deepseek_v3_predict", "deepseek_v3_predict_documents"}},
      {"tensor2_sequence_predict",
       2,
       {p("tensor: 2, sequence: true"), two},
       {"deepseek_v3_predict", "deepseek_v3_predict_documents", "deepseek_v3_predict_experts"}},
      {"1f1b2_predict",
       2,
       {p("pipeline: 2, schedule: 1f1b"), one},
       {"deepseek_v3_predict", "deepseek_v3_predict_documents", "deepseek_v3_predict_experts"}},
      {"zb_v2_predict",
       2,
       {p("pipeline: 2, schedule: zb_v, stages: [0, 1, 1, 0]"), one, "recompute.mode=full"},
       {"deepseek_v3_predict", "deepseek_v3_predict_documents"}},
      {"zero2_predict", 2, {p("zero: 2"), one}, {"deepseek_v3_predict", "deepseek_v3_predict_documents"}},
      {"zero3_predict",
       4,
       {p("zero: 3, prefetch: 2")},
       {"deepseek_v3_predict", "deepseek_v3_predict_documents", "deepseek_v3_predict_experts"}},
      {"expert2_zero1_predict", 2, {p("expert: 2, zero: 1"), one}, {"deepseek_v3_predict_experts"}},
      {"tensor2_zb_h1_zero3_predict",
       8,
       {p("data: 2, tensor: 2, sequence: true, pipeline: 2, schedule: zb_h1, zero: 3"), two},
       {"deepseek_v3_predict_documents", "deepseek_v3_predict_experts"}},
      {"interleaved2_zero1",
       8,
       {p("data: 2, tensor: 2, pipeline: 2, virtual_stages: 3, schedule: interleaved, zero: 1"), one},
       {"gpt2_deep", "qwen3_deep"}},
      // Experts
      {"expert2", 2, {p("data: 2, expert: 2"), one}, {"mixtral", "deepseek_v3", "qwen3_moe_deep", "deepseek_v2"}},
      {"tensor2_expert2",
       2,
       {p("tensor: 2, expert: 2")},
       {"deepseek_v3", "qwen3_moe_deep", "deepseek_v3_documents", "deepseek_v3_yarn"}},
      {"tensor2_sequence_expert2_allgather",
       4,
       {p("data: 2, tensor: 2, sequence: true, expert: 2, zero: 3"), "moe.dispatch=allgather"},
       {"deepseek_v2", "deepseek_v3", "mixtral"}},
      {"expert2_expert_tensor2_zero2",
       4,
       {p("data: 4, expert: 2, expert_tensor: 2, zero: 2"), "moe.dispatch_chunks=2"},
       {"qwen3_moe_deep", "deepseek_v2"}},
      {"pipeline2_expert2_zb_h1",
       4,
       {p("data: 2, pipeline: 2, expert: 2, schedule: zb_h1"), one, "recompute.mode=full"},
       {"qwen3_moe_deep", "deepseek_v3"}},
      // Experts that compute next to nothing beside real ones, and routers that see the logits of those before
      {"light_expert2", 2, {p("data: 2, expert: 2, zero: 1"), one}, {"moe_plusplus", "moe_plusplus_residual"}},
      {"light_tensor2_expert4_zero3",
       4,
       {p("data: 2, tensor: 2, sequence: true, expert: 4, zero: 3"), "recompute.mode=selective"},
       {"moe_plusplus", "moe_plusplus_residual"}},
      {"light_tensor2_expert_tensor2",
       4,
       {p("data: 2, tensor: 2, expert: 2, expert_tensor: 2"), "recompute.mode=full"},
       {"moe_plusplus_residual", "moe_plusplus"}},
      {"light_pipeline2_tensor2",
       4,
       {p("tensor: 2, pipeline: 2, expert: 2, schedule: zb_h1"), one, "moe.dispatch=allgather"},
       {"moe_plusplus_residual", "moe_plusplus"}},
      {"light_interleaved2_zero2",
       4,
       {p("data: 2, pipeline: 2, virtual_stages: 2, schedule: interleaved, zero: 2, stages: [1, 1, 1, 1]"), one,
        "recompute.mode=full"},
       {"moe_plusplus_residual"}},
  };
  return list;
}

std::vector<LayoutCase> layout_cases(int least_ranks, int most_ranks, size_t most_cases) {
  std::vector<LayoutCase> list;
  for (const Layout& layout : layouts()) {
    if (layout.ranks < least_ranks || layout.ranks > most_ranks) continue;
    for (size_t i = 0; i < std::min(most_cases, layout.cases.size()); ++i) {
      list.push_back({layout.name, layout.cases[i], layout.ranks, layout.sets});
    }
  }
  return list;
}

}  // namespace trireme::golden
