#include "core/config/hf_config_writer.h"

#include <nlohmann/json.hpp>

namespace trireme {

namespace {

using nlohmann::json;

json id_or_null(const std::optional<int64_t>& id) { return id ? json(*id) : json(nullptr); }

void add_gpt2(json& root, const ModelConfig& m) {
  root["n_embd"] = m.hidden_size;
  root["n_layer"] = m.num_layers;
  root["n_head"] = m.num_heads;
  root["n_inner"] = m.ffn_size == 4 * m.hidden_size ? json(nullptr) : json(m.ffn_size);
  root["n_positions"] = m.max_positions;
  root["n_ctx"] = m.max_positions;
  root["layer_norm_epsilon"] = m.norm_eps;
  root["activation_function"] = to_string(m.activation);
  for (const char* key : {"attn_pdrop", "embd_pdrop", "resid_pdrop"}) root[key] = 0.0;
  root["scale_attn_weights"] = true;
  root["scale_attn_by_inverse_layer_idx"] = false;
  root["reorder_and_upcast_attn"] = false;
}

// `rope_parameters` for transformers 5, `rope_theta` and `rope_scaling` for what is older; whoever knows both finds the
// same in both.
void add_rotary(json& root, const RopeConfig& rope) {
  json scaling = {{"rope_type", to_string(rope.type)}};
  if (rope.type != RopeType::standard) scaling["factor"] = rope.factor;
  if (rope.type == RopeType::llama3) {
    scaling["low_freq_factor"] = rope.low_freq_factor;
    scaling["high_freq_factor"] = rope.high_freq_factor;
  }
  if (rope.type == RopeType::llama3 || rope.type == RopeType::yarn) {
    scaling["original_max_position_embeddings"] = rope.original_max_position_embeddings;
  }
  if (rope.type == RopeType::yarn) {
    scaling["beta_fast"] = rope.beta_fast;
    scaling["beta_slow"] = rope.beta_slow;
    if (!rope.truncate) scaling["truncate"] = false;  // transformers before 4.53 doesn't know it
    if (rope.mscale > 0) scaling["mscale"] = rope.mscale;
    if (rope.mscale_all_dim > 0) scaling["mscale_all_dim"] = rope.mscale_all_dim;
    if (rope.attention_factor) scaling["attention_factor"] = *rope.attention_factor;
  }
  root["rope_theta"] = rope.theta;
  root["rope_scaling"] = rope.type == RopeType::standard ? json(nullptr) : scaling;
  root["rope_parameters"] = scaling;
  root["rope_parameters"]["rope_theta"] = rope.theta;
}

std::string architecture(ModelFamily family) {
  switch (family) {
    case ModelFamily::gpt2: return "GPT2LMHeadModel";
    case ModelFamily::llama: return "LlamaForCausalLM";
    case ModelFamily::qwen2: return "Qwen2ForCausalLM";
    case ModelFamily::qwen3: return "Qwen3ForCausalLM";
    case ModelFamily::mixtral: return "MixtralForCausalLM";
    case ModelFamily::qwen2_moe: return "Qwen2MoeForCausalLM";
    case ModelFamily::qwen3_moe: return "Qwen3MoeForCausalLM";
    case ModelFamily::deepseek_v2: return "DeepseekV2ForCausalLM";
    case ModelFamily::deepseek_v3: return "DeepseekV3ForCausalLM";
  }
  return {};
}

void add_decoder(json& root, const ModelConfig& m) {
  root["hidden_size"] = m.hidden_size;
  root["num_hidden_layers"] = m.num_layers;
  root["num_attention_heads"] = m.num_heads;
  root["num_key_value_heads"] = m.num_kv_heads;
  root["head_dim"] = m.head_dim;
  root["intermediate_size"] = m.ffn_size;
  root["max_position_embeddings"] = m.max_positions;
  root["rms_norm_eps"] = m.norm_eps;
  root["hidden_act"] = to_string(m.activation);
  root["attention_dropout"] = 0.0;
  add_rotary(root, m.rope);
}

void add_attention(json& root, const ModelConfig& m) {
  using enum ModelFamily;
  const ModelFamily family = m.family;
  const bool qwen_window = family == qwen2 || family == qwen3 || family == qwen2_moe || family == qwen3_moe;
  if (qwen_window) {
    root["use_sliding_window"] = false;
    root["sliding_window"] = nullptr;
    root["max_window_layers"] = m.num_layers;
  }
  if (family == mixtral) root["sliding_window"] = nullptr;
  if (family == qwen2_moe) root["qkv_bias"] = true;
  if (family != qwen2 && family != qwen2_moe && family != mixtral) root["attention_bias"] = false;
  if (family == llama || family == deepseek_v2) root["mlp_bias"] = false;
}

void add_qwen_experts(json& root, const ModelConfig& m) {
  const ExpertsConfig& e = m.experts;
  root["num_experts"] = e.num_experts;
  root["moe_intermediate_size"] = e.ffn_size;
  if (m.family == ModelFamily::qwen2_moe) root["shared_expert_intermediate_size"] = e.shared_ffn_size;
  root["norm_topk_prob"] = e.normalize;
  root["decoder_sparse_step"] = e.period;
  root["mlp_only_layers"] = e.dense_layers;
}

// moe_layer_freq, scoring_func, topk_method: what the models' published code reads and transformers takes for granted.
void add_deepseek(json& root, const ModelConfig& m) {
  const bool v3 = m.family == ModelFamily::deepseek_v3;
  const ExpertsConfig& e = m.experts;
  root["n_routed_experts"] = e.num_experts;
  root["moe_intermediate_size"] = e.ffn_size;
  root["n_shared_experts"] = e.shared_ffn_size / e.ffn_size;
  root["first_k_dense_replace"] = e.num_dense_first;
  root["moe_layer_freq"] = 1;
  root["n_group"] = e.num_groups;
  root["topk_group"] = e.groups_per_token;
  root["norm_topk_prob"] = e.normalize;
  root["routed_scaling_factor"] = e.scaling;
  root["scoring_func"] = v3 ? "sigmoid" : "softmax";
  root["topk_method"] = v3 ? "noaux_tc" : e.num_groups > 1 ? "group_limited_greedy" : "greedy";
  const LatentAttentionConfig& latent = m.latent;
  root["head_dim"] = latent.rope_dim;  // as transformers counts
  root["qk_head_dim"] = m.head_dim;
  root["q_lora_rank"] = latent.q_rank == 0 ? json(nullptr) : json(latent.q_rank);
  root["kv_lora_rank"] = latent.kv_rank;
  root["qk_nope_head_dim"] = latent.nope_dim;
  root["qk_rope_head_dim"] = latent.rope_dim;
  root["v_head_dim"] = latent.v_dim;
  if (!v3) return;
  root["rope_interleave"] = true;
  root["num_nextn_predict_layers"] = m.num_predictors;
}

void add_experts(json& root, const ModelConfig& m) {
  root["num_experts_per_tok"] = m.experts.top_k;
  root["output_router_logits"] = false;
  switch (m.family) {
    case ModelFamily::mixtral:
      root["num_local_experts"] = m.experts.num_experts;
      root["router_jitter_noise"] = 0.0;
      return;
    case ModelFamily::deepseek_v2:
    case ModelFamily::deepseek_v3: return add_deepseek(root, m);
    default: return add_qwen_experts(root, m);
  }
}

}  // namespace

std::string hf_config_json(const ModelConfig& model, const HfConfigWords& words) {
  json root;
  root["model_type"] = to_string(model.family);
  root["architectures"] = {architecture(model.family)};
  root["vocab_size"] = model.vocab_size;
  root["tie_word_embeddings"] = model.tie_embeddings;
  root["initializer_range"] = model.initializer_range;
  root["dtype"] = words.dtype;
  root["torch_dtype"] = words.dtype;  // its name before transformers 4.56
  root["use_cache"] = true;
  root["bos_token_id"] = nullptr;
  root["eos_token_id"] = id_or_null(words.end_of_document);
  root["pad_token_id"] = nullptr;
  if (model.family == ModelFamily::gpt2) {
    add_gpt2(root, model);
  } else {
    add_decoder(root, model);
    add_attention(root, model);
    if (model.experts.num_experts > 0) add_experts(root, model);
  }
  return root.dump(2) + "\n";
}

std::vector<std::string> keys_without_hf_form(const Config& config) {
  const ExpertsConfig& experts = config.model.experts;
  std::vector<std::string> keys;
  if (experts.num_experts == 0) return keys;
  // `switch` weighs its one expert by the plain softmax score.
  const bool plain = experts.scoring == RouterScoring::softmax && !experts.normalize && experts.scaling == 1.0;
  const bool own_choice =
      config.moe.router == MoeRouter::topk || (config.moe.router == MoeRouter::switch_top1 && plain);
  if (!own_choice) keys.push_back("moe.router: " + to_string(config.moe.router));
  if (experts.score_bias && config.model.family != ModelFamily::deepseek_v3) keys.push_back("moe.balance: bias");
  if (experts.num_zero > 0) keys.push_back("moe.zero_experts");
  if (experts.num_copy > 0) keys.push_back("moe.copy_experts");
  if (experts.num_constant > 0) keys.push_back("moe.constant_experts");
  if (experts.gating_residual) keys.push_back("moe.gating_residual");
  return keys;
}

std::string hf_generation_config_json(const HfConfigWords& words) {
  json root = {{"_from_model_config", true}};
  if (words.end_of_document) root["eos_token_id"] = *words.end_of_document;
  return root.dump(2) + "\n";
}

}  // namespace trireme
