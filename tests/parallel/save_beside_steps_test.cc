// Saves that a slow disk holds up while training would go on.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <thread>

#include "tests/faulty_files.h"
#include "tests/training_runs.h"

namespace trireme {
namespace {

using namespace std::chrono_literals;

// Opens a rank's file late. What doesn't fit into host memory meanwhile is not copied yet.
class SlowDisk final : public testing::FaultyFiles {
 public:
  std::unique_ptr<OutputFile> create(const std::string& path) override {
    if (path.find("rank-") != std::string::npos && path.find("rehearsal") == std::string::npos) {
      ++num_late;
      std::this_thread::sleep_for(300ms);
    }
    return FaultyFiles::create(path);
  }
  std::atomic<int> num_late = 0;
};

// Asks for a stop while the first save is being written.
class StoppingDisk final : public testing::FaultyFiles {
 public:
  std::unique_ptr<OutputFile> create(const std::string& path) override {
    if (path.find("step-00000002") != std::string::npos && path.find("rank-00000") != std::string::npos) {
      std::raise(SIGTERM);
      std::this_thread::sleep_for(300ms);
    }
    return FaultyFiles::create(path);
  }
};

class SaveBesideSteps : public testing::TrainingRuns {
 protected:
  // 16 MB of state, for which a save has 8 MiB of memory.
  Config config(const std::string& name, std::vector<std::string> sets = {}) {
    sets.insert(sets.begin(), {"run.dir=" + (dir_ / name), "model.hidden_size=240", "model.intermediate_size=640",
                               "checkpoint={every: 2, keep_last: 0, host_buffer: 12MiB}"});
    return parse_config(testing::tiny_yaml(dir_, 6), "test", sets);
  }
  testing::StateHashes saved(const std::string& name, int64_t step) {
    return testing::state_hashes(checkpoint_path(dir_ / name, step));
  }
};

TEST_F(SaveBesideSteps, HoldsTheStateOfItsStep) {
  testing::train(config("fast"), 1);
  SlowDisk disk;
  testing::train(config("slow"), 1, disk);
  EXPECT_GE(disk.num_late, 2);
  for (const int64_t step : {2, 4, 6}) {
    const auto hashes = saved("slow", step);
    int64_t bytes = 0;
    for (const StoredTensor& tensor : read_manifest(checkpoint_path(dir_ / "slow", step)).tensors)
      bytes += tensor.bytes();
    EXPECT_GT(bytes, int64_t{12} << 20) << "fits into the slots";
    EXPECT_EQ(hashes, saved("fast", step)) << step;
  }
  EXPECT_NE(saved("slow", 2), saved("slow", 4));
}

// The save in flight is finished, then comes that of the last step; the same command goes on with the same bits.
TEST_F(SaveBesideSteps, AStopInTheMiddleOfASaveLosesNeither) {
  const std::vector<std::string> longer = {"run.steps=40"};
  testing::train(config("whole", longer), 2);
  StoppingDisk disk;
  testing::train(config("stopped", longer), 2, disk);
  EXPECT_EQ(saved("stopped", 2), saved("whole", 2));
  const int64_t last = read_manifest(*latest_checkpoint(dir_ / "stopped")).step;
  EXPECT_GT(last, 2);
  EXPECT_LT(last, 40);
  EXPECT_EQ(metrics("stopped").size(), static_cast<size_t>(last));
  testing::train(config("stopped", longer), 2);
  EXPECT_EQ(saved("stopped", 40), saved("whole", 40));
}

}  // namespace
}  // namespace trireme
