// What must not change a single bit of losses, norms, gradients and weights: the stage of ZeRO (where promised), the
// pipeline's degree and schedule, overlap, prefetch, recomputation. On the GPUs of a machine that has some, fewer of each.
#include <gtest/gtest.h>

#include "core/config/load.h"
#include "launcher/layout_run.h"
#include "tests/parallel/named_layouts.h"
#include "tests/run_devices.h"

namespace trireme {
namespace {

using Sets = std::vector<std::string>;

constexpr int64_t kSteps = 3;

std::string p(const std::string& settings) { return "parallel={" + settings + "}"; }

Sets operator+(Sets a, const Sets& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

LayoutResult run(const Sets& sets) {
  const Config config = layouts::tiny_config(sets);
  return run_layout(config, make_layout_input(config, kSteps, 3));
}

// The first thing in which two runs differ; empty where none does.
std::string difference(const LayoutResult& a, const LayoutResult& b) {
  if (!a.findings.empty()) return a.findings.front();
  if (!b.findings.empty()) return b.findings.front();
  const auto tensors = [](const char* kind, const GlobalTensors& x, const GlobalTensors& y) -> std::string {
    if (x.size() != y.size()) return std::string("other tensors: ") + kind;
    for (const auto& [name, values] : x) {
      if (values != y.at(name)) return std::string(kind) + " of " + name;
    }
    return "";
  };
  if (const std::string name = tensors("initial value", a.initial, b.initial); !name.empty()) return name;
  if (const std::string name = tensors("gradient", a.gradients, b.gradients); !name.empty()) return name;
  if (a.loss != b.loss) return "loss";
  if (a.grad_norm != b.grad_norm) return "gradient norm";
  return tensors("weight", a.weights, b.weights);
}

// Whether the communication of the runs differs, so that a comparison of bits isn't one of the same with the same.
bool same_traffic(const LayoutResult& a, const LayoutResult& b) {
  const auto calls = [](const LayoutResult& r) {
    std::map<std::pair<CommOp, std::string>, std::pair<int64_t, int64_t>> sums;
    for (const Traffic& t : r.ranks.front().traffic.back()) {
      auto& [count, bytes] = sums[{t.op, t.group}];
      count += t.calls;
      bytes += t.bytes;
    }
    return sums;
  };
  return a.ranks.size() == b.ranks.size() && calls(a) == calls(b);
}

const Sets kTied = {"model.tie_word_embeddings=true"};
const Sets kQwen3 = {"model.model_type=qwen3"};
const Sets kFewKvHeads = {"model.num_key_value_heads=2"};
const Sets kGpt2 = {
    "model={model_type: gpt2, n_embd: 24, n_layer: 4, n_head: 4, n_inner: 37, vocab_size: 67, "
    "n_positions: 32}"};
const Sets kSixLayers = {"model.num_hidden_layers=6"};

bool on_gpu() { return run_device_name() != "cpu"; }
// Compute precisions to try: bf16 has other kernels.
Sets precisions() {
  return on_gpu() ? Sets{"precision.compute=bf16"} : Sets{"precision.compute=fp32", "precision.compute=bf16"};
}
std::vector<Sets> models() { return on_gpu() ? std::vector<Sets>{kTied} : std::vector<Sets>{kTied, kQwen3, kGpt2}; }

// NCCL adds in an order of its own, so that there two ranks share the data; else four.
TEST(ZeroBits, AllStagesAreEqualWithOneMicrobatch) {
  const std::string data = on_gpu() ? "data: 2" : "data: 4";
  const Sets one = {on_gpu() ? "batch.global=2" : "batch.global=4"};
  for (const std::string& more :
       {std::string(), std::string(", tensor: 2, sequence: true"), std::string(", pipeline: 2, schedule: zb_h1")}) {
    for (const Sets& model : models()) {
      SCOPED_TRACE(data + more + " " + ::testing::PrintToString(model));
      const LayoutResult zero0 = run(model + one + Sets{p(data + more + ", zero: 0")});
      for (const char* zero : {", zero: 1", ", zero: 2", ", zero: 3"}) {
        const LayoutResult other = run(model + one + Sets{p(data + more + zero)});
        EXPECT_EQ(difference(other, zero0), "") << zero;
        EXPECT_FALSE(same_traffic(other, zero0)) << zero;
      }
    }
  }
}

TEST(ZeroBits, PairsAreEqualWithManyMicrobatches) {
  const std::string data = on_gpu() ? "data: 2" : "data: 4";
  for (const std::string& more : {std::string(), std::string(", tensor: 2"), std::string(", pipeline: 2")}) {
    for (const Sets& model : models()) {
      SCOPED_TRACE(data + more + " " + ::testing::PrintToString(model));
      const Sets base = model + Sets{"batch.global=12"};
      const LayoutResult zero0 = run(base + Sets{p(data + more + ", zero: 0")});
      EXPECT_EQ(difference(run(base + Sets{p(data + more + ", zero: 1")}), zero0), "");
      const LayoutResult zero2 = run(base + Sets{p(data + more + ", zero: 2")});
      EXPECT_EQ(difference(run(base + Sets{p(data + more + ", zero: 3")}), zero2), "");
      // Sums of microbatches in another order.
      EXPECT_NE(difference(zero2, zero0), "");
    }
  }
}

TEST(ZeroBits, StagesAreEqualInShardingGroups) {
  for (const Sets& model : models()) {
    const Sets base = model + Sets{"batch.global=4"};
    const LayoutResult zero1 = run(base + Sets{p("data: 4, zero: 1, zero_group: 2")});
    EXPECT_EQ(difference(run(base + Sets{p("data: 4, zero: 2, zero_group: 2")}), zero1), "");
    EXPECT_EQ(difference(run(base + Sets{p("data: 4, zero: 3, zero_group: 2")}), zero1), "");
  }
}

// ---- Pipelines: one rank's bits at equal `micro` ----

struct PipelineCase {
  std::string name;
  std::string settings;
};

std::vector<PipelineCase> pipelines() {
  std::vector<PipelineCase> all = {
      {"gpipe2", "pipeline: 2, schedule: gpipe"},
      {"1f1b2", "pipeline: 2, schedule: 1f1b"},
      {"1f1b4_without_layers_at_the_ends", "pipeline: 4, schedule: 1f1b, stages: [0, 3, 3, 0]"},
      {"interleaved2", "pipeline: 2, schedule: interleaved, virtual_stages: 2"},
      {"interleaved4",
       "pipeline: 4, schedule: interleaved, virtual_stages: 2, microbatch_group: 5, stages: [0, 1, 1, 1, 1, 1, 1, 0]"},
      {"zb_h1_2", "pipeline: 2, schedule: zb_h1, stages: [2, 4]"},
      {"zb_h1_4", "pipeline: 4, schedule: zb_h1"},
      {"zb_v2", "pipeline: 2, schedule: zb_v"},
      {"zb_v4", "pipeline: 4, schedule: zb_v, stages: [0, 1, 1, 1, 1, 1, 1, 0]"},
      {"zb_v1", "pipeline: 1, schedule: zb_v"},
      {"interleaved1", "pipeline: 1, schedule: interleaved, virtual_stages: 3"},
      {"gpipe6", "pipeline: 6, schedule: gpipe"},
  };
  return all;
}

class PipelineBits : public ::testing::TestWithParam<PipelineCase> {
 protected:
  // `around`: other axes, the same in both runs.
  void expect_equal(const std::string& around, const Sets& sets) {
    const LayoutResult plain = run(sets + Sets{p(around)});
    const LayoutResult cut = run(sets + Sets{p(around + ", " + GetParam().settings)});
    EXPECT_EQ(difference(cut, plain), "") << around << " " << ::testing::PrintToString(sets);
  }
};

TEST_P(PipelineBits, EqualThoseOfOneStage) {
  const Sets gpt2 = {
      "model={model_type: gpt2, n_embd: 24, n_layer: 6, n_head: 4, n_inner: 37, vocab_size: 67, "
      "n_positions: 32}"};
  for (const std::string& precision : precisions()) {
    expect_equal("data: 1", kTied + kSixLayers + Sets{precision});
    if (on_gpu()) continue;
    expect_equal("data: 1", kQwen3 + kSixLayers + Sets{precision, "batch.global=7"});
    expect_equal("data: 1", gpt2 + Sets{precision, "batch.global=1"});
  }
}

TEST_P(PipelineBits, EqualThoseOfOneStageBesideOtherAxes) {
  if (on_gpu()) {
    if (GetParam().settings.find("pipeline: 2") != 0) return;  // of the eight GPUs
    expect_equal("data: 2, tensor: 2, sequence: true, zero: 3", kTied + kSixLayers);
    return;
  }
  for (const char* zero : {"zero: 1", "zero: 2", "zero: 3, keep_gathered: unit"}) {
    expect_equal(std::string("data: 2, tensor: 2, sequence: true, ") + zero, kTied + kQwen3 + kFewKvHeads + kSixLayers);
    expect_equal(std::string("data: 2, ") + zero, kTied + kSixLayers + Sets{"recompute.mode=selective"});
  }
}

INSTANTIATE_TEST_SUITE_P(Schedules, PipelineBits, ::testing::ValuesIn(pipelines()),
                         [](const auto& test) { return test.param.name; });

// ---- Overlap, prefetch, recomputation ----

struct Setting {
  std::string name;
  std::string layout;  // but for the setting
  std::vector<std::string> values;
};

class SettingBits : public ::testing::TestWithParam<Setting> {};

TEST_P(SettingBits, ChangeNothing) {
  const Setting& s = GetParam();
  for (const Sets& model : models()) {
    for (const std::string& precision : precisions()) {
      const Sets base = model + Sets{precision, p(s.layout), "batch.global=8"};
      const LayoutResult first = run(base + Sets{s.values.front()});
      for (size_t i = 1; i < s.values.size(); ++i) {
        EXPECT_EQ(difference(run(base + Sets{s.values[i]}), first), "")
            << s.values[i] << " " << ::testing::PrintToString(model);
      }
    }
  }
}

std::vector<Setting> settings() {
  const std::string all = "data: 2, tensor: 2, sequence: true, pipeline: 2, ";
  const std::vector<std::string> reduce = {"parallel.overlap_grad_reduce=true", "parallel.overlap_grad_reduce=false"};
  const std::vector<std::string> gather = {"parallel.overlap_param_gather=true", "parallel.overlap_param_gather=false"};
  const std::vector<std::string> chunks = {"parallel.overlap_tensor=1", "parallel.overlap_tensor=2",
                                           "parallel.overlap_tensor=5"};
  const std::vector<std::string> prefetch = {"parallel.prefetch=1", "parallel.prefetch=0", "parallel.prefetch=3"};
  const std::vector<std::string> kept = {"parallel.keep_gathered=unit", "parallel.keep_gathered=step"};
  const std::vector<std::string> recompute = {"recompute.mode=none", "recompute.mode=selective", "recompute.mode=full",
                                              "recompute={mode: full, layers: 1}"};
  std::vector<Setting> list = {
      {"overlap_grad_reduce", all + "schedule: zb_v, zero: 2", reduce},
      {"overlap_param_gather", all + "schedule: zb_h1, zero: 3, keep_gathered: unit", gather},
      {"prefetch", all + "schedule: 1f1b, zero: 3, keep_gathered: unit", prefetch},
      {"keep_gathered", all + "schedule: interleaved, virtual_stages: 2, zero: 3", kept},
      {"recompute", all + "schedule: zb_h1, zero: 3", recompute},
  };
  // Sums of chunks: NCCL may add those of other lengths in another order.
  list.push_back({"overlap_tensor", "data: 1, tensor: 2, sequence: true, pipeline: 2", chunks});
  if (on_gpu()) return list;
  for (const std::string& zero : {std::string("0"), std::string("1"), std::string("2"), std::string("3")}) {
    list.push_back({"overlap_grad_reduce_zero" + zero, "data: 4, zero: " + zero, reduce});
    list.push_back({"overlap_param_gather_zero" + zero, "data: 4, zero: " + zero, gather});
  }
  list.push_back({"overlap_grad_reduce_groups", "data: 4, zero: 2, zero_group: 2", reduce});
  list.push_back({"prefetch_alone", "data: 2, zero: 3", prefetch});
  list.push_back({"keep_gathered_alone", "data: 2, zero: 3", kept});
  list.push_back({"overlap_tensor_whole", "data: 1, tensor: 4", chunks});
  list.push_back({"overlap_tensor_sequence", "data: 1, tensor: 4, sequence: true", chunks});
  list.push_back({"recompute_tensor", "data: 1, tensor: 2, sequence: true", recompute});
  list.push_back({"recompute_pipeline", "data: 1, pipeline: 2, schedule: zb_v", recompute});
  list.push_back({"recompute_interleaved", "data: 1, tensor: 2, pipeline: 2, schedule: interleaved, virtual_stages: 2",
                  recompute});
  return list;
}

INSTANTIATE_TEST_SUITE_P(Settings, SettingBits, ::testing::ValuesIn(settings()),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace trireme
