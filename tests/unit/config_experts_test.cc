// Models with experts: each family's config.json, the moe section, and what doesn't go together.
#include <gtest/gtest.h>

#include "tests/unit/config_testing.h"

namespace trireme {
namespace {

using testing::message;
using testing::replaced;
using testing::with;

// As transformers 5 saves them.
const char* kMixtral = R"({
  "architectures": ["MixtralForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 1, "dtype": "float32",
  "head_dim": null, "hidden_act": "silu", "hidden_size": 24, "initializer_range": 0.02, "intermediate_size": 36,
  "max_position_embeddings": 64, "model_type": "mixtral", "num_attention_heads": 4, "num_experts_per_tok": 2,
  "num_hidden_layers": 2, "num_key_value_heads": 2, "num_local_experts": 8, "output_router_logits": false,
  "rms_norm_eps": 1e-05, "rope_parameters": {"rope_theta": 1000000.0, "rope_type": "default"},
  "router_aux_loss_coef": 0.02, "router_jitter_noise": 0.0, "sliding_window": null, "tie_word_embeddings": false,
  "vocab_size": 97
})";
const char* kQwen2Moe = R"({
  "attention_dropout": 0.0, "decoder_sparse_step": 2, "hidden_act": "silu", "hidden_size": 24,
  "intermediate_size": 36, "layer_types": ["full_attention", "full_attention", "full_attention", "full_attention"],
  "max_position_embeddings": 64, "max_window_layers": 28, "mlp_only_layers": [1], "model_type": "qwen2_moe",
  "moe_intermediate_size": 10, "norm_topk_prob": false, "num_attention_heads": 4, "num_experts": 6,
  "num_experts_per_tok": 2, "num_hidden_layers": 4, "num_key_value_heads": 4, "qkv_bias": true, "rms_norm_eps": 1e-06,
  "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}, "router_aux_loss_coef": 0.001,
  "shared_expert_intermediate_size": 12, "sliding_window": 0, "use_sliding_window": false, "vocab_size": 97
})";
const char* kQwen3Moe = R"({
  "attention_bias": false, "attention_dropout": 0.0, "decoder_sparse_step": 1, "hidden_act": "silu", "head_dim": 8,
  "hidden_size": 24, "intermediate_size": 36, "max_position_embeddings": 64, "mlp_only_layers": null,
  "model_type": "qwen3_moe", "moe_intermediate_size": 10, "norm_topk_prob": true, "num_attention_heads": 4,
  "num_experts_per_tok": 2, "num_hidden_layers": 2, "num_key_value_heads": 2, "num_local_experts": 6,
  "rms_norm_eps": 1e-06, "rope_theta": 1e6, "sliding_window": null, "use_sliding_window": false, "vocab_size": 97
})";
const char* kDeepSeek3 = R"({
  "attention_bias": false, "attention_dropout": 0.0, "aux_loss_alpha": 0.0001, "ep_size": 1,
  "first_k_dense_replace": 1, "head_dim": 4, "hidden_act": "silu", "hidden_size": 24, "intermediate_size": 36,
  "kv_lora_rank": 8, "max_position_embeddings": 64, "model_type": "deepseek_v3", "moe_intermediate_size": 10,
  "moe_layer_freq": 1, "n_group": 2, "n_routed_experts": 8, "n_shared_experts": 2, "norm_topk_prob": true,
  "num_attention_heads": 4, "num_experts_per_tok": 3, "num_hidden_layers": 3, "num_key_value_heads": 4,
  "num_nextn_predict_layers": 1, "q_lora_rank": 6, "qk_head_dim": 10, "qk_nope_head_dim": 6, "qk_rope_head_dim": 4,
  "rms_norm_eps": 1e-06, "rope_interleave": true, "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
  "routed_scaling_factor": 2.5, "scoring_func": "sigmoid", "seq_aux": true, "topk_group": 1,
  "topk_method": "noaux_tc", "v_head_dim": 5, "vocab_size": 97
})";
const char* kDeepSeek2 = R"({
  "attention_bias": false, "attention_dropout": 0.0, "first_k_dense_replace": 1, "hidden_act": "silu",
  "hidden_size": 24, "intermediate_size": 36, "kv_lora_rank": 8, "max_position_embeddings": 64, "mlp_bias": false,
  "model_type": "deepseek_v2", "moe_intermediate_size": 10, "n_group": 4, "n_routed_experts": 8, "n_shared_experts": 1,
  "norm_topk_prob": false, "num_attention_heads": 4, "num_experts_per_tok": 2, "num_hidden_layers": 3,
  "num_key_value_heads": 4, "q_lora_rank": null, "qk_nope_head_dim": 6, "qk_rope_head_dim": 4, "rms_norm_eps": 1e-06,
  "rope_theta": 10000, "routed_scaling_factor": 16.0, "scoring_func": "softmax", "topk_group": 2,
  "topk_method": "group_limited_greedy", "v_head_dim": 5, "vocab_size": 97
})";

class ExpertsOfConfigs : public testing::ConfigJson {
 protected:
  Config run(const std::string& json, const std::vector<std::string>& sets = {}) {
    return ConfigJson::run(json, "", sets);
  }
  void expect_refused(const std::string& json, const std::vector<std::string>& sets, const std::string& part) {
    EXPECT_CONTAINS(message([&] { run(json, sets); }), part);
  }
};

TEST_F(ExpertsOfConfigs, Mixtral) {
  const ModelConfig m = read(kMixtral);
  EXPECT_EQ(m.family, ModelFamily::mixtral);
  EXPECT_EQ(m.head_dim, 6);
  EXPECT_EQ(m.rope.theta, 1e6);
  EXPECT_FALSE(m.attention_bias);
  EXPECT_EQ(m.experts, (ExpertsConfig{.num_experts = 8, .top_k = 2, .ffn_size = 36}));
  EXPECT_TRUE(m.has_experts(0));
}

TEST_F(ExpertsOfConfigs, QwenMoe) {
  const ModelConfig two = read(kQwen2Moe);
  EXPECT_TRUE(two.attention_bias);
  EXPECT_FALSE(two.qk_norm);
  EXPECT_EQ(two.experts, (ExpertsConfig{.num_experts = 6,
                                        .top_k = 2,
                                        .ffn_size = 10,
                                        .shared_ffn_size = 12,
                                        .shared_gate = true,
                                        .period = 2,
                                        .dense_layers = {1},
                                        .normalize = false}));
  const std::vector<bool> expected = {false, false, false, true};
  for (int64_t layer = 0; layer < 4; ++layer) EXPECT_EQ(two.has_experts(layer), expected[static_cast<size_t>(layer)]);
  const ModelConfig three = read(kQwen3Moe);
  EXPECT_TRUE(three.qk_norm);
  EXPECT_FALSE(three.attention_bias);
  EXPECT_EQ(three.head_dim, 8);
  EXPECT_EQ(three.experts, (ExpertsConfig{.num_experts = 6, .top_k = 2, .ffn_size = 10, .normalize = true}));
  EXPECT_TRUE(three.has_experts(0) && three.has_experts(1));
  EXPECT_FALSE(read(replaced(kQwen3Moe, "\"norm_topk_prob\": true,", "")).experts.normalize);
}

TEST_F(ExpertsOfConfigs, DeepSeek) {
  const ModelConfig three = read(kDeepSeek3);
  EXPECT_EQ(three.latent, (LatentAttentionConfig{.q_rank = 6, .kv_rank = 8, .nope_dim = 6, .rope_dim = 4, .v_dim = 5}));
  EXPECT_EQ(three.head_dim, 10);
  EXPECT_EQ(three.num_predictors, 1);
  EXPECT_EQ(three.experts, (ExpertsConfig{.num_experts = 8,
                                          .top_k = 3,
                                          .ffn_size = 10,
                                          .shared_ffn_size = 20,
                                          .num_dense_first = 1,
                                          .scoring = RouterScoring::sigmoid,
                                          .score_bias = true,
                                          .normalize = true,
                                          .scaling = 2.5,
                                          .num_groups = 2,
                                          .groups_per_token = 1,
                                          .group_score = GroupScore::sum_of_best_two}));
  EXPECT_FALSE(three.has_experts(0));
  EXPECT_TRUE(three.has_experts(1));
  EXPECT_TRUE(three.has_experts(3));  // the first module of multi-token prediction
  const ModelConfig two = read(kDeepSeek2);
  EXPECT_EQ(two.latent.q_rank, 0);
  EXPECT_EQ(two.experts, (ExpertsConfig{.num_experts = 8,
                                        .top_k = 2,
                                        .ffn_size = 10,
                                        .shared_ffn_size = 10,
                                        .num_dense_first = 1,
                                        .normalize = false,
                                        .scaling = 16.0,
                                        .num_groups = 4,
                                        .groups_per_token = 2}));
}

// What DeepSeek's published files have of it.
TEST_F(ExpertsOfConfigs, DeepSeekWithYarn) {
  RopeConfig expected{.type = RopeType::yarn, .factor = 40.0, .original_max_position_embeddings = 4096};
  const std::string published = R"("rope_theta": 10000, "rope_scaling": {"beta_fast": 32, "beta_slow": 1, "factor": 40,
      "mscale": MSCALE, "mscale_all_dim": MSCALE, "original_max_position_embeddings": 4096, "type": "yarn"})";
  const auto of = [&](std::string scale) { return replaced(replaced(published, "MSCALE", scale), "MSCALE", scale); };
  expected.mscale = expected.mscale_all_dim = 1.0;
  const std::string default_rope = R"("rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"})";
  EXPECT_EQ(read(replaced(kDeepSeek3, default_rope, of("1.0"))).rope, expected);
  expected.mscale = expected.mscale_all_dim = 0.707;
  EXPECT_EQ(read(replaced(kDeepSeek2, R"("rope_theta": 10000)", of("0.707"))).rope, expected);
}

// What a config.json leaves out means what transformers takes for it.
TEST_F(ExpertsOfConfigs, AbsentKeysOfAFile) {
  const ModelConfig greedy = read(replaced(kDeepSeek2, "\"topk_method\": \"group_limited_greedy\",", ""));
  EXPECT_EQ(greedy.experts.num_groups, 1);
  EXPECT_EQ(greedy.experts.groups_per_token, 1);
  EXPECT_EQ(read(replaced(kDeepSeek2, "\"n_shared_experts\": 1,", "")).experts.shared_ffn_size, 20);
  EXPECT_EQ(read(replaced(kDeepSeek2, "\"q_lora_rank\": null, ", "")).latent.q_rank, 1536);
  std::string heads = replaced(kMixtral, "\"num_key_value_heads\": 2, ", "");
  heads = replaced(heads, "\"num_attention_heads\": 4", "\"num_attention_heads\": 16");
  EXPECT_EQ(read(replaced(heads, "\"hidden_size\": 24", "\"hidden_size\": 96")).num_kv_heads, 8);
  std::string text = replaced(kDeepSeek3, "\"n_group\": 2,", "");
  text = replaced(text, "\"n_routed_experts\": 8", "\"n_routed_experts\": 16");
  text = replaced(text, "\"topk_group\": 1,", "");
  text = replaced(text, "\"n_shared_experts\": 2,", "");
  text = replaced(text, "\"first_k_dense_replace\": 1,", "");
  const ModelConfig three = read(text);
  EXPECT_EQ(three.experts.num_groups, 8);
  EXPECT_EQ(three.experts.groups_per_token, 4);
  EXPECT_EQ(three.experts.shared_ffn_size, 10);
  EXPECT_EQ(three.experts.num_dense_first, 3);
  EXPECT_EQ(
      read(replaced(kMixtral, "\"rope_parameters\": {\"rope_theta\": 1000000.0, \"rope_type\": \"default\"},", ""))
          .rope.theta,
      1e6);
}

TEST_F(ExpertsOfConfigs, TheMoeSectionReachesTheModel) {
  const Config c = run(kMixtral, {"moe.zero_experts=1", "moe.copy_experts=2", "moe.constant_experts=3",
                                  "moe.gating_residual=true", "moe.balance=bias"});
  EXPECT_EQ(c.model.experts.num_choices(), 14);
  EXPECT_EQ(c.model.experts.num_zero, 1);
  EXPECT_EQ(c.model.experts.num_copy, 2);
  EXPECT_EQ(c.model.experts.num_constant, 3);
  EXPECT_TRUE(c.model.experts.gating_residual);
  EXPECT_TRUE(c.model.experts.score_bias);
  EXPECT_FALSE(run(kMixtral).model.experts.score_bias);
  EXPECT_EQ(run(kMixtral, {"moe.capacity_factor=1.25"}).moe.capacity_factor, 1.25);
  EXPECT_TRUE(run(kDeepSeek3).model.experts.score_bias);
}

TEST_F(ExpertsOfConfigs, AuxiliaryLossCoefficient) {
  EXPECT_EQ(run(kMixtral).moe.aux_loss_coef, 0.02);
  EXPECT_EQ(run(kDeepSeek3).moe.aux_loss_coef, 0.0001);
  EXPECT_EQ(run(kQwen3Moe).moe.aux_loss_coef, 0.01);
  EXPECT_EQ(run(kMixtral, {"model.router_aux_loss_coef=0.5"}).moe.aux_loss_coef, 0.5);
  EXPECT_EQ(run(kMixtral, {"model.router_aux_loss_coef=0.5", "moe.aux_loss_coef=0"}).moe.aux_loss_coef, 0.0);
  expect_refused(kMixtral, {"model.router_aux_loss_coef=-1"}, "model.router_aux_loss_coef is out of range");
}

TEST_F(ExpertsOfConfigs, DumpedConfigurationsComeBack) {
  for (const char* json : {kMixtral, kQwen2Moe, kQwen3Moe, kDeepSeek2, kDeepSeek3}) {
    for (const std::vector<std::string>& sets :
         {std::vector<std::string>{}, {"moe.balance=bias"}, {"moe.capacity_factor=1.5", "moe.drop=position"}}) {
      const Config c = run(json, sets);
      const std::string dump = dump_config(c);
      EXPECT_EQ(parse_config(dump, "dump.yaml"), c) << dump;
    }
  }
  const Config even = run(kMixtral, {"moe.router=base", "model.num_experts_per_tok=1"});
  EXPECT_EQ(even.moe.balance, MoeBalance::none);
  EXPECT_EQ(parse_config(dump_config(even), "dump.yaml"), even);
}

TEST_F(ExpertsOfConfigs, RefusesByNameWhatIsNotBuilt) {
  struct Case {
    const char* json;
    const char* from;
    const char* to;
    const char* part;
  };
  const std::vector<Case> cases = {
      {kMixtral, R"("router_jitter_noise": 0.0)", R"("router_jitter_noise": 0.1)",
       "model.router_jitter_noise asks for noise on the router's input, which isn't built (expected 0, found '0.1')"},
      {kMixtral, R"("sliding_window": null)", R"("sliding_window": 9)", "model.sliding_window asks for"},
      {kQwen2Moe, R"("full_attention"])", R"("sliding_attention"])", "model.layer_types asks for"},
      {kQwen2Moe, R"("qkv_bias": true)", R"("qkv_bias": false)", "model.qkv_bias asks for"},
      {kQwen3Moe, R"("sliding_window": null, "use_sliding_window": false)",
       R"("sliding_window": 9, "use_sliding_window": true)", "model.use_sliding_window asks for"},
      {kQwen3Moe, R"("attention_bias": false)", R"("attention_bias": true)", "model.attention_bias asks for"},
      {kDeepSeek3, R"("attention_bias": false)", R"("attention_bias": true)", "model.attention_bias asks for"},
      {kDeepSeek3, R"("rope_type": "default")", R"("rope_type": "longrope", "factor": 4)",
       "model.rope_parameters.rope_type has an unknown value"},
      {kDeepSeek3, R"("rope_interleave": true)", R"("rope_interleave": false)", "model.rope_interleave asks for"},
      {kDeepSeek3, R"("sigmoid")", R"("softmax")", "model.scoring_func asks for another score of experts"},
      {kDeepSeek3, R"("noaux_tc")", R"("greedy")", "model.topk_method asks for another choice of experts"},
      {kDeepSeek3, R"("moe_layer_freq": 1)", R"("moe_layer_freq": 2)", "model.moe_layer_freq asks for"},
      {kDeepSeek2, R"("norm_topk_prob": false)", R"("norm_topk_prob": true)", "model.norm_topk_prob asks for"},
      {kDeepSeek2, R"("group_limited_greedy")", R"("noaux_tc")", "expected greedy or group_limited_greedy"},
      {kDeepSeek2, R"("softmax")", R"("sigmoid")", "model.scoring_func asks for another score of experts"},
  };
  for (const Case& c : cases) expect_refused(replaced(c.json, c.from, c.to), {}, c.part);
  expect_refused(with(kDeepSeek3, R"("quantization_config": {"fmt": "e4m3"})"), {},
                 "model.quantization_config asks for");
  expect_refused(kQwen3Moe, {"model.num_expert=3"}, "unknown key model.num_expert");
  expect_refused(
      kMixtral, {"model.shared_expert_intermediate_size=3"},
      "unknown key model.shared_expert_intermediate_size (expected a model_type that has it: qwen2_moe, found "
      "mixtral) at --set model.shared_expert_intermediate_size");
}

TEST_F(ExpertsOfConfigs, WhatDoesNotFit) {
  struct Case {
    const char* json;
    std::vector<std::string> sets;
    const char* part;
  };
  const std::vector<Case> cases = {
      {kMixtral,
       {"model.num_experts_per_tok=9"},
       "model.num_experts_per_tok is above the number of experts (expected at most 8, found 9) at --set "
       "model.num_experts_per_tok; try 2"},
      {kDeepSeek3,
       {"model.n_group=3"},
       "model.n_group doesn't divide model.n_routed_experts (expected a divisor of 8, found 3) at --set "
       "model.n_group; try 2 or 4"},
      {kDeepSeek3, {"model.topk_group=3"}, "model.topk_group is above model.n_group (expected at most 2, found 3)"},
      {kDeepSeek3, {"model.n_group=8", "model.topk_group=4"}, "two experts or more in each group"},
      {kDeepSeek3, {"model.num_experts_per_tok=5"}, "the experts of the groups that a token may choose from (expected"},
      {kDeepSeek3,
       {"model.first_k_dense_replace=4"},
       "model.first_k_dense_replace is above model.num_hidden_layers (expected at most 3, found 4)"},
      {kQwen2Moe,
       {"model.mlp_only_layers=[1, 4]"},
       "names a layer that the model doesn't have (expected layers from 0 to 3"},
      {kDeepSeek3, {"model.num_key_value_heads=2"}, "latent attention has keys and values for every head"},
      {kDeepSeek3, {"model.qk_rope_head_dim=5"}, "model.qk_rope_head_dim must be even"},
      {kMixtral, {"moe.capacity_factor=0.5"}, "capacity below one"},
      {kMixtral, {"moe.capacity_factor=1e19"}, "moe.capacity_factor is out of range"},
      {kMixtral, {"moe.router=switch"}, "config.json:4; try model.num_experts_per_tok: 1, or moe.router: topk"},
      {kMixtral,
       {"moe.router=base"},
       "model.num_experts_per_tok doesn't go with moe.router base (expected 1, found 2)"},
      {kMixtral,
       {"moe.router=hash", "moe.balance=aux"},
       "moe.balance doesn't go with moe.router hash (expected none, for the router is even by itself, found aux) at "
       "--set moe.balance; try moe.balance: none, or moe.router: topk"},
      {kDeepSeek3, {"moe.router=expert_choice"}, "a model without a selection bias of its experts, found deepseek_v3)"},
      {kMixtral,
       {"moe.router=expert_choice", "moe.balance=bias"},
       "moe.balance doesn't go with moe.router expert_choice"},
      {kDeepSeek2, {"moe.router=expert_choice"}, "model.n_group doesn't go with moe.router expert_choice"},
      {kMixtral, {"moe.router=hash", "moe.copy_experts=1"}, "moe.copy_experts doesn't go with moe.router hash"},
      {kMixtral,
       {"moe.router=base", "model.num_experts_per_tok=1", "moe.capacity_factor=2"},
       "moe.capacity_factor doesn't go with moe.router base"},
      {kDeepSeek2, {"moe.zero_experts=1"}, "experts that compute nothing belong to no group"},
  };
  for (const Case& c : cases) expect_refused(c.json, c.sets, c.part);
  EXPECT_EQ(run(kMixtral, {"model.num_experts_per_tok=9", "moe.zero_experts=1"}).model.experts.top_k, 9);
  EXPECT_EQ(run(kMixtral, {"parallel.expert=4", "parallel.expert_tensor=2"}).parallel.expert, 4);
}

const char* kDense = R"({"model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
  "num_attention_heads": 4, "max_position_embeddings": 64, "vocab_size": 64})";

TEST_F(ExpertsOfConfigs, ADenseModelHasNoUseForThem) {
  expect_refused(kDense, {"moe.capacity_factor=2"},
                 "moe.capacity_factor is given, and the model has no experts (expected a model with experts");
  expect_refused(kDense, {"moe.balance=none"}, "moe.balance is given");
  const Config c = run(kDense, {"moe.balance=aux"});
  EXPECT_EQ(parse_config(dump_config(c), "dump.yaml"), c);
  EXPECT_FALSE(c.model.has_experts(0));
}

TEST_F(ExpertsOfConfigs, ExpertChoiceWarns) {
  EXPECT_TRUE(config_warnings(run(kMixtral)).empty());
  const std::vector<std::string> warnings = config_warnings(run(kMixtral, {"moe.router=expert_choice"}));
  ASSERT_EQ(warnings.size(), 1u);
  EXPECT_NE(warnings[0].find("not causal"), std::string::npos);
}

}  // namespace
}  // namespace trireme
