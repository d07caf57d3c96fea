// The keys of the model section, which are those of Hugging Face's config.json. Which there are depends on the family.
#include "core/config/fields.h"

namespace trireme {

// The context that a scaling begins from. 0 stands for max_position_embeddings, as in transformers.
static void describe_original_context(FieldVisitor& v, RopeConfig& c) {
  v.field({.name = "original_max_position_embeddings",
           .doc = "llama3, yarn: context before scaling; null: max_position_embeddings",
           .min = 1,
           .words = {{"null", 0}}},
          &c.original_max_position_embeddings);
}

static void describe_llama3(FieldVisitor& v, RopeConfig& c) {
  v.field({.name = "low_freq_factor",
           .doc = "llama3: wavelengths above original/low are scaled fully",
           .min = 0,
           .above_min = true,
           .required = true},
          &c.low_freq_factor);
  v.field({.name = "high_freq_factor",
           .doc = "llama3: wavelengths below original/high are left alone",
           .min = 0,
           .above_min = true,
           .required = true},
          &c.high_freq_factor);
  describe_original_context(v, c);
}

// A number that may be null: then it is `absent`.
static void optional_number(FieldVisitor& v, const FieldSpec& spec, double absent, double& value) {
  std::optional<double> given = value;
  v.field(spec, &given);
  value = given.value_or(absent);
}

static void describe_yarn(FieldVisitor& v, RopeConfig& c) {
  describe_original_context(v, c);
  const RopeConfig absent;
  optional_number(v,
                  {.name = "beta_fast",
                   .doc = "yarn: pairs that turn so often in the original context, and faster ones, are left alone",
                   .min = 0,
                   .above_min = true},
                  absent.beta_fast, c.beta_fast);
  optional_number(v,
                  {.name = "beta_slow",
                   .doc = "yarn: pairs that turn so often in the original context, and slower ones, are scaled fully",
                   .min = 0,
                   .above_min = true},
                  absent.beta_slow, c.beta_slow);
  v.field({.name = "truncate", .doc = "yarn: the range between the two ends at whole pairs"}, &c.truncate);
  optional_number(
      v,
      {.name = "mscale",
       .doc = "yarn: rotated queries and keys are (0.1 mscale ln factor + 1) / (0.1 mscale_all_dim ln factor "
              "+ 1) times as large, and 0.1 ln factor + 1 times where one of the two is 0",
       .min = 0},
      absent.mscale, c.mscale);
  optional_number(
      v,
      {.name = "mscale_all_dim",
       .doc = "yarn: see mscale; DeepSeek's scores are also (0.1 mscale_all_dim ln factor + 1)² times as large",
       .min = 0},
      absent.mscale_all_dim, c.mscale_all_dim);
  v.field({.name = "attention_factor",
           .doc = "yarn: how many times as large rotated queries and keys are; null: from mscale and mscale_all_dim",
           .min = 0,
           .above_min = true},
          &c.attention_factor);
}

// Only what the scaling type needs is listed, so that a stray factor is an unknown key.
static void describe_rope_scaling(FieldVisitor& v, RopeConfig& c) {
  v.field({.name = "rope_type", .doc = "scaling of the rotary angles", .required = true, .alias = "type"},
          EnumRef(c.type));
  if (c.type == RopeType::none || c.type == RopeType::standard) return;
  v.field({.name = "factor", .doc = "how much longer the context becomes", .min = 1, .required = true}, &c.factor);
  if (c.type == RopeType::llama3) describe_llama3(v, c);
  if (c.type == RopeType::yarn) describe_yarn(v, c);
}

static SectionRef rope_scaling(RopeConfig& rope) {
  return {.shape = SectionRef::Shape::optional,
          .size = [&rope] { return rope.type == RopeType::standard ? size_t{0} : size_t{1}; },
          .resize =
              [&rope](size_t n) {
                if (n == 0) rope = RopeConfig{.theta = rope.theta};
              },
          .describe = [&rope](FieldVisitor& v, size_t) { describe_rope_scaling(v, rope); },
          .describe_all =
              [](FieldVisitor& v) {
                for (const RopeType type : {RopeType::linear, RopeType::llama3, RopeType::yarn}) {
                  RopeConfig of_type{.type = type};
                  describe_rope_scaling(v, of_type);
                }
              }};
}

static void describe_choice(FieldVisitor& v, ExpertsConfig& c, const std::string& name, const std::string& alias) {
  v.field({.name = name, .doc = "E, experts of a layer", .min = 1, .max = 1 << 20, .required = true, .alias = alias},
          &c.num_experts);
  v.field({.name = "num_experts_per_tok", .doc = "K, experts of a token", .min = 1, .required = true}, &c.top_k);
}

static void describe_expert_size(FieldVisitor& v, ExpertsConfig& c) {
  v.field({.name = "moe_intermediate_size", .doc = "F of one expert", .min = 1, .required = true}, &c.ffn_size);
}

static void describe_normalize(FieldVisitor& v, ExpertsConfig& c) {
  v.field({.name = "norm_topk_prob", .doc = "weights of a token's experts are divided by their sum"}, &c.normalize);
}

static void describe_mixtral(FieldVisitor& v, ExpertsConfig& c) {
  describe_choice(v, c, "num_local_experts", "num_experts");
}

static void describe_qwen(FieldVisitor& v, ModelFamily family, ExpertsConfig& c) {
  describe_choice(v, c, "num_experts", "num_local_experts");
  describe_expert_size(v, c);
  if (family == ModelFamily::qwen2_moe) {
    v.field({.name = "shared_expert_intermediate_size",
             .doc = "F of the expert that every token passes",
             .min = 1,
             .required = true},
            &c.shared_ffn_size);
  }
  describe_normalize(v, c);
  v.field({.name = "decoder_sparse_step", .doc = "every so many-th layer has experts", .min = 1}, &c.period);
  std::optional<std::vector<int64_t>> dense = c.dense_layers;
  v.field({.name = "mlp_only_layers", .doc = "layers without experts, counted from 0", .min = 0}, &dense);
  c.dense_layers = dense.value_or(std::vector<int64_t>{});
}

static void describe_latent_attention(FieldVisitor& v, LatentAttentionConfig& c) {
  v.field({.name = "q_lora_rank", .doc = "width of the queries' latent; null: none", .min = 1, .words = {{"null", 0}}},
          &c.q_rank);
  v.field({.name = "kv_lora_rank", .doc = "width of the latent of keys and values", .min = 1, .required = true},
          &c.kv_rank);
  v.field({.name = "qk_nope_head_dim",
           .doc = "of a query and key head, the part without positions",
           .min = 1,
           .required = true},
          &c.nope_dim);
  v.field({.name = "qk_rope_head_dim", .doc = "of a query and key head, the rotated part", .min = 1, .required = true},
          &c.rope_dim);
  v.field({.name = "v_head_dim", .doc = "of a value head", .min = 1, .required = true}, &c.v_dim);
}

static void describe_deepseek(FieldVisitor& v, ModelConfig& m) {
  ExpertsConfig& c = m.experts;
  describe_choice(v, c, "n_routed_experts", "");
  describe_expert_size(v, c);
  int64_t num_shared = c.ffn_size > 0 ? c.shared_ffn_size / c.ffn_size : 0;
  v.field({.name = "n_shared_experts",
           .doc = "experts that every token passes; null: none",
           .min = 0,
           .max = 1 << 20,
           .words = {{"null", 0}}},
          &num_shared);
  c.shared_ffn_size = num_shared * c.ffn_size;
  v.field({.name = "first_k_dense_replace", .doc = "the first so many layers have no experts", .min = 0},
          &c.num_dense_first);
  v.field({.name = "n_group", .doc = "groups of experts; null: one", .min = 1, .words = {{"null", 1}}}, &c.num_groups);
  v.field({.name = "topk_group",
           .doc = "groups from which a token's experts are chosen; null: one",
           .min = 1,
           .words = {{"null", 1}}},
          &c.groups_per_token);
  if (m.family == ModelFamily::deepseek_v3) describe_normalize(v, c);
  v.field({.name = "routed_scaling_factor",
           .doc = "weights of a token's experts are multiplied with it",
           .min = 0,
           .above_min = true},
          &c.scaling);
  if (m.family == ModelFamily::deepseek_v2) return;
  v.field({.name = "num_nextn_predict_layers",
           .doc = "modules that predict one token further each",
           .min = 0,
           .max = 64,
           .alias = "num_mtp_layers"},
          &m.num_predictors);
}

void describe(FieldVisitor& v, ModelConfig& c) {
  v.field({.name = "model_type", .doc = "the family", .required = true}, EnumRef(c.family));
  const bool gpt2 = c.family == ModelFamily::gpt2;
  const auto also = [gpt2](const char* name) { return gpt2 ? std::string(name) : std::string(); };
  v.field({.name = "hidden_size", .doc = "C", .min = 1, .required = true, .alias = also("n_embd")}, &c.hidden_size);
  v.field(
      {.name = "num_hidden_layers", .doc = "transformer blocks", .min = 1, .required = true, .alias = also("n_layer")},
      &c.num_layers);
  v.field({.name = "num_attention_heads", .doc = "H", .min = 1, .required = true, .alias = also("n_head")},
          &c.num_heads);
  v.field({.name = "intermediate_size",
           .doc = "F; GPT-2: null is 4·C; Mixtral: of each expert; other models with experts: of their dense layers",
           .min = 1,
           .required = !gpt2,
           .words = gpt2 ? Words{{"null", 0}} : Words{},
           .alias = also("n_inner")},
          &c.ffn_size);
  v.field({.name = "vocab_size", .doc = "V, unpadded", .min = 1, .required = true}, &c.vocab_size);
  v.field({.name = "max_position_embeddings",
           .doc = "longest context, tokens",
           .min = 1,
           .required = true,
           .alias = also("n_positions")},
          &c.max_positions);
  v.field({.name = gpt2 ? "layer_norm_epsilon" : "rms_norm_eps", .doc = "inside the root of the norm", .min = 0},
          &c.norm_eps);
  v.field({.name = "hidden_act",
           .doc = "GPT-2: gelu_new (tanh) or gelu (erf); others: silu, gated",
           .alias = also("activation_function")},
          EnumRef(c.activation));
  v.field({.name = "tie_word_embeddings", .doc = "the head's weight is the embedding's; GPT-2: true by default"},
          &c.tie_embeddings);
  v.field({.name = "initializer_range", .doc = "standard deviation of initial weights", .min = 0},
          &c.initializer_range);
  if (gpt2) return;
  v.field({.name = "num_key_value_heads", .doc = "null: as many as heads", .min = 1, .words = {{"null", 0}}},
          &c.num_kv_heads);
  const bool deepseek = c.family == ModelFamily::deepseek_v2 || c.family == ModelFamily::deepseek_v3;
  if (!deepseek) {
    v.field({.name = "head_dim", .doc = "D; null: C / H", .min = 1, .words = {{"null", 0}}}, &c.head_dim);
  }
  v.field({.name = "rope_theta", .doc = "base of the rotary angles", .min = 0, .above_min = true}, &c.rope.theta);
  v.section({.name = "rope_scaling", .doc = "null: none"}, rope_scaling(c.rope));
  switch (c.family) {
    case ModelFamily::mixtral: return describe_mixtral(v, c.experts);
    case ModelFamily::qwen2_moe:
    case ModelFamily::qwen3_moe: return describe_qwen(v, c.family, c.experts);
    case ModelFamily::deepseek_v2:
    case ModelFamily::deepseek_v3: describe_latent_attention(v, c.latent); return describe_deepseek(v, c);
    default: return;
  }
}

}  // namespace trireme
