// What a model section may ask for that isn't built: refused by name, unless it has its neutral value.
#pragma once

#include <string>
#include <vector>

#include "core/config/config.h"
#include "core/config/tree.h"

namespace trireme {

// Throws ConfigError for every key of `model` that changes the mathematics of the family and isn't built; removes
// those that ask for nothing. REQUIRES: second names are already brought to first ones.
void apply_guards(ConfigNode& model, ModelFamily family);

// Names of the keys that apply_guards knows in this family.
std::vector<std::string> guarded_keys(ModelFamily family);

}  // namespace trireme
