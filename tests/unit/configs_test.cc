// Every file of configs/: it is read, its plan resolves on one and two ranks, and it says what its page says.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "core/config/load.h"
#include "launcher/memory_plan.h"
#include "launcher/shrink.h"
#include "models/transformer.h"
#include "parallel/resolve.h"

namespace trireme {
namespace {

namespace fs = std::filesystem;

const fs::path kConfigs = fs::path(TRIREME_SOURCE_DIR) / "configs";

// What "# GPUs: 512 of 80 GB, 8 in a machine" says; of a file without it, one and two ranks of one machine.
struct Ranks {
  std::vector<int64_t> worlds = {1, 2};
  int64_t per_machine = 2;
};

Ranks ranks_of(const fs::path& path) {
  std::ifstream file(path);
  const std::string key = "# GPUs: ";
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with(key)) continue;
    Ranks ranks{.worlds = {std::stoll(line.substr(key.size()))}};
    ranks.per_machine = std::stoll(line.substr(line.find(", ") + 2));
    return ranks;
  }
  return {};
}

TEST(Configs, EachResolvesOnItsRanks) {
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
    const Ranks ranks = ranks_of(entry.path());
    for (const int64_t world : ranks.worlds) {
      for (const int64_t rank : {int64_t{0}, world - 1}) {
        const Mesh mesh = resolve(config, world, rank, ranks.per_machine);
        EXPECT_GE(resolve_microbatches(config.batch.global, config.batch.micro, mesh.data_degree()), 1);
        if (config.batch.ramp) {
          resolve_microbatches(config.batch.ramp->start, config.batch.micro, mesh.data_degree());
          resolve_microbatches(config.batch.ramp->increment, config.batch.micro, mesh.data_degree());
        }
        EXPECT_LE(mesh.degree(Axis::tensor), ranks.per_machine) << "tensor ranks of several machines";
      }
    }
    EXPECT_LE(num_ranks(shrink(config).parallel), kMaxShrunkenRanks);
    EXPECT_GT(count_parameters(config.model), 0);
    EXPECT_NE(text.str().find("`" + name + "`"), std::string::npos) << "configs/README.md has no row of it";
  }
  EXPECT_GE(num_files, 15);
}

// The parameter counts of the published checkpoints (GPT-3: by hand, the paper says 175.0B), tokens of a step in millions,
// microbatches of a step, chunks of the model.
struct KnownLayout {
  const char* file;
  int64_t gpus;
  int64_t parameters;
  double million_tokens;
  int64_t microbatches;
  size_t chunks;
};

class KnownLayouts : public ::testing::TestWithParam<KnownLayout> {};

TEST_P(KnownLayouts, AreWhatTheirHeadsSay) {
  const KnownLayout& known = GetParam();
  const Config config = load_config((kConfigs / known.file).string(), {});
  EXPECT_EQ(ranks_of(kConfigs / known.file).worlds, std::vector<int64_t>{known.gpus});
  EXPECT_EQ(count_parameters(config.model), known.parameters);
  const int64_t tokens = config.batch.global * config.data.sequence_length;
  EXPECT_NEAR(static_cast<double>(tokens) * 1e-6, known.million_tokens, 0.05);
  const Mesh mesh = resolve(config, known.gpus, known.gpus - 1, 8);
  EXPECT_EQ(resolve_microbatches(config.batch.global, config.batch.micro, mesh.data_degree()), known.microbatches);
  EXPECT_EQ(resolve_stages(config).size(), known.chunks);
  // Of 80 GB; the rest is what ZeRO gathers, libraries and what communicates take.
  EXPECT_LT(fullest(plan_memory(config, mesh, Device{DeviceType::cuda, 0})).total(), int64_t{75'000'000'000});
}

INSTANTIATE_TEST_SUITE_P(Configs, KnownLayouts,
                         ::testing::Values(KnownLayout{"llama3-8b.yaml", 128, 8030261248, 4.2, 4, 1},
                                           KnownLayout{"llama3-70b.yaml", 512, 70553706496, 4.2, 32, 20},
                                           KnownLayout{"llama3-405b.yaml", 8192, 405853388800, 16.8, 32, 128},
                                           KnownLayout{"qwen2.5-7b-64gpu.yaml", 64, 7615616512, 4.2, 8, 1},
                                           KnownLayout{"gpt3-175b.yaml", 1024, 174604259328, 3.1, 96, 24},
                                           KnownLayout{"mixtral-8x7b.yaml", 128, 46702792704, 4.2, 16, 16},
                                           KnownLayout{"qwen3-30b-a3b.yaml", 64, 30532122624, 4.2, 16, 1},
                                           // Published without tables of its own: 671026404352; and the module.
                                           KnownLayout{"deepseek-v3-like.yaml", 2048, 682636472320, 62.9, 120, 16}),
                         [](const auto& test) { return "Layout" + std::to_string(test.index); });

TEST(Configs, QuickstartIsTheModelOfItsPage) {
  const Config config = load_config((kConfigs / "quickstart.yaml").string(), {});
  EXPECT_EQ(count_parameters(config.model), 1820352);
  EXPECT_EQ(config.run.steps, 600);
  EXPECT_EQ(config.run.dir, "runs/kjv");
}

TEST(Configs, ExpertsOfTheQuickstartComputeAsMuchAsItsDenseModel) {
  // As the comparison in the head of quickstart-moe.yaml trains it.
  const Config dense = load_config((kConfigs / "quickstart.yaml").string(), {"run.steps=1200", "optimizer.lr=2.5e-3"});
  const Config config = load_config((kConfigs / "quickstart-moe.yaml").string(), {});
  EXPECT_EQ(count_parameters(config.model), 5365440);
  const int64_t routers = config.model.num_layers * config.model.hidden_size * config.model.experts.num_experts;
  EXPECT_EQ(count_active_parameters(config.model), count_parameters(dense.model) + routers);
  EXPECT_DOUBLE_EQ(model_flops_per_token(config.model, 256),
                   model_flops_per_token(dense.model, 256) + 6.0 * static_cast<double>(routers));
  EXPECT_EQ(config.model.rope, dense.model.rope);
  EXPECT_EQ(config.model.norm_eps, dense.model.norm_eps);
  EXPECT_EQ(config.optimizer, dense.optimizer);
  EXPECT_EQ(config.batch, dense.batch);
  EXPECT_EQ(config.data, dense.data);
  EXPECT_EQ(config.run.steps, dense.run.steps);
}

// Sizes and FLOPs of the models that the benchmarks time: the parameter counts of the published checkpoints, and 6 FLOPs
// a weight that a token meets, causal attention counted half, by hand.
struct KnownModel {
  const char* file;
  int64_t parameters;
  double gigaflops_per_token;  // at 1,024 tokens
};

class KnownModels : public ::testing::TestWithParam<KnownModel> {};

TEST_P(KnownModels, AreTheModelsOfTheirNames) {
  const KnownModel& known = GetParam();
  const Config config = load_config((kConfigs / known.file).string(), {});
  EXPECT_EQ(count_parameters(config.model), known.parameters);
  EXPECT_EQ(config.data.sequence_length, 1024);
  EXPECT_EQ(config.batch.global * config.data.sequence_length, 524288);
  EXPECT_NEAR(model_flops_per_token(config.model, 1024) * 1e-9, known.gigaflops_per_token, 0.005);
}

INSTANTIATE_TEST_SUITE_P(Configs, KnownModels,
                         ::testing::Values(KnownModel{"gpt2-124m.yaml", 124439808, 0.798},
                                           KnownModel{"qwen2.5-0.5b.yaml", 494032768, 3.096},
                                           KnownModel{"qwen2.5-1.5b.yaml", 1543714304, 9.525},
                                           KnownModel{"qwen2.5-3b.yaml", 3085938688, 18.967},
                                           KnownModel{"qwen2.5-7b.yaml", 7615616512, 43.038}),
                         [](const auto& test) { return "Model" + std::to_string(test.index); });

}  // namespace
}  // namespace trireme
