#include "core/config/hf_config.h"

#include <algorithm>
#include <filesystem>

#include "core/config/hf_guards.h"
#include "core/config/reader.h"
#include "core/config/units.h"
#include "core/error.h"

namespace trireme {

namespace {

using Kind = ConfigNode::Kind;

const std::vector<std::string> kUnbuiltFamilies = {"mistral", "gpt_neox", "gpt_oss", "phi3",
                                                   "gemma",   "gemma2",   "gemma3"};
const std::vector<std::string> kAuxLossKeys = {"router_aux_loss_coef", "aux_loss_alpha"};

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

// `type` is the older name of rope_type. transformers 4 wrote both.
void unify_rope_type(ConfigNode& model) {
  ConfigNode* scaling = model.find("rope_scaling");
  if (!scaling || scaling->kind != Kind::map) return;
  ConfigNode* older = scaling->find("type");
  if (!older) return;
  const ConfigNode* newer = scaling->find("rope_type");
  if (!newer) {
    older->alias = "type";
    older->key = "rope_type";
  } else if (newer->kind == older->kind && newer->text == older->text) {
    scaling->remove("type");
  }  // else the reader reports both
}

// Some files say the context before scaling beside rope_scaling, where transformers prefers it.
void move_original_context(ConfigNode& base) {
  const std::string key = "original_max_position_embeddings";
  const ConfigNode* beside = base.find(key);
  ConfigNode* scaling = base.find("rope_scaling");
  if (!beside || beside->kind == Kind::null || !scaling) return;
  const ConfigNode* type = scaling->find("rope_type");
  if (!type || (type->text != "llama3" && type->text != "yarn")) return;
  scaling->remove(key);
  scaling->children.push_back(*beside);
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
  unify_rope_type(model);
  unify_activation(model);
}

// Keys of a config.json that mean nothing to the mathematics go; the rest stays for the checks.
void drop_harmless(ConfigNode& model, ModelFamily family) {
  std::vector<std::string> keep = guarded_keys(family);
  keep.insert(keep.end(), kAuxLossKeys.begin(), kAuxLossKeys.end());
  for (const ModelKey& key : model_keys(family)) keep.push_back(key.name);
  std::erase_if(model.children, [&](const ConfigNode& child) {
    return std::find(keep.begin(), keep.end(), child.key) == keep.end() &&
           child.key.find("dropout") == std::string::npos;
  });
  std::erase_if(model.children, [](const ConfigNode& child) {
    return child.key.find("summary") == 0 || child.key.find("classifier") == 0;
  });
}

// Of a config.json that doesn't give a key, transformers takes its own default, which here is none: a model section
// says what it has.
void add_absent_keys(ConfigNode& model, ModelFamily family) {
  using enum ModelFamily;
  struct Absent {
    ModelFamily family;
    const char* key;
    const char* text;
  };
  static const std::vector<Absent> kAbsent = {
      {qwen2, "num_key_value_heads", "32"},
      {qwen3, "num_key_value_heads", "32"},
      {qwen3, "head_dim", "128"},
      {mixtral, "num_key_value_heads", "8"},
      {qwen2_moe, "num_key_value_heads", "16"},
      {qwen3_moe, "num_key_value_heads", "4"},
      {deepseek_v2, "q_lora_rank", "1536"},
      {deepseek_v2, "topk_method", "greedy"},
      {deepseek_v2, "n_shared_experts", "2"},
      {deepseek_v3, "q_lora_rank", "1536"},
      {deepseek_v3, "n_group", "8"},
      {deepseek_v3, "topk_group", "4"},
      {deepseek_v3, "n_shared_experts", "1"},
      {deepseek_v3, "first_k_dense_replace", "3"},
  };
  for (const Absent& absent : kAbsent) {
    if (absent.family != family || model.find(absent.key)) continue;
    model.children.push_back({.kind = Kind::scalar, .key = absent.key, .text = absent.text, .where = model.where});
  }
}

// The coefficient is of training, not of the model, but stands there.
std::optional<double> take_aux_loss_coef(ConfigNode& model) {
  std::optional<double> coef;
  for (const std::string& key : kAuxLossKeys) {
    const ConfigNode* node = model.find(key);
    if (!node) continue;
    if (node->kind != Kind::null) {
      if (node->kind == Kind::scalar && !node->quoted) coef = parse_real(node->text);
      if (!coef || *coef < 0) {
        throw ConfigError({.what = "model." + key + " is out of range",
                           .expected = "a number, at least 0",
                           .found = node->describe(),
                           .where = node->where,
                           .hint = "0.001"});
      }
    }
    model.remove(key);
  }
  return coef;
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
    move_original_context(base);
    drop_harmless(base, own);
    add_absent_keys(base, own);
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
  apply_guards(base, family);
  ModelTree tree{.node = std::move(base), .family = family};
  tree.aux_loss_coef = take_aux_loss_coef(tree.node);
  return tree;
}

}  // namespace trireme
