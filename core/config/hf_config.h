// Hugging Face's config.json and the model section of our YAML: the same keys, brought to one form.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/config/config.h"
#include "core/config/load.h"
#include "core/config/tree.h"

namespace trireme {

// What the keys of `family` mean when they are not given, and what the family fixes.
ModelConfig family_defaults(ModelFamily family);

// The model section's layers, lowest first: the config.json that `model.config` names (if any), the section itself,
// the --set overrides of it. Returns one map with the keys that fields.cc lists, and the family. Refuses by name what
// changes the mathematics and isn't built; of a config.json, drops what doesn't.
struct ModelTree {
  ConfigNode node;
  ModelFamily family;
  std::optional<double> aux_loss_coef = {};  // router_aux_loss_coef or aux_loss_alpha, which are no keys of the model
};
ModelTree resolve_model(const ConfigNode& section, const std::vector<ConfigNode>& sets);

// Fills in what follows from other keys (head_dim, kv heads, GPT-2's feed-forward size, the size of Mixtral's experts)
// and checks that heads, experts and their groups fit.
void finish_model(ModelConfig& model, const KeyPlaces& places);

}  // namespace trireme
