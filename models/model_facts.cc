// Facts about a model that need no memory: parameter counts, FLOPs, names in Hugging Face checkpoints.
#include "models/parameter_names.h"
#include "models/transformer.h"

namespace trireme {

namespace {

// Elements of the matrices of one block.
int64_t block_matrix_elements(const ModelConfig& c) {
  const int64_t q_rows = c.num_heads * c.head_dim;
  const int64_t kv_rows = c.num_kv_heads * c.head_dim;
  const int64_t num_up = c.activation == Activation::swiglu ? 2 : 1;
  return c.hidden_size * (2 * q_rows + 2 * kv_rows) + (num_up + 1) * c.hidden_size * c.ffn_size;
}

const std::string kGpt2Prefix = "transformer.";

class NameMapBuilder {
 public:
  explicit NameMapBuilder(const ModelConfig& config) : gpt2_(config.family == ModelFamily::gpt2) {}

  void same(const std::string& name, Shape shape) { map_.entries.push_back({name, prefixed(name), shape, false, 0}); }
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
  NameMap take() { return std::move(map_); }

 private:
  bool gpt2_;
  NameMap map_;
};

}  // namespace

int64_t count_parameters(const ModelConfig& c) {
  const bool gpt2 = c.family == ModelFamily::gpt2;
  const int64_t q_rows = c.num_heads * c.head_dim;
  const int64_t kv_rows = c.num_kv_heads * c.head_dim;
  const int64_t norm = c.hidden_size * (c.norm == NormKind::layer ? 2 : 1);
  int64_t block = block_matrix_elements(c) + 2 * norm;
  if (gpt2 || c.attention_bias) block += q_rows + 2 * kv_rows;
  if (gpt2) block += 2 * c.hidden_size + c.ffn_size;
  if (c.qk_norm) block += 2 * c.head_dim;
  int64_t n = c.num_layers * block + norm + c.vocab_size * c.hidden_size;
  if (c.rope.type == RopeType::none) n += c.max_positions * c.hidden_size;
  if (!c.tie_embeddings) n += c.vocab_size * c.hidden_size;
  return n;
}

double model_flops_per_token(const ModelConfig& c, int64_t sequence) {
  const double matrices = static_cast<double>(c.num_layers * block_matrix_elements(c) + c.vocab_size * c.hidden_size);
  const double attention = static_cast<double>(c.num_layers * c.num_heads * c.head_dim * sequence);
  return 6.0 * (matrices + attention);
}

NameMap hugging_face_names(const ModelConfig& c) {
  const bool gpt2 = c.family == ModelFamily::gpt2;
  const bool layer_norm = c.norm == NormKind::layer;
  const int64_t q_rows = c.num_heads * c.head_dim;
  const int64_t kv_rows = c.num_kv_heads * c.head_dim;
  NameMapBuilder b(c);
  b.same(ParameterNames::embedding(c.family) + ".weight", {c.vocab_size, c.hidden_size});
  if (gpt2) b.same(ParameterNames::positions(c.family) + ".weight", {c.max_positions, c.hidden_size});
  for (int64_t layer = 0; layer < c.num_layers; ++layer) {
    const ParameterNames n(c.family, layer);
    b.norm(n.norm1, c.hidden_size, layer_norm);
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
    b.norm(n.norm2, c.hidden_size, layer_norm);
    if (!gpt2) b.linear(n.mlp.gate, c.ffn_size, c.hidden_size, false);
    b.linear(n.mlp.up, c.ffn_size, c.hidden_size, gpt2);
    b.linear(n.mlp.down, c.hidden_size, c.ffn_size, gpt2);
  }
  b.norm(ParameterNames::final_norm(c.family), c.hidden_size, layer_norm);
  if (!c.tie_embeddings) b.same(ParameterNames::head(c.family) + ".weight", {c.vocab_size, c.hidden_size});
  NameMap map = b.take();
  if (gpt2) map.optional_prefix = kGpt2Prefix;
  map.ignored_suffixes = {".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq"};
  if (c.tie_embeddings) map.ignored_suffixes.push_back("lm_head.weight");
  return map;
}

}  // namespace trireme
