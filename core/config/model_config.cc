// What a ModelConfig means beyond its keys: a family's defaults, what follows from other keys, what must fit.
#include <algorithm>

#include "core/config/hf_config.h"
#include "core/config/units.h"
#include "core/error.h"

namespace trireme {

bool ModelConfig::has_experts(int64_t layer) const {
  return experts.num_experts > 0 && layer >= experts.num_dense_first && (layer + 1) % experts.period == 0 &&
         std::find(experts.dense_layers.begin(), experts.dense_layers.end(), layer) == experts.dense_layers.end();
}

ModelConfig family_defaults(ModelFamily family) {
  ModelConfig model{.family = family};
  if (family == ModelFamily::gpt2) {
    model.norm = NormKind::layer;
    model.norm_eps = 1e-5;
    model.activation = Activation::gelu_tanh;
    model.rope.type = RopeType::none;
    model.tie_embeddings = true;
  }
  if (family == ModelFamily::mixtral) {
    model.norm_eps = 1e-5;
    model.rope.theta = 1e6;
  }
  model.attention_bias =
      family == ModelFamily::gpt2 || family == ModelFamily::qwen2 || family == ModelFamily::qwen2_moe;
  model.qk_norm = family == ModelFamily::qwen3 || family == ModelFamily::qwen3_moe;
  ExpertsConfig& experts = model.experts;
  if (family == ModelFamily::qwen2_moe || family == ModelFamily::qwen3_moe || family == ModelFamily::deepseek_v2) {
    experts.normalize = false;
  }
  experts.shared_gate = family == ModelFamily::qwen2_moe;
  if (family == ModelFamily::deepseek_v3) {
    experts.scoring = RouterScoring::sigmoid;
    experts.score_bias = true;
    experts.scaling = 2.5;
    experts.group_score = GroupScore::sum_of_best_two;
  }
  return model;
}

namespace {

// "a divisor of N, such as A or B": the divisors of `number` next to `value`.
std::string near_divisors(int64_t number, int64_t value) {
  int64_t below = 0;
  int64_t above = 0;
  for (int64_t d = 1; d <= number; ++d) {
    if (number % d != 0) continue;
    if (d < value) below = d;
    if (d > value && above == 0) above = d;
  }
  const std::string a = below ? std::to_string(below) : "";
  const std::string b = above ? std::to_string(above) : "";
  return a + (a.empty() || b.empty() ? "" : " or ") + b;
}

// Latent attention gives every head keys and values of its own, and head_dim is that of queries and keys.
void finish_latent_heads(ModelConfig& model, const KeyPlaces& places) {
  if (model.num_kv_heads != model.num_heads) {
    throw ConfigError({.what = "latent attention has keys and values for every head",
                       .expected = "model.num_key_value_heads: " + std::to_string(model.num_heads) + " or null",
                       .found = std::to_string(model.num_kv_heads),
                       .where = place_of(places, "model.num_key_value_heads"),
                       .hint = "model.num_key_value_heads: " + std::to_string(model.num_heads)});
  }
  model.head_dim = model.latent.nope_dim + model.latent.rope_dim;
}

void finish_heads(ModelConfig& model, const KeyPlaces& places) {
  if (model.head_dim == 0) {
    if (model.hidden_size % model.num_heads != 0) {
      throw ConfigError({.what = "model.num_attention_heads doesn't divide model.hidden_size",
                         .expected = "a divisor of " + std::to_string(model.hidden_size) +
                                     (model.family == ModelFamily::gpt2 ? "" : ", or head_dim given"),
                         .found = std::to_string(model.num_heads),
                         .where = place_of(places, "model.num_attention_heads"),
                         .hint = near_divisors(model.hidden_size, model.num_heads)});
    }
    model.head_dim = model.hidden_size / model.num_heads;
  }
  if (model.num_heads % model.num_kv_heads != 0) {
    throw ConfigError({.what = "model.num_key_value_heads doesn't divide model.num_attention_heads",
                       .expected = "a divisor of " + std::to_string(model.num_heads),
                       .found = std::to_string(model.num_kv_heads),
                       .where = place_of(places, "model.num_key_value_heads"),
                       .hint = near_divisors(model.num_heads, model.num_kv_heads)});
  }
}

void check_groups(const ExpertsConfig& experts, const KeyPlaces& places) {
  const int64_t groups = experts.num_groups;
  if (groups == 1 && experts.groups_per_token == 1) return;
  if (experts.num_experts % groups != 0) {
    throw ConfigError({.what = "model.n_group doesn't divide model.n_routed_experts",
                       .expected = "a divisor of " + std::to_string(experts.num_experts),
                       .found = std::to_string(groups),
                       .where = place_of(places, "model.n_group"),
                       .hint = near_divisors(experts.num_experts, groups)});
  }
  const int64_t group = experts.num_experts / groups;
  if (experts.groups_per_token > groups) {
    throw ConfigError({.what = "model.topk_group is above model.n_group",
                       .expected = "at most " + std::to_string(groups),
                       .found = std::to_string(experts.groups_per_token),
                       .where = place_of(places, "model.topk_group"),
                       .hint = std::to_string(groups)});
  }
  if (groups > 1 && group < 2 && experts.group_score == GroupScore::sum_of_best_two) {
    throw ConfigError(
        {.what = "a group's score is that of its best two experts, and the groups of model.n_group have one",
         .expected = "two experts or more in each group",
         .found = std::to_string(experts.num_experts) + " experts in " + std::to_string(groups) + " groups",
         .where = place_of(places, "model.n_group"),
         .hint = near_divisors(experts.num_experts, groups)});
  }
  if (experts.top_k > experts.groups_per_token * group) {
    throw ConfigError(
        {.what = "model.num_experts_per_tok is more than the experts of the groups that a token may choose from",
         .expected = "at most " + std::to_string(experts.groups_per_token * group),
         .found = std::to_string(experts.top_k),
         .where = place_of(places, "model.num_experts_per_tok"),
         .hint = "a larger model.topk_group"});
  }
}

void finish_experts(ModelConfig& model, const KeyPlaces& places) {
  ExpertsConfig& experts = model.experts;
  if (experts.num_experts == 0) return;
  if (model.family == ModelFamily::mixtral) experts.ffn_size = model.ffn_size;
  if (experts.top_k > experts.num_choices()) {
    throw ConfigError({.what = "model.num_experts_per_tok is above the number of experts",
                       .expected = "at most " + std::to_string(experts.num_choices()),
                       .found = std::to_string(experts.top_k),
                       .where = place_of(places, "model.num_experts_per_tok"),
                       .hint = std::to_string(std::min<int64_t>(2, experts.num_choices()))});
  }
  check_groups(experts, places);
  if (experts.num_dense_first > model.num_layers) {
    throw ConfigError({.what = "model.first_k_dense_replace is above model.num_hidden_layers",
                       .expected = "at most " + std::to_string(model.num_layers),
                       .found = std::to_string(experts.num_dense_first),
                       .where = place_of(places, "model.first_k_dense_replace"),
                       .hint = "1"});
  }
  for (const int64_t layer : experts.dense_layers) {
    if (layer < model.num_layers) continue;
    throw ConfigError({.what = "model.mlp_only_layers names a layer that the model doesn't have",
                       .expected = "layers from 0 to " + std::to_string(model.num_layers - 1),
                       .found = std::to_string(layer),
                       .where = place_of(places, "model.mlp_only_layers")});
  }
}

// The place of a key of rope_scaling, or of rope_parameters where the file has that.
std::string rope_place(const KeyPlaces& places, const std::string& key) {
  const std::string older = place_of(places, "model.rope_scaling." + key);
  return older.empty() ? place_of(places, "model.rope_parameters." + key) : older;
}

void check_yarn(const RopeConfig& rope, const KeyPlaces& places) {
  if (rope.beta_fast < rope.beta_slow) {
    throw ConfigError({.what = "model.rope_scaling.beta_fast is below model.rope_scaling.beta_slow",
                       .expected = "at least " + exact_real(rope.beta_slow),
                       .found = exact_real(rope.beta_fast),
                       .where = rope_place(places, "beta_fast"),
                       .hint = "beta_fast: 32, beta_slow: 1"});
  }
  if (rope.theta <= 1.0) {
    throw ConfigError({.what = "with rope_type yarn the wavelengths must grow, so model.rope_theta must be above 1",
                       .expected = "a number above 1",
                       .found = exact_real(rope.theta),
                       .where = place_of(places, "model.rope_theta"),
                       .hint = "10000"});
  }
}

void finish_rotary(ModelConfig& model, const KeyPlaces& places) {
  RopeConfig& rope = model.rope;
  if (rope.type == RopeType::none) {
    throw ConfigError({.what = "model.rope_scaling has an unknown rope_type",
                       .expected = "default | linear | llama3 | yarn",
                       .found = "'none'",
                       .where = rope_place(places, "rope_type")});
  }
  const bool from_context = rope.type == RopeType::llama3 || rope.type == RopeType::yarn;
  if (from_context && rope.original_max_position_embeddings == 0) {
    rope.original_max_position_embeddings = model.max_positions;
  }
  if (rope.type == RopeType::yarn) check_yarn(rope, places);
  const bool latent = model.latent.kv_rank > 0;
  if (latent && model.latent.rope_dim % 2 != 0) {
    throw ConfigError({.what = "rotary embeddings turn pairs, so model.qk_rope_head_dim must be even",
                       .expected = "an even number",
                       .found = std::to_string(model.latent.rope_dim),
                       .where = place_of(places, "model.qk_rope_head_dim"),
                       .hint = std::to_string(model.latent.rope_dim + 1)});
  }
  if (!latent && model.head_dim % 2 != 0) {
    throw ConfigError({.what = "rotary embeddings turn pairs, so the head dim must be even",
                       .expected = "an even hidden_size / num_attention_heads, or head_dim given",
                       .found = std::to_string(model.head_dim),
                       .where = place_of(places, "model.num_attention_heads"),
                       .hint = "model.head_dim: " + std::to_string(model.head_dim + 1)});
  }
}

}  // namespace

void finish_model(ModelConfig& model, const KeyPlaces& places) {
  if (model.num_kv_heads == 0) model.num_kv_heads = model.num_heads;
  if (model.ffn_size == 0) model.ffn_size = 4 * model.hidden_size;
  if (model.latent.kv_rank > 0) {
    finish_latent_heads(model, places);
  } else {
    finish_heads(model, places);
  }
  finish_experts(model, places);
  const bool rotary = model.family != ModelFamily::gpt2;
  if (rotary) finish_rotary(model, places);
  if (rotary != (model.activation == Activation::swiglu)) {
    throw ConfigError(
        {.what = "model.hidden_act '" + to_string(model.activation) + "' isn't built for " + to_string(model.family),
         .expected = rotary ? "silu" : "gelu_new or gelu",
         .where = place_of(places, "model.hidden_act")});
  }
}

}  // namespace trireme
