// Facts about a model that need no memory: parameter counts, FLOPs. hugging_face_names.cc has the names.
#include "models/model_facts.h"

namespace trireme {

namespace {

// Elements of some parameters: of all, and of those that one token meets.
struct Elements {
  int64_t matrices = 0;         // what a token is multiplied with
  int64_t active_matrices = 0;  // of these, by one token
  int64_t others = 0;           // norms, biases, vectors

  Elements& operator+=(const Elements& o) {
    matrices += o.matrices;
    active_matrices += o.active_matrices;
    others += o.others;
    return *this;
  }
};

Elements dense(int64_t matrices, int64_t others) { return {matrices, matrices, others}; }

Elements attention_elements(const ModelConfig& c) {
  const LatentAttentionConfig& l = c.latent;
  const int64_t q_rows = c.num_heads * c.head_dim;
  if (l.kv_rank > 0) {
    const int64_t queries = l.q_rank > 0 ? l.q_rank * (c.hidden_size + q_rows) : c.hidden_size * q_rows;
    const int64_t keys_and_values =
        c.hidden_size * (l.kv_rank + l.rope_dim) + l.kv_rank * c.num_heads * (l.nope_dim + l.v_dim);
    return dense(queries + keys_and_values + c.num_heads * l.v_dim * c.hidden_size, l.q_rank + l.kv_rank);
  }
  const int64_t kv_rows = c.num_kv_heads * c.head_dim;
  int64_t others = c.attention_bias || c.family == ModelFamily::gpt2 ? q_rows + 2 * kv_rows : 0;
  if (c.family == ModelFamily::gpt2) others += c.hidden_size;
  if (c.qk_norm) others += 2 * c.head_dim;
  return dense(c.hidden_size * (2 * q_rows + 2 * kv_rows), others);
}

Elements experts_elements(const ModelConfig& c, int64_t layer) {
  const ExpertsConfig& e = c.experts;
  const int64_t choices = e.num_choices();
  const int64_t one = 3 * c.hidden_size * e.ffn_size;
  Elements all = dense(choices * c.hidden_size + 3 * c.hidden_size * e.shared_ffn_size, 0);
  if (e.shared_gate) all += dense(c.hidden_size, 0);
  if (has_gate_residual(c, layer)) all += dense(choices * choices, 0);
  all += {e.num_experts * one, e.top_k * one * e.num_experts / choices, 0};
  all += {e.num_constant * 2 * c.hidden_size, 0, e.num_constant * c.hidden_size};
  return all;
}

Elements layer_elements(const ModelConfig& c, int64_t layer) {
  Elements all = attention_elements(c);
  all += dense(0, 2 * c.hidden_size * (c.norm == NormKind::layer ? 2 : 1));
  if (c.has_experts(layer)) {
    all += experts_elements(c, layer);
  } else {
    const int64_t num_up = c.activation == Activation::swiglu ? 2 : 1;
    all += dense((num_up + 1) * c.hidden_size * c.ffn_size,
                 c.family == ModelFamily::gpt2 ? c.hidden_size + c.ffn_size : 0);
  }
  return all;
}

// Of all layers, those of multi-token prediction among them, without tables and the final norm.
Elements body_elements(const ModelConfig& c) {
  Elements all;
  for (int64_t layer = 0; layer < c.num_layers + c.num_predictors; ++layer) all += layer_elements(c, layer);
  all += dense(c.num_predictors * 2 * c.hidden_size * c.hidden_size, c.num_predictors * 3 * c.hidden_size);
  return all;
}

}  // namespace

bool has_gate_residual(const ModelConfig& c, int64_t layer) {
  if (!c.experts.gating_residual || !c.has_experts(layer) || layer >= c.num_layers) return false;
  for (int64_t before = 0; before < layer; ++before) {
    if (c.has_experts(before)) return true;
  }
  return false;
}

int64_t count_parameters(const ModelConfig& c) {
  const Elements body = body_elements(c);
  int64_t n = body.matrices + body.others + c.hidden_size * (c.norm == NormKind::layer ? 2 : 1);
  n += c.vocab_size * c.hidden_size * (c.tie_embeddings ? 1 : 2);
  if (c.rope.type == RopeType::none) n += c.max_positions * c.hidden_size;
  return n;
}

int64_t count_active_parameters(const ModelConfig& c) {
  const Elements body = body_elements(c);
  return count_parameters(c) - body.matrices + body.active_matrices;
}

double layer_flops_per_token(const ModelConfig& c, int64_t layer, int64_t sequence) {
  const int64_t v_dim = c.latent.kv_rank > 0 ? c.latent.v_dim : c.head_dim;
  const auto attention = static_cast<double>(c.num_heads * (c.head_dim + v_dim) * sequence);
  return 6.0 * static_cast<double>(layer_elements(c, layer).active_matrices) + 3.0 * attention;
}

double head_flops_per_token(const ModelConfig& c, int64_t sequence) {
  const int64_t joins = c.num_predictors * 2 * c.hidden_size * c.hidden_size;
  double flops = 6.0 * static_cast<double>((1 + c.num_predictors) * c.vocab_size * c.hidden_size + joins);
  for (int64_t k = 0; k < c.num_predictors; ++k) flops += layer_flops_per_token(c, c.num_layers + k, sequence);
  return flops;
}

double model_flops_per_token(const ModelConfig& c, int64_t sequence) {
  double flops = head_flops_per_token(c, sequence);
  for (int64_t layer = 0; layer < c.num_layers; ++layer) flops += layer_flops_per_token(c, layer, sequence);
  return flops;
}

}  // namespace trireme
