// Every file of configs/: it is read, its plan resolves on one and two ranks, and it says what its page says.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "core/config/load.h"
#include "models/transformer.h"
#include "parallel/resolve.h"

namespace trireme {
namespace {

namespace fs = std::filesystem;

const fs::path kConfigs = fs::path(TRIREME_SOURCE_DIR) / "configs";

TEST(Configs, EachResolvesOnOneAndTwoRanks) {
  std::ifstream page(kConfigs / "README.md");
  std::ostringstream text;
  text << page.rdbuf();
  int num_files = 0;
  for (const fs::directory_entry& entry : fs::directory_iterator(kConfigs)) {
    if (entry.path().extension() != ".yaml") continue;
    ++num_files;
    const std::string name = entry.path().filename().string();
    SCOPED_TRACE(name);
    const Config config = load_config(entry.path().string(), {});
    for (const int64_t ranks : {1, 2}) {
      const Mesh mesh = resolve_mesh(config.parallel, ranks, 0);
      EXPECT_GE(resolve_microbatches(config.batch.global, config.batch.micro, mesh.data_degree()), 1);
    }
    EXPECT_GT(count_parameters(config.model), 0);
    EXPECT_NE(text.str().find("`" + name + "`"), std::string::npos) << "configs/README.md has no row of it";
  }
  EXPECT_GE(num_files, 1);
}

TEST(Configs, QuickstartIsTheModelOfItsPage) {
  const Config config = load_config((kConfigs / "quickstart.yaml").string(), {});
  EXPECT_EQ(count_parameters(config.model), 1820352);
  EXPECT_EQ(config.run.steps, 600);
  EXPECT_EQ(config.run.dir, "runs/kjv");
}

// Sizes and FLOPs of the models that the benchmarks time: the parameter counts of the published checkpoints, and 6 FLOPs
// a weight that a token meets, causal attention counted half, by hand.
struct KnownModel {
  const char* file;
  int64_t parameters;
  double gigaflops_per_token;  // at 1,024 tokens
};

class KnownModels : public testing::TestWithParam<KnownModel> {};

TEST_P(KnownModels, AreTheModelsOfTheirNames) {
  const KnownModel& known = GetParam();
  const Config config = load_config((kConfigs / known.file).string(), {});
  EXPECT_EQ(count_parameters(config.model), known.parameters);
  EXPECT_EQ(config.data.sequence_length, 1024);
  EXPECT_EQ(config.batch.global * config.data.sequence_length, 524288);
  EXPECT_NEAR(model_flops_per_token(config.model, 1024) * 1e-9, known.gigaflops_per_token, 0.005);
}

INSTANTIATE_TEST_SUITE_P(Configs, KnownModels,
                         testing::Values(KnownModel{"gpt2-124m.yaml", 124439808, 0.798},
                                         KnownModel{"qwen2.5-0.5b.yaml", 494032768, 3.096},
                                         KnownModel{"qwen2.5-1.5b.yaml", 1543714304, 9.525},
                                         KnownModel{"qwen2.5-3b.yaml", 3085938688, 18.967},
                                         KnownModel{"qwen2.5-7b.yaml", 7615616512, 43.038}),
                         [](const auto& test) { return "Model" + std::to_string(test.index); });

}  // namespace
}  // namespace trireme
