// The names of our parameters, as in the family's Hugging Face checkpoint, and helpers that make them.
//
// GPT-2 stores q, k and v as one tensor; ours are h.{i}.attn.{q,k,v}.weight, and the name map joins them.
#pragma once

#include <string>

#include "core/config/config.h"
#include "models/layers.h"

namespace trireme {

// Names without ".weight" and ".bias".
struct ParameterNames {
  ParameterNames(ModelFamily family, int64_t layer);

  std::string norm1, q, k, v, q_norm, k_norm, o, norm2, gate, up, down;

  static std::string embedding(ModelFamily family);   // "model.embed_tokens"
  static std::string positions(ModelFamily family);   // "wpe", GPT-2 only
  static std::string final_norm(ModelFamily family);  // "model.norm"
  static std::string head(ModelFamily family);        // "lm_head", where it isn't tied
};

// Gradients of all of them are partial over the data axes. `name` without suffix.
Parameter make_matrix(const std::string& name, int64_t out, int64_t in, double std);
Parameter make_embedding(const std::string& name, int64_t rows, int64_t width, double std);
Parameter make_bias(const std::string& name, int64_t size);         // starts at 0
Parameter make_norm_weight(const std::string& name, int64_t size);  // starts at 1
NormLayer make_norm(const std::string& name, int64_t size, const ModelConfig& config);

}  // namespace trireme
