// The model section as the files of a Hugging Face directory: config.json and generation_config.json. The same text reads
// as the same model in transformers 4 and 5 (rotary settings stand in both forms) and here (load_hf_model).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/config/config.h"

namespace trireme {

struct HfConfigWords {
  std::string dtype = "float32";                // of the weights: float32 or bfloat16
  std::optional<int64_t> end_of_document = {};  // a token's id: eos_token_id
};

// JSON objects with sorted keys. REQUIRES: the model was checked (finish_model).
std::string hf_config_json(const ModelConfig& model, const HfConfigWords& words);
std::string hf_generation_config_json(const HfConfigWords& words);

// The keys of the moe section that make it another model than the one that config.json describes, for transformers knows
// nothing like them: what other programs compute from the exported weights isn't what was trained.
std::vector<std::string> keys_without_hf_form(const Config& config);

}  // namespace trireme
