// The shrunken configuration: few ranks, small sizes, and every feature where it was.
#include "launcher/shrink.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <numeric>

#include "core/config/load.h"
#include "core/error.h"
#include "core/random/philox.h"
#include "parallel/resolve.h"

namespace trireme {
namespace {

using enum PipelineSchedule;
using Layers = std::vector<int64_t>;

Config llama_70b(const ParallelConfig& parallel) {
  Config c;
  c.model = {.hidden_size = 8192,
             .num_layers = 80,
             .num_heads = 64,
             .num_kv_heads = 8,
             .head_dim = 128,
             .ffn_size = 28672,
             .vocab_size = 128256,
             .max_positions = 8192};
  c.data.sequence_length = 8192;
  c.batch = {.global = 1024, .micro = 1};
  c.parallel = parallel;
  return c;
}

TEST(Shrink, DegreesShrinkInTheirOrder) {
  const auto degrees = [](ParallelConfig parallel) {
    const ParallelConfig c = shrink(llama_70b(parallel)).parallel;
    return Layers{*c.data, c.tensor, c.pipeline};
  };
  EXPECT_EQ(degrees({}), (Layers{2, 1, 1}));
  EXPECT_EQ(degrees({.data = 8, .tensor = 2, .pipeline = 4}), (Layers{8, 2, 4})) << "64 ranks stay";
  EXPECT_EQ(degrees({.data = 16, .tensor = 2, .pipeline = 4}), (Layers{8, 2, 4}));
  EXPECT_EQ(degrees({.data = 128, .tensor = 8, .pipeline = 4}), (Layers{2, 8, 4}));
  EXPECT_EQ(degrees({.data = 128, .tensor = 8, .pipeline = 16}), (Layers{2, 8, 4}));
  EXPECT_EQ(degrees({.tensor = 8, .pipeline = 80}), (Layers{2, 8, 4}));
  EXPECT_EQ(degrees({.data = 1, .tensor = 8, .pipeline = 16}), (Layers{1, 8, 8}));
}

TEST(Shrink, LayersAreOneForEachChunk) {
  const auto layers = [](ParallelConfig parallel) {
    const Config c = shrink(llama_70b(parallel));
    EXPECT_EQ(resolve_stages(c), c.parallel.stages.value_or(resolve_stages(c)));
    return resolve_stages(c);
  };
  EXPECT_EQ(layers({.pipeline = 4}), (Layers{1, 1, 1, 1}));
  EXPECT_EQ(layers({.pipeline = 3}), (Layers{1, 2, 1})) << "80 layers don't divide by 3";
  EXPECT_EQ(layers({.tensor = 8, .pipeline = 16, .virtual_stages = 5, .schedule = interleaved}), Layers(20, 1));
  EXPECT_EQ(layers({.pipeline = 2, .schedule = zb_v}), (Layers{1, 1, 1, 1}));
  EXPECT_EQ(layers({}), (Layers{2}));
  EXPECT_EQ(layers({.pipeline = 4, .stages = Layers{0, 40, 40, 0}}), (Layers{0, 2, 2, 0}));
  EXPECT_EQ(layers({.pipeline = 4, .stages = Layers{19, 21, 21, 19}}), (Layers{1, 2, 2, 1}));
}

TEST(Shrink, ShardGroupsStayInside) {
  const auto group = [](ParallelConfig parallel) {
    const ParallelConfig c = shrink(llama_70b(parallel)).parallel;
    return std::pair{*c.data, c.zero_group};
  };
  using Group = std::pair<int64_t, int64_t>;
  EXPECT_EQ(group({.data = 128, .tensor = 8, .zero = 3, .zero_group = 16}), (Group{8, 2}));
  EXPECT_EQ(group({.data = 128, .tensor = 8, .pipeline = 4, .zero = 3, .zero_group = 16}), (Group{4, 2}));
  EXPECT_EQ(group({.tensor = 8, .zero = 3, .zero_group = kZeroGroupNode}), (Group{4, 2}));
  EXPECT_EQ(group({.data = 128, .zero = 3, .zero_group = 128}), (Group{64, kZeroGroupAll}));
  EXPECT_EQ(group({.data = 128, .zero = 3, .zero_group = 1}), (Group{64, 1}));
  EXPECT_EQ(group({.data = 8, .zero = 3, .zero_group = 4}), (Group{8, 4}));
  EXPECT_EQ(group({.data = 128, .zero = 0, .zero_group = 16}), (Group{64, kZeroGroupAll}));
}

TEST(Shrink, TheModelKeepsItsFeatures) {
  Config c = llama_70b({.tensor = 8, .sequence = true, .zero = 3, .keep_gathered = KeepGathered::unit, .prefetch = 2});
  c.model.family = ModelFamily::qwen2;
  c.model.attention_bias = true;
  c.model.tie_embeddings = true;
  c.model.rope = {.type = RopeType::llama3, .theta = 5e5, .factor = 8};
  c.data.mask_documents = true;
  c.precision.compute = ComputeType::bf16;
  c.recompute = {.mode = RecomputeMode::full, .layers = 20};
  const Config s = shrink(c);
  EXPECT_EQ(s.model.family, c.model.family);
  EXPECT_TRUE(s.model.attention_bias);
  EXPECT_TRUE(s.model.tie_embeddings);
  EXPECT_EQ(s.model.rope, c.model.rope);
  EXPECT_EQ(s.precision, c.precision);
  EXPECT_EQ(s.recompute.mode, RecomputeMode::full);
  EXPECT_EQ(s.recompute.layers, 1) << "a part of the layers stays a part";
  EXPECT_TRUE(s.data.mask_documents);
  EXPECT_TRUE(s.parallel.sequence);
  EXPECT_EQ(s.parallel.zero, 3);
  EXPECT_EQ(s.parallel.keep_gathered, KeepGathered::unit);
  EXPECT_EQ(s.parallel.prefetch, 2);
  EXPECT_EQ(s.optimizer.eps, 1e-4);
  EXPECT_EQ(s.model.num_kv_heads, 8);
  EXPECT_EQ(s.model.num_heads, 16);
  EXPECT_LE(s.model.hidden_size, 256);
  EXPECT_LE(s.data.sequence_length, 17);
}

TEST(Shrink, WhatNeededPaddingStillDoes) {
  Config c = llama_70b({.tensor = 4});
  Config s = shrink(c);
  EXPECT_EQ(s.model.vocab_size % 32, 0);
  EXPECT_EQ(s.model.ffn_size % 32, 0);
  EXPECT_EQ(s.data.sequence_length % 4, 0);
  EXPECT_EQ(s.model.hidden_size, s.model.num_heads * s.model.head_dim);
  c.model.vocab_size = 50257;
  c.model.ffn_size = 28670;
  c.data.sequence_length = 1023;
  c.model.hidden_size = 5120;
  s = shrink(c);
  EXPECT_NE(s.model.vocab_size % 32, 0);
  EXPECT_NE(s.model.ffn_size % 32, 0);
  EXPECT_NE(s.data.sequence_length % 4, 0);
  EXPECT_NE(s.model.hidden_size, s.model.num_heads * s.model.head_dim);
}

TEST(Shrink, RaggedMicrobatchesStayRagged) {
  const auto count = [](ParallelConfig parallel, int64_t microbatches) {
    Config c = llama_70b(parallel);
    c.batch.global = microbatches * c.batch.micro * *parallel.data;
    const Config s = shrink(c);
    return resolve_microbatches(s.batch.global, s.batch.micro, *s.parallel.data);
  };
  EXPECT_EQ(count({.data = 2, .pipeline = 4}, 32), 8);
  EXPECT_EQ(count({.data = 2, .pipeline = 4}, 33), 9);
  EXPECT_EQ(count({.data = 2, .pipeline = 4}, 3), 3);
  EXPECT_EQ(count({.data = 2}, 64), 3);
  EXPECT_EQ(count({.data = 1, .pipeline = 4, .virtual_stages = 2, .schedule = interleaved, .microbatch_group = 6}, 20),
            12)
      << "two groups of five, and two more";
}

TEST(Shrink, IllegalLayoutsAreRefusedAsTheyAre) {
  EXPECT_THROW(shrink(llama_70b({.tensor = 3})), ConfigError);
  EXPECT_THROW(shrink(llama_70b({.pipeline = 100})), ConfigError);
  EXPECT_THROW(shrink(llama_70b({.data = 6, .zero = 1, .zero_group = 4})), ConfigError);
  EXPECT_THROW(shrink(llama_70b({.data = 6})), ConfigError) << "the batch";
  const int64_t huge = int64_t{1} << 62;
  EXPECT_THROW(shrink(llama_70b({.tensor = huge, .pipeline = huge})), ConfigError);
}

// Whatever is legal shrinks to something legal and small.
TEST(Shrink, RandomLayouts) {
  const uint64_t key = random_key(5, "shrink");
  uint64_t at = 0;
  const auto pick = [&](std::vector<int64_t> values) { return values[uniform_below(key, at++, values.size())]; };
  for (int i = 0; i < 2000; ++i) {
    ParallelConfig p;
    p.data = pick({1, 2, 4, 6, 12, 64, 1024});
    p.tensor = pick({1, 2, 4, 8});
    p.pipeline = pick({1, 2, 3, 5, 16});
    p.schedule = static_cast<PipelineSchedule>(pick({0, 1, 2, 3, 4}));
    if (p.schedule == interleaved) p.virtual_stages = pick({1, 2, 5});
    p.zero = pick({0, 1, 2, 3});
    p.zero_group = pick({kZeroGroupAll, kZeroGroupNode, 1, 2, *p.data});
    Config c = llama_70b(p);
    c.batch.global = *p.data * pick({1, 3, 8, 17});
    if (*p.data % std::max<int64_t>(1, p.zero_group) != 0) continue;
    const Config s = shrink(c);
    const int64_t ranks = num_ranks(s.parallel);
    EXPECT_LE(ranks, kMaxShrunkenRanks);
    EXPECT_NO_THROW(resolve(s, ranks, ranks - 1, ranks));
    EXPECT_GE(resolve_microbatches(s.batch.global, s.batch.micro, *s.parallel.data), 1);
    for (const auto& [given, small] :
         {std::pair{*p.data, *s.parallel.data}, {p.tensor, s.parallel.tensor}, {p.pipeline, s.parallel.pipeline}}) {
      EXPECT_LE(small, given);
      EXPECT_EQ(small > 1, given > 1);
    }
    // It can be written down, and shrinks to itself as far as ranks go.
    EXPECT_EQ(num_ranks(shrink(s).parallel), ranks);
  }
}

}  // namespace
}  // namespace trireme
