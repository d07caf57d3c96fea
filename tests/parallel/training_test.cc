// Whole training runs on one and several ranks as threads: what must be the same bits, and what must have happened. They
// run on the GPUs of a machine that has some.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/run_devices.h"
#include "tests/training_runs.h"

namespace trireme {
namespace {

using testing::read_file;
using testing::tiny_yaml;

class Training : public testing::TrainingRuns {};

// Continuing after a stop equals never having stopped, bit for bit.

class Resume : public Training, public ::testing::WithParamInterface<int> {};

TEST_P(Resume, EqualsNeverHavingStopped) {
  const int ranks = GetParam();
  const auto whole = run("whole", 9, ranks, {});
  run("parts", 9, ranks, {"checkpoint.every=4"});
  // Forget everything after step 4 and continue.
  std::filesystem::remove_all(dir_ / "parts/checkpoints/step-00000008");
  std::filesystem::remove_all(dir_ / "parts/checkpoints/step-00000009");
  const auto parts = run("parts", 9, ranks, {"checkpoint.every=4"});
  EXPECT_EQ(whole, parts);
  // No step stands twice in the metrics, and each row is that of the run that never stopped.
  const auto a = metrics("whole");
  const auto b = metrics("parts");
  ASSERT_EQ(a.size(), 9u);
  ASSERT_EQ(b.size(), 9u);
  for (size_t i = 0; i < a.size(); ++i) {
    for (const char* key : {"step", "tokens", "loss", "lr", "grad_norm"}) EXPECT_EQ(a[i][key], b[i][key]) << i << key;
  }
}
INSTANTIATE_TEST_SUITE_P(Ranks, Resume, ::testing::ValuesIn(ranks_that_fit({1, 2, 4})));

TEST_F(Training, ChangedSeedChangesTheBits) { EXPECT_NE(run("a", 3, 1, {}), run("b", 3, 1, {"run.seed=7"})); }

TEST_F(Training, RunAfterRunHasTheSameBits) {
  for (const int ranks : ranks_that_fit({1, 2})) {
    for (const std::string compute : {"precision.compute=fp32", "precision.compute=bf16"}) {
      const std::string name = compute.substr(compute.find('=') + 1) + std::to_string(ranks);
      EXPECT_EQ(run(name + "a", 5, ranks, {compute}), run(name + "b", 5, ranks, {compute})) << name;
    }
  }
}

TEST_F(Training, LayoutsGiveTheSameLosses) {
  run("1", 6, 1, {});
  for (const int ranks : ranks_that_fit({2, 4})) {
    const std::string name = std::to_string(ranks);
    run(name, 6, ranks, {});
    const auto a = metrics("1");
    const auto b = metrics(name);
    ASSERT_EQ(b.size(), a.size());
    for (size_t i = 0; i < a.size(); ++i) {
      EXPECT_NEAR(b[i]["loss"].get<double>(), a[i]["loss"].get<double>(), 1e-5) << name << " step " << i;
      EXPECT_NEAR(b[i]["grad_norm"].get<double>(), a[i]["grad_norm"].get<double>(), 1e-4) << name << " step " << i;
    }
  }
}

TEST_F(Training, RecomputationAndOverlapKeepTheBits) {
  const int ranks = most_ranks(2);
  for (const char* compute : {"precision.compute=fp32", "precision.compute=bf16"}) {
    const auto plain = run("plain", 4, ranks, {compute, "checkpoint.resume=never"});
    EXPECT_EQ(plain, run("sel", 4, ranks, {compute, "recompute.mode=selective", "checkpoint.resume=never"}));
    EXPECT_EQ(plain, run("full", 4, ranks, {compute, "recompute.mode=full", "checkpoint.resume=never"}));
    EXPECT_EQ(plain, run("first", 4, ranks, {compute, "recompute={mode: full, layers: 1}", "checkpoint.resume=never"}));
    EXPECT_EQ(plain, run("late", 4, ranks, {compute, "parallel.overlap_grad_reduce=false", "checkpoint.resume=never"}));
  }
}

TEST_F(Training, LearnsAndMasksDocuments) {
  run("learn", 60, 1, {"data.mask_documents=true", "run.eval_every=20"});
  const auto rows = metrics("learn");
  EXPECT_LT(rows.back()["loss"].get<double>(), rows.front()["loss"].get<double>() - 0.8);
  EXPECT_TRUE(rows[19].contains("valid_loss"));
  EXPECT_FALSE(rows[18].contains("valid_loss"));
}

TEST_F(Training, AllocatorsAreIdleFromStepThreeOn) {
  const Config config = parse_config(tiny_yaml(dir_, 1), "test", {"run.dir=" + (dir_ / "idle")});
  run_rank_contexts(config, most_ranks(2), [&](RankContext& rank) {
    RankModel model(rank, config);
    model.model.initialize(rank.stream(), 1);
    TrainStep& step = model.step;
    std::vector<int32_t> ids(static_cast<size_t>(2 * config.data.sequence_length), 5);
    std::vector<int32_t> positions(ids.size());
    for (size_t i = 0; i < ids.size(); ++i) positions[i] = static_cast<int32_t>(i % 19);
    const HostMicrobatch microbatch{2, config.data.sequence_length, ids.data(), ids.data(), positions.data(), nullptr};
    const std::vector<HostMicrobatch> microbatches(2, microbatch);
    // What lasts is there before the first step.
    const auto lasting = [&] {
      const auto bytes = rank.allocator().stats().live_bytes;
      const auto of = [&](MemoryTag tag) { return bytes[static_cast<size_t>(tag)]; };
      return std::vector<int64_t>{of(MemoryTag::parameters), of(MemoryTag::gradients), of(MemoryTag::optimizer)};
    };
    const std::vector<int64_t> at_first = lasting();
    for (const int64_t bytes : at_first) EXPECT_GT(bytes, 0);
    int64_t settled = 0;
    for (int64_t s = 1; s <= 8; ++s) {
      step.forward_backward(microbatches);
      step.update(1e-3, s);
      EXPECT_EQ(lasting(), at_first) << "step " << s;
      step.take_numbers();
      step.evaluate(std::span(microbatches).first(1));
      const int64_t allocations = rank.allocator().stats().system_allocations;
      if (s == 2) settled = allocations;
      if (s > 2) {
        EXPECT_EQ(allocations, settled) << "step " << s;
      }
    }
    EXPECT_GT(settled, 0);
  });
}

// Gradients are reduced once a step, whatever the number of microbatches, and with overlap while backward still runs.
TEST_F(Training, GradientsAreReducedOnceAndDuringBackward) {
  if (most_ranks(2) < 2) GTEST_SKIP() << "needs two GPUs, and this machine has one";
  for (const bool overlap : {true, false}) {
    const Config config = parse_config(tiny_yaml(dir_, 1), "test",
                                       {"run.dir=" + (dir_ / "x"), "parallel.zero=0",
                                        std::string("parallel.overlap_grad_reduce=") + (overlap ? "true" : "false")});
    run_rank_contexts(config, 2, [&](RankContext& rank) {
      RankModel model(rank, config);
      model.model.initialize(rank.stream(), 1);
      std::vector<int32_t> ids(38, 5);
      std::vector<int32_t> positions(38, 1);
      const HostMicrobatch microbatch{2, 19, ids.data(), ids.data(), positions.data(), nullptr};
      rank.recorder().clear();
      model.step.forward_backward(std::vector<HostMicrobatch>(3, microbatch));
      int64_t reduced_bytes = 0;
      int64_t gradient_bytes = 0;
      std::vector<FlightRecord> gradient_calls;
      for (const FlightRecord& record : rank.recorder().records()) {
        ASSERT_EQ(record.op, CommOp::all_reduce);
        if (record.bytes <= 16) continue;       // label count
        if (record.group == "world") continue;  // sums
        gradient_calls.push_back(record);
        reduced_bytes += record.bytes;
      }
      for (Bucket* bucket : model.model.buckets()) gradient_bytes += bucket->gradient().bytes();
      EXPECT_EQ(reduced_bytes, gradient_bytes);
      EXPECT_EQ(gradient_calls.size(), model.model.buckets().size());
      // The head, its table and its norm, is ready first, the embedding last: with overlap that is the order, and the
      // calls are spread over time.
      const std::vector<Bucket*> buckets = model.model.buckets();
      const size_t n = buckets.size();
      EXPECT_EQ(gradient_calls[0].bytes + gradient_calls[1].bytes,
                buckets[n - 1]->gradient().bytes() + buckets[n - 2]->gradient().bytes());
      EXPECT_EQ(gradient_calls.back().bytes, model.model.buckets().front()->gradient().bytes());
    });
  }
}

// profile: the traced steps of the traced rank, each with its layers, collectives and optimizer; the same bits as without.
TEST_F(Training, ATraceHasWhatTheStepsDid) {
  const std::string file = dir_ / "trace.json";
  if (most_ranks(2) < 2) GTEST_SKIP() << "needs two GPUs, and this machine has one";
  const auto traced = run("traced", 4, 2, {"profile.start=2", "profile.end=3", "profile.trace=" + file});
  EXPECT_EQ(traced, run("plain", 4, 2, {}));
  std::map<std::string, int> counts;
  const nlohmann::json trace = nlohmann::json::parse(read_file(file));
  for (const auto& event : trace.at("traceEvents")) {
    // The first track is the host's; a GPU has each range on a track of its own once more.
    if (event.at("ph") == "X" && event.at("tid") == 0) ++counts[event.at("name")];
  }
  EXPECT_EQ(counts["step"], 2);
  EXPECT_EQ(counts["data"], 2);
  EXPECT_EQ(counts["optimizer"], 2);
  for (const char* name : {"microbatch 0 forward", "microbatch 1 forward", "microbatch 1 backward"}) {
    EXPECT_EQ(counts[name], 2) << name;
  }
  for (const char* name : {"forward layer 1", "backward layer 1", "weight layer 1", "forward head"}) {
    EXPECT_EQ(counts[name], 4) << name;
  }
  EXPECT_GT(counts["all_reduce"], 0);
  EXPECT_EQ(counts["checkpoint"], 0);
}

}  // namespace
}  // namespace trireme
