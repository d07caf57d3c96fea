// The names of our parameters, as in the family's Hugging Face checkpoint, and helpers that make them.
//
// GPT-2 stores q, k and v as one tensor; ours are h.{i}.attn.{q,k,v}.weight, and the name map joins them.
#pragma once

#include <string>

#include "core/config/config.h"
#include "models/layers.h"

namespace trireme {

// Names without ".weight" and ".bias".

// Of the matrices of a feed-forward network; gate: SwiGLU only.
struct MlpNames {
  std::string gate, up, down;
};

struct ParameterNames {
  ParameterNames(ModelFamily family, int64_t layer);

  std::string norm1, q, k, v, q_norm, k_norm, o, norm2;
  MlpNames mlp;
  // Layers with experts.
  std::string router, shared_gate;
  std::string score_bias;  // the whole name
  MlpNames shared;
  MlpNames expert(int64_t e) const;

  static std::string embedding(ModelFamily family);   // "model.embed_tokens"
  static std::string positions(ModelFamily family);   // "wpe", GPT-2 only
  static std::string final_norm(ModelFamily family);  // "model.norm"
  static std::string head(ModelFamily family);        // "lm_head", where it isn't tied

 private:
  std::string experts_;  // expert e's matrices stand below "experts_.e"
  MlpNames of_expert_;
};

// Gradients of all of them are partial over the data axes. `name` without suffix. Replicated over the tensor group, until
// one of the functions below says otherwise.
Parameter make_matrix(const std::string& name, int64_t out, int64_t in, double std);
Parameter make_embedding(const std::string& name, int64_t rows, int64_t width, double std);
Parameter make_bias(const std::string& name, int64_t size);         // starts at 0
Parameter make_norm_weight(const std::string& name, int64_t size);  // starts at 1
Parameter make_buffer(const std::string& name, int64_t size);       // `name` is the whole; fp32, starts at 0, no gradient
// `tokens_are_cut`: each tensor rank sees only its share of the tokens (sequence parallelism), so gradients are partial.
NormLayer make_norm(const std::string& name, int64_t size, const ModelConfig& config, bool tokens_are_cut);

// Of the matrices that feed the residual stream: initializer_range; GPT-2 divides it by the square root of their number.
double residual_std(const ModelConfig& config);

// How tensor parallelism places parameters. Sizes that no head count fixes are padded to 16 bytes of bf16.
inline constexpr int64_t kTensorGranule = 8;
Parameter column_parallel(Parameter parameter, int64_t granule = 1);  // by outputs: dim 0
Parameter row_parallel(Parameter parameter, int64_t granule = 1);     // by inputs: dim 1
Parameter partial_over_tensor(Parameter parameter);                   // value replicated, gradients summed

}  // namespace trireme
