// Training in each of the precisions that can be chosen: what the choice stores, that a stopped run continues with the
// same bits, and how far the losses may be from those of a run that stores everything in fp32.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>

#include "checkpoint/checkpoint.h"
#include "core/formats/safetensors.h"
#include "tests/run_devices.h"
#include "tests/training.h"

namespace trireme {
namespace {

using testing::read_file;
using testing::state_hashes;
using testing::TempDir;
using testing::tiny_yaml;

struct Mode {
  std::string name;
  std::string precision;  // the section
  std::string wide;       // the same computation with everything stored in fp32
  double bound;           // of the difference to its losses over 40 steps, from 4.2 down to 2.9

  bool has(const std::string& setting) const { return precision.find(setting) != std::string::npos; }
};

void PrintTo(const Mode& mode, std::ostream* out) { *out << mode.precision; }

const char* const kFp32 = "precision={compute: fp32}";
const char* const kBf16 = "precision={compute: bf16}";

std::vector<Mode> all_modes() {
  return {
      {"Fp32Bf16States", "precision={compute: fp32, optimizer_states: bf16}", kFp32, 1e-3},
      {"Fp32Bf16Gradients", "precision={compute: fp32, gradients: bf16}", kFp32, 1e-3},
      {"Bf16States", "precision={compute: bf16, optimizer_states: bf16}", kBf16, 2e-3},
      {"Bf16Gradients", "precision={compute: bf16, gradients: bf16}", kBf16, 2e-3},
      {"NoMaster", "precision={compute: bf16, master: none}", kBf16, 2e-2},
      {"AllBf16", "precision={compute: bf16, master: none, gradients: bf16, optimizer_states: bf16}", kBf16, 2e-2},
  };
}

class Precisions : public ::testing::TestWithParam<Mode> {
 protected:
  void SetUp() override { testing::write_corpus(dir_ / "corpus", 20000); }

  // Trains in run directory `name`; returns the losses of its steps.
  std::vector<double> run(const std::string& name, int64_t steps, int ranks, std::vector<std::string> sets) {
    sets.push_back("run.dir=" + (dir_ / name));
    testing::train(parse_config(tiny_yaml(dir_, steps), "test", sets), ranks);
    std::vector<double> losses;
    std::istringstream lines(read_file(dir_ / name + "/metrics.jsonl"));
    for (std::string line; std::getline(lines, line);) losses.push_back(nlohmann::json::parse(line)["loss"]);
    return losses;
  }

  std::map<std::string, std::vector<std::string>> hashes(const std::string& name) {
    return state_hashes(*latest_checkpoint(dir_ / name));
  }

  TempDir dir_;
};

TEST_P(Precisions, ResumeEqualsNeverHavingStopped) {
  for (const int ranks : ranks_that_fit({1, 2})) {
    const std::string tag = std::to_string(ranks);
    const auto whole = run("whole" + tag, 7, ranks, {GetParam().precision});
    run("parts" + tag, 7, ranks, {GetParam().precision, "checkpoint.every=3"});
    std::filesystem::remove_all(dir_ / ("parts" + tag + "/checkpoints/step-00000006"));
    std::filesystem::remove_all(dir_ / ("parts" + tag + "/checkpoints/step-00000007"));
    const auto parts = run("parts" + tag, 7, ranks, {GetParam().precision, "checkpoint.every=3"});
    EXPECT_EQ(whole, parts);
    EXPECT_EQ(hashes("whole" + tag), hashes("parts" + tag));
  }
}

// What is stored in bf16 shows in a checkpoint, where every number is one that bf16 holds; what is not, does not.
TEST_P(Precisions, StoresWhatItSays) {
  run("run", 3, 1, {GetParam().precision});
  const std::string path = *latest_checkpoint(dir_ / "run");
  const auto all_in_bf16 = [&](const std::string& file) {
    const SafetensorsReader reader(path + "/" + file);
    for (const std::string& name : reader.names()) {
      std::vector<float> values(static_cast<size_t>(reader.spec(name).numel()));
      reader.read(name, 0, std::span<float>(values));
      for (const float x : values) {
        if (static_cast<float>(bf16(x)) != x) return false;
      }
    }
    return true;
  };
  EXPECT_EQ(all_in_bf16("weights.safetensors"), GetParam().has("master: none"));
  EXPECT_EQ(all_in_bf16("first_moments.safetensors"), GetParam().has("optimizer_states: bf16"));
  EXPECT_EQ(all_in_bf16("second_moments.safetensors"), GetParam().has("optimizer_states: bf16"));
}

TEST_P(Precisions, LossesStayNearThoseOfFp32) {
  const auto wide = run("wide", 40, 1, {GetParam().wide});
  const auto narrow = run("narrow", 40, 1, {GetParam().precision});
  EXPECT_NE(hashes("wide"), hashes("narrow"));
  ASSERT_EQ(narrow.size(), wide.size());
  for (size_t i = 0; i < wide.size(); ++i) EXPECT_NEAR(narrow[i], wide[i], GetParam().bound) << "step " << i + 1;
  EXPECT_LT(narrow.back(), narrow.front() - 0.5);
}

// The draws are the same on any number of ranks; the gradients that meet them were added in another order, and in bf16
// rounded at other places.
TEST_P(Precisions, TwoRanksFollowOne) {
  if (most_ranks(2) < 2) GTEST_SKIP() << "needs two GPUs, and this machine has one";
  const auto one = run("one", 20, 1, {GetParam().precision});
  const auto two = run("two", 20, 2, {GetParam().precision});
  ASSERT_EQ(one.size(), two.size());
  for (size_t i = 0; i < one.size(); ++i) EXPECT_NEAR(one[i], two[i], 1e-3) << "step " << i + 1;
}

INSTANTIATE_TEST_SUITE_P(Modes, Precisions, ::testing::ValuesIn(all_modes()),
                         [](const ::testing::TestParamInfo<Mode>& mode) { return mode.param.name; });

}  // namespace
}  // namespace trireme
