// The model section: Hugging Face's config.json, alone and overridden.
#include <gtest/gtest.h>

#include "tests/unit/config_testing.h"

namespace trireme {
namespace {

using testing::message;
using testing::replaced;
using testing::with;

class HfConfig : public testing::ConfigJson {
 protected:
  void expect_refused(const std::string& json, const std::string& part) {
    EXPECT_CONTAINS(message([&] { read(json); }), part);
  }
};

// As transformers 5 saves them.
const char* kLlama = R"({
  "architectures": ["LlamaForCausalLM"],
  "attention_bias": false,
  "attention_dropout": 0.0,
  "bos_token_id": 1,
  "head_dim": 8,
  "hidden_act": "silu",
  "hidden_size": 48,
  "initializer_range": 0.02,
  "intermediate_size": 80,
  "max_position_embeddings": 131072,
  "mlp_bias": false,
  "model_type": "llama",
  "num_attention_heads": 4,
  "num_hidden_layers": 2,
  "num_key_value_heads": 2,
  "pretraining_tp": 1,
  "rms_norm_eps": 1e-05,
  "rope_parameters": {"factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192, "rope_theta": 500000.0, "rope_type": "llama3"},
  "tie_word_embeddings": true,
  "torch_dtype": "bfloat16",
  "use_cache": true,
  "vocab_size": 99
})";
const char* kQwen2 = R"({"model_type": "qwen2", "attention_dropout": 0.0, "hidden_act": "silu", "hidden_size": 32,
  "intermediate_size": 64, "max_position_embeddings": 64, "max_window_layers": 28, "num_attention_heads": 4,
  "num_hidden_layers": 2, "num_key_value_heads": 4, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0,
  "rope_scaling": null, "sliding_window": 4096, "tie_word_embeddings": false, "use_sliding_window": false,
  "vocab_size": 64, "layer_types": ["full_attention", "full_attention"]})";
const char* kGpt2 = R"({"model_type": "gpt2", "activation_function": "gelu_new", "attn_pdrop": 0.0, "embd_pdrop": 0.0,
  "initializer_range": 0.02, "layer_norm_epsilon": 1e-05, "n_ctx": 64, "n_embd": 32, "n_head": 4, "n_inner": null,
  "n_layer": 2, "n_positions": 64, "reorder_and_upcast_attn": false, "resid_pdrop": 0.0,
  "scale_attn_by_inverse_layer_idx": false, "scale_attn_weights": true, "summary_first_dropout": 0.1,
  "summary_type": "cls_index", "task_specific_params": {"text-generation": {"do_sample": true}}, "vocab_size": 99})";

TEST_F(HfConfig, Llama) {
  const ModelConfig m = read(kLlama);
  ModelConfig expected;
  expected.family = ModelFamily::llama;
  expected.hidden_size = 48;
  expected.num_layers = 2;
  expected.num_heads = 4;
  expected.num_kv_heads = 2;
  expected.head_dim = 8;
  expected.ffn_size = 80;
  expected.vocab_size = 99;
  expected.max_positions = 131072;
  expected.norm_eps = 1e-5;
  expected.rope = {RopeType::llama3, 500000.0, 8.0, 1.0, 4.0, 8192};
  expected.tie_embeddings = true;
  EXPECT_EQ(m, expected);
}

TEST_F(HfConfig, QwenFixesBiasesAndNorms) {
  const ModelConfig two = read(kQwen2);
  EXPECT_TRUE(two.attention_bias);
  EXPECT_FALSE(two.qk_norm);
  EXPECT_EQ(two.rope, (RopeConfig{.theta = 1e6}));
  EXPECT_EQ(two.head_dim, 8);
  std::string text = with(kQwen2, R"("head_dim": 16, "attention_bias": false)");
  text.replace(text.find("qwen2"), 5, "qwen3");
  const ModelConfig three = read(text);
  EXPECT_FALSE(three.attention_bias);
  EXPECT_TRUE(three.qk_norm);
  EXPECT_EQ(three.head_dim, 16);
}

// What a config.json leaves out means what transformers takes for it.
TEST_F(HfConfig, AbsentKeysOfAFile) {
  std::string text = replaced(kQwen2, "\"num_key_value_heads\": 4, ", "");
  text = replaced(text, "\"num_attention_heads\": 4", "\"num_attention_heads\": 64");
  text = replaced(text, "\"hidden_size\": 32", "\"hidden_size\": 512");
  const ModelConfig two = read(text);
  EXPECT_EQ(two.num_kv_heads, 32);
  EXPECT_EQ(two.head_dim, 8);
  const ModelConfig three = read(replaced(text, "qwen2", "qwen3"));
  EXPECT_EQ(three.num_kv_heads, 32);
  EXPECT_EQ(three.head_dim, 128);
  EXPECT_EQ(read(replaced(kLlama, "\"num_key_value_heads\": 2,", "")).num_kv_heads, 4);
  EXPECT_EQ(run(text, "num_key_value_heads: 64").model.num_kv_heads, 64);
}

TEST_F(HfConfig, Gpt2) {
  const ModelConfig m = read(kGpt2);
  EXPECT_EQ(m.family, ModelFamily::gpt2);
  EXPECT_EQ(m.hidden_size, 32);
  EXPECT_EQ(m.num_layers, 2);
  EXPECT_EQ(m.num_heads, 4);
  EXPECT_EQ(m.num_kv_heads, 4);
  EXPECT_EQ(m.ffn_size, 128);
  EXPECT_EQ(m.max_positions, 64);
  EXPECT_EQ(m.norm, NormKind::layer);
  EXPECT_EQ(m.norm_eps, 1e-5);
  EXPECT_EQ(m.activation, Activation::gelu_tanh);
  EXPECT_EQ(m.rope.type, RopeType::none);
  EXPECT_TRUE(m.tie_embeddings);
  EXPECT_EQ(run(kGpt2, "activation_function: gelu").model.activation, Activation::gelu_erf);
  EXPECT_EQ(run(kGpt2, "n_inner: 40").model.ffn_size, 40);
  EXPECT_EQ(run(kGpt2, "hidden_size: 64").model.hidden_size, 64);
}

TEST_F(HfConfig, KeysBesideTheFileOverrideIt) {
  const Config c = run(kLlama, "num_hidden_layers: 7, rope_theta: 10",
                       {"model.vocab_size=123", "model.rope_scaling.factor=16", "model.rope_parameters.rope_theta=20"});
  EXPECT_EQ(c.model.num_layers, 7);
  EXPECT_EQ(c.model.vocab_size, 123);
  EXPECT_EQ(c.model.rope, (RopeConfig{RopeType::llama3, 20, 16.0, 1.0, 4.0, 8192}));
  EXPECT_EQ(run(kLlama, "rope_scaling: null").model.rope, (RopeConfig{.theta = 500000}));
  EXPECT_EQ(run(kLlama, "rope_theta: 77, rope_scaling: {type: linear, factor: 2}").model.rope,
            (RopeConfig{.type = RopeType::linear, .theta = 77, .factor = 2}));
  EXPECT_EQ(run(kLlama, "rope_parameters: {rope_type: default, rope_theta: 5}").model.rope, (RopeConfig{.theta = 5}));
  // GPT-2's published file has dropout: refused until a key beside it says otherwise.
  std::string gpt2 = kGpt2;
  gpt2.replace(gpt2.find("\"attn_pdrop\": 0.0"), 17, "\"attn_pdrop\": 0.1");
  EXPECT_EQ(run(gpt2, "attn_pdrop: 0").model.hidden_size, 32);
  const std::string text = message([&] { run(gpt2); });
  EXPECT_NE(text.find("model.attn_pdrop asks for dropout, which isn't built (expected 0, found '0.1') at " +
                      dir_.path() + "/config.json:1; try model.attn_pdrop: 0"),
            std::string::npos)
      << text;
}

// Of what is left out transformers has a default.
TEST_F(HfConfig, Yarn) {
  RopeConfig expected{.type = RopeType::yarn, .theta = 1e6, .factor = 4.0, .original_max_position_embeddings = 64};
  const auto scaled = [&](const std::string& scaling, const std::string& more = "") {
    std::string text = replaced(kQwen2, "\"rope_scaling\": null", "\"rope_scaling\": {" + scaling + "}");
    return read(more.empty() ? text : with(text, more)).rope;
  };
  EXPECT_EQ(scaled(R"("type": "yarn", "factor": 4.0)"), expected);
  EXPECT_EQ(scaled(R"("rope_type": "yarn", "type": "yarn", "factor": 4.0)"), expected);
  EXPECT_EQ(scaled(R"("type": "yarn", "factor": 4.0, "beta_fast": null, "mscale": null, "attention_factor": null)"),
            expected);
  expected.original_max_position_embeddings = 32;
  const std::string context = R"("original_max_position_embeddings": 32)";
  EXPECT_EQ(scaled(R"("type": "yarn", "factor": 4.0, )" + context), expected);
  EXPECT_EQ(scaled(R"("type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16)", context), expected);
  EXPECT_EQ(scaled(R"("type": "linear", "factor": 4.0)", context),
            (RopeConfig{.type = RopeType::linear, .theta = 1e6, .factor = 4.0}));
  expected.beta_fast = 20;
  expected.beta_slow = 2;
  expected.truncate = false;
  expected.mscale = 0.707;
  expected.mscale_all_dim = 0.5;
  expected.attention_factor = 1.25;
  const std::string all = R"("rope_type": "yarn", "factor": 4.0, "beta_fast": 20, "beta_slow": 2, "truncate": false,
      "mscale": 0.707, "mscale_all_dim": 0.5, "attention_factor": 1.25, )";
  EXPECT_EQ(scaled(all + context), expected);
  EXPECT_EQ(read(replaced(kQwen2, "\"rope_scaling\": null",
                          "\"rope_parameters\": {" + all + context + ", \"rope_theta\": 1e6}"))
                .rope,
            expected);
  const std::string older =
      replaced(kQwen2, "\"rope_scaling\": null", R"("rope_scaling": {"type": "yarn", "factor": 4})");
  for (const std::string name : {"type", "rope_type"}) {
    EXPECT_EQ(run(older, "", {"model.rope_scaling." + name + "=linear"}).model.rope,
              (RopeConfig{.type = RopeType::linear, .theta = 1e6, .factor = 4.0}));
  }
  expect_refused(replaced(older, "\"factor\"", "\"rope_type\": \"linear\", \"factor\""),
                 "model.rope_scaling.rope_type is given twice, also as type");
  const std::string yaml =
      "rope_scaling: {rope_type: yarn, factor: 4, original_max_position_embeddings: 32, beta_fast: 20, beta_slow: 2, "
      "truncate: false, mscale: 0.707, mscale_all_dim: 0.5, attention_factor: 1.25}";
  const Config config = run(kQwen2, yaml);
  EXPECT_EQ(config.model.rope, expected);
  EXPECT_EQ(parse_config(dump_config(config), "dump.yaml"), config);
}

TEST_F(HfConfig, YarnThatMakesNoSense) {
  const auto refused = [&](const std::string& keys, const std::vector<std::string>& sets, const std::string& part) {
    EXPECT_CONTAINS(message([&] { run(kQwen2, "rope_scaling: {rope_type: yarn, " + keys + "}", sets); }), part);
  };
  refused("beta_fast: 2", {}, "a required key is missing: model.rope_scaling.factor");
  refused("factor: 0.5", {}, "model.rope_scaling.factor is out of range (expected a number, at least 1, found '0.5')");
  refused("factor: 4, beta_fast: 2, beta_slow: 3", {},
          "model.rope_scaling.beta_fast is below model.rope_scaling.beta_slow (expected at least 3, found 2) at "
          "r.yaml:2; try beta_fast: 32, beta_slow: 1");
  refused("factor: 4, beta_fast: 2", {"model.rope_scaling.beta_slow=3"}, "found 2) at r.yaml:2");
  refused("factor: 4, beta_slow: 0", {}, "model.rope_scaling.beta_slow is out of range (expected a number above 0");
  refused("factor: 4, mscale: -1", {}, "model.rope_scaling.mscale is out of range (expected a number, at least 0");
  refused("factor: 4, attention_factor: 0", {}, "model.rope_scaling.attention_factor is out of range");
  refused("factor: 4, truncate: 1", {}, "model.rope_scaling.truncate has the wrong type");
  refused("factor: 4, low_freq_factor: 1", {}, "unknown key model.rope_scaling.low_freq_factor");
  refused("factor: 4", {"model.rope_theta=1"}, "model.rope_theta must be above 1 (expected a number above 1, found 1)");
}

TEST_F(HfConfig, RefusesByNameWhatIsNotBuilt) {
  expect_refused(with(kLlama, R"("attention_dropout": 0.1)"), "model.attention_dropout");
  expect_refused(with(kLlama, R"("some_new_dropout": 0.1)"), "model.some_new_dropout");
  std::string text = kLlama;
  text.replace(text.find("\"attention_bias\": false"), 23, "\"attention_bias\": true ");
  expect_refused(text, "model.attention_bias");
  expect_refused(with(kLlama, R"("partial_rotary_factor": 0.5)"), "model.partial_rotary_factor");
  expect_refused(with(kLlama, R"("sliding_window": 128)"), "model.sliding_window");
  expect_refused(with(kLlama, R"("quantization_config": {"bits": 4})"), "model.quantization_config");
  text = kLlama;
  text.replace(text.find("silu"), 4, "gelu");
  expect_refused(text, "model.hidden_act 'gelu' isn't built for llama");
  text = kLlama;
  text.replace(text.find("silu"), 4, "relu");
  expect_refused(text, "model.hidden_act has an unknown value");
  text = kLlama;
  text.replace(text.find("\"llama3\""), 8, "\"dynamic\"");
  expect_refused(text, "model.rope_parameters.rope_type has an unknown value");
  text = kLlama;
  text.replace(text.find("\"llama\""), 7, "\"gpt_oss\"");
  expect_refused(text, "model.model_type gpt_oss isn't built yet");
  text = kLlama;
  text.replace(text.find("\"llama\""), 7, "\"bert\"");
  expect_refused(text, "model.model_type has an unknown value");
  expect_refused(with(kGpt2, R"("add_cross_attention": true)"), "model.add_cross_attention");
}

TEST_F(HfConfig, SlidingWindowOnlyWhenActive) {
  const std::string base = R"({"model_type": "qwen2", "hidden_size": 32, "intermediate_size": 64,
    "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 64, "vocab_size": 64,
    "use_sliding_window": true})";
  EXPECT_EQ(read(base).num_layers, 4);  // the first 28 layers attend fully by default
  expect_refused(with(base, R"("max_window_layers": 2)"), "model.use_sliding_window asks for an active sliding window");
  EXPECT_EQ(read(with(base, R"("max_window_layers": 2, "sliding_window": null)")).num_layers, 4);
  expect_refused(with(base, R"("layer_types": ["full_attention", "sliding_attention"])"), "model.layer_types");
}

TEST_F(HfConfig, Heads) {
  std::string text = kQwen2;
  text.replace(text.find("\"num_attention_heads\": 4"), 24, "\"num_attention_heads\": 5");
  expect_refused(text,
                 "model.num_attention_heads doesn't divide model.hidden_size (expected a divisor of 32, or "
                 "head_dim given, found 5)");
  expect_refused(text, "config.json:2; try 4 or 8");
  text = with(kQwen2, R"("head_dim": 7)");
  expect_refused(text, "must be even");
  text = kQwen2;
  text.replace(text.find("\"num_key_value_heads\": 4"), 24, "\"num_key_value_heads\": 3");
  expect_refused(text,
                 "model.num_key_value_heads doesn't divide model.num_attention_heads (expected a divisor of 4, "
                 "found 3)");
  expect_refused(text, "try 2 or 4");
}

TEST_F(HfConfig, OurOwnYamlIsStrict) {
  EXPECT_NE(message([&] { run(kLlama, "use_cache: true"); }).find("unknown key model.use_cache"), std::string::npos);
  EXPECT_NE(message([&] { run(kGpt2, "n_embd: 8, hidden_size: 8"); }).find("given twice"), std::string::npos);
  EXPECT_NE(message([&] {
              run(kLlama, "rope_scaling: {type: linear, factor: 2, low_freq_factor: 1}");
            }).find("unknown key model.rope_scaling.low_freq_factor"),
            std::string::npos);
  EXPECT_NE(message([&] { run(kLlama, "rope_scaling: {type: linear}"); }).find("missing: model.rope_scaling.factor"),
            std::string::npos);
  EXPECT_NE(
      message([&] { run(kGpt2, "", {"data.sequence_length=65"}); }).find("longer than the model's position table"),
      std::string::npos);
}

TEST_F(HfConfig, BrokenFiles) {
  EXPECT_NE(message([&] { read("{\n\"a\": 1,\n}"); }).find("not valid JSON at " + dir_.path() + "/config.json:3"),
            std::string::npos);
  expect_refused("[1]", "not a JSON object");
  expect_refused("{}", "has no model_type");
  expect_refused(R"({"model_type": "llama"})", "required keys are missing: model.hidden_size");
  EXPECT_NE(message([] { load_hf_model("/nowhere/x"); }).find("nothing at /nowhere/x"), std::string::npos);
  EXPECT_NE(message([&] { run(kLlama, "", {"model.config=/nowhere"}); }).find("at --set model.config"),
            std::string::npos);
}

}  // namespace
}  // namespace trireme
