// Modules of multi-token prediction in what golden files can't show: their routers' selection biases take part in balancing,
// on the stage where the modules are; and λ weighs what they learn, but not what is reported.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>

#include "core/formats/safetensors.h"
#include "tests/oracle/golden.h"
#include "tests/run_devices.h"
#include "tests/thread_ranks.h"

namespace fs = std::filesystem;

namespace trireme {
namespace {

const std::string kCase = "deepseek_v3_predict_experts";

std::vector<double> values_of(const std::string& path, const std::string& name) {
  const SafetensorsReader reader(path);
  std::vector<double> values(static_cast<size_t>(reader.spec(name).numel()));
  reader.read(name, 0, std::span<double>(values));
  return values;
}

class Prediction : public ::testing::Test {
 protected:
  // Runs one step; the file of its probe.
  std::string run(int ranks, std::vector<std::string> sets, MoeBalance balance = MoeBalance::none) {
    files_.push_back((fs::path(::testing::TempDir()) / ("prediction-" + std::to_string(files_.size()) + "-" +
                                                        std::to_string(::getpid()) + ".safetensors"))
                         .string());
    sets.push_back("run.threads=1");
    golden::Run run = golden::make_run(kCase, files_.back(), sets);
    model_dir_ = run.options.hf_dir;
    run.options.steps = 1;
    run.config.moe.balance = balance;
    run_rank_contexts(run.config, ranks, [&](RankContext& rank) { probe(rank, run.config, run.options); });
    return files_.back();
  }
  ~Prediction() override {
    for (const std::string& file : files_) fs::remove(file);
  }

  std::string model_dir_;

 private:
  std::vector<std::string> files_;
};

TEST_F(Prediction, BiasesOfTheModulesRoutersMoveOnEveryStage) {
  const std::string rate = "moe.bias_update_rate=0.125";
  const std::string one = run(1, {rate}, MoeBalance::bias);
  const std::vector<std::string> pipeline = {rate, "parallel={pipeline: 2, schedule: 1f1b}", "batch.micro=1"};
  const std::string two = most_ranks(2) == 2 ? run(2, pipeline, MoeBalance::bias) : one;
  for (const int layer : {1, 2, 3}) {  // 2 and 3 are modules
    const std::string name = "model.layers." + std::to_string(layer) + ".mlp.gate.e_score_correction_bias";
    const std::vector<double> before = values_of(model_dir_ + "/model.safetensors", name);
    const std::vector<double> after = values_of(one, "weight." + name);
    double moved = 0;
    for (size_t e = 0; e < before.size(); ++e) {
      const double step = std::abs(after[e] - before[e]);
      EXPECT_TRUE(step == 0 || std::abs(step - 0.125) < 1e-6) << name << ", " << step;
      moved += step;
    }
    EXPECT_GT(moved, 0) << name;
    EXPECT_EQ(after, values_of(two, "weight." + name)) << name;
  }
}

TEST_F(Prediction, WeightOfTheLossScalesWhatModulesLearn) {
  const std::string gradient = "grad.model.layers.3.eh_proj.weight";  // of the last module, which no other loss reaches
  const std::string whole_path = run(1, {"moe.prediction_coef=0.5"});
  const std::string half_path = run(1, {"moe.prediction_coef=0.25"});
  const std::string none_path = run(1, {"moe.prediction_coef=0"});
  const std::vector<double> whole = values_of(whole_path, gradient);
  const std::vector<double> half = values_of(half_path, gradient);
  const std::vector<double> none = values_of(none_path, gradient);
  double sum = 0;
  for (size_t i = 0; i < whole.size(); ++i) {
    EXPECT_NEAR(whole[i], 2 * half[i], 1e-6 * std::abs(whole[i]));
    EXPECT_EQ(none[i], 0);
    sum += std::abs(whole[i]);
  }
  EXPECT_GT(sum, 0);
  // The reported losses don't depend on it.
  EXPECT_EQ(values_of(whole_path, "loss"), values_of(none_path, "loss"));
  EXPECT_EQ(values_of(whole_path, "prediction_loss"), values_of(none_path, "prediction_loss"));
}

}  // namespace
}  // namespace trireme
