// The table from our parameters to the tensors of a Hugging Face file.
#include "models/model_facts.h"
#include "models/parameter_names.h"

namespace trireme {

namespace {

const std::string kGpt2Prefix = "transformer.";

class NameMapBuilder {
 public:
  explicit NameMapBuilder(const ModelConfig& config) : gpt2_(config.family == ModelFamily::gpt2) {}

  void same(const std::string& name, Shape shape) { map_.entries.push_back({name, prefixed(name), shape, false, 0}); }
  void buffer(const std::string& name, Shape shape, bool optional) {
    same(name, shape);
    map_.entries.back().is_buffer = true;
    map_.entries.back().is_optional = optional;
  }
  // A linear layer's weight, and its bias where it has one; GPT-2 stores the weight transposed.
  void linear(const std::string& name, int64_t out, int64_t in, bool bias) { part(name, name, in, 0, out, bias); }
  // `name` starts at row `begin` of the `total` output rows of `hf`.
  void part(const std::string& name, const std::string& hf, int64_t in, int64_t begin, int64_t total, bool bias) {
    const Shape shape = gpt2_ ? Shape{in, total} : Shape{total, in};
    map_.entries.push_back({name + ".weight", prefixed(hf) + ".weight", shape, gpt2_, begin});
    if (bias) map_.entries.push_back({name + ".bias", prefixed(hf) + ".bias", {total}, false, begin});
  }
  void norm(const std::string& name, int64_t size, bool bias) {
    same(name + ".weight", {size});
    if (bias) same(name + ".bias", {size});
  }
  // GPT-2's body stands below "transformer.", its head does not.
  std::string prefixed(const std::string& name) const {
    return gpt2_ && !name.starts_with("lm_head") ? kGpt2Prefix + name : name;
  }
  // gate, up and down of a gated feed-forward network of width `ffn`.
  void feed_forward(const MlpNames& names, int64_t ffn, int64_t hidden) {
    linear(names.gate, ffn, hidden, false);
    linear(names.up, ffn, hidden, false);
    linear(names.down, hidden, ffn, false);
  }
  NameMap take() { return std::move(map_); }

 private:
  bool gpt2_;
  NameMap map_;
};

void add_latent_attention(NameMapBuilder& b, const ModelConfig& c, const ParameterNames& n) {
  const LatentAttentionConfig& l = c.latent;
  const int64_t q_rows = c.num_heads * c.head_dim;
  if (l.q_rank > 0) {
    b.linear(n.q_a, l.q_rank, c.hidden_size, false);
    b.norm(n.q_a_norm, l.q_rank, false);
    b.linear(n.q_b, q_rows, l.q_rank, false);
  } else {
    b.linear(n.q, q_rows, c.hidden_size, false);
  }
  b.linear(n.kv_a, l.kv_rank + l.rope_dim, c.hidden_size, false);
  b.norm(n.kv_a_norm, l.kv_rank, false);
  b.linear(n.kv_b, c.num_heads * (l.nope_dim + l.v_dim), l.kv_rank, false);
  b.linear(n.o, c.hidden_size, c.num_heads * l.v_dim, false);
}

void add_attention(NameMapBuilder& b, const ModelConfig& c, const ParameterNames& n, int64_t layer) {
  if (c.latent.kv_rank > 0) return add_latent_attention(b, c, n);
  const bool gpt2 = c.family == ModelFamily::gpt2;
  const int64_t q_rows = c.num_heads * c.head_dim;
  const int64_t kv_rows = c.num_kv_heads * c.head_dim;
  if (gpt2) {
    const std::string joined = "h." + std::to_string(layer) + ".attn.c_attn";
    const int64_t total = q_rows + 2 * kv_rows;
    b.part(n.q, joined, c.hidden_size, 0, total, true);
    b.part(n.k, joined, c.hidden_size, q_rows, total, true);
    b.part(n.v, joined, c.hidden_size, q_rows + kv_rows, total, true);
  } else {
    b.linear(n.q, q_rows, c.hidden_size, c.attention_bias);
    b.linear(n.k, kv_rows, c.hidden_size, c.attention_bias);
    b.linear(n.v, kv_rows, c.hidden_size, c.attention_bias);
  }
  if (c.qk_norm) {
    b.norm(n.q_norm, c.head_dim, false);
    b.norm(n.k_norm, c.head_dim, false);
  }
  b.linear(n.o, c.hidden_size, q_rows, gpt2);
}

void add_experts(NameMapBuilder& b, const ModelConfig& c, const ParameterNames& n, int64_t layer) {
  const ExpertsConfig& e = c.experts;
  const int64_t choices = e.num_choices();
  b.linear(n.router, choices, c.hidden_size, false);
  // The files of other families have none: there it is balance: bias that begins with zeros.
  if (e.score_bias) b.buffer(n.score_bias, {choices}, /*optional=*/c.family != ModelFamily::deepseek_v3);
  if (has_gate_residual(c, layer)) b.linear(n.gate_residual, choices, choices, false);
  for (int64_t i = 0; i < e.num_experts; ++i) b.feed_forward(n.expert(i), e.ffn_size, c.hidden_size);
  for (int64_t i = 0; i < e.num_constant; ++i) {
    b.same(n.constant_expert(i).vector, {c.hidden_size});
    b.linear(n.constant_expert(i).mix, 2, c.hidden_size, false);
  }
  if (e.shared_ffn_size > 0) b.feed_forward(n.shared, e.shared_ffn_size, c.hidden_size);
  if (e.shared_gate) b.linear(n.shared_gate, 1, c.hidden_size, false);
}

void add_layer(NameMapBuilder& b, const ModelConfig& c, int64_t layer) {
  const bool gpt2 = c.family == ModelFamily::gpt2;
  const bool layer_norm = c.norm == NormKind::layer;
  const ParameterNames n(c.family, layer);
  b.norm(n.norm1, c.hidden_size, layer_norm);
  add_attention(b, c, n, layer);
  b.norm(n.norm2, c.hidden_size, layer_norm);
  if (c.has_experts(layer)) return add_experts(b, c, n, layer);
  if (!gpt2) return b.feed_forward(n.mlp, c.ffn_size, c.hidden_size);
  b.linear(n.mlp.up, c.ffn_size, c.hidden_size, true);
  b.linear(n.mlp.down, c.hidden_size, c.ffn_size, true);
}

void add_predictor(NameMapBuilder& b, const ModelConfig& c, int64_t layer) {
  const PredictorNames n = ParameterNames(c.family, layer).predictor;
  b.norm(n.embedding_norm, c.hidden_size, false);
  b.norm(n.hidden_norm, c.hidden_size, false);
  b.linear(n.join, c.hidden_size, 2 * c.hidden_size, false);
  add_layer(b, c, layer);
  b.norm(n.head_norm, c.hidden_size, false);
}

}  // namespace

NameMap hugging_face_names(const ModelConfig& c) {
  const bool gpt2 = c.family == ModelFamily::gpt2;
  NameMapBuilder b(c);
  b.same(ParameterNames::embedding(c.family) + ".weight", {c.vocab_size, c.hidden_size});
  if (gpt2) b.same(ParameterNames::positions(c.family) + ".weight", {c.max_positions, c.hidden_size});
  for (int64_t layer = 0; layer < c.num_layers; ++layer) add_layer(b, c, layer);
  b.norm(ParameterNames::final_norm(c.family), c.hidden_size, c.norm == NormKind::layer);
  if (!c.tie_embeddings) b.same(ParameterNames::head(c.family) + ".weight", {c.vocab_size, c.hidden_size});
  for (int64_t i = 0; i < c.num_predictors; ++i) add_predictor(b, c, c.num_layers + i);
  NameMap map = b.take();
  if (gpt2) map.optional_prefix = kGpt2Prefix;
  map.ignored_suffixes = {".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq"};
  if (c.tie_embeddings) map.ignored_suffixes.push_back("lm_head.weight");
  if (c.family ==
      ModelFamily::deepseek_v3) {  // a file may have a module of multi-token prediction more than is asked for
    map.ignored_prefixes.push_back("model.layers." + std::to_string(c.num_layers + c.num_predictors) + ".");
  }
  for (int64_t i = 0; i < c.num_predictors; ++i) {
    const PredictorNames n = ParameterNames(c.family, c.num_layers + i).predictor;
    map.ignored_suffixes.push_back(n.embedding_copy + ".weight");
    map.ignored_suffixes.push_back(n.head_copy + ".weight");
  }
  return map;
}

}  // namespace trireme
