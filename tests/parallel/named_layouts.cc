#include "tests/parallel/named_layouts.h"

#include "core/config/load.h"

namespace trireme::layouts {

namespace {

// Heads and the vocabulary's granules divide by 4; feed-forward size, vocabulary and sequence length need padding.
constexpr const char* kYaml =
    "run: {dir: named-layouts, steps: 10, threads: 1}\n"
    "model: {model_type: llama, hidden_size: 24, num_hidden_layers: 4, num_attention_heads: 4, num_key_value_heads: 4, "
    "head_dim: 6, intermediate_size: 37, vocab_size: 67, max_position_embeddings: 32}\n"
    "data: {train: [{path: none}], sequence_length: 11}\n"
    "batch: {global: 8, micro: 1}\n"
    "optimizer: {lr: 1.0e-3, eps: 1.0e-5, clip_grad_norm: 0.5, schedule: {type: constant}}\n"
    "precision: {compute: fp32}\n"
    "parallel: {data: 1}\n";

std::string p(const std::string& settings) { return "parallel={" + settings + "}"; }

}  // namespace

const std::vector<NamedLayout>& named_layouts() {
  const std::string gpt2 =
      "model={model_type: gpt2, n_embd: 24, n_layer: 4, n_head: 4, n_inner: 37, vocab_size: 67, n_positions: 32}";
  const std::string qwen2 = "model.model_type=qwen2";
  const std::string qwen3 = "model.model_type=qwen3";
  const std::string tied = "model.tie_word_embeddings=true";
  const std::string few_kv = "model.num_key_value_heads=2";
  const std::string six_layers = "model.num_hidden_layers=6";
  static const std::vector<NamedLayout> list = {
      {"tensor2", 2, {qwen3, p("data: 1, tensor: 2")}},
      {"tensor2_sequence", 2, {qwen3, tied, few_kv, p("data: 1, tensor: 2, sequence: true")}},
      {"pipeline2_zb_h1", 2, {gpt2, p("data: 1, pipeline: 2, schedule: zb_h1")}},
      {"zero3", 2, {tied, p("data: 2, zero: 3"), "recompute.mode=selective"}},
      {"tensor4_sequence_chunks", 4, {gpt2, p("data: 1, tensor: 4, sequence: true, overlap_tensor: 3")}},
      {"pipeline4_1f1b", 4, {tied, p("data: 1, pipeline: 4, schedule: 1f1b")}},
      {"zero2_groups", 4, {qwen2, p("data: 4, zero: 2, zero_group: 2")}},
      {"tensor2_zero1", 4, {qwen3, few_kv, p("data: 2, tensor: 2, sequence: true, zero: 1"), "batch.micro=2"}},
      {"pipeline2_zero2_zb_v", 4, {tied, p("data: 2, pipeline: 2, schedule: zb_v, zero: 2")}},
      {"tensor2_pipeline2_gpipe", 4, {gpt2, p("data: 1, tensor: 2, pipeline: 2, schedule: gpipe"), "batch.micro=2"}},
      {"tensor2_pipeline2_interleaved_zero3",
       8,
       {qwen3, tied,
        p("data: 2, tensor: 2, sequence: true, pipeline: 2, schedule: interleaved, virtual_stages: 2, zero: 3")}},
      {"tensor2_groups_zero3",
       8,
       {qwen2, p("data: 4, tensor: 2, sequence: true, zero: 3, zero_group: 2"), "recompute.mode=full"}},
      {"tensor4_pipeline2_zb_h1", 8, {gpt2, p("data: 1, tensor: 4, pipeline: 2, schedule: zb_h1")}},
      {"pipeline4_zb_v_zero1",
       8,
       {six_layers, qwen3, p("data: 2, pipeline: 4, schedule: zb_v, stages: [0, 1, 1, 1, 1, 1, 1, 0], zero: 1")}},
      {"tensor2_pipeline2_zb_v_zero2",
       8,
       {tied, few_kv,
        p("data: 2, tensor: 2, sequence: true, pipeline: 2, schedule: zb_v, zero: 2, overlap_grad_reduce: false"),
        "data.mask_documents=true"}},
      {"pipeline2_groups_zero3_unit",
       8,
       {tied, p("data: 4, pipeline: 2, schedule: 1f1b, zero: 3, zero_group: 2, keep_gathered: unit, prefetch: 2")}},
  };
  return list;
}

Config tiny_config(const std::vector<std::string>& sets) { return parse_config(kYaml, "named layout", sets); }

Config named_config(const NamedLayout& layout, std::vector<std::string> sets) {
  sets.insert(sets.begin(), layout.sets.begin(), layout.sets.end());
  return tiny_config(sets);
}

}  // namespace trireme::layouts
