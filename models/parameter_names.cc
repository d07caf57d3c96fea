#include "models/parameter_names.h"

#include <cmath>

namespace trireme {

ParameterNames::ParameterNames(ModelFamily family, int64_t layer) {
  const std::string i = std::to_string(layer);
  if (family == ModelFamily::gpt2) {
    const std::string block = "h." + i;
    norm1 = block + ".ln_1";
    q = block + ".attn.q";
    k = block + ".attn.k";
    v = block + ".attn.v";
    o = block + ".attn.c_proj";
    norm2 = block + ".ln_2";
    mlp = {"", block + ".mlp.c_fc", block + ".mlp.c_proj"};
    return;
  }
  const std::string block = "model.layers." + i;
  norm1 = block + ".input_layernorm";
  q = block + ".self_attn.q_proj";
  k = block + ".self_attn.k_proj";
  v = block + ".self_attn.v_proj";
  q_norm = block + ".self_attn.q_norm";
  k_norm = block + ".self_attn.k_norm";
  o = block + ".self_attn.o_proj";
  q_a = block + ".self_attn.q_a_proj";
  q_a_norm = block + ".self_attn.q_a_layernorm";
  q_b = block + ".self_attn.q_b_proj";
  kv_a = block + ".self_attn.kv_a_proj_with_mqa";
  kv_a_norm = block + ".self_attn.kv_a_layernorm";
  kv_b = block + ".self_attn.kv_b_proj";
  norm2 = block + ".post_attention_layernorm";
  const auto below = [](const std::string& place) {
    return MlpNames{place + ".gate_proj", place + ".up_proj", place + ".down_proj"};
  };
  const std::string ffn = block + (family == ModelFamily::mixtral ? ".block_sparse_moe" : ".mlp");
  mlp = below(block + ".mlp");
  router = ffn + ".gate";
  score_bias = router + ".e_score_correction_bias";
  experts_ = ffn + ".experts";
  constant_experts_ = ffn + ".constant_experts";
  of_expert_ = family == ModelFamily::mixtral ? MlpNames{".w1", ".w3", ".w2"} : below("");
  shared = below(ffn + (family == ModelFamily::qwen2_moe ? ".shared_expert" : ".shared_experts"));
  shared_gate = ffn + ".shared_expert_gate";
  gate_residual = ffn + ".gate_residual";
  predictor = {.embedding_norm = block + ".enorm",
               .hidden_norm = block + ".hnorm",
               .join = block + ".eh_proj",
               .head_norm = block + ".shared_head.norm",
               .embedding_copy = block + ".embed_tokens",
               .head_copy = block + ".shared_head.head"};
}

ConstantExpertNames ParameterNames::constant_expert(int64_t e) const {
  const std::string place = constant_experts_ + "." + std::to_string(e);
  return {place + ".vector", place + ".mix"};
}

MlpNames ParameterNames::expert(int64_t e) const {
  const std::string place = experts_ + "." + std::to_string(e);
  return {place + of_expert_.gate, place + of_expert_.up, place + of_expert_.down};
}

std::string ParameterNames::embedding(ModelFamily family) {
  return family == ModelFamily::gpt2 ? "wte" : "model.embed_tokens";
}
std::string ParameterNames::positions(ModelFamily) { return "wpe"; }
std::string ParameterNames::final_norm(ModelFamily family) {
  return family == ModelFamily::gpt2 ? "ln_f" : "model.norm";
}
std::string ParameterNames::head(ModelFamily) { return "lm_head"; }

namespace {

Parameter make(std::string name, Shape shape, Role role, Initializer init) {
  Parameter p;
  p.name = std::move(name);
  p.shape = shape;
  p.role = role;
  p.init = init;
  p.gradient_placement.partial(Axis::data_shard).partial(Axis::data_replica);
  return p;
}

}  // namespace

Parameter make_matrix(const std::string& name, int64_t out, int64_t in, double std) {
  return make(name + ".weight", {out, in}, Role::matrix, {Initializer::Kind::normal, std});
}
Parameter make_embedding(const std::string& name, int64_t rows, int64_t width, double std) {
  return make(name + ".weight", {rows, width}, Role::embedding, {Initializer::Kind::normal, std});
}
Parameter make_bias(const std::string& name, int64_t size) {
  return make(name + ".bias", {size}, Role::bias, {Initializer::Kind::constant, 0.0});
}
Parameter make_norm_weight(const std::string& name, int64_t size) {
  return make(name + ".weight", {size}, Role::norm, {Initializer::Kind::constant, 1.0});
}
Parameter make_vector(const std::string& name, int64_t size, double std) {
  return make(name, {size}, Role::bias, {Initializer::Kind::normal, std});
}
Parameter make_buffer(const std::string& name, int64_t size) {
  Parameter buffer = make(name, {size}, Role::buffer, {Initializer::Kind::constant, 0.0});
  buffer.gradient_placement = {};
  return buffer;
}

NormLayer make_norm(const std::string& name, int64_t size, const ModelConfig& config, bool tokens_are_cut) {
  const auto placed = [&](Parameter p) { return tokens_are_cut ? partial_over_tensor(std::move(p)) : p; };
  NormLayer norm;
  norm.weight = Weight(placed(make_norm_weight(name, size)));
  if (config.norm == NormKind::layer) norm.bias = Weight(placed(make_bias(name, size)));
  norm.eps = static_cast<float>(config.norm_eps);
  return norm;
}

double residual_std(const ModelConfig& config) {
  const double std = config.initializer_range;
  return config.family == ModelFamily::gpt2 ? std / std::sqrt(2.0 * static_cast<double>(config.num_layers)) : std;
}

namespace {

Parameter split_over_tensor(Parameter p, int dim, int64_t granule) {
  p.placement.split(Axis::tensor, dim);
  p.gradient_placement.split(Axis::tensor, dim);
  p.granule = granule;
  return p;
}

}  // namespace

Parameter column_parallel(Parameter parameter, int64_t granule) {
  return split_over_tensor(std::move(parameter), 0, granule);
}

Parameter row_parallel(Parameter parameter, int64_t granule) {
  return split_over_tensor(std::move(parameter), 1, granule);
}

Parameter partial_over_tensor(Parameter parameter) {
  parameter.gradient_placement.partial(Axis::tensor);
  return parameter;
}

}  // namespace trireme
