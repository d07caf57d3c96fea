// The configuration of a probe: what keeps experts even is off unless it is asked for.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <vector>

#include "core/formats/safetensors.h"
#include "launcher/probe.h"

namespace trireme {
namespace {

namespace fs = std::filesystem;

class ProbeConfig : public ::testing::Test {
 protected:
  ProbeConfig() : folder_(fs::path(::testing::TempDir()) / ("probe_config_test-" + std::to_string(::getpid()))) {
    fs::create_directories(folder_);
    std::ofstream(folder_ / "config.json")
        << R"({"model_type": "mixtral", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
               "num_key_value_heads": 2, "intermediate_size": 16, "num_local_experts": 4, "num_experts_per_tok": 2,
               "vocab_size": 16, "max_position_embeddings": 8, "rms_norm_eps": 1e-5})";
    options_.hf_dir = folder_.string();
    options_.tokens = (folder_ / "tokens.safetensors").string();
    SafetensorsWriter writer(options_.tokens, {{"input_ids", FileDType::i64, {1, 2, 4}}});
    writer.write_values<int64_t>("input_ids", std::vector<int64_t>(8, 0));
    writer.finish();
  }
  ~ProbeConfig() override { fs::remove_all(folder_); }

  MoeConfig moe(const std::vector<std::string>& sets) const { return probe_config(options_, sets).moe; }

  fs::path folder_;
  ProbeOptions options_;
};

TEST_F(ProbeConfig, ExpertsAreLeftAloneUnlessAskedFor) {
  const MoeConfig plain = moe({"optimizer.lr=1e-3"});
  EXPECT_EQ(plain.balance, MoeBalance::none);
  EXPECT_EQ(plain.z_loss_coef, 0);
  EXPECT_FALSE(plain.capacity_factor);
  const MoeConfig by_key = moe({"moe.balance=aux", "moe.z_loss_coef=0.001", "moe.capacity_factor=2"});
  const MoeConfig by_map = moe({"moe={balance: aux, z_loss_coef: 0.001, capacity_factor: 2}"});
  for (const MoeConfig& asked : {by_key, by_map}) {
    EXPECT_EQ(asked.balance, MoeBalance::aux);
    EXPECT_EQ(asked.z_loss_coef, 0.001);
    EXPECT_EQ(asked.capacity_factor, 2);
  }
  EXPECT_EQ(moe({"moe={z_loss_coef: 0.001}"}).balance, MoeBalance::none);
}

}  // namespace
}  // namespace trireme
