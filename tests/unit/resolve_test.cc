// From a configuration to a layout: what is accepted, and the message of each refusal.
#include "parallel/resolve.h"

#include <gtest/gtest.h>

#include <functional>
#include <numeric>

#include "core/error.h"
#include "core/random/philox.h"
#include "parallel/groups.h"
#include "parallel/nearest.h"

namespace trireme {
namespace {

using Layers = std::vector<int64_t>;
using enum PipelineSchedule;

std::string message_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "no error";
}

// 8 layers, 8 heads, 4 kv-heads.
Config config_of(const ParallelConfig& parallel = {}) {
  Config config;
  config.model.num_layers = 8;
  config.model.num_heads = 8;
  config.model.num_kv_heads = 4;
  config.parallel = parallel;
  return config;
}

std::string degrees_message(const ParallelConfig& parallel, int64_t world) {
  return message_of([&] { resolve(config_of(parallel), world, 0, 8); });
}

TEST(Nearest, MultiplesAndDivisors) {
  EXPECT_EQ(nearest_multiples(4, 9), "8 or 12");
  EXPECT_EQ(nearest_multiples(4, 8), "8");
  EXPECT_EQ(nearest_multiples(4, 3), "4");
  EXPECT_EQ(nearest_multiples(4, 0), "4");
  EXPECT_EQ(nearest_divisors(12, 5), "4 or 6");
  EXPECT_EQ(nearest_divisors(12, 6), "6");
  EXPECT_EQ(nearest_divisors(12, 13), "12");
  EXPECT_EQ(nearest_divisors(9, 3), "3");
  EXPECT_EQ(nearest_divisors(1, 7), "1");
}

// ---- Degrees ----

TEST(Resolve, DataTakesTheRanksThatAreLeft) {
  const Mesh mesh = resolve(config_of({.tensor = 2, .pipeline = 4}), 24, 23, 8);
  EXPECT_EQ(mesh.degree(Axis::tensor), 2);
  EXPECT_EQ(mesh.degree(Axis::pipeline), 4);
  EXPECT_EQ(mesh.data_degree(), 3);
  EXPECT_EQ(mesh.rank(), 23);
  // Sequence parallelism without tensor ranks has nothing to do.
  EXPECT_EQ(resolve(config_of({.sequence = true}), 2, 0, 2).data_degree(), 2);
}

TEST(Resolve, DegreesThatDontMultiplyToTheWorld) {
  const std::string start = "the degrees of parallelism don't multiply to the number of ranks (expected ";
  EXPECT_EQ(degrees_message({.data = 3, .tensor = 2}, 8),
            start +
                "8 ranks, found data 3 × tensor 2 × context 1 × pipeline 1 = 6) at parallel; try parallel.data: 4 "
                "(or auto)");
  EXPECT_EQ(degrees_message({.tensor = 4}, 6),
            start +
                "6 ranks, found data auto × tensor 4 × context 1 × pipeline 1, a multiple of 4) at parallel; try "
                "parallel.tensor: 2, or 4 or 8 ranks");
  EXPECT_EQ(degrees_message({.data = 2, .tensor = 4}, 6),
            start + "6 ranks, found data 2 × tensor 4 × context 1 × pipeline 1 = 8) at parallel; try 8 ranks");
  EXPECT_EQ(degrees_message({.data = 1, .tensor = 4, .pipeline = 3}, 8),
            start +
                "8 ranks, found data 1 × tensor 4 × context 1 × pipeline 3 = 12) at parallel; try "
                "parallel.pipeline: 2, or 12 ranks");
  EXPECT_EQ(degrees_message({.tensor = 2, .pipeline = 5}, 16),
            start +
                "16 ranks, found data auto × tensor 2 × context 1 × pipeline 5, a multiple of 10) at parallel; try "
                "parallel.pipeline: 4 or 8, or 10 or 20 ranks");
  EXPECT_EQ(degrees_message({.tensor = 2}, 1),
            start +
                "1 rank, found data auto × tensor 2 × context 1 × pipeline 1, a multiple of 2) at parallel; try "
                "parallel.tensor: 1, or 2 ranks");
  // What overflows is a message like any other.
  const int64_t huge = int64_t{1} << 62;
  EXPECT_TRUE(degrees_message({.tensor = huge, .pipeline = huge}, 4).starts_with(start));
  EXPECT_TRUE(degrees_message({.data = huge, .tensor = 4, .pipeline = 4}, 4).starts_with(start));
}

TEST(Resolve, NearestTensorDegreesFitTheModel) {
  // 3 divides the ranks, but not the heads.
  EXPECT_NE(degrees_message({.tensor = 4}, 18).find("parallel.tensor: 2, or 16 or 20 ranks"), std::string::npos)
      << degrees_message({.tensor = 4}, 18);
}

// ---- ZeRO groups ----

TEST(Resolve, ZeroGroupSetsTheShards) {
  const auto shard = [](ParallelConfig parallel, int64_t world, int64_t per_node) {
    const Mesh mesh = resolve(config_of(parallel), world, 0, per_node);
    EXPECT_EQ(mesh.degree(Axis::data_shard) * mesh.degree(Axis::data_replica), mesh.data_degree());
    return mesh.degree(Axis::data_shard);
  };
  EXPECT_EQ(shard({.zero = 1}, 12, 8), 12);
  EXPECT_EQ(shard({.zero = 3, .zero_group = 4}, 12, 8), 4);
  EXPECT_EQ(shard({.zero = 3, .zero_group = 1}, 12, 8), 1);
  EXPECT_EQ(shard({.zero = 0, .zero_group = 5}, 12, 8), 12) << "without ZeRO nothing is shared out";
  EXPECT_EQ(shard({.zero = 2, .zero_group = kZeroGroupNode}, 32, 8), 8);
  EXPECT_EQ(shard({.tensor = 2, .zero = 2, .zero_group = kZeroGroupNode}, 32, 8), 4);
  EXPECT_EQ(shard({.tensor = 4, .zero = 2, .zero_group = kZeroGroupNode}, 32, 4), 1);
  EXPECT_EQ(shard({.tensor = 4, .zero = 2, .zero_group = kZeroGroupNode}, 32, 2), 1) << "wider than a machine";
  EXPECT_EQ(shard({.pipeline = 4, .zero = 2, .zero_group = kZeroGroupNode}, 8, 8), 2) << "four stages in a machine";
}

TEST(Resolve, ZeroGroupsThatDontFit) {
  EXPECT_EQ(message_of([] { resolve(config_of({.zero = 1, .zero_group = 5}), 12, 0, 8); }),
            "parallel.zero_group doesn't divide the data degree (expected a divisor of data 12, found 5) at "
            "parallel.zero_group; try parallel.zero_group: 4 or 6 (or all)");
  EXPECT_EQ(message_of([] { resolve(config_of({.zero = 1, .zero_group = kZeroGroupNode}), 12, 0, 8); }),
            "parallel.zero_group: node doesn't cut the data ranks into equal groups (expected machines that hold equal "
            "groups of data 12 × tensor 1 × context 1, found 8 ranks per machine) at parallel.zero_group; try "
            "parallel.zero_group: 6 or 12 (or all)");
  // Stages of three ranks each lie across machines of eight.
  EXPECT_NE(message_of([] {
              resolve(config_of({.pipeline = 8, .zero = 1, .zero_group = kZeroGroupNode}), 24, 0, 8);
            }).find("doesn't cut"),
            std::string::npos);
  EXPECT_EQ(message_of([] { resolve_mesh({.zero = 1, .zero_group = kZeroGroupNode}, 8, 0); }),
            "parallel.zero_group: node needs the number of ranks of each machine, which isn't known at "
            "parallel.zero_group; try the number of data ranks of a machine, or all");
}

// ---- Heads ----

std::string heads_message(int64_t heads, int64_t kv_heads, int64_t tensor) {
  Config config = config_of({.tensor = tensor});
  config.model.num_heads = heads;
  config.model.num_kv_heads = kv_heads;
  return message_of([&] { resolve(config, tensor, 0, 8); });
}

TEST(Resolve, TensorMustDivideTheHeads) {
  EXPECT_EQ(heads_message(32, 8, 8), "no error");
  EXPECT_EQ(heads_message(8, 4, 8),
            "parallel.tensor doesn't divide the model's kv-heads (expected a divisor of 8 heads and 4 kv-heads, found "
            "8) at parallel.tensor; try parallel.tensor: 4; or model.num_attention_heads: 8 with "
            "model.num_key_value_heads: 8");
  EXPECT_EQ(
      heads_message(12, 12, 5),
      "parallel.tensor doesn't divide the model's attention heads (expected a divisor of 12 heads and 12 "
      "kv-heads, found 5) at parallel.tensor; try parallel.tensor: 4 or 6; or model.num_attention_heads: 10 or 15");
  EXPECT_EQ(
      heads_message(28, 4, 3),
      "parallel.tensor doesn't divide the model's attention heads (expected a divisor of 28 heads and 4 kv-heads, "
      "found 3) at parallel.tensor; try parallel.tensor: 2 or 4; or model.num_attention_heads: 27 or 30 with "
      "model.num_key_value_heads: 3, or model.num_attention_heads: 24 or 30 with model.num_key_value_heads: 6");
}

// ---- Chunks ----

Layers stages(ParallelConfig parallel, int64_t layers) {
  Config config = config_of(parallel);
  config.model.num_layers = layers;
  return resolve_stages(config);
}

std::string stages_message(ParallelConfig parallel, int64_t layers = 8) {
  return message_of([&] { stages(parallel, layers); });
}

TEST(ResolveStages, AreBalancedAndTheMiddleTakesTheRest) {
  EXPECT_EQ(stages({}, 5), (Layers{5}));
  EXPECT_EQ(stages({.pipeline = 4}, 8), (Layers{2, 2, 2, 2}));
  EXPECT_EQ(stages({.pipeline = 4}, 9), (Layers{2, 2, 3, 2}));
  EXPECT_EQ(stages({.pipeline = 4}, 10), (Layers{2, 3, 3, 2}));
  EXPECT_EQ(stages({.pipeline = 4}, 11), (Layers{3, 3, 3, 2}));
  EXPECT_EQ(stages({.pipeline = 2}, 3), (Layers{2, 1}));
  EXPECT_EQ(stages({.pipeline = 3}, 8), (Layers{3, 3, 2}));
  EXPECT_EQ(stages({.pipeline = 2, .virtual_stages = 2, .schedule = interleaved}, 5), (Layers{1, 1, 2, 1}));
  EXPECT_EQ(stages({.pipeline = 2, .schedule = zb_v}, 4), (Layers{1, 1, 1, 1}));
  for (int64_t layers = 7; layers < 40; ++layers) {
    const Layers list = stages({.pipeline = 7}, layers);
    EXPECT_EQ(std::accumulate(list.begin(), list.end(), int64_t{0}), layers);
    EXPECT_LE(*std::max_element(list.begin(), list.end()) - *std::min_element(list.begin(), list.end()), 1);
    EXPECT_EQ(list.back(), layers / 7);
  }
}

TEST(ResolveStages, GivenListsAreTaken) {
  EXPECT_EQ(stages({.pipeline = 3, .stages = Layers{1, 6, 1}}, 8), (Layers{1, 6, 1}));
  EXPECT_EQ(stages({.pipeline = 4, .stages = Layers{0, 1, 1, 0}}, 2), (Layers{0, 1, 1, 0}));
  EXPECT_EQ(stages({.stages = Layers{8}}, 8), (Layers{8}));
}

TEST(ResolveStages, TooFewLayers) {
  const std::string start = "the model has fewer layers than the pipeline has chunks (expected at least ";
  EXPECT_EQ(stages_message({.pipeline = 16}),
            start + "pipeline 16 = 16 layers, found 8) at parallel.pipeline; try parallel.pipeline: 8");
  EXPECT_EQ(stages_message({.pipeline = 4, .virtual_stages = 3, .schedule = interleaved}),
            start +
                "pipeline 4 × virtual stages 3 = 12 layers, found 8) at parallel.pipeline; try "
                "parallel.pipeline: 2, or parallel.virtual_stages: 2");
  EXPECT_EQ(stages_message({.pipeline = 5, .schedule = zb_v}),
            start +
                "pipeline 5 × virtual stages 2 = 10 layers, found 8) at parallel.pipeline; try parallel.pipeline: 4, "
                "or parallel.schedule: zb_h1, or parallel.stages with 0 layers at an end");
  const int64_t huge = int64_t{1} << 62;
  EXPECT_TRUE(stages_message({.pipeline = huge, .virtual_stages = huge, .schedule = interleaved}).starts_with(start));
}

TEST(ResolveStages, ListsThatDontFit) {
  EXPECT_EQ(stages_message({.pipeline = 4, .stages = Layers{4, 4}}),
            "parallel.stages has the wrong length (expected pipeline 4 = 4 numbers of layers, found 2) at "
            "parallel.stages; try parallel.stages: auto, which is [2, 2, 2, 2]");
  EXPECT_EQ(stages_message({.pipeline = 2, .schedule = zb_v, .stages = Layers{4, 4}}),
            "parallel.stages has the wrong length (expected pipeline 2 × virtual stages 2 = 4 numbers of layers, found "
            "2) at parallel.stages; try parallel.stages: auto, which is [2, 2, 2, 2]");
  EXPECT_EQ(stages_message({.pipeline = 2, .stages = Layers{4, 3}}),
            "parallel.stages doesn't add up to the model's layers (expected 8, found [4, 3], which is 7) at "
            "parallel.stages; try parallel.stages: auto, which is [4, 4]");
  EXPECT_EQ(
      stages_message({.pipeline = 3, .stages = Layers{4, 0, 4}}),
      "chunk 1 of parallel.stages has no layer (expected at least 1; 0 only at the ends, which hold the embedding "
      "and the loss head, found 0) at parallel.stages; try parallel.stages: auto, which is [3, 3, 2]");
}

// ---- Schedules ----

std::string schedule_message(const ParallelConfig& parallel) {
  return message_of([&] { resolve_virtual_stages(parallel); });
}

TEST(ResolveSchedule, ChunksPerRank) {
  for (const PipelineSchedule schedule : {gpipe, one_f_one_b, interleaved, zb_h1}) {
    EXPECT_EQ(resolve_virtual_stages({.pipeline = 4, .schedule = schedule}), 1);
  }
  EXPECT_EQ(resolve_virtual_stages({.pipeline = 4, .virtual_stages = 3, .schedule = interleaved}), 3);
  EXPECT_EQ(resolve_virtual_stages({.pipeline = 4, .virtual_stages = 1, .schedule = zb_v}), 2);
  EXPECT_EQ(resolve_virtual_stages({.pipeline = 4, .virtual_stages = 2, .schedule = zb_v}), 2);
  // The pipeline degree and anything above; schedules of one chunk don't look at it.
  EXPECT_EQ(
      resolve_virtual_stages({.pipeline = 4, .virtual_stages = 2, .schedule = interleaved, .microbatch_group = 4}), 2);
  EXPECT_EQ(
      resolve_virtual_stages({.pipeline = 4, .virtual_stages = 2, .schedule = interleaved, .microbatch_group = 7}), 2);
  EXPECT_EQ(resolve_virtual_stages({.pipeline = 4, .microbatch_group = 1}), 1);
}

TEST(ResolveSchedule, SettingsThatDontFit) {
  EXPECT_EQ(schedule_message({.pipeline = 4, .virtual_stages = 2}),
            "the schedule 1f1b runs one chunk on each pipeline rank (expected parallel.virtual_stages: 1, found 2) at "
            "parallel.virtual_stages; try parallel.schedule: interleaved or zb_v");
  EXPECT_EQ(schedule_message({.pipeline = 4, .virtual_stages = 3, .schedule = zb_h1}),
            "the schedule zb_h1 runs one chunk on each pipeline rank (expected parallel.virtual_stages: 1, found 3) at "
            "parallel.virtual_stages; try parallel.schedule: interleaved");
  EXPECT_EQ(
      schedule_message({.pipeline = 4, .virtual_stages = 3, .schedule = zb_v}),
      "the schedule zb_v runs two chunks on each pipeline rank (expected 1 or 2, which both mean two, found 3) at "
      "parallel.virtual_stages; try parallel.virtual_stages: 2, or parallel.schedule: interleaved");
  EXPECT_EQ(schedule_message({.pipeline = 4, .virtual_stages = 2, .schedule = interleaved, .microbatch_group = 3}),
            "parallel.microbatch_group is below the pipeline degree (expected 4 or more (above the microbatches of a "
            "step it changes nothing), found 3) at parallel.microbatch_group; try parallel.microbatch_group: 4 (or "
            "auto)");
}

// Every refusal comes out of the one entry.
TEST(Resolve, ChecksTheCutOfTheModel) {
  EXPECT_NE(message_of([] { resolve(config_of({.pipeline = 2, .virtual_stages = 2}), 2, 0, 2); }).find("1f1b runs one"),
            std::string::npos);
  EXPECT_NE(message_of([] { resolve(config_of({.pipeline = 16}), 16, 0, 2); }).find("fewer layers"), std::string::npos);
  EXPECT_NE(message_of([] { resolve(config_of({.tensor = 8}), 8, 0, 2); }).find("kv-heads"), std::string::npos);
}

// ---- Experts ----

TEST(Resolve, ExpertDegrees) {
  const auto mesh_of = [](const ParallelConfig& parallel, int64_t world, int64_t experts) {
    Config config = config_of(parallel);
    config.model.experts.num_experts = experts;
    return resolve(config, world, world - 1, 8);
  };
  const auto message = [&](const ParallelConfig& parallel, int64_t world, int64_t experts) {
    return message_of([&] { mesh_of(parallel, world, experts); });
  };
  const Mesh mesh = mesh_of({.tensor = 2, .expert = 4, .expert_tensor = 2}, 16, 8);
  EXPECT_EQ(mesh.degree(Axis::expert), 4);
  EXPECT_EQ(mesh.degree(Axis::expert_tensor), 2);
  EXPECT_EQ(mesh.degree(Axis::expert_shard), 2);
  EXPECT_EQ(mesh.coordinate(Axis::expert), 3);

  EXPECT_EQ(
      message({.expert = 2}, 4, 0),
      "parallel.expert is above 1, and the model has no experts (expected 1, or a model with experts, found 2) at "
      "parallel.expert; try parallel.expert: 1");
  EXPECT_EQ(message({.expert_tensor = 2}, 4, 0),
            "parallel.expert_tensor is above 1, and the model has no experts (expected 1, or a model with experts, "
            "found 2) at parallel.expert_tensor; try parallel.expert_tensor: 1");
  EXPECT_EQ(message({.expert = 3}, 12, 8),
            "parallel.expert doesn't divide the model's experts (expected a divisor of 8 experts, found 3) at "
            "parallel.expert; try parallel.expert: 2 or 4");
  EXPECT_EQ(
      message({.tensor = 2, .pipeline = 2, .expert = 8}, 24, 64),
      "the degrees of experts don't divide the ranks of a pipeline stage (expected a divisor of data 6 × tensor 2 "
      "× context 1 = 12, found expert 8 × expert_tensor 1 = 8) at parallel.expert; try parallel.expert: 4");
  EXPECT_EQ(
      message({.expert = 4, .expert_tensor = 4}, 8, 64),
      "the degrees of experts don't divide the ranks of a pipeline stage (expected a divisor of data 8 × tensor 1 "
      "× context 1 = 8, found expert 4 × expert_tensor 4 = 16) at parallel.expert; try parallel.expert: 2, or "
      "parallel.expert_tensor: 2");
  EXPECT_NE(message({.expert_tensor = 3}, 8, 64).find(" at parallel.expert_tensor; try parallel.expert_tensor: 2 or 4"),
            std::string::npos);
  EXPECT_NE(message({.expert = 16, .expert_tensor = 3}, 8, 64)
                .find("; try parallel.expert_tensor: 1 with parallel.expert: 8"),
            std::string::npos);
  const int64_t huge = int64_t{1} << 62;
  EXPECT_NE(message({.expert = huge, .expert_tensor = huge}, 8, huge).find("don't divide"), std::string::npos);
}

TEST(Resolve, MicrobatchesMustDivideTheBatch) {
  EXPECT_EQ(resolve_microbatches(24, 2, 3), 4);
  EXPECT_EQ(
      message_of([] { resolve_microbatches(25, 2, 3); }),
      "the global batch doesn't divide into microbatches of all data ranks (expected batch.global a multiple of "
      "data 3 × batch.micro 2 = 6, found 25) at batch.global; try batch.global: 24 or 30, or another batch.micro");
  EXPECT_NE(message_of([] { resolve_microbatches(2, 2, 3); }).find("batch.global: 6,"), std::string::npos);
}

// ---- A million ranks ----

// What a rank of a million makes: its mesh, and lists of ranks as long as its groups; only the group of all ranks is as
// long as the world.
TEST(Resolve, AMillionRanks) {
  Config config = config_of({.tensor = 8, .pipeline = 10, .zero = 3, .zero_group = 100});
  config.model = {.num_layers = 40, .num_heads = 64, .num_kv_heads = 8};
  const int64_t world = 1000000;
  for (uint64_t draw = 0; draw < 100; ++draw) {
    const auto rank = static_cast<int64_t>(uniform_below(random_key(1, "ranks"), draw, world));
    const Mesh mesh = resolve(config, world, rank, 8);
    EXPECT_EQ(mesh.degree(Axis::data_shard), 100);
    EXPECT_EQ(mesh.degree(Axis::data_replica), 125);
    for (const AxisSet axes : {AxisSet{Axis::tensor}, AxisSet{Axis::data_shard}, AxisSet{Axis::data_replica}, kDataAxes,
                               AxisSet{Axis::pipeline}}) {
      const std::vector<int64_t> group = mesh.group(axes);
      EXPECT_EQ(static_cast<int64_t>(group.size()), mesh.group_size(axes));
      EXPECT_EQ(group[static_cast<size_t>(mesh.group_rank(axes))], rank);
    }
    EXPECT_LE(mesh.group_size(kDataAxes), 12500);
  }
}

// The communicators of one rank, with a backend that only counts: no list but the world's is longer than the data degree.
TEST(Resolve, GroupsOfARankOfAMillion) {
  const Config config = [] {
    Config c = config_of({.tensor = 8, .pipeline = 8, .zero = 1, .zero_group = 125});
    c.model.num_kv_heads = 8;
    return c;
  }();
  const int64_t world = 1000000;
  FlightRecorder recorder(0);
  size_t listed = 0;
  int whole_worlds = 0;
  const Mesh mesh = resolve(config, world, 777777, 8);
  const Groups groups(mesh, /*ring=*/true, [&](const std::vector<int>& ranks, const std::string& name) {
    static_cast<int64_t>(ranks.size()) == world ? static_cast<void>(++whole_worlds)
                                                : static_cast<void>(listed += ranks.size());
    return ranks.empty() ? nullptr : make_self_communicator(name, recorder);
  });
  EXPECT_EQ(whole_worlds, 1);
  // tensor, data_shard, data_replica, data; two ways each to the stages before and after; the ends.
  EXPECT_EQ(listed, static_cast<size_t>(8 + 125 + 125 + 15625 + 4 * 2 + 1));
}

}  // namespace
}  // namespace trireme
