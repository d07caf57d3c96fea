#include "core/config/hf_config.h"

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "core/config/reader.h"
#include "core/config/units.h"
#include "core/error.h"

namespace trireme {

namespace {

using Kind = ConfigNode::Kind;

// A key that changes the mathematics when it has any other value than `neutral`, in the families where
// transformers reads it.
struct Guard {
  enum class Neutral { zero, one, no, yes, null };
  const char* key;
  Neutral neutral;
  std::vector<ModelFamily> families;
  const char* what;
};

const std::vector<Guard>& guards() {
  using enum Guard::Neutral;
  using enum ModelFamily;
  static const std::vector<Guard> kGuards = {
      {"attn_pdrop", zero, {gpt2}, "dropout"},
      {"resid_pdrop", zero, {gpt2}, "dropout"},
      {"embd_pdrop", zero, {gpt2}, "dropout"},
      {"attention_dropout", zero, {llama, qwen2, qwen3}, "dropout"},
      {"hidden_dropout", zero, {llama, qwen2, qwen3}, "dropout"},
      {"attention_bias", no, {llama, qwen3}, "a bias in all attention projections"},
      {"mlp_bias", no, {llama}, "a bias in the feed-forward layers"},
      {"partial_rotary_factor", one, {llama, qwen2, qwen3}, "rotary angles on a part of the head"},
      {"scale_attn_weights", yes, {gpt2}, "attention without scaling"},
      {"scale_attn_by_inverse_layer_idx", no, {gpt2}, "attention scaled by layer"},
      {"add_cross_attention", no, {gpt2}, "cross-attention"},
      {"is_encoder_decoder", no, {gpt2, llama, qwen2, qwen3}, "an encoder with a decoder"},
      {"attn_logit_softcapping", null, {llama, qwen2, qwen3}, "soft-capped logits"},
      {"final_logit_softcapping", null, {llama, qwen2, qwen3}, "soft-capped logits"},
      {"quantization_config", null, {gpt2, llama, qwen2, qwen3}, "quantized weights"},
  };
  return kGuards;
}

const std::vector<std::string> kWindowKeys = {"use_sliding_window", "sliding_window", "max_window_layers",
                                              "layer_types"};
const std::vector<std::string> kUnbuiltFamilies = {"mixtral",     "qwen2_moe", "qwen3_moe", "deepseek_v2",
                                                   "deepseek_v3", "mistral",   "gpt_neox",  "gpt_oss",
                                                   "phi3",        "gemma",     "gemma2",    "gemma3"};

bool is_word(const ConfigNode& node, const std::string& word) { return node.kind == Kind::scalar && node.text == word; }

bool is_number(const ConfigNode& node, double number) {
  return node.kind == Kind::scalar && !node.quoted && parse_real(node.text) == number;
}

bool is_neutral(const ConfigNode& node, Guard::Neutral neutral) {
  if (node.kind == Kind::null) return true;
  switch (neutral) {
    case Guard::Neutral::zero: return is_number(node, 0);
    case Guard::Neutral::one: return is_number(node, 1);
    case Guard::Neutral::no: return is_word(node, "false");
    case Guard::Neutral::yes: return is_word(node, "true");
    case Guard::Neutral::null: return false;
  }
  return false;
}

std::string neutral_text(Guard::Neutral neutral) {
  static const std::vector<std::string> kTexts = {"0", "1", "false", "true", "null"};
  return kTexts.at(static_cast<size_t>(neutral));
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

// Throws when a guarded key is active; removes it otherwise.
void apply_guards(ConfigNode& model, ModelFamily family) {
  for (const Guard& guard : guards()) {
    const ConfigNode* node = model.find(guard.key);
    if (!node || !in_family(guard, family)) continue;
    if (!is_neutral(*node, guard.neutral)) refuse(*node, guard.what, neutral_text(guard.neutral));
    model.remove(guard.key);
  }
  for (const ConfigNode& child : model.children) {
    // Whatever new name a dropout gets; those of classifier heads, which we don't have, are harmless.
    const bool dropout = child.key.find("dropout") != std::string::npos && child.key.find("summary") != 0 &&
                         child.key.find("classifier") != 0;
    if (dropout && !is_neutral(child, Guard::Neutral::zero)) refuse(child, "dropout", "0");
  }
}

// A sliding window is active when it is switched on and some layer uses it (Qwen2Config, Qwen3Config).
void check_window(ConfigNode& model, ModelFamily family) {
  if (family == ModelFamily::gpt2) return;
  if (const ConfigNode* types = model.find("layer_types"); types && types->kind == Kind::list) {
    for (const ConfigNode& type : types->children) {
      if (!is_word(type, "full_attention")) refuse(*types, "layers of type " + type.describe(), "full_attention only");
    }
  } else if (family != ModelFamily::llama) {
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

// rope_parameters {rope_theta, rope_type, …} as rope_theta and rope_scaling {rope_type, …}.
void split_rope_parameters(ConfigNode& model) {
  const ConfigNode* found = model.find("rope_parameters");
  if (!found) return;
  ConfigNode scaling = *found;
  model.remove("rope_parameters");
  if (scaling.kind == Kind::null) return;
  if (scaling.kind != Kind::map) {
    throw ConfigError({.what = "model.rope_parameters has the wrong type",
                       .expected = "a map of keys",
                       .found = scaling.describe(),
                       .where = scaling.where});
  }
  scaling.alias = "rope_parameters";
  scaling.key = "rope_scaling";
  for (const std::string key : {"rope_theta", "partial_rotary_factor"}) {
    const ConfigNode* inner = scaling.find(key);
    if (!inner) continue;
    ConfigNode moved = *inner;
    moved.alias = "rope_parameters." + key;
    model.remove(key);  // the newer form says it last
    model.children.push_back(std::move(moved));
    scaling.remove(key);
  }
  model.remove("rope_scaling");
  if (scaling.children.empty() && scaling.partial) return;  // an override of rope_theta only
  if (scaling.children.empty()) scaling.kind = Kind::null;
  model.children.push_back(std::move(scaling));
}

// Other names of the same functions.
void unify_activation(ConfigNode& model) {
  ConfigNode* node = model.find("hidden_act");
  if (!node || node->kind != Kind::scalar) return;
  if (node->text == "gelu_pytorch_tanh" || node->text == "gelu_fast") node->text = "gelu_new";
  if (node->text == "swish") node->text = "silu";
}

// Renames second names to first ones and splits rope_parameters, so that layers can be laid on each other by key.
void unify_keys(ConfigNode& model, ModelFamily family) {
  if (model.kind != Kind::map) return;
  for (const ModelKey& key : model_keys(family)) {
    ConfigNode* other = key.alias.empty() ? nullptr : model.find(key.alias);
    if (!other) continue;
    if (const ConfigNode* first = model.find(key.name)) {
      throw ConfigError({.what = "model." + key.alias + " is given twice, also as " + first->shown_key(),
                         .where = other->where,
                         .hint = "keeping only one of them"});
    }
    other->alias = key.alias;
    other->key = key.name;
  }
  split_rope_parameters(model);
  unify_activation(model);
}

// Keys of a config.json that mean nothing to the mathematics go; the rest stays for the checks.
void drop_harmless(ConfigNode& model, ModelFamily family) {
  std::vector<std::string> keep = kWindowKeys;
  for (const ModelKey& key : model_keys(family)) keep.push_back(key.name);
  for (const Guard& guard : guards()) {
    if (in_family(guard, family)) keep.push_back(guard.key);
  }
  std::erase_if(model.children, [&](const ConfigNode& child) {
    return std::find(keep.begin(), keep.end(), child.key) == keep.end() &&
           child.key.find("dropout") == std::string::npos;
  });
  std::erase_if(model.children, [](const ConfigNode& child) {
    return child.key.find("summary") == 0 || child.key.find("classifier") == 0;
  });
}

ModelFamily parse_family(const ConfigNode& node) {
  const Names names = names_of(ModelFamily{});
  const auto found = std::find(names.begin(), names.end(), node.text);
  if (node.kind == Kind::scalar && found != names.end()) return static_cast<ModelFamily>(found - names.begin());
  const std::vector<std::string> known(names.begin(), names.end());
  std::string expected;
  for (const std::string& name : known) expected += (expected.empty() ? "" : " | ") + name;
  const bool unbuilt = std::find(kUnbuiltFamilies.begin(), kUnbuiltFamilies.end(), node.text) != kUnbuiltFamilies.end();
  throw ConfigError(
      {.what = unbuilt ? "model.model_type " + node.text + " isn't built yet" : "model.model_type has an unknown value",
       .expected = expected,
       .found = node.describe(),
       .where = node.where,
       .hint = unbuilt ? "" : nearest_word(node.text, known)});
}

// The config.json that `path` is or holds, as a map.
ConfigNode read_config_json(const std::string& path, const std::string& where) {
  namespace fs = std::filesystem;
  std::error_code ignored;
  const std::string file = fs::is_directory(path, ignored) ? (fs::path(path) / "config.json").string() : path;
  if (!fs::is_regular_file(file, ignored)) {
    throw ConfigError({.what = "the model's config.json was not found",
                       .expected = "a Hugging Face config.json or a directory with one",
                       .found = "nothing at " + file,
                       .where = where});
  }
  ConfigNode node = parse_json(read_config_text(file), file);
  if (node.kind != Kind::map) {
    throw ConfigError({.what = "the model's config.json is not a JSON object", .where = file});
  }
  if (!node.find("model_type")) {
    throw ConfigError({.what = "the model's config.json has no model_type",
                       .expected = "a Hugging Face model configuration",
                       .where = file});
  }
  return node;
}

const ConfigNode* last_of(const ConfigNode& section, const std::vector<ConfigNode>& sets, const std::string& key) {
  const ConfigNode* found = section.find(key);
  for (const ConfigNode& set : sets) {
    if (const ConfigNode* child = set.find(key)) found = child;
  }
  return found;
}

}  // namespace

ModelConfig family_defaults(ModelFamily family) {
  ModelConfig model{.family = family};
  if (family == ModelFamily::gpt2) {
    model.norm = NormKind::layer;
    model.norm_eps = 1e-5;
    model.activation = Activation::gelu_tanh;
    model.rope.type = RopeType::none;
    model.tie_embeddings = true;
  }
  model.attention_bias = family == ModelFamily::gpt2 || family == ModelFamily::qwen2;
  model.qk_norm = family == ModelFamily::qwen3;
  return model;
}

ModelTree resolve_model(const ConfigNode& section, const std::vector<ConfigNode>& sets) {
  if (section.kind != Kind::map && section.kind != Kind::null) {
    throw ConfigError({.what = "model has the wrong type",
                       .expected = "a map of keys",
                       .found = section.describe(),
                       .where = section.where});
  }
  ConfigNode base{.kind = Kind::map, .where = section.where};
  const ConfigNode* config = last_of(section, sets, "config");
  if (config && config->kind != Kind::null) {
    if (config->kind != Kind::scalar) {
      throw ConfigError({.what = "model.config has the wrong type",
                         .expected = "the path of a config.json or of its directory",
                         .found = config->describe(),
                         .where = config->where});
    }
    base = read_config_json(config->text, config->where);
    const ModelFamily own = parse_family(*base.find("model_type"));
    unify_keys(base, own);
    drop_harmless(base, own);
  }
  const ConfigNode* type = last_of(section, sets, "model_type");
  if (!type) type = base.find("model_type");
  // Without a family the reader reports what is missing.
  const ModelFamily family = type ? parse_family(*type) : ModelFamily::llama;

  std::vector<ConfigNode> layers = {section};
  layers.insert(layers.end(), sets.begin(), sets.end());
  for (ConfigNode& layer : layers) {
    if (layer.kind != Kind::map) continue;
    layer.partial = true;
    layer.remove("config");
    unify_keys(layer, family);
    overlay(base, layer);
  }
  base.key = "model";
  base.alias.clear();
  base.partial = false;
  check_window(base, family);
  apply_guards(base, family);
  return {std::move(base), family};
}

namespace {

std::string place_of(const KeyPlaces& places, const std::string& key) {
  const auto found = places.find(key);
  return found == places.end() ? "" : found->second;
}

// "a divisor of N, such as A or B": the divisors of `number` next to `value`.
std::string near_divisors(int64_t number, int64_t value) {
  int64_t below = 0;
  int64_t above = 0;
  for (int64_t d = 1; d <= number; ++d) {
    if (number % d != 0) continue;
    if (d < value) below = d;
    if (d > value && above == 0) above = d;
  }
  const std::string a = below ? std::to_string(below) : "";
  const std::string b = above ? std::to_string(above) : "";
  return a + (a.empty() || b.empty() ? "" : " or ") + b;
}

}  // namespace

void finish_model(ModelConfig& model, const KeyPlaces& places) {
  const std::string heads_place = place_of(places, "model.num_attention_heads");
  if (model.num_kv_heads == 0) model.num_kv_heads = model.num_heads;
  if (model.ffn_size == 0) model.ffn_size = 4 * model.hidden_size;
  if (model.head_dim == 0) {
    if (model.hidden_size % model.num_heads != 0) {
      throw ConfigError({.what = "model.num_attention_heads doesn't divide model.hidden_size",
                         .expected = "a divisor of " + std::to_string(model.hidden_size) +
                                     (model.family == ModelFamily::gpt2 ? "" : ", or head_dim given"),
                         .found = std::to_string(model.num_heads),
                         .where = heads_place,
                         .hint = near_divisors(model.hidden_size, model.num_heads)});
    }
    model.head_dim = model.hidden_size / model.num_heads;
  }
  if (model.num_heads % model.num_kv_heads != 0) {
    throw ConfigError({.what = "model.num_key_value_heads doesn't divide model.num_attention_heads",
                       .expected = "a divisor of " + std::to_string(model.num_heads),
                       .found = std::to_string(model.num_kv_heads),
                       .where = place_of(places, "model.num_key_value_heads"),
                       .hint = near_divisors(model.num_heads, model.num_kv_heads)});
  }
  const bool rotary = model.family != ModelFamily::gpt2;
  if (rotary && model.rope.type == RopeType::none) {
    throw ConfigError({.what = "model.rope_scaling has an unknown rope_type",
                       .expected = "default | linear | llama3",
                       .found = "'none'",
                       .where = place_of(places, "model.rope_scaling.rope_type")});
  }
  if (rotary && model.head_dim % 2 != 0) {
    throw ConfigError({.what = "rotary embeddings turn pairs, so the head dim must be even",
                       .expected = "an even hidden_size / num_attention_heads, or head_dim given",
                       .found = std::to_string(model.head_dim),
                       .where = heads_place,
                       .hint = "model.head_dim: " + std::to_string(model.head_dim + 1)});
  }
  if (rotary != (model.activation == Activation::swiglu)) {
    throw ConfigError(
        {.what = "model.hidden_act '" + to_string(model.activation) + "' isn't built for " + to_string(model.family),
         .expected = rotary ? "silu" : "gelu_new or gelu",
         .where = place_of(places, "model.hidden_act")});
  }
}

}  // namespace trireme
