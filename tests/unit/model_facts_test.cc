// Counts, FLOPs and names of models that are never built.
#include "models/model_facts.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "core/config/load.h"
#include "models/parameter_names.h"

namespace trireme {
namespace {

ModelConfig model(const std::string& keys, const std::string& moe = "") {
  return parse_config("run: {dir: r, steps: 1}\nmodel: {" + keys +
                          "}\ndata: {train: [{path: d}], sequence_length: 16}\n" + "batch: {global: 1, micro: 1}\n" +
                          (moe.empty() ? "" : "moe: {" + moe + "}\n"),
                      "r.yaml")
      .model;
}

const std::string kMixtral8x7B =
    "model_type: mixtral, hidden_size: 4096, intermediate_size: 14336, num_hidden_layers: 32, num_attention_heads: 32, "
    "num_key_value_heads: 8, num_local_experts: 8, num_experts_per_tok: 2, vocab_size: 32000, max_position_embeddings: "
    "32768";
const std::string kQwen3Moe30B =
    "model_type: qwen3_moe, hidden_size: 2048, intermediate_size: 6144, num_hidden_layers: 48, num_attention_heads: "
    "32, "
    "num_key_value_heads: 4, head_dim: 128, moe_intermediate_size: 768, num_experts: 128, num_experts_per_tok: 8, "
    "norm_topk_prob: true, vocab_size: 151936, max_position_embeddings: 32768";
const std::string kQwenMoe =
    "model_type: qwen2_moe, hidden_size: 2048, intermediate_size: 5632, num_hidden_layers: 24, num_attention_heads: "
    "16, "
    "num_key_value_heads: 16, moe_intermediate_size: 1408, shared_expert_intermediate_size: 5632, num_experts: 60, "
    "num_experts_per_tok: 4, vocab_size: 151936, max_position_embeddings: 8192";
const std::string kDeepSeek3 =
    "model_type: deepseek_v3, hidden_size: 7168, intermediate_size: 18432, num_hidden_layers: 61, num_attention_heads: "
    "128, moe_intermediate_size: 2048, n_routed_experts: 256, num_experts_per_tok: 8, n_shared_experts: 1, "
    "first_k_dense_replace: 3, n_group: 8, topk_group: 4, q_lora_rank: 1536, kv_lora_rank: 512, qk_nope_head_dim: 128, "
    "qk_rope_head_dim: 64, v_head_dim: 128, vocab_size: 129280, max_position_embeddings: 4096";
const std::string kDeepSeek2Lite =
    "model_type: deepseek_v2, hidden_size: 2048, intermediate_size: 10944, num_hidden_layers: 27, num_attention_heads: "
    "16, moe_intermediate_size: 1408, n_routed_experts: 64, num_experts_per_tok: 6, n_shared_experts: 2, "
    "first_k_dense_replace: 1, q_lora_rank: null, kv_lora_rank: 512, qk_nope_head_dim: 128, qk_rope_head_dim: 64, "
    "v_head_dim: 128, vocab_size: 102400, max_position_embeddings: 4096";

struct Known {
  std::string name;
  std::string keys;
  int64_t parameters;  // what transformers' own models have
  double active_billions;
};

class PublishedModels : public ::testing::TestWithParam<Known> {};

// The active ones are what the models' cards say: 12.9, 3.3, 2.7, 37.
TEST_P(PublishedModels, HaveTheirCounts) {
  const ModelConfig config = model(GetParam().keys);
  EXPECT_EQ(count_parameters(config), GetParam().parameters);
  EXPECT_NEAR(static_cast<double>(count_active_parameters(config)) * 1e-9, GetParam().active_billions, 0.05);
}

TEST_P(PublishedModels, HaveNamesForAllOfThem) {
  const ModelConfig config = model(GetParam().keys);
  int64_t elements = 0;
  std::set<std::string> names;
  for (const NameMapEntry& entry : hugging_face_names(config).entries) {
    EXPECT_TRUE(names.insert(entry.hf_name).second) << entry.hf_name;
    EXPECT_EQ(entry.parameter, entry.hf_name);
    if (!entry.is_buffer) elements += entry.hf_shape.numel();
  }
  EXPECT_EQ(elements, GetParam().parameters);
}

INSTANTIATE_TEST_SUITE_P(Models, PublishedModels,
                         ::testing::Values(Known{"Mixtral8x7B", kMixtral8x7B, 46702792704, 12.88},
                                           Known{"Qwen3Moe30B", kQwen3Moe30B, 30532122624, 3.35},
                                           Known{"QwenMoe", kQwenMoe, 14315784192, 2.69},
                                           Known{"DeepSeek2Lite", kDeepSeek2Lite, 15706484224, 2.66},
                                           Known{"DeepSeek3", kDeepSeek3, 671026404352, 37.55}),
                         [](const auto& test) { return test.param.name; });

// 6 for each active matrix element, attention 3·L·H·(D + D_v)·T, by hand.
TEST(ModelFlops, CountWhatATokenMeets) {
  // Attention 4096·(2·4096 + 2·1024), router 8·4096, two experts of 3·4096·14336, head 32000·4096.
  const double mixtral = 32.0 * (4096.0 * 10240 + 8 * 4096 + 2 * 3.0 * 4096 * 14336) + 32000.0 * 4096;
  EXPECT_DOUBLE_EQ(model_flops_per_token(model(kMixtral8x7B), 4096), 6 * mixtral + 6.0 * 32 * 4096 * 4096);
  const double attention = 7168.0 * 1536 + 1536.0 * 128 * 192 + 7168.0 * 576 + 512.0 * 128 * 256 + 128.0 * 128 * 7168;
  const double dense = 3.0 * 7168 * 18432;
  const double experts = 256.0 * 7168 + 9 * 3.0 * 7168 * 2048;
  const double deepseek = 61 * attention + 3 * dense + 58 * experts + 129280.0 * 7168;
  const double scores = 3.0 * 61 * 128 * (192 + 128) * 4096;
  EXPECT_DOUBLE_EQ(model_flops_per_token(model(kDeepSeek3), 4096), 6 * deepseek + scores);
  // A module of multi-token prediction: one more layer, the joining matrix, the head again.
  const double module = attention + experts + 2.0 * 7168 * 7168 + 129280.0 * 7168;
  EXPECT_DOUBLE_EQ(model_flops_per_token(model(kDeepSeek3 + ", num_nextn_predict_layers: 1"), 4096),
                   6 * (deepseek + module) + scores * 62 / 61);
}

TEST(ModelNames, MultiTokenPrediction) {
  const ModelConfig without = model(kDeepSeek3);
  const ModelConfig config = model(kDeepSeek3 + ", num_nextn_predict_layers: 1");
  std::set<std::string> names;
  int64_t elements = 0;
  const NameMap map = hugging_face_names(config);
  for (const NameMapEntry& entry : map.entries) {
    names.insert(entry.hf_name);
    if (!entry.is_buffer) elements += entry.hf_shape.numel();
  }
  EXPECT_EQ(elements, count_parameters(config));
  for (const char* name :
       {"enorm.weight", "hnorm.weight", "eh_proj.weight", "shared_head.norm.weight", "input_layernorm.weight",
        "self_attn.kv_a_proj_with_mqa.weight", "mlp.experts.255.down_proj.weight",
        "mlp.shared_experts.gate_proj.weight", "mlp.gate.e_score_correction_bias"}) {
    EXPECT_TRUE(names.contains("model.layers.61." + std::string(name))) << name;
  }
  // The published file has the module's tables once more: 685 billion elements instead of 671.
  const int64_t tables = 2 * int64_t{129280} * 7168;
  EXPECT_NEAR(static_cast<double>(count_parameters(config) + tables) * 1e-9, 684.5, 0.1);
  EXPECT_FALSE(names.contains("model.layers.61.embed_tokens.weight"));
  EXPECT_EQ(hugging_face_names(without).ignored_prefixes, std::vector<std::string>{"model.layers.61."});
  EXPECT_EQ(map.ignored_prefixes, std::vector<std::string>{"model.layers.62."});
}

TEST(ModelNames, ExpertsThatComputeNothing) {
  const ModelConfig config = model(
      "model_type: qwen3_moe, hidden_size: 24, intermediate_size: 36, num_hidden_layers: 3, num_attention_heads: 4, "
      "moe_intermediate_size: 10, num_experts: 4, num_experts_per_tok: 2, mlp_only_layers: [0], vocab_size: 97, "
      "max_position_embeddings: 64",
      "zero_experts: 1, copy_experts: 1, constant_experts: 2, gating_residual: true, balance: bias");
  int64_t elements = 0;
  std::set<std::string> names;
  std::map<std::string, std::string> shapes;
  for (const NameMapEntry& entry : hugging_face_names(config).entries) {
    names.insert(entry.hf_name);
    shapes[entry.hf_name] = entry.hf_shape.str();
    if (!entry.is_buffer) elements += entry.hf_shape.numel();
  }
  EXPECT_EQ(elements, count_parameters(config));
  EXPECT_EQ(shapes["model.layers.1.mlp.gate.weight"], (Shape{8, 24}).str());
  EXPECT_EQ(shapes["model.layers.2.mlp.gate_residual.weight"], (Shape{8, 8}).str());
  for (const char* name :
       {"model.layers.1.mlp.constant_experts.1.vector", "model.layers.1.mlp.constant_experts.0.mix.weight",
        "model.layers.2.mlp.gate_residual.weight", "model.layers.2.mlp.gate.e_score_correction_bias",
        "model.layers.0.mlp.gate_proj.weight"}) {
    EXPECT_TRUE(names.contains(name)) << name;
  }
  EXPECT_FALSE(names.contains("model.layers.1.mlp.gate_residual.weight"));  // no router before it
  // Two choices of eight, of which half compute: one expert of four is active.
  const int64_t expert = 3 * 24 * 10;
  const int64_t mix = 2 * 2 * 24;
  EXPECT_EQ(count_parameters(config) - count_active_parameters(config), 2 * (3 * expert + mix));
}

TEST(ModelNames, Mixtral) {
  const ParameterNames names(ModelFamily::mixtral, 3);
  EXPECT_EQ(names.router, "model.layers.3.block_sparse_moe.gate");
  EXPECT_EQ(names.expert(7).gate, "model.layers.3.block_sparse_moe.experts.7.w1");
  EXPECT_EQ(names.expert(7).up, "model.layers.3.block_sparse_moe.experts.7.w3");
  EXPECT_EQ(names.expert(7).down, "model.layers.3.block_sparse_moe.experts.7.w2");
}

}  // namespace
}  // namespace trireme
