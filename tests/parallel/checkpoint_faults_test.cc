// Each operation on files that a save makes fails once in turn, or is the last one before the power goes. The save is then
// reported as failed and nobody sees it, the checkpoints before it are whole, and the next save works.
#include <gtest/gtest.h>

#include <atomic>
#include <cerrno>
#include <filesystem>
#include <set>

#include "checkpoint/reader.h"
#include "tests/faulty_files.h"
#include "tests/saved_model.h"
#include "tests/training.h"

namespace fs = std::filesystem;

namespace trireme {
namespace {

using testing::FaultyFiles;
using testing::PowerCut;
using testing::SavingRank;
using testing::state_hashes;
using testing::StateHashes;
using Names = std::set<std::string>;

struct Layout {
  const char* name;
  int ranks;
  std::vector<std::string> sets;
};

const Layout kLayouts[] = {
    {"data2_zero1", 2, {"parallel.zero=1"}},
    {"tensor2_pipeline2", 4, {"parallel.tensor=2", "parallel.pipeline=2"}},
};

// Checkpoints of the steps 1 and 2 are there; step 3 is saved under faults, two are kept.
class SaveFaults : public ::testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    testing::write_corpus(dir_ / "corpus", 2000);
    std::vector<std::string> sets = layout().sets;
    sets.insert(sets.end(), {"model.num_attention_heads=2", "model.num_key_value_heads=2", "model.hidden_size=16",
                             "model.intermediate_size=16"});
    config_ = parse_config(testing::tiny_yaml(dir_, 1), "test", sets);
    FaultyFiles files;
    run_saving_ranks(dir_ / "before", files, [&](const SavingRank& rank) {
      for (const int64_t step : {1, 2, 3, 4}) ASSERT_EQ(rank.save(step), "");
    });
    for (const int64_t step : {1, 2, 3, 4}) hashes_[step] = state_hashes(checkpoint_path(dir_ / "before", step));
    for (const int64_t step : {3, 4}) fs::remove_all(checkpoint_path(dir_ / "before", step));
    ASSERT_NE(hashes_.at(2), hashes_.at(3));
  }

  const Layout& layout() const { return kLayouts[GetParam()]; }

  void run_saving_ranks(const std::string& run_dir, FileSystem& files,
                        const std::function<void(const SavingRank&)>& body) {
    const int64_t keep_last = run_dir == dir_ / "before" ? 0 : 2;
    testing::run_saving_ranks(config_, layout().ranks,
                              {.run_dir = run_dir,
                               .keep_last = keep_last,
                               .files = &files,
                               .warn = [this](const std::string& text) { warnings_.push_back(text); }},
                              body);
  }

  // A run directory with the first two checkpoints.
  std::string fresh_run() {
    const std::string run = dir_ / "run";
    fs::remove_all(run);
    fs::copy(dir_ / "before", run, fs::copy_options::recursive);
    warnings_.clear();
    return run;
  }

  static Names names(const std::string& run) {
    Names found;
    for (const auto& entry : fs::directory_iterator(checkpoints_directory(run))) found.insert(entry.path().filename());
    return found;
  }

  // All that count as checkpoints have every bit; the newest is that of one of these steps, which is returned.
  int64_t expect_whole(const std::string& run, const std::set<int64_t>& allowed) {
    int64_t newest = 0;
    for (const std::string& path : list_checkpoints(run)) {
      EXPECT_EQ(CheckpointReader::verify(path), std::vector<std::string>{});
      const int64_t step = read_manifest(path).step;
      newest = std::max(newest, step);
      EXPECT_EQ(state_hashes(path), hashes_.at(step)) << path;
    }
    EXPECT_TRUE(allowed.contains(newest)) << newest;
    return newest;
  }

  // The number of operations of a save without faults.
  int64_t count_operations() {
    FaultyFiles files;
    run_saving_ranks(fresh_run(), files, [](const SavingRank& rank) { ASSERT_EQ(rank.save(3), ""); });
    return files.num_operations();
  }

  // Saves step 3 under the fault, then step 4 without, in the same run.
  void save_under(const std::function<void(FaultyFiles&)>& set_fault) {
    const std::string run = fresh_run();
    FaultyFiles files;
    set_fault(files);
    run_saving_ranks(run, files, [&](const SavingRank& rank) {
      const std::string problem = rank.save(3);
      rank.barrier();
      if (rank.rank.is_main()) {
        EXPECT_TRUE(files.fault_happened());
        if (problem.empty()) {
          // What failed came after the save, and was said; or didn't matter.
          expect_whole(run, {3});
          const bool deletes = names(run).contains("step-00000001") || names(run).contains("step-00000001.tmp");
          EXPECT_EQ(warnings_.size(), deletes ? 1u : 0u);
        } else {
          EXPECT_NE(problem.find("step 3 was not saved"), std::string::npos) << problem;
          EXPECT_NE(problem.find(checkpoints_directory(run)), std::string::npos) << problem;
          EXPECT_EQ(names(run), (Names{"step-00000001", "step-00000002"})) << problem;
          expect_whole(run, {2});
        }
        files.repair();
      }
      rank.barrier();
      EXPECT_EQ(rank.save(4), "");
    });
    expect_whole(run, {4});
    const Names left = names(run);
    EXPECT_EQ(left.size(), 2u);
    for (const std::string& name : left) EXPECT_FALSE(name.ends_with(".tmp")) << name;
    if (HasFailure()) {
      for (const std::string& operation : files.operations()) std::puts(operation.c_str());
    }
  }

  testing::TempDir dir_;
  Config config_;
  std::map<int64_t, StateHashes> hashes_;
  std::vector<std::string> warnings_;  // of rank 0
};

TEST_P(SaveFaults, EveryOperationFailsOnce) {
  const int64_t num_operations = count_operations();
  ASSERT_GE(num_operations, 5 * layout().ranks + 9);
  for (int64_t k = 1; k <= num_operations && !HasFailure(); ++k) {
    const int error = k % 2 == 0 ? ENOSPC : EIO;
    SCOPED_TRACE("operation " + std::to_string(k) + ", " + std::strerror(error));
    save_under([&](FaultyFiles& files) { files.fail_at(k, error); });
  }
}

TEST_P(SaveFaults, EveryWriteIsCutOnceAndTheDiskFull) {
  const int64_t num_operations = count_operations();
  for (int64_t k = 1; k <= num_operations && !HasFailure(); ++k) {
    SCOPED_TRACE("operation " + std::to_string(k));
    save_under([&](FaultyFiles& files) { files.cut_write_at(k, ENOSPC); });
    // Deleting needs no space: what the full disk doesn't touch needs no test.
    if (k <= num_operations - 3) save_under([&](FaultyFiles& files) { files.fill_disk_at(k); });
  }
}

// The old checkpoint or the new one, whole, whatever of the unflushed reached the disk; and the run goes on from there.
TEST_P(SaveFaults, ThePowerGoesAtEveryOperation) {
  const int64_t num_operations = count_operations();
  int64_t num_old = 0, num_new = 0;
  for (int64_t k = 1; k <= num_operations && !HasFailure(); ++k) {
    for (const bool names_too : {false, true}) {
      SCOPED_TRACE("operation " + std::to_string(k) + (names_too ? ", names are lost too" : ""));
      const std::string run = fresh_run();
      FaultyFiles files;
      files.cut_power_at(k);
      EXPECT_THROW(run_saving_ranks(run, files, [](const SavingRank& rank) { rank.save(3); }), PowerCut);
      files.lose_unsynced(names_too);
      (expect_whole(run, {2, 3}) == 2 ? num_old : num_new) += 1;
      files.repair();
      run_saving_ranks(run, files, [](const SavingRank& rank) {
        rank.saver.rehearse();
        EXPECT_EQ(rank.save(4), "");
      });
      expect_whole(run, {4});
      for (const std::string& name : names(run)) EXPECT_FALSE(name.ends_with(".tmp")) << name;
    }
  }
  EXPECT_GT(num_old, 0);
  EXPECT_GT(num_new, 0);
}

// Once a save is reported, no loss of power takes it back; nor the directory that it lies in.
TEST_P(SaveFaults, ASaveThatIsReportedSurvivesTheLossOfPower) {
  FaultyFiles files;
  const std::string run = dir_ / "new/run";
  run_saving_ranks(run, files, [](const SavingRank& rank) {
    rank.saver.rehearse();
    EXPECT_EQ(rank.save(3), "");
  });
  files.lose_unsynced(/*names=*/true);
  expect_whole(run, {3});
}

INSTANTIATE_TEST_SUITE_P(Layouts, SaveFaults, ::testing::Range(0, static_cast<int>(std::size(kLayouts))),
                         [](const auto& layout) { return std::string(kLayouts[layout.param].name); });

}  // namespace
}  // namespace trireme
