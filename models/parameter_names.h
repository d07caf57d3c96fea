// The names of our parameters, as in the family's Hugging Face checkpoint, and helpers that make them.
//
// GPT-2 stores q, k and v as one tensor; ours are h.{i}.attn.{q,k,v}.weight, and the name map joins them.
#pragma once

#include <string>

#include "core/config/config.h"
#include "models/layers.h"

namespace trireme {

// Names without ".weight" and ".bias"; of a layer only those that its family has mean something.

// Of the matrices of a feed-forward network; gate: SwiGLU only.
struct MlpNames {
  std::string gate, up, down;
};

// MoE++, which no published file has: output a·x + b·vector, (a, b) = softmax(mix·x).
struct ConstantExpertNames {
  std::string vector;  // [C], the whole name
  std::string mix;     // [2, C]
};

// A module of multi-token prediction stands behind the last layer as one more, with a block's names and these.
struct PredictorNames {
  std::string embedding_norm, hidden_norm;  // of what `join` [C, 2C] joins: embedding, then hidden state
  std::string join;
  std::string head_norm;                  // in front of the head
  std::string embedding_copy, head_copy;  // in published files: the model's own tables once more
};

struct ParameterNames {
  // Layers from num_layers on are those of multi-token prediction.
  ParameterNames(ModelFamily family, int64_t layer);

  std::string norm1, q, k, v, q_norm, k_norm, o, norm2;
  std::string q_a, q_a_norm, q_b, kv_a, kv_a_norm, kv_b;  // latent attention; without a latent of queries `q`
  MlpNames mlp;
  // Layers with experts.
  std::string router;         // [E, C]
  std::string shared_gate;    // [1, C]
  std::string gate_residual;  // [E, E]: MoE++, of the logits of the router before
  std::string score_bias;     // the whole name
  MlpNames shared;
  MlpNames expert(int64_t e) const;
  ConstantExpertNames constant_expert(int64_t e) const;

  PredictorNames predictor;

  static std::string embedding(ModelFamily family);   // "model.embed_tokens"
  static std::string positions(ModelFamily family);   // "wpe", GPT-2 only
  static std::string final_norm(ModelFamily family);  // "model.norm"
  static std::string head(ModelFamily family);        // "lm_head", where it isn't tied

 private:
  std::string experts_;  // expert e's matrices stand below "experts_.e"
  MlpNames of_expert_;
  std::string constant_experts_;
};

// Gradients of all of them are partial over the data axes. `name` without suffix. Replicated over the tensor group, until
// one of the functions below says otherwise.
Parameter make_matrix(const std::string& name, int64_t out, int64_t in, double std);
Parameter make_embedding(const std::string& name, int64_t rows, int64_t width, double std);
Parameter make_bias(const std::string& name, int64_t size);                // starts at 0
Parameter make_norm_weight(const std::string& name, int64_t size);         // starts at 1
Parameter make_vector(const std::string& name, int64_t size, double std);  // `name` is the whole; no decay
Parameter make_buffer(const std::string& name, int64_t size);  // `name` is the whole; fp32, starts at 0, no gradient
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
