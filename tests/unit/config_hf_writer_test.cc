// config.json as it is exported: the model comes back, and the keys are those of files that transformers wrote.
#include "core/config/hf_config_writer.h"

#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>

#include "core/config/load.h"
#include "tests/unit/data_testing.h"
#include "tests/unit/hugging_face_testing.h"

namespace fs = std::filesystem;
using nlohmann::json;

namespace trireme {
namespace {

using testing::read_file;
using testing::TempDir;
using testing::write_file;

ModelConfig reread(const ModelConfig& model, const TempDir& dir) {
  write_file(dir / "config.json", hf_config_json(model, {}));
  return load_hf_model(dir.path());
}

TEST(HfConfigWriter, EveryModelComesBack) {
  const TempDir dir;
  for (const auto& [name, model] : testing::hugging_face_models()) EXPECT_EQ(reread(model, dir), model) << name;
}

// Keys of those files that say nothing about the mathematics, or depend on the run that wrote them.
bool is_incidental(const std::string& key) {
  static const std::vector<std::string> kKeys = {"transformers_version", "use_cache",         "bos_token_id",
                                                 "eos_token_id",         "max_window_layers", "layer_types",
                                                 "add_cross_attention",  "pretraining_tp",    "router_aux_loss_coef"};
  return key.starts_with("summary_") || std::find(kKeys.begin(), kKeys.end(), key) != kKeys.end();
}

TEST(HfConfigWriter, AgreesWithTheFilesOfTransformers) {
  const TempDir dir;
  int files = 0;
  for (const auto& entry : fs::directory_iterator(std::string(TRIREME_SOURCE_DIR) + "/tests/oracle/golden")) {
    const fs::path file = entry.path() / "config.json";
    const std::string name = entry.path().filename().string();
    const bool of_ours = name.starts_with("moe_plusplus") || name.find("_predict") != std::string::npos;
    if (!fs::exists(file) || of_ours) continue;  // models that transformers doesn't have
    ++files;
    const ModelConfig model = load_hf_model(entry.path().string());
    EXPECT_EQ(reread(model, dir), model) << file;
    const json theirs = json::parse(read_file(file.string()));
    const json ours = json::parse(read_file(dir / "config.json"));
    const bool old_rotary = !theirs.contains("rope_parameters");
    for (const auto& [key, value] : theirs.items()) {
      if (is_incidental(key)) continue;
      if (key == "head_dim" && value.is_null()) continue;   // what follows from other keys
      if (key == "sliding_window" && value == 0) continue;  // transformers' null where use_sliding_window is false
      if (key == "num_local_experts" && model.family == ModelFamily::qwen3_moe) {
        EXPECT_EQ(ours["num_experts"], value) << file;  // the name of published files, which both versions read
        continue;
      }
      if (key == "rope_scaling" && old_rotary) {  // {"type": …, "factor": …}; the newer name is rope_type
        for (const auto& [inner, number] : value.items()) {
          EXPECT_EQ(ours[key].value(inner == "type" ? "rope_type" : inner, json("missing")), number) << file << inner;
        }
        continue;
      }
      EXPECT_EQ(ours.value(key, json("missing")), value) << file << " " << key;
    }
  }
  EXPECT_GE(files, 14);
}

// transformers doesn't read these keys of DeepSeek's published files; their own code does.
TEST(HfConfigWriter, DeepSeekSaysWhatItsOwnCodeReads) {
  const json three = json::parse(hf_config_json(testing::hugging_face_model("deepseek_v3").config, {}));
  EXPECT_EQ(three["scoring_func"], "sigmoid");
  EXPECT_EQ(three["topk_method"], "noaux_tc");
  EXPECT_EQ(three["moe_layer_freq"], 1);
  EXPECT_EQ(three["n_shared_experts"], 2);
  const json two = json::parse(hf_config_json(testing::hugging_face_model("deepseek_v2").config, {}));
  EXPECT_EQ(two["scoring_func"], "softmax");
  EXPECT_EQ(two["topk_method"], "greedy");
  EXPECT_TRUE(two["q_lora_rank"].is_null());
}

TEST(HfConfigWriter, BothFormsOfRotarySettingsSayTheSame) {
  const json llama3 = json::parse(hf_config_json(testing::hugging_face_model("llama_llama3").config, {}));
  EXPECT_EQ(llama3["rope_theta"], 1e4);
  EXPECT_EQ(llama3["rope_scaling"], json::parse(R"({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
      "high_freq_factor": 4.0, "original_max_position_embeddings": 32})"));
  json newer = llama3["rope_parameters"];
  EXPECT_EQ(newer["rope_theta"], 1e4);
  newer.erase("rope_theta");
  EXPECT_EQ(newer, llama3["rope_scaling"]);
  const json plain = json::parse(hf_config_json(testing::hugging_face_model("qwen3").config, {}));
  EXPECT_TRUE(plain["rope_scaling"].is_null());
  EXPECT_EQ(plain["rope_parameters"], json::parse(R"({"rope_type": "default", "rope_theta": 500000.0})"));
}

TEST(HfConfigWriter, SaysWhatNoFileCanSay) {
  const auto of = [](const std::string& model, const std::function<void(MoeConfig&, ExpertsConfig&)>& change) {
    Config config;
    config.model = testing::hugging_face_model(model).config;
    change(config.moe, config.model.experts);
    return keys_without_hf_form(config);
  };
  const auto nothing = [](MoeConfig&, ExpertsConfig&) {};
  for (const char* model : {"llama", "mixtral", "qwen2_moe", "qwen3_moe", "deepseek_v2", "deepseek_v3"}) {
    EXPECT_EQ(of(model, nothing), std::vector<std::string>{}) << model;
  }
  const auto everything = [](MoeConfig& moe, ExpertsConfig& experts) {
    moe.router = MoeRouter::hash;
    experts.score_bias = experts.gating_residual = true;
    experts.num_zero = experts.num_copy = experts.num_constant = 1;
  };
  EXPECT_EQ(of("qwen3_moe", everything),
            (std::vector<std::string>{"moe.router: hash", "moe.balance: bias", "moe.zero_experts", "moe.copy_experts",
                                      "moe.constant_experts", "moe.gating_residual"}));
  const auto one = [](MoeConfig& moe, ExpertsConfig& experts) {
    moe.router = MoeRouter::switch_top1;
    experts.top_k = 1;
  };
  EXPECT_EQ(of("mixtral", one), std::vector<std::string>{"moe.router: switch"});  // Mixtral's weight of one expert is 1
  EXPECT_EQ(of("qwen2_moe", one), std::vector<std::string>{});
}

TEST(HfConfigWriter, WordsOfTheFilesAreWritten) {
  const ModelConfig model = testing::hugging_face_model("gpt2").config;
  const json config = json::parse(hf_config_json(model, {.dtype = "bfloat16", .end_of_document = 7}));
  EXPECT_EQ(config["dtype"], "bfloat16");
  EXPECT_EQ(config["torch_dtype"], "bfloat16");
  EXPECT_EQ(config["eos_token_id"], 7);
  EXPECT_TRUE(json::parse(hf_config_json(model, {}))["eos_token_id"].is_null());
  EXPECT_EQ(json::parse(hf_generation_config_json({.end_of_document = 7}))["eos_token_id"], 7);
  EXPECT_FALSE(json::parse(hf_generation_config_json({})).contains("eos_token_id"));
}

}  // namespace
}  // namespace trireme
