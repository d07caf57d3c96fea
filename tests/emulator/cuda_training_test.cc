// Whole training runs on emulated GPUs: against the CPU, with NCCL between ranks, with graphs, and what must be the same
// bits. The tests of tests/parallel/training_test.cc run here as well.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <thread>

#include "core/error.h"
#include "core/ops/gemm_algorithms.h"
#include "launcher/gemm_tuning.h"
#include "tests/emulator/emulator.h"
#include "tests/emulator/nvtx_log.h"
#include "tests/training.h"

namespace trireme {
namespace {

using testing::read_file;
using testing::state_hashes;
using testing::TempDir;
using testing::tiny_yaml;
using Hashes = testing::StateHashes;

class CudaTraining : public ::testing::Test {
 protected:
  void SetUp() override { testing::write_corpus(dir_ / "corpus", 20000); }
  void TearDown() override {
    emulator::set_order(emulator::Order::forward);
    emulator::set_memory_limit(int64_t{4} << 30);
  }

  Config config(const std::string& name, int64_t steps, std::vector<std::string> sets) {
    sets.push_back("run.dir=" + (dir_ / name));
    return parse_config(tiny_yaml(dir_, steps), "test", sets);
  }

  Hashes run(const std::string& name, int64_t steps, int ranks, std::vector<std::string> sets = {}) {
    testing::train(config(name, steps, std::move(sets)), ranks);
    return state_hashes(*latest_checkpoint(dir_ / name));
  }

  std::vector<double> losses(const std::string& name) {
    std::vector<double> values;
    std::istringstream lines(read_file(dir_ / name + "/metrics.jsonl"));
    for (std::string line; std::getline(lines, line);) values.push_back(nlohmann::json::parse(line).at("loss"));
    return values;
  }

  void expect_same_losses(const std::string& a, const std::string& b, double tolerance) {
    const std::vector<double> x = losses(a);
    const std::vector<double> y = losses(b);
    ASSERT_EQ(x.size(), y.size());
    for (size_t i = 0; i < x.size(); ++i) EXPECT_NEAR(x[i], y[i], tolerance) << "step " << i + 1;
  }

  TempDir dir_;
};

TEST_F(CudaTraining, HasTheLossesOfTheCpu) {
  const int64_t launches = emulator::counters().launches;
  run("cuda", 6, 1);
  EXPECT_GT(emulator::counters().launches, launches + 100) << "nothing ran on the GPU";
  run("cpu", 6, 1, {"run.device=cpu"});
  expect_same_losses("cuda", "cpu", 1e-5);
}

// The same draws, so that only the arithmetic before the rounding differs.
TEST_F(CudaTraining, HasTheLossesOfTheCpuWithEverythingInBf16) {
  const std::string precision = "precision={compute: bf16, master: none, gradients: bf16, optimizer_states: bf16}";
  run("cuda", 10, 1, {precision});
  run("cpu", 10, 1, {precision, "run.device=cpu"});
  expect_same_losses("cuda", "cpu", 2e-3);
}

// The order in which blocks and threads run is not one of the things that a result depends on.
TEST_F(CudaTraining, SameBitsInAnyOrderOfThreads) {
  const Hashes forward = run("forward", 3, 1);
  emulator::set_order(emulator::Order::reversed);
  EXPECT_EQ(forward, run("reversed", 3, 1));
  emulator::set_order(emulator::Order::seeded, 7);
  EXPECT_EQ(forward, run("seeded", 3, 1));
}

TEST_F(CudaTraining, NcclRanksHaveTheLossesOfOne) {
  run("one", 5, 1);
  for (const int ranks : {2, 4}) {
    const std::string name = "ranks" + std::to_string(ranks);
    run(name, 5, ranks);
    expect_same_losses(name, "one", 1e-5);
  }
}

TEST_F(CudaTraining, GraphsKeepTheBits) {
  int64_t launches = emulator::counters().graph_launches;
  for (const int ranks : {1, 2}) {
    const std::string suffix = std::to_string(ranks);
    const Hashes never = run("never" + suffix, 4, ranks, {"run.cuda_graphs=never"});
    EXPECT_EQ(emulator::counters().graph_launches, launches);
    EXPECT_EQ(never, run("always" + suffix, 4, ranks, {"run.cuda_graphs=always"}));
    EXPECT_EQ(emulator::counters().graphs, 0);
    // A microbatch runs once as it comes. With several ranks the last one of a step communicates, and is no graph.
    launches += ranks == 1 ? 4 * 4 - 2 : 2 * (4 * 1 - 1);
    EXPECT_EQ(emulator::counters().graph_launches, launches);
  }
}

// GELU in the epilogue of a product gives other bits than the kernel that recomputation would run.
TEST_F(CudaTraining, RecomputationKeepsTheBitsOfFusedGelu) {
  const std::string model =
      "model={model_type: gpt2, n_embd: 32, n_layer: 2, n_head: 2, vocab_size: 256, n_positions: 64}";
  const Hashes plain = run("plain", 3, 1, {model, "precision.compute=bf16"});
  EXPECT_EQ(plain, run("selective", 3, 1, {model, "precision.compute=bf16", "recompute.mode=selective"}));
  EXPECT_EQ(plain, run("full", 3, 1, {model, "precision.compute=bf16", "recompute.mode=full"}));
  const auto algorithms = nlohmann::json::parse(read_file(dir_ / "selective/gemm_algorithms.json")).at("algorithms");
  int fused = 0;
  for (const auto& [kind, algorithm] : algorithms.items()) {
    if (kind.find(" gelu") != std::string::npos && algorithm != "none") ++fused;
  }
  EXPECT_GE(fused, 2) << "no GELU, or none of its gradients, was in an epilogue";
}

TEST_F(CudaTraining, GemmChoicesAreRecordedAndTakenUpAgain) {
  run("run", 4, 1, {"checkpoint.every=2"});
  const std::string file = dir_ / "run/gemm_algorithms.json";
  const std::string recorded = read_file(file);
  EXPECT_TRUE(nlohmann::json::parse(recorded).is_object());
  std::filesystem::remove_all(dir_ / "run/checkpoints/step-00000004");
  run("run", 4, 1);
  EXPECT_EQ(read_file(file), recorded);
  // New times could lead to the old choices. What nobody times here stays only where the record was read.
  nlohmann::json marked = nlohmann::json::parse(recorded);
  marked["algorithms"]["a product of another run"] = "none";
  const std::string text = marked.dump(1) + "\n";
  std::ofstream(file) << text;
  std::filesystem::remove_all(dir_ / "run/checkpoints/step-00000004");
  run("run", 4, 1);
  EXPECT_EQ(read_file(file), text);
}

TEST_F(CudaTraining, TheFirstDataRankChoosesForAll) {
  const Config config = this->config("chosen", 1, {});
  run_rank_contexts(config, 2, [&](RankContext& rank) {
    RankModel model(rank, config);
    model.model.initialize(rank.stream(), 1);
    nlohmann::json record = nlohmann::json::parse(ops::export_gemm_algorithms(rank.stream()));
    record["algorithms"]["a product of rank " + std::to_string(rank.rank())] = "none";
    EXPECT_TRUE(ops::import_gemm_algorithms(rank.stream(), record.dump()));
    Console console(/*fd=*/2, /*terminal=*/false);
    Logger logger(rank.rank(), console);
    tune_gemms(rank, config, model.step, logger);
    EXPECT_NE(ops::export_gemm_algorithms(rank.stream()).find("a product of rank 0"), std::string::npos);
  });
}

// The host queues a step and asks for the numbers of the one before; nothing else holds it up.
TEST_F(CudaTraining, TheHostWaitsForTheStepBeforeAlone) {
  const auto waits = [&](const Config& config, int ranks, int64_t steps) {
    const emulator::Counters before = emulator::counters();
    run_rank_contexts(config, ranks, [&](RankContext& rank) {
      RankModel model(rank, config);
      model.model.initialize(rank.stream(), 1);
      const std::vector<int32_t> ids(38, 5);
      const std::vector<int32_t> positions(38, 1);
      const HostMicrobatch microbatch{2, 19, ids.data(), ids.data(), positions.data(), nullptr};
      for (int64_t s = 1; s <= steps; ++s) {
        model.step.forward_backward(std::vector<HostMicrobatch>(4, microbatch));
        model.step.update(1e-3, s);
        if (s > 1) model.step.take_numbers();
      }
      model.step.take_numbers();
    });
    return emulator::counters().host_waits - before.host_waits;
  };
  struct Layout {
    int ranks;
    std::vector<std::string> sets;
  };
  const std::vector<Layout> layouts = {
      {1, {"run.cuda_graphs=never"}},
      {1, {"run.cuda_graphs=always"}},
      {2, {"parallel.zero=0"}},
      {2, {"parallel.zero=2"}},
      {2, {"parallel.zero=3"}},
      {2, {"parallel.tensor=2", "model.num_attention_heads=4", "model.num_key_value_heads=2"}},
      {2, {"parallel.pipeline=2"}},
  };
  for (const auto& [ranks, sets] : layouts) {
    const Config config = this->config("waits", 1, sets);
    const int64_t few = waits(config, ranks, 2);
    EXPECT_EQ(waits(config, ranks, 4) - few, 2 * ranks) << sets[0];
  }
}

TEST_F(CudaTraining, AProfilerSeesRangesAndItsWindow) {
  const emulator::Counters before = emulator::counters();
  emulator::record_nvtx();
  run("profiled", 4, 2, {"profile.start=2", "profile.end=3", "profile.trace=" + (dir_ / "trace.json")});
  const std::vector<emulator::NvtxRange> ranges = emulator::take_nvtx();
  const emulator::Counters after = emulator::counters();
  EXPECT_EQ(after.profiler_starts - before.profiler_starts, 1);
  EXPECT_EQ(after.profiler_stops - before.profiler_stops, 1);
  std::map<std::string, int> counts;
  int64_t reduced_bytes = 0;
  for (const emulator::NvtxRange& range : ranges) {
    EXPECT_EQ(range.domain, "trireme");
    ++counts[range.name];
    if (range.name == "all_reduce") reduced_bytes += range.bytes;
  }
  EXPECT_EQ(counts["step"], 8);  // of two ranks
  for (const char* name :
       {"microbatch 0 forward", "forward layer 1", "backward layer 1", "weight layer 1", "optimizer", "data"}) {
    EXPECT_GE(counts[name], 8) << name;
  }
  EXPECT_GT(reduced_bytes, 0);
  EXPECT_GT(counts["checkpoint"], 0);

  // The file has the device's clock beside the host's.
  const nlohmann::json trace = nlohmann::json::parse(read_file(dir_ / "trace.json"));
  std::set<std::string> tracks;
  for (const auto& event : trace.at("traceEvents")) {
    if (event.at("name") == "thread_name") tracks.insert(event.at("args").at("name"));
  }
  EXPECT_TRUE(tracks.contains("host"));
  EXPECT_TRUE(tracks.contains("cuda:0"));
  EXPECT_TRUE(tracks.contains("group data"));  // NCCL's stream
}

// The host is a step ahead when it learns of the NaN: what it knows must be of the step that failed.
TEST_F(CudaTraining, ANaNEndsTheRunWithNothingSaved) {
  for (const std::string layout : {"parallel.data=2", "parallel.pipeline=2"}) {
    try {
      run("nan " + layout, 9, 2, {"optimizer.lr=1.0e30", layout});
      ADD_FAILURE() << "it trained";
    } catch (const NumbersError& error) {
      const std::string text = error.what();
      EXPECT_NE(text.find("not finite in step 2"), std::string::npos) << text;
      EXPECT_NE(text.find("the first NaN or Inf in"), std::string::npos) << text;
    }
    const std::string run_dir = dir_ / "nan " + layout;
    EXPECT_FALSE(latest_checkpoint(run_dir).has_value());
    EXPECT_EQ(losses("nan " + layout).size(), 1u);
    const nlohmann::json status = nlohmann::json::parse(read_file(run_dir + "/status.json"));
    EXPECT_EQ(status.at("state"), "failed");
    EXPECT_EQ(status.at("step"), 1);
    EXPECT_EQ(status.at("exit_code"), 5);
  }
}

TEST_F(CudaTraining, ASignalStopsAllRanksAfterTheSameStep) {
  std::atomic<bool> over{false};
  std::thread sender([&] {
    const std::string rows = dir_ / "stopped" + "/metrics.jsonl";
    while (!over && (!std::filesystem::exists(rows) || read_file(rows).empty())) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    if (!over) ::kill(::getpid(), SIGTERM);
  });
  run("stopped", 100000, 2);
  over = true;
  sender.join();
  const nlohmann::json status = nlohmann::json::parse(read_file(dir_ / "stopped" + "/status.json"));
  EXPECT_EQ(status.at("state"), "stopped");
  EXPECT_EQ(status.at("exit_code"), 0);
  const auto checkpoint = latest_checkpoint(dir_ / "stopped");
  ASSERT_TRUE(checkpoint.has_value());
  EXPECT_EQ(read_manifest(*checkpoint).step, status.at("step"));
  EXPECT_EQ(static_cast<int64_t>(losses("stopped").size()), status.at("step"));
}

TEST_F(CudaTraining, OutOfMemorySaysWhatAndHowMuch) {
  const auto expect = [&](int64_t limit_mib, std::vector<std::string> sets, const std::vector<std::string>& parts) {
    emulator::set_memory_limit(limit_mib << 20);
    try {
      run("small", 2, 1, std::move(sets));
      ADD_FAILURE() << "it fitted";
    } catch (const MachineError& error) {
      const std::string text = error.what();
      for (const std::string& part : parts) EXPECT_NE(text.find(part), std::string::npos) << part << ": " << text;
    }
  };
  expect(4, {"model.hidden_size=96", "model.vocab_size=5000", "model.num_hidden_layers=4"},
         {"no room for a tensor f32[480000]: cuda:0 is out of memory: 1920000 bytes for optimizer states",
          "parameters 1.8 MiB, gradients 1.8 MiB alive, 3.7 MiB held of the GPU's 4.0 MiB", "parallel.zero"});
  expect(16, {"batch.global=8192", "batch.micro=8192"},
         {"cuda:0 is out of memory: ", "bytes for activations", "a smaller batch.micro, recompute.mode: full"});
}

TEST_F(CudaTraining, MoreRanksThanGpusAreRefused) {
  emulator::set_num_devices(2);
  try {
    run("crowded", 2, 4);
    ADD_FAILURE() << "it ran";
  } catch (const MachineError& error) {
    EXPECT_NE(std::string(error.what()).find("would share GPU"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("found 4 ranks on 2 GPUs"), std::string::npos) << error.what();
  }
  // Where a launcher shows each of them a GPU of its own, it is the first one for all.
  emulator::set_num_devices(1);
  EXPECT_EQ(resolve_device(config("own", 1, {}), {.rank = 3, .size = 4}).device, (Device{DeviceType::cuda, 0}));
  emulator::set_num_devices(8);
}

TEST_F(CudaTraining, ADriverThatIsTooOldIsNamed) {
  emulator::set_driver_version(12040);
  try {
    run("old", 2, 1, {"run.device=cuda"});
    ADD_FAILURE() << "it ran";
  } catch (const MachineError& error) {
    EXPECT_NE(std::string(error.what()).find("supports CUDA 12.4"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("needs 13.0"), std::string::npos) << error.what();
  }
  emulator::set_driver_version(13000);
}

TEST_F(CudaTraining, AKernelThatFailsIsNamed) {
  emulator::fail_next("cudaLaunchKernelEx", cudaErrorLaunchFailure, 40);
  EXPECT_THROW(run("failed", 2, 1), MachineError);
  emulator::clear_errors();
}

}  // namespace
}  // namespace trireme
