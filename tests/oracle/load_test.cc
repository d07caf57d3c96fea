// Hugging Face weights loaded in every layout: each rank reads only its boxes, and what all of them hold together are the
// bits of the file.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <set>

#include "checkpoint/hugging_face.h"
#include "launcher/rank_model.h"
#include "tests/oracle/golden.h"
#include "tests/oracle/golden_layouts.h"
#include "tests/run_devices.h"
#include "tests/thread_ranks.h"

namespace trireme {
namespace {

class OracleLoad : public ::testing::TestWithParam<golden::LayoutCase> {
 protected:
  void check(std::vector<std::string> sets, bool rounded) {
    const golden::LayoutCase& c = GetParam();
    sets.insert(sets.end(), c.sets.begin(), c.sets.end());
    sets.push_back("run.threads=1");
    const golden::Run run = golden::make_run(c.name, "unused", sets);
    const SafetensorsReader reader(run.options.hf_dir);
    const NameMap names = hugging_face_names(run.config.model);
    std::set<std::string> never_rounded;  // routers
    for (const Parameter& parameter : model_parameters(run.config.model)) {
      if (parameter.is_fp32()) never_rounded.insert(parameter.name);
    }
    run_rank_contexts(run.config, c.ranks, [&](RankContext& rank) {
      RankModel model(rank, run.config);
      load_hugging_face(reader, names, rank.stream(), model.model.buckets());
      model.step.weights_changed();
      size_t num_tensors = 0;
      visit_hugging_face(names, model.state, Bucket::Buffer::master, [&](const HuggingFaceTensor& tensor) {
        std::vector<float> expected(static_cast<size_t>(reader.spec(tensor.name).numel()));
        reader.read(tensor.name, 0, std::span<float>(expected));
        if (rounded && !never_rounded.contains(tensor.name)) {
          for (float& v : expected) v = static_cast<float>(bf16(v));
        }
        EXPECT_TRUE(
            std::equal(tensor.values.begin(), tensor.values.end(), expected.begin(), expected.end(),
                       [](float a, float b) { return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b); }))
            << tensor.name << " on rank " << rank.rank();
        ++num_tensors;
      });
      EXPECT_EQ(num_tensors, reader.names().size());
    });
  }
};

TEST_P(OracleLoad, GivesTheBitsOfTheFile) { check({}, /*rounded=*/false); }
TEST_P(OracleLoad, RoundsWhereThereIsNoMaster) {
  check({"precision.compute=bf16", "precision.master=none"}, /*rounded=*/true);
}

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(OracleLoad);  // on a machine with one GPU
INSTANTIATE_TEST_SUITE_P(Golden, OracleLoad, ::testing::ValuesIn(golden::layout_cases(1, most_ranks(8), 1)),
                         [](const auto& p) { return p.param.layout + "_" + p.param.name + "_" + run_device_name(); });

}  // namespace
}  // namespace trireme
