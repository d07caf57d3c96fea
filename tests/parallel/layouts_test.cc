// Random layouts against one rank: loss, gradient norm, every gradient and every weight after two steps, and that the
// configured mechanism ran. layouts_draw.h says how they are drawn.
//
//   TRIREME_LAYOUT_SEED, TRIREME_LAYOUT_COUNT: other draws, more of them
#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <map>
#include <set>

#include "core/config/load.h"
#include "launcher/shrink.h"
#include "launcher/verify.h"
#include "tests/parallel/layouts_draw.h"
#include "tests/parallel/layouts_mechanism.h"

namespace trireme::layouts {
namespace {

constexpr uint64_t kSeed = 20260731;
#ifdef TRIREME_SANITIZED
constexpr int kCount = 4;
#else
constexpr int kCount = kBlock;
#endif
constexpr int kFullCount = 500;  // with TRIREME_TEST_ALL

const std::vector<Draw>& draws() {
  static const std::vector<Draw> list = draw_layouts(seed_of_draws(kSeed), num_draws(kCount, kFullCount));
  return list;
}

class Layouts : public ::testing::TestWithParam<int> {};

TEST_P(Layouts, TrainAsOneRankDoes) {
  const Draw& draw = draws()[static_cast<size_t>(GetParam())];
  const Config config = config_of(draw);
  const VerifyReport report = verify(config);
  EXPECT_TRUE(report.passed()) << report.str();
  RecordProperty(report.exact ? "worst_gradient" : "worst_bf16_gradient",
                 std::to_string(report.layout.worst_gradient() / report.allowed()));
  if (report.exact) RecordProperty("worst_weight", std::to_string(report.layout.worst_weight() / report.allowed()));
  for (const std::string& finding : check_mechanism(config, report.ranks)) ADD_FAILURE() << finding;
  if (HasFailure()) std::printf("to run it again:\n%s\n", draw.command().c_str());
}

INSTANTIATE_TEST_SUITE_P(Draw, Layouts, ::testing::Range(0, static_cast<int>(draws().size())),
                         [](const auto& test) { return std::to_string(test.param); });

// ---- The layouts of configs/, shrunken ----

std::vector<std::string> config_files() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(std::string(TRIREME_SOURCE_DIR) + "/configs")) {
    if (entry.path().extension() == ".yaml") names.push_back(entry.path().stem().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

class ConfigLayouts : public ::testing::TestWithParam<std::string> {};

// In fp32, where the comparison is sharpest.
TEST_P(ConfigLayouts, TrainAsOneRankDoes) {
  Config config = load_config(std::string(TRIREME_SOURCE_DIR) + "/configs/" + GetParam() + ".yaml");
  config.precision = {.compute = ComputeType::fp32};
  config.run.device = DeviceChoice::cpu;
  const VerifyReport report = verify(shrink(config));
  EXPECT_TRUE(report.exact);
  EXPECT_TRUE(report.passed()) << report.str();
}

INSTANTIATE_TEST_SUITE_P(Files, ConfigLayouts, ::testing::ValuesIn(config_files()), [](const auto& test) {
  std::string name = test.param;
  std::replace_if(
      name.begin(), name.end(), [](char c) { return !std::isalnum(static_cast<unsigned char>(c)); }, '_');
  return name;
});

// ---- What the draws cover, worked out from the configurations ----

class Coverage : public ::testing::Test {
 protected:
  Coverage() {
    for (const Draw& draw : draw_layouts(kSeed, kBlock)) {
      configs_.push_back(config_of(draw));
      levels_.push_back(levels_of(configs_.back()));
      EXPECT_EQ(levels_.back(), draw.levels) << draw.command();
    }
  }

  template <class Predicate>
  int64_t count(Predicate&& predicate) const {
    return std::count_if(configs_.begin(), configs_.end(), predicate);
  }

  std::vector<Config> configs_;
  std::vector<Levels> levels_;
};

TEST_F(Coverage, EachLegalPairOfValuesThreeTimes) {
  for (int f = 0; f < kNumFeatures; ++f) {
    for (int g = f + 1; g < kNumFeatures; ++g) {
      std::map<std::pair<int, int>, int> seen;
      for (const Levels& l : levels_) ++seen[{l[static_cast<size_t>(f)], l[static_cast<size_t>(g)]}];
      for (int a = 0; a < kLevels[static_cast<size_t>(f)]; ++a) {
        for (int b = 0; b < kLevels[static_cast<size_t>(g)]; ++b) {
          const int times = seen[{a, b}];
          const bool legal = legal_pair(f, a, g, b);
          EXPECT_TRUE(legal ? times >= kPairs : times == 0)
              << feature_name(f) << " " << a << " with " << feature_name(g) << " " << b << ": " << times << " times";
        }
      }
    }
  }
}

TEST_F(Coverage, ManyAxesManyRanksAndTiedPipelines) {
  EXPECT_GE(
      count([](const Config& c) { return *c.parallel.data > 1 && c.parallel.tensor > 1 && c.parallel.pipeline > 1; }),
      kThreeAxes);
  EXPECT_GE(count([](const Config& c) { return num_ranks(c.parallel) == kMaxRanks; }), kFullRanks);
  EXPECT_GE(
      count([](const Config& c) { return c.model.tie_embeddings && c.parallel.pipeline > 1 && c.parallel.zero >= 2; }),
      kTiedPipelineZero);
  EXPECT_GE(count([](const Config& c) { return c.precision.compute == ComputeType::fp32; }), kExact);
  EXPECT_GE(count([](const Config& c) { return c.optimizer.clip_grad_norm > 0; }), kBlock / 3);
}

TEST_F(Coverage, ADrawIsAFunctionOfSeedAndNumber) {
  const std::vector<Draw> more = draw_layouts(kSeed, kBlock + 1);
  const std::vector<Draw> others = draw_layouts(kSeed + 1, 3);
  std::set<std::vector<std::string>> different;
  for (size_t i = 0; i < more.size(); ++i) {
    different.insert(more[i].sets);
    if (i < configs_.size()) {
      EXPECT_EQ(config_of(more[i]), configs_[i]);
    }
  }
  for (const Draw& draw : others) different.insert(draw.sets);
  EXPECT_EQ(different.size(), more.size() + others.size());
}

}  // namespace
}  // namespace trireme::layouts
