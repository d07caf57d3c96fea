// Random layouts of models with experts against one rank: what routers chose, loads and balance losses, loss, gradient norm,
// every gradient and weight after two steps, and that tokens travelled as configured. expert_draw.h says how they are drawn.
//
// Where rounding flips a near tie, the draw is made again with other numbers; that may happen to one in fifty.
//
//   TRIREME_LAYOUT_SEED, TRIREME_LAYOUT_COUNT: other draws, more of them
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <numeric>

#include "launcher/shrink.h"
#include "launcher/verify.h"
#include "models/moe/carried_logits.h"
#include "parallel/resolve.h"
#include "tests/parallel/expert_draw.h"

namespace trireme::layouts {
namespace {

constexpr uint64_t kSeed = 20261123;
#ifdef TRIREME_SANITIZED
constexpr int kCount = 4;
#else
constexpr int kCount = kExpertBlock;
#endif
constexpr int kFullCount = 300;  // with TRIREME_TEST_ALL
constexpr int kAttempts = 3;

int num_expert_draws() { return num_draws(kCount, kFullCount); }

class ExpertLayouts : public ::testing::TestWithParam<int> {
 protected:
  // How tokens travelled, on one rank in the second step.
  static void check_travel(const Config& config, const RankRecord& rank) {
    int64_t exchanged = 0;
    int64_t gathered = 0;
    int64_t shards = 0;
    for (const Traffic& t : rank.traffic[1]) {
      if (t.group == "experts" && t.op == CommOp::all_to_all_v) exchanged += t.calls;
      if (t.group == "experts" && t.op == CommOp::reduce_scatter) gathered += t.calls;
      if (t.group == "expert_shard" && t.op != CommOp::all_gather) shards += t.bytes;
    }
    const Mesh& mesh = rank.mesh;
    const bool travels = mesh.group_size(kDispatchAxes) > 1;
    const bool here = rank.num_expert_layers > 0;
    const bool by_gather = config.moe.dispatch == MoeDispatch::allgather;
    EXPECT_EQ(exchanged > 0, travels && here && !by_gather);
    EXPECT_EQ(gathered > 0, travels && here && by_gather);
    EXPECT_EQ(shards > 0, mesh.degree(Axis::expert_shard) > 1 && here);
  }
};

std::atomic<int> num_flips = 0;

TEST_P(ExpertLayouts, TrainAsOneRankDoes) {
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    const Draw draw = draw_expert_layout(seed_of_draws(kSeed), GetParam(), attempt);
    SCOPED_TRACE(draw.command());
    const Config config = config_of(draw);
    const VerifyReport report = verify(config);
    if (report.layout.choices.near_tie && attempt + 1 < kAttempts) {
      std::printf("a near tie was flipped: %s\n", report.layout.choices.text.c_str());
      ++num_flips;
      continue;
    }
    EXPECT_TRUE(report.passed()) << report.str();
    RecordProperty("worst_gradient", std::to_string(report.layout.worst_gradient() / report.allowed()));
    for (const RankRecord& rank : report.ranks) check_travel(config, rank);
    break;
  }
  EXPECT_LE(num_flips, std::max(1, num_expert_draws() / 50)) << "more choices flip than near ties explain";
}

INSTANTIATE_TEST_SUITE_P(Draw, ExpertLayouts, ::testing::Range(0, num_expert_draws()),
                         [](const auto& test) { return std::to_string(test.param); });

// Whether logits of routers travel between pipeline stages (models/moe/carried_logits.h).
bool sends_logits(const Config& config) {
  if (config.parallel.pipeline == 1) return false;
  int64_t first = 0;
  for (const int64_t layers : resolve_stages(config)) {
    if (first > 0 && carries_logits(config.model, first)) return true;
    first += layers;
  }
  return false;
}

// What a configuration has of MoE++ and multi-token prediction.
std::vector<std::string> additions_of(const Config& c) {
  const ExpertsConfig& experts = c.model.experts;
  std::vector<std::string> list;
  if (experts.num_choices() > experts.num_experts) {
    for (const std::string& with : {to_string(c.moe.dispatch), to_string(c.moe.router)}) {
      list.push_back("light experts, " + with);
    }
    if (c.moe.capacity_factor) list.push_back("light experts, capacity");
  }
  if (experts.num_zero > 0) list.push_back("zero experts");
  if (experts.num_copy > 0) list.push_back("copy experts");
  if (experts.num_constant > 0) list.push_back("constant experts");
  if (sends_logits(c)) list.push_back("logits between stages, " + to_string(c.recompute.mode));
  if (c.model.num_predictors > 0) {
    list.push_back("prediction modules: " + std::to_string(c.model.num_predictors));
    if (c.parallel.pipeline > 1) list.push_back("prediction modules, pipeline");
    if (c.parallel.tensor > 1) list.push_back("prediction modules, tensor");
    if (c.parallel.sequence) list.push_back("prediction modules, sequence");
  }
  return list;
}

// What a block of draws has in it.
TEST(ExpertCoverage, OfABlock) {
  int beyond_data = 0;
  int fewer_tokens = 0;
  int split = 0;
  int full = 0;
  std::map<std::string, int> seen;
  for (int i = 0; i < kExpertBlock; ++i) {
    const Config c = config_of(draw_expert_layout(kSeed, i));
    beyond_data += c.parallel.expert > *c.parallel.data;
    split += c.parallel.expert_tensor > 1;
    full += num_ranks(c.parallel) == 64;
    // Slots of a microbatch: with fewer of them than ranks that share out the experts, some get none.
    fewer_tokens += c.batch.micro * c.data.sequence_length * c.model.experts.top_k < c.parallel.expert * 4;
    ++seen[to_string(c.model.family)];
    ++seen[to_string(c.moe.router)];
    ++seen[to_string(c.moe.balance) + " " + to_string(c.moe.aux_scope)];
    ++seen[to_string(c.moe.dispatch)];
    ++seen["zero " + std::to_string(c.parallel.zero)];
    ++seen[to_string(c.parallel.schedule)];
    ++seen["recompute " + to_string(c.recompute.mode)];
    for (const std::string& addition : additions_of(c)) ++seen[addition];
  }
  EXPECT_GE(beyond_data, 8);
  EXPECT_GE(split, 8);
  EXPECT_GE(full, 3);
  EXPECT_GE(fewer_tokens, 3);
  for (const char* what :
       {"mixtral",  "qwen2_moe",     "qwen3_moe",   "deepseek_v2",   "deepseek_v3",    "topk",       "switch",
        "base",     "expert_choice", "hash",        "aux sequence",  "aux microbatch", "aux global", "bias microbatch",
        "alltoall", "allgather",     "zero 0",      "zero 1",        "zero 2",         "zero 3",     "1f1b",
        "zb_h1",    "zb_v",          "interleaved", "recompute full"}) {
    EXPECT_GE(seen[what], 2) << what;
  }
  for (const char* what :
       {"zero experts", "copy experts", "constant experts", "light experts, topk", "light experts, switch",
        "light experts, capacity", "light experts, alltoall", "light experts, allgather", "logits between stages, none",
        "logits between stages, selective", "logits between stages, full", "prediction modules: 1",
        "prediction modules: 2", "prediction modules, pipeline", "prediction modules, tensor",
        "prediction modules, sequence"}) {
    EXPECT_GE(seen[what], 2) << what;
  }
}

// ---- Loads that a draw can't be relied on for ----

Config tiny(const std::vector<std::string>& sets) {
  std::vector<std::string> all = {
      "model={model_type: qwen3_moe, norm_topk_prob: false, head_dim: 8, moe_intermediate_size: 16, "
      "hidden_size: 16, num_hidden_layers: 2, num_attention_heads: 2, "
      "num_key_value_heads: 2, intermediate_size: 16, vocab_size: 96, max_position_embeddings: 32, "
      "num_experts: 8, num_experts_per_tok: 1, initializer_range: 0.1}"};
  all.insert(all.end(), sets.begin(), sets.end());
  return config_of({.sets = all});
}

// Four tokens in the whole step; of the first seed with which they all choose the same expert of a layer.
TEST(ExpertLoads, AllTokensGoToOneExpert) {
  const auto of_seed = [](int seed) {
    return tiny({"data.sequence_length=4", "batch={global: 1, micro: 1}", "parallel={data: 1, tensor: 8, expert: 8}",
                 "model.num_attention_heads=8", "model.num_key_value_heads=8", "run.seed=" + std::to_string(seed)});
  };
  for (int seed = 0; seed < 1000; ++seed) {
    const Config config = one_rank(of_seed(seed));
    const LayoutResult result = run_layout(config, make_layout_input(config, 1, static_cast<uint64_t>(seed)));
    const auto all_alike = [](const std::vector<int64_t>& load) {
      return *std::max_element(load.begin(), load.end()) == 4;
    };
    const auto& loads = result.experts.front().load;
    if (std::none_of(loads.begin(), loads.end(), all_alike)) continue;
    const VerifyReport report = verify(of_seed(seed));
    EXPECT_TRUE(report.passed()) << report.str();
    return;
  }
  FAIL() << "no such seed";
}

// Sixteen tokens for 32 experts on eight ranks.
TEST(ExpertLoads, SomeRanksHaveNoToken) {
  const Config config = tiny({"data.sequence_length=4", "batch={global: 4, micro: 1}", "model.num_experts=32",
                              "parallel={data: 4, tensor: 2, expert: 8, zero: 2}"});
  const LayoutInput input = make_layout_input(config, 1, 1);
  const LayoutResult result = run_layout(config, input);
  bool idle = false;
  for (const std::vector<int64_t>& load : result.experts.front().load) {
    for (size_t first = 0; first < load.size(); first += 4) {
      idle |= std::accumulate(load.begin() + static_cast<std::ptrdiff_t>(first),
                              load.begin() + static_cast<std::ptrdiff_t>(first) + 4, int64_t{0}) == 0;
    }
  }
  EXPECT_TRUE(idle);
  const VerifyReport report = verify(config);
  EXPECT_TRUE(report.passed()) << report.str();
}

}  // namespace
}  // namespace trireme::layouts
