#include "core/config/hf_config_writer.h"

#include <nlohmann/json.hpp>

namespace trireme {

namespace {

using nlohmann::json;

json id_or_null(const std::optional<int64_t>& id) { return id ? json(*id) : json(nullptr); }

void add_gpt2(json& root, const ModelConfig& m) {
  root["architectures"] = {"GPT2LMHeadModel"};
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
    scaling["original_max_position_embeddings"] = rope.original_max_position_embeddings;
  }
  root["rope_theta"] = rope.theta;
  root["rope_scaling"] = rope.type == RopeType::standard ? json(nullptr) : scaling;
  root["rope_parameters"] = scaling;
  root["rope_parameters"]["rope_theta"] = rope.theta;
}

void add_decoder(json& root, const ModelConfig& m) {
  const bool llama = m.family == ModelFamily::llama;
  root["architectures"] = {llama                            ? "LlamaForCausalLM"
                           : m.family == ModelFamily::qwen2 ? "Qwen2ForCausalLM"
                                                            : "Qwen3ForCausalLM"};
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
  if (m.family != ModelFamily::qwen2) root["attention_bias"] = false;
  if (llama) {
    root["mlp_bias"] = false;
  } else {
    root["use_sliding_window"] = false;
    root["sliding_window"] = nullptr;
    root["max_window_layers"] = m.num_layers;
  }
}

}  // namespace

std::string hf_config_json(const ModelConfig& model, const HfConfigWords& words) {
  json root;
  root["model_type"] = to_string(model.family);
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
  }
  return root.dump(2) + "\n";
}

std::string hf_generation_config_json(const HfConfigWords& words) {
  json root = {{"_from_model_config", true}};
  if (words.end_of_document) root["eos_token_id"] = *words.end_of_document;
  return root.dump(2) + "\n";
}

}  // namespace trireme
