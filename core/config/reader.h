// The visitor that fills a configuration from a tree: types, ranges, unknown and missing keys.
#pragma once

#include <set>

#include "core/config/fields.h"
#include "core/config/load.h"
#include "core/config/tree.h"

namespace trireme {

// Reads `root` into `config`, whose present values are the defaults. Returns where each key was given.
// Throws ConfigError for the first thing that doesn't fit; required keys that are missing are reported last and
// together, so that a misspelt one is called misspelt.
KeyPlaces read_tree(const ConfigNode& root, Config& config);

// The model section alone; `root` is its map.
KeyPlaces read_tree(const ConfigNode& root, ModelConfig& model);

// Names (and aliases) of the keys of a model section of that family.
struct ModelKey {
  std::string name;
  std::string alias;
};
std::vector<ModelKey> model_keys(ModelFamily family);

}  // namespace trireme
