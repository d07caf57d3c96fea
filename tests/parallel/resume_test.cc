// Where a run goes on from: after damage, from an earlier step, after a restart of `launch`. And what is looked at before the
// first step and said after the last.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

#include "tests/faulty_files.h"
#include "tests/saved_model.h"
#include "tests/training_runs.h"

namespace fs = std::filesystem;

namespace trireme {
namespace {

using testing::FaultyFiles;
using testing::read_file;
using testing::state_hashes;
using testing::write_file;

class ResumeFrom : public testing::TrainingRuns {
 protected:
  // Like Training's runs, with a checkpoint every 2 steps.
  auto train_to(const std::string& name, int64_t steps, std::vector<std::string> sets = {}, int ranks = 2) {
    sets.insert(sets.begin(), "checkpoint.every=2");
    return run(name, steps, ranks, sets);
  }
  std::string checkpoint(const std::string& name, int64_t step) { return checkpoint_path(dir_ / name, step); }
  void damage(const std::string& path) {
    std::string bytes = read_file(path + "/rank-00001.safetensors");
    bytes[bytes.size() / 2] ^= 1;
    write_file(path + "/rank-00001.safetensors", bytes);
  }
  int said(const std::string& name, const std::string& text) {
    const std::string log = read_file(dir_ / name + "/log.txt");
    int count = 0;
    for (size_t at = log.find(text); at != std::string::npos; at = log.find(text, at + 1)) ++count;
    return count;
  }
  std::vector<int64_t> steps_of(const std::string& name) {
    std::vector<int64_t> steps;
    for (const auto& row : metrics(name)) steps.push_back(row["step"].get<int64_t>());
    return steps;
  }
};

TEST_F(ResumeFrom, TheOneBeforeADamagedOne) {
  const auto whole = train_to("whole", 6);
  train_to("run", 5);
  damage(checkpoint("run", 5));
  damage(checkpoint("run", 4));
  EXPECT_EQ(train_to("run", 6), whole);
  EXPECT_EQ(said("run", "a checkpoint is passed over: "), 2);
  EXPECT_EQ(said("run", "continuing from " + checkpoint("run", 2)), 1);
  // What was damaged is kept under another name; none is left that counts and isn't whole.
  for (const int64_t step : {4, 5}) EXPECT_TRUE(fs::exists(checkpoint("run", step) + ".aside")) << step;
  for (const std::string& path : list_checkpoints(dir_ / "run"))
    EXPECT_EQ(CheckpointReader::verify(path), std::vector<std::string>{});
}

TEST_F(ResumeFrom, NothingWhereAllAreDamagedIsAnError) {
  train_to("run", 4);
  for (const int64_t step : {2, 4}) damage(checkpoint("run", step));
  EXPECT_THROW(train_to("run", 6), DataError);
  EXPECT_EQ(steps_of("run"), (std::vector<int64_t>{1, 2, 3, 4}));
  EXPECT_TRUE(fs::exists(checkpoint("run", 4)));
}

TEST_F(ResumeFrom, AnEarlierStepSetsLaterOnesAside) {
  const auto whole = train_to("run", 6);
  const std::string resume = "checkpoint.resume=" + checkpoint("run", 2);
  train_to("run", 3, {resume, "optimizer.lr=1.0e-4"});
  for (const int64_t step : {4, 6}) {
    EXPECT_FALSE(fs::exists(checkpoint("run", step))) << step;
    EXPECT_TRUE(fs::exists(checkpoint("run", step) + ".aside")) << step;
  }
  EXPECT_EQ(said("run", "a later checkpoint is set aside"), 2);
  // `auto` now means the new course of the run.
  EXPECT_NE(train_to("run", 6, {"optimizer.lr=1.0e-4"}), whole);
  EXPECT_EQ(said("run", "continuing from " + checkpoint("run", 3)), 1);
  // A start from nothing leaves none where `auto` looks.
  EXPECT_EQ(train_to("run", 6, {"checkpoint.resume=never"}), whole);
  EXPECT_EQ(said("run", "a later checkpoint is set aside"), 6);
}

// Ranks that `launch` starts again, as if they had died behind their last checkpoint.
class Restarted : public ResumeFrom {
 protected:
  ~Restarted() override { ::unsetenv("TRIREME_LAUNCH"); }
  void launch(const char* name) { ::setenv("TRIREME_LAUNCH", name, 1); }
};

TEST_F(Restarted, GoesOnFromWhatItHasSavedWhateverResumeSays) {
  const auto whole = train_to("whole", 6);
  train_to("run", 3);
  const std::vector<std::string> never = {"checkpoint.resume=never"};
  launch("a");
  train_to("run", 4, never);
  EXPECT_EQ(said("run", "continuing from"), 0);
  EXPECT_EQ(said("run", "a later checkpoint is set aside"), 2);
  EXPECT_EQ(train_to("run", 6, never), whole);
  EXPECT_EQ(said("run", "continuing from " + checkpoint("run", 4)), 1);
  EXPECT_EQ(steps_of("run"), (std::vector<int64_t>{1, 2, 3, 4, 5, 6}));
  // Another launch begins anew.
  launch("b");
  EXPECT_EQ(train_to("run", 5, never), train_to("five", 5));
  EXPECT_EQ(said("run", "continuing from"), 1);
  // So does a start by hand.
  ::unsetenv("TRIREME_LAUNCH");
  train_to("run", 5, never);
  EXPECT_EQ(said("run", "continuing from"), 1);
}

TEST_F(Restarted, GoesOnBehindThePathThatItBeganFrom) {
  const auto whole = train_to("whole", 6);
  // One that is earlier than the path, of another course, must not be taken.
  train_to("run", 1);
  const std::vector<std::string> path = {"checkpoint.resume=" + checkpoint("whole", 2)};
  launch("a");
  train_to("run", 2, path);  // dies before it saves anything
  EXPECT_EQ(train_to("run", 3, path), train_to("three", 3));
  EXPECT_EQ(said("run", "continuing from " + checkpoint("whole", 2)), 2);
  EXPECT_EQ(train_to("run", 6, path), whole);
  EXPECT_EQ(said("run", "continuing from " + checkpoint("run", 3)), 1);
  // A damaged one is passed over; the path is where the launch began.
  for (const int64_t step : {4, 6}) damage(checkpoint("run", step));
  EXPECT_EQ(train_to("run", 6, path), whole);
  EXPECT_EQ(said("run", "continuing from " + checkpoint("run", 3)), 2);
}

TEST_F(ResumeFrom, AnotherSeedIsSaidOnce) {
  train_to("run", 2);
  EXPECT_EQ(said("run", "run.seed"), 0);
  train_to("run", 3);
  EXPECT_EQ(said("run", "run.seed"), 0);
  train_to("run", 4, {"run.seed=99"});
  EXPECT_EQ(said("run", "run.seed is 99, but " + checkpoint("run", 3) + " is of a run with 1234"), 1);
  EXPECT_EQ(said("run", "run.seed"), 1);
}

TEST_F(ResumeFrom, ADiskThatIsTooFullIsSaidBeforeTheFirstStep) {
  FaultyFiles files;
  files.say_free_bytes(1000);
  const Config config = parse_config(testing::tiny_yaml(dir_, 2), "test", {"checkpoint.every=1"});
  try {
    testing::train(config, 2, files);
    ADD_FAILURE() << "it trains";
  } catch (const MachineError& error) {
    for (const char* part : {"doesn't fit on the disk", "found 1e-06 GB", "checkpoints"})
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << part << "\n" << error.what();
  }
  EXPECT_EQ(read_file(config.run.dir + "/metrics.jsonl"), "");
}

// Refuses new files whose path has one of these in it.
class Refusing : public FaultyFiles {
 public:
  explicit Refusing(std::vector<std::string> parts) : parts_(std::move(parts)) {}
  std::unique_ptr<OutputFile> create(const std::string& path) override {
    for (const std::string& part : parts_) {
      if (path.find(part) != std::string::npos) throw MachineError({.what = "refused on purpose", .where = path});
    }
    return FaultyFiles::create(path);
  }

 private:
  const std::vector<std::string> parts_;
};

TEST_F(ResumeFrom, ARankThatCannotWriteIsSaidBeforeTheFirstStep) {
  Refusing files({"rank-00001"});
  const Config config = parse_config(testing::tiny_yaml(dir_, 2), "test", {});
  EXPECT_THROW(testing::train(config, 2, files), MachineError);
  EXPECT_EQ(read_file(config.run.dir + "/metrics.jsonl"), "");
}

TEST_F(ResumeFrom, OnlyTheLastSaveMustSucceed) {
  for (const std::string async : {"true", "false"}) {
    const std::string name = "run " + async;
    const Config config =
        parse_config(testing::tiny_yaml(dir_, 4), "test",
                     {"run.dir=" + (dir_ / name), "checkpoint={every: 1, keep_last: 0, async: " + async + "}"});
    Refusing files({"step-00000003", "step-00000004"});
    try {
      testing::train(config, 2, files);
      ADD_FAILURE() << "ends as if it were saved";
    } catch (const MachineError& error) {
      for (const char* part : {"last steps unsaved", "step 4 was not saved", "refused on purpose"})
        EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << part << "\n" << error.what();
    }
    EXPECT_EQ(said(name, "the checkpoint of step 3 was not saved"), 1);
    EXPECT_EQ(steps_of(name), (std::vector<int64_t>{1, 2, 3, 4}));
    EXPECT_EQ(latest_checkpoint(dir_ / name), checkpoint(name, 2));
  }
}

TEST_F(ResumeFrom, ATrainersSavesKeepWhatIsAskedFor) {
  train_to("run", 9, {"checkpoint.keep_last=2", "checkpoint.keep_every=4"});
  std::vector<std::string> left;
  for (const std::string& path : list_checkpoints(dir_ / "run")) left.push_back(path);
  EXPECT_EQ(left, (std::vector<std::string>{checkpoint("run", 9), checkpoint("run", 8), checkpoint("run", 4)}));
}

// A run that was killed while it deleted a checkpoint behind its last save.
TEST_F(ResumeFrom, AFinishedRunThatStartsAgainRemovesLeftovers) {
  train_to("run", 2);
  fs::create_directories(checkpoint("run", 1) + ".tmp");
  train_to("run", 2);
  EXPECT_FALSE(fs::exists(checkpoint("run", 1) + ".tmp"));
  EXPECT_EQ(steps_of("run"), (std::vector<int64_t>{1, 2}));
}

// Ranks on machines that each have a directory of this name.
TEST_F(ResumeFrom, ADirectoryThatIsNotSharedIsSaidBeforeTheFirstStep) {
  const Config config = parse_config(testing::tiny_yaml(dir_, 1), "test", {"parallel.data=2"});
  try {
    run_rank_contexts(config, 2, [&](RankContext& rank) {
      RankModel model(rank, config);
      const std::string own = dir_ / "machine" + std::to_string(rank.rank());
      fs::create_directories(checkpoints_directory(own));
      CheckpointSaver saver(model.model.buckets(), rank.mesh(), rank.world(), rank.host_stream(), rank.copy_stream(),
                            {.run_dir = own});
      saver.rehearse();
    });
    ADD_FAILURE() << "it would train";
  } catch (const MachineError& error) {
    for (const char* part : {"doesn't see what rank 0 writes", "machine1", "rank 1", "share"})
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << part << "\n" << error.what();
  }
}

}  // namespace
}  // namespace trireme
