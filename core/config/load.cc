#include "core/config/load.h"

#include "core/config/experts_config.h"
#include "core/config/hf_config.h"
#include "core/config/reader.h"
#include "core/config/tree.h"
#include "core/error.h"

namespace trireme {

namespace {

using Kind = ConfigNode::Kind;

// The file's tree with the overrides on it. Those of the model come back apart: its keys have second names.
struct Layers {
  ConfigNode root;
  std::vector<ConfigNode> model_sets;
};

Layers lay(ConfigNode root, const std::vector<std::string>& sets) {
  Layers out{std::move(root), {}};
  if (out.root.kind == Kind::null) out.root.kind = Kind::map;
  for (const std::string& argument : sets) {
    const ConfigNode set = parse_set(argument);
    const ConfigNode* model = set.find("model");
    if (model && model->partial) {
      out.model_sets.push_back(*model);
    } else {
      if (model) out.model_sets.clear();  // the whole section was replaced
      overlay(out.root, set);
    }
  }
  return out;
}

}  // namespace

std::string place_of(const KeyPlaces& places, const std::string& key) {
  const auto found = places.find(key);
  return found == places.end() ? "" : found->second;
}

Config parse_config(const std::string& text, const std::string& name, const std::vector<std::string>& sets) {
  ConfigNode file = parse_yaml(text, name);
  if (file.kind != Kind::map && file.kind != Kind::null) {
    throw ConfigError({.what = "the configuration is not a map of sections",
                       .expected = "run: {…}, model: {…}, …",
                       .found = file.describe(),
                       .where = file.where});
  }
  Layers layers = lay(std::move(file), sets);
  ConfigNode& root = layers.root;

  Config config;
  std::optional<double> aux_loss_coef;
  const ConfigNode* section = root.find("model");
  if (section || !layers.model_sets.empty()) {
    ModelTree model = resolve_model(section ? *section : ConfigNode{.where = name}, layers.model_sets);
    root.remove("model");
    root.children.push_back(std::move(model.node));
    config.model = family_defaults(model.family);
    aux_loss_coef = model.aux_loss_coef;
  }
  const KeyPlaces places = read_tree(root, config);
  settle_experts(config, places, aux_loss_coef);
  finish_model(config.model, places);
  check_consistent(config, places);
  check_supported(config, places);
  return config;
}

Config load_config(const std::string& path, const std::vector<std::string>& sets) {
  return parse_config(read_config_text(path), path, sets);
}

ModelConfig load_hf_model(const std::string& path) {
  ConfigNode section{.kind = Kind::map, .where = path};
  section.children.push_back({.kind = Kind::scalar, .key = "config", .text = path, .where = path});
  const ModelTree tree = resolve_model(section, {});
  ModelConfig model = family_defaults(tree.family);
  const KeyPlaces places = read_tree(tree.node, model);
  finish_model(model, places);
  return model;
}

}  // namespace trireme
