// Whole training runs in layouts: stopped and resumed, continued in another layout, and read by `generate`. On the GPUs of a
// machine that has eight.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "launcher/generate.h"
#include "launcher/shrink.h"
#include "tests/run_devices.h"
#include "tests/training_runs.h"

namespace trireme {
namespace {

struct Layout {
  std::string name;
  std::vector<std::string> sets;
};

const std::vector<Layout>& layouts() {
  static const std::vector<Layout> list = {
      {"one", {"parallel={data: 1}"}},
      {"tensor2_zb_v2_zero3",
       {"parallel={data: 2, tensor: 2, sequence: true, pipeline: 2, schedule: zb_v, zero: 3}",
        "recompute.mode=selective"}},
      {"tensor2_interleaved2_zero2",
       {"parallel={data: 2, tensor: 2, pipeline: 2, schedule: interleaved, virtual_stages: 2, zero: 2}"}},
      {"pipeline2_groups_zero1", {"parallel={data: 4, pipeline: 2, schedule: 1f1b, zero: 1, zero_group: 2}"}},
  };
  return list;
}

bool on_gpu() { return run_device_name() != "cpu"; }

class LayoutRuns : public testing::TrainingRuns {
 protected:
  // In a layout, a tied model of four layers.
  auto run_in(const Layout& layout, const std::string& name, int64_t steps, std::vector<std::string> sets) {
    sets.insert(sets.begin(), layout.sets.begin(), layout.sets.end());
    sets.insert(sets.begin(), {"model.num_attention_heads=4", "model.num_key_value_heads=2", "model.head_dim=6",
                               "model.num_hidden_layers=4", "model.tie_word_embeddings=true", "batch.micro=1"});
    const Config config = parse_config(testing::tiny_yaml(dir_, steps), "test", sets);
    return run(name, steps, static_cast<int>(num_ranks(config.parallel)), sets);
  }

  std::string checkpoint(const std::string& name, int64_t step) const {
    return dir_ / name + "/checkpoints/step-0000000" + std::to_string(step);
  }

  std::string text_of(const std::string& path) {
    CpuAllocator allocator;
    ThreadPool pool(1);
    CpuStream stream(allocator, pool);
    std::string text;
    generate(stream, {.path = path, .prompt = "!#%", .max_tokens = 8, .temperature = 0},
             [&](const std::string& piece) { text += piece; });
    return text;
  }
};

class LayoutCheckpoints : public LayoutRuns, public ::testing::WithParamInterface<Layout> {};

TEST_P(LayoutCheckpoints, ResumingEqualsNeverHavingStopped) {
  for (const std::string precision : {"precision.compute=fp32", "precision={compute: bf16, master: none}"}) {
    const std::string whole = "whole " + precision.substr(precision.size() - 5);
    const std::string parts = "parts" + whole;
    const auto never_stopped = run_in(GetParam(), whole, 5, {precision});
    run_in(GetParam(), parts, 5, {precision, "checkpoint.every=3"});
    std::filesystem::remove_all(checkpoint(parts, 5));
    EXPECT_EQ(run_in(GetParam(), parts, 5, {precision}), never_stopped);
    const auto a = metrics(whole);
    const auto b = metrics(parts);
    ASSERT_EQ(a.size(), 5u);
    ASSERT_EQ(b.size(), 5u);
    for (size_t i = 0; i < a.size(); ++i) {
      for (const char* key : {"loss", "grad_norm"}) EXPECT_EQ(a[i][key], b[i][key]) << "step " << i + 1;
    }
  }
}

TEST_P(LayoutCheckpoints, AnotherLayoutContinues) {
  run_in(GetParam(), "whole", 6, {"checkpoint.every=3", "run.eval_every=3"});
  const auto whole = metrics("whole");
  ASSERT_EQ(whole.size(), 6u);
  for (const Layout& other : layouts()) {
    if (other.name == GetParam().name || (on_gpu() && other.name != layouts()[1].name)) continue;
    run_in(other, other.name, 6, {"checkpoint.resume=" + checkpoint("whole", 3), "run.eval_every=3"});
    const auto rest = metrics(other.name);
    ASSERT_EQ(rest.size(), 3u) << other.name;
    for (size_t i = 0; i < rest.size(); ++i) {
      const double loss = whole[i + 3]["loss"].get<double>();
      EXPECT_NEAR(rest[i]["loss"].get<double>(), loss, 1e-5 * loss) << other.name << ", step " << i + 4;
    }
    const double valid = whole.back()["valid_loss"].get<double>();
    EXPECT_NEAR(rest.back()["valid_loss"].get<double>(), valid, 1e-5 * valid) << other.name;
  }
}

TEST_P(LayoutCheckpoints, GenerateReadsThem) {
  run_in(GetParam(), "run", 2, {});
  run_in(layouts().front(), "alone", 2, {});
  const std::string text = text_of(dir_ / "run");
  EXPECT_FALSE(text.empty());
  EXPECT_EQ(text, text_of(dir_ / "alone"));
}

// A pipeline has the bits of one stage, in whole runs as well.
TEST_F(LayoutRuns, PipelinesWriteTheCheckpointOfOneStage) {
  if (most_ranks(8) < 8) GTEST_SKIP() << "needs eight GPUs, and this machine has fewer";
  const auto plain = run_in({"", {"parallel={data: 2, tensor: 2, zero: 2}"}}, "plain", 3, {});
  EXPECT_EQ(run_in({"", {"parallel={data: 2, tensor: 2, zero: 2, pipeline: 2, schedule: zb_h1}"}}, "cut", 3, {}),
            plain);
}

std::vector<Layout> several() {
  if (most_ranks(8) < 8) return {};
  return {layouts().begin() + 1, on_gpu() ? layouts().begin() + 2 : layouts().end()};
}
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(LayoutCheckpoints);  // on a machine with fewer GPUs
INSTANTIATE_TEST_SUITE_P(Layouts, LayoutCheckpoints, ::testing::ValuesIn(several()),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace trireme
