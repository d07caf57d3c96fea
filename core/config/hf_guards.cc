#include "core/config/hf_guards.h"

#include <algorithm>
#include <cmath>

#include "core/config/units.h"
#include "core/error.h"

namespace trireme {

namespace {

using Kind = ConfigNode::Kind;

// A key that changes the mathematics when it has any other value than `neutral`, in the families where
// transformers, or the model's published code, reads it.
struct Guard {
  const char* key;
  const char* neutral;  // a number, a word or null
  std::vector<ModelFamily> families;
  const char* what;
};

const std::vector<Guard>& guards() {
  using enum ModelFamily;
  static const std::vector<ModelFamily> kAll = {gpt2,      llama,     qwen2,       qwen3,      mixtral,
                                                qwen2_moe, qwen3_moe, deepseek_v2, deepseek_v3};
  static const std::vector<ModelFamily> kRotary(kAll.begin() + 1, kAll.end());
  static const std::vector<Guard> kGuards = {
      {"attn_pdrop", "0", {gpt2}, "dropout"},
      {"resid_pdrop", "0", {gpt2}, "dropout"},
      {"embd_pdrop", "0", {gpt2}, "dropout"},
      {"attention_dropout", "0", kRotary, "dropout"},
      {"hidden_dropout", "0", kRotary, "dropout"},
      {"attention_bias",
       "false",
       {llama, qwen3, qwen3_moe, deepseek_v2, deepseek_v3},
       "a bias in all attention projections"},
      {"qkv_bias", "true", {qwen2_moe}, "queries, keys and values without a bias"},
      {"mlp_bias", "false", {llama, deepseek_v2}, "a bias in the feed-forward layers"},
      {"partial_rotary_factor", "1", kRotary, "rotary angles on a part of the head"},
      {"rope_interleave", "true", {deepseek_v3}, "rotary angles of pairs that aren't neighbours"},
      {"scale_attn_weights", "true", {gpt2}, "attention without scaling"},
      {"scale_attn_by_inverse_layer_idx", "false", {gpt2}, "attention scaled by layer"},
      {"add_cross_attention", "false", {gpt2}, "cross-attention"},
      {"is_encoder_decoder", "false", kAll, "an encoder with a decoder"},
      {"attn_logit_softcapping", "null", kRotary, "soft-capped logits"},
      {"final_logit_softcapping", "null", kRotary, "soft-capped logits"},
      {"quantization_config", "null", kAll, "quantized weights"},
      {"router_jitter_noise", "0", {mixtral}, "noise on the router's input"},
      {"scoring_func", "softmax", {deepseek_v2}, "another score of experts"},
      {"scoring_func", "sigmoid", {deepseek_v3}, "another score of experts"},
      {"topk_method", "noaux_tc", {deepseek_v3}, "another choice of experts"},
      // transformers doesn't read these two; the model's published code does.
      {"norm_topk_prob", "false", {deepseek_v2}, "normalised weights of experts without their scaling"},
      {"moe_layer_freq", "1", {deepseek_v2, deepseek_v3}, "dense layers among those with experts"},
  };
  return kGuards;
}

const std::vector<std::string> kWindowKeys = {"use_sliding_window", "sliding_window", "max_window_layers",
                                              "layer_types"};

bool is_word(const ConfigNode& node, const std::string& word) { return node.kind == Kind::scalar && node.text == word; }

bool is_number(const ConfigNode& node, double number) {
  return node.kind == Kind::scalar && !node.quoted && parse_real(node.text) == number;
}

bool is_neutral(const ConfigNode& node, const std::string& neutral) {
  if (node.kind == Kind::null) return true;
  const auto number = parse_real(neutral);
  return number ? is_number(node, *number) : is_word(node, neutral);
}

[[noreturn]] void refuse(const ConfigNode& node, const std::string& what, const std::string& neutral) {
  throw ConfigError({.what = "model." + node.shown_key() + " asks for " + what + ", which isn't built",
                     .expected = neutral,
                     .found = node.describe(),
                     .where = node.where,
                     .hint = "model." + node.shown_key() + ": " + neutral + " if the model may differ"});
}

bool in_family(const Guard& guard, ModelFamily family) {
  return std::find(guard.families.begin(), guard.families.end(), family) != guard.families.end();
}

void check_guards(ConfigNode& model, ModelFamily family) {
  for (const Guard& guard : guards()) {
    const ConfigNode* node = model.find(guard.key);
    if (!node || !in_family(guard, family)) continue;
    if (!is_neutral(*node, guard.neutral)) refuse(*node, guard.what, guard.neutral);
    model.remove(guard.key);
  }
  for (const ConfigNode& child : model.children) {
    // Whatever new name a dropout gets; those of classifier heads, which we don't have, are harmless.
    const bool dropout = child.key.find("dropout") != std::string::npos && child.key.find("summary") != 0 &&
                         child.key.find("classifier") != 0;
    if (dropout && !is_neutral(child, "0")) refuse(child, "dropout", "0");
  }
}

// A sliding window is active when it is switched on and some layer uses it: of Qwen2 and Qwen3 the later ones, of
// Qwen2-MoE some of the first, of Qwen3-MoE all. The others have no switch.
void check_window(ConfigNode& model, ModelFamily family) {
  if (family == ModelFamily::gpt2) return;
  if (const ConfigNode* types = model.find("layer_types"); types && types->kind == Kind::list) {
    for (const ConfigNode& type : types->children) {
      if (!is_word(type, "full_attention")) refuse(*types, "layers of type " + type.describe(), "full_attention only");
    }
  } else if (family == ModelFamily::qwen2_moe || family == ModelFamily::qwen3_moe) {
    const ConfigNode* use = model.find("use_sliding_window");
    const ConfigNode* window = model.find("sliding_window");
    const bool on = use && is_word(*use, "true") && !(window && window->kind == Kind::null);
    if (on) refuse(*use, "an active sliding window", "false");
  } else if (family == ModelFamily::qwen2 || family == ModelFamily::qwen3) {
    const ConfigNode* use = model.find("use_sliding_window");
    const ConfigNode* window = model.find("sliding_window");
    const ConfigNode* full = model.find("max_window_layers");
    const ConfigNode* layers = model.find("num_hidden_layers");
    const auto number = [](const ConfigNode* node, double fallback) {
      return node && node->kind == Kind::scalar ? parse_real(node->text).value_or(fallback) : fallback;
    };
    const bool on = use && is_word(*use, "true") && !(window && window->kind == Kind::null);
    if (on && number(full, 28) < number(layers, INFINITY)) refuse(*use, "an active sliding window", "false");
  } else if (const ConfigNode* window = model.find("sliding_window"); window && window->kind != Kind::null) {
    refuse(*window, "a sliding window", "null");
  }
  for (const std::string& key : kWindowKeys) model.remove(key);
}

// DeepSeek-V2 looks at groups only with topk_method group_limited_greedy; transformers' default is greedy. Here the
// number of groups says it alone.
void settle_groups(ConfigNode& model, ModelFamily family) {
  const ConfigNode* method = family == ModelFamily::deepseek_v2 ? model.find("topk_method") : nullptr;
  if (!method) return;
  const bool greedy = method->kind == Kind::null || is_word(*method, "greedy");
  if (!greedy && !is_word(*method, "group_limited_greedy")) {
    refuse(*method, "another choice of experts", "greedy or group_limited_greedy");
  }
  model.remove("topk_method");
  if (!greedy) return;
  model.remove("n_group");
  model.remove("topk_group");
}

}  // namespace

void apply_guards(ConfigNode& model, ModelFamily family) {
  check_window(model, family);
  settle_groups(model, family);
  check_guards(model, family);
}

std::vector<std::string> guarded_keys(ModelFamily family) {
  std::vector<std::string> keys = kWindowKeys;
  if (family == ModelFamily::deepseek_v2) keys.push_back("topk_method");
  for (const Guard& guard : guards()) {
    if (in_family(guard, family)) keys.push_back(guard.key);
  }
  return keys;
}

}  // namespace trireme
